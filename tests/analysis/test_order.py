"""The order in which samples were read decides no number."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rankscope.analysis.intervals import NO_VALUE, replicates
from rankscope.analysis.view import View
from rankscope.features import TEXT, Rows
from rankscope.registry import COMPARISONS, DEFINITIONS


@pytest.mark.parametrize("tokens", [1, 3])
def test_every_number_and_interval_is_the_same_in_any_order_of_samples(tokens: int) -> None:
    """Recoverability was fitted on every other group of neighbours, so that sorting a file changed it."""
    samples, draw = 40, torch.Generator().manual_seed(0)
    x = torch.randn(samples, tokens, 6, generator=draw, dtype=torch.float64) * torch.arange(1, 7) ** -0.5
    y = x + torch.randn(x.shape, generator=draw, dtype=torch.float64) / 2
    order = torch.randperm(samples, generator=draw)
    names = tuple(f"s{i}" for i in range(samples))
    sides = []
    for at, ids in ((slice(None), names), (order, tuple(names[i] for i in order))):
        sample = torch.arange(samples).repeat_interleave(tokens)
        rows = Rows(sample, torch.arange(tokens).repeat(samples), torch.full_like(sample, TEXT), ids)
        sides.append(View([x[at].flatten(0, 1), y[at].flatten(0, 1)], rows, groups=8))
    swept = 0
    for what, runs in (
        *((one, (0,)) for one in DEFINITIONS.values()),
        *((two, (0, 1)) for two in COMPARISONS.values()),
    ):
        if what.name == "parallel-analysis":  # permutes the rows at random
            continue
        try:
            first, second = (replicates(what, side, *runs) for side in sides)
        except NO_VALUE:
            assert getattr(what, "needs_tokens", False)
            continue
        assert_close(second[:2], first[:2], rtol=1e-6, atol=1e-9, equal_nan=True, msg=what.name)
        swept += 1
    assert swept >= 85
