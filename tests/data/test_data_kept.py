"""The files in which people keep texts and chats: what an example holds, and every fault of them told in one pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fixtures_data as make
import pytest

from rankscope.data import Example, check, open_data
from rankscope.data.probes import Turn
from rankscope.errors import DataError
from rankscope.scores import read_predictions

HALF = '"\\ud83d'
TURNS = [("system", "be brief"), ("user", "five?"), ("assistant", "yes"), ("user", "nine?"), ("assistant", "no")]
BEFORE = tuple(Turn(*turn) for turn in TURNS[:-1])
CHAT = ("be brief\nfive?\nyes\nnine?", ("no",), BEFORE)


def _messages(role: str = "role", content: str = "content", renamed: bool = False) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt"} if renamed else {}
    return [{role: names.get(who, who), content: text} for who, text in TURNS]


RECORDS: dict[str, tuple[dict[str, object], tuple[object, ...]]] = {
    "messages": ({"messages": _messages()}, CHAT),
    "conversations": ({"conversations": _messages("from", "value", True)}, CHAT),
    "prompt and completion as messages": ({"prompt": _messages()[:-1], "completion": _messages()[-1:]}, CHAT),
    "parts of text": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "five?"}]}]}, ("five?", (), (Turn("user", "five?"),))),
    "prompt and completion": ({"prompt": "five?", "completion": "yes"}, ("five?", ("yes",), ())),
    "Alpaca": ({"instruction": "count", "input": "five digits", "output": "two"}, ("count\nfive digits", ("two",), ())),
    "Alpaca without input": ({"instruction": "count", "input": "", "output": "two"}, ("count", ("two",), ())),
    "input alone": ({"input": "five", "output": "two"}, ("five", ("two",), ())),
}  # fmt: skip


def _jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _list(path: Path, rows: list[dict[str, object]]) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(rows))
    return path


def _parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = path.with_suffix(".parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def _saved(path: Path, rows: list[dict[str, object]]) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


WRITERS = (_jsonl, _list, _parquet, _saved)


@pytest.mark.parametrize("write", WRITERS, ids=lambda w: w.__name__)
@pytest.mark.parametrize("name", RECORDS)
def test_what_was_asked_and_answered_is_found_in_every_container(
    name: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    row, wanted = RECORDS[name]
    (example,) = open_data(write(tmp_path / "d", [row]))
    assert (example.text, example.targets, example.turns) == wanted
    assert check(write(tmp_path / "e", [row])).good


def test_many_records_were_swept() -> None:
    assert len(RECORDS) * len(WRITERS) >= 32


def test_a_chat_of_llava_shows_its_image_once(tmp_path: Path) -> None:
    make.save_images(tmp_path, ["a.png"])
    said = [{"from": "human", "value": "<image>\nfive?"}, {"from": "gpt", "value": "yes"}]
    (example,) = open_data(_list(tmp_path / "d", [{"id": "q", "image": "a.png", "conversations": said}]))
    assert (example.text, example.target, example.image) == ("five?", "yes", tmp_path / "a.png")
    part = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "five?"}]}
    (example,) = open_data(_jsonl(tmp_path / "e", [{"messages": [part]}]))
    assert example.image == tmp_path / "a.png"


def test_turns_are_part_of_the_fingerprint() -> None:
    one, other = (Example("a", "x\ny", turns=(Turn(r, "x"), Turn("user", "y"))) for r in ("user", "assistant"))
    assert len({one.digest(), other.digest(), Example("a", "x\ny").digest()}) == 3


@pytest.mark.parametrize("index", ["", "Unnamed: 0"])
@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_the_index_of_a_table_is_no_column(index: str, suffix: str, mark: str, tmp_path: Path) -> None:
    make.save_images(tmp_path, ["p0.png", "p1.png"])
    path = tmp_path / f"d{suffix}"
    rows = [[index, "id", "image", "text"], ["10", "a", "p0.png", "five digits"], ["11", "b", "p1.png", "nine"]]
    path.write_text("".join(mark.join(row) + "\n" for row in rows))
    data = open_data(path)
    assert [(e.id, e.text, e.targets, e.label) for e in data] == [
        ("a", "five digits", (), None),
        ("b", "nine", (), None),
    ]
    assert ["column without a name" in n for n in data.notices] == [True]
    path.write_text("".join(mark.join(row[:2] + row[3:]) + "\n" for row in rows))
    assert [(e.text, e.image) for e in open_data(path)] == [("five digits", None), ("nine", None)]
    if index:  # who asks for such a column gets it
        assert [e.label for e in open_data(path, columns={"label": index})] == [10, 11]


def test_an_index_is_no_column_in_parquet(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": ["five", "nine", "one"]}, index=[4, 7, 9])
    table.to_parquet(tmp_path / "d.parquet")
    assert [(e.text, e.targets, e.label) for e in open_data(tmp_path / "d.parquet")] == [
        (text, (), None) for text in ("five", "nine", "one")
    ]


def test_an_empty_name_in_json_holds_nothing(tmp_path: Path) -> None:
    (example,) = open_data(_jsonl(tmp_path / "d", [{"id": "a", "text": "five", "": "hidden"}]))
    assert (example.targets, example.label, example.image, example.about) == ((), None, None, {})


def test_pictures_inside_parquet_are_opened(tmp_path: Path) -> None:
    make.save_images(tmp_path, ["a.png"])
    held = {"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}
    data = open_data(_parquet(tmp_path / "d", [{"image": held, "question": "five?", "answer": "yes"}]))
    assert data[0].open_image().size == (48, 48)
    assert check(data.name).holds == {"images": 1, "texts": 1, "targets": 1}


def test_quoted_cells_of_tsv_hold_tabs(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text('text\tlabel\n"a\tb"\t1\nc\t2\n')
    assert [(e.text, e.label) for e in open_data(tmp_path / "d.tsv")] == [("a\tb", 1), ("c", 2)]


def test_half_of_a_character_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    whole = '{"text": "\\ud83d\\ude00 \\\\ud83d"}\n'  # a pair, and a backslash that only looks like an escape
    path.write_text(whole)
    assert open_data(path)[0].text == "\U0001f600 \\ud83d"
    path.write_text(whole + '{"text": "a\\ud83d b"}\n{"text": "\\ude00"}\n' + "{oops\n")
    with pytest.raises(
        DataError, match=r"2 × text holds half of a character \(line 2 .*; line 3 .*1 × line is not JSON \(line 4"
    ):
        open_data(path)
    path = tmp_path / "d.json"
    path.write_text('[\n {"text": "a"},\n {"text": "\\ud83dx"},\n {"text": "\\ud83d\\ud83d\\ude00"}\n]')
    with pytest.raises(DataError, match=r"2 × text holds half of a character \(\\ud83d in line 3; \\ud83d in line 4\)"):
        open_data(path)
    assert not check(path).good
    with pytest.raises(DataError, match=r"1 × text holds half of a character \(example '1'\)"):
        open_data(["a", "b\ud83d"])


def test_a_name_too_long_for_a_file_is_a_fault(tmp_path: Path) -> None:
    long = "x" * 300 + ".png"
    path = _jsonl(tmp_path / "d", [{"image": long, "caption": "a"}, {"image": f"{'y' * 300}/a.png", "caption": "b"}])
    with pytest.raises(DataError, match="2 × image name is longer than the 255 bytes"):
        open_data(path)
    assert not check(path).good
    for asked in ("z" * 300, f"{'z' * 300}.jsonl", f"{'z' * 300}:val"):  # a text where a file is meant
        with pytest.raises(DataError, match="no such file or folder: z"):
            open_data(asked)
        with pytest.raises(DataError, match="no such file or folder: z"):
            check(asked)


def test_images_may_be_missing_where_none_is_read(tmp_path: Path) -> None:
    for write, split in ((make.coco, None), (make.vqa, None), (make.jsonl, None), (make.karpathy, "test")):
        path = write(tmp_path / write.__name__)
        whole = open_data(path, split=split)
        for image in path.parent.rglob("*.*g"):
            image.unlink()
        with pytest.raises(DataError, match="× image missing"):
            open_data(path, split=split)
        found = open_data(path, split=split, images_needed=False)
        assert [(e.id, e.targets) for e in found] == [(e.id, e.targets) for e in whole]


def test_what_stops_a_reader_does_not_hide_the_faults_before_it(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{oops\n{"speech": "a"}\n')
    with pytest.raises(DataError, match=r"1 × line is not JSON .*1 × reading stopped .*neither text nor image"):
        open_data(path)


def test_faults_of_tables_and_chats_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\na\nb,x\nc,1,2\n" + "d" * 200_000 + ",3\n")
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "d.csv")
    for part in ("2 × row does not have 2 cells", "1 × row is not CSV (line 5", "1 × label is not a whole number"):
        assert part in str(caught.value)
    (tmp_path / "e.csv").write_text("text,text\na,b\n")
    with pytest.raises(DataError, match="more than one column 'text'"):
        open_data(tmp_path / "e.csv")
    rows: list[dict[str, object]] = [
        {"messages": [{"role": "user"}]},
        {"messages": []},
        {"messages": [{"role": "user", "content": "a"}]},
    ]
    with pytest.raises(DataError, match=r"1 × message has no role or no text \(record 1\); 2 × conversation is empty"):
        open_data(_jsonl(tmp_path / "f", rows))


def _bytes(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


HALF_IN_JSON = HALF.encode()
MANY_FAULTS: dict[str, tuple[Callable[[Path], Path], dict[str, int]]] = {
    "lines": (
        lambda p: _bytes(p / "d.jsonl", b'{"id": null, "text": 3, "label": "x"}', b"{oops", b'{"text": "\xff"}', HALF_IN_JSON),
        {"record has no id": 1, "text is missing or not text": 1, "label is not a whole number": 1, "line is not JSON": 2,
         "line is not UTF-8": 1},
    ),
    "a list": (
        lambda p: _bytes(p / "d.json", b"[3,", b'{"text": ""},', b'{"text": ' + HALF_IN_JSON + b'"},', b'{"text": "a", "label": "\xff"}]'),
        {"text is empty": 1, "text holds half of a character": 1, "label is not a whole number": 1, "line is not UTF-8": 1},
    ),
    "CSV": (
        lambda p: _bytes(p / "d.csv", b"text,label,label", b"a,1", b",2,x", b"\xff,3,3"),
        {"more than one column 'label'": 1, "row does not have 3 cells": 1, "text is empty": 1, "label is not a whole number": 1,
         "line is not UTF-8": 1},
    ),
    "OFA": (
        lambda p: _bytes(p / "d.tsv", b"1\t2\t3\t4", b"1\t2\tcaption\t\tAAAA", b"2\t2\t \t\t", b"3\t\xff\tc\t\tAAAA"),
        {"line is not in OFA's format": 1, "line has no image": 1, "line is not UTF-8": 1},
    ),
    "a chat": (
        lambda p: _jsonl(p / "d", [{"id": "", "messages": [{"role": "user"}, 3]}, {"id": "b", "messages": []}]),
        {"message has no role or no text": 2, "conversation is empty": 2, "record has no id": 1, "text is empty": 2},
    ),
    "Parquet": (
        lambda p: _parquet(p / "d", [{"id": "a", "text": None, "label": "x"}, {"id": None, "text": "", "label": "1"}]),
        {"text is missing or not text": 1, "label is not a whole number": 1, "record has no id": 1, "text is empty": 1},
    ),
    "a saved data set": (
        lambda p: _saved(p / "d", [{"id": "a", "text": None, "label": "x"}, {"id": None, "text": "", "label": "1"}]),
        {"text is missing or not text": 1, "label is not a whole number": 1, "record has no id": 1, "text is empty": 1},
    ),
    "Karpathy": (
        lambda p: _bytes(p / "d.json", b'{"images": [{"split": "val"}, {"split": "val", "filename": "../a.png"}, 3,',
                         b'{"split": "val", "filename": "b.png", "sentences": [{"raw": "' + b"\xff" + b'"}, {"raw": 3}, {"raw": ' + HALF_IN_JSON + b'"}]}]}'),
        {"image has no filename or no split": 1, "image name leaves the folder of the images": 1, "entry of images is not an object": 1,
         "caption or answer is not text": 1, "line is not UTF-8": 1, "text holds half of a character": 1, "image missing": 2},
    ),
    "questions": (
        lambda p: (_bytes(p / "v2_mscoco_annotations.json", b'{"images": []}'),
                   _bytes(p / "v2_OpenEnded_mscoco_questions.json", b'{"questions": [{"question": ""}, 3,', b'{"question_id": 1, "image_id": 2, "question": ' + HALF_IN_JSON + b'"}]}'))[1],
        {"annotations cannot be read": 1, "question has no question_id, no image_id or no text": 1, "entry of questions is not an object": 1,
         "text holds half of a character": 1, "image missing": 1},
    ),
    "Oscar": (
        lambda p: (make.oscar(p), (p / "val.yaml").write_text("what is this\n- that\n" + (p / "val.yaml").read_text()),
                   (p / "val_caption.json").write_text('[{"image_id": "7", "caption": ' + HALF + '"}, {}]'))[0],
        {"line is not flat YAML": 2, "caption of an image without regions": 1, "entry has no image_id or no caption": 1,
         "text holds half of a character": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MANY_FAULTS)
def test_every_reader_tells_all_faults_in_one_pass(name: str, tmp_path: Path) -> None:
    write, wanted = MANY_FAULTS[name]
    path = write(tmp_path)
    split = "val" if name == "Karpathy" else None
    with pytest.raises(DataError) as caught:
        open_data(path, split=split)
    assert caught.value.exit_code == 3
    found = {f.kind: f.count for f in check(path).faults}
    for kind, count in wanted.items():
        assert f"{count} × {kind}" in str(caught.value)
        assert found[kind] == count


def test_many_readers_were_swept() -> None:
    assert len(MANY_FAULTS) >= 10


def test_predictions_tell_all_faults_in_one_pass(tmp_path: Path) -> None:
    path = _bytes(tmp_path / "p.jsonl", b'{"id": "a", "prediction": "x"}', b"{oops", b'{"id": "b"}', b'"text"')
    with pytest.raises(
        DataError, match=r"line 2 is not JSON .*; .*line 3 is not a prediction.*; .*line 4 is not a prediction"
    ):
        read_predictions(path)
    path = _bytes(tmp_path / "p.json", b'[{"id": "a"}, "text", {"prediction": "x"}]')
    with pytest.raises(DataError, match=r"entry 0 is .*; .*entry 1 is .*; .*entry 2 is not a prediction"):
        read_predictions(path)
