r"""ROUGE-L: the longest common subsequence of a caption and its references, as an F score that favours recall.

.. math:: F = \frac{(1 + \beta^2) P R}{R + \beta^2 P}, \qquad \beta = 1.2

with the greatest precision P and the greatest recall R over the references, which may come from different references.

Lin, "ROUGE", ACL workshop 2004, section 3; :math:`\beta` and the two maxima as in the COCO caption evaluation code, whose
values these equal (other packages mean something else by the name).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rankscope.scores.result import Tally, mean_of

BETA = 1.2
"""How much more recall counts than precision."""


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence of two sequences of tokens; symmetric, at most the shorter length."""
    row = [0] * (len(b) + 1)
    for token in a:
        corner = 0  # the entry above and to the left, which row[j] = … overwrites
        for j, other in enumerate(b, 1):
            corner, row[j] = row[j], corner + 1 if token == other else max(row[j], row[j - 1])
    return row[-1]


def rouge_l_of(candidate: str, references: Sequence[str]) -> float:
    """ROUGE-L of one caption in [0, 1]. Tokens are separated by one space; an empty caption is one empty token."""
    words = candidate.split(" ")
    others = [reference.split(" ") for reference in references]
    common = [common_subsequence(other, words) for other in others]
    # The formula of the module's docstring; P and R are each the best over the references.
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Tally:
    """ROUGE-L: the mean over images.

    Args:
        candidates: ``(n,)`` captions, tokens separated by spaces.
        references: the references of each, at least one.

    Returns:
        A tally; values in [0, 1].
    """
    each = [rouge_l_of(*pair) for pair in zip(candidates, references, strict=True)]
    return mean_of("ROUGE-L", np.array(each, dtype=np.float64))
