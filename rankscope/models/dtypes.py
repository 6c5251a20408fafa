"""The precision in which a model computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import reduce
from typing import Literal

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from rankscope.errors import UsageError
from rankscope.models.tunings.effect import held
from rankscope.models.tunings.prefix_live import prefix_of

PRECISIONS = ("float32", "bfloat16", "float16", "float64")
"""The dtypes in which a model can be run."""


def precision(dtype: torch.dtype | str | None) -> torch.dtype | Literal["auto"]:
    """A dtype, given as such or by its name; ``auto``, the checkpoint's own, for None.

    Raises:
        UsageError: if a model cannot be run in it.
    """
    name = str(dtype or "auto").removeprefix("torch.")
    if name == "auto":
        return "auto"
    if name not in PRECISIONS:
        raise UsageError(f"a model runs in {', '.join(PRECISIONS)}; got {name!r}")
    return getattr(torch, name)


def features_dtype(model: nn.Module) -> torch.dtype:
    """The dtype that holds the hidden states of every block.

    Some float16 models keep a part of each block in float32 (T5's last map), and what such a part returns may overflow
    float16. Tunings do not count: PEFT keeps them in float32 and casts what they compute to the base's dtype.
    """
    return reduce(torch.promote_types, _weights(model), next(iter(_weights(model)), torch.float32))


def weights_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of most of the base's weights."""
    found = _weights(model)
    return found.most_common(1)[0][0] if found else torch.float32


def _weights(model: nn.Module) -> Counter[torch.dtype]:
    """How many numbers the base has of each floating dtype."""
    tuned = {id(p) for part in _tuned(model) for p in part.parameters()}
    found: Counter[torch.dtype] = Counter()
    for p in model.parameters():
        if p.is_floating_point() and id(p) not in tuned:
            found[p.dtype] += p.numel()
    return found


def _tuned(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that hold what tunings added."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            yield from (factor for factor in held(module) if isinstance(factor, nn.Module))
        elif isinstance(module, PeftModel) and isinstance(getattr(module, "prompt_encoder", None), nn.Module):
            yield module.prompt_encoder
    if (live := prefix_of(model)) is not None:
        yield live
