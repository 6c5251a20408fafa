"""What a report shows beside the comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rankscope.report.planes import Plane
from rankscope.results.weights import WeightReport
from rankscope.store import Run


class Extras(NamedTuple):
    """What a report shows beside the comparisons, where runs and checkpoints are at hand."""

    runs: Sequence[Run] = ()
    """The runs, for what they say of themselves."""
    planes: Mapping[str, Sequence[Plane]] = {}
    """Site → the two leading components of the rows of each run, the base first."""
    weights: Sequence[WeightReport] = ()
    """The weights of each run whose checkpoint was weighed."""
    notes: Sequence[str] = ()
    """What is missing, and why."""
