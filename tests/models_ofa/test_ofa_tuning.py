"""PEFT on OFA: LoRA, IA³ and the decoder's prefix, live in forward and in generate."""

from __future__ import annotations

import peft
import pytest
import torch
from tiny_vinvl import checkpointed
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.models.load import load_model
from rankscope.models.tunings.prefix_live import attach_prefix, detach_prefix, new_prefix

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
"""PEFT asks transformers by a name that transformers is about to drop."""

DECODED = torch.tensor([[0, 33, 44, 77], [0, 55, 66, 88]])


def config(method: str) -> peft.PeftConfig:
    task = "SEQ_2_SEQ_LM"
    if method == "lora":
        return peft.LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], task_type=task)
    if method == "ia3":
        return peft.IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"], task_type=task)
    return peft.PrefixTuningConfig(num_virtual_tokens=3, task_type=task)


def tuned(model, method: str):
    wrapped = peft.get_peft_model(model, config(method))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora" in name or "ia3" in name or "prompt" in name:
                parameter.add_(torch.randn_like(parameter) * 0.5)
    return wrapped.eval()


@pytest.mark.parametrize("method", ["lora", "ia3", "prefix"])
def test_a_tuning_changes_scores_trains_and_reloads(folder, model, asked, tmp_path, method) -> None:
    with torch.no_grad():
        before = model(**asked, decoder_input_ids=DECODED).logits
    wrapped = tuned(model, method)
    out = wrapped(**asked, decoder_input_ids=DECODED)
    assert (out.logits - before).abs().max() > 1e-2
    out.logits.square().sum().backward()
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None for p in trained)
    wrapped.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(load_model(folder), tmp_path).eval()
    with torch.no_grad():
        assert_close(again(**asked, decoder_input_ids=DECODED).logits, out.logits.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_what_generate_writes_is_what_forward_says(model, asked, method) -> None:
    options = {"max_new_tokens": 6, "do_sample": False, "forced_eos_token_id": None, "eos_token_id": 9999}
    plain = model.generate(**asked, **options)
    wrapped = tuned(model, method)
    words = torch.zeros(2, 1, dtype=torch.long)
    for _ in range(6):
        with torch.no_grad():
            word = wrapped(**asked, decoder_input_ids=words).logits[:, -1].argmax(-1)
        words = torch.cat([words, word[:, None]], 1)
    assert torch.equal(wrapped.generate(**asked, **options), words)
    assert not torch.equal(words, plain)
    assert wrapped.generate(**asked, **{**options, "num_beams": 3}).shape == (2, 7)


def test_a_mask_and_a_prefix_go_together(model, asked) -> None:
    wrapped = tuned(model, "prefix")
    with torch.no_grad():
        plain = wrapped(**asked, decoder_input_ids=DECODED).logits
        masked = wrapped(**asked, decoder_input_ids=DECODED, decoder_attention_mask=torch.ones(2, 4)).logits
    assert_close(plain, masked)


def test_rows_stay_those_of_the_text_under_a_prefix(model, asked) -> None:
    with torch.no_grad():
        out = tuned(model, "prefix")(**asked, decoder_input_ids=DECODED, output_hidden_states=True)
    assert out.decoder_hidden_states[1].shape == (2, 4, 16)
    assert out.encoder_hidden_states[1].shape == (2, 15, 16)


def test_a_prefix_with_gradient_checkpointing_is_refused(model, asked) -> None:
    with torch.no_grad():
        cache = model(**asked, decoder_input_ids=DECODED, use_cache=True).past_key_values
    checkpointed(model.train())
    with pytest.raises(UsageError, match="append to a prefix or cache twice"):
        model(**asked, decoder_input_ids=DECODED, past_key_values=cache)


@pytest.mark.parametrize("stacks_in", [["encoder"], ["decoder"], ["encoder", "decoder"]])
def test_rankscope_s_prefix_is_live_in_either_stack(model, asked, stacks_in) -> None:
    """Also in the encoder, which PEFT's prefix never reaches."""
    options = {"max_new_tokens": 4, "do_sample": False, "forced_eos_token_id": None, "eos_token_id": 9999}
    with torch.no_grad():
        before = model(**asked, decoder_input_ids=DECODED).logits
    prefix = attach_prefix(model, new_prefix(model, rows=3, stacks_in=stacks_in)).eval()
    out = model(**asked, decoder_input_ids=DECODED).logits
    assert (out - before).abs().max() > 1e-2
    out.square().sum().backward()
    assert all(p.grad is not None for p in prefix.parameters())
    words = torch.zeros(2, 1, dtype=torch.long)
    for _ in range(4):
        with torch.no_grad():
            word = model(**asked, decoder_input_ids=words).logits[:, -1].argmax(-1)
        words = torch.cat([words, word[:, None]], 1)
    assert torch.equal(model.generate(**asked, **options), words)
    detach_prefix(model)
    with torch.no_grad():
        assert torch.equal(model(**asked, decoder_input_ids=DECODED).logits, before)
