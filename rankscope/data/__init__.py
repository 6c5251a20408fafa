"""Data: the ordered inputs of a run, and the readers of the formats in which people keep them."""

from rankscope.data.checking import check
from rankscope.data.embedded import embedded_checkpoint
from rankscope.data.open import open_data
from rankscope.data.probes import Example, ProbeSet
from rankscope.data.report import Report

__all__ = ["Example", "ProbeSet", "Report", "check", "embedded_checkpoint", "open_data"]
