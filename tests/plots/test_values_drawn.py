"""What a figure of two runs draws: the right numbers, at the right place. Inputs are asymmetric and have a mean, so that a map
turned over its diagonal and a spectrum that was not centred are seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.testing import assert_close

import rankscope

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
    drawn = {line.get_label(): line for line in _axes(result, "cumulative share of Σσ").lines}
    below = {line.get_label(): line for line in _axes(result, "σ / σ₁").lines}
    assert _axes(result, "cumulative share of Σσ").get_title(loc="left").startswith("r")
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


def _axes(result: Any, label: str) -> Axes:
    return next(ax for ax in result.plot().axes if ax.get_ylabel() == label)
