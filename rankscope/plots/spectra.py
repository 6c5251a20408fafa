"""Spectra of the runs at one site: as the paper draws them, and value by value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes

from rankscope.plots.naming import spelled
from rankscope.plots.style import in_legend, look, panel_title

if TYPE_CHECKING:
    from rankscope.spectrum import Spectrum


def cumulative(spectra: Mapping[str, Spectrum], ax: Axes, *, base: str | None = None) -> Axes:
    """Share of Σσ in the leading directions, against the share of the directions: the paper's Figure 4.

    Args:
        spectra: run → its spectrum at one site.
        ax: where to draw.
        base: the run drawn black and dashed.
    """
    for name, spectrum, style in _styled(spectra, base):
        ax.plot((100 * spectrum.positions).tolist(), spectrum.cumulative().tolist(), label=in_legend(name), **style)
    ax.axhline(0.9, color="0.7", linewidth=0.6, zorder=0)
    first = next(iter(spectra.values()))
    ax.set(xlim=(0, 100), ylim=(0, 1.01), xlabel="directions, % of min(n, d)")
    panel_title(ax, f"{spelled(first.site)}  (n={first.rows}, d={first.columns})")
    return ax


def descending(spectra: Mapping[str, Spectrum], ax: Axes, *, base: str | None = None) -> Axes:
    """Each singular value over the first, on two logarithmic axes; what rounding to the stored dtype can make is shaded.

    Values below that floor are left out. The axis reaches down to all but the last fiftieth of the directions: those that
    a norm takes away would press the rest flat, and leave the panel at the bottom.

    Args:
        spectra: run → its spectrum at one site.
        ax: where to draw.
        base: the run drawn black and dashed.
    """
    least = 1.0
    for name, spectrum, style in _styled(spectra, base):
        kept = spectrum.above_floor
        if len(kept) and kept[0] > 0:
            ax.loglog(range(1, len(kept) + 1), (kept / kept[0]).tolist(), label=in_legend(name), **style)
            least = min(least, float(kept[int(0.98 * (len(kept) - 1))] / kept[0]))
            if spectrum.below_floor:
                ax.axhspan(0, spectrum.floor / float(kept[0]), color="0.9", linewidth=0, zorder=0)
    ax.set_ylim(least / 2, 1.5)
    ax.set_xlabel("direction")
    return ax


def _styled(spectra: Mapping[str, Spectrum], base: str | None) -> Iterator[tuple[str, Spectrum, dict[str, Any]]]:
    others = [name for name in spectra if name != base]
    for name, spectrum in spectra.items():
        yield name, spectrum, look(others.index(name) if name in others else -1) | {"marker": ""}
