"""Every option of every command with a value to type for it, and where it must arrive in the library."""

from __future__ import annotations

from pathlib import Path

from cases import PRINTING, Command, case, data, switch
from joins_checkpoints import OF_CHECKPOINTS
from joins_runs import OF_RUNS

from rankscope.scores import Java

FILES = {
    "ids": ("ids.txt", "p\nq\n"),
    "config collect": ("c.toml", 'rows = "mean"\n'),
    "config compare": ("c.toml", "groups = 7\n"),
}
"""The files that a case reads, by option, or by option and command."""
COMMANDS = {
    **OF_CHECKPOINTS,
    **OF_RUNS,
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
