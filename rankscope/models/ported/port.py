"""How an architecture that transformers does not have enters its Auto classes, and the rarer arguments of its forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.configuration_utils import PreTrainedConfig

from rankscope.errors import UsageError

Recognise = Callable[[Mapping[str, Any], Path], dict[str, Any] | None]


@dataclass(frozen=True)
class Port:
    """The classes of one architecture."""

    config: type[PreTrainedConfig]
    """Its configuration."""
    models: Mapping[str, type]
    """For each Auto class, by name, the model that it is to give."""
    tokenizer: type
    """Its tokenizer."""
    processor: type | None = None
    """Its processor; None if it has no pixels."""
    image_processor: type | None = None
    """The image processor inside that."""
    recognise: Recognise | None = None
    """What a ``config.json`` without this ``model_type`` is to be read as, from its fields and its folder; None if it is
    not this architecture's."""


def enter(ports: Iterable[Port]) -> None:
    """Register every architecture with transformers' Auto classes; one that is registered stays."""
    there = tuple(ports)
    for port in there:
        AutoConfig.register(port.config.model_type, port.config, exist_ok=True)
        AutoTokenizer.register(port.config, tokenizer_class=port.tokenizer, exist_ok=True)
        for auto, model in port.models.items():
            getattr(transformers, auto).register(port.config, model, exist_ok=True)
        if port.processor is not None:
            AutoProcessor.register(port.config, port.processor, exist_ok=True)
            AutoImageProcessor.register(port.config, slow_image_processor_class=port.image_processor, exist_ok=True)
    _recognise(tuple(port.recognise for port in there if port.recognise is not None))


def _recognise(recognisers: tuple[Recognise, ...]) -> None:
    """Let transformers name the model type where it reads a ``config.json`` that does not."""
    original = PreTrainedConfig.get_config_dict.__func__
    if original.__module__ == __name__:
        return

    def get_config_dict(cls: type, path: str | Path, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        fields, rest = original(cls, path, **kwargs)
        named = (recognise(fields, Path(path)) for recognise in recognisers)
        return next((found for found in named if found is not None), fields), rest

    PreTrainedConfig.get_config_dict = classmethod(get_config_dict)


def arguments(
    config: PreTrainedConfig, given: Mapping[str, Any], *, model: str, flags: tuple[str, ...], **defaults: Any
) -> dict[str, Any]:
    """The arguments given, and the defaults of those that are absent or None.

    Args:
        config: the model's configuration, which has the defaults of the flags.
        given: what the model was called with.
        model: its name, for the message.
        flags: arguments whose default is the configuration's.
        defaults: the other arguments.

    Raises:
        UsageError: for an argument that does not exist.
    """
    known = {**defaults, **{flag: getattr(config, flag) for flag in flags}}
    if unknown := sorted(given.keys() - known.keys()):
        raise UsageError(f"{model}'s forward takes no argument {', '.join(unknown)}; it takes {', '.join(known)}")
    return {**known, **{name: value for name, value in given.items() if value is not None}}
