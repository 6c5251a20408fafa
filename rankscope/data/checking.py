"""check: what a data set is and everything that is wrong with it, in one pass over all its splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankscope.data.files import exists, is_file
from rankscope.data.intake import Finding, Intake
from rankscope.data.open import (
    check_images,
    check_texts,
    intake_of,
    is_carried,
    note_copies,
    of_split,
    open_data,
    path_and_split,
    recognise,
    with_unique_ids,
)
from rankscope.data.probes import Example
from rankscope.data.regions import with_regions
from rankscope.errors import DataError


@dataclass(frozen=True)
class Findings:
    """What a data set is, and what is wrong with it."""

    path: str
    """What was checked."""
    format: str
    """The name of its format."""
    examples: int
    """Number of examples read."""
    splits: Mapping[str, int]
    """Number of examples in each named split."""
    holds: Mapping[str, int]
    """Number of ``images``, ``regions``, ``texts``, ``targets`` and ``labels``; what it has none of is left out."""
    faults: tuple[Finding, ...]
    """Reasons to refuse the data set."""
    notices: tuple[Finding, ...]
    """What was repaired or is harmless."""

    @property
    def good(self) -> bool:
        """Whether the data set can be used."""
        return not self.faults

    def records(self) -> list[dict[str, str | int | list[str]]]:
        """One flat record for each finding: ``severity``, ``kind``, ``count``, ``places``."""
        both = [("fault", f) for f in self.faults] + [("notice", f) for f in self.notices]
        return [{"severity": s, "kind": f.kind, "count": f.count, "places": list(f.places)} for s, f in both]

    def to_json(self) -> dict[str, object]:
        """Everything as plain data; the findings as in :meth:`records`."""
        names = ("path", "format", "examples", "good")
        value: dict[str, object] = {name: getattr(self, name) for name in names}
        return value | {"splits": dict(self.splits), "holds": dict(self.holds), "problems": self.records()}

    def __str__(self) -> str:
        splits = ", ".join(f"{name} {n}" for name, n in self.splits.items())
        first = f"{self.path}: {self.format}, {self.examples} examples" + (f" ({splits})" if splits else "")
        first += f"; {', '.join(f'{count} {what}' for what, count in self.holds.items())}" if self.holds else ""
        found = [f"  fault   {f}" for f in self.faults] + [f"  notice  {f}" for f in self.notices]
        return "\n".join([first, *(found or ["  nothing wrong"])])


def check(
    spec: str | Path,
    *,
    images: str | Path | None = None,
    regions: str | Path | None = None,
    answers: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    restval: bool = True,
) -> Findings:
    """Everything that is wrong with a file or folder, or a split of it. Every image is decoded.

    Args:
        spec: a path, optionally followed by ``:SPLIT``, or the embedded ``scenes`` or ``sentences``.
        images, regions, answers, columns, restval: as for :func:`rankscope.open_data`.

    Raises:
        DataError: if it is missing, of no known format, or has no such split.
    """
    path, split = path_and_split(spec)
    if is_carried(spec):
        examples, intake = list(open_data(spec)), Intake()
        note_copies(examples, intake)
        return _findings(str(spec), "embedded data", examples, intake)
    intake = intake_of(images, regions, answers, columns, restval=restval)
    name, examples = "unreadable", list[Example]()
    try:
        name, read = recognise(path)
        examples = read(path, intake)
    except DataError as error:
        if not exists(path):
            raise
        intake.fault("cannot be read", str(error))
    if split is not None and examples:
        examples = of_split(examples, split, str(path))
    if intake.regions is not None:
        try:
            examples = with_regions(examples, intake.regions, intake)
        except DataError as error:
            intake.fault("regions cannot be read", str(error))
    if not examples and not intake.faults:
        intake.fault("holds no examples", str(path))
    examples = with_unique_ids(examples, intake)
    note_copies(examples, intake)
    check_texts(examples, intake)
    check_images(examples, intake)
    _decode(examples, intake)
    return _findings(str(spec), name, examples, intake)


def _findings(name: str, form: str, examples: Sequence[Example], intake: Intake) -> Findings:
    """What was found. An image that several examples show counts once."""
    holds = {
        "images": len({e.image if isinstance(e.image, Path) else e.id for e in examples if e.image is not None}),
        "regions": sum(example.regions is not None for example in examples),
        "texts": sum(bool(example.text) for example in examples),
        "targets": sum(len(example.targets) for example in examples),
        "labels": sum(example.label is not None for example in examples),
    }
    splits = Counter(e.about["split"] for e in examples if "split" in e.about)
    holds = {what: count for what, count in holds.items() if count}
    faults, notices = tuple(intake.faults.values()), tuple(intake.notices.values())
    return Findings(name, form, len(examples), splits, holds, faults, notices)


def _decode(examples: Sequence[Example], intake: Intake) -> None:
    """Open every picture and all regions once. It is a fault if one cannot be decoded, or regions are not finite."""
    seen: set[object] = set()
    for example in examples:
        place = f"example {example.id}"
        try:
            if example.regions is not None and example.regions not in seen:
                seen.add(example.regions)
                if not np.isfinite(example.regions.open().features).all():
                    intake.fault("regions are not finite numbers", place)
            if isinstance(example.image, Path):
                if example.image in seen or not is_file(example.image):  # a missing file has been noted already
                    continue
                seen.add(example.image)
            if example.image is not None and min(example.open_image().size) < 2:
                intake.notice("image of a single row or column of pixels", place)
        except DataError as error:
            intake.fault("image or regions cannot be decoded", str(error))
