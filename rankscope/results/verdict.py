"""The verdict on an arm at one site: collapsed, reshaped, rotated, preserved, or inconclusive.

Four things are called rank collapse: the spectrum reshaped, the basis turned, information lost, the mean drifted. None
of them alone licenses a verdict, and no verdict comes from rank alone. A change is claimed where the simultaneous band
lies beyond the margin, and sameness where two one-sided tests place the change inside it; what is shown neither to
change nor to stay leaves the verdict open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LEAST_RUNS = 3
"""Trainings that an arm needs for a verdict."""
LOST = 0.5
"""A loss of recoverability that is one however far retrainings lie apart: with half of its variance gone a principal score
counts as not recoverable. Trainings that each lost most of the base, and each other, would otherwise be their own excuse.
For the same reason a CKA with the base that is not above it leaves open whether the basis is the same."""


class Evidence(NamedTuple):
    """A change against the base: where it lies, and how far retrainings lie apart."""

    low: float
    """The lower end of its band, simultaneous over sites."""
    high: float
    """The upper end."""
    margin: float | None
    """The retraining floor, positive; None where there is none, so that nothing is shown to change."""
    same: bool
    """Whether two one-sided tests place the change inside the margin."""

    @property
    def fell(self) -> bool:
        """Whether it fell by more than the margin."""
        return self.margin is not None and self.high < -self.margin

    @property
    def rose(self) -> bool:
        """Whether it rose by more than the margin."""
        return self.margin is not None and self.low > self.margin


class Grounds(NamedTuple):
    """The four questions at one site, each as a change against the base or against its ceiling."""

    participation: Evidence
    """ln PR, unbiased."""
    entropy: Evidence
    """H₁, the logarithm of the effective rank on variances."""
    basis: Evidence
    """Variance captured in the base's basis, against what the base itself captures on other samples; the same only where
    the rows are like the base's too."""
    information: Evidence
    """Recoverability of the base's principal scores, against that from the base itself; its margin is at most
    :data:`LOST`."""
    drift: Evidence
    """Drift against the base, relative to its variance."""


class Verdict(NamedTuple):
    """A word, and why."""

    word: str
    """``collapsed``, ``reshaped``, ``rotated``, ``preserved`` or ``inconclusive``."""
    why: str
    """What was shown of each of the four."""

    def __str__(self) -> str:
        return f"{self.word}: {self.why}"


def verdict(grounds: Grounds | None, runs: int) -> Verdict:
    """The verdict on an arm at one site.

    *collapsed*: both ranks fell and information with them. *reshaped*: the spectrum moved and information is the same.
    *rotated*: the basis was left, spectrum and information are the same. *preserved*: all four are the same. Anything
    else is *inconclusive*.

    Args:
        grounds: the four questions; None without a base or where they have no number.
        runs: trainings in the arm.
    """
    if runs < LEAST_RUNS:
        return Verdict("inconclusive", f"seeds: {runs} of at least {LEAST_RUNS} runs")
    if grounds is None:
        return Verdict("inconclusive", "no base, or a number that does not exist here")
    spectrum = (grounds.participation, grounds.entropy)
    kept, same = grounds.information.same, all(e.same for e in spectrum)
    why = _why(grounds)
    if all(e.fell for e in spectrum) and grounds.information.fell:
        return Verdict("collapsed", why)
    if any(e.fell or e.rose for e in spectrum) and kept:
        return Verdict("reshaped", why)
    if grounds.basis.fell and same and kept:
        return Verdict("rotated", why)
    if same and kept and grounds.basis.same and grounds.drift.same:
        return Verdict("preserved", why)
    return Verdict("inconclusive", why)


_ASKED: Mapping[str, tuple[str, str, str]] = {
    "participation": ("PR fell", "PR rose", "PR the same"),
    "entropy": ("H1 fell", "H1 rose", "H1 the same"),
    "basis": ("basis left", "basis more captured", "basis the same"),
    "information": ("information lost", "information gained", "information the same"),
    "drift": ("drift below that of retrainings", "drifted", "drift as of retrainings"),
}


def _why(grounds: Grounds) -> str:
    said = []
    for name, evidence in grounds._asdict().items():
        shown = zip((evidence.fell, evidence.rose, evidence.same), _ASKED[name], strict=True)
        said.append(next((words for true, words in shown if true), f"{name} open"))
    return ", ".join(said)
