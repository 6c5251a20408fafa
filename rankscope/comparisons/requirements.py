"""Requirements on the input of a comparison, checked before anything is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.errors import NotComparable, UsageError
from rankscope.linalg.moments import PairMoments


def require_rows(rows: Tensor | int, least: int, what: str) -> None:
    """Refuse fewer rows than a quantity needs.

    Args:
        rows: ``(*,)`` numbers of rows, or one number.
        least: the smallest number of rows that suffices.
        what: the quantity, for the message.

    Raises:
        NotComparable: if any number of rows is below ``least``.
    """
    rows = torch.as_tensor(rows)
    fewest = int(rows.detach().min()) if rows.numel() else least
    if fewest < least:
        raise NotComparable(f"{what} needs at least {least} rows; there are {fewest}: collect more samples")


def require_same_width(width_a: int, width_b: int, what: str) -> None:
    """Refuse runs of different width for a quantity that assumes a shared basis.

    Raises:
        NotComparable: if the widths differ.
    """
    if width_a != width_b:
        raise NotComparable(
            f"{what} needs two runs with the same features; one has {width_a} and the other {width_b}: "
            "cka, cca, rsa and mutual-neighbours compare any two widths"
        )


def require_pairs(what: str, *pairs: PairMoments, rows: int = 4, same_width: bool = False) -> None:
    """Refuse pairs of runs with too few rows or, if the quantity assumes a shared basis, of different width.

    Args:
        what: the quantity, for the message.
        pairs: moments of two runs.
        rows: the smallest number of rows that suffices, in either run.
        same_width: whether both runs must have the same number of features.

    Raises:
        NotComparable: if a pair does not meet the requirements.
    """
    for pair in pairs:
        if same_width:
            require_same_width(pair.a.width, pair.b.width, what)
        require_rows(torch.minimum(pair.a.rows, pair.b.rows), rows, what)


def require_aligned(x: Tensor, y: Tensor, sample: Tensor, what: str) -> None:
    """Refuse two matrices that cannot have the same rows.

    Args:
        x: ``(*, n, d_a)`` features of the reference.
        y: ``(*, n, d_b)`` features of the tuned run.
        sample: ``(n,)`` sample of each row.
        what: the quantity, for the message.

    Raises:
        NotComparable: if the numbers of rows differ.
    """
    if not x.shape[-2] == y.shape[-2] == len(sample):
        raise NotComparable(
            f"{what} compares row by row; there are {x.shape[-2]} rows in one run, {y.shape[-2]} in the other "
            f"and {len(sample)} row identities"
        )


def require_subspace(k: int, width: int, rows: Tensor) -> None:
    """Refuse a subspace that cannot be estimated from these rows.

    Args:
        k: dimensions of the subspace.
        width: number of features.
        rows: ``(*,)`` numbers of rows from which it is estimated.

    Raises:
        UsageError: if ``k`` is not between 1 and ``width``.
        NotComparable: with fewer than ``k + 1`` rows, since centred rows then span less than ``k`` dimensions.
    """
    if not 1 <= k <= width:
        raise UsageError(f"a subspace has between 1 and {width} dimensions here; k = {k} was asked for")
    require_rows(rows, max(4, k + 1), f"a subspace of {k} dimensions")
