"""The figure of a result, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from rankscope.errors import UsageError
from rankscope.plots.contrast import contrast
from rankscope.plots.panels import arms, curves, profiles
from rankscope.results.arms import ArmContrast
from rankscope.results.curves import Curves
from rankscope.results.record import Table
from rankscope.results.runs import Contrast, Measurement

FIGURES: Mapping[type, Callable[[Any], Figure]] = {
    Measurement: profiles,
    Contrast: contrast,
    ArmContrast: arms,
    Curves: curves,
}
"""Type of result → how it is drawn."""


def draw(result: Table[Any]) -> Figure:
    """The figure of a result, as its ``plot()`` gives it.

    Raises:
        UsageError: for a result that has no figure.
    """
    if type(result) not in FIGURES:
        names = ", ".join(kind.__name__ for kind in FIGURES)
        raise UsageError(f"a {type(result).__name__} has no figure; these have one: {names}")
    return FIGURES[type(result)](result)
