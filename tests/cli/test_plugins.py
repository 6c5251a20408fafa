"""Plug-ins: the example package is known by its own metadata, used from Python and the command line; broken ones are named."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import rankscope
from rankscope import catalogue, plugins, registry
from rankscope.cli import completion
from rankscope.errors import BrokenPlugin, DataError, UnknownName, UsageError
from rankscope.models.families import FAMILIES, family_of
from rankscope.models.register import register
from rankscope.models.stacks import taps

Call = Callable[..., object]
EXAMPLE = Path(__file__).resolve().parent.parent / "example_plugin"
WRONG = {
    "measures": {
        "gone": "broken_example:gone",
        "ends": "broken_ends:anything",
        "other-name": "broken_example:TAIL_SHARE",
        "number": "broken_example:NUMBER",
        "rankme": "broken_example:TAIL_SHARE",
        "erank": "broken_example:TAIL_SHARE",
        "hill-3": "broken_example:TAIL_SHARE",
        "Loud_Name": "broken_example:TAIL_SHARE",
        "both": "broken_example:TAIL_SHARE",
        "fails": "broken_example:FAILS",
    },
    "comparisons": {"both": "broken_example:TAIL_SHARE", "one-run": "broken_example:TAIL_SHARE"},
    "families": {"gpt2": "broken_example:NUMBER", "broken-type": "broken_example:NUMBER"},
    "readers": {"txt": "broken_example:NUMBER", "num": "broken_example:NUMBER", "bad": "broken_example:read_bad"},
}
BROKEN = """
from dataclasses import replace
from rankscope_example import TAIL_SHARE
NUMBER = 7
def fails(s):
    return {}["nothing"]
FAILS = replace(TAIL_SHARE, name="fails", function=fails)
def read_bad(path, intake):
    return ["no example"]
"""


def install(where: Path, name: str, points: dict[str, dict[str, str]]) -> None:
    """The metadata of a package as an installer writes them, from its entry points by group."""
    folder = where / f"{name.replace('-', '_')}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    sections = [[f"[{group}]", *(f"{key} = {value}" for key, value in some.items())] for group, some in points.items()]
    (folder / "entry_points.txt").write_text("\n".join(line for section in sections for line in section) + "\n")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example package, installed for one test; returns where further packages can be put."""

    def forget() -> None:
        for cached in (plugins.entries, plugins.load, registry._added, plugins._warn):
            cached.cache_clear()

    site = tmp_path / "site-packages"
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["entry-points"])
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield site
    forget()
    for name in ("rankscope_example", "broken_example", "broken_ends"):
        sys.modules.pop(name, None)


@pytest.fixture
def broken(example: Path) -> Path:
    """Another package beside it, of which nothing works."""
    install(example, "broken-example", {f"rankscope.{group}": some for group, some in WRONG.items()})
    (example / "broken_example.py").write_text(BROKEN)
    (example / "broken_ends.py").write_text("raise SystemExit(3)\n")
    return example


def test_a_measure_and_a_comparison_are_used_like_any_other(
    example: Path, runs: dict[str, rankscope.Run], rankscope_: Call
) -> None:
    base, tuned = runs["none"], runs["lora"]
    assert "rankscope_example" not in sys.modules
    catalogue.check_measure("tail-share")
    assert {"tail-share", "top-share", "mean-angle"} <= set(completion.measures(""))
    with pytest.raises(UsageError, match="mean-angle relates two runs"):
        catalogue.check_measure("mean-angle", relations=False)
    with pytest.raises(UnknownName, match=r"'tail-shar' \(nearest: tail-share"):
        catalogue.check_measure("tail-shar")
    assert "rankscope_example" not in sys.modules  # all that without importing it
    sites = "decoder.1"
    for record in rankscope.measure(base, ["tail-share", "Top_Share"], sites=sites).records:
        x = base.features(sites).double()
        s = torch.linalg.svdvals(x - x.mean(0)) ** 2
        share = float(s[1:].sum() / s.sum())
        assert record.value == pytest.approx(share if record.measure == "tail-share" else 1 - share, rel=1e-9)
        assert 0 <= record.low < record.value < record.high <= 1
    a, b = (run.features(sites).double().mean(0) for run in (base, tuned))
    (found,) = rankscope.compare(base, tuned, measures=["mean-angle"], sites=sites).records
    assert found.estimate.value == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), rel=1e-9)
    typed = rankscope_("compare", base.path, tuned.path, "-m", "mean-angle", "--layers", sites, "--json")
    assert json.loads(typed.out)["records"][0] == json.loads(json.dumps(found.flat()))
    assert "1 − σ₁² / Σ σᵢ²" in rankscope_("definitions", "tail-share").out
    everything = rankscope_("definitions")
    assert "3 measures of plug-ins" in everything.out
    assert everything.err == ""


def test_a_reader_and_a_family_are_used_like_any_other(example: Path, tmp_path: Path, rankscope_: Call) -> None:
    poem = tmp_path / "poem.verse"
    poem.write_text("three of\nseven\n\na photo\n")
    assert [e.text for e in rankscope.open_data(poem)] == ["three of seven", "a photo"]
    assert "2 examples" in rankscope_("data", "check", poem).out
    poem.write_text("three\n\n \n\ntwo")
    with pytest.raises(DataError, match="1 × verse without words"):
        rankscope.open_data(poem)
    (tmp_path / "a.unknown").touch()
    with pytest.raises(DataError, match=r"'\.unknown'; .*\.verse"):
        rankscope.open_data(tmp_path / "a.unknown")
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9, n_positions=4))
    before = {site.stack for site in taps(model)}
    model.config.model_type = model.transformer.config.model_type = "example-gpt"
    assert ({site.stack for site in taps(model)}, before) == ({"poet"}, {"decoder"})


def test_a_broken_plugin_is_named_and_the_rest_works(
    broken: Path,
    runs: dict[str, rankscope.Run],
    rankscope_: Call,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whose = "of broken-example 1.0"
    for name, fault in {
        "gone": "cannot be loaded: AttributeError",
        "ends": "cannot be loaded: SystemExit: 3",
        "other-name": "names itself 'tail-share'",
        "number": "is no Definition but int",
        "one-run": "is no Comparison but Definition",
    }.items():
        with pytest.raises(BrokenPlugin, match=f"the plug-in {name} {whose} .* {fault}.*uninstall it"):
            registry.known(name)
    for name in ("Loud_Name", "both"):  # refused before anything is imported
        with pytest.raises(UnknownName, match=f"no measure {name!r}"):
            catalogue.check_measure(name)
    assert registry.known("rankme") is registry.DEFINITIONS["rankme"]
    assert registry.known("erank").name == "roy-vetterli"
    assert registry.known("hill-3").name == "hill-3"
    failing = rankscope_("measure", runs["none"].path, "-m", "fails")
    assert failing.code == BrokenPlugin.exit_code == 6
    assert f"error: the plug-in fails {whose}" in failing.err
    assert "failed: KeyError: 'nothing'" in failing.err
    listed = rankscope_("definitions")
    unnamed = [
        n for group in ("measures", "comparisons") for n in WRONG[group] if f"plug-in {n} {whose}" not in listed.err
    ]
    assert unnamed == ["fails"]  # which is seen to fail only when it is used
    assert "4 measures of plug-ins" in listed.out
    assert rankscope_("measure", runs["none"].path, "-m", "tail-share", "--layers", "last").code == 0
    # Of families and readers
    for ending, fault in {"num": "is no function but int", "bad": "returned str for an Example"}.items():
        path = tmp_path / f"data.{ending}"
        path.write_text("x\n")
        with pytest.raises(BrokenPlugin, match=f"the plug-in {ending} {whose} .* {fault}"):
            rankscope.open_data(path)
    (tmp_path / "data.txt").write_text("three\nseven\n")
    assert len(rankscope.open_data(tmp_path / "data.txt").examples) == 2
    model = torch.nn.Identity()
    model.config = GPT2Config()
    assert family_of(model) is FAMILIES["gpt2"]
    register()
    warned = [record.getMessage() for record in caplog.records]
    for told in ("broken-type", "txt", "gpt2"):
        assert sum(text.startswith(f"the plug-in {told} {whose}") for text in warned) == 1
    model.config.model_type = "broken-type"
    with pytest.raises(BrokenPlugin, match=f"broken-type {whose} .* is no Family but int"):
        family_of(model)


def test_a_name_that_two_packages_offer_is_neithers(example: Path) -> None:
    install(example, "another", {"rankscope.measures": {"tail-share": "rankscope_example:TAIL_SHARE"}})
    with pytest.raises(
        BrokenPlugin, match=r"tail-share of another 1\.0 .* tail-share of rankscope-example .* have one name"
    ):
        registry.known("tail-share")
    assert registry.known("top-share").name == "top-share"
