"""Preparing a collect: the checkpoint and the data are opened, sites and rows chosen, and the plan is fixed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rankscope.collecting.job import PARTIAL, SINGLE, Job, check_suffix, existing, size_in_words
from rankscope.collecting.opening import open_source
from rankscope.collecting.source import Source
from rankscope.errors import CheckpointError, OutputExists, RankscopeError, StorageError, UsageError
from rankscope.reading.forward import batches_by_length
from rankscope.reading.hooks import Tap
from rankscope.reading.pooling import check_kind, pool
from rankscope.sites import Site, select
from rankscope.store import Batch, Manifest, Run, discard, open_run

LOOKED_AT = 8
"""Samples whose columns tell which stacks have rows of the kind asked for."""


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
        opening: ``base_model``, ``device``, ``dtype``, ``device_map``, ``load_in_4bit``, ``trust_remote_code``,
            ``processor``, ``padding_side``, ``chat``: see :func:`rankscope.collecting.opening.open_source`.

    Raises:
        UnknownName: if there is no such site or row kind.
        OutputExists: if there is a finished run at ``out``.
        DataError: if there are fewer samples than asked for, or they do not fit the model.
        StorageError: if the disk has not the room.
    """
    check_kind(rows)
    if nonfinite not in ("refuse", "keep"):
        raise UsageError(f"nonfinite is refuse or keep; got {nonfinite!r}")
    if tokens_per_batch < 1:
        raise UsageError(f"a batch holds at least one token; got {tokens_per_batch} tokens per batch")
    check_suffix(Path(out or ""))
    source = open_source(model, data, n=n, **opening)
    target = Path(out) if out is not None else Path(f"{source.name}.pt")
    chosen, left_out = _chosen(source, sites)
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
        notes=[*left_out, *notes, *source.notes],
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


def _chosen(source: Source, sites: str | Sequence[str | Site]) -> tuple[dict[Site, Tap], list[Any]]:
    """The sites asked for, and a note on the parts of a module that are none and only ``all`` asked for.

    Raises:
        CheckpointError: if a part that was asked for by name cannot be read.
    """
    if sites == "all":
        told = [f"{site} is left out: {why}" for site, why in source.unreadable.items()]
        if not source.taps:
            raise CheckpointError(f"no part of {source.name} can be read: {'; '.join(told) or 'it has none'}")
        return dict(source.taps), told
    chosen = select(sites, (*source.taps, *source.unreadable))
    for site in chosen:
        if site in source.unreadable:
            raise CheckpointError(f"{site} cannot be read: {source.unreadable[site]}")
    return {site: source.taps[site] for site in chosen}, []


def _versions() -> dict[str, Any]:
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
    with suppress(RankscopeError):
        _drop_gathered(target, manifest)
    if reuse:
        run = open_run(target)
        differences = run.manifest.differences(manifest)
        if not differences:
            return run
        raise OutputExists(
            f"{target} is another run ({'; '.join(differences[:3])}); move it away, or name the run to use"
        )
    raise OutputExists(f"{target} exists and is kept; give another --out, or --overwrite to replace it")


def _drop_gathered(target: Path, manifest: Manifest) -> None:
    """Remove the batches from which a file was packed, where a collect was killed before it could."""
    gathered = target.with_name(target.name + PARTIAL)
    if gathered.exists() and not open_run(target).manifest.differences(manifest):
        discard(gathered)


def _part(shard: str | None, target: Path) -> tuple[int, int]:
    text = shard or f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}"
    rank, slash, world = text.partition("/")
    if not (slash and rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UsageError(f"a shard is i/n with i from 0 to n-1, as 0/4; got {text!r}")
    if int(world) > 1 and target.suffix in SINGLE:
        raise UsageError(f"several processes fill a folder, not the single file {target}; pack it afterwards")
    return int(rank), int(world)


def _check_room(job: Job) -> None:
    free = shutil.disk_usage(existing(job.out)).free
    needed = job.bytes * (2 if job.out.suffix in SINGLE else 1)
    if job.finished is None and needed > free:
        raise StorageError(
            f"{job.out} needs about {size_in_words(needed)} and {size_in_words(free)} are free; choose fewer sites, rows or samples"
        )
