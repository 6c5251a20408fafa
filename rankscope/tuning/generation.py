"""generate: what a tuned model says to each example, as JSON lines of ``id`` and ``prediction``."""

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
from rankscope.errors import DataError, OutputExists, UnknownName, UsageError
from rankscope.models.inputs.reader import Reader, reader
from rankscope.models.load import load_model
from rankscope.models.stacks import unwrapped
from rankscope.store.files import storing
from rankscope.tuning.answers import chosen, known_answers, require_answers
from rankscope.tuning.masked import fills_masks
from rankscope.tuning.stages import heads


@dataclass(frozen=True)
class Prediction:
    """What was said to one example."""

    id: str
    """The example's id."""
    text: str
    """What was said, without special tokens."""


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
    **options: Any,
) -> list[Prediction]:
    """What a model says to each example, greedily or by beam search; in the data's order.

    A classifier gives the number of the label that it chooses where the data have labels, or its labels no names; else the
    name, or the answer.

    Args:
        checkpoint: the model, tuned or not.
        data: what :func:`~rankscope.data.open.open_data` takes.
        out: a file for the predictions, one JSON object a line: ``{"id": …, "prediction": …}``.
        batch_size: examples at once.
        max_new_tokens: the longest prediction, in tokens.
        num_beams: 1 for greedy.
        overwrite: replace ``out``.
        device: where the model runs; an accelerator where there is one, unless given.
        options: ``progress``, called with (examples done, examples in all, text); ``trust_remote_code``, to let code in the
            checkpoint run.

    Raises:
        OutputExists: if ``out`` is there.
        StorageError: if ``out`` cannot be written.
        UsageError: if the model says no text, or a number makes no sense.
        DataError: if an example does not fit the model's positions with the prefix and what is to be said.
    """
    into = Path(out) if out is not None else None
    if into is not None and into.exists() and not overwrite:
        raise OutputExists(
            f"{into} is there already; it is kept unless overwriting is asked for (overwrite=True, --overwrite)"
        )
    if min(batch_size, max_new_tokens, num_beams) < 1:
        raise UsageError("batch_size, max_new_tokens and num_beams are at least 1")
    if unknown := sorted(options.keys() - {"progress", "trust_remote_code"}):
        raise UnknownName(f"generate has no option {unknown[0]!r}; see help(rankscope.generate)")
    found, probes = Checkpoint.read(checkpoint), open_data(data)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(found, device=where, trust_remote_code=bool(options.get("trust_remote_code")))
    reading = reader(model, found, answers=False)
    how = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    predictions: list[Prediction] = []
    for prediction in _said(model, reading, found, probes, batch_size=batch_size, **how):
        predictions.append(prediction)
        if options.get("progress"):
            options["progress"](len(predictions), len(probes), "")
    if into is not None:
        lines = [json.dumps({"id": p.id, "prediction": p.text}, ensure_ascii=False) for p in predictions]
        with storing(into):
            into.parent.mkdir(parents=True, exist_ok=True)
            beside = into.with_name(f"{into.name}.part")
            beside.write_text("\n".join(lines) + "\n")
            beside.replace(into)
    return predictions


def _said(
    model: nn.Module, reading: Reader, found: Checkpoint, probes: ProbeSet, *, batch_size: int, **how: Any
) -> Iterator[Prediction]:
    """What a model says, or the answers that a classifier chooses."""
    if heads(model):
        known, count = known_answers(found, reading.inputs.config), int(reading.inputs.config.num_labels)
        if reading.inputs.reads_regions:
            known = require_answers(found, reading.inputs.config)
        texts = () if all(example.label is not None for example in probes) else known
        pairs = chosen(model, reading, probes, texts or [str(i) for i in range(count)], batch_size=batch_size)
        return (Prediction(name, text) for name, text in pairs)
    return predict(model, prompt_reader(model, reading), probes, batch_size=batch_size, **how)


def prompt_reader(model: nn.Module, reading: Reader) -> Reader:
    """A reader of prompts: no answers, padding on the left where a decoder goes on after them.

    Raises:
        UsageError: if the model says no text, or has a prompt before its text that PEFT cannot generate with.
    """
    name, masked = type(unwrapped(model)).__name__, fills_masks(reading)
    if not (masked or "decoder" in reading.stacks) or not hasattr(model, "generate"):
        raise UsageError(f"{name} says no text; only models with a decoder generate")
    if reading.virtual:
        raise UsageError(
            f"this {name} is prompt-tuned, and PEFT cannot generate with a prompt before padded or embedded text; it can be "
            "collected, and a prefix (--method prefix) is live in generate"
        )
    side = "right" if masked or "target" in {stack.columns for stack in reading.stacks.values()} else "left"
    return Reader(model, replace(reading.inputs, answers=False), padding_side=side)  # type: ignore[arg-type]


def predict(
    model: nn.Module, reading: Reader, examples: Sequence[Example], *, batch_size: int = 16, **how: Any
) -> Iterator[Prediction]:
    """Predictions for examples, a batch at a time.

    Args:
        model: the model, in evaluation mode.
        reading: made by :func:`prompt_reader`.
        examples: what it is asked.
        batch_size: examples at once.
        how: ``max_new_tokens``, ``num_beams``, and whatever else transformers' ``generate`` takes.
    """
    for start in range(0, len(examples), batch_size):
        part = [examples[i] for i in range(start, min(start + batch_size, len(examples)))]
        inputs = prompt_inputs(model, reading, part, room=int(how["max_new_tokens"]))
        said = continuations(model, reading, inputs, **how)
        texts = reading.inputs.tokenizer.batch_decode(said, skip_special_tokens=True)
        yield from (Prediction(example.id, text.strip()) for example, text in zip(part, texts, strict=True))


def prompt_inputs(model: nn.Module, reading: Reader, examples: Sequence[Example], *, room: int) -> dict[str, Tensor]:
    """The inputs of ``generate`` for a batch of examples, on the model's device.

    Raises:
        DataError: if a prompt leaves fewer than ``room`` positions.
    """
    batch = reading.read([replace(example, targets=()) for example in examples])
    device = next(model.parameters()).device
    kept = {k: v.to(device) for k, v in batch.inputs.items() if not k.startswith("decoder_") and k != "position_ids"}
    if (decoder := reading.stacks.get("decoder")) is None:
        return kept
    most = getattr(getattr(decoder.owner, "config", None), "max_position_embeddings", None)
    before = kept["input_ids"].shape[1] if decoder.columns == "text" else 1
    taken = before + reading.prefix.get("decoder", 0) + room
    if isinstance(most, int) and 0 < most < taken:
        raise DataError(
            f"prompts of {before} tokens, a prefix of {reading.prefix.get('decoder', 0)} and {room} new tokens do not fit the "
            f"model's {most} positions; lower max_new_tokens"
        )
    return kept


@torch.no_grad()
def continuations(model: nn.Module, reading: Reader, inputs: Mapping[str, Tensor], **how: Any) -> Tensor:
    """``(b · returned, t)`` tokens that the model says after its prompts, and nothing of the prompts.

    Args:
        model: the model.
        reading: its reader.
        inputs: made by :func:`prompt_inputs`.
        how: passed to ``generate``; decoding is greedy unless it says otherwise.
    """
    ends = {"eos_token_id": end_of(reading), "pad_token_id": reading.inputs.pad}
    said: Tensor = model.generate(**inputs, **{"do_sample": False, **ends, **how})  # type: ignore[operator]
    started = fills_masks(reading) or reading.stacks["decoder"].columns == "target"
    return said[:, 1:] if started else said[:, inputs["input_ids"].shape[1] :]


def end_of(reading: Reader) -> int | None:
    """The token with which what is said ends."""
    own: int | None = reading.inputs.tokenizer.eos_token_id
    return reading.inputs.config.eos_token_id if own is None and fills_masks(reading) else own
