"""What measuring one run, comparing two runs, and drawing one against its number of rows return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rankscope.results.claims import Account, Judged
from rankscope.results.judging import judged, surveyed
from rankscope.results.record import NO_ESTIMATE, NO_SPAN, Estimate, Estimated, Record, Shape, Span, Table
from rankscope.sites import Site

if TYPE_CHECKING:
    from rankscope.spectrum import Spectrum


@dataclass(frozen=True)
class RunRecord(Estimated):
    """One measure of one run at one site."""

    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the definition."""
    estimate: Estimate
    """The number and its interval; None where the measure has no value here (``notes`` say why)."""
    noise: float | None
    """What isotropic Gaussian features of the same shape score."""
    shape: Shape
    """The rows that were measured."""
    convention: str
    """What was done to the rows before the formula: kind, centring, dtype of the arithmetic."""
    unit: str
    """The unit of the value."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the number, or why there is none."""
    variant: str = "raw"
    """The variant of the rows: raw, distinct, sinks-dropped or standardised."""
    refused: bool = False
    """Whether the rows were refused, so that there is no value."""
    mean_share: float = 0.0
    """The mean row's share of the energy, ‖x̄‖²/(‖x̄‖² + tr S), which uncentred measures mostly see."""
    without_sinks: float | None = None
    """The value without rows longer than ten medians; None where no row is."""
    below_floor: int = 0
    """Number of singular values below the rounding floor of the stored dtype; 0 for measures that read no spectrum."""
    run: str = ""
    """The name of the run."""
    interval_by: str | None = None
    """Where the interval comes from: ``influence`` or ``jackknife``; None without one."""


@dataclass(frozen=True)
class Pair:
    """Which runs a record compares."""

    run_a: str
    """The name of the first run."""
    run_b: str
    """The name of the second run."""
    run_base: str | None = None
    """The name of the base; None without one."""


_BEFORE_THE_INTERVALS = ("site", "measure", "value", "low", "high", "a", "b", "difference")
"""The leading columns of a comparison; the intervals of ``a`` and ``b`` follow, then the rest."""


@dataclass(frozen=True)
class PairRecord(Estimated):
    """One measure of two runs at one site.

    For a definition (a measure of one run) ``a`` and ``b`` are its values in the two runs or, with a base, their signed
    changes from it; ``estimate`` is b − a. For a relation (a measure of two runs) ``estimate`` relates a to b; with a
    base, ``a`` and ``b`` relate it to each run and ``estimate`` is b − a.
    """

    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the definition or relation."""
    estimate: Estimate
    """The number in question and its interval, paired over samples; None where it has no value (``notes`` say why)."""
    a: Estimate
    """The first run; all None for a relation without a base."""
    b: Estimate
    """The second run; all None for a relation without a base."""
    base: float | None
    """The value of a definition in the base; None without a base and for relations."""
    noise: float | None
    """What noise of the same shape scores: Gaussian features for a definition, shuffled samples for a relation. Whole samples
    are shuffled, so a row is paired with one at the same position of another sample: what rows at one position have in common
    counts as noise, which for recoverability of token rows can be much."""
    itself: float | None
    """What the reference scores against itself: against a second reading of the same rows (in another batch size or
    dtype) where one was given, else between its two halves. For a definition it is the second less the first. Measures
    that relate row to row use the same rows twice, cross-fitted where the measure is."""
    shape: Shape
    """The rows that were compared."""
    convention: str
    """What was done to the rows before the formula: kind, centring, dtype of the arithmetic."""
    unit: str
    """The unit of the value."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the number, or why there is none."""
    variant: str = "raw"
    """The variant of the rows: raw, distinct, sinks-dropped or standardised."""
    mean_share: float = 0.0
    """The mean row's share of the energy of the first run, ‖x̄‖²/(‖x̄‖² + tr S)."""
    mean_share_b: float = 0.0
    """The same of the second run."""
    without_sinks: float | None = None
    """The value without rows longer than ten medians; None where no row is."""
    below_floor: int = 0
    """Number of singular values below the rounding floor of the stored dtype, in the run that has most of them."""
    band: Span = NO_SPAN
    """The band of the value that holds at all sites together (max-T over sign flips of groups)."""
    p: float | None = None
    """The p-value of no difference, adjusted for all sites; None for a relation without a base, where 0 is no hypothesis."""
    p_unrelated: float | None = None
    """Share of shuffles of the samples that are as like the reference as the second run; None unless asked for."""
    runs: Pair | None = None
    """The runs that are compared."""
    interval_by: str | None = None
    """Where the interval comes from: ``influence`` or ``jackknife``; None without one."""
    percent: Estimate = NO_ESTIMATE
    """(b − a)/a of the values of a rank in the two runs, with its interval; None for other measures."""
    percent_a: Estimate = NO_ESTIMATE
    """The same of the first run against the base; None without one."""
    percent_b: Estimate = NO_ESTIMATE
    """The same of the second run."""
    band_a: Span = NO_SPAN
    """The band of ``a`` that holds at all sites together; None without a base."""
    band_b: Span = NO_SPAN
    """The same of ``b``."""

    @property
    def difference(self) -> float | None:
        """b − a: the value, except for a relation without a base."""
        return self.value if self.a.value is not None else None

    def flat(self) -> dict[str, Any]:
        """The record as columns, with ``difference`` among them."""
        columns = super().flat() | {"difference": self.difference}
        return {name: columns[name] for name in _BEFORE_THE_INTERVALS} | columns


@dataclass(frozen=True, repr=False)
class Measurement(Judged[RunRecord]):
    """Numbers of one run along its sites: a record per site and measure."""

    run: str = ""
    """The name of the run."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to all of them."""
    level: float = 0.95
    """The confidence of the intervals."""

    @property
    def verdict(self) -> Account:
        """What was found, in sentences."""
        return surveyed(self)


@dataclass(frozen=True, repr=False)
class Contrast(Judged[PairRecord]):
    """Numbers of two runs along their sites, a record per site and measure, and what their figure is drawn from."""

    names: tuple[str, ...] = ()
    """The names of the runs: the first, the second and, where there is one, the base."""
    rows: str = ""
    """The kind of rows, and the probe set."""
    spectra: Mapping[str, Mapping[Site, Spectrum]] = field(default_factory=dict)
    """Run → site → its centred spectrum."""
    similarity: Tensor | None = None
    """``(sites, sites)`` debiased linear CKA between the sites of the reference and those of the second run."""
    similarity_sites: tuple[Site, ...] = ()
    """The sites of that map."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the whole comparison."""
    again: bool = False
    """Whether ``itself`` of the records relates two readings of the reference; else its two halves."""
    level: float = 0.95
    """The confidence of the intervals, and of the bands over all sites together."""

    @property
    def verdict(self) -> Account:
        """What was found, in sentences: reshaped, turned, lost, drifted."""
        return judged(self)


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


@dataclass(frozen=True, repr=False)
class Curves(Table[CurvePoint]):
    """Numbers of one run against the number of rows: a record per site, measure and level, the whole first."""

    run: str = ""
    """The name of the run."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to all of them."""
