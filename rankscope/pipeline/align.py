"""Several runs on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rankscope.errors import NotComparable
from rankscope.features import Rows, common, first_difference
from rankscope.pipeline.source import TENSORS
from rankscope.sites import Site, describe, select
from rankscope.store import Run


@dataclass(frozen=True)
class Aligned:
    """What several runs have in common."""

    runs: tuple[Run, ...]
    """The runs."""
    sites: tuple[Site, ...]
    """The sites that all have."""
    common_rows: bool
    """Whether rows that only some have are left out."""

    def at(self, site: Site) -> tuple[list[Tensor], Rows]:
        """The features of each run at a site, on the same rows."""
        features = [run.features(site) for run in self.runs]
        rows = [run.rows_at(site) for run in self.runs]
        if all(first_difference(rows[0], other) is None for other in rows[1:]):
            return features, rows[0]
        if not self.common_rows:
            raise NotComparable(self._words(site, rows))
        for i in range(1, len(rows)):
            mine, theirs = common(rows[0], rows[i])
            features[: i + 1] = [*(x[mine] for x in features[:i]), features[i][theirs]]
            rows[: i + 1] = [*(r[mine] for r in rows[:i]), rows[i][theirs]]
        return features, rows[0]

    def _words(self, site: Site, rows: Sequence[Rows]) -> str:
        other = next(i for i, r in enumerate(rows) if first_difference(rows[0], r))
        return (
            f"the rows of {self.runs[0].name} and {self.runs[other].name} differ at {site}: "
            f"{first_difference(rows[0], rows[other])}; collect both on the same data, or compare the common rows (common_rows)"
        )


def data_notes(runs: Sequence[Run]) -> list[str]:
    """What is to be said where runs were read on different data under the same ids.

    Means over samples may be compared so, say of two prompts; tokens may not, and neither may tensors, whose ids are
    only numbers: there the same ids would hide that the rows are not the same.

    Raises:
        NotComparable: for those.
    """
    notes = []
    first = runs[0]
    for other in runs[1:]:
        imported = any("form" in run.manifest.checkpoint for run in (first, other))
        mine, theirs = (run.manifest.probe for run in (first, other))
        if imported or mine["fingerprint"] == theirs["fingerprint"] or first.manifest.ids != other.manifest.ids:
            continue
        words = f"{first.name} and {other.name} were read on different data whose samples have the same ids"
        if mine["name"] == TENSORS or any(len(run.rows) > run.rows.samples for run in (first, other)):
            raise NotComparable(f"{words}, so that their rows are not the same; collect both on the same data")
        notes.append(f"{words}; what they share is the samples, not the inputs")
    return notes


def distinct_names(runs: Sequence[Run]) -> tuple[str, ...]:
    """The names of the runs, numbered where two are called the same."""
    names = [run.name for run in runs]
    return tuple(n if names.count(n) == 1 else f"{n}#{i + 1}" for i, n in enumerate(names))


def shared_sites(runs: Sequence[Run], sites: str | Sequence[str | Site]) -> tuple[Site, ...]:
    """Those of the sites asked for that all runs have.

    Raises:
        NotComparable: if they share none.
        UnknownName: if one was asked for that not all have.
    """
    shared = tuple(s for s in runs[0].sites if all(s in run.sites for run in runs[1:]))
    if not shared:
        what = "; ".join(f"{run.name} has {describe(run.sites)}" for run in runs)
        raise NotComparable(f"the runs share no site: {what}")
    return select(sites, shared)
