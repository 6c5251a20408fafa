"""A collect that is stopped anywhere continues where it stopped and ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from digests import tree_digest
from store_tools import PLAN, collect, ignore, in_child, is_tidy, killed_at, manifest, watched

from rankscope.errors import OutputExists, StoreError, StoreIncomplete
from rankscope.store import open_run, tidy_finished
from rankscope.store.layout import read_commits

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills forked processes")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    assert collect(path) == [0, 1, 2, 3, 4]
    return tree_digest(path)


def operations(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations of an undisturbed collect."""
    with watched(monkeypatch, ignore) as seen:
        collect(path)
    return seen


def killed(path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, *, torn: bool = False) -> int:
    """Collects in a process of its own, killed at an operation; how that ended."""

    def work() -> None:
        with watched(monkeypatch, killed_at(stop, torn=torn)):
            collect(path)

    return in_child(work)


def resumed(path: Path, undisturbed: str) -> None:
    """Continues, and compares every byte; what was committed is not computed again."""
    committed = set(read_commits(path, manifest().planned(PLAN)))
    computed = collect(path)
    assert committed.isdisjoint(computed)
    assert committed | set(computed) == set(range(len(PLAN))) or not computed
    assert tree_digest(path) == undisturbed


@pytest.mark.parametrize("torn", [False, True], ids=["between", "within"])
def test_killed_at_every_operation_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str, torn: bool
) -> None:
    names = operations(tmp_path / "count", monkeypatch)
    stops = [i for i, name in enumerate(names, start=1) if not torn or name == "write"]
    assert len(names) > 100
    assert len(stops) > (50 if torn else 100)
    for stop in stops:
        path = tmp_path / f"{stop}"
        assert killed(path, monkeypatch, stop, torn=torn) == -signal.SIGKILL, stop
        if is_tidy(path):
            assert tree_digest(path) == undisturbed, stop
        else:
            resumed(path, undisturbed)


def test_killed_after_it_was_complete_it_is_tidied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str
) -> None:
    names = operations(tmp_path / "count", monkeypatch)
    swept = 0
    for stop in range(len(names), 0, -1):
        path = tmp_path / f"{stop}"
        killed(path, monkeypatch, stop)
        if not (path / "index.json").exists():
            break
        if is_tidy(path):  # the last operations find nothing left to remove
            continue
        assert open_run(path).verify().ok
        tidy_finished(path)
        assert tree_digest(path) == undisturbed
        swept += 1
    assert swept >= 4


def test_who_comes_while_a_run_is_tidied_waits_and_does_not_take_it_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str
) -> None:
    path, other, outcomes = tmp_path / "run", [False], []

    def another(number: int, name: str, arguments: tuple[object, ...]) -> None:
        if (path / "index.json").exists() and not other[0]:
            other[0] = True  # what the other one does is not watched
            outcomes.append(in_child(lambda: collect(path)))
            other[0] = False

    with watched(monkeypatch, another):
        collect(path)
    assert len(outcomes) >= 4
    assert not outcomes.count(0)  # a writer that ends well would say that it made the run
    with pytest.raises(OutputExists):
        collect(path)
    assert tree_digest(path) == undisturbed


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str
) -> None:
    total, choose = len(operations(tmp_path / "count", monkeypatch)), random.Random(0)
    for case in range(20):
        path = tmp_path / f"{case}"
        for _ in range(2 if case else 10):
            if not (path / "index.json").exists():
                killed(path, monkeypatch, choose.randrange(1, total // 3), torn=bool(case % 2))
        if not is_tidy(path):
            resumed(path, undisturbed)
        assert tree_digest(path) == undisturbed


def test_killed_while_overwriting_another_run_nothing_of_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str
) -> None:
    def overwrite(stop: int, path: Path) -> int:
        def work() -> None:
            with watched(monkeypatch, killed_at(stop)):
                collect(path, overwrite=True)

        return in_child(work)

    for finished in (True, False):
        for stop in range(1, 30):
            path = tmp_path / f"{finished}-{stop}"
            other(path, finished)
            assert overwrite(stop, path) == -signal.SIGKILL
            collect(path, overwrite=(path / "store.json").exists())
            assert tree_digest(path) == undisturbed, (finished, stop)


def other(path: Path, finished: bool) -> None:
    """A run of another checkpoint with the same plan and other features, finished or not."""
    from store_tools import contents

    from rankscope.store import Writer

    with Writer.open(path, manifest(checkpoint={"digest": "other"}), PLAN) as writer:
        for batch in writer.todo[: None if finished else 3]:
            writer.write(batch.id, *contents(batch, seed=1))
        if finished:
            writer.finish()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_the_finished_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str, number: signal.Signals
) -> None:
    def leave(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    total = len(operations(tmp_path / "count", monkeypatch))
    for stop in range(20, total - 10, total // 7):
        path = tmp_path / f"{stop}"

        def work(path: Path = path, stop: int = stop) -> None:
            signal.signal(number, leave)
            with watched(monkeypatch, lambda i, name, args: os.kill(os.getpid(), number) if i == stop else None):
                collect(path)

        assert in_child(work) == 0 or not (path / "index.json").exists()
        resumed(path, undisturbed)


def test_an_unfinished_run_is_refused_unless_a_part_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = len(operations(tmp_path / "count", monkeypatch))
    killed(tmp_path / "run", monkeypatch, total // 2)
    with pytest.raises(
        StoreIncomplete, match=r"unfinished collect: \d of 5 batches are there; the same collect command"
    ):
        open_run(tmp_path / "run")
    part = open_run(tmp_path / "run", partial=True)
    assert 0 < part.n("vision.0") < 10
    assert part.verify().ok


class Memory:
    """What a disk keeps when the power goes: a file's bytes since its last fsync, a folder's names since its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal: list[tuple[str, tuple[object, ...]]] = []

    def before(self, number: int, name: str, arguments: tuple[object, ...]) -> None:
        def told(value: object) -> object:
            if isinstance(value, int) and name in ("write", "fsync", "ftruncate"):
                return str(Path(f"/proc/self/fd/{value}").readlink())
            return bytes(value) if isinstance(value, memoryview | bytes) else value

        self.journal.append((name, (told(arguments[0]), *(told(a) if name == "write" else a for a in arguments[1:]))))

    def state(self, count: int, target: Path, *, names: bool) -> None:
        """Lays out what is left after ``count`` operations, without fsync-less bytes; with or without such names."""
        bytes_of: dict[int, bytearray] = {}
        kept: dict[int, bytes] = {}
        now: dict[str, int] = {}
        last: dict[str, int] = {}
        for name, arguments in self.journal[:count]:
            first = str(arguments[0])
            if name == "open" and (first not in now or int(str(arguments[1])) & os.O_TRUNC):
                now.setdefault(first, len(bytes_of))
                bytes_of[now[first]] = bytearray()
            elif name == "write":
                bytes_of[now[first]] += arguments[1]  # type: ignore[operator]
            elif name == "ftruncate":
                del bytes_of[now[first]][int(str(arguments[1])) :]
            elif name == "fsync" and first in now and now[first] >= 0:
                kept[now[first]] = bytes(bytes_of[now[first]])
            elif name == "fsync":
                last = {p: i for p, i in last.items() if str(Path(p).parent) != first}
                last |= {p: i for p, i in now.items() if str(Path(p).parent) == first}
            elif name == "mkdir":
                now[first] = -1
            elif name == "link":
                now[str(arguments[1])] = now[first]
            elif name == "rename":
                now[str(arguments[1])] = now.pop(first)
            elif name in ("unlink", "rmdir"):
                now.pop(first, None)
        self._lay_out(now if names else last, kept, target)

    def _lay_out(self, names: dict[str, int], kept: dict[int, bytes], target: Path) -> None:
        target.mkdir()
        for path, inode in sorted(names.items()):
            place = target / Path(path).relative_to(self.root)
            if not place.parent.exists():
                continue
            if inode < 0:
                place.mkdir(exist_ok=True)
            else:
                place.write_bytes(kept.get(inode, b""))


def test_after_a_power_loss_it_opens_as_before_or_after_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str
) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell the path of a descriptor")
    memory = Memory(tmp_path / "root")
    (tmp_path / "root").mkdir()
    with watched(monkeypatch, memory.before):
        collect(tmp_path / "root" / "run")
    states = 0
    for count in range(len(memory.journal) + 1):
        for names in (False, True):
            target = tmp_path / f"{count}-{names}"
            memory.state(count, target, names=names)
            settle(target / "run", undisturbed)
            states += 1
    assert states > 200


def settle(path: Path, undisturbed: str) -> None:
    """Opens as complete or is continued; in the end the bytes are those of an undisturbed collect."""
    check: Callable[[], object] = lambda: open_run(path).verify().check()  # noqa: E731
    if is_tidy(path):
        check()
        return
    if path.exists() and not (path / "index.json").exists():
        with pytest.raises(StoreError):
            open_run(path)
    collect(path)
    check()
    assert tree_digest(path) == undisturbed
