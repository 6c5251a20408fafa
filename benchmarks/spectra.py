"""Singular values of features: this library, torch's own routine, and the product that nobody can do without.

    python benchmarks/spectra.py            # writes benchmarks/spectra.json and prints the table

The peer is ``torch.linalg.svdvals`` after lifting to float64 and centring, which is what a script would call; ``float32`` is the
same without the lifting. The floor is the float64 Gram product alone: every exact route reads the features once and does
at least that many multiplications, of which a general matrix product reaches the most a second. Errors are the largest
relative ones among the values that storing in float32 has not lost, against a float64 decomposition of the same numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from timing import machine, side_by_side
from torch import Tensor

from rankscope.linalg.svd import singular_values
from rankscope.spectrum import rounding_floor

HERE = Path(__file__).parent
SHAPES = {
    "one wide site": (1, 8192, 1024),
    "fewer rows than columns": (1, 768, 3072),
    "twelve sites of a small model": (12, 4096, 384),
    "many narrow sites": (64, 1024, 64),
}


def features(sites: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """``(sites, n, d)`` float32 features with a spectrum i^-1 about a mean that is as long as the largest direction."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, columns + 1, dtype=torch.float64).pow(-1)
    x = torch.randn(sites, rows, columns, generator=generator, dtype=torch.float64) * scale + scale
    return x.float().to(device)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-2, keepdim=True)


def product(x: Tensor) -> Tensor:
    z = x.double()
    return z @ z.mT if x.shape[-2] < x.shape[-1] else z.mT @ z


def worst(values: Tensor, reference: Tensor, x: Tensor) -> float:
    """The largest relative error among the values above what float32 can make of nothing."""
    floors = [rounding_floor(float(m.double().norm()), *m.shape, x.dtype) for m in x]
    kept = reference > torch.tensor(floors, dtype=torch.float64, device=x.device)[:, None]
    return float(((values.double() - reference).abs() / reference)[kept].max())


def measured(shape: tuple[int, int, int], device: torch.device) -> dict[str, object]:
    """One row of the table."""
    x = features(*shape, device)
    rivals: dict[str, Callable[[], Tensor]] = {
        "rankscope": lambda: singular_values(x, centre=True).values,
        "torch, float64": lambda: torch.linalg.svdvals(centred(x.double())),
        "torch, float32": lambda: torch.linalg.svdvals(centred(x)),
        "floor": lambda: product(x),
    }
    reference = rivals["torch, float64"]()
    errors = {name: worst(rivals[name](), reference, x) for name in ("rankscope", "torch, float32")}
    return {
        "shape": shape,
        "route": "+".join(sorted(set(singular_values(x, centre=True).routes))),
        "times": side_by_side(rivals),
        "errors": errors,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "spectra.json")
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    asked = parser.parse_args()
    rows = {name: measured(shape, asked.device) for name, shape in SHAPES.items()}
    asked.out.write_text(json.dumps({**machine(), "rows": rows}, indent=1) + "\n")
    for name, row in rows.items():
        print(name, row["shape"], row["route"])
        for rival, time in row["times"].items():  # type: ignore[attr-defined]
            print(f"  {rival:16s} {time['seconds']:8.3f} s  {time['ratio']:6.2f} of rankscope's")
        print("  largest relative error:", row["errors"])
