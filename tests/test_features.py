from __future__ import annotations

import pytest
import torch

from rankscope.errors import NotComparable, UsageError
from rankscope.features import (
    Features,
    Grid,
    Rows,
    common,
    first_difference,
    natural,
    samples_in_groups,
)
from rankscope.sites import Site


def rows(sample: list[int], position: list[int] | None = None, ids: tuple[str, ...] = ("a", "b", "c", "d")) -> Rows:
    at = position if position is not None else [0] * len(sample)
    return Rows(torch.tensor(sample), torch.tensor(at), torch.zeros(len(sample), dtype=torch.uint8), ids)


def test_rows_tell_sample_token_and_role() -> None:
    assert rows([1, 1], [0, 1]).keys() == [("b", 0, "text"), ("b", 1, "text")]
    assert rows([1, 1], [0, 1]).to_frame()["position"].tolist() == [0, 1]


def test_rows_are_shown_by_how_many_of_what_they_are() -> None:
    mixed = Rows(torch.tensor([0, 0, 2]), torch.arange(3), torch.tensor([1, 0, 1], dtype=torch.uint8), ("a", "b", "c"))
    assert repr(mixed) == "Rows(1 text, 2 image; of 2 samples)"
    assert repr(rows([])) == "Rows(none; of 0 samples)"


def test_equal_rows_have_no_difference() -> None:
    assert first_difference(rows([0, 1]), rows([0, 1])) is None
    assert first_difference(rows([0, 1], ids=("a", "b")), rows([0, 1], ids=("a", "b", "c"))) is None


def test_the_first_difference_is_told_in_words() -> None:
    told = first_difference(rows([0, 1], [0, 3]), rows([0, 1], [0, 4]))
    assert told == "row 1 is sample 'b', token 3 (text) in one and sample 'b', token 4 (text) in the other"
    assert first_difference(rows([0]), rows([0, 1])) == "one has 1 rows, the other 2"


def test_common_rows_are_found_by_identity_not_by_place() -> None:
    mine, theirs = common(rows([0, 1, 3]), rows([3, 0]))
    assert mine.tolist() == [0, 2]
    assert theirs.tolist() == [1, 0]


def test_runs_without_a_common_row_are_not_comparable() -> None:
    with pytest.raises(NotComparable, match="share no row: 1 rows in one, 1 in the other"):
        common(rows([0]), rows([1]))
    with pytest.raises(NotComparable, match="not unique"):
        common(rows([0, 0]), rows([0]))


def test_groups_hold_whole_samples_and_are_even() -> None:
    group = samples_in_groups(rows([0, 0, 1, 2, 2, 3]), 2)
    assert group.tolist() == [0, 0, 0, 1, 1, 1]
    assert samples_in_groups(rows([0, 2, 2, 3]), 20).tolist() == [0, 1, 1, 2]
    with pytest.raises(UsageError, match="needs at least 2; got 1"):
        samples_in_groups(rows([0, 1, 2]), 1)


def test_groups_follow_the_ids_and_not_the_order_of_the_samples() -> None:
    ids = ("s10", "s9", "s100", "s1")
    assert samples_in_groups(rows([0, 1, 2, 3], ids=ids), 4).tolist() == [2, 1, 3, 0]
    assert sorted(["b", "a10", "a9", "a09", "10", "9" * 5000], key=natural) == [
        *("10", "9" * 5000, "a09", "a9", "a10", "b")
    ]


def test_features_and_rows_must_agree() -> None:
    with pytest.raises(UsageError, match=r"those at decoder.0 have shape \(3, 2\), and there are 2 rows"):
        Features(torch.zeros(3, 2), rows([0, 1]), Site("decoder", "0"))


def test_features_are_taken_with_their_rows() -> None:
    taken = Features(torch.arange(6.0).view(3, 2), rows([0, 1, 2]), Site("decoder", "0")).take(torch.tensor([2, 0]))
    assert taken.x.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert taken.rows.sample_ids == ("c", "a")


def test_a_grid_counts_positions_over_real_columns_only() -> None:
    grid = Grid(torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([[False, True, True], [True, True, False]]))
    assert grid.position.tolist() == [[-1, 0, 1], [0, 1, 1]]
    with pytest.raises(UsageError, match="two"):
        Grid(torch.zeros(2, 3, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.bool))
