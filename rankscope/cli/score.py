"""``rankscope score``: predictions against references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rankscope.cli import show
from rankscope.cli.data import Answers, Columns, Images, Regions, Restval, opened


def score(
    predictions: Annotated[Path, typer.Argument(help="JSON lines, COCO results or a VQA submission.")],
    data: Annotated[str, typer.Option(help="What they were made for: a file, a folder, or scenes.")],
    images: Images = None,
    regions: Regions = None,
    answers: Answers = None,
    columns: Columns = None,
    restval: Restval = True,
    kind: Annotated[
        str | None, typer.Option(help="captions, answers or labels; told by the data unless given.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Caption metrics, by comma.")] = None,
    vqa_rule: Annotated[str, typer.Option(help="official, lavis or always.")] = "official",
    tokenizer: Annotated[str, typer.Option(help="builtin or ptb (needs Java).")] = "builtin",
    spice_home: Annotated[Path | None, typer.Option(help="The folder of SPICE's parser.")] = None,
    java_memory: Annotated[str | None, typer.Option(help="The heap of METEOR, SPICE and ptb, as 4G.")] = None,
    per_sample: Annotated[bool, typer.Option("--per-sample", help="The scores of every sample as well.")] = False,
    submission: Annotated[
        Path | None,
        typer.Option(help="Write what the official server takes (COCO results, VQA answers) to this file instead."),
    ] = None,
    overwrite: show.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print scores, intervals and samples as JSON.")] = False,
) -> None:
    """Score captions (BLEU, ROUGE-L, CIDEr, CIDEr-D, METEOR, SPICE), answers (VQA accuracy) or labels, with intervals over
    images.

    Example: rankscope score predictions.jsonl --data scenes:captions/test
    """
    from rankscope.results.record import Estimate
    from rankscope.scores import Java
    from rankscope.scores.scoring import score as run_score
    from rankscope.scores.scoring import write_submission

    probes = opened(data, images=images, regions=regions, answers=answers, columns=columns, restval=restval)
    if submission is not None:
        count = write_submission(predictions, probes, submission, kind=kind, overwrite=overwrite)
        show.note(f"{count} predictions, with an id for each of the data's")
        typer.echo(submission)
        return
    result = run_score(
        predictions,
        probes,
        kind=kind,
        metrics=metrics.split(",") if metrics else None,
        rule=vqa_rule,
        tokenizer=tokenizer,
        spice_home=spice_home,
        java=Java(memory=java_memory),
        per_sample=per_sample,
    )
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=1))
        return
    lines = []
    for name, number in result.values.items():
        estimate = Estimate(number, *(result.intervals.get(name) or ()))
        lines.append([name, show.interval(estimate), result.reasons.get(name, "")])
    title = [f"{result.images} {'images' if result.tokenizer or result.rule else 'samples'}"]
    title += [f"{name} {told}" for name in ("tokenizer", "rule") if (told := getattr(result, name))]
    show.table(", ".join([*title, f"unit {result.unit}"]), ["score", "value", "why not"], lines)
    if per_sample:
        typer.echo(result.samples_frame().to_csv())


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(score)
