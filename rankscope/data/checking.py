"""check: what a data set is and everything that is wrong with it, in one pass over all its splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rankscope.data.files import Options
from rankscope.data.open import (
    check_ids,
    check_images,
    open_data,
    options_of,
    path_and_split,
    recognise,
    selected,
)
from rankscope.data.oscar import with_regions
from rankscope.data.probes import Example
from rankscope.data.report import Ledger, Report
from rankscope.errors import DataError


def check(
    spec: str | Path,
    *,
    images: str | Path | None = None,
    regions: str | Path | None = None,
    answers: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    restval: bool = True,
) -> Report:
    """Everything that is wrong with a file or folder, or a split of it; every image is decoded.

    Args:
        spec: a path, perhaps with ``:SPLIT`` behind it, or the embedded ``scenes``.
        images, regions, answers, columns, restval: as for :func:`rankscope.open_data`.

    Raises:
        DataError: if it is not there, of no known format, or has no such split.
    """
    path, split = path_and_split(spec)
    if not path.exists() and str(spec).startswith("scenes"):
        found = list(open_data(spec))
        return _report(str(spec), "embedded scenes", found, Ledger())
    options, ledger = options_of(images, regions, answers, columns, restval=restval), Ledger()
    name, examples = "unreadable", list[Example]()
    try:
        name, read = recognise(path)
        examples = read(path, options, ledger)
    except DataError as error:
        if not path.exists():
            raise
        ledger.fault("cannot be read", str(error))
    if split is not None and examples:
        examples = selected(examples, split, str(path))
    examples = _joined(examples, options, ledger)
    if not examples and not ledger.faults:
        ledger.fault("holds no examples", str(path))
    check_ids(examples, ledger)
    check_images(examples, ledger)
    _decode(examples, ledger)
    return _report(str(spec), name, examples, ledger)


def _joined(examples: list[Example], options: Options, ledger: Ledger) -> list[Example]:
    """The examples with their regions, where a file of those is given."""
    if options.regions is None:
        return examples
    try:
        return with_regions(examples, options.regions, ledger)
    except DataError as error:
        ledger.fault("regions cannot be read", str(error))
        return examples


def _report(name: str, kind: str, examples: Sequence[Example], ledger: Ledger) -> Report:
    """What was found; an image that several examples show counts once."""
    held = {
        "images": len({e.image if isinstance(e.image, Path) else e.id for e in examples if e.image is not None}),
        "regions": sum(example.regions is not None for example in examples),
        "texts": sum(bool(example.text) for example in examples),
        "targets": sum(len(example.targets) for example in examples),
        "labels": sum(example.label is not None for example in examples),
    }
    return Report(
        name,
        kind,
        len(examples),
        Counter(e.about["split"] for e in examples if "split" in e.about),
        {what: count for what, count in held.items() if count},
        tuple(ledger.faults.values()),
        tuple(ledger.notices.values()),
    )


def _decode(examples: Sequence[Example], ledger: Ledger) -> None:
    """Opens every picture and all regions once; what cannot be decoded or computed with is a fault, one pixel wide a notice."""
    seen: set[object] = set()
    for example in examples:
        try:
            if example.regions is not None and example.regions not in seen:
                seen.add(example.regions)
                if not np.isfinite(example.regions.open().features).all():
                    ledger.fault("regions are not finite numbers", f"example {example.id}")
            if example.image is None:
                continue
            if isinstance(example.image, Path):
                if example.image in seen or not example.image.is_file():
                    continue
                seen.add(example.image)
            if min(example.open_image().size) < 2:
                ledger.notice("image of a single row or column of pixels", f"example {example.id}")
        except DataError as error:
            ledger.fault("image or regions cannot be decoded", str(error))
