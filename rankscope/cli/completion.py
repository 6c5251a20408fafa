"""What a shell completes: measures, sites and kinds of rows, known without torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer import Context  # which typer looks for in the signature

from rankscope.catalogue import ALIASES, names
from rankscope.reading.kinds import KINDS

ANYWHERE = ("all", "embed", "last", "final")
"""Selections of sites that most networks have."""


def measures(incomplete: str) -> list[str]:
    """The measures that a list may go on with."""
    return _continued(incomplete, (*names("measures"), *names("comparisons"), *ALIASES))


def sites(ctx: Context, incomplete: str) -> list[str]:
    """The sites of the runs that were typed before; of a checkpoint only what most networks have."""
    from rankscope.cli.early import sites_of

    typed: list[Any] = []
    for name in ("run", "runs"):
        given = ctx.params.get(name)
        typed += given if isinstance(given, list | tuple) else [given] if given else []
    there = [str(site) for run in typed for site in sites_of(Path(run))]
    return _continued(incomplete, dict.fromkeys((*there, *ANYWHERE)))


def site_rows(ctx: Context, incomplete: str) -> list[str]:
    """The sites of the runs, and after a colon the kinds of rows."""
    before, colon, kind = incomplete.rpartition(":")
    return [f"{before}:{name}" for name in rows(kind)] if colon else sites(ctx, incomplete)


def rows(incomplete: str) -> list[str]:
    """The kinds of rows."""
    return _continued(incomplete, KINDS)


def _continued(incomplete: str, known: Iterable[str]) -> list[str]:
    """What was typed, with its last part, after a comma, completed."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in known if name.startswith(last)]
