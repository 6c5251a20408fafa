"""The joins: a checkpoint collected into a run, a run measured, two runs compared."""

from rankscope.pipeline.collect import collect
from rankscope.pipeline.compare import compare
from rankscope.pipeline.measure import measure, profile, spectra
from rankscope.pipeline.resolve import load

__all__ = ["collect", "compare", "load", "measure", "profile", "spectra"]
