"""IsoScore, an affine function of the participation ratio."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.linalg.moments import Moments
from rankscope.measures.participation_ratio import naive_participation_ratio, unbiased_participation_ratio


def isoscore(moments: Moments, *, unbiased: bool = False, width: int | None = None) -> Tensor:
    r"""IsoScore: how evenly the variance is distributed over all d dimensions.

    .. math:: (\mathrm{PR} - 1) / (d - 1)

    It lies between 0, for a single direction, and 1, for isotropic features, and does not change when the features are
    scaled, rotated or translated. Rows that are all equal give 0; features of one dimension give 1.

    Rudman et al., "IsoScore: measuring the uniformity of embedding space utilization", Findings of ACL 2022 (arXiv
    2108.07344); the published algorithm reduces to this formula.

    Args:
        moments: sums over rows with leading dimensions ``*``.
        unbiased: use the unbiased participation ratio, with which few rows can give a score outside 0…1; as
            published it is the naive one.
        width: d, if the sums are over fewer coordinates in which all rows lie.

    Returns:
        ``(*,)`` scores, float64.

    Raises:
        DataError: if unbiased, and an entry has fewer than 4 rows.
    """
    ratio = unbiased_participation_ratio(moments) if unbiased else naive_participation_ratio(moments)
    width = moments.width if width is None else width
    if width == 1:  # one dimension is isotropic; the formula would be 0/0
        return (ratio > 0).double()
    return torch.where(ratio == 0, 0.0, (ratio - 1) / (width - 1))


_CITATION = "Rudman et al. 2022 (arXiv 2108.07344)"

_score = partial(Definition, reads="moments", takes=("width",), unit="share of isotropy")

DEFINITIONS = (
    _score(
        name="isoscore",
        function=isoscore,
        formula="(PR - 1) / (d - 1), PR the naive participation ratio",
        citation=_CITATION,
        high="1",
        most=1.0,
        enough=4,
        bias="falls with few rows, like the naive participation ratio",
    ),
    _score(
        name="isoscore-unbiased",
        function=partial(isoscore, unbiased=True),
        formula="(PR - 1) / (d - 1), PR the unbiased participation ratio",
        citation=f"{_CITATION}; Chun et al. 2026 (arXiv 2509.26560)",
        low="0 (in expectation)",
        high="1 (in expectation)",
        most=1.0,
        strays=True,
        bias="negligible for independent rows",
    ),
)
