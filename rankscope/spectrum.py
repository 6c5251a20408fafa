"""Spectrum: the singular values of the features at one site, with what is needed to read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.linalg.svd import Decomposition
from rankscope.sites import Site

ROUNDING_RMS = 0.4247
"""Root mean square of the relative error of rounding a number with log-uniform mantissa, in units of u."""


def rounding_floor(norm: float, rows: int, columns: int, dtype: torch.dtype) -> float:
    r"""The largest singular value that storing features in a dtype can make out of nothing.

    Rounding adds an error that behaves like n × d noise; its singular values lie in
    :math:`0.4247\,u\,\lVert X \rVert_F\,(1/\sqrt d \pm 1/\sqrt n)`, with u = 2⁻⁸ for bfloat16, 2⁻¹¹ for float16, 2⁻²⁴
    for float32. Of that band this is the upper edge: what lies below it cannot be told from rounding.

    Args:
        norm: Frobenius norm of the features as stored, the mean included.
        rows: n.
        columns: d.
        dtype: the dtype in which the features were stored.

    Returns:
        the floor, in the unit of the singular values; 0 without rows or columns.
    """
    if not rows or not columns:
        return 0.0
    return ROUNDING_RMS * torch.finfo(dtype).eps / 2 * norm * (columns**-0.5 + rows**-0.5)


@dataclass(frozen=True)
class Spectrum:
    """The singular values of the features of one run at one site."""

    values: Tensor
    """``(r,)`` float64 singular values, descending, r = min(n, d)."""
    rows: int
    """n, the number of rows of the features."""
    columns: int
    """d, the number of features."""
    site: Site
    """Where they were read."""
    centred: bool
    """Whether the mean over rows was taken away."""
    dtype: torch.dtype
    """The dtype in which the features were stored."""
    route: str
    """How the values were computed: ``gram``, ``kernel``, ``direct``, ``moments``."""
    norm: float = math.nan
    """Frobenius norm of the features as stored, the mean included; without it that of the values is taken."""

    def __post_init__(self) -> None:
        if self.values.shape != (min(self.rows, self.columns),):
            shape = tuple(self.values.shape)
            raise UsageError(
                f"{self.rows} × {self.columns} features at {self.site} do not have {shape} singular values"
            )
        if math.isnan(self.norm):
            object.__setattr__(self, "norm", float(self.values.square().sum().sqrt()))

    @classmethod
    def of(cls, decomposition: Decomposition, site: Site, index: int = 0) -> Spectrum:
        """The spectrum of the matrix at ``index`` (its place in the flattened batch) of a decomposition."""
        values = decomposition.values.reshape(-1, decomposition.values.shape[-1])[index]
        return cls(
            values,
            decomposition.rows,
            decomposition.columns,
            site,
            decomposition.centred,
            decomposition.dtype,
            decomposition.routes[index],
            float(decomposition.norm.reshape(-1)[index]),
        )

    def p(self, *, power: float = 1.0) -> Tensor:
        """``(r,)`` shares σᵖ/Σσᵖ, which sum to 1; all 0 for a zero matrix. Power 1 is the paper's, 2 is energy."""
        largest = self.values[:1]
        if not (largest > 0).all():
            return torch.zeros_like(self.values)
        weights = (self.values / largest).pow(power)
        return weights / weights.sum()

    def cumulative(self, *, power: float = 1.0) -> Tensor:
        """``(r,)`` cumulative shares, which end at 1."""
        return self.p(power=power).cumsum(0)

    @property
    def positions(self) -> Tensor:
        """``(r,)`` the abscissa of the cumulative curve: 1/r … 1, the share of the directions taken."""
        r = len(self.values)
        return torch.arange(1, r + 1, dtype=torch.float64) / max(r, 1)

    @property
    def floor(self) -> float:
        """The largest singular value that rounding to the stored dtype can make (:func:`rounding_floor`)."""
        return rounding_floor(self.norm, self.rows, self.columns, self.dtype)

    @property
    def below_floor(self) -> int:
        """How many singular values cannot be told from rounding."""
        return int((self.values < self.floor).sum())

    @property
    def above_floor(self) -> Tensor:
        """``(m,)`` the singular values that can be told from rounding."""
        return self.values[self.values >= self.floor]
