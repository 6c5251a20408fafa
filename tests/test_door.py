"""The door: what the package offers is what a type checker sees, and no public function hides its options."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rankscope
import rankscope.tuning

ROOT = Path(__file__).resolve().parent.parent
ANALYSES = ("measure", "profile", "spectra", "compare", "compare_arms", "between", "examples", "curve", "weigh")

USER = """
import torch
import rankscope, rankscope.tuning

reveal_type(rankscope.collect("lora/", out="a.pt"))
reveal_type(rankscope.load("a.pt"))
reveal_type(rankscope.compare("a.pt", "b.pt"))
reveal_type(rankscope.load_model("lora/"))
reveal_type(rankscope.Site("decoder", "3").stack)
reveal_type(rankscope.__version__)
rankscope.collect(1, 2, nonsense=3)
rankscope.collect("lora/", nonfinite="drop")
rankscope.nothing
rankscope.train("b", data="d", out="o", nonsense=3)
rankscope.train("b", data="d", out="o", method="lora", lora_rank="four")
rankscope.train("b", data="d", out="o", method="pt-lora", steps=[200, 100], precision="bf16", prefix_init="tokens")
reveal_type(rankscope.train("b", data="d", out="o"))
rankscope.tuning.preview("b", rankscope.tuning.recipe("lora"), data="d", nonsense=3)
"""
CONFIG = """
[mypy]
ignore_missing_imports = true
no_implicit_reexport = true
[mypy-rankscope.*]
follow_imports = silent
[mypy-torch.*,numpy.*,pandas.*,transformers.*,peft.*,matplotlib.*,PIL.*,scipy.*,safetensors.*]
follow_imports = skip
"""


@pytest.mark.parametrize("package", ["rankscope", "rankscope.tuning"])
def test_a_type_checker_and_the_interpreter_see_the_same_names(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    typed = {
        (node.module, alias.name, alias.asname)
        for branch in tree.body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {(where, name, name) for where, names in module._PUBLIC.items() for name in names}
    assert typed == lazy
    assert len(lazy) == len(module.__all__) >= 13
    for name in module.__all__:
        getattr(module, name)


def test_dir_shows_the_public_names_alone() -> None:
    assert dir(rankscope) == sorted([*rankscope.__all__, "__version__"])
    assert not {"Any", "TYPE_CHECKING", "annotations", "install", "errors"} & {*dir(rankscope)}


@pytest.mark.parametrize("package", [rankscope, rankscope.tuning])
def test_no_public_function_or_class_hides_its_options(package: ModuleType) -> None:
    offered = {name: getattr(package, name) for name in package.__all__}
    hiding = {
        name
        for name, one in offered.items()
        # An exception's signature is Python's own.
        if (inspect.isfunction(one) or (inspect.isclass(one) and not issubclass(one, Exception)))
        and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(one).parameters.values())
    }
    assert hiding == set()


def test_no_function_that_others_call_hides_its_options() -> None:
    """Of every module, not only of what the package offers by name."""
    seen, hiding = 0, set()
    for info in pkgutil.walk_packages(rankscope.__path__, "rankscope."):
        if info.name.endswith("__main__"):
            continue
        for name, one in vars(importlib.import_module(info.name)).items():
            if inspect.isfunction(one) and one.__module__ == info.name and not name.startswith("_"):
                seen += 1
                # The style of what draws is matplotlib's own settings, of which it has the list.
                drawing = {"style"} if info.name.startswith("rankscope.plots.") else set()
                kinds = inspect.signature(one).parameters.values()
                if any(p.kind is p.VAR_KEYWORD and p.name not in drawing for p in kinds):
                    hiding.add(f"{info.name}.{name}")
    # transformers calls the first two, with the arguments of whatever attention they stand for; the third is those arguments
    assert hiding == {
        "rankscope.models.tunings.prefix_join.attention_with_rows",
        "rankscope.models.ported.ofa.attention.eager_attention_forward",
        "rankscope.models.ported.port.arguments",
    }
    assert seen > 800


def test_the_docstring_of_a_public_function_explains_every_option() -> None:
    seen = 0
    for name in (*ANALYSES, "collect", "load", "load_model", "score", "generate", "train"):
        function = getattr(rankscope, name)
        for option in inspect.signature(function).parameters:
            assert f"        {option}: " in str(function.__doc__), f"{name}({option}=…)"
            seen += 1
    assert seen >= 100


def test_a_type_checker_sees_the_true_types_and_refuses_nonsense(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"MYPYPATH": str(ROOT)})
    told: dict[int, str] = {}
    for line in done.stdout.splitlines()[:-1]:
        _, number, text = line.split(":", 2)
        told[int(number)] = told.get(int(number), "") + text
    for number, kind in enumerate(("store.run.Run", "store.run.Run", "results.runs.Contrast"), start=5):
        assert told[number] == f' note: Revealed type is "rankscope.{kind}"'
    assert "Any" not in told[9] + told[10]
    assert 'Unexpected keyword argument "nonsense" for "collect"' in told[11]
    assert '"nonfinite" to "collect" has incompatible type' in told[12]
    assert 'Module has no attribute "nothing"' in told[13]
    assert 'Unexpected keyword argument "nonsense" for "train"' in told[14]
    assert '"lora_rank" to "train" has incompatible type' in told[15]
    assert 16 not in told
    assert told[17] == ' note: Revealed type is "rankscope.tuning.training.TrainResult"'
    assert 'Unexpected keyword argument "nonsense" for "preview"' in told[18]
