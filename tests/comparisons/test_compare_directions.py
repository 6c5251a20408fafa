"""A direction of the base at a time, by name: how much it is used, whether it can be read, how far it drifted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import rankscope
from rankscope.errors import NotComparable, UnknownName
from rankscope.registry import known, named
from rankscope.results.runs import PairRecord
from rankscope.store import Run, import_features

N, D, FAMILIES = 240, 12, ("usage", "relative-usage", "recoverability", "drift", "drift-share")
Make = Callable[[str, Tensor], Run]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(name: str, x: Tensor) -> Run:
        np.save(tmp_path / f"{name}.npy", x.numpy())
        return import_features(tmp_path / f"{name}.npy", tmp_path / f"{name}.pt", sites={name: "decoder.0"})

    return made


def base() -> tuple[Tensor, Tensor]:
    """Rows and their principal directions as columns."""
    draw = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(D, D, generator=draw)).Q
    return torch.randn(N, D, generator=draw) * 2.0 ** -torch.arange(D) @ turn.mT, turn


def asked(a: Run, b: Run, names: str) -> dict[str, PairRecord]:
    found = rankscope.compare(a, b, measures=named(names), groups=6).records
    return {r.measure: r for r in found}


def test_a_range_of_names_is_a_spectrum_and_equals_its_definition(make: Make) -> None:
    x, turn = base()
    tripled = x + 2 * (x @ turn[:, 1:2]) @ turn[:, 1:2].mT
    a, b = make("a", x), make("b", tripled)
    found = asked(a, b, f"usage-1..{D}, relative-usage-1..{D}, drift-1..{D}")
    halves, usage, relative = _halves(a), torch.zeros(D), torch.zeros(D)
    for fit, held in (halves, halves[::-1]):
        v = torch.linalg.svd(x[fit].double() - x[fit].double().mean(0), full_matrices=False).Vh.mT
        shares = [(z[held].double() - z[held].double().mean(0)) @ v for z in (tripled, x)]
        u, own = (s.square().sum(0) / s.square().sum() for s in shares)
        usage, relative = usage + u / 2, relative + u / own / 2
    spread = torch.linalg.svd(x.double() - x.double().mean(0), full_matrices=False)
    drift = ((tripled.double() - x.double()) @ spread.Vh.mT).square().mean(0) / (spread.S.square() / (N - 1))
    for i in range(D):
        assert found[f"usage-{i + 1}"].value == pytest.approx(float(usage[i]), rel=1e-6)
        assert found[f"relative-usage-{i + 1}"].value == pytest.approx(float(relative[i]), rel=1e-6)
        assert found[f"drift-{i + 1}"].value == pytest.approx(float(drift[i]), rel=1e-6, abs=1e-12)
    assert sum(found[f"usage-{i}"].value for i in range(1, D + 1)) == pytest.approx(1)


def _halves(run: Run) -> tuple[Tensor, Tensor]:
    from rankscope.features import samples_in_groups

    even = samples_in_groups(run.rows_at(run.sites[0]), 6) % 2 == 0
    return even, ~even


def test_what_was_planted_in_one_direction_is_seen_in_that_one(make: Make) -> None:
    """The second direction tripled, the third taken away: each stands out alone, with its interval, and the base is its ceiling."""
    x, turn = base()
    y = x + 2 * (x @ turn[:, 1:2]) @ turn[:, 1:2].mT - (x @ turn[:, 2:3]) @ turn[:, 2:3].mT
    found = asked(make("a", x), make("b", y), "relative-usage-1..5, recoverability-1..5, drift-1..5")
    assert found["relative-usage-2"].low > 2 * found["relative-usage-2"].itself == 2
    assert found["relative-usage-3"].high < 0.5
    readable = [found[f"recoverability-{i}"] for i in range(1, 6)]
    assert [r.value > 0.9 * r.itself for r in readable] == [True, True, False, True, True]
    moved = [found[f"drift-{i}"].value for i in range(1, 6)]
    assert moved[1] == pytest.approx(4, rel=0.1)
    assert moved[2] == pytest.approx(1, rel=0.1)
    assert max(moved[0], moved[3], moved[4]) < 0.2
    assert all(r.itself == 0 for name, r in found.items() if name.startswith("drift"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_direction_that_is_not_there_is_no_number(make: Make, family: str) -> None:
    x, _ = base()
    a, b = make("a", x), make("b", x + 1)
    with pytest.raises(NotComparable, match=f"there is no principal direction {D + 1} of {D} features"):
        asked(a, b, f"{family}-{D + 1}")
    few = make("few", x[:8]), make("too", x[:8] + 1)
    with pytest.raises(
        NotComparable, match=r"the (base|drift)'s principal direction 9 needs at least 10 rows; there are"
    ):
        asked(*few, f"{family}-9")
    for name in (f"{family}-0", f"{family}-", f"{family}-1.5"):
        with pytest.raises(UnknownName, match=f"there is no measure '{name}'"):
            known(name)


def test_a_range_counts_up() -> None:
    assert [d.name for d in named("hill-0..2, cka")] == ["hill-0", "hill-1", "hill-2", "cka"]
    with pytest.raises(UnknownName, match=r"there is no measure 'usage-3\.\.1'"):
        named("usage-3..1")
