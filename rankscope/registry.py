"""Every measure by name.

A new measure is a file in ``measures/``, ``comparisons/`` or ``weights/``, its test, and its line in :mod:`rankscope.catalogue`;
or it is in another package, as a plug-in (:mod:`rankscope.plugins`), which is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rankscope import plugins
from rankscope.catalogue import FILES, canonical, check_measure, listed, member, misnamed
from rankscope.comparisons import drift, recoverability, usage
from rankscope.definition import Comparison, Definition, WeightDefinition
from rankscope.errors import BrokenPlugin, RankscopeError, UnknownName, UsageError
from rankscope.measures import hill, renyi


def _defined() -> Iterator[Definition | Comparison | WeightDefinition]:
    """Every record in the files listed, alone or in a tuple."""
    for module in (f"rankscope.{package}.{file}" for package, files in FILES.items() for file in files):
        for value in vars(importlib.import_module(module)).values():
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, Definition | Comparison | WeightDefinition):
                    yield one


_ALL = {one.name: one for one in _defined()}
DEFINITIONS = {name: one for name, one in _ALL.items() if isinstance(one, Definition)}
"""Numbers of one run, by name."""
COMPARISONS = {name: one for name, one in _ALL.items() if isinstance(one, Comparison)}
"""Numbers of two runs, by name."""
WEIGHT_DEFINITIONS = {name: one for name, one in _ALL.items() if isinstance(one, WeightDefinition)}
"""Numbers of weights, by name."""
DEFAULT_DEFINITIONS = (
    "roy-vetterli",
    "rankme",
    "stable-rank",
    "participation-ratio",
    "participation-ratio-clustered",
    "energy-90",
    "pt-peft",
    "pt-peft-pooled",
)
"""What ``measure`` measures by default."""
DEFAULT_COMPARED = (
    *DEFAULT_DEFINITIONS,
    "cka",
    "overlap",
    "variance-captured",
    "recoverability",
    "drift",
    "cumulative-distance",
)
"""What ``compare`` compares by default."""
DEFAULT_RELATED = ("recoverability", "cka")
"""What ``between`` relates by default."""
DEFAULT_GAP = ("modality-gap", "modality-cosine", "modality-share")
"""What ``between`` adds for two kinds of rows of one site."""

Measure = str | Definition | Comparison | Callable[[Tensor], Tensor]
"""A name, a definition, a comparison, or a function from ``(*, r)`` singular values to ``(*,)``."""


def known(what: Measure) -> Definition | Comparison:
    """The measure that is meant. A plain function becomes a definition on centred singular values.

    Args:
        what: a name, ``file.py:function``, a definition, a comparison, or a function on singular values.

    Raises:
        UnknownName: if no measure has that name; the message lists all names.
        UsageError: if ``what`` is of another kind, or names a number of weights.
        BrokenPlugin: if it names a plug-in that cannot be used.
    """
    if isinstance(what, Definition | Comparison):
        return what
    if callable(what):
        return _custom(what)
    if not isinstance(what, str):
        raise UsageError(
            f"a measure is a name, a definition or a function on singular values; got {type(what).__name__}"
        )
    what = canonical(what)
    check_measure(what)
    if ".py:" in what:
        return _custom(_from_file(what))
    found = _ALL.get(what) or _member(what) or _added(what)
    assert isinstance(found, Definition | Comparison)  # a number of weights was refused
    return found


_KINDS: dict[str, type[Definition] | type[Comparison]] = {"measures": Definition, "comparisons": Comparison}
"""The groups of plug-ins that are measures, and what each offers."""


@cache
def _added(name: str) -> Definition | Comparison:
    """The measure that a plug-in adds under a name. Raises :class:`BrokenPlugin` if it cannot be used."""
    group = next(group for group in _KINDS if name in plugins.entries(group))
    if fault := misnamed(name):
        raise plugins.broken(group, name, fault)
    found = plugins.load(group, name)
    if group == "measures" and callable(found):
        return replace(_custom(found), name=name)
    if not isinstance(found, _KINDS[group]):
        raise plugins.broken(group, name, f"is no {_KINDS[group].__name__} but {type(found).__name__}")
    if found.name != name:
        raise plugins.broken(group, name, f"names itself {found.name!r}; the two must be equal")
    parts: dict[str, Any] = {f.name: getattr(found, f.name) for f in fields(found)}
    parts |= {n: plugins.guarded(group, name, part) for n, part in parts.items() if callable(part)}
    return type(found)(**parts)


def added() -> tuple[list[Definition | Comparison], list[BrokenPlugin]]:
    """All measures that plug-ins add, and what is wrong with those that cannot be used."""
    usable: list[Definition | Comparison] = []
    faults: dict[str, BrokenPlugin] = {}
    for name in dict.fromkeys(name for group in _KINDS for name in plugins.entries(group)):
        try:
            usable.append(_added(name))
        except BrokenPlugin as error:
            faults[name] = error
    return usable, [*faults.values()]


_ORDERS: dict[str, Callable[[float], Definition]] = {
    "hill": hill.of_order,
    "hill-sigma": partial(hill.of_order, base="sigma"),
    "renyi": renyi.of_order,
}
_DIRECTIONS: dict[str, Callable[[int], Comparison]] = {
    "usage": usage.of_direction,
    "relative-usage": partial(usage.of_direction, relative=True),
    "recoverability": recoverability.of_direction,
    "drift": drift.of_direction,
    "drift-share": drift.of_own_direction,
}
"""The families of :mod:`rankscope.catalogue`, by name."""


def _member(name: str) -> Definition | Comparison | None:
    """The member of a family that ``name`` asks for, if it does."""
    if (found := member(name)) is None:
        return None
    family, which = found
    return _ORDERS[family](float(which)) if family in _ORDERS else _DIRECTIONS[family](int(which))


def definition(what: Measure) -> Definition:
    """The number of one run that is meant; as :func:`known`, and refusing numbers of two runs.

    Raises:
        UnknownName: if no measure has that name.
        UsageError: if it is a number of two runs.
    """
    found = known(what)
    if isinstance(found, Comparison):
        raise UsageError(f"{found.name} relates two runs; ask compare for it")
    return found


def comparison(what: Measure) -> Comparison:
    """The number of two sets of features that is meant; as :func:`known`, and refusing numbers of one.

    Raises:
        UnknownName: if no measure has that name.
        UsageError: if it is a number of one run.
    """
    found = known(what)
    if isinstance(found, Definition):
        raise UsageError(f"{found.name} is a number of one run; ask measure for it")
    return found


def named(text: str) -> tuple[Definition | Comparison, ...]:
    """The measures in a comma-separated list of names and ``file.py:function``; ``usage-1..8`` names eight of them."""
    return tuple(map(known, listed(text)))


def _custom(function: Callable[[Tensor], Tensor]) -> Definition:
    """The caller's function as a definition, its results checked."""
    name = getattr(function, "__name__", type(function).__name__)

    def checked(s: Tensor) -> Tensor:
        try:
            values = function(s.double())
        except RankscopeError:
            raise
        except (ArithmeticError, ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            raise UsageError(f"the measure {name} fails on singular values {tuple(s.shape)}: {error}") from error
        if not isinstance(values, Tensor) or values.shape != s.shape[:-1]:
            given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UsageError(
                f"a measure must return (*,) values for (*, r) singular values; {name} returned {given} for {tuple(s.shape)}"
            )
        return values.double()

    text = (function.__doc__ or "").strip().splitlines()
    return Definition(
        name=name.replace("_", "-"),
        function=checked,
        formula=text[0] if text else f"{name}(sigma)",
        citation="the caller's own",
        low="?",
        high="?",
        least=-math.inf,
        bias="not known",
        unit="",
    )


def _from_file(text: str) -> Callable[[Tensor], Tensor]:
    """The function that ``path/file.py:function`` names; the file is run, as any script that its user names."""
    path, _, name = text.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None  # it is a file that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UnknownName(f"{path} has no function {name!r}")
    return function
