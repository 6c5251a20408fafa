"""Planted answers: pairs of runs of which it is known what every measure should say.

The base has Gaussian rows with a power-law covariance in a random basis; the tuned run is made from it. The first nine
scenarios are the dissociation table: a reshaped spectrum, a turned basis, lost information and a drifted mean come apart,
and no single column distinguishes all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.errors import UnknownName, UsageError

KEPT = 16
"""Dimensions that the planted ranks and collapses keep."""
ROWS, WIDTH, EXPONENT = 4096, 256, 1.0
"""Shape and exponent of the spectrum for which :attr:`Scenario.expected` is stated."""


class Planted(NamedTuple):
    """A pair of runs on the same rows."""

    x: Tensor
    """``(n, d)`` float64 features of the base."""
    y: Tensor
    """``(n, d)`` float64 features of the tuned run."""


@dataclass(frozen=True)
class World:
    """The population that the rows of the base come from, and the randomness left."""

    x: Tensor
    """``(n, d)`` rows of the base."""
    basis: Tensor
    """``(d, d)`` principal directions of the population as columns, the leading one first."""
    variances: Tensor
    """``(d,)`` the population's variance along each."""
    draw: torch.Generator
    """Where further randomness comes from."""

    def again(self) -> Tensor:
        """``(n, d)`` other rows of the same population, independent of the base's."""
        return self.normal(*self.x.shape) * self.variances.sqrt() @ self.basis.mT

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.draw, dtype=torch.float64)

    def rotation(self) -> Tensor:
        """``(d, d)`` random rotation."""
        return _orthogonal(self.x.shape[1], self.draw)

    def direction(self) -> Tensor:
        """``(d,)`` random unit vector."""
        return torch.nn.functional.normalize(self.normal(self.x.shape[1]), dim=0)

    def rescaled(self, factors: Tensor) -> Tensor:
        """The base with its i-th principal score multiplied by ``factors[i]``."""
        return (self.x @ self.basis * factors) @ self.basis.mT

    @property
    def index(self) -> Tensor:
        """``(d,)`` 1, 2, …, d: the place of each principal direction."""
        return torch.arange(1, self.x.shape[1] + 1, dtype=torch.float64)

    @property
    def norm(self) -> float:
        """The typical norm of a row, the root of the total variance."""
        return float(self.variances.sum().sqrt())


@dataclass(frozen=True)
class Scenario:
    """What was planted, and what that must look like."""

    name: str
    """The name in tables."""
    answer: str
    """What is true of it, in words."""
    make: Callable[[World], tuple[Tensor, Tensor]]
    """The base and the tuned run from the population."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """Values by name of measure, in samples of the default shape."""


def _orthogonal(width: int, draw: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64))
    return q * r.diagonal().sign()


def _known_rank(world: World) -> tuple[Tensor, Tensor]:
    """The tuned run has exactly ``KEPT`` equal singular values after centring."""
    flat = world.x @ world.basis[:, :KEPT]
    q, _ = torch.linalg.qr(flat - flat.mean(0))
    return world.x, q * len(q) ** 0.5 @ world.basis[:, :KEPT].mT


def _duplicates(world: World) -> tuple[Tensor, Tensor]:
    """Independent runs in which every row from 70 % on is one and the same, as padding is."""
    x, y = world.x.clone(), world.again()
    padding = torch.arange(len(x)) >= len(x) * 7 // 10
    x[padding], y[padding] = world.direction() * world.norm * 3, world.direction() * world.norm * 3
    return x, y


def _sink(world: World) -> tuple[Tensor, Tensor]:
    """One row in 128 has 3000 in one feature."""
    y = world.x.clone()
    y[::128, 0] += 3000.0
    return world.x, y


SCORED = (
    "entropy-rank",
    "participation-ratio",
    "variance-captured",
    "cka",
    "procrustes",
    "recoverable-components",
    "recoverability",
)
"""The measures for which a row of the table states values."""


def _row(*values: float) -> Mapping[str, float]:
    return MappingProxyType(dict(zip(SCORED, values, strict=True)))


DISSOCIATION = (
    Scenario(
        "identical", "nothing changed", lambda w: (w.x, w.x.clone()), _row(72.2, 22.16, 0.657, 1.0, 1.0, 256, 1.0)
    ),
    Scenario(
        "random rotation",
        "only the basis turned",
        lambda w: (w.x, w.x @ w.rotation()),
        _row(72.2, 22.16, 0.116, 1.0, 1.0, 256, 1.0),
    ),
    Scenario(
        "invertible reshape",
        "only the spectrum reshaped; every component can still be read",
        lambda w: (w.x, w.rescaled(w.index**-0.75)),
        _row(2.7, 1.71, 0.996, 0.868, 0.680, 256, 1.0),
    ),
    Scenario(
        "whitened",
        "only the spectrum reshaped, to a flat one",
        lambda w: (w.x, w.rescaled(w.variances.rsqrt())),
        _row(248, 255.8, 0.125, 0.296, 0.774, 256, 1.0),
    ),
    Scenario(
        "top-16 collapse",
        "information lost: 16 components are left",
        lambda w: (w.x, w.rescaled((w.index <= KEPT).double())),
        _row(10.5, 7.09, 0.994, 0.984, 0.747, 16, 0.553),
    ),
    Scenario(
        "rank-1 collapse",
        "information lost: one component is left, on a random direction",
        lambda w: (w.x, torch.outer(w.x @ w.basis[:, 0], w.direction())),
        _row(1.0, 1.0, 0.114, 0.790, 0.410, 1, 0.163),
    ),
    Scenario(
        "independent noise added",
        "half of the information lost in every component, covariance kept",
        lambda w: (w.x, w.x + w.again()),
        _row(72.3, 22.08, 0.657, 0.507, 0.714, 0, 0.432),
    ),
    Scenario(
        "independent features",
        "everything lost, covariance kept",
        lambda w: (w.x, w.again()),
        _row(73.2, 22.54, 0.653, 0.0, 0.135, 0, -0.151),
    ),
    Scenario(
        "mean shift",
        "only the mean drifted",
        lambda w: (w.x, w.x + 3 * w.norm * w.direction()),
        _row(72.2, 22.16, 0.657, 1.0, 1.0, 256, 1.0),
    ),
)
"""The nine scenarios of the dissociation table, with what they score at 4096 rows of 256 features. The variance captured
is by 32 directions."""

CONTROLS = (
    Scenario("known rank", "every rank is 16", _known_rank, {"entropy-rank": 16, "participation-ratio": 16}),
    Scenario(
        "row shift",
        "the rows are off by one: one spectrum, no alignment",
        lambda w: (w.x, w.x.roll(1, 0)),
        {"entropy-rank": 72.2, "cka": 0.0, "recoverable-components": 0},
    ),
    Scenario("duplicated rows", "independent runs that share their padding: refuse, or see no likeness", _duplicates),
    Scenario("one sink", "one row in 128 is massive; without those rows nothing changed", _sink),
)
"""Further planted answers: a known rank, and inputs at which a comparison must not be fooled."""

SCENARIOS: Mapping[str, Scenario] = MappingProxyType({s.name: s for s in (*DISSOCIATION, *CONTROLS)})
"""Every scenario by name."""


def plant(
    name: str,
    *,
    rows: int = ROWS,
    width: int = WIDTH,
    seed: int = 0,
) -> Planted:
    """The two runs of a scenario.

    Args:
        name: a scenario, one of :data:`SCENARIOS`.
        rows: number of rows n.
        width: number of features d, at least 16.
        seed: of all randomness; the base is the same in every scenario of one seed and shape.

    Returns:
        The features of both runs.

    Raises:
        UnknownName: if there is no such scenario; the message lists those there are.
        UsageError: if there are fewer than 16 features or rows.
    """
    if name not in SCENARIOS:
        raise UnknownName(f"there is no planted scenario {name!r}; the scenarios are {', '.join(SCENARIOS)}")
    if min(rows - 1, width) < KEPT:
        raise UsageError(f"planted answers need {KEPT} features and more rows than that; got {rows} x {width}")
    draw = torch.Generator().manual_seed(seed)
    basis = _orthogonal(width, draw)
    variances = torch.arange(1, width + 1, dtype=torch.float64) ** -EXPONENT
    normal = torch.randn(rows, width, generator=draw, dtype=torch.float64)
    world = World(normal * variances.sqrt() @ basis.mT, basis, variances, draw)
    x, y = SCENARIOS[name].make(world)
    return Planted(x, y)
