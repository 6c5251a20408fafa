"""Panels: each drawing function draws its values, intervals and names on the axes that it is given, and once what lies over another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made import SITES, compared, contrast, measured, modules, spectrum
from matplotlib.figure import Figure

from rankscope import plots
from rankscope.errors import UnknownName
from rankscope.plots import cumulative, shares, similarity, spectra
from rankscope.plots.along import Line, along, places, segments
from rankscope.plots.naming import labels
from rankscope.plots.style import grid
from rankscope.results.record import Estimate
from rankscope.results.runs import Contrast, CurvePoint, Curves
from rankscope.results.weights import IntruderCount, Ranks, Size, WeightRecord, WeightReport
from rankscope.sites import Site


def test_a_line_has_its_values_and_intervals_and_breaks_before_a_norm() -> None:
    _, (ax,) = grid(1)
    records = measured("rankme", 2)
    line = Line("lora", *([getattr(r, key) for r in records] for key in ("value", "low", "high")))
    along(SITES, [line], ax, title="rankme")
    drawn = [[tuple(point) for point in mark.lines[0].get_xydata()] for mark in ax.containers]
    assert [[y for _, y in part] for part in drawn] == [[2], [3], [4, 5, 6], [7]]
    assert [x for part in drawn for x, _ in part] == [0, 1, 3, 4, 5, 6]
    bars = [segment for mark in ax.containers for segment in mark.lines[2][0].get_segments()]
    assert [tuple(bar[:, 1]) for bar in bars] == [(r.low, r.high) for r in records]


def test_noise_far_off_is_said_in_words_and_near_noise_is_drawn() -> None:
    for noise, words in ((4.0, []), (400.0, ["noise: 400"])):
        _, (ax,) = grid(1)
        values = [float(i) for i in range(len(SITES))]
        along(SITES, [Line("a", values, values, values)], ax, title="", noise=[noise] * len(SITES))
        assert [text.get_text() for text in ax.texts if text.get_text().startswith("noise")] == words
        assert ("noise" in ax.get_legend_handles_labels()[1]) == (not words)


def test_the_runs_are_not_drawn_over_the_words() -> None:
    _, (ax,) = grid(1)
    values = [float(i) for i in range(len(SITES))]
    along(SITES, [Line("a", values, values, values)], ax, title="", noise=[-31530.0, 4e7] * 3)
    (words,) = (text for text in ax.texts if text.get_text().startswith("noise"))
    assert words.get_text() == "noise: -32,000 to 4e+07"
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    assert words.get_window_extent().y0 > ax.transData.transform((0, max(values)))[1]


def test_many_sites_have_few_labels() -> None:
    deep = [Site.parse(f"decoder.{i}") for i in range(80)]
    _, (ax, other) = grid(2)
    along(deep, [Line("a", [1.0] * 80, [1.0] * 80, [1.0] * 80)], ax, title="")
    similarity(contrast(similarity=torch.eye(80), similarity_sites=tuple(deep)), other)
    for axis in (ax.xaxis, other.xaxis, other.yaxis):
        assert [t.get_text() for t in axis.get_ticklabels()] == [str(i) for i in range(0, 80, 6)]


def test_modules_are_written_by_name_and_those_of_one_list_as_a_stack() -> None:
    blocks = modules("stem", *(f"layers.{i}" for i in range(4)), "head")
    assert [(told.group, told.text) for told in labels(blocks)] == [
        ("", "stem"), ("layers", "0"), ("layers", "1"), ("layers", "2"), ("layers", "3"), ("", "head"),
    ]  # fmt: skip
    assert segments(blocks) == [[0], [1, 2, 3, 4], [5]]
    assert places(blocks) == [0, 2, 3, 4, 5, 7]
    mixed = modules("layers.0", "layers.0.norm", "layers.1", "layers.1.norm")
    assert [(told.group, told.text) for told in labels(mixed)] == [("", site.stack) for site in mixed]
    assert segments(mixed) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("points", [("0", "1"), ("embed", "0", "final")])
def test_names_on_the_map_do_not_lie_over_each_other(points: tuple[str, ...]) -> None:
    _, (ax,) = grid(1)
    sites = [Site("decoder", point) for point in points]
    similarity(contrast(similarity=torch.eye(len(sites)), similarity_sites=tuple(sites)), ax)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    below, beside = (text.get_window_extent() for text in ax.texts)
    assert ax.xaxis.label.get_window_extent().y1 <= below.y0
    assert ax.yaxis.label.get_window_extent().x1 <= beside.x0


def test_values_that_are_all_but_equal_are_written_short() -> None:
    _, (ax,) = grid(1)
    values = [1.0, 1 - 1e-12, 1.0, 1.0, 1.0, 1.0]
    along(SITES, [Line("a", values, values, values)], ax, title="")
    assert ax.get_ylim() == pytest.approx((0.95, 1.05))
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    assert not ax.yaxis.get_offset_text().get_text()


def test_the_cumulative_curve_is_the_spectrums_own() -> None:
    _, (ax,) = grid(1)
    cumulative(contrast(spectra={"a": {SITES[-1]: spectrum(SITES[-1], [6.0, 3.0, 1.0])}}), ax)
    x, y = ax.lines[0].get_data()
    assert list(x) == pytest.approx([100 / 3, 200 / 3, 100])
    assert list(y) == pytest.approx([0.6, 0.9, 1.0])


def test_values_that_rounding_can_make_are_shaded_and_left_out() -> None:
    _, (ax,) = grid(1)
    spectra(contrast(spectra={"a": {SITES[-1]: spectrum(SITES[-1], [4.0, 2.0, 1e-9], norm=100.0)}}), ax)
    assert list(ax.lines[0].get_ydata()) == [1.0, 0.5]
    assert len(ax.patches) == 1


def test_the_map_keeps_its_scale() -> None:
    _, (ax,) = grid(1)
    similarity(contrast(similarity=torch.full((6, 6), 0.5)), ax)
    assert ax.images[0].get_clim() == (0, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("b", "pre-trained")
    assert [t.get_text() for t in ax.texts] == ["vision", "vision", "decoder", "decoder"]
    assert len(ax.lines) == 2


def equal(*, base: float | None = None, value: float = 2.0) -> Contrast:
    """Two runs and a base that are the same everywhere."""
    same = Estimate(0.0, 0.0, 0.0)
    records = [replace(r, a=same, b=same, base=value, noise=9.0) for r in compared("participation-ratio", base=base)]
    return contrast(records=tuple(records))


def test_lines_that_lie_over_each_other_are_drawn_once() -> None:
    for ax in (plots.profile(equal(), measure="participation-ratio"), spectra(equal())):
        drawn = [name for name in ax.get_legend_handles_labels()[1] if name != "noise"]
        assert len(drawn) == 1
        assert set(drawn[0].split(" = ")) == {"a", "b", "pre-trained"}
    sites = ["decoder.0", "decoder.1", "decoder.2"]
    points = [
        CurvePoint(site, "rankme", 40 // n, n, float(i), 0.5, 1.5, noise=4.0, limit=None, d=6, convention="", unit="")
        for i, site in enumerate(sites)
        for n in (20, 40)
    ]
    ax = plots.curve(Curves(tuple(points)))
    assert sum(list(line.get_ydata()) == [4.0, 4.0] for line in ax.lines) == 1


def test_the_runs_stand_beside_the_base_with_their_largest_change_in_per_cent() -> None:
    nothing = Estimate(0.1, -1.0, 1.0)
    records = [
        replace(r, a=nothing, b=Estimate(-i, -i - 0.2, -i + 0.2), base=10.0 + i, percent_a=nothing, percent_b=share)
        for i, r in enumerate(compared("participation-ratio"))
        for share in [Estimate(-i / (10 + i), -i / (10 + i) - 0.02, -i / (10 + i) + 0.02)]
    ]
    ax = plots.profile(contrast(records=tuple(records)))
    level = next(line for line in ax.lines if line.get_label() == "pre-trained")
    assert list(level.get_ydata()) == [10.0]
    assert [text.get_text() for text in ax.texts if "%" in text.get_text()] == ["−33 %"]


def test_shares_are_in_per_cent_and_their_axis_ends_at_nothing_and_all() -> None:
    records = [
        replace(r, measure=name, a=Estimate(0.5, -3.0, 0.6), b=Estimate(0.9, 0.8, 1.0))
        for name in ("overlap", "recoverability")
        for r in compared(name)
    ]
    ax = shares(contrast(records=tuple(records)))
    assert ax.get_ylim() == pytest.approx((-0.05, 1.05))
    assert {text.get_text()[-2:] for text in ax.get_yticklabels()} == {" %"}
    assert ax.get_legend_handles_labels()[1] == ["a", "b"], "the hollow lines are told by the title"


DRAWING = {"cumulative", "curve", "profile", "shares", "similarity", "spectra", "weights"}


def test_every_drawing_function_takes_a_result_axes_and_a_style_and_returns_the_axes() -> None:
    assert set(plots.__all__) == DRAWING | {"draw", "html", "save"}
    report = WeightReport(
        (WeightRecord("layers.0.q", "lora", 4, 4, Ranks(1.0, 1.0, 1.0), relative=Size(0.1, 0.2)),), name="lora"
    )
    point = CurvePoint("decoder.0", "rankme", 1, 8, 1.0, 0.5, 1.5, 4.0, 2.0, d=6, convention="", unit="")
    shown = {"curve": Curves((point,)), "weights": report}
    both = (*compared("overlap"), *compared("recoverability"))
    for name in sorted(DRAWING):
        function, result = getattr(plots, name), shown.get(name, contrast(records=both))
        style = {"alpha": 0.5} if name in ("similarity", "weights") else {"linewidth": 3.5}
        _, (ax,) = grid(1)
        assert function(result, ax, **style) is ax
        marks = ax.images if ax.images else ax.lines
        assert any(mark.get_alpha() == 0.5 or getattr(mark, "get_linewidth", float)() == 3.5 for mark in marks), name
        assert function(result).figure.get_figwidth() == 3.25


def test_the_weights_are_drawn_by_layer_and_module() -> None:
    records = [
        WeightRecord(
            f"model.layers.{i}.{name}", "lora", 4, 4, Ranks(1.0, 2.0, 1.0), Size(0.1, i + 0.5 * j),
            IntruderCount(3.0, 1.0),
        )
        for i in (0, 10, 2) for j, name in enumerate(("q_proj", "mlp.up"))
    ]  # fmt: skip
    ax = plots.weights(WeightReport(tuple(records), name="lora"))
    assert ax.images[0].get_array().tolist() == [[0, 0.5], [2, 2.5], [10, 10.5]]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "2", "10"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["q_proj", "mlp.up"]
    beyond = plots.weights(WeightReport(tuple(records), name="lora"), quantity="intruders")
    assert set(beyond.images[0].get_array().ravel().tolist()) == {2.0}
    told = [replace(r, on_data_share=Estimate(r.m + r.relative.size)) for r in records]
    share = plots.weights(WeightReport(tuple(told), name="lora"), quantity="output")
    assert share.images[0].get_array().tolist() == [[4, 4.5], [6, 6.5], [14, 14.5]]
    with pytest.raises(UnknownName, match="size, effective, intruders"):
        plots.weights(WeightReport(tuple(records)), quantity="mass")
