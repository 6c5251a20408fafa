"""The site × site map of similarity between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from rankscope.plots.naming import MOST_LABELS, labels
from rankscope.plots.style import drawn, panel_title
from rankscope.sites import Site

NO_VALUE = "0.85"
"""The grey of pairs that have no similarity, as where all rows of a site are equal."""


def similarity(values: Tensor, sites: Sequence[Site], ax: Axes, *, rows: str, columns: str) -> Axes:
    """Debiased linear CKA of every site of one run with every site of another, on a perceptually even scale.

    Args:
        values: ``(s, s)``.
        sites: the s sites.
        ax: where to draw.
        rows: the run along the vertical axis.
        columns: the run along the horizontal axis.
    """
    image = ax.imshow(values.numpy(), vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
    named = labels(sites)
    written = range(0, len(sites), max(1, len(sites) // MOST_LABELS))
    texts = [named[i].text for i in written]
    ax.set_xticks(written, texts, rotation=90, fontsize=5)
    ax.set_yticks(written, texts, fontsize=5)
    _stacks([label.group for label in named], ax)
    below_stacks = max(4, 34 - 3 * max(map(len, texts))) if any(label.group for label in named) else 4
    ax.set_xlabel(drawn(columns), labelpad=below_stacks)
    ax.set_ylabel(drawn(rows), labelpad=below_stacks)
    ax.spines[:].set_visible(False)
    ax.set_facecolor(NO_VALUE)
    panel_title(ax, "CKA, debiased")
    ax.figure.colorbar(image, ax=ax, shrink=0.8)
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
        ax.annotate(stack, (0, middle), xycoords=beside, xytext=(-25, 0), ha="right", va="center", rotation=90, **style)
        if start:
            ax.axhline(start - 0.5, color="white", linewidth=1)
            ax.axvline(start - 0.5, color="white", linewidth=1)
        start = stop
