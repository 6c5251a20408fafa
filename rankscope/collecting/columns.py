"""A loaded transformers model that is fed with tensors of tokens: its sites, and what the columns of its batches are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rankscope.errors import UsageError
from rankscope.features import TEXT, Grid
from rankscope.models.dtypes import features_dtype
from rankscope.models.limits import prompt_rows, takes_positions
from rankscope.models.stacks import stacks, taps
from rankscope.reading.forward import ModelBatch
from rankscope.reading.probing import Parts

Collate = Callable[[Sequence[int]], ModelBatch]
_COLUMNS = {"text": ("attention_mask", "input_ids"), "target": ("decoder_attention_mask", "decoder_input_ids")}
"""The inputs that tell what the columns of a stack are: the mask, and what all of is real where there is none."""


def from_columns(model: nn.Module, collate: Collate) -> tuple[Parts, Collate]:
    """The sites of a loaded transformers model that is fed with tensors of tokens, and its batches with their columns.

    What its masks leave out is no row; positions are handed over where padding is on the left.

    Raises:
        UsageError: for a prompt, whose rows tensors do not tell from those of the text.
    """
    if prompt_rows(model):
        raise UsageError("a model with a prompt is read from texts, which tell its rows from the prompt's; got tensors")
    there = stacks(model)

    def gridded(samples: Sequence[int]) -> ModelBatch:
        found = collate(samples)
        batch = found.inputs["batch"]
        if not isinstance(batch, Mapping):
            return found
        grids = {name: grid for name, s in there.items() if (grid := _grid(s.columns, batch)) is not None}
        if _left_padded(found.mask) and "position_ids" not in batch and takes_positions(model, there):
            assert found.mask is not None
            batch = {**batch, "position_ids": (found.mask.long().cumsum(1) - 1).clamp(min=0)}
        return ModelBatch({"batch": batch}, grids)

    widths = {s.name: s.width for s in there.values()}
    return Parts(taps(model), widths, dtype=features_dtype(model)), gridded


def _grid(columns: str, batch: Mapping[str, Any]) -> Grid | None:
    mask, ids = _COLUMNS.get(columns, ("", ""))
    if mask not in batch and ids not in batch:
        return None
    real = (batch[mask] != 0 if mask in batch else torch.ones_like(batch[ids], dtype=torch.bool)).cpu()
    return Grid(torch.full(real.shape, TEXT, dtype=torch.uint8), real)


def _left_padded(mask: Tensor | None) -> bool:
    return mask is not None and mask.ndim == 2 and bool((mask[:, 0] == 0).any())
