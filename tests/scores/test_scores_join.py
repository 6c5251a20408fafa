"""Predictions meet the data that they were made for: by image, by annotators or told scores, and on their way to a server."""

from __future__ import annotations

import json
from pathlib import Path

import fixtures_data
import pytest

from rankscope.data.open import open_data
from rankscope.data.probes import Example
from rankscope.errors import DataError, OutputExists, UnknownName, UsageError
from rankscope.scores.join import guess_kind, score, write_submission

METRICS = ["BLEU-1", "CIDEr"]
SAID = ("a red five", "two digits", "nothing at all", "a seven")


def by_row(*, image: str = "image_id") -> list[dict[str, str]]:
    """A row for each caption, as OFA's training files and many tables have it."""
    return [
        {"id": f"{name}-{j}", "image": f"{name}.png", image: str(name), "caption": caption}
        for i, name in enumerate(fixtures_data.IDS)
        for j, caption in enumerate(fixtures_data.captions(i))
    ]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    fixtures_data.save_images(tmp_path, [f"{name}.png" for name in fixtures_data.IDS])
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, by_row())) + "\n")
    return path


def test_rows_of_one_image_score_as_the_image(rows: Path, tmp_path: Path) -> None:
    whole = fixtures_data.coco(tmp_path / "coco")
    by_image = dict(zip(map(str, fixtures_data.IDS), SAID, strict=True))
    wanted = score(by_image, whole, metrics=METRICS, per_sample=True)
    each = {example.id: by_image[example.about["image_id"]] for example in open_data(rows)}
    found = [score(said, rows, metrics=METRICS, per_sample=True) for said in (each, by_image)]
    for one in found:
        assert one.values == wanted.values
        assert one.intervals == wanted.intervals
        assert (one.images, one.ids) == (4, wanted.ids)
    apart = open_data([{k: v for k, v in row.items() if k in ("id", "caption")} | {"text": "?!"} for row in by_row()])
    assert score(each, apart, kind="captions", metrics=METRICS)["BLEU-1"] < wanted["BLEU-1"]  # a reference each


def test_rows_of_one_image_cannot_be_told_apart(rows: Path) -> None:
    said = {example.id: f"caption {i}" for i, example in enumerate(open_data(rows))}
    with pytest.raises(DataError, match="4 of 4 images occur in several examples with different captions"):
        score(said, rows, metrics=METRICS)
    with pytest.raises(DataError, match=r"19 of 20 ids have no prediction \(391895-1, "):
        score({"391895-0": "a"}, rows, metrics=METRICS)


def test_prompts_about_one_image_are_samples_of_their_own() -> None:
    asked = [Example(f"{i}{p}", p, None, (f"{p} {i}", "one")) for i in "ab" for p in ("short", "long")]
    data = [Example(e.id, e.text, None, e.targets, about={"image_id": e.id[0]}) for e in asked]
    found = score({e.id: e.targets[0] for e in data}, data, metrics=["BLEU-1"], per_sample=True)
    assert found.ids == ("ashort", "along", "bshort", "blong")


def test_given_scores_of_answers_are_their_accuracy(tmp_path: Path) -> None:
    data = fixtures_data.ofa_questions(tmp_path)  # 0.6|!+no&&1.0|!+yes
    ids = open_data(data).ids
    said = dict(zip(ids, ("yes", "no", "maybe", " Yes. "), strict=True))
    found = score(said, data, per_sample=True)
    assert found.samples["accuracy"].tolist() == [100, 60, 0, 100]
    assert found["accuracy"] == 65
    low, high = found.intervals["accuracy"]
    assert low < 65 < high


def test_one_reference_is_met_letter_by_letter_unless_both_are_normalised() -> None:
    data = [Example("1", "how many?", targets=("two",)), Example("2", "how many?", targets=("three",))]
    assert score({"1": "two", "2": "3"}, data)["accuracy"] == 50
    assert score({"1": "two", "2": "3"}, data, rule="always")["accuracy"] == 100


def test_few_annotators_are_refused() -> None:
    data = [Example("1", "why?", targets=("a", "b")), Example("2", "why?", targets=("a",) * 10)]
    with pytest.raises(DataError, match=r"1 of 2 questions have two or three answers \(the first is '1'\)"):
        score({"1": "a", "2": "a"}, data)


def test_the_kind_is_told_by_the_data(tmp_path: Path) -> None:
    bare = [Example("1", "tell me", about={"task": "question"})]
    assert guess_kind(bare) == "answers"
    assert guess_kind([Example("1", "Where is it? ")]) == "answers"
    assert guess_kind(list(open_data(fixtures_data.coco(tmp_path)))) == "captions"
    with pytest.raises(UnknownName, match="no kind of predictions 'words'; choose captions, answers, labels"):
        score({"1": "a"}, bare, kind="words")
    with pytest.raises(DataError, match="1 examples have no reference to score against; the first is '1'"):
        score({"1": "a"}, bare)


def test_labels_are_scored_by_number() -> None:
    data = [Example(str(i), text="a text", label=label) for i, label in enumerate((0, 2, 1, 2))]
    assert guess_kind(data) == "labels"
    found = score({"0": "0", "1": "2", "2": "2", "3": "1"}, data, per_sample=True)
    assert (found.values, found.unit, found.images) == ({"accuracy": 50.0}, "%", 4)
    assert found.samples is not None
    assert found.samples["accuracy"].tolist() == [100, 100, 0, 0]
    low, high = found.intervals["accuracy"] or (50, 50)
    assert 0 <= low < 50 < high <= 100


def test_labels_that_cannot_be_scored_are_refused(tmp_path: Path) -> None:
    data = [Example(str(i), text="a text", label=i) for i in range(2)]
    with pytest.raises(
        DataError, match=r"1 of 2 predictions are not the number of a label \(the first is 'bad' for '1'\)"
    ):
        score({"0": "0", "1": "bad"}, data)
    with pytest.raises(DataError, match="1 of 2 ids have no prediction"):
        score({"0": "0"}, data)
    with pytest.raises(DataError, match="1 of 3 examples have no label"):
        score({"0": "0", "1": "1", "2": "1"}, [*data, Example("2", text="a text")], kind="labels")
    with pytest.raises(UsageError, match="no server takes labels"):
        write_submission({"0": "0", "1": "1"}, data, tmp_path / "s.json")


def test_a_submission_of_answers_needs_no_annotations(tmp_path: Path) -> None:
    asked = fixtures_data.vqa(tmp_path)
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    ids = open_data(asked).ids
    said = tmp_path / "said.jsonl"
    said.write_text("".join(json.dumps({"id": name, "prediction": "yes"}) + "\n" for name in ids))
    out = tmp_path / "results.json"
    assert write_submission(said, asked, out) == 4
    assert json.loads(out.read_text()) == [{"question_id": int(name), "answer": "yes"} for name in ids]
    with pytest.raises(OutputExists, match=r"results.json exists and is kept"):
        write_submission(said, asked, out)
    few = dict.fromkeys([*ids[1:], "7", "8"], "yes")
    with pytest.raises(
        DataError, match=r"1 of 4 ids have no prediction \(391895000\); 2 of 5 predictions have no questions"
    ):
        write_submission(few, asked, out, overwrite=True)
    said.write_text(said.read_text() + said.read_text().split("\n")[0] + "\n")
    with pytest.raises(DataError, match=r"1 of 4 ids have more than one of the predictions: 391895000"):
        write_submission(said, asked, out, overwrite=True)
    assert len(json.loads(out.read_text())) == 4


def test_a_submission_of_captions_is_by_image(rows: Path, tmp_path: Path) -> None:
    said = {example.id: "a five" for example in open_data(rows)}
    assert write_submission(said, rows, tmp_path / "out.json") == 4
    wanted = [{"image_id": name, "caption": "a five"} for name in fixtures_data.IDS]
    assert json.loads((tmp_path / "out.json").read_text()) == wanted
    named = fixtures_data.flickr_token(tmp_path / "flickr")
    with pytest.raises(DataError, match=r"'1000092795.jpg' is not a whole number, which the official format requires"):
        write_submission(dict.fromkeys(fixtures_data.FLICKR, "a"), named, tmp_path / "flickr.json")
