"""``data check`` and ``score`` as they are typed: reports, told faults, samples, tools that are not there, submissions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fixtures_data
import pytest

from rankscope.data.open import open_data


def said(path: Path, texts: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"id": key, "prediction": text}) + "\n" for key, text in texts.items()))
    return path


def test_a_check_is_printed_and_its_status_tells(rankscope_: Callable, tmp_path: Path) -> None:
    data = fixtures_data.karpathy(tmp_path)
    done = rankscope_("data", "check", f"{data}:train", "--no-restval")
    assert done.code == 0, done.err
    assert "1 examples (train 1); 1 images, 5 targets" in done.out
    assert "notice  1 × restval is not part of train" in done.out
    (tmp_path / "val2014" / fixtures_data.coco_name(0)).unlink()
    done = rankscope_("data", "check", data, "--json")
    told = json.loads(done.out)
    assert (done.code, told["good"], told["format"]) == (3, False, "Karpathy's captions")
    assert next((p["kind"], p["count"]) for p in told["problems"]) == ("image missing", 1)


def test_captions_are_scored_with_samples_and_intervals(rankscope_: Callable, tmp_path: Path) -> None:
    data = fixtures_data.coco(tmp_path)
    own = {example.id: example.targets[0] for example in open_data(data)}
    predictions = said(tmp_path / "said.jsonl", own)
    asked = ("score", predictions, "--data", data, "--metrics", "bleu,CIDEr-D", "--per-sample")
    told = json.loads(rankscope_(*asked, "--json").out)
    assert set(told["scores"]) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr-D"}
    assert told["scores"]["BLEU-4"] == pytest.approx(1)
    assert set(told["samples"]["CIDEr-D"]) == set(own)
    low, high = told["intervals"]["CIDEr-D"]
    assert low <= told["scores"]["CIDEr-D"] <= high
    table = rankscope_(*asked).out
    assert "4 images, tokenizer builtin" in table
    assert "id,BLEU-1,BLEU-2,BLEU-3,BLEU-4,CIDEr-D" in table
    assert "\n391895,0.99" in table


def test_tools_that_are_not_there_are_named(
    rankscope_: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fixtures_data.coco(tmp_path)
    predictions = said(tmp_path / "said.jsonl", dict.fromkeys(open_data(data).ids, "a digit"))
    monkeypatch.setenv("PATH", str(tmp_path))
    done = rankscope_("score", predictions, "--data", data)
    assert done.code == 0, done.err
    assert "there is no 'java' on the search path; install a Java runtime" in " ".join(done.out.split())
    done = rankscope_("score", predictions, "--data", data, "--metrics", "METEOR")
    assert (done.code, "install a Java runtime" in done.err) == (6, True)
    done = rankscope_("score", predictions, "--data", data, "--tokenizer", "ptb")
    assert done.code == 6


def test_a_submission_is_written_and_its_ids_are_checked(rankscope_: Callable, tmp_path: Path) -> None:
    asked = fixtures_data.vqa(tmp_path)
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    ids = open_data(asked).ids
    predictions = said(tmp_path / "said.jsonl", dict.fromkeys(ids, "2"))
    command = ("score", predictions, "--data", asked, "--submission", tmp_path / "results.json")
    done = rankscope_(*command)
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "results.json")), done.err
    assert json.loads((tmp_path / "results.json").read_text())[0] == {"question_id": int(ids[0]), "answer": "2"}
    assert rankscope_(*command).code == 2
    assert rankscope_(*command, "--overwrite").code == 0
    said(predictions, dict.fromkeys(ids[1:], "2"))
    done = rankscope_(*command, "--overwrite")
    assert (done.code, "1 of 4 ids have no prediction (391895000)" in done.err) == (3, True)
    done = rankscope_("score", predictions, "--data", asked)
    assert (done.code, "4 examples have no reference to score against" in done.err) == (3, True)


def test_brackets_in_a_table_are_shown(rankscope_: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What names a package's extra, as 'rankscope[caption]', is no markup."""
    from rankscope.scores import java

    data = fixtures_data.coco(tmp_path)
    predictions = said(tmp_path / "said.jsonl", dict.fromkeys(open_data(data).ids, "a digit"))
    monkeypatch.setattr(java.Java, "find", lambda self: "java")
    monkeypatch.setattr(java, "find_spec", lambda name: None)
    assert "'rankscope[caption]'" in rankscope_("score", predictions, "--data", data).out.replace("\n", "")
