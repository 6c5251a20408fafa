"""Reading a run, in the same way from a folder of shards and from a single file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from rankscope.errors import StoreCorrupt, UnknownName
from rankscope.features import ROLES, Rows
from rankscope.linalg.streamed import Streamed
from rankscope.names import UNNAMED, printable
from rankscope.notebook import facts
from rankscope.sites import Site, describe
from rankscope.store.files import corrupt
from rankscope.store.manifest import Manifest

STRETCH = 1 << 26
"""The bytes of features that are held at a time while a run is read in stretches; at least one row."""

Places: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Where rows came from: ``(n,)`` index of the sample in the probe set, ``(n,)`` token position, ``(n,)`` role."""


class Problem(NamedTuple):
    """A file that is not as it was written."""

    path: str
    """The file."""
    message: str
    """What is wrong with it, and what to do."""


@dataclass(frozen=True)
class Verification:
    """The outcome of checking every byte of a run."""

    files: int
    """Number of files read."""
    bytes: int
    """Number of bytes read."""
    problems: tuple[Problem, ...]
    """What is not as it was written; empty if all is well."""

    @property
    def ok(self) -> bool:
        """Whether every byte is as it was written."""
        return not self.problems

    def check(self) -> Verification:
        """This verification, if all is well.

        Raises:
            StoreCorrupt: with the first problem, and the number of others.
        """
        if self.problems:
            more = f" (and {len(self.problems) - 1} more problems)" if len(self.problems) > 1 else ""
            raise StoreCorrupt(f"{self.problems[0].message}{more}")
        return self


class Piece(Protocol):
    """A file that holds rows of a run: a shard, or the whole run."""

    def count(self, stack: str) -> int:
        """Number of rows at a stack."""

    def places(self, stack: str) -> Places:
        """Where each row at a stack came from."""

    def features(self, site: str, rows: Tensor) -> Tensor:
        """``(m, d)`` features of some rows, by their indices ``(m,)`` in the file, ascending."""


class Container(Protocol):
    """The folder or file that holds a run."""

    @property
    def manifest(self) -> Manifest:
        """What the run is."""

    @property
    def pieces(self) -> Sequence[Piece]:
        """The files that hold its rows."""

    def verify(self) -> Verification:
        """Read every byte and compare it with what was written."""


class Run:
    """One checkpoint read on one probe set: for every site a matrix of rows, in the data's order. Made by ``open_run``."""

    def __init__(self, path: Path, container: Container) -> None:
        self.path = path
        """The folder or the file."""
        self._container = container
        self._order: dict[str, tuple[Rows, Tensor]] = {}

    @property
    def manifest(self) -> Manifest:
        """What the run is: checkpoint, probe set, rows, dtype, versions."""
        return self._container.manifest

    @property
    def name(self) -> str:
        """The name of the run in tables and figures: that of the manifest, as far as it can be shown."""
        return printable(self.manifest.name).strip() or UNNAMED

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The reading points, in the network's order."""
        return tuple(Site.parse(name) for name in self.manifest.sites)

    @property
    def rows(self) -> Rows:
        """Where each row at the last site came from. Sites of other stacks may have other rows; see :meth:`rows_at`."""
        return self.rows_at(self.sites[-1])

    def rows_at(self, site: Site | str) -> Rows:
        """Where each row at a site came from, in the data's order: by sample in the probe set, then by token position."""
        return self._ordered(self.manifest.stack(self.site(site)))[0]

    def width(self, site: Site | str) -> int:
        """Number of features at a site."""
        return self.manifest.width(self.site(site))

    def n(self, site: Site | str) -> int:
        """Number of rows at a site."""
        stack = self.manifest.stack(self.site(site))
        return sum(piece.count(stack) for piece in self._container.pieces)

    def features(self, site: Site | str) -> Tensor:
        """The features at a site, ``(n, d)`` in the stored dtype and the data's order.

        Raises:
            UnknownName: if the run has no such site; the message lists those it has.
            StoreCorrupt: if bytes are not those that were written.
        """
        name = str(self.site(site))
        return self._gather(name, self._ordered(self.manifest.stack(name))[1])

    def stretches(self, site: Site | str) -> Iterator[Tensor]:
        """The rows of :meth:`features`, :data:`STRETCH` bytes at a time, so that memory does not grow with n.

        Yields:
            ``(m, d)`` features, one stretch of rows after the other.
        """
        name = str(self.site(site))
        for stored in self._ordered(self.manifest.stack(name))[1].split(self._step(name)):
            yield self._gather(name, stored)

    def streamed(self, site: Site | str) -> Streamed:
        """The rows of :meth:`features` as a matrix that stays in its files: some rows are read when they are asked for."""
        name = str(self.site(site))
        order = self._ordered(self.manifest.stack(name))[1]
        shape = (len(order), self.manifest.width(name))
        return Streamed(shape, self.manifest.torch_dtype, lambda rows: self._gather(name, order[rows]))

    def bytes(self, site: Site | str) -> int:
        """Bytes of the features at a site."""
        return self.n(site) * self.width(site) * self.manifest.torch_dtype.itemsize

    def _step(self, name: str) -> int:
        """Number of rows in a stretch."""
        return max(1, STRETCH // (self.manifest.width(name) * self.manifest.torch_dtype.itemsize))

    def _gather(self, name: str, stored: Tensor) -> Tensor:
        """``(m, d)`` features of the rows stored at ``(m,)`` indices, which count through all pieces."""
        out = torch.empty((len(stored), self.manifest.width(name)), dtype=self.manifest.torch_dtype)
        # Each piece is read once and in ascending order, and its rows are scattered to where they were asked for.
        ascending, place = stored.sort()
        ends = self._ends(self.manifest.stack(name))
        stops = [0, *torch.searchsorted(ascending, ends).tolist()]
        for piece, first, start, stop in zip(
            self._container.pieces, [0, *ends.tolist()], stops, stops[1:], strict=False
        ):
            for low in range(start, stop, self._step(name)):
                high = min(low + self._step(name), stop)
                out[place[low:high]] = piece.features(name, ascending[low:high] - first)
        return out

    def _ends(self, stack: str) -> Tensor:
        """``(pieces,)`` how many rows of a stack lie in each piece and those before it."""
        return torch.tensor([piece.count(stack) for piece in self._container.pieces], dtype=torch.int64).cumsum(0)

    def verify(self) -> Verification:
        """Read every byte of the run and compare it with what was written."""
        return self._container.verify()

    def site(self, site: Site | str) -> Site:
        """The site of this run with this spelling. A module outside any stack may be given by its name alone.

        Raises:
            UnknownName: if the run has no such site.
        """
        for spelled in (str(site), f"{site}.output"):
            if spelled in self.manifest.sites:
                return Site.parse(spelled)
        raise UnknownName(f"the run {self.path} has no site {str(site)!r}; it has {describe(self.sites)}")

    def _ordered(self, stack: str) -> tuple[Rows, Tensor]:
        """The rows of a stack in the data's order, and the index at which each is stored, counted through all pieces."""
        if stack not in self._order:
            columns = zip(*(piece.places(stack) for piece in self._container.pieces), strict=True)
            sample, position, role = (torch.cat(list(column)) for column in columns)
            order = data_order(sample, position)
            self._order[stack] = (Rows(sample[order], position[order], role[order], self.manifest.ids), order)
        return self._order[stack]

    def _repr_html_(self) -> str:
        last, manifest = self.sites[-1], self.manifest
        told = {
            "checkpoint": manifest.checkpoint.get("path"),
            "data": f"{manifest.probe['name']}: {len(manifest.ids)} samples",
            "rows": f"{manifest.rows.get('kind')}: {self.n(last)} at {last}",
            "sites": describe(self.sites),
            "features": f"{self.width(last)} of {manifest.dtype} at {last}",
            "notes": " · ".join(map(str, manifest.notes)),
        }
        return facts(self.name, told)

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {describe(self.sites)}, n={self.n(self.sites[-1])}, {self.manifest.dtype})"


def data_order(sample: Tensor, position: Tensor) -> Tensor:
    """``(n,)`` indices that put rows into the data's order: by sample, then by position (``FORMAT.md``, Reading)."""
    order = torch.argsort(position, stable=True)  # a stable sort by the second key, then one by the first
    return order[torch.argsort(sample[order], stable=True)]


def checked_places(columns: Mapping[str, Tensor], manifest: Manifest, path: Path) -> Places:
    """The columns ``sample``, ``position`` and ``role``, after checking that their values exist.

    Raises:
        StoreCorrupt: if a sample or a role does not exist.
    """
    sample, position, role = columns["sample"], columns["position"], columns["role"]
    if len(sample) and (
        not 0 <= int(sample.min()) <= int(sample.max()) < len(manifest.ids) or int(role.max()) >= len(ROLES)
    ):
        raise corrupt(f"{path} names a sample or a role that does not exist")
    return sample, position, role
