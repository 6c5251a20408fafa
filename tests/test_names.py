"""Names from files: printed, drawn and used for file names without being obeyed."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from matplotlib.cbook import is_math_text
from matplotlib.text import Text
from torch import nn
from typer.testing import CliRunner

import rankscope
from rankscope import plots
from rankscope.cli import app
from rankscope.names import LONGEST, UNNAMED, file_name, printable
from rankscope.store import Run

EVIL = "../../x$a_{1}$\x1b[31m\u202e\nred"
"""A name that is a path, a formula, a colour, text from right to left and a second line."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder, x = tmp_path_factory.mktemp("runs"), torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    names = (EVIL, "_b$")
    return [
        rankscope.collect(nn.Sequential(nn.Linear(4, 4)), x, name=name, out=folder / f"{i}.pt")
        for i, name in enumerate(names)
    ]


def test_what_a_terminal_would_obey_is_left_out() -> None:
    assert printable(EVIL) == "../../x$a_{1}$[31mred"
    assert printable("a\nb\tc\x9b\ud800", keep="\n") == "a\nbc"
    assert printable("été – 日本 👩‍🔬 b#2") == "été – 日本 👩‍🔬 b#2"


def test_a_file_name_stays_in_its_folder() -> None:
    for text in (
        EVIL,
        "..",
        ".",
        "",
        "/",
        "\\",
        "/etc/passwd",
        ".bashrc",
        "-rf",
        "~/x",
        "a/../..",
        "\x00",
        "C:\\x",
        "é" * 300,
    ):
        name = file_name(text)
        assert Path(name).name == name
        assert name[0] not in ".-~"
        assert len(name) <= LONGEST
    assert file_name("..") == UNNAMED
    assert file_name("lora-ptlora") == "lora-ptlora"


def test_a_name_is_shown_and_drawn_as_it_stands(runs: list[Run]) -> None:
    assert runs[0].name == "../../x$a_{1}$[31mred"
    assert "\x1b" not in runs[0].manifest.name
    found = rankscope.compare(*runs, measures=["cka", "roy-vetterli"], groups=4)
    figure = plots.draw(found)
    texts = [text.get_text() for text in figure.findobj(Text) if "x" in text.get_text() and "a_" in text.get_text()]
    assert len(texts) >= 3
    assert not any(map(is_math_text, texts))
    shown = {text for ax in figure.axes for text in ax.get_legend_handles_labels()[1]}
    assert {r"../../x\$a_{1}\$[31mred", r" _b\$"} <= shown


def test_every_figure_draws_names_as_they_stand(runs: list[Run]) -> None:
    found = [
        rankscope.measure(runs[0], measures=["roy-vetterli"], groups=4),
        rankscope.curve(runs[0], measures=["participation-ratio"]),
        rankscope.compare(*runs, base=runs[0], measures=["cka"], groups=4),
        rankscope.compare_arms({EVIL: [runs[0]], "_b$": [runs[1]]}, measures=["roy-vetterli"], groups=4),
    ]
    figures = [[text.get_text() for text in plots.draw(result).findobj(Text)] for result in found]
    # What matplotlib itself writes at the ticks of a logarithmic axis is a formula
    assert not any(is_math_text(text) for text in chain(*figures) if not text.startswith(r"$\mathdefault"))
    named = [any("a_{1}" in text for text in texts) for texts in figures]
    assert named == [True, False, True, True]  # a curve is of one run, and does not name it


def test_the_command_line_shows_what_a_file_says_without_obeying_it(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"a\x1b[31m{i}", "text": f"\u202ex{i}", "image": "\x9b.png"}) + "\n" for i in range(3)]
    (tmp_path / "data.jsonl").write_text("".join(lines))
    said = CliRunner().invoke(app, ["data", "check", str(tmp_path / "data.jsonl")])
    assert said.exit_code == 3
    assert "image missing" in said.output
    assert not set(said.output) & set("\x1b\x9b\u202e")


def test_a_name_in_a_file_never_becomes_a_path(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "here")
    paths = [str(run.path) for run in runs]
    said = CliRunner().invoke(app, ["compare", *paths, "-m", "cka", "--groups", "4", "--plot", "-q"])
    assert said.exit_code == 0, said.output
    assert "\x1b" not in said.output
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [path.suffix for path in made] == [".pdf", ".png", ".svg"]
    assert {path.parent for path in made} == {Path("deep/here")}
