"""What a comparison asks of its input before it computes anything."""

from __future__ import annotations

from torch import Tensor

from rankscope.errors import NotComparable, UsageError


def require_rows(rows: Tensor, least: int, what: str) -> None:
    """Refuse fewer rows than a quantity is defined for.

    Args:
        rows: ``(*,)`` numbers of rows.
        least: the least number that will do.
        what: the quantity, for the message.

    Raises:
        NotComparable: if any number of rows is below ``least``.
    """
    fewest = int(rows.min()) if rows.numel() else least
    if fewest < least:
        raise NotComparable(f"{what} needs at least {least} rows; there are {fewest}: collect more samples")


def require_same_width(width_a: int, width_b: int, what: str) -> None:
    """Refuse two runs of different width where the quantity takes them to share a basis.

    Raises:
        NotComparable: if the widths differ.
    """
    if width_a != width_b:
        raise NotComparable(
            f"{what} takes both runs to have the same features; one has {width_a} and the other {width_b}: "
            "cka, cca, rsa and mutual-neighbours compare any two widths"
        )


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
    """Refuse a subspace that ``width`` features of these rows do not hold.

    Args:
        k: dimensions of the subspace.
        width: number of features.
        rows: ``(*,)`` numbers of rows from which it is estimated.

    Raises:
        UsageError: if ``k`` is not between 1 and ``width``.
        NotComparable: if fewer than ``k + 1`` rows are there; centred rows then span less than ``k`` dimensions.
    """
    if not 1 <= k <= width:
        raise UsageError(f"a subspace has between 1 and {width} dimensions here; k = {k} was asked for")
    require_rows(rows, max(4, k + 1), f"a subspace of {k} dimensions")
