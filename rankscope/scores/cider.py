r"""CIDEr and CIDEr-D: how like its references a caption is, in n-grams weighted by how telling they are.

An n-gram g of a caption weighs :math:`w(g) = \mathrm{tf}(g)\,(\ln N - \ln \max(1, \mathrm{df}(g)))`, with df the number of
images among N whose references hold it. For each order n from 1 to 4 and each reference

.. math:: s_n = e^{-\delta^2 / 2\sigma^2} \frac{\sum_g \min(w_c(g), w_r(g))\, w_r(g)}{\|w_c\|\,\|w_r\|}, \qquad \sigma = 6

with δ the difference of the lengths; the score is ten times the mean over orders and references. Without the minimum and
the Gaussian it is the plain form of the paper's equations 2 to 4.

Vedantam, Zitnick & Parikh, "CIDEr", CVPR 2015, equations 1 to 5. What the COCO caption evaluation code prints as "CIDEr",
and what papers report under that name, is CIDEr-D; so it is here: ``CIDEr`` and ``CIDEr-D`` are equal, and the plain
form is ``CIDEr-plain``. As in that code, lengths are counted in bigrams. Lies in [0, 10]. Over one image every weight is
:math:`\ln 1 = 0`, so there is no score.

Written here rather than called there because the reward of self-critical training must keep its document frequencies
while the captions change, and because the whole is small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rankscope.errors import DataError, UsageError
from rankscope.scores.ngrams import ORDERS, NGram, document_frequencies, ngrams
from rankscope.scores.tally import Floats, Tally, mean_of
from rankscope.scores.tokenize import tokenize

SIGMA = 6.0
"""The width of the length penalty, in words."""


class Weighed(NamedTuple):
    """One caption as a weighted bag of n-grams."""

    weights: dict[NGram, float]
    """What each n-gram weighs."""
    norms: list[float]
    """The Euclidean norm of the weights of each order."""
    length: int
    """The number of bigrams."""


@dataclass(frozen=True)
class Frequencies:
    """In how many of a number of images each n-gram occurs: what a weight needs to know of a corpus.

    N-grams of one image only are left out: they weigh what an unseen one does, and are most of a large corpus.
    """

    images: int
    """The number of images N."""
    counts: Mapping[NGram, int]
    """Occurrences from 2 to N."""

    @classmethod
    def of(cls, references: Sequence[Sequence[str]]) -> Frequencies:
        """Count over images, each with its references as tokens separated by spaces."""
        found = document_frequencies([text.split() for text in texts] for texts in references)
        return cls(len(references), {gram: count for gram, count in found.items() if count > 1})

    def weigh(self, caption: str) -> Weighed:
        """The weights of one caption, tokens separated by spaces."""
        words, corpus = caption.split(), math.log(self.images)
        squares = [0.0] * ORDERS
        weights = {}
        for gram, count in ngrams(words).items():
            weights[gram] = weight = count * (corpus - math.log(self.counts.get(gram, 1)))
            squares[len(gram) - 1] += weight * weight
        return Weighed(weights, [math.sqrt(square) for square in squares], max(0, len(words) - 1))


def similarity(candidate: Weighed, reference: Weighed, *, plain: bool = False) -> float:
    """Ten times the mean over orders of the similarity of two captions.

    Args:
        candidate: the caption that is scored.
        reference: one of its references, weighed by the same frequencies.
        plain: leave out the clipping and the length penalty.

    Returns:
        A number in [0, 10].
    """
    dots = [0.0] * ORDERS
    for gram, weight in candidate.weights.items():
        other = reference.weights.get(gram)
        if other is not None:
            dots[len(gram) - 1] += (weight if plain else min(weight, other)) * other
    norms = [a * b for a, b in zip(candidate.norms, reference.norms, strict=True)]
    cosines = [dot / norm if norm else dot for dot, norm in zip(dots, norms, strict=True)]
    penalty = 1.0 if plain else math.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))
    return 10 * penalty * sum(cosines) / ORDERS


def cider_of(candidate: str, references: Sequence[str], frequencies: Frequencies, *, plain: bool = False) -> float:
    """CIDEr-D (or plain CIDEr) in [0, 10] of one caption; all texts are tokens separated by spaces."""
    weighed = frequencies.weigh(candidate)
    return sum(similarity(weighed, frequencies.weigh(text), plain=plain) for text in references) / len(references)


def cider(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, name: str = "CIDEr", plain: bool = False
) -> Tally:
    """CIDEr-D, or plain CIDEr: the mean over images, with the document frequencies of these references.

    The interval that comes of the tally keeps the document frequencies and resamples the images' scores.

    Args:
        candidates: ``(n,)`` captions, tokens separated by spaces; n ≥ 2 for a score that is not 0.
        references: for each its references; at least one each.
        name: the name of the tally.
        plain: leave out the clipping and the length penalty.

    Returns:
        A tally; values in [0, 10].
    """
    frequencies = Frequencies.of(references)
    pairs = zip(candidates, references, strict=True)
    return mean_of(name, np.array([cider_of(*pair, frequencies, plain=plain) for pair in pairs], dtype=np.float64))


class CiderReward:
    """CIDEr-D against a fixed table of document frequencies: the reward of self-critical sequence training.

    On the captions and references of a whole data set the rewards are the scores that :func:`cider` gives each image.

    Rennie et al., "Self-critical sequence training for image captioning", CVPR 2017, section 3.
    """

    def __init__(
        self,
        references: Mapping[object, Sequence[str]],
        *,
        frequencies: Frequencies | None = None,
        end: str | None = None,
    ) -> None:
        """Tokenise the references and count their n-grams.

        Args:
            references: for each id the raw reference captions; at least one each.
            frequencies: the document frequencies of a larger corpus, counted over texts that :func:`tokenize` split;
                those of ``references`` unless given.
            end: a token appended to every caption, such as ``<eos>``, so that a caption that stops too early
                loses the n-grams with the end. Rewards are then not CIDEr-D scores.

        Raises:
            DataError: fewer than two images without ``frequencies``, or an image without references.
        """
        empty = [key for key, texts in references.items() if isinstance(texts, str) or not texts]
        if empty:
            raise DataError(f"{len(empty)} of {len(references)} images have no list of references: {empty[:5]}")
        if frequencies is None and len(references) < 2:
            raise DataError(
                f"CIDEr-D has {len(references)} image(s) to count document frequencies over and needs at least 2; "
                "give references of more images, or frequencies= of a larger corpus"
            )
        self.end = end
        self.references = {str(key): [self._prepared(text) for text in texts] for key, texts in references.items()}
        self.frequencies = frequencies or Frequencies.of(list(self.references.values()))

    def _prepared(self, text: str) -> str:
        return " ".join([*tokenize(text), *([self.end] if self.end else [])])

    def __call__(self, ids: Sequence[object], captions: Sequence[str]) -> Floats:
        """Reward captions.

        Args:
            ids: ``(b,)`` the image of each caption; an image may come several times.
            captions: ``(b,)`` raw captions.

        Returns:
            ``(b,)`` rewards in [0, 10].

        Raises:
            UsageError: ids and captions differ in number.
            DataError: an id without references.
        """
        if len(ids) != len(captions):
            raise UsageError(f"{len(ids)} ids came with {len(captions)} captions; give one id for each caption")
        keys = [str(key) for key in ids]
        unknown = sorted({key for key in keys if key not in self.references})
        if unknown:
            raise DataError(
                f"{len(unknown)} ids have no references among {len(self.references)}: {', '.join(unknown[:5])}"
            )
        weighed = {key: [self.frequencies.weigh(text) for text in self.references[key]] for key in dict.fromkeys(keys)}
        return np.array([self._reward(weighed[key], text) for key, text in zip(keys, captions, strict=True)])

    def _reward(self, references: list[Weighed], caption: str) -> float:
        candidate = self.frequencies.weigh(self._prepared(caption))
        return sum(similarity(candidate, reference) for reference in references) / len(references)
