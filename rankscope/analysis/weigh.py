"""A checkpoint's weights: the spectrum of every change, its intruder dimensions beside those of noise, and power-law tails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.on_data import OnData, decomposed, on_data
from rankscope.checkpoint import Checkpoint
from rankscope.collecting.loading import Loading
from rankscope.devices import where
from rankscope.errors import DataError, NotComparable, UnknownName, UsageError, public
from rankscope.measures.effective_rank import effective_rank
from rankscope.measures.numerical_rank import numerical_rank
from rankscope.measures.stable_rank import stable_rank
from rankscope.models.tunings.changed import Change, Learnt, Said, Unweighed, weight_changes
from rankscope.progress import Progress, silent
from rankscope.results.record import number
from rankscope.results.weights import IntruderCount, Moved, Ranks, Size, TailFit, WeightRecord, WeightReport
from rankscope.weights.bf16_moved import bf16_moved
from rankscope.weights.decomposed import Decomposed, decompose, with_noise
from rankscope.weights.intruders import LEADING, THRESHOLD, intruders_between
from rankscope.weights.rotation import rotation
from rankscope.weights.spectral_shift import spectral_shift
from rankscope.weights.weight_alpha import weight_alpha

DRAWS = 4
"""Draws of noise beside each count of intruders."""


@public
def weigh(
    checkpoint: str | Path | Sequence[str | Path] | Checkpoint,
    *,
    base_model: str | Path | None = None,
    modules: str = "*",
    k: int = LEADING,
    threshold: float = THRESHOLD,
    draws: int = DRAWS,
    data: Any = None,
    n: int | None = None,
    processor: str | Path | None = None,
    chat: bool = False,
    max_length: int | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> WeightReport:
    """What tuning did to a checkpoint's weights, and what its prefix or prompt learnt.

    A matrix that a LoRA changed is described by its factors, exactly. Intruders are counted in the tuned weights, beside
    what full-rank noise of the size of the change makes. Without tunings there is only the tail of each matrix. With data,
    the base reads them, and the inputs of each linear layer that changed say what the change does to the outputs.

    Numbers of weights have no interval, because nothing is sampled; those on data have one over samples.

    Args:
        checkpoint: a folder, or a list of folders: the base and its adapters in order.
        base_model: the base, instead of the one that the adapter names.
        modules: a pattern for the modules' names, as ``*.q_proj``, or several separated by commas; by default all.
        k: number of leading singular vectors in which intruders are looked for; 10 by default.
        threshold: a vector is an intruder if its cosine with every pre-trained one stays below this; 0.5 by default.
        draws: draws of noise beside each count, and of random orientation on data, 4 by default and 0 for none. Each decomposes a
            whole matrix.
        data: the probe set on which changes are told, as :func:`rankscope.open_data` takes it; None for none.
        n: the number of samples of the data, from the first; all of them by default.
        processor: the folder of the tokenizer or processor; by default the base's own.
        chat: whether texts go through the chat template.
        max_length: the tokens, special ones included, to which longer texts are cut.
        trust_remote_code: run the Python files that come with the checkpoint.
        device: the torch device; by default the GPU where there is one.
        progress: called with the modules done, their number and the module at hand.

    Raises:
        CheckpointError: if it cannot be loaded, or a tuning does not land.
        NotComparable: if its tunings change no weight and learn no rows.
        UnknownName: if no module has such a name.
        UsageError: if ``modules`` is no string, or it is said how data are read and there are none.
        DataError: if there are fewer than n samples, or they do not fit the base.
        NonFinite: if an input of a module is NaN or infinite.
    """
    loading = Loading(
        device=device, trust_remote_code=trust_remote_code, processor=processor, chat=chat, max_length=max_length
    )
    if data is None:
        loading.refuse("says how data are read, and none were given", only=("processor", "chat", "max_length"))
        if n is not None:
            raise UsageError(f"n counts samples of data, and none were given; got n = {n}")
    if not isinstance(modules, str):
        raise UsageError(f"modules is a pattern, or several in one string, as '*.q_proj,*.v_proj'; got {modules!r}")
    found = Checkpoint.read(checkpoint, base_model=base_model)
    items = list(weight_changes(found, trust_remote_code=trust_remote_code))
    said = tuple(item.text for item in items if isinstance(item, Said))
    unweighed = tuple(item for item in items if isinstance(item, Unweighed))
    chosen = _chosen(found, [item for item in items if isinstance(item, Change | Learnt)], modules, unweighed)
    told, convention, more = _on_data(found, chosen, data, n=n, draws=draws, loading=loading, progress=progress)
    records: list[WeightRecord] = []
    spectra: dict[str, Tensor] = {}
    for done, item in enumerate(chosen):
        progress(done, len(chosen), item.name)
        if isinstance(item, Learnt):
            record, values = _rows_learnt(item, where(device))
        else:
            record, values = _matrix(item, where(device), k=k, threshold=threshold, draws=draws)
            record = _with_data(record, told.get(done), convention)
        records.append(replace(record, checkpoint=found.name))
        # A full tuning and an adapter may have changed one matrix, one after the other.
        spectra[item.name if item.name not in spectra else f"{item.name} (adapter)"] = values.cpu()
    progress(len(chosen), len(chosen), "done")
    return WeightReport(tuple(records), spectra, found.name, (*said, *_notes(chosen), *_told(unweighed), *more))


def _on_data(
    found: Checkpoint,
    items: Sequence[Change | Learnt],
    data: Any,
    *,
    n: int | None,
    draws: int,
    loading: Loading,
    progress: Progress,
) -> tuple[dict[int, OnData], str, tuple[str, ...]]:
    """By place, what each change does to the inputs of its module; what was read; and notes. Nothing without data."""
    changes = {i: item for i, item in enumerate(items) if isinstance(item, Change) and item.kind}
    if data is None:
        return {}, "", ()
    if not changes:
        return {}, "", ("the data were not read: no weight changed, so that there is nothing to tell on them",)
    told = on_data(
        Checkpoint.read(found.base), list(changes.values()), data, n=n, draws=draws, loading=loading, progress=progress
    )
    by_place = {i: told.found[place] for place, i in enumerate(changes)}
    unread = [Unweighed(changes[i].name, one.why) for i, one in by_place.items() if one.why]
    return by_place, told.convention, (*told.notes, *_told(unread, "not read on data"))


def _with_data(record: WeightRecord, told: OnData | None, convention: str) -> WeightRecord:
    if told is None or told.why:
        return record
    return replace(
        record,
        on_data_effective=told.effective,
        on_data_participation=told.participation,
        on_data_share=told.share,
        random=told.random,
        convention=f"{record.convention}; {convention}",
        notes=(*record.notes, *told.notes),
    )


def _chosen(
    found: Checkpoint, items: Sequence[Change | Learnt], modules: str, unweighed: Sequence[Unweighed] = ()
) -> list[Change | Learnt]:
    """Those whose names fit a pattern."""
    if not items:
        kinds = ", ".join(t.kind for t in found.tunings)
        raise NotComparable(
            f"{found.path} changes no weight matrix and learns no rows before the text: it is {kinds}{_named(unweighed)}"
        )
    patterns = [pattern.strip() for pattern in modules.split(",")]
    chosen = [item for item in items if any(fnmatchcase(item.name, pattern) for pattern in patterns)]
    if not chosen:
        names = [item.name for item in items]
        raise UnknownName(
            f"no module is called {modules!r}; there are {', '.join(names[:8])}{', …' * (len(names) > 8)}"
        )
    return chosen


def _notes(items: Sequence[Change | Learnt]) -> tuple[str, ...]:
    if all(isinstance(item, Learnt) for item in items):
        return (
            "the weights are the base's and have no intruder dimensions by construction, which is no evidence either way",
        )
    return ()


def _told(unweighed: Sequence[Unweighed], what: str = "not weighed") -> tuple[str, ...]:
    """One line for each reason for which something is not weighed, with what it is."""
    names: dict[str, list[str]] = {}
    for item in unweighed:
        names.setdefault(item.why, []).append(item.name)
    return tuple(
        f"{what}: {', '.join(of[:4])}{f' and {len(of) - 4} more' if len(of) > 4 else ''} ({why})"
        for why, of in names.items()
    )


def _named(unweighed: Sequence[Unweighed]) -> str:
    return "".join(f"; {text}" for text in _told(unweighed))


def _rows_learnt(item: Learnt, device: torch.device) -> tuple[WeightRecord, Tensor]:
    values = torch.linalg.svdvals(item.rows.to(device, torch.float64))
    # Rows were learnt in their dtype, whose rounding of the largest value is the limit, as in LAPACK: σ₁ max(m, n) ε.
    limit = float(values[0]) * max(item.rows.shape) * torch.finfo(item.rows.dtype).eps
    return _record(item, item.rows, _ranks(values, limit), "ranks of the rows"), values


def _matrix(item: Change, device: torch.device, *, k: int, threshold: float, draws: int) -> tuple[WeightRecord, Tensor]:
    w0 = item.before.to(device, torch.float64)
    before = decompose(w0)
    tail, notes = _tail(before.values)
    if item.after is None and item.factors is None:
        record = _record(item, item.before, _ranks(before.values), "ranks of the weights")
        return replace(record, tail=tail, notes=notes), before.values
    update, w1 = _tuned(item, w0)
    after = decompose(w1)
    changed, whole = (float(values.square().sum().sqrt()) for values in (update.values, before.values))  # |·|_F
    beside = partial(_beside, w0, before, k=k, threshold=threshold)
    generator = torch.Generator().manual_seed(0)
    noisy = [beside(w, decompose(w)) for w in with_noise(w0, changed, draws=draws, generator=generator)]
    intruder, moved = _of_noise(beside(w1, after), noisy)
    tail_before, (tail, notes) = tail, _tail(after.values)
    record = _record(
        item,
        item.before,
        _ranks(update.values),
        "ranks of the change",
        f"intruders: k={k}, cosine<{threshold:g}, draws of noise: {draws}",
    )
    relative = Size(float(update.values[0] / before.values[0]), changed / whole) if whole else Size()
    tail = replace(tail, alpha_before=tail_before.alpha)
    if moved.edge == 0:
        notes = (
            *notes,
            "the last of the leading singular values equals the next, so that they have no subspace that could turn",
        )
    return replace(record, relative=relative, intruder=intruder, moved=moved, tail=tail, notes=notes), update.values


def _record(item: Change | Learnt, weights: Tensor, ranks: Ranks, *conventions: str) -> WeightRecord:
    m, n = weights.shape
    dtype = str(weights.dtype).removeprefix("torch.")
    convention = "; ".join(["not centred", *conventions, "float64"])
    return WeightRecord(item.name, item.kind, m, n, ranks, dtype=dtype, convention=convention)


def _ranks(values: Tensor, limit: float | None = None) -> Ranks:
    found = (numerical_rank(values, threshold=limit), effective_rank(values), stable_rank(values))
    return Ranks(*(number(rank) for rank in found))


def _tuned(item: Change, w0: Tensor) -> tuple[Decomposed, Tensor]:
    """The decomposition of the change, and the tuned weights."""
    if item.factors is not None:
        b, a = (part.to(w0) for part in item.factors)
        return decomposed(item, w0), w0 + b @ a
    assert item.after is not None
    return decomposed(item, w0), item.after.to(w0)


class _Beside(NamedTuple):
    """The numbers of tuned weights beside the pre-trained ones, or of noisy ones in their place; None for what has no value."""

    intruders: float | None = None
    shift: float | None = None
    left: float | None = None
    right: float | None = None
    bf16: float | None = None
    gap: float | None = None
    edge: float | None = None


def _beside(w0: Tensor, before: Decomposed, w1: Tensor, after: Decomposed, *, k: int, threshold: float) -> _Beside:
    found, turned = intruders_between(before, after, k=k, threshold=threshold), rotation(before, after, k=k)
    shift, gap = spectral_shift(before.values, after.values), found.gap.median()
    return _Beside(*map(number, (found.count, shift, turned.left, turned.right, bf16_moved(w0, w1), gap, turned.edge)))


def _of_noise(own: _Beside, noisy: Sequence[_Beside]) -> tuple[IntruderCount, Moved]:
    """The numbers of the tuned weights, with the mean of each over noise, and the most intruders that one draw made."""
    mean = _Beside(*map(_mean, zip(*noisy, strict=True)))
    most = max((float(one.intruders or 0) for one in noisy), default=None)
    moved = Moved(own.shift, mean.shift, own.left, mean.left, own.right, mean.right, own.edge, own.bf16, mean.bf16)
    return IntruderCount(own.intruders, mean.intruders, most, own.gap), moved


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, where each has a value."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if len(there) == len(values) else None


def _tail(values: Tensor) -> tuple[TailFit, tuple[str, ...]]:
    """The tail, or a note on why there is none."""
    try:
        tail = weight_alpha(values)
    except DataError as error:
        return TailFit(), (str(error),)
    return TailFit(number(tail.alpha), number(tail.error), tail=float(tail.members)), ()
