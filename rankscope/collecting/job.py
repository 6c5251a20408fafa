"""A collect, planned: what will be read and what will be written, known and shown before the first forward pass."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from rankscope.collecting.budget import size_in_words, tokens_that_fit, tokens_there
from rankscope.collecting.loading import Loading
from rankscope.collecting.module_source import from_tensors, is_samples
from rankscope.collecting.request import PARTIAL, SINGLE, SUFFIX, Request
from rankscope.collecting.selfcheck import checked_sites, why_one_by_one
from rankscope.collecting.source import Source, of_transformers
from rankscope.collecting.summed_job import beside_out, check_beside, summed, summing_of, sums_in_words
from rankscope.collecting.summing import bytes_on_disk
from rankscope.errors import CheckpointError, OutputExists, RankscopeError, StorageError, UsageError
from rankscope.names import printable
from rankscope.reading.course import Course
from rankscope.reading.forward import batches_by_length
from rankscope.reading.hooks import Tap
from rankscope.reading.pooling import pool
from rankscope.sites import Site, describe, select
from rankscope.store import Batch, Manifest, Run, discard, open_run, tidy_finished
from rankscope.writing import check_free

PROBED = 8
"""Samples whose columns are looked at to find which stacks have rows of the kind asked for, and how many."""


@dataclass(frozen=True)
class Job:
    """A collect in which everything is decided."""

    request: Request
    """What was asked for."""
    source: Source
    """The model, and how samples become its inputs."""
    taps: Mapping[Site, Tap]
    """Where each site is read."""
    manifest: Manifest
    """The run's description of itself."""
    plan: tuple[Batch, ...]
    """The batches."""
    out: Path
    """The folder or file that will hold the run."""
    shard: tuple[int, int]
    """The number of this process, and how many there are."""
    rows_per_sample: Mapping[str, float]
    """The approximate number of rows of a sample at each stack."""
    course: Course
    """How forward passes go through the sites, as those of the few samples that were tried showed it."""
    finished: Run | None = None
    """The same run, if it was collected before and may be reused."""
    within: Mapping[int, tuple[Batch, ...]] = field(default_factory=dict)
    """The batches of each group of samples, which are then the plan, if sums are kept; empty for rows."""
    beside: tuple[Job, ...] = ()
    """The runs that are summed beside this one, in the same batches."""

    @cached_property
    def folder(self) -> Path:
        """Where the batches gather."""
        return _gathering(self.out, self.manifest.planned(self.plan)) if self.out.suffix in SINGLE else self.out

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches that are read, in their order."""
        return tuple(batch for group in self.within.values() for batch in group) or tuple(self.plan)

    @property
    def bytes(self) -> float:
        """The approximate size of what is kept, of the runs beside it as well."""
        if not self.within:
            return self.row_bytes
        rows = {stack: n * len(self.manifest.ids) for stack, n in self.rows_per_sample.items()}
        return bytes_on_disk(self.manifest, rows) + sum(one.bytes for one in self.beside)

    @property
    def row_bytes(self) -> float:
        """The approximate size of the features."""
        size = self.manifest.torch_dtype.itemsize
        each = sum(self.rows_per_sample[s.stack] * self.manifest.width(s) * size for s in self.taps)
        return each * len(self.manifest.ids)

    @property
    def free(self) -> int:
        """The free bytes on the disk of the output: of the nearest folder above it that exists."""
        path = self.out.absolute()
        return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free

    def in_words(self) -> str:
        """The preview: checkpoint, sites, rows, data, cost, output."""
        m = self.manifest
        widths = {s.stack: m.width(s) for s in self.taps}
        stacks = ", ".join(f"{stack} {self.rows_per_sample[stack]:.3g} × {d}" for stack, d in widths.items())
        rows = ", ".join(f"{self.rows_per_sample[stack] * len(m.ids):,.0f} of {stack}" for stack in widths)
        special = ", special tokens kept" if self.request.keep_special else ""
        lines = [
            f"checkpoint  {': '.join(str(m.checkpoint[k]) for k in ('path', 'summary') if k in m.checkpoint)}",
            f"sites       {len(self.taps)}: {describe(tuple(self.taps))}",
            f"rows        {self.request.rows}{special}; a sample: {stacks} ({m.dtype}); in all about {rows}",
            f"probe set   {m.probe['name']}: {len(m.ids)} samples in {len(self.batches)} batch{'es' * (len(self.batches) != 1)} of "
            f"up to {m.reading['tokens_per_batch']} tokens",
            *sums_in_words(self),
            f"output      {self.out}: about {size_in_words(self.bytes)}; {size_in_words(self.free)} free",
        ]
        return "\n".join([*lines, *(f"note        {text}" for text in m.notes)])


def prepare(model: Any, data: Any, request: Request, loading: Loading) -> Job:
    """Open the checkpoint and the data, choose sites and rows, try a few samples, and fix the plan.

    A few samples are read alone and together, because samples that depend on their neighbours are planned one by one.

    Raises:
        UnknownName: if there is no such site.
        UsageError: if no site has rows of the kind, or an option has no meaning for this model.
        CheckpointError: if a site that was asked for is not what the model returns there, or the model draws at random.
        OutputExists: if there is a finished run at the output.
        DataError: if there are fewer samples than asked for, or they do not fit the model.
        StorageError: if the disk is too small.
    """
    source = open_source(model, data, request.n, loading)
    others = [open_source(one, data, request.n, replace(loading, base_model=None)) for one in request.beside or ()]
    out = Path(request.out) if request.out is not None else Path(f"{source.name}{SUFFIX[request.keep]}")
    return _planned([checked_sites(one, source.longest) for one in (source, *others)], request, out)


def replanned(job: Job) -> Job:
    """A job planned once more, after what there is at its output by now."""
    return _planned([job.source, *(one.source for one in job.beside)], job.request, job.out)


class _Readable(NamedTuple):
    """A model, what is read of it, and the manifest as far as it is known before there are batches."""

    source: Source
    taps: dict[Site, Tap]
    counts: dict[str, float]
    course: Course
    manifest: Manifest


def _readable(source: Source, request: Request, name: str) -> _Readable:
    chosen, notes = _chosen(source, request.sites)
    counts = _rows_per_sample(source, request, chosen)
    notes += [f"{stack} has no {request.rows!r} rows for this data; left out" for stack in counts if not counts[stack]]
    taps = {site: tap for site, tap in chosen.items() if counts[site.stack]}
    if not taps:
        raise UsageError(f"no chosen site has {request.rows!r} rows for this data; choose other rows or other sites")
    course = Course(source.model, taps)
    manifest = _manifest(source, request, source.widths(taps), [*notes, *source.notes], name)
    if request.keep == "moments":
        rows = sum(counts[site.stack] for site in taps) * len(source.ids)
        manifest = replace(manifest, pooling=summing_of(request, len(source.ids), rows).to_json())
    return _Readable(source, taps, counts, course, manifest)


def _planned(sources: Sequence[Source], request: Request, out: Path) -> Job:
    check_beside(sources)
    outs = [out, *(beside_out(out, source.name) for source in sources[1:])]
    names = [request.name or out.name.removesuffix(out.suffix if out.suffix in (*SINGLE, SUFFIX[request.keep]) else "")]
    names += [source.name for source in sources[1:]]
    read = [_readable(source, request, name) for source, name in zip(sources, names, strict=True)]
    tokens = request.tokens_per_batch or min(map(tokens_that_fit, sources))
    plan, planned = _batches(read, tokens)
    there = None if request.tokens_per_batch else tokens_there(out, planned[0], overwrite=request.overwrite)
    if there not in (None, tokens):
        plan, planned = _batches(read, there)
    job, *beside = (
        Job(request, one.source, one.taps, manifest, plan, place, request.part(place), one.counts, one.course)
        for one, manifest, place in zip(read, planned, outs, strict=True)
    )
    if request.keep == "moments":
        job = summed(job, beside)
    job = replace(job, finished=_finished(out, job.manifest.planned(job.plan), request))
    # While a single file is made of the batches, one of them is there twice.
    needed = job.bytes * (1 + 1 / len(plan) if out.suffix in SINGLE else 1)
    if job.finished is None and needed > job.free:
        fewer = f"; {job.free * len(job.plan) / needed:.0f} groups fit (--groups)" if job.within else ""
        raise StorageError(
            f"{out} needs about {size_in_words(needed)} and {size_in_words(job.free)} are free; choose fewer sites, rows or "
            f"samples{fewer}"
        )
    return job


def _batches(read: Sequence[_Readable], tokens: int) -> tuple[tuple[Batch, ...], list[Manifest]]:
    """The batches of at most so many tokens, or of one sample each where they cannot be put together, and the manifests that say it."""
    lengths = read[0].source.lengths
    batches = batches_by_length(lengths, 1 if any(one.source.apart for one in read) else tokens)
    reading: dict[str, Any] = {"tokens_per_batch": tokens}
    reasons = [why for one in read if (why := why_one_by_one(one.source, one.taps, batches, one.course))]
    if reasons:
        batches, reading = batches_by_length(lengths, 1), {**reading, "one_by_one": True}
    plan = tuple(Batch(i, samples, length) for i, (samples, length) in enumerate(batches))
    manifests = [one.manifest for one in read]
    return plan, [replace(m, reading={**m.reading, **reading}, notes=[*m.notes, *reasons[:1]]) for m in manifests]


def open_source(model: Any, data: Any, n: int | None, loading: Loading) -> Source:
    """The model and its data: a checkpoint on disk, a loaded model, or any module with tensors.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not load.
        UsageError: if there is no such device or precision, or an option has no meaning for the model.
        DataError: if there are fewer than n samples, or none.
    """
    if isinstance(model, nn.Module) and (is_samples(data) or not of_transformers(model)):
        loading.refuse("has no meaning for a module that is fed with tensors")
        return from_tensors(model, data, n)
    from rankscope.collecting.transformers_source import from_examples

    if isinstance(model, nn.Module):
        loading.refuse(
            "has no meaning for a model that is loaded already",
            only=("base_model", "dtype", "device", "device_map", "load_in_4bit"),
        )
    return from_examples(model, data, n, loading)


def _chosen(source: Source, sites: str | Sequence[str | Site]) -> tuple[dict[Site, Tap], list[Any]]:
    """The sites asked for; with ``all``, a note on each part of a module that cannot be read.

    Raises:
        CheckpointError: if a part that was asked for by name cannot be read.
    """
    if sites == "all":
        notes = [f"{site} is left out: {why}" for site, why in source.parts.unreadable.items()]
        if not source.parts.taps:
            raise CheckpointError(f"no part of {source.name} can be read: {'; '.join(notes) or 'it has none'}")
        return dict(source.parts.taps), notes
    chosen = select(sites, (*source.parts.taps, *source.parts.unreadable))
    for site in chosen:
        if site in source.parts.unreadable:
            raise CheckpointError(f"{site} cannot be read: {source.parts.unreadable[site]}")
    return {site: source.parts.taps[site] for site in chosen}, []


def _rows_per_sample(source: Source, request: Request, chosen: Mapping[Site, Tap]) -> dict[str, float]:
    """The mean number of rows of the first samples at each stack; one where the columns are not known in advance."""
    few = range(min(PROBED, len(source.ids)))
    batches = [source.collate([i]).grids for i in few] if source.apart else [source.collate(few).grids]
    return {
        stack: sum(len(pool(g[stack], request.rows, keep_special=request.keep_special).sample) for g in batches)
        / len(few)
        if stack in batches[0]
        else 1.0
        for stack in dict.fromkeys(site.stack for site in chosen)
    }


def _manifest(
    source: Source, request: Request, widths: Mapping[Site, int], notes: Sequence[Any], name: str
) -> Manifest:
    options = {"options": dict(source.data_options)} if source.data_options else {}
    packages = ("rankscope", "torch", "transformers", "peft", "safetensors")
    return Manifest(
        name=printable(name),
        checkpoint=source.checkpoint,
        probe={"name": source.data_name, "fingerprint": source.fingerprint, "ids": list(source.ids), **options},
        rows={"kind": request.rows, "keep_special": request.keep_special},
        dtype=source.stored_dtype(request.rows),
        sites={str(site): {"width": width, "stack": site.stack} for site, width in widths.items()},
        reading=dict(source.reading),
        versions={package: version(package) for package in packages},
        notes=list(notes),
    )


def _finished(out: Path, manifest: Manifest, request: Request) -> Run | None:
    """The finished run at the output, if it is of the same plan and may be reused.

    Raises:
        OutputExists: if something else is there that must be kept.
    """
    exists = out.exists() and (out.suffix in SINGLE or (out / "index.json").exists())
    if not exists or request.overwrite:
        return None
    with suppress(RankscopeError):
        tidy_finished(out)
        _drop_gathered(out, manifest)
    if not request.reuse:
        check_free(out)
    run = open_run(out)
    if differences := run.manifest.differences(manifest):
        raise OutputExists(
            f"{out} is another run ({'; '.join(differences[:3])}) and is kept; give another output, or --overwrite to replace "
            "it, or name the run to use"
        )
    return run


def _drop_gathered(out: Path, manifest: Manifest) -> None:
    """Remove the batches of a file that was packed, if a collect was killed before it could remove them."""
    folder = _gathering(out, manifest)
    if folder.exists() and not open_run(out).manifest.differences(manifest):
        discard(folder)


def _gathering(out: Path, manifest: Manifest) -> Path:
    """The folder in which the batches of a single file gather.

    Its name follows from the plan, so that the same command finds it again and no other folder is taken for it; the writer then
    compares its manifest before it continues.
    """
    return out.with_name(f"{out.name}.{manifest.continuation[:32]}.{PARTIAL}")
