"""The site × site map of similarity between two runs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from torch import Tensor

from rankscope.plots.style import panel_title
from rankscope.sites import Site


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
    names = [str(s) for s in sites]
    step = max(1, len(names) // 12)
    ax.set_xticks(range(0, len(names), step), names[::step], rotation=90, fontsize=5)
    ax.set_yticks(range(0, len(names), step), names[::step], fontsize=5)
    ax.set(xlabel=columns, ylabel=rows)
    ax.spines[:].set_visible(False)
    panel_title(ax, "CKA, debiased")
    ax.figure.colorbar(image, ax=ax, shrink=0.8)
    return ax
