"""Caption files: COCO's official one, Karpathy's ``dataset_*.json``, those of Flickr30k, and lists of captions by image.

An example is an image with all its captions. Its id is the COCO id, or the file name where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rankscope.data.files import Json, id_text, parse, read_json, read_object
from rankscope.data.intake import Intake
from rankscope.data.probes import Example
from rankscope.data.records import csv_rows
from rankscope.errors import DataError

FLICKR_FOLDERS = ("flickr30k_images", "flickr30k-images", "images")
"""The folders of the images in the usual downloads of Flickr30k."""
UNSEPARATED = re.compile(r"\s*(\d+)\s{2,}(\S.*)")
"""Number and caption with blanks in place of the separator: row 19999 of Kaggle's ``results.csv``, which is
``2199200615.jpg| 4   A dog runs across the grass .``."""


def read_coco(path: Path, intake: Intake) -> list[Example]:
    """COCO's official file: ``images`` (id, file_name) and ``annotations`` (image_id, caption)."""
    value = read_object(path, "images", "annotations", fault=intake.fault)
    captions: dict[str, list[Json]] = {}
    seen: set[str] = set()
    for i, item in intake.objects(value["annotations"], "annotations"):
        image, name = id_text(item, "image_id"), id_text(item, "id")
        if image is None or "caption" not in item:
            kind = "question annotations (VQA)" if "answers" in item else "other annotations"
            intake.fault(f"annotation has no image_id or no caption: {kind}", f"annotation {i}")
            continue
        if name is not None and name in seen:
            intake.fault("annotation id occurs twice", f"id {name}")
        seen.add(name or "")
        captions.setdefault(image, []).append(item["caption"])
    images, found = intake.images_beside(path.parent), []
    for i, item in intake.objects(value["images"], "images"):
        name, file = id_text(item, "id"), item.get("file_name")
        if name is None or not isinstance(file, str):
            intake.fault("image has no id or no file_name", f"image {i}")
            continue
        texts = captions.pop(name, [])
        if not texts:
            intake.notice("image without captions", file)
        where = images.find(file, *_coco_folders(file, path), place=f"image {name}")
        about = {"image_id": name, "file_name": file, "task": "caption"}
        found.append(Example(name, "", where, intake.clean_all(texts, f"image {name}"), about=about))
    for name in captions:
        intake.fault("caption of an image that is not listed", f"image {name}")
    return found


def _coco_folders(file: str, path: Path) -> tuple[str, ...]:
    """The sub-folders in which an image may lie, by its own name and by that of the annotation file.

    ``COCO_val2014_000000391895.jpg`` is in ``val2014``; the image names of 2017 have no prefix, so there the name of the
    annotation file decides.
    """
    parts = [file.split("_")[1]] if file.startswith("COCO_") and file.count("_") >= 2 else []
    parts += [part for part in path.stem.split("_") if part.startswith(("train20", "val20", "test20"))]
    return (*parts, "images", *(f"images/{part}" for part in parts))


def read_karpathy(path: Path, intake: Intake) -> list[Example]:
    """Karpathy's file: every image with its split and sentences; ``restval`` counts as ``train`` by default."""
    images, found = intake.images_beside(path.parent), []
    for i, item in intake.objects(read_object(path, "images", fault=intake.fault)["images"], "images"):
        file, split = item.get("filename"), item.get("split")
        if not isinstance(file, str) or not isinstance(split, str):
            intake.fault("image has no filename or no split", f"image {i}")
            continue
        name = id_text(item, "cocoid") or file
        sentences = [s.get("raw") for _, s in intake.objects(item.get("sentences", []), f"sentences of {name}")]
        if not sentences:
            intake.fault("image without sentences", file)
        if split == "restval":
            intake.notice("restval counted as train" if intake.restval else "restval is not part of train", file)
            split = "train" if intake.restval else split
        folder = item.get("filepath")  # in COCO's file, not in those of Flickr
        folders = (folder, f"images/{folder}", "images") if isinstance(folder, str) else ("images", "flickr30k-images")
        where = images.find(file, *folders, place=f"image {name}")
        about = {"image_id": name, "file_name": file, "split": split, "task": "caption"}
        found.append(Example(name, "", where, intake.clean_all(sentences, f"image {name}"), about=about))
    return found


def _by_file(rows: Iterable[tuple[int, str, str, str]], path: Path, intake: Intake) -> list[Example]:
    """Examples from (line, file name, number of the caption, caption); it is a fault if a number occurs twice."""
    captions, seen = dict[str, list[str]](), set[tuple[str, str]]()
    for line, file, number, caption in rows:
        if (file, number) in seen:
            intake.fault("caption number occurs twice", f"line {line}: {file} {number}")
        seen.add((file, number))
        captions.setdefault(file, []).extend(intake.clean_all([caption], f"line {line}"))
    images, found = intake.images_beside(path.parent), []
    for file, texts in captions.items():
        where = images.find(file, *FLICKR_FOLDERS, place=file)
        found.append(Example(file, "", where, tuple(texts), about={"file_name": file, "task": "caption"}))
    return found


def read_flickr_token(path: Path, intake: Intake) -> list[Example]:
    """Flickr30k's original ``results_20130124.token``: ``1000092795.jpg#0<TAB>Two young guys …``."""

    def rows() -> Iterable[tuple[int, str, str, str]]:
        for line, text in intake.text_lines(path):
            image, tab, caption = text.partition("\t")
            file, mark, number = image.rpartition("#")
            if tab and mark and number.isdecimal() and file:
                yield line, file, number, caption
            else:
                intake.fault("line is not NAME#NUMBER<TAB>CAPTION", f"line {line}: {text[:40]!r}")

    return _by_file(rows(), path, intake)


def read_flickr_results(path: Path, intake: Intake) -> list[Example]:
    """Kaggle's ``results.csv``: ``image_name| comment_number| comment``, with blanks around every cell."""

    def rows() -> Iterable[tuple[int, str, str, str]]:
        for line, text in intake.text_lines(path):
            cells = [cell.strip() for cell in text.split("|", 2)]
            if line == 1 and cells[0] == "image_name":
                continue
            joined = UNSEPARATED.fullmatch(text.partition("|")[2]) if len(cells) == 2 else None
            if joined:
                intake.notice("row without its second separator, repaired", f"line {line}: {cells[0]}")
                cells = [cells[0], joined[1], joined[2]]
            if len(cells) == 3 and cells[0] and cells[1].isdecimal():
                yield line, cells[0], cells[1], cells[2]
            else:
                intake.fault("row is not NAME| NUMBER| CAPTION", f"line {line}: {text[:40]!r}")

    return _by_file(rows(), path, intake)


def read_flickr_annotations(path: Path, intake: Intake) -> list[Example]:
    """``flickr_annotations_30k.csv``: ``raw`` (a JSON list of captions), ``sentids``, ``split``, ``filename``, ``img_id``."""
    images, found = intake.images_beside(path.parent), []
    for row, cells in csv_rows(path, intake):
        file, split, raw = (str(cells.get(name, "")) for name in ("filename", "split", "raw"))
        try:
            texts = parse(raw, f"row {row}")
        except DataError as error:
            intake.fault("captions are not a JSON list", str(error)[:120])
            continue
        if not isinstance(texts, list) or not file or not texts:
            intake.fault("row has no file name or no list of captions", f"row {row}")
            continue
        where = images.find(file, *FLICKR_FOLDERS, place=f"row {row}")
        about = {"file_name": file, "split": split, "task": "caption"}
        found.append(Example(file, "", where, intake.clean_all(texts, f"row {row}"), about=about))
    return found


def captions_by_image(path: Path, intake: Intake) -> dict[str, tuple[str, ...]]:
    """The captions of each image in a JSON list of ``{"image_id", "caption"}``."""
    captions: dict[str, list[Json]] = {}
    for i, item in intake.objects(read_json(path, intake.fault), str(path)):
        name = id_text(item, "image_id")
        if name is None or "caption" not in item:
            intake.fault("entry has no image_id or no caption", f"entry {i}")
        else:
            captions.setdefault(name, []).append(item["caption"])
    return {name: intake.clean_all(texts, f"image {name}") for name, texts in captions.items()}


def read_caption_list(path: Path, intake: Intake) -> list[Example]:
    """A list of ``{"image_id", "caption"}`` alone: Oscar's captions, or COCO's results."""
    return [
        Example(name, "", None, texts, about={"image_id": name, "task": "caption"})
        for name, texts in captions_by_image(path, intake).items()
    ]
