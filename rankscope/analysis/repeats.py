"""Rows that are equal number for number, and samples all of whose rows are those of an earlier sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankscope.linalg.hashes import mixed, row_hashes
from rankscope.linalg.streamed import RowMatrix
from rankscope.sites import Site
from rankscope.store import Run
from rankscope.store.sums import SummedRun


def row_classes(x: RowMatrix) -> Tensor:
    """``(n,)`` int64, equal exactly for rows that are equal number for number, by a hash of 64 bits.

    Args:
        x: ``(n, d)`` features.
    """
    return torch.unique(row_hashes(x), return_inverse=True)[1]


def hashes_of(run: Run, site: Site) -> Tensor | None:
    """``(n,)`` int64 hashes of a run's rows; None for sums of rows that were not looked at one by one."""
    if isinstance(run, SummedRun):
        return None if (told := run.of_each_row(site)) is None else told.hash
    return torch.cat([row_hashes(x) for x in run.stretches(site)])


def hash_of_zeros(width: int, dtype: torch.dtype) -> Tensor:
    """``(1,)`` the hash of a row of zeros."""
    return row_hashes(torch.zeros(1, width, dtype=dtype))


def repeated_samples(runs: Sequence[Run], sites: Sequence[Site]) -> dict[str, str]:
    """The ids of samples that stand in the data again, each with the id of the first: their rows are equal in every run.

    One equal row may be chance, or a module that gives the same for everything. So a sample is judged by its rows at the
    first and last site of every stack, embeddings apart, and by no fewer than two; rows of zeros alone say nothing.

    Args:
        runs: the runs; the order of the first one's samples says which came first.
        sites: the sites that all of them have.
    """
    stacks: dict[str, list[Site]] = {}
    for site in sites:
        if site.point != "embed":
            stacks.setdefault(site.stack, []).append(site)
    judged = [site for several in stacks.values() for site in dict.fromkeys((several[0], several[-1]))]
    contents: dict[str, tuple[int, ...]] = dict.fromkeys(runs[0].manifest.ids, ())
    for run in runs:
        own = _sample_hashes(run, judged)
        contents = {name: (*before, own[name]) for name, before in contents.items() if name in own}
        if len(set(contents.values())) == len(contents):  # further runs can only tell more of them apart
            return {}
    first: dict[tuple[int, ...], str] = {}
    found = ((name, first.setdefault(content, name)) for name, content in contents.items())
    return {name: earlier for name, earlier in found if name != earlier}


def _sample_hashes(run: Run, sites: Sequence[Site]) -> dict[str, int]:
    """Id → a hash of all rows of a sample at some sites; without samples of fewer than two rows, or of zeros only."""
    ids = run.manifest.ids
    total, count = torch.zeros(len(ids), dtype=torch.int64), torch.zeros(len(ids), dtype=torch.int64)
    lives = torch.zeros(len(ids), dtype=torch.bool)
    for place, site in enumerate(sites):
        hashes, rows = hashes_of(run, site), run.rows_at(site)
        if hashes is None:  # the rows are not known, and so no sample is known to be another's
            return {name: place for place, name in enumerate(ids)}
        # The sum is over rows in any order, so each is mixed with its position and its site first.
        total.index_add_(0, rows.sample, mixed(hashes + mixed(rows.position * len(sites) + place)))
        count += torch.bincount(rows.sample, minlength=len(ids))
        lives[rows.sample[hashes != hash_of_zeros(run.width(site), run.manifest.torch_dtype)]] = True
    return {ids[i]: int(total[i]) for i in torch.nonzero((count > 1) & lives).flatten().tolist()}
