"""What is to be cited is the package that is installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def test_the_citation_is_of_this_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["abstract"] == project["description"]
    assert (cited["title"], cited["version"], cited["license"], cited["keywords"]) == (
        project["name"],
        project["version"],
        project["license"],
        project["keywords"],
    )
    assert cited["references"][0]["url"] == project["urls"]["Paper"]
    assert {"cff-version", "message", "authors", "type"} <= cited.keys()  # what the format asks for
