"""The rarer arguments of a ported model's forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from rankscope.errors import UsageError


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
