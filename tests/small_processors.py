"""Small checkpoints with their own processors, of the types that transformers knows, made from each type's defaults.

Nothing here is about one type: a part of a processor has the class that transformers names for the type, an option that the model's
configuration has too has its value there, a side in pixels is small, and the tokenizer knows every token of which the processor's
code speaks.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import small
import tiny
import torch
import transformers as tf
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

from rankscope.errors import RankscopeError
from rankscope.models.inputs.processors import open_processor

_MARKUP = re.compile(r"[\"'](<[^\s\"'<>{}]{2,40}>|\[[A-Z_]{2,20}\])[\"']")
"""Tokens of which code speaks."""
_LACKS = re.compile(r"has no attribute '?(\w+_token)(?:_id)?\b")
"""What an error says that misses a token by name."""
_PLACES = re.compile(r"(\w+)_token_(?:id|index)")
"""What configurations call the places of tokens."""
_ALIKE = {"merge_size": "spatial_merge_size", "vision_patch_size": "patch_size"}
"""What processors call an option for which configurations have another name."""
_COUNTS = ("num_image_tokens", "image_seq_len", "image_seq_length")
"""What processors call the number of an image's tokens, where the configuration does not say it."""
_MANY = 4096
"""What counts more than that counts pixels of an image, and not those along its side."""
_PINS = [[small.PIXELS, 2 * small.PIXELS], [2 * small.PIXELS, small.PIXELS], [2 * small.PIXELS, 2 * small.PIXELS]]
_MORE: dict[str, Any] = {
    "max_position_embeddings": 2048, "image_grid_pinpoints": _PINS,
    **dict.fromkeys(("out_hidden_size", "text_hidden_size"), small.WIDTH),
}  # fmt: skip
"""Options of models that see, beside those of models of texts."""


def save_checkpoint(model_type: str, folder: Path) -> None:
    """A small model of a type, its weights jittered, with the processor that is its own.

    Raises:
        Exception: whatever transformers raises if it cannot be made from outside, or needs a package.
    """
    _save_model(model_type, save_processor(small.small_config(model_type, **_MORE), folder), folder, _MORE)


def save_plain(model_type: str, folder: Path) -> None:
    """A small model of a type beside a tokenizer of words and the simplest image processor, which need not be its own."""
    _image_processor(None).save_pretrained(folder)
    _save_model(model_type, _save_tokenizer(folder, (), {}), folder, {})


def _save_model(model_type: str, tokens: dict[str, int], folder: Path, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = small.small_config(model_type, **more, **tokens)
    for inner in _inside(config):
        rope = getattr(inner, "rope_parameters", None)
        if more and isinstance(rope, dict) and "rope_type" in rope:  # for a type whose code has a default of its own
            rope.setdefault("mrope_section", [2, 1, 1])
    small.jittered(small.small_model(config)).save_pretrained(folder)


def save_processor(config: Any, folder: Path) -> dict[str, int]:
    """Save the small processor that goes with a configuration; returns the places of its tokens, as configurations call them."""
    kind = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    cls = None if kind is None else processor_class_from_name(kind)
    _image_processor(config).save_pretrained(folder)
    if hears := FEATURE_EXTRACTOR_MAPPING_NAMES.get(config.model_type):
        _part(getattr(tf, hears), config).save_pretrained(folder)
    if cls is None:
        return _save_tokenizer(folder, (), {}, _inside(config))
    takes = (name for name in inspect.signature(cls.__init__).parameters if name not in cls.get_attributes())
    options = {name: value for name in takes if (value := _small(name, None, config)) is not None}
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": cls.__name__, **options}))
    words, named = _MARKUP.findall(Path(inspect.getfile(cls)).read_text()), dict[str, str]()
    while True:
        _save_tokenizer(folder, words, named)
        try:
            made = open_processor(folder, text=True, image=hears is None, audio=hears is not None)
        except RankscopeError as error:
            lacks = _LACKS.search(str(error))
            if lacks is None or lacks[1] in named:
                raise
            named[lacks[1]] = f"<{lacks[1].removesuffix('_token')}>"
        else:
            return _save_tokenizer(folder, words, named, _inside(config), made)


def _inside(config: Any) -> list[Any]:
    """A configuration and those inside it, those of what sees or hears first, those of texts last."""
    inner = [c for c in vars(config).values() if isinstance(c, tf.PreTrainedConfig)]
    return sorted([config, *inner], key=lambda c: (hasattr(c, "vocab_size"), c is not config))


def _small(name: str, value: Any, config: Any) -> Any:
    """An option of a processor, small; None stands for one that is not known."""
    own = [getattr(c, n, None) for n in (name, _ALIKE.get(name, name)) for c in (_inside(config) if config else ())]
    if hasattr(value, "items") and "size" in name:
        side, most = small.PATCH if "patch" in name else small.PIXELS, small.PIXELS**2
        return {k: (most if k == "longest_edge" else side) if v > _MANY else side for k, v in value.items() if v}
    if name in ("max_pixels", "min_pixels"):
        return small.PIXELS**2 if value is None else min(value, small.PIXELS**2)
    if name == "image_grid_pinpoints":
        return _PINS
    if name in _COUNTS and not any(isinstance(v, int) for v in own):
        return (small.PIXELS // small.PATCH) ** 2
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return next((v for v in own if isinstance(v, int)), value)
    return value


def _part(kind: Any, config: Any) -> Any:
    options = kind().to_dict()
    return kind(**{n: _small(n, v, config) for n, v in options.items() if n[0] != "_" and not n.endswith("_type")})


def _image_processor(config: Any) -> Any:
    """The image processor of a type that works without torchvision, or the simplest one."""
    names = {} if config is None else IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type) or {}
    if names.get("pil") is None:
        return tf.ViTImageProcessor(size={"height": small.PIXELS, "width": small.PIXELS})
    return _part(get_image_processor_class_from_name(names["pil"]), config)


def _save_tokenizer(
    folder: Path, words: Any, named: dict[str, str], configs: Any = (), processor: Any = None
) -> dict[str, int]:
    """Save a tokenizer that knows some more words, some of them by name; returns the places that configurations ask for."""
    extra = tuple(sorted({*words, *named.values()} - set(tiny.BART.values())))
    plain = tiny.tokenizer("<s> $A </s>", extra=extra, **tiny.BART)
    tok = tf.PreTrainedTokenizerFast(tokenizer_object=plain._tokenizer, extra_special_tokens=named, **tiny.BART)
    tok.save_pretrained(folder)
    known, places = tok.get_vocab(), {"vocab_size": len(tok)}
    places |= {f"{end}_token_id": getattr(tok, f"{end}_token_id") for end in ("pad", "bos", "eos")}
    for option in {
        option for config in configs for option in vars(config) if _PLACES.fullmatch(option)
    } - places.keys():
        name = option.rpartition("_token_")[0]
        said = (str(getattr(part, f"{name}_token", None)) for part in (tok, processor))
        found = [t for t in (*said, f"<|{name}|>", f"<{name}>", f"<|{name}_pad|>") if t in known]
        places |= {option: known[found[0]]} if found else {}
    return places
