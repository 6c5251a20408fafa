"""How the model behaves: padding, batches, caches, gradients, training, options."""

from __future__ import annotations

import pytest
import torch
from tiny_vinvl import checkpointed
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.models.load import load_model

DECODED = torch.tensor([[0, 33, 44, 77], [0, 55, 66, 88]])
EXACT = {"rtol": 0.0, "atol": 1e-5}


def states(model, **inputs):
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True)


def test_one_alone_equals_one_among_many(model, asked) -> None:
    many = states(model, **asked, decoder_input_ids=DECODED)
    alone = states(
        model,
        input_ids=asked["input_ids"][1:, :4],
        patch_images=asked["patch_images"][1:],
        decoder_input_ids=DECODED[1:],
    )
    assert_close(alone.logits[0], many.logits[1], **EXACT)
    for one, of_many in zip(alone.encoder_hidden_states, many.encoder_hidden_states, strict=True):
        assert_close(one[0], of_many[1, : one.shape[1]], **EXACT)


def test_padding_does_not_show_on_either_side_of_the_prompt(model, asked) -> None:
    words = asked["input_ids"][1:, :4]
    image = asked["patch_images"][1:]
    expected = states(model, input_ids=words, patch_images=image, decoder_input_ids=DECODED[1:])
    empty = torch.ones(1, 3, dtype=torch.long)
    for order in ([empty, words], [words, empty]):
        out = states(model, input_ids=torch.cat(order, 1), patch_images=image, decoder_input_ids=DECODED[1:])
        assert_close(out.logits, expected.logits, **EXACT)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_show_on_either_side_of_the_decoder(model, asked, side) -> None:
    expected = states(model, **asked, decoder_input_ids=DECODED)
    empty = torch.ones(2, 2, dtype=torch.long)
    order = [empty, DECODED] if side == "left" else [DECODED, empty]
    real = [torch.zeros_like(empty), torch.ones_like(DECODED)]
    out = states(
        model,
        **asked,
        decoder_input_ids=torch.cat(order, 1),
        decoder_attention_mask=torch.cat(real if side == "left" else real[::-1], 1),
    )
    kept = out.logits[:, 2:] if side == "left" else out.logits[:, :4]
    assert_close(kept, expected.logits, **EXACT)


def test_an_image_that_is_masked_is_not_read(model, asked) -> None:
    masked = states(model, **asked, decoder_input_ids=DECODED, patch_masks=torch.tensor([True, False]))
    whole = states(model, **asked, decoder_input_ids=DECODED)
    text = states(model, input_ids=asked["input_ids"], decoder_input_ids=DECODED)
    assert_close(masked.logits[0], whole.logits[0], **EXACT)
    assert_close(masked.logits[1], text.logits[1], **EXACT)
    assert (whole.logits[1] - text.logits[1]).abs().max() > 1e-3


def test_words_do_not_see_later_words(model, asked) -> None:
    other = DECODED.clone()
    other[:, 2] = 99
    first, second = (states(model, **asked, decoder_input_ids=d).logits for d in (DECODED, other))
    assert_close(first[:, :2], second[:, :2], **EXACT)
    assert (first[:, 2:] - second[:, 2:]).abs().amin(-1).shape == (2, 2)
    assert not torch.allclose(first[:, 3], second[:, 3])


def test_a_cache_changes_nothing(model, asked) -> None:
    whole = states(model, **asked, decoder_input_ids=DECODED).logits
    with torch.no_grad():
        first = model(**asked, decoder_input_ids=DECODED[:, :2], use_cache=True)
        cache = first.past_key_values
        rest = model(**asked, decoder_input_ids=DECODED[:, 2:], past_key_values=cache, use_cache=True)
    assert_close(torch.cat([first.logits, rest.logits], 1), whole, **EXACT)


@pytest.mark.parametrize("beams", [1, 3])
def test_generating_with_and_without_a_cache_is_the_same(model, asked, beams) -> None:
    out = [
        model.generate(**asked, max_new_tokens=7, num_beams=beams, do_sample=False, use_cache=cached)
        for cached in (True, False)
    ]
    assert torch.equal(*out)
    assert len(set(out[0].flatten().tolist())) > 4


def test_greedy_generation_is_step_by_step_forward(model, asked) -> None:
    words = torch.zeros(2, 1, dtype=torch.long)
    for _ in range(6):
        word = states(model, **asked, decoder_input_ids=words).logits[:, -1].argmax(-1)
        words = torch.cat([words, word[:, None]], 1)
    out = model.generate(**asked, max_new_tokens=6, do_sample=False, forced_eos_token_id=None, eos_token_id=9999)
    assert torch.equal(out, words)


def test_one_alone_is_generated_as_among_many(model, asked) -> None:
    many = model.generate(**asked, max_new_tokens=5, num_beams=2, do_sample=False)
    alone = model.generate(
        input_ids=asked["input_ids"][1:, :4],
        patch_images=asked["patch_images"][1:],
        max_new_tokens=5,
        num_beams=2,
        do_sample=False,
    )
    assert torch.equal(alone[0], many[1][: alone.shape[1]])


def test_states_come_from_hooks_and_from_the_output_alike(model, asked) -> None:
    caught = []
    for block in [*model.encoder.layers, *model.decoder.layers]:
        block.register_forward_hook(lambda m, a, out: caught.append(out))
    out = states(model, **asked, decoder_input_ids=DECODED)
    told = [*out.encoder_hidden_states[1:], *out.decoder_hidden_states[1:]]
    assert all(torch.equal(a, b) for a, b in zip(caught, told, strict=True))


def test_attention_weights_are_rows_of_probabilities(model, asked) -> None:
    with torch.no_grad():
        out = model(**asked, decoder_input_ids=DECODED, output_attentions=True)
    shapes = {"encoder_attentions": (15, 15), "decoder_attentions": (4, 4), "cross_attentions": (4, 15)}
    for name, (rows, columns) in shapes.items():
        weights = getattr(out, name)
        assert [tuple(w.shape) for w in weights] == [(2, 4, rows, columns)] * 2
        assert_close(weights[0].sum(-1), torch.ones(2, 4, rows))
    assert out.cross_attentions[0][1, :, :, -2:].max() == 0


IMAGE_GENERATION = (
    "decoder.embed_image_positions",
    "decoder.image_pos_ln",
    "decoder.code_layernorm",
    "decoder.image_rel",
)
"""Weights of the part that is not ported: images as words."""


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_of_reading_and_writing_gets_a_gradient(model, asked, checkpointing) -> None:
    model.train()
    if checkpointing:
        checkpointed(model)
    model(**asked, labels=torch.tensor([[33, 44, 2], [55, 2, -100]])).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # A shift of all keys, or of positions' keys, changes no weight.
    expected = (*IMAGE_GENERATION, "k_proj.bias", "pos_k_linear.bias")
    assert [n for n in silent if not any(part in n for part in expected)] == []


def test_checkpointing_changes_no_gradient(folder, asked) -> None:
    grads = []
    for checkpointing in (False, True):
        model = load_model(folder).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            checkpointed(model)
        model(**asked, labels=torch.tensor([[33, 44, 2], [55, 66, 2]])).loss.backward()
        grads.append(model.encoder.image_proj.weight.grad)
    assert_close(*grads)


def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_words(model, asked) -> None:
    labels = torch.tensor([[33, 44, 2], [55, 2, -100]])
    out = model(**asked, labels=labels)
    shifted = torch.tensor([[0, 33, 44], [0, 55, 2]])
    logs = states(model, **asked, decoder_input_ids=shifted).logits.log_softmax(-1)
    naive = -(logs[0, 0, 33] + logs[0, 1, 44] + logs[0, 2, 2] + logs[1, 0, 55] + logs[1, 1, 2]) / 5
    assert_close(out.loss, naive)


def test_wrong_arguments_are_named(model, asked) -> None:
    with pytest.raises(UsageError, match="takes no argument pixel_values"):
        model(**asked, decoder_input_ids=DECODED, pixel_values=torch.zeros(1))
    with pytest.raises(UsageError, match="give input_ids, the prompt"):
        model(patch_images=asked["patch_images"], decoder_input_ids=DECODED)
    with pytest.raises(UsageError, match="needs its encoder's outputs, and either"):
        model(**asked)
    with pytest.raises(UsageError, match="80 × 64 pixels makes 5 × 4 patches; the grid has 4 × 4"):
        model(asked["input_ids"], torch.zeros(2, 3, 80, 64), decoder_input_ids=DECODED)
    with pytest.raises(UsageError, match=r"mask of shape \(2, 9\) for words \(2, 6\)"):
        model(**asked, attention_mask=torch.ones(2, 9), decoder_input_ids=DECODED)
    with pytest.raises(UsageError, match=r"decoder mask of shape \(2, 9\) for 4 words"):
        model(**asked, decoder_attention_mask=torch.ones(2, 9), decoder_input_ids=DECODED)
    with pytest.raises(UsageError, match="65 words and max_position_embeddings 64"):
        model(torch.ones(1, 65, dtype=torch.long), decoder_input_ids=DECODED[:1])
    with pytest.raises(UsageError, match="65 decoder positions"):
        model(asked["input_ids"], decoder_input_ids=torch.ones(2, 65, dtype=torch.long))
