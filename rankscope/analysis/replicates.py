"""A number with what it is when samples are left out, and a memory for what a view has computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

from torch import Tensor

from rankscope.errors import TooLarge, naming_shortage

P = ParamSpec("P")
T = TypeVar("T")

Method = Literal["influence", "jackknife"]
"""Where an interval comes from: the influence of every sample, to first order, or groups of samples left out in turn."""


ALLOW = "give the process more memory, or leave out measures or runs"
"""What to do where memory is short at one site."""


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
    why: str = ""
    """Why no samples were left out, where that did not fit into memory."""

    @property
    def centre(self) -> Tensor:
        """``()`` that of which the replicates are the replicates."""
        return self.value if self.smooth is None else self.smooth

    def __sub__(self, other: Replicates) -> Replicates:
        """The difference, paired: the same samples are left out of both."""
        value, step = self.value - other.value, max(self.step, other.step)
        if len(self.left_out) != len(other.left_out):  # only one of them was to be had by influence
            why = self.why or other.why
            return Replicates(value, self.left_out.new_empty(0), step, self.centre - other.centre, why=why)
        left_out, centre = self.left_out - other.left_out, self.centre - other.centre
        return Replicates(value, left_out, step, centre, self.method, self.why or other.why)

    def log(self) -> Replicates:
        """Its natural logarithm, of the continuous number where it moves in steps."""
        return Replicates(self.centre.log(), self.left_out.log(), method=self.method)


def naming(view: Any) -> AbstractContextManager[None]:
    """Turn the error of an allocator into one that says what was made of which rows."""
    widths = " and ".join(f"{d:,}" for d in dict.fromkeys(view.widths))
    return naming_shortage(f"what is made of {view.n:,} rows of {widths} features", ALLOW)


def or_told(told: list[str], find: Callable[[], T]) -> T | None:
    """What is found; None where memory does not hold it, which is then told."""
    try:
        with naming_shortage("what a number is read against", ALLOW):
            return find()
    except TooLarge as error:
        told.append(str(error))
        return None


def computed_once(function: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """A method or function of a view that is computed once for each set of arguments; the view keeps what it returned.

    Raises:
        TooLarge: if memory does not hold it, so that what needs it is told without it, and the rest goes on.
    """

    @wraps(function)
    def lookup(view: Any, *args: P.args, **keywords: P.kwargs) -> T:
        key = (function.__name__, *args, *keywords.items())
        if key not in view.results:
            with naming(view):
                view.results[key] = function(view, *args, **keywords)
        return view.results[key]

    return lookup
