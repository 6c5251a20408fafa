"""One word, one meaning: the table in CONTRIBUTING names what is there, and no class name is defined twice."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = re.findall(r"^\| ([a-z ]+) \| .+ \| `([\w.]+)` \|$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)


def classes() -> list[tuple[str, str]]:
    """The module and name of every class of the package, private ones without their underscore."""
    found = []
    for path in sorted((ROOT / "rankscope").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "rankscope").with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        found += [(module, node.name) for node in tree.body if isinstance(node, ast.ClassDef)]
    return found


def test_every_word_of_the_table_is_defined_where_it_says() -> None:
    there = {f"{module}.{name}" for module, name in classes()}
    assert len(WORDS) >= 20
    assert [name for _, name in WORDS if name not in there] == []


def test_no_class_name_means_two_things() -> None:
    counted = Counter(name.lstrip("_") for _, name in classes())
    assert {name: n for name, n in counted.items() if n > 1} == {}
