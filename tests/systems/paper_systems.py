"""The paper's systems: tiny checkpoints in the published layouts, with data in the public formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fixtures_data
import tiny
import tiny_ofa
import tiny_vinvl
import torch
import transformers as tf


class System(NamedTuple):
    """A checkpoint, and the arguments that name its data."""

    base: Path
    data: tuple[str, ...]
    kind: str
    """What is said: captions or answers."""


def _blip2_t5(folder: Path) -> Path:
    """BLIP-2 over a T5 whose encoder is as deep as its decoder, as Flan-T5's are."""
    tok = tiny.tokenizer("$A </s>", extra=("<image>",), **tiny.T5)
    config = tf.T5Config(**{**tiny._t5_config(tok).to_dict(), "num_layers": 3})
    torch.manual_seed(0)
    model, processor = tiny._blip2(config, tok)
    tiny.spread(model, 0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _blip2_opt_coco(root: Path) -> System:
    base = tiny.save_base("blip2-opt", root / "base")
    return System(base, ("--data", str(fixtures_data.coco(root / "coco"))), "captions")


def _blip2_t5_vqa(root: Path) -> System:
    return System(_blip2_t5(root / "base"), ("--data", str(fixtures_data.vqa(root / "vqa"))), "answers")


def _ofa_karpathy(root: Path) -> System:
    data = f"{fixtures_data.karpathy(root / 'karpathy')}:train"
    return System(tiny_ofa.save_published(root / "base", max_position_embeddings=160), ("--data", data), "captions")


def _ofa_vqa(root: Path) -> System:
    data = fixtures_data.ofa_questions(root / "ofa")
    return System(tiny_ofa.save_published(root / "base", max_position_embeddings=160), ("--data", str(data)), "answers")


def _vinvl(root: Path, head: str, **changes: int) -> Path:
    return tiny_vinvl.save_published(root / "base", head=head, img_feature_dim=fixtures_data.WIDTH, **changes)


def _vinvl_captions(root: Path) -> System:
    return System(_vinvl(root, "captioning"), ("--data", str(fixtures_data.oscar(root / "oscar"))), "captions")


def _vinvl_vqa(root: Path) -> System:
    fixtures_data.oscar(root / "oscar")
    asked = ("--data", str(fixtures_data.vqa(root / "vqa")), "--regions", str(root / "oscar" / "val.feature.tsv"))
    return System(_vinvl(root, "vqa"), asked, "answers")


SYSTEMS: dict[str, Callable[[Path], System]] = {
    "blip2-opt": _blip2_opt_coco,
    "blip2-t5": _blip2_t5_vqa,
    "ofa-captioning": _ofa_karpathy,
    "ofa-vqa": _ofa_vqa,
    "vinvl-captioning": _vinvl_captions,
    "vinvl-vqa": _vinvl_vqa,
}
