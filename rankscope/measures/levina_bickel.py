"""The maximum-likelihood intrinsic dimension of Levina and Bickel."""

from __future__ import annotations

from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import UsageError
from rankscope.linalg.batch import each_matrix
from rankscope.measures.neighbours import nearest


@each_matrix
def levina_bickel(x: Tensor, sample: Tensor | None = None, *, k: int = 20) -> Tensor:
    r"""Intrinsic dimension by maximum likelihood from the k nearest rows, combined by the harmonic mean.

    .. math:: \hat d^{-1} = \frac{1}{n} \sum_i \frac{1}{k - 1} \sum_{j < k} \ln \frac{T_k(x_i)}{T_j(x_i)}

    where T_j is the distance to the j-th neighbour. The estimate is above 0 and does not change when the features are
    scaled, rotated or translated. Like all such estimates it is too low for high dimensions. Duplicate rows are removed
    first; with ``sample``, the neighbours of a row are other samples, each represented by its nearest row.

    Levina & Bickel, NIPS 2004, equation 8; the harmonic mean is MacKay & Ghahramani's correction (2005).

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` sample of each row.
        k: number of neighbours, at least 2.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if a row has fewer than k others.
        NonFinite: if a feature is NaN or infinite.
        UsageError: if k is less than 2.
    """
    if k < 2:
        raise UsageError(f"the estimate needs at least 2 neighbours; got {k}")
    distances = nearest(x, k, sample=sample)
    # Equation 8: the inverse of the mean over j < k of ln T_k/T_j; averaging inverses is the harmonic mean
    inverse = (distances[:, -1:] / distances[:, :-1]).log().mean(-1)
    return 1 / inverse.mean()


DEFINITION = Definition(
    name="levina-bickel",
    centred=None,
    function=levina_bickel,
    reads="rows",
    scale="log",
    formula="1 / mean_i mean_(j<k) ln(T_k / T_j), k = 20, duplicates removed, other samples by their nearest row",
    citation="Levina & Bickel, NIPS 2004, equation 8; MacKay & Ghahramani 2005",
    high="infinity",
    bias="underestimates high dimensions; compare at equal n",
)
