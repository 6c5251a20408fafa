"""Reading a run: the same whether it is a folder of shards or one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rankscope.errors import StoreCorrupt, UnknownName
from rankscope.features import ROLES, Rows
from rankscope.sites import Site, describe, select
from rankscope.store.manifest import Manifest

STRETCH = 1 << 26
"""The bytes of features that are held at a time where a run is read in stretches; one row, or one sample, at least."""


class Problem(NamedTuple):
    """A file that is not as it was written."""

    path: str
    message: str


@dataclass(frozen=True)
class Report:
    """What checking every byte of a run has found."""

    files: int
    """The number of files that were read."""
    bytes: int
    """The number of bytes that were read."""
    problems: tuple[Problem, ...]
    """What is not as it was written; none where all is well."""

    @property
    def ok(self) -> bool:
        """Whether every byte is as it was written."""
        return not self.problems

    def check(self) -> Report:
        """The report itself, if all is well.

        Raises:
            StoreCorrupt: with the first problem, and how many there are.
        """
        if self.problems:
            more = f" (and {len(self.problems) - 1} more problems)" if len(self.problems) > 1 else ""
            raise StoreCorrupt(f"{self.problems[0].message}{more}")
        return self


class Part(Protocol):
    """A piece of a run that holds whole samples: a shard, or a stretch of a single file."""

    def count(self, stack: str) -> int:
        """The number of rows at a stack."""

    def places(self, stack: str) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row, ``(n,)`` each: place of the sample, token position, role."""

    def features(self, site: str, rows: Tensor | None = None) -> Tensor:
        """``(n, d)`` features, or ``(m, d)`` those of some rows, by their places ``(m,)`` in the piece, ascending."""


class Source(Protocol):
    """Where a run lies."""

    @property
    def manifest(self) -> Manifest:
        """What the run is."""

    @property
    def parts(self) -> Sequence[Part]:
        """The pieces of the run, each with whole samples."""

    def verify(self) -> Report:
        """Reads every byte and compares it with what was written."""


class Run:
    """One checkpoint read on one probe set: for every site a matrix of rows, in the data's order. Made by ``open_run``."""

    def __init__(self, path: Path, source: Source) -> None:
        self.path = path
        """The folder or the file."""
        self._source = source
        self._order: dict[str, tuple[Rows, Tensor]] = {}

    @property
    def manifest(self) -> Manifest:
        """What the run is: checkpoint, probe set, rows, dtype, versions."""
        return self._source.manifest

    @property
    def name(self) -> str:
        """What tables and figures call the run."""
        return self.manifest.name

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The reading points, in the network's order."""
        return tuple(Site.parse(name) for name in self.manifest.sites)

    @property
    def rows(self) -> Rows:
        """Where each row came from, at the last stack: that of the last site. Other stacks may have other rows."""
        return self.rows_at(self.sites[-1])

    def rows_at(self, site: Site | str) -> Rows:
        """Where each row at a site came from, in the data's order: samples in the probe set's, tokens by position."""
        return self._ordered(self.manifest.stack(self.site(site)))[0]

    def width(self, site: Site | str) -> int:
        """The number of features at a site."""
        return self.manifest.width(self.site(site))

    def n(self, site: Site | str) -> int:
        """The number of rows at a site."""
        stack = self.manifest.stack(self.site(site))
        return sum(part.count(stack) for part in self._source.parts)

    def features(self, site: Site | str) -> Tensor:
        """The features at a site, ``(n, d)`` in the stored dtype and the data's order.

        Raises:
            UnknownName: if the run has no such site; the message lists those it has.
            StoreCorrupt: if bytes are not those that were written.
        """
        name = str(self.site(site))
        return self._gathered(name, self._ordered(self.manifest.stack(name))[1])

    def stretches(self, site: Site | str) -> Iterator[Tensor]:
        """The rows of :meth:`features` one after the other, :data:`STRETCH` bytes at a time: memory does not grow with n.

        Yields:
            ``(m, d)`` features.
        """
        name = str(self.site(site))
        step = max(1, STRETCH // (self.manifest.width(name) * self.manifest.torch_dtype.itemsize))
        for stored in self._ordered(self.manifest.stack(name))[1].split(step):
            yield self._gathered(name, stored)

    def _gathered(self, name: str, stored: Tensor) -> Tensor:
        """``(m, d)`` features of the rows that are stored at ``(m,)`` places, counted through all pieces."""
        out = torch.empty((len(stored), self.manifest.width(name)), dtype=self.manifest.torch_dtype)
        ascending, place = stored.sort()
        first = start = 0
        for part in self._source.parts:
            last = first + part.count(self.manifest.stack(name))
            stop = int(torch.searchsorted(ascending, last))
            if stop > start:
                out[place[start:stop]] = part.features(name, ascending[start:stop] - first)
            first, start = last, stop
        return out

    def chunks(self, sites: str | Sequence[Site | str] = "all") -> Iterator[tuple[dict[Site, Tensor], dict[str, Rows]]]:
        """The features piece by piece, so that memory does not grow with the number of rows.

        Whole samples are together in one piece; the pieces come in the order of the plan, not of the data.

        Yields:
            of each chosen site its ``(rows, d)`` features, and of each of their stacks where the rows came from.
        """
        chosen = [self.site(s) for s in (select(sites, self.sites) if isinstance(sites, str) else sites)]
        ids = self.manifest.ids
        for part in self._source.parts:
            stacks = {self.manifest.stack(site) for site in chosen}
            rows = {stack: Rows(*part.places(stack), ids) for stack in self.manifest.stacks if stack in stacks}
            yield {site: part.features(str(site)) for site in chosen}, rows

    def verify(self) -> Report:
        """Reads every byte of the run and compares it with what was written."""
        return self._source.verify()

    def site(self, site: Site | str) -> Site:
        """The site of this run that is so spelled; a module of no stack by its name alone too.

        Raises:
            UnknownName: if the run has no such site.
        """
        for spelled in (str(site), f"{site}.output"):
            if spelled in self.manifest.sites:
                return Site.parse(spelled)
        raise UnknownName(f"the run {self.path} has no site {str(site)!r}; it has {describe(self.sites)}")

    def _ordered(self, stack: str) -> tuple[Rows, Tensor]:
        """The rows of a stack in the data's order, and at which place each is stored, counted through all pieces."""
        if stack not in self._order:
            columns = zip(*(part.places(stack) for part in self._source.parts), strict=True)
            sample, position, role = (torch.cat(list(column)) for column in columns)
            order = torch.argsort(position, stable=True)
            order = order[torch.argsort(sample[order], stable=True)]
            self._order[stack] = (Rows(sample[order], position[order], role[order], self.manifest.ids), order)
        return self._order[stack]

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {describe(self.sites)}, n={self.n(self.sites[-1])}, {self.manifest.dtype})"


def checked_places(
    places: Mapping[str, Tensor], manifest: Manifest, path: Path, samples: frozenset[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The columns ``sample``, ``position`` and ``role``, if every value can be meant.

    Raises:
        StoreCorrupt: if a sample or a role does not exist, or a sample belongs to another batch.
    """
    sample, position, role = places["sample"], places["position"], places["role"]
    if len(sample):
        if not 0 <= int(sample.min()) <= int(sample.max()) < len(manifest.ids) or int(role.max()) >= len(ROLES):
            raise StoreCorrupt(
                f"{path} names a sample or a role that does not exist; collect the run again with --overwrite"
            )
        if samples is not None and not samples.issuperset(sample.tolist()):
            raise StoreCorrupt(
                f"{path} holds samples that the plan puts elsewhere; collect the run again with --overwrite"
            )
    return sample, position, role
