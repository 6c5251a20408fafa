"""One rule for every output: what exists is kept unless --overwrite is given, and only a figure replaces an earlier one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from many_commands import options, plain

import rankscope
from rankscope.demo import run_demo
from rankscope.errors import OutputExists
from rankscope.store import export_run, import_features, open_run

Call = Callable[..., Any]

INPUTS = {
    "again", "answers", "base", "beside", "checkpoint", "checkpoints", "config", "ids", "images", "model", "predictions", "processor", "regions",
    "run", "runs", "source", "spice_home",
}  # fmt: skip
"""Options that are paths, and are read."""
KEPT: dict[str, tuple[str, str]] = {
    "demo out": ("demo --out {out}", "folder"),
    "collect out": ("collect {base} --data {texts} --layers final --n 4 --out {out}", "file"),
    "import out": ("import {tensors} --out {out}", "file"),
    "report out": ("report {run} --base {run} -m cka --layers decoder.0 --groups 2 --out {out}", "file"),
    "export out": ("export {run} --out {out}", "folder"),
    "train out": ("train {base} --method lora --data {texts} --out {out}", "folder"),
    "generate out": ("generate {base} --data {texts} --max-new-tokens 2 --out {out}", "file"),
    "score submission": ("score {said} --data {texts} --kind captions --submission {out}", "file"),
    "weights spectra": ("weights {lora} --draws 0 --spectra {out}", "file"),
}
"""For each output, a command that makes it, and what it is."""
FIGURES: dict[str, str] = {
    "measure plot": "measure {run} --measures rankme --layers decoder.0 --plot {out}",
    "curve plot": "curve {run} --measures rankme --layers decoder.0 --plot {out}",
    "weights plot": "weights {lora} --draws 0 --plot {out}",
    "track plot": "track {step} --base {base} --data {texts} -m drift --layers decoder.0 --groups 2 --out {out}-runs --plot {out}",
    "between plot": "between {run} --from decoder.0 --to decoder.0:last -m cka --groups 2 --plot {out}",
    "compare plot": "compare {run} {run} --measures cka --layers decoder.0 --groups 2 --plot {out}",
}
"""For each figure, a command that draws it."""


def test_every_path_of_every_command_is_an_input_or_an_output() -> None:
    paths = {f"{o.command} {o.name}" for o in options() if plain(o.kind) is Path}
    outputs = {name for name in paths if name.split()[-1] not in INPUTS}
    # the folder of a training's runs holds them for the next time, each kept as collect keeps a run
    # and a card is written between marks into a page that may be there
    assert outputs == {*KEPT, *FIGURES, "track out", "compare report", "card out"}
    assert len(outputs) == 18


def test_every_command_that_keeps_an_output_can_overwrite_it() -> None:
    import typer

    from rankscope.cli import app

    group: Any = typer.main.get_command(app)
    for name in KEPT:
        flags = [flag for one in group.commands[name.split()[0]].params for flag in one.opts]
        assert "--overwrite" in flags, name


@pytest.fixture
def there(folder: Call, texts: Path, tmp_path: Path) -> dict[str, Path]:
    """What the commands read."""
    torch.save({"decoder.0": torch.randn(40, 3)}, tmp_path / "x.pt")
    import_features(tmp_path / "x.pt", tmp_path / "run.pt")
    ids = [json.loads(line)["id"] for line in texts.read_text().splitlines()]
    numbered = tmp_path / "numbered.jsonl"
    numbered.write_text("".join(f'{{"id": "{i}", "text": "a {i}"}}\n' for i in range(len(ids))))
    said = tmp_path / "said.jsonl"
    said.write_text("".join(f'{{"id": "{i}", "prediction": "b"}}\n' for i in range(len(ids))))
    here = {"texts": numbered, "said": said, "tensors": tmp_path / "x.pt", "run": tmp_path / "run.pt"}
    shutil.copytree(folder("gpt2", "lora"), tmp_path / "steps" / "checkpoint-5")
    here["step"] = tmp_path / "steps" / "checkpoint-5"
    return here | {"base": folder("gpt2"), "lora": folder("gpt2", "lora")}


def typed(command: str, out: Path, there: dict[str, Path]) -> list[str]:
    return [part.format(out=out, **there) for part in command.split()]


@pytest.mark.parametrize("name", KEPT)
def test_what_is_there_is_kept(rankscope_: Call, there: dict[str, Path], tmp_path: Path, name: str) -> None:
    command, kind = KEPT[name]
    out = tmp_path / "out" / "made.pt"
    mine = out / "compare.csv" if kind == "folder" else out
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = rankscope_(*typed(command, out, there))
    assert done.code == OutputExists.exit_code, done
    assert "kept" in done.err
    assert [path for path in out.parent.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


OVERWRITTEN = [name for name, (command, kind) in KEPT.items() if kind == "file"]


@pytest.mark.parametrize("name", OVERWRITTEN)
def test_what_is_there_is_replaced_when_that_is_asked_for(
    rankscope_: Call, there: dict[str, Path], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out" / "made.pt"
    out.parent.mkdir()
    out.write_text("mine")
    done = rankscope_(*typed(KEPT[name][0], out, there), "--overwrite")
    assert done.code == 0, done
    assert out.read_bytes() != b"mine"
    assert [*out.parent.iterdir()] == [out]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_replaces_an_earlier_one(rankscope_: Call, there: dict[str, Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "figure.svg").write_text("old")
    done = rankscope_(*typed(FIGURES[name], tmp_path / "figure", there))
    assert done.code == 0, done
    assert "<svg" in (tmp_path / "figure.svg").read_text()
    told = " ".join(rankscope_(name.split()[0], "--help").out.replace("│", " ").split())
    assert "An earlier figure is replaced." in told


def test_compare_writes_a_report_in_the_place_of_an_earlier_one(
    rankscope_: Call, there: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    command = typed("compare {run} {run} -m overlap,pr --layers decoder.0 --groups 2 --report", here, there)
    for made, more in (("x#1-x#2.html", []), ("x#1-x#2.html", ["--full"])):
        done = rankscope_(*command, *more)
        assert (done.code, done.err.strip().splitlines()[-1]) == (0, f"report: {made}"), done
        assert [path.name for path in here.iterdir()] == [made]
        (result,) = rankscope.open_report(made)
        assert result.measures == ("overlap", "participation-ratio")
        assert "Where this is from" in Path(made).read_text()


@pytest.mark.parametrize(
    ("plot", "made"),
    [
        ("--plot {here}/fig.svg", ["fig.svg"]),
        ("--plot {here}/new/v1.2", ["v1.2.pdf", "v1.2.png", "v1.2.svg"]),
        ("--plot {here}", ["run-measures.pdf", "run-measures.png", "run-measures.svg"]),
        ("--plot", ["run-measures.pdf", "run-measures.png", "run-measures.svg"]),
        ("--plot -q", ["run-measures.pdf", "run-measures.png", "run-measures.svg"]),
    ],
)
def test_a_suffix_is_the_kind_of_a_figure_and_a_folder_its_place(
    rankscope_: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plot: str, made: list[str]
) -> None:
    torch.save({"decoder.0": torch.randn(40, 3)}, tmp_path / "x.pt")
    import_features(tmp_path / "x.pt", tmp_path / "run.pt", name="run")
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    done = rankscope_("measure", tmp_path / "run.pt", "-m", "pr", *plot.format(here=here).split())
    assert done.code == 0, done
    assert sorted(path.name for path in here.rglob("*") if path.is_file()) == made
    assert ("figure: " in done.err) == ("-q" not in plot)


@pytest.mark.parametrize(("first", "then"), [("npy", "npy"), ("npy", "parquet"), ("parquet", "hf"), ("hf", "npy")])
def test_an_export_replaces_an_export_and_nothing_else(
    there: dict[str, Path], tmp_path: Path, first: str, then: str
) -> None:
    run, out, fresh = open_run(there["run"]), tmp_path / "exp", tmp_path / "fresh"
    export_run(run, out, to=first)
    with pytest.raises(OutputExists, match=r"exp exists and is kept unless --overwrite is given"):
        export_run(run, out, to=then)
    export_run(run, out, to=then, overwrite=True)
    export_run(run, fresh, to=then)
    made, expected = (sorted(p.relative_to(f) for p in f.rglob("*")) for f in (out, fresh))
    assert made == expected
    assert not [*tmp_path.glob("tmp-*")]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match=r"exp holds 'notes.txt', which is no part of an export; it is kept"):
        export_run(run, out, to=then, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("[]")
    (tmp_path / "file").write_text("mine")
    for name, held in (("other", "run.json"), ("file", "file")):
        with pytest.raises(OutputExists, match=f"{name} holds '{held}', which is no part of an export"):
            export_run(run, tmp_path / name, overwrite=True)


def test_a_demo_knows_its_own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*what: object, **how: object) -> None:
        raise InterruptedError

    monkeypatch.setattr("rankscope.demo.train", begun)
    (tmp_path / "compare.csv").write_text("a")
    for record in (None, "[]", "{", '{"records": []}'):
        if record is not None:
            (tmp_path / "compare.json").write_text(record)
        with pytest.raises(OutputExists, match=r"compare\.csv exists and is kept"):
            run_demo(tmp_path)
    with pytest.raises(InterruptedError):
        run_demo(tmp_path, overwrite=True)
    (tmp_path / "compare.json").write_text('{"versions": {}, "held_out_loss": {}, "records": []}')
    with pytest.raises(InterruptedError):
        run_demo(tmp_path)
