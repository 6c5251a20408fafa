"""Sounds as a model takes them, and what the columns of a stack that reads them are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rankscope.data.probes import Example
from rankscope.data.sounds import Sound
from rankscope.errors import DataError
from rankscope.features import AUDIO, SPECIAL

if TYPE_CHECKING:
    from rankscope.models.stacks import Stack

HEARD = ("input_values", "input_features")
"""What models call a sound: its samples, or its spectrum over time."""


def sound_of(extractor: Any, example: Example) -> Sound:
    """An example's sound, which has as many samples a second as the model reads.

    Raises:
        DataError: if it has no sound, or one of another rate.
    """
    sound = example.open_audio()
    if sound.rate != extractor.sampling_rate:
        raise DataError(
            f"the sound of example {example.id!r} has {sound.rate} samples a second, and the model reads {extractor.sampling_rate}; "
            "resample it"
        )
    return sound


def sound_columns(tower: Any, frames: Tensor) -> tuple[Tensor, Tensor]:
    """How many columns sounds of so many samples, or frames of a spectrum, have in a tower's blocks, and after it, where some pool.

    Args:
        tower: the module of transformers around the blocks.
        frames: ``(*)`` lengths.
    """
    made = tower._get_feat_extract_output_lengths(frames)
    return made if isinstance(made, tuple) else (made, made)


def heard(extractor: Any, example: Example) -> dict[str, Tensor]:
    """The tensors of an example's sound.

    Args:
        extractor: the checkpoint's feature extractor.
        example: the example.

    Raises:
        DataError: if it has no sound, or one of another rate than the model reads.
    """
    sound = sound_of(extractor, example)
    made = extractor(sound.samples, sampling_rate=sound.rate, return_tensors="pt")
    return {name: made[name] for name in HEARD if name in made}


def sound_roles(stack: Stack, inputs: dict[str, Tensor], sound: Sound, extractor: Any) -> Tensor:
    """``(t,)`` roles of a stack's columns: sound, or special for class tokens and for the silence that fills up a short sound.

    Args:
        stack: the stack.
        inputs: the tensors of the sound, as :func:`heard` makes them.
        sound: the sound itself.
        extractor: the checkpoint's feature extractor, which may fill up sounds to a length of its own.

    Raises:
        DataError: if the model does not say how many columns a sound has.
    """
    values = next(inputs[name] for name in HEARD if name in inputs)
    assert stack.owner is not None  # a stack of transformers has one
    base = getattr(stack.owner, "base_model", stack.owner)
    counts = hasattr(stack.owner, "_get_feat_extract_output_lengths")
    table = getattr(getattr(base, "embeddings", None), "position_embeddings", None)
    if counts:
        columns = int(sound_columns(stack.owner, torch.tensor(values.shape[-1]))[0])
    elif isinstance(table, Tensor):  # every sound is filled up to all positions
        columns = table.shape[1]
    else:
        raise DataError(f"how many columns a sound has in {stack.name} is not known for a {type(stack.owner).__name__}")
    names = {name.rpartition(".")[2] for name, _ in base.named_parameters()} if not counts else set()
    tokens = int("cls_token" in names) + int("distillation_token" in names)
    filled = getattr(extractor, "n_samples", None) or len(sound.samples)
    lasts = -(-columns * len(sound.samples) // filled) if counts else columns
    roles = torch.full((columns,), AUDIO, dtype=torch.uint8)
    roles[:tokens] = SPECIAL
    roles[lasts:] = SPECIAL
    return roles
