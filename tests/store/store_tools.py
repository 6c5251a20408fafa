"""A small run to write and read, and a disk that stops, fails or forgets at a chosen operation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rankscope.features import ROLES
from rankscope.store import Batch, Manifest, Writer

SITES: dict[str, dict[str, object]] = {
    "vision.0": {"width": 3, "stack": "vision"},
    "decoder.0": {"width": 4, "stack": "decoder"},
    "decoder.1": {"width": 5, "stack": "decoder"},
}
PLAN = (Batch(0, (9, 3, 5), 4), Batch(1, (0, 1), 4), Batch(2, (2, 4), 6), Batch(3, (6,), 7), Batch(4, (7, 8), 9))
CHANGES = ("open", "write", "pwrite", "fsync", "link", "rename", "unlink", "mkdir", "rmdir", "ftruncate")
"""The calls by which a disk is changed, or is made to keep a change."""


def manifest(**changes: object) -> Manifest:
    """A manifest of ten samples, two stacks and three sites."""
    members: dict[str, object] = {
        "name": "tiny",
        "checkpoint": {"path": "somewhere", "digest": "c0ffee", "tunings": [{"kind": "lora", "path": "there"}]},
        "probe": {"name": "words", "fingerprint": "f00d", "ids": [f"sample-{i}" for i in range(10)]},
        "rows": {"kind": "tokens", "keep_special": False},
        "dtype": "float32",
        "sites": SITES,
        "reading": {"padding": "right"},
        "versions": {"rankscope": "0"},
    }
    return Manifest(**{**members, **changes})


def contents(batch: Batch, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor, Tensor]]]:
    """Features and rows of a batch, the same for the same batch and seed: a row an image, three rows a text."""
    generator = torch.Generator().manual_seed(1000 * seed + batch.id)
    rows = {}
    for stack, role, count in (("vision", "image", 1), ("decoder", "text", 3)):
        sample = torch.tensor(batch.samples).repeat_interleave(count)
        position = torch.arange(count).repeat(len(batch.samples))
        rows[stack] = (sample, position, torch.full_like(sample, ROLES.index(role), dtype=torch.uint8))
    features = {
        s: torch.randn(len(rows[s.split(".")[0]][0]), int(str(v["width"])), generator=generator)
        for s, v in SITES.items()
    }
    return features, rows


def collect(path: Path, *, seed: int = 0, **options: object) -> list[int]:
    """Collects the small run into a folder, or continues; the ids of the batches that were computed."""
    computed = []
    with Writer.open(path, manifest(), PLAN, **options) as writer:  # type: ignore[arg-type]
        for batch in writer.todo:
            computed.append(batch.id)
            writer.write(batch.id, *contents(batch, seed))
        writer.finish()
    return computed


def is_tidy(path: Path) -> bool:
    """Whether a run is finished, and nothing is left that only its making needed."""
    return (path / "index.json").exists() and not any((path / name).exists() for name in ("commits", "lock"))


def expected(site: str, seed: int = 0) -> Tensor:
    """The features at a site in the data's order, put together by hand."""
    stack = site.split(".")[0]
    found = []
    for batch in PLAN:
        features, rows = contents(batch, seed)
        found += [(int(s), int(p), x) for s, p, x in zip(*rows[stack][:2], features[site], strict=True)]
    return torch.stack([x for _, _, x in sorted(found, key=lambda item: item[:2])])


def files_below(path: Path) -> list[Path]:
    """Every file below a folder, sorted."""
    return sorted(p for p in path.rglob("*") if p.is_file())


@contextmanager
def watched(patch: pytest.MonkeyPatch, before: Callable[[int, str, tuple[object, ...]], None]) -> Iterator[list[str]]:
    """Calls ``before(number, name, arguments)`` ahead of every operation that changes the disk; gives their names."""
    seen: list[str] = []
    with patch.context() as context:
        for name in CHANGES:
            context.setattr(os, name, _counted(name, getattr(os, name), seen, before))
        yield seen


def _counted(
    name: str, real: Callable[..., object], seen: list[str], before: Callable[[int, str, tuple[object, ...]], None]
) -> Callable[..., object]:
    def call(*arguments: object, **options: object) -> object:
        if name != "open" or int(str(arguments[1])) & os.O_CREAT:
            seen.append(name)
            before(len(seen), name, arguments)
        return real(*arguments, **options)

    return call


def ignore(number: int, name: str, arguments: tuple[object, ...]) -> None:
    """Watches, and does nothing."""


def killed_at(stop: int, *, torn: bool = False) -> Callable[[int, str, tuple[object, ...]], None]:
    """Kills the process ahead of the ``stop``-th operation; ``torn`` lets half of a write through first."""

    def before(number: int, name: str, arguments: tuple[object, ...]) -> None:
        if number == stop:
            if torn and name == "write":
                fd, data = arguments
                os.pwrite(fd, bytes(data)[: len(bytes(data)) // 2], os.fstat(fd).st_size)  # type: ignore[call-overload, arg-type]
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def in_child(work: Callable[[], object]) -> int:
    """Runs work in a forked process: minus the signal that ended it, 0 if it ended well, 1 after an exception."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
