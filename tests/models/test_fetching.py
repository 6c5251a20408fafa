"""A name in the Hub is fetched where that is asked for, what is needed and no more; the Hub is a folder here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError, RepositoryNotFoundError

import rankscope
from rankscope import cli
from rankscope.checkpoint import Checkpoint
from rankscope.errors import CheckpointError, DataError

Asked = list[tuple[str, str | None]]


@pytest.fixture
def hub(tmp_path: Path, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The Hub with a base and an adapter, and an empty cache; returns what is asked of it over the network."""
    remote, cache, asked = tmp_path / "remote", tmp_path / "cache", []
    shutil.copytree(folder("opt"), remote / "tiny/base")
    shutil.copytree(folder("opt", "lora"), remote / "tiny/lora")
    config = remote / "tiny/lora" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(folder("opt")), "tiny/base"))
    for name in ("tf_model.h5", "pytorch_model.bin", "training_args.pt"):
        (remote / "tiny/base" / name).write_bytes(b"other")

    def snapshot(
        name: str, *, revision: str | None = None, local_files_only: bool = False, ignore_patterns: Any = ()
    ) -> str:
        there = cache / name
        if local_files_only:
            if not there.exists():
                raise LocalEntryNotFoundError("not cached")
            missing = {p.name for p in (remote / name).iterdir()} - {p.name for p in there.iterdir()}
            if missing:
                raise IncompleteSnapshotError("some are missing", snapshot_path=str(there))
            return str(there)
        asked.append((name, revision))
        if not (remote / name).exists():
            raise RepositoryNotFoundError("404 Client Error", response=_Response())
        there.mkdir(parents=True, exist_ok=True)
        for file in (remote / name).iterdir():
            if not any(fnmatch(file.name, pattern) for pattern in ignore_patterns):
                shutil.copy(file, there)
        return str(there)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    return asked


class _Response:
    headers: dict[str, str] = {}  # noqa: RUF012
    request = None


def test_an_adapter_is_fetched_with_its_base_once_and_only_what_is_needed(hub: Asked, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"nothing is downloaded; 'rankscope inspect tiny/lora --download' fetches it"
    ):
        Checkpoint.read("tiny/lora")
    assert hub == []
    fetched = rankscope.fetch("tiny/lora")
    assert [path.name for path in fetched] == ["lora", "base"]
    assert [name for name, _ in hub] == ["tiny/lora", "tiny/base"]
    assert not {"tf_model.h5", "pytorch_model.bin", "training_args.pt"} & {p.name for p in fetched[1].iterdir()}
    found = Checkpoint.read("tiny/lora")
    assert (found.base, found.path) == (fetched[1], fetched[0])
    assert rankscope.fetch("tiny/lora") == ()
    assert len(hub) == 2
    shutil.rmtree(fetched[1])
    with pytest.raises(
        CheckpointError,
        match=r"'tiny/base'.*nor in the local Hub cache; .*, or fetch it: 'rankscope inspect tiny/base --download'",
    ):
        Checkpoint.read("tiny/lora")
    assert rankscope.fetch(fetched[0]) == (fetched[1],)  # of an adapter that is a folder here
    (fetched[1] / "model.safetensors").unlink()  # as an interrupted download leaves it
    assert rankscope.fetch(["tiny/base", "tiny/lora"]) == (fetched[1],)
    assert rankscope.fetch("tiny/lora", base_model="tiny/base") == ()


def test_a_base_is_fetched_at_the_revision_that_the_adapter_names(hub: Asked, tmp_path: Path) -> None:
    config = tmp_path / "remote/tiny/lora/adapter_config.json"
    config.write_text(config.read_text().replace('"revision": null', f'"revision": "{"b" * 40}"'))
    rankscope.fetch("tiny/lora")
    assert hub == [("tiny/lora", None), ("tiny/base", "b" * 40)]


def test_pickled_weights_are_fetched_where_there_are_no_others(hub: Asked, tmp_path: Path) -> None:
    (tmp_path / "remote/tiny/base/model.safetensors").unlink()
    (base,) = rankscope.fetch("tiny/base")
    assert (base / "pytorch_model.bin").exists()
    assert not (base / "tf_model.h5").exists()


def test_what_is_a_path_or_is_not_in_the_hub(hub: Asked, folder: Callable[..., Path]) -> None:
    assert rankscope.fetch(folder("opt")) == ()
    assert rankscope.fetch("some/where/else") == ()  # no name of a repository: what reads it says so
    assert hub == []
    with pytest.raises(
        CheckpointError, match=r"'tiny/none' could not be fetched from the Hub: RepositoryNotFoundError: 404"
    ):
        rankscope.fetch("tiny/none")
    with pytest.raises(CheckpointError, match="no folder 'some/where/else'") as refused:
        Checkpoint.read("some/where/else")
    assert "--download" not in str(refused.value)


def test_the_command_line_downloads_only_when_it_is_told(
    hub: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = []
    for more in ([], ["--download"], []):
        monkeypatch.setattr("sys.argv", ["rankscope", "inspect", "tiny/lora", "--json", *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        codes.append((ended.value.code or 0, len(hub)))
    assert codes == [(3, 0), (0, 2), (0, 2)]
    assert "--download" in capsys.readouterr().err


def test_a_comparison_fetches_the_checkpoint_that_it_names(
    hub: Asked,
    folder: Callable[..., Path],
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rankscope.collect(folder("opt"), texts, sites="0", out="base.pt")
    codes = []
    for more in ([], ["--download"], []):
        monkeypatch.setattr("sys.argv", ["rankscope", "compare", "base.pt", "tiny/lora", "-m", "drift", "-q", *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        codes.append((ended.value.code or 0, [name for name, _ in hub]))
    both = ["tiny/lora", "tiny/base"]
    assert codes == [(4, []), (0, both), (0, both)]
    said = capsys.readouterr()
    assert "there is no run at tiny/lora" in said.err
    assert "--download fetches a checkpoint of this name" in said.err
    assert said.out.count("drift") >= 2


def test_a_data_set_of_the_hub_is_saved_first() -> None:
    with pytest.raises(
        DataError, match=r"of the Hub is saved first: datasets.load_dataset\('org/texts'\).save_to_disk"
    ):
        rankscope.open_data("org/texts")
    with pytest.raises(DataError) as refused:
        rankscope.open_data("folder/absent.jsonl")
    assert "Hub" not in str(refused.value)
