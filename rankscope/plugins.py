"""Plug-ins: what other installed packages add to rankscope, by entry points.

A package names what it offers in its own ``pyproject.toml``::

    [project.entry-points."rankscope.measures"]
    tail-share = "my_package:TAIL_SHARE"

Names are known from the metadata of packages alone, so that a wrong one is refused at once and without torch; a plug-in is
imported when its name is first asked for. One that cannot be used is named with its package, and the others work. Where
rankscope has a name itself, its own is what the name stands for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from importlib.metadata import EntryPoint, entry_points
from typing import ParamSpec, TypeVar

from rankscope.errors import BrokenPlugin, RankscopeError

P = ParamSpec("P")
T = TypeVar("T")

GROUPS = {
    "measures": "the name of a measure → a Definition, or a function from (*, r) singular values to (*,)",
    "comparisons": "the name of a comparison → a Comparison",
    "families": "a model_type → a Family",
    "readers": "the ending of a file name, without its dot → a function from a path and an Intake to a list of Examples",
}
"""What an entry point of each group stands for; the group is called ``rankscope.measures``, and so on."""
log = logging.getLogger(__name__)


@cache
def entries(group: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points of a group by name, nothing imported; several of one name come from different packages."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=f"rankscope.{group}") if group in GROUPS else ():
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


@cache
def load(group: str, name: str) -> object:
    """What a plug-in offers under a name.

    Raises:
        BrokenPlugin: if it cannot be imported, or several packages offer that name.
    """
    entry, *others = entries(group)[name]
    if others:
        raise BrokenPlugin(f"{', '.join(map(named, (entry, *others)))} have one name; uninstall all but one")
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # whatever another's module may do while it is imported
        raise broken(group, name, f"cannot be loaded: {type(error).__name__}: {error}") from error


def choose(group: str, name: str, own: Mapping[str, T], kind: type[T]) -> T | None:
    """What a name stands for: rankscope's own, or else what a plug-in offers; None if there is neither.

    Raises:
        BrokenPlugin: if the plug-in of that name cannot be loaded, or is of another kind.
    """
    if name in own:
        pass_over(group, name)
        return own[name]
    if name not in entries(group):
        return None
    found = load(group, name)
    if not isinstance(found, kind):
        raise broken(group, name, f"is no {kind.__name__} but {type(found).__name__}")
    return found


def pass_over(group: str, name: str) -> None:
    """Say in the log, once, that plug-ins of a name are not used, because it is rankscope's own."""
    for entry in entries(group).get(name, ()):
        _warn(f"{named(entry)} is not used: {name!r} is rankscope's own")


def working(group: str, own: Mapping[str, T], kind: type[T]) -> Iterator[T]:
    """Rankscope's own of a group and what plug-ins add to them; one that is broken is reported in the log, and left out."""
    yield from own.values()
    for name in entries(group).keys() - own.keys():
        try:
            if (found := choose(group, name, own, kind)) is not None:
                yield found
        except BrokenPlugin as error:
            _warn(str(error))


def guarded(group: str, name: str, function: Callable[P, T]) -> Callable[P, T]:
    """The function of a plug-in, which is named when the function fails.

    Raises:
        BrokenPlugin: by the function that is returned, for any error but rankscope's own and those of files.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (RankscopeError, OSError):
            raise
        except Exception as error:
            raise broken(group, name, f"failed: {type(error).__name__}: {error}") from error

    return called


def broken(group: str, name: str, what: str) -> BrokenPlugin:
    """The error that says what is wrong with a plug-in, and whose it is."""
    entry = entries(group)[name][0]
    return BrokenPlugin(f"{named(entry)} {what}; tell its authors, or uninstall it. An entry point is {GROUPS[group]}")


def named(entry: EntryPoint) -> str:
    """An entry point as messages name it: ``the plug-in tail-share of my-package 1.0 (rankscope.measures, my_package:TAIL)``."""
    package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"the plug-in {entry.name}{package} ({entry.group}, {entry.value})"


@cache
def _warn(text: str) -> None:
    """Log a warning, once."""
    log.warning(text)
