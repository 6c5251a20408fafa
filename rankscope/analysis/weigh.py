"""A checkpoint's weights: the spectrum of every change, its intruder dimensions beside those of noise, and power-law tails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankscope.checkpoint import Checkpoint
from rankscope.devices import where
from rankscope.errors import DataError, NotComparable, UnknownName
from rankscope.measures.effective_rank import effective_rank
from rankscope.measures.numerical_rank import numerical_rank
from rankscope.measures.stable_rank import stable_rank
from rankscope.models.tunings.changed import Change, Learnt, weight_changes
from rankscope.progress import Progress, silent
from rankscope.results.record import NOTHING
from rankscope.results.weights import Weighed, WeightReport
from rankscope.weights.intruders import LEADING, THRESHOLD, Left, intruder_null, intruders_between, left_vectors
from rankscope.weights.prefixes import prefix_spectrum
from rankscope.weights.updates import Update, full_update, low_rank_update
from rankscope.weights.weight_alpha import weight_alpha

DRAWS = 4
"""Noises beside each count of intruders."""


def weigh(
    checkpoint: str | Path | Sequence[str | Path] | Checkpoint,
    *,
    base_model: str | Path | None = None,
    modules: str = "*",
    k: int = LEADING,
    threshold: float = THRESHOLD,
    draws: int = DRAWS,
    trust_remote_code: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> WeightReport:
    """What tuning did to a checkpoint's weights, and what its prefix or prompt learnt.

    A matrix that a LoRA changed is told by its factors, exactly. Intruders are counted in the tuned weights, and beside
    them stands what full-rank noise of the size of the change makes. Without tunings there is only the tail of each matrix.

    Args:
        checkpoint: a folder, or the base and its adapters in order.
        base_model: the base, in place of the one that the adapter names.
        modules: a pattern for the modules' names, as ``*.q_proj``; several by comma.
        k: leading singular vectors in which intruders are looked for.
        threshold: a vector is an intruder if its cosine with every pre-trained one stays below this.
        draws: noises beside each count; 0 for none. Each costs a decomposition of a whole matrix.
        trust_remote_code: run the Python files that the checkpoint brings along.
        device: where to compute; the GPU where there is one.
        progress: told of each module.

    Raises:
        CheckpointError: if it cannot be loaded, or a tuning does not land.
        NotComparable: if its tunings change no weight and learn no rows.
        UnknownName: if no module is of that name.
    """
    found = Checkpoint.read(checkpoint, base_model=base_model)
    chosen = _chosen(found, list(weight_changes(found, trust_remote_code=trust_remote_code)), modules)
    records: list[Weighed] = []
    spectra: dict[str, Tensor] = {}
    for done, item in enumerate(chosen):
        progress(done, len(chosen), item.name)
        if isinstance(item, Learnt):
            record, values = _learnt(item, where(device))
        else:
            record, values = _weighed(item, where(device), k=k, threshold=threshold, draws=draws)
        records.append(record)
        spectra[_unused(item.name, spectra)] = values.cpu()
    progress(len(chosen), len(chosen), "done")
    return WeightReport(tuple(records), spectra, found.name, _notes(chosen))


def _chosen(found: Checkpoint, items: Sequence[Change | Learnt], modules: str) -> list[Change | Learnt]:
    """Those whose names fit a pattern."""
    if not items:
        kinds = ", ".join(t.kind for t in found.tunings)
        raise NotComparable(f"{found.path} changes no weight matrix and learns no rows before the text: it is {kinds}")
    patterns = [pattern.strip() for pattern in modules.split(",")]
    chosen = [item for item in items if any(fnmatchcase(item.name, pattern) for pattern in patterns)]
    if not chosen:
        names = [item.name for item in items]
        raise UnknownName(
            f"no module is called {modules!r}; there are {', '.join(names[:8])}{', …' * (len(names) > 8)}"
        )
    return chosen


def _unused(name: str, taken: Mapping[str, Tensor]) -> str:
    """A name of its own for a matrix that a full tuning and an adapter changed one after the other."""
    return name if name not in taken else f"{name} (adapter)"


def _notes(items: Sequence[Change | Learnt]) -> tuple[str, ...]:
    if all(isinstance(item, Learnt) for item in items):
        return ("the weights are the base's and have no intruder dimensions by construction, which is no evidence",)
    return ()


def _learnt(item: Learnt, device: torch.device) -> tuple[Weighed, Tensor]:
    values = prefix_spectrum(item.rows.to(device)).values
    limit = float(values[0]) * max(item.rows.shape) * torch.finfo(item.rows.dtype).eps
    told = {**_ranks(values, limit), **_how(item.rows, "ranks of the rows")}
    return Weighed(item.name, item.kind, *item.rows.shape, **told), values


def _how(weights: Tensor, *conventions: str) -> dict[str, Any]:
    """What every record tells of its numbers."""
    return {
        "dtype": str(weights.dtype).removeprefix("torch."),
        "convention": "; ".join(["not centred", *conventions, "float64"]),
    }


def _weighed(item: Change, device: torch.device, *, k: int, threshold: float, draws: int) -> tuple[Weighed, Tensor]:
    w0 = item.before.to(device, torch.float64)
    m, n = w0.shape
    before = left_vectors(w0)
    tail = _tail(before.values)
    if item.after is None and item.factors is None:
        told = {**_ranks(before.values), **tail, **_how(item.before, "ranks of the weights")}
        return Weighed(item.name, item.kind, m, n, **told), before.values
    update, w1 = _tuned(item, w0)
    after = left_vectors(w1)
    norms = [float(values.square().sum().sqrt()) for values in (update.values, before.values)]
    told = {
        **_ranks(update.values),
        **_intruders(w0, before, after, norms[0], k=k, threshold=threshold, draws=draws),
        **_tail(after.values),
        "alpha_before": tail.get("alpha", NOTHING),
        "size": norms[0] / norms[1] if norms[1] else NOTHING,
        "leading": float(update.values[0] / before.values[0]) if norms[1] else NOTHING,
        **_how(item.before, "ranks of the change", f"intruders: k={k}, cosine<{threshold:g}, draws of noise: {draws}"),
    }
    return Weighed(item.name, item.kind, m, n, **told), update.values


def _ranks(values: Tensor, limit: float | None = None) -> dict[str, Any]:
    return {
        "rank": float(numerical_rank(values, threshold=limit)),
        "effective": float(effective_rank(values)),
        "stable": float(stable_rank(values)),
    }


def _tuned(item: Change, w0: Tensor) -> tuple[Update, Tensor]:
    """The decomposition of the change, and the tuned weights."""
    if item.factors is not None:
        b, a = (part.to(w0) for part in item.factors)
        return low_rank_update(b, a), w0 + b @ a
    assert item.after is not None
    w1 = item.after.to(w0)
    return full_update(w0, w1), w1


def _intruders(
    w0: Tensor, before: Left, after: Left, norm: float, *, k: int, threshold: float, draws: int
) -> dict[str, Any]:
    found = intruders_between(before, after, k=k, threshold=threshold)
    told = {"intruders": float(found.count), "gap": float(found.gap.median())}
    if draws:
        generator = torch.Generator().manual_seed(0)
        noise = intruder_null(w0, norm, k=k, threshold=threshold, draws=draws, generator=generator).double()
        told |= {"intruders_of_noise": float(noise.mean()), "intruders_of_noise_most": float(noise.max())}
    return told


def _tail(values: Tensor) -> dict[str, Any]:
    """The exponent of the tail with its error and members, or a note on why there is none."""
    try:
        tail = weight_alpha(values)
    except DataError as error:
        return {"note": str(error)}
    return {"alpha": tail.alpha, "alpha_error": tail.error, "tail": float(tail.members)}
