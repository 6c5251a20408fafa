"""Features: the rows read at one site, each knowing the sample, the token and the role it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankscope.errors import NotComparable, UsageError
from rankscope.sites import Site

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("text", "image", "query", "answer", "special", "pooled")
"""What a row is: a token of the text, an image patch or region, a learned query, a token of the answer, a special
token, or a mean over tokens. The number stored for a role is its place here; new roles are appended."""


TEXT, IMAGE, QUERY, ANSWER, SPECIAL, POOLED = range(len(ROLES))


@dataclass(frozen=True)
class Grid:
    """What each column of a stack's hidden states is, for one batch."""

    role: Tensor
    """``(b, t)`` uint8, the role of each column as its place in :data:`ROLES`."""
    real: Tensor
    """``(b, t)`` bool, False at padding and at whatever a prefix or prompt added."""

    def __post_init__(self) -> None:
        if self.role.shape != self.real.shape or self.role.ndim != 2:
            raise UsageError(
                f"a grid needs two (b, t) tensors; got {tuple(self.role.shape)} and {tuple(self.real.shape)}"
            )

    @property
    def position(self) -> Tensor:
        """``(b, t)`` int64, the place of each column among the real ones of its sample."""
        return self.real.cumsum(1) - 1


@dataclass(frozen=True)
class Rows:
    """Where each row came from. Equal rows mean that two matrices can be compared row by row."""

    sample: Tensor
    """``(n,)`` int64, the place of the row's sample in ``ids``."""
    position: Tensor
    """``(n,)`` int64, the row's place among the real tokens of its sample at that stack; -1 for a mean over tokens."""
    role: Tensor
    """``(n,)`` uint8, the row's role as its place in :data:`ROLES`."""
    ids: tuple[str, ...]
    """The ids of the samples, in the data's order."""

    def __post_init__(self) -> None:
        if not len(self.sample) == len(self.position) == len(self.role):
            raise UsageError(
                f"rows disagree: {len(self.sample)} samples, {len(self.position)} positions, {len(self.role)} roles"
            )

    def __len__(self) -> int:
        return len(self.sample)

    def __repr__(self) -> str:
        roles = ", ".join(f"{count} {ROLES[i]}" for i, count in enumerate(torch.bincount(self.role.long())) if count)
        return f"Rows({roles or 'none'}; of {self.samples} samples)"

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The id of the sample of each row."""
        return tuple(self.ids[i] for i in self.sample.tolist())

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each row, as a word."""
        return tuple(ROLES[i] for i in self.role.tolist())

    @property
    def samples(self) -> int:
        """How many different samples the rows come from."""
        return len(torch.unique(self.sample))

    def __getitem__(self, index: Tensor | slice) -> Rows:
        """The rows at ``index`` (a slice, an index tensor or a mask), with the same sample ids."""
        return replace(self, sample=self.sample[index], position=self.position[index], role=self.role[index])

    def keys(self) -> list[tuple[str, int, str]]:
        """The identity of each row: (sample id, token position, role)."""
        return list(zip(self.sample_ids, self.position.tolist(), self.roles, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """A table with the columns ``sample``, ``position`` and ``role``, a line a row."""
        import pandas as pd

        return pd.DataFrame({"sample": self.sample_ids, "position": self.position.tolist(), "role": self.roles})


def first_difference(a: Rows, b: Rows) -> str | None:
    """The first place at which two lists of rows part, in words; None where they are the same."""
    same_ids = a.ids == b.ids
    if (
        same_ids
        and len(a) == len(b)
        and all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("sample", "position", "role"))
    ):
        return None
    keys_a, keys_b = a.keys(), b.keys()
    for i, (x, y) in enumerate(zip(keys_a, keys_b, strict=False)):
        if x != y:
            return f"row {i} is sample {x[0]!r}, token {x[1]} ({x[2]}) in one and sample {y[0]!r}, token {y[1]} ({y[2]}) in the other"
    return None if len(a) == len(b) else f"one has {len(a)} rows, the other {len(b)}"


def common(a: Rows, b: Rows) -> tuple[Tensor, Tensor]:
    """Indices of the rows that both have, in the order of ``a``: two ``(m,)`` int64 tensors.

    Raises:
        NotComparable: if a row stands twice in one of them, or they share none.
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
    """Where each of the n rows came from."""
    site: Site
    """Where they were read."""

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or len(self.x) != len(self.rows):
            raise UsageError(
                f"features at {self.site} have shape {tuple(self.x.shape)}, and there are {len(self.rows)} rows"
            )

    def take(self, index: Tensor) -> Features:
        """The same features at the rows ``index``."""
        return replace(self, x=self.x[index], rows=self.rows[index])


def samples_in_groups(rows: Rows, groups: int) -> Tensor:
    """The group of each row, ``(n,)`` int64 in 0…G-1: whole samples, contiguous in the data's order, as even as can be.

    Resampling by group then resamples samples, never tokens. Where there are fewer samples than ``groups``, G is the
    number of samples.

    Raises:
        UsageError: for fewer than two groups, of which none can be left out.
    """
    if groups < 2:
        raise UsageError(
            f"the jackknife leaves groups of samples out in turn, of which it takes 2 at least; got {groups}"
        )
    present, place = torch.unique(rows.sample, return_inverse=True)
    count = min(groups, len(present))
    return place * count // len(present)
