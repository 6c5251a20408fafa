"""The moments of two aligned matrices, as every comparison of second order takes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from rankscope.linalg.moments import PairMoments

MakePair = Callable[..., PairMoments]


@pytest.fixture(scope="session")
def moments_of() -> MakePair:
    """``moments_of(x, y)``: all rows; with ``group`` and ``groups`` a leading dimension of groups."""

    def make(x: Tensor, y: Tensor, group: Tensor | None = None, groups: int = 1) -> PairMoments:
        made = PairMoments.of(x, y, shift_a=x[0], shift_b=y[0], group=group, groups=groups)
        return made.sum() if group is None else made

    return make
