r"""What each sample does to a number, to first order, from one solution on all rows.

Let a number be :math:`\theta = f(T)` of sums :math:`T = \sum_u w_u T_u` over units u (samples, or small groups of them), all
with weight 1: numbers of rows, sums of rows, of products of rows, of fourth powers. Its *influence* is the derivative with
respect to the weight of a unit,

.. math:: \psi_u = \frac{\partial\theta}{\partial w_u} = \langle \nabla f(T), T_u \rangle ,

one gradient for all units, contracted with the sums of each. For the scatter that is :math:`z_i^\top G z_i` for each row
:math:`z = x - \bar x`, exactly, because the terms in the mean cancel there; for a function of the spectrum :math:`G = V
\operatorname{diag}(\partial f / \partial \lambda)\, V^\top`, with no gap between eigenvalues in a denominator. Leaving a unit
out moves the number by :math:`-\psi_u / (1 - h_u)`, where :math:`h_u` is the unit's share of the rows: exact for a mean,
whose weights add up to less without it, and the first order for everything else. The jackknife's formulas then apply
(:mod:`rankscope.inference.jackknife`), with as many units as there are samples, where solving again can afford twenty groups.

Sums that only enter as products of two rows of one sample, :math:`\sum \lVert z \rVert^4` say, carry the square of the
weight, so their derivative is twice their value. A U-statistic, which subtracts them from products of all rows, is then
linear in every weight, and what it loses without a unit is not an approximation.

Jaeckel, "The infinitesimal jackknife", Bell Labs memorandum, 1972; Efron, "The jackknife, the bootstrap and other resampling
plans", SIAM, 1982, chapter 6; Huber & Ronchetti, "Robust statistics", 2009, section 1.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rankscope.errors import UsageError
from rankscope.linalg.principal import Principal
from rankscope.linalg.sums import Sums

TWICE = frozenset({"fourth", "norms", "traces_squared", "norms_squared"})
"""The sums over products of two rows of one sample."""
SOLVED = ("principal", "principal_about_origin")
"""The eigendecompositions that sums keep."""
ALIKE = 1e-11
"""Relative distance at which two matrices are one direction, several digits above what rounding leaves between them."""


class _InTheGraph(TorchFunctionMode):
    """Within it nothing that is differentiated becomes a Python number, or a tensor that torch does not differentiate.

    It has left the graph, and the derivative of the rest would not be that of the whole. Torch itself warns of a few such steps,
    once in a process. What is held constant on purpose is said by ``detach``.
    """

    NUMBERS = frozenset({Tensor.__float__, Tensor.__int__, Tensor.__complex__, Tensor.item, Tensor.tolist})
    BY_SHAPE = re.compile(r"detach_?|new_\w+|\w+_like")
    """Functions that read no values, or are meant to leave the graph."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        number = func in self.NUMBERS
        found = None if number else func(*args, **(kwargs or {}))
        constant = isinstance(found, Tensor) and found.is_floating_point() and not found.requires_grad
        if (number or constant) and torch.is_grad_enabled() and not self.BY_SHAPE.fullmatch(func.__name__):
            given = tree_leaves((args, kwargs))
            if any(isinstance(one, Tensor) and one.requires_grad for one in given):
                raise UsageError(f"{func.__name__} leaves the graph; take detach() first of what is held constant")
        return func(*args, **(kwargs or {})) if number else found


class Gradient(NamedTuple):
    """A number and its derivative with respect to sums."""

    value: Tensor
    """``()`` the number."""
    slopes: tuple[dict[str, Tensor], ...]
    """For each of the sums the derivative with respect to its fields, those of nested sums as ``a.second``; and to the
    eigenvalues and eigenvectors of which it was made, as ``principal.values``."""


def leaves(sums: Sums) -> Sums:
    """The same sums as leaves of a graph; what was solved of them is solved for these too."""
    made = sums._mapped(lambda value: value.detach().requires_grad_())
    _remember(made, sums)
    return made


def _remember(made: Sums, origin: Sums) -> None:
    made.__dict__["origin"] = origin
    for name in (f.name for f in fields(made)):
        if isinstance(inner := getattr(made, name), Sums):
            _remember(inner, getattr(origin, name))


def named(sums: Sums, prefix: str = "") -> dict[str, Tensor]:
    """Every sum by its name, those of nested sums as ``a.second``, without the shift, and what was solved of them."""
    found: dict[str, Tensor] = {}
    for name in (f.name for f in fields(sums)):
        value = getattr(sums, name)
        if isinstance(value, Sums):
            found |= named(value, f"{prefix}{name}.")
        elif name != "shift":
            found[prefix + name] = value
    for name in SOLVED:
        if isinstance(solved := sums.__dict__.get(name), Principal):
            found |= {f"{prefix}{name}.{part}": value for part, value in solved._asdict().items()}
    return found


def gradient(function: Callable[..., Tensor], sums: Sequence[Sums | Tensor]) -> Gradient | None:
    """The derivative of a number with respect to what it reads.

    Args:
        function: from the sums, or tensors, to ``()``.
        sums: what it reads; every derivative of a tensor is named ``""``.

    Returns:
        The number and its derivative, without what is zero; None where it has none, as it is not computed by torch, or
        the derivative is not finite.
    """
    with torch.enable_grad():
        inputs = [leaves(s) if isinstance(s, Sums) else s.detach().clone().requires_grad_() for s in sums]
        try:
            with _InTheGraph():
                value = function(*inputs)
        except (RuntimeError, TypeError, UsageError, UserWarning):
            return None  # NumPy's, say; what fails without a graph too says why when it is computed without
        if not isinstance(value, Tensor) or not value.requires_grad or not value.isfinite():
            return None
        parts = [named(s) if isinstance(s, Sums) else {"": s} for s in inputs]
        flat = [tensor for part in parts for tensor in part.values()]
        found = iter(torch.autograd.grad(value, flat, allow_unused=True))
    slopes = tuple(
        {name: slope for name in part if (slope := next(found)) is not None and bool((slope != 0).any())}
        for part in parts
    )
    if not all(bool(s.isfinite().all()) for part in slopes for s in part.values()):
        return None
    return Gradient(value.detach(), slopes)


class Directions:
    """The matrices that sums of products are contracted with; most numbers share theirs, or ask for a trace alone."""

    def __init__(self) -> None:
        self.matrices: list[Tensor] = []
        """The distinct matrices, without their part along the identity."""
        self._norms: list[float] = []

    def place(self, matrix: Tensor) -> tuple[float, int | None, float]:
        """The matrix as ``trace · I + share · matrices[place]``: the three, with None where nothing but the trace is left."""
        trace, rest = 0.0, matrix
        norm = float(matrix.norm())
        if matrix.shape[0] == matrix.shape[1]:
            trace, rest = float(matrix.diagonal().mean()), matrix.clone()
            rest.diagonal().sub_(trace)
        size = float(rest.norm())
        if size <= ALIKE * norm:
            return trace, None, 0.0
        for place, (known, length) in enumerate(zip(self.matrices, self._norms, strict=True)):
            share = float(known.flatten() @ rest.flatten()) / length**2
            # ‖R - sK‖² = ‖R‖² - s²‖K‖² costs nothing and settles most cases, though not to all digits
            if abs(size**2 - (share * length) ** 2) > size**2 / 1e6:
                continue
            if float((rest - share * known).norm()) <= ALIKE * size:
                return trace, place, share
        self.matrices.append(rest)
        self._norms.append(size)
        return trace, len(self.matrices) - 1, 1.0


def left_out(value: Tensor, influence: Tensor, share: Tensor) -> Tensor:
    """The number without each unit, to first order.

    Args:
        value: ``()`` the number.
        influence: ``(U,)`` its derivative with respect to the weight of each unit.
        share: ``(U,)`` each unit's share of the rows that its weight is one of.

    Returns:
        ``(U,)`` float64.
    """
    return value - influence / (1 - share)
