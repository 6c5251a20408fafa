"""``rankscope measure``: named numbers of one run along its sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankscope.cli import options, show

if TYPE_CHECKING:
    from rankscope.results.record import Measured, Measurement


def measure(
    run: options.Run,
    analysed: options.Analysed,
    printing: options.Printing,
    groups: options.Groups = 20,
    plot: options.Figure = None,
    base_model: options.BaseModel = None,
) -> None:
    """Measure a run: effective rank, stable rank, participation ratio, energy-90, the PT-PEFT ratio, and others by name.

    Example: rankscope measure lora.pt --measures roy-vetterli,stable-rank --json
    """
    import rankscope
    from rankscope.collecting.resolve import as_run

    with printing.progress("measuring") as progress:
        opened = as_run(run, progress=progress, base_model=base_model)
        result = rankscope.measure(opened, groups=groups, **analysed.keywords(), progress=progress)
    printing.records(result.to_records(), lambda: _table(result))
    if plot:
        show.figure(result, plot)


def _table(result: Measurement) -> None:
    by_site: dict[str, list[Measured]] = {}
    for record in result.records:
        by_site.setdefault(record.site, []).append(record)
    first = result.records[0]
    shape = f"{first.dtype}; 95 % intervals over {first.samples} samples"
    lines = [[site, str(r[0].n), str(r[0].d), *(_number(x) for x in r)] for site, r in by_site.items()]
    columns = ["site", "n", "d", *result.measures]
    if show.fits(columns, lines):
        show.table(f"{result.run}: {shape}", columns, lines)
    else:
        long = [[r.site, r.measure, _number(r), show.number(r.noise), str(r.n), str(r.d)] for r in result.records]
        show.table(f"{result.run}: {shape}", ["site", "measure", "value", "noise", "n", "d"], long, words=2)
    show.shares({r.site: show.percent(r.mean_share) for r in result.records})
    show.notes(result.records)


def _number(record: Measured) -> str:
    return " ".join(filter(None, (show.interval(record.value, record.low, record.high), show.calm(record))))
