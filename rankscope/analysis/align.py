"""Several runs on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from rankscope import memory
from rankscope.analysis.repeats import repeated_samples
from rankscope.collecting.source import TENSORS
from rankscope.data.intake import COPIED
from rankscope.errors import NotComparable
from rankscope.features import Rows, common, first_difference
from rankscope.linalg.streamed import RowMatrix, taken
from rankscope.sites import Site, describe, select
from rankscope.store import Run
from rankscope.store.sums import SummedRun

_Kept = tuple[Sequence[Tensor | None], Rows]
HELD = 1 / 8
"""The part of the free memory that the rows of all runs at a site may take to be held, because measures make copies of them, some
in float64. More rows are streamed from their files."""
_MOST_NAMED = 3
"""Samples that a note names."""


@dataclass(frozen=True)
class Aligned:
    """One or several runs at the sites and on the rows that they share."""

    runs: tuple[Run, ...]
    """The runs."""
    sites: tuple[Site, ...]
    """The sites that all of them have."""
    common_rows: bool = False
    """Whether rows that only some of them have are left out."""
    all_samples: bool = False
    """Whether samples are kept whose rows are those of an earlier sample in every run."""
    _found: dict[tuple[str, ...], _Kept] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def summed(self) -> tuple[SummedRun, ...]:
        """The runs, if they hold sums instead of rows; empty if they hold rows.

        Raises:
            NotComparable: if some hold the one and some the other.
        """
        found = tuple(run for run in self.runs if isinstance(run, SummedRun))
        if found and len(found) < len(self.runs):
            other = next(run for run in self.runs if not isinstance(run, SummedRun))
            raise NotComparable(
                f"{found[0].name} holds sums and {other.name} rows, which cannot be paired; collect both with --keep moments, or both "
                "with --keep rows"
            )
        return found

    @staticmethod
    def _named(repeated: Mapping[str, str]) -> str:
        """Some of the samples that stand in the data again, each with the first."""
        some = [f"{name!r} is {first!r}" for name, first in list(repeated.items())[:_MOST_NAMED]]
        return "; ".join(some + (["…"] if len(repeated) > _MOST_NAMED else []))

    @cached_property
    def repeated(self) -> dict[str, str]:
        """The samples that are left out because they stand in the data again, each with the first.

        Raises:
            NotComparable: if that leaves a single sample.
        """
        if self.all_samples:
            return {}
        shared = [s for s in self.runs[0].sites if all(s in run.sites for run in self.runs[1:])]
        found, samples = repeated_samples(self.runs, shared), len(self.runs[0].manifest.ids)
        if found and self.summed:
            raise NotComparable(
                f"the rows of {len(found)} of the {samples} samples equal those of an earlier sample ({self._named(found)}), and sums "
                "cannot leave them out; collect without these samples, or measure all the same with --allow-duplicates "
                "(allow_duplicates=True)"
            )
        if found and len(found) == samples - 1:
            raise NotComparable(
                f"all {samples} samples of {self.runs[0].name} have the same rows, so only one is left; collect on samples that "
                "differ in what the model reads"
            )
        return found

    def at(self, site: Site) -> tuple[list[RowMatrix], Rows]:
        """The features of each run at a site, on the same rows; streamed from their files where they are large.

        Raises:
            NotComparable: if the rows differ and common ones were not asked for, or there are none.
        """
        kept, rows = self._kept(site)
        held = sum(run.bytes(site) for run in self.runs) <= HELD * memory.free()
        features = [run.features(site) if held else run.streamed(site) for run in self.runs]
        return [x if k is None else taken(x, k) for x, k in zip(features, kept, strict=True)], rows

    def rows(self, site: Site) -> Rows:
        """The rows at a site.

        Raises:
            NotComparable: as :meth:`at`.
        """
        return self._kept(site)[1]

    def n(self, site: Site) -> int:
        """The number of rows at a site."""
        return len(self.rows(site))

    def samples(self, site: Site) -> set[int]:
        """The places of the samples that have rows at a site, in the first run's ids."""
        return set(self._kept(site)[1].sample.tolist())

    def notes(self) -> list[str]:
        """Samples that are left out, and where rows differ how many all runs have, of those that each has, stack by stack."""
        told = list(dict.fromkeys(str(n) for run in self.runs for n in run.manifest.notes if COPIED in str(n)))
        if self.repeated:
            told.append(
                f"{len(self.repeated)} of the {len(self.runs[0].manifest.ids)} samples are left out, because their rows equal those "
                f"of an earlier sample: {self._named(self.repeated)}"
            )
        of_stack = {site.stack: (site, self._shared_rows(site)) for site in self.sites if self.common_rows}
        return told + [
            f"{stack}: the {len(rows)} rows common to all runs, of {', '.join(str(run.n(site)) for run in self.runs)}"
            for stack, (site, (kept, rows)) in of_stack.items()
            if kept[0] is not None
        ]

    def _kept(self, site: Site) -> _Kept:
        """For each run the rows that are kept at a site, None for all, and what they are; found once per stack."""
        stacks = tuple(run.manifest.stack(run.site(site)) for run in self.runs)
        if stacks not in self._found:
            kept, rows = self._shared_rows(site)
            again = torch.tensor([name in self.repeated for name in rows.ids])[rows.sample]
            if again.any():
                stay = torch.nonzero(~again).flatten()
                kept, rows = [stay if k is None else k[stay] for k in kept], rows[stay]
            self._found[stacks] = kept, rows
        return self._found[stacks]

    def _shared_rows(self, site: Site) -> _Kept:
        rows = [run.rows_at(site) for run in self.runs]
        if all(first_difference(rows[0], other) is None for other in rows[1:]):
            return [None] * len(rows), rows[0]
        if self.summed or (not self.common_rows and not self._reordered(rows)):
            raise NotComparable(self._how_rows_differ(site, rows))
        shared, kept = rows[0], [torch.arange(len(rows[0]))]
        for other in rows[1:]:
            mine, theirs = common(shared, other)
            shared, kept = shared[mine], [*(k[mine] for k in kept), theirs]
        return kept, shared

    def _reordered(self, rows: Sequence[Rows]) -> bool:
        """Whether imported rows are the same in another order, by ids that their files gave.

        For runs that were collected another order is other data, whose fingerprint differs.
        """
        sources = [run.manifest.checkpoint for run in self.runs]
        if sum("form" not in source for source in sources) > 1 or any("ids" in source for source in sources):
            return False
        return all(sorted(other.keys()) == sorted(rows[0].keys()) for other in rows[1:])

    def _how_rows_differ(self, site: Site, rows: Sequence[Rows]) -> str:
        place, difference = next((i, d) for i, r in enumerate(rows) if (d := first_difference(rows[0], r)))
        one, other = self.runs[0], self.runs[place]
        kinds = [run.manifest.rows for run in (one, other)]
        names = " and ".join(f"{k['kind']}{' with special tokens' if k.get('keep_special') else ''}" for k in kinds)
        remedy = (
            "collect both on the same data" if kinds[0] == kinds[1] else f"their rows are {names}; collect one again"
        )
        common_ones = "" if self.summed else ", or compare the common rows (--common-rows, common_rows=True)"
        return f"the rows of {one.name} and {other.name} differ at {site}: {difference}; {remedy}{common_ones}"


def data_notes(runs: Sequence[Run]) -> list[str]:
    """A caution for each run that was read on other data than the first, under the same ids.

    Means over samples can be compared across data, for instance across two prompts. Tokens cannot, and neither can
    tensors, whose ids are mere numbers: there equal ids would hide that the rows differ.

    Raises:
        NotComparable: for those.
    """
    unnamed = [run.name for run in runs if run.manifest.checkpoint.get("ids") == "position"]
    notes = []
    if unnamed and len(runs) > 1:
        notes.append(
            f"rows are paired by their position in the file, for {' and '.join(dict.fromkeys(unnamed))} came without ids; import with "
            "ids if the files may differ in order"
        )
    first = runs[0]
    for other in runs[1:]:
        imported = any("form" in run.manifest.checkpoint for run in (first, other))
        mine, theirs = (run.manifest.probe for run in (first, other))
        if imported or mine["fingerprint"] == theirs["fingerprint"] or first.manifest.ids != other.manifest.ids:
            continue
        words = f"{first.name} and {other.name} were read on different data whose samples have the same ids"
        if mine["name"] == TENSORS or any(len(run.rows) > run.rows.samples for run in (first, other)):
            raise NotComparable(f"{words}, so their rows differ; collect both on the same data")
        notes.append(f"{words}; what they share is the samples, not the inputs")
    return notes


def distinct_names(runs: Sequence[Run]) -> tuple[str, ...]:
    """The names of the runs, numbered where two have the same name."""
    names = [run.name for run in runs]
    return tuple(n if names.count(n) == 1 else f"{n}#{i + 1}" for i, n in enumerate(names))


def shared_sites(runs: Sequence[Run], sites: str | Sequence[str | Site]) -> tuple[Site, ...]:
    """The sites asked for, which all runs must have.

    Raises:
        NotComparable: if the runs share no site.
        UnknownName: if a site was asked for that some run lacks.
    """
    shared = tuple(s for s in runs[0].sites if all(s in run.sites for run in runs[1:]))
    if not shared:
        what = "; ".join(f"{run.name} has {describe(run.sites)}" for run in runs)
        raise NotComparable(f"the runs share no site: {what}")
    return select(sites, shared)
