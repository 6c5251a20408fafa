"""What tuning changed in the weights: the modules of a layer side by side, the layers one below the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rankscope.errors import UnknownName
from rankscope.plots.naming import MOST_LABELS
from rankscope.plots.style import bar_in_title, drawing, drawn, nothing, panel_title
from rankscope.results.weights import WeightRecord, WeightReport

_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")
QUANTITIES: Mapping[str, tuple[str, Callable[[WeightRecord], float | None]]] = {
    "size": ("size of the change, |ΔW| / |W|", lambda r: r.relative.size),
    "effective": ("effective rank of the change", lambda r: r.ranks.effective),
    "intruders": ("intruders beyond those of noise", lambda r: _beyond(r)),
    "on data": ("effective rank of the change on data", lambda r: r.on_data_effective.value),
    "output": ("share of the output, |ΔW Σ^½|² / |W Σ^½|²", lambda r: r.on_data_share.value),
}
"""What can be drawn of each matrix, and how that is called."""


@drawing
def weights(report: WeightReport, ax: Axes | None = None, *, quantity: str = "size", **style: Any) -> Axes:
    """A number of every matrix, by its layer and by its name within the layer.

    Args:
        report: the weights of a checkpoint.
        ax: where to draw; by default on a figure of its own.
        quantity: one of :data:`QUANTITIES`.
        **style: matplotlib's settings of the image.

    Raises:
        UnknownName: if there is no such quantity.
        UsageError: if no matrix has it.
    """
    if quantity not in QUANTITIES:
        raise UnknownName(f"there is no quantity {quantity!r} of weights; there are {', '.join(QUANTITIES)}")
    title, of = QUANTITIES[quantity]
    cells = {place(r.module): of(r) for r in report.records}
    if all(value is None for value in cells.values()):
        raise nothing()
    layers, names = sorted({layer for layer, _ in cells}), list(dict.fromkeys(name for _, name in cells))
    values = np.array([[cells.get((layer, name)) for name in names] for layer in layers], dtype=float)
    assert ax is not None
    image = ax.imshow(values, **({"cmap": "cividis", "aspect": "auto", "interpolation": "nearest"} | style))
    ax.set_facecolor("0.85")
    step = max(1, len(layers) // MOST_LABELS)
    ax.set_yticks(range(0, len(layers), step), ["–" if i < 0 else str(i) for i in layers[::step]], fontsize=6)
    ax.set_xticks(range(len(names)), [drawn(name) for name in names], rotation=90, fontsize=6)
    ax.set_ylabel("layer")
    ax.spines[:].set_visible(False)
    panel_title(ax, title, y=1.01)
    bar_in_title(image, ax)
    return ax


def with_quantity(report: WeightReport) -> list[str]:
    """The quantities that some matrix has."""
    return [name for name, (_, of) in QUANTITIES.items() if any(of(r) is not None for r in report.records)]


def place(module: str) -> tuple[int, str]:
    """The layer of a module, -1 in none, and its name without the layers' list: ``model.layers.3.mlp.up`` is (3, ``mlp.up``)."""
    found = _NUMBER.search(module)
    return (int(found[1]), module[found.end() :].lstrip(".") or module) if found else (-1, module)


def _beyond(record: WeightRecord) -> float | None:
    found, noise = record.intruder.intruders, record.intruder.intruders_of_noise
    return None if found is None or noise is None else found - noise
