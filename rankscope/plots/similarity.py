"""The site × site map of similarity between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from rankscope.plots.style import panel_title
from rankscope.sites import Site

MOST_LABELS = 24
"""Sites beyond which only every second, third, … has its name written."""
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
    shown = range(0, len(sites), max(1, len(sites) // MOST_LABELS))
    points = [sites[i].point for i in shown]
    ax.set_xticks(shown, points, rotation=90, fontsize=5)
    ax.set_yticks(shown, points, fontsize=5)
    _stacks(sites, ax)
    ax.set_xlabel(columns, labelpad=14)
    ax.set_ylabel(rows, labelpad=14)
    ax.spines[:].set_visible(False)
    ax.set_facecolor(NO_VALUE)
    panel_title(ax, "CKA, debiased")
    ax.figure.colorbar(image, ax=ax, shrink=0.8)
    return ax


def _stacks(sites: Sequence[Site], ax: Axes) -> None:
    """The name of every stack along both axes, and a white line where the next begins."""
    start = 0
    for stack, members in groupby(site.stack for site in sites):
        stop = start + len(list(members))
        middle = (start + stop - 1) / 2
        told: dict[str, Any] = {"text": stack, "textcoords": "offset points", "fontsize": 6}
        below: dict[str, Any] = {"xy": (middle, 0), "xycoords": ("data", "axes fraction"), "xytext": (0, -25)}
        beside: dict[str, Any] = {"xy": (0, middle), "xycoords": ("axes fraction", "data"), "xytext": (-25, 0)}
        ax.annotate(**told, **below, ha="center", va="top")
        ax.annotate(**told, **beside, ha="right", va="center", rotation=90)
        if start:
            ax.axhline(start - 0.5, color="white", linewidth=1)
            ax.axvline(start - 0.5, color="white", linewidth=1)
        start = stop
