"""Checkpoints from the Hugging Face Hub, fetched where that is asked for by name, and never otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankscope.checkpoint.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_WEIGHTS, read_json, weight_files
from rankscope.checkpoint.kinds import STAGES, in_cache, is_repository, kind, stage_folders
from rankscope.errors import CheckpointError, public

_NEVER = ("*.h5", "*.msgpack", "*.ot", "*.onnx*", "*.tflite", "*.gguf", "*.pt", "*.pth", "*.ckpt")
"""Weights of other frameworks, and states of training."""
_PICKLED = ("*.bin",)
"""Weights that are fetched only where there are no others."""


@public
def fetch(checkpoint: str | Path | Sequence[str | Path], *, base_model: str | Path | None = None) -> tuple[Path, ...]:
    """Fetch into the local Hub cache what of a checkpoint is named by repository (``org/model``) and is not on this machine.

    That is the checkpoint, or each of a list, and the base that is given or else the one that an adapter names. Nothing in a
    repository is run. Afterwards everything here takes the same names.

    Args:
        checkpoint: what :func:`rankscope.load_model` takes.
        base_model: the base, in place of the one that the adapter names.

    Returns:
        The folders that were fetched; none if all was here.

    Raises:
        CheckpointError: if the Hub has no such repository, does not give it, or cannot be reached.
    """
    paths = [checkpoint] if isinstance(checkpoint, str | Path) else list(checkpoint)
    given = [*paths, *([] if base_model is None else [base_model])]
    found = [_fetched(str(path)) for path in given]
    first = in_cache(str(paths[0])) or Path(paths[0]).expanduser() if paths else None
    if base_model is None and first is not None and first.is_dir():
        name, revision = _named_base(first)
        if not any((beside / name).is_dir() for beside in (first, Path())):
            found.append(_fetched(name, revision))
    return tuple(folder for folder in found if folder is not None)


def _fetched(name: str, revision: str | None = None) -> Path | None:
    """The folder of a repository, if it had to be fetched."""
    if not is_repository(name) or Path(name).exists() or _is_whole(in_cache(name, revision)):
        return None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, ignore_patterns=[*_NEVER, *_PICKLED]))
        if not _is_whole(folder):
            folder = Path(snapshot_download(name, revision=revision, ignore_patterns=[*_NEVER]))
    except Exception as error:  # of the network, of its libraries, or of the Hub, each with classes of its own
        raise CheckpointError(f"{name!r} could not be fetched from the Hub: {type(error).__name__}: {error}") from error
    return folder


def _is_whole(folder: Path | None) -> bool:
    """Whether a folder is a checkpoint with all its weights."""
    try:
        if folder is None:
            return False
        if kind(folder) != "stages":
            weight_files(folder, ADAPTER_WEIGHTS if kind(folder) == "adapter" else MODEL_WEIGHTS)
    except CheckpointError:
        return False
    return True


def _named_base(folder: Path) -> tuple[str, str | None]:
    """The base that an adapter or a folder of stages names, and its revision; an empty name for a whole model."""
    record = read_json(folder / STAGES) if kind(folder) == "stages" and (folder / STAGES).exists() else {}
    if isinstance(record.get("base"), str):
        return record["base"], record.get("base_revision")
    folder = next(iter(stage_folders(folder)), folder) if kind(folder) == "stages" else folder
    config = read_json(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).exists() else {}
    return str(config.get("base_model_name_or_path") or ""), config.get("revision")
