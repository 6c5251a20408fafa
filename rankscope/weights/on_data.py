r"""What a change of weights does to the inputs that its module really meets: the singular values of :math:`\Delta W\,\Sigma^{1/2}`.

With :math:`\Sigma = \mathbb{E}[x x^\top]` the uncentred second moment of a module's inputs, :math:`\Delta W\,\Sigma\,\Delta
W^\top` is that of what the change adds to its outputs. Its eigenvalues are the squares of the singular values of
:math:`\Delta W\,\Sigma^{1/2}`, which say how many directions of the outputs the change uses: fewer than its rank if the
inputs lie in few of the directions that it reads.

For a change of rank k only the k numbers :math:`S V^\top x` of each input enter, where :math:`\Delta W = U S V^\top`, so a
LoRA needs sums of k × k and no Σ. Sums are kept by group of samples, as an interval needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition
from rankscope.linalg.forms import add_products, trace
from rankscope.linalg.sums import Sums, lifted
from rankscope.weights.decomposed import Decomposed


@dataclass(frozen=True)
class InputSums(Sums):
    """Sums over the inputs x of one module, with leading batch dimensions ``*`` (one entry per group of samples)."""

    rows: Tensor
    """``(*,)`` number of inputs, float64."""
    second: Tensor
    """``(*, p, p)`` Σ z zᵀ of what is kept of each input: z = x, or its images under a few maps."""
    lengths: Tensor
    """``(*,)`` Σ ‖x‖²."""
    outputs: Tensor
    """``(*,)`` Σ ‖W₀x‖²."""


@dataclass(frozen=True)
class ChangedLayer:
    """A linear layer whose weights changed, and what is read of its inputs."""

    maps: Tensor
    """``(1 + D, k, n)`` S Vᵀ of the change, and of D changes of the same singular values and random orientation."""
    w0: Tensor
    """``(m, n)`` the pre-trained weights, float64."""

    @classmethod
    def of(cls, change: Decomposed, w0: Tensor, *, draws: int, generator: torch.Generator | None = None) -> Self:
        """What is read for a change of weights.

        Args:
            change: the decomposition of ΔW; singular values that are rounding are left out.
            w0: ``(m, n)`` the pre-trained weights.
            draws: the number D of random orientations.
            generator: source of randomness, on the CPU.
        """
        m, n = w0.shape
        # As in LAPACK, values below ε σ₁ max(m, n) are rounding
        k = int((change.values > change.values[0] * max(m, n) * torch.finfo(torch.float64).eps).sum())
        # The Q of a Gaussian matrix is uniform among all n × k orthonormal ones up to the signs of columns, which cancel here
        turned = [torch.randn(n, k, generator=generator, dtype=torch.float64) for _ in range(draws)]
        bases = [change.right[:, :k], *(torch.linalg.qr(x.to(w0.device)).Q for x in turned)]
        return cls(torch.stack([change.values[:k, None] * v.mT for v in bases]), w0.double())

    @property
    def rank(self) -> int:
        """k, the rank of the change."""
        return self.maps.shape[1]

    @property
    def through_maps(self) -> bool:
        """Whether the images of an input under all maps are fewer numbers than the input."""
        return self.maps.shape[:2].numel() < self.maps.shape[2]

    @property
    def kept(self) -> int:
        """p, how many numbers are kept of an input."""
        return min(self.maps.shape[:2].numel(), self.maps.shape[2])

    def zeros(self, groups: int) -> InputSums:
        """The sums over no inputs."""
        of = self.w0.new_zeros
        return InputSums(of(groups), of(groups, self.kept, self.kept), of(groups), of(groups))

    def add(self, sums: InputSums, x: Tensor, group: Tensor) -> None:
        """Add inputs to their groups, in place.

        Args:
            sums: the sums so far.
            x: ``(rows, n)`` inputs of any floating dtype.
            group: ``(rows,)`` int64 group of each.
        """
        x, group = lifted(x, self.w0.device), group.to(self.w0.device)
        kept = x @ self.maps.flatten(0, 1).mT if self.through_maps else x
        sums.rows.index_add_(0, group, torch.ones_like(x[:, 0]))
        sums.lengths.index_add_(0, group, x.square().sum(1))
        sums.outputs.index_add_(0, group, (x @ self.w0.mT).square().sum(1))
        for g in torch.unique(group).tolist():
            add_products(sums.second[g], kept[group == g])

    def covariance(self, sums: InputSums, which: int = 0) -> Tensor:
        """``(k, k)`` :math:`S V^\\top \\Sigma V S`, whose eigenvalues are those of ΔW Σ ΔWᵀ; of one of the maps, 0 for the change."""
        second = sums.second / sums.rows
        if not self.through_maps:
            return self.maps[which] @ second @ self.maps[which].mT
        span = slice(which * self.rank, (which + 1) * self.rank)
        return second[span, span]

    def values(self, sums: InputSums, which: int = 0) -> Tensor:
        """Singular values of ΔW Σ^½ above rounding, ascending; at most k of them, and one zero if there is none."""
        squares = torch.linalg.eigvalsh(self.covariance(sums, which))
        # What rounding makes of a zero is none of the change's directions, and its root has no derivative
        above = squares[squares > squares[-1].clamp(min=0) * len(squares) * torch.finfo(torch.float64).eps]
        return above.sqrt() if len(above) else squares.new_zeros(1)

    def share(self, sums: InputSums) -> Tensor:
        r"""``()`` :math:`\lVert \Delta W \Sigma^{1/2} \rVert_F^2 / \lVert W_0 \Sigma^{1/2} \rVert_F^2`."""
        return trace(self.covariance(sums)) / (sums.outputs / sums.rows)

    def random_share(self, sums: InputSums) -> Tensor:
        r"""``()`` expectation of :meth:`share` for a change of the same singular values and random orientation, in closed form."""
        # E tr(ΔW Σ ΔWᵀ) = ‖ΔW‖² tr Σ / n, as E[V S² Vᵀ] = ‖ΔW‖²/n I for a V of random orientation
        return self.maps[0].square().sum() / self.maps.shape[2] * sums.lengths / sums.outputs


_BIAS = (
    "few inputs lower it: told below 4 inputs for each direction of the change; its interval is over groups of samples"
)
_NOISE = "reported with it: a change of the same singular values and random orientation, by draws"
_OF = "singular values of (W1 - W0) Sigma^1/2, Sigma = E[x x'] of the inputs of the module in the base, on data"

DEFINITIONS = (
    WeightDefinition(
        name="on-data-effective",
        formula=f"exp(-sum p ln p), p = sigma / sum sigma, sigma the {_OF}",
        citation="Roy & Vetterli, EUSIPCO 2007, definition 1, on the outputs that a change adds",
        low="1",
        high="rank of the change",
        bias=_BIAS,
        noise=_NOISE,
    ),
    WeightDefinition(
        name="on-data-participation",
        formula=f"(sum sigma^2)^2 / sum sigma^4, sigma the {_OF}",
        citation="Gao et al. 2017 (bioRxiv 214262), naive form, uncentred, on the outputs that a change adds",
        low="1",
        high="rank of the change",
        bias=_BIAS,
        noise=_NOISE,
    ),
    WeightDefinition(
        name="on-data-share",
        formula="|(W1 - W0) Sigma^1/2|^2 / |W0 Sigma^1/2|^2 = E|(W1 - W0) x|^2 / E|W0 x|^2, x the inputs in the base, on data",
        citation="a ratio of second moments; no source",
        high="infinity",
        bias="a ratio of two means over the same inputs; its interval is over groups of samples",
        noise="reported with it in closed form: |W1 - W0|^2 tr Sigma / (n E|W0 x|^2), that of random orientation",
        unit="share of the output",
    ),
)
