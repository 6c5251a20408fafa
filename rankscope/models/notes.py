"""What was left out or assumed while a model was loaded, kept on the model for whoever reports on it."""

from __future__ import annotations

from torch import nn

from rankscope.models.stacks import unwrapped

_HELD = "_rankscope_notes"


def note(model: nn.Module, text: str) -> None:
    """Keep a note on a model, once; later wrappers around the model do not hide it."""
    base = unwrapped(model)
    if text not in notes_of(base):
        base.__dict__[_HELD] = (*notes_of(base), text)


def notes_of(model: nn.Module) -> tuple[str, ...]:
    """The notes on a model, in the order in which they were made."""
    notes: tuple[str, ...] = unwrapped(model).__dict__.get(_HELD, ())
    return notes
