"""``rankscope weights``: the same numbers as Python gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.testing import assert_close

import rankscope

Folder = Callable[..., Path]


def test_the_command_prints_what_python_gives(folder: Folder, rankscope_: Callable[..., Any], tmp_path: Path) -> None:
    done = rankscope_("weights", folder("gpt2", "lora"), "--modules", "*.c_fc", "--draws", "1", "--json", "-q")
    expected = rankscope.weigh(folder("gpt2", "lora"), modules="*.c_fc", draws=1)
    assert json.loads(done.out) == expected.to_records()
    table = rankscope_("weights", folder("gpt2", "lora"), "--draws", "0", "--spectra", tmp_path / "s.npz", "-q")
    assert (table.code, "transformer.h.0.attn.c_attn" in table.out) == (0, True)
    with np.load(tmp_path / "s.npz") as written:
        assert_close(torch.tensor(written["transformer.h.0.mlp.c_fc"]), expected.spectra["transformer.h.0.mlp.c_fc"])
    prefix = rankscope_("weights", folder("gpt2", "prefix"))
    assert "which is no evidence" in prefix.err
