"""SPICE, by the official Java program: the F score of the objects, attributes and relations that two captions share.

The captions are parsed to scene graphs by Stanford CoreNLP 3.6.0, whose models (0.5 GB) are not in any package. Without
them there is no score: nothing else is reported under this name.

Anderson, Fernando, Johnson & Gould, "SPICE", ECCV 2016, equations 3 to 5. Lies in [0, 1]; a mean over images.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rankscope.errors import MissingTool
from rankscope.scores.java import Java
from rankscope.scores.result import Tally, mean_of

MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
"""The files that the folder given as ``spice_home`` must hold."""
_OPENED = ("java.lang", "java.util", "java.util.concurrent", "java.math", "java.net", "java.text", "java.io")
"""Packages that SPICE's serialiser reaches into, and that Java has kept closed since version 9."""


def find_models(spice_home: str | os.PathLike[str] | None) -> list[Path]:
    """The parser and its models.

    Raises:
        MissingTool: if no folder was given, or it lacks one of them; the message says where to get them.
    """
    where = (
        "get stanford-corenlp-full-2015-12-09.zip from Stanford's CoreNLP history page, put "
        f"{' and '.join(MODELS)} into a folder, and pass it as spice_home (--spice-home)"
    )
    if spice_home is None:
        raise MissingTool(f"SPICE needs the parser models of CoreNLP 3.6.0; {where}")
    paths = [Path(spice_home, name) for name in MODELS]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise MissingTool(f"SPICE finds no {' and no '.join(absent)} in {spice_home}; {where}")
    return [path.resolve() for path in paths]


def spice(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    java: Java | None = None,
    *,
    spice_home: str | os.PathLike[str] | None = None,
) -> Tally:
    """SPICE: the mean over images.

    Args:
        candidates: ``(n,)`` captions, tokens separated by spaces.
        references: the references of each, at least one.
        java: how Java is run.
        spice_home: the folder that holds :data:`MODELS`.

    Returns:
        A tally; values in [0, 1].

    Raises:
        MissingTool: if Java, the jar or the models are missing, or the program failed or wrote something else.
    """
    java = java or Java()
    archive = java.jar("spice", "spice-1.0.jar")
    libraries = [archive, *sorted((archive.parent / "lib").glob("*.jar")), *find_models(spice_home)]
    options = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED] if java.release() >= 9 else []
    pairs = zip(candidates, references, strict=True)
    entries = [{"image_id": i, "test": text, "refs": list(others)} for i, (text, others) in enumerate(pairs)]
    with TemporaryDirectory(prefix="rankscope-spice-") as folder:
        source, result = Path(folder, "in.json"), Path(folder, "out.json")
        source.write_text(json.dumps(entries), encoding="utf-8")
        classes = [*options, "-cp", os.pathsep.join(map(str, libraries)), "edu.anu.spice.SpiceScorer"]
        arguments = [*classes, str(source), "-out", str(result), "-subset", "-silent"]
        java.run("SPICE", arguments, folder=Path(folder), memory="8G")
        written = result.read_text(encoding="utf-8") if result.is_file() else ""
    return mean_of("SPICE", np.array(_f_scores(written, len(entries))))


def _f_scores(written: str, images: int) -> list[float]:
    try:
        found = {int(item["image_id"]): item["scores"]["All"]["f"] for item in json.loads(written)}
        return [np.nan if found[image] is None else float(found[image]) for image in range(images)]
    except (ValueError, KeyError, TypeError):
        raise MissingTool(
            f"SPICE wrote {written[:200]!r} where the scores of {images} images were expected; is this its version 1.0?"
        ) from None
