"""The maximum-likelihood intrinsic dimension of Levina and Bickel."""

from __future__ import annotations

from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import UsageError
from rankscope.linalg.batch import each_matrix
from rankscope.measures.neighbours import nearest


@each_matrix
def levina_bickel(x: Tensor, sample: Tensor | None = None, *, k: int = 20) -> Tensor:
    r"""Intrinsic dimension by maximum likelihood over the k nearest rows, combined by the harmonic mean.

    .. math:: \hat d^{-1} = \frac{1}{n} \sum_i \frac{1}{k - 1} \sum_{j < k} \ln \frac{T_k(x_i)}{T_j(x_i)}

    with T_j the distance to the j-th neighbour. Above 0; it does not change when the features are scaled, turned or
    shifted. Like all such estimates it is too low for high dimensions. Duplicated rows are removed first; with ``sample``,
    neighbours are other samples, each by its nearest row.

    Levina & Bickel, NIPS 2004, equation 8; the harmonic mean is MacKay & Ghahramani's correction (2005).

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` sample of each row.
        k: how many neighbours, at least 2.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if a row has fewer than k others.
        NonFinite: if a feature is NaN or infinite.
        UsageError: if k is less than 2.
    """
    if k < 2:
        raise UsageError(f"the estimate takes at least 2 neighbours; got {k}")
    distances = nearest(x, k, sample=sample)
    inverse = (distances[:, -1:] / distances[:, :-1]).log().mean(-1)
    return 1 / inverse.mean()


DEFINITION = Definition(
    name="levina-bickel",
    function=levina_bickel,
    reads="rows",
    scale="log",
    formula="1 / mean_i mean_(j<k) ln(T_k / T_j), k = 20, duplicates removed, other samples by their nearest row",
    citation="Levina & Bickel, NIPS 2004, equation 8; MacKay & Ghahramani 2005",
    high="infinity",
    bias="under-estimates high dimensions; compare at equal n",
)
