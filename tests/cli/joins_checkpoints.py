"""The options of the commands that open, train or make a checkpoint."""

from __future__ import annotations

from pathlib import Path

from cases import (
    ANALYSED,
    BASE_MODEL,
    DEVICE,
    DOWNLOAD,
    GROUPS,
    INTERVAL,
    MEASURES,
    OVERWRITE,
    PLOT,
    PRINTING,
    PROGRESS,
    QUIET,
    READ,
    SITES,
    TRUST,
    UNTRAINED,
    Case,
    Command,
    case,
    data,
    fetched,
    switch,
)

from rankscope.tuning.options import options as recipe_options
from rankscope.tuning.recipes import recipe as recipe_of_method


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


OF_CHECKPOINTS = {
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
}
