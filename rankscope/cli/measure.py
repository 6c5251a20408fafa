"""``rankscope measure``: named numbers of one run along its sites."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rankscope.cli import early, options, show

if TYPE_CHECKING:
    from rankscope.results.runs import Measurement, RunRecord


def measure(
    run: options.Run,
    analysed: options.Analysed,
    intervals: options.Intervals,
    printing: options.Printing,
    plot: options.Figure = None,
    base_model: options.BaseModel = None,
    download: options.Download = False,
    full: options.Full = False,
) -> None:
    """Measure a run: effective rank, stable rank, participation ratio, energy-90, the PT-PEFT ratio, and any others by name.

    Example: rankscope measure lora.pt --measures roy-vetterli,stable-rank --json
    """
    if download:
        early.fetch_checkpoints(run, base_model=base_model)
    early.need_runs(run, base_model=base_model)
    early.need_sites(analysed.sites, run)
    early.need_numbers_of_one_run(analysed.measures)
    early.need_figure(plot)
    import rankscope

    with printing.progress("measuring") as progress:
        result = rankscope.measure(
            run, base_model=base_model, **intervals.keywords(), **analysed.keywords(), progress=progress
        )
    printing.notes(result.notes)
    table = show.view(
        result,
        full=full,
        named=analysed.measures is not None,
        records=partial(_table, result, quiet=printing.quiet),
        say=printing.notes_of,
    )
    printing.records(result.to_records(), table, result.to_json)
    show.figure(result, plot, f"{result.run}-measures", quiet=printing.quiet)


def _table(result: Measurement, *, quiet: bool) -> None:
    by_site: dict[str, list[RunRecord]] = {}
    for record in result.records:
        by_site.setdefault(record.site, []).append(record)
    first = result.records[0]
    shape = f"{first.shape.dtype}; 95 % intervals over {first.shape.samples} samples"
    lines = [
        [site, str(r[0].shape.n), str(r[0].shape.d), *map(show.with_and_without_sinks, r)]
        for site, r in by_site.items()
    ]
    columns = ["site", "n", "d", *result.measures]
    if show.fits(columns, lines):
        show.table(f"{result.run}: {shape}", columns, lines)
    else:
        long = [
            [r.site, r.measure, show.with_and_without_sinks(r), show.number(r.noise), str(r.shape.n), str(r.shape.d)]
            for r in result.records
        ]
        show.table(f"{result.run}: {shape}", ["site", "measure", "value", "noise", "n", "d"], long, words=2)
    if not quiet:
        show.shares({r.site: show.percent(r.mean_share) for r in result.records})
