r"""Hill numbers: a family of ranks that includes most published ranks.

With weights :math:`p_i \propto \sigma_i` or :math:`p_i \propto \lambda_i = \sigma_i^2` that sum to one, the Hill number
of order q is :math:`D_q = (\sum_i p_i^q)^{1/(1-q)}`, the number of equally weighted directions with the same diversity.
It decreases with q: order 0 counts the directions, order 1 is the exponential of the entropy, order 2 the participation
ratio, and order ∞ the reciprocal of the largest weight.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rankscope.definition import Definition, rank_definition
from rankscope.errors import UsageError

Base = Literal["sigma", "lambda"]
"""The weights of a Hill number: proportional to singular values σ, or to eigenvalues λ = σ²."""


def weights(s: Tensor, *, base: Base = "lambda") -> Tensor:
    """Weights p of the directions, which sum to one.

    Args:
        s: ``(*, r)`` non-negative singular values.
        base: ``sigma`` for p ∝ σ, ``lambda`` for p ∝ σ².

    Returns:
        ``(*, r)`` weights, float64; all 0 for a zero matrix.

    Raises:
        UsageError: if the base is neither.
    """
    if base not in ("sigma", "lambda"):
        raise UsageError(f"the base of a Hill number must be 'sigma' or 'lambda'; got {base!r}")
    s = s.double()
    if not s.shape[-1]:
        return s
    largest = s.amax(-1, keepdim=True)
    scaled = s / torch.where(largest > 0, largest, 1)  # keeps squares of extreme values in range, and cancels below
    scaled = scaled.square() if base == "lambda" else scaled
    return scaled / torch.where(largest > 0, scaled.sum(-1, keepdim=True), 1)


def hill(s: Tensor, q: float, *, base: Base = "lambda") -> Tensor:
    r"""Hill number of order q of a spectrum.

    .. math:: D_q = \Bigl(\sum_i p_i^q\Bigr)^{1/(1-q)}, \qquad D_1 = \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad
              D_\infty = 1 / \max_i p_i

    It lies between 1, for a matrix of rank one, and the number of values above zero, when those are all equal. It never
    increases with q, and does not change when the matrix is scaled or rotated. A zero matrix gives 0.

    Hill, "Diversity and evenness", Ecology 54 (1973), equation 2.

    Args:
        s: ``(*, r)`` non-negative singular values, in any order.
        q: the order, from 0 to infinity.
        base: ``sigma`` for p ∝ σ, ``lambda`` for p ∝ σ².

    Returns:
        ``(*,)`` Hill numbers, float64.

    Raises:
        UsageError: if q is negative or not a number, or the base is unknown.
    """
    if not q >= 0:
        raise UsageError(f"the order of a Hill number must be at least 0; got {q}")
    p = weights(s, base=base)
    if q == 0:
        return (p > 0).sum(-1).double()
    if q == 1:  # the limit of D_q, where the general formula is 0/0
        number = torch.special.entr(p).sum(-1).exp()
    elif math.isinf(q):
        number = 1 / p.amax(-1) if p.shape[-1] else p.new_ones(p.shape[:-1])
    else:
        number = (_log_power_sum(p, q) / (1 - q)).exp()
    return torch.where(p.isnan().any(-1), torch.nan, torch.where((p > 0).any(-1), number, 0.0))


def _log_power_sum(p: Tensor, q: float) -> Tensor:
    """ln Σpᵠ of ``(*, r)`` weights: ``(*,)``."""
    logs = torch.where(p > 0, p, 1).log()
    if abs(q - 1) < 0.1:
        # Here Σpᵠ is near 1 and its logarithm would lose digits; Σpᵠ - 1 = Σp (p^{q-1} - 1) keeps them
        return (p * torch.expm1((q - 1) * logs)).sum(-1).log1p()
    return torch.where(p > 0, q * logs, -torch.inf).logsumexp(-1)


_ALIASES = {
    ("lambda", 0): "the rank",
    ("lambda", 1): "entropy-rank",
    ("lambda", 2): "participation-ratio-naive",
    ("lambda", math.inf): "stable-rank and nesum",
    ("sigma", 1): "roy-vetterli",
}


def of_order(q: float, base: Base = "lambda") -> Definition:
    """The Hill number of order q as a named number of one run: ``hill-0.5``, ``hill-sigma-3``, ``hill-inf``."""
    alias = _ALIASES.get((base, q))
    p = "sigma^2 / sum sigma^2" if base == "lambda" else "sigma / sum sigma"
    general = {0: "#{p > 0}", 1: "exp(-sum p ln p)", math.inf: "1 / max p"}.get(q, f"(sum p^{q:g})^(1 / (1 - {q:g}))")
    return rank_definition(
        name=f"hill-{'sigma-' if base == 'sigma' else ''}{q:g}",
        function=partial(hill, q=q, base=base),
        resolved=True,
        formula=f"{general}, p = {p}{f': the same as {alias}' if alias else ''}",
        citation="Hill, Ecology 54 (1973), equation 2",
        bias="falls with few rows, more so at low orders; any order can be named: hill-0.5, hill-sigma-3",
    )


DEFINITIONS = tuple(of_order(q) for q in (0, 1, 2, math.inf))
