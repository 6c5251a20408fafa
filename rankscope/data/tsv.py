"""Tab-separated files with images in base64, as OFA has them. Only offsets are kept: an image is read when it is asked for.

Captions have five columns (``uniq-id``, ``image-id``, ``caption``, objects, image), questions six (``question-id``, ``image-id``,
``question``, answers as ``confidence|!+answer`` joined by ``&&``, objects, image). Reference captions of one image are joined by ``&&``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rankscope.data.files import Options, clean, cleaned
from rankscope.data.probes import Example, decode_picture
from rankscope.data.report import Ledger
from rankscope.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Base64Image:
    """An image in base64 somewhere in a file: a :class:`~rankscope.data.probes.Picture`."""

    path: Path
    offset: int
    """The byte at which the base64 starts."""
    length: int
    """How many bytes of base64 there are."""

    def _bytes(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            text = file.read(self.length)
        try:
            return base64.b64decode(text.replace(b"-", b"+").replace(b"_", b"/"), validate=True)
        except binascii.Error as error:
            raise DataError(
                f"the image at byte {self.offset} of {self.path} is not base64 ({error}); is the line complete?"
            ) from None

    def open(self) -> Image:
        """The picture."""
        return decode_picture(self._bytes(), f"the image at byte {self.offset} of {self.path}")

    def digest(self) -> str:
        """The sha256 of the encoded picture."""
        return hashlib.sha256(self._bytes()).hexdigest()


def rows(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), offset and bytes of each line that is not empty, without its end."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            kept = line.rstrip(b"\r\n")
            if kept:
                yield number, offset, kept
            offset += len(line)


def read_ofa(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """OFA's caption or VQA file, told apart by the number of columns of the first line.

    Raises:
        DataError: if the first line has neither five nor six columns.
    """
    found, wanted = [], 0
    for number, offset, line in rows(path):
        cells = line.split(b"\t")
        if not wanted:
            wanted = len(cells)
            if wanted not in (5, 6):
                raise DataError(f"{path}, line 1, has {wanted} columns; OFA's files have 5 (captions) or 6 (questions)")
        if len(cells) != wanted:
            ledger.fault(f"line has not {wanted} columns", f"line {number} has {len(cells)}")
            continue
        try:
            name, image, text, *more = (cell.decode() for cell in cells[:-1])
        except UnicodeDecodeError:
            ledger.fault("line is not UTF-8", f"line {number}")
            continue
        if not cells[-1]:
            ledger.fault("line has no image", f"line {number}")
            continue
        picture = Base64Image(path, offset + len(line) - len(cells[-1]), len(cells[-1]))
        make = _caption if wanted == 5 else _question
        found.append(make(name, image, text, more[0], picture, f"line {number}", ledger))
    return found


def _caption(
    name: str, image: str, caption: str, objects: str, picture: Base64Image, place: str, ledger: Ledger
) -> Example:
    about = {"image_id": image, "objects": objects, "task": "caption"}
    return Example(name, "", picture, cleaned(list(caption.split("&&")), place, ledger), about=about)


def _question(
    name: str, image: str, question: str, answers: str, picture: Base64Image, place: str, ledger: Ledger
) -> Example:
    """A question; its answers stand with the most confident first, the confidences in ``about``."""
    pairs: list[tuple[float, str]] = []
    for part in answers.split("&&") if answers else ():
        confidence, mark, answer = part.partition("|!+")
        try:
            pairs.append((float(confidence), clean(answer, place, ledger)))
        except ValueError:
            mark = ""
        if not mark or not answer.strip():
            ledger.fault("answer is not CONFIDENCE|!+ANSWER", f"{place}: {part[:40]!r}")
    pairs.sort(key=lambda pair: -pair[0])
    if not question.strip():
        ledger.fault("question is empty", place)
    about = {"image_id": image, "task": "question", "confidences": " ".join(str(c) for c, _ in pairs)}
    return Example(name, clean(question, place, ledger), picture, tuple(a for _, a in pairs if a), about=about)
