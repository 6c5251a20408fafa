"""What is written is what was planned, and finite; a finished run, and whatever is no store, is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from store_tools import PLAN, SITES, collect, contents, expected, manifest
from torch.testing import assert_close

from rankscope.errors import (
    NonFinite,
    OutputExists,
    StoreIncomplete,
    StoreMismatch,
    UsageError,
)
from rankscope.store import Batch, Manifest, Writer, discard, open_run
from rankscope.store.manifest import DTYPES
from rankscope.store.shard import Contents


def test_a_finished_run_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    collect(tmp_path / "run")
    with pytest.raises(OutputExists, match="holds a finished run, 'tiny'; it is kept unless --overwrite"):
        collect(tmp_path / "run")
    assert open_run(tmp_path / "run").verify().ok
    assert collect(tmp_path / "run", seed=1, overwrite=True) == [0, 1, 2, 3, 4]
    assert torch.equal(open_run(tmp_path / "run").features("decoder.0"), expected("decoder.0", seed=1))


def test_a_corrupt_run_can_be_overwritten(tmp_path: Path) -> None:
    for name in ("store.json", "index.json", "plan.jsonl"):
        collect(tmp_path / name)
        (tmp_path / name / name).write_text("{}")
        collect(tmp_path / name, overwrite=True)
        assert open_run(tmp_path / name).verify().ok


def test_what_is_no_store_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputExists, match=r"other things, such as 'chapter\.tex', and no store"):
            collect(tmp_path / "thesis", overwrite=overwrite)
        with pytest.raises(OutputExists, match="is a file, and a store is a folder"):
            collect(tmp_path / "thesis" / "chapter.tex", overwrite=overwrite)
    with pytest.raises(OutputExists, match="no store"):
        discard(tmp_path / "thesis")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    (tmp_path / "empty").mkdir()
    collect(tmp_path / "empty")
    discard(tmp_path / "empty")
    discard(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def start(path: Path, told: Manifest) -> None:
    with Writer.open(path, told, PLAN) as writer:
        writer.write(0, *contents(PLAN[0]))


def test_an_unfinished_run_of_another_plan_is_not_continued_and_the_differences_are_named(tmp_path: Path) -> None:
    start(tmp_path / "run", manifest())
    changes = {
        r"dtype is float32, and now float16": manifest(dtype="float16"),
        r"checkpoint\.digest is c0ffee, and now beef": manifest(checkpoint={**manifest().checkpoint, "digest": "beef"}),
        r"reading\.padding is right, and now left": manifest(reading={"padding": "left"}),
        r"rows\.kind is tokens, and now mean": manifest(rows={"kind": "mean", "keep_special": False}),
        r"probe\.fingerprint is f00d, and now f11d": manifest(probe={**manifest().probe, "fingerprint": "f11d"}),
        r"sites\.decoder\.1\.width is 5, and now absent": manifest(
            sites={k: v for k, v in SITES.items() if k != "decoder.1"}
        ),
    }
    for message, told in changes.items():
        with pytest.raises(StoreMismatch, match=message):
            Writer.open(tmp_path / "run", told, PLAN)
    with pytest.raises(StoreMismatch, match=r"plan is .* and now"):
        Writer.open(tmp_path / "run", manifest(), [replace(PLAN[0], length=5), *PLAN[1:]])
    moved = manifest(
        name="other",
        checkpoint={**manifest().checkpoint, "path": "elsewhere"},
        probe={**manifest().probe, "name": "./words.jsonl"},
        versions={"rankscope": "1"},
        notes=["n"],
    )
    with Writer.open(tmp_path / "run", moved, PLAN) as writer:
        assert writer.done == {0}
        assert writer.manifest.name == "tiny"
        with pytest.raises(StoreIncomplete, match="4 of 5 batches are not committed"):
            writer.finish()
    with Writer.open(tmp_path / "run", manifest(dtype="float16"), PLAN, overwrite=True) as writer:
        assert writer.done == frozenset()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_features_that_are_not_finite_are_refused_with_site_and_sample(tmp_path: Path, value: float) -> None:
    features, rows = contents(PLAN[0])
    features["decoder.1"][4, 2] = value
    with Writer.open(tmp_path / "run", manifest(dtype="float16"), PLAN) as writer:
        with pytest.raises(
            NonFinite,
            match=r"decoder\.1 are not finite in float16: 1 values in 1 rows of batch 0, first in row 4: sample 'sample-3', token 1",
        ):
            writer.write(0, features, rows)
        assert not list((tmp_path / "run" / "shards").iterdir())
        assert writer.done == frozenset()
    with Writer.open(tmp_path / "run", manifest(dtype="float16"), PLAN, nonfinite="keep") as writer:
        writer.write(0, features, rows)
        for batch in PLAN[1:]:
            writer.write(batch.id, *contents(batch))
        writer.finish()
    assert int((~torch.isfinite(open_run(tmp_path / "run").features("decoder.1"))).sum()) == 1
    assert '"decoder.1": 1' in (tmp_path / "run" / "index.json").read_text()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_value_that_is_not_finite_is_counted_wherever_it_stands(dtype: str) -> None:
    swept = 0
    for value in (float("nan"), float("inf"), -float("inf")):
        for place in ((0, 0), (4, 2), (-1, -1)):
            features, rows = contents(PLAN[0])
            told = Contents.of(PLAN[0], manifest(dtype=dtype), features, rows)
            assert told.nonfinite() == {}
            told.tensors["decoder.1"][place] = value
            assert told.nonfinite() == {"decoder.1": 1}
            swept += 1
    assert swept == 9


def test_extremes_that_are_finite_come_back_as_they_are(tmp_path: Path) -> None:
    features, rows = contents(PLAN[3])
    extremes = torch.tensor([-0.0, 1e-45, 3.4028235e38, -1e-38])
    features["decoder.0"][0] = extremes
    with Writer.open(tmp_path / "run", manifest(), PLAN) as writer:
        for batch in PLAN:
            writer.write(batch.id, *(contents(batch) if batch.id != 3 else (features, rows)))
        writer.finish()
    back = open_run(tmp_path / "run").features("decoder.0")[18]
    assert_close(back, extremes, rtol=0, atol=0)
    assert torch.equal(torch.signbit(back), torch.signbit(extremes))


def test_what_was_not_planned_is_not_written(tmp_path: Path) -> None:
    features, rows = contents(PLAN[0])
    narrow, foreign = {**features, "decoder.1": features["decoder.1"][:, 1:]}, contents(PLAN[1])
    ragged = {**rows, "vision": (rows["vision"][0], rows["vision"][1][1:], rows["vision"][2])}
    with Writer.open(tmp_path / "run", manifest(), PLAN) as writer:
        for wrong, message in (
            ((9, features, rows), "batch 9 is not in the plan"),
            (
                (0, {"decoder.1": features["decoder.1"]}, rows),
                r"has features at decoder\.1 and rows at vision, decoder; the manifest has",
            ),
            ((0, narrow, rows), r"features at decoder\.1 have shape \(9, 4\), expected \(9, 5\)"),
            ((0, features, ragged), "three vectors of one length"),
            ((1, features, rows), "name samples that are not in it"),
        ):
            with pytest.raises(UsageError, match=message):
                writer.write(*wrong)
        writer.write(1, *foreign)
        with pytest.raises(UsageError, match="batch 1 is committed already"):
            writer.write(1, *foreign)


def test_plans_and_manifests_that_cannot_be_meant_are_refused() -> None:
    for plan, message in (
        ([], "at least one batch"),
        ([Batch(0, (1,), 1), Batch(0, (2,), 1)], "must be different and not negative"),
        ([Batch(0, (1,), 1), Batch(1, (1,), 1)], "is in two batches"),
        ([Batch(0, (10,), 1)], "names samples 10 to 10, and the probe set has 10"),
    ):
        with pytest.raises(UsageError, match=message):
            manifest().planned(plan)
    for changes, message in (
        ({"dtype": "int8"}, "not as 'int8'"),
        ({"sites": {}}, "at least one site"),
        ({"sites": {"decoder.1": {"width": 0, "stack": "decoder"}}}, "needs a width"),
        ({"sites": {"nodot": {"width": 1, "stack": "x"}}}, "spelled stack"),
        ({"probe": {"ids": [1]}}, "as strings"),
        ({"probe": {"ids": ["a", "a"]}}, "must all be different"),
    ):
        with pytest.raises(UsageError, match=message):
            manifest(**changes)
    with pytest.raises(UsageError, match="plain JSON values only"):
        manifest(reading={"when": object()}).planned(PLAN)
    with pytest.raises(UsageError, match="plain JSON values only"):
        manifest(reading={"scale": float("nan")}).planned(PLAN)
