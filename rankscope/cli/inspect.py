"""``rankscope inspect``: what a checkpoint is, and what collecting it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli import show

if TYPE_CHECKING:
    from rankscope.checkpoint import Checkpoint
    from rankscope.models.describe import Description
    from rankscope.tuning.untrained import Untrained

SAMPLES = 1000
"""The number of samples for which a cost is told."""


def inspect(
    checkpoint: Annotated[list[Path], typer.Argument(help="A checkpoint folder, or several in order: base, adapters.")],
    data: Annotated[
        str | None, typer.Option(help="Data on which an untrained prefix is tried. Default: captions of the scenes.")
    ] = None,
    base_model: show.BaseModel = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Allow code that lies in the checkpoint to run.")] = False,
    as_json: show.Json = False,
) -> None:
    """Tell what a checkpoint is: its base, its tunings in order and whether each lands, its sites and widths.

    Of a prefix it also says what one of its length does before it is trained, and what of that is the shift of positions alone.
    Ends with status 3 where a tuning does not land. Example: rankscope inspect lora/
    """
    from rankscope.checkpoint import Checkpoint
    from rankscope.models.describe import describe

    read = Checkpoint.read(checkpoint, base_model=base_model)
    found = describe(read, trust_remote_code=trust_remote_code)
    before = _untrained(read, data) if found.effective_prefix_rows else None
    record = _record(found) | {
        "untrained_prefix": before.to_record() if before is not None and not isinstance(before, str) else before
    }
    show.records([record], as_json=as_json, as_csv=False, table=lambda: _print(found, before))
    if not found.lands:
        raise typer.Exit(3)


def _untrained(checkpoint: Checkpoint, data: str | None) -> Untrained | str | None:
    """The finding, or why there is none."""
    from rankscope.errors import RankscopeError
    from rankscope.tuning.untrained import untrained_prefix

    try:
        return untrained_prefix(checkpoint, data)
    except RankscopeError as error:
        if data is not None:
            raise
        return f"not tried: {error}; give --data"


def _record(found: Description) -> dict[str, object]:
    return {
        "path": str(found.path),
        "base": str(found.base),
        "base_verified": found.base_verified,
        "model": found.model,
        "model_type": found.model_type,
        "parameters": found.parameters,
        "dtype": found.dtype,
        "tunings": [{"kind": t.kind, "path": str(t.path), "parameters": t.parameters} for t in found.tunings],
        "lands": found.lands,
        "trouble": found.trouble,
        "sites": {str(site): width for site, width in found.sites.items()},
        "bytes_a_row": _bytes_a_row(found),
        "effective_prefix_rows": found.effective_prefix_rows,
    }


def _bytes_a_row(found: Description) -> int:
    return sum(width or 0 for width in found.sites.values()) * (4 if found.dtype == "float32" else 2)


def _print(found: Description, before: Untrained | str | None) -> None:
    from rankscope.sites import describe

    checked = {None: "no digest recorded", True: "digest as recorded", False: "NOT the recorded one"}[
        found.base_verified
    ]
    lines = [("base", f"{found.base}  ({checked})")]
    lines += [("model", f"{found.model}, {found.model_type}, {found.parameters:,} parameters, {found.dtype}")]
    for i, tuning in enumerate(found.tunings):
        lines.append((f"tuning {i}", f"{tuning.summary}, {tuning.parameters:,} numbers"))
    for stack, rows in found.effective_prefix_rows.items():
        lines.append(("prefix", f"{stack}: {rows:.2f} effective rows"))
    if before is not None:
        lines.append(("prefix", before if isinstance(before, str) else before.sentence))
    if found.tunings:
        lines.append(("lands", "yes" if found.lands else f"NO: {found.trouble}"))
    for stack in dict.fromkeys(site.stack for site in found.sites):
        mine = {site: width for site, width in found.sites.items() if site.stack == stack}
        lines.append(
            ("sites", f"{describe(tuple(mine))}, width {next(iter(mine.values())) or 'unknown until it runs'}")
        )
    each = _bytes_a_row(found)
    cost = (
        f"{show.size(each)} a sample at all sites with one row each; {show.size(each * SAMPLES)} for {SAMPLES} samples"
    )
    lines.append(("collect", f"{cost}; about {2 * found.parameters:.2g} FLOP a token"))
    for key, text in lines:
        typer.echo(f"{key:>9}  {text}")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(inspect)
