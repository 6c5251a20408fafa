"""Curvature: how sharply the path of a sequence turns from token to token."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import DataError
from rankscope.linalg.batch import each_matrix
from rankscope.linalg.rows import sample_means


@each_matrix
def curvature(x: Tensor, sample: Tensor) -> Tensor:
    r"""Mean angle between successive steps of a sequence, averaged over sequences, in degrees.

    .. math:: \arccos \langle \hat v_t, \hat v_{t+1} \rangle, \qquad v_t = x_{t+1} - x_t

    It lies between 0° (a straight line) and 180°: independent rows give 120°, a random walk in many dimensions 90°, a
    regular polygon with M corners 360°/M. It does not change when the features are scaled, rotated or translated. A row
    equal to its predecessor makes no step and is skipped; sequences with fewer than two steps are left out.

    Hosseini & Fedorenko, "Large language models implicitly learn to straighten neural sentence trajectories", NeurIPS
    2023 (arXiv 2311.04930), equation 2. The paper reports the change from layer 0.

    Args:
        x: ``(*, n, d)`` features, the rows of each sample in the order of its tokens.
        sample: ``(n,)`` sample of each row.

    Returns:
        ``(*,)`` values in degrees, float64.

    Raises:
        DataError: if no sample has two steps.
    """
    sample = sample.to(x.device)
    order = torch.argsort(sample, stable=True)
    z, owner = x.double()[order], sample[order]
    step = z[1:] - z[:-1]
    length = torch.linalg.vector_norm(step, dim=-1)
    moves = (owner[1:] == owner[:-1]) & (length > 0)
    unit, owner = step[moves] / length[moves, None], owner[1:][moves]
    pairs = owner[1:] == owner[:-1]  # two successive steps of one sequence
    if not pairs.any():
        raise DataError(
            "curvature needs a sample with at least three different successive rows; there is none: collect tokens"
        )
    a, b = unit[:-1][pairs], unit[1:][pairs]
    # For unit vectors the angle is 2 atan2(‖a - b‖, ‖a + b‖), accurate near 0° and 180° too, unlike the arc cosine
    angles = 2 * torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1))
    return sample_means(angles[:, None], owner[1:][pairs]).mean().rad2deg()


DEFINITION = Definition(
    name="curvature",
    centred=None,
    function=curvature,
    reads="rows",
    formula="mean angle between x_(t+1) - x_t and x_(t+2) - x_(t+1)",
    citation="Hosseini & Fedorenko, NeurIPS 2023 (arXiv 2311.04930), equation 2",
    high="180",
    most=180.0,
    bias="negligible; independent rows give 120",
    unit="degrees",
    needs_tokens=True,
)
