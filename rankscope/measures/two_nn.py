"""TwoNN: intrinsic dimension from the ratio of the distances to the two nearest rows."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import UsageError
from rankscope.linalg.batch import each_matrix
from rankscope.measures.neighbours import nearest

KEPT = 0.9
"""The share of the ratios, smallest first, to which the published line is fitted."""


@each_matrix
def two_nn(x: Tensor, sample: Tensor | None = None, *, method: Literal["mle", "linear"] = "mle") -> Tensor:
    r"""TwoNN estimate of the intrinsic dimension.

    The ratio :math:`\mu = r_2 / r_1` of the distances to the second and the first neighbour follows a Pareto law whose
    exponent is the dimension, provided that the density is constant over that distance.

    .. math:: \hat d = \frac{N - 1}{\sum_i \ln \mu_i}

    or, as published, the slope through the origin of :math:`-\ln(1 - i/N)` on the i-th smallest :math:`\ln \mu`, i up
    to 0.9 N. The estimate is above 0 and does not change when the features are scaled, rotated or translated. High
    dimensions are underestimated (50 as 31 with 2000 rows): read it as a lower bound, and compare it at equal n.
    Duplicate rows are removed first; with ``sample``, the neighbours of a row are other samples, each represented by
    its nearest row.

    Facco, d'Errico, Rodriguez & Laio, Sci. Rep. 7 (2017), arXiv 1803.06992.

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` sample of each row.
        method: ``mle`` for maximum likelihood, ``linear`` for the published fit of a line.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if fewer than three rows differ.
        NonFinite: if a feature is NaN or infinite.
        UsageError: for another method.
    """
    distances = nearest(x, 2, sample=sample)
    logs = (distances[:, 1] / distances[:, 0]).log().sort().values
    n = len(logs)
    if method == "mle":
        return (n - 1) / logs.sum()
    if method != "linear":
        raise UsageError(f"TwoNN is fitted by 'mle' or 'linear'; got {method!r}")
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=x.device)[: int(KEPT * n)]
    y = -torch.log1p(-rank / n)
    logs = logs[: len(y)]
    return (logs @ y) / (logs @ logs)  # least squares through the origin


DEFINITION = Definition(
    name="two-nn",
    centred=None,
    function=two_nn,
    reads="rows",
    scale="log",
    formula="(N - 1) / sum ln(r_2 / r_1), duplicates removed, other samples by their nearest row",
    citation="Facco et al. 2017 (arXiv 1803.06992)",
    high="infinity",
    bias="underestimates high dimensions (50 as 31 at n = 2000); compare at equal n",
)
