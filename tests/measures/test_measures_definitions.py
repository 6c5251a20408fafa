"""Every definition of every module: named once, cited, and computable from what it says that it reads."""

from __future__ import annotations

import importlib
import math
import pkgutil
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

import rankscope.measures
from rankscope.catalogue import ALIASES, listed, member
from rankscope.definition import Definition, WeightDefinition
from rankscope.errors import UnknownName, UsageError
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import singular_values
from rankscope.measures.hill import hill
from rankscope.registry import COMPARISONS, DEFINITIONS, WEIGHT_DEFINITIONS, known

MODULES = [m.name for m in pkgutil.iter_modules(rankscope.measures.__path__)]
WITHOUT = {"neighbours"}
"""Modules that define no number: the search that the estimators of intrinsic dimension share."""


def definitions(module: str) -> tuple[Definition, ...]:
    loaded = importlib.import_module(f"rankscope.measures.{module}")
    return getattr(loaded, "DEFINITIONS", (loaded.DEFINITION,) if hasattr(loaded, "DEFINITION") else ())


ALL = [d for m in MODULES for d in definitions(m)]


def test_every_module_defines_something_and_every_name_is_said_once() -> None:
    assert {m for m in MODULES if not definitions(m)} == WITHOUT
    names = [d.name for d in ALL]
    assert len(set(names)) == len(names) >= 40
    registered = importlib.import_module("rankscope.registry")
    assert {*names} == {*registered.DEFINITIONS}
    assert {*registered.WEIGHT_DEFINITIONS} == {
        "bf16-moved", "intruders", "on-data-effective", "on-data-participation", "on-data-share", "prefix-effective",
        "rotation-left", "rotation-right", "spectral-shift", "update-effective", "weight-alpha",
    }  # fmt: skip
    for module in MODULES:
        loaded = importlib.import_module(f"rankscope.measures.{module}")
        assert not (hasattr(loaded, "DEFINITION") and hasattr(loaded, "DEFINITIONS"))


def test_the_names_that_the_tables_print_are_there() -> None:
    reads = {d.name: d.reads for d in ALL}
    assert reads["participation-ratio"] == "moments"
    assert reads["participation-ratio-clustered"] == "clusters"
    assert reads["pt-peft"] == "samples"
    for name in ("roy-vetterli", "rankme", "pt-peft-pooled", "stable-rank", "energy-90", "energy-95", "alpha-req"):
        assert reads[name] == "spectrum"
    uncentred = {d.name for d in ALL if d.reads == "spectrum" and not d.centred}
    assert uncentred == {"rankme", "pt-peft-pooled"}


@pytest.mark.parametrize("definition", ALL, ids=lambda d: d.name)
def test_it_computes_from_what_it_reads(definition: Definition, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(120, 24, generator=generator) * torch.arange(1, 25) ** -0.5 + 0.1).to(device)
    sample = torch.arange(120) // 4
    if definition.reads == "spectrum":
        s = singular_values(torch.stack([x[:60], x[60:]]), centre=definition.centred).values
        keywords = {name: {"floor": 1e-6, "rows": 60}[name] for name in definition.takes}
        value, shape = definition.function(s, **keywords), (2,)
    elif definition.reads == "moments":
        value, shape = definition.function(Moments.of(x, shift=x[0], group=sample % 3, groups=3)), (3,)
    elif definition.reads == "clusters":
        clusters = ClusterMoments.of(x, sample, shift=x[0], group=sample % 3, groups=3)
        value, shape = definition.function(clusters), (3,)
    elif definition.reads == "samples":
        assert definition.prepare is not None
        of_samples = definition.prepare(x, sample)
        assert len(of_samples) == 30
        value, shape = definition.function(of_samples.unflatten(0, (2, 15)).mean(1)), (2,)
    else:
        batch = torch.stack([x, x.flip(1) * 2 + 1])
        value, shape = definition.function(batch, sample), (2,)
        alone = torch.stack([definition.function(matrix, sample) for matrix in batch])
        # A batch is solved by other routines than one matrix on an accelerator
        assert_close(value, alone, rtol=0 if device.type == "cpu" else 1e-12, atol=0)
        assert definition.function(batch[:0], sample).shape == (0,)
        assert definition.function(batch[None], sample).shape == (1, 2)
        with pytest.raises(UsageError, match=r"features are \(\*, n, d\), one row per observation; got shape \(24,\)"):
            definition.function(x[0], sample)
    assert value.shape == shape
    assert value.dtype == torch.float64
    assert value.isfinite().all()
    assert value.device.type == device.type


def test_every_order_of_a_family_has_a_name() -> None:
    s = torch.rand(3, 7, dtype=torch.float64)
    for name, value in (
        ("hill-0.5", hill(s, 0.5)),
        ("hill-sigma-3", hill(s, 3, base="sigma")),
        ("hill-sigma-inf", hill(s, math.inf, base="sigma")),
        ("renyi-0.5", hill(s, 0.5).log()),
    ):
        assert known(name).name == name
        assert torch.equal(known(name).function(s), value)
    aliases = {
        "hill-1": "entropy-rank",
        "hill-inf": "stable-rank",
        "nesum": "stable-rank",
        "hill-sigma-1": "roy-vetterli",
    }
    for name, alias in aliases.items():
        assert_close(known(name).function(s), DEFINITIONS[alias].function(s), rtol=1e-14, atol=0)
    for name in ("hill-", "hill-x", "hill--1", "renyi-sigma-2"):
        with pytest.raises(UnknownName, match=f"there is no measure '{name}'"):
            known(name)
    with pytest.raises(
        UnknownName, match=r"'stablerank' \(nearest: stable-rank.*\); 'rankscope definitions' lists all \d\d"
    ):
        known("stablerank")
    with pytest.raises(UnknownName, match=r"'usge-1' \(nearest: usage-1, \S+, \S+\); "):
        known("usge-1")
    with pytest.raises(UnknownName, match=r"'effective-rnk' \(nearest: effective-rank, "):  # an alias
        known("effective-rnk")
    for name in WEIGHT_DEFINITIONS:
        with pytest.raises(
            UsageError, match=f"{name} is a number of weights, not of features; ask 'rankscope weights'"
        ):
            known(name)


def test_the_names_of_the_field_are_understood() -> None:
    for spelled, name in (("PR", "participation-ratio"), ("Effective_Rank", "roy-vetterli"), ("erank", "roy-vetterli"),
                          ("stable rank", "stable-rank"), ("HILL-2", "hill-2"), ("Hill_0.5", "hill-0.5")):  # fmt: skip
        assert known(spelled).name == name
    for alias, name in ALIASES.items():
        assert known(alias).name == name
        assert alias not in (*DEFINITIONS, *COMPARISONS, *WEIGHT_DEFINITIONS), f"{alias} has a meaning of its own"
        assert member(alias) is None
    assert listed("pr, erank,mine.py:My_Rank") == ["participation-ratio", "roy-vetterli", "mine.py:My_Rank"]


@pytest.mark.parametrize("definition", [*ALL, *WEIGHT_DEFINITIONS.values()], ids=lambda d: d.name)
def test_it_says_all_that_must_be_said(definition: Definition | WeightDefinition) -> None:
    for text in (definition.formula, definition.citation, definition.low, definition.high, definition.bias):
        assert text
        assert text.isascii(), text
    assert definition.name == definition.name.lower()


def test_measures_load_without_models() -> None:
    code = (
        "import sys, pkgutil, importlib, rankscope.measures as m\n"
        "[importlib.import_module(f'rankscope.measures.{i.name}') for i in pkgutil.iter_modules(m.__path__)]\n"
        "assert not {'transformers', 'peft', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
