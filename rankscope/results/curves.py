"""What a curve against the number of rows returns."""

from __future__ import annotations

from dataclasses import dataclass

from rankscope.results.record import Record, Table


@dataclass(frozen=True)
class CurvePoint(Record):
    """One measure of one run at one site, on parts of its samples."""

    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the definition."""
    parts: int
    """Number of disjoint parts into which the samples were divided."""
    rows: float
    """Mean number of rows in a part."""
    value: float | None
    """The mean over the parts; None where the measure has no value (``notes`` say why)."""
    least: float | None
    """The least value of a part."""
    greatest: float | None
    """The greatest value of a part."""
    noise: float | None
    """What isotropic Gaussian features of the same shape score."""
    limit: float | None
    """The value at infinitely many rows, where a law is known and there are rows enough for it; else None."""
    d: int
    """Features per row."""
    convention: str
    """What was done to the rows before the formula."""
    unit: str
    """The unit of the value."""
    notes: tuple[str, ...] = ()
    """The law or why there is no limit, and cautions that belong to the rows."""
    variant: str = "raw"
    """The variant of the rows."""
    run: str = ""
    """The name of the run."""


@dataclass(frozen=True)
class Curves(Table[CurvePoint]):
    """Numbers of one run against the number of rows: a record per site, measure and level, the whole first."""

    run: str = ""
    """The name of the run."""
