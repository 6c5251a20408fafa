"""A disk that is full, read-only or failing, and processes that want the same store."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from digests import tree_digest
from store_tools import PLAN, collect, contents, ignore, in_child, is_tidy, manifest, watched

from rankscope.errors import (
    StorageError,
    StoreCorrupt,
    StoreError,
    StoreIncomplete,
    StoreLocked,
    StoreMismatch,
    UsageError,
)
from rankscope.store import Writer, discard, open_run, pack
from rankscope.store.files import names_in
from rankscope.store.layout import read_commits
from rankscope.writing import publish, temporary_name, write_temporary


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    collect(path)
    return tree_digest(path)


def failing_at(stop: int, code: int, names: tuple[str, ...]) -> Callable[[int, str, tuple[object, ...]], None]:
    """From the ``stop``-th operation on, all of these fail as a disk does that stays full."""

    def before(number: int, name: str, arguments: tuple[object, ...]) -> None:
        if number >= stop and name in names:
            raise OSError(code, os.strerror(code))

    return before


FAULTS = [
    (errno.ENOSPC, ("write", "mkdir", "link")),
    (errno.EIO, ("write", "fsync", "rename", "link")),
    (errno.EROFS, ("open", "unlink", "mkdir")),
    (errno.EACCES, ("open", "mkdir")),
    (errno.EMFILE, ("open",)),
    (errno.EDQUOT, ("write",)),
]


@pytest.mark.parametrize(("code", "names"), FAULTS, ids=[errno.errorcode[code] for code, _ in FAULTS])
def test_whatever_the_disk_refuses_what_is_committed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str, code: int, names: tuple[str, ...]
) -> None:
    with watched(monkeypatch, ignore) as operations:
        collect(tmp_path / "count")
    swept = 0
    for stop in range(1, len(operations) + 1, 4):
        if not any(name in names for name in operations[stop - 1 :]):
            break
        path = tmp_path / f"{stop}"
        with watched(monkeypatch, failing_at(stop, code, names)), pytest.raises(StorageError) as caught:
            collect(path)
        assert str(tmp_path) in str(caught.value)
        assert os.strerror(code) in str(caught.value)
        assert "free" in str(caught.value)
        assert caught.value.exit_code == 8
        settled(path, undisturbed)
        swept += 1
    assert swept >= 20


def settled(path: Path, undisturbed: str) -> None:
    """Once the disk works the same collect continues, unless the last that failed was to tidy up."""
    committed = set(read_commits(path, manifest().planned(PLAN)))
    if not is_tidy(path):
        assert committed.isdisjoint(collect(path))
    assert tree_digest(path) == undisturbed


def limited(size: int, work: Callable[[], object]) -> int:
    """Runs work in a process that cannot make a file larger than ``size`` bytes."""

    def inside() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with pytest.raises(
            StorageError,
            match=r"[\d,]+ bytes are needed; .* free some space|bytes are needed, [\d,]+ are free; what was",
        ):
            work()

    return in_child(inside)


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_file_too_large_for_the_system_is_an_error_with_the_bytes_needed(
    tmp_path: Path, undisturbed: str, size: int
) -> None:
    assert limited(size, lambda: collect(tmp_path / "run")) == 0
    assert not list(tmp_path.rglob("tmp-*"))
    collect(tmp_path / "run")
    assert tree_digest(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("name", ["run.pt", "run.safetensors"])
def test_packing_to_a_full_disk_leaves_nothing_and_keeps_what_was_there(tmp_path: Path, name: str) -> None:
    collect(tmp_path / "run")
    for size in (0, 200, 900):
        assert limited(size, lambda: pack(tmp_path / "run", tmp_path / name)) == 0
        assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    pack(tmp_path / "run", tmp_path / name)
    before = tree_digest(tmp_path / name)
    assert limited(500, lambda: pack(tmp_path / "run", tmp_path / name, overwrite=True)) == 0
    assert tree_digest(tmp_path / name) == before


def test_packing_is_refused_before_it_starts_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(tmp_path / "run")
    monkeypatch.setattr("rankscope.writing.free_bytes", lambda path: 10)
    with pytest.raises(StorageError, match=r"run\.pt: [\d,]+ bytes are needed, and 10 are free"):
        pack(tmp_path / "run", tmp_path / "run.pt")


def test_files_may_be_read_by_whoever_may_read_the_folder(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        collect(tmp_path / "run")
        pack(tmp_path / "run", tmp_path / "run.pt")
        modes = {
            p.stat().st_mode & 0o777
            for p in (*tmp_path.rglob("*.safetensors"), tmp_path / "run.pt", tmp_path / "run" / "store.json")
        }
    finally:
        os.umask(before)
    assert modes == {0o640}


def test_the_second_writer_is_refused_at_once_and_told_of_the_first(tmp_path: Path) -> None:
    with Writer.open(tmp_path / "run", manifest(), PLAN) as writer:
        writer.write(0, *contents(PLAN[0]))
        started = time.monotonic()
        for overwrite in (False, True):
            with pytest.raises(StoreLocked, match=rf"held by process {os.getpid()} on .*being written; wait for it"):
                Writer.open(tmp_path / "run", manifest(), PLAN, overwrite=overwrite)
        with pytest.raises(StoreLocked, match="wait for it, or choose another output"):
            discard(tmp_path / "run")
        with pytest.raises(StoreIncomplete):
            open_run(tmp_path / "run")
        assert time.monotonic() - started < 1
    with Writer.open(tmp_path / "run", manifest(), PLAN) as writer:
        assert writer.done == {0}


def test_of_racing_writers_one_wins_and_the_bytes_are_the_same(tmp_path: Path, undisturbed: str) -> None:
    for race in range(10):
        path, children = tmp_path / f"{race}", []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    collect(path)
                    status = 0
                except StoreLocked:
                    status = 7
                except FileExistsError:
                    status = 2
                finally:
                    os._exit(status)
            children.append(pid)
        ends = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)
        assert ends[0] == 0
        assert set(ends) <= {0, 2, 7}
        assert ends.count(0) == 1
        assert tree_digest(path) == undisturbed


def test_a_writer_killed_with_the_lock_leaves_no_lock(tmp_path: Path, undisturbed: str) -> None:
    def work() -> None:
        writer = Writer.open(tmp_path / "run", manifest(), PLAN)
        writer.write(0, *contents(PLAN[0]))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert (tmp_path / "run" / "lock").exists()
    collect(tmp_path / "run")
    assert tree_digest(tmp_path / "run") == undisturbed


def test_readers_beside_a_writer_see_nothing_or_all(tmp_path: Path, undisturbed: str) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            collect(tmp_path / "run")
            status = 0
        finally:
            os._exit(status)
    seen = set()
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        try:
            seen.add(open_run(tmp_path / "run").n("decoder.1"))
        except StoreCorrupt as error:
            raise AssertionError(error) from error
        except StoreError:
            seen.add(0)
    assert seen <= {0, 30}
    assert tree_digest(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_any_number_of_processes_write_the_same_bytes(tmp_path: Path, undisturbed: str, world: int) -> None:
    computed = [collect(tmp_path / "run", rank=rank, world=world) for rank in reversed(range(world))]
    assert sorted(batch for share in computed for batch in share) == [0, 1, 2, 3, 4]
    assert tree_digest(tmp_path / "run") == undisturbed


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 3), (3, 2), (4, 1)])
def test_another_number_of_processes_continues(tmp_path: Path, undisturbed: str, first: int, then: int) -> None:
    for rank in range(first):
        with Writer.open(tmp_path / "run", manifest(), PLAN, rank=rank, world=first) as writer:
            for batch in writer.todo[:1]:
                writer.write(batch.id, *contents(batch))
    for rank in range(then):
        collect(tmp_path / "run", rank=rank, world=then)
    assert tree_digest(tmp_path / "run") == undisturbed


def test_processes_at_the_same_time_write_the_same_bytes(tmp_path: Path, undisturbed: str) -> None:
    for case in range(24):
        path, children, world = tmp_path / f"{case}", [], (3, 7)[case % 2]
        for rank in range(world):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    collect(path, rank=rank, world=world)
                    status = 0
                finally:
                    os._exit(status)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * world
        assert tree_digest(path) == undisturbed


def test_a_store_that_is_begun_while_its_folder_is_looked_at_is_no_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun_meanwhile(folder: Path) -> list[str]:
        monkeypatch.undo()
        collect(tmp_path / "run", rank=0, world=2)
        return [*names_in(folder), temporary_name()]  # and something that was there, and is gone

    (tmp_path / "run").mkdir()
    monkeypatch.setattr("rankscope.store.files.names_in", begun_meanwhile)
    collect(tmp_path / "run", rank=1, world=2)
    assert open_run(tmp_path / "run").manifest.batches == len(PLAN)


def test_a_finished_share_may_be_run_again_and_changes_nothing(tmp_path: Path, undisturbed: str) -> None:
    for rank in (0, 1, 0, 1):
        collect(tmp_path / "run", rank=rank, world=2)
    assert tree_digest(tmp_path / "run") == undisturbed


def test_what_the_last_process_did_not_complete_the_next_one_does(tmp_path: Path, undisturbed: str) -> None:
    for rank in range(2):
        with Writer.open(tmp_path / "run", manifest(), PLAN, rank=rank, world=2) as writer:
            for batch in writer.todo:
                if batch.id < 4 or rank:
                    writer.write(batch.id, *contents(batch))
            assert not (rank == 0 and writer.finish())
    with pytest.raises(StoreIncomplete):
        open_run(tmp_path / "run")
    with Writer.open(tmp_path / "run", manifest(), PLAN, rank=0, world=2) as writer:
        writer.write(4, *contents(PLAN[4]))  # and it dies before it completes the store
    collect(tmp_path / "run", rank=1, world=2)
    assert tree_digest(tmp_path / "run") == undisturbed


def test_two_processes_of_the_same_rank_exclude_each_other(tmp_path: Path) -> None:
    with (
        Writer.open(tmp_path / "run", manifest(), PLAN, rank=1, world=2),
        Writer.open(tmp_path / "run", manifest(), PLAN, rank=0, world=2),
        pytest.raises(StoreLocked, match=r"rank00001\.jsonl is held"),
    ):
        Writer.open(tmp_path / "run", manifest(), PLAN, rank=1, world=2)


def test_processes_that_compute_differently_are_found_out(tmp_path: Path) -> None:
    with (
        Writer.open(tmp_path / "run", manifest(), PLAN, rank=0, world=2) as one,
        Writer.open(tmp_path / "run", manifest(), PLAN, rank=1, world=2) as two,
    ):
        one.write(0, *contents(PLAN[0]))
        with pytest.raises(StoreMismatch, match="committed by another process with other bytes"):
            two.write(0, *contents(PLAN[0], seed=1))
        two.write(1, *contents(PLAN[1]))
        one.write(1, *contents(PLAN[1]))


def test_several_processes_do_not_overwrite(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot overwrite a run together"):
        Writer.open(tmp_path / "run", manifest(), PLAN, overwrite=True, rank=0, world=2)
    with pytest.raises(UsageError, match="rank 2 of 2"):
        Writer.open(tmp_path / "run", manifest(), PLAN, rank=2, world=2)


def test_a_damaged_shard_of_an_unfinished_store_is_computed_again(tmp_path: Path, undisturbed: str) -> None:
    for world in (1, 2):
        path = tmp_path / f"{world}"
        with Writer.open(path, manifest(), PLAN) as writer:
            for batch in PLAN[:3]:
                writer.write(batch.id, *contents(batch))
        shard = path / "shards" / "b000001.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
        assert [collect(path, rank=rank, world=world) for rank in range(world)] == (
            [[1, 3, 4]] if world == 1 else [[4], [1, 3]]
        )
        assert tree_digest(path) == undisturbed


def test_the_bytes_do_not_depend_on_hash_seed_locale_or_folder(tmp_path: Path, undisturbed: str) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from pathlib import Path; from digests import tree_digest; "
        "from store_tools import collect; path = Path(sys.argv[3]); collect(path); print(tree_digest(path))"
    )
    target = tmp_path / "a folder – with ünicode"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    arguments = [sys.executable, "-X", "utf8", "-c", code, *map(str, Path(__file__).parents[:2]), str(target)]
    done = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == undisturbed


def test_a_log_folder_that_goes_away_while_it_is_listed_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever completes a run removes it; a reader may be between looking at it and listing it."""
    (tmp_path / "commits").mkdir()
    listed = Path.iterdir

    def late(self: Path) -> Iterator[Path]:
        self.rmdir()
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", late)
    assert names_in(tmp_path / "commits") == []


@pytest.mark.parametrize("step", ["_claim", "_resume"])
def test_who_joins_while_the_others_complete_the_run_finds_it_finished(
    tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    joining = getattr(Writer, step)

    def meanwhile(self: Writer) -> None:
        joining(self)
        monkeypatch.undo()
        for rank in range(2):
            collect(tmp_path / "run", rank=rank, world=3)
        if step == "_claim":
            collect(tmp_path / "run", rank=2, world=3)

    monkeypatch.setattr(Writer, step, meanwhile)
    collect(tmp_path / "run", rank=2, world=3)
    assert tree_digest(tmp_path / "run") == undisturbed


def test_a_file_that_another_process_published_and_tidied_away_is_there(tmp_path: Path) -> None:
    temporary = write_temporary(tmp_path / "index.json", [b"same"])
    (tmp_path / "index.json").write_bytes(b"same")
    temporary.unlink()
    assert publish(temporary, tmp_path / "index.json") is False
    (tmp_path / "index.json").unlink()
    with pytest.raises(StorageError, match="No such file"):
        publish(temporary, tmp_path / "index.json")
