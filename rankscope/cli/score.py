"""``rankscope score``: predictions against references."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, echo

from rankscope.cli import early, options, show


@dataclass(frozen=True)
class Scoring:
    """How predictions are scored; fields are named as :func:`rankscope.score` names them."""

    kind: Annotated[str | None, Option(help="captions, answers or labels. Default: decided by the data.")] = None
    rule: Annotated[str, Option("--vqa-rule", "--rule", help="official, lavis or always.")] = "official"
    tokenizer: Annotated[str, Option(help="builtin or ptb (needs Java).")] = "builtin"
    spice_home: Annotated[Path | None, Option(help="The folder of SPICE's parser.")] = None
    per_sample: Annotated[bool, Option("--per-sample", help="Also print the scores of every sample.")] = False


def score(
    predictions: Annotated[Path, Argument(help="JSON lines, COCO results or a VQA submission.")],
    data: Annotated[str, Option(help="The data they were made for: a file, a folder, or scenes.")],
    probes: options.Data,
    scoring: Scoring,
    metrics: Annotated[str | None, Option(help="Caption metrics, comma-separated.")] = None,
    java_memory: Annotated[str | None, Option(help="Java heap of METEOR, SPICE and ptb, e.g. 4G.")] = None,
    submission: Annotated[Path | None, Option(help="Write a submission for the official server instead.")] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Score captions (BLEU, ROUGE-L, CIDEr, CIDEr-D, METEOR, SPICE), answers (VQA accuracy) or labels, with intervals over
    images.

    Example: rankscope score predictions.jsonl --data scenes:captions/test
    """
    early.need_file(predictions)
    early.need_data(data)
    early.need_free(submission, overwrite=overwrite)
    import rankscope
    from rankscope.scores import Java
    from rankscope.scores.join import write_submission

    examples = probes.open(data, images_needed=False)
    if submission is not None:
        count = write_submission(predictions, examples, submission, kind=scoring.kind, overwrite=overwrite)
        show.note(f"{count} predictions, one for every id in the data")
        show.made(submission)
        return
    chosen, java = metrics.split(",") if metrics else None, Java(memory=java_memory)
    result = rankscope.score(predictions, examples, metrics=chosen, java=java, **vars(scoring))
    if as_json:
        echo(json.dumps(result.to_json(), indent=1))
        return
    from rankscope.results.record import Estimate

    lines = []
    for name, number in result.values.items():
        estimate = Estimate(number, *(result.intervals.get(name) or ()))
        lines.append([name, show.interval(estimate), result.reasons.get(name, "")])
    title = [f"{result.images} {'images' if result.tokenizer or result.rule else 'samples'}"]
    title += [f"{name} {told}" for name in ("tokenizer", "rule") if (told := getattr(result, name))]
    show.table(", ".join([*title, f"unit {result.unit}"]), ["score", "value", "why not"], lines)
    if scoring.per_sample:
        echo(result.samples_frame().to_csv())
