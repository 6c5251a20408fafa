"""What a named number is: the function, what it reads, and all that must be said beside its value.

A measure's file makes one :class:`Definition` (a number of one run), :class:`Comparison` (a number of two runs) or
:class:`WeightDefinition` (a number of weights) beside its function; :mod:`rankscope.registry` lists them. Nothing else has
to know of a new measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Definition:
    """A named, cited way from the features at one site to a number."""

    name: str
    """The name in tables and on the command line: ``roy-vetterli``."""
    function: Callable[..., Tensor]
    """Batched over leading dimensions; what it is given is told by ``reads``."""
    reads: Literal["spectrum", "moments", "clusters", "samples", "rows"]
    """``spectrum``: ``(*, r)`` singular values, r = min(n, d), descending. ``moments``: a
    :class:`~rankscope.linalg.moments.Moments`. ``clusters``: a :class:`~rankscope.linalg.clusters.ClusterMoments`.
    ``samples``: the ``(*, m)`` mean over samples of what ``prepare`` makes of each. ``rows``: the ``(*, n, d)`` features
    and the ``(n,)`` sample of each row."""
    formula: str
    """The formula in one line of plain text."""
    citation: str
    """Author, title, where, with the equation."""
    low: str
    """The least value it can take."""
    high: str
    """The greatest value it can take."""
    bias: str
    """What a finite number of rows does to it, and what is done about that."""
    unit: str = "dimensions"
    """The unit on an axis."""
    scale: Literal["identity", "log"] = "identity"
    """Where its interval is made: ``log`` for a positive number such as a rank, whose interval then is positive too. A
    difference of two is laid out on the number itself."""
    centred: bool = True
    """Whether it reads features from which the mean over rows was taken away (``reads="spectrum"`` only)."""
    resolved: bool = False
    """Whether values that the stored dtype does not resolve are set to zero first (``reads="spectrum"`` only)."""
    takes: tuple[Literal["width"], ...] = ()
    """What else the function is given by keyword: ``width``, the number of features, which the sums do not tell where few
    rows were first turned into the space that they span (``reads="moments"`` only)."""
    enough: int = 0
    """Rows a feature below which the value also measures their number, where :func:`rows_enough` takes no more."""
    needs_tokens: bool = False
    """Whether it has a meaning only where a sample has several rows."""
    prepare: Callable[[Tensor, Tensor], Tensor] | None = None
    """From the ``(n, d)`` features and the ``(n,)`` sample of each row to an ``(S, m)`` row a sample, in the order of their
    numbers (``reads="samples"`` only)."""
    smooth: Callable[..., Tensor] | None = None
    """What ``function`` rounds up to its grid, where it moves in steps: continuous in the data, so that leaving samples
    out gives it an interval, which is then laid around the value."""


@dataclass(frozen=True)
class Comparison:
    """A named, cited way from the features of two runs at one site to a number. The first run is the reference."""

    name: str
    """The name in tables and on the command line: ``cka``."""
    function: Callable[..., Tensor]
    """Batched over leading dimensions; what it is given is told by ``reads``."""
    reads: Literal["spectra", "moments", "folds", "rows"]
    """``spectra``: two ``(*, r)`` tensors of singular values. ``moments``: a
    :class:`~rankscope.linalg.moments.PairMoments`. ``folds``: two of them, of disjoint samples: fit on the first,
    evaluate on the second. ``rows``: two ``(*, n, d)`` features and the ``(n,)`` sample of each row."""
    formula: str
    """The formula in one line of plain text."""
    citation: str
    """Author, title, where, with the equation."""
    low: str
    """The least value it can take."""
    high: str
    """The greatest value it can take."""
    bias: str
    """What a finite number of rows does to it, and what is done about that."""
    noise: str
    """What independent features of the same shape score, in words or as a formula of n, d and k."""
    unit: str = ""
    """The unit on an axis."""
    same_width: bool = False
    """Whether both runs must have the same number of features, because they are taken to share a basis."""
    enough: int = 0
    """Rows a feature below which the value also measures their number, where :func:`rows_enough` takes no more."""
    aligned: bool = True
    """Whether it relates the runs row by row; otherwise a run can be compared with itself on other rows."""
    takes: tuple[Literal["k", "dtype", "width"], ...] = ()
    """What else the function is given by keyword: ``k``, the size of the leading subspace that belongs to the features'
    width, ``dtype``, in which they were stored, where their rounding matters, and ``width``, the number of features of the
    second run, as for :class:`Definition`."""
    centred: bool = True
    """Whether it reads spectra from which the mean over rows was taken away (``reads="spectra"`` only)."""


def rows_enough(what: Definition | Comparison) -> int:
    """Rows a feature below which a number also measures how many there are; 0 where any number will do."""
    return max(what.enough, 4 if what.reads in ("spectrum", "spectra", "folds") else 0)


@dataclass(frozen=True)
class WeightDefinition:
    """A named, cited way from the weights of a checkpoint to a number of each matrix: what ``rankscope weights`` tells."""

    name: str
    """The name of its column, or of its kind of matrix and its column: ``intruders``, ``update-effective``."""
    function: Callable[..., object]
    """From one weight matrix, or the pre-trained and the tuned one."""
    reads: Literal["weights"]
    """Always ``weights``."""
    formula: str
    """The formula in one line of plain text."""
    citation: str
    """Author, title, where, with the equation."""
    low: str
    """The least value it can take."""
    high: str
    """The greatest value it can take."""
    bias: str
    """What the size of the matrix and chance do to it, and what is done about that."""
    noise: str
    """What a matrix of noise of the same shape and size makes, in words."""
    unit: str = "dimensions"
    """The unit on an axis."""
