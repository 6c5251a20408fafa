"""What a curve against the number of rows returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankscope.results.record import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class CurvePoint:
    """One number of one run at one site, on parts of its samples."""

    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the definition."""
    parts: int
    """Into how many disjoint parts the samples were divided."""
    rows: float
    """The mean number of rows of a part."""
    value: float
    """The mean over the parts; NaN where it has no meaning (``note`` says why)."""
    least: float
    """The least value of a part."""
    greatest: float
    """The greatest."""
    noise: float
    """What isotropic Gaussian features of the same shape score."""
    limit: float
    """The value at infinitely many rows, where a law is known and the rows suffice for it; else NaN."""
    d: int
    """Features a row."""
    convention: str
    """What was done to the rows before the formula."""
    unit: str
    """The unit of the value."""
    note: str = ""
    """The law, or why there is no limit, and what must be said of the rows."""
    variant: str = "raw"
    """What was done to the rows first."""


@dataclass(frozen=True)
class Curves(Table):
    """Numbers of one run against the number of rows."""

    records: tuple[CurvePoint, ...]
    """One record a site, a measure and a level, the whole first."""
    run: str = ""
    """The name of the run."""

    def plot(self) -> Figure:
        """One panel a measure: the curve of each site, its limit where there is one, and what noise scores."""
        from rankscope.plots import curves

        return curves(self)
