"""``rankscope track``: the checkpoints of one training, against the step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from rankscope.cli import early, options, show, steps


def track(
    checkpoints: Annotated[
        list[Path], Argument(help="Checkpoint folders of one training, or the folder in which the Trainer put them.")
    ],
    analysed: options.Analysed,
    intervals: options.Intervals,
    printing: options.Printing,
    probes: options.Data,
    data: Annotated[str | None, Option(help="The probe set. Default: embedded, to suit the model.")] = None,
    base: Annotated[
        Path | None, Option(help="What all are compared with. Default: the adapters' base, or the first.")
    ] = None,
    rows: options.Rows = "last",
    n: Annotated[int | None, Option("--n", min=1, help="Read only the first n samples.")] = None,
    out: Annotated[Path, Option(help="The folder for the runs, where they are found the next time.")] = Path("track"),
    plot: options.Figure = None,
    base_model: options.BaseModel = None,
    download: options.Download = False,
    trust_remote_code: options.TrustRemoteCode = False,
    full: options.Full = False,
) -> None:
    """Follow a training: any measure, the drift and the loss against the training step, with bands over all sites and steps.

    Steps with byte-identical weights are pointed out. Example: rankscope track out/checkpoint-* --data texts.jsonl --plot
    """
    if download:
        early.fetch_checkpoints(*checkpoints, base, base_model=base_model)
    early.need_checkpoints(checkpoints, base_model=base_model)
    if base is not None:
        early.need_checkpoint(base)
    early.need_data(data)
    early.need_figure(plot)
    examples = probes.open(data)
    import rankscope

    with printing.progress("tracking", unit="parts") as progress:
        result = rankscope.track(
            checkpoints,
            examples,
            base=base,
            rows=rows,
            n=n,
            out=out,
            **intervals.keywords(),
            base_model=base_model,
            trust_remote_code=trust_remote_code,
            **analysed.keywords(),
            progress=progress,
        )
    printing.notes(result.notes)
    printing.records(result.to_records(), steps.printed(result, printing, full=full))
    show.figure(result, plot, "track", quiet=printing.quiet)
