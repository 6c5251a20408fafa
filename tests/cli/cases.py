"""An option with a value to type for it and where that must arrive in the library; and the options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rankscope.registry import DEFINITIONS


class Case(NamedTuple):
    """An option, and what it must change."""

    typed: tuple[str, ...]
    """What is typed."""
    value: Any
    """The value that must arrive."""
    keyword: str = ""
    """The argument of the function that it must arrive at; the option's own name if empty."""
    target: str = ""
    """The function that is called with it; that of the command if empty."""
    alone: bool = False
    """Whether it takes the place of what the command needs anyway."""


class Command(NamedTuple):
    """A command, and the function behind it."""

    target: str
    """The function of the library, by its dotted name."""
    needs: tuple[str, ...]
    """What must be typed for the command to run at all."""
    cases: dict[str, Case]
    """A case for each of its options."""
    before: tuple[str, ...] = ()
    """What is called before the function, replaced so that nothing has to be on disk."""


def case(*typed: str, value: Any, keyword: str = "", target: str = "", alone: bool = False) -> Case:
    return Case(typed, value, keyword, target, alone)


def switch(flag: str, keyword: str = "", target: str = "") -> Case:
    return Case((flag,), True, keyword, target)


OPEN, READ = "rankscope.data.open.open_data", "rankscope.checkpoint.Checkpoint.read"
UNTRAINED = "rankscope.tuning.untrained.untrained_prefix"
CARD = "rankscope.report.card.card"
PROGRESS, RECORDS, FIGURE = "rankscope.cli.show.progress", "rankscope.cli.show.records", "rankscope.cli.show.figure"
QUIET = {"quiet": switch("-q", target=PROGRESS)}
PRINTING = {**QUIET, "as_json": switch("--json", target=RECORDS), "as_csv": switch("--csv", target=RECORDS)}
SITES = case("--layers", "0-2", value="0-2")
ANALYSED = {
    "sites": SITES,
    "variant": case("--variant", "distinct", value="distinct"),
    "allow_duplicates": switch("--allow-duplicates"),
    "device": case("--device", "meta", value="meta"),
}
DEVICE, BASE_MODEL = ANALYSED["device"], case("--base-model", "b", value="b")
DOWNLOAD = case("--download", value=[Path("c")], keyword="checkpoint", target="rankscope.checkpoint.fetching.fetch")


def fetched(name: str) -> Case:
    return case("--download", value=Path(name), keyword="checkpoint", target="rankscope.checkpoint.fetching.fetch")


TRUST, OVERWRITE = switch("--trust-remote-code"), switch("--overwrite")
MEASURES = case("-m", "rankme", value=[DEFINITIONS["rankme"]])
PLOT = case("--plot", "f", value=Path("f"), target=FIGURE)
FULL = switch("--full", target="rankscope.cli.show.view")
GROUPS = case("--groups", "7", value=7)
INTERVAL = case("--interval", "jackknife", value="jackknife")


def data(target: str = OPEN) -> dict[str, Case]:
    return {
        "images": case("--images", "i", value=Path("i"), target=target),
        "regions": case("--regions", "r", value=Path("r"), target=target),
        "answers": case("--answers", "a", value=Path("a"), target=target),
        "columns": case("--column", "id=x", "--column", "text=y=z", value={"id": "x", "text": "y=z"}, target=target),
        "restval": case("--no-restval", value=False, target=target),
    }
