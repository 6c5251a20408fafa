"""Parallel analysis: components that exceed those of the same columns permuted independently."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition, rank_of
from rankscope.errors import UsageError
from rankscope.linalg.batch import each_matrix
from rankscope.linalg.svd import singular_values


@each_matrix
def parallel_analysis(
    x: Tensor, *, strata: Tensor | None = None, draws: int = 20, quantile: float = 0.95, seed: int = 0
) -> Tensor:
    """Number of leading components that exceed those of the same data with every column permuted independently.

    Counting stops at the first component that does not exceed its null quantile. Permuting keeps the values of every
    column, so a massive dimension is part of the null as well and does not count. The number lies between 0 and min(n,
    d), and does not change when all features are scaled or each is translated.

    Horn, Psychometrika 30 (1965); Buja & Eyuboglu, Multivariate Behavioral Research 27 (1992), for permutations.

    Args:
        x: ``(*, n, d)`` features.
        strata: ``(n,)`` groups within which rows are permuted (the sample of each token); all rows by default.
        draws: number of permuted data sets.
        quantile: the quantile of the null that a component must exceed.
        seed: seed of the permutations.

    Returns:
        ``(*,)`` counts, whole numbers as float64.

    Raises:
        NonFinite: if a feature is NaN or infinite.
        UsageError: if there is no draw, or the quantile is not between 0 and 1.
    """
    if draws < 1 or not 0 < quantile < 1:
        raise UsageError(f"parallel analysis needs at least 1 draw and a quantile in (0, 1); got {draws}, {quantile}")
    generator = torch.Generator().manual_seed(seed)
    observed = singular_values(x, centre=True).values
    null = torch.stack([singular_values(_shuffled(x, strata, generator), centre=True).values for _ in range(draws)])
    fails = observed <= null.quantile(quantile, dim=0)
    return fails.logical_not().long().cumprod(0).sum().double()


def _shuffled(x: Tensor, strata: Tensor | None, generator: torch.Generator) -> Tensor:
    """``x`` with every column permuted independently, within strata."""
    order = torch.rand(x.shape, generator=generator, dtype=torch.float64).argsort(0)
    if strata is None:
        return x.gather(0, order.to(x.device))
    groups = strata.cpu()
    home = torch.argsort(groups, stable=True)
    within = torch.argsort(
        groups[order], dim=0, stable=True
    )  # a stable sort by stratum keeps the random order within each
    source = order.gather(0, within)
    return torch.empty_like(x).index_copy_(0, home.to(x.device), x.gather(0, source.to(x.device)))


@each_matrix
def parallel_analysis_of_rows(x: Tensor, sample: Tensor) -> Tensor:
    """:func:`parallel_analysis`, permuting within samples if any has several rows: ``(*,)`` float64."""
    alone = len(torch.unique(sample)) == len(sample)
    return parallel_analysis(x, strata=None if alone else sample)


DEFINITION = Definition(
    name="parallel-analysis",
    function=parallel_analysis_of_rows,
    reads="rows",
    formula="leading components above the 95 % quantile of those with every column permuted, up to the first that is not",
    citation="Horn 1965; Buja & Eyuboglu 1992",
    high="min(n, d)",
    most=rank_of,
    bias="counts only components that n rows can detect; a strong one hides weaker ones",
)
