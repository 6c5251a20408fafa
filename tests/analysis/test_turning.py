"""Where rows are few beside the features, runs are expressed in the span of their rows; nothing that is measured may notice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rankscope.analysis import view as views_of
from rankscope.analysis.replicates import Replicates
from rankscope.analysis.view import View
from rankscope.errors import NotComparable
from rankscope.features import Rows
from rankscope.registry import COMPARISONS, DEFINITIONS

N, WIDTH = 40, 100
REFUSED = ("cca", "cca-adjusted", "cca-mean", "cca-angle", "pwcca")
"""Correlations that are all 1 where rows are fewer than features, and refused in either space."""


@pytest.fixture(scope="module")
def views() -> tuple[View, View]:
    """The same two runs, in the span of their rows and as they are."""
    torch.manual_seed(5)
    base = torch.randn(N, 6) @ torch.randn(6, WIDTH) + 0.1 * torch.randn(N, WIDTH) + 1
    tuned = base @ torch.linalg.qr(torch.eye(WIDTH) + 0.2 * torch.randn(WIDTH, WIDTH)).Q + 0.1 * torch.randn(N, WIDTH)
    column = torch.zeros(N, dtype=torch.int64)
    rows = Rows(torch.arange(N), column, column.to(torch.uint8), tuple(map(str, range(N))))
    return tuple(_view((base, tuned), rows, turn) for turn in (True, False))


def _view(features: tuple[Tensor, Tensor], rows: Rows, turn: bool) -> View:
    with pytest.MonkeyPatch.context() as patch:
        if not turn:
            patch.setattr(views_of, "in_span_of_rows", tuple)
        return View(features, rows, groups=6)


def _same(found: list[Replicates]) -> None:
    spanned, whole = found
    torch.testing.assert_close(spanned.value, whole.value, rtol=2e-5, atol=1e-8, equal_nan=True)
    torch.testing.assert_close(spanned.left_out, whole.left_out, rtol=2e-5, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("name", [name for name, d in DEFINITIONS.items() if not d.needs_tokens])
def test_a_measure_is_the_same(views: tuple[View, View], name: str) -> None:
    _same([view.evaluate(DEFINITIONS[name], 1) for view in views])


@pytest.mark.parametrize("name", [name for name in COMPARISONS if name not in REFUSED])
def test_a_comparison_is_the_same(views: tuple[View, View], name: str) -> None:
    _same([view.evaluate(COMPARISONS[name], 0, 1) for view in views])


@pytest.mark.parametrize("name", REFUSED)
def test_correlations_are_refused_either_way(views: tuple[View, View], name: str) -> None:
    for view in views:
        with pytest.raises(NotComparable, match="take at least ten rows per dimension"):
            view.evaluate(COMPARISONS[name], 0, 1)
