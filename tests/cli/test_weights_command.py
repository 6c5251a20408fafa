"""``rankscope weights``: the same numbers as Python gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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


def test_small_tables_fit_eighty_columns(
    folder: Folder, rankscope_: Callable[..., Any], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankscope.cli.show.columns_there", lambda: 80)
    lora = (folder("llama", "lora"), "--modules", "*.q_proj", "--draws", "1")
    small = rankscope_("weights", *lora)
    assert "below model.layers" in small.out
    assert small.out.split("\n")[1].split() == ["module", "effective", "size", "shift", "left°", "right°", "intruders"]
    assert "Noise of the size of each change, on average: shift 0." in small.out
    told = rankscope_("weights", *lora, "--data", texts, "--n", "9")
    (r, *_) = rankscope.weigh(lora[0], modules="*.q_proj", draws=1, data=texts, n=9).records
    numbers = (r.ranks.effective, r.relative.size, r.on_data_effective.value, r.on_data_effective.low,
               r.on_data_effective.high, r.random.on_data_effective_of_random, r.on_data_share.value,
               r.random.on_data_share_of_random)  # fmt: skip
    row = next(line for line in told.out.splitlines() if line.startswith("0.self_attn.q_proj"))
    assert row.translate(str.maketrans("", "", "[],")).split()[1:] == [f"{x:.3g}" for x in numbers]
    for out in (small.out, told.out):
        assert max(map(len, out.splitlines())) <= 80
    assert "Noise of the size" not in told.out
    monkeypatch.setattr("rankscope.cli.show.columns_there", lambda: 1000)
    whole = rankscope_("weights", *lora, "--data", texts, "--n", "9", "--full")
    for name in (
        "left° (noise)",
        "bf16 moved (noise)",
        "edge",
        "share of the output (random)",
        "participation (random)",
    ):
        assert name in whole.out
    assert "size" not in rankscope_("weights", folder("gpt2", "prefix")).out, "what no row has is left out"
