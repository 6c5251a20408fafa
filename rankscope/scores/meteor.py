r"""METEOR 1.5, by the official Java program.

The program aligns a caption with its references through exact, stemmed, synonymous and paraphrased matches. From its
counts come a precision P and a recall R in which content words have weight :math:`\delta = 0.75` and function words
:math:`1 - \delta`, and

.. math:: \mathrm{METEOR} = \frac{P R}{\alpha P + (1 - \alpha) R}\,\Bigl(1 - \gamma \Bigl(\frac{c}{m}\Bigr)^\beta\Bigr)

with c the number of chunks that the m matched words form, :math:`\alpha = 0.85, \beta = 0.2, \gamma = 0.6`. The score of a
data set is computed from the summed counts, and is not a mean; as in the program, an image matched entirely in one chunk
adds no chunk.

Denkowski & Lavie, "Meteor Universal", WMT 2014, section 2. The counts are the program's own; the formula is evaluated
here and gives what the program prints, so that one run of it also serves the single images and the bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rankscope.errors import MissingTool
from rankscope.scores.java import Java
from rankscope.scores.result import Floats, Tally

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""The English parameters of version 1.5."""
STAGES = np.array([1.0, 0.6, 0.8, 0.6])
"""The weights of an exact, stemmed, synonymous and paraphrased match."""
_COUNTS = 23  # lengths, function words, four counts for each of four stages, chunks, matches
_CHUNKS, _MATCHES = 20, slice(21, 23)


def meteor_from(counts: Floats) -> Floats:
    """METEOR from the program's counts.

    Args:
        counts: ``(*, 23)`` as the program prints them, summed over images; chunks 0 for an image matched entirely.

    Returns:
        ``(*,)`` scores in [0, 1]; 0 where nothing matches.
    """
    # Columns 4:20 are, for each of the four stages, matched content words of candidate and reference, then function words
    # of both; `side` 0 is the candidate, 1 the reference. Matches over lengths, both weighted, are P and R (section 2).
    stages = counts[..., 4:20].reshape(*counts.shape[:-1], 4, 4)
    weigh = np.array([DELTA, 1 - DELTA])
    matched = np.stack([(STAGES * (stages[..., side::2] @ weigh)).sum(-1) for side in (0, 1)], -1)
    lengths, functions = counts[..., 0:2], counts[..., 2:4]
    total = DELTA * (lengths - functions) + (1 - DELTA) * functions
    ratio = np.divide(matched, total, out=np.zeros_like(matched), where=total > 0)
    precision, recall = ratio[..., 0], ratio[..., 1]
    # F = P R / (α P + (1 - α) R), then the fragmentation penalty 1 - γ (c/m)^β.
    below = ALPHA * precision + (1 - ALPHA) * recall
    mean = np.divide(precision * recall, below, out=np.zeros_like(below), where=below > 0)
    words = counts[..., _MATCHES].mean(-1)
    broken = np.divide(counts[..., _CHUNKS], words, out=np.zeros_like(words), where=words > 0)
    return np.asarray(mean * (1 - GAMMA * broken**BETA))


def _fields(text: str) -> str:
    """A text that does not end its field: ``|||`` separates the fields of the program's input."""
    return text.replace("|||", " ").replace("  ", " ")


def meteor_counts(candidates: Sequence[str], references: Sequence[Sequence[str]], java: Java) -> Floats:
    """The program's counts for each image.

    Args:
        candidates: ``(n,)`` captions, tokens separated by spaces.
        references: the references of each.
        java: how Java is run.

    Returns:
        ``(n, 23)`` counts; chunks 0 for an image matched entirely in one chunk.

    Raises:
        MissingTool: if Java or the jar is not installed, or the program failed or printed something other than counts.
    """
    archive = java.jar("meteor", "meteor-1.5.jar")
    # The program reads this table from beside its jar; checked here, so that its absence gets a clear message.
    java.jar("meteor", "data", "paraphrase-en.gz")
    lines = [
        " ||| ".join(["SCORE", *map(_fields, others), _fields(caption)])
        for caption, others in zip(candidates, references, strict=True)
    ]
    arguments = ["-jar", str(archive), "-", "-", "-stdio", "-l", "en", "-norm"]
    printed = java.run("METEOR", arguments, stdin="\n".join(lines) + "\n", folder=archive.parent, memory="2G")
    answers = printed.splitlines()
    if len(answers) != len(lines):
        raise MissingTool(f"METEOR answered {len(lines)} captions with {len(answers)} lines: {printed[:200]!r}")
    counts = np.array([_numbers(answer) for answer in answers])
    entirely = (counts[:, _CHUNKS] == 1) & (counts[:, _MATCHES] == counts[:, 0:2]).all(1)
    counts[entirely, _CHUNKS] = 0
    return counts


def _numbers(answer: str) -> list[float]:
    try:
        numbers = [float(field) for field in answer.split()]
    except ValueError:
        numbers = []
    if len(numbers) != _COUNTS:
        raise MissingTool(
            f"METEOR printed {answer[:200]!r} where {_COUNTS} counts were expected; is this its version 1.5?"
        )
    return numbers


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]], java: Java | None = None) -> Tally:
    """METEOR over all images.

    Args:
        candidates: ``(n,)`` captions, tokens separated by spaces.
        references: the references of each, at least one.
        java: how Java is run.

    Returns:
        A tally; values in [0, 1].

    Raises:
        MissingTool: see :func:`meteor_counts`.
    """
    counts = meteor_counts(candidates, references, java or Java())
    return Tally("METEOR", meteor_from(counts), counts, meteor_from)
