"""How the model behaves: masks, batches, gradients, training, checkpointing, options."""

from __future__ import annotations

import pytest
import torch
from tiny_vinvl import checkpointed
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.models.load import load_model
from rankscope.models.ported import vinvl
from rankscope.models.ported.vinvl.captioning import CaptioningLoss


def one(scene, row: int, words: list[int], regions: int):
    """One entry of a batch with nothing but its real positions."""
    return {
        "input_ids": scene["input_ids"][row : row + 1, words],
        "segment_ids": scene["segment_ids"][row : row + 1, words],
        "img_feats": scene["img_feats"][row : row + 1, :regions],
    }


def test_one_alone_equals_one_among_many(vqa, scene) -> None:
    """Padding inside the text (the empty slots) needs positions given; there is none in a question's text."""
    model = load_model(vqa)
    scene["input_ids"][1, 4:] = torch.tensor([5, 7, 3, 0, 0, 0, 0])
    scene["attention_mask"][1] = torch.tensor([1] * 7 + [0] * 4 + [1, 1, 1, 0])
    with torch.no_grad():
        many = model(**scene).logits[1]
        alone = model(**one(scene, 1, list(range(7)), 3)).logits[0]
    assert_close(alone, many, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_show_on_either_side(captioning, scene, side) -> None:
    model = load_model(captioning)
    short = one(scene, 0, list(range(7)), 4)
    empty = torch.zeros(1, 3, dtype=torch.long)
    order = (lambda pad, x: [pad, x]) if side == "left" else (lambda pad, x: [x, pad])
    text = torch.cat(order(empty, torch.ones_like(short["input_ids"])), dim=1)
    places = (text.cumsum(1) - 1).clamp(min=0)
    padded = {
        "input_ids": torch.cat(order(empty, short["input_ids"]), dim=1),
        "segment_ids": torch.cat(order(empty, short["segment_ids"]), dim=1),
        "img_feats": short["img_feats"],
        "attention_mask": torch.cat([text, torch.ones(1, 4, dtype=torch.long)], dim=1),
        "positions": places,
    }
    with torch.no_grad():
        expected = model(**short, output_hidden_states=True).hidden_states
        states = model(**padded, output_hidden_states=True).hidden_states
    real = padded["attention_mask"][0].bool()
    for one_layer, padded_layer in zip(expected, states, strict=True):
        assert_close(padded_layer[0, real], one_layer[0], rtol=0, atol=1e-5)


def test_words_do_not_see_later_words_and_tags_do_not_see_words(captioning, scene) -> None:
    model = load_model(captioning)
    other = {**scene, "input_ids": scene["input_ids"].clone()}
    other["input_ids"][0, 4] = 12
    with torch.no_grad():
        first, second = model(**scene).logits[0], model(**other).logits[0]
    same = (first - second).abs().amax(-1) < 1e-6
    assert same.tolist() == [True] * 4 + [False] * 3 + [same[7].item()] + [True] * 3


def test_states_come_from_hooks_and_from_the_output_alike(captioning, scene) -> None:
    model = load_model(captioning)
    caught = []
    handles = [b.register_forward_hook(lambda m, a, out: caught.append(out)) for b in model.bert.encoder.layer]
    with torch.no_grad():
        states = model(**scene, output_hidden_states=True).hidden_states
    assert len(handles) == 3
    assert all(torch.equal(a, b) for a, b in zip(caught, states[1:], strict=True))


def test_attention_weights_are_rows_of_probabilities(vqa, scene) -> None:
    with torch.no_grad():
        weights = load_model(vqa)(**scene, output_attentions=True).attentions
    assert [tuple(w.shape) for w in weights] == [(2, 4, 15, 15)] * 3
    assert_close(weights[0].sum(-1), torch.ones(2, 4, 15))
    assert weights[0][0, :, :, 7].max() == 0


def labelled(scene):
    labels = torch.full_like(scene["input_ids"], -100)
    labels[:, 2] = torch.tensor([6, 7])
    return labels


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_of_captioning_gets_a_gradient(captioning, scene, checkpointing) -> None:
    model = load_model(captioning).train()
    if checkpointing:
        checkpointed(model)
    model(**scene, labels=labelled(scene)).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    silent = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert {n for n in missing if "key.bias" not in n} == silent


def test_checkpointing_changes_no_gradient(vqa, scene) -> None:
    grads = []
    for checkpointing in (False, True):
        model = load_model(vqa).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            checkpointed(model)
        model(**scene, labels=torch.full((2, 5), 0.3)).loss.backward()
        grads.append(model.bert.img_embedding.weight.grad)
    assert_close(*grads)


def test_training_drops_and_evaluation_does_not(captioning, scene) -> None:
    model = load_model(captioning)
    assert torch.equal(model(**scene).logits, model(**scene).logits)
    model.train()
    assert not torch.equal(model(**scene).logits, model(**scene).logits)


def test_the_captioning_loss_is_its_definition() -> None:
    loss = CaptioningLoss(vinvl.VinVLConfig(label_smoothing=0.1, drop_worst_ratio=0.5))
    logits, words = torch.randn(6, 9), torch.randint(9, (6,))
    each = []
    for row, word in zip(logits.double(), words.tolist(), strict=True):
        p = row.softmax(0)
        q = torch.full((9,), 0.1 / 8, dtype=torch.float64)
        q[word] = 0.9
        each.append(float((q * (q / p).log()).sum()))
    assert_close(float(loss.eval()(logits, words)), sum(each) / 6, rtol=1e-5, atol=1e-6)
    assert_close(float(loss.train()(logits, words)), sum(sorted(each)[:3]) / 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["bce", "kl", "xe"])
def test_the_losses_of_answers_are_their_definitions(vqa, kind) -> None:
    model = load_model(vqa)
    model.config.loss_type = kind
    logits = torch.randn(3, 5, dtype=torch.float64)
    labels = torch.rand(3, 5, dtype=torch.float64).softmax(-1) if kind != "xe" else torch.tensor([0, 4, 2])
    p = logits.sigmoid() if kind == "bce" else logits.softmax(-1)
    if kind == "bce":
        naive = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum(1).mean()
    elif kind == "kl":
        naive = (labels * (labels / p).log()).sum(1).mean()
    else:
        naive = -p[range(3), labels].log().mean()
    assert_close(model.loss(logits, labels), naive)


def test_wrong_arguments_are_named(captioning, vqa, scene) -> None:
    model, answers = load_model(captioning), load_model(vqa)
    with pytest.raises(UsageError, match="takes no argument position_ids"):
        model(**scene, position_ids=torch.zeros(2, 11))
    with pytest.raises(UsageError, match="does not cover the 15 words, tags and regions"):
        model(**{**scene, "attention_mask": torch.ones(2, 11)})
    with pytest.raises(UsageError, match=r"shape \(2, 11\) does not fit 15 positions after 0 earlier ones"):
        answers(**{**scene, "attention_mask": torch.ones(2, 11)})
    with pytest.raises(UsageError, match="no position has a label"):
        model(**scene, labels=torch.full_like(scene["input_ids"], -100))
    with pytest.raises(UsageError, match=r"'bce' needs labels of shape \(2, 5\), got \(2,\)"):
        answers(**scene, labels=torch.zeros(2))
    with pytest.raises(UsageError, match="needs the two-dimensional mask"):
        model(inputs_embeds=torch.zeros(1, 2, 24))
    with pytest.raises(UsageError, match="hidden_size 10 is not a multiple of num_attention_heads 4"):
        vinvl.VinVLModel(vinvl.VinVLConfig(hidden_size=10, num_attention_heads=4, vocab_size=5))
