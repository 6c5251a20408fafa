"""Rows and dimensions of massive size, which alone can determine a rank: they are reported, and never dropped silently."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition, rows_of, width_of
from rankscope.linalg.batch import each_matrix
from rankscope.linalg.rows import blocks, mean_row
from rankscope.linalg.streamed import RowMatrix

TIMES = 10.0
"""How many times the median length counts as massive."""


def sink_rows(x: RowMatrix, *, times: float = TIMES) -> Tensor:
    """Which rows are longer than ``times`` the median row, as attention sinks are.

    Xiao et al., ICLR 2024 (arXiv 2309.17453); Sun et al., COLM 2024 (arXiv 2402.17762).

    Args:
        x: ``(n, d)`` features.
        times: multiple of the median length above which a row counts as massive.

    Returns:
        ``(n,)`` bool.
    """
    lengths = [part.double().square().sum(1) for part in blocks(x)] or [torch.zeros(0)]
    return longest(torch.cat(lengths).sqrt(), times=times)


def longest(length: Tensor, *, times: float = TIMES) -> Tensor:
    """Which of some ``(n,)`` lengths are above ``times`` their median: ``(n,)`` bool."""
    return length > times * length.median() if len(length) else length.bool()


def massive_dimensions(x: RowMatrix, *, times: float = TIMES) -> Tensor:
    """Which dimensions have a root mean square above ``times`` that of the median dimension.

    Timkey & van Schijndel, EMNLP 2021 (arXiv 2109.04404), where they are called rogue dimensions.

    Args:
        x: ``(n, d)`` features.
        times: multiple of the median above which a dimension counts as massive.

    Returns:
        ``(d,)`` bool.
    """
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for part in blocks(x):
        total += part.double().square().sum(0)
    return longest((total / len(x)).sqrt(), times=times)


def standardised(x: Tensor) -> Tensor:
    """``(n, d)`` features with mean 0 and standard deviation 1 in every dimension that varies, float64.

    Their covariance is the correlation matrix, in which no dimension is massive.
    """
    return (x.double() - mean_row(x, x.device)) / deviations(x)


def deviations(x: RowMatrix) -> Tensor:
    """``(d,)`` the standard deviation of every dimension of ``(n, d)`` features, float64; 1 of those that do not vary."""
    mean = mean_row(x, x.device)
    squares = torch.stack([(part.double() - mean).square().sum(0) for part in blocks(x)]).sum(0)
    deviation = (squares / len(x)).sqrt()
    return deviation.where(deviation > 0, 1)


@each_matrix
def count_sinks(x: Tensor, sample: Tensor | None = None) -> Tensor:
    """Number of rows that :func:`sink_rows` finds in ``(*, n, d)`` features: ``(*,)`` float64."""
    return sink_rows(x).sum().double()


@each_matrix
def count_massive(x: Tensor, sample: Tensor | None = None) -> Tensor:
    """Number of dimensions that :func:`massive_dimensions` finds in ``(*, n, d)`` features: ``(*,)`` float64."""
    return massive_dimensions(x).sum().double()


DEFINITIONS = (
    Definition(
        name="sink-rows",
        centred=False,
        function=count_sinks,
        reads="rows",
        formula="#{|x_i| > 10 median |x|}",
        citation="Xiao et al. 2024 (arXiv 2309.17453); Sun et al. 2024 (arXiv 2402.17762)",
        high="n / 2",
        most=rows_of,
        bias="none",
        unit="rows",
    ),
    Definition(
        name="massive-dimensions",
        centred=False,
        function=count_massive,
        reads="rows",
        formula="#{rms_j > 10 median rms}",
        citation="Timkey & van Schijndel 2021 (arXiv 2109.04404)",
        high="d / 2",
        most=width_of,
        bias="none",
    ),
)
