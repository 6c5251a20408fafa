"""Rows that other tools have written, by the names that they give their reading points."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from rankscope.errors import UnsafeError
from rankscope.store.plain import Json

IDS = ("id", "ids", "sample", "sample_id", "sample_ids")
"""The names under which the ids of samples are looked for."""

_RESID = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_NUMBERED = re.compile(r"(layers?|blocks?|h|hidden_states?|)[._-]?(\d+)")


class Table(NamedTuple):
    """The rows at one site."""

    x: Tensor
    """``(n, d)`` features, the samples one after another."""
    counts: Tensor
    """``(samples,)`` int64, how many rows each sample has."""
    tokens: bool
    """Whether a row is a token, and not a whole sample."""


@dataclass(frozen=True)
class Foreign:
    """What another tool's file or folder holds."""

    form: str
    """What it is, in words."""
    tables: dict[str, Table]
    """The rows at each site, by the name that the other tool gives it."""
    ids: tuple[str, ...] | None = None
    """The ids of the samples, where it has any."""
    notes: list[str] = field(default_factory=list)
    """What was left out, in sentences."""


def site_name(name: str) -> str:
    """The site for another tool's name of a reading point.

    ``decoder.3`` stays; the residual stream of TransformerLens (``blocks.3.hook_resid_post``) is a block's output;
    ``layer_3`` is ``layer.3``; whatever else is a module of its own, with the point ``output``.
    """
    if match := _RESID.fullmatch(name):
        block = int(match[1]) - (match[2] == "pre")
        return f"decoder.{block}" if block >= 0 else "decoder.embed"
    if match := _NUMBERED.fullmatch(name):
        return f"{match[1] or 'layer'}.{int(match[2])}"
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".-") or "features"
    point = clean.rpartition(".")[2]
    return clean if "." in clean and (point in ("embed", "final", "output") or point.isdecimal()) else f"{clean}.output"


def named_file(item: Json, key: str, path: Path) -> str:
    """The name of a file that a folder's own listing tells.

    Raises:
        UnsafeError: if it leads out of the folder.
    """
    name = item.get(key) if isinstance(item, dict) else None
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UnsafeError(f"{path} names a file outside of its folder: {str(name)[:80]!r}")
    return name
