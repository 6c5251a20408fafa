"""The configuration and weight files of a checkpoint folder, checked before any library opens them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from rankscope.errors import CheckpointError, UnsafeError

MODEL_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
MODEL_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_LFS = b"version https://git-lfs"
_MOST_HEADER = 100 * 2**20
_MOST_CONFIG = 64 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: if the file is missing, empty, a Git LFS pointer, or does not hold one JSON object.
    """
    check_file(path)
    if path.stat().st_size > _MOST_CONFIG:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes, which no configuration has")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}): it is truncated or damaged; copy it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object; it holds a {type(value).__name__}")
    return value


def check_file(path: Path) -> None:
    """Check that a file exists and is what its name says, as far as its first bytes and its length can show.

    Raises:
        CheckpointError: if it is missing, empty, a Git LFS pointer, or a safetensors file cut short.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete; copy it again")
    try:
        opened = path.open("rb")
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read by this user; change its permissions (chmod +r)") from error
    with opened as file:
        start = file.read(len(_LFS))
        if not start:
            raise CheckpointError(f"{path} is empty: the checkpoint is incomplete; copy it again")
        if start == _LFS:
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` where it came from"
            )
        if path.suffix == ".safetensors":
            file.seek(0)
            _check_safetensors(path, file)


def _check_safetensors(path: Path, file: BinaryIO) -> None:
    size, first = path.stat().st_size, file.read(8)
    # The file is eight bytes with the length of the header, the header, and the data without gaps.
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(size - 8, _MOST_HEADER):
        raise CheckpointError(f"{path} is not a whole safetensors file: its header does not fit into its {size} bytes")
    try:
        header = json.loads(file.read(length))
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged safetensors header ({error}); copy it again") from error
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        raise CheckpointError(
            f"{path} has {size} bytes, and its header describes {expected}: it is truncated or altered"
        )


def weight_files(folder: Path, names: tuple[str, ...] = MODEL_WEIGHTS) -> list[Path]:
    """The files that hold a folder's weights, in the order of their names, after checking that each is whole.

    Args:
        folder: a model or adapter folder.
        names: the names that a single file may have; shards are found through ``<name>.index.json``.

    Raises:
        CheckpointError: if there are none, or one is missing, empty, cut short or a Git LFS pointer.
        UnsafeError: if the index points outside the folder.
    """
    for name in names:
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            files = [folder / name]
        elif index.exists():
            files = [folder / shard for shard in _shards(index)]
        else:
            continue
        for file in files:
            check_file(file)
        return files
    found = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
    raise CheckpointError(f"{folder} has no weights: none of {', '.join(names)} (or their shards); it has {found}")


def _shards(index: Path) -> list[str]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(v, str) for v in placed.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    shards = sorted(set(placed.values()))
    for shard in shards:
        inside(index.parent, shard, said_by=index)
    return shards


def inside(folder: Path, name: str, *, said_by: Path) -> Path:
    """``folder / name``, where the name is a plain one that stays in the folder.

    Raises:
        UnsafeError: if it would leave the folder.
    """
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ":" in name or ".." in parts:
        raise UnsafeError(f"{said_by} points to {name!r}, outside its own folder; such a checkpoint is not opened")
    return folder / name


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Check that no entry of a configuration, however deep, asks for code from elsewhere.

    Raises:
        UnsafeError: if it sets ``_attn_implementation_internal`` or ``trust_remote_code``, or names an attention kernel
            by a repository.
    """
    for key, value in entries(config):
        kernel = key in ("attn_implementation", "_attn_implementation", "experts_implementation")
        if (
            key == "_attn_implementation_internal"
            or (key == "trust_remote_code" and value)
            or (kernel and "/" in str(value))
        ):
            raise UnsafeError(
                f"{path} sets {key} to {value!r}, which would fetch and run code from elsewhere; remove that entry if you "
                "trust the source of the checkpoint"
            )


def entries(value: object) -> Iterator[tuple[str, object]]:
    """Every key and value at any depth; without recursion, which a deep file would exhaust."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            yield from item.items()
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


_KNOWN: dict[tuple[str, int, int], str] = {}


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex; remembered within the process as long as its size and time stay the same."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _KNOWN:
        hashed = sha256()
        with path.open("rb") as file:
            while block := file.read(2**22):
                hashed.update(block)
        _KNOWN[key] = hashed.hexdigest()
    return _KNOWN[key]


def digest(folder: Path) -> str:
    """The SHA-256, in hex, of a model or adapter folder: of its configuration and weight files, in the order of their names.

    It is the SHA-256 of one line ``<SHA-256 of the file>  <name>`` for each. Tokenizers, model cards and trainer states
    are left out: they do not change what the network computes.

    Raises:
        CheckpointError: if the folder is not a complete checkpoint.
    """
    adapter = (folder / ADAPTER_CONFIG).exists()
    config = folder / (ADAPTER_CONFIG if adapter else MODEL_CONFIG)
    check_file(config)
    files = sorted([config, *weight_files(folder, ADAPTER_WEIGHTS if adapter else MODEL_WEIGHTS)])
    lines = [f"{file_digest(file)}  {file.relative_to(folder)}\n" for file in files]
    return sha256("".join(lines).encode()).hexdigest()
