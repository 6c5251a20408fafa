"""The options that all analyses of features share, and the opening of what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from rankscope.analysis.replicates import Method
from rankscope.collecting.resolve import as_run, is_checkpoint
from rankscope.errors import UnknownName, UsageError
from rankscope.progress import Progress, silent
from rankscope.registry import Measure
from rankscope.sites import Site
from rankscope.store import Run

M = TypeVar("M")

VARIANTS = ("raw", "distinct", "sinks-dropped", "standardised")
"""What can be done to the rows of all runs alike: nothing; leave out copies; leave out rows longer than ten medians;
divide every feature by its standard deviation."""
GROUPS = 20
"""Groups of samples left out in turn."""
LEVEL = 0.95
"""Confidence of intervals and bands."""
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "sites": ((str, list, tuple), "a selection such as 'decoder.0-3', or a list of sites"),
    "groups": ((int,), "a whole number"),
    "level": ((float, int), "a number between 0 and 1, e.g. 0.95"),
    "allow_duplicates": ((bool,), "True or False"),
    "progress": ((Callable,), "a function of the steps done, their number and what comes next"),  # type: ignore[dict-item]
}
"""Option → the types that it may have, and how that is said."""


@dataclass(frozen=True)
class Analysis:
    """How features are analysed. The public functions take the fields as keywords and describe them."""

    sites: str | Sequence[str | Site] = "all"
    """The sites to analyse."""
    groups: int = GROUPS
    """Groups of samples that the jackknife leaves out in turn."""
    level: float = LEVEL
    """Confidence of intervals and bands."""
    variant: str = "raw"
    """What to do to the rows first, one of :data:`~rankscope.analysis.options.VARIANTS`."""
    allow_duplicates: bool = False
    """Whether rows are analysed although too many are copies that the data do not explain."""
    base_model: str | Path | None = None
    """The base of checkpoint folders, instead of the one that their adapters name."""
    device: str | None = None
    """The torch device; by default the GPU where there is one."""
    progress: Progress = silent
    """Called with the sites done, their number and the site at hand."""
    interval: Method = "influence"
    """Where intervals come from, if both ways are valid."""

    def __post_init__(self) -> None:
        """Refuse what no option can be.

        Raises:
            UnknownName: for an unknown variant or kind of interval; the message lists those there are.
            UsageError: for a value of the wrong type.
        """
        for name, (types, words) in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, types):
                raise UsageError(f"{name} is {words}; got {value!r}")
        if self.variant not in VARIANTS:
            raise UnknownName(f"there is no variant {self.variant!r} of the rows; there are {', '.join(VARIANTS)}")
        if self.interval not in get_args(Method):
            raise UnknownName(f"there is no interval by {self.interval!r}; there are {', '.join(get_args(Method))}")

    def open(self, what: Run | str | Path, *, like: Run | None = None) -> Run:
        """A run, given itself, by its path, or as a checkpoint folder, which is collected first as the run ``like`` was.

        Raises:
            UsageError: for anything else, such as an array of features.
        """
        if not isinstance(what, Run | str | Path):
            raise UsageError(
                f"a run is a Run, the path of one or a checkpoint folder; got {_kind(what)}. Make a run of features in "
                "memory with collect(torch.nn.Sequential(torch.nn.Identity()), features), or of a file with 'rankscope import'"
            )
        return as_run(what, like=like, progress=self.progress, base_model=self.base_model)

    def open_together(self, several: Sequence[Run | str | Path]) -> list[Run]:
        """Runs that are to be compared: checkpoint folders among them are read on the data, rows and sites of the first run.

        Raises:
            UsageError: if one is neither a run nor a path, or all are checkpoints that need data.
            NotComparable: if the data of the first run cannot be read again.
        """
        first = next((self.open(one) for one in several if not is_checkpoint(one)), None)
        opened: list[Run] = []
        for one in several:
            opened.append(self.open(one, like=first))
            first = first or opened[0]
        return opened


def chosen(measures: Sequence[Measure], meant: Callable[[Measure], M]) -> list[M]:
    """The measures in a list.

    Args:
        measures: names, objects and functions.
        meant: :func:`~rankscope.registry.known`, or :func:`~rankscope.registry.definition` where a relation has no meaning.

    Raises:
        UsageError: if they are no list, with how to write one, or one relates two runs and must not.
        UnknownName: if one does not exist.
    """
    if isinstance(measures, str):
        names = ", ".join(repr(name.strip()) for name in measures.split(","))
        raise UsageError(f"measures is a list; got the string {measures!r}: write measures=[{names}]")
    if not isinstance(measures, Iterable):
        raise UsageError(f"measures is a list of names, definitions or functions; got {_kind(measures)}")
    return [meant(m) for m in measures]


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} of shape {tuple(shape)}" if shape is not None else type(value).__name__
