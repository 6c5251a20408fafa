"""Which named parts of any module can be read: found by one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor, nn

from rankscope.errors import CheckpointError
from rankscope.reading.hooks import Tap, hidden_states
from rankscope.sites import Site

_FIRST = ("out_channels", "num_channels")
"""What modules that return their features as dimension 1 call their width."""
_LAST = ("out_features", "embedding_dim", "embed_dim", "d_model")
"""What modules that return them last call it."""


@dataclass
class Parts:
    """What one forward pass shows of a module's named parts."""

    taps: dict[Site, Tap] = field(default_factory=dict)
    """Those that can be read."""
    widths: dict[str, int | None] = field(default_factory=dict)
    """Their widths, by name."""
    unreadable: dict[Site, str] = field(default_factory=dict)
    """The others, and why."""
    dtype: torch.dtype = torch.float32
    """The dtype that holds the features of all."""


def probe(module: nn.Module, call: Callable[[], object], samples: int) -> Parts:
    """The named parts of a module that give rows of features, as one forward pass shows them.

    A part can be read if it runs once and returns a tensor with one row for each sample: ``(b, d)``, ``(b, t, d)`` or,
    from a convolution or its norm, ``(b, d, *)``.

    Args:
        module: the module; one without parts is its own, named ``model``.
        call: makes the forward pass.
        samples: how many samples it has.
    """
    named = {name: part for name, part in module.named_modules() if name} or {"model": module}
    sites = {name: Site(name, "output") for name in named}
    seen: dict[str, list[Tap | str]] = {name: [] for name in named}
    widths: dict[str, int | None] = {}
    dtypes: set[torch.dtype] = set()
    axes: list[tuple[int, int]] = []

    def look(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: object, output: object) -> None:
            # An activation keeps the layout of the part before it, so the last axis that was known counts.
            axes.extend(filter(None, [_axis(part)]))
            found, widths[name] = _tap(part, output, samples, axes[-1] if axes else None)
            seen[name].append(found)
            if isinstance(found, Tap):
                dtypes.add(hidden_states(output).dtype)

        return hook

    handles = [part.register_forward_hook(look(name)) for name, part in named.items()]
    try:
        with torch.inference_mode():
            call()
    finally:
        for handle in handles:
            handle.remove()
    parts = Parts(dtype=reduce(torch.promote_types, dtypes) if dtypes else torch.float32)
    for name, found in seen.items():
        one = found[0] if len(found) == 1 else "it runs more than once" if found else "it does not run"
        if isinstance(one, Tap):
            parts.taps[sites[name]], parts.widths[name] = one, widths[name]
        else:
            parts.unreadable[sites[name]] = one
    return parts


def _axis(part: nn.Module) -> tuple[int, int] | None:
    """The dimension in which a part returns its features, and how many they are; None if its class does not say it."""
    if isinstance(part, nn.modules.batchnorm._NormBase):
        return 1, part.num_features
    if isinstance(part, nn.LayerNorm | nn.RMSNorm):
        return -1, part.normalized_shape[-1]
    for axis, names in ((1, _FIRST), (-1, _LAST)):
        for name in names:
            if isinstance(width := getattr(part, name, None), int):
                return axis, width
    return None


def _tap(part: nn.Module, output: object, samples: int, axis: tuple[int, int] | None) -> tuple[Tap | str, int | None]:
    """Where to read a part and its width, or why it cannot be read; ``axis`` is the last that was known, with its width."""
    try:
        hidden = hidden_states(output)
    except CheckpointError:
        return "it returns no tensor", None
    if hidden.ndim < 2 or len(hidden) != samples or not hidden.is_floating_point():
        return f"it returns {_words(hidden)}, not features with one row for each sample", None
    fits = [dim for dim in (1, -1) if axis and hidden.shape[dim] == axis[1]]
    if hidden.ndim > 3 and not fits:
        return f"it returns {_words(hidden)}, and which of its dimensions is the features is not known", None
    first = hidden.ndim > 2 and axis is not None and (axis[0] if axis[0] in fits else fits[0] if fits else -1) == 1
    return Tap(part, channels_first=first), hidden.shape[1 if first else -1]


def _words(hidden: Tensor) -> str:
    return f"{str(hidden.dtype).removeprefix('torch.')} of shape {tuple(hidden.shape)}"
