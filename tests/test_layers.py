"""The house holds: who may import whom, which module may import which library, and how a module looks."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rankscope"

# Each row imports only from rows above it. Names in one row never import each other.
ROWS: list[set[str]] = [
    {"memory", "notebook"},
    {"errors"},
    {"plugins"},
    {"sites", "definition", "devices", "names", "progress", "catalogue", "writing"},
    {"features", "checkpoint", "linalg", "data", "markdown"},
    {"spectrum", "store", "scores", "inference", "reading"},
    {"measures", "comparisons"},
    {"weights"},
    {"registry", "models", "results"},
    {"collecting", "tuning"},
    {"analysis"},
    {"plots", "report"},
    {"selftest", "demo"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}

ONLY_IN: dict[str, set[str]] = {
    "transformers": {"models", "tuning"},
    "peft": {"models", "tuning"},
    "accelerate": {"models", "tuning"},
    "safetensors": {"store", "models", "tuning", "data"},
    "matplotlib": {"plots"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
    "typer": {"cli"},
    "rich": {"cli"},
}


def modules(package: Path = PACKAGE) -> list[Path]:
    return sorted(p for p in package.rglob("*.py"))


def part(path: Path, package: Path = PACKAGE) -> str:
    """The name in the table of rows that a module belongs to."""
    first = path.relative_to(package).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module named by an import, those inside functions too; not those for types only."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test).endswith("TYPE_CHECKING")
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def direction_faults(package: Path = PACKAGE) -> list[str]:
    faults = []
    for path in modules(package):
        here = part(path, package)
        for name in imports(path):
            pieces = name.split(".")
            if pieces[0] != "rankscope" or len(pieces) < 2 or pieces[1] == here or here == "__init__":
                continue
            if pieces[1] in LEVEL and LEVEL[pieces[1]] >= LEVEL.get(here, -1):
                faults.append(f"{path.relative_to(package)} imports {name}, which is not above it")
    return faults


def library_faults(package: Path = PACKAGE) -> list[str]:
    return [
        f"{path.relative_to(package)} imports {name}; only {sorted(ONLY_IN[top])} may"
        for path in modules(package)
        for name in imports(path)
        if (top := name.split(".")[0]) in ONLY_IN and part(path, package) not in ONLY_IN[top]
    ]


def test_every_module_has_a_row() -> None:
    assert {part(p) for p in modules()} <= set(LEVEL)


def test_imports_point_upwards() -> None:
    assert direction_faults() == []


def circle(package: Path = PACKAGE) -> list[str]:
    """Modules that import each other in a circle, if any do."""
    dotted = {".".join(p.relative_to(package.parent).with_suffix("").parts): p for p in modules(package)}
    named = {name.removesuffix(".__init__"): path for name, path in dotted.items()}
    needs = {
        name: {i if i in named else i.rpartition(".")[0] for i in imports(path)} & named.keys() - {name}
        for name, path in named.items()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle(tmp_path: Path) -> None:
    assert circle() == []
    planted = tmp_path / "rankscope"
    planted.mkdir()
    (planted / "a.py").write_text("import rankscope.b\n")
    (planted / "b.py").write_text("def f():\n    from rankscope.a import g\n")
    assert set(circle(planted)) == {"rankscope.a", "rankscope.b"}


def test_libraries_stay_where_they_belong() -> None:
    assert library_faults() == []


@pytest.mark.parametrize(
    ("where", "line", "faults"),
    [
        ("sites.py", "from rankscope.models import load", direction_faults),
        ("measures/x.py", "import transformers", library_faults),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, where: str, line: str, faults) -> None:
    target = tmp_path / where
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"def f():\n    {line}\n")
    assert len(faults(tmp_path)) == 1


@pytest.mark.parametrize("module", ["rankscope", "rankscope.measures", "rankscope.store", "rankscope.cli"])
def test_heavy_libraries_are_not_imported_without_need(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('transformers', 'peft', 'matplotlib', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_and_its_command_line_import_without_torch() -> None:
    code = "import sys, rankscope, rankscope.cli; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    yield from (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef))


def _body_lines(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_modules_and_functions_stay_small() -> None:
    long_modules = [str(p.relative_to(ROOT)) for p in modules() if len(p.read_text().splitlines()) > 400]
    lengths = {f"{p.relative_to(ROOT)}:{f.name}": _body_lines(f) for p in modules() for f in functions(p)}
    assert long_modules == []
    assert {name: n for name, n in lengths.items() if n > 60} == {}
    assert median(lengths.values()) <= 8


def test_functions_take_few_arguments() -> None:
    """At most eight, outside the command line and the public functions, which name all their options."""
    import rankscope
    from rankscope import tuning

    public = {*rankscope.__all__, *tuning.__all__}
    many = {}
    for path in modules():
        for f in functions(path):
            names = [
                a.arg for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs) if a.arg not in ("self", "cls")
            ]
            called = f.name in public or any(
                ast.unparse(d) == "public" for d in f.decorator_list
            )  # as a public class is
            if len(names) > 8 and part(path) != "cli" and not called:
                many[f"{path.relative_to(ROOT)}:{f.name}"] = len(names)
    assert many == {}


def test_no_module_is_a_drawer_for_leftovers() -> None:
    assert not [p for p in modules() if p.stem in {"utils", "helpers", "common", "base", "core", "misc"}]


def test_the_library_does_not_print() -> None:
    printing = [
        f"{p.relative_to(ROOT)}:{n.lineno}"
        for p in modules()
        if part(p) != "cli"
        for n in ast.walk(ast.parse(p.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"
    ]
    assert printing == []


def test_no_two_modules_outside_the_package_share_a_name() -> None:
    """Tests, studies and benchmarks are imported by their bare names, of which Python keeps the first that it meets."""
    run_alone = {"conftest", "__main__", "make_reference"}
    places = [p for folder in ("tests", "analyses", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    stems = Counter(p.stem for p in places if "example_plugin" not in p.parts)
    assert len(stems) > 200
    assert {stem for stem, count in stems.items() if count > 1} <= run_alone
