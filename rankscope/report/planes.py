"""The rows of every run in the plane of the base's two leading components, for a picture."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.align import Aligned, distinct_names

FITTED, DRAWN = 1024, 100
"""The most rows from which the components are found, and that are drawn; evenly spaced among all."""


class Plane(NamedTuple):
    """Some rows of one run at one site."""

    run: str
    """The name of the run."""
    xy: Tensor
    """``(m, 2)`` coordinates along the base's first and second component, from the base's mean, in the unit of the features."""
    share: tuple[float, float]
    """The share of this run's variance over those rows that lies along each."""

    def to_json(self) -> dict[str, Any]:
        """A byte a coordinate, between the least and the greatest: a picture of 300 points shows no more."""
        low, high = self.xy.amin(0), self.xy.amax(0)
        scaled = (255 * (self.xy - low) / (high - low).where(high > low, 1)).round().to(torch.uint8)
        ends = [[float(f"{v:.4g}") for v in side.tolist()] for side in (low, high)]
        shares = [round(share, 3) for share in self.share]
        return {"run": self.run, "low": ends[0], "high": ends[1], "share": shares, "xy": _text(scaled)}


def planes(aligned: Aligned, names: Sequence[str] = ()) -> Mapping[str, Sequence[Plane]]:
    """The two leading components of the first run's rows at each site, and the same rows of every run along them.

    Runs of another width than the first have no place in its plane, and are left out.

    Args:
        aligned: the runs, the base first.
        names: what they are called; by default as they call themselves.
    """
    called = names or distinct_names(aligned.runs)
    found: dict[str, Sequence[Plane]] = {}
    for site in aligned.sites:
        features, rows = aligned.at(site)
        if min(len(rows), features[0].shape[1]) < 2:
            continue
        base = features[0][_some(len(rows), FITTED)].double()
        mean = base.mean(0)
        axes = torch.linalg.svd(base - mean, full_matrices=False).Vh[:2]
        # An axis has no sign of its own: its largest coordinate is positive, so that two reports agree.
        axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        drawn = _some(len(rows), DRAWN)
        found[str(site)] = [
            Plane(name, (x[drawn].double() - mean) @ axes.mT, _share(x[_some(len(rows), FITTED)].double(), axes))
            for name, x in zip(called, features, strict=True)
            if x.shape[1] == len(mean)
        ]
    return found


def _some(count: int, most: int) -> Tensor:
    """Evenly spaced indices, at most so many."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def _share(x: Tensor, axes: Tensor) -> tuple[float, float]:
    centred = x - x.mean(0)
    total = float(centred.square().sum())
    along = (centred @ axes.mT).square().sum(0)
    return (float(along[0]) / total, float(along[1]) / total) if total else (0.0, 0.0)


def _text(values: Tensor) -> str:
    return b64encode(bytes(values.flatten().tolist())).decode()
