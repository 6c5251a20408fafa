"""Java that is absent, hangs, fails or talks nonsense is one clear error, and leaves no process behind."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rankscope.errors import MissingTool
from rankscope.scores import Java, java as java_module, score_captions
from rankscope.scores.java import ptb_tokenized

SAID, GIVEN = {1: "a dog", 2: "the cat"}, {1: ["a dog", "one dog"], 2: ["a cat"]}
COUNTS = " ".join(["2.0"] * 2 + ["1.0"] * 6 + ["0.0"] * 12 + ["1.0", "2.0", "2.0"])
MODELS = ["stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"]

FAKE = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
open({log!r}, "a").write(json.dumps([arguments, os.environ.get("LC_ALL"), os.getcwd()]) + "\\n")
if arguments == ["-version"]:
    print('openjdk version "{version}"', file=sys.stderr)
elif "-stdio" in arguments:
    sys.stdout.write("".join({counts!r} + "\\n" for line in sys.stdin))
else:
    out = arguments[arguments.index("-out") + 1]
    entries = json.load(open(arguments[arguments.index("edu.anu.spice.SpiceScorer") + 1]))
    open(out, "w").write({written})
"""
SPICE_SCORES = 'json.dumps([{"image_id": e["image_id"], "scores": {"All": {"f": [0.25, 0.75][e["image_id"]]}}} for e in entries[::-1]])'


@pytest.fixture
def jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty files in the places of the package's jars."""
    package = tmp_path / "package"
    names = ["meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz", "spice/spice-1.0.jar", "spice/lib/fst-2.47.jar"]
    for name in [*names, "tokenizer/stanford-corenlp-3.4.1.jar"]:
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr(java_module, "find_spec", lambda name: found)
    return package


def program(folder: Path, text: str) -> str:
    path = folder / "java"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def fake(folder: Path, *, version: str = "17.0.15", counts: str = COUNTS, written: str = SPICE_SCORES) -> str:
    text = FAKE.format(python=sys.executable, log=str(folder / "log"), version=version, counts=counts, written=written)
    return program(folder, text)


def calls(folder: Path) -> list[list]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in MODELS:
        (tmp_path / name).touch()
    return tmp_path


FAILURES = {
    "wrong version": (
        "echo 'java.lang.UnsupportedClassVersionError: 52.0' >&2; exit 1",
        "another version .* 8 or newer",
    ),
    "out of memory": (
        "echo 'java.lang.OutOfMemoryError: Java heap space' >&2; exit 1",
        r"OutOfMemoryError.*Java\(memory=",
    ),
    "silent": ("exit 3", "status 3: it gave no reason"),
    "garbage": ("echo hello; echo 1 2 3", "METEOR printed 'hello' where 23 counts were expected"),
    "too few numbers": ("echo 1 2 3; echo 1 2 3", "METEOR printed '1 2 3'"),
    "nothing": ("exit 0", "METEOR answered 2 captions with 0 lines"),
    "killed": ("kill -9 $$", "status -9"),
    "bytes": (r"printf '\377\376\n\n'", "METEOR printed"),
}


@pytest.mark.parametrize("case", list(FAILURES))
def test_a_failing_java_is_an_error_by_name_or_a_reason(case: str, jars: Path, tmp_path: Path) -> None:
    script, match = FAILURES[case]
    java = Java(program=program(tmp_path, f"#!/bin/sh\n{script}\n"), timeout=30)
    with pytest.raises(MissingTool, match=match) as caught:
        score_captions(SAID, GIVEN, metrics=["METEOR"], java=java)
    assert caught.value.exit_code == 6
    scores = score_captions(SAID, GIVEN, java=java)
    assert scores["METEOR"] is scores["SPICE"] is None
    assert scores.reasons["METEOR"] == str(caught.value)
    assert scores["CIDEr"] is not None


def test_a_java_that_hangs_is_ended_with_its_children(jars: Path, tmp_path: Path) -> None:
    text = f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 60 & echo $! >> {tmp_path}/pid\nwait\n"
    start = time.monotonic()
    with pytest.raises(MissingTool, match=r"METEOR did not finish in 1 s and was ended"):
        score_captions(SAID, GIVEN, metrics=["METEOR"], java=Java(program=program(tmp_path, text), timeout=1))
    assert time.monotonic() - start < 20
    for pid in (tmp_path / "pid").read_text().split():
        status = Path("/proc", pid, "status")
        gone_by = time.monotonic() + 10
        while status.exists() and "\nState:\tZ" not in status.read_text() and time.monotonic() < gone_by:
            time.sleep(0.05)
        assert not status.exists() or "\nState:\tZ" in status.read_text()
    with pytest.raises(ChildProcessError):
        os.waitpid(int((tmp_path / "pid").read_text().split()[0]), os.WNOHANG)


def test_java_absent_from_the_path(jars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="no 'java' on the search path; install a Java runtime"):
        score_captions(SAID, GIVEN, metrics=["METEOR"])
    with pytest.raises(MissingTool, match="no 'java'"):
        score_captions(SAID, GIVEN, metrics=["CIDEr"], tokenizer="ptb")


def test_a_java_that_cannot_be_started(jars: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingTool, match=r"could not be started: .*; is it Java"):
        score_captions(SAID, GIVEN, metrics=["METEOR"], java=Java(program=program(tmp_path, "no program\n")))


def test_a_package_without_the_jar_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(java_module, "find_spec", lambda name: None)
    with pytest.raises(MissingTool, match=r"meteor/meteor-1.5.jar .* not installed; pip install pycocoevalcap"):
        Java(program=program(tmp_path, "")).jar("meteor", "meteor-1.5.jar")


def test_meteor_runs_the_official_command_in_utf8(jars: Path, tmp_path: Path) -> None:
    scores = score_captions(SAID, GIVEN, metrics=["METEOR"], java=Java(program=fake(tmp_path)))
    arguments, locale, folder = calls(tmp_path)[0]
    assert arguments[:2] == ["-Xmx2G", "-jar"]
    assert arguments[3:] == ["-", "-", "-stdio", "-l", "en", "-norm"]
    assert locale == "C.UTF-8"
    assert folder == str(jars / "meteor")
    assert scores["METEOR"] == pytest.approx(1)


def test_the_heap_is_configurable(jars: Path, tmp_path: Path) -> None:
    score_captions(SAID, GIVEN, metrics=["METEOR"], java=Java(program=fake(tmp_path), memory="512m"))
    assert calls(tmp_path)[0][0][0] == "-Xmx512m"


def test_bars_in_a_caption_cannot_shift_fields(jars: Path, tmp_path: Path) -> None:
    text = f"#!/bin/sh\ncat > {tmp_path}/read\necho {COUNTS}\necho {COUNTS}\n"
    said, given = {1: "a|||b", 2: "c\nd"}, {1: ["x ||| y"], 2: ["z"]}
    score_captions(said, given, metrics=["METEOR"], java=Java(program=program(tmp_path, text)))
    lines = (tmp_path / "read").read_text().splitlines()
    assert [line.count("|||") for line in lines] == [2, 2]
    assert lines[1] == "SCORE ||| z ||| c d"


def test_a_tokenizer_that_answers_too_many_lines_is_refused(jars: Path, tmp_path: Path) -> None:
    text = "#!/bin/sh\ncat > /dev/null\necho a; echo b; echo c\n"
    with pytest.raises(MissingTool, match="answered 2 captions with 4 lines, so they cannot be matched"):
        ptb_tokenized(["a", "b"], Java(program=program(tmp_path, text)))


def test_spice_is_what_the_program_wrote(jars: Path, home: Path) -> None:
    options = {"metrics": ["SPICE"], "spice_home": home, "per_sample": True}
    scores = score_captions(SAID, GIVEN, java=Java(program=fake(home)), **options)
    assert scores["SPICE"] == 0.5
    assert scores.samples["SPICE"].tolist() == [0.25, 0.75]
    arguments, _, folder = calls(home)[1]
    assert arguments[0] == "-Xmx8G"
    assert sum(option.startswith("--add-opens=java.base/java.") for option in arguments) == 7
    classes = arguments[arguments.index("-cp") + 1].split(os.pathsep)
    assert [Path(path).name for path in classes] == ["spice-1.0.jar", "fst-2.47.jar", *MODELS]
    assert "-cache" not in arguments
    assert not Path(folder).exists()


def test_spice_under_java_8_opens_nothing(jars: Path, home: Path) -> None:
    java = Java(program=fake(home, version="1.8.0_101"))
    score_captions(SAID, GIVEN, metrics=["SPICE"], spice_home=home, java=java)
    assert not any("add-opens" in option for option in calls(home)[1][0])


@pytest.mark.parametrize("written", ["'no'", "'[]'", "'[{}]'", "'[1]'", "'{}'", "'null'"])
def test_spice_that_wrote_something_else_is_refused(written: str, jars: Path, home: Path) -> None:
    with pytest.raises(MissingTool, match="where the scores of 2 images were expected"):
        score_captions(SAID, GIVEN, metrics=["SPICE"], spice_home=home, java=Java(program=fake(home, written=written)))


def test_spice_without_a_value_for_an_image_is_missing_with_a_reason(jars: Path, home: Path) -> None:
    written = 'json.dumps([{"image_id": e["image_id"], "scores": {"All": {"f": None}}} for e in entries])'
    java = Java(program=fake(home, written=written))
    scores = score_captions(SAID, GIVEN, metrics=["SPICE"], spice_home=home, java=java, per_sample=True)
    assert scores["SPICE"] is None
    assert scores.reasons["SPICE"] == "SPICE has no value for 2 of 2 images"
    assert np.isnan(scores.samples["SPICE"]).all()
    assert json.dumps(scores.to_json(), allow_nan=False)


def test_spice_says_where_to_get_its_models(jars: Path, tmp_path: Path) -> None:
    java = Java(program=fake(tmp_path))
    with pytest.raises(MissingTool, match=r"parser models of CoreNLP 3.6.0; get stanford-.*--spice-home"):
        score_captions(SAID, GIVEN, metrics=["SPICE"], java=java)
    (tmp_path / MODELS[0]).touch()
    with pytest.raises(MissingTool, match=r"SPICE finds no stanford-corenlp-3.6.0-models.jar in "):
        score_captions(SAID, GIVEN, metrics=["SPICE"], java=java, spice_home=tmp_path)


def test_a_java_without_a_version_is_none(jars: Path, home: Path) -> None:
    java = Java(program=program(home, "#!/bin/sh\necho hi\n"))
    with pytest.raises(MissingTool, match="said 'hi' and no version; is it Java"):
        score_captions(SAID, GIVEN, metrics=["SPICE"], spice_home=home, java=java)
