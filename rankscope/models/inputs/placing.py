"""Where the placeholder of an image stands in a text that has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import ProcessorMixin


def placings(processor: Any, text: str, *, frame: Sequence[str], after: str, places: bool) -> Iterator[str]:
    """A text as a processor may want it, what is likeliest first.

    Most processors make the rows of an image out of a placeholder that is in the text already, and say so by a method; others
    put it in by themselves, or count the placeholders in a text and tell only by an error that there is none.

    Args:
        processor: the processor.
        text: the text.
        frame: two tokens that stand around the placeholder, or none.
        after: what stands between the placeholder and the text.
        places: whether the processor puts the placeholder in itself, whatever its methods are.
    """
    token = getattr(processor, "image_placeholder_token", None) or getattr(processor, "image_token", None)
    if token is None or places or str(token) in text:
        yield text
        return
    before, behind = frame or ("", "")
    placed = f"{before}{token}{behind}{after}{text}"
    expand = getattr(getattr(processor, "replace_image_token", None), "__func__", None)
    makes = expand not in (None, ProcessorMixin.replace_image_token)
    yield from (placed,) if makes else (text, placed)
