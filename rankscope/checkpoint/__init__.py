"""Checkpoints on disk: a base and the ordered tunings on top of it. They are plain files; no model is built.

A checkpoint is a full Hugging Face folder, a PEFT adapter folder, an ordered list of those, a folder of ordered stages
(``0-prefix/``, ``1-lora/``, with or without a ``rankscope.json``), or the name of a repository in the local Hub cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from rankscope.checkpoint.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CONFIG,
    check_config,
    digest,
    inside,
    read_json,
    weight_files,
)
from rankscope.checkpoint.kinds import STAGES, folder_name, has_weights, in_cache, is_repository, kind, stage_folders
from rankscope.errors import CheckpointError

__all__ = ["STAGES", "Checkpoint", "Tuning", "digest", "folder_name", "processor_folder"]

_GIVE = "give it with --base-model (base_model=…)"
FULL = "full"
"""The kind of a tuning that is a whole model, whose weights replace the base's."""
_SUMMARISED = ("r", "lora_alpha", "use_dora", "bottleneck_size", "num_virtual_tokens", "target_modules")
_PROCESSOR = (
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Tuning:
    """One thing that was attached to the base, or changed in it."""

    kind: str
    """PEFT's type in lower case (``lora``, ``prefix_tuning``), or ``full``."""
    path: Path
    """The folder that holds it."""
    config: Mapping[str, Any] = field(hash=False)
    """Its configuration, as read."""

    @property
    def summary(self) -> str:
        """The kind and the main settings of its configuration, in one line."""
        settings = [
            f"{key}={_in_short(self.config[key])}" for key in _SUMMARISED if self.config.get(key) not in (None, False)
        ]
        return " ".join([self.kind, *settings]) if self.kind != FULL else FULL


def _in_short(value: object) -> str:
    """A value as text; for a list of modules, which PEFT writes in any order, their last names and their number."""
    if not isinstance(value, list):
        return str(value)
    names = sorted({str(path).rpartition(".")[2] for path in value})
    return ",".join(names) + (f" ({len(value)} modules)" if len(names) < len(value) else "")


@dataclass(frozen=True)
class Checkpoint:
    """A base and what was done to it, in order."""

    path: Path
    """The folder that was given, or the last one of a list."""
    base: Path
    """The folder of the base model; of the model itself if nothing was tuned."""
    tunings: tuple[Tuning, ...] = ()
    """What was attached or changed, in order."""
    revision: str | None = None
    """The revision of the base that the adapter names."""
    base_digest: str | None = None
    """The digest that the base had when it was tuned; None if it was not recorded."""
    record: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The content of ``rankscope.json``: how it was made."""

    @classmethod
    def read(
        cls, path: str | Path | Sequence[str | Path] | Checkpoint, *, base_model: str | Path | None = None
    ) -> Checkpoint:
        """The checkpoint at ``path``: a folder, a name in the local Hub cache, or a list of those in order.

        Args:
            path: what to read; a checkpoint is returned unchanged.
            base_model: the base to use instead of the one that the adapter names.

        Raises:
            CheckpointError: if it is not a checkpoint, is incomplete, or its base is not on this machine.
            UnsafeError: if it would run code from elsewhere or points outside its folder.
        """
        if isinstance(path, Checkpoint):
            return path
        paths = [path] if isinstance(path, str | Path) else list(path) if isinstance(path, Sequence) else [path]
        if not paths or not all(isinstance(p, str | Path) for p in paths):
            raise CheckpointError(
                f"a checkpoint is a folder, or a list of the base and its adapters in order; got {paths or 'an empty list'}"
            )
        folders = [_folder(p) for p in paths]
        if not any(map(_is_stages, folders)):
            return _read_list(folders, base_model)
        *before, stages = folders
        if len(before) > 1 or any(map(_is_stages, before)) or (before and base_model is not None):
            got = ", ".join(map(str, paths))
            raise CheckpointError(f"a folder of stages comes alone, or after its base; got {got}")
        return _read_stages(stages, before[0] if before else base_model)

    @property
    def weights(self) -> Path:
        """The folder whose weights are loaded: the last that holds a whole model."""
        return next((t.path for t in reversed(self.tunings) if t.kind == FULL), self.base)

    @property
    def adapters(self) -> tuple[Tuning, ...]:
        """The tunings that are attached to the weights, in order."""
        return tuple(t for t in self.tunings if t.kind != FULL)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the model whose weights are loaded."""
        return read_json(self.weights / MODEL_CONFIG)

    @property
    def processors(self) -> tuple[Path, ...]:
        """The folders with a tokenizer or a processor, or a part of one: the tuned model's, then the base's."""
        folders = [self.path, *(t.path for t in reversed(self.tunings)), self.weights, self.base]
        return tuple(dict.fromkeys(filter(_has_processor, folders))) or (self.base,)

    @property
    def processor(self) -> Path:
        """The folder of the tokenizer or processor: the tuned model's if it has one, the base's otherwise."""
        return self.processors[0]

    @property
    def digest(self) -> str:
        """The SHA-256, in hex, of everything that makes the tuned network: base and tunings, in order."""
        folders = [self.weights, *(t.path for t in self.adapters)]
        return sha256("".join(digest(folder) for folder in folders).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The last part of the path; for a repository in the Hub cache its name, for a trainer's checkpoint with its folder."""
        return folder_name(self.path)


def processor_folder(where: str | Path | Sequence[str | Path] | Checkpoint) -> Path:
    """The folder of a tokenizer or processor: the given one if it holds one, or the one that a checkpoint names.

    Raises:
        CheckpointError: if it holds none and is not a checkpoint either.
    """
    if isinstance(where, str | Path) and _has_processor(folder := _folder(where)):
        return folder
    return Checkpoint.read(where).processor


def _has_processor(folder: Path) -> bool:
    return any((folder / name).exists() for name in _PROCESSOR)


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.exists():
        return folder
    cached = in_cache(str(path))
    if cached is None:
        raise CheckpointError(
            f"there is no folder {str(path)!r}, and no repository of that name in the local Hub cache; nothing is downloaded"
            + (
                f"; 'rankscope inspect {path} --download' fetches it (rankscope.fetch)"
                if is_repository(str(path))
                else ""
            )
        )
    return cached


def _is_stages(folder: Path) -> bool:
    return kind(folder) == "stages"


def _tuning(folder: Path) -> Tuning:
    if kind(folder) == "model":
        return Tuning(FULL, folder, _model_config(folder))
    config = read_json(folder / ADAPTER_CONFIG)
    check_config(config, folder / ADAPTER_CONFIG)
    if not isinstance(config.get("peft_type"), str):
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} names no peft_type: it is not a PEFT adapter")
    weight_files(folder, ADAPTER_WEIGHTS)
    return Tuning(config["peft_type"].lower(), folder, config)


def _model_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / MODEL_CONFIG)
    check_config(config, folder / MODEL_CONFIG)
    weight_files(folder)
    return config


def _read_list(folders: list[Path], base_model: str | Path | None) -> Checkpoint:
    tunings = [_tuning(folder) for folder in folders]
    first = tunings[0]
    base = folders[0] if first.kind == FULL and base_model is None else _base(tunings, base_model)
    # The base itself may come first in the list, under its own path or as a copy; then it is not a tuning.
    if first.kind == FULL and (base == folders[0] or digest(base) == digest(folders[0])):
        base, tunings = folders[0], tunings[1:]
    _check_list(base, tunings, records=base_model is None)
    revision = first.config.get("revision") if base_model is None and first.kind != FULL else None
    return Checkpoint(folders[-1], base, tuple(tunings), revision)


def _check_list(base: Path, tunings: Sequence[Tuning], *, records: bool) -> None:
    """Check that everything in a list was done to one base, by model types and, with ``records``, the adapters' records.

    Raises:
        CheckpointError: if a whole model is of another type than the base or the same as the one before it, or an adapter
            names another base, which is on this machine and has other weights.
    """
    whole = [base]
    for tuning in tunings:
        if tuning.kind == FULL:
            base_type, type_ = (c.get("model_type") for c in (read_json(base / MODEL_CONFIG), tuning.config))
            if base_type != type_:
                raise CheckpointError(
                    f"{tuning.path} is a whole {type_!r} and its base {base} a {base_type!r}: a list is one base and what was "
                    "done to it, in order"
                )
            if digest(tuning.path) == digest(whole[-1]):
                raise CheckpointError(f"{tuning.path} changes nothing: it is the same model as {whole[-1]}")
            whole.append(tuning.path)
        elif records and (named := _found(tuning.config.get("base_model_name_or_path"), [tuning.path])) is not None:
            same = any(named.resolve() == path.resolve() for path in whole)
            if not same and has_weights(named) and digest(named) not in {digest(path) for path in whole}:
                raise CheckpointError(
                    f"{tuning.path} was tuned on {named}, which is another model than {whole[-1]}; if its record is wrong, give "
                    "the right base with --base-model (base_model=…)"
                )


def _read_stages(folder: Path, base_model: str | Path | None) -> Checkpoint:
    record = read_json(folder / STAGES) if (folder / STAGES).exists() else {}
    tunings = tuple(_tuning(stage) for stage in _stages(folder, record))
    base = _base(tunings, base_model or _recorded_base(folder, record))
    recorded = record.get("base_digest") or record.get("base_fingerprint")
    return Checkpoint(folder, base, tunings, record.get("base_revision"), recorded, record)


def _recorded_base(folder: Path, record: Mapping[str, Any]) -> str | Path | None:
    base = record.get("base")
    if not isinstance(base, str):
        return None
    beside = folder / base
    return beside if beside.exists() else base


def _stages(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    listed = record.get("stages")
    if listed is None:
        return stage_folders(folder)
    names = [s.get("folder") if isinstance(s, dict) else s for s in listed] if isinstance(listed, list) else [None]
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{folder / STAGES}: stages must be a list of folder names, or of objects with a folder")
    return [inside(folder, str(name), said_by=folder / STAGES) for name in names]


def _found(named: Any, beside: Sequence[Path], revision: str | None = None) -> Path | None:
    """The folder of a base: by its path, by its path from one of ``beside``, or in the Hub cache; None if it is not here."""
    if not isinstance(named, str | Path) or not str(named):
        return None
    here = (Path(named).expanduser(), *(folder / named for folder in beside))
    return next((p for p in here if p.is_dir()), None) or in_cache(str(named), revision)


def _base(tunings: Sequence[Tuning], base_model: str | Path | None) -> Path:
    of = tunings[0].path if tunings else "the checkpoint"
    records = [t.config for t in tunings if t.config.get("base_model_name_or_path")]
    record = records[0] if records and base_model is None else {}
    named = base_model if base_model is not None else record.get("base_model_name_or_path")
    if named is None:
        raise CheckpointError(f"{of} names no base model; {_GIVE}")
    folder = _found(named, [t.path for t in tunings], record.get("revision"))
    if folder is None:
        raise CheckpointError(
            f"the base model {str(named)!r} of {of} is neither a folder here nor in the local Hub cache; {_GIVE}"
            + (
                f", or fetch it: 'rankscope inspect {named} --download' (rankscope.fetch)"
                if is_repository(str(named))
                else ""
            )
        )
    try:
        found = kind(folder)
    except CheckpointError as error:
        raise CheckpointError(f"the base model {str(named)!r} of {of} is not one: {error}; {_GIVE}") from error
    if found != "model":
        what = "an adapter" if found == "adapter" else "a folder of stages"
        raise CheckpointError(f"the base model {str(named)!r} of {of} is {what}, not a full model; {_GIVE}")
    _model_config(folder)
    return folder
