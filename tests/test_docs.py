"""The documents keep their promises: every block of code runs, links lead somewhere, and the generated pages leave nothing out."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import documents
import matplotlib.pyplot as plt
import pytest
import typer
from safetensors.torch import load_file, save_file

import rankscope
from rankscope import catalogue, errors
from rankscope.cli import app
from rankscope.registry import COMPARISONS, DEFINITIONS, WEIGHT_DEFINITIONS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if not {"_build", "generated"} & {part.name for part in page.parents} and documents.blocks(page)
]
MOST_CHECKED_ONLY = {"index.md": 1, "many-machines.md": 4, "vision-language-rows.md": 1, "paper-systems.md": 1}
"""Pages whose blocks need what a test has not, and how many may."""


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(folder: Callable[..., Path], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which a reader is taken to be: checkpoints called as the documents call them, texts, and nothing else."""
    shutil.copytree(folder("gpt2"), tmp_path / "pretrained")
    (tmp_path / "texts.jsonl").symlink_to(texts)
    for name in ("lora", "prefix"):
        adapter(folder("gpt2", name), tmp_path / name)
    for number, step in enumerate((100, 200), start=1):
        adapter(folder("gpt2", "lora"), tmp_path / "trainer" / f"checkpoint-{step}", share=number / 4)
    (tmp_path / "benchmarks").symlink_to(DOCS.parent / "benchmarks")  # what-it-costs.md computes from what was measured
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plt.close("all")


def adapter(made: Path, out: Path, share: float = 1.0) -> None:
    """An adapter of the base in the same folder or the one above; with only a share of a LoRA's change, as earlier in training."""
    shutil.copytree(made, out)
    config = json.loads((out / "adapter_config.json").read_text())
    home = next(parent for parent in out.parents if (parent / "pretrained").exists())
    (out / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(home / "pretrained")}))
    file = out / "adapter_model.safetensors"
    save_file(
        {name: w * share if "lora_B" in name else w for name, w in load_file(file).items()},
        file,
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, here: Path, rankscope_: Callable[..., Any]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    found = documents.blocks(page)
    for block in found:
        documents.run(block, rankscope_, names, page.name)
    assert sum(bool(block.not_run) for block in found) <= MOST_CHECKED_ONLY.get(page.name, 0)


def test_from_the_readme_alone_there_is_a_report_with_the_answer(here: Path, rankscope_: Callable[..., Any]) -> None:
    text = (DOCS.parent / "README.md").read_text().partition("## Three examples")[2]
    (here / "own.md").write_text(text)
    own = documents.blocks(here / "own.md")[0]
    for words in documents.typed(own.text):
        done = rankscope_(*words[1:])
        assert done.code == 0, (words, done.err)
        if words[1] == "compare":
            verdict = " ".join(done.out.partition("\nVerdict")[2].split())
    leads = re.findall('<p class="headline">(.*?)</p>', html.unescape((here / "report.html").read_text()))
    assert len(leads) == 1
    assert re.search("reshaped|turned|lost|drifted|collapsed", leads[0])
    assert leads[0] in verdict


def test_the_arithmetic_of_costs_is_asserted() -> None:
    (block,) = documents.blocks(DOCS / "explanation" / "what-it-costs.md")
    assert block.text.count("assert") > 10


def test_a_block_that_fails_is_noticed(tmp_path: Path, rankscope_: Callable[..., Any]) -> None:
    page = tmp_path / "page.md"
    page.write_text("```{code-cell}\nassert 1 == 2\n```\n\n```sh\nrankscope verify nothing.pt\n```\n")
    cell, command = documents.blocks(page)
    with pytest.raises(AssertionError):
        documents.run(cell, rankscope_, {}, "page.md")
    with pytest.raises(AssertionError, match=r"nothing\.pt"):
        documents.run(command, rankscope_, {}, "page.md")
    with pytest.raises(AssertionError, match="--nothing"):
        documents.check_options(["rankscope", "measure", "lora.pt", "--nothing"])


def test_links_lead_to_what_is_there() -> None:
    found = [
        (page, link)
        for page in DOCS.rglob("*.md")
        if "_build" not in page.parts and "generated" not in page.parts
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text())
    ]
    assert len(found) >= 5
    gone = [(page.name, link) for page, link in found if "generated/" not in link and not (page.parent / link).exists()]
    assert gone == []


def test_the_generated_pages_leave_nothing_out(generate: ModuleType, tmp_path: Path) -> None:
    pages = {path.stem: path.read_text() for path in generate.write(tmp_path)}
    for known in (*DEFINITIONS.values(), *COMPARISONS.values(), *WEIGHT_DEFINITIONS.values()):
        assert f"| `{known.name}` |" in pages["definitions"], known.name
        assert generate.plain(known.citation).split("|")[0] in pages["definitions"], known.name
    assert all(f"`{name}`" in pages["definitions"] for name in catalogue.ALIASES)
    assert all(f"rankscope.{name}" in pages["api"] for name in rankscope.__all__)
    for name, command in generate.commands(typer.main.get_command(app)):
        section = pages["command-line"].partition(f"## rankscope {name}\n")[2].partition("\n## ")[0]
        shown = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}
        assert {flag for flag in shown if flag not in section} == set(), name
    raised = [
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, rankscope.RankscopeError)
    ]
    assert all(f"| {one.exit_code} | `{one.__name__}` |" in pages["exit-codes"] for one in raised)


def test_the_pages_of_a_text_keep_its_signs(generate: ModuleType) -> None:
    assert generate.plain("a_b [c] ``d_e`` <f>") == r"a\_b \[c\] `d_e` \<f\>"
