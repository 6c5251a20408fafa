"""A collect, fixed: what will be read and what will be written, known and shown before the first forward pass."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rankscope.collecting.source import Source
from rankscope.errors import UsageError
from rankscope.reading.hooks import Tap
from rankscope.sites import Site, describe
from rankscope.store import Batch, Manifest, Run

SINGLE = (".pt", ".safetensors")
"""Endings of a run in one file; anything else is a folder."""
FOREIGN = {
    "arrays": (".npy", ".npz", ".h5", ".hdf5", ".mat", ".zarr"),
    "a table": (".parquet", ".arrow", ".csv", ".tsv"),
    "text": (".json", ".jsonl", ".txt"),
    "weights": (".bin", ".pth", ".ckpt", ".pkl", ".pickle"),
    "an archive": (".zip", ".tar", ".gz"),
}
"""What other files hold, by their endings, of which no folder of a run has one."""
PARTIAL = ".partial"
"""What is appended to the name of a single file for the folder in which its batches gather."""


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
        free = shutil.disk_usage(existing(self.out)).free
        lines = [
            f"checkpoint  {': '.join(str(m.checkpoint[k]) for k in ('path', 'summary') if k in m.checkpoint)}",
            f"sites       {len(self.taps)}: {describe(tuple(self.taps))}",
            f"rows        {self.kind}{', special tokens kept' if self.keep_special else ''}; a sample: {stacks} ({m.dtype})",
            f"probe set   {m.probe['name']}: {len(m.ids)} samples in {len(self.plan)} batches",
            f"output      {self.out}: about {size_in_words(self.bytes)}; {size_in_words(free)} free",
        ]
        return "\n".join([*lines, *(f"note        {text}" for text in m.notes)])


def check_suffix(path: Path) -> None:
    """Refuse an output that says by its ending that it is of another kind.

    Raises:
        UsageError: for the ending of another kind of file.
    """
    for kind, endings in FOREIGN.items():
        if path.suffix.lower() in endings:
            raise UsageError(
                f"a run is a folder, or one file ending in {' or '.join(SINGLE)}; {path.name!r} would be {kind}; "
                "rankscope export writes runs for other tools"
            )


def size_in_words(count: float) -> str:
    """Bytes in a unit that a person reads."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
