"""VinVL and Oscar: a YAML file that names features, labels and captions; and region features beside any other data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rankscope.data.files import Json, Options, cleaned, contents, key, objects, read_json
from rankscope.data.probes import Example
from rankscope.data.regions import index_regions
from rankscope.data.report import Ledger
from rankscope.errors import DataError


def read_yaml(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """Oscar's data set: the keys ``feature``, ``label`` and ``caption`` of a flat YAML file are paths from its folder.

    Raises:
        DataError: if it names no features, or a file that is not there.
    """
    named = _flat(path)
    if "feature" not in named:
        raise DataError(
            f"{path} names no feature file; it has {', '.join(named) or 'no keys'}; Oscar's files have feature, label, caption"
        )
    files = {
        name: path.parent / value for name, value in named.items() if name in ("feature", "label", "caption") and value
    }
    absent = [str(file) for file in files.values() if not file.is_file()]
    if absent:
        raise DataError(f"{path} names files that are not there: {', '.join(absent)}")
    regions = index_regions(files["feature"], ledger, labels=files.get("label"))
    said = captions_by_image(read_json(files["caption"]), files["caption"], ledger) if "caption" in files else {}
    for name in said:
        if name not in regions:
            ledger.fault("caption of an image without regions", f"image {name}")
    return [
        Example(name, "", None, said.get(name, ()), regions=r, about={"image_id": name, "task": "caption"})
        for name, r in regions.items()
    ]


def _flat(path: Path) -> dict[str, str]:
    """The ``key: value`` lines of a YAML file; Oscar's hold nothing else."""
    found = {}
    for number, line in enumerate(contents(path).split("\n"), 1):
        text = line.split(" #")[0].rstrip()
        if not text.strip() or text.lstrip().startswith("#") or text.strip() == "---":
            continue
        name, colon, value = text.partition(":")
        if not colon or line[0] in " \t-":
            raise DataError(f"{path}, line {number}, is not KEY: VALUE: {line[:60]!r}; only flat YAML is read here")
        found[name.strip()] = value.strip().strip("\"'")
    return found


def captions_by_image(value: Json, path: Path, ledger: Ledger) -> dict[str, tuple[str, ...]]:
    """Captions of each image from a list of ``{"image_id", "caption"}``."""
    found: dict[str, list[Json]] = {}
    for i, item in objects(value, str(path), ledger):
        name = key(item, "image_id")
        if name is None or "caption" not in item:
            ledger.fault("entry has no image_id or no caption", f"entry {i}")
        else:
            found.setdefault(name, []).append(item["caption"])
    return {name: cleaned(said, f"image {name}", ledger) for name, said in found.items()}


def read_caption_list(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """A list of ``{"image_id", "caption"}`` alone: Oscar's captions, or COCO's results."""
    found = captions_by_image(read_json(path), path, ledger)
    return [Example(name, "", None, said, about={"image_id": name, "task": "caption"}) for name, said in found.items()]


def read_features(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """Region features alone: an example an image, without text."""
    return [
        Example(name, "", None, (), regions=r, about={"image_id": name})
        for name, r in index_regions(path, ledger).items()
    ]


def with_regions(examples: Sequence[Example], source: Path, ledger: Ledger) -> list[Example]:
    """The examples with the regions of their image; an image without regions is a fault.

    The name of an image is looked up as ``image_id``, as the file name with and without its ending, and as the id.
    """
    regions, found = index_regions(source, ledger), []
    for example in examples:
        file = example.about.get("file_name", example.image.name if isinstance(example.image, Path) else "")
        names = (example.about.get("image_id", ""), file, Path(file).stem, example.id)
        own = next((regions[name] for name in names if name in regions), None)
        if own is None:
            ledger.fault("image without regions", f"example {example.id}")
        found.append(replace(example, regions=own))
    return found
