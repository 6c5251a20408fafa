"""The block for a model card: what was found of a tuned model, the numbers, and how they were measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rankscope.definition import in_full
from rankscope.errors import RankscopeError
from rankscope.markdown import escaped, table
from rankscope.registry import known
from rankscope.results.glance import glance, relied_on
from rankscope.results.runs import Contrast, PairRecord
from rankscope.results.wording import by_method, interval


def card(result: Contrast, *, measures: Sequence[str] = ()) -> str:
    """The block in Markdown: the verdict, a row a site, and the conventions of every number in it.

    Args:
        result: a comparison of a base with the model, or of two models against a base.
        measures: names of further measures of the result, each of which gets a column in a table of its own; none by default.

    Returns:
        The block, without the markers between which it is put.

    Raises:
        UnknownName: if a further measure is not among the results.
    """
    from rankscope import __version__

    small, account = glance(result), result.verdict
    further = {name: {r.site: r for r in result.of(name)} for name in measures}
    there = relied_on(result) | {r.measure for some in further.values() for r in some.values()}
    used = [r for r in result.records if r.measure in there]
    cautions = Counter(note for r in used for note in r.notes)
    parts = [
        "## What tuning changed in the features",
        *(f"**{escaped(one.lead)}**" for one in account.briefs),
        "\n".join(f"- {escaped(text)}" for text in account.sentences),
        f"{escaped(small.title)}.",
        table(small.columns, small.rows),
        "\n\n".join(map(escaped, small.below)),
        *_further(result, further),
        "### How this was measured",
        "\n".join(f"- {line}" for line in _conventions(result, [*dict.fromkeys(r.measure for r in used)])),
        "\n".join(
            f"- Note: {escaped(text)}"
            for text in (
                *result.notes,
                *(f"{note} ({count} number{'s' * (count != 1)})" for note, count in cautions.items()),
            )
        ),
        f"Intervals of {100 * result.level:g} %, over samples{by_method(used)}. Made with rankscope {__version__}.",
    ]
    return "\n\n".join(part for part in parts if part)


def _further(result: Contrast, columns: Mapping[str, Mapping[str, PairRecord]]) -> list[str]:
    """What is said above the table of further measures, and the table; nothing without any."""
    if not columns:
        return []
    a, b, *_ = result.names
    sites = dict.fromkeys(r.site for r in result.records)
    rows = [
        (site, *(interval(some[site].estimate) if site in some else "–" for some in columns.values())) for site in sites
    ]
    return [f"{escaped(b)} less {escaped(a)}, or what relates the two:", table(("site", *columns), rows)]


def _conventions(result: Contrast, measures: list[str]) -> list[str]:
    """A line for each measure: its formula with its whole convention, and its source."""
    lines = []
    for name in measures:
        try:
            what = known(name)
        except RankscopeError:  # the caller's own function, of which only the name is known here
            lines.append(f"{escaped(name)}: the caller's own")
            continue
        lines.append(f"{escaped(name)}: {escaped(in_full(what))} ({escaped(what.citation)})")
    return lines
