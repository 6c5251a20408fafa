"""Sums instead of rows: what a run that was collected with ``keep="moments"`` holds (``FORMAT.md``, Sums).

Its shards are groups of whole samples, each with the sums over its rows at every site, about a shift of its own. So the size
of a run does not depend on the number of rows, and groups may be summed in any order, by any process, to the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.linalg.about import one_a_sample, symmetric, triangle
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments
from rankscope.sites import Site
from rankscope.store.files import corrupt
from rankscope.store.manifest import Manifest
from rankscope.store.plain import Json, digest, member
from rankscope.store.run import Container, Run

KEPT = "moments"
"""The ``kept`` of such a run in the manifest's ``pooling``."""

# The sums by name with what they are: a number, a vector of the width, a symmetric matrix, or the shift itself.
_OF_ROWS = {"shift": "vector", "first": "vector", "second": "matrix", "third": "vector", "fourth": "number"}
_NUMBERS = ("samples", "sizes_squared", "traces_squared", "norms_squared", "sized_traces")
_OF_SAMPLES = {
    **dict.fromkeys(_NUMBERS, "number"),
    **dict.fromkeys(("sized_firsts", "traced_firsts", "turned_firsts"), "vector"),
    **dict.fromkeys(("outer", "sized_seconds"), "matrix"),
}
_OF_EACH_ROW = {"hash": torch.int64, "length": torch.float64}
_OF_PLACES = {"sample": torch.int64, "position": torch.int64, "role": torch.uint8}
_OF_COUNTS = {"sample": torch.int64, "count": torch.int64}


class Crossed(NamedTuple):
    """The sums over pairs of rows of two runs, by the names in :class:`~rankscope.linalg.moments.PairMoments`."""

    cross: Tensor
    a_weighted: Tensor
    b_weighted: Tensor
    norms: Tensor
    b_shift: Tensor
    """``(d,)`` the shift of the other run in this group, by which it is known that its own sums are of the same rows."""


class OfEachRow(NamedTuple):
    """What is kept of each of n rows."""

    hash: Tensor
    """``(n,)`` int64 hash of its numbers."""
    length: Tensor
    """``(n,)`` its length, float64."""


@dataclass(frozen=True)
class Summing:
    """How rows became sums: the manifest's ``pooling`` of such a run."""

    groups: int
    """Number of groups of whole samples, each a shard."""
    several: bool
    """Whether a sample may have several rows, so that what rows of one sample share is summed too."""
    each_row: bool
    """Whether place, length and a hash of each row are kept, by which copies and massive rows are found."""
    beside: tuple[tuple[str, dict[str, int]], ...] = ()
    """The runs that were summed beside this one: the :func:`identity` of each, and its width at the sites that both have."""

    def to_json(self) -> dict[str, Json]:
        """The manifest's ``pooling``."""
        others: list[Json] = [{"run": run, "widths": {**widths}} for run, widths in self.beside]
        return {
            "kept": KEPT, "groups": self.groups, "several": self.several, "each_row": self.each_row, "beside": others,
        }  # fmt: skip

    @classmethod
    def of(cls, manifest: Manifest, path: Path = Path("the manifest")) -> Summing | None:
        """How the rows of a run became sums; None if it holds rows.

        Raises:
            StoreCorrupt: if the manifest says nothing that can be.
        """
        if "kept" not in manifest.pooling:
            return None
        value = manifest.pooling
        beside = []
        for one in member(value, "beside", list, path):
            entry: Mapping[str, Json] = one if isinstance(one, dict) else {}
            widths: dict[str, Any] = member(entry, "widths", dict, path)
            if not all(site in manifest.sites and type(d) is int and d > 0 for site, d in widths.items()):
                raise corrupt(f"{path}: the widths of a run beside it are not those of sites")
            beside.append((member(entry, "run", str, path), widths))
        made = cls(
            member(value, "groups", int, path), member(value, "several", bool, path), member(value, "each_row", bool, path),
            tuple(beside),
        )  # fmt: skip
        if made.to_json() != value or made.groups != manifest.batches:
            raise corrupt(f"{path}: its pooling is not that of a run of sums with {manifest.batches} groups")
        return made

    def shapes(
        self, manifest: Manifest, counts: Mapping[str, int], samples: int
    ) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """The dtype and shape of every tensor of a group, in the order of the file.

        Args:
            manifest: what the run is.
            counts: the number of rows at each stack.
            samples: the number of samples of the group.
        """
        m, found = manifest, dict[str, tuple[torch.dtype, tuple[int, ...]]]()
        for site in m.sites:
            d, n = m.width(site), counts[m.stack(site)]
            size = {"number": (), "vector": (d,), "matrix": (d * (d + 1) // 2,)}
            sums = {**_OF_ROWS, **(_OF_SAMPLES if self.several else {})}
            found |= {f"{site}/{name}": (torch.float64, size[kind]) for name, kind in sums.items()}
            for k, (_, widths) in enumerate(self.beside):
                if site in widths:
                    shapes = (d, widths[site]), (d,), (widths[site],), (), (widths[site],)
                    names = (f"{site}/beside/{k}/{name}" for name in Crossed._fields)
                    found |= {name: (torch.float64, shape) for name, shape in zip(names, shapes, strict=True)}
            if self.each_row:
                found |= {f"{site}/{name}": (dtype, (n,)) for name, dtype in _OF_EACH_ROW.items()}
        for stack in m.stacks:
            of_rows, length = (_OF_PLACES, counts[stack]) if self.each_row else (_OF_COUNTS, samples)
            found |= {f"rows/{stack}/{name}": (dtype, (length,)) for name, dtype in of_rows.items()}
        return found


def identity(manifest: Manifest) -> str:
    """The digest of all that the rows at a site depend on: two runs of sums with one identity summed the same rows."""
    apart = ("pooling", "sites", "order", "probe")
    kept = {name: value for name, value in manifest.identity().items() if name not in apart}
    return digest({**kept, "probe": {name: manifest.probe[name] for name in ("fingerprint", "ids")}})


def tensors_of(site: str, sums: Moments | ClusterMoments) -> dict[str, Tensor]:
    """The sums over one group at a site as they are stored, by the names of their tensors."""
    rows = sums if isinstance(sums, Moments) else sums.moments
    stored = [(name, getattr(rows, name), kind) for name, kind in _OF_ROWS.items()]
    if isinstance(sums, ClusterMoments):
        stored += [(name, getattr(sums, name), kind) for name, kind in _OF_SAMPLES.items()]
    return {f"{site}/{name}": triangle(x) if kind == "matrix" else x for name, x, kind in stored}


class SummedRun(Run):
    """A run of which sums are kept, and no rows. Made by ``open_run``."""

    def __init__(self, path: Path, container: Container) -> None:
        super().__init__(path, container)
        found = Summing.of(container.manifest, path)
        assert found is not None, "a run of sums says so in its manifest"
        self.summing = found
        """How its rows became sums."""

    def features(self, site: Site | str) -> NoReturn:
        """There are none.

        Raises:
            UsageError: saying what to collect instead.
        """
        raise UsageError(
            f"{self.path} holds sums over the rows at {self.site(site)} and not the rows, which this needs; collect it with "
            "--keep rows (keep='rows')"
        )

    stretches = features

    @cached_property
    def identity(self) -> str:
        """What two runs agree in that summed the same rows."""
        return identity(self.manifest)

    @property
    def group_samples(self) -> tuple[tuple[int, ...], ...]:
        """The samples of each group, as indices into the probe set."""
        return tuple(piece.batch.samples for piece in self._groups)

    @property
    def _groups(self) -> Sequence[Any]:
        return self._container.pieces

    def moments(self, site: Site | str, group: int) -> Moments:
        """The sums over the rows of a group at a site, about a shift of the group's own."""
        name = str(self.site(site))
        n = torch.tensor(self.rows_of_group(name, group), dtype=torch.float64)
        return Moments(rows=n, **self._read(name, group, _OF_ROWS))

    def about(self, site: Site | str, group: int) -> tuple[Tensor, Tensor]:
        """``(d,)`` the shift of a group at a site, and ``(d,)`` the sum of its rows about it."""
        name, piece = str(self.site(site)), self._groups[group]
        return piece.tensor(f"{name}/shift"), piece.tensor(f"{name}/first")

    def clusters(self, site: Site | str, group: int) -> ClusterMoments:
        """Those, and the sums over the samples of the group."""
        moments = self.moments(site, group)
        if not self.summing.several:
            return one_a_sample(moments)
        return ClusterMoments(moments, **self._read(str(self.site(site)), group, _OF_SAMPLES))

    def _read(self, name: str, group: int, sums: Mapping[str, str]) -> dict[str, Tensor]:
        width = self.manifest.width(name)
        found = {key: self._groups[group].tensor(f"{name}/{key}") for key in sums}
        return {key: symmetric(x, width) if sums[key] == "matrix" else x for key, x in found.items()}

    def rows_of_group(self, site: Site | str, group: int) -> int:
        """The number of rows of a group at a site."""
        return int(self._groups[group].count(self.manifest.stack(self.site(site))))

    def mean(self, site: Site | str, groups: Iterable[int]) -> Tensor:
        """``(d,)`` the mean over the rows of some groups at a site, float64."""
        name = str(self.site(site))
        total, count = torch.zeros(self.manifest.width(name), dtype=torch.float64), 0
        for group in groups:
            (shift, first), n = self.about(site, group), self.rows_of_group(site, group)
            total += first + n * shift
            count += n
        return total / count

    def beside(self, other: SummedRun, site: Site | str) -> int | None:
        """The number of another run among those that were summed beside this one at a site; None if it is not among them."""
        name = str(self.site(site))
        places = (k for k, (run, at) in enumerate(self.summing.beside) if run == other.identity and name in at)
        return next(places, None)

    def crossed(self, site: Site | str, group: int, place: int) -> Crossed:
        """The sums over pairs of rows of this run (``a``) and one beside it (``b``), about the shifts of the two."""
        name, piece = str(self.site(site)), self._groups[group]
        return Crossed(*(piece.tensor(f"{name}/beside/{place}/{key}") for key in Crossed._fields))

    def of_each_row(self, site: Site | str) -> OfEachRow | None:
        """What is kept of each row, in the order of :meth:`rows_at`; None if it was not."""
        if not self.summing.each_row:
            return None
        name = str(self.site(site))
        order = self._ordered(self.manifest.stack(name))[1]
        columns = (torch.cat([p.tensor(f"{name}/{key}") for p in self._groups])[order] for key in _OF_EACH_ROW)
        return OfEachRow(*columns)
