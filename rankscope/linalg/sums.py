"""What all sums over rows share: addition, subtraction, and reading rows block by block in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from rankscope.errors import NonFinite, UsageError
from rankscope.linalg.streamed import RowMatrix

BLOCK = 1 << 22
"""Numbers converted to float64 at a time (32 MiB), of which there are several copies. Four times as many take no less time."""
ACCELERATED = 8
"""How many times as many on an accelerator, which products of fewer rows, and as many more calls, leave idle."""


@dataclass(frozen=True)
class Sums:
    """Sums that add and subtract field by field, and whose leading dimensions can be summed, weighted or indexed."""

    @property
    def origin(self) -> Self | None:
        """The sums of which these are a copy in a graph of derivatives, so that what was solved of them need not be again."""
        return self.__dict__.get("origin")

    def __add__(self, other: Self) -> Self:
        return self._joined(other, torch.add)

    def __sub__(self, other: Self) -> Self:
        return self._joined(other, torch.sub)

    def _joined(self, other: Self, operation: Callable[[Tensor, Tensor], Tensor]) -> Self:
        """The operation field by field, within nested sums too; the shifts must agree, and stay."""
        changed: dict[str, object] = {}
        for name in (f.name for f in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Sums):
                changed[name] = mine._joined(theirs, operation)
            elif name != "shift":
                changed[name] = operation(mine, theirs)
            elif mine is not theirs and not torch.equal(mine, theirs):
                raise UsageError(
                    "sums about different shifts cannot be added or subtracted; compute them with the same shift"
                )
        return replace(self, **changed)

    def _mapped(self, function: Callable[[Tensor], Tensor], *, shift: bool = False) -> Self:
        """The function of every field, within nested sums too; of the shift only if ``shift``."""
        changed: dict[str, object] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Sums):
                changed[name] = value._mapped(function, shift=shift)
            elif name != "shift" or shift:
                changed[name] = function(value)
        return replace(self, **changed)

    def sum(self, dim: int = 0) -> Self:
        """The total over leading dimension ``dim``, counted from the front."""
        return self._mapped(lambda value: value.sum(dim))

    def __getitem__(self, index: int | slice | Tensor) -> Self:
        """The entries at ``index`` of the first leading dimension."""
        return self._mapped(lambda value: value[index])

    def weighted(self, weights: Tensor) -> Self:
        """Weighted totals over the first leading dimension: weights ``(G,)`` give one set of sums, ``(k, G)`` give k."""
        return self._mapped(lambda value: torch.tensordot(weights, value, dims=1))

    def to(self, device: torch.device | str) -> Self:
        """The same sums on another device."""
        return self._mapped(lambda value: value.to(device), shift=True)


def at_once(device: torch.device, on_cpu: int | None = None) -> int:
    """How many float64 numbers to hold at a time on a device: ``on_cpu`` (:data:`BLOCK` by default), or more on an accelerator."""
    return (on_cpu or BLOCK) * (1 if device.type == "cpu" else ACCELERATED)


def row_blocks(
    x: RowMatrix, group: Tensor | None, groups: int, device: torch.device
) -> Iterator[tuple[int, slice | Tensor]]:
    """The rows of each group in turn, as (group, index) pairs of as many numbers as a device takes at once."""
    if x.ndim != 2:
        raise UsageError(f"rows are given as an (n, d) matrix; got shape {tuple(x.shape)}")
    step = max(1, at_once(device) // max(1, x.shape[1]))
    if group is None:
        yield from ((0, slice(i, i + step)) for i in range(0, len(x), step))
        return
    if group.shape != (len(x),):
        raise UsageError(
            f"{len(x)} rows need a group each, of shape ({len(x)},); got groups of shape {tuple(group.shape)}"
        )
    order = torch.argsort(group, stable=True)
    present, counts = torch.unique(group, return_counts=True)
    numbers = present.tolist()
    if numbers and not 0 <= numbers[0] <= numbers[-1] < groups:
        raise UsageError(f"groups are numbered 0 to {groups - 1}; got {numbers[0]} to {numbers[-1]}")
    for g, index in zip(numbers, order.split(counts.tolist()), strict=True):
        yield from ((g, part.to(x.device)) for part in index.split(step))


def shifted(x: RowMatrix, index: slice | Tensor, shift: Tensor) -> Tensor:
    """The rows of ``x`` at ``index`` minus the shift, in float64 and on the device of the shift."""
    if x.shape[1] != len(shift):
        raise UsageError(f"the rows have {x.shape[1]} features, but the shift {len(shift)}")
    return lifted(x[index], shift.device) - shift


def lifted(x: Tensor, device: torch.device) -> Tensor:
    """Features in float64 on a device, without their gradient.

    They travel as they are stored: asked for both at once, torch converts on the CPU and copies up to four times as much.
    """
    return x.detach().to(device).double()


def refuse_non_finite(sums: Tensor, x: RowMatrix) -> None:
    """Raise NonFinite, naming the first offending row of ``x``, if the sums over its rows are not finite."""
    if not torch.isfinite(sums).all():
        finite = torch.cat([torch.isfinite(x[index]).all(-1) for _, index in row_blocks(x, None, 1, x.device)])
        bad = (~finite).nonzero().flatten().tolist()
        where = f"row {bad[0]} of {len(x)} ({len(bad)} in all)" if bad else "their fourth powers"
        raise NonFinite(f"features must be finite; NaN or infinite in {where}")
