"""Anisotropy: the mean cosine between rows, and what each dimension contributes to it."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import DataError
from rankscope.linalg.batch import each_matrix
from rankscope.linalg.rows import unit_rows
from rankscope.measures.sinks import standardised


def cosine_contributions(x: Tensor, *, standardise: bool = False) -> Tensor:
    r"""What each dimension contributes to the mean cosine between different rows.

    .. math:: \frac{(\sum_i \hat x_{ij})^2 - \sum_i \hat x_{ij}^2}{n (n - 1)}, \qquad \hat x_i = x_i / \lVert x_i \rVert

    The contributions sum to :func:`mean_cosine`. One to three dimensions often account for nearly all of it. Rows of
    zeros have no direction and are left out.

    Timkey & van Schijndel, "All bark and no bite", EMNLP 2021 (arXiv 2109.04404), equation 3.

    Args:
        x: ``(n, d)`` features.
        standardise: first centre each dimension and divide it by its standard deviation.

    Returns:
        ``(d,)`` contributions, float64.

    Raises:
        DataError: if fewer than two rows have a direction.
    """
    unit = unit_rows(standardised(x) if standardise else x)
    n = len(unit)
    if n < 2:
        raise DataError(f"a mean cosine needs at least 2 rows that are not zero; there are {n}")
    # Σ over pairs i ≠ k of x̂_ij x̂_kj is the square of the sum minus the sum of squares
    return (unit.sum(0).square() - unit.square().sum(0)) / (n * (n - 1))


@each_matrix
def mean_cosine(x: Tensor, sample: Tensor | None = None, *, standardise: bool = False) -> Tensor:
    r"""Mean cosine between different rows.

    .. math:: \bar c = \frac{\lVert \sum_i \hat x_i \rVert^2 - n}{n (n - 1)}

    It lies between -1/(n - 1) and 1 and does not change when the features are scaled or rotated. It measures the mean
    rather than the spread: isotropic noise of length one about a mean of length m gives m²/(1 + m²), centred rows about
    0. Rows of zeros are left out.

    Ethayarajh, "How contextual are contextualized word representations?", EMNLP 2019 (arXiv 1909.00512); standardised,
    Timkey & van Schijndel, EMNLP 2021 (arXiv 2109.04404).

    Args:
        x: ``(*, n, d)`` features.
        sample: not used.
        standardise: standardise every dimension first, so that none can dominate the mean.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if fewer than two rows are not zero.
    """
    return cosine_contributions(x, standardise=standardise).sum()


DEFINITIONS = (
    Definition(
        name="anisotropy",
        centred=False,
        function=mean_cosine,
        reads="rows",
        formula="(|sum x / |x||^2 - n) / (n (n - 1))",
        citation="Ethayarajh, EMNLP 2019 (arXiv 1909.00512)",
        low="-1 / (n - 1)",
        high="1",
        least=-1.0,
        most=1.0,
        bias="none in n; measures the mean direction, to which one to three dimensions often contribute nearly everything",
        unit="cosine",
    ),
    Definition(
        name="anisotropy-standardised",
        function=partial(mean_cosine, standardise=True),
        reads="rows",
        formula="(|sum x / |x||^2 - n) / (n (n - 1)) of standardised dimensions",
        citation="Timkey & van Schijndel, EMNLP 2021 (arXiv 2109.04404)",
        low="-1 / (n - 1)",
        high="1",
        least=-1.0,
        most=1.0,
        bias="near 0 by construction; what remains comes from rows of unequal length",
        unit="cosine",
    ),
)
