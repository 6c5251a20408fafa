"""The verdict against planted truths: each says what was planted, and nothing that was not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rankscope
from rankscope.results.claims import Account, Claim
from rankscope.results.judging import SMALL
from rankscope.results.runs import Contrast
from rankscope.selftest.planted import plant
from rankscope.store import import_features

MEASURES = ["participation-ratio", "overlap", "variance-captured", "recoverability", "drift"]
PLANTED: dict[str, tuple[str, str]] = {
    "identical": ("preserved", ""),
    "random rotation": ("turned and drifted", ""),
    "invertible reshape": ("reshaped and drifted", ""),
    "whitened": ("reshaped and drifted", "turned"),
    "top-16 collapse": ("collapsed at decoder (0) and drifted", ""),
    "rank-1 collapse": ("collapsed at decoder (0) and drifted", "turned"),
    "independent noise added": ("lost and drifted", "reshaped"),
    "independent features": ("lost and drifted", "reshaped"),
    "mean shift": ("drifted", ""),
}
"""Scenario → the words of its verdict, and what 320 rows leave open."""

Make = Callable[..., rankscope.Run]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A run whose features are given."""

    def made(name: str, **features: torch.Tensor) -> rankscope.Run:
        where = tmp_path_factory.mktemp("runs")
        torch.save({f"decoder.{site[1:]}": x.float() for site, x in features.items()}, where / "x.pt")
        return import_features(where / "x.pt", where / "run.pt", name=name)

    return made


def compared(make: Make, scenario: str, rows: int = 320, **options: Any) -> Contrast:
    """The base and the tuned run of a scenario."""
    x, y = plant(scenario, rows=rows, width=32)
    base, tuned = make("base", _0=x), make("tuned", _0=y)
    return rankscope.compare(base, tuned, **{"measures": MEASURES, **options})


def of(found: Account, meaning: str, run: str = "tuned") -> Claim:
    return next(one for one in found.claims if (one.meaning, one.run) == (meaning, run))


@pytest.mark.parametrize("scenario", PLANTED)
def test_what_was_planted_is_what_is_said(make: Make, scenario: str) -> None:
    found = compared(make, scenario).verdict
    words, left = PLANTED[scenario]
    assert found.headline == f"tuned against base: {words}" + (f" ({left} open)" if left else "")
    assert [one.meaning for one in found.claims] == ["reshaped", "turned", "lost", "drifted"]
    assert all(text.endswith(".") and "\n" not in text for text in found.sentences)
    assert found.sentences[-1] == "Each run is one training, so seed noise is unknown."
    said = " ".join((found.headline, *found.sentences))
    assert not re.search(r"worse|better|degrad|damag|healthy", said), "lower is not worse"
    for one in found.claims:
        assert (one.state == "shown") == bool(one.sites)
        assert (one.state == "open") == bool(one.why)
        assert not one.seeds_known


LEADS = {
    "identical": r"preserved: all four within 1 % everywhere \(1 site\)",
    "random rotation": r"turned at decoder\.0, [\d.]+ % of the leading directions shared; also drifted",
    "invertible reshape": r"reshaped at decoder\.0, participation ratio [\d.]+ → [\d.]+ \(−\d+ %\); also drifted",
    "top-16 collapse": r"collapsed at decoder\.0, participation ratio [\d.]+ → [\d.]+ \(−\d+ %\) and \d+ % of base's principal "
    r"scores readable; also drifted",
    "independent features": r"lost at decoder\.0, nothing of base's principal scores readable \(R² −[\d.]+\); also drifted; "
    r"reshaped open",
    "mean shift": r"drifted at decoder\.0, moved by [\d.]+ times base's variance",
}
"""Scenario → how the verdict begins."""


@pytest.mark.parametrize("scenario", LEADS)
def test_what_tells_most_comes_first_with_its_numbers(make: Make, scenario: str) -> None:
    found = compared(make, scenario).verdict
    (one,) = found.briefs
    assert re.fullmatch(rf"tuned against base: {LEADS[scenario]}\.", one.lead), one.lead
    assert list(one.lines) == ["reshaped", "turned", "lost", "drifted"]
    assert all(len(text) <= 88 for text in one.lines.values() if not text.startswith("open"))
    for claim in found.claims:
        begins = {"kept": "no, within", "open": f"open, because {claim.why}; ", "shown": ""}[claim.state]
        assert one.lines[claim.meaning].startswith(begins)
        if claim.state == "shown":
            assert one.lines[claim.meaning].endswith(f"at {claim.site}; {len(claim.sites)} of 1 site")
    assert found.proviso == found.sentences[-1]


def test_a_collapse_is_told_with_the_numbers_of_one_site(make: Make) -> None:
    """The rank falls most at one site, and most is lost at another, where it falls by enough."""
    x, y = plant("top-16 collapse", rows=320, width=32)
    reshaped = plant("invertible reshape", rows=320, width=32)[1]
    runs = make("base", _0=x, _1=x), make("tuned", _0=y, _1=reshaped)
    c = rankscope.compare(*runs, measures=MEASURES)
    assert of(c.verdict, "reshaped").site == "decoder.1", "or both would be quoted of one site anyway"
    (one,) = c.verdict.briefs
    before, after = (
        getattr(next(r for r in c.of("participation-ratio") if r.site == "decoder.0"), x).value for x in "ab"
    )
    assert one.lead.startswith(
        f"tuned against base: collapsed at decoder.0, participation ratio {before:.3g} → {after:.3g} ("
    )


def test_of_two_runs_the_difference_has_a_lead_of_its_own(make: Make) -> None:
    x, y = plant("top-16 collapse", rows=320, width=32)
    base, same, tuned = make("base", _0=x), make("same", _0=x), make("tuned", _0=y)
    briefs = rankscope.compare(same, tuned, base=base, measures=MEASURES).verdict.briefs
    assert [one.lead.partition(":")[0] for one in briefs] == [
        "same against base",
        "tuned against base",
        "tuned against same",
    ]
    assert briefs[2].lines["lost"].startswith("100 % → ")
    briefs = rankscope.compare(tuned, tuned, base=base, measures=MEASURES).verdict.briefs
    assert briefs[2].lead.endswith(": no difference shown.")
    assert briefs[2].lines == {}


def test_a_sentence_quotes_the_record_of_the_largest_site(make: Make) -> None:
    x, y = plant("top-16 collapse", rows=320, width=32)
    less = 0.6 * y + 0.4 * x
    c = rankscope.compare(make("base", _0=x, _1=x), make("lora", _0=less, _1=y), measures=MEASURES)
    record = next(r for r in c.of("participation-ratio") if r.site == "decoder.1")
    found = of(c.verdict, "reshaped", "lora")
    assert (found.site, found.sites, found.looked_at) == ("decoder.1", ("decoder.0", "decoder.1"), 2)
    assert (found.before, found.value) == (record.a.value, pytest.approx(record.b.value))
    assert found.fell == found.sites
    assert (found.noise, found.itself) == (record.noise, record.itself)
    share = record.b.value / record.a.value - 1
    assert found.percent.value == pytest.approx(share)
    expected = (
        f"lora, reshaped: at decoder.1 the participation ratio falls from base's {record.a.value:.3g} to "
        f"{record.b.value:.3g} (−{-100 * share:.0f} % [−"
    )
    assert found.sentence.startswith(expected)
    assert found.sentence.endswith("; beyond row noise at 2 of 2 sites.")
    lost = of(c.verdict, "lost", "lora").sentence
    assert re.search(
        r"lost: at decoder\.1 \d+ % \[\d+, \d+\] of the variance of base's principal scores can still be read \(itself 100 %, unr",
        lost,
    )


def test_the_interval_of_a_percentage_is_that_of_the_logarithm_of_the_ratio(make: Make) -> None:
    (r,) = compared(make, "invertible reshape", measures=["participation-ratio"]).records
    low, value, high = (1 + x for x in (r.percent.low, r.percent.value, r.percent.high))
    assert low * high == pytest.approx(value**2)
    # What the jackknife of the ratio itself gives is as wide, to first order
    x, y = plant("invertible reshape", rows=320, width=32)
    rank = rankscope.DEFINITIONS["participation-ratio"]
    ratios = []
    for group in range(20):
        keep = torch.arange(320) * 20 // 320 != group
        a, b = (float(_unbiased(z[keep])) for z in (x, y))
        ratios.append(math.log(b / a))
    spread = torch.tensor(ratios, dtype=torch.float64)
    se = float((19 / 20 * (spread - spread.mean()).square().sum()).sqrt())
    assert math.log(high / low) / 2 == pytest.approx(2.09 * se, rel=0.35)
    assert rank.scale == "log"
    assert compared(make, "invertible reshape", measures=["overlap"]).records[0].percent.value is None


def _unbiased(x: torch.Tensor) -> torch.Tensor:
    """The participation ratio without bias, from products of different rows of centred features (all pairs)."""
    n = len(x)
    g = (x - x.mean(0)) @ (x - x.mean(0)).mT
    t1, t2, q = g.trace() / (n - 1), g.square().sum() / (n - 1) ** 2, g.diagonal().square().sum() / (n - 1)
    above = 2 * t2 + (n**2 - 3 * n + 1) * t1**2 - n * q
    below = (n - 1) * (n - 2) * t2 + t1**2 - n * q
    return above / below


def test_few_rows_show_that_information_was_kept_and_never_that_it_was_lost(make: Make) -> None:
    found = of(compared(make, "independent noise added", rows=100).verdict, "lost")
    assert (found.state, found.sites) == ("open", ())
    assert found.why == "100 rows of 100 samples are too few for 32 features"
    assert "lost: open, because 100 rows of 100 samples are too few for 32 features; at decoder.0" in found.sentence
    assert of(compared(make, "random rotation", rows=100).verdict, "lost").state == "kept"


@pytest.mark.parametrize(("within", "state"), [(0.1, "open"), (3.0, "shown")])
def test_rows_of_few_samples_do_not_show_a_loss_by_their_number(make: Make, within: float, state: str) -> None:
    """Thirty samples of twelve rows each are alike within, or are not; of the first four fifths can be read, given enough of them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def rows() -> torch.Tensor:
        return draw(30, 1, 32) + within * draw(30, 12, 32)

    x = rows()
    base, tuned = make("base", _0=x), make("tuned", _0=x + rows() / 2)
    contrast = rankscope.compare(base, tuned, measures=["recoverability", "drift"])
    found = of(contrast.verdict, "lost")
    assert found.state == state
    assert any("give more samples" in note for note in contrast.records[0].notes) == (state == "open")


def test_too_few_samples_for_a_band_leave_everything_open(make: Make) -> None:
    found = compared(make, "top-16 collapse", rows=60, groups=4, interval="jackknife").verdict
    assert {one.state for one in found.claims} == {"open"}
    assert found.headline == "tuned against base: no change shown (reshaped, turned, lost and drifted open)"
    assert "samples are too few for a band over all sites" in found.sentences[0]


def test_a_rank_alone_is_neither_lost_nor_collapsed(make: Make) -> None:
    found = compared(make, "top-16 collapse", measures=["participation-ratio"]).verdict
    assert found.headline == "tuned against base: reshaped"
    found = compared(make, "identical", measures=["participation-ratio"]).verdict
    assert found.headline == "tuned against base: no change shown", "one of four kept is not preserved"
    found = compared(make, "identical", measures=["cka"]).verdict
    assert (found.headline, found.claims) == ("no verdict", ())
    assert "it rests on participation-ratio, overlap, variance-captured, recoverability, drift" in found.sentences[0]


def test_a_few_per_cent_are_reshaped_and_lost_but_no_collapse(make: Make) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 32, generator=g) * torch.arange(1, 33) ** -0.5
    y = x.clone()
    y[:, 28:] = 0  # 3 % of the variance, and 6 % of the participation ratio
    found = rankscope.compare(make("base", _0=x), make("tuned", _0=y), measures=MEASURES).verdict
    assert of(found, "reshaped").fell
    assert of(found, "lost").sites
    assert not of(found, "lost").much
    assert found.headline == "tuned against base: reshaped, lost and drifted"


def test_turning_needs_two_witnesses(make: Make) -> None:
    """Half of the leading directions are gone, and the rest is arbitrary: they overlap less, and nothing has turned."""
    x, _ = plant("identical", rows=320, width=32)
    _, _, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    two = (x @ v.mT * (torch.arange(32) < 2)) @ v
    c = rankscope.compare(make("base", _0=x), make("tuned", _0=two), measures=MEASURES)
    overlap, captured = (c.of(name)[0] for name in ("overlap", "variance-captured"))
    assert overlap.value < overlap.itself - 0.1
    assert captured.value > captured.itself
    assert of(c.verdict, "turned").state == "kept"
    assert of(c.verdict, "lost").state == "shown"


def test_with_a_base_both_runs_and_their_difference_are_judged(make: Make) -> None:
    x, collapsed = plant("top-16 collapse", rows=320, width=32)
    _, turned = plant("random rotation", rows=320, width=32)
    runs = make("lora", _0=collapsed), make("ptlora", _0=turned)
    found = rankscope.compare(*runs, base=make("base", _0=x), measures=MEASURES).verdict
    assert found.headline == (
        "lora against base: collapsed at decoder (0) and drifted; ptlora against base: turned and drifted"
    )
    assert [one.against for one in found.claims] == [*["base"] * 8, *["lora"] * 4]
    lost = next(one for one in found.claims if (one.meaning, one.against) == ("lost", "lora"))
    assert lost.change.value == pytest.approx(lost.value - lost.before)
    assert re.search(r"can still be read, and \d+ % in lora \(\+\d+ points \[\+\d+, \+\d+\]\)", lost.sentence)
    first = of(found, "lost", "lora").sentence
    assert "unrelated rows of ptlora " in first, "the shuffled rows are those of the second run, and it says so"


def test_bands_of_both_runs_hold_over_all_sites(make: Make) -> None:
    x, y = plant("invertible reshape", rows=320, width=32)
    sites = {f"_{i}": x @ torch.diag(torch.linspace(1, 1 + i / 9, 32).double()) for i in range(8)}
    moved = {site: value + 0.3 * y for site, value in sites.items()}
    c = rankscope.compare(make("a", **moved), make("b", **sites), base=make("base", **sites), measures=MEASURES[:1])
    for r in c.records:
        assert r.band_a.low <= r.a.low <= r.a.high <= r.band_a.high
        assert (r.band_b.low, r.band_b.high) == (0, 0)
    assert sum(r.band_a.high - r.band_a.low for r in c.records) > 1.05 * sum(r.a.high - r.a.low for r in c.records)


def test_a_base_read_again_sets_what_counts_as_none(make: Make) -> None:
    x, _ = plant("identical", rows=320, width=32)
    draw = torch.Generator().manual_seed(3)
    rough = x + 0.1 * torch.randn(x.shape, generator=draw, dtype=x.dtype)
    tuned = x + 0.08 * torch.randn(x.shape, generator=draw, dtype=x.dtype)
    runs = make("base", _0=x), make("tuned", _0=tuned)
    drifted = of(rankscope.compare(*runs, measures=MEASURES).verdict, "drifted")
    assert (drifted.state, drifted.value > SMALL) == ("shown", True)
    again = of(rankscope.compare(*runs, measures=MEASURES, again=make("again", _0=rough)).verdict, "drifted")
    assert again.state == "kept"
    assert "itself read again 0.0" in again.sentence


def test_one_run_has_a_sentence_and_no_verdict(make: Make) -> None:
    x, y = plant("top-16 collapse", rows=100, width=32)
    m = rankscope.measure(make("lora", _0=x, _1=y), ["participation-ratio"])
    least, most = m.of("participation-ratio")[1], m.of("participation-ratio")[0]
    first, last = m.verdict.sentences
    assert first.startswith(f"lora: the participation ratio ranges from {least.value:.3g} [{least.low:.3g}, ")
    assert f"] at decoder.1 to {most.value:.3g} [" in first
    assert "(100 rows of 32 features; at decoder.1 Gaussian noise scores" in first
    assert last.startswith("One run has no verdict")
    few = rankscope.measure(make("lora", _0=x), ["roy-vetterli"]).verdict.sentences[0]
    assert "at 1 of 1 site rows are too few, so that it also measures their number" in few


def test_json_begins_with_the_verdict(make: Make, tmp_path: Path) -> None:
    c = compared(make, "mean shift")
    told = json.loads(json.dumps(c.to_json(), allow_nan=False))
    assert list(told) == ["verdict", "notes", "records"]
    assert told["verdict"]["headline"] == c.verdict.headline
    assert told["verdict"]["claims"][3]["change"]["value"] == c.of("drift")[0].value
    assert told["records"] == json.loads(json.dumps(c.to_records()))


def test_arms_say_their_verdicts_in_sentences(make: Make) -> None:
    x, _ = plant("identical", rows=120, width=32)
    draw = torch.Generator().manual_seed(1)

    def trained(name: str, keep: int) -> rankscope.Run:
        mixed = torch.eye(32, dtype=x.dtype) + 0.01 * torch.randn(32, 32, generator=draw, dtype=x.dtype)
        return make(name, _0=x @ torch.diag((torch.arange(32) < keep).double()) @ mixed)

    arms = {"all": [trained(f"a{s}", 32) for s in range(3)], "few": [trained(f"b{s}", 4) for s in range(3)]}
    c = rankscope.compare_arms(arms, base=make("base", _0=x), measures=["drift"], groups=12)
    assert "few (3 trainings) against base: collapsed at decoder (0) (at decoder.0: PR fell" in c.verdict.sentences[1]
    assert c.verdict.headline.endswith("; few: collapsed")
    assert rankscope.compare_arms(arms, measures=["participation-ratio"]).verdict.headline == "no verdict"
