"""Features that are read a few rows at a time, because all of them together would not fit into memory.

What goes over rows block by block takes them as it takes a tensor. What needs all of them at once is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from rankscope import memory
from rankscope.errors import TooLarge

READ = 0.25
"""The part of the free memory that rows read at once may take; the rest is for what is made of them."""


class Streamed:
    """An ``(n, d)`` matrix of which ``x[index]`` reads some rows, or makes them, as a tensor of their own."""

    ndim = 2

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        read: Callable[[Tensor], Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        """Describe the matrix.

        Args:
            shape: n and d.
            dtype: of the features.
            read: from ``(m,)`` int64 indices of rows, on the CPU and in any order, to those rows, ``(m, d)``.
            device: where ``read`` leaves the rows.
        """
        self.shape = torch.Size(shape)
        """``(n, d)``."""
        self.dtype, self.device = dtype, torch.device(device)
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """n·d, the number of features."""
        return self.shape.numel()

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The rows at a slice, a mask ``(n,)`` or indices ``(*,)``: ``(*, d)``.

        Raises:
            TooLarge: if they do not fit into memory together.
        """
        rows = self._indices(index)
        if rows.numel() * self.shape[1] * self.dtype.itemsize > READ * memory.free():
            raise self._too_large(rows.numel())
        return self._read(rows.flatten()).reshape(*rows.shape, self.shape[1])

    def taken(self, index: slice | Tensor) -> Streamed:
        """The matrix of the rows at a slice, a mask or indices ``(m,)``, none of them read yet."""
        rows = self._indices(index)
        return Streamed((len(rows), self.shape[1]), self.dtype, lambda some: self._read(rows[some]), self.device)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Streamed:
        """The matrix of what a function makes of the rows, each by itself, when they are read."""
        one = function(self[:1])
        return Streamed((len(self), one.shape[1]), one.dtype, lambda some: function(self._read(some)), one.device)

    def to(self, device: torch.device) -> Streamed:
        """The matrix whose rows are moved to a device when they are read."""
        return Streamed((len(self), self.shape[1]), self.dtype, lambda some: self._read(some).to(device), device)

    def _indices(self, index: slice | Tensor) -> Tensor:
        if isinstance(index, slice):
            return torch.arange(*index.indices(len(self)))
        return index.nonzero().flatten().cpu() if index.dtype == torch.bool else index.cpu()

    def _refuse(self, *_: object) -> NoReturn:
        raise self._too_large(len(self))

    def _too_large(self, rows: int) -> TooLarge:
        n, d = self.shape
        size, left = rows * d * self.dtype.itemsize / 1e9, memory.free() / 1e9
        return TooLarge(
            f"this needs {'all' if rows == n else f'{rows:,} of'} {n:,} rows of {d:,} features at once, {size:.3g} GB and more where "
            f"it computes with them, and {left:.3g} GB of memory are free; collect fewer samples for it, or allow more memory"
        )

    if not TYPE_CHECKING:  # so that a type checker still finds what only a tensor has

        def __getattr__(self, name: str) -> Any:
            return self._refuse() if hasattr(Tensor, name) else object.__getattribute__(self, name)

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            next(one for one in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(one, cls))._refuse()

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
        __matmul__ = __rmatmul__ = __pow__ = __neg__ = __eq__ = __lt__ = __gt__ = __abs__ = _refuse
        __hash__ = object.__hash__


RowMatrix: TypeAlias = Tensor | Streamed
"""``(n, d)`` features, of which rows are read block by block."""


def taken(x: RowMatrix, index: slice | Tensor) -> RowMatrix:
    """The rows at a slice, a mask or indices, of a streamed matrix none of them read yet."""
    return x.taken(index) if isinstance(x, Streamed) else x[index]


def mapped(x: RowMatrix, function: Callable[[Tensor], Tensor]) -> RowMatrix:
    """What a function makes of each row by itself, of a streamed matrix when it is read."""
    return x.mapped(function) if isinstance(x, Streamed) else function(x)
