"""What a device makes of comparisons: whether its numbers are right, how fast it multiplies and solves, and a 7B model's sites.

    python benchmarks/gpu.py                 # on the GPU, within eight minutes; writes benchmarks/gpu.json
    python benchmarks/gpu.py --device cpu    # the same at a small size, as where there is no GPU

Three parts. ``correct``: singular values and every default measure with each sample left out, against the CPU. ``rates``: the Gram
product of bf16 rows, in float64 and by float32 products summed in float64 without TF32; and eigenvalues of several matrices in
one call, one by one, and on the CPU. ``steps``: sites of two runs and a base, made on the device in bf16, with every
default measure and its interval. The floor of a step is the products or eigenvalues that it cannot do without, at the best rate
measured among the routes whose error is within ``TOLERANCE``: the bf16 products of tensor cores are reported too, but keep fewer than
five digits. The floor of a site is three Gram products and three sets of eigenvalues. Sites are begun while time is left.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from timing import machine, side_by_side, wait
from torch import Tensor

from rankscope.analysis.intervals import bounds_of, limits_of
from rankscope.analysis.options import LEVEL
from rankscope.analysis.second_pass import Asked, prepare
from rankscope.analysis.view import View
from rankscope.definition import Definition
from rankscope.devices import where
from rankscope.features import TEXT, Rows
from rankscope.linalg.principal import principal
from rankscope.linalg.svd import singular_values
from rankscope.registry import DEFAULT_COMPARED, known

T = TypeVar("T")
HERE = Path(__file__).parent
TOKENS = 16
BASE, RUNS = 2, (0, 1, 2)
SIZES = {"cuda": (33, 65_536, 4096), "cpu": (2, 2048, 128)}
"""Sites, rows and width by default."""
WIDTHS = {"cuda": (1024, 2048, 4096), "cpu": (64, 128)}
"""Sizes of the eigenproblems, besides that of the sites."""
CHUNK = 8192
"""Rows of one product: float32 sums of so many terms lose less than the rows did in bf16."""
LIMIT = 330.0
"""Seconds after which no site is begun that would take as long as the longest."""
TOLERANCE = 1e-8
"""Largest difference from the CPU, relative to the largest number compared."""


def rows_of(n: int) -> Rows:
    """Samples of :data:`TOKENS` rows."""
    index = torch.arange(n)
    sample = index // TOKENS
    names = tuple(f"s{i}" for i in range(int(sample[-1]) + 1))
    return Rows(sample, index % TOKENS, torch.full((n,), TEXT, dtype=torch.uint8), names)


def features(n: int, d: int, seed: int, device: torch.device) -> list[Tensor]:
    """Two runs and their base, ``(n, d)`` bf16: variances 1/i, half of them shared by the rows of a sample, and two changes."""
    generator = torch.Generator(device).manual_seed(seed)
    normal = partial(torch.randn, generator=generator, device=device)
    shared = normal(-(-n // TOKENS), d).repeat_interleave(TOKENS, 0)[:n]
    base = (normal(n, d) + shared) * torch.arange(1, d + 1, device=device).rsqrt() + 0.1
    moved = [base + size * (base.roll(1, 1) + 0.1 * normal(n, d)) for size in (0.1, 0.3)]
    return [x.bfloat16() for x in (*moved, base)]


def asked() -> list[Asked]:
    """Every default measure in the runs and their base, or between the base and each run."""
    return [
        (what, runs)
        for what in map(known, DEFAULT_COMPARED)
        for runs in ([(run,) for run in RUNS] if isinstance(what, Definition) else [(BASE, 0), (BASE, 1)])
    ]


def numbers(view: View) -> dict[str, Tensor]:
    """Each number asked for followed by itself without each unit of samples, on the CPU."""
    prepare(view, asked())
    found = {f"{what.name} {runs}": view.evaluate(what, *runs) for what, runs in asked()}
    return {name: torch.cat([one.value[None], one.left_out]).cpu() for name, one in found.items()}


def differences(device: torch.device, n: int, d: int) -> dict[str, float]:
    """The largest relative difference of a device from the CPU, of features that lie there and of features that it is sent."""
    host, cpu = features(n, d, 0, torch.device("cpu")), torch.device("cpu")
    there, at = [x.to(device) for x in host], rows_of(n)
    values = [singular_values(torch.stack(x), centre=True).values.cpu() for x in (there, host)]
    found = {"singular values": relative(*values)}
    expected = numbers(View(host, at, device=cpu))
    for name, x in (("features there", there), ("features sent", host)):
        here = numbers(View(x, at, device=device))
        found |= {f"{measure}, {name}": relative(here[measure], expected[measure]) for measure in expected}
    return found


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest number; infinite where not the same numbers exist."""
    if found.shape != expected.shape or not torch.equal(found.isnan(), expected.isnan()):
        return torch.inf
    return float((found - expected).abs().nan_to_num().max() / expected.abs().nan_to_num().max().clamp(min=1e-300))


def product(lift: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``(d, d)`` float64 sums over chunks of rows of the products that a route forms."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(CHUNK):
        total += lift(part)
    return total


def in_float64(x: Tensor) -> Tensor:
    z = x.double()
    return z.mT @ z


def in_float32(x: Tensor) -> Tensor:
    z = x.float()
    return z.mT @ z


def in_bfloat16(x: Tensor) -> Tensor:
    return torch.mm(x.mT, x, out_dtype=torch.float32)


def product_rates(x: Tensor) -> dict[str, dict[str, float]]:
    """Seconds, floating-point operations a second, and relative error of every route that the device has."""
    routes = {"float64": in_float64, "float32 in chunks": in_float32}
    with suppress(RuntimeError, TypeError):  # only tensor cores multiply bf16 into float32, and not in every torch
        in_bfloat16(x[:TOKENS])
        routes["bf16 into float32 in chunks"] = in_bfloat16
    exact = product(in_float64, x)
    times = side_by_side({name: partial(product, lift, x) for name, lift in routes.items()}, 3)
    return {
        name: {
            "seconds": times[name]["seconds"],
            "operations a second": operations(x.shape[0], x.shape[1]) / times[name]["seconds"],
            "relative error": float((product(lift, x) - exact).norm() / exact.norm()),
        }
        for name, lift in routes.items()
    }


def operations(n: int, d: int) -> float:
    """Additions and multiplications of one product XᵀX."""
    return 2.0 * n * d * d


def eigenvalue_rates(d: int, device: torch.device) -> dict[str, float]:
    """Seconds a matrix, of as many as a site has runs."""
    generator = torch.Generator(device).manual_seed(d)
    x = torch.randn(len(RUNS), d, d, generator=generator, dtype=torch.float64, device=device)
    gram = x @ x.mT
    rivals: dict[str, Callable[[], object]] = {
        "together": lambda: torch.linalg.eigvalsh(gram),
        "one by one": lambda: [torch.linalg.eigvalsh(one) for one in gram],
        "with vectors, one by one": lambda: [principal(one) for one in gram],
    }
    found = {name: one["seconds"] / len(gram) for name, one in side_by_side(rivals, 1).items()}
    return found | {"on the CPU": timed(lambda: torch.linalg.eigvalsh(gram[0].cpu()).to(device))[0]}


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Seconds of one call, and what it returns."""
    wait()
    begun = time.perf_counter()
    found = call()
    wait()
    return time.perf_counter() - begun, found


def steps(x: list[Tensor], device: torch.device) -> dict[str, float]:
    """Seconds of each part of the comparison of one site; a view keeps what a part has found for the next."""
    found = {}
    found["sums"], view = timed(lambda: summed(View(x, rows_of(len(x[0])), device=device)))
    found["sums of pairs"], _ = timed(lambda: [view.part_of_pair(BASE, run) for run in RUNS[:BASE]])
    found["spectra of samples"], _ = timed(
        lambda: [view.sample_mean(what, *run) for what, run in asked() if what.reads == "samples"]
    )
    found["eigenvectors"], _ = timed(lambda: [view.part(run).principal for run in RUNS])
    found["influences and intervals"], _ = timed(lambda: intervals(view))
    return found


def summed(view: View) -> View:
    for run in RUNS:
        view.part(run)
    return view


def intervals(view: View) -> list[object]:
    prepare(view, asked())
    return [limits_of(view.evaluate(what, *runs), bounds_of(what, view), LEVEL) for what, runs in asked()]


def floors(n: int, d: int, product: float, solved: float) -> dict[str, float]:
    """Seconds that each part cannot do without, from those of one operation of a product and of one set of eigenvalues."""
    one, pairs = operations(n, d) * product, len(RUNS) - 1
    return {
        "sums": len(RUNS) * one,
        "sums of pairs": pairs * one,
        # The Gram matrices of the rows of each sample
        "spectra of samples": len(RUNS) * 2.0 * n * TOKENS * d * product,
        "eigenvectors": len(RUNS) * solved,
        # The sums of every unit, once more
        "influences and intervals": (len(RUNS) + pairs) * one,
        "site": len(RUNS) * (one + solved),
    }


def sites(count: int, n: int, d: int, device: torch.device) -> list[dict[str, float]]:
    """Seconds of the parts of every site that was begun."""
    found: list[dict[str, float]] = []
    spent = longest = 0.0
    while len(found) < count and (not found or spent + longest < LIMIT):
        taken, one = timed(lambda: steps(features(n, d, len(found), device), device))
        spent, longest = spent + taken, max(longest, taken)
        found.append(one | {"site": sum(one.values())})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="the torch device; by default the GPU where there is one")
    for name in ("sites", "rows", "width"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--out", type=Path, default=HERE / "gpu.json")
    given = parser.parse_args()
    device = where(given.device)
    kind = "cuda" if device.type == "cuda" else "cpu"
    count, n, d = (a or b for a, b in zip((given.sites, given.rows, given.width), SIZES[kind], strict=True))
    torch.set_float32_matmul_precision("highest")  # no TF32
    if kind == "cpu":
        print("This runs on the CPU, at a small size: it shows that the script works, and nothing about a GPU.")
    name = platform.machine() if kind == "cpu" else torch.cuda.get_device_name(device)
    print(f"{name}, torch {torch.__version__}: {count} sites x {n:,} x {d:,} bf16, two runs and their base")

    apart = differences(device, 2048, 96)
    worst = max(apart, key=lambda one: apart[one])
    print(f"correct: {len(apart)} numbers differ from the CPU's by at most {apart[worst]:.1e} ({worst})")
    products = product_rates(features(min(n, 4 * CHUNK), d, 0, device)[BASE])
    for route, one in products.items():
        rate, error = one["operations a second"] / 1e12, one["relative error"]
        print(f"product, {route}: {rate:.3f} TFLOP/s, relative error {error:.1e}")
    solved = {size: eigenvalue_rates(size, device) for size in sorted({*WIDTHS[kind], d})}
    for size, rates in solved.items():
        print(f"eigenvalues, {size}: " + ", ".join(f"{way} {seconds:.4f} s" for way, seconds in rates.items()))

    found = sites(count, n, d, device)
    best = max(one["operations a second"] for one in products.values() if one["relative error"] <= TOLERANCE)
    least = floors(n, d, 1 / best, min(seconds for way, seconds in solved[d].items() if "vectors" not in way))
    mean = {part: sum(one[part] for one in found) / len(found) for part in least}
    for part, floor in least.items():
        print(f"{part}: {mean[part]:.3f} s, floor {floor:.3f} s, {mean[part] / floor:.1f} times it")
    print(f"all {count} sites: {count * mean['site']:.1f} s, from {len(found)}; floor {count * least['site']:.1f} s")
    record = {
        **machine(),
        "device": name,
        "sizes": {"sites": count, "sites run": len(found), "rows": n, "width": d, "dtype": "bfloat16"},
        "differences from the CPU": apart,
        "products": products,
        "seconds of eigenvalues": solved,
        "steps": {part: {"seconds": mean[part], "floor": least[part], "times the floor": mean[part] / least[part]} for part in least},
        "seconds of sites": [one["site"] for one in found],
    }  # fmt: skip
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    if not apart[worst] <= TOLERANCE:
        print(f"WRONG: {worst} differs from the CPU's by {apart[worst]:.1e}, more than {TOLERANCE:.0e}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
