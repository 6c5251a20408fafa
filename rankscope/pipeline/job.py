"""A collect, prepared and then run: what will be read and written is known, and shown, before the first forward pass."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rankscope.errors import OutputExists, StorageError, UsageError
from rankscope.pipeline.measure import Progress, silent
from rankscope.pipeline.source import Source, open_source
from rankscope.reading.forward import batches_by_length, check_rows, read
from rankscope.reading.hooks import Tap
from rankscope.reading.pooling import check_kind, pool
from rankscope.sites import Site, describe, select
from rankscope.store import Batch, Manifest, Run, Writer, discard, open_run, pack

SINGLE = (".pt", ".safetensors")
"""Endings of a run in one file; anything else is a folder."""
PARTIAL = ".partial"
"""What is appended to the name of a single file for the folder in which its batches gather."""
LOOKED_AT = 8
"""Samples whose columns tell which stacks have rows of the kind asked for."""


@dataclass(frozen=True)
class Job:
    """Everything that a collect needs, fixed."""

    source: Source
    """The model, and how samples become its inputs."""
    taps: Mapping[Site, Tap]
    """Where each site is read."""
    manifest: Manifest
    """What the run will say of itself."""
    plan: tuple[Batch, ...]
    """The batches."""
    kind: str
    """Which rows."""
    keep_special: bool
    """Whether special tokens count."""
    out: Path
    """The folder or file that will hold the run."""
    nonfinite: Literal["refuse", "keep"]
    """What NaN or infinite features do."""
    overwrite: bool
    """Whether an output that exists is replaced."""
    part: tuple[int, int]
    """Which of how many processes this is."""
    rows_a_sample: Mapping[str, float]
    """For each stack about how many rows a sample has."""
    finished: Run | None = None
    """The same run, where it is there already."""

    @property
    def folder(self) -> Path:
        """Where the batches gather."""
        return self.out.with_name(self.out.name + PARTIAL) if self.out.suffix in SINGLE else self.out

    @property
    def bytes(self) -> float:
        """About how many bytes the features will take."""
        size = self.manifest.torch_dtype.itemsize
        each = sum(self.rows_a_sample[s.stack] * self.manifest.width(s) * size for s in self.taps)
        return each * len(self.manifest.ids)

    def in_words(self) -> str:
        """The preview: checkpoint, sites, rows, data, cost, output."""
        m = self.manifest
        widths = {s.stack: m.width(s) for s in self.taps}
        stacks = ", ".join(f"{stack} {self.rows_a_sample[stack]:.3g} × {d}" for stack, d in widths.items())
        free = shutil.disk_usage(_existing(self.out)).free
        lines = [
            f"checkpoint  {m.checkpoint['summary']}",
            f"sites       {len(self.taps)}: {describe(tuple(self.taps))}",
            f"rows        {self.kind}{', special tokens kept' if self.keep_special else ''}; a sample: {stacks} ({m.dtype})",
            f"probe set   {m.probe['name']}: {len(m.ids)} samples in {len(self.plan)} batches",
            f"output      {self.out}: about {_size(self.bytes)}; {_size(free)} free",
        ]
        return "\n".join([*lines, *(f"note        {text}" for text in m.notes)])


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def prepare(
    model: Any,
    data: Any = None,
    *,
    sites: str | Sequence[str | Site] = "all",
    rows: str = "last",
    n: int | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    keep_special: bool = False,
    tokens_per_batch: int = 8192,
    nonfinite: str = "refuse",
    shard: str | None = None,
    overwrite: bool = False,
    reuse: bool = False,
    **opening: Any,
) -> Job:
    """Open the checkpoint and the data, choose sites and rows, and fix the plan. No forward pass is made.

    Args:
        model: a checkpoint folder, several in order, or a module.
        data: the probe set; the embedded scenes where nothing is given.
        sites: which sites.
        rows: which rows; one of :data:`rankscope.reading.pooling.KINDS`.
        n: only the first n samples.
        out: a folder, or a file ``.pt`` or ``.safetensors``; the checkpoint's name with ``.pt`` where nothing is given.
        name: what tables and figures call the run; the name of the output where nothing is given.
        keep_special: whether special tokens count as rows.
        tokens_per_batch: how many tokens a batch holds, padding counted.
        nonfinite: what NaN or infinite features do, ``refuse`` or ``keep``.
        shard: ``i/n`` for the i-th of n processes that fill one folder; taken from torchrun's environment where set.
        overwrite: whether an output that exists is replaced.
        reuse: whether a finished run of the very same plan is taken as it is.
        opening: ``base_model``, ``device``, ``dtype``, ``trust_remote_code``, ``processor``: see :func:`open_source`.

    Raises:
        UnknownName: if there is no such site or row kind.
        OutputExists: if there is a finished run at ``out``.
        DataError: if there are fewer samples than asked for, or they do not fit the model.
        StorageError: if the disk has not the room.
    """
    check_kind(rows)
    if nonfinite not in ("refuse", "keep"):
        raise UsageError(f"nonfinite is refuse or keep; got {nonfinite!r}")
    source = open_source(model, data, n=n, **opening)
    target = Path(out) if out is not None else Path(f"{source.name}.pt")
    chosen = {site: source.taps[site] for site in select(sites, tuple(source.taps))}
    counts, notes = _rows_a_sample(source, rows, keep_special, chosen)
    taps = {site: tap for site, tap in chosen.items() if counts[site.stack]}
    if not taps:
        raise UsageError(f"no chosen site has {rows!r} rows for this data; choose other rows or other sites")
    widths = source.widths(taps)
    plan = tuple(
        Batch(i, samples, length)
        for i, (samples, length) in enumerate(batches_by_length(source.lengths, tokens_per_batch))
    )
    manifest = Manifest(
        name=name or target.name.removesuffix(target.suffix if target.suffix in SINGLE else ""),
        checkpoint=source.checkpoint,
        probe={"name": source.data_name, "fingerprint": source.fingerprint, "ids": list(source.ids)},
        rows={"kind": rows, "keep_special": keep_special},
        dtype=source.stored_dtype(rows),
        sites={str(site): {"width": widths[site], "stack": site.stack} for site in taps},
        reading={**source.reading, "tokens_per_batch": tokens_per_batch},
        versions=_versions(),
        notes=[*notes, *source.notes],
    )
    finished = _finished(target, manifest.planned(plan), reuse=reuse, overwrite=overwrite)
    job = Job(
        source=source,
        taps=taps,
        manifest=manifest,
        plan=plan,
        kind=rows,
        keep_special=keep_special,
        out=target,
        nonfinite="keep" if nonfinite == "keep" else "refuse",
        overwrite=overwrite,
        part=_part(shard, target),
        rows_a_sample=counts,
        finished=finished,
    )
    _check_room(job)
    return job


def _versions() -> dict[str, Any]:
    from importlib.metadata import version

    return {package: version(package) for package in ("rankscope", "torch", "transformers", "peft", "safetensors")}


def _rows_a_sample(
    source: Source, kind: str, keep_special: bool, chosen: Mapping[Site, Tap]
) -> tuple[dict[str, float], list[Any]]:
    """About how many rows a sample has at each stack, and a note for each stack that has none."""
    few = range(min(LOOKED_AT, len(source.ids)))
    grids = source.collate(few).grids
    stacks = dict.fromkeys(site.stack for site in chosen)
    counts = {
        stack: len(pool(grids[stack], kind, keep_special=keep_special).sample) / len(few) if stack in grids else 1.0
        for stack in stacks
    }
    empty = [stack for stack, count in counts.items() if not count]
    return counts, [f"{stack} has no {kind!r} rows for this data; left out" for stack in empty]


def _finished(target: Path, manifest: Manifest, *, reuse: bool, overwrite: bool) -> Run | None:
    """The finished run at the target, if it is the very one and may be taken.

    Raises:
        OutputExists: if something else is there and is to be kept.
    """
    there = target.exists() and (target.suffix in SINGLE or (target / "index.json").exists())
    if not there or overwrite:
        return None
    if reuse:
        run = open_run(target)
        differences = run.manifest.differences(manifest)
        if not differences:
            return run
        raise OutputExists(
            f"{target} is another run ({'; '.join(differences[:3])}); move it away, or name the run to use"
        )
    raise OutputExists(f"{target} exists and is kept; give another --out, or --overwrite to replace it")


def _part(shard: str | None, target: Path) -> tuple[int, int]:
    text = shard or f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}"
    rank, slash, world = text.partition("/")
    if not (slash and rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UsageError(f"a shard is i/n with i from 0 to n-1, as 0/4; got {text!r}")
    if int(world) > 1 and target.suffix in SINGLE:
        raise UsageError(f"several processes fill a folder, not the single file {target}; pack it afterwards")
    return int(rank), int(world)


def _check_room(job: Job) -> None:
    free = shutil.disk_usage(_existing(job.out)).free
    needed = job.bytes * (2 if job.out.suffix in SINGLE else 1)
    if job.finished is None and needed > free:
        raise StorageError(
            f"{job.out} needs about {_size(needed)} and {_size(free)} are free; choose fewer sites, rows or samples"
        )


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
