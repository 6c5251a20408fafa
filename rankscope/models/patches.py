"""What the columns of a vision tower are."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.errors import DataError
from rankscope.features import IMAGE, SPECIAL
from rankscope.models.stacks import Stack


def patch_roles(stack: Stack, pixels: Tensor) -> Tensor:
    """``(t,)`` roles of a vision tower's columns: class and register tokens are special, patches are image.

    Args:
        stack: the tower.
        pixels: ``(c, h, w)``.
    """
    config = getattr(stack.owner, "config", None)
    config = getattr(config, "vision_config", config)
    size = getattr(config, "patch_size", None)
    if pixels.ndim != 3 or size is None:
        raise DataError(f"images of shape {tuple(pixels.shape)} have columns in {stack.name} that are not known here")
    tall, wide = (size, size) if isinstance(size, int) else size
    patches = (pixels.shape[-2] // tall) * (pixels.shape[-1] // wide)
    names = (
        {name.rpartition(".")[2] for name, _ in stack.owner.named_parameters()} if stack.owner is not None else set()
    )
    special = int(bool(names & {"class_embedding", "cls_token"})) + int("distillation_token" in names)
    special += int(getattr(config, "num_register_tokens", 0) or 0)
    return torch.tensor([SPECIAL] * special + [IMAGE] * patches, dtype=torch.uint8)
