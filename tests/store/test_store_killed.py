"""What a killed process leaves beside an output is removed by the next that makes it, and nothing else is."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from store_tools import collect, ignore, in_child, killed_at, watched

from rankscope import writing
from rankscope.errors import OutputExists
from rankscope.scores.predictions import write_coco_results
from rankscope.store import export_run, import_features, open_run, pack


class Making(NamedTuple):
    """An output, and how it is made."""

    name: str
    """Its name."""
    make: Callable[[Path, Path], object]
    """Makes it, from the folder of what there is and its path."""
    replaces: bool = True
    """Whether it takes the place of an earlier one."""


MAKERS = {
    "import .pt": Making("run.pt", lambda here, out: import_features(here / "x.pt", out, overwrite=True)),
    "import .safetensors": Making("a.safetensors", lambda here, out: import_features(here / "x.pt", out, overwrite=True)),
    "export npy": Making("exp", lambda here, out: export_run(open_run(here / "run"), out), replaces=False),
    "export parquet": Making("exp", lambda here, out: export_run(open_run(here / "run"), out, to="parquet"), replaces=False),
    "pack": Making("run.pt", lambda here, out: pack(here / "run", out, overwrite=True)),
    "a submission": Making("out.json", lambda here, out: write_coco_results(out, {"1": "a"})),
    "predictions": Making("said.jsonl", lambda here, out: writing.write_output(out, b"{}")),
}  # fmt: skip
LOOK_ALIKES = ("file", "link", "folder", "of another output", "of another machine")
"""What somebody else may have put beside an output, under the name of something temporary."""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with something to import and to export, and one for outputs in it."""
    collect(tmp_path / "run")
    torch.save({"decoder.0": torch.eye(3)}, tmp_path / "x.pt")
    (tmp_path / "out").mkdir()
    return tmp_path


def plant(kind: str, output: Path, patch: pytest.MonkeyPatch) -> Path:
    """A look-alike beside an output."""
    mine = output.with_name(writing._name_for(output, "0" * 16))
    if kind == "of another output":
        mine = output.with_name(writing._name_for(output.with_name("other"), "0" * 16))
    elif kind == "of another machine":
        with patch.context() as elsewhere:
            elsewhere.setattr("socket.gethostname", lambda: "elsewhere")
            mine = output.with_name(writing._name_for(output, "0" * 16))
    elif kind == "folder":
        mine = output.with_name(writing.temporary_name())
    if kind == "link":
        (output.parent / "target").mkdir()
        mine.symlink_to(output.parent / "target")
    elif kind == "file":
        mine.write_text("mine")
    else:
        mine.mkdir()
        (mine / "notes.txt").write_text("mine")
    return mine


@pytest.mark.parametrize("name", MAKERS)
def test_whenever_a_process_is_killed_the_next_one_tidies_up(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made, output = MAKERS[name], here / "out" / MAKERS[name].name
    with watched(monkeypatch, ignore) as seen:
        made.make(here, output)
    assert [path.name for path in output.parent.iterdir()] == [made.name]
    left = 0
    for stop in range(1, len(seen) + 1):
        shutil.rmtree(here / "out")
        (here / "out").mkdir()
        with watched(monkeypatch, killed_at(stop)):
            assert in_child(lambda: made.make(here, output)) == -signal.SIGKILL
        left += any(path != output for path in output.parent.iterdir())
        if output.exists() and not made.replaces:
            shutil.rmtree(output)
        made.make(here, output)
        assert [path.name for path in output.parent.iterdir()] == [made.name], f"killed at {stop} of {len(seen)}"
    assert left  # or nothing was there to be tidied


def test_the_makers_were_swept() -> None:
    assert len(MAKERS) == 7


def test_an_output_that_is_kept_is_tidied_too(here: Path) -> None:
    output = here / "out" / "run.pt"

    def killed() -> None:
        with writing.new_folder(output) as folder:
            (folder / "half").write_text("x")
            output.write_text("whole")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    assert len(list(output.parent.iterdir())) == 2
    with pytest.raises(OutputExists, match=r"run\.pt exists and is kept unless --overwrite is given"):
        import_features(here / "x.pt", output)
    assert [path.name for path in output.parent.iterdir()] == ["run.pt"]


def test_what_a_living_process_makes_is_left_to_it(here: Path) -> None:
    output, (begun, tell_begun), (end, tell_end) = here / "out" / "run.pt", os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            with writing.new_folder(output) as folder:
                (folder / "half").write_text("x")
                os.write(tell_begun, b"x")
                os.read(end, 1)
                status = 0 if (folder / "half").exists() else 2
        finally:
            os._exit(status)
    os.read(begun, 1)
    for _ in range(2):
        import_features(here / "x.pt", output, overwrite=True)
        assert len(list(output.parent.iterdir())) == 2
    os.write(tell_end, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [path.name for path in output.parent.iterdir()] == ["run.pt"]


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_what_only_looks_like_it_is_kept(here: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    output = here / "out" / "run.pt"
    mine = plant(kind, output, monkeypatch)
    import_features(here / "x.pt", output)
    import_features(here / "x.pt", output, overwrite=True)
    assert mine.is_symlink() or mine.read_text() == "mine" if not mine.is_dir() else True
    assert mine.exists()
    assert sorted(path.name for path in mine.glob("*")) == ([] if kind in ("file", "link") else ["notes.txt"])


def test_a_folder_taken_before_it_was_locked_is_made_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, real, taken = here / "out" / "run.pt", os.mkdir, []

    def taken_once(path: Path, *mode: int) -> None:
        real(path, *mode)
        if not taken:
            taken.append(path)
            Path(path).rmdir()

    monkeypatch.setattr(os, "mkdir", taken_once)
    with writing.new_folder(output) as folder:
        assert folder.is_dir()
        assert folder != taken[0]


def test_where_folders_cannot_be_locked_nothing_is_removed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", no_locks)
    output = here / "out" / "run.json"
    writing.write_output(output, b"x")
    mine = output.with_name(writing._name_for(output, "0" * 16))
    mine.mkdir()
    writing.write_output(output, b"y")
    assert mine.is_dir()
    assert output.read_bytes() == b"y"
