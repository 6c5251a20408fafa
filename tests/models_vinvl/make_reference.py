"""Pack the reference checkpoints of VinVL, which lie beside the repository, into this folder.

Weights are exactly representable in float16; inputs and the original implementation's outputs stay float32. Run from the
repository's root: ``python tests/models_vinvl/make_reference.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[2] / "shared" / "reference" / "vinvl"


def pack(head: str) -> Path:
    """One ``.npz`` with ``weights/…``, ``expected/…``, ``config`` and ``vocab``."""
    folder = SOURCE / head
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    values = {f"weights/{name}": value.half().numpy() for name, value in weights.items()}
    assert all(np.array_equal(values[f"weights/{name}"].astype("f4"), value.numpy()) for name, value in weights.items())
    for name, value in load_file(folder / "expected.safetensors").items():
        exact = name == "img_feats"
        values[f"expected/{name}"] = value.half().numpy() if exact else value.numpy()
    values["config"] = np.array(json.dumps(json.loads((folder / "config.json").read_text())))
    values["vocab"] = np.array((folder / "vocab.txt").read_text())
    target = HERE / f"{head}.npz"
    np.savez_compressed(target, **values)
    return target


if __name__ == "__main__":
    for name in ("captioning", "vqa"):
        pack(name)
