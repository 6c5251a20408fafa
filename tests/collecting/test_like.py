"""A checkpoint is read as the run beside it was: every option of a collect that decides its rows goes along."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import fixtures_data as make
import numpy as np
import pytest

import rankscope
from rankscope.collecting.loading import Loading
from rankscope.collecting.request import Request
from rankscope.collecting.resolve import as_run
from rankscope.data.open import OPTIONS, open_data
from rankscope.data.probes import ProbeSet
from rankscope.errors import DataError
from rankscope.store import open_run

Folder = Callable[..., Path]

CHANGED: dict[str, Any] = {
    "sites": "decoder.0,final",
    "rows": "tokens",
    "n": 7,
    "keep_special": True,
    "tokens_per_batch": 32,
    "padding_side": "left",
    "chat": True,
    "max_length": 6,
    "processor": "elsewhere",
}
"""Another value than the default of each option that decides which rows are read, or beside which others."""
NOT_OF_THE_ROWS = {
    "out": "where the run goes",
    "name": "what it is called",
    "nonfinite": "what is done with features that are no numbers",
    "shard": "who reads which batch",
    "overwrite": "what is done with an earlier run",
    "reuse": "what is done with an earlier run",
    "base_model": "the other checkpoint has a base of its own",
    "dtype": "the other checkpoint has a dtype of its own",
    "device": "where it is computed",
    "device_map": "where it is computed",
    "load_in_4bit": "how the weights are held",
    "trust_remote_code": "never taken from a file",
    "keep": "beside a run of sums nothing is collected afterwards, because pairs are summed while both are read",
    "groups": "they belong to sums",
    "beside": "they belong to sums",
}


def test_every_option_of_a_collect_is_swept() -> None:
    known = {field.name for kind in (Request, Loading) for field in fields(kind)}
    assert known == {*CHANGED, *NOT_OF_THE_ROWS}
    assert not {*CHANGED} & {*NOT_OF_THE_ROWS}


@pytest.fixture
def chatty(folder: Folder, tmp_path: Path) -> Path:
    """A processor of another kind than the checkpoint's own: it has a chat template."""
    made = tmp_path / "elsewhere"
    shutil.copytree(folder("gpt2"), made)
    (made / "chat_template.jinja").write_text("{% for m in messages %}say {{ m.content }} now{% endfor %}")
    return made


@pytest.mark.parametrize("option", CHANGED)
def test_an_option_of_the_run_is_one_of_the_checkpoint_beside_it(
    folder: Folder, texts: Path, chatty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    how = {option: CHANGED[option]}
    if option in ("chat", "processor"):
        how["processor"] = chatty
    if option == "chat":
        how["rows"] = "tokens"
    plain = rankscope.collect(folder("gpt2"), texts, out="plain.pt", **({"rows": "tokens"} if option == "chat" else {}))
    run = rankscope.collect(folder("gpt2"), texts, out="run.pt", **how)
    other = as_run(folder("gpt2", "lora"), like=run)
    assert run.manifest.differences(plain.manifest)
    mine, theirs = run.manifest, other.manifest
    assert (theirs.probe, theirs.rows, theirs.sites, theirs.reading) == (
        mine.probe,
        mine.rows,
        mine.sites,
        mine.reading,
    )
    assert theirs.checkpoint.get("processor") == mine.checkpoint.get("processor")
    assert theirs.plan == mine.plan


def elsewhere(path: Path, folder: Path) -> Path:
    """What lies beside a file, moved to where it would not be looked for."""
    shutil.move(path, folder / "moved")
    return folder / "moved"


def _columns(folder: Path) -> tuple[Path, Any]:
    path = folder / "named.jsonl"
    path.write_text('{"text": "a", "prose": "b"}\n{"text": "c", "prose": "d"}\n')
    return path, {"text": "prose"}


def _images(folder: Path) -> tuple[Path, Any]:
    path = make.coco(folder)
    return path, elsewhere(folder / "val2014", folder)


def _answers(folder: Path) -> tuple[Path, Any]:
    path = make.vqa(folder)
    (annotations,) = folder.glob("*annotations.json")
    return path, elsewhere(annotations, folder)


def _regions(folder: Path) -> tuple[Path, Any]:
    arrays: dict[str, Any] = {str(name): make.region_array(i) for i, name in enumerate(make.IDS)}
    np.savez(folder / "regions.npz", **arrays)
    return make.vqa(folder), folder / "regions.npz"


DATA: dict[str, Callable[[Path], tuple[Path | str, Any]]] = {
    "columns": _columns,
    "images": _images,
    "regions": _regions,
    "answers": _answers,
    "restval": lambda folder: (f"{make.karpathy(folder)}:train", False),
    "images_needed": lambda folder: (make.coco(folder, images=False), False),
}
"""For each option of ``open_data``, data that it changes, and its value."""


def test_every_option_of_the_data_is_swept() -> None:
    assert {*DATA} == {*OPTIONS}


def seen(data: ProbeSet) -> list[object]:
    """What can be said of examples without opening a file."""
    return [(e.id, e.text, e.targets, str(e.image), e.regions and e.regions.digest()) for e in data]


@pytest.mark.parametrize("option", DATA)
def test_data_say_with_which_options_they_are_opened_again(tmp_path: Path, option: str) -> None:
    spec, value = DATA[option](tmp_path)
    data = open_data(spec, **{option: value})
    assert [*data.options] == [option]
    again = open_data(data.name, **json.loads(json.dumps(dict(data.options))))
    assert seen(again) == seen(data)
    with suppress(DataError):  # without the option they are others, or are not whole
        assert seen(open_data(data.name)) != seen(data)
    assert open_data(spec, **{option: value}, n=1).options == data.options


def test_a_checkpoint_is_read_on_the_columns_of_the_run(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [{"text": f"no {i}", "prose": f"say {i} of {i * i}"} for i in range(9)]
    Path("d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = rankscope.collect(folder("gpt2"), open_data("d.jsonl", columns={"text": "prose"}), out="run.pt")
    assert run.manifest.probe["options"] == {"columns": {"text": "prose"}}
    other = as_run(folder("gpt2", "lora"), like=open_run("run.pt"))
    assert other.manifest.probe == run.manifest.probe
    moved = Path("moved.jsonl")
    Path("d.jsonl").rename(moved)
    read = open_data("moved.jsonl", columns={"text": "prose"}, images=tmp_path)
    again = rankscope.collect(folder("gpt2"), read, out="run.pt", reuse=True)
    assert again.manifest == run.manifest  # where the data are and how they are opened is no other run


def test_a_run_that_does_not_say_how_its_data_were_opened_is_read_as_before(
    folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = rankscope.collect(folder("gpt2"), texts, n=4, out="run.pt")
    assert run.manifest.probe.keys() == {"name", "fingerprint", "ids"}
    assert "processor" not in run.manifest.checkpoint
    assert as_run(folder("gpt2", "lora"), like=run).manifest.probe == run.manifest.probe
