"""What a measurement and a comparison return: flat records with their conventions, as a table, as JSON and as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rankscope.errors import UnknownName
from rankscope.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from rankscope.spectrum import Spectrum

NOTHING = float("nan")


@dataclass(frozen=True)
class Measured:
    """One number of one run at one site."""

    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the definition."""
    value: float
    """The number; NaN where it has no meaning (``note`` says why)."""
    low: float
    """The lower end of its interval."""
    high: float
    """The upper end of its interval."""
    noise: float
    """What isotropic Gaussian features of the same shape score."""
    n: int
    """Rows."""
    samples: int
    """Samples that the rows came from: the unit of the interval."""
    d: int
    """Features a row."""
    dtype: str
    """The dtype in which the features were stored; the arithmetic is float64."""
    convention: str
    """What was done to the rows before the formula: kind, centring, base."""
    unit: str
    """The unit of the value."""
    note: str = ""
    """What must be said beside the number."""
    variant: str = "raw"
    """What was done to the rows first: raw, distinct, sinks-dropped or standardised."""
    refused: bool = False
    """Whether the rows were refused, and there is no value."""
    mean_share: float = NOTHING
    """The mean row's share of the energy, ‖x̄‖²/(‖x̄‖² + tr S); an uncentred measure speaks of it."""
    without_sinks: float = NOTHING
    """The value without rows longer than ten medians; NaN where there are none."""
    below_floor: int = 0
    """Singular values that the stored dtype does not resolve; for a measure of the spectrum only."""


@dataclass(frozen=True)
class Compared:
    """One number of two runs at one site.

    For a definition (a number of one run) ``a`` and ``b`` are its values in the two runs, or, where there is a base,
    their signed changes against it; ``difference`` is b − a and so is ``value``. For a relation (a number of two runs)
    ``value`` relates a to b; where there is a base, ``a`` and ``b`` relate it to each run, and ``difference`` and ``value``
    are b − a. The interval is always that of ``value``.
    """

    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the definition or relation."""
    value: float
    """The number in question; NaN where it has no meaning (``note`` says why)."""
    low: float
    """The lower end of the interval of ``value``, paired over samples."""
    high: float
    """The upper end of it."""
    a: float
    """The first run."""
    b: float
    """The second run."""
    difference: float
    """b − a."""
    a_low: float
    """The lower end of the interval of ``a``."""
    a_high: float
    """The upper end of it."""
    b_low: float
    """The lower end of the interval of ``b``."""
    b_high: float
    """The upper end of it."""
    base: float
    """The value of the definition in the base; NaN without one."""
    noise: float
    """What noise of the same shape scores: Gaussian features for a definition, shuffled samples for a relation."""
    itself: float
    """What the reference scores against itself: the same rows read again (in another batch size or dtype) where such a run
    was given; else its two halves, for a definition the second less the first; on its very rows where the measure relates
    rows, cross-fitted where the measure is."""
    n: int
    """Rows."""
    samples: int
    """Samples that the rows came from: the unit of the interval."""
    d: int
    """Features a row of the first run."""
    dtype: str
    """The dtypes in which the features were stored; the arithmetic is float64."""
    convention: str
    """What was done to the rows before the formula: kind, centring, base."""
    unit: str
    """The unit of the value."""
    note: str = ""
    """What must be said beside the number."""
    variant: str = "raw"
    """What was done to the rows first: raw, distinct, sinks-dropped or standardised."""
    mean_share: float = NOTHING
    """The mean row's share of the energy, ‖x̄‖²/(‖x̄‖² + tr S), of the first run; an uncentred measure speaks of it."""
    mean_share_b: float = NOTHING
    """The same of the second run."""
    without_sinks: float = NOTHING
    """The value without rows longer than ten medians; NaN where there are none."""
    below_floor: int = 0
    """Singular values of the run that has the most of them that the stored dtype does not resolve; for a spectrum only."""
    band_low: float = NOTHING
    """The lower end of the band of ``value`` that holds at all sites together (max-T over sign flips of groups)."""
    band_high: float = NOTHING
    """The upper end of it."""
    p: float = NOTHING
    """The p-value of no difference, adjusted for all sites; NaN for a relation without a base, where 0 is no hypothesis."""
    p_unrelated: float = NOTHING
    """The share of shuffles of the samples that are as like the reference as the second run; NaN unless asked for."""


@dataclass(frozen=True)
class Table:
    """Records, and the three ways out of them."""

    records: tuple[Any, ...]
    """One record a site and a measure, in the order of the sites."""

    def to_frame(self) -> pd.DataFrame:
        """A table with a line a record, and its fields as columns."""
        import pandas as pd

        return pd.DataFrame(self.to_records())

    def to_records(self) -> list[dict[str, Any]]:
        """The records as plain dictionaries; a value without meaning is None."""
        return [{k: None if v != v else v for k, v in asdict(r).items()} for r in self.records]

    def of(self, measure: str) -> tuple[Any, ...]:
        """The records of one measure, along the sites.

        Raises:
            UnknownName: if it was not measured.
        """
        found = tuple(r for r in self.records if r.measure == measure)
        if not found:
            raise UnknownName(f"{measure!r} was not measured; there are {', '.join(self.measures)}")
        return found

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures, in order."""
        return tuple(dict.fromkeys(r.measure for r in self.records))

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda v: f"{v:.4g}")


@dataclass(frozen=True)
class Measurement(Table):
    """Numbers of one run along its sites."""

    records: tuple[Measured, ...]
    """One record a site and a measure."""
    run: str = ""
    """The name of the run."""

    def plot(self) -> Figure:
        """One panel a measure: the run along its sites, with intervals and what noise scores."""
        from rankscope.plots import profiles

        return profiles(self)


@dataclass(frozen=True)
class Contrast(Table):
    """Numbers of two runs along their sites, and what their figures are drawn from."""

    records: tuple[Compared, ...]
    """One record a site and a measure."""
    names: tuple[str, ...] = ()
    """The names of the runs: the first, the second and, where there is one, the base."""
    rows: str = ""
    """The kind of rows, and their number."""
    spectra: Mapping[str, Mapping[Site, Spectrum]] = field(default_factory=dict)
    """Run → site → its centred spectrum."""
    similarity: Tensor | None = None
    """``(sites, sites)`` debiased linear CKA between the sites of the reference and those of the last run."""
    similarity_sites: tuple[Site, ...] = ()
    """The sites of that map."""
    notes: tuple[str, ...] = ()
    """What must be said beside the whole."""

    def plot(self) -> Figure:
        """One figure: cumulative spectra, rank and overlap along the sites with intervals, and the map of CKA."""
        from rankscope.plots import contrast

        return contrast(self)


def along(records: Sequence[Measured | Compared]) -> dict[str, list[Measured | Compared]]:
    """Records by stack, in the order of the sites."""
    stacks: dict[str, list[Measured | Compared]] = {}
    for record in records:
        stacks.setdefault(Site.parse(record.site).stack, []).append(record)
    return stacks
