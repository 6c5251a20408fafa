"""The head as a lens: it gives the model's own logits, is found by what it reads, and is refused where something stands between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.testing import assert_close

from rankscope.data.probes import Example
from rankscope.errors import NotComparable
from rankscope.models.inputs.reader import reader
from rankscope.models.lens import head_of, tokens_of, words
from rankscope.models.load import load_model
from rankscope.reading.hooks import reading
from rankscope.sites import Site

Folder = Callable[..., Path]
EXAMPLE = Example("a", "how many digits", tiny.picture(0), ("two digits",))


def opened(folder: Folder, family: str, tuning: str = "none") -> tuple[Any, Any, Any]:
    where = folder(family, tuning)
    model: Any = load_model(where)
    found = reader(model, where)
    return model, found, found.read([EXAMPLE])


@pytest.mark.parametrize(("family", "tuning"), [("gpt2", "lora"), ("t5", "none"), ("bart", "none"), ("llava", "none")])
def test_a_step_that_is_the_row_itself_has_the_logits_of_the_model(folder: Folder, family: str, tuning: str) -> None:
    """T5 scales what its head reads, BART adds a bias to the logits, LLaVA reads images: each as the model does it."""
    model, found, batch = opened(folder, family, tuning)
    stack = found.stacks["decoder"]
    head = head_of(model, stack, batch)
    site, tap = list(stack.taps.items())[-1]
    with torch.inference_mode(), reading({site: tap}, lambda _, hidden: hidden, again=set()) as seen:
        logits = model(**batch.inputs).logits[0]
    rows = seen[site][0]
    bias = getattr(model, "final_logits_bias", torch.zeros(1))
    # Where the stack has no norm of its own at the end, its last block is read as it is
    assert_close(head.logits(Site("decoder", "final"), rows, rows), (logits - bias).double(), rtol=1e-4, atol=1e-4)
    assert (head.scale == 1) == (family != "t5")


def test_before_the_norm_a_step_is_what_the_norm_makes_of_it(folder: Folder) -> None:
    model, found, batch = opened(folder, "llama")
    head = head_of(model, found.stacks["decoder"], batch)
    x, steps = torch.randn(7, 32, dtype=torch.float64), torch.randn(2, 32, dtype=torch.float64)
    norm, unembed = model.model.norm, model.lm_head.weight.double()

    def normed(z: torch.Tensor) -> torch.Tensor:
        size = (z.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
        return z / size * norm.weight.double()

    expected = torch.stack([(normed(x + v) - normed(x - v)).mean(0) / 2 @ unembed.T for v in steps])
    assert_close(head.logits(Site("decoder", "1"), x, steps), expected, rtol=1e-4, atol=1e-5)
    assert (head.logits(Site("decoder", "final"), x, steps) - expected).abs().max() > 0.1, "after it, it is left out"
    assert norm.weight.dtype == torch.float32, "the model itself stays as it is"


@pytest.mark.parametrize(
    ("family", "stack", "why"),
    [
        ("t5", "encoder", "the head of a T5ForConditionalGeneration does not read the output of its encoder as it is"),
        ("llava", "vision", "the head of a Llava.* does not read the output of its vision as it is"),
        ("bert", "encoder", "a BertModel has no head that makes words"),
    ],
)
def test_what_the_head_does_not_read_is_refused(folder: Folder, family: str, stack: str, why: str) -> None:
    model, found, batch = opened(folder, family)
    with pytest.raises(NotComparable, match=why):
        head_of(model, found.stacks[stack], batch)


def test_every_column_has_its_token_and_an_image_none(folder: Folder) -> None:
    _, found, batch = opened(folder, "llava")
    columns = tokens_of(found, EXAMPLE, "decoder")
    assert len(columns) == batch.grids["decoder"].real.sum()
    roles = batch.grids["decoder"].role[0].tolist()
    assert [token is None for token in columns] == [role == 1 for role in roles]
    assert words(found, columns).endswith("how many digits two digits")
    assert tokens_of(found, EXAMPLE, "vision") == []
    _, found, batch = opened(folder, "t5")
    assert tokens_of(found, EXAMPLE, "decoder") == batch.inputs["decoder_input_ids"][0].tolist()
