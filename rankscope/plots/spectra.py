"""Spectra of the runs at one site: value by value, and as the paper draws them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.axes import Axes

from rankscope.errors import UnknownName
from rankscope.plots.naming import spelled
from rankscope.plots.style import drawing, in_legend, look, nothing, panel_title
from rankscope.results.runs import Contrast
from rankscope.sites import Site

if TYPE_CHECKING:
    from rankscope.spectrum import Spectrum


@drawing
def spectra(result: Contrast, ax: Axes | None = None, *, site: Site | str | None = None, **style: Any) -> Axes:
    """Each singular value over the first, on two logarithmic axes; what rounding to the stored dtype can make is shaded.

    Values below that floor are left out. The axis reaches down to all but the last fiftieth of the directions: those that
    a norm takes away would press the rest flat, and leave the panel at the bottom.

    Args:
        result: a comparison.
        ax: where to draw; by default on a figure of its own.
        site: the site; by default the one where a rank changes most.
        **style: matplotlib's settings of the curves, beside their own looks.

    Raises:
        UnknownName: if the comparison has no spectrum there.
        UsageError: if no run has a spectrum.
    """
    assert ax is not None
    least = 1.0
    for name, spectrum, own in _curves_at(result, site, ax):
        kept = spectrum.above_floor
        if len(kept) and kept[0] > 0:
            curve = (kept / kept[0]).tolist()
            ax.loglog(range(1, len(kept) + 1), curve, label=in_legend(name), **(own | style))
            least = min(least, curve[int(0.98 * (len(kept) - 1))])
            if spectrum.below_floor:
                ax.axhspan(0, spectrum.floor / float(kept[0]), color="0.9", linewidth=0, zorder=0)
    if not ax.lines:
        raise nothing()
    ax.set(ylim=(least / 2, 1.5), xlabel="direction", ylabel="σ / σ₁")
    return ax


@drawing
def cumulative(result: Contrast, ax: Axes | None = None, *, site: Site | str | None = None, **style: Any) -> Axes:
    """Share of Σσ in the leading directions, against the share of the directions: the paper's Figure 4.

    Arguments and errors as :func:`spectra`.
    """
    assert ax is not None
    for name, spectrum, own in _curves_at(result, site, ax):
        curve = spectrum.cumulative().tolist()
        ax.plot((100 * spectrum.positions).tolist(), curve, label=in_legend(name), **(own | style))
    ax.axhline(0.9, color="0.7", linewidth=0.6, zorder=0)
    ax.set(xlim=(0, 100), ylim=(0, 1.01), xlabel="directions, % of min(n, d)", ylabel="cumulative share of Σσ")
    return ax


def has_spectra(result: Contrast) -> bool:
    """Whether some run has a spectrum that is not zero at the site that is drawn."""
    site = telling(result)
    there = (sites[site] for sites in result.spectra.values() if site is not None and site in sites)
    return any(len(one.above_floor) and one.above_floor[0] > 0 for one in there)


def telling(result: Contrast) -> Site | None:
    """The site with spectra where the verdict quotes a change, or else where a number changes most in proportion; the last if none does."""
    sites = list(dict.fromkeys(site for run in result.spectra.values() for site in run))
    quoted = map(Site.parse, result.verdict.quoted)
    if (found := next((site for site in quoted if site in sites), None)) is not None:
        return found
    moved: dict[Site, float] = {}
    based = len(result.names) > 2
    for r in result.records:
        before = r.base if based else r.a.value
        changes = [r.a.value, r.b.value] if based else [r.difference]
        if before and (site := Site.parse(r.site)) in sites:
            moved[site] = max([moved.get(site, 0.0), *(abs(c / before) for c in changes if c is not None)])
    return max(reversed(sites), key=lambda site: moved.get(site, 0.0), default=None)


def _curves_at(result: Contrast, site: Site | str | None, ax: Axes) -> Iterator[tuple[str, Spectrum, dict[str, Any]]]:
    """The name, spectrum and look of each curve at a site, which the title of the panel names."""
    chosen = telling(result) if site is None else Site.parse(str(site))
    there = {run: sites[chosen] for run, sites in result.spectra.items() if chosen is not None and chosen in sites}
    if not there and site is None:
        raise nothing()
    if not there:
        known = ", ".join(dict.fromkeys(str(one) for sites in result.spectra.values() for one in sites))
        raise UnknownName(f"there is no spectrum at {site}; there are spectra at {known or 'no site'}")
    first = next(iter(there.values()))
    panel_title(ax, f"{spelled(first.site)}  (n={first.rows}, d={first.columns})")
    return _styled(there, result.names[2] if len(result.names) > 2 else None)


def _styled(spectra: Mapping[str, Spectrum], base: str | None) -> Iterator[tuple[str, Spectrum, dict[str, Any]]]:
    """Each curve with its look; runs with the same values are one curve under all their names."""
    others = [name for name in spectra if name != base]
    left = dict(spectra)
    for name, spectrum in spectra.items():
        if name in left:
            same = [n for n, one in left.items() if _alike(one.values, spectrum.values)]
            for n in same:
                del left[n]
            place = others.index(name) if name in others else -1
            yield " = ".join(same), spectrum, look(place) | {"marker": ""}


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(torch.isclose(one, other, rtol=1e-9, atol=0).all())
