"""Which processor a folder needs, without the parts of it that read what no probe set holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

from rankscope.data.files import read_json
from rankscope.errors import DataError

_NAMING = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""The files of a folder that may name its processor's class, in the order in which transformers looks."""


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
