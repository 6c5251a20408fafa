"""Every model type that the product knows by name, each with its record."""

from __future__ import annotations

from torch import nn

from rankscope import plugins
from rankscope.models.family import Family, InnerModel, StackSpec, decoder, encoder, pair
from rankscope.models.inputs.hearing import HearingInputs
from rankscope.models.inputs.vlm import (
    BlipInputs,
    BlipOneInputs,
    LlavaInputs,
    LxmertInputs,
    MllamaInputs,
    PaliGemmaInputs,
    ViltInputs,
)
from rankscope.models.ported.ofa.family import FAMILY as OFA
from rankscope.models.ported.vinvl.family import FAMILY as VINVL

_TOWER = (("encoder", "vision"),)
_PROJECTOR = StackSpec("projector", "multi_modal_projector", None, "projected", single=True)
_LANGUAGE = InnerModel("language_model")

_LLAMA = Family(decoder("layers", "norm"))
_GPT2 = Family(decoder("h", "ln_f"))
_BERT = Family(encoder("encoder.layer"))
# RoBERTa's embeddings count positions from the padding token.
_ROBERTA = Family(encoder("encoder.layer"), counts_positions=True)
# Relative positions: there is nothing to pass on.
_T5 = Family(pair("block", "final_layer_norm"), counts_positions=True)
_BLIP2 = Family(
    (
        # The norm of the vision tower runs twice, on the patches and on the pooled one: the tower's own output is read.
        StackSpec("vision", "vision_model.encoder.layers", "vision_model", "patches"),
        StackSpec("qformer", "qformer.encoder.layer", None, "queries"),
        _LANGUAGE,
    ),
    inputs=BlipInputs,
)
# What leaves the tower is pooled after its blocks, so that its own norm has other columns than they: the projector is read.
_HEARING = Family(
    (StackSpec("audio", "audio_tower.layers", None, "audio"), _PROJECTOR, _LANGUAGE),
    inputs=HearingInputs,
)
_LLAVA = (InnerModel("vision_tower", _TOWER), _PROJECTOR, _LANGUAGE)


def _qwen_vl(width: str) -> Family:
    return Family(
        (
            StackSpec("vision", "visual.blocks", None, "patches", width=width),
            StackSpec("projector", "visual.merger", None, "projected", single=True),
            _LANGUAGE,
        ),
    )


FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj"), _GPT2),
    "bloom": Family(decoder("h", "ln_f"), counts_positions=True),
    "mpt": Family(counts_positions=True),
    "gpt_neox": Family(decoder("layers", "final_layer_norm")),
    "opt": Family(decoder("decoder.layers", "decoder.final_layer_norm"), counts_positions=True),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mllama_text_model", "olmo2", "phi3"),
        _LLAMA,
    ),
    # The three coordinates of a position are computed by the outer model.
    **dict.fromkeys(
        ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_5_text"),
        Family(decoder("layers", "norm"), counts_positions=True),
    ),
    **dict.fromkeys(("bert", "electra"), _BERT),
    **dict.fromkeys(("roberta", "xlm-roberta"), _ROBERTA),
    "camembert": Family(counts_positions=True),
    # The other norm in their encoders is of the table of relative positions.
    **dict.fromkeys(("deberta", "deberta-v2"), Family(encoder("encoder.layer"))),
    # Its rotary or learned positions are counted from the padding token; RWKV has none.
    **dict.fromkeys(("esm", "rwkv"), Family(counts_positions=True)),
    # Its blocks are called past their hooks, and put features before tokens.
    "squeezebert": Family(
        (
            StackSpec(
                "encoder", "encoder.layers", entry="encoder.layers.0.attention", part="output", channels_first=True
            ),
        )
    ),
    "bigbird_pegasus": Family(pair("layers", "layernorm_embedding")),  # which norms what comes out of the blocks
    "fsmt": Family(pair("layers", None, time_first=True)),
    "pegasus_x": Family(pads_to="block_size"),
    # One block, or a few, run again and again: a site is a pass.
    "albert": Family((StackSpec("encoder", "encoder.albert_layer_groups", inner="albert_layers"),)),
    # It attends by relative positions, and hands samples on in the second dimension.
    "xlnet": Family((StackSpec("decoder", "layer", time_first=True),), counts_positions=True),
    # A block is no module of its own: it begins before its attention and ends with its second norm.
    **dict.fromkeys(("xlm", "flaubert"), Family((StackSpec("decoder", "layer_norm2", entry="attentions.0"),))),
    "longformer": Family(encoder("encoder.layer"), counts_positions=True, pads_to="attention_window"),
    "led": Family(pads_to="attention_window"),
    "encoder-decoder": Family((InnerModel("encoder"), InnerModel("decoder", (("encoder", "decoder"),), "target"))),
    "distilbert": Family(encoder("transformer.layer")),
    "vit": Family(encoder("layers", "layernorm", "patches")),
    "dinov2": Family(encoder("encoder.layer", "layernorm", "patches")),
    "clip_vision_model": Family(encoder("encoder.layers", None, "patches")),
    "clip_text_model": Family((StackSpec("text", "encoder.layers", "final_layer_norm"),)),
    "siglip_vision_model": Family(encoder("encoder.layers", "post_layernorm", "patches")),
    **dict.fromkeys(("siglip", "siglip_text_model", "siglip2", "siglip2_text_model"), Family(trained_padded=True)),
    "clip": Family((InnerModel("text_model"), InnerModel("vision_model", _TOWER))),
    **dict.fromkeys(("t5", "mt5"), _T5),
    "umt5": Family(counts_positions=True),
    "bart": Family(pair("layers", None)),
    "mbart": Family(pair("layers", "layer_norm"), starts_with_last=True),
    "plbart": Family(starts_with_last=True),
    **dict.fromkeys(("blip-2", "instructblip"), _BLIP2),
    "llava": Family(_LLAVA, inputs=LlavaInputs, after_image="\n"),
    "vipllava": Family(_LLAVA, after_image="\n"),
    "paligemma": Family(_LLAVA, inputs=PaliGemmaInputs, masks_outside=True),
    "gemma3": Family((InnerModel("vision_tower", _TOWER), _PROJECTOR, _LANGUAGE), masks_outside=True),
    # Florence's vision tower changes its width and its grid from stage to stage: it is read after its projector.
    "florence2": Family((_PROJECTOR, _LANGUAGE), reads_images=True, places_images=True, caption_prompt="<CAPTION>"),
    "qwen2_vl": _qwen_vl("embed_dim"),
    **dict.fromkeys(("qwen2_5_vl", "qwen3_vl", "qwen3_5"), _qwen_vl("hidden_size")),
    # A second transformer goes on with the tiles of the first.
    "mllama": Family(
        (
            StackSpec("vision", "vision_model.transformer.layers", "vision_model.layernorm_post", "patches"),
            StackSpec("vision-global", "vision_model.global_transformer.layers", None, "patches"),
            _LANGUAGE,
        ),
        inputs=MllamaInputs,
    ),
    "git": Family(
        (
            StackSpec(
                "vision",
                "image_encoder.vision_model.encoder.layers",
                "image_encoder.vision_model.post_layernorm",
                "patches",
            ),
            StackSpec("decoder", "encoder.layer"),
        ),
        image_rows="before",
    ),
    # Its positions are counted from the padding token, and go on after all columns that are in the cache.
    "kosmos_2_text_model": Family(counts_positions=True),
    "kosmos-2": Family(generates_alone=True),
    **dict.fromkeys(("qwen2_audio", "audioflamingo3"), _HEARING),
    "vilt": Family(encoder("encoder.layer", "layernorm"), inputs=ViltInputs, reads_images=True),
    # Words and regions are read apart, and then together; of that part the words are read.
    "lxmert": Family(
        (
            StackSpec("encoder", "encoder.layer"),
            StackSpec("regions", "encoder.r_layers", None, "projected"),
            StackSpec("cross", "encoder.x_layers"),
        ),
        inputs=LxmertInputs,
        reads_regions=True,
    ),
    "blip": Family(inputs=BlipOneInputs, frames_prompts=True),
    "ofa": OFA,
    "vinvl": VINVL,
}
"""The families, by ``model_type``."""
UNKNOWN = Family()
"""What holds for a model type that is not among them."""


def family_of(model: nn.Module | None) -> Family:
    """The record of a model's type, which a plug-in may have added; the model is not inside a wrapper.

    Raises:
        BrokenPlugin: if the plug-in for that type cannot be used.
    """
    model_type = str(getattr(getattr(model, "config", None), "model_type", ""))
    return plugins.choose("families", model_type, FAMILIES, Family) or UNKNOWN
