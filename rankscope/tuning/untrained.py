"""What a prefix does to a model before it is trained: by the shift of positions alone, and by being there.

A prefix in a cache moves the text along by its length. A model that never saw its tokens at those positions breaks by that
shift alone, and what then looks like forgetting, or like a collapse of the features, is not the work of tuning. So the loss
and the last features are observed three times before a prefix is trained: without it; with its rows in place but hidden,
which shifts positions and does nothing else; and with its rows seen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor, nn

from rankscope.checkpoint import Checkpoint
from rankscope.data.open import open_data
from rankscope.errors import public
from rankscope.models.embedded import check_embedded
from rankscope.models.inputs.reader import reader as open_reader
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
from rankscope.reading.hooks import reading
from rankscope.sites import Site
from rankscope.tuning.batches import PairEncoder, TrainingPair, predicts_next, settle_task, training_pairs
from rankscope.tuning.held_out import labelled_batches, summed_loss
from rankscope.tuning.planning import attach_stage, reader_of, training_data
from rankscope.tuning.record import Plan

SAMPLES = 16
"""The number of training samples on which a model is observed."""
MOST = 0.5
"""The share of the untrained prefix's effect above which the shift alone explains most of it."""
LOSS, FEATURES = 0.1, 0.5
"""The smallest effects of a shift that deserve a warning: nats by which the loss rises, and the share of their spread by which
features move."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Untrained:
    """The effect of a prefix before it is trained, on a few samples."""

    site: Site
    """Where features were read: the last site of the stack that has the prefix."""
    samples: int
    """The number of samples."""
    rows: int
    """The length of the prefix."""
    shifts: tuple[str, ...]
    """The stacks whose positions it shifts; in the others it is joined to each attention, which shifts nothing."""
    loss: float
    """The loss without the prefix, nats."""
    loss_shifted: float
    """The loss with positions shifted by the prefix's length and no prefix, nats."""
    loss_prefix: float
    """The loss with the prefix, nats."""
    moved_shifted: float
    """How far the shift alone moves the features, as a share of their spread (:meth:`Observation.distance_to`)."""
    moved_prefix: float
    """How far the prefix moves the features, as a share of their spread."""

    @property
    def warning(self) -> str | None:
        """A sentence of warning if the shift alone explains most of the effect; None if it does not."""
        by_shift, by_prefix = self.loss_shifted - self.loss, self.loss_prefix - self.loss
        in_loss = by_shift > LOSS and by_shift > MOST * by_prefix
        in_features = self.moved_shifted > FEATURES and self.moved_shifted > MOST * self.moved_prefix
        if not (in_loss or in_features):
            return None
        return (
            f"positions shifted by {self.rows}, with no prefix at all, take the loss from {self.loss:.3g} to "
            f"{self.loss_shifted:.3g} nats and move {self.site} by {self.moved_shifted:.2g} of its spread (the untrained prefix: "
            f"{self.loss_prefix:.3g} and {self.moved_prefix:.2g}): most of what a prefix does to this model before it is trained "
            "comes from the shift, to positions at which the model fails"
        )

    @property
    def sentence(self) -> str:
        """The effect in a sentence: the warning, if there is one."""
        if self.warning:
            return self.warning
        effect = (
            f"a prefix of {self.rows} rows, untrained, takes the loss from {self.loss:.3g} to {self.loss_prefix:.3g} nats and "
            f"moves {self.site} by {self.moved_prefix:.2g} of its spread"
        )
        if not self.shifts:
            return f"{effect}; joined inside the attention, it shifts no positions"
        return f"{effect}; the shift of positions alone: {self.loss_shifted:.3g} nats, {self.moved_shifted:.2g}"

    def to_record(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return {**vars(self), "site": str(self.site), "shifts": list(self.shifts), "warning": self.warning}


class Observation(NamedTuple):
    """A model observed once."""

    loss: float
    """Mean cross-entropy, nats per token or label."""
    features: Tensor
    """``(n, d)`` rows at the last site."""

    def distance_to(self, other: Observation) -> float:
        """``‖X′ − X‖ / ‖X − x̄‖`` in Frobenius norms: 1 if rows moved as far as they lie from their mean; 0 without spread."""
        spread = (self.features - self.features.mean(0)).norm()
        return float((other.features - self.features).norm() / spread) if spread > 0 else 0.0


class Observer:
    """Observes the loss and the features of a model on the same few samples, one at a time, which need no padding.

    Args:
        model: the model, for its device and its sites.
        encode: makes the samples into what the model takes.
        pairs: the samples.
        stack: the stack at whose last site features are read.
    """

    def __init__(self, model: nn.Module, encode: PairEncoder, pairs: Sequence[TrainingPair], stack: str) -> None:
        self.batches = list(labelled_batches(encode, pairs, batch_size=1, device=next(model.parameters()).device))
        self.next_token = predicts_next(encode.reader, encode.task)
        self.site = stacks(model)[stack].sites[-1]

    def observe(self, model: nn.Module) -> Observation:
        """The loss and the features of a model as it is now, in evaluation mode."""
        tap = stacks(model)[self.site.stack].taps[self.site]
        was_training, total, count, rows = model.training, 0.0, 0, []
        model.eval()
        for inputs in self.batches:
            with reading({self.site: tap}, lambda _, hidden: hidden.detach().flatten(0, -2).double().cpu()) as features:
                loss, labels = summed_loss(model, inputs, next_token=self.next_token)
            total, count = total + loss, count + labels
            rows.append(features[self.site])
        model.train(was_training)
        return Observation(total / count, torch.cat(rows))

    def compare(self, model: nn.Module, prefix: Prefix, before: Observation) -> Untrained:
        """The effect of a prefix that is attached and not trained, given what was observed before it was attached."""
        with rows_hidden(prefix):
            shifted = self.observe(model)
        whole, there = self.observe(model), stacks(model)
        return Untrained(
            site=self.site,
            samples=len(self.batches),
            rows=prefix.rows,
            shifts=tuple(n for n in prefix.shapes if cached_owner(unwrapped(model), there, n) is not None),
            loss=before.loss,
            loss_shifted=shifted.loss,
            loss_prefix=whole.loss,
            moved_shifted=before.distance_to(shifted),
            moved_prefix=before.distance_to(whole),
        )


def attach_and_try(model: nn.Module, plan: Plan, place: int) -> Untrained | None:
    """Attach what a stage attaches; if that includes a prefix, observe its effect and log the warning if there is one.

    Args:
        model: the model before the stage.
        plan: the plan of the training.
        place: the number of the stage.

    Returns:
        The effect of the prefix before it is trained, or None if the stage attaches none.
    """
    if "prefix" not in plan.recipe.stages[place].attach:
        attach_stage(model, plan, place)
        return None
    data = training_data(reader_of(model, plan), plan)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(plan.seed)).tolist()[:SAMPLES]
    stack = (plan.recipe.options["prefix"].stacks or language_stacks(model))[-1]
    observer = Observer(model, data.encode, [data.pairs[i] for i in order], stack)
    before = observer.observe(model)
    attach_stage(model, plan, place)
    prefix = prefix_of(model)
    assert prefix is not None
    untrained = observer.compare(model, prefix, before)
    if untrained.warning and PartialState().is_main_process:
        log.warning(untrained.warning)
    return untrained


@public
def untrained_prefix(checkpoint: str | Path | Checkpoint, data: Any = None) -> Untrained | None:
    """The effect that a prefix like that of a checkpoint has before it is trained.

    The prefix has the length of the trained one and is in its stacks, and its rows are random.

    Args:
        checkpoint: a checkpoint with a prefix.
        data: the samples, as :func:`rankscope.open_data` takes them; by default, for the embedded model only,
            captions of the embedded scenes.

    Returns:
        The effect, or None for a checkpoint without a prefix.

    Raises:
        WrongCall: for an option that does not exist.
        DataError, UsageError: if the data lack what the model reads or says.
    """
    opened = Checkpoint.read(checkpoint)
    if not any(tuning.kind == "prefix_tuning" for tuning in opened.tunings):
        return None
    model = load_model(opened)
    base = unwrapped(model)
    trained = detach_prefix(base)
    if trained is None:
        return None
    if data is None:
        check_embedded(opened, instead="give data on which the prefix is tried")
    probes = open_data(data if data is not None else "scenes:captions/test")
    reader = open_reader(model, opened)
    task = settle_task(None, model, probes, reader)
    in_stacks = list(trained.shapes)
    pairs = training_pairs(probes, task)[:SAMPLES]
    observer = Observer(model, PairEncoder(reader, task), pairs, in_stacks[-1])
    before = observer.observe(model)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        prefix = new_prefix(base, rows=trained.rows, stacks_in=in_stacks)
    return observer.compare(model, attach_prefix(base, prefix).eval(), before)
