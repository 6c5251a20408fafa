"""What is wrong with data or checkpoints of the paper's systems is told by name, with the documented exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import fixtures_data
import pytest
import tiny_ofa
import tiny_vinvl
from paper_systems import System

FEATURES = "val.feature.tsv"


def changed(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def cut_ofa_line(root: Path) -> tuple[str, ...]:
    path = fixtures_data.ofa_captions(root)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].rpartition("\t")[0], *lines[2:]]) + "\n")
    return ("--data", str(path))


def cut_ofa_image(root: Path) -> tuple[str, ...]:
    path = fixtures_data.ofa_captions(root)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-301], *lines[2:]]) + "\n")
    return ("--data", str(path))


def missing_image(root: Path) -> tuple[str, ...]:
    path = fixtures_data.coco(root)
    (root / "val2014" / fixtures_data.coco_name(1)).unlink()
    return ("--data", str(path))


def missing_split(root: Path) -> tuple[str, ...]:
    return ("--data", f"{fixtures_data.karpathy(root)}:testing")


def unknown_question(root: Path) -> tuple[str, ...]:
    path = fixtures_data.vqa(root)
    changed(root / "v2_mscoco_val2014_annotations.json", '"question_id": 391895000', '"question_id": 7')
    return ("--data", str(path))


def captions_for_answers(root: Path) -> tuple[str, ...]:
    asked, said = fixtures_data.vqa(root), fixtures_data.coco(root)
    return ("--data", str(asked), "--answers", str(said))


def annotations_alone(root: Path) -> tuple[str, ...]:
    fixtures_data.vqa(root)
    return ("--data", str(root / "v2_mscoco_val2014_annotations.json"))


OFA_FAULTS = {
    cut_ofa_line: "line does not have 5 columns",
    cut_ofa_image: "is the line complete|cannot be decoded",
    missing_image: "image missing",
    missing_split: "no split 'testing'",
    unknown_question: "question without annotation",
    captions_for_answers: "these look like captions",
    annotations_alone: "annotations without their questions",
}


@pytest.mark.parametrize("spoil", OFA_FAULTS, ids=lambda f: f.__name__)
def test_spoilt_data_are_named(
    system: Callable[[str], System], rankscope_: Callable, tmp_path: Path, spoil: Callable
) -> None:
    given = spoil(tmp_path)
    base = system("ofa-captioning").base
    for command in (
        ("train", base, "--method", "lora", "--out", tmp_path / "tuned"),
        ("collect", base, "-q", "--out", tmp_path / "run"),
    ):
        done = rankscope_(*command, *given, "--device", "cpu")
        assert done.code == 3, done.err
        assert re.search(OFA_FAULTS[spoil], done.err), done.err
        assert "Traceback" not in done.err
    assert not (tmp_path / "tuned" / "rankscope.json").exists()


def spoilt_regions(root: Path, fault: str) -> Path:
    yaml = fixtures_data.oscar(root)
    path = root / FEATURES
    if fault == "offset":
        changed(root / "val.feature.lineidx", "\n", "9\n")
    elif fault == "base64":
        lines = path.read_text().split("\n")
        path.write_text("\n".join([lines[0][:200] + "!" * (len(lines[0]) - 203) + lines[0][-3:], *lines[1:]]))
    elif fault == "boxes":
        changed(path, '"num_boxes": 3', '"num_boxes": 7')
    else:
        changed(root / "val.label.tsv", '[{"class"', '{"class"')
    return yaml


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("offset", "not the start of a line"),
        ("base64", "not base64"),
        ("boxes", "not 7 boxes"),
        ("label", "label line"),
    ],
)
def test_spoilt_regions_are_named(
    system: Callable[[str], System], rankscope_: Callable, tmp_path: Path, fault: str, told: str
) -> None:
    base = system("vinvl-captioning").base
    yaml = spoilt_regions(tmp_path, fault)
    done = rankscope_("collect", base, "--data", yaml, "--out", tmp_path / "run", "-q", "--device", "cpu")
    assert done.code == 3, done.err
    assert told in done.err


def test_regions_that_are_absent_are_named(
    system: Callable[[str], System], rankscope_: Callable, tmp_path: Path
) -> None:
    base, asked = system("vinvl-captioning").base, fixtures_data.coco(tmp_path)
    done = rankscope_("train", base, "--method", "lora", "--data", asked, "--out", tmp_path / "o", "--device", "cpu")
    assert (done.code, "needs regions in every example" in done.err) == (3, True), done.err
    done = rankscope_("collect", base, "--data", asked, "--out", tmp_path / "run", "-q", "--device", "cpu")
    assert (done.code, "has no regions" in done.err) == (3, True), done.err


def test_answers_that_no_label_stands_for_are_named(
    system: Callable[[str], System], rankscope_: Callable, tmp_path: Path
) -> None:
    _, data, _ = system("vinvl-vqa")
    base = tiny_vinvl.save_published(tmp_path / "base", head="vqa", img_feature_dim=fixtures_data.WIDTH)
    done = rankscope_("generate", base, *data, "--out", tmp_path / "said.jsonl", "--device", "cpu")
    assert (done.code, "does not say which answers its 5 labels are" in done.err) == (3, True), done.err
    (base / "answers.json").write_text(json.dumps(["zebra", "giraffe"]))
    done = rankscope_("train", base, "--method", "full", *data, "--out", tmp_path / "o", "--device", "cpu")
    assert (done.code, "none of the 4 questions" in done.err) == (3, True), done.err
    (base / "answers.json").write_text(json.dumps(["a"] * 6))
    done = rankscope_("generate", base, *data, "--out", tmp_path / "said.jsonl", "--device", "cpu")
    assert (done.code, "not a list of at most 5 texts" in done.err) == (3, True), done.err


def test_a_task_that_a_model_has_not_is_named(
    system: Callable[[str], System], rankscope_: Callable, tmp_path: Path
) -> None:
    base, data, _ = system("vinvl-captioning")
    given = ("--method", "lora", *data, "--task", "vqa", "--out", tmp_path / "o", "--device", "cpu")
    done = rankscope_("train", base, *given)
    assert (done.code, "generates captions only" in done.err) == (2, True), done.err


def test_predictions_of_other_data_are_named(
    system: Callable[[str], System], rankscope_: Callable, tmp_path: Path
) -> None:
    _, data, _ = system("ofa-captioning")
    said = tmp_path / "said.jsonl"
    said.write_text('{"id": "1", "prediction": "a dog"}\n')
    done = rankscope_("score", said, *data)
    assert done.code == 3, done.err
    assert "1 of 1 predictions have no references (1)" in done.err


@pytest.mark.parametrize("family", ["ofa", "vinvl"])
def test_a_vocabulary_of_another_checkpoint_is_named(rankscope_: Callable, tmp_path: Path, family: str) -> None:
    base = (tiny_ofa if family == "ofa" else tiny_vinvl).save_published(tmp_path / "base")
    if family == "ofa":
        words = json.loads((base / "vocab.json").read_text())
        (base / "vocab.json").write_text(json.dumps({**words, "more": len(words)}))
    else:
        (base / "vocab.txt").write_text((base / "vocab.txt").read_text() + "more\n")
    done = rankscope_("collect", base, "--data", "scenes:captions/test?n=2", "-q", "--out", tmp_path / "run")
    assert (done.code, "the vocabulary is of another checkpoint" in done.err) == (3, True), done.err
