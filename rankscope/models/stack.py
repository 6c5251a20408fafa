"""One stack of blocks, and the base network that its modules belong to, inside whatever wraps it."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftMixedModel, PeftModel
from torch import nn

from rankscope.models.families import Columns
from rankscope.reading.hooks import Tap
from rankscope.sites import Site, points


@dataclass(frozen=True)
class Stack:
    """A stack of blocks, or a single module that is a site by itself."""

    name: str
    """Its name in a site."""
    blocks: tuple[nn.Module, ...]
    """The blocks in order; none where a single module is read."""
    final: nn.Module | None = None
    """The module whose output is the last block's output, normed; None where the base has no norm there."""
    output: nn.Module | None = None
    """The single module that is read; None for a stack of blocks."""
    width: int | None = None
    """Width of the hidden states; None where the configuration does not tell."""
    columns: Columns = "any"
    """What the columns of the hidden states are."""
    owner: nn.Module | None = None
    """The outermost model around the blocks that has their configuration."""

    @property
    def taps(self) -> dict[Site, Tap]:
        """Where each site is read, from the stack's input to its output."""
        if self.output is not None:
            return {Site(self.name, "output"): Tap(self.output)}
        taps = {
            point: Tap(block)
            for point, block in zip(points(len(self.blocks), embed=False, final=False), self.blocks, strict=True)
        }
        if self.final is not None:
            taps["final"] = Tap(self.final)
        return {Site(self.name, p): tap for p, tap in {"embed": Tap(self.blocks[0], entering=True), **taps}.items()}

    @property
    def sites(self) -> tuple[Site, ...]:
        """Its sites, from the input to the output."""
        return tuple(self.taps)


def unwrapped(module: nn.Module) -> nn.Module:
    """The base model inside PEFT's wrapper, data parallelism or ``torch.compile``; the module itself where none is."""
    while True:
        if isinstance(module, PeftModel | PeftMixedModel):
            module = module.get_base_model()
        elif "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]  # type: ignore[assignment]
        elif isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            module = module.module
        else:
            return module
