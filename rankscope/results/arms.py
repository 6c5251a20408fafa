"""What a comparison of arms returns: several runs of each recipe, with a verdict at every site."""

from __future__ import annotations

from dataclasses import dataclass

from rankscope.results.claims import Account, Judged
from rankscope.results.judging import arms_judged
from rankscope.results.record import Estimate, Estimated, Shape, Span
from rankscope.results.verdict import Verdict


@dataclass(frozen=True)
class Errors:
    """Where the uncertainty of an arm's number comes from."""

    seed_sd: float | None = None
    """The standard deviation between trainings, without row noise; None with one run, and for a difference."""
    seed_se: float | None = None
    """The part of the standard error that comes from the trainings; None with one run."""
    sample_se: float | None = None
    """The part that comes from the samples."""


@dataclass(frozen=True)
class Equivalent:
    """Whether a number is the same as no change, up to what retraining alone does."""

    floor: float | None = None
    """The retraining floor: how far two trainings of one recipe lie apart; the margin of equivalence. None with fewer
    than three runs."""
    equivalent: bool | None = None
    """Whether two one-sided tests place the value, or a relation's shortfall from its ceiling, inside the floor; None
    without a floor."""
    p_equivalent: float | None = None
    """The p-value of those tests."""


@dataclass(frozen=True)
class ArmRecord(Estimated):
    """One number of an arm, or of the difference of two, at one site.

    Without a base the number of an arm is its mean over runs. With one, a definition is its mean signed change from the
    base, and a relation its mean value between the base and the run.
    """

    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the definition or relation."""
    arm: str
    """The arm, or ``ptlora − lora`` for a difference of two."""
    estimate: Estimate
    """The mean over runs with its interval, over seeds and samples (over samples alone with one run); None where it has no
    value (``notes`` say why)."""
    band: Span
    """The band that holds at all sites together."""
    p: float | None
    """The p-value of no change (for a relation: of being at its ceiling), adjusted for all sites."""
    errors: Errors
    """Seed noise and row noise."""
    equivalence: Equivalent
    """The test of sameness."""
    runs: int
    """Trainings in the arm, or in the smaller of the two."""
    shape: Shape
    """The rows that were compared."""
    convention: str
    """What was done to the rows before the formula."""
    unit: str
    """The unit of the value."""
    verdict: str = ""
    """The verdict on the arm at this site, with its reasons; empty for a difference of two."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the number, or why there is none."""
    variant: str = "raw"
    """The variant of the rows."""
    run_names: str = ""
    """The names of the runs by comma; those of two arms are separated by ``−`` as in ``arm``."""
    run_base: str | None = None
    """The name of the base; None without one."""


@dataclass(frozen=True, repr=False)
class ArmContrast(Judged[ArmRecord]):
    """Arms compared along their sites: a record per site, measure and arm, and one for each pair of arms."""

    arms: dict[str, tuple[str, ...]]
    """Arm → the names of its runs."""
    base: str | None
    """The name of the base; None without one."""
    verdicts: dict[tuple[str, str], Verdict]
    """(site, arm) → the verdict; empty without a base."""
    level: float
    """The confidence of intervals and bands."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the whole comparison."""

    @property
    def verdict(self) -> Account:
        """What was found, in sentences: the verdicts on each arm, the sites of one word together."""
        return arms_judged(self)
