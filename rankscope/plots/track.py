"""A training: a measure, or the loss, against the training step."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from rankscope.plots.along import Line, intervals, plain
from rankscope.plots.naming import last_of_stacks
from rankscope.plots.style import drawing, look, nothing, panel_title
from rankscope.results.record import Span
from rankscope.results.track import StepRecord, Track
from rankscope.sites import Site

MOST = 8
"""The most sites that are all drawn."""
STEP = "training step"


@drawing
def track(result: Track, ax: Axes | None = None, *, measure: str | None = None, **style: Any) -> Axes:
    """A measure at each site against the step, with the bands that hold at all sites and steps; dotted, the base's number.

    With more than :data:`MOST` sites only the last of every stack is drawn.

    Args:
        result: a training.
        ax: where to draw; by default on a figure of its own.
        measure: its name; by default the first.
        **style: matplotlib's settings of the lines, beside their own looks.

    Raises:
        UnknownName: if it is not among the results.
    """
    assert ax is not None
    records = result.of(measure or result.measures[0])
    sites = [Site.parse(text) for text in dict.fromkeys(r.site for r in records)]
    for index, site in enumerate(sites if len(sites) <= MOST else last_of_stacks(sites)[-MOST:]):
        mine = [r for r in records if r.site == str(site)]
        own = look(index) | style
        line = Line.of(str(site), [r.estimate for r in mine], [_around(r) for r in mine])
        intervals([r.step for r in mine], line, own, ax)
        if mine[0].before is not None:
            ax.axhline(mine[0].before, color=own["color"], linewidth=0.6, linestyle=(0, (1, 3)))
    ax.set(xlabel=STEP, ylabel=records[0].unit)
    panel_title(ax, f"{records[0].measure}, against {result.base}")
    return ax


@drawing
def losses(result: Track, ax: Axes | None = None, **style: Any) -> Axes:
    """The losses that were logged, against the step.

    Args:
        result: a training.
        ax: where to draw; by default on a figure of its own.
        **style: matplotlib's settings of the lines.

    Raises:
        UsageError: if none was logged.
    """
    assert ax is not None
    if not has_losses(result):
        raise nothing()
    by_step = {r.step: r for r in result.records}
    told = {
        "training loss": [r.loss for r in by_step.values()],
        "held-out loss": [r.eval_loss for r in by_step.values()],
    }
    for index, (name, values) in enumerate(told.items()):
        if any(value is not None for value in values):
            ax.plot([*by_step], plain(values), label=name, markersize=3, **(look(MOST - 1 - index) | style))
    ax.set_xlabel(STEP)
    panel_title(ax, "loss")
    return ax


def has_losses(result: Track) -> bool:
    """Whether a loss was logged at any step."""
    return any(r.loss is not None or r.eval_loss is not None for r in result.records)


def _around(r: StepRecord) -> Span:
    """The band around the number: that of a change, raised by the number of the base."""
    if r.band.low is None or r.band.high is None:
        return r.band
    return Span(r.band.low + (r.before or 0.0), r.band.high + (r.before or 0.0))
