r"""Every reweighting of groups in G × G numbers: participation ratios without going back to d.

With :math:`t_a = \operatorname{tr} G_a` and :math:`K_{ab} = \langle G_a, G_b\rangle_F` of the groups' scatters,
a scatter with weights w has trace :math:`w^\top t` and squared norm :math:`w^\top K w`. A jackknife replicate, a
subsample or a permutation of groups then costs O(G²).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GroupKernel:
    """Traces and inner products of the scatters of groups of samples."""

    traces: Tensor
    """``(G,)`` trace of each group's scatter about the common mean."""
    kernel: Tensor
    """``(G, G)`` Frobenius inner product of each pair."""

    @classmethod
    def of(cls, scatters: Tensor) -> GroupKernel:
        """From ``(G, d, d)`` scatters, all about one mean."""
        flat = scatters.double().flatten(1)
        return cls(scatters.diagonal(dim1=-2, dim2=-1).double().sum(-1), flat @ flat.mT)

    def participation_ratio(self, weights: Tensor, *, across: bool = False) -> Tensor:
        r"""Participation ratio of the weighted groups, :math:`(w^\top t)^2 / w^\top K w`.

        The mean is the common one whatever the weights, which biases a replicate by O(1/n).

        Args:
            weights: ``(*, G)`` weight of each group.
            across: use only products of two *different* groups in both terms, which takes out the bias that rows
                of one sample put into products with themselves.

        Returns:
            ``(*,)`` numbers of dimensions; NaN where nothing varies.
        """
        weights = weights.double()
        traces, norm = (weights @ self.traces).square(), ((weights @ self.kernel) * weights).sum(-1)
        if across:
            squared = weights.square()
            traces, norm = traces - squared @ self.traces.square(), norm - squared @ self.kernel.diagonal()
        return traces / norm

    def left_out(self, *, across: bool = False) -> Tensor:
        """``(G,)`` participation ratio without each group in turn."""
        count = len(self.traces)
        everything_else = 1 - torch.eye(count, dtype=torch.float64, device=self.traces.device)
        return self.participation_ratio(everything_else, across=across)
