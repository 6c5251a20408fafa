"""What a collect is asked for, checked before anything that takes time: without torch, the model or the data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rankscope.errors import UsageError
from rankscope.reading.kinds import check_kind
from rankscope.sites import Site

SINGLE = (".pt", ".safetensors")
"""Endings of a run in one file; anything else is a folder."""
SUFFIX = {"rows": ".pt", "moments": ".moments"}
"""The ending of an output that nobody named, by what is kept."""
GROUPS = 20
"""Groups of samples whose sums are kept, unless another number is asked for; as many as an analysis leaves out in turn."""
PARTIAL = "partial"
"""The ending of the folder in which the batches of a single file gather."""
OF_A_STORE = ("store.json", "plan.jsonl", "lock")
"""Files by which a folder is known as a run, finished or not."""
FOREIGN = {
    "arrays": (".npy", ".npz", ".h5", ".hdf5", ".mat", ".zarr"),
    "a table": (".parquet", ".arrow", ".csv", ".tsv"),
    "text": (".json", ".jsonl", ".txt"),
    "weights": (".bin", ".pth", ".ckpt", ".pkl", ".pickle"),
    "an archive": (".zip", ".tar", ".gz"),
}
"""Endings that no run has, by what such files hold."""


@dataclass(frozen=True)
class Request:
    """What a collect reads, and where it goes; :func:`rankscope.collect` documents each option."""

    sites: str | Sequence[str | Site] = "all"
    """The sites to read."""
    rows: str = "last"
    """The kind of rows, one of :data:`rankscope.reading.kinds.KINDS`."""
    n: int | None = None
    """The number of samples; None for all."""
    out: str | Path | None = None
    """The folder or file; None for the checkpoint's name with ``.pt``."""
    name: str | None = None
    """The run's name in tables and figures; None for the output's name."""
    keep_special: bool = False
    """Whether special tokens count as rows."""
    tokens_per_batch: int | None = None
    """Tokens in a batch, padding included; None for as many as suit the machine."""
    nonfinite: Literal["refuse", "keep"] = "refuse"
    """Whether NaN or infinite features are refused or kept."""
    shard: str | None = None
    """``i/n`` for the i-th of n processes that fill one folder."""
    overwrite: bool = False
    """Whether an output that exists is replaced."""
    reuse: bool = False
    """Whether a finished run of the same plan is taken as it is."""
    keep: Literal["rows", "moments"] = "rows"
    """Whether rows are kept, or sums over groups of samples."""
    groups: int = GROUPS
    """The number of groups of samples whose sums are kept."""
    beside: Sequence[Any] | None = None
    """Checkpoints that are read in the same batches, so that sums over pairs of rows are kept too."""

    def __post_init__(self) -> None:
        check_kind(self.rows)
        if self.nonfinite not in ("refuse", "keep"):
            raise UsageError(f"nonfinite is refuse or keep; got {self.nonfinite!r}")
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise UsageError(f"a batch holds at least one token; got {self.tokens_per_batch} tokens per batch")
        self._check_kept()
        if self.out is not None:
            self.part(Path(self.out))
        suffix = Path(self.out or "").suffix.lower()
        for kind, endings in FOREIGN.items():
            if suffix in endings:
                raise UsageError(
                    f"a run is a folder, or one file ending in {' or '.join(SINGLE)}; {Path(self.out or '').name!r} would "
                    f"be {kind}; rankscope export writes runs for other tools"
                )

    def _check_kept(self) -> None:
        if self.keep not in ("rows", "moments"):
            raise UsageError(f"keep is rows or moments; got {self.keep!r}")
        if self.groups < 2:
            raise UsageError(f"intervals leave out groups of samples and need at least 2; got groups = {self.groups}")
        if not isinstance(self.beside or (), list | tuple):
            raise UsageError(f"beside is a list of checkpoints; got {self.beside!r}")
        if self.keep == "rows" and (self.groups != GROUPS or self.beside):
            raise UsageError("groups and beside say which sums are kept; with rows (keep='rows') there are none")
        if self.keep == "moments" and self.nonfinite == "keep":
            raise UsageError(
                "sums with NaN or infinite features say nothing; keep rows (keep='rows'), or leave out nonfinite"
            )
        if self.keep == "moments" and Path(self.out or "").suffix in SINGLE:
            raise UsageError(
                f"sums are kept in a folder, not in the single file {Path(self.out or '').name!r}; choose another output"
            )

    def part(self, out: Path) -> tuple[int, int]:
        """The number of this process and of all that fill ``out``, as given or else from torchrun's environment.

        Raises:
            UsageError: if the shard is not spelled ``i/n``, or several processes were to fill a single file.
        """
        text = self.shard or f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}"
        rank, slash, world = text.partition("/")
        if not (slash and rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
            raise UsageError(f"a shard is i/n with i from 0 to n-1, as 0/4; got {text!r}")
        if int(world) > 1 and out.suffix in SINGLE:
            raise UsageError(f"several processes fill a folder, not the single file {out}; pack it afterwards")
        return int(rank), int(world)
