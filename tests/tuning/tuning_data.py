"""Training examples for tiny models."""

from __future__ import annotations

import tiny

from rankscope.data import Example


def examples(name: str, n: int = 8) -> list[Example]:
    """Training examples that fit a family."""
    sentences = [tiny.SENTENCES[i % len(tiny.SENTENCES)] for i in range(n)]
    if name == "vit":
        return [Example(str(i), image=tiny.picture(i), label=i % 10) for i in range(n)]
    if name == "bert-classifier":
        return [Example(str(i), text=text, label=i % 3) for i, text in enumerate(sentences)]
    if name in ("t5", "bart"):
        return [Example(str(i), text=text, targets=(text[::-1],)) for i, text in enumerate(sentences)]
    if name in ("blip2-opt", "blip2-t5", "llava"):
        return [
            Example(str(i), text="describe the scene :", image=tiny.picture(i), targets=(text, "a photo"))
            for i, text in enumerate(sentences)
        ]
    return [Example(str(i), text=text) for i, text in enumerate(sentences)]
