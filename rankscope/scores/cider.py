r"""CIDEr and CIDEr-D: the similarity of a caption to its references, in n-grams weighted by how informative they are.

The weight of an n-gram g of a caption is :math:`w(g) = \mathrm{tf}(g)\,(\ln N - \ln \max(1, \mathrm{df}(g)))`, with df the
number of images among N whose references contain it. For each order n from 1 to 4 and each reference

.. math:: s_n = e^{-\delta^2 / 2\sigma^2} \frac{\sum_g \min(w_c(g), w_r(g))\, w_r(g)}{\|w_c\|\,\|w_r\|}, \qquad \sigma = 6

with δ the difference of the lengths; the score is ten times the mean over orders and references. Without the minimum and
the Gaussian it is the plain form of the paper's equations 2 to 4.

Vedantam, Zitnick & Parikh, "CIDEr", CVPR 2015, equations 1 to 5. What the COCO caption evaluation code prints as "CIDEr",
and what papers report under that name, is CIDEr-D; so it is here: ``CIDEr`` and ``CIDEr-D`` are equal, and the plain
form is ``CIDEr-plain``. As in that code, lengths are counted in bigrams. Lies in [0, 10]. Over one image every weight is
:math:`\ln 1 = 0`, so there is no score.

It is implemented here, rather than called there, because the reward of self-critical training must keep its document
frequencies while the captions change, and because the whole is small.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rankscope.errors import DataError, UsageError
from rankscope.scores.bleu import ORDERS, NGram, ngrams
from rankscope.scores.result import Floats, Tally, mean_of
from rankscope.scores.tokenize import tokenize

SIGMA = 6.0
"""The width of the length penalty, in words."""


class Weighed(NamedTuple):
    """One caption as a weighted bag of n-grams."""

    weights: dict[NGram, float]
    """The weight w(g) of each n-gram."""
    norms: list[float]
    """The Euclidean norm of the weights of each order."""
    length: int
    """The number of bigrams."""


@dataclass(frozen=True)
class Frequencies:
    """Document frequencies: in how many of the images of a corpus each n-gram occurs.

    N-grams that occur in one image only are left out: ln 1 = ln max(1, 0), so they weigh as much as an unseen one, and
    they are most of a large corpus.
    """

    images: int
    """The number of images N."""
    counts: Mapping[NGram, int]
    """Occurrences from 2 to N."""

    @classmethod
    def of(cls, references: Sequence[Sequence[str]]) -> Frequencies:
        """Count over images, each with its references as tokens separated by spaces."""
        found: Counter[NGram] = Counter()
        for texts in references:  # a set: an n-gram counts once for an image, whichever of its references hold it
            found.update({gram for text in texts for gram in ngrams(text.split())})
        return cls(len(references), {gram: count for gram, count in found.items() if count > 1})

    def weigh(self, caption: str) -> Weighed:
        """The weights of one caption, tokens separated by spaces."""
        words, corpus = caption.split(), math.log(self.images)
        squares = [0.0] * ORDERS
        weights = {}
        for gram, count in ngrams(words).items():
            # w(g) = tf(g) (ln N - ln max(1, df(g))); tf is the raw count, as in the evaluation code.
            weights[gram] = weight = count * (corpus - math.log(self.counts.get(gram, 1)))
            squares[len(gram) - 1] += weight * weight
        return Weighed(weights, [math.sqrt(square) for square in squares], max(0, len(words) - 1))


def similarity(candidate: Weighed, reference: Weighed, *, plain: bool = False) -> float:
    """Ten times the mean over orders of the similarity of two captions.

    Args:
        candidate: the caption that is scored.
        reference: one of its references, weighed by the same frequencies.
        plain: leave out the clipping and the length penalty of CIDEr-D.

    Returns:
        A number in [0, 10].
    """
    dots = [0.0] * ORDERS
    for gram, weight in candidate.weights.items():
        other = reference.weights.get(gram)
        if other is not None:  # equation 4's numerator; CIDEr-D clips the candidate's weight to the reference's
            dots[len(gram) - 1] += (weight if plain else min(weight, other)) * other
    norms = [a * b for a, b in zip(candidate.norms, reference.norms, strict=True)]
    cosines = [dot / norm if norm else dot for dot, norm in zip(dots, norms, strict=True)]
    # The Gaussian exp(-δ²/2σ²) of CIDEr-D, then ten times the mean over orders.
    penalty = 1.0 if plain else math.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))
    return 10 * penalty * sum(cosines) / ORDERS


def cider_of(candidate: Weighed, references: Sequence[Weighed], *, plain: bool = False) -> float:
    """CIDEr-D (or plain CIDEr) in [0, 10] of one caption: the mean similarity to its references."""
    return sum(similarity(candidate, reference, plain=plain) for reference in references) / len(references)


def cider(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, name: str = "CIDEr", plain: bool = False
) -> Tally:
    """CIDEr-D, or plain CIDEr: the mean over images, with the document frequencies of these references.

    The interval of the tally resamples the images' scores and keeps the document frequencies.

    Args:
        candidates: ``(n,)`` captions, tokens separated by spaces; n ≥ 2 for a score that is not 0.
        references: the references of each, at least one.
        name: the name of the tally.
        plain: leave out the clipping and the length penalty of CIDEr-D.

    Returns:
        A tally; values in [0, 10].
    """
    weigh = Frequencies.of(references).weigh
    pairs = zip(candidates, references, strict=True)
    each = [cider_of(weigh(caption), [weigh(text) for text in texts], plain=plain) for caption, texts in pairs]
    return mean_of(name, np.array(each, dtype=np.float64))


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
                those of ``references`` if None.
            end: a token appended to every caption, such as ``<eos>``, so that a caption that stops too early loses the
                n-grams that contain the end. Rewards are then not CIDEr-D scores.

        Raises:
            DataError: if there are fewer than two images and no ``frequencies``, or an image has no references.
        """
        empty = [key for key, texts in references.items() if isinstance(texts, str) or not texts]
        if empty:
            raise DataError(f"{len(empty)} of {len(references)} images have no list of references: {empty[:5]}")
        if frequencies is None and len(references) < 2:
            raise DataError(
                f"CIDEr-D has {len(references)} image(s) to count document frequencies over, and needs at least 2; "
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
            UsageError: if ids and captions differ in number.
            DataError: if an id has no references.
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
        each = [
            cider_of(self.frequencies.weigh(self._prepared(c)), weighed[k]) for k, c in zip(keys, captions, strict=True)
        ]
        return np.array(each)
