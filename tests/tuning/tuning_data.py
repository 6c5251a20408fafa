"""Training examples for tiny models, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny
import torch
from safetensors.torch import load_file
from torch import nn

from rankscope.data import Example
from rankscope.tuning.config import Recipe
from rankscope.tuning.recipes import recipe

SMALL: dict[str, Any] = {"batch_size": 4, "prefix_length": 3, "lora_rank": 2, "adapter_size": 2, "device": "cpu"}


def examples(name: str, n: int = 8) -> list[Example]:
    """Training examples that fit a family."""
    sentences = [tiny.SENTENCES[i % len(tiny.SENTENCES)] for i in range(n)]
    if name == "vit":
        return [Example(str(i), image=tiny.picture(i), label=i % 10) for i in range(n)]
    if name == "bert-classifier":
        return [Example(str(i), text=text, label=i % 3) for i, text in enumerate(sentences)]
    if name in ("t5", "bart"):
        return [Example(str(i), text=text, targets=(text[::-1],)) for i, text in enumerate(sentences)]
    if name in ("blip2-opt", "blip2-t5", "llava"):
        return [
            Example(str(i), text="describe the scene :", image=tiny.picture(i), targets=(text, "a photo"))
            for i, text in enumerate(sentences)
        ]
    return [Example(str(i), text=text) for i, text in enumerate(sentences)]


def step(model: nn.Module, trained: Mapping[str, nn.Parameter], inputs: Mapping[str, Any]) -> None:
    """One step of training, after which the model stands in evaluation mode and says something else."""
    optimizer = torch.optim.SGD(trained.values(), lr=1e-2)
    first = model.train()(**inputs).loss
    first.backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.isfinite(first)
        assert model.eval()(**inputs).loss != first


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by its file and name."""
    files = [f for f in sorted(folder.rglob("*.safetensors")) if ".training" not in f.parts]
    return {f"{f.relative_to(folder)}:{k}": v for f in files for k, v in load_file(f).items()}


def same(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same numbers."""
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def made_recipe(method: str | None = None, *, stages: Any = None, **options: Any) -> Recipe:
    """The recipe of a method or stages with options."""
    return recipe(method, stages=stages, options=options)
