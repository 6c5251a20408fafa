"""The public functions: typed options that all arrive, paths wherever a run is taken, and errors that say what to write."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import rankscope
from rankscope.analysis.options import Analysis
from rankscope.errors import UnknownName, UsageError
from rankscope.plots import draw
from rankscope.results.record import Table

DOORS: dict[str, Callable[..., Any]] = {
    "measure": lambda run, **options: rankscope.measure(run, **options),
    "profile": lambda run, **options: rankscope.profile(run, "stable-rank", **options),
    "spectra": lambda run, **options: rankscope.spectra(run, **options),
    "curve": lambda run, **options: rankscope.curve(run, **options),
    "compare": lambda run, **options: rankscope.compare(run, run, **options),
    "compare_arms": lambda run, **options: rankscope.compare_arms({"a": [run]}, **options),
}
VALUES: dict[str, Any] = {
    "sites": "last",
    "groups": 7,
    "interval": "jackknife",
    "level": 0.8,
    "variant": "distinct",
    "allow_duplicates": True,
    "base_model": "base",
    "device": "cpu",
    "progress": lambda done, total, what: None,
}
"""A value of each shared option that is not its default."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("doors") / "run.pt"
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    rankscope.collect(nn.Sequential(nn.Identity()), x, out=out)
    return out


class _Opened(Exception):
    """Carries the options with which a run was to be opened."""


@pytest.mark.parametrize("name", DOORS)
def test_every_shared_option_arrives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(options: Analysis, what: object) -> None:
        raise _Opened(options)

    monkeypatch.setattr(Analysis, "open", opened)
    given = {k: v for k, v in VALUES.items() if k in inspect.signature(getattr(rankscope, name)).parameters}
    with pytest.raises(_Opened) as found:
        DOORS[name]("run.pt", **given)
    assert {k: getattr(found.value.args[0], k) for k in given} == given
    assert set(VALUES) == {field.name for field in fields(Analysis)}
    assert len(given) == {"spectra": 3, "curve": 6}.get(name, 9)


@pytest.mark.parametrize("name", [*DOORS, "weigh"])
def test_options_are_named_by_keyword_and_described(name: str) -> None:
    function = getattr(rankscope, name)
    parameters = inspect.signature(function).parameters
    assert not [p for p in parameters.values() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert all(f"\n    {p}: " in (inspect.getdoc(function) or "") for p in parameters)
    shared = [parameters[p] for p in VALUES if p in parameters and (name, p) != ("spectra", "sites")]
    assert {p.kind for p in shared} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", DOORS)
def test_a_path_is_as_good_as_a_run(name: str, path: Path) -> None:
    options = {} if name in ("profile", "spectra") else {"measures": ["stable-rank"]}
    results = [DOORS[name](run, **options) for run in (str(path), path, rankscope.load(path))]
    if name == "spectra":
        assert all(torch.equal(a.values, b.values) for a, b in zip(*(r.values() for r in results[1:]), strict=True))
    else:
        assert results[0].to_records() == results[1].to_records() == results[2].to_records()


@pytest.mark.parametrize("name", DOORS)
def test_features_in_the_place_of_a_run_are_refused_with_how_to_make_one(name: str) -> None:
    for array, words in (
        (torch.zeros(8, 3), r"got Tensor of shape \(8, 3\)\. Make a run of features in memory with collect"),
        (torch.zeros(8, 3).numpy(), r"got ndarray of shape \(8, 3\)"),
        (pd.DataFrame({"x": [1.0]}), r"got DataFrame of shape \(1, 1\)"),
        (3, "got int"),
    ):
        with pytest.raises(UsageError, match=words):
            DOORS[name](array)


@pytest.mark.parametrize("name", [name for name in DOORS if name not in ("profile", "spectra")])
def test_one_name_in_the_place_of_a_list_is_refused_with_what_to_write(name: str, path: Path) -> None:
    with pytest.raises(UsageError, match=r"measures is a list; got the string 'cka': write measures=\['cka'\]"):
        DOORS[name](path, measures="cka")
    with pytest.raises(UsageError, match=r"write measures=\['cka', 'drift'\]"):
        DOORS[name](path, measures="cka,drift")
    with pytest.raises(UsageError, match="measures is a list of names, definitions or functions; got function"):
        DOORS[name](path, measures=lambda s: s.sum(-1))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("sites", 3, r"sites is a selection such as 'decoder.0-3', or a list of sites; got 3"),
        ("groups", "20", "groups is a whole number; got '20'"),
        ("level", "0.95", "level is a number between 0 and 1, e.g. 0.95; got '0.95'"),
        ("allow_duplicates", "yes", "allow_duplicates is True or False; got 'yes'"),
        ("progress", None, "progress is a function of the steps done, their number and what comes next; got None"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused(option: str, value: object, words: str, path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        rankscope.measure(path, **{option: value})
    with pytest.raises(UnknownName, match="no variant 'frob' of the rows; there are raw, distinct"):
        rankscope.measure(path, variant="frob")


def test_an_option_of_one_function_is_checked_too(path: Path) -> None:
    with pytest.raises(UsageError, match=r"parts is a list of numbers of parts, as \[1, 2, 4\]; got 4"):
        rankscope.curve(path, parts=4)
    with pytest.raises(UsageError, match=r"modules is a pattern, or several in one string.* got \['\*\.q_proj'\]"):
        rankscope.weigh(path, modules=["*.q_proj"])


def test_arms_are_a_mapping_of_lists(path: Path) -> None:
    for arms in ([path], {"a": path}, {"a": str(path)}):
        with pytest.raises(UsageError, match="arms are named, and each has at least one run"):
            rankscope.compare_arms(arms)


COLUMNS = {
    "measure": "site measure value low high noise n samples d dtype convention unit note variant refused mean_share "
    "without_sinks below_floor run interval_by",
    "curve": "site measure parts rows value least greatest noise limit d convention unit note variant run",
    "compare": "site measure value low high a b difference a_low a_high b_low b_high base noise itself n samples d dtype "
    "convention unit note variant mean_share mean_share_b without_sinks below_floor band_low band_high p p_unrelated run_a "
    "run_b run_base interval_by percent percent_low percent_high "
    "percent_a percent_a_low percent_a_high percent_b percent_b_low percent_b_high band_a_low band_a_high band_b_low band_b_high",
    "compare_arms": "site measure arm value low high band_low band_high p seed_sd seed_se sample_se floor equivalent "
    "p_equivalent runs n samples d dtype convention unit verdict note variant run_names run_base",
}


@pytest.mark.parametrize("name", COLUMNS)
def test_records_are_flat_and_name_their_runs(name: str, path: Path) -> None:
    result = DOORS[name](path, measures=["stable-rank"])
    (record, *_) = result.to_records()
    assert " ".join(record) == COLUMNS[name] == " ".join(result.to_frame().columns)
    assert record["note"] == " · ".join(result.records[0].notes)
    names = {k: v for k, v in record.items() if k.startswith("run") and k != "runs"}
    assert (
        names
        == {
            "measure": {"run": "run"},
            "curve": {"run": "run"},
            "compare": {"run_a": "run#1", "run_b": "run#2", "run_base": None},
            "compare_arms": {"run_names": "run", "run_base": None},
        }[name]
    )


def test_a_result_without_a_figure_says_which_have_one() -> None:
    with pytest.raises(UsageError, match="a Table has no figure; these have one: Measurement, Contrast"):
        draw(Table(()))
    with pytest.raises(UsageError, match="has no figure"):
        Table(()).plot()
