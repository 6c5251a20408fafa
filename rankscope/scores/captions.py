"""Scoring captions: all metrics over one tokenisation, with intervals over images."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice

from rankscope.errors import DataError, MissingTool, UnknownName
from rankscope.scores.bleu import bleu
from rankscope.scores.cider import cider
from rankscope.scores.ids import by_text, check_ids
from rankscope.scores.java import Java, ptb_tokenized
from rankscope.scores.meteor import meteor
from rankscope.scores.result import RESAMPLES, Scores, intervals_of
from rankscope.scores.rouge import rouge_l
from rankscope.scores.spice import spice
from rankscope.scores.tally import Tally
from rankscope.scores.tokenize import tokenized

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr", "CIDEr-D", "METEOR", "SPICE")
"""The scores that are computed unless some are named."""
MORE_METRICS = ("CIDEr-plain",)
"""Scores that are computed only by name."""
TOKENIZERS = ("builtin", "ptb")
"""``builtin``: :func:`rankscope.scores.tokenize.tokenized`. ``ptb``: Stanford's program, which needs Java."""
_CIDERS = {"CIDEr": False, "CIDEr-D": False, "CIDEr-plain": True}
_OF_SEVERAL = "CIDEr weighs n-grams by how few images hold them, and needs at least 2 images"

_Texts = Sequence[str]


def metric_names(names: Iterable[str] | None) -> tuple[str, ...]:
    """Names of metrics as they are spelled here.

    Args:
        names: in any case, with ``_`` or ``-``, ``bleu`` for all four; None for :data:`METRICS`.

    Raises:
        UnknownName: a name that is none.
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
) -> tuple[dict[str, str], dict[str, _Texts]]:
    """Both by id as text, in the order of the references, each with a caption and references."""
    said, given = by_text(candidates, "predictions"), by_text(references, "references")
    check_ids(said, given, "references")
    several = [key for key, text in said.items() if not isinstance(text, str)]
    if several:
        raise DataError(
            f"{len(several)} of {len(said)} ids have something else than one caption ({', '.join(several[:5])}), such as "
            f"{said[several[0]]!r}; give one text for each id"
        )
    bare = [key for key, texts in given.items() if isinstance(texts, str) or not texts]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(given)} ids have no list of references ({', '.join(bare[:5])}); give at least one each"
        )
    return {key: said[key] for key in given}, given


def _tokens(said: _Texts, given: Sequence[_Texts], tokenizer: str, java: Java) -> tuple[list[str], list[list[str]]]:
    if tokenizer not in TOKENIZERS:
        raise UnknownName(f"there is no tokenizer {tokenizer!r}; the tokenizers are {', '.join(TOKENIZERS)}")
    split: Callable[[_Texts], list[str]] = partial(ptb_tokenized, java=java) if tokenizer == "ptb" else tokenized
    flat = iter(split([text for texts in given for text in texts]))
    return split(said), [list(islice(flat, len(texts))) for texts in given]


def _tallies(
    name: str, said: _Texts, given: Sequence[_Texts], tools: Mapping[str, Callable[..., Tally]]
) -> list[Tally]:
    if name.startswith("BLEU"):
        return bleu(said, given)
    if name in _CIDERS:
        return [cider(said, given, name=name, plain=_CIDERS[name])] if len(said) > 1 else []
    return [tools[name](said, given)]


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

    Values equal those of the COCO caption evaluation code. Without ``metrics``, those whose tools are not there are None
    with a reason; named, they raise. BLEU, ROUGE-L and CIDEr need neither Java nor any package. An empty caption is
    scored; over a single image CIDEr is None, where the evaluation code prints 0.

    Args:
        candidates: a raw caption for each id.
        references: raw reference captions for each id, at least one; ids count as text.
        metrics: names out of :data:`METRICS` and :data:`MORE_METRICS`.
        tokenizer: one of :data:`TOKENIZERS`.
        per_sample: keep the scores of single images.
        spice_home: the folder that holds the parser SPICE needs; see :mod:`rankscope.scores.spice`.
        java: how Java programs are run.
        resamples: draws of the bootstrap over images; 0 for no intervals.

    Returns:
        Scores in [0, 1], CIDEr and its kin in [0, 10], in the order asked for; ids in the order of the references.

    Raises:
        DataError: missing or extra ids, more than one caption for an id, an id without references, or no ids.
        UnknownName: no such metric or tokenizer.
        MissingTool: a named metric or tokenizer needs a program or package that is not there, or that failed.
    """
    names, java = metric_names(metrics), java or Java()
    said, given = _checked(candidates, references)
    texts, others = _tokens(list(said.values()), list(given.values()), tokenizer, java)
    tools: dict[str, Callable[..., Tally]] = {
        "ROUGE-L": rouge_l,
        "METEOR": partial(meteor, java=java),
        "SPICE": partial(spice, java=java, spice_home=spice_home),
    }
    found: dict[str, Tally] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            found |= {} if name in found else {tally.name: tally for tally in _tallies(name, texts, others, tools)}
        except MissingTool as error:
            if metrics is not None:
                raise
            reasons[name] = str(error)
    return _scores(names, found, reasons, tuple(given), tokenizer, per_sample, resamples)


def _scores(
    names: tuple[str, ...],
    found: Mapping[str, Tally],
    reasons: dict[str, str],
    ids: tuple[str, ...],
    tokenizer: str,
    per_sample: bool,
    resamples: int,
) -> Scores:
    tallies = {name: found[name] for name in names if name in found}
    values: dict[str, float | None] = dict.fromkeys(names)
    for name, tally in tallies.items():
        if math.isfinite(tally.value):
            values[name] = tally.value
        else:
            reasons[name] = f"{name} has no value for {int((~(abs(tally.each) < math.inf)).sum())} of {len(ids)} images"
    reasons |= {name: _OF_SEVERAL for name in names if name in _CIDERS and name not in tallies}
    return Scores(
        values=values,
        intervals=dict.fromkeys(names) | intervals_of(list(tallies.values()), resamples),
        images=len(ids),
        ids=ids,
        unit="1",
        reasons=reasons,
        samples={name: tally.each for name, tally in tallies.items()} if per_sample else None,
        tokenizer=tokenizer,
        tallies=tallies,
    )
