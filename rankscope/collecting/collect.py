"""Collecting: the features of a checkpoint or module, read batch by batch and stored as a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rankscope.checkpoint import Checkpoint
from rankscope.collecting.job import Job, Request, prepare, replanned
from rankscope.collecting.loading import Loading
from rankscope.collecting.request import GROUPS
from rankscope.collecting.sinks import Behind, Sink
from rankscope.collecting.summed_job import device_of_sums
from rankscope.collecting.summing import SumsSink, name_in_batch
from rankscope.errors import StoreMismatch, public
from rankscope.progress import Progress, silent
from rankscope.reading.forward import Read, check_rows, read
from rankscope.sites import Site
from rankscope.store import Batch, Run, Writer, discard, move, open_run
from rankscope.store.run import Places


@public
def collect(
    model: str | Path | Sequence[str | Path] | Checkpoint | nn.Module,
    data: Any = None,
    *,
    sites: str | Sequence[str | Site] = "all",
    rows: str = "last",
    n: int | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    keep_special: bool = False,
    tokens_per_batch: int | None = None,
    nonfinite: Literal["refuse", "keep"] = "refuse",
    shard: str | None = None,
    overwrite: bool = False,
    reuse: bool = False,
    keep: Literal["rows", "moments"] = "rows",
    groups: int = GROUPS,
    beside: Sequence[str | Path | Sequence[str | Path] | Checkpoint | nn.Module] | None = None,
    base_model: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    load_in_4bit: bool = False,
    trust_remote_code: bool = False,
    processor: str | Path | None = None,
    padding_side: Literal["right", "left"] = "right",
    chat: bool = False,
    max_length: int | None = None,
    preview: Callable[[Job], object] | None = None,
    progress: Progress = silent,
) -> Run:
    """The features of a checkpoint or module at the chosen sites, stored as a run.

    ``rankscope.collect("lora/", "texts.jsonl", sites="all", rows="last", out="lora.pt")``. A collect that was stopped
    continues when it is called again with the same arguments, and ends with the same bytes.

    Args:
        model: a checkpoint folder, several in order (base, adapters), a loaded model, or any ``nn.Module``.
        data: the probe set, as :func:`rankscope.open_data` takes it; for a module in memory also a tensor with one row for
            each sample, a dictionary or tuple of those, a list of samples, a ``Dataset`` or a ``DataLoader``. By default
            embedded data that suit the model, English sentences or scenes with their captions; the run's notes say so.
        sites: the sites to read: ``all``; names, ranges and patterns by comma (``decoder.0,decoder.3-5,vision.*,final``) or
            as a list.
        rows: the rows to keep: ``last``, ``first`` or ``mean``, one for each sample; ``tokens``, all; or those of ``text``,
            ``image``, ``query`` or ``answer``.
        n: the number of samples, from the first; all of them by default.
        out: a folder, or one file ending in ``.pt`` or ``.safetensors``; by default the checkpoint's name with ``.pt``. Sums are
            kept in a folder, by default the name with ``.moments``.
        name: the run's name in tables and figures; by default the output's name without its ending.
        keep_special: whether special tokens count as rows.
        tokens_per_batch: the most tokens in a batch, padding included; a longer sample is a batch of its own. By default about
            a thousand on a CPU, and on a GPU as its free memory allows; the manifest says how many, and a collect that goes
            on keeps them.
        nonfinite: whether NaN or infinite features are refused or kept.
        shard: ``i/n`` for the i-th of n processes that fill one folder, i from 0; by default from torchrun's environment.
        overwrite: whether an output that exists is replaced.
        reuse: whether a finished run of the very same plan at ``out`` is returned as it is.
        keep: ``rows``, all of them; or ``moments``: no rows, but sums over groups of samples, whose size does not grow with the
            data. Spectra, ranks and, of runs read beside each other, most relations come from them; what does not is refused by name.
        groups: the number of groups whose sums are kept; 20 by default. An analysis leaves out these groups, or several at a time.
        beside: a list of checkpoints or models that are read in the same batches, the base say: sums over pairs of rows of any two
            are kept too, and each gets a run of its own beside ``out``, as ``NAME-beside-BASE.moments``.
        base_model: the base, instead of the one that the adapter names.
        dtype: the dtype in which the model runs: ``float32``, ``bfloat16``, ``float16`` or ``float64``; by default that of
            the checkpoint.
        device: the torch device; by default the GPU if there is one.
        device_map: how the model is spread over devices, as accelerate takes it, instead of ``device``.
        load_in_4bit: whether the base is quantised to 4 bits (needs bitsandbytes and a GPU).
        trust_remote_code: whether Python files that come with the checkpoint may run.
        processor: the folder of the tokenizer or processor; by default the checkpoint's own.
        padding_side: the side on which short samples are padded, ``right`` or ``left``.
        chat: whether texts go through the chat template.
        max_length: the tokens, special ones included, to which longer texts are cut; by default none is cut, and one that
            the model has no positions for is refused.
        preview: called with the planned :class:`~rankscope.collecting.job.Job` before the first batch is read, to show
            ``job.in_words()``; what it raises stops the collect before anything is written.
        progress: called with (batches done, batches in all, text).

    Raises:
        WrongCall: for an option that does not exist.
        UnknownName: if there is no such site or kind of rows.
        UsageError: if an option has no meaning for this model, or there is no such device or precision.
        CheckpointError: if there is no checkpoint, or it does not load.
        DataError: if there are fewer samples than asked for, or they do not fit the model.
        NotComparable: if all samples are one and the same to the model.
        OutputExists: if there is a finished run at ``out``.
        StoreMismatch: if there is an unfinished run of another plan at ``out``.
        StoreLocked: if another process writes there.
        NonFinite: if a feature is NaN or infinite; the site and the sample are named.
        StorageError: if the disk is too small, full or failing; what was committed is kept.
    """
    given = locals()  # the options by name: Request and Loading have fields of the same names
    job = prepare(
        model,
        data,
        Request(**{f.name: given[f.name] for f in fields(Request)}),
        Loading(**{f.name: given[f.name] for f in fields(Loading)}),
    )
    if preview is not None:
        preview(job)
    return run_job(job, progress=progress)


def run_job(job: Job, *, progress: Progress = silent) -> Run:
    """Run a planned collect, or continue it where it was stopped; it ends with the same bytes.

    Raises:
        StoreMismatch: if an unfinished run of another plan is at the output.
        StoreLocked: if another process writes there.
        NonFinite: if a feature is NaN or infinite; the site and the sample are named.
        StorageError: if the disk is full or failing; what was committed is kept.
    """
    if job.finished is not None:
        return job.finished
    try:
        opened = _opened(job)
    except StoreMismatch:
        # Another process may just have begun with other batches, which suit its machine and which this one then takes too.
        again = replanned(job)
        if again.plan == job.plan:
            raise
        return run_job(again, progress=progress)
    with ExitStack() as held:
        for writer in opened:
            held.enter_context(writer)
        direct = SumsSink(opened, job.within, device_of_sums(job)) if job.within else opened[0]
        sink = held.enter_context(Behind(direct))
        pour(job, sink, progress)
        complete = sink.finish()
    if job.folder == job.out:
        return open_run(job.out, partial=not complete)
    run = move(job.folder, job.out, overwrite=job.request.overwrite)
    discard(job.folder)
    return run


def seconds_needed(job: Job) -> float:
    """How long the forward passes of a planned collect take, from a batch of middling length that is read for it."""
    batch = job.batches[len(job.batches) // 2]
    inputs, begun = job.source.collate(batch.samples), time.monotonic()
    read(
        job.source.model,
        job.taps,
        inputs,
        kind=job.request.rows,
        keep_special=job.request.keep_special,
        course=job.course,
    )
    taken = time.monotonic() - begun
    return taken * sum(len(b.samples) * b.length for b in job.batches) / (len(batch.samples) * batch.length)


def _opened(job: Job) -> list[Writer]:
    """The writer of a run, and those of the runs beside it."""
    rank, world = job.shard
    opened: list[Writer] = []
    try:
        for place, one in enumerate((job, *job.beside)):
            writer = Writer.open(
                one.folder,
                one.manifest,
                one.plan,
                overwrite=job.request.overwrite,
                rank=rank,
                world=world,
                nonfinite=job.request.nonfinite,
                reuse=(one.folder != one.out or place > 0) and not job.request.overwrite,
            )
            opened.append(writer)
    except BaseException:
        for writer in opened:
            writer.close()
        raise
    return opened


def pour(job: Job, sink: Sink, progress: Progress = silent) -> None:
    """One pass over the data of a planned collect: each batch that a sink has yet to take up is read and handed to it.

    Raises:
        CheckpointError: if a site is not reached, or its hidden states are not what was planned.
        DataError: if a sample has no row where each must have one.
    """
    todo, total = sink.todo, len(job.batches)
    for number, batch in enumerate(todo, start=total - len(todo)):
        progress(number, total, f"{len(batch.samples)} samples of {batch.length} tokens")
        features: dict[str, Tensor] = {}
        rows: dict[str, Places] = {}
        for k, one in enumerate((job, *job.beside)):
            # The first batch runs whole, and so shows that each site is reached, and once; the others end at the last site.
            found = _read(one, batch, stop=number > total - len(todo))
            features |= {name_in_batch(k, str(site)): x for site, x in found.features.items()}
            rows |= {name_in_batch(k, stack): places for stack, places in found.rows.items()}
        sink.write(batch.id, features, rows)
    progress(total, total, "packing")


def _read(job: Job, batch: Batch, *, stop: bool) -> Read:
    """The features of a batch, and the rows of the stacks that are kept."""
    kind = job.request.rows
    inputs = job.source.collate(batch.samples)
    found = read(
        job.source.model, job.taps, inputs, kind=kind, keep_special=job.request.keep_special, course=job.course, stop=stop
    )  # fmt: skip
    check_rows(found, batch.samples, job.manifest.ids, kind=kind, stacks={site.stack for site in job.taps})
    places = torch.tensor(batch.samples)
    # A batch counts its samples from 0; a sink counts them by their places in the probe set.
    rows = {
        stack: (places[sample], position, role)
        for stack, (sample, position, role) in found.rows.items()
        if stack in job.manifest.stacks
    }
    return found._replace(rows=rows)
