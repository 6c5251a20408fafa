"""Every measure that has a name. A new one is a file in ``measures/``, ``comparisons/`` or ``weights/``, its test, and its
line here."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

from torch import Tensor

from rankscope.comparisons import drift, recoverability, usage
from rankscope.definition import Comparison, Definition, WeightDefinition
from rankscope.errors import RankscopeError, UnknownName, UsageError
from rankscope.measures import hill, renyi

MEASURES = (
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
)
"""The files of ``rankscope/measures`` that define numbers of one run."""
COMPARES = (
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
)
"""The files of ``rankscope/comparisons`` that define numbers of two runs."""
WEIGHS = ("intruders", "prefixes", "updates", "weight_alpha")
"""The files of ``rankscope/weights`` that define numbers of weights."""


def _defined() -> Iterator[Definition | Comparison | WeightDefinition]:
    for package, files in (("measures", MEASURES), ("comparisons", COMPARES), ("weights", WEIGHS)):
        for file in files:
            for value in vars(importlib.import_module(f"rankscope.{package}.{file}")).values():
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
"""What ``measure`` measures where nothing is asked for."""
DEFAULT_COMPARED = (
    *DEFAULT_DEFINITIONS,
    "cka",
    "overlap",
    "variance-captured",
    "recoverability",
    "drift",
    "cumulative-distance",
)
"""What ``compare`` compares where nothing is asked for."""

Measure = str | Definition | Comparison | Callable[[Tensor], Tensor]
"""A name, a definition, a comparison, or a function from ``(*, r)`` singular values to ``(*,)``."""


def known(what: Measure) -> Definition | Comparison:
    """The measure that is meant. A plain function becomes a definition on centred singular values.

    Raises:
        UnknownName: if there is none of that name; the message lists those there are.
        UsageError: if ``what`` is none of the things a measure can be, or a number of weights.
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
    found = _ALL.get(what) or _of_order(what) or _of_direction(what)
    if isinstance(found, WeightDefinition):
        raise UsageError(f"{what} is a number of weights, not of features; ask 'rankscope weights' for it")
    if found is None:
        names = sorted({**DEFINITIONS, **COMPARISONS})
        near = get_close_matches(what, names)
        nearest = f" (nearest: {', '.join(near)})" if near else ""
        raise UnknownName(f"there is no measure {what!r}{nearest}; there are {', '.join(names)}")
    return found


def _of_direction(name: str) -> Comparison | None:
    """What is asked of one principal direction of the base: ``usage-3``, ``recoverability-12``, ``drift-1``."""
    parts = re.fullmatch(r"(usage|relative-usage|recoverability|drift)-([1-9]\d*)", name)
    if parts is None:
        return None
    family, direction = parts[1], int(parts[2])
    if family in ("usage", "relative-usage"):
        return usage.of_direction(direction, relative=family == "relative-usage")
    return (recoverability if family == "recoverability" else drift).of_direction(direction)


def _of_order(name: str) -> Definition | None:
    """The member of a family that has a member for every order: ``hill-0.5``, ``hill-sigma-3``, ``renyi-inf``."""
    parts = re.fullmatch(r"(hill|hill-sigma|renyi)-(\d+(?:\.\d+)?|inf)", name)
    if parts is None:
        return None
    family, order = parts[1], float(parts[2])
    return (
        renyi.of_order(order) if family == "renyi" else hill.of_order(order, "sigma" if "sigma" in family else "lambda")
    )


def definition(what: Measure) -> Definition:
    """The number of one run that is meant.

    Raises:
        UnknownName: if there is none of that name.
        UsageError: if it is a number of two runs.
    """
    found = known(what)
    if isinstance(found, Comparison):
        raise UsageError(f"{found.name} relates two runs; ask compare for it")
    return found


def named(text: str) -> tuple[Definition | Comparison, ...]:
    """The measures in a comma-separated list of names and ``file.py:function``; ``usage-1..8`` are eight of them."""
    return tuple(known(name) for part in text.split(",") for name in _counted(part.strip()))


def _counted(name: str) -> list[str]:
    parts = re.fullmatch(r"(.+-)(\d+)\.\.(\d+)", name)
    counted = range(int(parts[2]), int(parts[3]) + 1) if parts else ()
    return [f"{parts[1]}{i}" for i in counted] if parts and counted else [name]


def _custom(function: Callable[[Tensor], Tensor]) -> Definition:
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
                f"a measure makes (*,) values of (*, r) singular values; {name} makes {given} of {tuple(s.shape)}"
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
        bias="not known",
        unit="",
    )


def _from_file(text: str) -> Callable[[Tensor], Tensor]:
    """The function that ``path/file.py:function`` names; the file is run, as any script that its user names."""
    path, _, name = text.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path) if Path(path).is_file() else None
    if spec is None or spec.loader is None:
        raise UnknownName(f"there is no file {path!r} to take the measure {name!r} from")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UnknownName(f"{path} has no function {name!r}")
    return function
