"""open_data: from what a person types to a probe set.

``scenes`` and ``scenes:questions/train?n=2000`` are the embedded data. Everything else is a file or a folder, a split behind a
colon (``dataset_coco.json:test``); its format is recognised by name and, for JSON, by its keys. A format is a row in a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rankscope.data import coco, flickr, folder, hub, oscar, records, tsv, vqa
from rankscope.data.files import Json, Options, lines, read_json
from rankscope.data.probes import Example, ProbeSet
from rankscope.data.report import Ledger
from rankscope.data.scenes import scenes
from rankscope.errors import DataError, UsageError

Reader = Callable[[Path, Options, Ledger], list[Example]]
"""Reads all splits of a file or folder."""


class Format(NamedTuple):
    """A format on disk."""

    name: str
    read: Reader


JSON_OBJECTS: tuple[tuple[tuple[str, ...], Format], ...] = (
    (("images", "annotations"), Format("COCO captions", coco.read_captions)),
    (("questions",), Format("VQAv2 questions", vqa.read_vqa)),
    (("images",), Format("Karpathy's captions", coco.read_karpathy)),
)
"""JSON objects by the keys that they have, the first row that fits."""
SUFFIXES: dict[str, Format] = {
    ".jsonl": Format("JSON lines", records.read_jsonl),
    ".ndjson": Format("JSON lines", records.read_jsonl),
    ".txt": Format("lines of text", records.read_text),
    ".token": Format("Flickr30k tokens", flickr.read_token),
    ".yaml": Format("Oscar data set", oscar.read_yaml),
    ".npz": Format("region features", oscar.read_features),
    ".safetensors": Format("region features", oscar.read_features),
}
"""Files by their ending, where it tells."""


def recognise(path: Path) -> Format:
    """The format of a file or folder.

    Raises:
        DataError: if it is not there, or of no known format.
    """
    if path.is_dir():
        if any((path / mark).is_file() for mark in hub.MARKS):
            return Format("Hugging Face dataset", hub.read_saved)
        return Format("image folder", folder.read_folder if folder.parts(path) else folder.read_images)
    if not path.is_file():
        raise DataError(f"no such file or folder: {path}; data are a file, a folder, or scenes:TASK/SPLIT")
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix]
    peculiar = {".json": _json, ".csv": _csv, ".tsv": _tsv}.get(path.suffix)
    if peculiar is None:
        known = ", ".join(sorted([*SUFFIXES, ".json", ".csv", ".tsv"]))
        raise DataError(
            f"{path} has the ending {path.suffix or 'of no format'!r}; {known} are read, and folders of images or datasets"
        )
    return peculiar(path)


def _json(path: Path) -> Format:
    value = read_json(path)
    if isinstance(value, list):
        return (
            Format("captions by image", oscar.read_caption_list)
            if _captions(value)
            else Format("JSON list", records.read_list)
        )
    keys = value if isinstance(value, dict) else {}
    found = next((kind for wanted, kind in JSON_OBJECTS if all(k in keys for k in wanted)), None)
    if found is None and "annotations" in keys:
        raise DataError(
            f"{path} holds annotations without their questions or images; open the question file, whose annotations are found beside it"
        )
    if found is None:
        raise DataError(
            f"{path} is JSON of no known kind; its keys are {', '.join(keys) or 'none'}; COCO, Karpathy and VQAv2 files are read, and lists of objects"
        )
    return found


def _captions(value: list[Json]) -> bool:
    """Whether a list is of captions by image: nothing but ``image_id``, ``caption`` and perhaps ``id``."""
    first = value[0] if value else None
    return isinstance(first, dict) and {"image_id", "caption"} <= set(first) <= {"image_id", "caption", "id"}


def _csv(path: Path) -> Format:
    header = next((line for _, line in lines(path)), b"").decode(errors="replace")
    if "|" in header and header.split("|")[0].strip() == "image_name":
        return Format("Flickr30k results", flickr.read_results)
    if {"raw", "sentids", "filename"} <= {name.strip() for name in header.split(",")}:
        return Format("Flickr30k annotations", flickr.read_annotations)
    return Format("CSV", records.read_csv)


def _tsv(path: Path) -> Format:
    first = next((line for _, line in lines(path)), b"")
    if first.count(b"\t") in (1, 2):
        return Format("region features", oscar.read_features)
    return Format("OFA TSV", tsv.read_ofa)


def open_data(
    spec: str | Path | ProbeSet | Sequence[str | Mapping[str, Json] | Example],
    *,
    split: str | None = None,
    n: int | None = None,
    images: str | Path | None = None,
    regions: str | Path | None = None,
    answers: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    restval: bool = True,
) -> ProbeSet:
    """The probe set that a person means.

    Args:
        spec: ``scenes`` (the test captions), ``scenes:TASK/SPLIT``, ``scenes:TASK/SPLIT?n=N``; a file or folder of any format in this
            module's tables, perhaps with ``:SPLIT`` behind it; a probe set; or texts, records or examples.
        split: the split, where the data have several.
        n: only the first so many examples.
        images: the folder of the images, where they do not lie beside the file.
        regions: region features, matched by image.
        answers: VQAv2's annotation file, where it does not lie beside the questions under its official name.
        columns: which column holds ``id``, ``text``, ``image``, ``targets``, ``label``, where the names do not tell.
        restval: whether ``restval`` counts as ``train`` in Karpathy's split of COCO, as papers do; :attr:`ProbeSet.notices`
            says which.

    Raises:
        DataError: for everything that is wrong with the data; all faults of a file are told at once, before anything is computed.
        UsageError: if a split is asked for twice and differently.
    """
    options = options_of(images, regions, answers, columns, restval=restval)
    if isinstance(spec, ProbeSet):
        found = spec
    elif isinstance(spec, str) and (spec == "scenes" or spec.startswith(("scenes:", "scenes?"))):
        found = _scenes(spec, split, n)
    elif isinstance(spec, str | Path):
        found = _from_disk(spec, split, options)
    else:
        found = _from_memory(spec, options)
    return found if n is None else found.first(n)


def options_of(
    images: str | Path | None,
    regions: str | Path | None,
    answers: str | Path | None,
    columns: Mapping[str, str] | None,
    *,
    restval: bool = True,
) -> Options:
    """What a person said beside the path, with paths as paths; a folder of images that is not there is refused."""
    if images is not None and not Path(images).is_dir():
        raise DataError(f"no such folder of images: {images}")
    paths = [None if p is None else Path(p) for p in (images, answers, regions)]
    return Options(images=paths[0], answers=paths[1], regions=paths[2], columns=columns or {}, restval=restval)


def _scenes(spec: str, split: str | None, n: int | None) -> ProbeSet:
    """``scenes[:TASK[/SPLIT]][?n=N]``."""
    rest, _, query = spec.removeprefix("scenes").removeprefix(":").partition("?")
    task, _, named = rest.partition("/")
    if split and named and split != named:
        raise UsageError(f"{spec} names the split {named}, and {split} was asked for")
    if query and not query.removeprefix("n=").isdecimal():
        raise DataError(f"{spec} ends in ?{query}; write ?n=2000")
    return scenes(task or "captions", named or split or "test", n=int(query.removeprefix("n=")) if query else n)


def path_and_split(spec: str | Path) -> tuple[Path, str | None]:
    """``dataset_coco.json:train`` as its path and split; a path that is there has no split behind it."""
    head, colon, named = str(spec).rpartition(":")
    return (Path(head), named) if colon and not Path(spec).exists() else (Path(spec), None)


def _from_disk(spec: str | Path, split: str | None, options: Options) -> ProbeSet:
    path, named = path_and_split(spec)
    if split and named and split != named:
        raise UsageError(f"{spec} names the split {named}, and {split} was asked for")
    ledger = Ledger()
    read = recognise(path).read(path, options, ledger)
    if ledger.faults and not any(e.about.get("split") == (named or split) for e in read):
        ledger.refuse(str(spec))  # The split may be missing because of these.
    examples = selected(read, named or split, str(path))
    if options.regions:
        examples = oscar.with_regions(examples, options.regions, ledger)
    check_ids(examples, ledger)
    if options.regions is None:
        check_images(examples, ledger)
    ledger.refuse(str(spec))
    name = f"{spec}:{split}" if split and not named else str(spec)
    return ProbeSet(name, examples, tuple(map(str, ledger.notices.values())))


def selected(examples: list[Example], split: str | None, where: str) -> list[Example]:
    """The examples of a split; of several, one must be chosen.

    Raises:
        DataError: if there is no such split, or several and none was chosen.
    """
    splits = Counter(e.about.get("split", "") for e in examples)
    splits.pop("", None)
    there = ", ".join(f"{name} ({count})" for name, count in splits.items())
    if split is None:
        if len(splits) > 1:
            raise DataError(f"{where} has the splits {there}; choose one, as in {where}:{next(iter(splits))}")
        return examples
    if split not in splits:
        raise DataError(f"{where} has no split {split!r}; it has {there or 'no named splits'}")
    return [e for e in examples if e.about.get("split") == split]


def check_ids(examples: Sequence[Example], ledger: Ledger) -> None:
    """Ids that stand more than once."""
    for name, count in Counter(e.id for e in examples).items():
        if count > 1:
            ledger.fault("id stands more than once", name)


def check_images(examples: Sequence[Example], ledger: Ledger) -> None:
    """Files that are not there; each once, however many examples show it."""
    for path in dict.fromkeys(e.image for e in examples if isinstance(e.image, Path)):
        if not path.is_file():
            ledger.fault("image missing", str(path))


def _from_memory(items: Sequence[str | Mapping[str, Json] | Example], options: Options) -> ProbeSet:
    """Texts, records or examples, all of one kind."""
    if not len(items):
        raise DataError("the data hold no examples")
    ledger = Ledger()
    if all(isinstance(item, Example) for item in items):
        found: list[Example] = [item for item in items if isinstance(item, Example)]
    elif all(isinstance(item, str) for item in items):
        found = [Example(str(i), item) for i, item in enumerate(items) if isinstance(item, str)]
    elif all(isinstance(item, Mapping) for item in items):
        rows = [(i, item) for i, item in enumerate(items) if isinstance(item, Mapping)]
        found = records.examples(rows, options, Path(), "the records", ledger)
        check_images(found, ledger)
    else:
        kinds = ", ".join(sorted({type(item).__name__ for item in items}))
        raise DataError(f"data in memory are all texts, all records or all examples; these are {kinds}")
    ledger.refuse("the data")
    return ProbeSet(f"{len(found)} in memory", found)
