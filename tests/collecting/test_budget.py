"""How many tokens a batch holds where nobody says it, and that whoever continues a run keeps to what it was begun with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from digests import tree_digest
from torch import nn

import rankscope
from rankscope.collecting import job as planning
from rankscope.collecting.budget import ON_CPU, ON_GPU, SHARE, tokens_in, tokens_that_fit
from rankscope.collecting.collect import run_job
from rankscope.collecting.job import Job, Request, prepare
from rankscope.collecting.loading import Loading
from rankscope.errors import OutputExists, StoreMismatch

Folder = Callable[..., Path]


def planned(model: Any, data: Any, *, device: str | None = None, **options: Any) -> Job:
    return prepare(model, data, Request(**options), Loading(device=device))


def stopped(job: Job, at: int) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, progress=stop)


@pytest.mark.parametrize(
    ("free", "each", "tokens"), [(100, 1, 32), (128, 1, 64), (1, 1, 1), (0, 5, 1), (10, 0, ON_GPU)]
)
def test_a_gpu_gets_a_power_of_two_that_its_memory_holds(free: int, each: int, tokens: int) -> None:
    assert tokens_in(free, each) == tokens
    assert tokens == ON_GPU or tokens == 1 or tokens * each <= SHARE * free < 2 * tokens * each


def test_a_gpu_never_gets_more_than_keeps_it_busy() -> None:
    assert tokens_in(1e15, 1.0) == ON_GPU


def test_a_model_gets_what_suits_its_device(folder: Folder, texts: Path, tmp_path: Path, device: torch.device) -> None:
    job = planned(folder("gpt2"), texts, device=str(device), out=tmp_path / "run")
    assert tokens_that_fit(job.source) == (ON_CPU if device.type == "cpu" else ON_GPU)
    assert job.manifest.reading["tokens_per_batch"] == tokens_that_fit(job.source)
    assert f"of up to {tokens_that_fit(job.source)} tokens" in job.in_words()  # one batch, or several
    assert all(len(batch.samples) * batch.length <= tokens_that_fit(job.source) for batch in job.plan)


def test_vectors_are_planned_by_their_numbers() -> None:
    data = {10: torch.rand(8, 10), 256 * 64: torch.rand(8, 256 * 64)}
    batches = {
        width: len(prepare(nn.Linear(width, 2), x, Request(tokens_per_batch=128), Loading()).plan)
        for width, x in data.items()
    }
    assert batches == {10: 1, 256 * 64: 4}


@pytest.mark.parametrize("out", ["run", "run.pt"])
def test_a_collect_goes_on_with_the_batches_with_which_it_was_begun(
    out: str, folder: Folder, texts: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"rows": "tokens", "sites": "1"}
    whole = rankscope.collect(folder("gpt2"), texts, tokens_per_batch=24, out=tmp_path / "whole" / out, **options)
    begun = planned(folder("gpt2"), texts, tokens_per_batch=24, out=tmp_path / out, **options)
    stopped(begun, at=5)
    job = planned(folder("gpt2"), texts, out=tmp_path / out, **options)
    assert job.plan == begun.plan
    assert job.folder == begun.folder
    assert tree_digest(run_job(job).path) == tree_digest(whole.path)
    again = rankscope.collect(folder("gpt2"), texts, out=tmp_path / out, reuse=True, **options)
    assert again.manifest.reading["tokens_per_batch"] == 24
    with pytest.raises(OutputExists, match=r"reading\.tokens_per_batch is 24, and now 48"):
        rankscope.collect(folder("gpt2"), texts, out=tmp_path / out, reuse=True, tokens_per_batch=48, **options)
    anew = planned(folder("gpt2"), texts, out=tmp_path / out, overwrite=True, **options)
    assert anew.manifest.reading["tokens_per_batch"] == tokens_that_fit(anew.source)


def test_an_unfinished_collect_of_other_rows_sets_no_example(folder: Folder, texts: Path, tmp_path: Path) -> None:
    stopped(planned(folder("gpt2"), texts, tokens_per_batch=24, out=tmp_path / "run"), at=2)
    with pytest.raises(
        StoreMismatch, match=r"rows\.kind is last, and now mean; reading\.tokens_per_batch is 24, and now"
    ):
        rankscope.collect(folder("gpt2"), texts, rows="mean", out=tmp_path / "run")


def test_processes_on_unlike_machines_that_begin_at_once_agree(
    folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(shard: str, tokens: int, **options: Any) -> Job:
        monkeypatch.setattr(planning, "tokens_that_fit", lambda source: tokens)
        return planned(folder("gpt2"), texts, rows="tokens", shard=shard, **options)

    alone = run_job(job("0/1", 64, out=tmp_path / "alone", name="run"))
    first, second = (job(f"{i}/2", tokens, out=tmp_path / "run") for i, tokens in enumerate((64, 32)))
    assert first.plan != second.plan
    run_job(first)
    assert tree_digest(run_job(second).path) == tree_digest(alone.path)
    asked = planned(folder("gpt2"), texts, rows="tokens", shard="1/2", tokens_per_batch=32, out=tmp_path / "other")
    run_job(job("0/2", 64, out=tmp_path / "other"))
    with pytest.raises(StoreMismatch, match=r"reading\.tokens_per_batch is 64, and now 32"):
        run_job(asked)
