"""What a comparison of arms returns: several runs of each recipe, with a verdict at every site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankscope.results.record import Table
from rankscope.results.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ArmCompared:
    """One number of an arm, or of the difference of two, at one site.

    Without a base the number of an arm is its mean over runs. With one, a definition is its mean signed change against
    the base, and a relation its mean value between the base and the run.
    """

    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the definition or relation."""
    arm: str
    """The arm, or ``ptlora − lora`` for a difference of two."""
    value: float
    """The mean over runs; NaN where it has no meaning (``note`` says why)."""
    low: float
    """The lower end of its interval, over seeds and samples; over samples alone with one run."""
    high: float
    """The upper end."""
    band_low: float
    """The lower end of the band that holds at all sites together."""
    band_high: float
    """The upper end."""
    p: float
    """The p-value of no change (a relation: of being its ceiling), adjusted for all sites."""
    seed_sd: float
    """The standard deviation between trainings, row noise taken out; NaN with one run, and for a difference."""
    seed_se: float
    """The part of the standard error that the trainings leave; NaN with one run."""
    sample_se: float
    """The part that the samples leave."""
    floor: float
    """The retraining floor: how far two trainings of one recipe lie apart; the margin of equivalence."""
    equivalent: bool | None
    """Whether two one-sided tests place the value, or a relation's shortfall from its ceiling, inside the floor; None
    without a floor."""
    p_equivalent: float
    """The p-value of those tests."""
    runs: int
    """Trainings in the arm, or in the smaller of the two."""
    n: int
    """Rows."""
    samples: int
    """Samples that the rows came from."""
    d: int
    """Features a row."""
    convention: str
    """What was done to the rows before the formula."""
    unit: str
    """The unit of the value."""
    verdict: str = ""
    """The verdict on the arm at this site, with its reasons; empty for a difference of two."""
    note: str = ""
    """What must be said beside the number."""
    variant: str = "raw"
    """What was done to the rows first."""


@dataclass(frozen=True)
class ArmContrast(Table):
    """Arms compared along their sites."""

    records: tuple[ArmCompared, ...]
    """One record a site, a measure and an arm, and one for each two arms."""
    arms: dict[str, tuple[str, ...]]
    """Of each arm the names of its runs."""
    base: str
    """The name of the base, or nothing."""
    verdicts: dict[tuple[str, str], Verdict]
    """(site, arm) → the verdict; none without a base."""
    level: float
    """The confidence of intervals and bands."""
    notes: tuple[str, ...] = ()
    """What must be said beside the whole."""

    def plot(self) -> Figure:
        """One panel a measure: each arm along the sites with its simultaneous band, and the retraining floor."""
        from rankscope.plots import arms

        return arms(self)
