"""Sentences of the standard library's own documentation, each with the area of the library that it comes from.

A text is the first paragraph of a docstring, cut to ``WORDS`` words; its label is the area of the Library Reference that its module
belongs to (``AREAS``). Sources are parsed and never imported, so that the texts depend on the version of Python alone. Texts that
differ only in letter case or in what is not a letter count once. The splits share no object: a class goes with all its methods
into one of them, and gives at most ``MOST`` texts. Where the docstring goes on, its second paragraph is kept as the *body*: which body
belongs to which first paragraph is a task that a sentence encoder can do without being tuned for it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rankscope.data import ProbeSet
from rankscope.data.open import open_data
from rankscope.writing import write_output

AREAS = {
    "numbers": ("fractions", "statistics", "random", "numbers", "_pydecimal"),
    "data types": (
        *(
            "collections",
            "_collections_abc",
            "datetime",
            "_pydatetime",
            "calendar",
            "heapq",
            "weakref",
            "enum",
            "types",
        ),
        *("copy", "dataclasses", "pprint", "zoneinfo", "graphlib", "string", "difflib", "textwrap"),
    ),
    "files": (
        *("pathlib", "shutil", "tempfile", "glob", "fileinput", "filecmp", "tarfile", "zipfile", "gzip", "bz2", "lzma"),
        *("posixpath", "ntpath", "genericpath", "os", "_pyio"),
    ),
    "concurrency": (
        *("threading", "multiprocessing", "concurrent", "subprocess", "asyncio", "queue", "sched", "selectors"),
    ),
    "networking": (
        *("socket", "socketserver", "ssl", "http", "urllib", "ftplib", "smtplib", "imaplib", "poplib", "email"),
        *("mailbox", "ipaddress", "wsgiref", "xmlrpc"),
    ),
    "language": ("ast", "dis", "inspect", "tokenize", "symtable", "importlib", "pkgutil", "modulefinder", "typing"),
    "testing": (
        *("unittest", "doctest", "pdb", "bdb", "trace", "traceback", "profile", "pstats", "timeit", "tracemalloc"),
        *("warnings", "logging"),
    ),
    "markup": ("xml", "html", "json", "csv", "configparser", "plistlib", "tomllib"),
}
"""The modules of each area, whose place in this table is the label; one that a version of Python lacks gives no texts."""
WORDS, FEWEST, MOST = 16, 4, 8
"""The words that a text is cut to, the fewest that it has, and the most texts of one class or function."""
KINDS = ("class", "function", "method")
"""What a text may describe: another labelling than the one that is tuned for."""


class Text(NamedTuple):
    """The beginning of a docstring."""

    area: int
    """The label: the place of its area among :data:`AREAS`."""
    owner: str
    """The module and the outermost class or function in it, which one split has for itself."""
    name: str
    """The module and the qualified name of what is described."""
    kind: str
    """One of :data:`KINDS`."""
    words: str
    """The text."""
    body: str
    """The second paragraph, cut as the text is; empty if there is none as long as a text."""


@dataclass(frozen=True)
class Library:
    """The texts in a folder."""

    folder: Path
    """Where they lie, as JSON lines."""

    def __call__(self, name: str, n: int = 0) -> ProbeSet:
        """A set of texts by its name, whole: ``n`` is for the sets of other studies, which have no end."""
        return open_data(self.folder / f"{name}.jsonl")


def write_texts(library: Library, sizes: Mapping[str, int]) -> None:
    """Write ``train``, ``validation`` and ``test`` with so many texts of each area, and ``bodies``, those of ``test`` that have one.

    Args:
        library: where they are written.
        sizes: texts of each area, by the name of the split, those with most to choose from first.
    """
    folder = library.folder
    folder.mkdir(parents=True, exist_ok=True)
    found = dict.fromkeys(sizes, ())
    by_area: dict[int, list[Text]] = {i: [] for i in range(len(AREAS))}
    for text in unlike(texts()):
        by_area[text.area].append(text)
    for area, several in by_area.items():
        for split, chosen in split_by_owner(several, sizes).items():
            assert len(chosen) == sizes[split], f"{list(AREAS)[area]} has {len(chosen)} texts for {split}"
            found[split] += tuple(chosen)
    for split, chosen in found.items():
        # By length, so that a batch of held-out texts needs little padding; training draws its own order.
        write_lines(
            folder / f"{split}.jsonl", {t.name: t.words for t in sorted(chosen, key=lambda t: len(t.words))}, chosen
        )
    bodies = {t.name: t.body for t in sorted(found["test"], key=lambda t: len(t.body)) if t.body}
    write_lines(folder / "bodies.jsonl", bodies, found["test"])


def write_lines(file: Path, said: Mapping[str, str], texts: tuple[Text, ...]) -> None:
    """Write what is said by name, with the label and the kind of the text of that name."""
    about = {text.name: text for text in texts}
    lines = [{"id": k, "text": v, "label": about[k].area, "kind": about[k].kind} for k, v in said.items()]
    write_output(file, "".join(json.dumps(line) + "\n" for line in lines).encode())


def split_by_owner(several: list[Text], sizes: Mapping[str, int]) -> dict[str, list[Text]]:
    """The texts of one area in splits that share no owner, in an order that says nothing of them."""
    chosen: dict[str, list[Text]] = {split: [] for split in sizes}
    by_owner: dict[str, list[Text]] = {}
    for text in sorted(several, key=lambda t: shuffled(t.name)):
        by_owner.setdefault(text.owner, []).append(text)
    for owner in sorted(by_owner, key=shuffled):
        split = next((s for s in sizes if len(chosen[s]) < sizes[s]), None)
        if split is not None:
            chosen[split] += by_owner[owner][: min(MOST, sizes[split] - len(chosen[split]))]
    return chosen


def shuffled(name: str) -> str:
    """A key that sorts names as if at random, and the same everywhere."""
    return hashlib.sha256(name.encode()).hexdigest()


def unlike(found: Iterator[Text]) -> Iterator[Text]:
    """Those texts that differ from all others in their letters and names: of texts that agree none stays, for their areas need not."""
    several = list(found)
    count = Counter(key for text in several for key in (letters(text.words), text.name))
    return (text for text in several if count[letters(text.words)] == count[text.name] == 1)


def letters(words: str) -> str:
    """A text without what may differ between two that say the same."""
    return " ".join(re.findall("[a-z]+", words.lower()))


def texts() -> Iterator[Text]:
    """The texts of all areas, in the order of the table."""
    root = Path(sysconfig.get_path("stdlib"))
    for area, modules in enumerate(AREAS.values()):
        for module in modules:
            folder = root / module
            for file in sorted(folder.rglob("*.py")) if folder.is_dir() else [root / f"{module}.py"]:
                if file.is_file():
                    dotted = ".".join(file.relative_to(root).with_suffix("").parts)
                    yield from described(ast.parse(file.read_text(encoding="utf-8")), area, dotted, ())


def described(node: ast.AST, area: int, module: str, path: tuple[str, ...]) -> Iterator[Text]:
    """The texts of what is defined in a module or class; what is inside a function is not documentation."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try):
            yield from described(child, area, module, path)
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        inside = (*path, child.name)
        is_class = isinstance(child, ast.ClassDef)
        if doc := ast.get_docstring(child):
            first, body = [*(cut(p) for p in re.split(r"\n\s*\n", doc)), ""][:2]
            kind = "class" if is_class else "method" if path else "function"
            if first:
                yield Text(area, f"{module}:{inside[0]}", f"{module}:{'.'.join(inside)}", kind, first, body)
        if is_class:
            yield from described(child, area, module, inside)


def cut(paragraph: str) -> str:
    """The first words of a paragraph, on one line; nothing if they are too few, or an example of code."""
    first = " ".join(paragraph.split()[:WORDS])
    return first if len(letters(first).split()) >= FEWEST and not first.startswith(">>>") else ""
