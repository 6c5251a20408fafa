"""Sharded training (FSDP2): the same weights as without, plain checkpoints, and what cannot be sharded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from tuning_data import examples, weights

from rankscope.errors import UsageError
from rankscope.models.load import load_model
from rankscope.tuning import train
from rankscope.tuning.sharding import check_sharding

FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}  # fmt: skip
"""What ``accelerate launch --use_fsdp --fsdp_version 2`` puts into the environment."""


def test_two_processes_with_shards_train_as_one_that_has_it_all(base: Callable[[str], Path], tmp_path: Path) -> None:
    """Through two stages, with every epoch kept, and over a kill."""
    lines = [json.dumps({"id": e.id, "text": e.text}) for e in examples("opt", 16)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    told = {
        "method": "pt-lora", "data": str(tmp_path / "d.jsonl"), "steps": 4, "save_steps": 2, "keep_epochs": True,
        "learning_rate": 1e-2, "prefix_length": 3, "prefix_dropout": 0.0, "device": "cpu",
    }  # fmt: skip
    train(base("opt"), out=tmp_path / "one", batch_size=4, **told)
    given = json.dumps({**told, "out": str(tmp_path / "two"), "batch_size": 2})
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         str(Path(__file__).with_name("sharded_run.py")), str(base("opt")), given],
        env={**os.environ, **FSDP}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.stdout.strip() == "[4, 4]", done.stderr[-2000:]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    assert any(name.startswith("epochs/stage-1-epoch-1/1-lora") for name in two)
    for name, tensor in one.items():
        assert_close(two[name], tensor, rtol=1e-3, atol=3e-4)
    ids = torch.arange(10, 20)[None]
    assert_close(load_model(tmp_path / "two")(ids).logits, load_model(tmp_path / "one")(ids).logits, rtol=0, atol=1e-3)


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
