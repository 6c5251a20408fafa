"""A collect that was stopped, or killed, goes on and ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from digests import tree_digest

import rankscope
from rankscope.collecting import collect as collecting
from rankscope.collecting.collect import run_job
from rankscope.collecting.job import Job, Request, prepare
from rankscope.collecting.loading import Loading
from rankscope.errors import (
    OutputExists,
    StoreMismatch,
)

Folder = Callable[..., Path]


def planned(model: Any, data: Any = None, **options: Any) -> Job:
    return prepare(model, data, Request(**options), Loading())


class _Stopped(BaseException):
    pass


def test_a_collect_that_is_stopped_anywhere_ends_with_the_same_bytes(
    folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"rows": "tokens", "tokens_per_batch": 24, "sites": "1,final", "name": "run"}
    whole = rankscope.collect(folder("gpt2", "prefix"), texts, out=tmp_path / "whole", **options)
    expected = tree_digest(whole.path)
    job = planned(folder("gpt2", "prefix"), texts, out=tmp_path / "x", **options)
    batches = len(job.plan)
    rng = random.Random(0)
    points = 0
    read = collecting.read
    for trial in range(20):
        out = tmp_path / f"run{trial}"
        stops = sorted(rng.sample(range(batches), k=1 + trial % 3))
        count = 0

        def stopping(*args: Any, stops: list[int] = stops, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if stops and count > stops[0]:
                stops.pop(0)
                raise _Stopped
            return read(*args, **kwargs)

        monkeypatch.setattr(collecting, "read", stopping)
        while stops:
            points += 1
            with pytest.raises(_Stopped):
                run_job(replace(job, out=out))
        afresh = planned(folder("gpt2", "prefix"), texts, out=out, **options) if trial % 5 == 0 else job
        assert tree_digest(run_job(replace(afresh, out=out)).path) == expected
    assert points >= 20


def test_a_killed_process_leaves_what_the_next_one_continues(folder: Folder, texts: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rows": "tokens", "tokens_per_batch": 24, "sites": "1", "name": "run"}
    expected = tree_digest(rankscope.collect(folder("gpt2"), texts, out=tmp_path / "whole", **options).path)
    job = planned(folder("gpt2"), texts, out=tmp_path / "killed", **options)
    child = os.fork()
    if child == 0:
        run_job(job, progress=lambda done, total, text: os.kill(os.getpid(), signal.SIGKILL) if done == 3 else None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert tree_digest(run_job(job).path) == expected


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_collect_that_is_stopped_while_it_packs_one_file_is_continued(
    overwrite: bool, folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(folder("gpt2"), texts, out=tmp_path / "run.pt", tokens_per_batch=64, overwrite=overwrite)
    expected = run_job(replace(job, out=tmp_path / "whole.pt")).path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "move", Mock(side_effect=_Stopped))
        with pytest.raises(_Stopped):
            run_job(job)
    forward = Mock(side_effect=collecting.read)
    monkeypatch.setattr(collecting, "read", forward)
    assert run_job(job).path.read_bytes() == expected
    assert bool(forward.call_count) == overwrite
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.pt", "whole.pt"]


def test_what_a_file_was_packed_from_does_not_stay(
    folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "discard", Mock(side_effect=_Stopped))
        with pytest.raises(_Stopped):
            rankscope.collect(folder("gpt2"), texts, out=tmp_path / "run.pt")
    assert len(list(tmp_path.glob("run.pt.*.partial"))) == 1
    with pytest.raises(OutputExists, match="is kept"):
        rankscope.collect(folder("gpt2"), texts, n=5, out=tmp_path / "run.pt")
    assert len(list(tmp_path.glob("run.pt.*.partial"))) == 1
    with pytest.raises(OutputExists, match="is kept"):
        rankscope.collect(folder("gpt2"), texts, out=tmp_path / "run.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_an_unfinished_collect_of_another_plan_is_not_mixed_in(folder: Folder, texts: Path, tmp_path: Path) -> None:
    job = planned(folder("gpt2"), texts, out=tmp_path / "run", tokens_per_batch=24)

    def stop(done: int, total: int, text: str) -> None:
        if done == 2:
            raise _Stopped

    with pytest.raises(_Stopped):
        run_job(job, progress=stop)
    with pytest.raises(StoreMismatch, match=r"rows\.kind is last, and now mean; --overwrite starts anew"):
        rankscope.collect(folder("gpt2"), texts, rows="mean", tokens_per_batch=24, out=tmp_path / "run")
    with pytest.raises(StoreMismatch, match=r"unfinished: (\S+ is .*?; ){4}and 6 more; --overwrite"):
        rankscope.collect(folder("gpt2"), texts, sites="0", rows="mean", tokens_per_batch=24, out=tmp_path / "run")
