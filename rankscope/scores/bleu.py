r"""BLEU: how many n-grams of a caption occur in its references.

.. math:: \mathrm{BLEU}\text{-}N = \min(1, e^{1 - r/c}) \prod_{n=1}^N p_n^{1/N}

with the clipped precisions :math:`p_n` and the lengths c (candidates) and r (references) pooled over all images. For each
image, r takes the reference length closest to the candidate's, the shorter one of a tie.

Papineni, Roukos, Ward & Zhu, "BLEU", ACL 2002, section 2.3; constants and ties as in the COCO caption evaluation code,
whose values these equal. It is implemented here because it takes thirty lines, keeps the statistics of each image, and
needs neither the evaluation package nor Java.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from rankscope.scores.result import Floats, Tally

ORDERS = 4
"""BLEU and CIDEr look at n-grams of one to four words."""

NGram = tuple[str, ...]

_TINY, _SMALL = 1e-15, 1e-9  # the evaluation code's own: 0/0 counts as 1e-6, and an empty caption scores near zero


def ngrams(words: Sequence[str]) -> Counter[NGram]:
    """How often each n-gram of one to :data:`ORDERS` words occurs in a caption, shortest first.

    Args:
        words: ``(t,)`` tokens.

    Returns:
        Counts; ``max(0, t - n + 1)`` n-grams of each order n.
    """
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


def bleu_statistics(candidate: str, references: Sequence[str]) -> list[int]:
    """The statistics that one image adds to BLEU.

    Args:
        candidate: a caption, tokens separated by spaces.
        references: its references, likewise; at least one.

    Returns:
        ``(10,)``: matches of order 1…4, n-grams of order 1…4, length, closest reference length.
    """
    words = candidate.split()
    allowed: Counter[NGram] = Counter()
    lengths = []
    for reference in references:  # an n-gram may match as often as it occurs in the one reference that has most of it
        allowed |= ngrams(reference.split())
        lengths.append(len(reference.split()))
    matches = [0] * ORDERS  # the clipped counts of section 2.1: min(count, greatest count in a reference)
    for gram, count in ngrams(words).items():
        matches[len(gram) - 1] += min(count, allowed[gram])
    total = [max(0, len(words) - n) for n in range(ORDERS)]
    return [*matches, *total, len(words), min((abs(length - len(words)), length) for length in lengths)[1]]


def bleu_from(statistics: Floats, order: int) -> Floats:
    """BLEU-N from summed statistics.

    Args:
        statistics: ``(*, 10)`` as :func:`bleu_statistics` returns them, summed over images.
        order: N, the length of the longest n-grams, 1 to 4.

    Returns:
        ``(*,)`` scores in [0, 1].
    """
    # Geometric mean of p_1 … p_N, then the brevity penalty min(1, exp(1 - r/c)); `length` is c/r.
    matches, total = statistics[..., :order], statistics[..., ORDERS : ORDERS + order]
    precision = np.prod((matches + _TINY) / (total + _SMALL), axis=-1) ** (1 / order)
    length = (statistics[..., -2] + _TINY) / (statistics[..., -1] + _SMALL)
    return np.asarray(precision * np.exp(np.minimum(0, 1 - 1 / length)))


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[Tally]:
    """BLEU-1 to BLEU-4.

    Args:
        candidates: ``(n,)`` captions, tokens separated by spaces.
        references: the references of each, at least one.

    Returns:
        Four tallies, shortest order first; values in [0, 1].
    """
    counts = np.array([bleu_statistics(*pair) for pair in zip(candidates, references, strict=True)], dtype=np.float64)
    pools = [partial(bleu_from, order=order) for order in range(1, ORDERS + 1)]
    return [Tally(f"BLEU-{order}", pool(counts), counts, pool) for order, pool in enumerate(pools, 1)]
