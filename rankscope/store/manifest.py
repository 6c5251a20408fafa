"""What a run is (checkpoint, probe set, rows, sites), and the plan by which it is collected (``FORMAT.md``, The manifest)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from rankscope.errors import UsageError
from rankscope.sites import Site, is_name
from rankscope.store.files import corrupt, read_small
from rankscope.store.plain import LIMIT, Json, digest, line, member, parse

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""The dtypes in which features are stored, by name."""

_VOLATILE = ("name", "versions", "notes")  # the members marked † in FORMAT.md
_LOCATIONS = ("probe.name", "probe.options")  # where the data were: it may change while a collect is stopped
_HERE = Path("the manifest")


@dataclass(frozen=True)
class Batch:
    """Samples that go through the model together, fixed before the first forward pass."""

    id: int
    """The number of the batch; its shard is named after it."""
    samples: tuple[int, ...]
    """Its samples, as indices into the probe set."""
    length: int
    """The number of tokens to which its samples are padded."""

    def to_json(self) -> dict[str, Json]:
        """The line of the plan."""
        return {"batch": self.id, "samples": list(self.samples), "length": self.length}


@dataclass(frozen=True)
class Manifest:
    """Everything that a run's features depend on, as plain JSON values."""

    name: str
    """What tables and figures call the run."""
    checkpoint: dict[str, Json]
    """The checkpoint: ``path``, ``base``, ``tunings``, ``digest``. Members called ``path`` say where it is, not what it
    is, and need not match when a collect is resumed."""
    probe: dict[str, Json]
    """The probe set: ``name``, ``fingerprint`` and ``ids``, the ids of all samples in the data's order, and ``options`` if it was
    opened with some. Name and options are the location that was asked for and need not match when a collect is resumed; the
    fingerprint must."""
    rows: dict[str, Json]
    """Which rows: ``kind`` and whether special tokens are kept."""
    dtype: str
    """The dtype of the stored features, a key of :data:`DTYPES`."""
    sites: dict[str, dict[str, Json]]
    """The ``width`` and the ``stack`` of each site, in the network's order."""
    pooling: dict[str, Json] = field(default_factory=dict)
    """How tokens became rows, if the kind of rows does not say it all."""
    reading: dict[str, Json] = field(default_factory=dict)
    """How the model was read: padding side, attention implementation, token budget, precision."""
    batches: int = 0
    """The number of batches in the plan. Set by the writer."""
    plan: str = ""
    """SHA-256 of ``plan.jsonl``. Set by the writer."""
    versions: dict[str, Json] = field(default_factory=dict)
    """The versions of the software that computed it. They need not match when a collect is resumed."""
    notes: list[Json] = field(default_factory=list)
    """What a reader should know, in sentences."""

    def __post_init__(self) -> None:
        ids = self.probe.get("ids")
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise UsageError("a manifest's probe['ids'] must be the list of the ids of all samples, as strings")
        if not ids or len(set(ids)) != len(ids):
            raise UsageError(f"the {len(ids)} ids of a probe set must all be different, and at least one")
        if self.dtype not in DTYPES:
            raise UsageError(f"features are stored as {', '.join(DTYPES)}; not as {self.dtype!r}")
        if not self.sites:
            raise UsageError("a run has at least one site")
        for name, entry in self.sites.items():
            if str(Site.parse(name)) != name or not isinstance(entry, dict):
                raise UsageError(f"{name!r} is not a site: each is spelled stack.point and has a width and a stack")
            width, stack = entry.get("width"), entry.get("stack")
            # Stacks become names of tensors and, exported, of files: a name that is a path would lead out of the folder.
            if type(width) is not int or width < 1 or not isinstance(stack, str) or not is_name(stack):
                raise UsageError(
                    f"the site {name} needs a width and the stack whose rows it has, a name such as decoder; it has {_words(entry)}"
                )

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the samples, in the data's order."""
        ids = self.probe["ids"]
        assert isinstance(ids, list)
        return tuple(map(str, ids))

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the stored features."""
        return DTYPES[self.dtype]

    def width(self, site: Site | str) -> int:
        """The number of features at a site."""
        width = self.sites[str(site)]["width"]
        assert isinstance(width, int)
        return width

    def stack(self, site: Site | str) -> str:
        """The stack whose rows a site has."""
        return str(self.sites[str(site)]["stack"])

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks whose rows are stored, in the order of the sites."""
        return tuple(dict.fromkeys(self.stack(site) for site in self.sites))

    def to_json(self) -> dict[str, Json]:
        """The manifest as JSON values. Keys are written sorted, so ``order`` keeps the order of the sites."""
        value = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**value, "order": list(self.sites)}

    @classmethod
    def from_json(cls, value: Mapping[str, Json], path: Path = _HERE) -> Manifest:
        """The manifest that :meth:`to_json` gave.

        Raises:
            StoreCorrupt: if a member is missing, of another type, or makes no sense.
        """
        wanted: dict[str, type] = {"name": str, "dtype": str, "plan": str, "batches": int, "notes": list, "order": list}
        wanted |= dict.fromkeys(("checkpoint", "probe", "rows", "sites", "pooling", "reading", "versions"), dict)
        got: dict[str, Any] = {key: member(value, key, kind, path) for key, kind in wanted.items()}
        order, sites = got.pop("order"), got["sites"]
        if set(value) != set(wanted) or not all(isinstance(s, str) for s in order) or sorted(order) != sorted(sites):
            raise corrupt(f"{path} has members or sites that no manifest has, or has them twice")
        try:
            return cls(**{**got, "sites": {site: sites[site] for site in order}})
        except UsageError as error:
            raise corrupt(f"{path}: {error}") from error

    def identity(self) -> dict[str, Json]:
        """What the features depend on: everything but the name, the versions, the notes and the paths."""
        kept = {k: v for k, v in self.to_json().items() if k not in _VOLATILE}
        return {**kept, "checkpoint": _without_paths(self.checkpoint)}

    @property
    def plan_digest(self) -> str:
        """SHA-256 of :meth:`identity`, in hexadecimal; every shard contains it."""
        return digest(self.identity())

    @property
    def continuation(self) -> str:
        """SHA-256, in hexadecimal, of all in which the manifest of a continued run must agree (see :meth:`differences`)."""
        return digest({key: value for key, value in _leaves(self.identity()) if not _is_location(key)})

    def differences(self, other: Manifest) -> list[str]:
        """What keeps this run from being continued as ``other``, such as ``rows.kind is last, and now mean``."""
        mine, theirs = dict(_leaves(self.identity())), dict(_leaves(other.identity()))
        keys = [k for k in {**mine, **theirs} if not _is_location(k) and mine.get(k, _ABSENT) != theirs.get(k, _ABSENT)]
        return [f"{k} is {_words(mine.get(k, _ABSENT))}, and now {_words(theirs.get(k, _ABSENT))}" for k in keys]

    def planned(self, plan: Sequence[Batch]) -> Manifest:
        """The same manifest with the plan's digest and the number of its batches.

        Raises:
            UsageError: if a batch occurs twice, or a sample is in two batches or not in the probe set.
        """
        check_plan(plan, len(self.ids))
        planned = replace(self, batches=len(plan), plan=hashlib.sha256(plan_bytes(plan)).hexdigest())
        try:  # through JSON and back, so that this manifest equals the one that will be read from the disk
            return Manifest.from_json(json.loads(line(planned.to_json())))
        except (TypeError, ValueError) as error:
            raise UsageError(f"a manifest holds plain JSON values only: {error}") from error


_ABSENT = "absent"


def _is_location(name: str) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in _LOCATIONS)


def _without_paths(value: Json) -> Json:
    if isinstance(value, dict):
        return {k: _without_paths(v) for k, v in value.items() if k != "path"}
    return [_without_paths(v) for v in value] if isinstance(value, list) else value


def _leaves(value: Json, name: str = "") -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _words(value: Json) -> str:
    text = f"a list of {len(value)}" if isinstance(value, list) and len(value) > 8 else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def plan_bytes(plan: Sequence[Batch]) -> bytes:
    """The bytes of ``plan.jsonl``: one line for each batch."""
    return b"".join(line(batch.to_json()) for batch in plan)


def check_plan(plan: Sequence[Batch], samples: int) -> None:
    """Refuse a plan in which a batch or a sample occurs twice, or a sample is not one of the ``samples``.

    Raises:
        UsageError: saying which.
    """
    if not plan:
        raise UsageError("a plan has at least one batch")
    if len({batch.id for batch in plan}) != len(plan) or any(batch.id < 0 for batch in plan):
        raise UsageError("the ids of the batches of a plan must be different and not negative")
    placed = [sample for batch in plan for sample in batch.samples]
    if len(set(placed)) != len(placed):
        raise UsageError("a sample is in two batches of the plan")
    if placed and not 0 <= min(placed) <= max(placed) < samples:
        raise UsageError(f"the plan names samples {min(placed)} to {max(placed)}, and the probe set has {samples}")


def read_plan(path: Path, manifest: Manifest) -> tuple[Batch, ...]:
    """The plan of a store.

    Raises:
        StoreCorrupt: if it is not the plan that the manifest was made for.
    """
    data = read_small(path, LIMIT)
    if hashlib.sha256(data).hexdigest() != manifest.plan:
        raise corrupt(f"{path} is not the plan that store.json was written for: its SHA-256 differs")
    plan = tuple(_batch(parse(text, path), path) for text in data.splitlines())
    try:
        check_plan(plan, len(manifest.ids))
    except UsageError as error:
        raise corrupt(f"{path}: {error}") from error
    return plan


def is_plan(path: Path) -> bool:
    """Whether a file is a plan, of whatever run.

    Raises:
        StoreCorrupt: if it is not even JSON, or a member is of another type.
    """
    data = read_small(path, LIMIT)
    return data == plan_bytes([_batch(parse(text, path), path) for text in data.splitlines()])


def _batch(value: dict[str, Json], path: Path) -> Batch:
    samples = member(value, "samples", list, path)
    if not all(isinstance(s, int) and not isinstance(s, bool) for s in samples):
        raise corrupt(f"{path}: the samples of a batch must be whole numbers")
    return Batch(member(value, "batch", int, path), tuple(samples), member(value, "length", int, path))
