"""Diff-eRank: the effective rank of centred, normalised tokens, to be compared between an untrained and a trained model."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.linalg.batch import each_matrix
from rankscope.linalg.svd import singular_values
from rankscope.measures.hill import hill


def normalised_erank(x: Tensor, *, normalise: bool = True) -> Tensor:
    r"""Effective rank of the covariance of tokens, each brought to length one after centring.

    .. math:: \exp\Bigl(-\sum_i p_i \ln p_i\Bigr), \qquad p = \operatorname{eig}(\Sigma) / \operatorname{tr} \Sigma,
              \qquad \Sigma = Z^\top Z / n

    with the rows of Z centred over the tokens, then divided by their length (a row equal to the mean stays zero). It lies
    between 1 and min(n, d); a single row, or rows that are all equal, give 0.

    Wei, Tan, Li, Wang & Huang, "Diff-eRank", NeurIPS 2024 (arXiv 2401.17139), definition 3.

    Args:
        x: ``(*, n, d)`` the tokens of a sample.
        normalise: bring each centred row to length one, as published.

    Returns:
        ``(*,)`` effective ranks, float64.
    """
    z = x.double() - x.double().mean(-2, keepdim=True)
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    rounding = torch.finfo(torch.float64).eps * x.shape[-2] * torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True)
    z = torch.where(length > rounding, z / torch.where(normalise & (length > 0), length, 1), 0)
    return hill(singular_values(z).values, 1, base="lambda")


@each_matrix
def erank_of_samples(x: Tensor, sample: Tensor) -> Tensor:
    """:func:`normalised_erank` of a data set, exp of the mean entropy over samples of two rows or more: a scalar.

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` sample of each row.
    """
    logs = []
    for c in torch.unique(sample).tolist():
        rank = normalised_erank(x[(sample == c).to(x.device)])
        if rank > 0:
            logs.append(rank.log())
    return torch.stack(logs).mean().exp() if logs else x.new_zeros((), dtype=torch.float64)


DEFINITION = Definition(
    name="diff-erank",
    function=erank_of_samples,
    reads="rows",
    scale="log",
    formula="exp(mean over samples of -sum p ln p), p = eig / tr of the covariance of centred rows of length one",
    citation="Wei et al., Diff-eRank, NeurIPS 2024 (arXiv 2401.17139), definition 3; their number is untrained - trained",
    low="1",
    high="min(L, d)",
    bias="bounded by the tokens of a sample; training lowers it, which is good",
    needs_tokens=True,
)
