"""Data: the ordered inputs of a run, and the readers of the formats in which people keep them."""

from rankscope.data.checking import Findings, check
from rankscope.data.embedded import embedded_checkpoint
from rankscope.data.open import open_data
from rankscope.data.probes import Example, ProbeSet

__all__ = ["Example", "Findings", "ProbeSet", "check", "embedded_checkpoint", "open_data"]
