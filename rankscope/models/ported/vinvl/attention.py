"""What a position may see, and the attention that reads it.

A mask says 1 where a query may look. It is ``(b, n)`` — which of the ``n`` positions (words, tags, then regions) are
real — or ``(b, n, n)``, row by row. A prefix or the keys of an earlier call come before the ``n`` columns; a mask
without columns for them leaves them visible to every row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from rankscope.errors import UsageError
from rankscope.models.ported.vinvl.configuration import VinVLConfig

_HIDDEN = -10000.0
"""What is added to a score that may not be seen: BERT's finite constant, so that a row that sees nothing (padding of
the published 2-D mask) still has the weights the original gives it."""


def caption_visibility(mask: Tensor, caption: Tensor) -> Tensor:
    """The sequence-to-sequence mask: words see earlier words, tags and regions; tags and regions see each other.

    Args:
        mask: ``(b, n)``, 1 at real positions; columns before the last ``n`` are a prefix's.
        caption: ``(b, n)``, true at the positions of the caption, real or not.

    Returns:
        ``(b, n, columns)`` booleans, true where the row may see the column.

    Zhou et al., AAAI 2020; Oscar, ECCV 2020, section 5 ("image captioning").
    """
    n = caption.shape[1]
    before, real = mask[:, :-n].bool(), mask[:, -n:].bool()
    causal = torch.ones(n, n, dtype=torch.bool, device=mask.device).tril()
    rows, columns = caption[:, :, None], caption[:, None, :]
    # A word sees no later word of the caption; everything sees what is outside the caption; only real positions count.
    seen = ((rows & columns & causal) | ~columns) & real[:, :, None] & real[:, None, :]
    return torch.cat([before[:, None, :].expand(-1, n, -1), seen], dim=2)


def additive(mask: Tensor, *, past: int, rows: int, dtype: torch.dtype) -> Tensor:
    """The mask as what is added to scores; earlier columns that it does not cover are seen.

    Args:
        mask: ``(b, m)`` or ``(b, rows, m)`` with ``rows ≤ m ≤ past + rows``: the last ``m`` columns.
        past: columns of earlier positions.
        rows: positions of this call.

    Returns:
        ``(b, 1, 1 or rows, past + rows)``: 0 where seen, −10000 where not.

    Raises:
        UsageError: if the mask is of another shape.
    """
    columns = mask.shape[-1]
    fits = mask.dim() == 2 or (mask.dim() == 3 and mask.shape[1] == rows)
    if not fits or not rows <= columns <= past + rows:
        raise UsageError(
            f"an attention mask of shape {tuple(mask.shape)} does not fit {rows} positions after {past} earlier ones; "
            f"give (batch, {rows}) or (batch, {rows}, {rows}) over words, tags and regions"
        )
    seen = mask if mask.dim() == 3 else mask[:, None, :]
    before = seen.new_ones(*seen.shape[:2], past + rows - columns)
    # 0 where seen, −10000 where not: (1 − mask) · −10000, as BERT has it.
    return ((1.0 - torch.cat([before, seen], dim=2).to(dtype)) * _HIDDEN)[:, None]


class SelfAttention(nn.Module):
    """Multi-head attention over the positions of this call and the keys before them."""

    def __init__(self, config: VinVLConfig, index: int) -> None:
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            raise UsageError(
                f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}"
            )
        self.index, self.num_heads = index, config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, bias: Tensor, past: Cache | None, transient: int) -> tuple[Tensor, Tensor]:
        """``(b, t, d)`` mixed values and ``(b, heads, t, past + t)`` weights.

        Args:
            x: ``(b, t, d)`` states.
            bias: ``(b, 1, 1 or t, past + t)`` added to the scores.
            past: keys and values of earlier positions; those of this call are appended.
            transient: that many of the last positions are read now but not kept (the ``[MASK]`` of a decoding step).
        """
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        if past is not None:
            kept = x.shape[1] - transient
            old_key, old_value = past.update(key[:, :, :kept], value[:, :, :kept], self.index)
            key = torch.cat([old_key, key[:, :, kept:]], dim=2)
            value = torch.cat([old_value, value[:, :, kept:]], dim=2)
        # softmax(QKᵀ / √w + bias) V
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
        weights = scores.softmax(dim=-1)
        mixed = self.dropout(weights) @ value
        return mixed.transpose(1, 2).flatten(2), weights

    def _split(self, x: Tensor) -> Tensor:
        """``(b, t, d)`` to ``(b, heads, t, d / heads)``."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
