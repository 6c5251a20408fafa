"""SelfCluster: how much more similar rows are to each other than independent directions would be."""

from __future__ import annotations

from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import DataError
from rankscope.linalg.batch import each_matrix
from rankscope.linalg.forms import squared_norm
from rankscope.linalg.rows import unit_rows


@each_matrix
def self_cluster(x: Tensor, sample: Tensor | None = None) -> Tensor:
    r"""SelfCluster: excess similarity of the rows scaled to length one, as a share of its maximum.

    .. math:: \frac{\lVert \hat X \hat X^\top \rVert_F^2 - n - n(n-1)/d}{n^2 - n - n(n-1)/d}

    It is 1 when all rows point in one direction and about 0 when their directions are uniform, and does not change when
    the features are scaled or rotated. It is an affine function of 1/PR of the normalised, uncentred matrix. Rows of
    zeros are left out.

    Tsitsulin, Munkhoeva & Perozzi, "Unsupervised embedding quality evaluation", 2023 (arXiv 2305.16562), section 3.

    Args:
        x: ``(*, n, d)`` features, d at least 2.
        sample: not used.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if fewer than two rows are not zero, or d is 1.
    """
    z = unit_rows(x)
    n, d = z.shape
    if n < 2 or d < 2:
        raise DataError(f"SelfCluster needs 2 rows that are not zero and 2 dimensions; there are {n} and {d}")
    # XᵀX and XXᵀ have the same norm; the smaller one costs less
    gram = z.mT @ z if d <= n else z @ z.mT
    # Σ over pairs of different rows of cos², expected under uniform directions
    chance = n * (n - 1) / d
    return (squared_norm(gram) - n - chance) / (n * n - n - chance)


DEFINITION = Definition(
    name="self-cluster",
    centred=False,
    function=self_cluster,
    reads="rows",
    formula="(|X X^T|^2 - n - n(n-1)/d) / (n^2 - n - n(n-1)/d), rows of length one",
    citation="Tsitsulin et al. 2023 (arXiv 2305.16562)",
    low="-1/(d - 1) (about 0 for uniform directions)",
    high="1",
    # n rows have |X X'|^2 of at least n and of n^2/d, so the least is -1/(max(n, d) - 1)
    least=lambda size: -1 / max(size.width - 1, 1),
    most=1.0,
    bias="none in n for independent rows; a mean direction raises it",
    unit="share of clustering",
)
