"""Every measure by name.

A new measure is a file in ``measures/``, ``comparisons/`` or ``weights/``, its test, and its line here.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from torch import Tensor

from rankscope.comparisons import drift, recoverability, usage
from rankscope.definition import Comparison, Definition, WeightDefinition
from rankscope.errors import RankscopeError, UnknownName, UsageError
from rankscope.measures import hill, renyi

FILES = {
    "measures": (
        "anisotropy",
        "coherence",
        "curvature",
        "diff_erank",
        "dtype_floor",
        "duplicates",
        "effective_rank",
        "elbow",
        "energy",
        "gavish_donoho",
        "gride",
        "hill",
        "isoscore",
        "levina_bickel",
        "lidar",
        "marchenko_pastur",
        "mean_share",
        "numerical_rank",
        "parallel_analysis",
        "participation_ratio",
        "power_law",
        "pt_peft",
        "rankme",
        "renyi",
        "self_cluster",
        "sinks",
        "stable_rank",
        "two_nn",
    ),
    "comparisons": (
        "cca",
        "cka",
        "drift",
        "gaussian",
        "kernel_cka",
        "neighbours",
        "procrustes",
        "recoverability",
        "rsa",
        "spectra",
        "subspace",
        "usage",
    ),
    "weights": ("intruders", "updates", "weight_alpha"),
}
"""The files that define numbers of one run, of two runs and of weights, by package."""


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

Measure = str | Definition | Comparison | Callable[[Tensor], Tensor]
"""A name, a definition, a comparison, or a function from ``(*, r)`` singular values to ``(*,)``."""


def known(what: Measure) -> Definition | Comparison:
    """The measure that is meant. A plain function becomes a definition on centred singular values.

    Args:
        what: a name, ``file.py:function``, a definition, a comparison, or a function on singular values.

    Raises:
        UnknownName: if no measure has that name; the message lists all names.
        UsageError: if ``what`` is of another kind, or names a number of weights.
    """
    if isinstance(what, Definition | Comparison):
        return what
    if callable(what):
        return _custom(what)
    if not isinstance(what, str):
        raise UsageError(
            f"a measure is a name, a definition or a function on singular values; got {type(what).__name__}"
        )
    if ".py:" in what:
        return _custom(_from_file(what))
    found = _ALL.get(what) or _member(what)
    if isinstance(found, WeightDefinition):
        raise UsageError(f"{what} is a number of weights, not of features; ask 'rankscope weights' for it")
    if found is None:
        names = sorted({**DEFINITIONS, **COMPARISONS})
        near = get_close_matches(what, names)
        nearest = f" (nearest: {', '.join(near)})" if near else ""
        raise UnknownName(f"there is no measure {what!r}{nearest}; there are {', '.join(names)}")
    return found


_ORDERS: dict[str, Callable[[float], Definition]] = {
    "hill": hill.of_order,
    "hill-sigma": partial(hill.of_order, base="sigma"),
    "renyi": renyi.of_order,
}
"""Families with a member for every order, as in ``hill-0.5``, ``hill-sigma-3`` and ``renyi-inf``."""
_DIRECTIONS: dict[str, Callable[[int], Comparison]] = {
    "usage": usage.of_direction,
    "relative-usage": partial(usage.of_direction, relative=True),
    "recoverability": recoverability.of_direction,
    "drift": drift.of_direction,
}
"""Families with a member for every principal direction of the base, as in ``usage-3`` and ``drift-1``."""


def _member(name: str) -> Definition | Comparison | None:
    """The member of a family that ``name`` asks for, if it does."""
    family, _, which = name.rpartition("-")
    if family in _ORDERS and re.fullmatch(r"\d+(\.\d+)?|inf", which):
        return _ORDERS[family](float(which))
    if family in _DIRECTIONS and re.fullmatch(r"[1-9]\d*", which):
        return _DIRECTIONS[family](int(which))
    return None


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


def named(text: str) -> tuple[Definition | Comparison, ...]:
    """The measures in a comma-separated list of names and ``file.py:function``; ``usage-1..8`` names eight of them."""
    return tuple(known(name) for part in text.split(",") for name in _counted(part.strip()))


def _counted(name: str) -> list[str]:
    """The names that ``usage-1..8`` abbreviates; a name without such a range is itself the only one."""
    if parts := re.fullmatch(r"(.+-)(\d+)\.\.(\d+)", name):
        return [f"{parts[1]}{i}" for i in range(int(parts[2]), int(parts[3]) + 1)] or [name]
    return [name]


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
    spec = importlib.util.spec_from_file_location(Path(path).stem, path) if Path(path).is_file() else None
    if spec is None or spec.loader is None:
        raise UnknownName(f"there is no file {path!r} that could define the measure {name!r}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UnknownName(f"{path} has no function {name!r}")
    return function
