"""Arrays by name, as people save features: which are sites, which are samples, and what the samples are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

IDS = ("id", "ids", "sample", "sample_id", "sample_ids", "image_id", "image_ids", "question_id", "question_ids", "uid", "uids",
       "key", "keys", "file_name", "file_names", "filename", "filenames", "name", "names")  # fmt: skip
"""The names under which the ids of samples are looked for; the first that has them wins."""

_OF_A_MODEL = re.compile(
    r"layer|block|stage|hidden|coder|conv|norm|att|mlp|resid|embed|feat|act|out|modul|level|head|linear|relu|vision|text|site"
    r"|former|run|seed|epoch|step|split|fold|model|checkpoint|^(h|l|fc)$"
)
"""Words by which a numbered name is a part of a network, or a run, and no sample."""
_MOST_SITES = 999
"""A plain number above it counts no layer."""
_FILE = re.compile(r".*\.(jpe?g|png|gif|webp|bmp|tiff?|txt|json)", re.IGNORECASE)


class Matrix(NamedTuple):
    """The rows at one site."""

    x: Tensor
    """``(n, d)`` features, the samples one after another."""
    counts: Tensor
    """``(samples,)`` int64, the number of rows of each sample."""
    tokens: bool
    """Whether a row is a token, and not a whole sample."""
    position: Tensor | None = None
    """``(n,)`` int64 positions, if they are known; otherwise tokens are counted from 0 in each sample."""
    role: Tensor | None = None
    """``(n,)`` uint8 roles, if they are known; otherwise tokens are text."""


@dataclass(frozen=True)
class Foreign:
    """The content of another tool's file or folder."""

    form: str
    """What it is, in words."""
    sites: dict[str, Matrix]
    """The rows at each site, by the other tool's name for it."""
    ids: tuple[str, ...] | None = None
    """The ids of the samples, if it has any."""
    notes: tuple[str, ...] = ()
    """What was left out, in sentences."""
    exact: bool = False
    """Whether the names are sites already."""


def from_arrays(
    form: str, arrays: Mapping[str, Tensor | Sequence[Tensor]], named: Mapping[str, object] | None = None
) -> Foreign:
    """The arrays of samples, or of samples and tokens; others are left out, with a note.

    Args:
        form: what they come from, in words.
        arrays: by name a tensor, or a list of ``(t, d)`` tensors, one for each sample.
        named: whatever else the source has by name, among which the ids may be.
    """
    held = {**(named or {}), **arrays}
    found = {name: texts for name in IDS if name in held and (texts := id_texts(held[name])) is not None}
    whole = {name: x for name, x in arrays.items() if isinstance(x, Tensor)}
    if not found and len(whole) == len(arrays) and (samples := _of_samples(form, whole)) is not None:
        return samples
    notes = [
        f"{name} was left out: ids are whole numbers or texts"
        for name in IDS
        if name in held and name not in found and name not in arrays
    ]
    sites: dict[str, Matrix] = {}
    for name, x in arrays.items():
        matrix = None if name in found else _matrix(x)
        if matrix is not None:
            sites[name] = matrix
        elif name not in found:
            shape = tuple(x.shape) if isinstance(x, Tensor) else f"{len(x)} tensors of different widths"
            notes.append(f"{name} was left out: its shape is {shape}")
        if matrix is not None and isinstance(x, Tensor) and x.ndim == 3 and not found:
            # The first of three dimensions may as well have been the layer; with ids its size is checked.
            notes.append(f"{name} was read as {len(x)} samples of {x.shape[1]} tokens each")
    sizes = {len(matrix.counts) for matrix in sites.values()}
    fitting = [name for name, texts in found.items() if len(texts) in sizes]
    # Lists of another length may be something else; if none fits, the first is refused with the number of its ids.
    ids = found[(fitting or list(found))[0]] if found else None
    return Foreign(form, sites, ids, tuple(notes))


def _matrix(x: Tensor | Sequence[Tensor]) -> Matrix | None:
    """The rows of a tensor, or of one tensor of tokens for each sample; None if these are no features."""
    if not isinstance(x, Tensor):
        if len({(part.ndim, part.shape[-1], part.is_floating_point()) for part in x}) > 1 or x[0].ndim != 2:
            return None
        return Matrix(torch.cat(list(x)), torch.tensor([len(part) for part in x]), True)
    x = x if x.layout is torch.strided else x.to_dense()
    if not x.is_floating_point() or x.ndim not in (2, 3) or not x.numel():
        return None
    counts = torch.full((len(x),), x.shape[1] if x.ndim == 3 else 1, dtype=torch.int64)
    return Matrix(x.reshape(-1, x.shape[-1]), counts, x.ndim == 3)


def id_texts(value: object) -> tuple[str, ...] | None:
    """Ids as texts: from a tensor, an array or a list of whole numbers, texts or bytes, one for each sample.

    Whole numbers of every dtype give the same text, and a column of shape ``(n, 1)`` is a list. None if these are no ids.
    """
    if isinstance(value, Tensor):
        value = (value.double() if value.is_floating_point() else value).detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        if not value.size or value.size != max(value.shape, default=0):
            return None
        value = value.reshape(-1).tolist()
    if not isinstance(value, list | tuple):
        return None
    texts = [_id_text(item) for item in value]
    return tuple(t for t in texts if t is not None) if texts and None not in texts else None


def _id_text(value: object) -> str | None:
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def _of_samples(form: str, arrays: Mapping[str, Tensor]) -> Foreign | None:
    """A dictionary of samples as one matrix; None if it is one of sites."""
    parts = list(arrays.values())
    shapes = {(x.ndim, x.shape[-1] if x.ndim else 0) for x in parts}
    if (
        len(parts) < 2
        or len(shapes) > 1
        or parts[0].ndim not in (1, 2)
        or not all(x.is_floating_point() for x in parts)
    ):
        return None
    if not _are_samples(list(arrays), ragged=len({len(x) for x in parts}) > 1 or parts[0].ndim == 1):
        return None
    rows = [x if x.ndim == 2 else x[None] for x in parts]
    counts = torch.tensor([len(x) for x in rows])
    note = f"{len(parts)} names such as {next(iter(arrays))!r} were taken as samples, not as sites"
    matrix = Matrix(torch.cat(rows), counts, parts[0].ndim == 2)
    return Foreign(form, {"features": matrix}, tuple(arrays), (note,))


def _are_samples(names: Sequence[str], *, ragged: bool) -> bool:
    """Whether names are those of samples: of files, or one stem with numbers that count no part of a network."""
    if all(map(_FILE.fullmatch, names)):
        return True
    stems = {re.sub(r"\d+", "", name) for name in names}
    if len(stems) > 1 or not all(re.search(r"\d", name) for name in names):
        return False
    stem = stems.pop()
    if not re.search(r"[^\W\d_]", stem):  # numbers alone may count layers, which have equally many rows
        return ragged or any(int(re.sub(r"\D", "", name)) > _MOST_SITES for name in names)
    parts = [part for part in re.split(r"[^A-Za-z]+", stem.lower()) if part]
    return not any(map(_OF_A_MODEL.search, parts)) and "." not in stem
