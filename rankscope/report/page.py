"""The page: what a reader sees before any script runs, and the scripts, styles and data that it carries.

The page may load nothing, and runs only the two scripts whose hashes its policy names; every text goes through Jinja2's autoescape, and
the data through :func:`as_data`, so that a run may be called ``<script>``.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from rankscope.report.content import content
from rankscope.report.extras import Extras
from rankscope.report.summary import summary
from rankscope.results.runs import Contrast

SCRIPTS, STYLES = ("uplot/uPlot.iife.min.js", "report.js"), ("uplot/uPlot.min.css", "report.css")
"""The files that a page carries, from ``static/``."""


def page(results: Sequence[Contrast], extras: Extras) -> str:
    """The HTML of a report."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_static("report.html"))
    scripts, styles = ([_static(name) for name in names] for names in (SCRIPTS, STYLES))
    hashes = {"scripts": " ".join(map(_hash, scripts)), "styles": " ".join(map(_hash, styles))}
    data = content(results, extras)
    return template.render(
        summary=summary(results, extras),
        about=[{"name": run["name"], "told": json.dumps(run, indent=1, ensure_ascii=False)} for run in data["runs"]],
        version=version("rankscope"),
        licence=_static("uplot/LICENSE"),
        **_safe(scripts=scripts, styles=styles, data=as_data(data)),
        policy=f"default-src 'none'; script-src {hashes['scripts']}; style-src {hashes['styles']}; base-uri 'none'; form-action 'none'",
    )


def as_data(value: Any) -> str:
    """Values as JSON, compressed and in base64: letters, digits, ``+``, ``/`` and ``=``, so that no text in them ends a script."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return b64encode(zlib.compress(text.encode(errors="replace"), 9)).decode()


def _safe(**texts: Any) -> dict[str, Any]:
    """Texts of our own, or made safe above, which the template takes as they are."""
    from markupsafe import Markup

    return {
        name: [Markup(one) for one in text] if isinstance(text, list) else Markup(text) for name, text in texts.items()
    }


@cache
def _static(name: str) -> str:
    return (files("rankscope.report") / "static" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
