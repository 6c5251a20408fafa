"""In which order a forward pass reaches the sites, and whether it may end at the last of them.

What follows the last site is computed and thrown away: in a small GPT-2 the head alone is a third of the work. So a pass
that only reads ends there, by an exception from the last hook. Whole passes come first, and show in which order the sites
are reached, and how often. The states read are the same to the bit, because nothing before them is computed otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules import module as torch_module

from rankscope.sites import Site

if TYPE_CHECKING:
    from rankscope.reading.hooks import Tap

_AROUND = ("torch.nn.parallel", "torch.distributed", "torch._dynamo", "deepspeed")
"""Where the classes come from that spread, gather or compile what is inside them, and count on its returning."""


class Ended(BaseException):
    """Ends a forward pass at the last site. No ``Exception``, so that no model takes it for an error of its own."""


class Course:
    """The order in which the forward passes of a model reach the sites, as far as whole ones have shown it.

    Args:
        model: the model that is called.
        taps: where each site is read.
    """

    def __init__(self, model: nn.Module, taps: Mapping[Site, Tap]) -> None:
        self._model, self._taps = model, taps
        self.order: tuple[Site, ...] | None = None
        """The sites in the order of their modules' runs, one that runs again named again; None before a whole pass."""
        self.whole = ""
        """Why every pass must run whole, in words; empty if it need not."""

    def learn(self, order: Sequence[Site]) -> None:
        """Take up what a whole pass showed. Passes that differ have no end in common: from then on all run whole."""
        if self.order not in (None, tuple(order)):
            self.whole = "the order in which it reaches the sites depends on the batch"
        self.order = tuple(order)
        if order and not self.whole:
            self.whole = why_whole(self._model, self._taps[order[-1]])

    def ends(self, order: Sequence[Site]) -> bool:
        """Whether a pass that reached these sites in this order may end here."""
        return not self.whole and self.order == tuple(order)


def why_whole(model: nn.Module, last: Tap) -> str:
    """Why the forward passes of a model cannot end at a site, in words; empty if they can.

    They cannot where something waits for the modules around the site to return: what spreads a model over devices, shards
    it over processes or compiles it, or a forward hook of somebody else's.

    Args:
        model: the model that is called, without the hooks of this package.
        last: where the site is read.
    """
    for part in model.modules():
        if hasattr(part, "_hf_hook"):
            return "hooks of accelerate move its parts between devices"
        kinds = (kind.__module__ for kind in type(part).__mro__)
        if part._compiled_call_impl is not None or any(kind.startswith(_AROUND) for kind in kinds):
            return f"it runs inside {type(part).__name__}"
    hooked = [type(part).__name__ for part in _unfinished(model, last) if part._forward_hooks]
    if torch_module._global_forward_hooks or hooked:
        return f"a forward hook waits for {hooked[0] if hooked else 'every module'} to return"
    return ""


def _unfinished(model: nn.Module, last: Tap) -> Iterator[nn.Module]:
    """The modules that have not returned when a site is read: those around its module, and itself if its input is read."""
    for part in model.modules():
        inside = part is not last.module and any(inner is last.module for inner in part.modules())
        if inside or (part is last.module and last.entering):
            yield part
