"""Sites: the reading points of a base network, with the same names under every tuning.

A site is a *stack* and a *point*. The points of a stack of L blocks are ``embed`` (the input of block 0), ``0`` …
``L-1`` (the output of each block) and ``final`` (the output of the norm after the last block): ``decoder.3``,
``vision.final``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rankscope.errors import UnknownName, UsageError

_NAME = re.compile(r"[a-z0-9_][a-z0-9._-]*")
_RANGE = re.compile(r"(?:(?P<stack>[^:]+)\.)?(?P<first>\d+)-(?P<last>\d+)")
_SLICE = re.compile(r"(?:(?P<stack>[^:]+)\.)?(?P<start>(?:-?\d+)?):(?P<stop>(?:-?\d+)?)(?::(?P<step>(?:-?\d+)?))?")
_PRINTED = re.compile(r"([^,()\s]+)\s*\(([^()]*)\)")
_INDEX = re.compile(r"-?\d+")
_PATTERN = re.compile(r"[a-z0-9_.*?!\[\]-]+")


def is_name(text: str) -> bool:
    """Whether a text can be the name of a stack or of a site: letters, digits, ``.``, ``_`` and ``-``, and so no path."""
    return _NAME.fullmatch(text.lower()) is not None


@dataclass(frozen=True)
class Site:
    """One reading point."""

    stack: str
    """The stack of blocks: ``decoder``, ``vision``. A module outside any stack is its own stack, with the point ``output``."""
    point: str
    """``embed``, the number of a block, ``final``, or ``output``."""

    def __post_init__(self) -> None:
        if not is_name(f"{self.stack}.{self.point}"):
            raise UsageError(f"a site is spelled stack.point, as in decoder.3; got {self.stack!r}.{self.point!r}")

    def __str__(self) -> str:
        return f"{self.stack}.{self.point}"

    @property
    def index(self) -> int | None:
        """The number of the block, or None at ``embed``, ``final`` and ``output``."""
        return int(self.point) if self.point.isdecimal() else None

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site that ``text`` spells.

        Raises:
            UsageError: if the text is not ``stack.point``.
        """
        stack, dot, point = text.rpartition(".")
        if not dot:
            raise UsageError(f"a site is spelled stack.point, as in decoder.3; got {text!r}")
        return cls(stack, point)


def points(blocks: int, *, embed: bool = True, final: bool = True) -> tuple[str, ...]:
    """The points of a stack of ``blocks`` blocks, from its input to its output."""
    return (*(("embed",) if embed else ()), *(str(i) for i in range(blocks)), *(("final",) if final else ()))


def describe(sites: Sequence[Site]) -> str:
    """The sites in words, stack by stack: ``decoder (embed, 0-11, final)``."""
    stacks: dict[str, list[Site]] = {}
    for site in sites:
        stacks.setdefault(site.stack, []).append(site)
    return ", ".join(f"{stack} ({_points_in_words(members)})" for stack, members in stacks.items()) or "none"


def _points_in_words(sites: Sequence[Site]) -> str:
    numbers = [s.index for s in sites if s.index is not None]
    if len(numbers) < 3 or numbers != list(range(numbers[0], numbers[-1] + 1)):
        return ", ".join(s.point for s in sites)
    words = [s.point for s in sites if s.index is None or s.index == numbers[0]]
    return ", ".join(f"{numbers[0]}-{numbers[-1]}" if word == str(numbers[0]) else word for word in words)


def select(spec: str | Sequence[str | Site], available: Sequence[Site]) -> tuple[Site, ...]:
    """The available sites that a specification names, each once and in the network's order.

    A specification is ``all``, or a comma-separated list (or a sequence) of: a site (``decoder.3``), a stack
    (``decoder``), a range (``decoder.3-5``), a slice (``0:12:2``), a glob (``vision.*``), or a point of every
    stack (``final``, ``embed``, ``last`` for the last block, ``0``, ``-1``). What :func:`describe` prints,
    ``decoder (0-3, final)``, is one too.

    Args:
        spec: the specification.
        available: every site of the network, in order.

    Raises:
        UnknownName: if a part names no site; the message lists the available sites.
        UsageError: if a slice has a step of 0.
    """
    parts = _parts(spec) if isinstance(spec, str) else [str(p) for p in spec]
    chosen: set[Site] = set()
    for part in parts:
        found = _matching(part, available)
        if not found:
            raise UnknownName(f"there is no site {part!r}; there are {describe(available)}")
        chosen.update(found)
    return tuple(site for site in available if site in chosen)


def _parts(spec: str) -> list[str]:
    """The parts of a specification; those of one stack in brackets, as they are printed, each with its stack."""
    spelled = _PRINTED.sub(lambda m: ",".join(f"{m[1]}.{point.strip()}" for point in m[2].split(",")), spec)
    return [part.strip() for part in spelled.split(",")]


def check_selection(spec: str) -> None:
    """Check that a specification could name sites of some network, as :func:`select` takes it.

    Raises:
        UsageError: if no network can have such sites.
    """
    for part in _parts(spec):
        if match := _SLICE.fullmatch(part):
            _bounds(match)
            continue
        match = _RANGE.fullmatch(part)
        if not (int(match["first"]) <= int(match["last"]) if match else _PATTERN.fullmatch(part.lower())):
            raise UsageError(
                f"{part!r} can be no site: sites are all, decoder.3, final, decoder.3-5, 0:12:2, vision.* or last, or several by "
                "comma"
            )


def _matching(part: str, available: Sequence[Site]) -> list[Site]:
    if part == "all":
        return list(available)
    exact = [s for s in available if part in (str(s), s.stack, s.point)]
    if exact:
        return exact
    if match := _RANGE.fullmatch(part):
        wanted = range(int(match["first"]), int(match["last"]) + 1)
        found = [s for s in available if match["stack"] in (None, s.stack) and s.index in wanted]
        return found if {s.index for s in found} == set(wanted) else []
    if match := _SLICE.fullmatch(part):
        return _sliced(match, available)
    if part == "last" or _INDEX.fullmatch(part):
        return _from_the_end(-1 if part == "last" else int(part), available)
    return [s for s in available if fnmatchcase(str(s), part)]


def _blocks(available: Sequence[Site]) -> dict[str, list[Site]]:
    stacks: dict[str, list[Site]] = {}
    for site in available:
        if site.index is not None:
            stacks.setdefault(site.stack, []).append(site)
    return stacks


def _from_the_end(index: int, available: Sequence[Site]) -> list[Site]:
    return [blocks[index] for blocks in _blocks(available).values() if -len(blocks) <= index < len(blocks)]


def _sliced(match: re.Match[str], available: Sequence[Site]) -> list[Site]:
    bounds, stacks = _bounds(match), _blocks(available).items()
    return [s for stack, blocks in stacks if match["stack"] in (None, stack) for s in blocks[bounds]]


def _bounds(match: re.Match[str]) -> slice:
    bounds = [int(match[k]) if match[k] else None for k in ("start", "stop", "step")]
    if bounds[2] == 0:
        raise UsageError(f"a slice of sites cannot step by 0; got {match[0]!r}")
    return slice(*bounds)
