"""An adapter lands on the body that it was made on, whatever head stood on it, and so does the comparison of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers as tf
from torch import Tensor, nn
from torch.testing import assert_close

import rankscope
from rankscope.errors import CheckpointError
from rankscope.models.describe import describe
from rankscope.models.load import load_model
from rankscope.models.notes import notes_of
from rankscope.models.stacks import stacks

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other

IDS = torch.randint(10, 60, (2, 7), generator=torch.Generator().manual_seed(3))
Folder = Callable[..., Path]
HEADS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a classifier": (tf.AutoModelForSequenceClassification, {"task_type": "SEQ_CLS"}, "score|classifier"),
    "a reward": (
        tf.AutoModelForSequenceClassification,
        {"modules_to_save": ["score", "classifier"]},
        "score|classifier",
    ),
    "a tagger": (tf.AutoModelForTokenClassification, {"task_type": "TOKEN_CLS"}, "score|classifier"),
    "answers": (tf.AutoModelForQuestionAnswering, {"task_type": "QUESTION_ANS"}, "qa_outputs"),
    "no head": (tf.AutoModel, {"task_type": "FEATURE_EXTRACTION"}, ""),
    "no head, no task": (tf.AutoModel, {}, ""),
}
TARGETS: dict[str, Any] = {"llama": ["q_proj", "v_proj"], "bert": ["query", "dense"]}


def bases(folder: Folder, root: Path, family: str) -> dict[str, Path]:
    """A model with the head of a language model, and its body saved without one."""
    auto = tf.AutoModelForMaskedLM if family == "bert" else tf.AutoModelForCausalLM
    whole = tiny.spread(auto.from_config(tf.AutoConfig.from_pretrained(folder(family))), 0)
    whole.save_pretrained(root / "head")
    body = tf.AutoModel.from_config(whole.config)  # with BERT's pooler, which the model of its language lacks
    body.load_state_dict(whole.base_model.state_dict(), strict=False)
    body.save_pretrained(root / "body")
    return {"head": root / "head", "body": root / "body"}


def tuned(auto: Any, base: Path, out: Path, targets: Any, *, seed: int = 1, **options: Any) -> nn.Module:
    """A LoRA by plain PEFT, made with a class of the base."""
    config = peft.LoraConfig(r=2, target_modules=targets, **options)
    return tiny.tuned_by_peft(auto.from_pretrained(base), config, base, out, seed=seed)


@torch.inference_mode()
def blocks(model: nn.Module) -> list[Tensor]:
    """What every block of the only stack gives."""
    found: list[Tensor] = []
    (stack,) = stacks(model).values()
    hooks = [
        b.register_forward_hook(lambda m, a, o: found.append(o[0] if isinstance(o, tuple) else o)) for b in stack.blocks
    ]
    model(input_ids=IDS)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(("family", "where"), [("llama", "head"), ("bert", "head"), ("bert", "body")])
def test_a_lora_made_under_any_head_lands_on_the_body(folder: Folder, tmp_path: Path, family: str, where: str) -> None:
    swept, base = 0, bases(folder, tmp_path, family)[where]
    # Llama's question answerer calls its body by another name, into which the weights of a causal model do not go.
    heads = {name: h for name, h in HEADS.items() if (family, where, name) != ("llama", "head", "answers")}
    for name, (auto, options, head) in heads.items():
        out = tmp_path / name
        want = blocks(tuned(auto, base, out, TARGETS[family], **options))
        model = load_model(out)
        for got, true in zip(blocks(model), want, strict=True):
            assert_close(got, true, rtol=1e-5, atol=2e-5)
        notes = " ".join(notes_of(model))
        if head and options:
            assert "another head" in notes, (where, name)
            assert any(word in notes for word in head.split("|")), (where, name, notes)
        swept += 1
    assert swept == (5 if family == "llama" else 6)


def test_an_adapter_that_was_made_on_random_weights_is_refused(folder: Folder, tmp_path: Path) -> None:
    base = bases(folder, tmp_path, "llama")
    for where in base:
        tuned(tf.AutoModelForQuestionAnswering, base[where], tmp_path / f"on-{where}", ["q_proj"])
    load_model(tmp_path / "on-body")
    with pytest.raises(CheckpointError, match="calls its body 'transformer', and LlamaForCausalLM calls it 'model'"):
        load_model(tmp_path / "on-head")


def test_a_pattern_of_targets_means_the_modules_that_it_meant(folder: Folder, tmp_path: Path) -> None:
    for i, (auto, pattern) in enumerate(
        [
            (tf.AutoModel, r"layers\.[01]\.self_attn\.q_proj"),
            (tf.AutoModelForTokenClassification, r"model\.layers\.1\..*v_proj"),
        ]
    ):
        want = blocks(tuned(auto, folder("llama"), tmp_path / str(i), pattern))
        for got, true in zip(blocks(load_model(tmp_path / str(i))), want, strict=True):
            assert_close(got, true, rtol=1e-5, atol=2e-5)


def test_a_list_composes_adapters_of_two_heads(folder: Folder, tmp_path: Path) -> None:
    options = {"task_type": "SEQ_CLS", "modules_to_save": ["embed_tokens"]}
    tuned(tf.AutoModelForSequenceClassification, folder("llama"), tmp_path / "one", ["q_proj"], **options)
    tuned(tf.AutoModelForCausalLM, folder("llama"), tmp_path / "two", ["o_proj"], trainable_token_indices=[5, 6])
    tuned(tf.AutoModelForCausalLM, folder("llama"), tmp_path / "three", ["o_proj"], modules_to_save=["lm_head"], seed=2)
    for second in ("two", "three"):
        first = tf.AutoModelForSequenceClassification.from_pretrained(folder("llama"))
        first = peft.PeftModel.from_pretrained(first, tmp_path / "one").merge_and_unload()
        plain = tf.AutoModelForCausalLM.from_pretrained(folder("llama"))
        plain.model = first.model
        want = blocks(peft.PeftModel.from_pretrained(plain, tmp_path / second).eval())
        for got, true in zip(
            blocks(load_model([folder("llama"), tmp_path / "one", tmp_path / second])), want, strict=True
        ):
            assert_close(got, true, rtol=1e-5, atol=2e-5)


def test_inspect_and_weights_read_an_adapter_of_another_head(folder: Folder, tmp_path: Path) -> None:
    base = bases(folder, tmp_path, "bert")["head"]
    tuned(tf.AutoModelForSequenceClassification, base, tmp_path / "a", ["query"], task_type="SEQ_CLS")
    found = describe(tmp_path / "a")
    assert found.lands
    assert "classifier" in " ".join(found.notes)
    weighed = rankscope.weigh(tmp_path / "a", draws=0)
    assert all(r.module.startswith("bert.encoder.layer.") and r.module.endswith("query") for r in weighed.records)
    assert len(weighed.records) == tf.AutoConfig.from_pretrained(folder("bert")).num_hidden_layers
    assert any("another head" in text for text in weighed.notes)


def test_a_whole_model_is_weighed_against_a_base_of_another_head(folder: Folder, tmp_path: Path) -> None:
    base = bases(folder, tmp_path, "bert")["head"]
    model = tf.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.query.weight[3] += 1
        model.bert.encoder.layer[0].attention.self.key.bias += 1
    model.save_pretrained(tmp_path / "tuned")
    found = rankscope.weigh(tmp_path / "tuned", base_model=base, draws=0)
    (record,) = found.records
    assert record.module == "bert.encoder.layer.1.attention.self.query"
    assert record.ranks.rank == pytest.approx(1)
    told = " ".join(found.notes)
    assert "classifier" in told
    assert "layer.0.attention.self.key.bias" in told


def test_a_matrix_that_the_base_shares_is_weighed_under_both_names(folder: Folder, tmp_path: Path) -> None:
    model = tf.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    assert model.config.tie_word_embeddings
    tied = tf.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.lm_head.weight[3] += 1
        tied.lm_head.weight[3] += 1
    for name, tuned_model, want in (("untied", model, "lm_head"), ("tied", tied, "transformer.wte")):
        tuned_model.save_pretrained(tmp_path / name)
        (record,) = rankscope.weigh([folder("gpt2"), tmp_path / name], draws=0).records
        assert (record.module, record.ranks.rank) == (want, pytest.approx(1))
