"""Features: the rows read at one site, with the sample, token and role of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankscope.errors import NotComparable, UsageError
from rankscope.sites import Site

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("text", "image", "query", "answer", "special", "pooled", "audio")
"""What a row is: a token of the text, an image patch or region, a learned query, a token of the answer, a special
token, a mean over tokens, or a stretch of sound. A role is stored as its index here, so new roles are appended."""
TEXT, IMAGE, QUERY, ANSWER, SPECIAL, POOLED, AUDIO = range(len(ROLES))


@dataclass(frozen=True)
class Grid:
    """The meaning of each column of a stack's hidden states, for one batch."""

    role: Tensor
    """``(b, t)`` uint8, the role of each column as its index in :data:`ROLES`."""
    real: Tensor
    """``(b, t)`` bool, False at padding and at columns added by a prefix or prompt."""

    def __post_init__(self) -> None:
        if self.role.shape != self.real.shape or self.role.ndim != 2:
            raise UsageError(
                f"a grid needs a role and a flag per column, two (b, t) tensors; got shapes {tuple(self.role.shape)} "
                f"and {tuple(self.real.shape)}"
            )

    @property
    def position(self) -> Tensor:
        """``(b, t)`` int64, the position of each column among the real columns of its sample."""
        return self.real.cumsum(1) - 1


@dataclass(frozen=True)
class Rows:
    """The origin of each row. Two matrices with equal rows can be compared row by row."""

    sample: Tensor
    """``(n,)`` int64, the index of the row's sample in ``ids``."""
    position: Tensor
    """``(n,)`` int64, the row's position among the real tokens of its sample in that stack; -1 for a mean over tokens."""
    role: Tensor
    """``(n,)`` uint8, the row's role as its index in :data:`ROLES`."""
    ids: tuple[str, ...]
    """The ids of the samples, in the data's order."""

    def __post_init__(self) -> None:
        if not len(self.sample) == len(self.position) == len(self.role):
            raise UsageError(
                f"every row needs a sample, a position and a role; got {len(self.sample)} samples, "
                f"{len(self.position)} positions and {len(self.role)} roles"
            )

    def __len__(self) -> int:
        return len(self.sample)

    def __repr__(self) -> str:
        roles = ", ".join(f"{count} {ROLES[i]}" for i, count in enumerate(torch.bincount(self.role.long())) if count)
        return f"Rows({roles or 'none'}; of {self.samples} samples)"

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The sample id of each row."""
        return tuple(self.ids[i] for i in self.sample.tolist())

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each row, as a word."""
        return tuple(ROLES[i] for i in self.role.tolist())

    @cached_property
    def samples(self) -> int:
        """Number of different samples that the rows come from."""
        return len(torch.unique(self.sample))

    def __getitem__(self, index: Tensor | slice) -> Rows:
        """The rows at ``index``, a slice, an index tensor or a mask, with the same sample ids."""
        return replace(self, sample=self.sample[index], position=self.position[index], role=self.role[index])

    def keys(self) -> list[tuple[str, int, str]]:
        """The identity of each row: (sample id, token position, role)."""
        return list(zip(self.sample_ids, self.position.tolist(), self.roles, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """A table with the columns ``sample``, ``position`` and ``role``, one line per row."""
        import pandas as pd

        return pd.DataFrame({"sample": self.sample_ids, "position": self.position.tolist(), "role": self.roles})


def first_difference(a: Rows, b: Rows) -> str | None:
    """The first difference between two lists of rows, in words; None if they are equal."""
    # Comparing tensors first spares equal runs, the usual case, a Python object per row
    if a.ids == b.ids and all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("sample", "position", "role")):
        return None
    for i, (x, y) in enumerate(zip(a.keys(), b.keys(), strict=False)):
        if x != y:
            return f"row {i} is sample {x[0]!r}, token {x[1]} ({x[2]}) in one and sample {y[0]!r}, token {y[1]} ({y[2]}) in the other"
    return None if len(a) == len(b) else f"one has {len(a)} rows, the other {len(b)}"


def common(a: Rows, b: Rows) -> tuple[Tensor, Tensor]:
    """Indices of the rows that two lists have in common, in the order of ``a``: two ``(m,)`` int64 tensors.

    Raises:
        NotComparable: if a row occurs twice in one of them, or they have none in common.
    """
    places = {key: i for i, key in enumerate(b.keys())}
    keys_a = a.keys()
    if len(places) != len(b) or len(set(keys_a)) != len(a):
        raise NotComparable("the rows of a run are not unique by (sample, token, role); they cannot be aligned")
    pairs = [(i, places[key]) for i, key in enumerate(keys_a) if key in places]
    if not pairs:
        raise NotComparable(f"the two runs share no row: {len(a)} rows in one, {len(b)} in the other")
    index = torch.tensor(pairs, dtype=torch.int64)
    return index[:, 0], index[:, 1]


@dataclass(frozen=True)
class Features:
    """The rows of one run at one site."""

    x: Tensor
    """``(n, d)`` features, in the dtype in which they were stored."""
    rows: Rows
    """The origin of each of the n rows."""
    site: Site
    """Where they were read."""

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or len(self.x) != len(self.rows):
            raise UsageError(
                f"features must be (n, d) with n rows; those at {self.site} have shape {tuple(self.x.shape)}, and there are "
                f"{len(self.rows)} rows"
            )

    def take(self, index: Tensor) -> Features:
        """The features at the rows ``index``."""
        return replace(self, x=self.x[index], rows=self.rows[index])


def samples_in_groups(rows: Rows, groups: int) -> Tensor:
    """Divide rows into groups of whole samples, contiguous in the order of the samples' ids and as even as possible.

    Resampling by group then resamples samples, never tokens. The ids decide, and not the order of the samples, so that the
    same data in another order give the same groups and every number the same folds; and as samples that belong together
    (the questions about one image) mostly have ids that follow each other, they mostly share a group.

    Args:
        rows: the n rows.
        groups: the number of groups; if there are fewer samples, each sample is its own group.

    Returns:
        ``(n,)`` int64 group of each row in 0…G-1.

    Raises:
        UsageError: for fewer than two groups, because leaving one out would leave nothing.
    """
    if groups < 2:
        raise UsageError(f"the jackknife leaves out groups of samples in turn and needs at least 2; got {groups}")
    present, place = torch.unique(rows.sample, return_inverse=True)
    rank = _ranks(tuple(rows.ids[i] for i in present.tolist()))
    return rank[place] * min(groups, len(rank)) // len(rank)


@lru_cache(maxsize=4)
def _ranks(ids: tuple[str, ...]) -> Tensor:
    """``(S,)`` the place of each id in their order; kept, as all sites of a run have the same, and each is asked several times."""
    rank = torch.empty(len(ids), dtype=torch.int64)
    order = torch.tensor(sorted(range(len(ids)), key=lambda i: natural(ids[i])), dtype=torch.int64)
    rank[order] = torch.arange(len(ids))
    return rank


def natural(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """A key by which names sort as read: ``s9`` before ``s10``."""
    parts = re.split(r"([0-9]+)", name)  # text at even places, digits at odd ones
    keys: list[str | tuple[int, str]] = list(parts)
    # Of two numbers without leading zeros the longer is the greater
    keys[1::2] = [(len(digits), digits) for digits in (part.lstrip("0") for part in parts[1::2])]
    return keys, name
