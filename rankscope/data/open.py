"""open_data: from what a user types to a probe set.

``scenes``, ``scenes:questions/train?n=2000`` and ``sentences`` are the embedded data. Everything else is a file or a folder, with a split
after a colon (``dataset_coco.json:test``). Its format is recognised by its name and, for JSON, by its keys. A format is one
row in a table here, or a plug-in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from rankscope import plugins
from rankscope.data import captions, folder, hub, ofa, records, regions, vqa
from rankscope.data.files import HALF, Json, exists, is_file, lines, read_json, writable
from rankscope.data.intake import Intake
from rankscope.data.probes import Example, Known, ProbeSet
from rankscope.data.scenes import scenes
from rankscope.data.sentences import sentences
from rankscope.errors import DataError, UnknownName, UsageError


class Format(NamedTuple):
    """A format on disk."""

    name: str
    """What it is called in reports."""
    read: Callable[[Path, Intake], list[Example]]
    """Reads all splits of a file or folder."""


JSON_OBJECTS: tuple[tuple[tuple[str, ...], Format], ...] = (
    (("images", "annotations"), Format("COCO captions", captions.read_coco)),
    (("questions",), Format("VQAv2 questions", vqa.read_vqa)),
    (("images",), Format("Karpathy's captions", captions.read_karpathy)),
)
"""JSON objects by the keys that they have; the first row that fits."""
SUFFIXES: dict[str, Format] = {
    ".jsonl": Format("JSON lines", records.read_jsonl),
    ".ndjson": Format("JSON lines", records.read_jsonl),
    ".parquet": Format("Parquet", records.read_parquet),
    ".txt": Format("lines of text", records.read_text),
    ".token": Format("Flickr30k tokens", captions.read_flickr_token),
    ".yaml": Format("Oscar data set", regions.read_oscar),
    ".npz": Format("region features", regions.read_features),
    ".safetensors": Format("region features", regions.read_features),
}
"""Formats that the ending of the file name settles."""
OPTIONS = ("images", "regions", "answers", "columns", "restval", "images_needed")
"""The options of :func:`open_data` that decide what the examples of a file are, besides its name, split and number."""


def recognise(path: Path) -> Format:
    """The format of a file or folder.

    Raises:
        DataError: if it is missing, or of no known format.
    """
    if exists(path) and path.is_dir():
        if any((path / mark).is_file() for mark in hub.MARKS):
            return Format("Hugging Face dataset", hub.read_saved)
        return Format("image folder", folder.read_folder if folder.metadata_files(path) else folder.read_images)
    if not is_file(path):
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}…"
        saved = f"; a data set of the Hub is saved first: datasets.load_dataset({shown!r}).save_to_disk(FOLDER)"
        raise DataError(
            f"no such file or folder: {shown}; data are a file, a folder, or scenes:TASK/SPLIT"
            + (saved if re.fullmatch(r"[\w-][\w.-]*/[\w.-]*[\w-]", shown) and not path.suffix else "")
        )
    by_content = {".json": _json, ".csv": _csv, ".tsv": _tsv}
    name = path.suffix.removeprefix(".")
    if path.suffix in (*SUFFIXES, *by_content):
        plugins.pass_over("readers", name)
        return by_content[path.suffix](path) if path.suffix in by_content else SUFFIXES[path.suffix]
    added = plugins.entries("readers")
    if name not in added:
        known = ", ".join(sorted({*SUFFIXES, *by_content, *(f".{one}" for one in added)}))
        ending = path.suffix or "of no format"
        raise DataError(f"{path} has the ending {ending!r}; {known} are read, and folders of images or datasets")
    return Format(plugins.named(added[name][0]), partial(_read_added, name))


def _read_added(name: str, path: Path, intake: Intake) -> list[Example]:
    """What the plug-in for an ending reads. Raises :class:`BrokenPlugin` if it cannot be used, or fails."""
    reader = plugins.load("readers", name)
    if not callable(reader):
        raise plugins.broken("readers", name, f"is no function but {type(reader).__name__}")
    found = plugins.guarded("readers", name, lambda: list(reader(path, intake)))()
    if strange := [type(one).__name__ for one in found if not isinstance(one, Example)]:
        raise plugins.broken("readers", name, f"returned {strange[0]} for an Example")
    return found


def _json(path: Path) -> Format:
    value = read_json(path, lambda kind, place: None)  # what is wrong in it is told when it is read
    if isinstance(value, list):
        first = value[0] if value else None
        # Captions by image hold nothing but image_id, caption and perhaps id; other lists of objects are records.
        if isinstance(first, dict) and {"image_id", "caption"} <= set(first) <= {"image_id", "caption", "id"}:
            return Format("captions by image", captions.read_caption_list)
        return Format("JSON list", records.read_list)
    keys = value if isinstance(value, dict) else {}
    found = next((form for wanted, form in JSON_OBJECTS if all(k in keys for k in wanted)), None)
    if found is not None:
        return found
    if "annotations" in keys:
        raise DataError(
            f"{path} holds annotations without their questions or images; open the question file, beside which they are found"
        )
    there = ", ".join(keys) or "none"
    raise DataError(
        f"{path} is JSON of no known kind; its keys are {there}; COCO, Karpathy and VQAv2 files and lists of objects are read"
    )


def _csv(path: Path) -> Format:
    header = next((line for _, _, line in lines(path)), b"").decode("utf-8-sig", errors="replace")
    if "|" in header and header.split("|")[0].strip() == "image_name":
        return Format("Flickr30k results", captions.read_flickr_results)
    if {"raw", "sentids", "filename"} <= {name.strip() for name in header.split(",")}:
        return Format("Flickr30k annotations", captions.read_flickr_annotations)
    return Format("CSV", records.read_csv)


def _tsv(path: Path) -> Format:
    first = next((line for _, _, line in lines(path)), b"")
    names = {cell.strip().strip('"') for cell in first.decode("utf-8-sig", errors="replace").split("\t")}
    if names & records.named_columns():
        return Format("TSV", records.read_tsv)
    if first.count(b"\t") in (1, 2):
        return Format("region features", regions.read_features)
    return Format("OFA TSV", ofa.read_ofa)


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
    images_needed: bool = True,
) -> ProbeSet:
    """The probe set that ``spec`` names.

    Args:
        spec: ``scenes`` (the test captions), ``scenes:TASK/SPLIT``, ``scenes:TASK/SPLIT?n=N``; ``sentences``, ``sentences?n=N``;
            a file or folder of any format in this module's tables, optionally followed by ``:SPLIT``; a probe set; or texts,
            records or examples.
        split: the split, if the data have several.
        n: number of examples to take from the start; all if None.
        images: the folder of the images, if they are not beside the file.
        regions: region features, matched by image.
        answers: VQAv2's annotation file, if it is not beside the questions under its official name.
        columns: which column holds ``id``, ``text``, ``image``, ``targets``, ``label``, if their names do not say it.
        restval: whether ``restval`` counts as ``train`` in Karpathy's split of COCO, as in papers; :attr:`ProbeSet.notices`
            says which was done.
        images_needed: whether the images will be read; if not, as for scoring, their files may be missing.

    Raises:
        DataError: if anything is wrong with the data; all faults of a file are reported at once, before anything is computed.
        UsageError: if two different splits are asked for.
    """
    intake = intake_of(images, regions, answers, columns, restval=restval, images_needed=images_needed)
    if isinstance(spec, ProbeSet):
        found = spec
    elif is_carried(spec):
        found = _carried(str(spec), split, n)
    else:
        found = _from_disk(spec, split, intake) if isinstance(spec, str | Path) else _from_memory(spec, intake)
        given = (images, regions, answers, columns, restval, images_needed)
        found = replace(found, options=_options(dict(zip(OPTIONS, given, strict=True))))
    return found if n is None else found.first(n)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given and change anything, as plain values."""
    return {
        name: str(value) if isinstance(value, Path) else dict(value) if isinstance(value, Mapping) else value
        for name, value in given.items()
        if value is False or (value and value is not True)
    }


def intake_of(
    images: str | Path | None,
    regions: str | Path | None,
    answers: str | Path | None,
    columns: Mapping[str, str] | None,
    *,
    restval: bool = True,
    images_needed: bool = True,
) -> Intake:
    """A new intake with the options of :func:`open_data`.

    Raises:
        DataError: if the folder of the images does not exist.
        UnknownName: if a column is given for a field that no example has.
    """
    if images is not None and not Path(images).is_dir():
        raise DataError(f"no such folder of images: {images}")
    unknown = [field for field in columns or () if field not in records.COLUMNS]
    if unknown:
        raise UnknownName(f"an example has no field {unknown[0]!r}; the fields are {', '.join(records.COLUMNS)}")
    folder, annotations, features = (None if p is None else Path(p) for p in (images, answers, regions))
    return Intake(folder, annotations, features, columns or {}, restval, images_needed)


def bare_name(name: str) -> str:
    """What data are called where others read it: those of this package by their name, a file or folder by its last part."""
    return name if is_carried(name) else PurePath(name).name


def is_carried(spec: object) -> bool:
    """Whether a spec names the scenes or sentences that this package carries."""
    name = spec if isinstance(spec, str) else ""
    return name.partition("?")[0] in ("scenes", "sentences") or name.startswith("scenes:")


def _carried(spec: str, split: str | None, n: int | None) -> ProbeSet:
    """``scenes[:TASK[/SPLIT]][?n=N]`` or ``sentences[?n=N]``."""
    name, _, query = spec.partition("?")
    if query and not query.removeprefix("n=").isdecimal():
        raise DataError(f"{spec} ends in ?{query}; write ?n=2000")
    n = int(query.removeprefix("n=")) if query else n
    if name == "sentences":
        if split is not None:
            raise DataError(f"the sentences have no splits; {split} was asked for")
        return sentences(n=n)
    task, _, named = name.removeprefix("scenes").removeprefix(":").partition("/")
    split = _one_split(spec, named, split) or "test"
    return scenes(task or "captions", split, n=n)


def _one_split(spec: str | Path, named: str | None, asked: str | None) -> str | None:
    """The split that the spec names or the caller asks for; they must agree."""
    if asked and named and asked != named:
        raise UsageError(f"{spec} names the split {named}, and {asked} was asked for")
    return named or asked


def path_and_split(spec: str | Path) -> tuple[Path, str | None]:
    """``dataset_coco.json:train`` as path and split; an existing path is never taken apart."""
    head, colon, named = str(spec).rpartition(":")
    return (Path(head), named) if colon and not exists(Path(spec)) else (Path(spec), None)


def _from_disk(spec: str | Path, split: str | None, intake: Intake) -> ProbeSet:
    path, named = path_and_split(spec)
    split = _one_split(spec, named, split)
    form = recognise(path)
    try:
        read = form.read(path, intake)
    except DataError as error:
        if intake.faults:  # what stopped the reader is one fault more
            intake.fault("reading stopped", str(error))
            intake.refuse(str(spec))
        raise
    if intake.faults and not any(e.about.get("split") == split for e in read):
        intake.refuse(str(spec))  # the split may be missing because of these
    examples = of_split(read, split, str(path))
    if intake.regions is not None:
        try:
            examples = regions.with_regions(examples, intake.regions, intake)
        except DataError as error:
            intake.fault("regions cannot be read", str(error))
    examples = with_unique_ids(examples, intake)
    check_texts(examples, intake)
    if intake.regions is None and intake.images_needed:  # a model that reads regions does not need the images
        check_images(examples, intake)
    intake.refuse(str(spec))
    name = f"{spec}:{split}" if split and not named else str(spec)
    return ProbeSet(name, examples, tuple(map(str, intake.notices.values())))


def of_split(examples: list[Example], split: str | None, where: str) -> list[Example]:
    """The examples of a split; if there are several splits, one must be chosen.

    Raises:
        DataError: if there is no such split, or several and none was chosen.
    """
    splits = Counter(e.about["split"] for e in examples if e.about.get("split"))
    there = ", ".join(f"{name} ({count})" for name, count in splits.items())
    if split is None:
        if len(splits) > 1:
            raise DataError(f"{where} has the splits {there}; choose one, as in {where}:{next(iter(splits))}")
        return examples
    if split not in splits:
        raise DataError(f"{where} has no split {split!r}; it has {there or 'no named splits'}")
    return [e for e in examples if e.about.get("split") == split]


def with_unique_ids(examples: Sequence[Example], intake: Intake) -> list[Example]:
    """The examples, those that are there twice, id and all, taken once; different examples of one id are a fault."""
    often = {name for name, count in Counter(e.id for e in examples).items() if count > 1}
    contents: dict[str, set[str]] = {name: set() for name in often}
    kept, known = [], Known()
    for example in examples:
        content = _content(example, known) if example.id in often else ""
        if content and content in contents[example.id]:
            intake.notice("example occurs twice, and is taken once", example.id)
            continue
        kept.append(example)
        if example.id in often:
            contents[example.id].add(content)
    for name, count in Counter(e.id for e in kept).items():
        if count > 1:
            intake.fault("id occurs more than once", name)
    return kept


def note_copies(examples: Sequence[Example], intake: Intake) -> None:
    """Note examples that are another's copy in everything but the id; a model reads the first of them."""
    first, known = dict[str, str](), Known()
    for example in examples:
        content = _content(replace(example, id=""), known)
        earlier = first.setdefault(content, example.id) if content else example.id
        if earlier != example.id:
            intake.notice("example is a copy of another, and is collected once", f"{example.id!r} is {earlier!r}")


def _content(example: Example, known: Known) -> str:
    """The digest of an example; empty if it cannot be read, which is a fault of its own."""
    try:
        return example.digest(known)
    except (DataError, UnicodeEncodeError):
        return ""


def check_texts(examples: Sequence[Example], intake: Intake) -> None:
    """Note texts that cannot be written or tokenised, because they hold half of a surrogate pair."""
    for example in () if HALF in intake.faults else examples:  # its lines were named already
        if not all(map(writable, (example.id, example.text, *example.targets))):
            intake.fault(HALF, f"example {example.id!a}")


def check_images(examples: Sequence[Example], intake: Intake) -> None:
    """Note files of images and sounds that are missing; each once, however many examples show it."""
    for path in dict.fromkeys(e.audio for e in examples if isinstance(e.audio, Path)):
        if not path.is_file():
            intake.fault("audio missing", str(path))
    for path in dict.fromkeys(e.image for e in examples if isinstance(e.image, Path)):
        if not is_file(path):
            intake.fault("image missing", str(path))


def _from_memory(items: Sequence[str | Mapping[str, Json] | Example], intake: Intake) -> ProbeSet:
    """Texts, records or examples, all of one kind."""
    if not len(items):
        raise DataError("the data hold no examples")
    if all(isinstance(item, Example) for item in items):
        found: list[Example] = [item for item in items if isinstance(item, Example)]
    elif all(isinstance(item, str) for item in items):
        found = [Example(str(i), item) for i, item in enumerate(items) if isinstance(item, str)]
    elif all(isinstance(item, Mapping) for item in items):
        rows = [(i, item) for i, item in enumerate(items) if isinstance(item, Mapping)]
        found = records.examples_of(rows, intake, Path(), "the records")
        if intake.images_needed:
            check_images(found, intake)
    else:
        kinds = ", ".join(sorted({type(item).__name__ for item in items}))
        raise DataError(f"data in memory are all texts, all records or all examples; these are {kinds}")
    found = with_unique_ids(found, intake)
    check_texts(found, intake)
    intake.refuse("the data")
    return ProbeSet(f"{len(found)} in memory", found, tuple(map(str, intake.notices.values())))
