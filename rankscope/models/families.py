"""Where each family keeps its stacks of blocks: a table from the model type to paths on the base model.

A path starts at the base of its model (``GPT2LMHeadModel`` → its ``transformer``). A model that is not in the table is
searched by structure (:mod:`rankscope.models.stacks`), which finds the one stack of most decoders and encoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Columns = Literal["text", "target", "patches", "queries", "projected", "any"]
"""What the columns of a stack's hidden states are: tokens of the input text (with whatever stands in it for an image),
tokens of the decoder's own input, patches of the image, learned queries, patches handed to the language model."""


@dataclass(frozen=True)
class Part:
    """One stack of a family."""

    stack: str
    """Its name in a site."""
    blocks: str
    """Path to the list of blocks; to the module itself where there is no list and its output is the site."""
    final: str | None = None
    """Path to the module whose output is the final site: the norm after the last block; None where there is none."""
    columns: Columns = "text"
    """What its columns are."""
    width: str = "hidden_size"
    """What the configuration calls the width of its hidden states."""
    single: bool = False
    """Whether the path is one module, read at ``output``."""


@dataclass(frozen=True)
class Inner:
    """A whole model inside another one, with a type of its own."""

    path: str
    """Path to it."""
    rename: tuple[tuple[str, str], ...] = ()
    """Other names for its stacks, as pairs."""


def decoder(blocks: str, final: str | None) -> tuple[Part | Inner, ...]:
    """A family of decoder-only language models."""
    return (Part("decoder", blocks, final),)


def encoder(blocks: str, final: str | None = None, columns: Columns = "text") -> tuple[Part | Inner, ...]:
    """A family of encoders."""
    return (Part("encoder", blocks, final, columns),)


def pair(blocks: str, final: str | None) -> tuple[Part | Inner, ...]:
    """A family with an encoder and a decoder that are built alike."""
    ends = {side: f"{side}.{final}" if final else None for side in ("encoder", "decoder")}
    return (
        Part("encoder", f"encoder.{blocks}", ends["encoder"], "text"),
        Part("decoder", f"decoder.{blocks}", ends["decoder"], "target"),
    )


_VISION = (("encoder", "vision"),)
_BLIP2 = (
    # The norm of the vision tower runs twice, on the patches and on the pooled one: the tower's own output is read.
    Part("vision", "vision_model.encoder.layers", "vision_model", "patches"),
    Part("qformer", "qformer.encoder.layer", None, "queries"),
    Inner("language_model"),
)
_LLAVA = (
    Inner("vision_tower", _VISION),
    Part("projector", "multi_modal_projector", None, "projected", single=True),
    Inner("language_model"),
)
_QWEN2_VL = (
    Part("vision", "visual.blocks", None, "patches", width="embed_dim"),
    Part("projector", "visual.merger", None, "projected", single=True),
    Inner("language_model"),
)
_QWEN2_5_VL = (Part("vision", "visual.blocks", None, "patches"), *_QWEN2_VL[1:])
# Florence's vision tower changes its width and its grid from stage to stage: it is read where it is handed over.
_FLORENCE = (Part("projector", "multi_modal_projector", None, "projected", single=True), Inner("language_model"))
_BERT = encoder("encoder.layer")
_LLAMA = decoder("layers", "norm")
_SIGLIP_VISION = encoder("encoder.layers", "post_layernorm", "patches")

FAMILIES: dict[str, tuple[Part | Inner, ...]] = {
    "gpt2": decoder("h", "ln_f"),
    "gpt_neo": decoder("h", "ln_f"),
    "gptj": decoder("h", "ln_f"),
    "bloom": decoder("h", "ln_f"),
    "gpt_neox": decoder("layers", "final_layer_norm"),
    "opt": decoder("decoder.layers", "decoder.final_layer_norm"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "phi3"), _LLAMA),
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text"), _LLAMA),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "vinvl"), _BERT),
    "distilbert": encoder("transformer.layer"),
    "vit": encoder("layers", "layernorm", "patches"),
    "dinov2": encoder("encoder.layer", "layernorm", "patches"),
    "clip_vision_model": encoder("encoder.layers", None, "patches"),
    "clip_text_model": (Part("text", "encoder.layers", "final_layer_norm"),),
    "siglip_vision_model": _SIGLIP_VISION,
    "clip": (Inner("text_model"), Inner("vision_model", _VISION)),
    "t5": pair("block", "final_layer_norm"),
    "mt5": pair("block", "final_layer_norm"),
    "bart": pair("layers", None),
    "mbart": pair("layers", "layer_norm"),
    "ofa": pair("layers", "layer_norm"),
    "blip-2": _BLIP2,
    "instructblip": _BLIP2,
    "llava": _LLAVA,
    "vipllava": _LLAVA,
    "paligemma": _LLAVA,
    "florence2": _FLORENCE,
    "qwen2_vl": _QWEN2_VL,
    "qwen2_5_vl": _QWEN2_5_VL,
}
"""The families, by ``model_type``."""
