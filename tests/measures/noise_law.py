"""What theory expects of independent Gaussian noise and of spikes above it: the expectations that the tests compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rankscope.measures.hill import Base
from rankscope.measures.marchenko_pastur import aspect, law


def expectation(function: Callable[[Tensor], Tensor], beta: float) -> float:
    """The mean of a function of the squared singular value x under the law of Marchenko and Pastur with ratio β."""
    x, mass = law(beta)
    return float((function(x) * mass).sum())


def gaussian_hill(rows: int, columns: int, q: float, *, base: Base = "lambda") -> float:
    """The Hill number of order q of an n × d matrix of independent Gaussian numbers, exact as n and d grow.

    With k = min(n, d) values and weights w = x^(b/2), b = 1 for σ and 2 for λ, Σpᵠ → k^(1-q) E[wᵠ] / E[w]ᵠ.
    """
    beta, k = aspect(rows, columns), min(rows, columns)
    half = 0.5 if base == "sigma" else 1.0
    mean = expectation(lambda x: x**half, beta)
    if q == 0:
        return float(k)
    if q == 1:
        return k * math.exp(math.log(mean) - expectation(lambda x: x**half * (x**half).log(), beta) / mean)
    if math.isinf(q):
        return k * mean / (1 + math.sqrt(beta)) ** (2 * half)
    power = expectation(lambda x: x ** (half * q), beta)
    return k * (power / mean**q) ** (1 / (1 - q))


def gaussian_ratio(rows: int, columns: int, *, share: float = 0.9, power: Literal[1, 2] = 1) -> float:
    """The fraction of the spectrum of Gaussian noise that holds a share of Σσᵖ: p = 1 is the ratio of the paper."""
    x, mass = law(aspect(rows, columns))
    total = (x ** (power / 2) * mass).cumsum(0)
    below = torch.searchsorted(total, share * total[-1]).clamp(max=len(x) - 1)
    before = total[below - 1] if below > 0 else torch.zeros_like(total[0])
    part = (share * total[-1] - before) / (total[below] - before)
    return float(mass[:below].sum() + part * mass[below])


def upper_edge(rows: int, columns: int) -> float:
    """The largest eigenvalue of XᵀX/n of noise of variance one, (1 + √γ)² with γ = d/n."""
    return (1 + math.sqrt(columns / rows)) ** 2


def spike_eigenvalue(spike: float, rows: int, columns: int) -> float:
    """Where a population eigenvalue ℓ shows in a sample of n rows; the edge where ℓ ≤ 1 + √γ (Baik et al. 2005)."""
    gamma = columns / rows
    return upper_edge(rows, columns) if spike <= 1 + math.sqrt(gamma) else spike * (1 + gamma / (spike - 1))


def spike_overlap(spike: float, rows: int, columns: int) -> float:
    """The squared cosine of a population direction of eigenvalue ℓ and its sample eigenvector (Benaych-Georges 2011)."""
    gamma = columns / rows
    return 0.0 if spike <= 1 + math.sqrt(gamma) else (1 - gamma / (spike - 1) ** 2) / (1 + gamma / (spike - 1))
