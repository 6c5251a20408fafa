"""The joins: a checkpoint collected into a run, a run measured, two runs compared."""

from rankscope.pipeline.arms import compare_arms
from rankscope.pipeline.collecting import collect
from rankscope.pipeline.comparing import compare
from rankscope.pipeline.curves import curve
from rankscope.pipeline.measuring import measure, profile, spectra
from rankscope.pipeline.resolve import load
from rankscope.pipeline.weighing import weigh

__all__ = ["collect", "compare", "compare_arms", "curve", "load", "measure", "profile", "spectra", "weigh"]
