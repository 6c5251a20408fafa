"""GRIDE: intrinsic dimension at a chosen scale, from the ratio of the distances to two neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import UsageError
from rankscope.linalg.batch import each_matrix
from rankscope.measures.neighbours import nearest

_STEPS = 200
"""Halvings of the bracket of the dimension, which exceed the digits of float64."""


@each_matrix
def gride(x: Tensor, sample: Tensor | None = None, *, n1: int = 2, n2: int | None = None) -> Tensor:
    r"""GRIDE estimate of the intrinsic dimension, by maximum likelihood.

    With :math:`\mu = r_{n_2} / r_{n_1}`, the dimension is the root of

    .. math:: \frac{N}{d} + (n_2 - n_1 - 1) \sum_i \frac{\ln \mu_i}{1 - \mu_i^{-d}} - (n_2 - 1) \sum_i \ln \mu_i = 0.

    A larger n1 probes a larger scale, beyond the noise. The estimate is above 0 and does not change when the features
    are scaled, rotated or translated. With n1 = 1 and n2 = 2 it is TwoNN with N instead of N - 1. Duplicate rows are
    removed first; with ``sample``, the neighbours of a row are other samples, each represented by its nearest row.

    Denti, Doimo, Laio & Mira, Sci. Rep. 12 (2022), arXiv 2104.13832, equation 8.

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` sample of each row.
        n1: order of the nearer neighbour.
        n2: order of the further neighbour; 2 n1 by default.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if a row has fewer than n2 others.
        NonFinite: if a feature is NaN or infinite.
        UsageError: if n1 and n2 are not 1 ≤ n1 < n2.
    """
    n2 = 2 * n1 if n2 is None else n2
    if not 1 <= n1 < n2:
        raise UsageError(f"GRIDE needs neighbours 1 <= n1 < n2; got {n1} and {n2}")
    distances = nearest(x, n2, sample=sample)
    return _root((distances[:, n2 - 1] / distances[:, n1 - 1]).log(), n1, n2)


def _root(logs: Tensor, n1: int, n2: int) -> Tensor:
    """The dimension at which the derivative of the log-likelihood is zero, by bisection on a logarithmic scale.

    Args:
        logs: ``(N,)`` ln μ of each row.
        n1: order of the nearer neighbour.
        n2: order of the further neighbour.
    """
    logs = logs[logs > 0]
    low, high = logs.new_tensor(1e-8), logs.new_tensor(1e8)
    for _ in range(_STEPS):
        d = (low * high).sqrt()
        # Equation 8, which falls as d grows; 1 - μ^{-d} is -expm1(-d ln μ), accurate for small d too
        score = len(logs) / d - (n2 - 1) * logs.sum()
        if n2 - n1 > 1:
            score = score + (n2 - n1 - 1) * (logs / -torch.expm1(-d * logs)).sum()
        low, high = torch.where(score > 0, d, low), torch.where(score > 0, high, d)
    return (low * high).sqrt()


DEFINITION = Definition(
    name="gride",
    centred=None,
    function=gride,
    reads="rows",
    scale="log",
    formula="root of the likelihood of r_4 / r_2, duplicates removed, other samples by their nearest row",
    citation="Denti et al. 2022 (arXiv 2104.13832), equation 8",
    high="infinity",
    bias="underestimates high dimensions; depends on the scale: compare at equal n and n1",
)
