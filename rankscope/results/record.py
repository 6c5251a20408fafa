"""What the results are made of: a few small types, records composed of them, and a table of records with its ways out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from math import isfinite
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from torch import Tensor

from rankscope.catalogue import canonical
from rankscope.errors import UnknownName

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def number(value: Tensor | float) -> float | None:
    """A value as a record holds it: None where the formula gave no number, or an infinite one, which JSON cannot hold.

    Tensors mark that by NaN, as 0/0 does, and by infinity; this is the one place where they become None.
    """
    value = float(value)
    return value if isfinite(value) else None


@dataclass(frozen=True)
class Span:
    """The two ends of an interval or band; None where there is none."""

    low: float | None = None
    """The lower end."""
    high: float | None = None
    """The upper end."""


N_LIMITED = "n-limited"
"""How the note begins of a number for which rows are too few, so that it also measures how many they are."""
FEW_DECIDE = "a few samples make up most of its error"
"""How the note begins of a number whose interval may be too narrow."""


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; None for what does not exist."""

    value: float | None = None
    """The number."""
    low: float | None = None
    """The lower end of its interval."""
    high: float | None = None
    """The upper end of its interval."""


NO_SPAN, NO_ESTIMATE = Span(), Estimate()


@dataclass(frozen=True)
class Shape:
    """The rows that a number was computed from."""

    n: int
    """Rows."""
    samples: int
    """Samples that the rows came from: the unit of the interval."""
    d: int
    """Features per row, of the first run where there are several."""
    dtype: str
    """The dtypes in which the features are stored; the arithmetic is float64."""


class Record:
    """What all records share: they open into flat columns."""

    def flat(self) -> dict[str, Any]:
        """The record as columns: notes joined under ``note``, and the parts of every small type side by side.

        ``a: Estimate`` opens into ``a``, ``a_low`` and ``a_high``; ``estimate`` and all other types keep the names of
        their own fields.
        """
        columns: dict[str, Any] = {}
        for name, value in _parts(self).items():
            if name == "notes":
                columns["note"] = " · ".join(value)
            elif isinstance(value, Estimate | Span) and name != "estimate":
                columns |= {name if part == "value" else f"{name}_{part}": x for part, x in _parts(value).items()}
            elif hasattr(value, "__dataclass_fields__"):
                columns |= _parts(value)
            else:
                columns[name] = value
        return columns


def _parts(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


class Estimated(Record):
    """A record whose number has an interval."""

    estimate: Estimate

    @property
    def value(self) -> float | None:
        """The number itself, ``estimate.value``."""
        return self.estimate.value

    @property
    def low(self) -> float | None:
        """The lower end of its interval, ``estimate.low``."""
        return self.estimate.low

    @property
    def high(self) -> float | None:
        """The upper end of its interval, ``estimate.high``."""
        return self.estimate.high


R = TypeVar("R", bound=Any)


@dataclass(frozen=True, repr=False)
class Table(Generic[R]):
    """Records, and the ways out of them: a frame, plain dictionaries, a figure."""

    records: tuple[R, ...]
    """The records, in the order of the sites."""

    def to_frame(self) -> pd.DataFrame:
        """A DataFrame with one row per record; None becomes NaN."""
        import pandas as pd

        frame = pd.DataFrame(self.to_records())
        # pandas sees numbers where one is there; a column without any would keep None, with which nobody can calculate
        nothing = frame.columns[frame.isna().all()]
        return frame.astype(dict.fromkeys(nothing, float))

    def to_records(self) -> list[dict[str, Any]]:
        """The records as flat dictionaries, ready for JSON or CSV."""
        return [record.flat() for record in self.records]

    def of(self, measure: str) -> tuple[R, ...]:
        """The records of one measure, along the sites, by its name here or in the field.

        Raises:
            UnknownName: if it is not among the results.
        """
        found = tuple(r for r in self.records if r.measure in (measure, canonical(measure)))
        if not found:
            raise UnknownName(f"{measure!r} was not measured; there are {', '.join(self.measures)}")
        return found

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures, in the order in which they were asked for."""
        return tuple(dict.fromkeys(r.measure for r in self.records))

    def plot(self, *, columns: Literal["single", "double"] = "double") -> Figure:
        """The figure of this result, as :func:`rankscope.plots.draw` draws it.

        Args:
            columns: as wide as a single or a double column of a paper.
        """
        # The plots know the results and not the reverse, so they are looked up only when a figure is asked for.
        return import_module("rankscope.plots").draw(self, columns=columns)

    def _repr_html_(self) -> str:
        return import_module("rankscope.plots").html(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._size()}; to_frame(), plot()>"

    def _size(self) -> str:
        return f"{len({r.site for r in self.records})} sites, {len(self.measures)} measures"
