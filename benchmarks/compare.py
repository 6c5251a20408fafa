"""What comparing runs costs, beside what cannot be avoided: one Gram product and one set of eigenvalues a run and site.

    python benchmarks/compare.py            # writes benchmarks/compare.json and prints a line for each goal
    python benchmarks/compare.py --wide     # a site of a 7B model too: 16,384 rows of 4,096 features, some minutes

Every time is of the whole public call with all default measures and their intervals, reading of the stored runs included; the
floor is float64 ``zᵀz`` and ``eigvalsh`` of the same rows, timed in turns with it. Cases: ``site``, a base and two runs;
``spectra``, one run, beside what numpy takes for its singular values in float32;
``stack``, 13 sites of two runs; ``arms``, six small runs of two arms and a base at seven sites.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from timing import machine, side_by_side
from torch import Tensor, nn

import rankscope
from rankscope.store import Run

HERE = Path(__file__).parent
TOKENS = 16
SITE, SPECTRA, STACK, ARMS, WIDE = (1, 4096, 1024), (1, 10_000, 768), (13, 10_000, 768), (7, 112, 96), (1, 16_384, 4096)
"""Sites, rows and features of each case."""


def rows(n: int, d: int) -> Tensor:
    """``(samples, tokens, d)`` float32 features with variances 1/i along random directions."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.randn(d, d, generator=generator) / d**0.5
    x = torch.randn(n, d, generator=generator) @ (turn * torch.arange(1, d + 1).rsqrt())
    return x.view(-1, TOKENS, d)


def run(x: Tensor, sites: int, seed: int, folder: Path, name: str) -> Run:
    """A run of ``sites`` maps in a row, each near the identity, on the rows; seed 0 is the identity itself."""
    generator, d = torch.Generator().manual_seed(seed), x.shape[-1]
    model = nn.Sequential(*(nn.Linear(d, d, bias=False) for _ in range(sites)))
    for layer in model:
        moved = torch.randn(d, d, generator=generator) / d**0.5 * (0.1 if seed else 0)
        layer.weight.data = torch.eye(d) + moved  # type: ignore[union-attr, operator]
    return rankscope.collect(model, x, rows="tokens", out=folder / f"{name}.pt")


def floor(runs: Sequence[Run]) -> None:
    """The products and eigenvalues that any exact comparison makes."""
    for one in runs:
        for site in one.sites:
            z = one.features(site).double()
            z -= z.mean(0)
            torch.linalg.eigvalsh(z.mT @ z)


def timed(
    call: Callable[[], object],
    runs: Sequence[Run],
    rounds: int,
    peers: Mapping[str, Callable[[], object]] = MappingProxyType({}),
) -> dict[str, float]:
    """Seconds of a call, of its floor and of others that do the same, and the median ratios to the floor."""
    found = side_by_side({"floor": partial(floor, runs), "call": call, **peers}, rounds)
    return {
        "seconds": found["call"]["seconds"],
        "floor": found["floor"]["seconds"],
        "times the floor": found["call"]["ratio"],
        **{f"{name}, times the call": found[name]["ratio"] / found["call"]["ratio"] for name in peers},
    }


def cases(folder: Path, wide: bool) -> dict[str, dict[str, float]]:
    """Each case with its shape; the largest only if ``wide``."""
    found = {}
    for name, shape, rounds in (("site", SITE, 3), *((("wide", WIDE, 1),) if wide else ())):
        three = runs_of(3, shape, folder, name)
        compared = partial(rankscope.compare, three[1], three[2], base=three[0])
        found[f"{name}: base and two runs, {words(shape)}"] = timed(compared, three, rounds)
    (alone,) = runs_of(1, SPECTRA, folder, "alone")
    x = alone.features(alone.sites[0]).numpy()
    rivals = {"float32 SVD of numpy": lambda: np.linalg.svd(x - x.mean(0), compute_uv=False)}
    found[f"spectra: one run, {words(SPECTRA)}"] = timed(partial(rankscope.spectra, alone), [alone], 5, rivals)
    two = runs_of(2, STACK, folder, "stack")
    found[f"stack: two runs, {words(STACK)}"] = timed(partial(rankscope.compare, *two), two, 1)
    base, *several = runs_of(7, ARMS, folder, "arm")
    compared = partial(rankscope.compare_arms, {"a": several[:3], "b": several[3:]}, base=base)
    found[f"arms: six runs and a base, {words(ARMS)}"] = timed(compared, [base, *several], 3)
    return found


def runs_of(count: int, shape: tuple[int, int, int], folder: Path, name: str) -> list[Run]:
    """Runs on the same rows; the first is the base."""
    sites, n, d = shape
    x = rows(n, d)
    return [run(x, sites, seed, folder, f"{name}{seed}") for seed in range(count)]


def words(shape: tuple[int, int, int]) -> str:
    return " x ".join(f"{k:,}" for k in shape)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "compare.json")
    parser.add_argument("--wide", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        measured = cases(Path(work), asked.wide)
    asked.out.write_text(json.dumps({**machine(), "cases": measured}, indent=1) + "\n")
    for case, one in measured.items():
        print(f"{case}: {one['seconds']:.1f} s, floor {one['floor']:.2f} s, {one['times the floor']:.1f} times it")
