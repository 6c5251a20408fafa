"""A data set being read: what the caller said beside its path, and every fault that was found, in one pass.

A reader never stops at a bad row: it notes the fault in its :class:`Intake` and goes on. ``open_data`` then refuses the
data with all faults at once, before any model is loaded; ``check`` prints them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rankscope.data.files import Json, lines
from rankscope.errors import DataError

LONGEST_NAME = 255
"""The most bytes in the name of a file or folder, on every common file system."""
PLACES = 5
"""The number of places that are kept of each kind of fault; all are counted."""
COPIED = "sample repeats an earlier one, and is left out"
"""The kind of notice for what a model would read twice."""
BREAKS = re.compile("[\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029]+")
"""Everything that some reader of lines takes for the end of one: within a caption it would shift all later ones."""


@dataclass
class Finding:
    """One kind of fault, or of repair, in a data set."""

    kind: str
    """What is wrong, in words: ``image missing``."""
    count: int = 0
    """How often it occurs."""
    places: list[str] = field(default_factory=list)
    """The first places."""

    def add(self, place: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.places) < PLACES:
            self.places.append(place.encode(errors="backslashreplace").decode())  # half of a character cannot be shown

    def __str__(self) -> str:
        more = "; …" if self.count > len(self.places) else ""
        return f"{self.count} × {self.kind} ({'; '.join(self.places)}{more})"


@dataclass
class Intake:
    """One reading of a data set: its options, and what was found on the way."""

    images: Path | None = None
    """The folder of the images; if None, the folder of the file itself and what the format says."""
    answers: Path | None = None
    """VQAv2: the annotation file; if None, the one named like the questions."""
    regions: Path | None = None
    """Region features for models that read those: a feature TSV, a safetensors or ``.npz`` file, or a folder of ``.npz`` files."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Which column holds which field: keys ``id``, ``text``, ``image``, ``targets``, ``label``."""
    restval: bool = True
    """Karpathy: whether ``restval`` counts as ``train``, as in papers."""
    images_needed: bool = True
    """Whether the images will be read; scoring does without them."""
    faults: dict[str, Finding] = field(default_factory=dict)
    """Reasons to refuse the data, by kind."""
    notices: dict[str, Finding] = field(default_factory=dict)
    """What was repaired or is harmless, by kind."""

    def fault(self, kind: str, place: str) -> None:
        """Note something for which the data are refused."""
        self.faults.setdefault(kind, Finding(kind)).add(place)

    def notice(self, kind: str, place: str) -> None:
        """Note something that was repaired or left out, and that a person should know."""
        self.notices.setdefault(kind, Finding(kind)).add(place)

    def refuse(self, name: str) -> None:
        """Raise what was found, if anything is wrong.

        Raises:
            DataError: if there is any fault; the message counts every kind and names its first places.
        """
        if self.faults:
            found = "; ".join(map(str, self.faults.values()))
            raise DataError(f"{name} cannot be used: {found}. Repair these, or leave the rows out")

    def clean(self, text: str, place: str) -> str:
        """One caption, question or answer on one line: line breaks of every kind become a space, with a notice."""
        one = BREAKS.sub(" ", text.strip())
        if one != text.strip():
            self.notice("line break inside a text, made a space", place)
        return one

    def clean_all(self, texts: Sequence[Json], place: str) -> tuple[str, ...]:
        """Captions or answers, each on one line; it is a fault if one is empty or not text."""
        found = []
        for text in texts:
            if not isinstance(text, str):
                self.fault("caption or answer is not text", f"{place}: {str(text)[:40]!r}")
            elif not text.strip():
                self.fault("caption or answer is empty", place)
            else:
                found.append(self.clean(text, place))
        return tuple(found)

    def objects(self, value: Json, what: str) -> Iterator[tuple[int, dict[str, Json]]]:
        """Index and content of each object in a JSON list; anything else in it is a fault.

        Raises:
            DataError: if the value is not a list.
        """
        if not isinstance(value, list):
            raise DataError(f"{what} should be a list of objects; it is {type(value).__name__}")
        for i, item in enumerate(value):
            if isinstance(item, dict):
                yield i, item
            else:
                self.fault(f"entry of {what} is not an object", f"entry {i}")

    def text_lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Number and text of every line that is not blank; a line that is not UTF-8 is a fault."""
        for number, _, line in lines(path):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                self.fault("line is not UTF-8", f"line {number}")
                continue
            if text.strip():
                yield number, text

    def images_beside(self, folder: Path) -> Images:
        """The images of the data: those of the folder that the caller named, or of the data's own."""
        return Images(self.images or folder, self)


@dataclass(frozen=True)
class Images:
    """Images found by name in a folder or its sub-folders, never outside of it."""

    root: Path
    """The folder."""
    intake: Intake
    """Where faults are noted."""
    _listed: dict[Path, frozenset[str]] = field(default_factory=dict, repr=False)

    def find(self, name: str, *folders: str, place: str) -> Path:
        """The file called ``name``, in the root or in the first of ``folders`` that has it.

        If no folder has it, the result is the path where it was expected; the missing file is counted when its split is
        opened. A name that leaves the folder is a fault.
        """
        path = Path(name)
        for part in (path, *map(Path, folders)):
            if part.is_absolute() or ".." in part.parts or "\0" in str(part):
                self.intake.fault("image name leaves the folder of the images", f"{place}: {str(part)[:80]!r}")
                return self.root / "refused"
            if any(len(name.encode(errors="surrogatepass")) > LONGEST_NAME for name in part.parts):
                kind = f"image name is longer than the {LONGEST_NAME} bytes that a file name can have"
                self.intake.fault(kind, f"{place}: {str(part)[:40]!r}…")
                return self.root / "refused"
        for folder in ("", *folders):
            if path.name in self._names_in(self.root / folder / path.parent):
                return self.root / folder / path
        return self.root / (folders[0] if folders else "") / path

    def _names_in(self, folder: Path) -> frozenset[str]:
        """The names in a folder. It is listed once: a stat for each of 100,000 images is slow on a network disk."""
        if folder not in self._listed:
            names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
            self._listed[folder] = frozenset(names)
        return self._listed[folder]
