"""A pass ends at its last site, with the same states to the bit; where something waits for it to return, it does not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rankscope.errors import CheckpointError
from rankscope.reading.course import Course, why_whole
from rankscope.reading.forward import ModelBatch, Read, read
from rankscope.reading.hooks import Tap
from rankscope.sites import Site


class Headed(nn.Module):
    """Two blocks in a trunk, and a head that counts its calls; ``again`` runs the second block once more after the head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 9)
        self.heads = 0

    def forward(self, x: Tensor, again: bool = False, swapped: bool = False) -> Tensor:
        try:
            hidden = self.trunk[0](self.trunk[1](x)) if swapped else self.trunk(x)
        except Exception as error:  # as a model may, that falls back to something slower
            raise AssertionError("the model took the end of the pass for an error of its own") from error
        self.heads += 1
        out: Tensor = self.head(hidden)
        if again:
            self.trunk[1](hidden)
        return out


@pytest.fixture
def model() -> Headed:
    return Headed().eval()


def taps(model: Headed) -> dict[Site, Tap]:
    first, second = model.trunk
    return {Site("s", "embed"): Tap(first, entering=True), Site("s", "0"): Tap(first), Site("s", "1"): Tap(second)}


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def reads(model: Headed, course: Course, *, stop: bool, **more: Any) -> Read:
    return read(model, taps(model), ModelBatch({"x": X, **more}, {}), kind="tokens", course=course, stop=stop)


def test_a_pass_ends_at_the_last_site_with_the_same_states(model: Headed) -> None:
    course = Course(model, taps(model))
    whole = reads(model, course, stop=False)
    ended = reads(model, course, stop=True)
    assert model.heads == 1
    assert course.order == tuple(taps(model))
    assert [torch.equal(whole.features[site], ended.features[site]) for site in taps(model)] == [True] * 3
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_input_of_a_module_can_be_the_last_site(model: Headed) -> None:
    only = {Site("s", "embed"): Tap(model.head, entering=True)}
    course = Course(model, only)
    for stop in (False, True):
        found = read(model, only, ModelBatch({"x": X}, {}), kind="tokens", course=course, stop=stop)
        torch.testing.assert_close(found.features[Site("s", "embed")], model.trunk(X).flatten(0, 1))
    assert model.heads == 2  # counted ahead of the head, which itself did not run
    model.head.register_forward_hook(lambda *told: None)
    assert why_whole(model, only[Site("s", "embed")]) == "a forward hook waits for Linear to return"


def test_before_a_whole_pass_none_ends(model: Headed) -> None:
    course = Course(model, taps(model))
    reads(model, course, stop=True)
    assert model.heads == 1


def test_passes_that_differ_all_run_whole(model: Headed) -> None:
    course = Course(model, taps(model))
    reads(model, course, stop=False)
    with pytest.raises(CheckpointError, match="more than once"):
        reads(model, course, stop=False, again=True)
    assert course.order == tuple(taps(model))  # a pass that failed shows nothing
    reads(model, course, stop=True, swapped=True)
    assert course.whole == "the order in which it reaches the sites depends on the batch"
    reads(model, course, stop=True)
    assert model.heads == 4


def test_states_are_not_kept_when_a_pass_ends(model: Headed) -> None:
    course, seen = Course(model, taps(model)), list[weakref.ref[Tensor]]()
    reads(model, course, stop=False)
    handle = model.trunk[0].register_forward_hook(lambda m, i, output: seen.append(weakref.ref(output)))
    gc.disable()  # what only the collector of cycles frees would stay for many batches
    try:
        found = read(model, taps(model), ModelBatch({"x": X}, {}), course=course, stop=True)
        assert found.features
        assert seen[0]() is None
    finally:
        gc.enable()
        handle.remove()
    assert model.heads == 1


class DeepSpeedEngine(nn.Module):
    """Stands for a class of a package that is not installed here."""

    __module__ = "deepspeed.runtime.engine"


def _accelerated(model: Headed) -> nn.Module:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(model.head, AlignDevicesHook(execution_device="cpu"))
    return model


def _hooked(model: Headed) -> nn.Module:
    model.trunk.register_forward_hook(lambda *told: None)
    return model


def _compiled(model: Headed) -> nn.Module:
    model.trunk.compile(backend="eager")
    return model


def _inside(wrapper: nn.Module, model: Headed) -> nn.Module:
    wrapper.add_module("inner", model)
    return wrapper


WAITING: dict[str, Callable[[Headed], nn.Module]] = {
    "hooks of accelerate move its parts": _accelerated,
    "a forward hook waits for Sequential": _hooked,
    "inside DataParallel": nn.DataParallel,
    "inside OptimizedModule": lambda model: torch.compile(model, backend="eager"),  # type: ignore[dict-item, return-value]
    "inside Sequential": _compiled,
    "inside DeepSpeedEngine": lambda model: _inside(DeepSpeedEngine(), model),
}


@pytest.mark.parametrize("why", WAITING)
def test_what_waits_for_the_model_to_return_is_not_passed_over(why: str, model: Headed) -> None:
    assert why_whole(model, Tap(model.trunk[1])) == ""
    assert why in why_whole(WAITING[why](model), Tap(model.trunk[1]))


def test_a_hook_on_every_module_is_not_passed_over(model: Headed) -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *told: None)
    try:
        assert why_whole(model, Tap(model.trunk[1])) == "a forward hook waits for every module to return"
    finally:
        handle.remove()


def test_hooks_that_have_run_or_whose_modules_do_not_run_are_no_hindrance(model: Headed) -> None:
    model.trunk[0].register_forward_hook(lambda *told: None)
    model.head.register_forward_hook(lambda *told: None)
    model.trunk.register_forward_pre_hook(lambda *told: None)
    assert why_whole(model, Tap(model.trunk[1])) == ""
