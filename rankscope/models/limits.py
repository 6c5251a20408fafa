"""What a model can take: the rows that prefixes and prompts add, its positions, and the side on which it may be padded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from peft import PeftModel
from torch import nn

from rankscope.errors import DataError, UsageError
from rankscope.models.families import family_of
from rankscope.models.stacks import Stack, stacks, unwrapped
from rankscope.models.tunings.prefix_live import cached_owner, prefix_of

_IN_CACHE = ("PREFIX_TUNING", "CARTRIDGE")
"""PEFT's kinds of prompt learning that add no rows to the hidden states."""


def _prompts(model: nn.Module, *, in_cache: bool) -> int:
    """The rows of PEFT's prompts, of those that are in the cache or of those before the text."""
    wrapped = (m.active_peft_config for m in model.modules() if isinstance(m, PeftModel))
    prompts = [c for c in wrapped if c.is_prompt_learning]
    kinds = [str(getattr(c.peft_type, "value", c.peft_type)) for c in prompts]
    return sum(c.num_virtual_tokens for c, k in zip(prompts, kinds, strict=True) if (k in _IN_CACHE) == in_cache)


def prompt_rows(model: nn.Module) -> int:
    """Rows that a prompt puts before the text."""
    return _prompts(model, in_cache=False)


def prefix_rows(model: nn.Module) -> dict[str, int]:
    """For each stack the rows that a prefix holds in its cache, where they take positions."""
    prefix = prefix_of(model)
    if prefix is None:
        return {"decoder": _prompts(model, in_cache=True)}
    there = stacks(model)  # a prefix that is joined inside an attention takes no position
    return {name: prefix.rows for name in prefix.shapes if cached_owner(unwrapped(model), there, name) is not None}


def places(stack: Stack) -> int | None:
    """How many positions a stack has; None if the configuration does not say.

    RoBERTa and its kin count positions from behind the padding token, whose own position is never a text's.
    """
    config = getattr(stack.owner, "config", None)
    most = getattr(config, "max_position_embeddings", None)
    if most is None and stack.columns == "target":  # as models that hear call it
        most = getattr(config, "max_target_positions", None)
    table = getattr(_embeddings(stack.owner), "position_embeddings", None)
    before = getattr(table, "padding_idx", None)
    return most - before - 1 if isinstance(most, int) and isinstance(before, int) else most


def _embeddings(owner: nn.Module | None) -> nn.Module | None:
    """The embedding block of a model, or of the base inside its head; None if it has none."""
    base = getattr(owner, "base_model", owner)
    return getattr(base, "embeddings", None)


def check_length(sample: str, stack: Stack, columns: int, added: int) -> None:
    """Check that a sample fits the positions of a stack of tokens.

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
    most = places(stack)
    if stack.columns not in ("text", "target") or not isinstance(most, int) or most <= 0:
        return
    if columns + added > most:
        room = f" ({added} of them for the prefix or prompt)" if added else ""
        raise DataError(
            f"sample {sample!r} takes {columns + added} positions in {stack.name}{room}, and the model has {most}; shorten it "
            "or leave it out, or cut all texts to a length (--max-length, max_length=…)"
        )


def takes_positions(model: nn.Module, there: Mapping[str, Stack]) -> bool:
    """Whether positions must be passed to the model when padding is on the left; False if the model counts them itself.

    Raises:
        UsageError: if it neither counts nor takes them: then only padding on the right is correct.
    """
    text = [s for s in there.values() if s.columns == "text"]
    if all(family_of(s.owner).counts_positions for s in text):  # or there is no stack of text
        return False
    owner = text[0].owner
    takes = [m for m in (unwrapped(model), owner) if m is not None]
    if all("position_ids" in inspect.signature(m.forward).parameters for m in takes) and len(text) == 1:
        return True
    raise UsageError(
        f"a {type(unwrapped(model)).__name__} takes no position_ids, so that padding on the left would shift its positions; pad right"
    )
