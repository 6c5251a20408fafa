"""Spectra of the runs at one site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from rankscope.plots.style import look, panel_title

if TYPE_CHECKING:
    from rankscope.spectrum import Spectrum


def cumulative(spectra: Mapping[str, Spectrum], ax: Axes, *, base: str | None = None) -> Axes:
    """Share of Σσ in the leading directions, against the share of the directions: the paper's Figure 4.

    Args:
        spectra: run → its spectrum at one site.
        ax: where to draw.
        base: the run drawn black and dashed.
    """
    others = [name for name in spectra if name != base]
    for name, spectrum in spectra.items():
        style = look(others.index(name) if name in others else -1) | {"marker": ""}
        curve = spectrum.cumulative().tolist()
        ax.plot((100 * spectrum.positions).tolist(), curve, label=name, **style)
    ax.axhline(0.9, color="0.7", linewidth=0.6, zorder=0)
    first = next(iter(spectra.values()))
    ax.set(xlim=(0, 100), ylim=(0, 1.01), xlabel="directions, % of min(n, d)")
    panel_title(ax, f"{first.site}  (n={first.rows}, d={first.columns})")
    return ax
