"""Tensors as samples: whatever holds the inputs of a module, seen as a list of samples and a way to batch them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from rankscope.errors import DataError

PATCH = 256
"""Pixels (or other places of a grid) that count as one token when batches are planned: those of a patch of 16 × 16."""
TAKES = (
    "a module is fed with a tensor, a sample a row, or a dictionary or tuple of those; with a list of samples; or with a "
    "Dataset or DataLoader of them"
)


class Samples(NamedTuple):
    """Inputs of a module."""

    items: Any
    """The samples, by place: each a tensor, a tuple by the order of the arguments, or a dictionary by their names."""
    collate: Callable[[list[Any]], Any]
    """From some of them to a batch."""

    def batch(self, places: Sequence[int]) -> Any:
        """A batch of the samples at some places.

        Raises:
            DataError: if they do not fit into one.
        """
        try:
            return self.collate([self.items[i] for i in places])
        except (RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"samples {min(places)} to {max(places)} cannot stand in one batch ({' '.join(str(error).split())[:200]}); "
                "give them the same shape, or read them one by one (--tokens-per-batch 1)"
            ) from error


class _Rows(Sequence[Any]):
    """Tensors by name, a sample a row."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return min(map(len, self.tensors.values()))

    def __getitem__(self, place: Any) -> Any:
        return {name: x[place] for name, x in self.tensors.items()}


def is_samples(data: Any) -> bool:
    """Whether data are tensors, or hold them, rather than texts and images to be read by a processor."""
    if isinstance(data, Tensor | np.ndarray | Dataset | DataLoader):
        return True
    inside = list(data.values()) if isinstance(data, Mapping) else data if isinstance(data, list | tuple) else []
    return bool(inside) and all(isinstance(x, Tensor | np.ndarray) or (x is not data and is_samples(x)) for x in inside)


def samples_of(data: Any) -> Samples:
    """The samples that data hold.

    Raises:
        DataError: if they hold none, tensors of different lengths, or cannot be counted.
    """
    if isinstance(data, DataLoader):
        return Samples(_counted(data.dataset), data.collate_fn)
    if not is_samples(data):
        raise DataError(f"{TAKES}; got {type(data).__name__}")
    if isinstance(data, Mapping):
        tensors = {str(name): torch.as_tensor(x) for name, x in data.items()}
        _equally_long(tensors.values())
        return Samples(_counted(_Rows(tensors)), default_collate)
    if isinstance(data, tuple):
        columns = [torch.as_tensor(x) for x in data]
        _equally_long(columns)
        return Samples(_counted(TensorDataset(*columns)), default_collate)
    return Samples(_counted(torch.as_tensor(data) if isinstance(data, np.ndarray) else data), default_collate)


def _equally_long(tensors: Iterable[Tensor]) -> None:
    sizes = {len(x) if x.ndim else 0 for x in tensors}
    if len(sizes) > 1:
        raise DataError(f"the tensors hold {sorted(sizes)} samples; each must have a row for every sample")


def _counted(items: Any) -> Any:
    if isinstance(items, IterableDataset) or not hasattr(items, "__len__"):
        raise DataError("a data set of unknown length cannot be planned; put its samples into a list")
    if (isinstance(items, Tensor) and not items.ndim) or not len(items):
        raise DataError("the data hold no sample")
    return items


def length_of(item: Any) -> int:
    """About how many tokens a sample has: the rows of its first tensor; of an image, its patches of 16 × 16."""
    x = _tensors(item)[0] if _tensors(item) else torch.empty(0)
    return max(1, x.shape[1:].numel() // PATCH if x.ndim > 2 else len(x) if x.ndim else 1)


def fingerprint(items: Iterable[Any]) -> str:
    """The sha256, in hex, over samples in their order."""
    whole = hashlib.sha256()
    for item in items:
        whole.update(f"{list(item) if isinstance(item, Mapping) else ''};".encode())
        for x in _tensors(item):
            whole.update(f"{tuple(x.shape)}:{x.dtype};".encode())
            whole.update(content(x))
    return whole.hexdigest()


def content(x: Tensor) -> bytes:
    """The bytes of a tensor's numbers, in their order."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""


def _tensors(item: Any) -> list[Tensor]:
    parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else [item]
    return [torch.as_tensor(x) for x in parts if isinstance(x, Tensor | np.ndarray | int | float)]
