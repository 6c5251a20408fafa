"""What a named number is: its function, what the function reads, and the facts needed to interpret its value.

A measure's file creates a :class:`Definition` (a number of one run), a :class:`Comparison` (a number of two runs) or a
:class:`WeightDefinition` (a number of weights) beside its function, and :mod:`rankscope.catalogue` lists the file and the name.
Nothing else needs to know about a new measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor

from rankscope.notebook import facts


class Extent(NamedTuple):
    """The size of the features that a number describes, on which the ends of its range may depend."""

    rows: int
    """n."""
    width: int
    """d; of two runs, the larger one."""
    samples: int
    """What the rows belong to: as many as rows, or fewer."""

    @property
    def rank(self) -> int:
        """r = min(n, d), the most directions that vary."""
        return min(self.rows, self.width)


class Range(NamedTuple):
    """The ends of a range, as numbers; infinite where there is none."""

    least: float = -math.inf
    """The lower end."""
    most: float = math.inf
    """The upper end."""

    @property
    def of_differences(self) -> Range:
        """The range of the difference of two numbers in this one."""
        return Range(self.least - self.most, self.most - self.least)


End = float | Callable[[Extent], float]
"""An end of a range: a number, or one that depends on the size of the features."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Described:
    """What every named number states about itself."""

    name: str
    """The name in tables and on the command line: ``roy-vetterli``, ``cka``, ``intruders``."""
    formula: str
    """The formula in one line of plain text."""
    citation: str
    """Author, title, venue, with the equation."""
    low: str = "0"
    """The smallest possible value."""
    high: str
    """The largest possible value."""
    bias: str
    """How a finite number of rows (for weights, the size of the matrix) biases it, and what is done about that."""
    unit: str = "dimensions"
    """The unit, as written on an axis."""
    least: End = 0.0
    """The lower end of the range as a number; an interval stays inside."""
    most: End = math.inf
    """The upper end of the range as a number; an interval stays inside."""
    strays: bool = False
    """Whether the value itself may lie outside its range by chance, as an unbiased estimate from few rows may; it then has
    no interval."""
    step: float | Callable[..., float] = 0.0
    """The step in which the number moves, or a function of what ``function`` reads that gives it; 0 if it moves continuously."""
    linear: bool | Callable[[Extent], bool] = True
    """Whether samples move it to first order as its derivative says, where it has one; if not, groups are left out again."""
    of_nothing: float | None = None
    """The value of features that do not vary, where it lies outside the range (rank 0 for equal rows); None otherwise."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.formula}>"

    def _repr_html_(self) -> str:
        told = {"formula": self.formula, "unit": self.unit, "range": f"{self.low} to {self.high}", "bias": self.bias}
        return facts(self.name, {**told, "source": self.citation})

    def range_of(self, size: Extent) -> Range:
        """The range for features of a size."""
        return Range(*(float(end(size) if callable(end) else end) for end in (self.least, self.most)))


@dataclass(frozen=True, kw_only=True, repr=False)
class Definition(Described):
    """A named, cited way from the features at one site to a number."""

    function: Callable[..., Tensor]
    """Batched over leading dimensions; ``reads`` says what it takes."""
    reads: Literal["spectrum", "moments", "clusters", "samples", "rows"] = "spectrum"
    """``spectrum``: ``(*, r)`` singular values, r = min(n, d), descending. ``moments``: a
    :class:`~rankscope.linalg.moments.Moments`. ``clusters``: a :class:`~rankscope.linalg.clusters.ClusterMoments`.
    ``samples``: the ``(*, m)`` mean over samples of what ``prepare`` returns. ``rows``: the ``(*, n, d)`` features and
    the ``(n,)`` sample of each row."""
    scale: Literal["range", "log"] = "range"
    """The scale on which its interval is made: ``log`` for the logarithm of a positive number such as a rank, ``range`` for
    the scale that suits the range (:mod:`rankscope.inference.ranges`). The interval of a difference is always made on the
    number itself."""
    centred: bool | None = True
    """Whether the mean over rows is subtracted first; None where that changes nothing."""
    resolved: bool = False
    """Whether singular values below the resolution of the stored dtype are first set to zero (``reads="spectrum"`` only)."""
    takes: tuple[Literal["width", "rows", "floor"], ...] = ()
    """Further keyword arguments of the function: ``width``, the number of features d, which the moments do not show when few
    rows were first rotated into the space they span (``reads="moments"`` only); ``rows``, n; ``floor``, the largest singular
    value that rounding makes."""
    enough: int = 0
    """Rows per feature below which the value partly measures the number of rows; see :func:`rows_enough`."""
    needs_tokens: bool = False
    """Whether it is defined only for samples with several rows."""
    prepare: Callable[[Tensor, Tensor], Tensor] | None = None
    """From the ``(n, d)`` features and the ``(n,)`` sample of each row to ``(S, m)``, one row per sample in ascending order
    (``reads="samples"`` only). Features that are larger than memory are handed over unread: ``x[index]`` reads some rows."""
    smooth: Callable[..., Tensor] | None = None
    """For a function that moves in steps: the continuous quantity that ``function`` rounds up to the next step. Its interval
    is widened to the steps that it touches, which makes that of the value."""


def rank_of(size: Extent) -> float:
    """r = min(n, d), the upper end of the range of a rank."""
    return size.rank


def width_of(size: Extent) -> float:
    """d, the number of features, as the upper end of a range."""
    return size.width


def rows_of(size: Extent) -> float:
    """n, the number of rows, as the upper end of a range."""
    return size.rows


rank_definition = partial(Definition, scale="log", low="1", high="rank", least=1.0, most=rank_of, of_nothing=0.0)
"""The definition of a rank, which lies between 1 and the rank of the matrix; that of equal rows is 0."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Described):
    """A named, cited way from the features of two runs at one site, or of two sites of one run, to a number.

    The first of the two is the reference.
    """

    function: Callable[..., Tensor]
    """Batched over leading dimensions; ``reads`` says what it takes."""
    reads: Literal["spectra", "moments", "folds", "rows"] = "moments"
    """``spectra``: two ``(*, r)`` tensors of singular values. ``moments``: a
    :class:`~rankscope.linalg.moments.PairMoments`. ``folds``: two of them, from disjoint samples: fit on the first,
    evaluate on the second. ``rows``: two ``(*, n, d)`` features and the ``(n,)`` sample of each row."""
    noise: str
    """The value for independent features of the same shape, in words or as a formula in n, d and k. The ``noise`` in a record is
    measured, on shuffled samples, and also counts what rows at the same position of different samples have in common."""
    unit: str = ""
    """The unit, as written on an axis."""
    same_width: bool = False
    """Whether both runs must have the same number of features, because the number assumes a shared basis."""
    enough: int = 0
    """Rows per feature below which the value partly measures the number of rows; see :func:`rows_enough`."""
    aligned: bool = True
    """Whether it pairs the runs row by row; if not, a run can be compared with itself on other rows."""
    directed: bool = False
    """Whether exchanging the two changes it."""
    null: Literal["pairing", "labels"] = "pairing"
    """What the unrelated runs that it is read against lack: ``pairing``, which row of one goes with which of the other;
    ``labels``, which of the two rows of a sample is of which."""
    scale: Literal["range", "square"] = "range"
    """The scale on which its interval is made, as for :class:`Definition`; ``square`` for the
    signed root of what is estimated without bias."""
    takes: tuple[Literal["k", "dtype", "width"], ...] = ()
    """Further keyword arguments of the function: ``k``, the size of the leading subspace for the features' width;
    ``dtype``, in which the features were stored, where rounding matters; ``width``, the number of features of the
    second
    run, as for :class:`Definition`."""
    centred: bool | None = True
    """Whether the mean over rows is subtracted first; None where that changes nothing."""
    degree: int = 0
    """The power of the features' unit in which the number is expressed; 0 for a number without unit."""
    summary: Callable[[Tensor], Tensor] | None = None
    """From the mean over both folds to the number, where the function returns more than it (``reads="folds"`` only)."""
    across: Callable[..., Tensor] | None = None
    """The form that multiplies rows of different samples only, for rows of which several come from one sample
    (``reads="moments"`` only): of the moments, two ``(n, d)`` features, the ``(n,)`` sample of each row, and the ``(*, S)``
    mask of the samples that are summed."""


def in_full(what: Definition | Comparison) -> str:
    """The formula with its whole convention: folds, floor and centring."""
    folds = "fitted on one half of the samples and evaluated on the other, both ways averaged"
    floor = "singular values below the floor of the stored dtype left out"
    said = (
        what.formula,
        folds if what.reads == "folds" else "",
        floor if isinstance(what, Definition) and what.resolved else "",
        {True: "centred", False: "uncentred", None: ""}[what.centred],
    )
    return "; ".join(filter(None, said))


def rows_enough(what: Definition | Comparison) -> int:
    """Rows per feature below which a value partly measures the number of rows; 0 if any number of rows is enough."""
    return max(what.enough, 4 if what.reads in ("spectrum", "spectra", "folds") else 0)


@dataclass(frozen=True, kw_only=True, repr=False)
class WeightDefinition(Described):
    """A named, cited way from the weights of a checkpoint to a number of each matrix, as ``rankscope weights`` prints it.

    The name is that of the number's column (``intruders``), preceded where needed by the kind of matrix
    (``update-effective``).
    """

    noise: str
    """The value for a matrix of noise of the same shape and size, in words."""
    reads: Literal["weights"] = "weights"
    """Always ``weights``."""
