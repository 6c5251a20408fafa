"""The processor in a checkpoint's folder, without the parts of it that read what no probe set holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

from rankscope.data.files import read_json
from rankscope.errors import CheckpointError, DataError, MissingTool
from rankscope.models.quiet import quiet

_NAMING = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""The files of a folder that may name its processor's class, in the order in which transformers looks."""
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken", "*.spm")
"""Files of which a tokenizer has at least one; without them transformers makes one that knows no word."""


def open_processor(
    folder: Path,
    *,
    text: bool,
    image: bool = False,
    audio: bool = False,
    trust_remote_code: bool = False,
    others: Sequence[Path] = (),
) -> Any:
    """The tokenizer, image processor, feature extractor or processor of a checkpoint, whichever its model needs.

    Args:
        folder: its folder.
        text: whether texts are read.
        image: whether images are.
        audio: whether sounds are.
        trust_remote_code: run the Python files that it brings along.
        others: where the rest of a processor is if the folder has the tokenizer alone, as beside an adapter: its base's folder.

    Raises:
        CheckpointError: if it is not in the folder, or cannot be read, or its tokens are not those of the rest.
        MissingTool: if it needs a package that is not there.
    """
    what, auto = "tokenizer", AutoTokenizer
    if image:
        what, auto = ("processor", AutoProcessor) if text else ("image processor", AutoImageProcessor)
    if audio:
        what, auto = ("processor", AutoProcessor) if text else ("feature extractor", AutoFeatureExtractor)
    if others and (image or audio) and not any((folder / name).is_file() for name in _NAMING[:2]):
        rest = open_processor(
            others[0], text=text, image=image, audio=audio, trust_remote_code=trust_remote_code, others=others[1:]
        )
        return _with_tokenizer(rest, folder, others[0], trust_remote_code) if text else rest
    if text and not any(True for pattern in _VOCABULARIES for _ in folder.glob(pattern)):
        raise CheckpointError(
            f"{folder} has no tokenizer: none of {', '.join(_VOCABULARIES)}; save it there with tokenizer.save_pretrained, or "
            "name the folder that has it (--processor, processor=…), or the base that was tuned (--base-model, base_model=…)"
        )
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        with quiet():
            seeing = without_videos(folder) if auto is AutoProcessor else None
            return (seeing or auto).from_pretrained(folder, **options)
    except RecursionError as error:
        raise CheckpointError(
            f"the files of the {what} in {folder} nest too deeply to be read; copy them again"
        ) from error
    except (ImportError, RuntimeError) as error:  # the latter from packages built for another torch
        raise MissingTool(
            f"the {what} in {folder} needs a package that is not installed or does not load: {' '.join(str(error).split())[:300]}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder} has no {what} that can be read ({reason}); save it there with processor.save_pretrained"
        ) from error


def _with_tokenizer(processor: Any, folder: Path, home: Path, trust_remote_code: bool) -> Any:
    """A processor with the tokenizer of another folder, which may know more words."""
    own = open_processor(folder, text=True, trust_remote_code=trust_remote_code)
    if not processor.tokenizer.get_vocab().items() <= own.get_vocab().items():
        raise CheckpointError(
            f"the tokenizer in {folder} has other tokens than that of the processor in {home}; save the whole processor beside it "
            "(processor.save_pretrained), or name its folder (--processor, processor=…)"
        )
    processor.tokenizer = own
    return processor


def without_videos(folder: Path) -> Any:
    """The class of a folder's processor without its part for videos; None if that class has none.

    The part for videos needs packages that images do not, and cannot be opened without them.
    """
    named = (_fields(folder / name).get("processor_class") for name in _NAMING)
    by_type = PROCESSOR_MAPPING_NAMES.get(_fields(folder / "config.json").get("model_type", ""))
    name = next((n for n in named if isinstance(n, str)), by_type)
    cls = None if name is None else processor_class_from_name(name)
    if cls is None or not any(_of_videos(part) for part in cls.get_attributes()):
        return None
    return type(cls.__name__, (_Seeing, cls), {"__module__": cls.__module__})


class _Seeing:
    """Put before a processor's class, it leaves out the part for videos."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts that are opened."""
        return [part for part in super().get_attributes() if not _of_videos(part)]  # type: ignore[misc]

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The processor, made from its parts."""
        return super().from_args_and_dict(args, processor_dict, video_processor=None, **kwargs)  # type: ignore[misc]


def _of_videos(part: str) -> bool:
    return part == "video_processor"


def _fields(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file)
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}
