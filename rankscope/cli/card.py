"""``rankscope card``: what was found of a tuned model, as a block for its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from rankscope import markdown
from rankscope.cli import early, options, show


def card(
    analysed: options.Analysed,
    intervals: options.Intervals,
    run: Annotated[Path, Argument(help="The tuned run, or its checkpoint folder, collected first on the base's data.")],
    base: Annotated[Path, Option(help="The pre-trained run, against which changes are measured.")],
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            help="The model card. Only what lies between the rankscope markers is replaced; without markers, the block is "
            "appended. Default: stdout.",
        ),
    ] = None,
    common_rows: options.CommonRows = False,
    base_model: options.BaseModel = None,
    download: options.Download = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the block for a model card: the verdict, a row a site, and the conventions of every number. Measures named with
    --measures are added.

    Example: rankscope card lora.pt --base pretrained.pt -o lora/README.md
    """
    if download:
        early.fetch_checkpoints(run, base, base_model=base_model)
    early.need_runs(run, base, base_model=base_model)
    early.need_sites(analysed.sites, run, base)
    if out is not None:
        early.need_place(out)
    import rankscope
    from rankscope.registry import DEFAULT_COMPARED
    from rankscope.report.card import card as block_of

    how: dict[str, Any] = {"common_rows": common_rows, "base_model": base_model}
    how |= intervals.keywords() | analysed.keywords()
    further = how.get("measures", ())
    how["measures"] = (*DEFAULT_COMPARED, *(one for one in further if one.name not in DEFAULT_COMPARED))
    with show.progress("comparing", quiet=quiet) as progress:
        result = rankscope.compare(base, run, **how, progress=progress)
    block = block_of(result, measures=[one.name for one in further])
    if out is None:
        show.line(block)
    else:
        markdown.put(block, out)
        show.made(out)
