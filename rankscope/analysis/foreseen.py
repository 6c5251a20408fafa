"""What an analysis takes in memory at the least, known from the widths and rows of its runs, and asked before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope import memory
from rankscope.analysis.align import Aligned
from rankscope.collecting.budget import free_on_gpu
from rankscope.definition import Comparison, Definition
from rankscope.devices import where
from rankscope.errors import TooLarge
from rankscope.sites import Site

OF_A_RUN = 4
"""Matrices that are kept of a run: the sums over the rows of each half of the samples, over all, and those about the mean."""
OF_A_PAIR = 3
"""Matrices that are kept of two runs: the sums over pairs of rows of each half, and over all."""


def least_matrices(asked: Sequence[Definition | Comparison], runs: int) -> int:
    """How many ``(d, d)`` matrices are kept together at the least, of so many runs, for what is asked of them."""
    if all(what.reads in ("rows", "samples") for what in asked):
        return 0
    paired = any(isinstance(what, Comparison) and what.reads not in ("rows", "spectra") for what in asked)
    return OF_A_RUN * runs + OF_A_PAIR * (runs - 1) * paired


def check_fits(aligned: Aligned, matrices: int, device: str | None) -> None:
    """Refuse sites whose matrices do not fit into memory, before any row is read.

    Args:
        aligned: the runs.
        matrices: how many ``(d, d)`` matrices of float64 are there together at the least.
        device: where they are.

    Raises:
        TooLarge: saying what is needed, what is free, and which sites fit.
    """
    place = where(device)
    there = free_on_gpu(place) if place.type == "cuda" else memory.free()
    needs = {site: 8 * matrices * _directions(aligned, site) ** 2 for site in aligned.sites}
    if all(size <= there for size in needs.values()):
        return
    widest = max(needs, key=needs.__getitem__)
    fit = [str(site) for site, size in needs.items() if size <= there]
    d = _directions(aligned, widest)
    raise TooLarge(
        f"this takes at least {matrices} matrices of {d:,} × {d:,} at {widest}, {needs[widest] / 1e9:.3g} GB, and "
        f"{there / 1e9:.3g} GB of memory are free; give the process more memory, or choose "
        + (f"among the sites that fit (--layers): {', '.join(fit)}" if fit else "fewer runs, or measures of rows alone")
    )


def _directions(aligned: Aligned, site: Site) -> int:
    """The side of the matrices: the least width of a run, or the number of rows of all, which span no more directions."""
    widths = {run.width(site) for run in aligned.runs}
    return min(*widths, aligned.n(site) * (len(aligned.runs) if len(widths) == 1 else 1))
