from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from rankscope.errors import CheckpointError, DataError
from rankscope.features import TEXT, Grid
from rankscope.reading.forward import ModelBatch, Read, batches_by_length, check_rows, read
from rankscope.reading.hooks import Tap
from rankscope.sites import Site


class Blocks(nn.Module):
    """Two linear blocks on ``(b, t, 4)``; the second returns a tuple, as transformers' blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, twice: bool = False) -> tuple[Tensor, None]:
        hidden = self.first(x)
        return self.second(self.first(hidden) if twice else hidden), None


@pytest.fixture
def model() -> Blocks:
    return Blocks().eval()


def taps(model: Blocks) -> dict[Site, Tap]:
    return {
        Site("s", "embed"): Tap(model.first, entering=True),
        Site("s", "0"): Tap(model.first),
        Site("s", "1"): Tap(model),
    }


def grid(b: int, t: int) -> Grid:
    return Grid(torch.full((b, t), TEXT, dtype=torch.uint8), torch.ones(b, t, dtype=torch.bool))


def test_every_site_gives_the_rows_of_its_stack(model: Blocks) -> None:
    x = torch.randn(2, 5, 4)
    found = read(model, taps(model), ModelBatch({"x": x}, {"s": grid(2, 5)}), kind="last")
    torch.testing.assert_close(found.features[Site("s", "embed")], x[:, -1])
    torch.testing.assert_close(found.features[Site("s", "0")], model.first(x)[:, -1])
    torch.testing.assert_close(found.features[Site("s", "1")], model(x)[0][:, -1])
    assert found.rows["s"][1].tolist() == [4, 4]


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (2, 3, 1, 4)])
def test_columns_are_found_in_packed_and_in_gridded_states(model: Blocks, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    found = read(model, {Site("s", "0"): Tap(model.first)}, ModelBatch({"x": x}, {"s": grid(2, 3)}), kind="tokens")
    torch.testing.assert_close(found.features[Site("s", "0")], model.first(x).reshape(6, 4))


def test_a_stack_without_a_grid_has_its_own_columns_all_real(model: Blocks) -> None:
    x = torch.randn(5, 4)
    found = read(model, {Site("s", "0"): Tap(model.first)}, ModelBatch({"x": x}, {}), kind="last")
    torch.testing.assert_close(found.features[Site("s", "0")], model.first(x))


def test_hidden_states_are_not_kept(model: Blocks) -> None:
    seen: list[weakref.ref[Tensor]] = []
    handle = model.first.register_forward_hook(lambda m, i, output: seen.append(weakref.ref(output)))
    found = read(model, taps(model), ModelBatch({"x": torch.randn(2, 5, 4)}, {"s": grid(2, 5)}))
    handle.remove()
    gc.collect()
    assert found.features
    assert seen[0]() is None


def test_hooks_are_gone_afterwards_even_when_the_model_fails(model: Blocks) -> None:
    with pytest.raises(
        CheckpointError, match=r"forward pass of Blocks fails \(RuntimeError: mat1 and mat2 .* x \(2, 5, 3\)"
    ):
        read(model, taps(model), ModelBatch({"x": torch.randn(2, 5, 3)}, {"s": grid(2, 5)}))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_columns_that_do_not_fit_are_refused(model: Blocks) -> None:
    with pytest.raises(CheckpointError, match=r"at s.embed have shape \(2, 5, 4\); 2 samples of 7 columns"):
        read(model, taps(model), ModelBatch({"x": torch.randn(2, 5, 4)}, {"s": grid(2, 7)}))


def test_a_site_that_runs_twice_or_never_is_refused(model: Blocks) -> None:
    inputs = ModelBatch({"x": torch.randn(2, 5, 4), "twice": True}, {"s": grid(2, 5)})
    with pytest.raises(CheckpointError, match=r"s\.embed ran more than once"):
        read(model, taps(model), inputs)
    unused = {Site("s", "9"): Tap(nn.Linear(1, 1))}
    with pytest.raises(CheckpointError, match=r"never reached s\.9"):
        read(model, unused, ModelBatch({"x": torch.randn(2, 5, 4)}, {}))


def test_a_model_in_training_mode_is_refused(model: Blocks) -> None:
    with pytest.raises(CheckpointError, match="training mode"):
        read(model.train(), taps(model), ModelBatch({"x": torch.randn(2, 5, 4)}, {}))


def test_a_module_that_returns_no_tensor_is_refused() -> None:
    class Words(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "no tensor"

    module = Words().eval()
    with pytest.raises(CheckpointError, match="got str"):
        read(module, {Site("s", "0"): Tap(module)}, ModelBatch({"x": torch.zeros(1, 1, 1)}, {}))


def test_a_sample_without_the_one_row_it_must_have_is_named() -> None:
    found = Read({}, {"s": (torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))})
    with pytest.raises(DataError, match="sample 'second' has no real token at s"):
        check_rows(found, [0, 1], ["first", "second"], kind="last", stacks=["s"])
    check_rows(found, [0, 1], ["first", "second"], kind="tokens", stacks=["s"])


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 100))
def test_batches_hold_every_sample_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = batches_by_length(lengths, budget)
    assert sorted(i for samples, _ in batches for i in samples) == list(range(len(lengths)))
    for samples, longest in batches:
        assert longest == max(1, *(lengths[i] for i in samples))
        assert len(samples) == 1 or len(samples) * longest <= budget
    assert batches == batches_by_length(lengths, budget)
