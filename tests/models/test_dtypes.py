from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rankscope
from rankscope.collecting.collect import run_job
from rankscope.collecting.job import Request, prepare
from rankscope.collecting.loading import Loading
from rankscope.models.dtypes import features_dtype, weights_dtype

Folder = Callable[..., Path]
HALF, FULL = torch.float16, torch.float32


@pytest.mark.parametrize(
    ("family", "tuning", "features"),
    [
        ("gpt2", "none", HALF),
        ("gpt2", "lora", HALF),
        ("gpt2", "prefix", HALF),
        ("gpt2", "p-tuning", HALF),
        ("llama", "ia3", HALF),
        ("t5", "lora", FULL),
        ("blip2-opt", "none", FULL),
    ],
)
def test_what_a_part_keeps_in_float32_counts_and_what_a_tuning_holds_does_not(
    family: str, tuning: str, features: torch.dtype, folder: Folder
) -> None:
    model = rankscope.load_model(folder(family, tuning), dtype="float16", base_model=folder(family))
    assert features_dtype(model) == features
    assert weights_dtype(model) == HALF


def test_rows_of_a_half_precision_model_are_stored_as_they_came(folder: Folder, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    request, loading = Request(rows="tokens", out=tmp_path / "run.pt"), Loading(dtype="float16")
    job = prepare(folder("t5"), ["three is left of seven"], request, loading)
    tap = next(tap for site, tap in job.taps.items() if str(site) == "encoder.1")
    handle = tap.module.register_forward_hook(lambda m, i, output: found.update(x=output[0].clone()))
    run = run_job(job)
    handle.remove()
    assert found["x"].dtype == FULL
    real = len(run.rows_at("encoder.1"))
    assert torch.equal(run.features("encoder.1"), found["x"][0, :real])
    assert (run.manifest.dtype, run.manifest.reading["precision"]) == ("float32", "float16")
