"""A module in memory as a source: tensors, or what holds them, seen as samples that are batched and handed to it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from rankscope.collecting.source import (
    TENSORS,
    Collate,
    Source,
    check_left,
    content,
    device_of,
    in_memory,
    of_transformers,
)
from rankscope.data.intake import COPIED, Finding
from rankscope.errors import DataError
from rankscope.reading.forward import ModelBatch, forward_pass
from rankscope.reading.probing import Parts, probe
from rankscope.sites import Site

MASK = "attention_mask"
"""In samples that are dictionaries, the input that says which columns are real."""
PATCH = 256
"""Pixels (or other places of a grid, or numbers of a vector) that count as one token when batches are planned: those of a patch of 16 × 16."""


def from_tensors(model: nn.Module, data: Any, n: int | None) -> Source:
    """The source of a module and the tensors that it is fed with.

    A tuple is handed over by position, as many of its members as ``forward`` takes; a dictionary by name.

    Raises:
        DataError: if there are fewer than n samples or none, or the module cannot be called with them.
        NotComparable: if all samples are equal.
    """
    samples = samples_of(data)
    count = len(samples.items) if n is None else n
    if not 0 < count <= len(samples.items):
        raise DataError(f"the tensors hold {len(samples.items)} samples; {count} were asked for")
    caller = BatchCaller(model).eval()
    known = of_transformers(model)
    items = [samples.items[i] for i in range(count)]
    kept, notes = _distinct(items)
    check_left(len(kept), count, "samples", "to the module")
    if len(kept) < count:
        items, samples = [items[i] for i in kept], samples._replace(items=Subset(samples.items, kept))
    parts, collate = _opened(caller, samples, range(min(2, len(kept))))
    name = type(model).__name__
    return Source(
        model=caller,
        name=name,
        parts=parts,
        ids=tuple(map(str, kept)),
        lengths=tuple(length_of(item) for item in items),
        collate=collate,
        checkpoint=in_memory(model, name),
        data_name=TENSORS,
        fingerprint=fingerprint(items),
        reading={"device": device_of(model).type},
        told=(lambda inputs: _not_told(caller, inputs)) if known else None,
        notes=notes,
    )


def _not_told(caller: BatchCaller, inputs: Mapping[str, Any]) -> dict[Site, str]:
    """The sites of a transformers model that are not what it returns for the inputs of one sample."""
    from rankscope.models.told import not_told

    return not_told(caller.module, lambda: forward_pass(caller, inputs))


def _distinct(items: Sequence[Any]) -> tuple[list[int], tuple[str, ...]]:
    """The places of the samples that equal no earlier one, and a note if there are others."""
    first, copies = dict[str, int](), Finding(COPIED)
    for place, item in enumerate(items):
        # What is no number is seen by the module's own collate alone, and so is no copy for sure.
        content = fingerprint([item]) if len(_tensors(item)) == len(_members(item)) else f"sample {place}"
        if (earlier := first.setdefault(content, place)) != place:
            copies.add(f"{str(place)!r} is {str(earlier)!r}")
    return list(first.values()), (str(copies),) if copies.count else ()


class BatchCaller(nn.Module):
    """Calls a module with one batch: a tensor or a tuple by position, a dictionary by name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self.takes = None if inspect.Parameter.VAR_POSITIONAL in kinds else sum(kind in positional for kind in kinds)

    def forward(self, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            return self.module(**batch)
        return self.module(*(batch[: self.takes] if isinstance(batch, list | tuple) else [batch]))


class Samples(NamedTuple):
    """The inputs of a module, one sample at a time."""

    items: Any
    """The samples by place; each is a tensor, a tuple in the order of the arguments, or a dictionary by their names."""
    collate: Callable[[list[Any]], Any]
    """From a list of samples to a batch."""

    def batch(self, places: Sequence[int]) -> Any:
        """A batch of the samples at some places.

        Raises:
            DataError: if they do not fit into one.
        """
        try:
            return self.collate([self.items[i] for i in places])
        except (RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"samples {min(places)} to {max(places)} do not fit into one batch ({' '.join(str(error).split())[:200]}); "
                "give them the same shape, or read them one by one (--tokens-per-batch 1)"
            ) from error


def is_samples(data: Any) -> bool:
    """Whether data are tensors, or hold them, rather than texts and images to be read by a processor."""
    if isinstance(data, Tensor | np.ndarray | Dataset | DataLoader):
        return True
    inside = list(data.values()) if isinstance(data, Mapping) else data if isinstance(data, list | tuple) else []
    return bool(inside) and all(isinstance(x, Tensor | np.ndarray) or (x is not data and is_samples(x)) for x in inside)


def samples_of(data: Any) -> Samples:
    """The samples in a tensor or array, a dictionary or tuple of them, a list of samples, a ``Dataset`` or a ``DataLoader``.

    Raises:
        DataError: if there are none, tensors differ in length, or the samples cannot be counted.
    """
    if isinstance(data, DataLoader):
        return Samples(_counted(data.dataset), data.collate_fn)
    if not is_samples(data):
        raise DataError(
            "a module is fed with a tensor, one row for each sample, or a dictionary or tuple of those; with a list of "
            f"samples; or with a Dataset or DataLoader of them; got {type(data).__name__}"
        )
    if isinstance(data, Mapping | tuple):
        columns = [torch.as_tensor(x) for x in (data.values() if isinstance(data, Mapping) else data)]
        sizes = {len(x) if x.ndim else 0 for x in columns}
        if len(sizes) > 1:
            raise DataError(f"the tensors hold {sorted(sizes)} samples; each must have a row for every sample")
        rows = list(zip(*columns, strict=True)) if max(sizes) else []
        data = [dict(zip(map(str, data), row, strict=True)) for row in rows] if isinstance(data, Mapping) else rows
    return Samples(_counted(torch.as_tensor(data) if isinstance(data, np.ndarray) else data), default_collate)


def _counted(items: Any) -> Any:
    if isinstance(items, IterableDataset) or not hasattr(items, "__len__"):
        raise DataError("a data set of unknown length cannot be planned; put its samples into a list")
    if (isinstance(items, Tensor) and not items.ndim) or not len(items):
        raise DataError("the data hold no sample")
    return items


def length_of(item: Any) -> int:
    """About how many tokens a sample has: the rows of its first tensor, the patches of 16 × 16 of an image, or as many numbers
    of a vector or a sound.
    """
    x = next(iter(_tensors(item)), torch.empty(0))
    numbers = x.ndim == 1 and x.is_floating_point()
    return max(
        1, len(x) // PATCH if numbers else x.shape[1:].numel() // PATCH if x.ndim > 2 else len(x) if x.ndim else 1
    )


def fingerprint(items: Iterable[Any]) -> str:
    """The SHA-256, in hexadecimal, of samples in their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{list(item) if isinstance(item, Mapping) else ''};".encode())
        for x in _tensors(item):
            digest.update(f"{tuple(x.shape)}:{x.dtype};".encode())
            digest.update(content(x))
    return digest.hexdigest()


def _members(item: Any) -> Sequence[Any]:
    return list(item.values()) if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else [item]


def _tensors(item: Any) -> list[Tensor]:
    return [torch.as_tensor(x) for x in _members(item) if isinstance(x, Tensor | np.ndarray | int | float)]


def _opened(caller: BatchCaller, samples: Samples, few: Sequence[int]) -> tuple[Parts, Collate]:
    """The readable parts of a module, and how its batches are made."""
    device = device_of(caller)

    def collate(places: Sequence[int]) -> ModelBatch:
        batch = _moved(samples.batch(places), device)
        mask = batch.get(MASK) if isinstance(batch, Mapping) else None
        return ModelBatch({"batch": batch}, {}, mask if isinstance(mask, Tensor) else None)

    if of_transformers(caller.module):
        from rankscope.collecting.transformers_source import from_tokens

        return from_tokens(caller.module, collate)
    inputs = collate(few)
    try:
        return probe(caller.module, lambda: caller(**inputs.inputs), len(few)), collate
    except (TypeError, RuntimeError, ValueError, IndexError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{type(caller.module).__name__} cannot be called with these samples: {reason}") from error


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(batch, Mapping):
        return {name: _moved(x, device) for name, x in batch.items()}
    if isinstance(batch, list | tuple):
        return [_moved(x, device) for x in batch]
    return batch.to(device) if isinstance(batch, Tensor) else batch
