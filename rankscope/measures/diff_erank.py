"""Diff-eRank: the effective rank of centred, normalised tokens.

The published number is the value of an untrained model minus that of the trained one on the same rows. Training lowers
the rank, and in the paper a larger difference goes with a better model, so lower is not worse here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition, width_of
from rankscope.linalg.batch import each_matrix
from rankscope.linalg.rows import centred
from rankscope.linalg.svd import singular_values
from rankscope.measures.hill import hill


def normalised_erank(x: Tensor, *, normalise: bool = True) -> Tensor:
    r"""Effective rank of the covariance of tokens, each scaled to length one after centring.

    .. math:: \exp\Bigl(-\sum_i p_i \ln p_i\Bigr), \qquad p = \operatorname{eig}(\Sigma) / \operatorname{tr} \Sigma,
              \qquad \Sigma = Z^\top Z / n

    where the rows of Z are centred over the tokens and then divided by their length (a row equal to the mean stays
    zero). It lies between 1 and min(n, d), and does not change when the features are scaled, rotated or translated. A
    single row, or rows that are all equal, give 0.

    Wei, Tan, Li, Wang & Huang, "Diff-eRank", NeurIPS 2024 (arXiv 2401.17139), definition 3.

    Args:
        x: ``(*, n, d)`` features of the tokens of one sample.
        normalise: scale each centred row to length one, as published.

    Returns:
        ``(*,)`` effective ranks, float64.
    """
    z = centred(x)
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    # What is left of a row that equals the mean is rounding of the sum over rows, not a direction
    rounding = torch.finfo(torch.float64).eps * x.shape[-2] * torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True)
    z = torch.where(length > rounding, z / torch.where(normalise & (length > 0), length, 1), 0)
    return hill(singular_values(z).values, 1, base="lambda")


@each_matrix
def erank_of_samples(x: Tensor, sample: Tensor) -> Tensor:
    """:func:`normalised_erank` of a data set: the exponential of the mean entropy over samples of at least two rows.

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` sample of each row.

    Returns:
        ``(*,)`` effective ranks, float64; 0 if no sample has two different rows.
    """
    ranks = [normalised_erank(x[(sample == c).to(x.device)]) for c in torch.unique(sample).tolist()]
    logs = [rank.log() for rank in ranks if rank > 0]
    return torch.stack(logs).mean().exp() if logs else x.new_zeros((), dtype=torch.float64)


DEFINITION = Definition(
    name="diff-erank",
    centred=None,
    function=erank_of_samples,
    reads="rows",
    scale="log",
    formula="exp(mean over samples of -sum p ln p), p = eig / tr of the covariance of centred rows of length one",
    citation="Wei et al., Diff-eRank, NeurIPS 2024 (arXiv 2401.17139), definition 3; their number is untrained - trained",
    low="1",
    high="min(L, d)",
    least=1.0,
    most=width_of,
    of_nothing=0.0,
    bias="bounded by the number of tokens in a sample; training lowers it, which is good",
    needs_tokens=True,
)
