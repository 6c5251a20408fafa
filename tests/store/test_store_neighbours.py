"""What lies beside an output, or under a name that a store uses, is never touched: temporary names are nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from digests import tree_digest
from store_tools import PLAN, collect, manifest

from rankscope.errors import OutputExists, RankscopeError, StoreCorrupt, UsageError
from rankscope.scores.predictions import write_coco_results
from rankscope.store import discard, export_run, import_features, open_run, pack
from rankscope.store.layout import manifest_bytes
from rankscope.writing import is_temporary, new_file, new_folder, temporary_name, write_new

NAMES = ("run", "run.pt", "run.safetensors", "exp", "out.json")
"""Names of outputs; beside each lie files and folders whose names some tool would take for its own."""


def neighbours(folder: Path) -> dict[str, str]:
    """Files and folders beside every output, with the digest of each."""
    for name in NAMES:
        for near in (
            f"tmp-{name}",
            f"{name}.parts",
            f"{name}.partial",
            f".{name}.part",
            f"{name}.part",
            f"{name}.lock",
        ):
            (folder / near).write_text("mine")
        for near in (f"tmp-folder-{name}", f"{name}.tmp"):
            (folder / near).mkdir()
            (folder / near / "tmp-mine.txt").write_text("mine")
    (folder / "tmp-mine.pt").write_text("mine")
    return {path.name: tree_digest(path) for path in sorted(folder.iterdir())}


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "collect": lambda run, folder: collect(folder / "run"),
    "collect --overwrite": lambda run, folder: (collect(folder / "run"), collect(folder / "run", overwrite=True)),
    "pack": lambda run, folder: [pack(run, folder / name) for name in NAMES[1:3]],
    "pack --overwrite": lambda run, folder: [pack(run, folder / "run.pt", overwrite=o) for o in (False, True)],
    "import": lambda run, folder: [import_features(run.parent / "x.pt", folder / name) for name in NAMES[:3]],
    "import --overwrite": lambda run, folder: import_features(run.parent / "x.pt", folder / "run.pt", overwrite=True),
    "export": lambda run, folder: export_run(open_run(run), folder / "exp"),
    "discard": lambda run, folder: (collect(folder / "run"), discard(folder / "run")),
    "score --submission": lambda run, folder: write_coco_results(folder / "out.json", {"1": "a"}),
    "generate": lambda run, folder: write_new(folder / "out.json", b"{}", replace=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_lies_beside_an_output_is_not_touched(tmp_path: Path, name: str) -> None:
    collect(tmp_path / "run")
    torch.save({"decoder.0": torch.eye(3)}, tmp_path / "x.pt")
    (tmp_path / "here").mkdir()
    before = neighbours(tmp_path / "here")
    assert len(before) > 40
    WRITERS[name](tmp_path / "run", tmp_path / "here")
    after = {path.name: tree_digest(path) for path in sorted((tmp_path / "here").iterdir())}
    assert {near: after.get(near) for near in before} == before
    assert after.keys() - before.keys() <= set(NAMES)  # and nothing of its own is left


def test_the_writers_were_swept() -> None:
    assert len(WRITERS) == 10


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a lock of another program": lambda p: (p / "lock").write_text("held by the build"),
    "another plan": lambda p: (p / "plan.jsonl").write_text('{"batch": 0, "length": 1, "samples": [0]}\n'),
    "an index of a web site": lambda p: (p / "index.json").write_text("{}"),
    "a folder of shards": lambda p: [(p / "shards").mkdir(), (p / "shards" / "b000000.safetensors").write_text("x")],
    "a folder of commits": lambda p: [(p / "commits").mkdir(), (p / "commits" / "first").write_text("x")],
    "a temporary file of another program": lambda p: (p / "tmp-notes").write_text("x"),
    "a link": lambda p: (p / temporary_name()).symlink_to(p),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_with_names_like_a_store_is_no_store(tmp_path: Path, case: str) -> None:
    (tmp_path / "run").mkdir()
    FOREIGN[case](tmp_path / "run")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    for ask in (lambda: collect(tmp_path / "run", overwrite=True), lambda: discard(tmp_path / "run")):
        with pytest.raises(OutputExists, match=r"a folder with other things, such as .* choose another output"):
            ask()
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_in_a_store_only_what_a_store_makes_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    collect(path)
    strange = [path / "tmp-notes.txt", path / "shards" / "notes.txt", path / "shards" / "tmp-b000000.safetensors"]
    left = [path / temporary_name(), path / "shards" / temporary_name(), path / "shards" / "b000099.safetensors"]
    for file in (*strange, *left):
        file.write_text("x")
    collect(path, overwrite=True)
    assert all(file.exists() for file in strange)
    assert not any(file.exists() for file in left)


def test_temporary_names_are_random_and_made_by_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {temporary_name() for _ in range(100)}
    assert len(names) == 100
    assert all(map(is_temporary, names))
    assert not any(map(is_temporary, ("tmp-", "tmp-run", "tmp-" + "g" * 32, "tmp-" + "0" * 33, "x/tmp-" + "0" * 32)))
    monkeypatch.setattr("rankscope.writing.temporary_name", lambda: "taken")  # which chance does not do
    monkeypatch.setattr("rankscope.writing._name_for", lambda output, chance: "taken")
    (tmp_path / "taken").symlink_to(tmp_path / "outside")
    for make in (
        lambda: write_new(tmp_path / "a", b"x"),
        lambda: new_file(tmp_path).__enter__(),
        lambda: new_folder(tmp_path / "a").__enter__(),
    ):
        with pytest.raises(RankscopeError, match="File exists"):
            make()
    assert (tmp_path / "taken").is_symlink()
    assert not (tmp_path / "outside").exists()


def test_the_work_folder_is_named_after_all_that_must_agree() -> None:
    mine = manifest().planned(PLAN)
    moved = manifest(probe={**mine.probe, "name": "elsewhere"}, name="other", notes=["x"]).planned(PLAN)
    assert mine.differences(moved) == []
    assert mine.continuation == moved.continuation
    others = [manifest(dtype="float64"), manifest(rows={"kind": "last", "keep_special": False})]
    for other in (*(m.planned(PLAN) for m in others), manifest().planned(PLAN[:4])):
        assert mine.differences(other)
        assert mine.continuation != other.continuation


PATHS = ("../../../x", "/etc/x", "a/b", "..", "", "a\\b", "a\0", ".x", "a\n", "decoder ")
"""Names of stacks that are none."""


@pytest.mark.parametrize("stack", PATHS)
def test_a_stack_whose_name_is_a_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: str) -> None:
    sites = {"decoder.0": {"width": 3, "stack": stack}}
    with pytest.raises(UsageError, match="needs a width and the stack whose rows it has, a name such as decoder"):
        manifest(sites=sites)
    with monkeypatch.context() as patch:  # sealed by somebody who does not check
        patch.setattr("rankscope.store.manifest.is_name", lambda name: True)
        told = manifest(sites=sites).planned(PLAN)
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "store.json").write_bytes(manifest_bytes(told))
    with pytest.raises(StoreCorrupt, match="needs a width and the stack"):
        open_run(tmp_path / "run", partial=True)
