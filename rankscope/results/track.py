"""What following a training returns: numbers of its checkpoints against the training step."""

from __future__ import annotations

from dataclasses import dataclass

from rankscope.results.record import Estimate, Estimated, Shape, Span, Table


@dataclass(frozen=True)
class StepRecord(Estimated):
    """One measure of one checkpoint at one site."""

    step: int
    """The training step."""
    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the definition or relation."""
    estimate: Estimate
    """The number, of a relation that with the base; its interval holds at all steps together."""
    before: float | None
    """The number of the base; None for a relation."""
    change: Estimate
    """The change from the base with its interval; None for a relation."""
    band: Span
    """The band of the change, or of the relation, over all sites and steps together."""
    shape: Shape
    """The rows."""
    convention: str
    """What was done to the rows before the formula."""
    unit: str
    """The unit of the value."""
    loss: float | None
    """The training loss that was last logged up to this step; None where none was."""
    eval_loss: float | None
    """The same of the loss on held-out data."""
    same_as: int | None
    """The earlier step whose weights are these, byte by byte; None if there is none."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the number, or why there is none."""
    run: str = ""
    """The name of the checkpoint."""
    run_base: str = ""
    """The name of the base."""


@dataclass(frozen=True, repr=False)
class Track(Table[StepRecord]):
    """Numbers along a training: a record per step, site and measure."""

    base: str
    """The name of the base."""
    level: float
    """The confidence of intervals and bands, over all steps together."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the whole: steps with the same weights, and what two runs are not alike in."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps, in order."""
        return tuple(dict.fromkeys(r.step for r in self.records))
