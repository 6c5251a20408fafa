"""``rankscope inspect``: what a checkpoint is, and what collecting it would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from rankscope.checkpoint import fetching
from rankscope.cli import early, options, show

if TYPE_CHECKING:
    from rankscope.checkpoint import Checkpoint
    from rankscope.models.describe import Description
    from rankscope.tuning.untrained import Untrained

SAMPLES = 1000
"""The number of samples whose cost is shown."""


def inspect(
    checkpoint: options.Checkpoint,
    data: Annotated[
        str | None,
        Option(help="Data on which to try an untrained prefix. Default: scenes, for the embedded model only."),
    ] = None,
    base_model: options.BaseModel = None,
    download: options.Download = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Describe a checkpoint: its base, its tunings in order and whether each lands, its sites and widths.

    For a prefix, also show what one of its length does before training, and how much of that is the shift in positions alone.
    Exits with status 3 if a tuning does not land. Example: rankscope inspect lora/
    """
    if download:
        fetching.fetch(checkpoint, base_model=base_model)
    early.need_checkpoint(checkpoint, base_model=base_model)
    if data is not None:
        early.need_data(data)
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
        raise Exit(3)


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
        **vars(found),
        "path": str(found.path),
        "base": str(found.base),
        "tunings": [{"kind": t.kind, "path": str(t.path), "parameters": t.parameters} for t in found.tunings],
        "sites": {str(site): width for site, width in found.sites.items()},
        "bytes_a_row": _bytes_a_row(found),
    }


def _bytes_a_row(found: Description) -> int:
    return sum(width or 0 for width in found.sites.values()) * (4 if found.dtype == "float32" else 2)


def _print(found: Description, before: Untrained | str | None) -> None:
    from rankscope.collecting.budget import size_in_words
    from rankscope.sites import describe

    digests = {None: "no digest recorded", True: "digest as recorded", False: "NOT the recorded one"}
    lines = [("base", f"{found.base}  ({digests[found.base_verified]})")]
    lines += [("model", f"{found.model}, {found.model_type}, {found.parameters:,} parameters, {found.dtype}")]
    lines += [(f"tuning {i}", f"{t.summary}, {t.parameters:,} parameters") for i, t in enumerate(found.tunings)]
    lines += [("prefix", f"{stack}: {rows:.2f} effective rows") for stack, rows in found.effective_prefix_rows.items()]
    if before is not None:
        lines.append(("prefix", before if isinstance(before, str) else before.sentence))
    if found.tunings:
        lines.append(("lands", "yes" if found.lands else f"NO: {found.trouble}"))
    lines += [("note", text) for text in found.notes]
    for stack in dict.fromkeys(site.stack for site in found.sites):
        mine = {site: width for site, width in found.sites.items() if site.stack == stack}
        width = next(iter(mine.values())) or "unknown until it runs"
        lines.append(("sites", f"{describe(tuple(mine))}, width {width}"))
    each = _bytes_a_row(found)
    all_samples = size_in_words(each * SAMPLES)
    cost = f"{size_in_words(each)} a sample at all sites with one row each; {all_samples} for {SAMPLES} samples"
    lines.append(("collect", f"{cost}; about {2 * found.parameters:.2g} FLOP a token"))
    for key, text in lines:
        show.line(f"{key:>9}  {text}")
