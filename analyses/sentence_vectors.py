"""What a sentence encoder makes of texts: ranks of its sentence vectors, how they lie to the base's, and what can be done with them.

A *sentence vector* is the mean over all tokens of a text, [CLS] and [SEP] among them. What else the vectors can do, besides the labels
that are tuned for, is asked in three ways. *Retrieval*: which second paragraph goes on from which first one, by the largest
cosine. *Kind* (class, function or method: accuracy) and *length* (logarithm of the number of letters: R²): read off by a ridge
regression, each text by all others. *Area*, the label itself, is read in the same way.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from library_texts import AREAS, KINDS
from runs import Study, held_out
from torch import Tensor, nn

import rankscope
from rankscope.comparisons.drift import drift
from rankscope.comparisons.subspace import overlap
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.measures.participation_ratio import clustered_participation_ratio, unbiased_participation_ratio

RANK, SPREAD = "participation-ratio", "roy-vetterli"
PENALTIES = tuple(10.0**i for i in range(-6, 1))
"""Penalties of the ridge regression, as shares of the largest variance; the one that predicts best is taken."""
Numbers = dict[str, float]


class Seen(NamedTuple):
    """A set of texts as a model sees them, in the order of the data."""

    logits: Tensor
    """``(n, 8)``."""
    labels: Tensor
    """``(n,)`` the areas."""
    vectors: list[Tensor]
    """``(n, d)`` sentence vectors of each site, the embeddings first."""
    tokens: Tensor
    """``(t, d)`` token rows of every fourth text at the last site."""
    sample: Tensor
    """``(t,)`` the text of each."""

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return float(nn.functional.cross_entropy(self.logits.double(), self.labels))

    @property
    def accuracy(self) -> float:
        """The share of texts of which the likeliest area is the right one."""
        return float((self.logits.argmax(-1) == self.labels).double().mean())


@torch.no_grad()
def seen(study: Study, name: str, model: nn.Module) -> Seen:
    """A set of texts as a model in evaluation mode sees them."""
    logits, labels, layers, tokens, sample = [], [], [], [], []
    for inputs in held_out(study, name, study.samples).batches:
        out, mask = model(**inputs, output_hidden_states=True), inputs["attention_mask"].unsqueeze(-1)
        layers.append([(h * mask).sum(1) / mask.sum(1) for h in out.hidden_states])  # a mean over the real tokens
        first = sum(map(len, labels))
        logits.append(out.logits)
        labels.append(inputs["labels"])
        kept = mask[::4, :, 0].bool()
        tokens.append(out.hidden_states[-1][::4][kept])
        sample.append(first + 4 * kept.nonzero()[:, 0])
    by_site = [torch.cat(parts) for parts in zip(*layers, strict=True)]
    return Seen(torch.cat(logits), torch.cat(labels), by_site, torch.cat(tokens), torch.cat(sample))


def validated(study: Study, model: nn.Module) -> Numbers:
    """What the learning rate is chosen by."""
    there = seen(study, "validation", model)
    return {"validation": there.loss, "validation accuracy": there.accuracy}


@cache
def of_base(study: Study) -> Seen:
    """The held-out texts as the encoder sees them that was not tuned."""
    return seen(study, "test", rankscope.load_model(study.base))


def view(study: Study, model: nn.Module) -> Numbers:
    """All numbers of a model as it is now; those of the last site by the name of the measure alone."""
    base, now = of_base(study), seen(study, "test", model)
    found = {"task": now.loss, "accuracy": now.accuracy, **validated(study, model)}
    for depth, (x, y) in enumerate(zip(base.vectors, now.vectors, strict=True)):
        found |= {f"{name} {depth}": value for name, value in against(x, y).items()}
    found |= against(base.vectors[-1], now.vectors[-1])
    total = ClusterMoments.of(now.tokens, now.sample, shift=now.tokens.double().mean(0)).sum(0)
    found[f"{RANK} of tokens"] = float(clustered_participation_ratio(total))
    found[f"{SPREAD} of tokens"] = spread(now.tokens)
    return found | by_area(now.vectors[-1], now.labels) | kept_abilities(study, model, now)


def against(x: Tensor, y: Tensor) -> Numbers:
    """Ranks of features ``y``, and their relations to those of the base, ``x``: ``(n, d)`` both."""
    pair = PairMoments.of(x, y, shift_a=x.double().mean(0), shift_b=y.double().mean(0)).sum(0)
    return {
        RANK: float(unbiased_participation_ratio(pair.b)),
        SPREAD: spread(y),
        "recoverability": rankscope.recoverability(x, y).weighted,
        "overlap": float(overlap(pair)),
        "drift": float(drift(pair)),
    }


def spread(y: Tensor) -> float:
    """The Roy–Vetterli rank of centred rows."""
    return float(rankscope.effective_rank(torch.linalg.svdvals(y.double() - y.double().mean(0))))


def by_area(y: Tensor, labels: Tensor) -> Numbers:
    """The share of the variance that lies between areas, and the participation ratio without it."""
    y = y.double() - y.double().mean(0)
    means = torch.stack([y[labels == area].mean(0) for area in range(len(AREAS))])[labels]
    within = Moments.of(y - means, shift=torch.zeros(y.shape[1])).sum(0)
    return {
        "between": float(means.square().sum() / y.square().sum()),
        "within": float(unbiased_participation_ratio(within)),
    }


def kept_abilities(study: Study, model: nn.Module, now: Seen) -> Numbers:
    """What the sentence vectors can do besides: retrieval, and what a ridge regression reads off them."""
    test, bodies = study.data("test", 0), study.data("bodies", 0)
    place = {example.id: i for i, example in enumerate(test)}
    asked = now.vectors[-1][[place[example.id] for example in bodies]].double()
    given = seen(study, "bodies", model).vectors[-1].double()
    nearest = (nn.functional.normalize(asked) @ nn.functional.normalize(given).T).argmax(1)
    kinds = torch.tensor([KINDS.index(example.about["kind"]) for example in test])
    length = torch.tensor([[float(len(example.text or ""))] for example in test]).log().double()
    vectors = now.vectors[-1]
    return {
        "retrieval": float((nearest == torch.arange(len(given))).double().mean()),
        "kind": read_class(vectors, kinds),
        "area": read_class(vectors, now.labels),
        "length": read_value(vectors, length),
    }


def left_out(x: Tensor, y: Tensor) -> Tensor:
    """``(n, k)`` values of each row as a ridge regression on all other rows predicts them; the best of :data:`PENALTIES`."""
    x, y = x.double() - x.double().mean(0), y.double()
    values, vectors = torch.linalg.eigh(x @ x.T)
    found = []
    for share in PENALTIES:
        # H = K (K + λ)⁻¹ + 1/n, and what is left out errs by (y - Hy) / (1 - h).
        shrunk = values.clamp(min=0) / (values.clamp(min=0) + share * values.max())
        h = (vectors * shrunk) @ vectors.T + 1 / len(x)
        found.append(y - (y - h @ y) / (1 - h.diagonal().unsqueeze(1)))
    return min(found, key=lambda predicted: float((predicted - y).square().sum()))


def read_class(x: Tensor, labels: Tensor) -> float:
    """The share of rows whose class is the likeliest by the others."""
    return float((left_out(x, nn.functional.one_hot(labels)).argmax(1) == labels).double().mean())


def read_value(x: Tensor, y: Tensor) -> float:
    """R² of a value, each row predicted by the others."""
    return 1 - float((left_out(x, y) - y).square().sum() / (y - y.mean()).square().sum())
