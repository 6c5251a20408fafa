"""The reference checkpoint: packed beside the tests without its stem, and as published where it lies beside the repository."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_ofa import PIXELS, save_published
from torch import Tensor, nn

from rankscope.models.load import load_model
from rankscope.models.ported import ofa

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE.parents[2] / "shared" / "reference" / "ofa"


@dataclass(frozen=True)
class Reference:
    """A model with the original's inputs and outputs."""

    model: Any
    expected: dict[str, Tensor]
    images: Tensor

    def __call__(self, *, images: bool = True) -> Any:
        """The model's output for the reference inputs."""
        pixels = self.images if images else None
        words, decoded = self.expected["input_ids"], self.expected["decoder_input_ids"]
        with torch.no_grad():
            return self.model(words, pixels, decoder_input_ids=decoded, output_hidden_states=True)


class Frozen(nn.Module):
    """In the stem's place: the features that it gave."""

    def __init__(self, patches: Tensor) -> None:
        super().__init__()
        self.patches = patches

    def forward(self, images: Tensor) -> Tensor:
        """Those of the images, which say only how many there are."""
        return self.patches.repeat_interleave(len(images) // len(self.patches), dim=0)


def unpack() -> Reference:
    """The packed checkpoint."""
    with np.load(HERE / "reference.npz") as content:
        values = {name: content[name] for name in content.files}
    model = ofa.OFAModel(ofa.OFAConfig(**json.loads(str(values["config"]))))
    weights = {n.removeprefix("weights/"): torch.from_numpy(v).float() for n, v in values.items() if "weights/" in n}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    tied = ("embed_tokens.weight", "output_projection.weight", "rp_bucket", "position_idx")
    assert all("embed_images" in name or name.endswith(tied) for name in missing)
    model.tie_weights()
    model.encoder.embed_images = Frozen(torch.from_numpy(values["patches"]))
    expected = {n.removeprefix("expected/"): torch.from_numpy(v) for n, v in values.items() if "expected/" in n}
    return Reference(model.eval(), expected, torch.zeros(3, 3, 64, 64))


@pytest.fixture(scope="session", params=["packed", "published"])
def reference(request: pytest.FixtureRequest) -> Reference:
    """The reference checkpoint."""
    if request.param == "packed":
        return unpack()
    if not PUBLISHED.is_dir():
        pytest.skip("the reference checkpoint does not lie beside the repository")
    expected = load_file(PUBLISHED / "expected.safetensors")
    return Reference(load_model(PUBLISHED), expected, expected["patch_images"])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny folder as published."""
    return save_published(tmp_path_factory.mktemp("tiny-ofa"))


@pytest.fixture
def model(folder: Path) -> Any:
    """The tiny folder's model."""
    return load_model(folder)


@pytest.fixture
def asked() -> dict[str, Tensor]:
    """Two prompts, the second shorter, with images."""
    generator = torch.Generator().manual_seed(5)
    return {
        "input_ids": torch.tensor([[0, 40, 50, 60, 70, 2], [0, 45, 55, 2, 1, 1]]),
        "patch_images": torch.randn(2, 3, PIXELS, PIXELS, generator=generator),
    }
