r"""A model's own head as a lens: what a direction of its features says in words.

The head of a language model is its final norm and its unembedding. A direction :math:`v` at a site of the stack that feeds it
is read by how much the logits differ between rows moved forwards and backwards along it ("logit lens", nostalgebraist 2020),

.. math:: \ell = W\,\mathbf{E}_x \tfrac12 \bigl(N(x + v) - N(x - v)\bigr),

over rows x of the site, N the norm and W the unembedding. The blocks between the site and the head are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rankscope.data.probes import Example
from rankscope.errors import NotComparable
from rankscope.features import IMAGE
from rankscope.models.inputs.encoding import ABSENT
from rankscope.models.inputs.reader import Reader
from rankscope.models.stacks import Stack, unwrapped
from rankscope.reading.forward import ModelBatch, forward_pass
from rankscope.reading.hooks import hidden_states, reading
from rankscope.sites import Site

_IDS = {"text": "input_ids", "target": "decoder_input_ids"}
"""The tokens in the columns of a stack, by what its columns are."""


@dataclass(frozen=True)
class WordHead:
    """What makes words of the hidden states of one stack."""

    stack: Stack
    """The stack that it reads."""
    output: nn.Module
    """The unembedding, from ``(*, d)`` to ``(*, V)`` logits."""
    scale: float
    """By what the model multiplies the stack's output before the unembedding; 1 in most models."""

    def logits(self, site: Site, rows: Tensor, steps: Tensor) -> Tensor:
        """How the logits move with the rows of a site.

        Args:
            site: a site of the stack.
            rows: ``(m, d)`` rows there.
            steps: ``(k, d)`` how far and where all of them move.

        Returns:
            ``(k, V)`` half the logits of rows + step less those of rows - step, on average over the rows, float64 on the CPU.
        """
        # A quantised head holds whole numbers beside the floating ones in which it computes
        weight = next(p for p in self.output.parameters() if p.is_floating_point())
        rows, steps = (x.to(weight.device, torch.float64) for x in (rows, steps))
        # What the norm makes of a small step is a difference of large numbers, for which half precision is too coarse
        norm = None if site.point == "final" or self.stack.final is None else copy.deepcopy(self.stack.final).double()
        with torch.inference_mode():
            if norm is not None:
                steps = torch.stack([(norm(rows + step) - norm(rows - step)).double().mean(0) / 2 for step in steps])
            moved = (self.scale * steps).to(weight.dtype)
            # A head may have a bias, which no step moves
            return (self.output(moved) - self.output(torch.zeros_like(moved))).double().cpu()


def head_of(model: nn.Module, stack: Stack, batch: ModelBatch) -> WordHead:
    """The head that reads a stack, after seeing in a forward pass that it does, and nothing stands between.

    Args:
        model: the tuned model, in evaluation mode.
        stack: one of its stacks.
        batch: what the model is called with.

    Raises:
        NotComparable: if the model has no head of words, or one that does not read the output of this stack as it is.
    """
    base, seen = unwrapped(model), list[Tensor]()
    output = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None  # type: ignore[operator]
    if not isinstance(output, nn.Module):
        raise NotComparable(f"a {type(base).__name__} has no head that makes words")
    (site, tap), device = list(stack.taps.items())[-1], next(base.parameters()).device
    handle = output.register_forward_pre_hook(lambda _, args: seen.append(hidden_states(args)))
    try:
        with torch.inference_mode(), reading({site: tap}, lambda _, hidden: hidden, again=set()) as found:
            forward_pass(model, batch.to(device).inputs)
    finally:
        handle.remove()
    scale = _ratio(seen[-1], found[site]) if seen and site in found else None
    if scale is None:
        raise NotComparable(
            f"the head of a {type(base).__name__} does not read the output of its {stack.name} as it is"
        )
    return WordHead(stack, output, scale)


def _ratio(read: Tensor, given: Tensor) -> float | None:
    """The number by which what a head read is what a stack gave; None if there is none."""
    if read.shape != given.shape:
        return None
    x, y = (z.double().flatten() for z in (given, read.to(given.device)))
    scale = float(x @ y / (x @ x))
    # The product was rounded once, each number by half an epsilon of its size
    return (
        scale if scale > 0 and float((y - scale * x).norm()) <= torch.finfo(read.dtype).eps * float(y.norm()) else None
    )


def tokens_of(reader: Reader, example: Example, stack: str) -> list[int | None]:
    """The token in each real column of a stack, in order, None where a column is none; empty if that is not known.

    Args:
        reader: the reader of the model.
        example: the example.
        stack: the name of the stack.

    Raises:
        DataError: as :meth:`~rankscope.models.inputs.reader.Reader.encode`.
    """
    made = reader.encode(example)
    ids, roles = made.inputs.get(_IDS.get(reader.stacks[stack].columns, "")), made.roles.get(stack)
    if ids is None or roles is None:
        return []
    # Where a model joins the rows of an image to those of the text, the tokens are one of the two parts
    first = made.parts.get(stack, (0,))[0] if reader.inputs.family.image_rows == "before" else 0
    if first + len(ids) > len(roles):
        return []
    columns: list[int | None] = [None] * len(roles)
    columns[first : first + len(ids)] = ids.tolist()
    return [
        None if role == IMAGE else token for token, role in zip(columns, roles.tolist(), strict=True) if role != ABSENT
    ]


def words(reader: Reader, tokens: Sequence[int | None]) -> str:
    """Tokens as the text that they are; what is no token is left out."""
    text: str = reader.inputs.tokenizer.decode([token for token in tokens if token is not None])
    return text
