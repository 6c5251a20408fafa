"""``rankscope report``: runs against their base in one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from rankscope.cli import early, options, show


def report(
    analysed: options.Analysed,
    intervals: options.Intervals,
    runs: Annotated[list[Path], Argument(help="Runs, or checkpoint folders, collected first on the base's data.")],
    base: Annotated[Path, Option(help="The pre-trained run, against which changes are measured.")],
    out: Annotated[Path, Option("--out", "-o", help="The file.")] = Path("report.html"),
    weights: Annotated[
        bool,
        Option("--weights", help="Also show what changed in the weights, for checkpoints still where the runs say."),
    ] = False,
    common_rows: options.CommonRows = False,
    base_model: options.BaseModel = None,
    download: options.Download = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare runs with their base and write a report: one HTML file that opens anywhere and loads nothing.

    It begins with the verdict, followed by interactive figures and tables that sort and copy. The numbers are in it too: rankscope show
    prints them again.

    Example: rankscope report lora.pt ptlora.pt --base pretrained.pt -o report.html
    """
    early.need_free(out, overwrite=overwrite)
    if download:
        early.fetch_checkpoints(*runs, base, base_model=base_model)
    early.need_runs(*runs, base, base_model=base_model)
    early.need_sites(analysed.sites, *runs, base)
    import rankscope

    with show.progress("comparing", quiet=quiet) as progress:
        rankscope.make_report(
            runs,
            base=base,
            out=out,
            weights=weights,
            **intervals.keywords(),
            common_rows=common_rows,
            base_model=base_model,
            overwrite=overwrite,
            **analysed.keywords(),
            progress=progress,
        )
    show.made(out)
