"""Images as OFA's pixels, and a processor that pairs them with prompts. PIL only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin

from rankscope.errors import DataError, UsageError
from rankscope.models.ported.ofa.prompts import CAPTION_PROMPT
from rankscope.models.ported.ofa.resnet import PIXELS

RESOLUTION = 480
"""Pixels of a side in the published fine-tuning of captioning and question answering."""


def resolution_of(folder: Path) -> int:
    """The published resolution, or the largest that the model's grid of patches takes if that is less."""
    file = folder / "config.json"
    side = json.loads(file.read_text()).get("image_bucket_size") if file.is_file() else None
    return RESOLUTION if side is None else min(RESOLUTION, side * PIXELS)


class OFAImageProcessor(BaseImageProcessor):
    """Every image to one square, whatever its shape; values from −1 to 1.

    Args:
        resolution: pixels of a side.
        image_mean, image_std: what is taken off each channel, of values from 0 to 1, and what it is divided by.
    """

    model_input_names = ("patch_images",)

    def __init__(
        self,
        resolution: int = RESOLUTION,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.resolution = resolution
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def preprocess(self, images: Any, return_tensors: str | None = "pt", resolution: int | None = None) -> BatchFeature:
        """``patch_images`` ``(b, 3, resolution, resolution)`` of one PIL image or several.

        Raises:
            DataError: if something is not an image.
            UsageError: if other tensors than torch's are asked for.
        """
        if return_tensors not in (None, "pt"):
            raise UsageError(f"OFA's images come as torch tensors ('pt'), not {return_tensors!r}")
        many = images if isinstance(images, Sequence) else [images]
        side = resolution or self.resolution
        return BatchFeature({"patch_images": torch.stack([self._pixels(image, side) for image in many])})

    def _pixels(self, image: Any, side: int) -> Tensor:
        """``(3, side, side)``."""
        if not isinstance(image, Image.Image):
            raise DataError(f"OFA's image processor takes PIL images, not {type(image).__name__}")
        square = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.array(square, dtype=np.float32) / 255).permute(2, 0, 1)
        mean, std = torch.tensor(self.image_mean), torch.tensor(self.image_std)
        return (values - mean[:, None, None]) / std[:, None, None]


class OFAProcessor(ProcessorMixin):
    """Images and prompts; the prompt of captioning where only images are given."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **options: Any) -> None:
        super().__init__(image_processor or OFAImageProcessor(), tokenizer, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> OFAProcessor:
        """The processor of a folder; a published one has no settings for images, which are then :func:`resolution_of`."""
        from transformers.models.auto.tokenization_auto import AutoTokenizer

        folder = Path(pretrained_model_name_or_path)
        options = {
            key: value for key, value in options.items() if key != "trust_remote_code" and not key.startswith("_")
        }
        settled = (folder / "preprocessor_config.json").is_file() or (folder / "processor_config.json").is_file()
        if settled:
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        return cls(
            OFAImageProcessor(resolution_of(folder)), AutoTokenizer.from_pretrained(pretrained_model_name_or_path)
        )

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None, **options: Any) -> BatchFeature:
        """``input_ids``, ``attention_mask`` and, with images, ``patch_images``.

        Args:
            images: one PIL image or several.
            text: one prompt or several, as many as images; the prompt of captioning unless given.
            options: passed to the tokenizer.

        Raises:
            UsageError: with neither images nor text.
            DataError: if they differ in number.
        """
        if images is None and text is None:
            raise UsageError("OFA's processor needs images, text or both")
        pictures: Tensor | None = None if images is None else self.image_processor(images)["patch_images"]
        prompts = text if text is not None else [CAPTION_PROMPT] * (0 if pictures is None else len(pictures))
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if pictures is not None and len(texts) != len(pictures):
            raise DataError(f"{len(pictures)} images and {len(texts)} prompts; give one prompt an image")
        options = {"padding": True, "return_tensors": "pt", **options}
        words = self.tokenizer(texts, **options)
        values = {"input_ids": words["input_ids"], "attention_mask": words["attention_mask"]}
        return BatchFeature(values if pictures is None else {**values, "patch_images": pictures})
