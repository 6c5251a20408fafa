"""One answer of the self-test: what was said, and what is right."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """The value of a measure on a scenario, and the value that is known to be right."""

    scenario: str
    """The name of what was planted."""
    truth: str
    """What is true of it, in words."""
    measure: str
    """The measure, with the variant of the rows if not raw."""
    value: float | None
    """What was measured; None where the comparison was refused."""
    expected: float | None
    """The right value; None where it has to be refused."""
    tolerance: float
    """How far the two may lie apart."""
    said: str = ""
    """The words of the refusal."""

    @property
    def right(self) -> bool:
        """Whether the value lies within the tolerance, or was refused where it had to be."""
        if self.expected is None or self.value is None:
            return self.expected is self.value and bool(self.said)
        return abs(self.value - self.expected) <= self.tolerance
