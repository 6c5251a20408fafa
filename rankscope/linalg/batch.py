"""Functions of one matrix, made to take a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from rankscope.errors import UsageError

P = ParamSpec("P")


def each_matrix(function: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """A function of ``(n, d)`` features to a scalar that takes ``(*, n, d)`` and gives ``(*,)``, a matrix at a time.

    For what has no batched form: the rows that a matrix keeps, or their neighbours, are others in each. The further
    arguments are shared. Without leading dimensions it is the function itself.

    Raises:
        UsageError: if the features have fewer than two dimensions.
    """

    @wraps(function)
    def mapped(x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if x.ndim == 2:
            return function(x, *args, **kwargs)
        if x.ndim < 2:
            raise UsageError(f"features are (*, n, d), a row an observation; got {tuple(x.shape)}")
        values = [function(matrix, *args, **kwargs) for matrix in x.reshape(-1, *x.shape[-2:])]
        return torch.stack(values).reshape(x.shape[:-2]) if values else x.new_zeros(x.shape[:-2], dtype=torch.float64)

    return mapped
