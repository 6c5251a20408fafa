"""The planted answers come out of the whole pipeline, and a broken measure is caught."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rankscope import registry
from rankscope.errors import UnknownName
from rankscope.selftest import answers as selftest
from rankscope.selftest.answers import Answer
from rankscope.selftest.planted import DISSOCIATION, SCENARIOS


@pytest.fixture(scope="module")
def whole() -> selftest.Selftest:
    return selftest.run()


def test_every_planted_answer_comes_out_of_the_pipeline(whole: selftest.Selftest) -> None:
    assert [(a.scenario, a.measure, a.value, a.expected) for a in whole.wrong] == []
    assert {a.scenario for a in whole.answers} == set(SCENARIOS)


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
    with pytest.raises(UnknownName, match="no planted scenario 'frob'; there are identical, random rotation"):
        selftest.run(["frob"])
