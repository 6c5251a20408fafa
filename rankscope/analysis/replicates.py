"""A number with what it is when samples are left out, and a memory for what a view has computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

Method = Literal["influence", "jackknife"]
"""Where an interval comes from: the influence of every sample, to first order, or groups of samples left out in turn."""


class Replicates(NamedTuple):
    """A number on all rows, and with each group of samples left out, exactly or to first order."""

    value: Tensor
    """``()`` the number on all rows, float64."""
    left_out: Tensor
    """``(G,)`` the number without each group in turn, or the continuous number that it rounds up; empty where no group is
    left out. By influence the groups are single samples, or small groups where there are many."""
    step: float = 0.0
    """The step in which the number moves; 0 if it moves continuously."""
    smooth: Tensor | None = None
    """``()`` the continuous number on all rows that the number rounds up to the next step; None where it is itself."""
    method: Method = "jackknife"
    """How samples were left out."""

    @property
    def centre(self) -> Tensor:
        """``()`` that of which the replicates are the replicates."""
        return self.value if self.smooth is None else self.smooth

    def __sub__(self, other: Replicates) -> Replicates:
        """The difference, paired: the same samples are left out of both."""
        value, step = self.value - other.value, max(self.step, other.step)
        if len(self.left_out) != len(other.left_out):  # only one of them was to be had by influence
            return Replicates(value, self.left_out.new_empty(0), step, self.centre - other.centre)
        return Replicates(value, self.left_out - other.left_out, step, self.centre - other.centre, self.method)

    def log(self) -> Replicates:
        """Its natural logarithm, of the continuous number where it moves in steps."""
        return Replicates(self.centre.log(), self.left_out.log(), method=self.method)


def computed_once(function: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """A method or function of a view that is computed once for each set of arguments; the view keeps what it returned."""

    @wraps(function)
    def lookup(view: Any, *args: P.args, **keywords: P.kwargs) -> T:
        key = (function.__name__, *args, *keywords.items())
        if key not in view.results:
            view.results[key] = function(view, *args, **keywords)
        return view.results[key]

    return lookup
