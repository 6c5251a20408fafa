"""Figures: what they draw is what the result says, every run is named once, and the same figure is the same file."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from made import SITES, compared, contrast, measured, modules, spectrum
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from rankscope import plots
from rankscope.errors import UnknownName, UsageError
from rankscope.plots import save, spectra
from rankscope.plots.style import grid, legend, look, styled
from rankscope.registry import DEFINITIONS
from rankscope.results.record import Estimate, Span
from rankscope.results.runs import CurvePoint, Curves, Measurement
from rankscope.results.weight_glance import glance_at_weights
from rankscope.results.weights import Ranks, Size, WeightRecord, WeightReport


def names_of(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def titles(figure: Figure) -> list[str]:
    return [ax.get_title("left").replace("\n", " ") for ax in figure.axes if ax.get_title("left")]


def test_the_runs_of_a_contrast_are_drawn_as_they_were_compared() -> None:
    figure = contrast().plot()
    assert titles(figure) == [
        "decoder.final  (n=40, d=3)",
        "participation-ratio; bars: change",
        "overlap, against pre-trained",
        "drift, against pre-trained",
        "CKA, debiased",
    ]
    assert names_of(figure)[:2] == ["a", "b"]
    assert set(names_of(figure)) == {"a", "b", "noise", "pre-trained", "a = b = pre-trained"}


@pytest.mark.parametrize("left_out", ["similarity", "base", "both"])
def test_a_contrast_draws_what_there_is(left_out: str) -> None:
    changes: dict[str, Any] = {}
    if left_out != "base":
        changes["similarity"] = None
    if left_out != "similarity":
        changes["names"] = ("a", "b")
    figure = contrast(**changes).plot()
    assert ("CKA, debiased" in titles(figure)) == (left_out == "base")
    assert any("against" in title for title in titles(figure)) == (left_out == "similarity")


def test_few_measures_are_all_drawn_and_of_many_a_rank_and_the_shares() -> None:
    names = ("gap", "cka", "rankme", "stable-rank")
    own = [record for name in names for record in compared(name)]
    assert titles(contrast(records=tuple(own)).plot())[1:-1] == [f"{name}, against pre-trained" for name in names]
    many = ("participation-ratio", "overlap", "recoverability", "drift", "roy-vetterli", *names)
    drawn = titles(contrast(records=tuple(r for name in many for r in compared(name))).plot())[1:-1]
    # The rows come from few samples, for which the plain participation ratio is not the rank that counts.
    assert drawn == ["roy-vetterli, against pre-trained", "overlap (filled) and recoverability (hollow)"]


def test_a_relation_looks_like_neither_run() -> None:
    relation = [replace(r, a=Estimate(), b=Estimate()) for r in compared("overlap")]
    figure = contrast(records=(*compared("rankme"), *relation), names=("a", "b"), similarity=None).plot()
    colours = {
        name: mark.lines[0].get_color()
        for ax in figure.axes
        for mark, name in zip(*ax.get_legend_handles_labels(), strict=True)
        if isinstance(mark, ErrorbarContainer)
    }
    assert set(colours) == {"a", "b", "a → b"}
    assert len(set(colours.values())) == 3


def test_a_measurement_is_one_panel_a_measure() -> None:
    figure = Measurement(
        (*measured("rankme", 2), *measured("stable-rank", 1), *measured("energy-90", 0)), "lora"
    ).plot()
    assert titles(figure) == ["rankme", "stable-rank", "energy-90"]
    assert names_of(figure) == ["lora", "noise"]


def test_the_figure_of_many_modules_has_the_spectra_of_few_and_room_for_all_names() -> None:
    sites = modules(*(f"{part}.{i}.fc" for i in range(30) for part in ("up", "down")))
    alone = [replace(r, a=Estimate(), b=Estimate()) for r in compared("overlap")]
    records = [replace(r, site=str(site)) for site, r in zip(sites, alone * 10, strict=True)]
    told = {"spectra": {"a": {site: spectrum(site, [3.0, 2.0, 1.0]) for site in sites}}, "names": ("a", "b")}
    told |= {"similarity": torch.eye(60), "similarity_sites": tuple(sites)}
    figure = contrast(records=tuple(records), **told).plot()
    assert titles(figure) == ["down.29.fc  (n=40, d=3)", "overlap", "CKA, debiased"]
    figure.draw_without_rendering()
    assert all(ax.get_position().width > 0.1 for ax in figure.axes)


def test_a_legend_of_many_names_stays_within_the_figure() -> None:
    with styled():
        figure, (ax, _) = grid(2)
        for i in range(9):
            ax.plot([0, 1], [i, i], label=f"decoder.layers.{i}")
        legend(figure)
        figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert len(figure.legends[0].get_texts()) == 9


def test_of_many_curves_the_last_of_every_stack_is_drawn() -> None:
    sites = [f"{stack}.{i}" for stack in ("vision", "decoder") for i in range(6)]
    points = [
        CurvePoint(site, "rankme", 40 // n, n, 1.0, 0.5, 1.5, noise=4.0, limit=2.0, d=6, convention="", unit="")
        for site in sites
        for n in (20, 40)
    ]
    assert names_of(Curves(tuple(points)).plot()) == ["vision.5", "decoder.5", "noise"]
    few = tuple(p for p in points if p.site in sites[:3])
    assert names_of(Curves(few).plot()) == [*sites[:3], "noise"]


def test_a_figure_repeats_byte_for_byte_and_leaves_no_settings_behind(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    small, large = Measurement(tuple(measured("rankme", 2)), "lora"), contrast()
    once, again = (
        (*save(small.plot(), tmp_path / name / "f"), *save(large.plot(), tmp_path / name / "g", kinds=["svg"]))
        for name in ("one", "other")
    )
    assert [path.name for path in once] == ["f.svg", "f.pdf", "f.png", "g.svg"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(once, again, strict=True))
    assert dict(mpl.rcParams) == before


def test_looks_differ_in_more_than_colour() -> None:
    drawn = [look(i) for i in range(8)]
    for key in ("color", "marker"):
        assert len({style[key] for style in drawn}) == 8
    assert look(-1)["color"] == "black"


def test_nothing_empty_is_drawn() -> None:
    gone = {"similarity": None, "spectra": {}}
    nowhere = [replace(r, estimate=Estimate(), a=Estimate(), b=Estimate()) for r in compared("rankme")]
    zero = {"a": {SITES[-1]: spectrum(SITES[-1], [0.0, 0.0, 0.0])}}
    mixed = contrast(records=(*nowhere, *compared("overlap")), **gone | {"spectra": zero})
    assert titles(mixed.plot()) == ["overlap, against pre-trained"]
    for nothing in (contrast(records=tuple(nowhere), **gone), Measurement((), "a"), WeightReport(())):
        with pytest.raises(UsageError, match="there is nothing to draw"):
            nothing.plot()
    with pytest.raises(UsageError, match="there is nothing to draw"):
        spectra(contrast(spectra=zero))
    with pytest.raises(UnknownName, match=r"no spectrum at decoder.9; there are spectra at vision.0, vision.final"):
        spectra(contrast(), site="decoder.9")


def test_a_figure_is_as_wide_as_a_column_of_a_paper_and_its_colour_bar_lies_in_a_panel() -> None:
    for columns, width in (("single", 3.25), ("double", 6.75)):
        figure = plots.draw(contrast(), columns=columns)  # type: ignore[arg-type]
        assert figure.get_figwidth() == width
        assert len(figure.axes) == len(titles(figure))
    assert plots.draw(contrast()).get_figheight() < 6.75, "a landscape"


def test_a_result_shows_itself_in_a_notebook_and_is_short_in_a_terminal() -> None:
    fell, half = Estimate(-5.0, -6.0, -4.0), Estimate(-0.5, -0.6, -0.4)
    records = [
        replace(r, base=10.0, a=fell, b=fell, percent_a=half, percent_b=half, band_a=Span(-6.0, -4.0))
        for r in compared("participation-ratio-clustered")
    ]
    result = contrast(records=(*records, *compared("overlap")), names=("<b>a</b>", "b", "pre-trained"))
    shown = result._repr_html_()
    assert "&lt;b&gt;a&lt;/b&gt;" in shown
    assert "<b>a</b>" not in shown
    assert "−50/−50 %" in shown
    for one in result.verdict.briefs:
        assert escape(one.lead) in shown
        assert all(escape(f"{meaning}: {text}") in shown for meaning, text in one.lines.items())
    headline = result.plot().get_suptitle()
    assert " ".join(headline.split()) == result.verdict.headline
    assert "reshaped" in headline
    assert shown.count("<img ") == 1
    assert "data:image/png;base64," in shown
    assert shown.count("<tr>") == 1 + len(SITES)
    for other in (Measurement(tuple(measured("rankme", 2)), "lora"), Measurement((), "lora"), WeightReport(())):
        assert "<table" in other._repr_html_()
        assert len(repr(other)) < 90
    assert repr(result) == "<Contrast: 6 sites, 2 measures; to_frame(), plot()>"
    rank = DEFINITIONS["stable-rank"]
    assert repr(rank).startswith("<Definition stable-rank: ")
    assert escape(rank.citation) in rank._repr_html_()


def test_a_notebook_has_the_table_of_weights_that_the_command_prints() -> None:
    record = WeightRecord("layers.0.q", "lora", 4, 4, Ranks(1.0, 2.5, 1.0), relative=Size(0.1, 0.2))
    report = WeightReport((record,), name="lora")
    small = glance_at_weights(report)
    assert (small.columns, small.rows) == (("module", "effective", "size"), (("layers.0.q", "2.5", "0.2"),))
    for said in (small.title, *small.columns, *small.rows[0], *small.below):
        assert f">{escape(said)}</" in report._repr_html_()
