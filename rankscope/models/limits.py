"""What a model can take: rows that prefixes and prompts add, positions that there are, padding that is right."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Literal, overload

from peft import PeftModel
from torch import nn

from rankscope.errors import DataError, UsageError
from rankscope.models.stacks import Stack, stacks, unwrapped
from rankscope.models.tunings.prefix_live import cached_owner, prefix_of

_IN_CACHE = ("PREFIX_TUNING", "CARTRIDGE")
"""PEFT's kinds of prompt learning that add no rows to the hidden states."""
_OWN_POSITIONS = {
    "opt",
    "roberta",
    "xlm-roberta",
    "camembert",
    "t5",
    "mt5",
    "umt5",
    "bloom",
    "mpt",
    "qwen2_vl_text",
    "qwen2_5_vl_text",
}
"""Types that count positions from the mask or the padding by themselves, or have none."""


@overload
def virtual_rows(model: nn.Module) -> int: ...
@overload
def virtual_rows(model: nn.Module, *, prefix: Literal[True]) -> dict[str, int]: ...
def virtual_rows(model: nn.Module, *, prefix: bool = False) -> int | dict[str, int]:
    """Rows that a prompt puts before the text; or, for each stack, those that a prefix holds in its cache."""
    wrapped = [m.active_peft_config for m in model.modules() if isinstance(m, PeftModel)]
    prompts = [c for c in wrapped if c.is_prompt_learning]
    kinds = {id(c): str(getattr(c.peft_type, "value", c.peft_type)) for c in prompts}
    if not prefix:
        return sum(c.num_virtual_tokens for c in prompts if kinds[id(c)] not in _IN_CACHE)
    of_peft = sum(c.num_virtual_tokens for c in prompts if kinds[id(c)] in _IN_CACHE)
    live = prefix_of(model)
    if live is None:
        return {"decoder": of_peft}
    there = stacks(model)  # a prefix that is joined inside an attention takes no position
    return {name: live.rows for name in live.shapes if cached_owner(unwrapped(model), there, name) is not None}


def check_length(sample: str, stack: Stack, columns: int, added: int) -> None:
    """See that a sample fits the positions of a stack of tokens.

    Args:
        sample: its id, for the message.
        stack: the stack.
        columns: its tokens.
        added: rows of a prefix or prompt, which take positions too.

    Raises:
        DataError: if it does not fit, or has no token at all.
    """
    if columns == 0:
        raise DataError(f"sample {sample!r} has no token for the stack {stack.name}: its text is empty")
    most = getattr(getattr(stack.owner, "config", None), "max_position_embeddings", None)
    if stack.columns not in ("text", "target") or not isinstance(most, int) or most <= 0:
        return
    if columns + added > most:
        room = f", {added} of them of the prefix or prompt" if added else ""
        raise DataError(
            f"sample {sample!r} takes {columns + added} positions in {stack.name}{room}, and the model has {most}; shorten it "
            "or leave it out"
        )


def takes_positions(model: nn.Module, there: Mapping[str, Stack]) -> bool:
    """Whether positions must be handed over where padding is on the left; False where the model counts them itself.

    Raises:
        UsageError: if it does not, and takes none: then only padding on the right is right.
    """
    text = [s for s in there.values() if s.columns == "text"]
    if not text:
        return False
    kinds = {getattr(getattr(s.owner, "config", None), "model_type", None) for s in text}
    if kinds <= _OWN_POSITIONS:
        return False
    owner = text[0].owner
    takes = [m for m in (unwrapped(model), owner) if m is not None]
    if all("position_ids" in inspect.signature(m.forward).parameters for m in takes) and len(text) == 1:
        return True
    raise UsageError(
        f"a {type(unwrapped(model)).__name__} takes no position_ids, so that padding on the left would shift its positions; pad right"
    )
