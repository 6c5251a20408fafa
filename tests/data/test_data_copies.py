"""What stands in data twice: taken once if it is the same in everything, and counted if only its id differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fixtures_data as make
import pytest

from rankscope.data import Example, check, open_data
from rankscope.errors import DataError

ROWS = [{"id": "a", "text": "five"}, {"id": "b", "text": "nine"}, {"id": "a", "text": "five"}]
TWICE = "1 × example occurs twice, and is taken once (a)"


def _csv(path: Path, rows: list[dict[str, str]], mark: str = ",") -> None:
    path.write_text("".join(mark.join(row) + "\n" for row in (rows[0], *(row.values() for row in rows))))


WRITERS: dict[str, Callable[[Path], object]] = {
    "d.jsonl": lambda p: p.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "d.json": lambda p: p.write_text(json.dumps(ROWS)),
    "d.csv": lambda p: _csv(p, ROWS),
    "d.tsv": lambda p: _csv(p, ROWS, "\t"),
}


@pytest.mark.parametrize("name", [*WRITERS, "memory"])
def test_a_row_that_stands_twice_is_taken_once(name: str, tmp_path: Path) -> None:
    if name == "memory":
        data = open_data(ROWS)
    else:
        WRITERS[name](tmp_path / name)
        data = open_data(tmp_path / name)
        report = check(tmp_path / name)
        assert (report.good, report.examples, str(report.notices[0])) == (True, 2, TWICE)
    assert (data.ids, data.notices) == (("a", "b"), (TWICE,))


def test_formats_with_images_take_a_row_once(tmp_path: Path) -> None:
    for write, file, split in ((make.ofa_captions, "", None), (make.image_folder, "test/metadata.jsonl", "test")):
        path = write(tmp_path / write.__name__)
        whole = open_data(path, split=split)
        rows = path / file if file else path
        rows.write_text(rows.read_text() + rows.read_text().split("\n")[0] + "\n")
        again = open_data(path, split=split)
        assert (again.ids, again.fingerprint) == (whole.ids, whole.fingerprint)
        assert any("occurs twice" in notice for notice in again.notices)


def test_another_example_of_an_id_is_a_fault(tmp_path: Path) -> None:
    for other in ({"text": "six"}, {"text": "five", "answer": "no"}, {"text": "five", "label": 1}):
        with pytest.raises(DataError, match=r"1 × id occurs more than once \(a\)"):
            open_data([*ROWS, {"id": "a", **other}])


def test_copies_under_another_id_are_counted(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("five\nnine\nfive\nfive\n")
    report = check(tmp_path / "d.txt")
    assert (report.good, report.examples) == (True, 4)
    assert str(report.notices[0]) == (
        "2 × example is a copy of another, and is collected once ('3' is '1'; '4' is '1')"
    )
    make.save_images(tmp_path, ["a.png"])
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    report = check(tmp_path)
    assert [f.count for f in report.notices if "copy of another" in f.kind] == [1]


def test_a_probe_set_is_distinct_by_what_is_read() -> None:
    data = open_data([Example("a", "x", targets=("y",)), Example("b", "x", targets=("z",)), Example("c", "w")])
    assert data.distinct(lambda e: e) is data
    texts = data.distinct(lambda e: Example(e.id, e.text))
    assert texts.ids == ("a", "c")
    assert texts.notices == ("1 × sample repeats an earlier one, and is left out ('b' is 'a')",)
