"""Every kind of adapter in PEFT, made small by PEFT: collected and weighed as plain PEFT has it, or refused by name.

A quick sample runs always, all of them with ``--whole``. The reference takes nothing from rankscope: the model that PEFT tuned,
still in memory, reads one sample at a time, and what PEFT merges into the weights says what changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rankscope
from rankscope.errors import CheckpointError, NotComparable

pytestmark = pytest.mark.filterwarnings("ignore")

Folder = Callable[..., Path]
LM: dict[str, Any] = {"task_type": "CAUSAL_LM"}
ON: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], **LM}
TEXTS = tiny.SENTENCES[:5]
WORDS = sorted({*tiny.tokenizer("<s> $A", **tiny.LLAMA)(TEXTS[0])["input_ids"]})
KINDS: dict[str, Callable[[], peft.PeftConfig]] = {
    "ADALORA": lambda: peft.AdaLoraConfig(init_r=3, target_r=2, total_step=9, **ON),
    "ADAMSS": lambda: peft.AdamssConfig(r=8, num_subspaces=2, subspace_rank=1, **ON),
    "ADAPTION_PROMPT": lambda: peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=2, **LM),
    "BEFT": lambda: peft.BeftConfig(**ON),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, **ON),
    "C3A": lambda: peft.C3AConfig(block_size=4, **ON),
    "CARTRIDGE": lambda: peft.CartridgeConfig(num_virtual_tokens=3, **LM),
    "CPT": lambda: peft.CPTConfig(cpt_token_ids=[5, 6], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2], **LM),
    "DEFT": lambda: peft.DeftConfig(r=2, **ON),
    "DELORA": lambda: peft.DeloraConfig(r=2, **ON),
    "FOURIERFT": lambda: peft.FourierFTConfig(n_frequency=20, **ON),
    "FROD": lambda: peft.FrodConfig(progressbar=False, **ON),
    "GLORA": lambda: peft.GloraConfig(r=2, **ON),
    "GRALORA": lambda: peft.GraloraConfig(r=4, gralora_k=2, **ON),
    "HIRA": lambda: peft.HiraConfig(r=2, **ON),
    "HRA": lambda: peft.HRAConfig(r=2, **ON),
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **LM),
    "LILY": lambda: peft.LilyConfig(r=2, **ON),
    "LN_TUNING": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"], **LM),
    "LOHA": lambda: peft.LoHaConfig(r=2, **ON),
    "LOKR": lambda: peft.LoKrConfig(r=2, **ON),
    "LORA": lambda: peft.LoraConfig(r=2, **ON),
    "MISS": lambda: peft.MissConfig(r=4, **ON),
    "OFT": lambda: peft.OFTConfig(oft_block_size=4, r=0, **ON),
    "OSF": lambda: peft.OSFConfig(effective_rank=4, **ON),
    "PEANUT": lambda: peft.PeanutConfig(r=2, **ON),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, **LM),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, **LM),
    "PSOFT": lambda: peft.PsoftConfig(r=4, **ON),
    "PVERA": lambda: peft.PveraConfig(r=4, **ON),
    "P_TUNING": lambda: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, **LM),
    "RANDLORA": lambda: peft.RandLoraConfig(r=4, randlora_alpha=4, **ON),
    "ROAD": lambda: peft.RoadConfig(group_size=4, **ON),
    "SHIRA": lambda: peft.ShiraConfig(r=2, **ON),
    "SUPERTUNING": lambda: peft.SupertuningConfig(sparsity=0.9, **ON),
    "TINYLORA": lambda: peft.TinyLoraConfig(r=2, u=8, **ON),
    "TRAINABLE_TOKENS": lambda: peft.TrainableTokensConfig(token_indices=WORDS, target_modules=["embed_tokens"], **LM),
    "UNILORA": lambda: peft.UniLoraConfig(r=2, theta_d_length=32, **ON),
    "VBLORA": lambda: peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=4, **ON),
    "VERA": lambda: peft.VeraConfig(r=4, **ON),
    "WAVEFT": lambda: peft.WaveFTConfig(n_frequency=20, **ON),
}
REFUSED: dict[str, tuple[Callable[[], peft.PeftConfig], str]] = {
    "MULTITASK_PROMPT_TUNING": (
        lambda: peft.MultitaskPromptTuningConfig(num_virtual_tokens=3, num_tasks=2, **LM),
        "needs a task for every sample",
    ),
    "POLY": (lambda: peft.PolyConfig(r=2, n_tasks=2, n_skills=2, **ON), "needs a task for every sample"),
    "SHADOW": (lambda: peft.ShadowConfig(r=2, **LM), "passes the states of a second model between the blocks"),
    "XLORA": (lambda: peft.XLoraConfig(hidden_size=32, adapters={}, **LM), "mixes adapters of other folders"),
}
"""Kinds that are refused, and the reason that is given."""
ROWS = frozenset({"CARTRIDGE", "CPT", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"})
"""Kinds that learn rows and leave the weights as they are."""
NO_MATRIX = frozenset({"ADAPTION_PROMPT", "BEFT", "LILY", "LN_TUNING"})
"""Kinds that change no matrix of the base, or whose change PEFT cannot merge into one: what it is gets named."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "what-is-read.md"
QUICK = frozenset({"ADALORA", "CARTRIDGE", "IA3", "LILY", "OSF", "PREFIX_TUNING", "TRAINABLE_TOKENS", "VERA"})
"""Those that always run: one of each way in which kinds differ."""
CASES = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.whole) for kind in KINDS]


def test_every_kind_is_swept_or_refused() -> None:
    assert {*KINDS, *REFUSED} == {kind.value for kind in peft.PeftType} - {"BOTTLENECK"}, "which rankscope adds to PEFT"
    assert (len(KINDS), len(REFUSED)) == (41, 4)
    assert "Of PEFT's 45 kinds of adapter 41 are read" in PAGE.read_text()
    assert set(KINDS) >= QUICK


def tuned(base: Path, config: peft.PeftConfig, out: Path, *, on: nn.Module | None = None) -> Any:
    """A base, or what became ``on`` it, tuned by PEFT and saved."""
    made = tiny.tuned_by_peft(on or tf.AutoModelForCausalLM.from_pretrained(base), config, base, out)
    torch.manual_seed(2)  # whatever is drawn when it is opened is drawn otherwise
    return made


@torch.inference_mode()
def states(model: nn.Module, base: Path) -> list[Tensor]:
    """What each block gives for each text alone, without the rows of a prompt: ``(n, d)`` in float64 for every block."""
    tok, inner = tf.AutoTokenizer.from_pretrained(base), getattr(model, "get_base_model", lambda: model)()
    found: list[list[Tensor]] = [[] for _ in inner.model.layers]

    def keep(i: int) -> Callable[..., None]:
        return lambda _, inputs, output: found[i].append(
            (output[0] if isinstance(output, tuple) else output)[0].double()
        )

    hooks = [block.register_forward_hook(keep(i)) for i, block in enumerate(inner.model.layers)]
    lengths = []
    for text in TEXTS:
        ids = tok(text, return_tensors="pt")["input_ids"]
        lengths.append(ids.shape[1])
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    for hook in hooks:
        hook.remove()
    return [torch.cat([rows[-n:] for rows, n in zip(block, lengths, strict=True)]) for block in found]


def changed(base: Path, out: Path) -> dict[str, Tensor]:
    """The singular values of what PEFT's merged model differs by from the base, for every matrix that does."""
    before = dict(tf.AutoModelForCausalLM.from_pretrained(base).named_parameters())
    whole = peft.PeftModel.from_pretrained(tf.AutoModelForCausalLM.from_pretrained(base), out).merge_and_unload()
    changes = {n: (p - before[n]).detach().double() for n, p in whole.named_parameters() if p.ndim == 2}
    return {
        n.removesuffix(".weight"): torch.linalg.svdvals(c)
        for n, c in changes.items()
        if c.norm() > 1e-6 * before[n].norm()
    }


def near(found: Tensor, want: Tensor) -> bool:
    return bool((found - want).norm() <= 2e-5 * want.norm())


@pytest.mark.parametrize("kind", CASES)
def test_a_kind_is_collected_and_weighed_as_peft_has_it(folder: Folder, tmp_path: Path, kind: str) -> None:
    base, out, data = folder("llama"), tmp_path / "a", tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(TEXTS)))
    want = states(tuned(base, KINDS[kind](), out), base)
    before = states(tf.AutoModelForCausalLM.from_pretrained(base).eval(), base)
    assert not near(want[-1], before[-1]), "the kind does something"
    run = rankscope.collect(out, data, rows="tokens", keep_special=True, out=tmp_path / "run.pt")
    for i, block in enumerate(want):
        assert near(run.features(f"decoder.{i}").double(), block), i
    if kind in NO_MATRIX:
        with pytest.raises(NotComparable, match=f"it is {kind.lower()}; not weighed: "):
            rankscope.weigh(out, draws=0)
        return
    found = rankscope.weigh(out, draws=0).spectra
    if kind in ROWS:
        rows = load_file(out / "adapter_model.safetensors")["prompt_embeddings"].double()
        # However the rows are laid out, their squares sum to those of all singular values.
        assert near(torch.cat(list(found.values())).norm(), rows.norm())
        return
    spectra = changed(base, out)
    assert found.keys() == spectra.keys()
    for name, values in spectra.items():  # a product of factors has no more values than its rank
        assert near(nn.functional.pad(found[name].cpu(), (0, len(values) - len(found[name]))), values), name


def beside(base: Path, one: Path, two: Path) -> nn.Module | None:
    """Two adapters in one base, neither merged, as PEFT injects them; None if it cannot."""
    model = tf.AutoModelForCausalLM.from_pretrained(base)
    try:
        for name, folder in (("one", one), ("two", two)):
            peft.inject_adapter_in_model(peft.PeftConfig.from_pretrained(folder), model, adapter_name=name)
            tensors = {k.removeprefix("base_model.model."): t for k, t in peft.load_peft_weights(str(folder)).items()}
            assert not peft.set_peft_model_state_dict(model, tensors, name).unexpected_keys
        for module in model.modules():
            if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
                module.set_adapter(
                    [n for n in ("one", "two") if any(n in getattr(module, f) for f in module.adapter_layer_names)]
                )
    except (ValueError, TypeError, AttributeError, KeyError, AssertionError):
        return None
    return model.eval()


@pytest.mark.parametrize("kind", CASES)
def test_a_second_stage_is_that_of_the_merged_model(folder: Folder, tmp_path: Path, kind: str) -> None:
    base, one, two, data = folder("llama"), tmp_path / "one", tmp_path / "two", tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(TEXTS)))
    tuned(base, KINDS["LORA"](), one)
    merged = peft.PeftModel.from_pretrained(tf.AutoModelForCausalLM.from_pretrained(base), one).merge_and_unload()
    want = states(tuned(base, KINDS[kind](), two, on=merged), base)
    run = rankscope.collect([base, one, two], data, rows="tokens", keep_special=True, out=tmp_path / "run.pt")
    for i, block in enumerate(want):
        assert near(run.features(f"decoder.{i}").double(), block), i
    unmerged = beside(base, one, two)
    if unmerged is not None and not near(states(unmerged, base)[-1], want[-1]):
        assert any("taken as trained on the base merged with" in note for note in run.manifest.notes)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_that_is_not_read_is_refused_by_name(folder: Folder, tmp_path: Path, kind: str) -> None:
    config, reason = REFUSED[kind]
    made = config()
    made.base_model_name_or_path = str(folder("llama"))
    if kind == "XLORA":  # PEFT makes it of adapters in other folders
        made.save_pretrained(tmp_path / "a")
        save_file({"scale": torch.ones(1)}, tmp_path / "a/adapter_model.safetensors", metadata={"format": "pt"})
    else:
        tuned(folder("llama"), made, tmp_path / "a")
    with pytest.raises(CheckpointError, match=f"of the kind '{kind.lower()}', which {reason}"):
        rankscope.load_model(tmp_path / "a")
