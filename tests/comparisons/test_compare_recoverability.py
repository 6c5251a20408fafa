"""Information lost or not: held-out ridge at the dtype floor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor
from torch.testing import assert_close

from rankscope.analysis.references import unrelated
from rankscope.analysis.view import View
from rankscope.comparisons.recoverability import readable_count, recoverability, recovered, recovered_share
from rankscope.comparisons.rounding import rounding_scatter
from rankscope.errors import NotComparable, UsageError
from rankscope.features import TEXT, Rows
from rankscope.linalg.moments import PairMoments
from rankscope.registry import known


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def power_law(rows: int, width: int, seed: int = 0) -> Tensor:
    return draw(rows, width, seed) * torch.arange(1, width + 1, dtype=torch.float64).rsqrt()


def test_equals_scikit_learn_ridge(moments_of) -> None:
    x = power_law(200, 8) + 3
    y = x @ draw(8, 6, 1) + 0.5 * draw(200, 6, 2) - 4
    fold = torch.arange(200) % 2
    parts = moments_of(x, y, fold, 2)
    fit, held = (fold == 0).numpy(), (fold == 1).numpy()
    directions = np.linalg.eigh(np.cov(x.T.numpy()))[1][:, ::-1]
    scores = x.numpy() @ directions
    ridge = float(rounding_scatter(parts[0].b, torch.float32))
    model = Ridge(alpha=ridge, solver="cholesky").fit(y.numpy()[fit], scores[fit])
    expected = r2_score(scores[held], model.predict(y.numpy()[held]), multioutput="raw_values")
    assert_close(recovered(parts[0], parts[1]), torch.tensor(expected), rtol=1e-9, atol=1e-12)
    weights = scores[held].var(0)
    assert_close(recovered_share(parts[0], parts[1]).item(), float((expected * weights).sum() / weights.sum()))
    assert readable_count(recovered(parts[0], parts[1])) == (expected > 0.5).sum()


def test_the_public_function_averages_both_folds(moments_of) -> None:
    x, y = power_law(120, 8), power_law(120, 8) @ draw(8, 5, 1)
    parts = moments_of(x, y, torch.arange(120) % 2, 2)
    both = (recovered(parts[0], parts[1]) + recovered(parts[1], parts[0])) / 2
    found = recoverability(x, y, dtype=torch.float32)
    assert_close(found.per_component, both)
    assert found.count == int((both > 0.5).sum())
    assert isinstance(found.weighted, float)
    assert recoverability(x, y, folds=5).per_component.shape == (8,)


@pytest.mark.parametrize("rows", [20, 60, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_fewer_rows_than_features_it_is_the_prediction_of_least_norm(rows: int, dtype: torch.dtype) -> None:
    """Of directions that no fitted row reaches, the rounding of the sums became coefficients as large as one in d."""
    x = draw(rows, 64, 1).to(dtype)
    y = x + draw(rows, 64, 2).to(dtype) / 2
    even = torch.arange(rows) % 2 == 0
    for tuned in (x, y):
        expected = []
        for fit in (even, ~even):
            x_fit, x_held, y_fit, y_held = (z[kept].double() for z in (x, tuned) for kept in (fit, ~fit))
            weights = torch.linalg.pinv(y_fit - y_fit.mean(0), rtol=1e-10) @ (x_fit - x_fit.mean(0))
            missed = x_held - x_fit.mean(0) - (y_held - y_fit.mean(0)) @ weights
            expected.append(1 - missed.square().sum() / (x_held - x_held.mean(0)).square().sum())
        assert_close(recoverability(x, tuned).weighted, float(sum(expected)) / 2, rtol=0, atol=1e-8)


def test_the_number_of_components_is_one_in_every_place() -> None:
    """It was the mean of the counts of both folds in `compare`, and the count of the mean in `recoverability`."""
    x = power_law(60, 8)
    y = x + draw(60, 8, 1) * x.std(0) * 0.9
    rows = Rows(
        torch.arange(60), torch.zeros(60, dtype=torch.int64), torch.full((60,), TEXT), tuple(map(str, range(60)))
    )
    view = View([x, y], rows, groups=60)
    found = view.evaluate(known("recoverable-components"), 0, 1).value
    assert found == recoverability(x, y).count
    parts = halves(x, y)
    folds = [recovered(*sides) > 0.5 for sides in (parts, parts[::-1])]
    assert found != (folds[0].sum() + folds[1].sum()) / 2, "or the two would not be told apart"


def halves(x: Tensor, y: Tensor) -> list[PairMoments]:
    parts = PairMoments.of(x, y, shift_a=x.mean(0), shift_b=y.mean(0), group=torch.arange(len(x)) % 2, groups=2)
    return [parts[0], parts[1]]


def test_an_invertible_map_loses_nothing() -> None:
    x = power_law(400, 32)
    found = recoverability(x, 1e3 * x @ draw(32, 32, 1) - 50)
    assert found.count == 32
    assert found.weighted > 0.999999


def test_a_projection_loses_what_it_takes_away() -> None:
    x = draw(400, 12) * torch.tensor([4.0] * 6 + [1.0] * 6)
    kept = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:6]
    found = recoverability(x, x @ kept.T)
    assert found.count == 6
    assert_close(found.weighted, 16 / 17, rtol=0.02, atol=0)


@pytest.mark.parametrize(("rows", "width"), [(400, 250), (1000, 64)])
def test_in_sample_independent_features_look_informative(moments_of, rows: int, width: int) -> None:
    """In-sample R² of independent features is d/(n - 1); held out it is not above 0."""
    pair = moments_of(draw(rows, width), draw(rows, width, 1))
    in_sample = recovered_share(pair, pair)
    assert_close(in_sample.item(), width / (rows - 1), rtol=0.05, atol=0)
    found = recoverability(draw(rows, width), draw(rows, width, 1))
    assert found.count == 0
    assert found.weighted < 0


def test_the_noise_formula_holds_held_out() -> None:
    values = [recoverability(draw(400, 20, 2 * i), draw(400, 20, 2 * i + 1)).weighted for i in range(20)]
    expected = 1 - (1 + 1 / 200) * 200 / 199 * (200 - 2) / (200 - 20 - 2)
    assert_close(sum(values) / 20, expected, rtol=0.1, atol=0)


def test_a_direction_below_rounding_is_lost() -> None:
    """An 'invertible' map that scales directions below the rounding of the stored dtype is not invertible."""
    x = draw(600, 8) * torch.arange(8, 0, -1)
    y = x * torch.tensor([1.0] * 6 + [1e-4] * 2) @ torch.linalg.qr(draw(8, 8, 1)).Q
    assert recoverability(x, y).count == 8
    assert recoverability(x, y.float()).count == 8
    assert recoverability(x, y.bfloat16()).count == 6


def test_rounding_scatter_is_that_of_rounding(moments_of) -> None:
    x = draw(2000, 32)
    error = x.bfloat16().double() - x
    found = rounding_scatter(moments_of(x, x).a, torch.bfloat16)
    assert_close((error.T @ error).diagonal().mean(), found, rtol=0.15, atol=0)


def test_rows_of_a_sample_are_never_on_both_sides() -> None:
    """Tokens that share their sample's noise: split by row the noise is 'recovered', by sample it is not."""
    sample = torch.arange(60).repeat_interleave(8)
    x = draw(60, 4)[sample] + 0.01 * draw(480, 4, 1)
    y = draw(60, 50, 2)[sample] + 0.01 * draw(480, 50, 3)
    assert recoverability(x, y).weighted > 0.5
    assert recoverability(x, y, sample=sample).weighted < 0


def test_identical_runs_are_the_ceiling(moments_of) -> None:
    x, y = power_law(60, 40), power_law(60, 40, 1)
    parts = moments_of(x, y, torch.arange(60) % 2, 2)
    ceiling = recovered_share(PairMoments.itself(parts[0].a), PairMoments.itself(parts[1].a))
    assert ceiling < 0.95, "fewer rows than features: not even the base can be read off itself"
    assert_close(ceiling, recovered_share(*(moments_of(x, x, torch.arange(60) % 2, 2)[i] for i in (0, 1))))


def test_components_without_variance_do_not_count() -> None:
    x = draw(100, 3) @ draw(3, 6, 1)
    found = recoverability(x, x)
    assert found.count == 3
    assert found.per_component[3:].isnan().all()
    assert_close(found.weighted, 1.0)


def test_a_mean_far_away_costs_nothing() -> None:
    x = power_law(300, 16)
    assert recoverability(x, x + 300).count == 16
    assert recoverability(x + 300, x).weighted > 0.999


def test_refusals() -> None:
    x = draw(12, 3)
    with pytest.raises(NotComparable, match="recoverability compares row by row; there are 12 rows in one run, 11"):
        recoverability(x, x[:11])
    with pytest.raises(NotComparable, match="recoverability needs at least 4 rows; there are 3"):
        recoverability(x[:7], x[:7])
    with pytest.raises(UsageError, match="cross-fitting needs at least 2 folds; got 1"):
        recoverability(x, x, folds=1)
    for bad in (x[:, 0], x.long(), torch.stack([x, x])):
        with pytest.raises(UsageError, match=r"needs \(n, d\) features of a floating dtype; got \(.*\) of torch"):
            recoverability(x, bad)


def test_arrays_are_features_too() -> None:
    x, y = draw(40, 3), draw(40, 4, 1)
    assert recoverability(x.numpy(), y.numpy()).weighted == recoverability(x, y).weighted


def test_batches(moments_of) -> None:
    x, y = power_law(90, 6), power_law(90, 6) @ draw(6, 4, 1)
    parts = moments_of(x, y, torch.arange(90) % 3, 3)
    rest = parts.sum()[None] - parts
    batched = recovered_share(rest, parts)
    assert_close(batched[1], recovered_share(rest[1], parts[1]))
    assert recovered(rest, parts).shape == (3, 6)


@pytest.mark.parametrize("share", [0.0, 3.0])
def test_what_rows_at_one_position_share_counts_as_noise(share: float) -> None:
    """Unrelated runs of token rows, with a mean for each position or without: what the record's ``noise`` and ``definitions`` say."""
    samples, tokens, width = 40, 8, 4
    sample, position = torch.arange(samples).repeat_interleave(tokens), torch.arange(tokens).repeat(samples)
    rows = Rows(sample, position, torch.full_like(sample, TEXT), tuple(map(str, range(samples))))
    x, y = (draw(samples * tokens, width, i) + share * draw(tokens, width, 9)[position] for i in (1, 2))
    noise = unrelated(View([x, y], rows, groups=8), known("recoverability"), 0, 1).mean
    assert noise is not None
    assert noise > 0.5 if share else -0.1 < noise <= 0
    assert "those at one position of all samples share its mean" in known("recoverability").noise
