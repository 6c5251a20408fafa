"""What a figure of two runs draws: the right numbers, at the right place. Inputs are asymmetric and have a mean, so that a map
turned over its diagonal and a spectrum that was not centred are seen."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.testing import assert_close

import rankscope
from rankscope import plots
from rankscope.results.record import Estimate

N, D = 60, 6
CENTRE = torch.linspace(5, 9, D)


class Branches(nn.Module):
    """Three linear maps of the same input, side by side: the sites p, q and r."""

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        for name, weight in zip("pqr", weights, strict=True):
            branch = nn.Linear(D, D, bias=False)
            branch.weight = nn.Parameter(weight)
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return self.p(x) + self.q(x) + self.r(x)


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run b has a's three maps one place further on; the base has them in a third order and a little noise."""
    generator = torch.Generator().manual_seed(0)
    out = tmp_path_factory.mktemp("runs")
    x = torch.randn(N, D, generator=generator) * torch.arange(1, D + 1) + CENTRE
    one, two, three = (torch.randn(D, D, generator=generator) for _ in range(3))
    orders = {"a": (one, two, three), "b": (two, three, one), "base": (three, one, two)}
    runs = {name: rankscope.collect(Branches(*w), x, out=out / f"{name}.pt") for name, w in orders.items()}
    a, b, base = runs.values()
    options: dict[str, Any] = {"measures": ["cka", "roy-vetterli"], "groups": 4}
    return {**runs, "two": rankscope.compare(a, b, **options), "three": rankscope.compare(a, b, base=base, **options)}


def naive_cka(x: Tensor, y: Tensor) -> float:
    """Debiased linear CKA by its definition: HSIC₁ of Song et al. 2012 with the diagonals of both Gram matrices removed."""
    gram, other = (z @ z.mT for z in ((x - x.mean(0)).double(), (y - y.mean(0)).double()))
    n = len(gram)

    def hsic(a: Tensor, b: Tensor) -> float:
        a, b = a - a.diag().diag(), b - b.diag().diag()
        whole = a.sum() * b.sum() / ((n - 1) * (n - 2))
        return float(((a * b).sum() + whole - 2 / (n - 2) * (a.sum(0) @ b.sum(0))) / (n * (n - 3)))

    return hsic(gram, other) / (hsic(gram, gram) * hsic(other, other)) ** 0.5


@pytest.mark.parametrize(("which", "reference"), [("two", "a"), ("three", "base")])
def test_the_map_has_the_reference_along_its_rows(which: str, reference: str, contrasts: dict[str, Any]) -> None:
    result = contrasts[which]
    rows, columns = contrasts[reference], contrasts["b"]
    assert [str(site) for site in result.similarity_sites] == ["p.output", "q.output", "r.output"]
    expected = torch.tensor(
        [[naive_cka(rows.features(i), columns.features(j)) for j in columns.sites] for i in rows.sites]
    ).double()
    assert_close(result.similarity, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(expected, expected.mT, atol=0.2)
    ax = next(ax for ax in result.plot().axes if ax.images)
    assert (ax.get_ylabel(), ax.get_xlabel()) == (reference, "b")
    assert_close(torch.tensor(ax.images[0].get_array().data), expected, rtol=1e-5, atol=1e-6)
    assert ax.images[0].origin == "upper"


def test_the_spectra_of_a_figure_are_those_of_centred_features(contrasts: dict[str, Any]) -> None:
    result = contrasts["three"]
    drawn = {line.get_label(): line for line in plots.cumulative(result, site="r.output").lines}
    below = {line.get_label(): line for line in plots.spectra(result, site="r.output").lines}
    assert plots.spectra(result, site="r.output").get_title(loc="left").startswith("r")
    for name in ("a", "b", "base"):
        for site in contrasts[name].sites:
            x = contrasts[name].features(site).double()
            values = torch.linalg.svdvals(x - x.mean(0))
            assert_close(result.spectra[name][site].values.double(), values, rtol=1e-6, atol=0)
            assert torch.linalg.svdvals(x)[0] > 1.5 * values[0]
            if site.stack == "r":
                shown = torch.tensor(drawn[name].get_ydata()).double()
                assert_close(shown[-D:], values.cumsum(0) / values.sum(), rtol=1e-6, atol=0)
                assert_close(torch.tensor(below[name].get_ydata()).double(), values / values[0], rtol=1e-6, atol=0)


def bars(ax: Axes) -> list[tuple[float, float, float]]:
    """The value and both ends of every point that a panel draws with an interval, rounded."""
    found = []
    for container in ax.containers:
        line, _, (ends,) = container.lines
        for y, ((_, low), (_, high)) in zip(line.get_ydata(), ends.get_segments(), strict=True):
            found.append(tuple(round(float(v), 9) for v in (y, low, high)))
    return sorted(found)


def wanted(estimates: list[Any], spans: list[Any] | None = None) -> list[tuple[float, float, float]]:
    ends = spans or estimates
    pairs = zip(estimates, ends, strict=True)
    return sorted(tuple(round(v, 9) for v in (e.value, s.low, s.high)) for e, s in pairs)


def panel(figure: Any, measure: str) -> Axes:
    return next(ax for ax in figure.axes if re.split("[,;]", ax.get_title("left"))[0] == measure)


def test_every_point_and_bar_is_that_of_a_record(contrasts: dict[str, Any]) -> None:
    swept = 0
    for which in ("two", "three"):
        figure = contrasts[which].plot()
        for measure in ("cka", "roy-vetterli"):
            records = contrasts[which].of(measure)
            one_line = all(r.a.value is None for r in records)
            estimates = [r.estimate for r in records] if one_line else [e for r in records for e in (r.a, r.b)]
            if records[0].base is not None:  # a change is drawn from where it began
                ends = [(e.value, e.low, e.high) for e in estimates]
                begun = [r.base for r in records for _ in range(2)]
                estimates = [Estimate(*(b + x for x in e)) for e, b in zip(ends, begun, strict=True)]
                level = next(line for line in panel(figure, measure).lines if line.get_label() == "base")
                assert level.get_ydata()[0] == records[0].base
            assert bars(panel(figure, measure)) == wanted(estimates)
            swept += len(estimates)
    measured = rankscope.measure(contrasts["a"], ["roy-vetterli", "stable-rank"], groups=4)
    for measure in measured.measures:
        assert bars(panel(measured.plot(), measure)) == wanted([r.estimate for r in measured.of(measure)])
        swept += len(measured.of(measure))
    several = {"x": [contrasts["a"]], "y": [contrasts["b"]]}
    arms = rankscope.compare_arms(several, base=contrasts["base"], measures=["roy-vetterli"], groups=4)
    mine = [r for r in arms.records if r.arm in several]
    assert bars(panel(arms.plot(), "roy-vetterli")) == wanted([r.estimate for r in mine], [r.band for r in mine])
    curves = rankscope.curve(contrasts["a"], ["roy-vetterli"], parts=[1, 2])
    drawn = bars(panel(curves.plot(), "roy-vetterli"))
    assert drawn == sorted(tuple(round(v, 9) for v in (r.value, r.least, r.greatest)) for r in curves.records)
    assert swept + len(mine) + len(curves.records) >= 30
