"""What this package carries of its own, and which models it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rankscope.checkpoint import Checkpoint
from rankscope.data.embedded import embedded_checkpoint
from rankscope.errors import DataError, UsageError

if TYPE_CHECKING:
    from rankscope.models.inputs.encode import Inputs

SENTENCES, SCENES, PAIRS = "sentences", "scenes", "scenes:pairs"
"""The embedded data, as they are opened."""
_VOLATILE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
"""What a configuration says of the file and not of the network."""


def is_embedded(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is the embedded one, or was tuned from it: its network is the same, whatever its weights."""
    embedded = Checkpoint.read(embedded_checkpoint())
    return _network(checkpoint.config) == _network(embedded.config)


def _network(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _network(v) if isinstance(v, Mapping) else v for k, v in config.items() if k not in _VOLATILE}


def check_embedded(checkpoint: Checkpoint, *, instead: str) -> None:
    """Refuse to read embedded data, which were not asked for, with a model that they were not made for.

    Args:
        checkpoint: the model.
        instead: what to do, in words.

    Raises:
        UsageError: if it is not the embedded model.
    """
    if not is_embedded(checkpoint):
        raise UsageError(
            f"no data were given for {checkpoint.path}, and the embedded scenes suit the embedded model only; {instead}"
        )


def embedded_data(inputs: Inputs) -> tuple[str, str]:
    """The embedded data that suit a model, as they are opened, and what they are in words.

    Raises:
        DataError: if there are none.
    """
    if inputs.reads_regions:
        raise DataError("this model reads region features, and none are embedded; give data with --data (data=…)")
    if any(stack.columns == "audio" for stack in inputs.stacks.values()):
        raise DataError("this model reads sounds, and none are embedded; give data with --data (data=…)")
    if not inputs.sees:
        return SENTENCES, "embedded English sentences"
    if inputs.tokenizer is None:
        return SCENES, "pictures of the embedded scenes"
    # One prompt for all scenes says nothing to an encoder of texts beside one of images.
    return (SCENES, "embedded scenes") if inputs.answers_follow else (PAIRS, "embedded scenes with their captions")
