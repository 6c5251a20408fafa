"""Counting n-grams: what BLEU and CIDEr share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

ORDERS = 4
"""Both scores look at n-grams of one to four words."""

NGram = tuple[str, ...]


def ngrams(words: Sequence[str]) -> Counter[NGram]:
    """How often each n-gram of one to :data:`ORDERS` words occurs in a caption, shortest first.

    Args:
        words: ``(t,)`` tokens.

    Returns:
        Counts; ``max(0, t - n + 1)`` n-grams of each order n.
    """
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


def document_frequencies(documents: Iterable[Iterable[Sequence[str]]]) -> Counter[NGram]:
    """In how many images each n-gram occurs, in any of the captions of that image.

    Args:
        documents: for each image its tokenised references.

    Returns:
        Counts between 1 and the number of images.
    """
    found: Counter[NGram] = Counter()
    for captions in documents:
        found.update({gram for words in captions for gram in ngrams(words)})
    return found
