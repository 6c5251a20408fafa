"""``rankscope between``: rows of two sites of a run, related on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from rankscope.cli import completion, early, options, relations, show
from rankscope.reading.kinds import rows_of


def between(
    runs: Annotated[
        list[Path], Argument(help="Runs, or checkpoint folders, collected first on the data of a run among them.")
    ],
    treated: options.Treated,
    intervals: options.Intervals,
    printing: options.Printing,
    source: Annotated[
        str,
        Option(
            "--from",
            metavar="SITE[:KIND]",
            callback=options.refusing(rows_of),
            autocompletion=completion.site_rows,
            help="The first side: a site, or several, and the kind of rows, as in vision.final:image or decoder.3:last.",
        ),
    ],
    target: Annotated[
        str,
        Option(
            "--to",
            metavar="SITE[:KIND]",
            callback=options.refusing(rows_of),
            autocompletion=completion.site_rows,
            help="The second side: a site, each of several, or as many as the first has, pair by pair.",
        ),
    ],
    base: Annotated[Path | None, Option(help="The pre-trained run, from which changes are measured.")] = None,
    permutations: Annotated[int, Option(min=0, help="Draws of what is unrelated, for p-values.")] = 0,
    common_rows: options.CommonRows = False,
    plot: options.Figure = None,
    base_model: options.BaseModel = None,
    download: options.Download = False,
    full: options.Full = False,
) -> None:
    """Relate rows of two sites: what of the image can be read from the text, and the gap between the two along the depth.

    Rows of a kind become one a sample: their mean, or the first or last. Collect runs with --rows tokens.

    Example: rankscope between lora.pt --base base.pt --from vision.final:image --to decoder:text --plot

    Example: rankscope between lora.pt --from decoder:image --to decoder:text
    """
    named = [*runs, *([base] if base else [])]
    if download:
        early.fetch_checkpoints(*named, base_model=base_model)
    early.need_runs(*named, base_model=base_model)
    for side in (source, target):
        early.need_sites(rows_of(side).sites, *named)
    early.need_figure(plot)
    import rankscope

    with printing.progress("relating", unit="pairs of sites") as progress:
        result = rankscope.between(
            runs,
            source,
            target,
            base=base,
            permutations=permutations,
            **intervals.keywords(),
            common_rows=common_rows,
            base_model=base_model,
            **treated.keywords(),
            progress=progress,
        )
    printing.notes(result.notes)
    printing.records(result.to_records(), relations.printed(result, printing, full=full))
    show.figure(result, plot, f"{'-'.join(result.names)}-between", quiet=printing.quiet)
