"""Tuning: recipes of stages, the training that runs them, and what tuned models say.

Names are loaded when they are first used, because the Trainer takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a type checker sees; _PUBLIC says the same to the interpreter, and a test holds them equal
    from rankscope.tuning.batches import TASKS as TASKS
    from rankscope.tuning.callback import SpectrumCallback as SpectrumCallback, read_spectra as read_spectra
    from rankscope.tuning.config import Recipe as Recipe
    from rankscope.tuning.dry_run import preview as preview
    from rankscope.tuning.generation import generate as generate
    from rankscope.tuning.held_out import held_out_loss as held_out_loss
    from rankscope.tuning.options import options as options, read_options as read_options
    from rankscope.tuning.recipes import METHODS as METHODS, recipe as recipe
    from rankscope.tuning.training import TrainResult as TrainResult, train as train
    from rankscope.tuning.untrained import untrained_prefix as untrained_prefix

_PUBLIC = {
    "rankscope.tuning.recipes": ("METHODS", "recipe"),
    "rankscope.tuning.config": ("Recipe",),
    "rankscope.tuning.callback": ("SpectrumCallback", "read_spectra"),
    "rankscope.tuning.batches": ("TASKS",),
    "rankscope.tuning.training": ("TrainResult", "train"),
    "rankscope.tuning.generation": ("generate",),
    "rankscope.tuning.held_out": ("held_out_loss",),
    "rankscope.tuning.options": ("options", "read_options"),
    "rankscope.tuning.dry_run": ("preview",),
    "rankscope.tuning.untrained": ("untrained_prefix",),
}
"""Public names by their module."""

__all__ = sorted(name for names in _PUBLIC.values() for name in names)


if not TYPE_CHECKING:  # a type checker would take any name whatever to exist

    def __getattr__(name: str) -> object:
        for module, names in _PUBLIC.items():
            if name in names:
                globals()[name] = value = getattr(import_module(module), name)
                return value
        raise AttributeError(f"module 'rankscope.tuning' has no attribute {name!r}")
