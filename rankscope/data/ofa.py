"""OFA's tab-separated files with images in base64. Only offsets are kept: an image is read when it is needed.

Caption files have five columns (``uniq-id``, ``image-id``, ``caption``, objects, image), question files six
(``question-id``, ``image-id``, ``question``, answers as ``confidence|!+answer`` joined by ``&&``, objects, image). Several
reference captions of one image are joined by ``&&``.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

from rankscope.data.files import lines
from rankscope.data.intake import Intake
from rankscope.data.probes import EncodedPicture, Example
from rankscope.errors import DataError


@dataclass(frozen=True)
class Base64Image(EncodedPicture):
    """An image in base64 somewhere in a file."""

    path: Path
    """The file."""
    offset: int
    """The byte at which the base64 starts."""
    length: int
    """The number of bytes of base64."""

    @property
    def where(self) -> str:
        return f"the image at byte {self.offset} of {self.path}"

    def encoded(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            text = file.read(self.length)
        try:  # OFA writes the URL-safe alphabet, others the standard one
            return base64.b64decode(text.replace(b"-", b"+").replace(b"_", b"/"), validate=True)
        except binascii.Error as error:
            raise DataError(f"{self.where} is not base64 ({error}); is the line complete?") from None


def read_ofa(path: Path, intake: Intake) -> list[Example]:
    """OFA's caption or question file; the number of columns of the first line that has five or six tells which."""
    found, wanted = [], 0
    for number, offset, line in lines(path):
        if not line:
            continue
        cells, place = line.split(b"\t"), f"line {number}"
        if not wanted and len(cells) not in (5, 6):
            there = f"line {number}, has {len(cells)} columns; OFA's files have 5 (captions) or 6 (questions)"
            intake.fault("line is not in OFA's format", there)
            continue
        wanted = wanted or len(cells)
        if len(cells) != wanted:
            intake.fault(f"line does not have {wanted} columns", f"{place} has {len(cells)}")
            continue
        try:
            name, image, text, more, *_ = (cell.decode() for cell in cells[:-1])
        except UnicodeDecodeError:
            intake.fault("line is not UTF-8", place)
            continue
        if not cells[-1] and intake.images_needed:
            intake.fault("line has no image", place)
            continue
        size = len(cells[-1])
        picture = Base64Image(path, offset + len(line) - size, size) if size else None
        if wanted == 5:
            about = {"image_id": image, "objects": more, "task": "caption"}
            found.append(Example(name, "", picture, intake.clean_all(text.split("&&"), place), about=about))
        else:
            found.append(_question(Example(name, text, picture, about={"image_id": image}), more, place, intake))
    return found


def _question(asked: Example, answers: str, place: str, intake: Intake) -> Example:
    """A question with its answers, the most confident first; the confidences are in ``about``."""
    pairs: list[tuple[float, str]] = []
    for part in answers.split("&&") if answers else ():
        confidence, mark, answer = part.partition("|!+")
        try:
            pairs.append((float(confidence), intake.clean(answer, place)))
        except ValueError:
            mark = ""
        if not mark or not answer.strip():
            intake.fault("answer is not CONFIDENCE|!+ANSWER", f"{place}: {part[:40]!r}")
    pairs.sort(key=lambda pair: -pair[0])
    if not asked.text.strip():
        intake.fault("question is empty", place)
    confidences = " ".join(str(confidence) for confidence, _ in pairs)
    about = {**asked.about, "task": "question", "confidences": confidences}
    targets = tuple(answer for _, answer in pairs if answer)
    return Example(asked.id, intake.clean(asked.text, place), asked.image, targets, about=about)
