"""Every type of text and of images that transformers builds small: each site is the hidden state that plain transformers returns.

A quick sample runs always, all of them with ``--whole``. The reference takes nothing from rankscope: transformers opens the
folder, its tokenizer or image processor makes the tensors of one sample, and ``output_hidden_states`` says what is right.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import small
import tiny
import torch
import transformers as tf
from torch import Tensor, nn
from transformers.models.auto import modeling_auto as auto

import rankscope
from rankscope.errors import RankscopeError
from rankscope.sites import Site

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = sorted(
    {
        *auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        *auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    }
)
IMAGES = sorted(set(auto.MODEL_FOR_IMAGE_MAPPING_NAMES) - set(TEXT))
SENTENCES = tiny.SENTENCES
PICTURES = 4
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "what-is-read.md"

NOT_SMALL = {
    **dict.fromkeys(
        ("blt", "cohere2_vision", "deepseek_v4", "depth_pro", "dots3_note_text", "kimi_linear", "llama4", "phi4_multimodal", "qwen3_asr",
         "seamless_m4t", "seamless_m4t_v2", "vibevoice_asr"),
        "more than four million numbers at the sizes that its configuration can be given from outside",
    ),
    **dict.fromkeys(
        ("conditional_detr", "dab-detr", "deformable_detr", "detr", "dinat", "gemma3n", "table-transformer", "timm_backbone", "timm_wrapper"),
        "needs timm or natten",
    ),
    **dict.fromkeys(
        ("cohere_compass_text", "dbrx", "dots1", "dots3_note", "efficientnet", "emu3", "funnel", "gemma3n_text",
         "gemma4_assistant", "granite_speech", "granite_speech_plus", "hunyuan_v1_moe", "longcat_flash", "musicgen", "musicgen_melody",
         "nemo_speechlm", "qwen4_exp", "qwen4_exp_text", "swin2sr", "xlstm", "zamba", "zamba2"),
        "its sizes depend on each other, and the small ones do not fit together",
    ),
    **dict.fromkeys(("encoder-decoder", "gemma4_unified_assistant", "trocr"), "AutoModel does not make it; test_layouts.py has the first"),
    **dict.fromkeys(
        ("gemma3", "git", "got_ocr2", "mllama", "modernvbert", "qwen3_5", "qwen3_5_moe", "t5gemma2", "ultravbert", "voxtral_realtime",
         "whisper"),
        "reads images or audio beside text",
    ),
}  # fmt: skip
"""Types that are not swept here, and why."""
REFUSED = {
    "cpmant": "no part of .*shape .* and it returns",  # puts 32 rows of its own before the text
    "glpn": "none of the hidden states",  # which it norms and reshapes outside its blocks
    "hrm_text": "runs more than once",
    "imagegpt": "has no tokenizer",
    "perceiver": "forward pass of PerceiverModel fails .*missing 1 required positional argument",
    "reformer": "32, 32\\); 1 samples of 23 columns",  # pads to its chunks of attention
    "timesformer": "forward pass of TimesformerModel fails",  # it reads videos
    "videomae": "forward pass of VideoMAEModel fails",
    "videoprism_vision_model": "reads pixel_values_videos, .* neither text nor an image",
    "vit_mae": "draws at random",
    "vitdet": "wide; 32 were expected",
    "vivit": "forward pass of VivitModel fails",
    "xmod": "Input language unknown",
}
"""Types that are refused, and the reason that is given."""
QUICK = frozenset(
    {"albert", "bart", "convbert", "deepseek_v3", "falcon_mamba", "focalnet", "fnet", "fsmt", "gpt_neo", "hiera", "hrm_text", "jamba",
     "longformer", "mobilevit", "modernbert", "nanochat", "resnet", "swin", "squeezebert", "t5gemma", "vit_mae", "xlnet", "yolos"}
)  # fmt: skip
"""Those that always run: one of each way in which types differ."""
ENTERS_UNSEEN = frozenset({"mamba", "mamba2", "falcon_mamba", "rwkv"})
"""Types that return what comes out of their blocks, and not what goes into the first."""
STARTS_WITH_LAST = frozenset({"mbart", "plbart"})
"""Types whose decoder begins with the last token of its target, the language."""


def make(model_type: str, home: Path) -> tuple[Path, Path]:
    """A checkpoint of the type, and data for it."""
    torch.manual_seed(0)
    if model_type in IMAGES:
        data = home / "pictures"
        data.mkdir()
        for i in range(PICTURES):
            tiny.picture(i).resize((small.PIXELS, small.PIXELS)).save(data / f"{i}.png")
        size = {"height": small.PIXELS, "width": small.PIXELS}
        tf.ViTImageProcessor(size=size).save_pretrained(home / "m")
        config = small.small_config(model_type)
    else:
        data = home / "texts.jsonl"
        data.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(SENTENCES)))
        tok = tiny.tokenizer("<s> $A </s>", **tiny.BART)
        tok.save_pretrained(home / "m")
        ends = {f"{end}_token_id": getattr(tok, f"{end}_token_id") for end in ("pad", "bos", "eos")}
        config = small.small_config(model_type, vocab_size=len(tok), **ends)
        if config.is_encoder_decoder:
            config.decoder_start_token_id = tok.eos_token_id
    small.jittered(small.small_model(config)).save_pretrained(home / "m")
    return home / "m", data


def samples(folder: Path, data: Path, model: Any) -> list[dict[str, Tensor]]:
    """What plain transformers makes of each sample alone."""
    if data.is_dir():
        processor = tf.ViTImageProcessor.from_pretrained(folder)
        return [dict(processor(tiny.Image.open(path), return_tensors="pt")) for path in sorted(data.iterdir())]
    tok = tf.AutoTokenizer.from_pretrained(folder)
    made = [{"input_ids": tok(text, return_tensors="pt").input_ids} for text in SENTENCES]
    if model.config.is_encoder_decoder:
        for sample in made:
            ids = sample["input_ids"]
            start = ids[:, -1:] if model.config.model_type in STARTS_WITH_LAST else torch.tensor([[tok.eos_token_id]])
            sample["decoder_input_ids"] = torch.cat([start, ids[:, :-1]], 1)
    return made


@torch.no_grad()
def told(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """The hidden states that transformers returns, by stack, and the last ones under ``last``."""
    out = model(**inputs, output_hidden_states=True, return_dict=True)
    found = {}
    for name, value in out.items():
        if name.endswith("hidden_states") and value:
            found[name.removesuffix("hidden_states").rstrip("_")] = [v for v in value if isinstance(v, Tensor)]
    if model.config.model_type == "pegasus_x":  # which pads inside, and returns the padding too
        found["encoder"] = [v[:, : inputs["input_ids"].shape[1]] for v in found["encoder"]]
    lasts = [out[name] for name in ("last_hidden_state", "encoder_last_hidden_state") if out.get(name) is not None]
    return {**found, "last": lasts}


def rows(state: Tensor) -> Tensor:
    """``(t, d)`` of one sample; a grid is ``(1, d, h, w)``."""
    return state[0].movedim(0, -1).flatten(0, 1) if state.ndim == 4 else state[0]


def expected(site: Site, states: dict[str, list[Tensor]], sites: tuple[Site, ...], model_type: str) -> list[Tensor]:
    """What the rows of a site may be for one sample: one thing for most; empty where transformers does not return it."""
    own = states.get(site.stack, states.get("", []))
    if site.stack.startswith("stage"):
        return [rows(state) for state in own]
    if site.point == "final":
        return [rows(state) for state in [own[-1], *states["last"]]]
    unseen = model_type in ENTERS_UNSEEN
    blocks = [other for other in sites if other.stack == site.stack and other.point.isdigit()]
    if (site.point == "embed" and unseen) or (site == blocks[-1] and Site(site.stack, "final") in sites):
        return []
    return [rows(own[0 if site.point == "embed" else int(site.point) + 1 - unseen])]


def apart(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).norm() / y.double().norm()) if x.shape == y.shape else float("inf")


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(t, marks=() if t in QUICK else pytest.mark.whole) for t in [*TEXT, *IMAGES] if t not in NOT_SMALL],
)
def test_each_site_is_what_transformers_returns_for_one_sample(model_type: str, tmp_path: Path) -> None:
    folder, data = make(model_type, tmp_path)
    options: dict[str, Any] = {"rows": "tokens", "keep_special": True, "out": tmp_path / "r.pt"}
    if model_type in REFUSED:
        with pytest.raises(RankscopeError, match=REFUSED[model_type]):
            rankscope.collect(folder, data, **options)
        return
    run = rankscope.collect(folder, data, **options)
    model = tf.AutoModel.from_pretrained(folder).eval()
    states = [told(model, inputs) for inputs in samples(folder, data, model)]
    compared = 0
    assert run.sites
    for site in run.sites:
        each = [expected(site, sample, run.sites, model_type) for sample in states]
        x = run.features(site)
        found = [
            apart(x, torch.cat(choice))
            for choice in zip(*each, strict=True)
            if {c.shape[-1] for c in choice} == {x.shape[-1]}
        ]
        assert min(found, default=0 if not each[0] else 9) < 2e-5, (site, found, run.manifest.notes)
        compared += bool(each[0])
    assert compared >= max(1, len(run.sites) - 3)
    bare = rankscope.collect(folder, out=tmp_path / "bare.pt")  # as 'rankscope collect m --layers all' does
    assert {*bare.sites} == {*run.sites}
    assert len(bare.manifest.ids) >= 200, bare.manifest.notes


def test_the_sweep_is_as_large_as_the_documents_say() -> None:
    texts, images = (len([t for t in types if t not in NOT_SMALL and t not in REFUSED]) for types in (TEXT, IMAGES))
    said = re.findall(r"^\| (text|images) \| (\d+)", PAGE.read_text(), flags=re.MULTILINE)
    assert {name: int(count) for name, count in said} == {"text": texts, "images": images}
    assert texts + images >= 234
