"""What would go wrong or be slow when a checkpoint is read, found by planning it; each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from rankscope import memory
from rankscope.checkpoint import Checkpoint
from rankscope.checkpoint.files import MODEL_CONFIG, read_json, weight_files
from rankscope.collecting.collect import seconds_needed
from rankscope.collecting.job import Job, Request, prepare, size_in_words
from rankscope.collecting.loading import Loading
from rankscope.errors import MissingTool, RankscopeError, public
from rankscope.scores.java import Java
from rankscope.writing import temporary_name

ROWS_A_FEATURE = 4
"""Rows per feature from which the numbers that fit or decompose do not measure the number of rows."""
SAMPLES = 6
"""Samples below which there is no band over sites."""
MUCH_PADDING = 0.3
"""The share of columns that are padding from which it is worth a word."""

State = Literal["ok", "mind", "wrong"]


class Symptom(NamedTuple):
    """One thing that was looked at."""

    what: str
    """What was looked at: ``mask``, ``disk``, …"""
    state: State
    """``ok``; ``mind``, where it is slow or numbers are limited; or ``wrong``, where nothing can be read."""
    found: str
    """What was found."""
    remedy: str = ""
    """What to do; empty where there is nothing."""


@public
def examine(
    checkpoint: str | Path | Sequence[str | Path] | Checkpoint,
    data: Any = None,
    *,
    rows: str = "last",
    base_model: str | Path | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Symptom, ...]:
    """What would go wrong or be slow when a checkpoint is collected: it is loaded, a few samples are read, nothing is written.

    Args:
        checkpoint: a folder, or several in order.
        data: what :func:`rankscope.open_data` takes; None for the embedded data that suit the model.
        rows: the kind of rows.
        base_model: the base, instead of the one that the adapter names.
        device: the torch device; by default the GPU where there is one.
        trust_remote_code: whether Python files in the checkpoint may run.

    Raises:
        UnknownName: if there is no such kind of rows.
    """
    request = Request(rows=rows, out=temporary_name())
    loading = Loading(base_model=base_model, device=device, trust_remote_code=trust_remote_code)
    found = [_gpu(), _java()]
    try:
        read = Checkpoint.read(checkpoint, base_model=base_model)
        found += [*_memory(read), _quantisation(read)]
        found += _planned(prepare(read, data, request, loading))
    except RankscopeError as error:
        found.append(Symptom("reading", "wrong", str(error)))
    return tuple(found)


def _gpu() -> Symptom:
    if not torch.cuda.is_available():
        remedy = "large models take long on a CPU; where there is a GPU, install the torch that is built for it"
        return Symptom("GPU", "mind", "torch sees none", remedy)
    free, total = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return Symptom("GPU", "ok", f"{name}, {size_in_words(free)} of {size_in_words(total)} free")


def _java() -> Symptom:
    try:
        return Symptom("Java", "ok", f"release {Java().release()}")
    except MissingTool as error:
        return Symptom("Java", "mind", "METEOR, SPICE and the PTB tokenizer cannot run", str(error))


def _memory(checkpoint: Checkpoint) -> tuple[Symptom, Symptom]:
    """The weights beside the memory that they go to, and whether they must be spread over several devices."""
    needed = sum(path.stat().st_size for path in weight_files(checkpoint.weights))
    there, where = memory.free(), "free memory"
    if torch.cuda.is_available():
        there, where = torch.cuda.mem_get_info()[0], "free memory on the GPU"
    words = f"weights of {size_in_words(needed)}, {size_in_words(there)} of {where}"
    if needed < there:
        return Symptom("memory", "ok", words), Symptom(
            "device map", "ok", "none is needed: one device holds the weights"
        )
    return (
        Symptom("memory", "mind", words, "quantise the model with --load-in-4bit, or spread it"),
        Symptom("device map", "mind", "one device does not hold the weights", "spread them with --device-map auto"),
    )


def _quantisation(checkpoint: Checkpoint) -> Symptom:
    found = read_json(checkpoint.weights / MODEL_CONFIG).get("quantization_config")
    if not found:
        return Symptom("quantisation", "ok", "none")
    method = found.get("quant_method", "unknown") if isinstance(found, dict) else "unknown"
    remedy = "compare it with a base that is quantised alike, or read the weights as they were before"
    return Symptom("quantisation", "mind", f"weights quantised by {method}: features have its rounding", remedy)


def _planned(job: Job) -> Iterator[Symptom]:
    """What the plan of a collect shows."""
    source, manifest = job.source, job.manifest
    yield Symptom(
        "reading",
        "ok",
        f"{source.checkpoint.get('summary', source.name)}: {len(job.taps)} sites, as the model has them",
    )
    yield _mask(job)
    padded = 1 - sum(source.lengths) / sum(len(batch.samples) * batch.length for batch in job.plan)
    much = padded > MUCH_PADDING
    yield Symptom(
        "padding",
        "mind" if much else "ok",
        f"{max(padded, 0.0):.0%} of the columns, in {len(job.plan)} batches",
        "read fewer samples at once with --tokens-per-batch, or cut the longest with --max-length" if much else "",
    )
    yield _dtype(job)
    for stack, each in job.rows_per_sample.items():
        widths = [manifest.width(site) for site in job.taps if site.stack == stack]
        if widths:
            yield _enough(stack, job.request.rows, int(each * len(manifest.ids)), max(widths))
    samples = len(manifest.ids)
    remedy = "" if samples >= SAMPLES else "give more samples: the sample is the unit of every interval"
    yield Symptom("samples", "ok" if samples >= SAMPLES else "mind", f"{samples} in {manifest.probe['name']}", remedy)
    yield Symptom("disk", "ok", f"about {size_in_words(job.bytes)} needed, {size_in_words(job.free)} free")
    yield Symptom("time", "ok", f"about {seconds_needed(job):.0f} s, as one of its batches took")
    for note in manifest.notes:
        yield Symptom("note", "mind", str(note))


def _mask(job: Job) -> Symptom:
    inputs = job.source.collate([0]).inputs
    if job.manifest.reading.get("one_by_one"):
        remedy = "the numbers are right, and reading takes longer; nothing is to be done but to read fewer samples"
        return Symptom("mask", "mind", "samples would depend on their batch, and are read one by one", remedy)
    if not any("mask" in name for name in inputs):
        return Symptom("mask", "ok", "the processor gives none; what is padding is known from the lengths")
    return Symptom("mask", "ok", "padding is masked, and samples are the same together and alone")


def _dtype(job: Job) -> Symptom:
    precision, device = job.source.reading.get("precision", "unknown"), job.source.reading.get("device", "cpu")
    words = f"weights {precision} on {device}, features stored as {job.manifest.dtype}"
    if device == "cpu" and precision in ("float16", "bfloat16"):
        return Symptom(
            "dtype", "mind", words, "half precision can be a hundred times slower on a CPU: try --dtype float32"
        )
    return Symptom("dtype", "ok", words)


def _enough(stack: str, rows: str, n: int, d: int) -> Symptom:
    """Rows beside features."""
    needed = ROWS_A_FEATURE * d
    words = f"about {n:,} rows of {d} features at {stack}"
    if n >= needed:
        return Symptom("n against d", "ok", words)
    remedy = f"{needed:,} rows are enough: give more samples" + ("" if rows == "tokens" else ", or --rows tokens")
    return Symptom(
        "n against d", "mind", f"{words}: ranks also measure n, and loss of information cannot be shown", remedy
    )
