"""Tiny random checkpoints of every family, tuned each way, saved to disk by plain transformers and PEFT.

A folder is a complete checkpoint: configuration, weights, tokenizer or processor. Weights are larger than a real
initialisation would make them, so that every block, mask and position visibly matters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers.models.auto.processing_auto import AutoProcessor

SENTENCES = (
    "a photo of two digits",
    "three is left of seven",
    "how many digits are there in the image, and which of them is the largest?",
    "five",
    "the sum of the digits is an even number",
    "nothing",
)
TUNINGS = ("none", "lora", "prefix", "prompt", "ia3", "p-tuning")
VIRTUAL = 5
"""The number of virtual tokens of every prefix and prompt here."""
IMAGE_SIZE, PATCH = 16, 8


def tokenizer(
    template: str = "$A", *, cls: type = tf.PreTrainedTokenizerFast, extra: tuple[str, ...] = (), **specials: str
) -> Any:
    """A byte-level tokenizer trained on :data:`SENTENCES`, framing text as ``template`` says (``[CLS] $A [SEP]``)."""
    tokens = list(dict.fromkeys([*specials.values(), *extra]))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(SENTENCES * 2, trainer)
    framed = [(t, bpe.token_to_id(t)) for t in tokens]
    bpe.post_processor = processors.TemplateProcessing(single=template, pair=f"{template} $B", special_tokens=framed)
    return cls(tokenizer_object=bpe, additional_special_tokens=list(extra), **specials)


def picture(seed: int) -> Image.Image:
    """A picture of random pixels."""
    pixels = torch.randint(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy(), "RGB")


def spread(model: nn.Module, seed: int) -> nn.Module:
    """Redraw every weight with a spread at which blocks, masks and positions matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_norm = p.ndim == 1 and name.endswith("weight")
            p.copy_(1 + 0.1 * noise if is_norm else 0.2 * noise)
    return model


def _ends(tok: Any) -> dict[str, Any]:
    return {"bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}


GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
OPT = {"pad_token": "<pad>", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
T5 = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
BART = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
CLIP = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}


def _opt_config(tok: Any) -> tf.OPTConfig:
    return tf.OPTConfig(
        vocab_size=len(tok), hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=128, dropout=0.0, **_ends(tok),
    )  # fmt: skip


def _t5_config(tok: Any) -> tf.T5Config:
    return tf.T5Config(
        vocab_size=len(tok), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4,
        pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id, decoder_start_token_id=tok.pad_token_id,
        dropout_rate=0.0,
    )  # fmt: skip


def _llama_config(tok: Any) -> tf.LlamaConfig:
    return tf.LlamaConfig(
        vocab_size=len(tok), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, **_ends(tok),
    )  # fmt: skip


def gpt2() -> tuple[nn.Module, Any]:
    tok = tokenizer(**GPT2)
    config = tf.GPT2Config(vocab_size=len(tok), n_positions=128, n_embd=32, n_layer=3, n_head=4, **_ends(tok))
    return tf.GPT2LMHeadModel(config), tok


def opt() -> tuple[nn.Module, Any]:
    tok = tokenizer("</s> $A", **OPT)
    return tf.OPTForCausalLM(_opt_config(tok)), tok


def llama() -> tuple[nn.Module, Any]:
    tok = tokenizer("<s> $A", **LLAMA)
    return tf.LlamaForCausalLM(_llama_config(tok)), tok


def bert() -> tuple[nn.Module, Any]:
    tok = tokenizer("[CLS] $A [SEP]", **BERT)
    config = tf.BertConfig(
        vocab_size=len(tok), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=128, pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    return tf.BertModel(config), tok


def t5() -> tuple[nn.Module, Any]:
    tok = tokenizer("$A </s>", **T5)
    return tf.T5ForConditionalGeneration(_t5_config(tok)), tok


def bart() -> tuple[nn.Module, Any]:
    tok = tokenizer("<s> $A </s>", **BART)
    config = tf.BartConfig(
        vocab_size=len(tok), d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=128,
        decoder_start_token_id=tok.eos_token_id, forced_eos_token_id=tok.eos_token_id, **_ends(tok),
    )  # fmt: skip
    return tf.BartForConditionalGeneration(config), tok


def _size() -> dict[str, int]:
    return {"height": IMAGE_SIZE, "width": IMAGE_SIZE}


def vit() -> tuple[nn.Module, Any]:
    config = tf.ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=IMAGE_SIZE,
        patch_size=PATCH, num_labels=10,
    )  # fmt: skip
    return tf.ViTForImageClassification(config), tf.ViTImageProcessor(size=_size())


def _clip_vision() -> dict[str, Any]:
    return {
        "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": IMAGE_SIZE, "patch_size": PATCH, "projection_dim": 16,
    }  # fmt: skip


def _clip_images() -> Any:
    return tf.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=_size())


def clip() -> tuple[nn.Module, Any]:
    tok = tokenizer("<|startoftext|> $A <|endoftext|>", **CLIP)
    text = {
        "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 64, "projection_dim": 16, **_ends(tok),
    }  # fmt: skip
    config = tf.CLIPConfig(text_config=text, vision_config=_clip_vision(), projection_dim=16)
    return tf.CLIPModel(config), tf.CLIPProcessor(_clip_images(), tok)


def _blip2(text_config: Any, tok: Any) -> tuple[nn.Module, Any]:
    vision = {
        "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": IMAGE_SIZE, "patch_size": PATCH,
    }  # fmt: skip
    qformer = {
        "vocab_size": len(tok), "hidden_size": 28, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "encoder_hidden_size": 24, "cross_attention_frequency": 2,
    }  # fmt: skip
    config = tf.Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=text_config.to_dict(), num_query_tokens=6,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = tf.BlipImageProcessor(size=_size())
    return tf.Blip2ForConditionalGeneration(config), tf.Blip2Processor(images, tok, num_query_tokens=6)


def blip2_opt() -> tuple[nn.Module, Any]:
    tok = tokenizer("</s> $A", extra=("<image>",), **OPT)
    return _blip2(_opt_config(tok), tok)


def blip2_t5() -> tuple[nn.Module, Any]:
    tok = tokenizer("$A </s>", extra=("<image>",), **T5)
    return _blip2(_t5_config(tok), tok)


def llava() -> tuple[nn.Module, Any]:
    tok = tokenizer("<s> $A", extra=("<image>",), **LLAMA)
    image = tok.convert_tokens_to_ids("<image>")
    vision = tf.CLIPVisionConfig(**_clip_vision())
    config = tf.LlavaConfig(vision_config=vision, text_config=_llama_config(tok), image_token_index=image)
    processor = tf.LlavaProcessor(
        _clip_images(), tok, patch_size=PATCH, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return tf.LlavaForConditionalGeneration(config), processor


@dataclass(frozen=True)
class Family:
    """How a family is built, and what PEFT can do to it."""

    build: Callable[[], tuple[nn.Module, Any]]
    task: str | None
    """PEFT's task type; None for models that it has none for."""
    targets: tuple[str, ...]
    """Linear maps that LoRA and IA³ tune."""
    forward: tuple[str, ...]
    """Those of the feed-forward, where IA³ scales the input."""
    inner: str = ""
    """The language model that a prefix or prompt is put on, where it is not the whole."""
    refused: tuple[str, ...] = field(default=())
    """The tunings that PEFT cannot put on this family."""


PROMPTS = ("prefix", "prompt", "p-tuning")
LM = "CAUSAL_LM"
FAMILIES: dict[str, Family] = {
    "gpt2": Family(gpt2, LM, ("c_attn", "c_fc"), ("c_fc",)),
    "opt": Family(opt, LM, ("q_proj", "v_proj", "fc2"), ("fc2",)),
    "llama": Family(llama, LM, ("q_proj", "v_proj", "down_proj"), ("down_proj",)),
    "bert": Family(bert, "FEATURE_EXTRACTION", ("query", "value"), ()),
    "t5": Family(t5, "SEQ_2_SEQ_LM", ("q", "v", "wo"), ("wo",)),
    "bart": Family(bart, "SEQ_2_SEQ_LM", ("q_proj", "v_proj", "fc2"), ("fc2",)),
    "vit": Family(vit, None, ("q_proj", "v_proj"), (), refused=PROMPTS),
    "clip": Family(clip, None, ("q_proj", "v_proj"), (), refused=PROMPTS),
    "blip2-opt": Family(blip2_opt, LM, ("q_proj", "v_proj", "qkv"), (), inner="language_model"),
    "blip2-t5": Family(blip2_t5, "SEQ_2_SEQ_LM", ("q", "v", "qkv"), (), inner="language_model"),
    "llava": Family(llava, LM, ("q_proj", "v_proj"), ()),
}


def cases() -> list[tuple[str, str]]:
    """Every family with every tuning that PEFT can put on it."""
    return [(name, tuning) for name, family in FAMILIES.items() for tuning in TUNINGS if tuning not in family.refused]


def _peft_config(family: Family, tuning: str) -> peft.PeftConfig:
    task = family.task
    if tuning == "lora":
        return peft.LoraConfig(
            task_type=task if not family.inner else None, r=3, lora_alpha=6, target_modules=list(family.targets),
            init_lora_weights=False, fan_in_fan_out="c_attn" in family.targets,
        )  # fmt: skip
    if tuning == "ia3":
        return peft.IA3Config(
            task_type=task if not family.inner else None, target_modules=list(family.targets),
            feedforward_modules=list(family.forward), init_ia3_weights=False, fan_in_fan_out="c_attn" in family.targets,
        )  # fmt: skip
    kinds = {"prefix": peft.PrefixTuningConfig, "prompt": peft.PromptTuningConfig, "p-tuning": peft.PromptEncoderConfig}
    # PEFT would count the encoder's blocks, and the prefix stands in the decoder, which has three in every family.
    layers = {"num_layers": 3} if task == "SEQ_2_SEQ_LM" else {}
    return kinds[tuning](task_type=task, num_virtual_tokens=VIRTUAL, **layers)


def save_base(name: str, folder: Path, *, seed: int = 0) -> Path:
    """A complete random checkpoint of the family, in ``folder``."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[name].build()
    spread(model, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def open_base(folder: Path) -> Any:
    """The model in ``folder``, as plain transformers opens it."""
    config = tf.AutoConfig.from_pretrained(folder)
    return getattr(tf, config.architectures[0]).from_pretrained(folder).eval()


def open_processor(folder: Path) -> Any:
    """The tokenizer or processor in ``folder``."""
    return AutoProcessor.from_pretrained(folder)


def tune(model: Any, name: str, tuning: str, *, seed: int = 1) -> Any:
    """The model with a random adapter attached by plain PEFT; the adapter itself where it sits on an inner model."""
    family = FAMILIES[name]
    torch.manual_seed(seed)
    inner = model.get_submodule(family.inner) if family.inner and tuning in PROMPTS else model
    with warnings.catch_warnings():  # PEFT asks for an attribute that transformers is about to rename
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        tuned = peft.get_peft_model(inner, _peft_config(family, tuning))
    if inner is not model:
        setattr(model, family.inner, tuned)
    return tuned.eval()


def tuned_by_peft(model: Any, config: peft.PeftConfig, base: Path, out: Path, *, seed: int = 1) -> Any:
    """The model with an adapter by plain PEFT, every trainable number of it moved; saved over ``base`` in ``out``."""
    torch.manual_seed(seed)
    tuned = peft.get_peft_model(model, config)
    move(tuned)
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(out)
    return tuned.eval()


@torch.no_grad()
def move(model: nn.Module) -> None:
    """What training would do: every trainable number moves."""
    for p in model.parameters():
        if p.requires_grad:
            p.add_(0.2 * torch.randn_like(p))


def save_tuned(name: str, tuning: str, base: Path, folder: Path, *, seed: int = 1) -> Path:
    """An adapter folder over the checkpoint in ``base``, written by plain PEFT; ``base`` itself where there is no tuning."""
    if tuning == "none":
        return base
    tuned = tune(open_base(base), name, tuning, seed=seed)
    for config in tuned.peft_config.values():
        config.base_model_name_or_path = str(base)
    tuned.save_pretrained(folder)
    return folder
