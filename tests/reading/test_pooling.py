from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st

from rankscope.errors import UnknownName
from rankscope.features import ANSWER, IMAGE, POOLED, SPECIAL, TEXT, Grid
from rankscope.reading.kinds import KINDS
from rankscope.reading.pooling import pool

# Two samples, left- and right-padded: [pad, BOS, image, text, answer] and [BOS, text, answer, pad, pad].
GRID = Grid(
    torch.tensor([[TEXT, SPECIAL, IMAGE, TEXT, ANSWER], [SPECIAL, TEXT, ANSWER, TEXT, TEXT]], dtype=torch.uint8),
    torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool),
)
HIDDEN = torch.arange(2 * 5 * 3, dtype=torch.float32).view(2, 5, 3)


@pytest.mark.parametrize(
    ("kind", "keep_special", "columns"),
    [
        ("last", False, [(0, 4), (1, 2)]),
        ("first", False, [(0, 2), (1, 1)]),
        ("first", True, [(0, 1), (1, 0)]),
        ("tokens", False, [(0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]),
        ("tokens", True, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2)]),
        ("text", False, [(0, 3), (0, 4), (1, 1), (1, 2)]),
        ("image", False, [(0, 2)]),
        ("answer", False, [(0, 4), (1, 2)]),
        ("query", False, []),
    ],
)
def test_rows_are_the_real_columns_of_their_kind(kind: str, keep_special: bool, columns: list[tuple[int, int]]) -> None:
    pooling = pool(GRID, kind, keep_special=keep_special)
    expected = torch.stack([HIDDEN[i, j] for i, j in columns]) if columns else torch.empty(0, 3)
    torch.testing.assert_close(pooling(HIDDEN), expected)
    assert pooling.sample.tolist() == [i for i, _ in columns]
    assert pooling.position.tolist() == [j - (1 if i == 0 else 0) for i, j in columns]


def test_a_mean_leaves_padding_and_special_tokens_out() -> None:
    pooling = pool(GRID, "mean")
    expected = torch.stack([HIDDEN[0, 2:].mean(0), HIDDEN[1, 1:3].mean(0)])
    torch.testing.assert_close(pooling(HIDDEN), expected)
    assert pooling.role.tolist() == [POOLED, POOLED]
    assert pooling.position.tolist() == [-1, -1]


def test_a_mean_is_not_spoilt_by_infinite_padding() -> None:
    hidden = HIDDEN.clone()
    hidden[0, 0], hidden[1, 4] = torch.inf, torch.nan
    torch.testing.assert_close(pool(GRID, "mean")(hidden), pool(GRID, "mean")(HIDDEN))


def test_a_mean_of_half_precision_is_lifted_once() -> None:
    assert pool(GRID, "mean")(HIDDEN.bfloat16()).dtype == torch.float32
    assert pool(GRID, "mean")(HIDDEN.double()).dtype == torch.float64


def test_rows_do_not_keep_the_activation_alive() -> None:
    rows = pool(GRID, "last")(HIDDEN)
    assert rows.untyped_storage().nbytes() == rows.numel() * rows.element_size()


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 3), st.booleans())
def test_padding_never_changes_a_row(kind: str, more: int, left: bool) -> None:
    pad = (more, 0) if left else (0, more)
    grid = Grid(*(torch.nn.functional.pad(x, pad) for x in (GRID.role, GRID.real)))
    hidden = torch.nn.functional.pad(HIDDEN, (0, 0, *pad), value=7.0)
    a, b = pool(grid, kind), pool(GRID, kind)
    torch.testing.assert_close(a(hidden), b(HIDDEN))
    assert (a.sample.tolist(), a.position.tolist()) == (b.sample.tolist(), b.position.tolist())


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownName, match="no row kind 'cls'; there are last, first, mean"):
        pool(GRID, "cls")
