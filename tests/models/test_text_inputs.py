"""Texts as a model was trained to read them: its shift, its unknown words, its positions, its vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.mbart.modeling_mbart import shift_tokens_right

import rankscope
from rankscope.data.probes import Example
from rankscope.errors import CheckpointError, DataError
from rankscope.features import ROLES
from rankscope.models.inputs.reader import Reader, inputs_of, reader
from rankscope.models.load import load_model, read_config

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def words(*known: str, **specials: str) -> Any:
    """A tokenizer of whole words, framed as BERT's."""
    vocabulary = {t: i for i, t in enumerate([*tiny.BERT.values(), *known])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, **{**tiny.BERT, **specials})


def read_by(model: Any, tok: Any) -> Reader:
    return Reader(model, inputs_of(model, tok))


def roles(made: Any, stack: str) -> list[str]:
    return [ROLES[i] for i in made.roles[stack].tolist()]


@pytest.mark.parametrize("start", ["ro_RO", None])
def test_mbart_reads_its_own_shift(start: str | None) -> None:
    tok = tiny.tokenizer("$A </s> ro_RO", extra=("ro_RO",), **tiny.BART)
    config = tf.MBartConfig(
        vocab_size=len(tok), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, pad_token_id=tok.pad_token_id,
        decoder_start_token_id=None if start is None else tok.convert_tokens_to_ids(start),
    )  # fmt: skip
    made = read_by(tf.MBartForConditionalGeneration(config), tok).encode(
        Example("x", "five", None, ("nothing at all",))
    )
    labels = tok(text_target="nothing at all", return_tensors="pt")["input_ids"]
    assert torch.equal(made.inputs["decoder_input_ids"], shift_tokens_right(labels, tok.pad_token_id)[0])
    count = labels.shape[1] - 2
    assert roles(made, "decoder") == ["special", *["answer"] * count, "special"]


def test_an_unknown_word_is_a_word() -> None:
    tok = words("three", "dogs")
    made = read_by(tf.BertModel(tf.BertConfig(vocab_size=len(tok), **SMALL)), tok).encode(Example("x", "three cats"))
    assert roles(made, "encoder") == ["special", "text", "text", "special"]
    other = words("three", "dogs", sep_token="[UNK]")
    made = read_by(tf.BertModel(tf.BertConfig(vocab_size=len(tok), **SMALL)), other).encode(Example("x", "three cats"))
    assert roles(made, "encoder") == ["special", "text", "special", "text"]


def test_a_sample_of_special_tokens_only_is_named(folder: Callable[..., Path]) -> None:
    model = load_model(folder("gpt2"))
    with pytest.raises(DataError, match=r"sample 'x' has nothing but special tokens.*none of its words"):
        reader(model, folder("gpt2")).encode(Example("x", "", None, ("<|endoftext|>",)))


@pytest.mark.parametrize(("kind", "room"), [("Roberta", 32), ("Bert", 34)])
def test_positions_before_the_texts_are_none_of_its_own(kind: str, room: int) -> None:
    tok = tiny.tokenizer("<s> $A </s>", **tiny.BART)
    config = getattr(tf, f"{kind}Config")(
        vocab_size=len(tok), max_position_embeddings=34, pad_token_id=tok.pad_token_id, **SMALL
    )
    model = getattr(tf, f"{kind}Model")(config).eval()
    read = read_by(model, tok)
    fits = next("z" * k for k in range(1, 99) if len(tok("z" * k)["input_ids"]) == room)
    with torch.inference_mode():
        model(**read.read([Example("fits", fits)]).inputs)
    with pytest.raises(DataError, match=rf"takes {room + 1} positions in encoder, and the model has {room}"):
        read.encode(Example("long", fits + "z"))


def test_a_token_without_an_embedding_is_named(folder: Callable[..., Path], tmp_path: Path) -> None:
    larger = Path(shutil.copytree(folder("llama"), tmp_path / "larger"))
    tok = tiny.open_processor(larger)
    tok.add_tokens(["digitsdigits"])
    tok.save_pretrained(larger)
    with pytest.raises(CheckpointError, match=r"'digitsdigits'\), and the model embeds \d+: the tokenizer is another"):
        reader(load_model(larger), larger).encode(Example("x", "two digitsdigits"))


def test_outputs_have_names_whatever_the_configuration_says(folder: Callable[..., Path], tmp_path: Path) -> None:
    unnamed = Path(shutil.copytree(folder("clip"), tmp_path / "unnamed"))
    told = json.loads((unnamed / "config.json").read_text()) | {"return_dict": False}
    told["text_config"]["return_dict"] = False
    (unnamed / "config.json").write_text(json.dumps(told))
    config = read_config(unnamed)
    assert (config.return_dict, config.text_config.return_dict) == (True, True)


def test_texts_are_cut_where_asked_for_and_the_manifest_says_so(folder: Callable[..., Path], tmp_path: Path) -> None:
    base, data = folder("bert"), tmp_path / "d.jsonl"
    texts = ["five " * 3, "five " * 90, "five " * 200]
    data.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(texts)))
    with pytest.raises(DataError, match=r"takes \d+ positions .* or cut all texts to a length \(--max-length"):
        rankscope.collect(base, data, out=tmp_path / "r.pt")
    run = rankscope.collect(base, data, rows="tokens", keep_special=True, max_length=20, out=tmp_path / "r.pt")
    tok = tf.AutoTokenizer.from_pretrained(base)
    want = [tok(text, truncation=True, max_length=20)["input_ids"] for text in texts]
    assert [sum(s == str(i) for s in run.rows.sample_ids) for i in range(3)] == [len(ids) for ids in want]
    model = tf.AutoModel.from_pretrained(base).eval()
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0] for ids in want]
    torch.testing.assert_close(run.features("encoder.0"), torch.cat(states), rtol=1e-5, atol=2e-5)
    assert run.manifest.reading["max_length"] == 20
    assert "2 of 3 texts are cut to 20 tokens (max_length)" in run.manifest.notes


def test_an_answer_that_is_cut_keeps_the_rows_that_are_left(folder: Callable[..., Path], tmp_path: Path) -> None:
    base, data = folder("llama"), tmp_path / "d.jsonl"
    data.write_text(
        '{"id": "a", "text": "five", "target": "'
        + "digits " * 20
        + '"}\n{"id": "b", "text": "five", "target": "two"}\n'
    )
    whole = rankscope.collect(base, data, rows="answer", sites="decoder.0", out=tmp_path / "w.pt")
    cut = rankscope.collect(base, data, rows="answer", sites="decoder.0", max_length=12, out=tmp_path / "c.pt")
    text = rankscope.collect(base, data, rows="text", sites="decoder.0", max_length=12, out=tmp_path / "t.pt")
    assert {*text.rows.sample_ids} == {"a", "b"}
    assert sum(s == "a" for s in text.rows.sample_ids) == 11  # <s> is special
    kept = [s == "a" for s in whole.rows.sample_ids]
    n = sum(s == "a" for s in cut.rows.sample_ids)
    assert 0 < n < sum(kept)
    torch.testing.assert_close(cut.features("decoder.0")[:n], whole.features("decoder.0")[:n])
