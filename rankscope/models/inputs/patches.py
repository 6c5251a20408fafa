"""What the columns of a vision tower are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankscope.errors import DataError
from rankscope.features import IMAGE, SPECIAL

if TYPE_CHECKING:
    from rankscope.models.stacks import Stack


def patch_size(stack: Stack) -> int | Sequence[int] | None:
    """The side of a tower's patches in pixels, or height and width; None if its configuration does not say it."""
    config = getattr(stack.owner, "config", None)
    return getattr(getattr(config, "vision_config", config), "patch_size", None)


def patch_roles(stack: Stack, pixels: Tensor) -> Tensor:
    """``(t,)`` roles of a vision tower's columns: class and register tokens are special, patches are image.

    Args:
        stack: the tower.
        pixels: ``(*, c, h, w)``, where each of several tiles has all these columns; or ``(t, c·h·w)``, cut into patches already.
    """
    if pixels.ndim == 2:
        return torch.full((len(pixels),), IMAGE, dtype=torch.uint8)
    config = getattr(stack.owner, "config", None)
    config, size = getattr(config, "vision_config", config), patch_size(stack)
    if pixels.ndim < 3 or size is None:
        raise DataError(f"images of shape {tuple(pixels.shape)} have columns in {stack.name} that are not known here")
    tall, wide = (size, size) if isinstance(size, int) else size
    patches = (pixels.shape[-2] // tall) * (pixels.shape[-1] // wide)
    parameters = () if stack.owner is None else stack.owner.named_parameters()
    names = {name.rpartition(".")[2] for name, _ in parameters}
    special = int(bool(names & {"class_embedding", "cls_token"})) + int("distillation_token" in names)
    special += int(getattr(config, "num_register_tokens", 0) or 0)
    return torch.tensor([SPECIAL] * special + [IMAGE] * patches, dtype=torch.uint8).repeat(pixels.shape[:-3].numel())
