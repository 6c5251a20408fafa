"""What a user names, opened as a source: a checkpoint on disk, a loaded model, or any module with tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rankscope.collecting.samples import is_samples
from rankscope.collecting.source import Source, of_transformers
from rankscope.collecting.tensor_source import from_tensors
from rankscope.errors import UsageError

LOADING = ("base_model", "device", "dtype", "device_map", "load_in_4bit")
"""Options that tell how a checkpoint is loaded."""
DEFAULT_DATA = "scenes"
"""The probe set where none is given: the embedded scenes."""


def open_source(
    model: Any,
    data: Any = None,
    *,
    n: int | None = None,
    **opening: Any,
) -> Source:
    """What to read from.

    Args:
        model: a checkpoint folder, several in order, a loaded transformers model, or any module.
        data: the probe set, as :func:`rankscope.open_data` takes it; for any module in memory tensors, or what holds
            them: see :func:`rankscope.collecting.samples.samples_of`.
        n: only the first n samples.
        opening: how a checkpoint is loaded, as :func:`rankscope.load_model` takes it: ``base_model``, ``device`` (the GPU where
            there is one), ``dtype``, ``device_map``, ``load_in_4bit``, ``trust_remote_code``; how texts and images are read, as
            :func:`rankscope.models.inputs.reader.reader` takes it: ``padding_side``, ``chat``; and ``processor``, the folder of the
            tokenizer or processor where it is not the checkpoint's own.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not load.
        UsageError: if there is no such device, precision or padding side, or an option has no meaning for the model.
        DataError: if there are fewer than n samples, or none.
    """
    given = [name for name, value in opening.items() if value not in (None, False)]
    if isinstance(model, nn.Module) and (is_samples(data) or not of_transformers(model)):
        _refuse(given, "has no meaning for a module that is fed with tensors")
        return from_tensors(model, data, n)
    from rankscope.collecting.checkpoint_source import from_checkpoint

    if isinstance(model, nn.Module):
        _refuse([name for name in given if name in LOADING], "has no meaning for a model that is loaded already")
    return from_checkpoint(model, data if data is not None else DEFAULT_DATA, n=n, **opening)


def _refuse(names: Sequence[str], why: str) -> None:
    if names:
        raise UsageError(f"{', '.join(names)} {why}; leave it out")
