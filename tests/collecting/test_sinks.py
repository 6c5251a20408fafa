"""Batches are written while the next are read: in order, few at a time, with errors raised and nothing lost."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from digests import tree_digest
from torch import Tensor

from rankscope import writing
from rankscope.collecting.collect import run_job
from rankscope.collecting.job import Job, Request, prepare
from rankscope.collecting.loading import Loading
from rankscope.collecting.sinks import WAITING, Behind
from rankscope.errors import StorageError
from rankscope.store import Batch
from rankscope.store.run import Places

Folder = Callable[..., Path]
PATIENCE = 30.0
"""Seconds after which what should have happened has not."""


class Slow:
    """A sink of five batches that waits for a sign before each, and fails at one."""

    todo = tuple(Batch(i, (i,), 1) for i in range(5))

    def __init__(self, fails: int | None = None) -> None:
        self.taken, self.finished, self.fails = list[int](), False, fails
        self.sign = threading.Semaphore(0)
        self.kept = list[weakref.ref[Tensor]]()

    def write(self, batch: int, features: Mapping[str, Tensor], rows: Mapping[str, Places]) -> None:
        assert self.sign.acquire(timeout=PATIENCE)
        if batch == self.fails:
            raise StorageError("the disk is full")
        self.kept += [weakref.ref(x) for x in features.values()]
        self.taken.append(batch)

    def finish(self) -> bool:
        self.finished = True
        return True

    def go(self, batches: int = len(todo)) -> None:
        self.sign.release(batches)


def hand_over(behind: Behind, batch: int) -> None:
    behind.write(batch, {"s.0": torch.zeros(1)}, {})


def collected(sink: Slow, stop: int | None = None) -> None:
    """Hands all batches over, or is stopped ahead of one."""
    with Behind(sink) as behind:
        for batch in behind.todo:
            if batch.id == stop:
                raise KeyboardInterrupt
            hand_over(behind, batch.id)
        assert behind.finish()


def test_the_next_batches_are_handed_over_while_one_is_written_and_no_more() -> None:
    sink, reached = Slow(), list[int]()

    def reads() -> None:
        with Behind(sink) as behind:
            for batch in behind.todo:
                hand_over(behind, batch.id)
                reached.append(batch.id)
            behind.finish()

    reader = threading.Thread(target=reads)
    reader.start()
    for _ in range(300):
        if len(reached) == 1 + WAITING:
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.05)
    assert reached == list(range(1 + WAITING))  # the sink has taken none, so the reader cannot go on
    assert sink.taken == []
    sink.go()
    reader.join(PATIENCE)
    assert sink.taken == reached == [0, 1, 2, 3, 4]
    assert sink.finished


def test_what_was_written_is_not_kept() -> None:
    sink = Slow()
    sink.go()
    gc.disable()
    try:
        collected(sink)
        assert [kept() for kept in sink.kept] == [None] * 5
    finally:
        gc.enable()


@pytest.mark.parametrize("fails", range(5))
def test_an_error_of_the_thread_is_raised_and_nothing_is_written_after_it(fails: int) -> None:
    sink = Slow(fails)
    sink.go()
    with pytest.raises(StorageError, match="the disk is full"):
        collected(sink)
    assert sink.taken == list(range(fails))
    assert not sink.finished


def test_an_error_that_nobody_asked_for_is_raised_at_the_end() -> None:
    sink = Slow(fails=0)
    sink.go()
    with pytest.raises(StorageError), Behind(sink) as behind:
        hand_over(behind, 0)


def test_a_reader_that_is_stopped_leaves_what_it_handed_over_written() -> None:
    sink = Slow(fails=2)
    sink.go()
    with pytest.raises(KeyboardInterrupt):
        collected(sink, stop=2)
    assert sink.taken == [0, 1]
    assert not any(thread.name == "rankscope-writer" for thread in threading.enumerate())


def planned(folder: Folder, texts: Path, out: Path, **options: Any) -> Job:
    request = Request(rows="tokens", tokens_per_batch=64, sites="1", name="run", out=out, **options)
    return prepare(folder("gpt2"), texts, request, Loading())


def test_a_disk_that_fails_under_the_thread_ends_the_collect_and_it_can_go_on(
    folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tree_digest(run_job(planned(folder, texts, tmp_path / "whole")).path)
    job, append, calls = planned(folder, texts, tmp_path / "run"), writing.append_line, list[int]()

    def failing(*told: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise StorageError("cannot write: no space")
        append(*told)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "append_line", failing)
        with pytest.raises(StorageError, match="no space"):
            run_job(job)
    assert len(calls) == 3 < len(job.plan)
    assert tree_digest(run_job(job).path) == expected


def test_killed_while_the_thread_writes_it_ends_with_the_same_bytes(
    folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tree_digest(run_job(planned(folder, texts, tmp_path / "whole")).path)
    fsync, killed = os.fsync, 0
    for stop in range(4, 40, 5):
        job = planned(folder, texts, tmp_path / f"{stop}")
        child = os.fork()
        if child == 0:
            synced = list[int]()

            def killing(fd: int, synced: list[int] = synced, stop: int = stop) -> None:
                synced.append(fd)
                if len(synced) == stop:
                    os.kill(os.getpid(), signal.SIGKILL)
                fsync(fd)

            os.fsync = killing
            run_job(job)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        assert tree_digest(run_job(job).path) == expected, stop
    assert killed == 8
