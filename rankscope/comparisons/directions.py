"""One principal direction of the base at a time: an entry of a quantity that every direction has, as a number of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from rankscope.comparisons.requirements import require_rows
from rankscope.errors import NotComparable
from rankscope.linalg.moments import PairMoments

Spectrum = Callable[..., Tensor]
"""From moments of two runs to ``(*, d)`` values, that of the base's leading direction first."""


def along(spectrum: Spectrum, direction: int) -> Callable[..., Tensor]:
    """The entry of a spectrum that belongs to the base's ``direction``-th principal direction, counted from 1.

    Args:
        spectrum: a value for every direction.
        direction: which.

    Returns:
        a function of the same arguments to ``(*,)`` values; it raises :class:`NotComparable` where the features or the rows
        that give the basis do not have that many directions.
    """
    return partial(_entry, spectrum=spectrum, direction=direction)


def _entry(fit: PairMoments, *others: PairMoments, spectrum: Spectrum, direction: int, **told: object) -> Tensor:
    require_rows(fit.a.rows, direction + 1, f"the base's principal direction {direction}")
    values = spectrum(fit, *others, **told)
    if direction > values.shape[-1]:
        raise NotComparable(f"there is no principal direction {direction} of {values.shape[-1]} features")
    return values[..., direction - 1]
