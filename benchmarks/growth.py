"""How time and memory grow with rows, features, sites and runs: measured slopes beside the predicted.

    python benchmarks/growth.py             # writes benchmarks/growth.json and figures/growth.svg; under five minutes
    python benchmarks/growth.py --quick     # the same code on smaller sizes

One quantity is varied at a time, the others stay; a slope is that of log cost on log size by least squares. Seconds are of the CPU,
summed over threads, so that others who use the machine matter less. Memory is what the peak of resident memory rises above
what was there before the call.

The predictions are of the leading term where it dominates. Sums cost n·d² and eigenproblems d³, beside n·d for reading and lifting
rows, so that the slope with d lies between 1 and 3 and rises. Memory grows with n·d where a site is held. Where it is streamed, it
does up to the blocks in which rows are read, of four and eight million numbers, and from then on by some 200 bytes that are kept of a
row (its place, group and hash), which at a width of thousands are a hundredth of it. Matrices take d². Sums of 20 groups stand for any
number of rows: what is read of them does not grow with n, but noise is drawn for up to 2²⁸ numbers, and a hash of each row is
compared.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from timing import machine
from torch import Tensor, nn

import rankscope
from rankscope.analysis import align
from rankscope.plots.style import look, new_figure, panel_title, panels, save, styled
from rankscope.store import Run

HERE = Path(__file__).parent
TOKENS = 16
USUAL = {"n": 16_384, "d": 128, "sites": 1, "runs": 1}
VARIED = {
    "n": (8_192, 16_384, 32_768, 65_536),
    "d": (64, 128, 256, 512),
    "sites": (1, 2, 4, 8),
    "runs": (1, 2, 4, 8),
}
QUICK = {"n": (1_024, 2_048), "d": (16, 32), "sites": (1, 2), "runs": (1, 2)}
PREDICTED = {
    ("collect", "seconds"): {"n": "1", "d": "1 to 2", "sites": "1", "runs": "1"},
    ("collect", "MB"): {"n": "0", "d": "0", "sites": "0 to 1", "runs": "0"},
    ("measure", "seconds"): {"n": "1", "d": "1 to 3", "sites": "1", "runs": "1"},
    ("measure", "MB"): {"n": "1", "d": "1 to 2", "sites": "0", "runs": "0"},
    ("measure, streamed", "seconds"): {"n": "1", "d": "1 to 3", "sites": "1", "runs": "1"},
    ("measure, streamed", "MB"): {"n": "0 to 1", "d": "0 to 2", "sites": "0", "runs": "0"},
    ("collect, moments", "seconds"): {"n": "1", "d": "1 to 2", "sites": "1", "runs": "1"},
    ("collect, moments", "MB"): {"n": "0", "d": "0 to 2", "sites": "0 to 1", "runs": "0"},
    ("measure, moments", "seconds"): {"n": "0 to 1", "d": "1 to 3", "sites": "1", "runs": "1"},
    ("measure, moments", "MB"): {"n": "0 to 1", "d": "0 to 2", "sites": "0", "runs": "0"},
    ("compare", "seconds"): {"n": "1", "d": "1 to 3", "sites": "1", "runs": "1"},
    ("compare", "MB"): {"n": "1", "d": "1 to 2", "sites": "0", "runs": "1"},
}
"""The exponent of each cost. ``runs`` are as many measured one after another, or compared with one base."""


def rows(n: int, d: int) -> Tensor:
    """``(samples, tokens, d)`` float32 features with variances 1/i."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0)) * torch.arange(1, d + 1).rsqrt()
    return x.view(-1, TOKENS, d)


def model(d: int, sites: int, seed: int) -> nn.Module:
    """So many maps in a row, each near the identity."""
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(d, d, bias=False) for _ in range(sites)]
    for layer in layers:
        layer.weight.data = torch.eye(d) + 0.1 / d**0.5 * torch.randn(d, d, generator=generator)
    return nn.Sequential(*layers)


def cost(call: Callable[[], object]) -> dict[str, float]:
    """The CPU seconds of a call, and by how many MB it raises the peak of resident memory."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would hide what the call takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    before, begun = _status("VmRSS"), time.process_time()
    call()
    return {"seconds": time.process_time() - begun, "MB": max(_status("VmHWM") - before, 0.1)}


def _status(name: str) -> float:
    (kb,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return float(kb) / 1024


def costs(size: dict[str, int], folder: Path) -> dict[str, dict[str, float]]:
    """What each command costs at a size."""
    gc.collect()
    n, d, sites, runs = size["n"], size["d"], size["sites"], size["runs"]
    x, models = rows(n, d), [model(d, sites, seed) for seed in range(runs + 1)]
    made: list[Run] = [_collected(models[0], x, folder / "base")]
    found = {"collect": cost(lambda: made.extend(_collected(m, x, folder / str(i)) for i, m in enumerate(models[1:])))}
    base, *others = made
    summed: list[Run] = []
    found["collect, moments"] = cost(
        lambda: summed.extend(_collected(m, x, folder / f"sums {i}", "moments") for i, m in enumerate(models[1:]))
    )
    found["measure, moments"] = cost(partial(_each, rankscope.measure, summed))
    measured = partial(_each, rankscope.measure, others)
    found["measure"] = cost(measured)
    found["measure, streamed"] = cost(partial(_streamed, measured))
    found["compare"] = cost(
        partial(rankscope.compare_arms, {str(i): [run] for i, run in enumerate(others)}, base=base)
        if runs > 1
        else partial(rankscope.compare, base, others[0])
    )
    return found


def _collected(one: nn.Module, x: Tensor, out: Path, keep: Literal["rows", "moments"] = "rows") -> Run:
    return rankscope.collect(one, x, rows="tokens", out=out, keep=keep, overwrite=True)


def _each(call: Callable[[Run], object], runs: list[Run]) -> None:
    for run in runs:
        call(run)


def _streamed(call: Callable[[], object]) -> None:
    """The call as if no site fitted into memory."""
    usual, align.HELD = align.HELD, 0.0
    try:
        call()
    finally:
        align.HELD = usual


def slope(sizes: list[int], values: list[float]) -> float:
    """The slope of log values on log sizes by least squares."""
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (sizes, values))
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def grown(varied: dict[str, tuple[int, ...]], usual: dict[str, int]) -> dict[str, Any]:
    """Quantity → its sizes, and of each command the costs and their slopes."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        costs({**usual, "n": 256}, Path(folder))  # what is loaded or set up once
        for what, sizes in varied.items():
            each = [costs({**usual, what: size}, Path(folder)) for size in sizes]
            commands = {
                name: {
                    unit: {
                        "values": [one[name][unit] for one in each],
                        "slope": slope(list(sizes), [one[name][unit] for one in each]),
                        "predicted": PREDICTED[name, unit][what],
                    }
                    for unit in ("seconds", "MB")
                }
                for name in each[0]
            }
            found[what] = {"sizes": sizes, "commands": commands}
    return found


def table(found: dict[str, Any]) -> str:
    """Markdown: a line for each command and cost, a column for each quantity, ``measured (predicted)``."""
    lines = ["| | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for name, unit in PREDICTED:
        cells = [at["commands"][name][unit] for at in found.values()]
        words = " | ".join(f"{one['slope']:.2f} ({one['predicted']})" for one in cells)
        lines.append(f"| {name}, {unit} | {words} |")
    return "\n".join(lines)


def draw(found: dict[str, Any], stem: Path) -> None:
    """Two rows of panels, time and memory, with a panel for each quantity."""
    with styled():
        figure = new_figure(2.2 * len(found))
        axes = iter(panels(figure, 2 * len(found)))
        for what, at in found.items():
            for unit, words in (("seconds", "CPU time (s)"), ("MB", "peak beyond the start (MB)")):
                ax = next(axes)
                for i, (name, by_unit) in enumerate(at["commands"].items()):
                    one = by_unit[unit]
                    ax.loglog(at["sizes"], one["values"], label=f"{name}: {one['slope']:.2f}", markersize=3, **look(i))
                ax.set_xticks(at["sizes"], [f"{size:,}" for size in at["sizes"]])
                ax.minorticks_off()
                ax.set_xlabel(what)
                ax.set_ylabel(words)
                panel_title(ax, f"{words.partition(' (')[0]} against {what}, and slopes")
                ax.legend(frameon=False)
        save(figure, stem, ["svg"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "growth.json")
    parser.add_argument("--figure", type=Path, default=HERE.parent / "figures" / "growth")
    asked = parser.parse_args()
    usual = {**USUAL, "n": 1_024, "d": 16} if asked.quick else USUAL
    measured = grown(QUICK if asked.quick else VARIED, usual)
    asked.out.write_text(json.dumps({**machine(), "usual": usual, "varied": measured}, indent=1) + "\n")
    draw(measured, asked.figure)
    print(table(measured))
