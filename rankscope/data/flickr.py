"""Flickr30k beside Karpathy's file: the original token file and the two CSV files in circulation.

An example is an image with all its captions; its id is the file name. Row 19999 of Kaggle's ``results.csv`` lacks a separator
(``2199200615.jpg| 4   A dog runs across the grass .``); it is repaired, with a notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rankscope.data.files import Images, Options, cleaned, parse, text_lines
from rankscope.data.probes import Example
from rankscope.data.records import csv_rows
from rankscope.data.report import Ledger
from rankscope.errors import DataError

FOLDERS = ("flickr30k_images", "flickr30k-images", "images")
"""Where the images lie in the usual downloads."""
UNSEPARATED = re.compile(r"\s*(\d+)\s{2,}(\S.*)")
"""Number and caption with blanks in the place of the separator."""


def _grouped(rows: Iterable[tuple[int, str, str, str]], path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """Examples from (line, file name, number of the caption, caption); a number that stands twice is a fault."""
    images, said, seen = Images(options.images or path.parent), dict[str, list[str]](), set[tuple[str, str]]()
    for line, file, number, caption in rows:
        if (file, number) in seen:
            ledger.fault("caption number stands twice", f"line {line}: {file} {number}")
        seen.add((file, number))
        said.setdefault(file, []).extend(cleaned([caption], f"line {line}", ledger))
    return [
        Example(
            file,
            "",
            images.find(file, *FOLDERS, place=file, ledger=ledger),
            tuple(captions),
            about={"file_name": file, "task": "caption"},
        )
        for file, captions in said.items()
    ]


def read_token(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """``results_20130124.token``: ``1000092795.jpg#0<TAB>Two young guys …``."""

    def rows() -> Iterable[tuple[int, str, str, str]]:
        for line, text in text_lines(path, ledger):
            image, tab, caption = text.partition("\t")
            file, mark, number = image.rpartition("#")
            if tab and mark and number.isdecimal() and file:
                yield line, file, number, caption
            else:
                ledger.fault("line is not NAME#NUMBER<TAB>CAPTION", f"line {line}: {text[:40]!r}")

    return _grouped(rows(), path, options, ledger)


def read_results(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """Kaggle's ``results.csv``: ``image_name| comment_number| comment``, blanks around every cell."""

    def rows() -> Iterable[tuple[int, str, str, str]]:
        for line, text in text_lines(path, ledger):
            cells = [cell.strip() for cell in text.split("|", 2)]
            if line == 1 and cells[0] == "image_name":
                continue
            joined = UNSEPARATED.fullmatch(text.partition("|")[2]) if len(cells) == 2 else None
            if joined:
                ledger.notice("row without its second separator, repaired", f"line {line}: {cells[0]}")
                cells = [cells[0], joined[1], joined[2]]
            if len(cells) == 3 and cells[0] and cells[1].isdecimal():
                yield line, cells[0], cells[1], cells[2]
            else:
                ledger.fault("row is not NAME| NUMBER| CAPTION", f"line {line}: {text[:40]!r}")

    return _grouped(rows(), path, options, ledger)


def read_annotations(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """``flickr_annotations_30k.csv``: ``raw`` (a JSON list of captions), ``sentids``, ``split``, ``filename``, ``img_id``."""
    images, found = Images(options.images or path.parent), []
    for row, cells in csv_rows(path, ledger):
        file, split, raw = (str(cells.get(name, "")) for name in ("filename", "split", "raw"))
        try:
            said = parse(raw, f"row {row}")
        except DataError as error:
            ledger.fault("captions are no JSON list", str(error)[:120])
            continue
        if not isinstance(said, list) or not file or not said:
            ledger.fault("row has no file name or no list of captions", f"row {row}")
            continue
        where = images.find(file, *FOLDERS, place=f"row {row}", ledger=ledger)
        about = {"file_name": file, "split": split, "task": "caption"}
        found.append(Example(file, "", where, cleaned(said, f"row {row}", ledger), about=about))
    return found
