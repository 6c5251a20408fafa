"""What every comparison promises, for any data: invariance, symmetry, identity, range, batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.testing import assert_close

from rankscope.comparisons import (
    cca,
    cka,
    drift,
    gaussian,
    kernel_cka,
    neighbours,
    procrustes,
    recoverability,
    rsa,
    spectra,
    subspace,
    usage,
)
from rankscope.definition import Comparison
from rankscope.linalg.moments import PairMoments

MODULES = (cca, cka, drift, gaussian, kernel_cka, neighbours, procrustes, recoverability, rsa, spectra, subspace, usage)
ALL = [
    one
    for module in MODULES
    for one in (getattr(module, "COMPARISONS", None) or (module.COMPARISON,))
    if isinstance(one, Comparison)
]
BY_NAME = {one.name: one for one in ALL}
ROWS, WIDTH = 48, 8

TURNED_APART = {
    "cka", "cka-biased", "kernel-cka", "cca", "cca-adjusted", "cca-mean", "cca-angle", "svcca", "pwcca", "procrustes",
    "procrustes-angle", "procrustes-disparity", "procrustes-held-out", "rsa", "mutual-neighbours", "recoverability",
    "recoverable-components", "recoverability-1",
    "log-wasserstein", "log-wasserstein-2", "atom-wasserstein", "spectrum-kl", "spectrum-js", "cumulative-distance",
}  # fmt: skip
"""Unchanged when one side alone is rotated and scaled."""
TURNED_TOGETHER = (TURNED_APART - {"pwcca"}) | {
    "overlap", "subspace-distance", "variance-captured", "usage-entropy", "drift", "drift-mean-share", "drift-inside",
    "drift-rank", "drift-1", "drift-share-1", "identity-distance", "rotation-gap", "affine-distance", "usage-1", "relative-usage-1",
}  # fmt: skip
"""Unchanged when both sides are rotated and scaled alike; PWCCA weighs by the reference's own axes, and the others scale
with the features."""
IDENTITY = {
    **dict.fromkeys(("cka", "cka-biased", "kernel-cka", "cca", "cca-adjusted", "cca-mean", "svcca", "pwcca"), 1.0),
    **dict.fromkeys(("recoverability-1", "relative-usage-1"), 1.0),
    **dict.fromkeys(("cca-angle", "drift-1"), 0.0),
    **dict.fromkeys(
        ("procrustes", "procrustes-held-out", "rsa", "mutual-neighbours", "overlap", "recoverability"), 1.0
    ),
    **dict.fromkeys(("procrustes-angle", "procrustes-disparity", "identity-distance", "rotation-gap"), 0.0),
    **dict.fromkeys(
        ("subspace-distance", "drift", "drift-mean-share", "drift-inside", "drift-rank", "drift-share-1"), 0.0
    ),
    **dict.fromkeys(("bures", "frechet", "affine-distance", "log-wasserstein", "atom-wasserstein"), 0.0),
    **dict.fromkeys(("log-wasserstein-2", "spectrum-kl", "spectrum-js", "cumulative-distance"), 0.0),
    "recoverable-components": WIDTH,
}
"""What a run scores against itself."""


def draw(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(comparison: Comparison, x: Tensor, y: Tensor) -> Tensor:
    if comparison.reads == "rows":
        return comparison.function(x, y, torch.arange(len(x)))
    if comparison.reads == "spectra":
        return comparison.function(*(torch.linalg.svdvals(z - z.mean(0)) for z in (x, y)))
    fold = torch.arange(len(x)) % 2
    parts = PairMoments.of(x, y, shift_a=x.mean(0), shift_b=y.mean(0), group=fold, groups=2)
    if comparison.reads == "moments":
        return comparison.function(parts.sum())
    found = comparison.function(parts[0], parts[1])
    return found if comparison.summary is None else comparison.summary(found)


def pair(seed: int) -> tuple[Tensor, Tensor]:
    x = draw(ROWS, WIDTH, seed) * torch.linspace(2, 0.5, WIDTH)
    return x, x @ draw(WIDTH, WIDTH, seed + 1) * 0.5 + 0.5 * draw(ROWS, WIDTH, seed + 2)


def each(names: set[str]) -> Callable:
    return pytest.mark.parametrize("comparison", [BY_NAME[n] for n in sorted(names)], ids=lambda one: one.name)


def test_the_sweep_is_whole() -> None:
    assert len(ALL) == len(BY_NAME) == 41
    assert set(BY_NAME) - TURNED_TOGETHER == {"bures", "frechet", "pwcca"}
    assert set(BY_NAME) - set(IDENTITY) == {"variance-captured", "usage-entropy", "usage-1"}
    for one in ALL:
        assert one.formula, one.name
        assert one.citation, one.name
        assert one.noise, one.name
        assert one.bias, one.name


@each(TURNED_APART)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 50), scale=st.floats(0.1, 10))
def test_a_side_turned_and_scaled_alone_changes_nothing(comparison: Comparison, seed: int, scale: float) -> None:
    x, y = pair(seed)
    turned = scale * y @ torch.linalg.qr(draw(WIDTH, WIDTH, seed + 3)).Q
    assert_close(score(comparison, x, turned), score(comparison, x, y), rtol=1e-6, atol=1e-9)


@each(TURNED_TOGETHER)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 50), scale=st.floats(0.1, 10))
def test_both_sides_turned_and_scaled_alike_change_nothing(comparison: Comparison, seed: int, scale: float) -> None:
    x, y = pair(seed)
    q = scale * torch.linalg.qr(draw(WIDTH, WIDTH, seed + 3)).Q
    assert_close(score(comparison, x @ q, y @ q), score(comparison, x, y), rtol=1e-6, atol=1e-7)


@each(set(BY_NAME) - TURNED_APART - {"drift-mean-share", "drift-rank", "rotation-gap"})
def test_a_shared_basis_is_seen_when_one_side_turns(comparison: Comparison) -> None:
    x, y = pair(0)
    turned = score(comparison, x, y @ torch.linalg.qr(draw(WIDTH, WIDTH, 3)).Q)
    assert (turned - score(comparison, x, y)).abs() > 1e-3


@each(set(BY_NAME))
def test_exchanging_the_two_changes_what_is_directed(comparison: Comparison) -> None:
    x, y = pair(0)
    apart = (score(comparison, x, y) - score(comparison, y, x)).abs()
    assert apart > 1e-6 if comparison.directed else apart < 1e-9


@each(set(IDENTITY))
def test_a_run_against_itself(comparison: Comparison) -> None:
    x, _ = pair(0)
    expected = torch.tensor(float(IDENTITY[comparison.name]), dtype=torch.float64)
    assert_close(score(comparison, x, x.clone()), expected, rtol=0, atol=1e-7)


@each(set(BY_NAME))
def test_half_precision_and_another_run_are_told_apart(comparison: Comparison) -> None:
    """bfloat16 rows are lifted, the value is float64; and a related run is not an identical one."""
    x, y = pair(0)
    found = score(comparison, x.bfloat16(), y.bfloat16()) if comparison.reads != "spectra" else score(comparison, x, y)
    assert found.dtype == torch.float64
    assert found.isfinite()
    if comparison.name in IDENTITY and comparison.name not in {"drift-mean-share", "recoverable-components"}:
        assert (score(comparison, x, y) - IDENTITY[comparison.name]).abs() > 1e-3


@each({name for name, one in BY_NAME.items() if one.reads in ("moments", "folds")})
def test_fewer_rows_than_features(comparison: Comparison) -> None:
    """n < d: finite and within range, or refused by name."""
    x, y = draw(12, 40, 0), draw(12, 40, 1)
    if comparison.name in {"cca", "cca-adjusted", "cca-mean", "cca-angle", "svcca", "pwcca"}:
        with pytest.raises(ValueError, match="are all 1, whatever the features"):
            score(comparison, x, y)
    else:
        assert score(comparison, x, y).isfinite()
