"""Coherence: how far a single row accounts for a whole direction of the features."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition, rows_of
from rankscope.errors import DataError, NonFinite
from rankscope.linalg.batch import each_matrix


@each_matrix
def coherence(x: Tensor, sample: Tensor | None = None) -> Tensor:
    r"""Coherence of the left singular vectors of the uncentred features.

    .. math:: \frac{n}{k} \max_i \lVert u_i \rVert^2

    where :math:`u_i` are the rows of U and k is the rank of the features (d if they have full column rank). It lies
    between 1, when all rows contribute equally, and n/k, when a single row, an outlier, accounts for a direction. It
    does not change under any invertible linear map of the features.

    Candès & Recht, Found. Comput. Math. 9 (2009), definition 1.2; as a measure of embeddings, Tsitsulin et al. 2023
    (arXiv 2305.16562).

    Args:
        x: ``(*, n, d)`` features.
        sample: not used.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if all features are zero.
        NonFinite: if a feature is NaN or infinite.
    """
    if not torch.isfinite(x).all():
        raise NonFinite("features must be finite; some are NaN or infinite")
    u, s, _ = torch.linalg.svd(x.double(), full_matrices=False)
    # Singular values below LAPACK's error bound count as zero
    limit = max(x.shape) * torch.finfo(torch.float64).eps * (s[0] if len(s) else 0)
    rank = int((s > limit).sum())
    if not rank:
        raise DataError("coherence needs features that are not all zero")
    return len(x) / rank * u[:, :rank].square().sum(1).max()


DEFINITION = Definition(
    name="coherence",
    function=coherence,
    reads="rows",
    formula="(n / k) max_i |u_i|^2, U of the SVD, k the rank",
    centred=False,
    citation="Candes & Recht 2009, definition 1.2; Tsitsulin et al. 2023 (arXiv 2305.16562)",
    low="1",
    high="n / k",
    least=1.0,
    most=rows_of,
    of_nothing=0.0,
    bias="the maximum over rows grows with n; always 1 if n <= d",
    unit="",
)
