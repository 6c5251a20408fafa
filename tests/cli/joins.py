"""Every option of every command with a value to type for it, and where it must arrive in the library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rankscope.registry import COMPARISONS, DEFINITIONS
from rankscope.scores import Java
from rankscope.tuning.options import options as recipe_options
from rankscope.tuning.recipes import recipe as recipe_of_method

Call = Callable[..., Any]


class Case(NamedTuple):
    """An option, and what it must change."""

    typed: tuple[str, ...]
    """What is typed."""
    value: Any
    """The value that must arrive."""
    keyword: str = ""
    """The argument of the function that it must arrive at; the option's own name if empty."""
    target: str = ""
    """The function that is called with it; that of the command if empty."""
    alone: bool = False
    """Whether it takes the place of what the command needs anyway."""


class Command(NamedTuple):
    """A command, and the function behind it."""

    target: str
    """The function of the library, by its dotted name."""
    needs: tuple[str, ...]
    """What must be typed for the command to run at all."""
    cases: dict[str, Case]
    """A case for each of its options."""
    before: tuple[str, ...] = ()
    """What is called before the function, replaced so that nothing has to be on disk."""


def case(*typed: str, value: Any, keyword: str = "", target: str = "", alone: bool = False) -> Case:
    return Case(typed, value, keyword, target, alone)


def switch(flag: str, keyword: str = "", target: str = "") -> Case:
    return Case((flag,), True, keyword, target)


OPEN, READ = "rankscope.data.open.open_data", "rankscope.checkpoint.Checkpoint.read"
UNTRAINED = "rankscope.tuning.untrained.untrained_prefix"
CARD = "rankscope.report.card.card"
PROGRESS, RECORDS, FIGURE = "rankscope.cli.show.progress", "rankscope.cli.show.records", "rankscope.cli.show.figure"
QUIET = {"quiet": switch("-q", target=PROGRESS)}
PRINTING = {**QUIET, "as_json": switch("--json", target=RECORDS), "as_csv": switch("--csv", target=RECORDS)}
SITES = case("--layers", "0-2", value="0-2")
ANALYSED = {
    "sites": SITES,
    "variant": case("--variant", "distinct", value="distinct"),
    "allow_duplicates": switch("--allow-duplicates"),
    "device": case("--device", "meta", value="meta"),
}
DEVICE, BASE_MODEL = ANALYSED["device"], case("--base-model", "b", value="b")
DOWNLOAD = case("--download", value=[Path("c")], keyword="checkpoint", target="rankscope.checkpoint.fetching.fetch")


def fetched(name: str) -> Case:
    return case("--download", value=Path(name), keyword="checkpoint", target="rankscope.checkpoint.fetching.fetch")


TRUST, OVERWRITE = switch("--trust-remote-code"), switch("--overwrite")
MEASURES = case("-m", "rankme", value=[DEFINITIONS["rankme"]])
PLOT = case("--plot", "f", value=Path("f"), target=FIGURE)
FULL = switch("--full", target="rankscope.cli.show.view")
FILES = {
    "ids": ("ids.txt", "p\nq\n"),
    "config collect": ("c.toml", 'rows = "mean"\n'),
    "config compare": ("c.toml", "groups = 7\n"),
}
"""The files that a case reads, by option, or by option and command."""
GROUPS = case("--groups", "7", value=7)
INTERVAL = case("--interval", "jackknife", value="jackknife")


def data(target: str = OPEN) -> dict[str, Case]:
    return {
        "images": case("--images", "i", value=Path("i"), target=target),
        "regions": case("--regions", "r", value=Path("r"), target=target),
        "answers": case("--answers", "a", value=Path("a"), target=target),
        "columns": case("--column", "id=x", "--column", "text=y=z", value={"id": "x", "text": "y=z"}, target=target),
        "restval": case("--no-restval", value=False, target=target),
    }


def recipe() -> dict[str, Case]:
    """The options of a recipe, which are handed on as they are typed."""
    flags = {name: f"--{name.replace('_', '-')}" for name in recipe_options()}
    return {
        name: Case((f"--no-{flags[name][2:]}",), False)
        if option.type == "bool" and option.default is True
        else switch(flags[name])
        if option.type == "bool"
        else case(flags[name], "7", value="7")
        for name, option in recipe_options().items()
    }


COMMANDS = {
    "demo": Command(
        "rankscope.demo.run_demo",
        (),
        {
            "out": case("--out", "o", value=Path("o")),
            "steps": case("--steps", "7", value=7),
            "samples": case("--samples", "7", value=7),
            "overwrite": OVERWRITE,
            **QUIET,
        },
    ),
    "inspect": Command(
        "rankscope.models.describe.describe",
        ("c",),
        {
            "checkpoint": case("x", "y", value=[Path("x"), Path("y")], keyword="path", target=READ, alone=True),
            "data": case("--data", "d", value="d", target=UNTRAINED),
            "base_model": BASE_MODEL._replace(target=READ),
            "trust_remote_code": TRUST,
            "download": DOWNLOAD,
            "as_json": PRINTING["as_json"],
        },
        (READ, UNTRAINED),
    ),
    "doctor": Command(
        "rankscope.collecting.doctor.examine",
        ("c", "--data", "e"),
        {
            "checkpoint": case("x", "y", value=[Path("x"), Path("y")], alone=True),
            "data": case("--data", "d", value="d"),
            **data(),
            "rows": case("--rows", "mean", value="mean"),
            "base_model": BASE_MODEL,
            "device": DEVICE,
            "trust_remote_code": TRUST,
            "download": DOWNLOAD,
            "as_json": PRINTING["as_json"],
        },
    ),
    "collect": Command(
        "rankscope.collect",
        ("c", "--data", "e"),
        {
            "checkpoint": case("x", "y", value=[Path("x"), Path("y")], keyword="model", alone=True),
            "data": case("--data", "d", value="d"),
            **data(),
            "sites": SITES,
            "rows": case("--rows", "mean", value="mean"),
            "n": case("--n", "7", value=7),
            "out": case("--out", "o", value=Path("o")),
            "name": case("--name", "mine", value="mine"),
            "keep_special": switch("--keep-special"),
            "tokens_per_batch": case("--tokens-per-batch", "7", value=7),
            "nonfinite": case("--nonfinite", "keep", value="keep"),
            "shard": case("--shard", "1/2", value="1/2"),
            "keep": case("--keep", "moments", value="moments"),
            "groups": case("--keep", "moments", "--groups", "7", value=7),
            "beside": case("--keep", "moments", "--beside", "b", value=[Path("b")]),
            "overwrite": OVERWRITE,
            "base_model": BASE_MODEL,
            "processor": case("--processor", "p", value=Path("p")),
            "dtype": case("--dtype", "bfloat16", value="bfloat16"),
            "device": DEVICE,
            "device_map": case("--device-map", "auto", value="auto"),
            "load_in_4bit": switch("--load-in-4bit"),
            "padding_side": case("--padding-side", "left", value="left"),
            "chat": switch("--chat"),
            "max_length": case("--max-length", "7", value=7),
            "trust_remote_code": TRUST,
            "download": DOWNLOAD,
            "dry_run": switch("--dry-run", keyword="quiet", target=PROGRESS),
            "config": case("--config", "c.toml", value="mean", keyword="rows"),
            **QUIET,
        },
    ),
    "measure": Command(
        "rankscope.measure",
        ("r",),
        {
            "run": case("x", value=Path("x"), alone=True),
            "base_model": BASE_MODEL,
            "download": fetched("r"),
            "measures": MEASURES,
            "groups": GROUPS,
            "interval": INTERVAL,
            **ANALYSED,
            **PRINTING,
            "plot": PLOT,
            "full": FULL,
        },
    ),
    "compare": Command(
        "rankscope.compare",
        ("r", "s"),
        {
            "runs": case("r", "x", value=Path("x"), keyword="b", alone=True),
            "arm": case(
                "--arm",
                "t=tests/cli/test_joins.py",
                value={"t": [Path("tests/cli/test_joins.py")]},
                keyword="arms",
                target="rankscope.compare_arms",
                alone=True,
            ),
            "base": case("--base", "b", value=Path("b")),
            "again": case("--again", "n", value=Path("n")),
            "measures": MEASURES,
            "permutations": case("--permutations", "7", value=7),
            "groups": GROUPS,
            "interval": INTERVAL,
            "common_rows": switch("--common-rows"),
            "base_model": BASE_MODEL,
            "download": fetched("r"),
            **ANALYSED,
            **PRINTING,
            "plot": case("--plot", value=Path(), target=FIGURE),
            "report": case("--report", value=Path("u-v.html"), keyword="out", target="rankscope.write_report"),
            "full": FULL,
            "examples": case("--examples", "7", value=7, keyword="n", target="rankscope.examples"),
            "config": case("--config", "c.toml", value=7, keyword="groups"),
        },
    ),
    "report": Command(
        "rankscope.make_report",
        ("r", "--base", "b"),
        {
            "runs": case("x", "y", "--base", "b", value=[Path("x"), Path("y")], alone=True),
            "base": case("--base", "c", value=Path("c")),
            "out": case("-o", "o.html", value=Path("o.html")),
            "weights": switch("--weights"),
            "measures": MEASURES,
            "groups": GROUPS,
            "interval": INTERVAL,
            "common_rows": switch("--common-rows"),
            "base_model": BASE_MODEL,
            "download": fetched("r"),
            "overwrite": OVERWRITE,
            **ANALYSED,
            **QUIET,
        },
    ),
    "between": Command(
        "rankscope.between",
        ("r", "--from", "vision.final:image", "--to", "decoder:text"),
        {
            "runs": case("x", "y", "--from", "a.0", "--to", "b.0", value=[Path("x"), Path("y")], alone=True),
            "source": case("--from", "0:2:text", value="0:2:text", keyword="a"),
            "target": case("--to", "decoder:last", value="decoder:last", keyword="b"),
            "base": case("--base", "b", value=Path("b")),
            "permutations": case("--permutations", "7", value=7),
            "measures": case("-m", "cka", value=[COMPARISONS["cka"]]),
            "groups": GROUPS,
            "interval": INTERVAL,
            "common_rows": switch("--common-rows"),
            "base_model": BASE_MODEL,
            "download": fetched("r"),
            **{name: one for name, one in ANALYSED.items() if name != "sites"},
            **PRINTING,
            "plot": PLOT,
            "full": switch("--full", target="rankscope.cli.relations.printed"),
        },
    ),
    "show": Command(
        "rankscope.open_report",
        ("r.html",),
        {
            "source": case("x.html", value=Path("x.html"), keyword="path", alone=True),
            **PRINTING,
            "full": FULL,
        },
    ),
    "track": Command(
        "rankscope.track",
        ("c", "--data", "e"),
        {
            "checkpoints": case("x", "y", value=[Path("x"), Path("y")], alone=True),
            "data": case("--data", "d", value="d"),
            **data(),
            "base": case("--base", "b", value=Path("b")),
            "rows": case("--rows", "mean", value="mean"),
            "n": case("--n", "7", value=7),
            "out": case("--out", "o", value=Path("o")),
            "measures": MEASURES,
            "groups": GROUPS,
            "interval": INTERVAL,
            "base_model": BASE_MODEL,
            "download": fetched("c"),
            "trust_remote_code": TRUST,
            **ANALYSED,
            **PRINTING,
            "plot": PLOT,
            "full": switch("--full", target="rankscope.cli.steps.printed"),
        },
    ),
    "card": Command(
        "rankscope.compare",
        ("r", "--base", "b"),
        {
            "run": case("x", "--base", "b", value=Path("x"), keyword="b", alone=True),
            "base": case("--base", "c", value=Path("c"), keyword="a"),
            "out": case("-o", "R.md", value=Path("R.md"), keyword="path", target="rankscope.markdown.put"),
            "measures": case("-m", "rsa", value=["rsa"], target=CARD),
            "groups": GROUPS,
            "interval": INTERVAL,
            "common_rows": switch("--common-rows"),
            "base_model": BASE_MODEL,
            "download": fetched("r"),
            **ANALYSED,
            **QUIET,
        },
        (CARD,),
    ),
    "curve": Command(
        "rankscope.curve",
        ("r",),
        {
            "run": case("x", value=Path("x"), alone=True),
            "measures": MEASURES,
            "seed": case("--seed", "7", value=7),
            "base_model": BASE_MODEL,
            "download": fetched("r"),
            **ANALYSED,
            **PRINTING,
            "plot": PLOT,
        },
    ),
    "weights": Command(
        "rankscope.weigh",
        ("c", "--data", "e"),
        {
            "checkpoint": case("x", "y", value=[Path("x"), Path("y")], alone=True),
            "modules": case("--modules", "m", value="m"),
            "k": case("--k", "7", value=7),
            "threshold": case("--threshold", "0.7", value=0.7),
            "draws": case("--draws", "7", value=7),
            "data": case("--data", "d", value="d"),
            **data(),
            "n": case("--n", "7", value=7),
            "processor": case("--processor", "p", value=Path("p")),
            "chat": switch("--chat"),
            "max_length": case("--max-length", "7", value=7),
            "full": switch("--full", target="rankscope.cli.weight_table.printed"),
            "base_model": BASE_MODEL,
            "trust_remote_code": TRUST,
            "download": DOWNLOAD,
            "device": DEVICE,
            "spectra": case(
                "--spectra", "s.npz", value=Path("s.npz"), keyword="output", target="rankscope.writing.write_output"
            ),
            "overwrite": switch("--overwrite", target="rankscope.cli.early.need_free"),
            "plot": PLOT,
            **PRINTING,
        },
    ),
    "verify": Command(
        "rankscope.store.open_run", ("r",), {"run": case("x", value=Path("x"), keyword="path", alone=True)}
    ),
    "import": Command(
        "rankscope.store.import_features",
        ("s.npz",),
        {
            "source": case("x.npz", value=Path("x.npz"), keyword="path", alone=True),
            "out": case("--out", "o", value=Path("o")),
            "name": case("--name", "mine", value="mine"),
            "site": case("--site", "a=h=decoder.3", value={"a=h": "decoder.3"}, keyword="sites"),
            "columns": case("--columns", "a,b", value=["a", "b"]),
            "ids": case("--ids", "ids.txt", value=["p", "q"]),
            "overwrite": OVERWRITE,
        },
    ),
    "export": Command(
        "rankscope.store.export_run",
        ("r", "--out", "o"),
        {
            "run": case(
                "x", "--out", "o", value=Path("x"), keyword="path", target="rankscope.store.open_run", alone=True
            ),
            "out": case("--out", "p", value=Path("p")),
            "to": case("--to", "hf", value="hf"),
            "overwrite": OVERWRITE,
        },
        ("rankscope.store.open_run",),
    ),
    "train": Command(
        "rankscope.train",
        ("b", "--method", "lora", "--data", "e"),
        {
            "model": case("x", "--method", "lora", "--data", "e", value=Path("x"), alone=True),
            "method": case("--method", "prefix", value="prefix"),
            "stages": case("--stages", "lora,full", value="lora,full", alone=True),
            "data": case("--data", "d", value="d"),
            **data(),
            "out": case("--out", "o", value=Path("o")),
            "task": case("--task", "lm", value="lm"),
            "seed": case("--seed", "7", value=7),
            "config": case("--config", "c.toml", value=Path("c.toml")),
            "resume": switch("--resume"),
            "overwrite": OVERWRITE,
            "device": DEVICE,
            "trust_remote_code": TRUST,
            "download": DOWNLOAD._replace(value=Path("b")),
            "dry_run": case(
                "--dry-run", value=recipe_of_method("lora"), keyword="recipe", target="rankscope.tuning.preview"
            ),
            "list_options": case(
                "--list-options", value="options of a recipe", keyword="title", target="rankscope.cli.show.table"
            ),
            **QUIET,
            **recipe(),
        },
    ),
    "generate": Command(
        "rankscope.generate",
        ("c", "--data", "e"),
        {
            "checkpoint": case("x", "y", value=[Path("x"), Path("y")], keyword="path", target=READ, alone=True),
            "base_model": BASE_MODEL._replace(target=READ),
            "data": case("--data", "d", value="d"),
            **data(),
            "out": case("--out", "o", value=Path("o")),
            "batch_size": case("--batch-size", "7", value=7),
            "max_new_tokens": case("--max-new-tokens", "7", value=7),
            "num_beams": case("--num-beams", "7", value=7),
            "overwrite": OVERWRITE,
            "device": DEVICE,
            "trust_remote_code": TRUST,
            "download": DOWNLOAD,
            **QUIET,
        },
        (READ,),
    ),
    "score": Command(
        "rankscope.score",
        ("p", "--data", "d"),
        {
            "predictions": case("x", "--data", "d", value=Path("x"), alone=True),
            "data": case("--data", "e", value="e"),
            **data(),
            "kind": case("--kind", "labels", value="labels"),
            "metrics": case("--metrics", "bleu,cider", value=["bleu", "cider"]),
            "rule": case("--vqa-rule", "lavis", value="lavis"),
            "tokenizer": case("--tokenizer", "ptb", value="ptb"),
            "spice_home": case("--spice-home", "h", value=Path("h")),
            "java_memory": case("--java-memory", "4G", value=Java(memory="4G"), keyword="java"),
            "per_sample": switch("--per-sample"),
            "submission": case(
                "--submission", "s", value=Path("s"), keyword="out", target="rankscope.scores.join.write_submission"
            ),
            "overwrite": case(
                "--submission", "s", "--overwrite", value=True, target="rankscope.scores.join.write_submission"
            ),
            "as_json": switch("--json", keyword="obj", target="json.dumps")._replace(value={"a": 1}),
        },
    ),
    "data check": Command(
        "rankscope.data.check",
        ("d",),
        {
            "path": case("x", value="x", keyword="spec", alone=True),
            **data(""),
            "as_json": switch("--json", keyword="obj", target="json.dumps")._replace(value={"a": 1}),
        },
    ),
    "definitions": Command(
        "rankscope.registry.named",
        ("rankme",),
        {"name": case("hill-2", value="hill-2", keyword="text", alone=True), "as_json": PRINTING["as_json"]},
    ),
    "selftest": Command(
        "rankscope.selftest.run",
        (),
        {"only": case("--only", "whitened, draws", value=["whitened", "draws"], keyword="scenarios"), **PRINTING},
    ),
}
