"""A training is followed step by step, and equal weights are told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import rankscope
from rankscope.analysis.track import stops_of
from rankscope.errors import CheckpointError, RankscopeError, UsageError
from rankscope.plots import draw

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def training(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Trainer leaves: three checkpoints, of which the last learnt nothing more."""
    where = tmp_path_factory.mktemp("training")
    for step, strength in ((10, 0.3), (200, 1.0), (300, 1.0)):
        made = where / f"checkpoint-{step}"
        shutil.copytree(folder("gpt2", "lora"), made)
        tensors = load_file(made / "adapter_model.safetensors")
        scaled = {key: x * strength if "lora_B" in key else x for key, x in tensors.items()}
        save_file(scaled, made / "adapter_model.safetensors", metadata={"format": "pt"})
        log = [{"step": s, "loss": 5 - s / 100} for s in range(10, step + 1, 10)] + [{"step": step, "eval_loss": 4.0}]
        (made / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
    return where


def followed(training: Path, texts: Path, out: Path, **options: Any) -> Any:
    how: dict[str, Any] = {"sites": "decoder.0-1", "rows": "tokens", "out": out, "measures": ["pr", "drift"]}
    return rankscope.track(training, texts, **how | options)


def test_every_step_has_its_numbers_its_loss_and_its_bands(
    training: Path, texts: Path, folder: Folder, tmp_path: Path
) -> None:
    found = followed(training, texts, tmp_path / "runs")
    assert found.steps == (10, 200, 300)
    assert found.base == "gpt2"
    base = rankscope.collect(folder("gpt2"), texts, sites="decoder.0-1", rows="tokens", out=tmp_path / "base.pt")
    run = rankscope.collect(
        training / "checkpoint-200", texts, sites="decoder.0-1", rows="tokens", out=tmp_path / "b.pt"
    )
    alone = rankscope.compare(base, run, measures=["pr", "drift"])
    for mine, theirs in zip([r for r in found.records if r.step == 200], alone.records, strict=True):
        value = theirs.b if theirs.b.value is not None else theirs.estimate
        assert (mine.site, mine.measure) == (theirs.site, theirs.measure)
        assert mine.estimate.value == pytest.approx(value.value)
        assert mine.before == (theirs.a.value if theirs.a.value is None else pytest.approx(theirs.a.value))
        assert mine.high - mine.low > value.high - value.low, "it holds at all steps together"
        assert mine.band.high - mine.band.low > theirs.band.high - theirs.band.low
    drift = [r.value for r in found.of("drift") if r.site == "decoder.1"]
    assert 0 < drift[0] < drift[1] == drift[2]
    losses = {r.step: (r.loss, r.eval_loss) for r in found.records}
    assert losses == {10: (4.9, 4.0), 200: (3.0, 4.0), 300: (2.0, 4.0)}


def test_steps_with_equal_weights_are_told_and_read_once(training: Path, texts: Path, tmp_path: Path) -> None:
    found = followed(training, texts, tmp_path)
    assert found.notes[0] == "the weights at steps 200, 300 are equal, byte by byte: nothing was learnt between them"
    assert {r.step: r.same_as for r in found.records} == {10: None, 200: None, 300: 200}
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["checkpoint-10.pt", "checkpoint-200.pt", "gpt2.pt"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = followed(training, texts, tmp_path)
    assert again.records == found.records
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    figure = draw(found)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "participation-ratio, against gpt2",
        "drift, against gpt2",
        "loss",
    ]
    lines = figure.axes[-1].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[4.9, 3.0, 2.0], [4.0, 4.0, 4.0]]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "gpt2.pt").write_text("mine")
    with pytest.raises(RankscopeError, match=r"gpt2\.pt"):
        followed(training, texts, tmp_path / "other")
    assert (tmp_path / "other" / "gpt2.pt").read_text() == "mine"


def test_without_a_base_the_first_step_is_one(folder: Folder, texts: Path, tmp_path: Path) -> None:
    for step in (1, 2):
        made = tmp_path / f"checkpoint-{step}"
        shutil.copytree(folder("gpt2"), made)
    weights = load_file(made / "model.safetensors")
    save_file({k: x * 1.1 for k, x in weights.items()}, made / "model.safetensors", metadata={"format": "pt"})
    found = followed(tmp_path, texts, tmp_path / "runs")
    assert (found.base, found.steps) == ("checkpoint-1", (2,))
    assert all(r.loss is None for r in found.records)


def test_what_is_no_training_is_refused(training: Path, folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step of .*lora is not known: it has no trainer_state.json"):
        stops_of([folder("gpt2", "lora")])
    with pytest.raises(UsageError, match="are both of step 10; leave one out"):
        stops_of([training / "checkpoint-10", training / "checkpoint-10"])
    shutil.copytree(folder("gpt2"), tmp_path / "checkpoint-1")
    with pytest.raises(UsageError, match="at least two checkpoints that differ"):
        rankscope.track(tmp_path, out=tmp_path / "runs")
