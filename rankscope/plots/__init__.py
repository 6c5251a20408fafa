"""Figures: functions from a result to axes. Nothing here loads or computes."""

from rankscope.plots.along import Line, along
from rankscope.plots.contrast import contrast
from rankscope.plots.draw import draw
from rankscope.plots.panels import arms, curves, profiles
from rankscope.plots.similarity import similarity
from rankscope.plots.spectra import cumulative, descending
from rankscope.plots.style import save

__all__ = [
    "Line",
    "along",
    "arms",
    "contrast",
    "cumulative",
    "curves",
    "descending",
    "draw",
    "profiles",
    "save",
    "similarity",
]
