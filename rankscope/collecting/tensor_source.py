"""Any module in memory, fed with tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rankscope.collecting.samples import Samples, fingerprint, length_of, samples_of
from rankscope.collecting.source import TENSORS, Source, module_digest, of_transformers
from rankscope.errors import DataError
from rankscope.reading.forward import ModelBatch
from rankscope.reading.probing import Parts, probe

MASK = "attention_mask"
"""The input that tells which columns are real, where samples are dictionaries that hold it."""

Collate = Callable[[Sequence[int]], ModelBatch]


def from_tensors(model: nn.Module, data: Any, n: int | None) -> Source:
    """The source of a module and the tensors that it is fed with; see :func:`rankscope.collecting.opening.open_source`.

    A sample that is a tuple is handed over by place, as much of it as ``forward`` takes; a dictionary by name.

    Raises:
        DataError: if there are fewer than n samples or none, or the module cannot be called with them.
    """
    samples = samples_of(data)
    count = len(samples.items) if n is None else n
    if not 0 < count <= len(samples.items):
        raise DataError(f"the tensors hold {len(samples.items)} samples; {count} were asked for")
    called = Called(model).eval()
    found, collate = _opened(called, samples, range(min(2, count)))
    items = [samples.items[i] for i in range(count)]
    name = type(model).__name__
    return Source(
        model=called,
        name=name,
        taps=found.taps,
        known_widths=found.widths,
        ids=tuple(str(i) for i in range(count)),
        lengths=tuple(length_of(item) for item in items),
        collate=collate,
        checkpoint={"summary": f"{name} in memory", "digest": module_digest(model), "tunings": []},
        data_name=TENSORS,
        fingerprint=fingerprint(items),
        reading={"device": called.device.type},
        dtype=found.dtype,
        unreadable=found.unreadable,
    )


class Called(nn.Module):
    """Hands a batch to a module: a tensor or a tuple by place, a dictionary by name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
        by_place = [
            k for k in kinds if k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        ]
        self.takes = None if inspect.Parameter.VAR_POSITIONAL in kinds else len(by_place)

    @property
    def device(self) -> torch.device:
        """Where the module lies."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    def forward(self, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            return self.module(**batch)
        return self.module(*(batch[: self.takes] if isinstance(batch, list | tuple) else [batch]))


def _opened(called: Called, samples: Samples, few: Sequence[int]) -> tuple[Parts, Collate]:
    """What of a module can be read, and how its batches are made."""
    device = called.device

    def collate(places: Sequence[int]) -> ModelBatch:
        batch = _moved(samples.batch(places), device)
        mask = batch.get(MASK) if isinstance(batch, Mapping) else None
        return ModelBatch({"batch": batch}, {}, mask if isinstance(mask, Tensor) else None)

    if of_transformers(called.module):
        from rankscope.collecting.columns import from_columns

        return from_columns(called.module, collate)
    batch = collate(few)
    try:
        return probe(called.module, lambda: called(**batch.inputs), len(few)), collate
    except (TypeError, RuntimeError, ValueError, IndexError, NotImplementedError) as error:
        told = " ".join(str(error).split())[:300]
        raise DataError(f"{type(called.module).__name__} cannot be called with these samples: {told}") from error


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(batch, Mapping):
        return {name: _moved(x, device) for name, x in batch.items()}
    if isinstance(batch, list | tuple):
        return [_moved(x, device) for x in batch]
    return batch.to(device) if isinstance(batch, Tensor) else batch
