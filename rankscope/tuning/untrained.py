"""What a prefix does to a model before it is trained: by the shift of positions alone, and by being there.

A prefix in a cache moves the text along by its length. A model that never saw its tokens at those positions breaks by that
shift alone, and what is then called forgetting, or a collapse, is not the work of tuning. So the loss and the last features
are looked at three times before a prefix is trained: without it, with its rows in place and hidden, and with its rows seen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor, nn

from rankscope.checkpoint import Checkpoint
from rankscope.data.open import open_data
from rankscope.models.inputs.reader import Reader, reader
from rankscope.models.load import load_model
from rankscope.models.stacks import stacks, unwrapped
from rankscope.models.tunings.prefix import Prefix, rows_hidden
from rankscope.models.tunings.prefix_live import (
    attach_prefix,
    cached_owner,
    detach_prefix,
    language_stacks,
    new_prefix,
    prefix_of,
)
from rankscope.reading.hooks import reading as tapped
from rankscope.sites import Site
from rankscope.tuning.batches import Encoder, Sample, samples, settle_task
from rankscope.tuning.held_out import batches, says_next, summed_loss
from rankscope.tuning.planning import reading_of, training_data
from rankscope.tuning.record import Plan

SAMPLES = 16
"""How many training samples are looked at."""
MOST = 0.5
"""The share of what the untrained prefix does above which the shift alone explains most of it."""
LOSS, FEATURES = 0.1, 0.5
"""What a shift must do to be spoken of: raise the loss by this many nats, or move the features by this share of their spread."""
log = logging.getLogger(__name__)


class Look(NamedTuple):
    """A model looked at once."""

    loss: float
    """Mean cross-entropy, nats a token or label."""
    features: Tensor
    """``(n, d)`` rows at the last site."""

    def moved(self, other: Look) -> float:
        """``‖X′ − X‖ / ‖X − x̄‖`` of another look, Frobenius norms: 1 where rows moved as far as they lie from their mean."""
        spread = (self.features - self.features.mean(0)).norm()
        return float((other.features - self.features).norm() / spread) if spread > 0 else 0.0


@dataclass(frozen=True)
class Untrained:
    """A prefix before it is trained, on a few samples."""

    site: Site
    """Where features were read: the last site of the stack that the prefix is in."""
    samples: int
    """How many samples."""
    rows: int
    """The length of the prefix."""
    shifts: tuple[str, ...]
    """The stacks whose positions it shifts; the others that have a prefix get it joined inside each attention."""
    loss: float
    """The loss without the prefix, nats."""
    loss_shifted: float
    """With the positions shifted by its length, and nothing else."""
    loss_prefix: float
    """With the prefix."""
    moved_shifted: float
    """How far the shift alone moves the features, as a share of their spread."""
    moved_prefix: float
    """How far the prefix moves them."""

    @property
    def warning(self) -> str | None:
        """One sentence where the shift alone explains most of what the untrained prefix does."""
        shift, whole = self.loss_shifted - self.loss, self.loss_prefix - self.loss
        by_loss = shift > LOSS and shift > MOST * whole
        by_features = self.moved_shifted > FEATURES and self.moved_shifted > MOST * self.moved_prefix
        if not (by_loss or by_features):
            return None
        return (
            f"positions shifted by {self.rows}, with no prefix at all, take the loss from {self.loss:.3g} to "
            f"{self.loss_shifted:.3g} nats and move {self.site} by {self.moved_shifted:.2g} of its spread (the untrained prefix: "
            f"{self.loss_prefix:.3g} and {self.moved_prefix:.2g}): most of what a prefix does to this model before it is trained "
            "is the shift, to positions that it does not bear"
        )

    @property
    def sentence(self) -> str:
        """What was found, with or without a warning."""
        if self.warning:
            return self.warning
        what = f"a prefix of {self.rows} rows, untrained, takes the loss from {self.loss:.3g} to {self.loss_prefix:.3g} nats"
        where = f"moves {self.site} by {self.moved_prefix:.2g} of its spread"
        if not self.shifts:
            return f"{what} and {where}; joined inside the attention, it shifts no positions"
        return (
            f"{what} and {where}; the shift of positions alone: {self.loss_shifted:.3g} nats, {self.moved_shifted:.2g}"
        )

    def to_record(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return {**vars(self), "site": str(self.site), "shifts": list(self.shifts), "warning": self.warning}


@dataclass(frozen=True)
class Few:
    """A few samples, and how a model is looked at on them."""

    batches: Sequence[Mapping[str, Tensor]]
    """Inputs with labels, one sample each, which need no padding."""
    next_token: bool
    """Whether logits say the token after each (:func:`~rankscope.tuning.held_out.says_next`)."""
    site: Site
    """Where features are read."""

    @classmethod
    def of(cls, model: nn.Module, reading: Reader, encode: Encoder, pairs: Sequence[Sample], stack: str) -> Few:
        """Samples as a model reads them, looked at where a stack ends."""
        made = batches(reading, encode, pairs, batch_size=1, device=next(model.parameters()).device)
        return cls(list(made), says_next(reading, encode.task), stacks(model)[stack].sites[-1])

    def look(self, model: nn.Module) -> Look:
        """The loss and the features of a model as it is now, in evaluation mode."""
        tap = stacks(model)[self.site.stack].taps[self.site]
        was, total, count, rows = model.training, 0.0, 0, []
        model.eval()
        for inputs in self.batches:
            with tapped({self.site: tap}, lambda _, hidden: hidden.detach().flatten(0, -2).double().cpu()) as seen:
                part = summed_loss(model, inputs, next_token=self.next_token)
            total, count = total + part[0], count + part[1]
            rows.append(seen[self.site])
        model.train(was)
        return Look(total / count, torch.cat(rows))

    def untrained(self, model: nn.Module, prefix: Prefix, before: Look) -> Untrained:
        """What a prefix that is attached and not trained does, given what the model was before."""
        with rows_hidden(prefix):
            shifted = self.look(model)
        whole, there = self.look(model), stacks(model)
        return Untrained(
            site=self.site,
            samples=len(self.batches),
            rows=prefix.rows,
            shifts=tuple(n for n in prefix.shapes if cached_owner(unwrapped(model), there, n) is not None),
            loss=before.loss,
            loss_shifted=shifted.loss,
            loss_prefix=whole.loss,
            moved_shifted=before.moved(shifted),
            moved_prefix=before.moved(whole),
        )


@contextmanager
def watched(model: nn.Module, plan: Plan, kinds: Sequence[str]) -> Iterator[list[Untrained]]:
    """Look at a model before and after a prefix is attached inside the block; what was found is logged where it warns.

    Args:
        model: the model, before the prefix.
        plan: what is to be made of it.
        kinds: what the block attaches.

    Yields:
        A list that holds the finding after the block; it stays empty where the block attaches no prefix.
    """
    found: list[Untrained] = []
    if "prefix" not in kinds:
        yield found
        return
    reading = reading_of(model, plan)
    data = training_data(reading, plan)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(plan.seed)).tolist()[:SAMPLES]
    stack = (plan.recipe.prefix.stacks or language_stacks(model))[-1]
    few = Few.of(model, reading, data.encode, [data.samples[i] for i in order], stack)
    before = few.look(model)
    yield found
    prefix = prefix_of(model)
    assert prefix is not None
    found.append(few.untrained(model, prefix, before))
    if found[0].warning and PartialState().is_main_process:
        log.warning(found[0].warning)


def untrained_prefix(checkpoint: str | Path | Checkpoint, data: Any = None) -> Untrained | None:
    """What a prefix like that of a checkpoint does before it is trained: one of its length, in its stacks, started at random.

    Args:
        checkpoint: a checkpoint with a prefix.
        data: what :func:`~rankscope.data.open.open_data` takes; captions of the embedded scenes unless given.

    Returns:
        The finding, or None for a checkpoint without a prefix.

    Raises:
        DataError, UsageError: if the data lacks what the model reads or says.
    """
    found = Checkpoint.read(checkpoint)
    if not any(tuning.kind == "prefix_tuning" for tuning in found.tunings):
        return None
    model = load_model(found)
    trained = detach_prefix(unwrapped(model))
    if trained is None:
        return None
    reading, probes = reader(model, found), open_data(data if data is not None else "scenes:captions/test")
    task = settle_task(None, model, probes, reading)
    few = Few.of(model, reading, Encoder(reading, task), samples(probes, task)[:SAMPLES], list(trained.shapes)[-1])
    before = few.look(model)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        prefix = new_prefix(unwrapped(model), rows=trained.rows, stacks_in=list(trained.shapes))
    return few.untrained(model, attach_prefix(unwrapped(model), prefix).eval(), before)
