"""``rankscope definitions``: every measure by name, with its formula, source, range and bias."""

from __future__ import annotations

from dataclasses import fields
from math import isfinite
from typing import TYPE_CHECKING, Annotated

from typer import Argument, echo

from rankscope.catalogue import names
from rankscope.cli import options, show

if TYPE_CHECKING:
    from rankscope.definition import Comparison, Definition, WeightDefinition

    Known = Definition | Comparison | WeightDefinition


def check_name(text: str) -> None:
    """Check that a text names a number of weights, or measures, as :func:`rankscope.catalogue.check_measure` does."""
    if text not in names("weights"):
        options.check_measures(text)


def definitions(
    name: Annotated[
        str | None,
        Argument(callback=options.refusing(check_name), help="A measure, or several, comma-separated. Default: all."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List every measure: formula, citation, range and bias, and what noise scores.

    Example: rankscope definitions participation-ratio
    """
    from rankscope.registry import COMPARISONS, DEFINITIONS, WEIGHT_DEFINITIONS, added, named

    sections: dict[str, list[Known]] = {
        "numbers of one run (measure, compare)": [*DEFINITIONS.values()],
        "numbers of two runs (compare)": [*COMPARISONS.values()],
        "numbers of weights (weights)": [*WEIGHT_DEFINITIONS.values()],
    }
    if not name:
        plugged, faults = added()
        for fault in faults:
            show.note(f"note: {fault}")
        if plugged:
            sections["measures of plug-ins"] = [*plugged]
    else:
        sections = {"": [WEIGHT_DEFINITIONS[name]] if name in WEIGHT_DEFINITIONS else [*named(name)]}
    rows = [_record(measure) for measures in sections.values() for measure in measures]
    show.records(rows, as_json=as_json, as_csv=False, table=lambda: _print(sections))


def _print(sections: dict[str, list[Known]]) -> None:
    """Print the sections, a paragraph for each measure."""
    for title, measures in sections.items():
        if title:
            echo(f"{len(measures)} {title}\n")
        for measure in measures:
            echo("\n".join(_paragraph(measure)))


def _paragraph(measure: Known) -> list[str]:
    known = {
        "formula": _formula(measure),
        "source": measure.citation,
        "range": f"{measure.low} … {measure.high}{f' {measure.unit}' if measure.unit else ''}",
        "bias": measure.bias,
        "noise": getattr(measure, "noise", ""),
        "reads": measure.reads,
        "interval": "on its logarithm" if getattr(measure, "scale", "") == "log" else "",
        "rows": f"{_enough(measure)} a feature are enough" if _enough(measure) else "",
    }
    return [measure.name, *(f"  {key:<9}{text}" for key, text in known.items() if text), ""]


def _formula(measure: Known) -> str:
    from rankscope.definition import WeightDefinition, in_full

    return measure.formula if isinstance(measure, WeightDefinition) else in_full(measure)


def _enough(measure: Known) -> int:
    from rankscope.definition import WeightDefinition, rows_enough

    return 0 if isinstance(measure, WeightDefinition) else rows_enough(measure)


def _record(measure: Known) -> dict[str, object]:
    """Everything known of a measure, without its functions."""
    known = {f.name: getattr(measure, f.name) for f in fields(measure)} | {
        "enough": _enough(measure),
        "formula": _formula(measure),
    }
    # JSON has no infinity: an end that does not exist is left out, as is one that depends on the size of the features
    return {
        name: value
        for name, value in known.items()
        if not callable(value) and value is not None and not (isinstance(value, float) and not isfinite(value))
    }
