"""How the samples of a view are divided: into groups, halves and units, each of whole samples."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from rankscope.features import Rows, samples_in_groups

SINGLE = 200
"""Up to so many samples each is a unit of its own."""
UNITS = 100
"""How many units more samples make. Sums over several samples are nearly normal, and an error of 100 such parts is known to
about 7 %, which is the best that 200 single samples can do."""


class Division:
    """Groups that the jackknife leaves out, halves that numbers are cross-fitted between, units that have an influence."""

    def __init__(self, rows: Rows, groups: int, device: torch.device) -> None:
        self._sample, self._device = rows.sample, device
        self.group = samples_in_groups(rows, groups)
        """``(n,)`` the group of each row."""
        self.groups = int(self.group.max()) + 1
        """G, their number; fewer samples make fewer groups."""
        self.fold = self.group % 2
        """``(n,)`` the half of each row: every other group belongs to the second."""
        # Units lie inside groups, so that each is in one half
        self.units = rows.samples if rows.samples <= SINGLE else self.groups * max(1, UNITS // self.groups)
        """U, their number."""
        self.unit = samples_in_groups(rows, self.units)
        """``(n,)`` the unit of each row."""

    @cached_property
    def unit_rows(self) -> Tensor:
        """``(U,)`` the number of rows of each unit."""
        return torch.bincount(self.unit, minlength=self.units).to(self._device, torch.float64)

    @cached_property
    def unit_half(self) -> Tensor:
        """``(U,)`` the half that each unit belongs to."""
        half = torch.empty(self.units, dtype=torch.int64)
        half[self.unit] = self.fold
        return half.to(self._device)

    @cached_property
    def by_unit(self) -> Tensor:
        """``(n,)`` the indices of the rows, unit by unit."""
        return torch.argsort(self.unit, stable=True)

    def of_samples(self, group: Tensor) -> Tensor:
        """``(S,)`` the group of each sample, in ascending order, from that of its rows, which all lie in one."""
        present, place = torch.unique(self._sample, return_inverse=True)
        found = torch.empty(len(present), dtype=torch.int64)
        found[place] = group
        return found.to(self._device)

    def of_units(self, each: Tensor) -> Tensor:
        """``(U,)`` the sums over each unit of ``(S,)`` values of samples, in ascending order."""
        return each.new_zeros(self.units).index_add_(0, self.of_samples(self.unit), each)
