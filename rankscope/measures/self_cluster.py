"""SelfCluster: how much closer rows are to each other than independent directions would be."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import DataError
from rankscope.linalg.batch import each_matrix


@each_matrix
def self_cluster(x: Tensor, sample: Tensor | None = None) -> Tensor:
    r"""SelfCluster of the rows brought to length one.

    .. math:: \frac{\lVert \hat X \hat X^\top \rVert_F^2 - n - n(n-1)/d}{n^2 - n - n(n-1)/d}

    1 when all rows have one direction, about 0 when directions are uniform; it does not change when the features are scaled or
    turned. An affine function of 1/PR of the normalised uncentred matrix. Rows of zeros are left out.

    Tsitsulin, Munkhoeva & Perozzi, "Unsupervised embedding quality evaluation", 2023 (arXiv 2305.16562), section 3.

    Args:
        x: ``(*, n, d)`` features, d at least 2.
        sample: the sample of each row; it makes no difference.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if fewer than two rows are not zero, or d is 1.
    """
    z = x.double()
    length = torch.linalg.vector_norm(z, dim=-1)
    z = z[length > 0] / length[length > 0, None]
    n, d = z.shape
    if n < 2 or d < 2:
        raise DataError(f"SelfCluster needs 2 rows that are not zero and 2 dimensions; there are {n} and {d}")
    gram = z.mT @ z if d <= n else z @ z.mT
    chance = n * (n - 1) / d
    return (gram.square().sum() - n - chance) / (n * n - n - chance)


DEFINITION = Definition(
    name="self-cluster",
    function=self_cluster,
    reads="rows",
    formula="(|X X^T|^2 - n - n(n-1)/d) / (n^2 - n - n(n-1)/d), rows of length one",
    citation="Tsitsulin et al. 2023 (arXiv 2305.16562)",
    low="about 0",
    high="1",
    bias="none in n for independent rows; a mean direction lifts it",
    unit="share of clustering",
)
