"""Prediction files are read in every usual form, and refused with the place of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rankscope.errors import DataError, StorageError
from rankscope.scores import read_predictions, write_coco_results, write_vqa_submission

TEXTS = {"391895": 'a dog\u2028 "barks" | é', "7": ""}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for write in (write_coco_results, write_vqa_submission):
        write(tmp_path / "p", TEXTS)
        assert read_predictions(tmp_path / "p") == TEXTS
        assert list(read_predictions(tmp_path / "p")) == list(TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_official_files_have_the_official_fields(tmp_path: Path) -> None:
    write_coco_results(tmp_path / "c", TEXTS)
    write_vqa_submission(tmp_path / "v", TEXTS)
    assert json.loads((tmp_path / "c").read_text())[1] == {"image_id": 7, "caption": ""}
    assert json.loads((tmp_path / "v").read_text())[1] == {"question_id": 7, "answer": ""}
    with pytest.raises(DataError, match="id 'img_7' is not a whole number"):
        write_vqa_submission(tmp_path / "v", {"img_7": "yes"})


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "a", "prediction": "x"}\n\n{"image_id": 5, "caption": "y"}',
        '[{"id": "a", "text": "x"}, {"question_id": 5, "answer": "y"}]',
        '\ufeff{"id": "a", "prediction": "x"}\r\n{"id": 5, "prediction": "y", "score": 1}\r\n',
    ],
)
def test_forms_that_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "p").write_bytes(text.encode())
    assert read_predictions(tmp_path / "p") == {"a": "x", "5": "y"}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b'{"id": 1, "prediction": "x"}\n{"id": 2', "line 2 is not JSON"),
        (
            b'{"id": 1, "prediction": "x"}\n{"id": 2}',
            r"line 2 is not a prediction: it has id; expected an id under id or",
        ),
        (b'[{"id": 1, "prediction": 5}]', "entry 0 is not a prediction"),
        (b'[{"id": true, "prediction": "x"}]', "entry 0 is not a prediction"),
        (b"[1]", "entry 0 is not a prediction: it has int"),
        (b'[{"id": 1', "the list is not JSON"),
        (b'{"id": 1, "prediction": "x"}\n{"id": "1", "prediction": "y"}', "1 of 1 ids have more than one of the pred"),
        (b"\xff\xfe{", "not UTF-8 text at byte 0"),
        (b"[" * 100_000, "the list is not JSON"),
    ],
)
def test_faulty_files_are_refused_with_the_place(tmp_path: Path, data: bytes, match: str) -> None:
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(DataError, match=match):
        read_predictions(tmp_path / "p")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_predictions(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*p: Not a directory"):
        write_coco_results(tmp_path / "file" / "p", TEXTS)
