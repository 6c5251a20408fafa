"""Which kind of checkpoint a folder is, and messages for paths that are not a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from rankscope.checkpoint.files import ADAPTER_CONFIG, MODEL_CONFIG, MODEL_WEIGHTS
from rankscope.errors import CheckpointError

STAGES = "rankscope.json"
"""The file in which a folder of stages records its base, the order of the stages, and how they were made."""
_STAGE = re.compile(r"(\d+)-.+")
TRAINER = re.compile(r"checkpoint-(\d+)")
"""The names that a Trainer gives the folders of its checkpoints."""
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PIPELINE = "modules.json"
"""The file in which sentence-transformers lists the modules of a pipeline."""
_BARE = {
    ".safetensors": "a bare weights file",
    ".bin": "a bare weights file",
    ".pt": "a bare pickle of weights (fairseq, as OFA was first published: rankscope.models.ported.ofa.load_fairseq(FILE)"
    ".save_pretrained(FOLDER) makes a folder of it; or a saved state dictionary)",
    ".pth": "a bare pickle of weights (as LAVIS publishes BLIP-2)",
    ".ckpt": "a bare pickle of weights (as PyTorch Lightning writes)",
    ".gguf": "a GGUF file of quantised weights",
}


def kind(folder: Path) -> str:
    """The kind of a checkpoint folder: ``model``, ``adapter`` or ``stages``.

    Raises:
        CheckpointError: if the path is none of these; the message says what it is and what to do.
    """
    if folder.is_file():
        raise CheckpointError(_about_file(folder))
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}")
    _refuse_foreign(folder)
    # A model may keep numbered folders or a rankscope.json beside it, so stages come last.
    if (folder / ADAPTER_CONFIG).exists():
        return "adapter"
    if (folder / MODEL_CONFIG).exists():
        return "model"
    if (folder / STAGES).is_file() or stage_folders(folder):
        return "stages"
    raise CheckpointError(_about_folder(folder))


def stage_folders(folder: Path) -> list[Path]:
    """The sub-folders ``0-prefix``, ``1-lora``, … in the order of their numbers."""
    found = [(int(m[1]), p) for p in folder.iterdir() if p.is_dir() and (m := _STAGE.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


def adapters_inside(folder: Path) -> tuple[str, ...]:
    """The sub-folders of a checkpoint that are adapters too; not those that a Trainer or a recipe of stages keeps there."""
    if kind(folder) == "stages":
        return ()
    inside = [p for p in folder.iterdir() if (p / ADAPTER_CONFIG).is_file()]
    return tuple(sorted(p.name for p in inside if not TRAINER.fullmatch(p.name) and not _STAGE.fullmatch(p.name)))


def folder_name(folder: Path) -> str:
    """The last part of a path; for a repository in the Hub cache its name, for a trainer's checkpoint with its folder."""
    path = folder.resolve()
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return path.parents[1].name.rpartition("--")[2]
    return f"{path.parent.name}-{path.name}" if TRAINER.fullmatch(path.name) else path.name


def _about_file(path: Path) -> str:
    if path.name in (MODEL_CONFIG, ADAPTER_CONFIG, STAGES):
        return f"{path} is a file of a checkpoint; give its folder, {path.parent}"
    what = _BARE.get(path.suffix.lower(), "a file")
    return (
        f"{path} is {what}, not a checkpoint: weights alone do not say which network they belong to. Put it in a folder "
        "beside its config.json (or adapter_config.json) under its Hugging Face name and give that folder"
    )


def _about_folder(folder: Path) -> str:
    children = sorted(p.name for p in folder.iterdir())
    trainer = sorted((int(m[1]), name) for name in children if (m := TRAINER.fullmatch(name)))
    if trainer:
        steps = ", ".join(name for _, name in trainer)
        return f"{folder} is the output of a Trainer, not a checkpoint itself; give one of those in it: {steps}"
    adapters = [name for name in children if (folder / name / ADAPTER_CONFIG).exists()]
    if adapters:
        return f"{folder} holds several adapters and is not one itself; give one of {', '.join(adapters)}, or a list"
    weights = [name for name in children if Path(name).suffix in _BARE]
    if weights:
        return f"{folder} has weights ({_listed(weights)}) but no config.json or adapter_config.json that says of what"
    there = _listed(children) or "nothing"
    return (
        f"{folder} is not a checkpoint: it has no config.json, adapter_config.json or stages (0-…, 1-…); it has {there}"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _refuse_foreign(folder: Path) -> None:
    """Refuse the layouts of other projects, which keep the weights under other names.

    Raises:
        CheckpointError: if the folder is with parts of the original LLaVA, of accelerate's ``save_state``, or of
            sentence-transformers with the network in a folder of its own.
    """
    inside = [path.parent for path in sorted(folder.glob(f"*/{MODEL_CONFIG}")) if has_weights(path.parent)]
    if (folder / _PIPELINE).exists() and inside and not has_weights(folder):
        raise CheckpointError(
            f"{folder} is a pipeline of sentence-transformers, whose network lies in a folder of its own; give "
            f"{' or '.join(map(str, inside))}"
        )
    for name in ("mm_projector.bin", "non_lora_trainables.bin"):
        if (folder / name).exists():
            raise CheckpointError(
                f"{folder} holds {name}, of the original LLaVA, which plain PEFT does not read: opened as it is, part of the "
                "tuning would be lost. Merge and convert it first (llava-hf/… are converted)"
            )
    if (
        (folder / "random_states_0.pkl").exists()
        and not (folder / MODEL_CONFIG).exists()
        and not (folder / ADAPTER_CONFIG).exists()
    ):
        raise CheckpointError(
            f"{folder} was written by accelerate's save_state to resume training; save the model itself"
        )


def is_repository(name: str) -> bool:
    """Whether a text could be the name of a repository: ``model`` or ``org/model``."""
    return _REPOSITORY.fullmatch(name) is not None


def in_cache(name: str, revision: str | None = None) -> Path | None:
    """The folder of a Hub repository in the local cache; None if it is not there. Nothing is downloaded."""
    if not is_repository(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        # Files may be missing that no checkpoint needs, such as weights for other frameworks; what is needed is checked later
        there = getattr(error, "snapshot_path", None)
        return None if there is None else Path(there)
    except HFValidationError:
        return None


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a whole model."""
    return any((folder / f"{name}{end}").exists() for name in MODEL_WEIGHTS for end in ("", ".index.json"))
