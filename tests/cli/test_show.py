"""What is said beside results: each note once, no word broken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rankscope.cli import interruption, show

ODD = "4 of 96 rows equal another: texts that begin alike"
RECORDS = [
    SimpleNamespace(site=f"decoder.{i}", measure=measure, notes=notes)
    for i in range(3)
    for measure, notes in (("cka", (f"{3 + i} rows are massive at decoder.{i}", "alike")), ("drift", ("alike",)))
]


def test_each_kind_of_note_is_said_once_with_the_number_of_its_sites(capsys: pytest.CaptureFixture[str]) -> None:
    one = SimpleNamespace(site="decoder.1", measure="cka", notes=(ODD,))
    show.notes([*RECORDS, one])
    assert capsys.readouterr().err.splitlines() == [
        "note: cka at every site: 3 rows are massive at decoder.0 (2 more with other numbers)",
        "note: every measure at every site: alike",
        f"note: cka at decoder.1: {ODD}",
    ]
    show.notes([RECORDS[0], RECORDS[2], SimpleNamespace(site="decoder.2", measure="cka", notes=())])
    assert "note: cka at 2 of 3 sites: alike" in capsys.readouterr().err


def test_paragraphs_break_no_word_and_keep_a_number_with_its_sign(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "columns_there", lambda: 24)
    show.paragraphs(["the participation-ratio-clustered-of-all falls by 46 % and 5 % of its value"])
    lines = capsys.readouterr().out.splitlines()
    assert "  participation-ratio-clustered-of-all" in lines, "a word longer than a line has one of its own"
    assert not any(line.strip().startswith("%") for line in lines)
    assert "46 %" in " ".join(lines)


def test_a_table_breaks_no_word_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "columns_there", lambda: 20)
    show.table("title", ["site", "measure"], [["decoder.final", "participation-ratio-clustered"]], words=2)
    told = capsys.readouterr().out
    assert "participation-ratio-clustered" in told
    assert "decoder.final" in told


def test_pace_is_counted_from_where_work_was_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 100.0, 110.0, 120.0])
    monkeypatch.setattr(show, "monotonic", lambda: next(now))
    pace = show.Pace("tokens")
    assert pace.words(5000, 20000) == "", "what was read before is no pace"
    assert pace.words(5000, 20000) == ""
    assert pace.words(6000, 20000) == "100 tokens/s, 140 s left".replace("140 s", "2 min")
    assert pace.words(20000, 20000) == "750 tokens/s, 0 s left"
    assert [show.duration(s) for s in (0.4, 99, 100, 7200)] == ["0 s", "99 s", "2 min", "2.0 h"]


def test_an_interruption_says_what_is_kept_only_if_it_is() -> None:
    assert interruption.words() == "interrupted; nothing was kept"
    with interruption.keeping(lambda: "3 of 4 batches are kept"):
        assert interruption.words() == "interrupted; 3 of 4 batches are kept"
        with interruption.keeping(lambda: ""):
            assert interruption.words() == "interrupted; nothing was kept"
    assert interruption.words() == "interrupted; nothing was kept"
