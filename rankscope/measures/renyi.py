"""Rényi entropies of the covariance, the logarithms of Hill numbers."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from rankscope.definition import Definition
from rankscope.measures.hill import Base, hill


def renyi_entropy(s: Tensor, order: float, *, base: Base = "lambda") -> Tensor:
    r"""Matrix-based Rényi entropy, in nats.

    .. math:: H_\alpha = \frac{1}{1 - \alpha} \ln \sum_i p_i^\alpha, \qquad p_i = s_i^2 / \sum_j s_j^2

    It is the logarithm of the Hill number of the same order: order 0 counts directions, order 1 is the von Neumann
    entropy, order 2 is -ln tr K² for the Gram matrix K of trace one. It lies between 0 and ln r, and does not change
    when the matrix is scaled or rotated. A zero matrix gives -∞.

    Giraldo, Rao & Príncipe, "Measures of entropy from data using infinitely divisible kernels", 2012 (arXiv 1211.2459).

    Args:
        s: ``(*, r)`` non-negative singular values, in any order.
        order: α, from 0 to infinity.
        base: ``lambda`` for p ∝ σ², ``sigma`` for p ∝ σ.

    Returns:
        ``(*,)`` entropies in nats, float64.

    Raises:
        UsageError: if the order is negative, or the base is unknown.
    """
    return hill(s, order, base=base).log()


def of_order(order: float) -> Definition:
    """The Rényi entropy of an order as a named number of one run: ``renyi-0.5``, ``renyi-inf``."""
    general = {0: "ln #{p > 0}", 1: "-sum p ln p", 2: "-ln sum p^2", math.inf: "-ln max p"}
    return Definition(
        name=f"renyi-{order:g}",
        function=partial(renyi_entropy, order=order),
        resolved=True,
        formula=f"{general.get(order, f'ln(sum p^{order:g}) / (1 - {order:g})')}, p = sigma^2 / sum sigma^2",
        citation="Giraldo, Rao & Principe 2012 (arXiv 1211.2459)",
        high="ln rank",
        most=lambda size: math.log(max(size.rank, 1)),
        bias="falls with few rows; any order can be named: renyi-0.5",
        unit="nats",
    )


DEFINITIONS = tuple(of_order(order) for order in (1, 2))
