"""COCO captions: the official annotation file, and Karpathy's ``dataset_*.json`` (COCO, Flickr30k, Flickr8k).

An example is an image with all its captions; its id is the COCO id (or, without one, the file name).
"""

from __future__ import annotations

from pathlib import Path

from rankscope.data.files import Images, Json, Options, cleaned, key, objects, read_json
from rankscope.data.probes import Example
from rankscope.data.report import Ledger
from rankscope.errors import DataError


def top(path: Path, *wanted: str) -> dict[str, Json]:
    """The object in a JSON file, which must have the keys ``wanted``.

    Raises:
        DataError: if it has them not; what the file seems to be is said.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} should be a JSON object with {', '.join(wanted)}; it is {type(value).__name__}")
    missing = [name for name in wanted if name not in value]
    if missing:
        raise DataError(
            f"{path} has no {' and no '.join(missing)}; it has {', '.join(value)}: an annotation file of another kind?"
        )
    return value


def read_captions(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """The official file: ``images`` (id, file_name) and ``annotations`` (image_id, caption)."""
    value = top(path, "images", "annotations")
    captions: dict[str, list[Json]] = {}
    seen: set[str] = set()
    for i, item in objects(value["annotations"], "annotations", ledger):
        image, name = key(item, "image_id"), key(item, "id")
        if image is None or "caption" not in item:
            kind = "question annotations (VQA)" if "answers" in item else "other annotations"
            ledger.fault(f"annotation has no image_id or no caption: {kind}", f"annotation {i}")
            continue
        if name is not None and name in seen:
            ledger.fault("annotation id stands twice", f"id {name}")
        seen.add(name or "")
        captions.setdefault(image, []).append(item["caption"])
    images, found = Images(options.images or path.parent), []
    for i, item in objects(value["images"], "images", ledger):
        name, file = key(item, "id"), item.get("file_name")
        if name is None or not isinstance(file, str):
            ledger.fault("image has no id or no file_name", f"image {i}")
            continue
        said = captions.pop(name, None)
        if said is None:
            ledger.notice("image without captions", file)
        # COCO_val2014_000000391895.jpg lies in val2014; the names of 2017 do not tell, the file's own name does.
        folders = _folders(file, path)
        where = images.find(file, *folders, place=f"image {name}", ledger=ledger)
        about = {"image_id": name, "file_name": file, "task": "caption"}
        found.append(Example(name, "", where, cleaned(said or [], f"image {name}", ledger), about=about))
    for name in captions:
        ledger.fault("caption of an image that is not listed", f"image {name}")
    return found


def _folders(file: str, path: Path) -> tuple[str, ...]:
    """The sub-folders in which an image may lie, by its own name and by that of the annotation file."""
    parts = [file.split("_")[1]] if file.startswith("COCO_") and file.count("_") >= 2 else []
    parts += [part for part in path.stem.split("_") if part.startswith(("train20", "val20", "test20"))]
    return (*parts, "images", *(f"images/{part}" for part in parts))


def read_karpathy(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """Karpathy's file: every image with its split and sentences; ``restval`` counts as ``train`` unless refused."""
    images, found = Images(options.images or path.parent), []
    for i, item in objects(top(path, "images")["images"], "images", ledger):
        file, split = item.get("filename"), item.get("split")
        if not isinstance(file, str) or not isinstance(split, str):
            ledger.fault("image has no filename or no split", f"image {i}")
            continue
        name = key(item, "cocoid") or file
        sentences = [s.get("raw") for _, s in objects(item.get("sentences", []), f"sentences of {name}", ledger)]
        if not sentences:
            ledger.fault("image without sentences", file)
        if split == "restval":
            ledger.notice("restval counted as train" if options.restval else "restval is no part of train", file)
        folder = item.get("filepath")
        folders = (folder, f"images/{folder}", "images") if isinstance(folder, str) else ("images", "flickr30k-images")
        where = images.find(file, *folders, place=f"image {name}", ledger=ledger)
        shown = "train" if split == "restval" and options.restval else split
        about = {"image_id": name, "file_name": file, "split": shown, "task": "caption"}
        found.append(Example(name, "", where, cleaned(sentences, f"image {name}", ledger), about=about))
    return found
