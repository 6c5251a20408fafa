"""A collect computes nothing after its last site, and stores the same bytes as if it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from digests import tree_digest
from torch import nn

from rankscope.collecting.collect import run_job
from rankscope.collecting.job import Job, Request, prepare
from rankscope.collecting.loading import Loading
from rankscope.models.stacks import unwrapped
from rankscope.reading.course import Course
from rankscope.reading.forward import read

Folder = Callable[..., Path]
CASES = [*((family, "none") for family in tiny.FAMILIES), *(("gpt2", tuning) for tuning in tiny.TUNINGS[1:])]


def planned(model: Any, data: Any, **options: Any) -> Job:
    return prepare(model, data, Request(**options), Loading())


def returned(model: nn.Module) -> list[nn.Module]:
    """Takes up the model whenever a forward pass of it returns, by no hook, which would keep the passes whole."""
    base, seen = unwrapped(model), list[nn.Module]()
    forward = base.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        seen.append(base)
        return output

    base.forward = watched  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize(("family", "tuning"), CASES)
def test_every_family_and_tuning_gives_the_same_states_when_its_passes_end(
    family: str, tuning: str, folder: Folder, tmp_path: Path
) -> None:
    job = planned(
        folder(family, tuning), "scenes:questions/test", n=6, rows="tokens", tokens_per_batch=60, out=tmp_path / "run"
    )
    returns, course, swept = returned(job.source.model), job.course, 0
    assert course.whole == ""
    assert set(course.order or ()) == set(job.taps)
    for batch in job.plan:
        inputs = job.source.collate(batch.samples)
        whole, ended = (
            read(job.source.model, job.taps, inputs, kind="tokens", course=course, stop=stop) for stop in (False, True)
        )
        swept += sum(torch.equal(x, ended.features[site]) for site, x in whole.features.items())
    assert swept == len(job.plan) * len(job.taps) >= 5
    assert len(returns) == len(job.plan)  # those that ran whole


def test_the_first_batch_runs_whole_and_no_other_and_the_bytes_are_the_same(
    folder: Folder, texts: Path, tmp_path: Path
) -> None:
    job = planned(folder("gpt2"), texts, rows="tokens", tokens_per_batch=64, out=tmp_path / "ended")
    returns = returned(job.source.model)
    ended = run_job(job)
    assert len(returns) == 1 < len(job.plan)
    course = Course(job.source.model, job.taps)
    course.whole = "for comparison"
    whole = run_job(replace(job, out=tmp_path / "whole", course=course))
    assert len(returns) == 1 + len(job.plan)
    assert tree_digest(ended.path) == tree_digest(whole.path)


def test_only_what_the_sites_need_is_computed(folder: Folder, texts: Path, tmp_path: Path) -> None:
    job = planned(folder("gpt2"), texts, sites="0", tokens_per_batch=64, out=tmp_path / "run")
    calls = list[int]()
    _, block, *_ = unwrapped(job.source.model).transformer.h  # type: ignore[union-attr, misc]
    block.register_forward_pre_hook(lambda *told: calls.append(1))
    run_job(job)
    assert len(calls) == 1


def test_a_model_spread_by_accelerate_runs_whole(folder: Folder, texts: Path, tmp_path: Path) -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    from rankscope.models.load import load_model

    model = load_model(folder("gpt2"))
    add_hook_to_module(model.lm_head, AlignDevicesHook(execution_device="cpu"))  # type: ignore[arg-type]
    request = Request(tokens_per_batch=64, out=tmp_path / "run")
    job = prepare(model, texts, request, Loading(processor=folder("gpt2")))
    returns = returned(job.source.model)
    run_job(job)
    assert len(returns) == len(job.plan) > 1
