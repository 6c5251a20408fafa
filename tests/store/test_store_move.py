"""A finished folder becomes one file in its own room, and a move that is killed anywhere ends with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from store_tools import PLAN, collect, files_below, ignore, in_child, killed_at, manifest, watched

from rankscope.errors import OutputExists, StoreCorrupt, UsageError
from rankscope.store import Batch, Writer, discard, move, open_run, pack

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills forked processes")
FORMS = ("run.pt", "run.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, and what packing gives of it."""
    root = tmp_path_factory.mktemp("made")
    collect(root / "run")
    for form in FORMS:
        pack(root / "run", root / form)
    return root


def copied(made: Path, to: Path) -> Path:
    return shutil.copytree(made / "run", to)


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_becomes_the_file_that_packing_gives(form: str, made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "gathered")
    run = move(folder, tmp_path / form)
    assert (tmp_path / form).read_bytes() == (made / form).read_bytes()
    assert run.verify().ok
    assert not list((folder / "shards").iterdir())
    discard(folder)
    assert [path.name for path in tmp_path.iterdir()] == [form]


@pytest.mark.parametrize("form", FORMS)
def test_killed_at_every_operation_it_ends_with_the_same_bytes(
    form: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = copied(made, tmp_path / "count")
    with watched(monkeypatch, ignore) as names:
        move(counted, tmp_path / form)
    expected, swept, shards_gone = (made / form).read_bytes(), 0, set()
    for stop in range(1, len(names) + 1):
        folder, target = copied(made, tmp_path / f"{stop}"), tmp_path / f"{stop}{form}"

        def work(folder: Path = folder, target: Path = target, stop: int = stop) -> None:
            with watched(monkeypatch, killed_at(stop)):
                move(folder, target)

        assert in_child(work) == -signal.SIGKILL, stop
        shards_gone.add(len(PLAN) - len(list((folder / "shards").iterdir())))
        if not target.exists():
            move(folder, target)
            swept += 1
        assert target.read_bytes() == expected, stop
    assert shards_gone == set(range(len(PLAN) + 1))
    assert swept > 40


def test_the_disk_holds_at_most_one_batch_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, width = 16, 4096  # 128 KiB a batch, of many blocks of the disk
    told = manifest(
        sites={"decoder.0": {"width": width, "stack": "decoder"}},
        probe={"name": "n", "fingerprint": "f", "ids": [str(i) for i in range(8 * count)]},
    )
    plan = [Batch(k, tuple(range(k, 8 * count, count)), 1) for k in range(count)]
    with Writer.open(tmp_path / "run", told, plan) as writer:
        for batch in plan:
            sample = torch.tensor(batch.samples)
            rows = {"decoder": (sample, torch.zeros_like(sample), torch.zeros(8, dtype=torch.uint8))}
            writer.write(batch.id, {"decoder.0": torch.randn(8, width)}, rows)
        writer.finish()
    taken = list[int]()

    def weigh(number: int, name: str, arguments: tuple[object, ...]) -> None:
        there = {
            status.st_ino: status.st_blocks * 512 for status in map(os.stat, files_below(tmp_path))
        }  # two names, one file
        taken.append(sum(there.values()))

    with watched(monkeypatch, weigh):
        move(tmp_path / "run", tmp_path / "run.pt")
    one = 8 * width * 4
    assert count * one < max(taken) < (count + 2) * one
    assert len(taken) > 8 * count
    pack(tmp_path / "run.pt", tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "run.pt").read_bytes()


@pytest.mark.parametrize("fault", ["moved", "places", "shard"])
def test_what_was_altered_while_a_move_was_stopped_is_refused(
    fault: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = copied(made, tmp_path / "gathered"), tmp_path / "run.pt"

    def stop(number: int, name: str, arguments: tuple[object, ...]) -> None:
        if len(list((folder / "shards").iterdir())) == 3:
            raise KeyboardInterrupt

    with watched(monkeypatch, stop), pytest.raises(KeyboardInterrupt):
        move(folder, target)
    path = folder / fault if fault != "shard" else folder / "shards" / "b000004.safetensors"
    data = bytearray(path.read_bytes())
    data[{"moved": 64, "places": -1, "shard": -1}[fault]] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        move(folder, target)
    assert not target.exists()


def test_a_name_that_is_taken_or_is_no_file_s_is_refused(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "gathered")
    (tmp_path / "run.pt").write_text("mine")
    with pytest.raises(OutputExists, match="is kept unless --overwrite"):
        move(folder, tmp_path / "run.pt")
    with pytest.raises(UsageError, match=r"'run\.npz' does not"):
        move(folder, tmp_path / "run.npz")
    assert open_run(folder).verify().ok
    move(folder, tmp_path / "run.pt", overwrite=True)
    assert (tmp_path / "run.pt").read_bytes() == (made / "run.pt").read_bytes()


def test_what_is_left_when_a_move_is_stopped_goes_with_the_folder(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(made, tmp_path / "gathered")

    def stop(number: int, name: str, arguments: tuple[object, ...]) -> None:
        if len(list((folder / "shards").iterdir())) == 3:
            raise KeyboardInterrupt

    with watched(monkeypatch, stop), pytest.raises(KeyboardInterrupt):
        move(folder, tmp_path / "run.pt")
    assert all((folder / name).exists() for name in ("moved", "places"))
    discard(folder)
    assert not list(tmp_path.iterdir())
