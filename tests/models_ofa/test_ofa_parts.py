"""Stem, buckets, prompts, tokenizer, pixels: the parts against naive transcriptions and frozen values."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_ofa import PIXELS, build, save_published, vocabulary
from torch.nn import functional
from torch.testing import assert_close

import rankscope
from rankscope.errors import CheckpointError, DataError, UsageError
from rankscope.models.load import load_model
from rankscope.models.ported import ofa
from rankscope.models.ported.ofa.positions import code_places, grid_places, image_buckets, token_buckets
from rankscope.models.ported.ofa.processing import resolution_of
from rankscope.models.ported.ofa.resnet import DropPath, Stem


def naive_stem(weights: dict[str, torch.Tensor], x: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
    """The stem written out: one function call a convolution."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        scale = weights[f"{name}.weight"] / (var + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + weights[f"{name}.bias"][:, None, None]

    x = norm(functional.conv2d(x, weights["conv1.weight"], stride=2, padding=3), "bn1").clamp(min=0)
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(functional.conv2d(x, weights[f"{at}.conv1.weight"]), f"{at}.bn1").clamp(min=0)
            y = functional.conv2d(y, weights[f"{at}.conv2.weight"], stride=stride, padding=1)
            y = norm(y, f"{at}.bn2").clamp(min=0)
            y = norm(functional.conv2d(y, weights[f"{at}.conv3.weight"]), f"{at}.bn3")
            if block == 0:
                x = norm(
                    functional.conv2d(x, weights[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1"
                )
            x = (x + y).clamp(min=0)
    return x


def test_the_stem_is_its_naive_transcription() -> None:
    stem = Stem(ofa.OFAConfig(resnet_type="resnet18")).eval()
    for module in stem.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    x = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        out = stem(x)
        assert out.shape == (1, 1024, 3, 3)
        assert_close(out, naive_stem(stem.state_dict(), x, (2, 2, 2)), rtol=1e-4, atol=1e-4)


def test_every_stem_has_its_number_of_blocks() -> None:
    counts = {}
    for name in ("resnet18", "resnet50", "resnet101", "resnet152"):
        with torch.device("meta"):
            stem = Stem(ofa.OFAConfig(resnet_type=name))
        counts[name] = (len(stem.layer1), len(stem.layer2), len(stem.layer3))
    assert counts == {"resnet18": (2, 2, 2), "resnet50": (3, 4, 6), "resnet101": (3, 4, 23), "resnet152": (3, 8, 36)}


def test_dropped_branches_are_whole_samples_and_keep_the_mean() -> None:
    x = torch.ones(4000, 3)
    out = DropPath(0.25).train()(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out.std(dim=1) == 0).all()
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(x), x)


def test_word_buckets_are_exact_near_and_logarithmic_far() -> None:
    bucket, positions = 16, 64
    table = token_buckets(bucket, positions)
    for i in range(positions):
        for j in range(positions):
            d = i - j
            if abs(d) <= bucket // 2:
                expected = d
            else:
                far = math.log(abs(d) / 8) / math.log((positions - 1) / 8) * 7
                expected = int(math.copysign(math.ceil(round(far, 6)) + 8, d))
            assert table[i, j] == expected + bucket - 1
    assert table.min() == 0
    assert table.max() == 2 * bucket - 2


def test_patch_buckets_tell_offsets_apart_and_the_outside() -> None:
    side = 3
    table = image_buckets(side)
    seen: dict[tuple[int, int], set[int]] = {}
    for a in range(side**2):
        for b in range(side**2):
            offset = (a // side - b // side, a % side - b % side)
            seen.setdefault(offset, set()).add(int(table[a + 1, b + 1]))
    assert all(len(numbers) == 1 for numbers in seen.values())
    assert len(set.union(*seen.values())) == len(seen) == 25
    assert table[0, 0] == 27
    assert set(table[0, 1:].tolist()) == {25}
    assert set(table[1:, 0].tolist()) == {26}


def test_grid_places_skip_the_columns_that_an_image_lacks() -> None:
    assert grid_places(2, 3, 5).tolist() == [1, 2, 3, 6, 7, 8]
    assert code_places(ofa.OFAConfig(image_bucket_size=42)).shape == (1025,)


@pytest.mark.parametrize(
    ("question", "prompt"),
    [
        ("What is it?", " what is it?"),
        ("...Is this  a black/white photo", " is this a black white photo?"),
        ("T-shirt colour?\n", " t shirt colour?"),
    ],
)
def test_questions_are_asked_as_in_training(question, prompt) -> None:
    assert ofa.vqa_prompt(question) == prompt


def test_long_questions_are_cut() -> None:
    assert ofa.vqa_prompt("why " * 9, words=2) == " why why?"


def test_the_tokenizer_is_bart_s_with_codes_and_bins(folder) -> None:
    rankscope.register()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__name__ == "OFATokenizer"
    base = vocabulary()
    assert len(tokenizer) == len(base) + 9192
    assert tokenizer.convert_tokens_to_ids("<code_0>") == len(base)
    assert tokenizer.convert_tokens_to_ids("<bin_999>") == len(base) + 9191
    ids = tokenizer(ofa.CAPTION_PROMPT)["input_ids"]
    assert ids[0] == 0
    assert ids[-1] == 2
    assert base["Ġwhat"] in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == ofa.CAPTION_PROMPT
    assert tokenizer("<bin_3><code_7>")["input_ids"] == [0, len(base) + 8195, len(base) + 7, 2]


def test_a_saved_tokenizer_is_the_same(folder, tmp_path) -> None:
    rankscope.register()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path)
    again = ofa.OFATokenizer.from_pretrained(tmp_path)
    assert len(again) == len(tokenizer)
    assert again(" what <bin_1> image")["input_ids"] == tokenizer(" what <bin_1> image")["input_ids"]


def test_pixels_are_a_square_from_minus_one_to_one() -> None:
    picture = Image.fromarray(np.array([[[0, 128, 255]] * 3] * 2, dtype=np.uint8))
    out = ofa.OFAImageProcessor(resolution=4)(picture)["patch_images"]
    assert out.shape == (1, 3, 4, 4)
    assert_close(out[0, :, 0, 0], torch.tensor([-1, 2 * 128 / 255 - 1, 1]))
    grey = ofa.OFAImageProcessor(resolution=4)([picture.convert("L"), picture])["patch_images"]
    assert grey.shape == (2, 3, 4, 4)
    with pytest.raises(DataError, match="takes PIL images, not str"):
        ofa.OFAImageProcessor()("a.png")
    with pytest.raises(UsageError, match="torch tensors"):
        ofa.OFAImageProcessor()(picture, return_tensors="np")


def test_the_processor_of_a_published_folder_needs_no_settings(folder, model, tmp_path) -> None:
    rankscope.register()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "OFAProcessor"
    assert processor.image_processor.resolution == 64, "the grid of the tiny model takes no more"
    assert resolution_of(tmp_path) == ofa.OFAImageProcessor().resolution == 480
    processor.image_processor.resolution = PIXELS
    picture = Image.new("RGB", (9, 5), (200, 10, 90))
    out = processor(images=[picture, picture])
    assert set(out) == {"input_ids", "attention_mask", "patch_images"}
    assert out["input_ids"][0].tolist() == processor.tokenizer(ofa.CAPTION_PROMPT)["input_ids"]
    assert model.generate(**out, max_new_tokens=3).shape == (2, 4)
    processor.save_pretrained(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    again = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is type(processor)
    assert again.image_processor.resolution == PIXELS
    with pytest.raises(DataError, match="2 images and 1 prompts"):
        processor(images=[picture, picture], text=" what?")
    with pytest.raises(UsageError, match="needs images, text or both"):
        processor()


def test_what_is_not_ported_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="'resnet9' is unknown"):
        ofa.OFAConfig(resnet_type="resnet9")
    with pytest.raises(CheckpointError, match="published checkpoints share them"):
        ofa.OFAConfig(share_decoder_input_output_embed=False)
    with pytest.raises(UsageError, match="d_model 10 is not a multiple of 4"):
        build(d_model=10)


def test_post_norm_and_plain_norms_are_read_too(tmp_path, asked) -> None:
    """Other settings of the configuration than the published ones load and run."""
    changes = {"normformer": False, "encoder_normalize_before": False, "decoder_normalize_before": False}
    folder = save_published(tmp_path / "plain", **changes, scale_embedding=True, entangle_position_embedding=True)
    model = load_model(folder)
    assert not any("mid_layer_norm" in name or name.endswith("coder.layer_norm.weight") for name in model.state_dict())
    with torch.no_grad():
        assert model(**asked, decoder_input_ids=torch.zeros(2, 3, dtype=torch.long)).logits.isfinite().all()
