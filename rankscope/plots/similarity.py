"""The site × site map of similarity between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes

from rankscope.plots.naming import MOST_LABELS, labels
from rankscope.plots.style import bar_in_title, drawing, drawn, nothing, panel_title
from rankscope.results.runs import Contrast

NO_VALUE = "0.85"
"""The grey of pairs that have no similarity, as where all rows of a site are equal."""


@drawing
def similarity(result: Contrast, ax: Axes | None = None, **style: Any) -> Axes:
    """Debiased linear CKA of every site of the reference with every site of the second run, on a perceptually even scale.

    Args:
        result: a comparison; the reference, along the vertical axis, is its base, or the first run without one.
        ax: where to draw; by default on a figure of its own.
        **style: matplotlib's settings of the image.

    Raises:
        UsageError: if the comparison has no map.
    """
    assert ax is not None
    if result.similarity is None or not result.similarity.isfinite().any():
        raise nothing()
    sites = result.similarity_sites
    how: dict[str, Any] = {"vmin": 0, "vmax": 1, "cmap": "cividis", "interpolation": "nearest", "aspect": "auto"}
    image = ax.imshow(result.similarity.numpy(), **(how | style))
    named = labels(sites)
    written = range(0, len(sites), max(1, len(sites) // MOST_LABELS))
    texts = [named[i].text for i in written]
    ax.set_xticks(written, texts, rotation=90, fontsize=5)
    ax.set_yticks(written, texts, fontsize=5)
    _stacks([label.group for label in named], ax)
    below_stacks = max(4, 34 - 3 * max(map(len, texts))) if any(label.group for label in named) else 4
    ax.set_xlabel(drawn(result.names[1]), labelpad=below_stacks)
    beside_stacks = below_stacks + 2.5 * max(
        len(label.group) for label in named
    )  # whose names lie flat, as they are longer than high
    ax.set_ylabel(drawn(result.names[2] if len(result.names) > 2 else result.names[0]), labelpad=beside_stacks)
    ax.spines[:].set_visible(False)
    ax.set_facecolor(NO_VALUE)
    panel_title(ax, "CKA, debiased", y=1.01)
    bar_in_title(image, ax)
    return ax


def _stacks(groups: Sequence[str], ax: Axes) -> None:
    """The name of every stack along both axes, and a white line where the next begins."""
    start = 0
    for stack, members in groupby(groups):
        stop = start + len(list(members))
        middle = (start + stop - 1) / 2
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6}
        below, beside = ("data", "axes fraction"), ("axes fraction", "data")
        ax.annotate(stack, (middle, 0), xycoords=below, xytext=(0, -25), ha="center", va="top", **style)
        ax.annotate(stack, (0, middle), xycoords=beside, xytext=(-22, 0), ha="right", va="center", **style)
        if start:
            ax.axhline(start - 0.5, color="white", linewidth=1)
            ax.axvline(start - 0.5, color="white", linewidth=1)
        start = stop
