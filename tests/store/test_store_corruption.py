"""Bytes that are not those that were written are refused, with the file named; nothing is read in silence."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from store_tools import files_below

from rankscope.errors import RankscopeError, StoreCorrupt
from rankscope.store import Run, open_run


def read_all(run: Run) -> None:
    """Reads every row and every feature."""
    for site in run.sites:
        run.rows_at(site)
        run.features(site)


def truncated(data: bytes, choose: random.Random) -> bytes:
    return data[: choose.randrange(len(data))]


def flipped(data: bytes, choose: random.Random) -> bytes:
    place = choose.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << choose.randrange(8)]) + data[place + 1 :]


def zeroed(data: bytes, choose: random.Random) -> bytes:
    start = choose.randrange(max(1, len(data) - 512))
    return data[:start] + b"\0" * min(512, len(data) - start) + data[start + 512 :]


def extended(data: bytes, choose: random.Random) -> bytes:
    return data + choose.randbytes(choose.randrange(1, 40))


DAMAGES: list[tuple[Callable[[bytes, random.Random], bytes], int]] = [
    (truncated, 100),
    (flipped, 100),
    (zeroed, 50),
    (extended, 20),
]


def refused(path: Path, victim: Path) -> bool:
    """Whether a default read and ``verify`` both refuse, naming the file (or the run, if it is one file)."""
    with pytest.raises(RankscopeError, match=victim.name.replace(".", r"\.")):
        read_all(open_run(path))
    with pytest.raises(RankscopeError, match=victim.name.replace(".", r"\.")):
        open_run(path).verify().check()
    return True


def test_every_damaged_file_of_a_store_is_refused_and_named(runs: Path, tmp_path: Path) -> None:
    choose, swept = random.Random(0), 0
    shutil.copytree(runs / "run", tmp_path / "run")
    victims = files_below(tmp_path / "run")
    for damage, cases in DAMAGES:
        for case in range(cases):
            victim = victims[case % len(victims)]
            whole = victim.read_bytes()
            damaged = damage(whole, choose)
            if damaged != whole:
                victim.write_bytes(damaged)
                swept += refused(tmp_path / "run", victim)
                victim.write_bytes(whole)
    assert swept >= 260
    read_all(open_run(tmp_path / "run"))


def test_swapped_and_foreign_shards_are_refused(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "run", tmp_path / "run")
    shards, swept = sorted((tmp_path / "run" / "shards").iterdir()), 0
    for i, one in enumerate(shards):
        whole = one.read_bytes()
        for two in shards[i + 1 :]:
            other = two.read_bytes()
            one.write_bytes(other)
            two.write_bytes(whole)
            swept += refused(tmp_path / "run", one)
            one.write_bytes(whole)
            two.write_bytes(other)
        one.write_bytes((runs / "other" / "shards" / one.name).read_bytes())
        swept += refused(tmp_path / "run", one)
        one.write_bytes(whole)
    assert swept == 15


@pytest.mark.parametrize("name", ["run.pt", "run.safetensors"])
def test_a_damaged_single_file_never_passes_for_whole(runs: Path, tmp_path: Path, name: str) -> None:
    """A flip in the archive's own bookkeeping may leave every tensor as it was; ``verify`` sees it all the same."""
    choose, swept = random.Random(1), 0
    good = open_run(runs / name)
    whole, victim = (runs / name).read_bytes(), tmp_path / name
    for damage, cases in DAMAGES:
        for _ in range(cases):
            damaged = damage(whole, choose)
            if damaged == whole:
                continue
            victim.write_bytes(damaged)
            with pytest.raises(RankscopeError, match=name.replace(".", r"\.")):
                open_run(victim).verify().check()
            with contextlib.suppress(RankscopeError):
                run = open_run(victim)
                assert all(torch.equal(run.features(site), good.features(site)) for site in good.sites)
            swept += 1
    assert swept >= 240


def test_a_file_cut_short_under_a_reader_is_refused_and_the_process_lives(runs: Path, tmp_path: Path) -> None:
    swept = 0
    for name in ("run", "run.pt", "run.safetensors"):
        for place in range(4):
            copy = tmp_path / f"{place}-{name}"
            (shutil.copytree if name == "run" else shutil.copy)(runs / name, copy)
            run = open_run(copy)
            run.features("decoder.1")
            victim = next(p for p in files_below(copy) if p.suffix == ".safetensors") if name == "run" else copy
            os.truncate(victim, victim.stat().st_size * place // 4)
            with pytest.raises(StoreCorrupt, match=victim.name):
                run.features("decoder.1")
            swept += 1
    assert swept == 12


def test_without_verification_sizes_are_checked_and_bytes_are_not(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "run", tmp_path / "run")
    shard = tmp_path / "run" / "shards" / "b000000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-200] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="SHA-256 is not the one"):
        read_all(open_run(tmp_path / "run"))
    run = open_run(tmp_path / "run", verify=False)
    run.features("decoder.1")
    assert not run.verify().ok
    shard.write_bytes(data[:-1])
    with pytest.raises(StoreCorrupt, match=r"bytes, and .* were written"):
        run.features("decoder.1")


@pytest.mark.parametrize("what", ["link", "folder", "pipe", "missing", "linked folder", "dangling"])
def test_a_shard_that_is_no_regular_file_is_refused(runs: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(runs / "run", tmp_path / "run")
    shards = tmp_path / "run" / "shards"
    shard = shards / "b000001.safetensors"
    if what == "linked folder":
        shards.rename(tmp_path / "away")
        shards.symlink_to(tmp_path / "away")
    else:
        shard.unlink()
        match what:
            case "link":
                shard.symlink_to(runs / "run" / "shards" / shard.name)
            case "dangling":
                shard.symlink_to(tmp_path / "nowhere")
            case "folder":
                shard.mkdir()
            case "pipe":
                os.mkfifo(shard)
    with pytest.raises(StoreCorrupt, match="shards"):
        read_all(open_run(tmp_path / "run"))
    with pytest.raises(StoreCorrupt, match="shards"):
        open_run(tmp_path / "run").verify().check()


def test_a_stray_shard_is_reported(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "run", tmp_path / "run")
    shutil.copy(runs / "run" / "shards" / "b000001.safetensors", tmp_path / "run" / "shards" / "b000009.safetensors")
    with pytest.raises(StoreCorrupt, match=r"b000009\.safetensors belongs to no batch"):
        open_run(tmp_path / "run").verify().check()
