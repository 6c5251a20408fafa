"""Sums over the rows of a collect instead of the rows: group after group of whole samples, each committed when it is whole.

Only one group is in memory, whatever the number of rows. Its sums depend on its samples and batches alone, about a shift of
its own (the mean of its first batch, near which nothing cancels), so that several processes, or one that was killed and goes
on, make the same bytes; when the sums are read, those of all groups are brought to one shift (:mod:`rankscope.linalg.about`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from rankscope.errors import DataError, NonFinite, NotComparable
from rankscope.features import Rows, first_difference, samples_in_groups
from rankscope.linalg.hashes import row_hashes
from rankscope.linalg.moments import PairMoments
from rankscope.linalg.rows import LARGE
from rankscope.linalg.running import RunningSums
from rankscope.store import Batch, Manifest, Writer
from rankscope.store.run import Places
from rankscope.store.sums import Crossed, Summing, tensors_of

LOOKED_AT = 1 << 25
"""The most rows times sites of which a hash and the length are kept (512 MiB)."""


AT_ONCE = 512
"""Rows that are added at once, if batches are smaller."""


def groups_of_samples(ids: Sequence[str], lengths: Sequence[int], groups: int) -> tuple[Batch, ...]:
    """The groups of a run of sums: those of :func:`~rankscope.features.samples_in_groups`, as a plan.

    Args:
        ids: the ids of the samples.
        lengths: tokens of each sample.
        groups: the number of groups; fewer samples make fewer.
    """
    n, nothing = len(ids), torch.zeros(len(ids), dtype=torch.int64)
    of_sample = samples_in_groups(Rows(torch.arange(n), nothing, nothing, tuple(ids)), groups)
    members = [torch.nonzero(of_sample == g).flatten().tolist() for g in range(int(of_sample.max()) + 1)]
    return tuple(Batch(g, tuple(some), max(lengths[i] for i in some)) for g, some in enumerate(members))


def name_in_batch(run: int, name: str) -> str:
    """The name of a site or stack of one of several runs whose batches come together; the first is 0."""
    return f"{run}/{name}" if run else name


class SumsSink:
    """Adds up the rows of one or several runs that are read together, and writes the sums of each group when it is whole.

    Args:
        writers: a writer for each run, the one that the others stand beside first.
        batches: the batches that are read, by group.
        device: where sums are taken.
    """

    def __init__(
        self, writers: Sequence[Writer], batches: Mapping[int, Sequence[Batch]], device: torch.device | str = "cpu"
    ) -> None:
        self._writers, self._device = writers, device
        due = [group.id for group in writers[0].todo]
        self.todo = tuple(batch for group in due for batch in batches[group])
        """The batches that this process has yet to read, in the order of the plan."""
        self._group = {batch.id: (group, batch) for group, some in batches.items() for batch in some}
        self._left = {group: len(some) for group, some in batches.items()}
        self._gathered: list[_Gathered] = []
        self._waiting: list[tuple[Mapping[str, Tensor], Mapping[str, Places], Sequence[int]]] = []

    def write(self, batch: int, features: Mapping[str, Tensor], rows: Mapping[str, Places]) -> None:
        """Add up a batch, once; after the last of a group, commit it.

        Args:
            batch: its id.
            features: ``(rows, d)`` for every site of every run, by :func:`name_in_batch`.
            rows: for every stack of every run, where its rows came from.

        Raises:
            NonFinite: if a feature is NaN or infinite; the site and the sample are named.
            NotComparable: if features are too large or too small to be summed, or the rows of two runs differ.
            DataError: if a sample has no row at a stack.
            StorageError: if the disk is full, read-only or failing.
        """
        group, read = self._group[batch]
        if not self._gathered:
            self._gathered = [_Gathered(w.manifest, self._device) for w in self._writers]
            for (i, one), (j, other) in combinations(enumerate(self._gathered), 2):
                one.stand_beside(j - i - 1, other)
        self._left[group] -= 1
        self._waiting.append((features, rows, read.samples))
        if (
            sum(len(places[0]) for _, some, _ in self._waiting for places in some.values()) < AT_ONCE * len(rows)
            and self._left[group]
        ):
            return
        self._add_waiting()
        if not self._left[group]:
            # The run that the others stand beside comes last: where it has a group, all have it
            for writer, one in reversed([*zip(self._writers, self._gathered, strict=True)]):
                if group not in writer.done:
                    writer.write_sums(group, *one.tensors())
            self._gathered = []

    def _add_waiting(self) -> None:
        """Add the batches that wait, as one: a product of few rows costs as much as one of many."""
        samples = [i for _, _, some in self._waiting for i in some]
        for k, one in enumerate(self._gathered):
            features = {
                site: torch.cat([x[name_in_batch(k, site)] for x, _, _ in self._waiting]) for site in one.manifest.sites
            }
            rows: dict[str, Places] = {}
            for stack in one.manifest.stacks:
                columns = zip(*(places[name_in_batch(k, stack)] for _, places, _ in self._waiting), strict=True)
                sample, position, role = (torch.cat(column) for column in columns)
                rows[stack] = sample, position, role
            one.add(features, rows, samples)
        for one in self._gathered:
            one.add_pairs()
        self._waiting = []

    def finish(self) -> bool:
        """Complete the runs when every group was summed; whether they are complete, or other processes have groups left."""
        return [writer.finish() for writer in reversed(self._writers)][-1]


class _Gathered:
    """The sums over the rows of one group of one run, as they grow."""

    def __init__(self, manifest: Manifest, device: torch.device | str) -> None:
        summing = Summing.of(manifest)
        assert summing is not None, "only a run of sums is summed"
        self.manifest, self._summing, self._device = manifest, summing, device
        self._sums: dict[str, RunningSums] = {}
        self._beside: dict[int, _Gathered] = {}
        self._pairs: dict[tuple[str, int], PairMoments] = {}
        self._of_each: dict[str, list[Tensor]] = {}
        self._largest: dict[str, float] = {}
        self._last: dict[str, Tensor] = {}
        self._rows: dict[str, Places] = {}

    def stand_beside(self, place: int, other: _Gathered) -> None:
        """Sum pairs of rows with another run, at the place that it has in the manifest."""
        self._beside[place] = other

    def add(self, features: Mapping[str, Tensor], rows: Mapping[str, Places], samples: Sequence[int]) -> None:
        m = self.manifest
        for stack, places in rows.items():
            self._check_samples(stack, places[0], samples)
            kept = zip(("sample", "position", "role"), places, strict=True)
            for name, x in kept:
                self._of_each.setdefault(f"rows/{stack}/{name}", []).append(x)
        self._rows = dict(rows)
        for site in m.sites:
            x, (sample, position, _) = features[site].to(m.torch_dtype), rows[m.stack(site)]
            self._check(site, x, sample, position)
            if site not in self._sums:
                shift = x.to(self._device).double().mean(0)
                self._sums[site] = RunningSums(shift, several=self._summing.several)
            self._last[site] = self._sums[site].add(x, sample)
            if self._summing.each_row:
                length = torch.linalg.vector_norm(x.double(), dim=1)
                for name, column in (("hash", row_hashes(x)), ("length", length)):
                    self._of_each.setdefault(f"{site}/{name}", []).append(column)

    def _check_samples(self, stack: str, sample: Tensor, samples: Sequence[int]) -> None:
        if without := set(samples) - set(sample.tolist()):
            ids = self.manifest.ids
            raise DataError(
                f"sample {ids[min(without)]!r} has no row at {stack} ({len(without)} such samples beside it), and sums are over "
                "groups of samples that all have: leave it out, choose sites of other stacks (--layers), or keep rows (--keep rows)"
            )

    def _check(self, site: str, x: Tensor, sample: Tensor, position: Tensor) -> None:
        """Refuse what would make the sums, of fourth powers among others, infinite or nothing."""
        largest = max(abs(float(end)) for end in x.aminmax())
        if not largest < float("inf"):  # NaN included, which aminmax passes on
            row = int((~torch.isfinite(x)).any(1).nonzero()[0])
            raise NonFinite(
                f"features at {site} are not finite: sample {self.manifest.ids[int(sample[row])]!r}, token {int(position[row])}. "
                "Nothing of its group was written. Collect in float32 or bfloat16, or leave the sample out"
            )
        self._largest[site] = max(largest, self._largest.get(site, 0.0))
        if largest > 2.0**LARGE:
            raise NotComparable(_too_far(site, largest))

    def add_pairs(self) -> None:
        """Add the pairs of rows of the batch that this run and those beside it have just taken up."""
        for place, other in self._beside.items():
            shared = self._summing.beside[place][1]
            for stack in dict.fromkeys(self.manifest.stack(site) for site in shared):
                self._check_alike(stack, other)
            for site in shared:
                if (site, place) not in self._pairs:
                    self._pairs[site, place] = PairMoments.empty(self._sums[site].rows, other._sums[site].rows)
                self._pairs[site, place].take(self._last[site], other._last[site])

    def _check_alike(self, stack: str, other: _Gathered) -> None:
        ids, sides = self.manifest.ids, (self._rows[stack], other._rows[stack])
        if difference := first_difference(*(Rows(*places, ids) for places in sides)):
            raise NotComparable(
                f"the rows of {self.manifest.name} and {other.manifest.name} differ at {stack}: {difference}; sums of pairs of rows "
                "need the same rows in both, so collect these runs one by one"
            )

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Every tensor of the group by name, and the number of rows at each stack."""
        for site, largest in self._largest.items():
            if 0 < largest < 2.0**-LARGE:
                raise NotComparable(_too_far(site, largest))
        found = {name: torch.cat(parts) for name, parts in self._of_each.items()}
        counts = {stack: len(found[f"rows/{stack}/sample"]) for stack in self.manifest.stacks}
        if not self._summing.each_row:
            for stack in self.manifest.stacks:
                names, each = torch.unique(found[f"rows/{stack}/sample"], return_counts=True)
                found |= {f"rows/{stack}/sample": names, f"rows/{stack}/count": each}
        for site, running in self._sums.items():
            found |= tensors_of(site, running.sums)
        for (site, place), p in self._pairs.items():
            crossed = Crossed(p.cross, p.a_weighted, p.b_weighted, p.norms, p.b.shift)
            found |= {f"{site}/beside/{place}/{key}": x for key, x in crossed._asdict().items()}
        return found, counts


def _too_far(site: str, largest: float) -> str:
    return (
        f"the largest feature at {site} is {largest:.3g}, whose fourth power float64 does not hold; keep rows (--keep rows), which "
        "are brought to another unit when they are measured"
    )


def bytes_in_memory(manifests: Sequence[Manifest]) -> int:
    """The bytes that the sums over one group take when they are written: of all matrices, beside which the rest is nothing."""
    total = 0
    for manifest in manifests:
        summing = Summing.of(manifest)
        assert summing is not None, "only a run of sums is summed"
        matrices = 3 if summing.several else 1
        # Each is written as a triangle, of which there is a copy; cross moments are written as they are
        total += sum(12 * matrices * manifest.width(site) ** 2 for site in manifest.sites)
        total += sum(8 * manifest.width(site) * d for _, widths in summing.beside for site, d in widths.items())
    return total


def bytes_on_disk(manifest: Manifest, rows: Mapping[str, float]) -> int:
    """The bytes that a run of sums takes.

    Args:
        manifest: what the run is, its plan in it.
        rows: the approximate number of rows at each stack, of all samples.
    """
    summing = Summing.of(manifest)
    assert summing is not None, "only a run of sums is summed"
    shapes = summing.shapes(manifest, dict.fromkeys(manifest.stacks, 0), 0)
    size = sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in shapes.values()) * summing.groups
    if summing.each_row:
        size += int(sum(17 * n for n in rows.values()) + sum(16 * rows[manifest.stack(s)] for s in manifest.sites))
    return size
