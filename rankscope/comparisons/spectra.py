r"""Distances between two spectra: how far the variance was *reshaped*, whatever the basis.

They use singular values only, so neither rows nor bases need to correspond. The number of rows must be equal, however,
because it biases a spectrum. Eigenvalues are normalised to sum to one, :math:`p_i = \sigma_i^2/\sum_j\sigma_j^2`, and
matched by rank.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from rankscope.comparisons.rounding import rounding_share
from rankscope.definition import Comparison
from rankscope.errors import NotComparable


def _shares(a: Tensor, b: Tensor, power: float = 2) -> tuple[Tensor, Tensor]:
    """Both spectra raised to ``power``, in descending order and normalised to sum to 1; NaN for a spectrum of zeros."""
    if a.shape[-1] != b.shape[-1]:
        raise NotComparable(
            f"spectra are compared value by value; one has {a.shape[-1]} singular values and the other {b.shape[-1]}: "
            "compare equal widths and equal numbers of rows"
        )
    p, q = (s.double().pow(power).sort(dim=-1, descending=True).values for s in (a, b))
    return p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)


def log_wasserstein(a: Tensor, b: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Wasserstein-1 distance of the log spectra, :math:`\tfrac1r\sum_i|\ln p_i - \ln q_i|`.

    It is the mean factor, in nats, by which an eigenvalue's share changed. It is zero or more, symmetric, and does not
    change when a side is scaled or rotated. Shares below the largest that rounding to the stored dtype alone can
    produce are raised to it.

    Args:
        a: ``(*, r)`` non-negative singular values of the reference, in any order.
        b: ``(*, r)`` singular values of the tuned run.
        dtype: the dtype in which the features were stored.

    Returns:
        ``(*,)`` distances in nats, float64; NaN if a spectrum is all zeros.

    Raises:
        NotComparable: if the numbers of singular values differ.
    """
    p, q = _log_shares(a, b, dtype)
    return (p - q).abs().mean(-1)


def log_wasserstein_2(a: Tensor, b: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Wasserstein-2 distance of the log spectra, :math:`\sqrt{\tfrac1r\sum_i(\ln p_i - \ln q_i)^2}`.

    It is at least :func:`log_wasserstein`, and larger the fewer eigenvalues account for the change. It is symmetric.

    Args, invariances and errors as :func:`log_wasserstein`.

    Returns:
        ``(*,)`` distances in nats, float64.
    """
    p, q = _log_shares(a, b, dtype)
    return (p - q).square().mean(-1).sqrt()


def _log_shares(a: Tensor, b: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The logarithms of both spectra's shares, none below the share that rounding can produce."""
    floor = rounding_share(a.shape[-1], dtype)
    p, q = (x.clamp(min=floor).log() for x in _shares(a, b))
    return p, q


def atom_wasserstein(a: Tensor, b: Tensor) -> Tensor:
    r"""Wasserstein-1 distance of the normalised eigenvalues as r atoms of equal mass, :math:`\tfrac1r\sum_i|p_i - q_i|`.

    It lies between 0 and 2/r, and is dominated by the largest values.

    Args, invariances and errors as :func:`log_wasserstein`.

    Returns:
        ``(*,)`` distances in shares of the total variance, float64.
    """
    p, q = _shares(a, b)
    return (p - q).abs().mean(-1)


def kl(a: Tensor, b: Tensor) -> Tensor:
    r"""Kullback–Leibler divergence of the tuned spectrum from the reference, :math:`\sum_i q_i\ln(q_i/p_i)`.

    The tuned run comes first in the divergence: it is the cost of coding its variance by the base's spectrum. It is
    zero or more, not symmetric, and infinite if the tuned run has variance at a rank at which the reference has none.

    Kullback & Leibler, Ann. Math. Stat. 22, 1951.

    Args, invariances and errors as :func:`log_wasserstein`.

    Returns:
        ``(*,)`` divergences in nats, float64.
    """
    p, q = _shares(a, b)
    return _divergence(q, p)


def js(a: Tensor, b: Tensor) -> Tensor:
    r"""Jensen–Shannon divergence of two spectra, :math:`\tfrac12 KL(p\|m) + \tfrac12 KL(q\|m)`, :math:`m=\tfrac12(p+q)`.

    It lies between 0 and ln 2 and is symmetric; its square root is a metric (which is what scipy returns).

    Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37, 1991, equation 3.

    Args, invariances and errors as :func:`log_wasserstein`.

    Returns:
        ``(*,)`` divergences in nats, float64.
    """
    p, q = _shares(a, b)
    middle = (p + q) / 2
    return (_divergence(p, middle) + _divergence(q, middle)) / 2


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """``(*,)`` Σ p ln p/q; a term with p = 0 is 0, a term with q = 0 < p is infinite."""
    return torch.where(p == 0, 0, p * (p / q).log()).sum(-1).where(p.isfinite().all(-1), torch.nan)


def cumulative_distance(a: Tensor, b: Tensor, *, power: float = 1) -> Tensor:
    r"""Largest distance between the cumulative spectra, :math:`\sup_k|\sum_{i\le k}p_i - \sum_{i\le k}q_i|`.

    With the default ``power`` of 1 the shares are of singular values, :math:`p_i=\sigma_i/\sum\sigma`, as in the curves
    of which the PT-PEFT ratio reads one point; this distance is continuous, whereas that ratio moves in steps. It lies
    between 0 and 1.

    Companion of Kim et al., arXiv 2411.00029; a Kolmogorov–Smirnov distance by rank.

    Args:
        a: ``(*, r)`` non-negative singular values of the reference, in any order.
        b: ``(*, r)`` singular values of the tuned run.
        power: 1 for shares of singular values, 2 for shares of variance.

    Returns:
        ``(*,)`` distances in shares, float64; NaN if a spectrum is all zeros.

    Raises:
        NotComparable: if the numbers of singular values differ.
    """
    p, q = _shares(a, b, power)
    return (p.cumsum(-1) - q.cumsum(-1)).abs().amax(-1)


_BIAS = "that of both spectra at this n, which largely cancels at equal n; never compare at unequal n"
_NOISE = "for two samples of one population, towards 0 as 1/sqrt(n); for spectra of one shape, 0 whatever the features"
_of_spectra = partial(Comparison, reads="spectra", bias=_BIAS, noise=_NOISE)
COMPARISONS = (
    _of_spectra(
        name="log-wasserstein",
        function=log_wasserstein,
        takes=("dtype",),
        formula="mean_i |ln p_i - ln q_i|, p and q normalised eigenvalues, floored at the rounding noise",
        citation="Vallender, Theory Probab. Appl. 18, 1974 (W1 of equal atoms)",
        high="unbounded",
        unit="nats",
    ),
    _of_spectra(
        name="log-wasserstein-2",
        function=log_wasserstein_2,
        takes=("dtype",),
        formula="sqrt(mean_i (ln p_i - ln q_i)^2), p and q normalised eigenvalues, floored at the rounding noise",
        citation="Vallender, Theory Probab. Appl. 18, 1974 (Wasserstein distances of equal atoms)",
        high="unbounded",
        unit="nats",
    ),
    _of_spectra(
        name="atom-wasserstein",
        function=atom_wasserstein,
        formula="mean_i |p_i - q_i|, p and q normalised eigenvalues, sorted",
        citation="Vallender, Theory Probab. Appl. 18, 1974 (W1 of equal atoms)",
        high="2/r",
        most=2.0,
    ),
    _of_spectra(
        name="spectrum-kl",
        directed=True,
        function=kl,
        formula="sum_i q_i ln(q_i / p_i), p of the reference and q of the tuned run, normalised eigenvalues by rank",
        citation="Kullback & Leibler, Ann. Math. Stat. 22, 1951",
        high="infinite",
        unit="nats",
    ),
    _of_spectra(
        name="spectrum-js",
        function=js,
        formula="(KL(p|m) + KL(q|m)) / 2, m = (p + q)/2, normalised eigenvalues by rank",
        citation="Lin, IEEE Trans. Inf. Theory 37, 1991, eq. 3",
        high="ln 2",
        most=math.log(2),
        unit="nats",
    ),
    _of_spectra(
        name="cumulative-distance",
        function=cumulative_distance,
        formula="sup_k |sum_{i<=k} p_i - sum_{i<=k} q_i|, p and q singular values over their sum",
        citation="Kolmogorov–Smirnov distance by rank; companion of the ratio of Kim et al., arXiv 2411.00029",
        high="1",
        most=1.0,
    ),
)
