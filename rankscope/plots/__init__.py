"""Figures. Every drawing function is ``f(result, ax=None, **style) -> Axes``; nothing here loads or computes."""

from rankscope.plots.figures import curve, draw
from rankscope.plots.notebook import html
from rankscope.plots.profiles import profile, shares
from rankscope.plots.similarity import similarity
from rankscope.plots.spectra import cumulative, spectra
from rankscope.plots.style import save
from rankscope.plots.weights import weights

__all__ = ["cumulative", "curve", "draw", "html", "profile", "save", "shares", "similarity", "spectra", "weights"]
