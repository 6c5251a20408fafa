"""Rows that are equal number for number, and samples all of whose rows are those of an earlier sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankscope.linalg.rows import blocks
from rankscope.linalg.streamed import RowMatrix
from rankscope.sites import Site
from rankscope.store import Run

CHUNK = 1 << 16
"""The numbers that are looked at together: what is made of them stays in caches, which takes a seventh of the time of 2²² numbers."""
_SPREAD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2⁶⁴ over the golden ratio, as int64: Knuth's multiplicative hash
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def row_classes(x: RowMatrix) -> Tensor:
    """``(n,)`` int64, equal exactly for rows that are equal number for number, by a hash of 64 bits.

    Args:
        x: ``(n, d)`` features.
    """
    return torch.unique(_row_hashes(x), return_inverse=True)[1]


def _row_hashes(x: RowMatrix) -> Tensor:
    """``(n,)`` int64 hashes of rows."""
    generator = torch.Generator().manual_seed(x.shape[1])
    weights = torch.randint(-(1 << 62), 1 << 62, (x.shape[1],), generator=generator, dtype=torch.int64) | 1
    step = max(1, CHUNK // max(1, x.shape[1]))
    hashes, start = torch.empty(len(x), dtype=torch.int64), 0
    for part in (part for block in blocks(x) for part in block.split(step)):
        hashes[start : start + len(part)] = _hashed(part, weights)
        start += len(part)
    return hashes


def _hashed(x: Tensor, weights: Tensor) -> Tensor:
    """``(n,)`` Σⱼ mix(bits of xᵢⱼ + wⱼ) wⱼ modulo 2⁶⁴, which int64 arithmetic wraps to by itself.

    The sum is linear, so each term is mixed first (multiplied and shifted), and each feature has an odd weight of its
    own: otherwise rows with the same numbers in another order, or with changes that cancel, would share a hash.
    """
    bits = (x.cpu() + 0.0).contiguous().view(_BITS[x.dtype.itemsize]).to(torch.int64)  # -0.0 + 0.0 is 0.0
    return (_mixed(bits + weights) * weights).sum(1)


def _mixed(x: Tensor) -> Tensor:
    spread = x * _SPREAD
    return spread ^ (spread >> 29)


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
        rows, start = run.rows_at(site), 0
        for x in run.stretches(site):
            sample, position = (of[start : start + len(x)] for of in (rows.sample, rows.position))
            # The sum is over rows in any order, so each is mixed with its position and its site first.
            total.index_add_(0, sample, _mixed(_row_hashes(x) + _mixed(position * len(sites) + place)))
            lives[sample[(x != 0).any(1)]] = True
            start += len(x)
        count += torch.bincount(rows.sample, minlength=len(ids))
    return {ids[i]: int(total[i]) for i in torch.nonzero((count > 1) & lives).flatten().tolist()}
