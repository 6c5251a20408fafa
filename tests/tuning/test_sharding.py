"""Training in several processes, sharded or not: the weights of one process, plain checkpoints, and what cannot be sharded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from tuning_data import examples, weights

from rankscope.errors import UsageError
from rankscope.models.load import load_model
from rankscope.tuning import train
from rankscope.tuning.sharding import check_sharding


def options_of(folder: Path, name: str) -> dict[str, Any]:
    """A training in two stages, with every epoch kept, on data and by a recipe that lie in a folder."""
    rows = [{"id": e.id, "text": e.text, **({"target": e.target} if e.targets else {})} for e in examples(name, 16)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "r.toml").write_text(
        "steps = 4\nsave_steps = 2\nkeep_epochs = true\nlearning_rate = 1e-2\nmax_grad_norm = 0\n[prefix]\nlength = 3\ndropout = 0\n"
    )
    return {"method": "pt-lora", "data": str(folder / f"{name}.jsonl"), "config": str(folder / "r.toml")}


def test_two_processes_train_as_one_with_twice_the_batch(base: Callable[[str], Path], tmp_path: Path) -> None:
    """From the command line, each with the whole model; and with a shard of every parameter in each, over a kill."""
    whole, sharded = options_of(tmp_path, "t5"), options_of(tmp_path, "opt")
    words = [f"--{key}={value}" for key, value in {**whole, "out": tmp_path / "t5-2", "batch-size": 2}.items()]
    given = {**sharded, "out": str(tmp_path / "opt-2"), "batch_size": 2, "device": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         str(Path(__file__).with_name("two_processes.py")),
         json.dumps(["train", str(base("t5")), *words]), str(base("opt")), json.dumps(given)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.stdout.split("\n") == [str(tmp_path / "t5-2"), "[4, 4]", ""], done.stderr[-2000:]
    for name, told in (("t5", whole), ("opt", sharded)):
        train(base(name), out=tmp_path / f"{name}-1", batch_size=4, **told)
        one, two = weights(tmp_path / f"{name}-1"), weights(tmp_path / f"{name}-2")
        assert one.keys() == two.keys()
        assert any(key.startswith("epochs/stage-1-epoch-1/1-lora") for key in two)
        for key, tensor in one.items():
            assert_close(two[key], tensor, rtol=1e-3, atol=3e-4)  # Adam: the first steps are as large as the rate
    ids = torch.arange(10, 20)[None]
    logits = [load_model(tmp_path / f"opt-{n}")(ids).logits for n in (1, 2)]
    assert_close(*logits, rtol=0, atol=1e-3)


def test_blocks_are_sharded_one_by_one(base: Callable[[str], Path]) -> None:
    plugin = SimpleNamespace(fsdp_version=2, transformer_cls_names_to_wrap=None)
    check_sharding(load_model(base("blip2-opt")), plugin)
    assert plugin.transformer_cls_names_to_wrap == ["Blip2EncoderLayer", "Blip2QFormerLayer", "OPTDecoderLayer"]


def test_what_cannot_be_sharded_is_refused(base: Callable[[str], Path]) -> None:
    two = SimpleNamespace(fsdp_version=2, transformer_cls_names_to_wrap=None)
    with pytest.raises(UsageError, match="melts parameters together"):
        check_sharding(load_model(base("opt")), SimpleNamespace(fsdp_version=1))
    with pytest.raises(UsageError, match=r"lm_head\.weight of this T5ForConditionalGeneration are one parameter"):
        check_sharding(load_model(base("t5")), two)
    check_sharding(load_model(base("gpt2")), two)  # whose input and output embeddings are one
