"""Figures: functions from a result to axes. Nothing here loads or computes."""

from rankscope.plots.along import Line, along
from rankscope.plots.figures import draw
from rankscope.plots.similarity import similarity
from rankscope.plots.spectra import cumulative, descending
from rankscope.plots.style import save

__all__ = ["Line", "along", "cumulative", "descending", "draw", "save", "similarity"]
