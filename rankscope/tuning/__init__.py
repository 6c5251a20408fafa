"""Tuning: recipes of stages, the training that runs them, and what tuned models say.

Names are loaded when they are first used, because the Trainer takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "METHODS": "rankscope.tuning.recipes",
    "Recipe": "rankscope.tuning.config",
    "SpectrumCallback": "rankscope.tuning.callback",
    "TASKS": "rankscope.tuning.batches",
    "TrainResult": "rankscope.tuning.training",
    "generate": "rankscope.tuning.generation",
    "held_out_loss": "rankscope.tuning.held_out",
    "options": "rankscope.tuning.options",
    "preview": "rankscope.tuning.dry_run",
    "read_options": "rankscope.tuning.options",
    "read_spectra": "rankscope.tuning.callback",
    "recipe": "rankscope.tuning.recipes",
    "train": "rankscope.tuning.training",
}
"""Public names, and the module of each."""

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'rankscope.tuning' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
