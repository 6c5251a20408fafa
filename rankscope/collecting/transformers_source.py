"""A transformers model as a source: a checkpoint or a loaded model that reads examples, or a loaded one fed with tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankscope.checkpoint import Checkpoint, digest as folder_digest, folder_name
from rankscope.collecting.loading import Loading
from rankscope.collecting.source import Collate, Source, check_left, device_of, in_memory
from rankscope.data.open import open_data
from rankscope.data.probes import Example, ProbeSet
from rankscope.errors import CheckpointError, DataError, UsageError
from rankscope.features import AUDIO, TEXT, Grid
from rankscope.models.dtypes import features_dtype, weights_dtype
from rankscope.models.embedded import embedded_data
from rankscope.models.inputs.encoding import Encoding
from rankscope.models.inputs.hearing import SOUND_MASKS
from rankscope.models.inputs.reader import Reader, reader
from rankscope.models.inputs.sound import sound_columns
from rankscope.models.limits import prompt_rows, takes_positions
from rankscope.models.notes import notes_of
from rankscope.models.stacks import Stack, reads_only_images, stacks, taps, unwrapped
from rankscope.models.told import not_told
from rankscope.reading.forward import ModelBatch, forward_pass
from rankscope.reading.probing import Parts

TRIED = 8
"""Samples that are put into one batch to see whether they fit."""
_MASK = "attention_mask"
_MASK_AND_IDS = {
    "text": (_MASK, "input_ids"),
    "target": ("decoder_attention_mask", "decoder_input_ids"),
}
"""By what a stack reads: the input that says which of its columns are real, and the one whose columns all are without it."""


def from_examples(model: Any, data: Any, n: int | None, loading: Loading) -> Source:
    """The source of a checkpoint on disk, or of a loaded model, that reads a probe set of texts and images.

    Args:
        model: a checkpoint or a loaded model.
        data: what :func:`rankscope.open_data` takes; None for the embedded data that suit the model.
        n: the number of samples, from the first; None for all.
        loading: how the model is loaded.

    Raises:
        CheckpointError: if the checkpoint does not load, or a loaded model has no processor.
        DataError: if there are fewer than n samples, or no data were given and none of the embedded suit the model.
        NotComparable: if all samples are one to the model.
        UsageError: if there is no such precision or device.
    """
    given = None if data is None else _first(open_data(data), n)
    home: str | Path | Checkpoint
    if isinstance(model, nn.Module):
        loaded, name = model.eval(), type(unwrapped(model)).__name__
        described, home = in_memory(model, name), loading.processor or _home(model)
    else:
        checkpoint = Checkpoint.read(model, base_model=loading.base_model)
        loaded, name = loading.model(checkpoint), checkpoint.name
        described, home = _on_disk(checkpoint), loading.processor or checkpoint
    if loading.processor is not None:
        described = described | {"processor": {"path": str(loading.processor)}}
    examples = reader(
        loaded,
        home,
        padding_side=loading.padding_side,
        chat=loading.chat,
        max_length=loading.max_length,
        trust_remote_code=loading.trust_remote_code,
    )
    if given is None:
        given = _embedded(examples, n)
    probe_set = given.distinct(examples.inputs.reads)
    check_left(len(probe_set), len(given), f"samples of {given.name}", "to this model")
    device = device_of(loaded)
    examples.look(loaded, probe_set[0])

    def collate(samples: Sequence[int]) -> ModelBatch:
        return examples.read([probe_set[i] for i in samples]).to(device)

    # Batches are planned by length, and an image adds columns to the tokens of its text. How many is measured on the first
    # sample and assumed for all: opening every image only to plan the batches would read the data twice.
    tokens = [examples.length(example) for example in probe_set]
    few = [examples.encode(probe_set[i]) for i in range(min(TRIED, len(probe_set)))]
    image_columns = max(0, few[0].length - tokens[0])
    return Source(
        model=loaded,
        name=name,
        # Images are not padded: where a model reads nothing else, every column counts, and none needs a name.
        parts=_parts(loaded) if reads_only_images(unwrapped(loaded)) else _named(_parts(loaded), examples.stacks),
        ids=probe_set.ids,
        lengths=tuple(length + image_columns for length in tokens),
        collate=collate,
        checkpoint=described,
        data_name=probe_set.name,
        fingerprint=probe_set.fingerprint,
        data_options=probe_set.options,
        reading={
            "padding_side": examples.padding_side,
            "attention": getattr(getattr(unwrapped(loaded), "config", None), "_attn_implementation", None),
            "precision": str(weights_dtype(loaded)).removeprefix("torch."),
            "device": device.type,
        }
        | ({"chat": True} if loading.chat else {})
        | ({"max_length": loading.max_length} if loading.max_length else {}),
        notes=(*probe_set.notices, *examples.notes, *examples.inputs.cuts(tokens), *notes_of(loaded)),
        apart=_apart(examples, few),
        told=lambda inputs: not_told(loaded, lambda: forward_pass(loaded, inputs)),
    )


def _first(probe_set: ProbeSet, n: int | None) -> ProbeSet:
    return probe_set if n is None else probe_set.first(n)


def _embedded(examples: Reader, n: int | None) -> ProbeSet:
    """The embedded data that suit a model, as far as it can read them, with a notice that no data were given.

    Raises:
        DataError: if it can read none, saying why it cannot read the first.
    """
    spec, words = embedded_data(examples.inputs)
    whole, kept, faults = open_data(spec), list[Example](), list[DataError]()
    for example in whole:
        try:
            examples.encode(example)
            kept.append(example)
        except DataError as error:  # it is longer than the model has positions
            faults.append(error)
        if len(kept) == n:
            break
    if not kept:
        raise faults[0]
    fit = " that fit the model" if faults else ""
    notice = f"no data were given, so {len(kept)} {words}{fit} are read ({whole.name}); give your own with --data FILE (data=…)"
    return _first(replace(whole, examples=kept, notices=(notice, *whole.notices)), n)


def from_tokens(model: nn.Module, collate: Collate) -> tuple[Parts, Collate]:
    """The sites of a loaded model that is fed with tensors of tokens, and its batches with the meaning of their columns.

    Columns that a mask leaves out are no rows. Positions are added where padding is on the left.

    Args:
        model: the loaded model.
        collate: from places of samples to a batch whose columns are not described yet.

    Raises:
        UsageError: for a model with a prompt, because tensors do not say which rows are its own.
    """
    if prompt_rows(model):
        raise UsageError(
            "a model with a prompt is read from texts, because tensors do not say which rows are the prompt's; got tensors"
        )
    known = stacks(model)

    def described(samples: Sequence[int]) -> ModelBatch:
        inputs = collate(samples)
        batch = inputs.inputs["batch"]
        if not isinstance(batch, Mapping):
            return inputs
        grids = {name: grid for name, s in known.items() if (grid := _grid(s, batch)) is not None}
        mask = inputs.mask
        left_padded = mask is not None and mask.ndim == 2 and bool((mask[:, 0] == 0).any())
        if mask is not None and left_padded and "position_ids" not in batch and takes_positions(model, known):
            batch = {**batch, "position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
        return ModelBatch({"batch": batch}, grids)

    return _parts(model), described


def _parts(model: nn.Module) -> Parts:
    widths = {stack.name: stack.width for stack in stacks(model).values()}
    return Parts(taps(model), widths, dtype=features_dtype(model))


def _apart(examples: Reader, few: Sequence[Encoding]) -> str:
    """Why samples cannot be put into one batch, in words; empty if they can."""
    try:
        examples.collate(few)
    except DataError as error:
        return str(error).partition(";")[0]
    return ""


def _named(parts: Parts, known: Mapping[str, Stack]) -> Parts:
    """The parts without the sites of stacks whose columns are not known, which cannot be read from examples."""
    unknown = {
        site: "what its columns are is not known for this model; read it from tensors of your own"
        for site in parts.taps
        if site.stack not in known
    }
    taps = {site: tap for site, tap in parts.taps.items() if site not in unknown}
    return replace(parts, taps=taps, unreadable={**parts.unreadable, **unknown})


def _home(model: nn.Module) -> str:
    """The folder that a loaded model came from, by its own record."""
    path = getattr(unwrapped(model), "name_or_path", "")
    if not path:
        raise CheckpointError("a model in memory needs the folder of its tokenizer or processor: pass processor=…")
    return path


def _on_disk(checkpoint: Checkpoint) -> dict[str, Any]:
    tunings = [t.summary for t in checkpoint.tunings]
    return {
        "path": str(checkpoint.path),
        "summary": " + ".join([folder_name(checkpoint.base), *tunings]),
        "base": {"path": str(checkpoint.base), "digest": folder_digest(checkpoint.base)},
        "tunings": tunings,
        "digest": checkpoint.digest,
    }


def _grid(stack: Stack, batch: Mapping[str, Any]) -> Grid | None:
    """Which columns of a stack are real, or None where the batch holds neither its mask nor its tokens."""
    # Beside a text, the mask of the sound has a name of its own, and that of the text is none of it.
    heard = next((name for name in (SOUND_MASKS if "input_ids" in batch else (_MASK,)) if name in batch), None)
    if stack.columns == "audio" and heard and hasattr(stack.owner, "_get_feat_extract_output_lengths"):
        mask = batch[heard].cpu()
        columns = torch.arange(int(sound_columns(stack.owner, torch.tensor(mask.shape[1]))[0]))
        real = columns < sound_columns(stack.owner, mask.sum(1))[0][:, None]
        return Grid(torch.full(real.shape, AUDIO, dtype=torch.uint8), real)
    mask, ids = _MASK_AND_IDS.get(stack.columns, ("", ""))
    if mask not in batch and ids not in batch:
        return None
    real = (batch[mask] != 0 if mask in batch else torch.ones_like(batch[ids], dtype=torch.bool)).cpu()
    return Grid(torch.full(real.shape, TEXT, dtype=torch.uint8), real)
