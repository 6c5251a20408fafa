"""Every measure by influence: the same value as solved again, and the error that leaving out each sample gives."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.analysis.second_pass import prepare
from rankscope.analysis.view import View
from rankscope.definition import Comparison, Definition
from rankscope.features import TEXT, Rows
from rankscope.inference.jackknife import standard_error
from rankscope.registry import COMPARISONS, DEFINITIONS, known

SAMPLES, TOKENS, WIDTH = 120, 3, 12


def rows(lengths: Tensor) -> Rows:
    sample = torch.arange(len(lengths)).repeat_interleave(lengths)
    position = torch.cat([torch.arange(n) for n in lengths.tolist()])
    return Rows(sample, position, torch.full_like(sample, TEXT), tuple(map(str, range(len(lengths)))))


def pair(lengths: Tensor, width: int = WIDTH, other: int = WIDTH) -> tuple[Tensor, Tensor, Rows]:
    """Rows that share half of their variance with their sample, about a mean, and the same turned, with noise."""
    g, at = torch.Generator().manual_seed(0), rows(lengths)
    common, own = (torch.randn(n, width, generator=g, dtype=torch.float64) for n in (len(lengths), len(at)))
    x = (common[at.sample] + own) * torch.arange(1, width + 1).rsqrt() + 0.5
    turn = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64)).Q[:, :other]
    mixed = x * torch.arange(1, width + 1) ** -0.25 @ (turn if other != width else torch.eye(width).double() + turn / 4)
    return x, mixed + 0.3 * torch.randn(len(at), other, generator=g, dtype=torch.float64), at


@cache
def views(interval: str, groups: int = SAMPLES, device: torch.device | str = "cpu") -> View:
    x, y, at = pair(torch.full((SAMPLES,), TOKENS))
    return View([x, y], at, groups=groups, interval=interval, device=device)  # type: ignore[arg-type]


def runs_of(what: Definition | Comparison) -> tuple[int, ...]:
    return (0,) if isinstance(what, Definition) else (0, 1)


BY_MOMENTS = [
    one
    for one in (*DEFINITIONS.values(), *COMPARISONS.values())
    if one.reads not in ("rows", "samples")
    and not one.name.startswith("power-law-11")  # which needs more than ten values
]
COARSE = {"energy-95": 0.35, "energy-99": 0.35, "pt-peft-pooled": 0.35, "condition": 0.25, "alpha-req-r2": 0.25}
"""Numbers that bend within the reach of a sample."""


@pytest.mark.parametrize("what", BY_MOMENTS, ids=lambda what: what.name)
def test_a_number_has_the_value_and_the_error_of_solving_it_again(
    what: Definition | Comparison, device: torch.device
) -> None:
    runs = runs_of(what)
    found, again = (
        view.evaluate(what, *runs) for view in (views("influence", 20, device), views("jackknife", device=device))
    )
    # The halves of cross-fitted numbers follow from the groups, so the value is that of as many
    assert_close(found.value.cpu(), views("jackknife", 20).evaluate(what, *runs).value, rtol=1e-10, atol=1e-12)
    if found.method == "influence":
        assert len(found.left_out) == SAMPLES
        expected = float(standard_error(again.left_out))
        assert float(standard_error(found.left_out)) == pytest.approx(
            expected, rel=COARSE.get(what.name, 0.15 if what.reads != "folds" else 0.3)
        )


def test_most_measures_are_swept_and_those_solved_again_are_known() -> None:
    again = {
        one.name for one in BY_MOMENTS if views("influence", 20).evaluate(one, *runs_of(one)).method != "influence"
    }
    assert len(BY_MOMENTS) == 71
    assert again == {
        # steps
        "below-dtype-floor", "broken-stick", "gavish-donoho", "hill-0", "kaiser", "mp-reference", "spectral-gap",
        "recoverable-components",
        # single directions, and so few that a near-tie is much
        "usage-1", "relative-usage-1", "recoverability-1", "drift-1", "overlap", "subspace-distance",
        # a cut, or a function that torch cannot follow
        "svcca", "usage-entropy",
    }  # fmt: skip


def test_asked_for_together_they_are_what_they_are_alone(device: torch.device) -> None:
    x, y, at = pair(torch.randint(1, 9, (60,), generator=torch.Generator().manual_seed(1)))
    together, sent = View([x.to(device), y.to(device)], at, device=device), View([x, y], at, device=device)
    prepare(together, [(what, runs_of(what)) for what in BY_MOMENTS])
    for name in ("roy-vetterli", "rankme", "participation-ratio-clustered", "cka", "recoverability", "drift"):
        what = known(name)
        one, alone = (view.evaluate(what, *runs_of(what)) for view in (together, sent))
        assert one.method == "influence"
        assert_close(one.left_out, alone.left_out, rtol=1e-9, atol=1e-12)


def test_runs_of_different_width_have_it_too(device: torch.device) -> None:
    x, y, at = pair(torch.full((60,), 2), other=7)
    for name in ("cka", "recoverability", "cca-mean"):
        found, again = (
            View([x, y], at, groups=groups, interval=way, device=device).evaluate(known(name), 0, 1)
            for way, groups in (("influence", 20), ("jackknife", 60))
        )
        assert found.method == "influence"
        assert float(standard_error(found.left_out)) == pytest.approx(float(standard_error(again.left_out)), rel=0.25)


def test_few_samples_and_few_rows_are_left_out_again() -> None:
    x, y, at = pair(torch.full((20,), 6))
    assert View([x, y], at).evaluate(known("roy-vetterli"), 0).method == "jackknife"
    x, y, at = pair(torch.full((40,), 1), width=32, other=32)
    assert View([x, y], at).evaluate(known("roy-vetterli"), 0).method == "jackknife"
    x, y, at = pair(torch.full((90,), 1), width=32, other=32)
    assert View([x, y], at).evaluate(known("roy-vetterli"), 0).method == "influence"
    assert View([x, y], at).evaluate(known("recoverability"), 0, 1).method == "jackknife"


def test_many_samples_share_units_inside_the_halves() -> None:
    x, y, at = pair(torch.full((613,), 1))
    view = View([x, y], at)
    found = view.evaluate(known("recoverability"), 0, 1)
    assert (found.method, len(found.left_out)) == ("influence", 100)
    for unit in range(view.division.units):
        assert len(set(view.division.fold[view.division.unit == unit].tolist())) == 1


def test_the_same_run_twice_has_no_error_and_its_differences_none_by_chance() -> None:
    x, _, at = pair(torch.full((80,), 2))
    view = View([x, x.clone()], at)
    for name in ("drift", "cka", "cumulative-distance"):
        found = view.evaluate(known(name), 0, 1)
        assert float(standard_error(found.left_out)) < 1e-10
    between = view.evaluate(known("roy-vetterli"), 1) - view.evaluate(known("roy-vetterli"), 0)
    assert float(standard_error(between.left_out)) < 1e-10
