"""The ratio of the PT-PEFT paper: the share of a spectrum's length at which its cumulative sum first reaches 0.9.

As far as is known, the paper takes the last hidden states of one sample (L tokens by d features, neither centred nor
scaled), divides their singular values (not squared) by their sum, averages the result over samples element by element,
accumulates it, and reports 100 k / min(L, d) for the first k at which the sum reaches 0.9. How samples of different
length are averaged is not known, so that is a named choice here. The number depends on L and d even for Gaussian noise,
moves in steps of 100 / min(L, d), and hardly reacts to a collapse of the data set as a whole: read it together with the
pooled ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.linalg.rows import samples_by_size
from rankscope.linalg.streamed import RowMatrix
from rankscope.linalg.sums import at_once
from rankscope.linalg.svd import singular_values
from rankscope.measures.energy import crossing, first_reaching
from rankscope.measures.hill import weights

SHARE = 0.9
"""The share of the sum of singular values in the paper."""

Length = Literal["relative", "pad", "truncate", "ratio"]
"""How samples of different length are averaged. ``relative``: their cumulative curves, at equal fractions of their length.
``pad``: their spectra, the shorter ones filled with zeros to the longest length. ``truncate``: their spectra, cut to
the shortest length. ``ratio``: the ratios of the individual samples. For samples of equal length the first three give
the same
number, the paper's."""


def spectrum_ratio(s: Tensor, share: float = SHARE) -> Tensor:
    r"""Percentage of a spectrum's length at which its cumulative sum first reaches a share.

    .. math:: \frac{100}{r} \min \Bigl\{ k : \sum_{i \le k} s_i \ge 0.9 \sum_i s_i \Bigr\}

    It uses singular values, not their squares, lies between 100/r, its step, and 100, and does not change when the
    matrix is scaled or rotated. It is not monotone in n when rows are pooled, and most biased when n is near d. A zero
    matrix gives 0.

    Kim, Lee, Shim & Shim, Findings of EMNLP 2024 (arXiv 2411.00029), section 2.3, as reconstructed by others.

    Args:
        s: ``(*, r)`` non-negative singular values of the uncentred features, in any order.
        share: the share to reach, above 0 and up to 1.

    Returns:
        ``(*,)`` percentages, float64.

    Raises:
        UsageError: if the share is not in (0, 1].
    """
    percent = 100 * first_reaching(s, share).double() / max(s.shape[-1], 1)
    return torch.where(s.isnan().any(-1), torch.nan, percent)


def spectra_by_size(x: RowMatrix, sample: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Singular values of the uncentred rows of each sample, those of samples of equal size together.

    Args:
        x: ``(n, d)`` features.
        sample: ``(n,)`` sample of each row; the rows of a sample need not be contiguous.

    Yields:
        ``(m,)`` int64 places of some samples of L rows among all samples in ascending order, and their ``(m, min(L, d))``
        float64 values, descending.

    Raises:
        NonFinite: if a feature is NaN or infinite.
    """
    for members, rows in samples_by_size(sample):
        together = max(1, at_once(x.device) // max(1, rows.shape[1] * x.shape[1]))
        for part, index in zip(members.split(together), rows.split(together), strict=True):
            yield part, singular_values(x[index.to(x.device)].double()).values


def _cut(curves: Tensor, r: int) -> Tensor:
    """``(m, l)`` curves at r positions: cut, or continued at their last values as if zeros followed in the spectra."""
    return torch.cat([curves[:, :r], curves[:, -1:].expand(-1, max(0, r - curves.shape[1]))], 1)


def _stretched(curves: Tensor, r: int) -> Tensor:
    """``(m, l)`` curves, starting at 0 and interpolated linearly, at the fractions 1/r … 1 of their length."""
    length = curves.shape[1]
    if length == r:
        return curves
    at = torch.arange(1, r + 1, dtype=torch.float64, device=curves.device) * length / r
    low = at.floor().long().clamp(max=length - 1)
    padded = torch.nn.functional.pad(curves, (1, 0))
    return padded[:, low] + (at - low) * (padded[:, low + 1] - padded[:, low])


def curves_of_samples(x: RowMatrix, sample: Tensor, *, length: Length = "relative") -> Tensor:
    """Cumulative curve of every sample on a common grid; for ``ratio``, the sample's own ratio over 100.

    The ratio of the paper is a function of the mean of these curves, so leaving samples out requires no further
    decomposition.

    Args:
        x: ``(n, d)`` features.
        sample: ``(n,)`` sample of each row.
        length: how samples of different length are averaged (:data:`Length`).

    Returns:
        ``(S, r)`` float64, samples in ascending order; a sample that is all zero has a curve of zeros.
    """
    sizes = torch.unique(sample, return_counts=True)[1].clamp(max=x.shape[1])
    r = 1 if length == "ratio" else int(sizes.min() if length == "truncate" else sizes.max())
    found = torch.zeros(len(sizes), r, dtype=torch.float64, device=x.device)
    fit = _stretched if length == "relative" else _cut
    for members, s in spectra_by_size(x, sample):
        curves = spectrum_ratio(s)[:, None] / 100 if length == "ratio" else fit(weights(s, base="sigma").cumsum(-1), r)
        found[members.to(found.device)] = curves
    return found


def ratio_of_curve(curve: Tensor) -> Tensor:
    """The ratio of the mean of :func:`curves_of_samples`, ``(*, r)``, in per cent: ``(*,)``; for r = 1 the mean itself."""
    return 100 * curve[..., 0] if curve.shape[-1] == 1 else spectrum_ratio(_steps(curve))


def crossing_of_curve(curve: Tensor) -> Tensor:
    """Where the mean curve, interpolated linearly, reaches the share: what :func:`ratio_of_curve` rounds up to the grid."""
    return 100 * curve[..., 0] if curve.shape[-1] == 1 else spectrum_crossing(_steps(curve))


def step_of_curve(curve: Tensor) -> float:
    """The step of :func:`ratio_of_curve`, 100/r; the mean of the samples' own ratios, r = 1, moves continuously."""
    return 100 / curve.shape[-1] if curve.shape[-1] > 1 else 0.0


def _steps(curve: Tensor) -> Tensor:
    """The weights whose cumulative sum is the ``(*, r)`` curve; those that rounding made negative are 0."""
    return torch.diff(curve, prepend=torch.zeros_like(curve[..., :1])).clamp(min=0)


def spectrum_crossing(s: Tensor, share: float = SHARE) -> Tensor:
    """The continuous quantity that :func:`spectrum_ratio` rounds up to the grid of 100/r, in per cent: ``(*,)`` float64."""
    return 100 * crossing(s, share) / max(s.shape[-1], 1)


_CITATION = "Kim, Lee, Shim & Shim, Findings of EMNLP 2024 (arXiv 2411.00029), section 2.3, as reconstructed by others"
_WAYS: dict[Length, str] = {
    "relative": "curves averaged at equal fractions of their length",
    "pad": "shorter spectra filled with zeros",
    "truncate": "spectra cut to the shortest",
    "ratio": "the mean of the samples' own ratios",
}

DEFINITIONS = (
    *(
        Definition(
            name="pt-peft" if length == "relative" else f"pt-peft-{length}",
            function=ratio_of_curve,
            reads="samples",
            centred=False,
            scale="log",
            prepare=partial(curves_of_samples, length=length),
            smooth=crossing_of_curve,
            step=step_of_curve,
            formula=f"100 k / min(L, d) where the mean over samples of cumsum(sigma / sum sigma) reaches 0.9; {way}",
            citation=_CITATION,
            low="100 / min(L, d)",
            high="100",
            most=100.0,
            bias="depends on L and d, for noise too; moves in steps of 100 / min(L, d); blind to a collapse of the data set",
            unit="% of the spectrum",
            needs_tokens=True,
        )
        for length, way in _WAYS.items()
    ),
    Definition(
        name="pt-peft-pooled",
        function=spectrum_ratio,
        scale="log",
        smooth=spectrum_crossing,
        step=lambda s: 100 / max(s.shape[-1], 1),
        formula="100 k / r, least k with sum_(i<=k) sigma >= 0.9 sum sigma, of all rows together",
        citation=_CITATION,
        low="100 / r",
        high="100",
        most=100.0,
        of_nothing=0.0,
        bias="not monotone in the number of rows, and largest when n is near d; moves in steps of 100 / r",
        unit="% of the spectrum",
        centred=False,
    ),
)
