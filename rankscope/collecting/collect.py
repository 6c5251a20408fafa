"""Collecting: a prepared job run, or the whole in one call."""

from __future__ import annotations

from typing import Any

import torch

from rankscope.collecting.job import Job
from rankscope.collecting.prepare import prepare
from rankscope.progress import Progress, silent
from rankscope.reading.forward import check_rows, read
from rankscope.store import Run, Writer, discard, open_run, pack


def collect(model: Any, data: Any = None, *, progress: Progress = silent, **options: Any) -> Run:
    """The features of a checkpoint or module at the chosen sites, stored as a run.

    ``rankscope.collect("lora/", "texts.jsonl", sites="all", rows="last", out="lora.pt")``. A collect that was stopped
    continues when it is called again with the same arguments, and ends with the same bytes.

    Args:
        model: a checkpoint folder, several in order (base, adapters), a loaded model, or any ``nn.Module``.
        data: the probe set: whatever :func:`rankscope.open_data` takes; for a module in memory also
            tensors or what holds them (:func:`rankscope.collecting.samples.samples_of`). The embedded scenes where nothing is given.
        progress: called with (batches done, batches in all, text).
        options: ``sites``, ``rows``, ``n``, ``out``, ``name``, ``keep_special``, ``tokens_per_batch``, ``nonfinite``,
            ``shard``, ``overwrite``, ``base_model``, ``device``, ``dtype``, ``device_map``, ``load_in_4bit``,
            ``padding_side``, ``chat``, ``trust_remote_code``, ``processor``, as
            :func:`rankscope.collecting.prepare.prepare` and :func:`rankscope.collecting.opening.open_source` tell.

    Raises:
        RankscopeError: one of its named children, as those functions tell.
    """
    return run_job(prepare(model, data, **options), progress=progress)


def run_job(job: Job, *, progress: Progress = silent) -> Run:
    """Run a prepared collect. One that was stopped continues, and ends with the same bytes.

    Args:
        job: what :func:`prepare` gave.
        progress: told of each batch.

    Raises:
        StoreMismatch: if an unfinished run of another plan lies in the output's place.
        StoreLocked: if another process writes there.
        NonFinite: if a feature is NaN or infinite; the site and the sample are named.
        StorageError: if the disk is full or failing; what was committed is kept.
    """
    if job.finished is not None:
        return job.finished
    rank, world = job.part
    with Writer.open(
        job.folder,
        job.manifest,
        job.plan,
        overwrite=job.overwrite,
        rank=rank,
        world=world,
        nonfinite=job.nonfinite,
        reuse=job.folder != job.out and not job.overwrite,
    ) as writer:
        _write(job, writer, progress)
        complete = writer.finish()
    if job.folder == job.out:
        return open_run(job.out, partial=not complete)
    run = pack(job.folder, job.out, overwrite=job.overwrite)
    discard(job.folder)
    return run


def _write(job: Job, writer: Writer, progress: Progress) -> None:
    todo = writer.todo
    done = len(job.plan) - len(todo)
    ids = job.manifest.ids
    for number, batch in enumerate(todo, start=done):
        progress(number, len(job.plan), f"{len(batch.samples)} samples of {batch.length} tokens")
        found = read(
            job.source.model,
            job.taps,
            job.source.collate(batch.samples),
            kind=job.kind,
            keep_special=job.keep_special,
        )
        check_rows(found, batch.samples, ids, kind=job.kind, stacks={s.stack for s in job.taps})
        places = torch.tensor(batch.samples)
        stored = {
            stack: (places[sample], position, role)
            for stack, (sample, position, role) in found.rows.items()
            if stack in writer.manifest.stacks
        }
        writer.write(batch.id, {str(site): x for site, x in found.features.items()}, stored)
    progress(len(job.plan), len(job.plan), "packing")
