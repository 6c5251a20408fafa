"""The ratio of the PT-PEFT paper: the share of a spectrum's length at which its cumulative sum first reaches 0.9.

As far as it is known, the paper takes the last hidden states of one sample, F of L tokens by d features, neither
centred nor scaled; its singular values over their sum (not squared); the average over samples, element by element; the
cumulative sum; and 100 k / min(L, d) at the first k with a sum of 0.9. How samples of different length are averaged is
not known, so here that is a named choice. The number depends on L and d (on Gaussian noise too), moves in steps of
100 / min(L, d), and hardly sees a collapse of the data set as a whole: read it beside the pooled ratio.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.linalg.svd import singular_values
from rankscope.measures.energy import crossing, first_reaching
from rankscope.measures.hill import weights

SHARE = 0.9
"""The share of the sum of singular values that the paper asks for."""

Length = Literal["relative", "pad", "truncate", "ratio"]
"""How samples of different length are averaged. ``relative``: their cumulative curves at the same fraction of their
length. ``pad``: zeros after the shorter ones, over the longest length. ``truncate``: only the positions that all have, over
the shortest. ``ratio``: the mean of the ratios of the samples. On equal lengths the first three and the
last are the same number, the paper's."""

_BLOCK = 1 << 22
"""Numbers of samples of equal length that are decomposed together."""


def spectrum_ratio(s: Tensor, share: float = SHARE) -> Tensor:
    r"""The percentage of a spectrum's length at which its cumulative sum first reaches a share.

    .. math:: \frac{100}{r} \min \Bigl\{ k : \sum_{i \le k} s_i \ge 0.9 \sum_i s_i \Bigr\}

    On singular values, not their squares. It lies between 100/r, its step, and 100, and does not change when the matrix is
    scaled or turned. A zero matrix gives 0. Not monotone in n when rows are pooled: worst at n near d.

    Kim, Lee, Shim & Shim, Findings of EMNLP 2024 (arXiv 2411.00029), section 2.3, as reconstructed by others.

    Args:
        s: ``(*, r)`` singular values of the uncentred features, none negative, in any order.
        share: the share to reach, above 0 and up to 1.

    Returns:
        ``(*,)`` percentages, float64.

    Raises:
        UsageError: if the share is not in (0, 1].
    """
    percent = 100 * first_reaching(s, share).double() / max(s.shape[-1], 1)
    return torch.where(s.isnan().any(-1), torch.nan, percent)


def sample_spectra(x: Tensor, sample: Tensor) -> list[Tensor]:
    """The singular values of the uncentred rows of each sample, in the order of the samples' numbers.

    Args:
        x: ``(n, d)`` features.
        sample: ``(n,)`` sample of each row; the rows of a sample need not be contiguous.

    Returns:
        a float64 ``(min(L, d),)`` tensor a sample.

    Raises:
        NonFinite: if a feature is NaN or infinite.
    """
    counts, order = _rows_by_sample(sample)
    ends = counts.cumsum(0)
    spectra: list[Tensor] = [x.new_zeros(0)] * len(counts)
    for length in torch.unique(counts).tolist():
        members = (counts == length).nonzero().flatten()
        for part in members.split(max(1, _BLOCK // max(1, length * x.shape[1]))):
            index = order[ends[part][:, None] - length + torch.arange(length)]
            values = singular_values(x[index.to(x.device)]).values
            for i, s in zip(part.tolist(), values, strict=True):
                spectra[i] = s
    return spectra


def _rows_by_sample(sample: Tensor) -> tuple[Tensor, Tensor]:
    _, place, counts = torch.unique(sample.cpu(), return_inverse=True, return_counts=True)
    return counts, torch.argsort(place, stable=True)


def _cut(curve: Tensor, r: int) -> Tensor:
    return torch.cat([curve[:r], curve[-1:].expand(max(0, r - len(curve)))])


def _stretched(curve: Tensor, r: int) -> Tensor:
    """The curve, 0 at 0 and linear between its points, at the fractions 1/r … 1 of its length."""
    if len(curve) == r:
        return curve
    at = torch.arange(1, r + 1, dtype=torch.float64, device=curve.device) * len(curve) / r
    low = at.floor().long().clamp(max=len(curve) - 1)
    padded = torch.cat([curve.new_zeros(1), curve])
    return padded[low] + (at - low) * (padded[low + 1] - padded[low])


def curves_of_samples(x: Tensor, sample: Tensor, *, length: Length = "relative") -> Tensor:
    """The cumulative curve of every sample on one grid; for ``ratio`` its own ratio, over 100.

    The ratio of the paper reads the mean of these over samples, so leaving samples out costs nothing more.

    Args:
        x: ``(n, d)`` features.
        sample: ``(n,)`` sample of each row.
        length: how samples of different length are brought to one (:data:`Length`).

    Returns:
        ``(S, r)`` float64, samples in the order of their numbers; a sample that is all zero has a curve of zeros.
    """
    spectra = sample_spectra(x, sample)
    if length == "ratio":
        return torch.stack([spectrum_ratio(s) for s in spectra])[:, None] / 100
    sizes = [len(s) for s in spectra]
    r = min(sizes) if length == "truncate" else max(sizes)
    fit = _stretched if length == "relative" else _cut
    return torch.stack([fit(weights(s, base="sigma").cumsum(0), r) for s in spectra])


def ratio_of_curve(curve: Tensor) -> Tensor:
    """The ratio that a mean ``(*, r)`` of :func:`curves_of_samples` gives, in per cent; for r = 1 the mean itself."""
    if curve.shape[-1] == 1:
        return 100 * curve[..., 0]
    return spectrum_ratio(torch.diff(curve, prepend=torch.zeros_like(curve[..., :1])).clamp(min=0))


def crossing_of_curve(curve: Tensor) -> Tensor:
    """What :func:`ratio_of_curve` rounds up to the grid: where the curve, linear between its points, reaches the share."""
    if curve.shape[-1] == 1:
        return 100 * curve[..., 0]
    return spectrum_crossing(torch.diff(curve, prepend=torch.zeros_like(curve[..., :1])).clamp(min=0))


def spectrum_crossing(s: Tensor, share: float = SHARE) -> Tensor:
    """What :func:`spectrum_ratio` rounds up to the grid of 100 / r, in per cent: ``(*,)`` float64."""
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
            scale="log",
            prepare=partial(curves_of_samples, length=length),
            smooth=crossing_of_curve,
            formula=f"100 k / min(L, d) where the mean over samples of cumsum(sigma / sum sigma) reaches 0.9; {way}",
            citation=_CITATION,
            low="100 / min(L, d)",
            high="100",
            bias="depends on L and d, on noise too; moves in steps of 100 / min(L, d); blind to a collapse of the data set",
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
        formula="100 k / r, least k with sum_(i<=k) sigma >= 0.9 sum sigma, of all rows together, uncentred",
        citation=_CITATION,
        low="100 / r",
        high="100",
        bias="not monotone in the number of rows, and worst at n near d; moves in steps of 100 / r",
        unit="% of the spectrum",
        centred=False,
    ),
)
