"""``rankscope doctor``: what would go wrong or be slow, before anything is collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from rankscope.checkpoint import fetching
from rankscope.cli import early, options, show

if TYPE_CHECKING:
    from rankscope.collecting.doctor import Symptom

MARKS = {"ok": "ok", "mind": "mind", "wrong": "WRONG"}
"""How a state is printed."""


def doctor(
    checkpoint: options.Checkpoint,
    probes: options.Data,
    data: Annotated[
        str | None, Option(help="The data that would be read. Default: embedded, to suit the model.")
    ] = None,
    rows: options.Rows = "last",
    base_model: options.BaseModel = None,
    download: options.Download = False,
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Check what would go wrong or be slow when a checkpoint is read: mask, padding, dtype, memory, quantisation, rows against
    features, disk, Java and GPU, each with what to do. The model is loaded, a few samples are read, nothing is written.

    Exits with status 3 if something is wrong. Example: rankscope doctor lora/ --data texts.jsonl
    """
    if download:
        fetching.fetch(checkpoint, base_model=base_model)
    early.need_checkpoint(checkpoint, base_model=base_model)
    early.need_data(data)
    examples = probes.open(data)
    from rankscope.collecting.doctor import examine

    found = examine(
        checkpoint,
        examples,
        rows=rows,
        base_model=base_model,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    show.records([one._asdict() for one in found], as_json=as_json, as_csv=False, table=lambda: _print(found))
    if any(one.state == "wrong" for one in found):
        raise Exit(3)


def _print(found: Sequence[Symptom]) -> None:
    for one in found:
        show.paragraphs([f"{MARKS[one.state]:<6}{one.what}: {one.found}{f' → {one.remedy}' if one.remedy else ''}"])
