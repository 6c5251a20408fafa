"""From hidden states ``(b, t, d)`` and what each column is, to rows: chosen by mask, never by column."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rankscope.features import ANSWER, AUDIO, IMAGE, POOLED, QUERY, SPECIAL, TEXT, Grid
from rankscope.reading.kinds import KINDS, check_kind

_ROLES: dict[str, tuple[int, ...] | None] = dict.fromkeys(KINDS)  # None: every real token is a row, whatever its role
_ROLES |= {"text": (TEXT, ANSWER), "image": (IMAGE,), "query": (QUERY,), "answer": (ANSWER,), "audio": (AUDIO,)}


@dataclass(frozen=True)
class Pooling:
    """Which rows of a batch are kept at one stack, and how they are taken from its hidden states."""

    mask: Tensor
    """``(b, t)`` bool, the columns that count."""
    mean: bool
    """Whether they are averaged to one row a sample."""
    sample: Tensor
    """``(n,)`` int64, for each row its place in the batch."""
    position: Tensor
    """``(n,)`` int64, for each row its place among the real tokens of its sample; -1 for a mean."""
    role: Tensor
    """``(n,)`` uint8, the role of each row."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Rows ``(n, d)`` of hidden states ``(b, t, d)``: a fresh tensor, so that the whole activation can be freed.

        A mean is taken in float64 and returned in the dtype of the hidden states (float32 at least).
        """
        if not self.mean:
            return hidden.flatten(0, 1).index_select(0, self._places.to(hidden.device))
        weight = self.mask[self.sample].to(hidden.device, torch.float64).unsqueeze(-1)
        total = hidden[self.sample.to(hidden.device)].to(torch.float64).masked_fill(weight == 0, 0.0).sum(1)
        return (total / weight.sum(1)).to(torch.promote_types(hidden.dtype, torch.float32))

    @cached_property
    def _places(self) -> Tensor:
        """``(n,)`` int64: where the kept columns are among all of the batch. By them rows are taken in an eighth of a mask's time."""
        return self.mask.flatten().nonzero().squeeze(1)


def roles_of(kind: str) -> tuple[int, ...] | None:
    """The roles of the rows of a kind; None where every real token is one.

    Raises:
        UnknownName: if there is no such kind.
    """
    return _ROLES[check_kind(kind)]


def chosen(grid: Grid, kind: str, *, keep_special: bool = False) -> Tensor:
    """``(b, t)`` bool: the columns that rows of a kind are made of."""
    mask = grid.real if keep_special else grid.real & (grid.role != SPECIAL)
    roles = roles_of(kind)
    if roles is not None:
        mask = mask & torch.isin(grid.role, torch.tensor(roles, dtype=grid.role.dtype, device=grid.role.device))
    if kind == "first":
        return mask & (mask.cumsum(1) == 1)
    if kind == "last":
        return mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return mask


def pool(grid: Grid, kind: str, *, keep_special: bool = False) -> Pooling:
    """The pooling of one batch at one stack.

    Args:
        grid: what each column is.
        kind: one of :data:`KINDS`.
        keep_special: whether special tokens count.

    Raises:
        UnknownName: if there is no such kind.
    """
    mask = chosen(grid, kind, keep_special=keep_special)
    if kind == "mean":
        sample = mask.any(1).nonzero().squeeze(1)
        return Pooling(
            mask, True, sample, torch.full_like(sample, -1), torch.full(sample.shape, POOLED, dtype=torch.uint8)
        )
    sample, column = mask.nonzero(as_tuple=True)
    return Pooling(mask, False, sample, grid.position[sample, column], grid.role[sample, column])
