"""Functions of one matrix, extended to batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from rankscope.errors import UsageError

P = ParamSpec("P")


def each_matrix(function: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Extend a function from ``(n, d)`` features to a scalar to one from ``(*, n, d)`` to ``(*,)``, matrix by matrix.

    For functions without a batched form, because each matrix keeps other rows or has other neighbours. All matrices
    share the further arguments. Without leading dimensions the function itself is called.

    Raises:
        UsageError: if the features have fewer than two dimensions.
    """

    @wraps(function)
    def mapped(x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if x.ndim == 2:
            return function(x, *args, **kwargs)
        if x.ndim < 2:
            raise UsageError(f"features are (*, n, d), one row per observation; got shape {tuple(x.shape)}")
        values = [function(matrix, *args, **kwargs) for matrix in x.reshape(-1, *x.shape[-2:])]
        return torch.stack(values).reshape(x.shape[:-2]) if values else x.new_zeros(x.shape[:-2], dtype=torch.float64)

    return mapped
