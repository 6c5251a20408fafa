"""A report read back: the comparisons in it, as they were written."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from pathlib import Path
from typing import Any, NoReturn

import torch

from rankscope.errors import DataError, public
from rankscope.report.columns import DIGITS, from_columns
from rankscope.report.content import FORMAT, VERSION
from rankscope.results.runs import Contrast, PairRecord
from rankscope.sites import Site

LARGEST = 1 << 28
"""The most bytes that the data of a report may have."""
_DATA = re.compile(r'<script type="application/zlib" id="data">([A-Za-z0-9+/=]*)</script>')


@public
def open_report(path: str | Path) -> tuple[Contrast, ...]:
    """The comparisons in a report: their records, notes and maps, with six significant digits; spectra stay with the runs.

    Nothing in the file is run, and nothing but its data is read.

    Args:
        path: the HTML file that ``rankscope report`` or ``compare --report`` wrote.

    Raises:
        DataError: if there is no such file, it is no report, or was written by a later version.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no report at {path}; 'rankscope report RUN --base BASE -o {path}' makes one")
    found = _DATA.search(path.read_text(encoding="utf-8", errors="replace"))
    try:
        told = _unpacked(found[1]) if found else {}
        if told.get("format") != FORMAT:
            raise DataError(f"{path} is no report of rankscope")
        if told["version"] > VERSION:
            raise DataError(f"{path} was written by a later version of rankscope, which reads it")
        return tuple(_contrast(one, path) for one in told["contrasts"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the data in {path} are not as they were written: {type(error).__name__} {error}") from error


def _contrast(told: dict[str, Any], path: Path) -> Contrast:
    similarity = told["similarity"]
    rows = [[float("nan") if v is None else v for v in row] for row in similarity or ()]
    return Contrast(
        from_columns(PairRecord, told["records"], told["texts"]),
        names=tuple(told["names"]),
        rows=told["rows"],
        similarity=None if similarity is None else torch.tensor(rows, dtype=torch.float64),
        similarity_sites=tuple(Site.parse(site) for site in told["similarity_sites"]),
        again=bool(told["again"]),
        level=float(told["level"]),
        notes=(*told["notes"], f"read from {path.name}: numbers have {DIGITS} digits, spectra are not in a report"),
    )


def _unpacked(text: str) -> dict[str, Any]:
    opened = zlib.decompressobj()
    plain = opened.decompress(b64decode(text, validate=True), LARGEST)
    if not opened.eof:
        raise ValueError(f"they end early, or are more than {LARGEST:,} bytes")
    return json.loads(plain, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
