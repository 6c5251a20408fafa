"""The paper's systems from the command line: train, collect, compare, generate, score, under each of its methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from paper_systems import SYSTEMS

METHODS = ("full", "lora", "adapter", "prefix", "pt-lora")
SMALL = (
    *("--steps", 3, "--batch-size", 2, "--prefix-length", 3, "--lora-rank", 2, "--adapter-size", 4),
    *("--learning-rate", 0.01, "--device", "cpu"),
)
FEW = ("--device", "cpu", "--batch-size", 2, "--max-new-tokens", 8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_goes_from_training_to_scores(
    system: Callable, rankscope_: Callable, tmp_path: Path, name: str, method: str
) -> None:
    base, data, kind = system(name)
    tuned, said = tmp_path / "tuned", tmp_path / "said.jsonl"
    done = rankscope_("train", base, "--method", method, *data, "--out", tuned, *SMALL)
    assert done.code == 0, done.err
    record = json.loads((tuned / "rankscope.json").read_text())
    assert [stage["kind"] for stage in record["stages"]] == method.replace("pt-", "prefix-").split("-")
    for model, run in ((base, "base.pt"), (tuned, "tuned.pt")):
        done = rankscope_("collect", model, *data, "--rows", "text", "--out", tmp_path / run, "--device", "cpu", "-q")
        assert done.code == 0, done.err
    done = rankscope_("compare", tmp_path / "base.pt", tmp_path / "tuned.pt", "-m", "procrustes,roy-vetterli", "--json")
    assert done.code == 0, done.err
    values = {(r["site"], r["measure"]): r["value"] for r in json.loads(done.out)["records"]}
    similar = [value for (_, measure), value in values.items() if measure == "procrustes" and value is not None]
    assert min(similar) < 1 - 1e-9, "tuning changed nothing that was read"
    done = rankscope_("generate", tuned, *data, "--out", said, *FEW)
    assert done.code == 0, done.err
    chosen = ("--metrics", "BLEU-4,ROUGE-L,CIDEr,CIDEr-D") if kind == "captions" else ()
    done = rankscope_("score", said, *data, "--json", *chosen)
    assert done.code == 0, done.err
    scores = json.loads(done.out)
    assert scores["scores"], scores
    assert ("CIDEr" in scores["scores"]) == (kind == "captions")
    assert scores["images"] == len(said.read_text().splitlines())
