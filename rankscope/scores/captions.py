"""Scoring captions: all metrics over one tokenisation, with intervals over images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np

from rankscope.errors import DataError, MissingTool, UnknownName
from rankscope.scores.bleu import bleu
from rankscope.scores.cider import cider
from rankscope.scores.java import Java, ptb_tokenized
from rankscope.scores.meteor import meteor
from rankscope.scores.predictions import by_text, check_ids
from rankscope.scores.result import RESAMPLES, Scores, Tally
from rankscope.scores.rouge import rouge_l
from rankscope.scores.spice import spice
from rankscope.scores.tokenize import tokenized

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr", "CIDEr-D", "METEOR", "SPICE")
"""The metrics that are computed by default."""
MORE_METRICS = ("CIDEr-plain",)
"""Metrics that are computed only when named."""
TOKENIZERS = ("builtin", "ptb")
"""``builtin``: :func:`rankscope.scores.tokenize.tokenized`. ``ptb``: Stanford's program, which needs Java."""

_Texts = Sequence[str]


def metric_names(names: Iterable[str] | None) -> tuple[str, ...]:
    """Names of metrics as they are spelled here.

    Args:
        names: in any case, with ``_`` or ``-``, ``bleu`` for all four; None for :data:`METRICS`.

    Raises:
        UnknownName: if there is no such metric.
    """
    if names is None:
        return METRICS
    known = {name.lower(): (name,) for name in METRICS + MORE_METRICS} | {"bleu": METRICS[:4], "rouge": ("ROUGE-L",)}
    asked = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in asked if name.lower().replace("_", "-") not in known]
    if unknown or not asked:
        raise UnknownName(
            f"there is no metric {', '.join(map(repr, unknown)) or 'asked for'}; the metrics are "
            f"{', '.join(METRICS + MORE_METRICS)}"
        )
    return tuple(dict.fromkeys(name for key in asked for name in known[key.lower().replace("_", "-")]))


def _checked(
    candidates: Mapping[object, str], references: Mapping[object, Sequence[str]]
) -> tuple[list[str], dict[str, _Texts]]:
    """The captions, and their references by id as text, both in the order of the references."""
    captions, given = by_text(candidates, "predictions"), by_text(references, "references")
    check_ids(captions, given, "references")
    several = [key for key, text in captions.items() if not isinstance(text, str)]
    if several:
        raise DataError(
            f"{len(several)} of {len(captions)} ids have something other than one caption ({', '.join(several[:5])}), such "
            f"as {captions[several[0]]!r}; give one text for each id"
        )
    bare = [key for key, texts in given.items() if isinstance(texts, str) or not texts]
    if bare:
        first = ", ".join(bare[:5])
        raise DataError(f"{len(bare)} of {len(given)} ids have no list of references: {first}; give at least one each")
    return [captions[key] for key in given], given


def _split(
    captions: _Texts, references: Sequence[_Texts], tokenizer: str, java: Java
) -> tuple[list[str], list[list[str]]]:
    """Captions and references as tokens separated by spaces."""
    if tokenizer not in TOKENIZERS:
        raise UnknownName(f"there is no tokenizer {tokenizer!r}; the tokenizers are {', '.join(TOKENIZERS)}")
    split: Callable[[_Texts], list[str]] = partial(ptb_tokenized, java=java) if tokenizer == "ptb" else tokenized
    # All references in one call, in their order: the tokenizer looks at the following line, and Java starts slowly.
    flat = iter(split([text for texts in references for text in texts]))
    return split(captions), [list(islice(flat, len(texts))) for texts in references]


def score_captions(
    candidates: Mapping[object, str],
    references: Mapping[object, Sequence[str]],
    *,
    metrics: Iterable[str] | None = None,
    tokenizer: str = "builtin",
    per_sample: bool = False,
    spice_home: str | os.PathLike[str] | None = None,
    java: Java | None = None,
    resamples: int = RESAMPLES,
) -> Scores:
    """Score one caption for each image against its references.

    Values equal those of the COCO caption evaluation code. By default a metric whose tools are not installed is None with
    a reason; when it is named, it raises. BLEU, ROUGE-L and CIDEr need neither Java nor any package. An empty caption is
    scored; over a single image CIDEr is None, where the evaluation code prints 0.

    Args:
        candidates: a raw caption for each id.
        references: raw reference captions for each id, at least one; ids count as text.
        metrics: names out of :data:`METRICS` and :data:`MORE_METRICS`; all of :data:`METRICS` if None.
        tokenizer: one of :data:`TOKENIZERS`.
        per_sample: keep the scores of single images.
        spice_home: the folder that holds the parser SPICE needs; see :mod:`rankscope.scores.spice`.
        java: how Java programs are run.
        resamples: draws of the bootstrap over images; 0 for no intervals.

    Returns:
        Scores in [0, 1], CIDEr and its kin in [0, 10], in the order asked for; ids in the order of the references.

    Raises:
        DataError: if ids are missing or left over, an id has several captions or no references, or there are no ids.
        UnknownName: if there is no such metric or tokenizer.
        MissingTool: if a named metric or tokenizer needs a program or package that is not installed, or that failed.
    """
    names, java = metric_names(metrics), java or Java()
    captions, given = _checked(candidates, references)
    compute = _functions(java, spice_home)
    texts, others = _split(captions, list(given.values()), tokenizer, java)
    found: dict[str, Tally] = {}
    reasons: dict[str, str] = {}
    for name in names:
        if name in found:  # BLEU-1 to BLEU-4 come together
            continue
        if name.startswith("CIDEr") and len(texts) < 2:
            reasons[name] = "CIDEr weighs n-grams by how few images hold them, and needs at least 2 images"
            continue
        try:
            tallies = compute[name](texts, others)
        except MissingTool as error:
            if metrics is not None:
                raise
            reasons[name] = str(error)
        else:
            found |= {tally.name: tally for tally in ([tallies] if isinstance(tallies, Tally) else tallies)}
    kept = [found[name] for name in names if name in found]
    scores = Scores.of(kept, tuple(given), "1", resamples=resamples, per_sample=per_sample)
    for tally in kept:
        if scores[tally.name] is None:
            undefined = int((~np.isfinite(tally.each)).sum())
            reasons[tally.name] = f"{tally.name} has no value for {undefined} of {len(given)} images"
    return replace(
        scores,
        values=dict.fromkeys(names) | dict(scores.values),
        intervals=dict.fromkeys(names) | dict(scores.intervals),
        reasons=reasons,
        tokenizer=tokenizer,
    )


def _functions(
    java: Java, spice_home: str | os.PathLike[str] | None
) -> dict[str, Callable[[_Texts, Sequence[_Texts]], Tally | list[Tally]]]:
    """The function that computes each metric from tokenised captions and references."""
    return {
        **dict.fromkeys(METRICS[:4], bleu),
        "ROUGE-L": rouge_l,
        "CIDEr": cider,
        "CIDEr-D": partial(cider, name="CIDEr-D"),
        "CIDEr-plain": partial(cider, name="CIDEr-plain", plain=True),
        "METEOR": partial(meteor, java=java),
        "SPICE": partial(spice, java=java, spice_home=spice_home),
    }
