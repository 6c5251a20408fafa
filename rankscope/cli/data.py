"""``rankscope data check``: everything that is wrong with a data set, in one pass."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Argument, Exit

from rankscope.cli import options, show


def check(
    path: Annotated[str, Argument(help="A file or folder of any format that rankscope reads, or PATH:SPLIT.")],
    probes: options.Data,
    as_json: options.Json = False,
) -> None:
    """Describe a data set and everything that is wrong with it. Exits with status 3 if it cannot be used.

    Example: rankscope data check dataset_coco.json --images coco/
    """
    from rankscope.data import check as run_check

    report = run_check(path, **probes.keywords())
    show.line(json.dumps(report.to_json(), indent=1) if as_json else str(report))
    if report.faults:
        raise Exit(3)
