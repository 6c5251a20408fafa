"""The planted answers come out of the whole pipeline, and a broken measure is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rankscope import registry
from rankscope.analysis import intervals
from rankscope.comparisons import recoverability
from rankscope.errors import UnknownName
from rankscope.selftest import answers as selftest
from rankscope.selftest.answer import Answer
from rankscope.selftest.every import ASKED, DRAWS, EVERY, draws, every_measure
from rankscope.selftest.planted import DISSOCIATION, SCENARIOS


@pytest.fixture(scope="module")
def whole() -> selftest.Selftest:
    return selftest.run()


def test_every_planted_answer_comes_out_of_the_pipeline(whole: selftest.Selftest) -> None:
    assert [(a.scenario, a.measure, a.value, a.expected) for a in whole.wrong] == []
    assert {a.scenario for a in whole.answers} == {*SCENARIOS, EVERY, DRAWS}


def test_the_dissociation_table_comes_first_row_by_row_and_column_by_column(whole: selftest.Selftest) -> None:
    table = [a for s in DISSOCIATION for a in whole.answers if a.scenario == s.name]
    assert list(whole.answers[: len(table)]) == table
    assert len(table) == 9 * 7 + 4
    assert {a.measure for a in table} == set(selftest.COLUMNS)


def test_padding_is_refused_and_right_without_it(whole: selftest.Selftest) -> None:
    padded = [a for a in whole.answers if a.scenario == "duplicated rows"]
    assert all(bool(a.said) != a.measure.endswith("(distinct)") for a in padded)
    assert "1228 of the 4096 rows" in padded[0].said


def test_a_broken_measure_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """CKA with a wrong sign, and an entropy rank that forgets the square: both stand out, and nothing else does."""
    for name, broken in (("cka", lambda f: lambda *m: 1 - f(*m)), ("entropy-rank", lambda f: lambda s: f(s.sqrt()))):
        right = registry.known(name)
        monkeypatch.setitem(registry._ALL, name, replace(right, function=broken(right.function)))
    found = selftest.run(["identical"])
    assert {a.measure for a in found.wrong} == {"cka", "entropy-rank"}


def test_every_measure_is_asked_and_each_named_fault_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each was planted in 0.1.0 and passed; all others say what they said."""
    names = {a.measure for a in every_measure(tmp_path)}
    assert names == {*registry.DEFINITIONS, *registry.COMPARISONS}

    def plant(name: str, function: Callable[..., Tensor]) -> None:
        monkeypatch.setitem(registry._ALL, name, replace(registry.known(name), function=function))

    function = {name: registry.known(name).function for name in names}
    plant("participation-ratio", function["participation-ratio-naive"])
    plant("drift", lambda pair: 1.04 * function["drift"](pair))
    plant("roy-vetterli", lambda s: function["roy-vetterli"](s.square()))
    plant("stable-rank", lambda s: s.sum(-1) / s.amax(-1))
    plant("pt-peft", lambda curve: function["pt-peft"](curve) / 2)
    monkeypatch.setitem(
        registry._ALL, "cka", replace(registry.known("cka"), across=None, function=function["cka-biased"])
    )
    monkeypatch.setattr(recoverability, "_offset", lambda fit, evaluate, weights: torch.zeros_like(weights[..., :1, :]))
    wrong = {a.measure for a in every_measure(tmp_path) if not a.right}
    without_intercept = {"recoverability", "recoverability-1"}
    planted = {"participation-ratio", "drift", "roy-vetterli", "stable-rank", "pt-peft", "cka", *without_intercept}
    assert wrong - {"recoverable-components"} == planted


def test_a_standard_error_ten_times_too_small_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = intervals.standard_error
    monkeypatch.setattr(intervals, "standard_error", lambda left_out: right(left_out) / 10)
    assert {a.measure for a in draws() if not a.right} == {f"{name}: held" for name in ASKED}


def test_estimates_that_are_biased_are_noticed_by_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, naive in (("participation-ratio", "participation-ratio-naive"), ("cka", "cka-biased")):
        planted = replace(registry.known(name), function=registry.known(naive).function)
        monkeypatch.setitem(registry._ALL, name, planted)
    assert {"participation-ratio", "cka, unrelated"} <= {a.measure for a in draws() if not a.right}


def test_a_pipeline_that_mixes_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """If rows came back from the store in another order, alignment would be gone, and rank would not show it."""
    order = torch.randperm(4096, generator=torch.Generator().manual_seed(0))
    read = selftest.Run.features
    monkeypatch.setattr(
        selftest.Run, "features", lambda run, site: read(run, site)[order] if run.name == "tuned" else read(run, site)
    )
    wrong = {a.measure for a in selftest.run(["identical"]).wrong}
    assert {"cka", "procrustes", "recoverability"} <= wrong
    assert not wrong & {"entropy-rank", "participation-ratio"}


def test_an_answer_is_right_within_its_tolerance_or_refuses_where_it_must() -> None:
    def answer(value: float | None, expected: float | None, said: str = "") -> Answer:
        return Answer("s", "t", "cka", value, expected, 0.1, said)

    assert answer(1.05, 1.0).right
    assert not answer(1.2, 1.0).right
    assert not answer(None, 1.0, "refused").right
    assert answer(None, None, "refused").right
    assert not answer(1.0, None).right
    record = selftest.Selftest((answer(None, None, "refused"),)).to_records()[0]
    assert (record["value"], record["expected"], record["right"]) == (None, None, True)


def test_an_unknown_scenario_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match="no planted scenario 'frob'; the scenarios are identical, random rotation"):
        selftest.run(["frob"])
