"""Pack the reference checkpoint of OFA, which lies beside the repository, into this folder, without its stem.

The stem alone has ten megabytes; in its place stand the features that it gives for the reference images, made by the
port after the port was held to the original with the stem in it. Weights are exactly representable in float16. Run from
the repository's root: ``python tests/models_ofa/make_reference.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from rankscope.models.load import load_model

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[2] / "shared" / "reference" / "ofa"
BUFFERS = ("token_rp_bucket", "image_rp_bucket", "image_position_idx")


def pack() -> Path:
    """One ``.npz`` with ``weights/…``, ``expected/…``, ``patches`` and ``config``."""
    weights = torch.load(SOURCE / "pytorch_model.bin", weights_only=True)
    expected = load_file(SOURCE / "expected.safetensors")
    kept = {k: v for k, v in weights.items() if "embed_images" not in k and not k.endswith(BUFFERS)}
    shared = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    assert all(torch.equal(kept.pop(name), kept["encoder.embed_tokens.weight"]) for name in shared)
    values = {f"weights/{name}": value.half().numpy() for name, value in kept.items()}
    values |= {f"expected/{name}": value.numpy() for name, value in expected.items() if name != "patch_images"}
    with torch.no_grad():
        values["patches"] = load_model(SOURCE).encoder.embed_images(expected["patch_images"]).numpy()
    values["config"] = np.array((SOURCE / "config.json").read_text())
    assert json.loads(str(values["config"]))["model_type"] == "ofa"
    target = HERE / "reference.npz"
    np.savez_compressed(target, **values)
    return target


if __name__ == "__main__":
    pack()
