"""``rankscope curve``: numbers of one run against the number of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from typer import Option

from rankscope.cli import early, options, show

if TYPE_CHECKING:
    from rankscope.results.runs import CurvePoint, Curves


def curve(
    run: options.Run,
    analysed: options.Analysed,
    printing: options.Printing,
    seed: Annotated[int, Option(help="Seed for dividing the samples.")] = 0,
    plot: options.Figure = None,
    base_model: options.BaseModel = None,
    download: options.Download = False,
) -> None:
    """Measure a run on all, on halves and on quarters of its samples, and extrapolate where a law is known.

    Example: rankscope curve lora.pt --measures entropy-rank,participation-ratio --plot curve
    """
    if download:
        early.fetch_checkpoints(run, base_model=base_model)
    early.need_runs(run, base_model=base_model)
    early.need_sites(analysed.sites, run)
    early.need_numbers_of_one_run(analysed.measures)
    early.need_figure(plot)
    import rankscope

    with printing.progress("measuring") as progress:
        result = rankscope.curve(run, seed=seed, base_model=base_model, **analysed.keywords(), progress=progress)
    printing.notes(result.notes)
    printing.records(result.to_records(), lambda: _table(result, printing.notes_of))
    show.figure(result, plot, f"{result.run}-curve", quiet=printing.quiet)


def _table(result: Curves, say: Callable[[Sequence[CurvePoint]], None]) -> None:
    levels = list(dict.fromkeys(round(r.rows) for r in result.records))
    by_name: dict[tuple[str, str], list[CurvePoint]] = {}
    for record in result.records:
        by_name.setdefault((record.site, record.measure), []).append(record)
    lines = []
    for (site, measure), mine in by_name.items():
        at = {round(r.rows): f"{show.number(r.value)} ({show.number(r.noise)})" for r in mine}
        lines.append([site, measure, *(at.get(n, "") for n in levels), show.number(mine[0].limit)])
    title = f"{result.run}: value (of noise) by number of rows; {result.records[0].d} features"
    show.table(title, ["site", "measure", *(f"n = {n}" for n in levels), "limit"], lines)
    say(result.records)
