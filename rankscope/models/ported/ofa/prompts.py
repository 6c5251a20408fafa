"""The texts that OFA was trained to be asked with."""

from __future__ import annotations

import re

CAPTION_PROMPT = " what does the image describe?"
"""The prompt of captioning; the space before it is part of the first word."""


def vqa_prompt(question: str, *, words: int = 128) -> str:
    """A question as OFA reads it: lower case, no leading punctuation, hyphens and slashes as spaces, one question mark.

    Args:
        question: the question as it was asked.
        words: the most words kept.
    """
    text = question.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    text = " ".join(text.split(" ")[:words])
    return f" {text}" if text.endswith("?") else f" {text}?"
