r"""BLEU: how many n-grams of a caption occur in its references.

.. math:: \mathrm{BLEU}\text{-}N = \min(1, e^{1 - r/c}) \prod_{n=1}^N p_n^{1/N}

with the clipped precisions :math:`p_n` and the lengths pooled over all images, and for each image the reference length
closest to the candidate's (the shorter of two as close).

Papineni, Roukos, Ward & Zhu, "BLEU", ACL 2002, section 2.3; constants and ties as in the COCO caption evaluation code,
to which these values are equal. Written here because it is thirty lines, adds per-image statistics, and then
neither the evaluation package nor Java is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from rankscope.scores.ngrams import ORDERS, NGram, ngrams
from rankscope.scores.tally import Floats, Tally

_TINY, _SMALL = 1e-15, 1e-9  # the evaluation code's own: 0/0 counts as 1e-6, and an empty caption scores near zero


def bleu_statistics(candidate: str, references: Sequence[str]) -> list[int]:
    """What one image adds to BLEU.

    Args:
        candidate: a caption, tokens separated by spaces.
        references: its references, likewise; at least one.

    Returns:
        ``(10,)``: matches of order 1…4, n-grams of order 1…4, length, closest reference length.
    """
    words = candidate.split()
    allowed: Counter[NGram] = Counter()
    lengths = []
    for reference in references:
        allowed |= ngrams(reference.split())
        lengths.append(len(reference.split()))
    matches = [0] * ORDERS
    for gram, count in ngrams(words).items():
        matches[len(gram) - 1] += min(count, allowed[gram])
    total = [max(0, len(words) - n) for n in range(ORDERS)]
    return [*matches, *total, len(words), min((abs(length - len(words)), length) for length in lengths)[1]]


def bleu_from(statistics: Floats, order: int) -> Floats:
    """BLEU of an order from summed statistics.

    Args:
        statistics: ``(*, 10)`` as :func:`bleu_statistics` returns them, summed over images.
        order: the greatest length of an n-gram, 1 to 4.

    Returns:
        ``(*,)`` scores in [0, 1].
    """
    matches, total = statistics[..., :order], statistics[..., ORDERS : ORDERS + order]
    precision = np.prod((matches + _TINY) / (total + _SMALL), axis=-1) ** (1 / order)
    length = (statistics[..., -2] + _TINY) / (statistics[..., -1] + _SMALL)
    return np.asarray(precision * np.exp(np.minimum(0, 1 - 1 / length)))


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[Tally]:
    """BLEU-1 to BLEU-4.

    Args:
        candidates: ``(n,)`` captions, tokens separated by spaces.
        references: for each its references; at least one each.

    Returns:
        Four tallies, shortest order first; values in [0, 1].
    """
    parts = np.array([bleu_statistics(*pair) for pair in zip(candidates, references, strict=True)], dtype=np.float64)
    pools = [partial(bleu_from, order=order) for order in range(1, ORDERS + 1)]
    return [Tally(f"BLEU-{order}", pool(parts), parts, pool) for order, pool in enumerate(pools, 1)]
