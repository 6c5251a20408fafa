"""A single principal direction: one entry of a quantity that every direction has, as a number of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from rankscope.comparisons.requirements import require_rows
from rankscope.errors import NotComparable
from rankscope.linalg.moments import PairMoments

PerDirection = Callable[..., Tensor]
"""From moments of two runs to ``(*, d)`` values, one per principal direction, the leading one first."""


def at_direction(values: PerDirection, direction: int, *, of: str = "the base") -> Callable[..., Tensor]:
    """The value at the ``direction``-th principal direction, counted from 1.

    Args:
        values: a quantity that has a value for every direction.
        direction: which one to take.
        of: whose directions they are, for the message.

    Returns:
        A function of the same arguments to ``(*,)`` values. It raises :class:`NotComparable` if the features, or the
        rows that determine the basis, have fewer directions.
    """
    return partial(_entry, values=values, direction=direction, of=of)


def _entry(
    fit: PairMoments, *others: PairMoments, values: PerDirection, direction: int, of: str, **given: object
) -> Tensor:
    """The entry of ``values(fit, *others, **given)`` at the direction, if the rows of ``fit`` determine it."""
    require_rows(fit.a.rows, direction + 1, f"{of}'s principal direction {direction}")
    found = values(fit, *others, **given)
    if direction > found.shape[-1]:
        raise NotComparable(f"there is no principal direction {direction} of {found.shape[-1]} features")
    return found[..., direction - 1]
