"""Every option of every command whose value is a choice, a number or a grammar refuses a wrong one before torch is imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_origin

import pytest
import torch
from many_commands import Option, ended, options, plain

from rankscope import catalogue, devices, registry
from rankscope.cli.selftest import PLANTED
from rankscope.errors import UnknownName, UsageError
from rankscope.selftest.answers import DRAWS, EVERY, SCENARIOS
from rankscope.sites import Site, check_selection, select
from rankscope.store import import_features
from rankscope.tuning.kinds import FUNCTIONS
from rankscope.tuning.options import options as recipe_options

NEEDS = {
    "demo": "",
    "inspect": "base",
    "doctor": "base",
    "track": "base",
    "collect": "base --out run",
    "measure": "run.pt",
    "compare": "run.pt run.safetensors",
    "between": "run.pt --from decoder.0 --to decoder",
    "report": "run.pt --base run.safetensors",
    "show": "report.html",
    "card": "run.pt --base run.safetensors",
    "curve": "run.pt",
    "weights": "base",
    "verify": "run.pt",
    "import": "run.npy",
    "export": "run.pt --out o",
    "train": "base --method pt-adapter",
    "generate": "base",
    "score": "said.jsonl --data answers.jsonl",
    "definitions": "",
    "selftest": "",
    "data check": "answers.jsonl",
}
"""What each command needs besides."""
SPEC = ["scenes:songs", "scenes:captions/none", "sentences?all"]
BAD: dict[str, list[str]] = {
    "data": SPEC,
    "sites": ["decoder/3", "decoder.5-3", "0:3:0", "final,", "decoder 3"],
    "source": ["decoder/3", "decoder.0:words", ":text"],
    "target": ["decoder.5-3:text", "decoder:texts"],
    "measures": ["nosuch", "rankme,", "hill-x", "usage-3..1", "weight-alpha", "absent.py:rank"],
    "device": ["gpu", "cuda:x", "cuda:"],
    "device_map": ["evenly", "cuda:x"],
    "rows": ["some"],
    "nonfinite": ["drop"],
    "shard": ["4/4", "half"],
    "columns": ["text", "prose=text"],
    "arm": ["run.pt", "a=absent*.pt"],
    "site": ["h3", "h3=decoder", "h3=decoder/.3"],
    "method": ["lorry", "lora,lora"],
    "stages": ["scst", "lora,lorry"],
    "schedule": ["sine", "linear,sine"],
    "precision": ["half"],
    "prefix_init": ["ones"],
    "adapter_function": ["gleu"],
    "kind": ["songs"],
    "rule": ["strict"],
    "tokenizer": ["none"],
    "metrics": ["blau", "CIDEr,blau"],
    "java_memory": ["lots", "4 G"],
    "name definitions": ["nosuch", "cka,nosuch"],
    "only": ["nosuch", "identical,nosuch"],
    "path": SPEC,
}
"""Values that no machine, model or file could make right, by option; ``NAME COMMAND`` where a name means two things."""
FREE = {
    "name": "any text",
    "columns import": "what the file has",
    "base_model": "a folder, or a name in the local cache",
    "modules": "what the model has",
    **{name: "what the model has" for name, option in recipe_options().items() if option.type == "names"},
}
"""Texts that only a model or a file can refuse, or nothing."""
RELATION = ["cka", "usage-2", "rankme,drift-1"]
"""Measures that only compare takes."""


def bad_values(option: Option) -> list[str]:
    """Wrong values of an option; none if nothing can be known of them here."""
    kind, name = plain(option.kind), f"{option.name} {option.command}"
    if get_origin(kind) is Literal:
        return ["none"]
    if kind in (int, float):
        return ["many"]
    if kind is Path or name in FREE:
        return []
    if option.name in recipe_options() and recipe_options()[option.name].type in ("int", "float"):
        return ["many"]
    found = BAD.get(name, BAD.get(option.name, [])) + RELATION * (
        option.name == "measures" and option.command in ("measure", "curve")
    )
    assert found or option.name in FREE, f"{option.command} {option.name}: say what is wrong, or that nothing is"
    return found


LINES = [
    (option, [*option.command.split(), *([] if not option.flag and option.name != "checkpoint" else NEEDS[option.command].split()),
     *([option.flag] if option.flag else []), value])
    for option in options()
    for value in bad_values(option)
]  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, list[str], str]]:
    here = tmp_path_factory.mktemp("here")
    (here / "base").mkdir()
    (here / "base" / "config.json").write_text('{"model_type": "gpt2"}')
    (here / "base" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (here / "answers.jsonl").write_text('{"id": "a", "text": "how many?", "answers": ["two"]}\n')
    (here / "said.jsonl").write_text('{"id": "a", "prediction": "two"}\n')
    (here / "run.npy").touch()
    torch.save({"decoder.0": torch.eye(3), "decoder.1": torch.eye(3)}, here / "x.pt")
    for name in ("run.pt", "run.safetensors", "run"):
        import_features(here / "x.pt", here / name)
    return ended([[*line] for _, line in LINES] + UNKNOWN_SITES, here)


UNKNOWN_SITES = [
    [*command.split(), "--layers", "decoder.0,decoder.2"]
    for command in (
        "measure run.pt",
        "measure run",
        "curve run.safetensors",
        "compare run run.pt --base run.safetensors",
    )
]


def test_every_such_option_is_swept() -> None:
    assert {option.command for option, _ in LINES} == set(NEEDS) - {"verify", "show"}  # which take a path alone
    assert len(LINES) >= 140
    assert {name.split()[0] for name in BAD} <= {option.name for option, _ in LINES}


@pytest.mark.parametrize("at", range(len(LINES)), ids=[" ".join(line) for _, line in LINES])
def test_a_wrong_value_is_refused_before_torch_is_imported(said: list[tuple[int, list[str], str]], at: int) -> None:
    code, imported, told = said[at]
    assert (code in (2, 3), imported) == (True, []), told
    assert re.search("error: |Invalid value", told), told


def test_sites_that_a_stored_run_lacks_are_refused_before_torch_is_imported(said: list[Any]) -> None:
    for code, imported, told in said[len(LINES) :]:
        assert (code, imported) == (2, [])
        assert "there is no site 'decoder.2'; there are decoder (0, 1)" in told


def test_names_known_without_torch_are_those_of_the_library() -> None:
    records = (
        ("measures", registry.DEFINITIONS),
        ("comparisons", registry.COMPARISONS),
        ("weights", registry.WEIGHT_DEFINITIONS),
    )
    for package, found in records:
        assert list(catalogue.names(package)) == list(found)
    assert set(catalogue.ORDERS) == set(registry._ORDERS)
    assert set(catalogue.DIRECTIONS) == set(registry._DIRECTIONS)
    assert (*SCENARIOS, EVERY, DRAWS) == PLANTED
    from transformers.activations import ACT2FN

    assert sorted(FUNCTIONS) == sorted(ACT2FN)
    with pytest.raises(RuntimeError) as refusal:
        torch.device("none")
    listed = re.findall("[a-z]+(?=,| device type)", str(refusal.value))
    assert listed == list(devices.TYPES)


def test_an_unknown_measure_names_the_three_nearest() -> None:
    for name, nearest in (("stablerank", "stable-rank, "), ("zzz", "")):
        with pytest.raises(
            UnknownName, match=rf"'{name}' \(nearest: {nearest}[a-z0-9-]+(, [a-z0-9-]+)+\); 'rankscope definitions'"
        ) as said:
            catalogue.check_measure(name)
        assert str(said.value).partition(")")[0].count(",") == 2


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps", "meta"])
def test_a_device_that_some_machine_has_passes(device: str) -> None:
    devices.check_device(device)
    devices.check_device_map(device)


def test_a_device_of_another_package_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no device 'npu' for torch"):
        devices.check_device("npu")
    monkeypatch.setattr(devices, "entry_points", lambda group: ["torch_npu"])
    devices.check_device("npu:0")
    with pytest.raises(UsageError, match="there is no device 'npu:x'"):
        devices.check_device("npu:x")


@pytest.mark.parametrize(
    "spec", ["all", "decoder", "decoder.3, final", "decoder.0-1", "0:2", "decoder.:1", "vision.*", "-1", "last"]
)
def test_what_names_sites_passes(spec: str) -> None:
    check_selection(spec)
    there = [Site(stack, point) for stack in ("decoder", "vision") for point in ("0", "1", "2", "3", "final")]
    assert select(spec, there)
