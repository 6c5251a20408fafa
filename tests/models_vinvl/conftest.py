"""The reference checkpoints: packed beside the tests, and as they were published where those lie beside the repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_vinvl import save_published
from torch import Tensor

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE.parents[2] / "shared" / "reference" / "vinvl"


@dataclass(frozen=True)
class Reference:
    """A checkpoint with the original's inputs and outputs."""

    folder: Path
    expected: dict[str, Tensor]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with."""
        return {name: self.expected[name] for name in ("input_ids", "img_feats", "attention_mask", "token_type_ids")}


def unpack(head: str, folder: Path) -> Reference:
    """The packed checkpoint, written out in the published layout."""
    with np.load(HERE / f"{head}.npz") as content:
        values = {name: content[name] for name in content.files}
    weights = {name.removeprefix("weights/"): v for name, v in values.items() if name.startswith("weights/")}
    torch.save({name: torch.from_numpy(v).float() for name, v in weights.items()}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(str(values["config"]))
    (folder / "vocab.txt").write_text(str(values["vocab"]))
    expected = {name.removeprefix("expected/"): v for name, v in values.items() if name.startswith("expected/")}
    tensors = {name: torch.from_numpy(np.asarray(v)) for name, v in expected.items()}
    return Reference(folder, {name: v.float() if v.dtype == torch.float16 else v for name, v in tensors.items()})


@pytest.fixture(scope="session", params=["packed", "published"])
def references(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """The two reference checkpoints by head."""
    if request.param == "packed":
        return {head: unpack(head, tmp_path_factory.mktemp(head)) for head in ("captioning", "vqa")}
    if not PUBLISHED.is_dir():
        pytest.skip("the reference checkpoints do not lie beside the repository")
    folders = {head: PUBLISHED / head for head in ("captioning", "vqa")}
    return {head: Reference(f, load_file(f / "expected.safetensors")) for head, f in folders.items()}


@pytest.fixture(scope="session")
def captioning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny captioning folder."""
    return save_published(tmp_path_factory.mktemp("tiny-captioning"))


@pytest.fixture(scope="session")
def vqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny folder for questions."""
    return save_published(tmp_path_factory.mktemp("tiny-vqa"), head="vqa")


@pytest.fixture
def scene() -> dict[str, Any]:
    """Two images with tags: what a tiny captioning model is called with; 8 slots, regions padded in the second."""
    from tiny_vinvl import FEATURES

    generator = torch.Generator().manual_seed(3)
    return {
        "input_ids": torch.tensor([[2, 5, 6, 8, 9, 10, 3, 0, 6, 10, 3], [2, 5, 7, 3, 0, 0, 0, 0, 7, 3, 0]]),
        "segment_ids": torch.tensor([[0] * 8 + [1, 1, 1], [0] * 8 + [1, 1, 0]]),
        "img_feats": torch.randn(2, 4, FEATURES, generator=generator),
        "attention_mask": torch.tensor(
            [[1] * 7 + [0] + [1] * 3 + [1] * 4, [1] * 4 + [0] * 4 + [1, 1, 0] + [1, 1, 1, 0]]
        ),
    }
