"""One forward pass: a batch in, the chosen rows of every site out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rankscope.errors import CheckpointError, DataError, RankscopeError, UsageError, is_shortage
from rankscope.features import TEXT, Grid
from rankscope.reading.course import Course
from rankscope.reading.hooks import Tap, reading
from rankscope.reading.pooling import pool
from rankscope.sites import Site

ONE_A_SAMPLE = frozenset({"last", "first", "mean"})
"""The kinds of rows of which every sample has exactly one."""

Places = tuple[Tensor, Tensor, Tensor]
"""Sample, position and role of each row."""


class ModelBatch(NamedTuple):
    """One batch, ready for the model."""

    inputs: dict[str, Any]
    """What the model is called with: ``model(**batch.inputs)``."""
    grids: Mapping[str, Grid]
    """For each stack what its columns are, rows that a prompt adds included. A stack without a grid has the columns that
    its hidden states have."""
    mask: Tensor | None = None
    """``(b, t)``, nonzero at real columns, for hidden states of that shape at a stack without a grid; None if all are real."""
    role: int = TEXT
    """What the columns of a stack without a grid are."""

    def to(self, device: torch.device | str) -> ModelBatch:
        """The same batch with its inputs, all of them tensors, on a device; grids stay where they are."""
        return self._replace(inputs={name: tensor.to(device) for name, tensor in self.inputs.items()})


class Read(NamedTuple):
    """What one batch gave."""

    features: dict[Site, Tensor]
    """``(rows, d)`` of each site, on the CPU."""
    rows: dict[str, Places]
    """For each stack the sample (as its place in the batch), position and role of each row."""


def forward_pass(model: nn.Module, inputs: Mapping[str, Any]) -> object:
    """What a model returns for a batch.

    Raises:
        UsageError: if the memory does not hold the batch.
        CheckpointError: if the model's own code fails, with its reason.
    """
    try:
        return model(**inputs)
    except RankscopeError:
        raise
    except Exception as error:  # a model's code raises what it likes, and its traceback stays below this error
        if is_shortage(error):
            raise UsageError(
                f"{_called(inputs)} does not fit into memory ({_line(error)}); read fewer tokens at once (--tokens-per-batch), fewer "
                "sites, or on another device"
            ) from error
        raise CheckpointError(
            f"the forward pass of {type(getattr(model, 'module', model)).__name__} fails ({type(error).__name__}: {_line(error)}); it was called with "
            f"{_called(inputs)}"
        ) from error


def _called(inputs: Mapping[str, Any]) -> str:
    """What a model was called with: the shapes of the tensors, by name."""
    shapes = (f"{name} {tuple(x.shape)}" for name, x in inputs.items() if isinstance(x, Tensor))
    return ", ".join(shapes) or "a batch of samples"


def _line(error: BaseException) -> str:
    """The start of an error's message in one line."""
    return " ".join(str(error).split())[:300]


def read(
    model: nn.Module,
    taps: Mapping[Site, Tap],
    batch: ModelBatch,
    *,
    kind: str = "last",
    keep_special: bool = False,
    course: Course | None = None,
    stop: bool = False,
) -> Read:
    """One forward pass, and the chosen rows of every site.

    Args:
        model: the tuned model itself; it is called, and must be in evaluation mode.
        taps: where each site is read.
        batch: what it is called with.
        kind: which rows; one of :data:`rankscope.reading.kinds.KINDS`.
        keep_special: whether special tokens count.
        course: takes up the order in which the pass reaches the sites.
        stop: whether the pass ends at the last site, where the course knows it and nothing forbids it.

    Raises:
        CheckpointError: if a site did not run, or its hidden states do not have the columns that were expected.
    """
    if model.training:
        raise CheckpointError(
            "the model is in training mode, in which dropout changes every feature; call model.eval()"
        )
    grids = dict(batch.grids)
    devices = set[torch.device]()
    poolings = {stack: pool(grid, kind, keep_special=keep_special) for stack, grid in grids.items()}

    def keep(site: Site, hidden: Tensor) -> Tensor:
        if site.stack not in grids:
            grids[site.stack] = _unnamed(hidden, batch)
            poolings[site.stack] = pool(grids[site.stack], kind, keep_special=keep_special)
        devices.add(hidden.device)
        # On a GPU the copy into pinned memory overlaps the blocks that follow.
        return poolings[site.stack](_columns(hidden, grids[site.stack], site)).to("cpu", non_blocking=True)

    with torch.inference_mode(), reading(taps, keep, course=course, stop=stop) as features:
        forward_pass(model, batch.inputs)
    for device in devices - {torch.device("cpu")}:
        torch.accelerator.synchronize(device)
    silent = [str(site) for site in taps if site not in features]
    if silent:
        raise CheckpointError(f"the forward pass never reached {', '.join(silent)}; leave these sites out")
    return Read(features, {s: (p.sample, p.position, p.role) for s, p in poolings.items()})


@contextmanager
def misfits(taps: Mapping[Site, Tap], batch: ModelBatch, widths: Mapping[str, int | None]) -> Iterator[dict[Site, str]]:
    """Fill a dictionary with the sites that, in the forward pass inside the block, lack the columns or width of a batch.

    Some models add columns of their own, keep several streams of each token, or pad inside. Each site comes with the reason.

    Args:
        taps: where each site is read.
        batch: what the model is called with.
        widths: the width of each stack; None where it is not known.
    """
    reasons: dict[Site, str] = {}

    def keep(site: Site, hidden: Tensor) -> Tensor:
        grid, width = batch.grids.get(site.stack), widths.get(site.stack)
        try:
            if grid is not None:
                _columns(hidden, grid, site)
        except CheckpointError as error:
            reasons[site] = str(error)
        if width not in (None, hidden.shape[-1]):
            reasons.setdefault(site, f"the hidden states at {site} are {hidden.shape[-1]} wide; {width} were expected")
        return hidden.new_empty(0)

    with reading(taps, keep, again=set()):
        yield reasons


def _unnamed(hidden: Tensor, batch: ModelBatch) -> Grid:
    """The grid of a stack of which only its hidden states are known."""
    columns = hidden.shape[:-1].numel() // len(hidden) if len(hidden) else 1
    real, mask = torch.ones(len(hidden), columns, dtype=torch.bool), batch.mask
    if mask is not None and hidden.ndim > 2 and mask.shape == real.shape:
        real = mask.cpu() != 0
    return Grid(torch.full(real.shape, batch.role, dtype=torch.uint8), real)


def _columns(hidden: Tensor, grid: Grid, site: Site) -> Tensor:
    """Hidden states as ``(b, t, d)``: as they are, or unpacked from ``(b·t, d)``, or from the real columns alone."""
    b, t = grid.real.shape
    if hidden.ndim > 3:  # (b, h, w, d): the cells of a grid are columns
        hidden = hidden.flatten(1, -2)
    if hidden.ndim == 2 and len(hidden) == b * t:
        hidden = hidden.unflatten(0, (b, t))
    # Towers that take all patches in one list, or an image as several tiles, return the real columns of all samples in a row:
    # each goes back to its place.
    if hidden.shape[:-1] != (b, t) and hidden.shape[:-1].numel() == int(grid.real.sum()):
        rows = hidden.reshape(-1, hidden.shape[-1])
        hidden = rows.new_zeros(b, t, rows.shape[-1]).masked_scatter(grid.real[..., None].to(hidden.device), rows)
    if hidden.shape[:2] != (b, t) or hidden.ndim != 3:
        raise CheckpointError(
            f"the hidden states at {site} have shape {tuple(hidden.shape)}; {b} samples of {t} columns were expected"
        )
    return hidden


def check_rows(read: Read, samples: Sequence[int], ids: Sequence[str], *, kind: str, stacks: Iterable[str]) -> None:
    """Refuse a batch in which a sample has no row where each must have one.

    Raises:
        DataError: naming the sample and the stack.
    """
    if kind not in ONE_A_SAMPLE:
        return
    for stack in stacks:
        without = set(range(len(samples))) - set(read.rows[stack][0].tolist())
        if without:
            raise DataError(
                f"sample {ids[samples[min(without)]]!r} has no real token at {stack} ({len(without)} such samples in its "
                f"batch), so no {kind!r} row; count special tokens (keep_special), or leave it out"
            )


def batches_by_length(
    lengths: Sequence[int], budget: int, *, cost: float = math.inf
) -> list[tuple[tuple[int, ...], int]]:
    """Samples of like length together, longest first, each batch within a budget of tokens with padding counted.

    Args:
        lengths: tokens of each sample.
        budget: the most tokens in a batch; a longer sample is a batch by itself.
        cost: the tokens that a batch of its own costs; where the samples that are left would be padded by more, one begins.

    Returns:
        Samples (as their places in ``lengths``) and the padded length of each batch; a function of the arguments alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[tuple[tuple[int, ...], int]] = []
    while order:
        longest = max(1, lengths[order[0]])
        take = max(1, budget // longest)
        fitting = min(take, len(order))
        # Samples from place k on are padded to the longest here, and in a batch of their own at most to the first of them
        wasted = (k for k in range(1, fitting) if (longest - lengths[order[k]]) * (fitting - k) > cost)
        take = next(wasted, take)
        batches.append((tuple(order[:take]), longest))
        order = order[take:]
    return batches
