"""The small table says what the records say, in 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rankscope
from rankscope.results.glance import glance, sparkline
from rankscope.results.runs import Contrast
from rankscope.store import import_features

SITES = ("encoder.embed", *(f"encoder.{i}" for i in range(5)), "encoder.final")


def run(where: Path, name: str, strength: float, sites: tuple[str, ...] = SITES) -> rankscope.Run:
    """A run whose last directions fade from site to site."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(120, 16, generator=draw) * torch.arange(1, 17) ** -0.5
    fading = {site: x * torch.arange(1, 17) ** (-strength * i) for i, site in enumerate(sites)}
    torch.save(fading, where / f"{name}-x.pt")
    return import_features(where / f"{name}-x.pt", where / f"{name}.pt", name=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, rankscope.Run]:
    where = tmp_path_factory.mktemp("runs")
    return {name: run(where, name, strength) for name, strength in (("pretrained", 0), ("lora", 0.3), ("ptlora", 0.02))}


@pytest.fixture(scope="module")
def contrast(runs: dict[str, rankscope.Run]) -> Contrast:
    return rankscope.compare(runs["lora"], runs["ptlora"], base=runs["pretrained"])


def test_a_row_a_site_says_what_the_records_say(contrast: Contrast) -> None:
    small = glance(contrast)
    assert small.columns == ("encoder", "PR", "change", "readable", "overlap", "drift", "shown")
    assert [row[0] for row in small.rows] == ["embed", "0", "1", "2", "3", "4", "final"]
    assert small.width <= 80
    at = {r.measure: r for r in contrast.records if r.site == "encoder.4"}
    rank = at["participation-ratio"]
    row = dict(zip(small.columns, small.rows[5], strict=True))
    assert row["PR"] == f"{rank.base:.3g}"
    changes = "/".join(f"{x:+.2f}".replace("-", "−") for x in (rank.a.value, rank.b.value))
    percents = "/".join(f"{100 * x / rank.base:+.0f}".replace("-", "−") for x in (rank.a.value, rank.b.value))
    assert row["change"] == f"{changes} {percents} %"
    assert row["readable"] == "/".join(f"{100 * x.value:.0f}" for x in (at["recoverability"].a, at["recoverability"].b))
    assert row["overlap"] == "/".join(f"{100 * x.value:.0f}" for x in (at["overlap"].a, at["overlap"].b))
    assert row["drift"] == "/".join(f"{x.value:.2f}" for x in (at["drift"].a, at["drift"].b))
    shown = {c.meaning: c.sites for c in contrast.verdict.claims if c.run == "lora"}
    for word, mark in zip(shown, row["shown"].split("/")[0], strict=True):
        assert mark == (word[0].upper() if "encoder.4" in shown[word] else "·")
    assert "R" in row["shown"]
    assert small.below[0] == (
        f"pretrained {'█' * 7}  lora {small.below[0].split()[3]}  ptlora {small.below[0].split()[5]}"
    )


@pytest.mark.parametrize("base", [None, "pretrained"])
def test_arms_have_a_row_a_site_and_bars_on_one_scale(runs: dict[str, rankscope.Run], base: str | None) -> None:
    arms = {name: [runs[name]] for name in ("lora", "ptlora")}
    found = rankscope.compare_arms(arms, base=base and runs[base], measures=["participation-ratio"])
    small, values = glance(found), {(r.arm, r.site): abs(r.value or 0) for r in found.records}
    most = max(values[arm, site] for arm in arms for site in SITES)
    bars = (f"{arm} {sparkline([values[arm, site] for site in SITES], most)}" for arm in arms)
    assert small.below[0] == "  ".join(bars)
    assert "bars: its size along the sites" in small.below[1]
    assert ("whatever its sign" in small.below[1]) == (base is not None)


def test_of_two_runs_alone_the_change_has_its_unit(runs: dict[str, rankscope.Run]) -> None:
    small = glance(rankscope.compare(runs["pretrained"], runs["lora"], sites="encoder.3"))
    assert small.title.startswith("lora against pretrained: pooled, pretrained-x.pt; 120 rows of 16 features")
    assert small.rows[0][2].count(" ") == 2
    assert "/" not in "".join(small.rows[0])


def test_long_names_give_way_before_the_width_does(tmp_path: Path) -> None:
    sites = (*(f"vision_tower.vision_model.encoder.layers.{i}.mlp.output" for i in range(2)), "decoder.0")
    a, b = run(tmp_path, "a", 0.0, sites), run(tmp_path, "b", 0.4, sites)
    small = glance(rankscope.compare(a, b, base=a))
    assert small.width <= 80
    assert small.rows[0][0].startswith("…")
    assert small.rows[0][0] != small.rows[1][0]
    assert small.columns[0] == "site"


def test_what_was_not_asked_for_is_a_dash(runs: dict[str, rankscope.Run]) -> None:
    small = glance(rankscope.compare(runs["pretrained"], runs["lora"], sites="encoder.3", measures=["drift"]))
    assert small.rows[0][1:5] == ("–", "– – %", "–", "–")


def test_a_measurement_has_its_interval_and_other_numbers(runs: dict[str, rankscope.Run]) -> None:
    m = rankscope.measure(runs["lora"])
    small = glance(m)
    assert small.columns == ("encoder", "PR", "of noise", "eff. rank", "stable"), (
        "pt-peft has no number here, and no column"
    )
    first = m.of("participation-ratio")[0]
    assert small.rows[0][1] == f"{first.value:.3g} [{first.low:.3g}, {first.high:.3g}]"
    assert small.width <= 80


@pytest.mark.parametrize(
    ("values", "bars"), [([0, 1, 2, 4], "▁▃▅█"), ([None, 1.0], " █"), ([0, 0], "▁▁"), ([], ""), ([-1, 1], "▁█")]
)
def test_a_sparkline_begins_at_zero(values: list[Any], bars: str) -> None:
    assert sparkline(values) == bars
    assert sparkline([1.0], 2.0) == "▅"
