"""Sentences, the embedded texts: some hundreds in English on many matters, written for this package, no two alike.

They are what a model of texts reads where no data were given: questions, orders, reports, sayings, warnings, beginnings of
stories, of four to thirty words.
"""

from __future__ import annotations

from rankscope.data.embedded import HERE
from rankscope.data.files import contents
from rankscope.data.probes import Example, ProbeSet


def sentences(*, n: int | None = None) -> ProbeSet:
    """The embedded sentences, the first ``n`` of them; all if None.

    Raises:
        DataError: if there are not so many.
    """
    lines = contents(HERE / "sentences.txt").splitlines()
    found = ProbeSet("sentences", [Example(f"sentence/{i}", line) for i, line in enumerate(lines)])
    return found if n is None else found.first(n)
