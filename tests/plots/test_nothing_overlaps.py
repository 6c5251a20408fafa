"""No text of a default figure lies over another, or beyond the edge of the figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import made
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from rankscope.plots import draw, profile, similarity
from rankscope.plots.figures import FIGURES
from rankscope.plots.style import Columns
from rankscope.results.arms import ArmContrast, ArmRecord, Equivalent, Errors
from rankscope.results.between import Between, BetweenRecord
from rankscope.results.record import Estimate, Span, Table
from rankscope.results.runs import Contrast, CurvePoint, Curves, Measurement
from rankscope.results.track import StepRecord, Track
from rankscope.results.weights import IntruderCount, Ranks, Size, WeightRecord, WeightReport

LONG = ("lora-of-rank-sixteen", "prefix-then-lora", "pre-trained")
EST, BAND = Estimate(2.0, 1.0, 3.0), Span(0.5, 3.5)


def contrast(*measures: str) -> Contrast:
    """A comparison of runs with long names; ranks are held against a base."""
    records = [r for m in measures for r in made.compared(m, base=3.0 if "rank" in m or "ratio" in m else None)]
    whole = made.contrast()
    spectra = dict(zip(LONG, whole.spectra.values(), strict=True))
    return replace(whole, records=tuple(records), names=LONG, spectra=spectra)


def arms() -> ArmContrast:
    records = [
        ArmRecord(
            str(site), measure, arm, EST, BAND, 0.1, Errors(), Equivalent(), 3, made.HOW["shape"], "", "dimensions"
        )
        for measure in ("participation-ratio-clustered", "variance-captured", "recoverability")
        for site in made.SITES
        for arm in LONG[:2]
    ]
    return ArmContrast(tuple(records), {arm: (arm,) for arm in LONG[:2]}, LONG[2], {}, 0.95)


def training() -> Track:
    records = [
        StepRecord(step, str(site), measure, EST, 2.0, EST, BAND, loss=1.0, eval_loss=2.0, same_as=None, **made.HOW)
        for measure in ("participation-ratio-clustered", "drift")
        for site in made.SITES
        for step in (0, 100, 200)
    ]
    return Track(tuple(records), "the-pre-trained-one", 0.95)


def curves() -> Curves:
    points = [
        CurvePoint(str(site), "participation-ratio-clustered", 2, rows, 2.0, 1.0, 3.0, 4.0, 2.5, 6, "", "dimensions")
        for site in made.SITES
        for rows in (100, 200)
    ]
    return Curves(tuple(points), "a-run-of-some-name")


def between() -> Between:
    records = [
        BetweenRecord(
            str(s), m, "vision.final:image", f"{s}:text", run, EST, 0.1, 1.0, **made.HOW, before=2.0, run_base=LONG[2]
        )
        for m in ("recoverability", "centroid-gap", "cka")
        for run in LONG
        for s in made.SITES[2:]
    ]
    return Between(tuple(records), LONG, LONG[2])


def weights() -> WeightReport:
    some = [
        WeightRecord(f"model.layers.{i}.self_attn.{m}_proj", "lora", 4, 4, Ranks(1.0, 2.0, 1.0), Size(0.1, i + 0.5), IntruderCount(3.0, 1.0))
        for i in range(3)
        for m in "qkvo"
    ]  # fmt: skip
    return WeightReport(tuple(some), name="lora")


FEW = ("participation-ratio", "overlap")
MANY = ("participation-ratio-clustered", "variance-captured", "overlap", "recoverability", "drift")
DRAWN: dict[str, tuple[Callable[[], Table[Any]], Columns]] = {
    "few": (lambda: contrast(*FEW), "single"),
    "many": (lambda: contrast(*MANY), "double"),
    "measurement": (lambda: Measurement(tuple(r for m in MANY for r in made.measured(m, 2)), LONG[0]), "double"),
    "arms": (arms, "double"),
    "curves": (curves, "single"),
    "between": (between, "double"),
    "weights": (weights, "double"),
    "training": (training, "double"),
}
"""Three panels side by side, two, and one."""


def texts(figure: Figure) -> Iterator[Text]:
    """Everything written in a figure: titles, names and ticks of axes, words in panels, legends and the headline."""
    yield from figure.texts
    yield from (text for box in figure.legends for text in box.get_texts())
    for ax in [*figure.axes, *(scale for panel in figure.axes for scale in panel.child_axes)]:
        yield from (ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts)
        for axis in (ax.xaxis, ax.yaxis):
            yield from (tick.label1 for tick in axis._update_ticks() if tick.label1.get_visible())
            yield from (tick.label2 for tick in axis._update_ticks() if tick.label2.get_visible())


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that share more than a pixel, and texts that leave the figure."""
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure) if text.get_text().strip()]
    found = [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
    inside = figure.bbox.padded(1)
    return found + [
        (text, "the edge")
        for text, box in boxes
        if box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1
    ]


def test_every_kind_of_figure_is_looked_at() -> None:
    assert {type(make()) for make, _ in DRAWN.values()} == set(FIGURES)


@pytest.mark.parametrize("which", DRAWN)
def test_no_text_lies_over_another(which: str) -> None:
    make, columns = DRAWN[which]
    figure = draw(make(), columns=columns)
    assert overlapping(figure) == []
    if which == "many":
        first = figure.axes[1]
        assert "\n" in first.get_title("left"), "or this would be no test"
        first.set_title(first.get_title("left").replace("\n", " "), loc="left")
        assert overlapping(figure), "an overlap is seen"


@pytest.mark.parametrize("function", [profile, similarity])
def test_a_panel_alone_has_room_for_its_title(function: Callable[..., Any]) -> None:
    ax = function(contrast("participation-ratio-clustered"))
    assert overlapping(ax.figure) == []
    assert " ".join(ax.get_title("left").split()) in ("participation-ratio-clustered; bars: change", "CKA, debiased")
