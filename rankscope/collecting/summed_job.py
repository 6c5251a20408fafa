"""A collect of sums, planned: the groups of samples, the batches in each, the runs beside it, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rankscope import memory
from rankscope.collecting.budget import SHARE, free_on_gpu, size_in_words
from rankscope.collecting.request import Request
from rankscope.collecting.source import Source, device_of
from rankscope.collecting.summing import LOOKED_AT, bytes_in_memory, groups_of_samples
from rankscope.errors import NotComparable, UsageError
from rankscope.names import file_name
from rankscope.reading.forward import ONE_A_SAMPLE, batches_by_length
from rankscope.store import Batch
from rankscope.store.sums import Summing, identity

if TYPE_CHECKING:
    from rankscope.collecting.job import Job

BATCH = 1 / 32
"""The part of the passes of a full batch that a batch costs however small it is. A group has few samples of each length, and so
the most padding."""


def summing_of(request: Request, samples: int, rows: float) -> Summing:
    """How the rows of a run become sums, without the runs beside it.

    Args:
        request: what was asked for.
        samples: the number of samples.
        rows: the approximate number of rows at all sites together.
    """
    return Summing(min(request.groups, samples), several=request.rows not in ONE_A_SAMPLE, each_row=rows <= LOOKED_AT)


def beside_out(out: Path, name: str) -> Path:
    """The folder of a run that is summed beside the one at ``out``."""
    return out.with_name(f"{out.stem}-beside-{file_name(name)}{out.suffix}")


def check_beside(sources: Sequence[Source]) -> None:
    """Refuse checkpoints that cannot be read beside each other.

    Raises:
        UsageError: if two have one name.
        NotComparable: if they do not read the same samples.
    """
    first, *others = sources
    names = [source.name for source in others]
    if len(set(names)) < len(names):
        raise UsageError(f"the runs beside {first.name} are named after their checkpoints; got {', '.join(names)}")
    for other in others:
        if (other.ids, other.fingerprint) != (first.ids, first.fingerprint):
            raise NotComparable(
                f"{first.name} reads {len(first.ids)} samples and {other.name} {len(other.ids)} others of these data, so their rows "
                "cannot be paired; collect them one by one"
            )


def summed(job: Job, beside: Sequence[Job]) -> Job:
    """The job of a run of sums, from jobs of rows in the same batches: its own, and those of the runs beside it.

    Raises:
        UsageError: if the sums of one group do not fit into memory, or there are more processes than groups.
    """
    groups = groups_of_samples(job.manifest.ids, job.source.lengths, job.request.groups)
    if job.shard[1] > len(groups):
        raise UsageError(
            f"{job.shard[1]} processes share {len(groups)} groups of samples, and a group is summed by one; ask for --groups "
            f"{job.shard[1]} or more, or for fewer processes"
        )
    jobs = [replace(one, plan=groups, within=_within(job, groups)) for one in (job, *beside)]
    manifests = [one.manifest.planned(groups) for one in jobs]
    identities = [identity(manifest) for manifest in manifests]
    for i, (one, manifest) in enumerate(zip(jobs, manifests, strict=True)):
        summing = Summing.of(manifest)
        assert summing is not None, "the manifest of such a job says so"
        pairs = tuple(
            (run, {site: other.width(site) for site in manifest.sites if site in other.sites})
            for run, other in zip(identities[i + 1 :], manifests[i + 1 :], strict=True)
        )
        jobs[i] = replace(one, manifest=replace(manifest, pooling=replace(summing, beside=pairs).to_json()))
    made = replace(jobs[0], beside=tuple(jobs[1:]))
    _check_memory(made)
    return made


def _within(job: Job, groups: Sequence[Batch]) -> dict[int, tuple[Batch, ...]]:
    """The batches of each group, numbered through."""
    lengths, reading = job.source.lengths, job.manifest.reading
    tokens = 1 if reading.get("one_by_one") else reading["tokens_per_batch"]
    assert isinstance(tokens, int), "the plan says how many tokens a batch holds"
    found: dict[int, tuple[Batch, ...]] = {}
    number = 0
    for group in groups:
        some = batches_by_length([lengths[i] for i in group.samples], tokens, cost=tokens * BATCH)
        found[group.id] = tuple(
            Batch(number + k, tuple(group.samples[i] for i in places), length)
            for k, (places, length) in enumerate(some)
        )
        number += len(some)
    return found


def device_of_sums(job: Job) -> torch.device:
    """Where the sums of a job grow: beside its model on a GPU, if there is room for them, or else on the CPU."""
    device = device_of(job.source.model)
    if device.type != "cuda" or needed(job) > SHARE * free_on_gpu(device):
        return torch.device("cpu")
    return device


def needed(job: Job) -> int:
    """The bytes that the sums over one group take in memory."""
    return bytes_in_memory([one.manifest for one in (job, *job.beside)])


def _check_memory(job: Job) -> None:
    there, sums = memory.free(), needed(job)
    if sums > there:
        fit = int(len(job.taps) * there / sums)
        raise UsageError(
            f"the sums over one group take {size_in_words(sums)} of memory at {len(job.taps)} sites, and {size_in_words(there)} are "
            f"free; {fit or 'no'} sites fit at a time: choose them with --layers, in several collects"
        )


def sums_in_words(job: Job) -> Iterator[str]:
    """What the preview says of sums: groups, memory, and what the rows would take."""
    if not job.within:
        return
    others = "".join(f", beside {one.manifest.name}" for one in job.beside)
    yield (
        f"sums        of {len(job.plan)} groups of samples{others}; {size_in_words(needed(job))} of memory; the rows would take "
        f"{size_in_words(sum(one.row_bytes for one in (job, *job.beside)))}"
    )
    if not all(summing.each_row for one in (job, *job.beside) if (summing := Summing.of(one.manifest))):
        yield "note        so many rows are not looked at one by one: copies and massive rows will not be known"
