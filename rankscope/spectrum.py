"""Spectrum: the singular values of the features at one site, with the facts needed to interpret them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.linalg.svd import Decomposition
from rankscope.sites import Site


def rounding_rms(dtype: torch.dtype) -> float:
    """Root mean square of the relative error of rounding to a dtype, 0.4247 u for a log-uniform mantissa.

    The rounding unit u is 2⁻⁸ for bfloat16, 2⁻¹¹ for float16 and 2⁻²⁴ for float32.
    """
    return 0.4247 * torch.finfo(dtype).eps / 2


def rounding_floor(norm: float, rows: int, columns: int, dtype: torch.dtype) -> float:
    r"""Largest singular value that rounding features to a dtype can produce by itself.

    The rounding error behaves like n × d noise, whose singular values lie in :math:`0.4247\,u\,\lVert X
    \rVert_F\,(1/\sqrt d \pm 1/\sqrt n)` with the rounding unit u of the dtype. This is the upper edge of that band: a
    singular value below it cannot be distinguished from rounding.

    Args:
        norm: Frobenius norm of the features as stored, mean included.
        rows: n.
        columns: d.
        dtype: the dtype in which the features were stored.

    Returns:
        The floor, in the unit of the singular values; 0 without rows or columns.
    """
    if not rows or not columns:
        return 0.0
    return rounding_rms(dtype) * norm * (columns**-0.5 + rows**-0.5)


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
    """Whether the mean over rows was subtracted."""
    dtype: torch.dtype
    """The dtype in which the features were stored."""
    route: str
    """How the values were computed: ``gram``, ``kernel``, ``direct`` or ``moments`` (:mod:`rankscope.linalg.svd`)."""
    norm: float | None = None
    """Frobenius norm of the features as stored, mean included; if None, the norm of the values stands in for it."""

    def __post_init__(self) -> None:
        if self.values.shape != (min(self.rows, self.columns),):
            shape = tuple(self.values.shape)
            raise UsageError(
                f"{self.rows} × {self.columns} features at {self.site} have min(n, d) singular values; got shape {shape}"
            )

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
        """``(r,)`` shares σᵖ/Σσᵖ, which sum to 1; all 0 for a zero matrix. Power 1 is the PT-PEFT paper's, 2 is energy."""
        largest = self.values[:1]
        if not (largest > 0).all():
            return torch.zeros_like(self.values)
        # Dividing by the largest first keeps powers of extreme values in range
        weights = (self.values / largest).pow(power)
        return weights / weights.sum()

    def cumulative(self, *, power: float = 1.0) -> Tensor:
        """``(r,)`` cumulative shares of the leading directions, ending at 1."""
        return self.p(power=power).cumsum(0)

    @property
    def positions(self) -> Tensor:
        """``(r,)`` the abscissa of the cumulative curve: the share of the directions included, 1/r … 1."""
        r = len(self.values)
        return torch.arange(1, r + 1, dtype=torch.float64) / max(r, 1)

    @property
    def floor(self) -> float:
        """The largest singular value that rounding to the stored dtype can produce (:func:`rounding_floor`)."""
        norm = float(self.values.square().sum().sqrt()) if self.norm is None else self.norm
        return rounding_floor(norm, self.rows, self.columns, self.dtype)

    @property
    def below_floor(self) -> int:
        """Number of singular values below the rounding floor; one that centring made zero does not count."""
        return int((self.values[: self.rows - self.centred] < self.floor).sum())

    @property
    def above_floor(self) -> Tensor:
        """``(m,)`` the singular values at or above the rounding floor."""
        return self.values[self.values >= self.floor]
