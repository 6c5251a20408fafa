"""What relating two sites of a run returns: numbers of their rows in each run, and the changes from the base."""

from __future__ import annotations

from dataclasses import dataclass

from rankscope.results.record import NO_ESTIMATE, NO_SPAN, Estimate, Estimated, Shape, Span, Table


@dataclass(frozen=True)
class BetweenRecord(Estimated):
    """One relation of the rows of two sites in one run; in its formula, those of ``a`` stand where the base does."""

    site: str
    """The site, as ``decoder.3``, that changes along the records."""
    measure: str
    """The name of the relation."""
    a: str
    """The rows of the first side, as ``vision.final:image``: what is read, of a relation that has a direction."""
    b: str
    """The rows of the second side, as ``decoder.3:text``: from what it is read."""
    run: str
    """The name of the run."""
    estimate: Estimate
    """The number and its interval over samples; None where it has no value (``notes`` say why)."""
    noise: float | None
    """What shuffled samples score or, of the gap between modalities, rows exchanged within samples."""
    itself: float | None
    """What ``a`` scores against itself, on as many samples: the ceiling of what can be read."""
    shape: Shape
    """The rows: one a sample, with the features of ``a``."""
    convention: str
    """What was done to the rows before the formula: how they became one a sample, kind, centring, dtype of the arithmetic."""
    unit: str
    """The unit of the value."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the number, or why there is none."""
    d_b: int = 0
    """Features per row of ``b``."""
    variant: str = "raw"
    """The variant of the rows: raw, distinct, sinks-dropped or standardised."""
    band: Span = NO_SPAN
    """The band of the value that holds at all sites together."""
    p_unrelated: float | None = None
    """Share of the draws behind ``noise`` that say as much as the rows do; None unless asked for."""
    interval_by: str | None = None
    """Where the interval comes from: ``influence`` or ``jackknife``; None without one."""
    before: float | None = None
    """The number in the base; None without one, and in the base itself."""
    change: Estimate = NO_ESTIMATE
    """The change from the base, with its interval paired over samples."""
    change_band: Span = NO_SPAN
    """The band of the change that holds at all sites together."""
    p: float | None = None
    """The p-value of no change, adjusted for all sites."""
    run_base: str = ""
    """The name of the base."""


@dataclass(frozen=True, repr=False)
class Between(Table[BetweenRecord]):
    """Numbers between the sites of runs: a record per run, pair of sites, measure and direction."""

    names: tuple[str, ...] = ()
    """The names of the runs; the base, where there is one, first."""
    base: str = ""
    """The name of the base; empty without one."""
    level: float = 0.95
    """The confidence of the intervals, and of the bands over all sites together."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the whole, and pairs of sites that could not be related."""

    def parts(self) -> dict[str, list[BetweenRecord]]:
        """The records of each measure and direction, by its name: ``recoverability of vision.final:image from decoder:text``."""
        found: dict[str, list[BetweenRecord]] = {}
        for r in self.records:
            found.setdefault(self._title(r), []).append(r)
        return found

    def _title(self, r: BetweenRecord) -> str:
        """What is related, the side that changes along the records by its stack and kind alone."""
        alike = [one for one in self.records if (one.run, one.measure, one.site) == (r.run, r.measure, r.site)]
        along = len({one.site for one in self.records}) > 1
        a, b = (_of_stack(side) if along and _site(side) == r.site else side for side in (r.a, r.b))
        return f"{r.measure} of {a} {'from' if len(alike) > 1 else 'and'} {b}"


def _site(side: str) -> str:
    return side.partition(":")[0]


def _of_stack(side: str) -> str:
    """``decoder:text`` of ``decoder.3:text``."""
    site, colon, kind = side.partition(":")
    return f"{site.rpartition('.')[0]}{colon}{kind}"
