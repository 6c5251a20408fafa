"""What the package carries: the handwritten digits, and a small vision–language checkpoint pre-trained on scenes of them."""

from __future__ import annotations

from pathlib import Path

from rankscope.errors import DataError

HERE = Path(__file__).resolve().parent


def embedded_checkpoint() -> Path:
    """The folder of the embedded checkpoint, a BLIP-2 in plain Hugging Face format (``blip2-scenes``).

    Raises:
        DataError: if the installation lacks it.
    """
    path = HERE / "blip2-scenes"
    if not (path / "config.json").is_file():
        raise DataError(
            f"the embedded checkpoint is not there: {path}; reinstall, or run analyses/pretrain_scenes.py to make it"
        )
    return path
