"""One batch as one file: its tensors, checked before they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.errors import NonFinite, UsageError
from rankscope.store.layout import PLACES, SHARD_FORMAT, VERSION, Commit
from rankscope.store.manifest import Batch, Manifest
from rankscope.store.tensors import header, raw

Places = tuple[Tensor, Tensor, Tensor]
"""Of each row: ``(n,)`` place of its sample in the probe set, ``(n,)`` token position, ``(n,)`` role."""


@dataclass(frozen=True)
class Contents:
    """What a shard will hold."""

    batch: Batch
    """The batch."""
    manifest: Manifest
    """The run it belongs to."""
    tensors: dict[str, Tensor]
    """Every tensor by name, in the order of the file: the sites, then the rows of each stack."""

    @classmethod
    def of(
        cls, batch: Batch, manifest: Manifest, features: Mapping[str, Tensor], rows: Mapping[str, Places]
    ) -> Contents:
        """The contents of the shard of a batch, in the dtypes in which they are stored.

        Raises:
            UsageError: if they are not the sites, widths, stacks or samples that the manifest and the plan tell.
        """
        m, named = manifest, {str(site): x.detach() for site, x in features.items()}
        if set(named) != set(m.sites) or set(rows) != set(m.stacks):
            got = f"features at {', '.join(named)} and rows at {', '.join(rows)}"
            raise UsageError(
                f"batch {batch.id} has {got}; the manifest tells {', '.join(m.sites)} and {', '.join(m.stacks)}"
            )
        tensors = {}
        for site in m.sites:
            expected = (len(rows[m.stack(site)][0]), m.width(site))
            if named[site].shape != expected:
                raise UsageError(
                    f"batch {batch.id}: features at {site} have shape {tuple(named[site].shape)}, expected {expected}"
                )
            tensors[site] = named[site].to("cpu", m.torch_dtype)
        for stack in m.stacks:
            _check_places(batch, stack, rows[stack])
            for (name, dtype), x in zip(PLACES.items(), rows[stack], strict=True):
                tensors[f"rows/{stack}/{name}"] = x.to("cpu", dtype)
        return cls(batch, m, tensors)

    def nonfinite(self) -> dict[str, int]:
        """The number of values that are NaN or infinite, at the sites that have some."""
        bad = {site: int((~torch.isfinite(self.tensors[site])).sum()) for site in self.manifest.sites}
        return {site: count for site, count in bad.items() if count}

    def refuse(self, bad: Mapping[str, int]) -> NonFinite:
        """The error that names the first site, sample and token with a value that is not finite."""
        site = next(iter(bad))
        stack = self.manifest.stack(site)
        lines = (~torch.isfinite(self.tensors[site])).any(dim=1).nonzero().flatten().tolist()
        sample = self.manifest.ids[int(self.tensors[f"rows/{stack}/sample"][lines[0]])]
        token = int(self.tensors[f"rows/{stack}/position"][lines[0]])
        others = f"; so are features at {len(bad) - 1} other sites" if len(bad) > 1 else ""
        return NonFinite(
            f"features at {site} are not finite in {self.manifest.dtype}: {bad[site]} values in {len(lines)} rows of batch "
            f"{self.batch.id}, first in row {lines[0]}: sample {sample!r}, token {token}{others}. Nothing of this batch was "
            "written. Collect in float32 or bfloat16, leave the sample out, or keep such values with nonfinite='keep'"
        )

    def encode(self, bad: dict[str, int]) -> tuple[Commit, list[memoryview]]:
        """The bytes of the file, and the commit that vouches for them."""
        m = self.manifest
        metadata = {
            "format": SHARD_FORMAT,
            "version": str(VERSION),
            "batch": str(self.batch.id),
            "plan_sha256": m.plan_digest,
        }
        head = header({name: (x.dtype, x.shape) for name, x in self.tensors.items()}, metadata)
        chunks = [memoryview(head), *(raw(x) for x in self.tensors.values())]
        sha = hashlib.sha256()
        for chunk in chunks:
            sha.update(chunk)
        rows = {stack: len(self.tensors[f"rows/{stack}/sample"]) for stack in m.stacks}
        return Commit(self.batch.id, sum(c.nbytes for c in chunks), sha.hexdigest(), rows, bad), chunks


def _check_places(batch: Batch, stack: str, places: Places) -> None:
    shapes = {tuple(x.shape) for x in places}
    if len(places) != 3 or len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise UsageError(f"batch {batch.id}: the rows of {stack} are three vectors of one length, not {sorted(shapes)}")
    strange = set(places[0].tolist()) - set(batch.samples)
    if strange:
        raise UsageError(f"batch {batch.id}: rows of {stack} name samples that are not in it: {sorted(strange)[:5]}")
