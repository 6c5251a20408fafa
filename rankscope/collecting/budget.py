"""What fits the machine: how many tokens a batch holds where nobody says it, or a run was begun with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from glob import escape
from pathlib import Path

import torch

from rankscope.collecting.request import PARTIAL
from rankscope.collecting.source import Source
from rankscope.errors import RankscopeError
from rankscope.reading.forward import forward_pass
from rankscope.store import Manifest, open_run
from rankscope.store.layout import INDEX, MANIFEST, read_manifest

ON_CPU = 1024
"""Tokens in a batch on a CPU, whatever its number of threads, so that one process and several plan the same. With more, what
the blocks compute in between outgrows caches and the memory that the allocator keeps: the passes of a small GPT-2 took 0.23 of
those in the data's order at 1,024 tokens, 0.27 at 2,048, 0.40 at 4,096 and 0.55 at 8,192."""
ON_GPU = 8192
"""The most tokens in a batch on a GPU, which that many keep busy."""
SHARE = 0.5
"""The part of a GPU's free memory that a batch may take: the rest is for what grows faster than the tokens, and for fragments."""


def tokens_that_fit(source: Source) -> int:
    """The tokens in a batch that suit the device of a model: on a GPU as its free memory allows, by one sample's forward pass."""
    devices = {p.device for p in source.model.parameters() if p.device.type == "cuda"}
    if not devices:
        return ON_CPU
    longest = source.longest
    before = {device: torch.cuda.memory_allocated(device) for device in devices}
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        forward_pass(source.model, source.collate([longest]).inputs)
    each = {d: (torch.cuda.max_memory_allocated(d) - before[d]) / source.lengths[longest] for d in devices}
    return min(tokens_in(free_on_gpu(device), each[device]) for device in devices)


def free_on_gpu(device: torch.device) -> int:
    """Bytes of a GPU that are free, those included that torch holds and does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def tokens_in(free: float, each: float) -> int:
    """The tokens whose forward pass fits into memory: a power of two, so that cards that are nearly the same plan the same.

    Args:
        free: the free bytes.
        each: the bytes that a token takes.
    """
    most = min(SHARE * free / each, ON_GPU) if each > 0 else ON_GPU
    return 1 << max(0, int(most).bit_length() - 1)


def tokens_there(out: Path, manifest: Manifest, *, overwrite: bool) -> int | None:
    """The tokens in a batch of a run at the output that is this one but for its batches; None if there is none.

    So a collect continues with the batches with which it was begun, on this machine or another, and finds what is finished.

    Args:
        out: the folder or file.
        manifest: this run, its plan not yet in it.
        overwrite: whether a finished run there is replaced, and so does not count.
    """
    for there in _manifests(out, finished=not overwrite):
        tokens = there.reading.get("tokens_per_batch")
        if isinstance(tokens, int) and _but_for_batches(there) == _but_for_batches(manifest):
            return tokens
    return None


def _manifests(out: Path, *, finished: bool) -> Iterator[Manifest]:
    """The manifests of the runs at an output, or of which the batches gather beside it."""
    for folder in (out, *sorted(out.parent.glob(f"{escape(out.name)}.*.{PARTIAL}"))):
        with suppress(RankscopeError):
            if folder.is_file() and finished:
                yield open_run(folder).manifest
            elif folder.is_dir() and (finished or not (folder / INDEX).exists()):
                yield read_manifest(folder / MANIFEST)


def _but_for_batches(manifest: Manifest) -> str:
    reading = {key: value for key, value in manifest.reading.items() if key != "tokens_per_batch"}
    pooling = {key: value for key, value in manifest.pooling.items() if key != "beside"}  # which know of batches too
    return replace(manifest, batches=0, plan="", reading=reading, pooling=pooling).continuation


def size_in_words(count: float) -> str:
    """Bytes in the largest unit of which there is at least one."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
