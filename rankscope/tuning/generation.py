"""generate: what a model says to each example, as JSON lines of ``id`` and ``prediction``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankscope.checkpoint import Checkpoint
from rankscope.data.open import open_data
from rankscope.data.probes import Example, ProbeSet
from rankscope.devices import where
from rankscope.errors import DataError, UsageError, public
from rankscope.models.inputs.encoding import ALONG_TOKENS
from rankscope.models.inputs.reader import Reader, reader as open_reader
from rankscope.models.load import load_model
from rankscope.models.stacks import unwrapped
from rankscope.progress import Progress, silent
from rankscope.tuning.answers import choose_answers, known_answers, require_answers
from rankscope.tuning.masked import fills_masks
from rankscope.tuning.stages import heads
from rankscope.writing import check_free, write_output


@dataclass(frozen=True)
class Prediction:
    """What a model said to one example."""

    id: str
    """The example's id."""
    text: str
    """The text, without special tokens."""


@public
def generate(
    checkpoint: str | Path | Checkpoint,
    data: Any,
    *,
    out: str | Path | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 48,
    num_beams: int = 1,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> list[Prediction]:
    """What a model says to each example, greedily or by beam search, in the order of the data.

    A classifier gives the number of the label that it chooses if the data have labels, or its labels have no names; otherwise
    the name, or the answer.

    Args:
        checkpoint: the model, tuned or not.
        data: the examples, as :func:`rankscope.open_data` takes them.
        out: a file for the predictions, one JSON object on each line: ``{"id": …, "prediction": …}``; none by default.
        batch_size: examples in a batch; 16 by default.
        max_new_tokens: tokens of the longest prediction; 48 by default.
        num_beams: beams of the search; 1, greedy search, by default.
        overwrite: whether ``out`` is replaced if it exists; False by default.
        device: the torch device; by default the GPU if there is one.
        trust_remote_code: whether Python files that come with the checkpoint may run; False by default.
        progress: called with (examples done, examples in all, text) after each example; by default nothing is.

    Raises:
        WrongCall: for an option that does not exist.
        OutputExists: if there is something at ``out``.
        StorageError: if ``out`` cannot be written.
        UsageError: if the model generates no text, or a number is below 1.
        DataError: if an example does not fit the model's positions with the prefix and the prediction.
    """
    into = Path(out) if out is not None else None
    if into is not None:
        check_free(into, overwrite=overwrite)
    if min(batch_size, max_new_tokens, num_beams) < 1:
        raise UsageError("batch_size, max_new_tokens and num_beams are at least 1")
    opened, probes = Checkpoint.read(checkpoint), open_data(data)
    model = load_model(opened, device=where(device), trust_remote_code=trust_remote_code)
    reader = open_reader(model, opened, answers=False)
    if heads(model):
        pairs = choose_answers(model, reader, probes, _names(opened, reader, probes), batch_size=batch_size)
        one_by_one: Iterator[Prediction] = (Prediction(name, text) for name, text in pairs)
    else:
        one_by_one = predict(
            model, prompt_reader(model, reader), probes,
            batch_size=batch_size, max_new_tokens=max_new_tokens, num_beams=num_beams,
        )  # fmt: skip
    predictions: list[Prediction] = []
    for prediction in one_by_one:
        predictions.append(prediction)
        progress(len(predictions), len(probes), "")
    if into is not None:
        _write(predictions, into)
    return predictions


def _names(checkpoint: Checkpoint, reader: Reader, probes: ProbeSet) -> Sequence[str]:
    """What a classifier's labels are called; their numbers if the data have labels, or the labels no names."""
    config = reader.inputs.config
    known = require_answers(checkpoint, config) if reader.inputs.reads_regions else known_answers(checkpoint, config)
    if not known or all(example.label is not None for example in probes):
        return [str(label) for label in range(config.num_labels)]
    return known


def _write(predictions: Sequence[Prediction], file: Path) -> None:
    """Write predictions through a file beside it, so that it is whole or absent."""
    lines = [json.dumps({"id": p.id, "prediction": p.text}, ensure_ascii=False) for p in predictions]
    write_output(file, ("\n".join(lines) + "\n").encode())


def prompt_reader(model: nn.Module, reader: Reader) -> Reader:
    """A reader of prompts: without answers, and padded on the left for a decoder that goes on after them.

    A decoder that cannot be padded on the left reads prompts of one length only, or one by one.

    Raises:
        UsageError: if the model generates no text, or is prompt-tuned, which PEFT cannot generate with.
    """
    name, masked = type(unwrapped(model)).__name__, fills_masks(reader)
    if not (masked or "decoder" in reader.stacks) or not hasattr(model, "generate"):
        raise UsageError(f"{name} generates no text; only models with a decoder do")
    if reader.virtual:
        raise UsageError(
            f"this {name} is prompt-tuned, and PEFT cannot generate with a prompt before padded or embedded text; it can be "
            "collected, and a prefix (--method prefix) is live in generate"
        )
    encoder_decoder = "target" in {stack.columns for stack in reader.stacks.values()}
    inputs = replace(reader.inputs, answers=False)
    if masked or encoder_decoder or reader.inputs.family.generates_alone:
        return Reader(model, inputs, padding_side="right")
    try:
        return Reader(model, inputs, padding_side="left")
    except UsageError:
        return Reader(model, inputs, padding_side="right")


def _goes_on(reader: Reader) -> bool:
    """Whether what is said goes on after the prompt."""
    return not fills_masks(reader) and reader.stacks["decoder"].columns == "text"


def _sees_padding(reader: Reader) -> bool:
    """Whether prompts of different lengths cannot be asked together.

    What is said goes on after padding, or the model's own ``generate`` drops the mask of a question (BLIP's question answerer).
    """
    return reader.padding_side == "right" and (_goes_on(reader) or reader.inputs.takes_labels_as_read)


def predict(
    model: nn.Module,
    reader: Reader,
    examples: Sequence[Example],
    *,
    batch_size: int = 16,
    max_new_tokens: int = 48,
    num_beams: int = 1,
) -> Iterator[Prediction]:
    """Predictions for examples, a batch at a time.

    Args:
        model: the model, in evaluation mode.
        reader: made by :func:`prompt_reader`.
        examples: what it is asked.
        batch_size: examples in a batch.
        max_new_tokens: tokens of the longest prediction.
        num_beams: beams of the search; 1 for greedy search.
    """
    how = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    batch_size = 1 if _sees_padding(reader) else batch_size
    for start in range(0, len(examples), batch_size):
        part = [examples[i] for i in range(start, min(start + batch_size, len(examples)))]
        inputs = prompt_inputs(model, reader, part, room=max_new_tokens)
        tokens = continuations(model, reader, inputs, how)
        texts = reader.inputs.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        yield from (Prediction(example.id, text.strip()) for example, text in zip(part, texts, strict=True))


def prompt_inputs(model: nn.Module, reader: Reader, examples: Sequence[Example], *, room: int) -> dict[str, Tensor]:
    """The inputs of ``generate`` for a batch of examples, on the model's device.

    Raises:
        DataError: if a prompt leaves fewer than ``room`` positions.
    """
    batch = reader.read([replace(example, targets=()) for example in examples])
    device = next(model.parameters()).device
    kept = {k: v.to(device) for k, v in batch.inputs.items() if not k.startswith("decoder_") and k != "position_ids"}
    if (decoder := reader.stacks.get("decoder")) is None:
        return kept
    if _goes_on(reader) and not reader.inputs.family.frames_prompts:
        kept = _unended(kept, reader.inputs.end)
    most = getattr(getattr(decoder.owner, "config", None), "max_position_embeddings", None)
    before = kept["input_ids"].shape[1] if decoder.columns == "text" else 1  # 1: the decoder's start token
    prefix = reader.prefix.get("decoder", 0)
    if isinstance(most, int) and 0 < most < before + prefix + room:
        raise DataError(
            f"prompts of {before} tokens, a prefix of {prefix} and {room} new tokens do not fit the model's {most} positions; "
            "lower max_new_tokens"
        )
    return kept


def _unended(prompts: dict[str, Tensor], end: int | None) -> dict[str, Tensor]:
    """Prompts without the token with which a tokenizer ends a text, after which nothing would be said."""
    ids = prompts["input_ids"]
    if end is None or ids.shape[1] < 2 or not (ids[:, -1] == end).all():
        return prompts
    return {name: x[:, :-1] if name in ALONG_TOKENS else x for name, x in prompts.items()}


@torch.no_grad()
def continuations(model: nn.Module, reader: Reader, inputs: Mapping[str, Tensor], how: Mapping[str, Any]) -> Tensor:
    """``(b · returned, t)`` tokens that the model says after its prompts, without the prompts.

    Args:
        model: the model.
        reader: its reader.
        inputs: made by :func:`prompt_inputs`.
        how: the options of transformers' ``generate``; decoding is greedy unless they say otherwise.
    """
    if _sees_padding(reader) and not inputs["attention_mask"].all():
        raise UsageError(
            f"a {type(unwrapped(model)).__name__} sees the padding of prompts of different lengths when it generates (it cannot be padded "
            "on the left, or drops their mask); ask one at a time (batch_size=1)"
        )
    framed = reader.inputs.family.frames_prompts
    ends = {} if framed else {"eos_token_id": end_of(reader), "pad_token_id": reader.inputs.pad}
    tokens: Tensor = model.generate(**inputs, **{"do_sample": False, **ends, **how})  # type: ignore[operator]
    # A decoder of its own, as a captioner that fills in masks, begins with its start token; any other with the prompt.
    return tokens[:, inputs["input_ids"].shape[1] - framed :] if _goes_on(reader) else tokens[:, 1:]


def end_of(reader: Reader) -> int | None:
    """The token with which a prediction ends."""
    own: int | None = reader.inputs.tokenizer.eos_token_id
    return reader.inputs.config.eos_token_id if own is None and fills_masks(reader) else reader.inputs.end
