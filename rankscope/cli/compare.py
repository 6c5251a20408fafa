"""``rankscope compare``: two runs on the same rows, against each other or both against a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from typer import Argument, Option

from rankscope.cli import arms, early, options, show
from rankscope.cli.config import Config
from rankscope.errors import UsageError
from rankscope.names import file_name

if TYPE_CHECKING:
    from rankscope.results.arms import ArmContrast
    from rankscope.results.examples import Examples
    from rankscope.results.runs import Contrast, PairRecord


def compare(
    analysed: options.Analysed,
    intervals: options.Intervals,
    printing: options.Printing,
    runs: Annotated[
        list[Path] | None,
        Argument(
            metavar="A B", help="Two runs, or checkpoint folders, collected first on the data of a run among them."
        ),
    ] = None,
    arm: Annotated[list[str] | None, Option(help="Instead of two runs: name=pattern for the runs of an arm.")] = None,
    base: Annotated[Path | None, Option(help="The pre-trained run, against which changes are measured.")] = None,
    again: Annotated[
        Path | None,
        Option(help="The reference collected again with another batch size or dtype, to see numerical noise."),
    ] = None,
    permutations: Annotated[int, Option(min=0, help="Shuffles of the samples, for p-values of unrelated runs.")] = 0,
    common_rows: options.CommonRows = False,
    plot: options.Figure = None,
    report: options.Report = None,
    base_model: options.BaseModel = None,
    download: options.Download = False,
    full: options.Full = False,
    examples: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help="After the verdict, the N samples and tokens that moved most, and what the directions of the change say.",
        ),
    ] = None,
    config: Config = None,  # what it says has come in with the others
) -> None:
    """Compare two runs: changes of rank, similarity, overlap, recoverability and drift, with paired intervals.

    Several runs of a recipe that differ in their seed make one arm (--arm): seed noise is separated from row noise,
    and each arm gets a verdict at each site.

    A TOML file given with --config takes the same options and arguments: runs = ["lora.pt", "ptlora.pt"], measures = ["cka",
    "rankme"], and lora = "lora-s*.pt" in the table arm for --arm lora=lora-s*.pt.

    Example: rankscope compare lora.pt ptlora.pt --base pretrained.pt --plot

    Example: rankscope compare pretrained.pt lora.pt --examples 10

    Example: rankscope compare --arm lora=lora-s*.pt --arm ptlora=ptlora-s*.pt --base pretrained.pt
    """
    of_two: dict[str, Any] = {
        "again": again,
        "base_model": base_model,
        "common_rows": common_rows,
        "permutations": permutations,
    }
    pair = runs or []
    _check_runs(pair, arm or (), of_two)
    if arm and report:
        raise UsageError("a report is of two runs, or of several with 'rankscope report', and --arm replaces them")
    if examples:
        _check_examples({"--arm": arm, "--csv": printing.as_csv, "--variant": analysed.variant != "raw"})
    several = arms.named_arms(arm or ())
    paths = [path for path in (*pair, base, *chain(*several.values())) if path is not None]
    if download:
        early.fetch_checkpoints(*paths, again, base_model=base_model)
    early.need_runs(*paths, again, base_model=base_model)
    early.need_sites(analysed.sites, *paths)
    early.need_figure(plot)
    early.need_report(report)
    if examples:
        early.need_rows(*paths)
    import rankscope

    how: dict[str, Any] = {"base": base, **intervals.keywords(), **analysed.keywords()}
    moved: list[Examples] = []
    with printing.progress("comparing") as progress:
        result: Contrast | ArmContrast
        if arm:
            result = rankscope.compare_arms(several, **how, progress=progress)
            every, name = partial(arms.every_record, result), "-".join(result.arms)
        else:
            result = rankscope.compare(pair[0], pair[1], **how, **of_two, progress=progress)
            every, name = partial(every_record, result, quiet=printing.quiet), "-".join(result.names[:2])
            if examples:
                same = {**how, "common_rows": common_rows, "base_model": base_model, "progress": progress}
                moved = _examples(pair, same, n=examples)
    named = analysed.measures is not None
    table = show.view(result, full=full, named=named, records=every, say=printing.notes_of)
    printing.notes(result.notes)
    printing.records(
        result.to_records(), partial(_with_examples, table, moved, printing), partial(_whole, result, moved)
    )
    show.figure(result, plot, name, quiet=printing.quiet)
    if report:
        out = report / f"{file_name(name)}.html" if report.is_dir() else report
        early.need_report(out)
        told: dict[str, Any] = {"base_model": base_model, "common_rows": common_rows, "device": analysed.device}
        told |= {"allow_duplicates": analysed.allow_duplicates, "overwrite": True}
        rankscope.write_report([cast("Contrast", result)], out, runs=[*([base] if base else []), *pair], **told)
        if not printing.quiet:
            show.note(f"report: {out}")


def _check_runs(pair: Sequence[Path], arm: Sequence[str], of_two: Mapping[str, Any]) -> None:
    """Refuse anything but two runs, or arms in their place.

    Args:
        pair: the runs that were named.
        arm: the arms that were named.
        of_two: options that apply to two runs only.
    """
    if arm and (pair or any(of_two.values())):
        raise UsageError(
            "--arm replaces the two runs, and needs runs with the same rows; "
            f"{', '.join(of_two).replace('_', '-')} apply to two runs only"
        )
    if not arm and len(pair) < 2:
        raise UsageError("give two runs to compare, or --arm name=pattern for several of each recipe")
    if len(pair) > 2:
        raise UsageError(
            f"compare takes two runs, and {len(pair)} were given. Several trainings of each recipe are compared as arms: "
            f"rankscope compare --arm first={pair[0]},{pair[1]} --arm second={pair[2]} --base BASE; the pre-trained run is --base"
        )


def _check_examples(given: Mapping[str, Any]) -> None:
    """Refuse options beside which there are no examples; ``given`` has what was given for each."""
    if any(given.values()):
        raise UsageError(
            "--examples are of two runs and of rows as they were read, and are printed below the verdict or within --json; "
            f"leave out {', '.join(flag for flag, value in given.items() if value)}"
        )


def _examples(pair: Sequence[Path], how: Mapping[str, Any], *, n: int) -> list[Examples]:
    """The examples of each tuned run: of both against a base, or of the second against the first."""
    import rankscope

    taken = ("groups", "interval", "sites", "device", "allow_duplicates", "common_rows", "base_model", "progress")
    against, tuned = (how["base"], pair) if how["base"] else (pair[0], pair[1:])
    return [rankscope.examples(against, one, n=n, **{name: how[name] for name in taken}) for one in tuned]


def _with_examples(table: Callable[[], None], moved: Sequence[Examples], printing: options.Printing) -> None:
    table()
    for one in moved:
        show.examples(one)
        printing.notes(one.notes)


def _whole(result: Contrast | ArmContrast, moved: Sequence[Examples]) -> dict[str, Any]:
    """What JSON holds; the examples of all runs are one list, each with the names of its runs."""
    return result.to_json() | ({"examples": [row for one in moved for row in one.to_records()]} if moved else {})


def every_record(result: Contrast, *, quiet: bool) -> None:
    """Print every number of a comparison."""
    a, b, *base = result.names
    first = result.records[0]
    against = f", against {base[0]}" if base else ""
    title = f"{a} (a) and {b} (b){against}; {result.rows}; {first.shape.dtype}; 95 % intervals over {first.shape.samples} samples"
    columns = ["site", "measure", "a", "b", "b − a, or a → b", "all sites", "p", "noise", "itself"]
    shuffled = any(r.p_unrelated is not None for r in result.records)
    lines = [_line(r) + [show.number(r.p_unrelated)] * shuffled for r in result.records]
    show.table(title, columns + ["p unrelated"] * shuffled, lines, words=2)
    if not quiet:
        show.shares(
            {r.site: f"{show.percent(r.mean_share)} and {show.percent(r.mean_share_b)}" for r in result.records}
        )


def _line(r: PairRecord) -> list[str]:
    estimates = [show.interval(r.a), show.interval(r.b), show.with_and_without_sinks(r), show.band(r.band)]
    return [r.site, r.measure, *estimates, *(show.number(x) for x in (r.p, r.noise, r.itself))]
