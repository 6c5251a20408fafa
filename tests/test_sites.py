from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from rankscope.errors import RankscopeError, UnknownName, UsageError
from rankscope.sites import Site, check_selection, describe, points, select

AVAILABLE = tuple(Site(stack, point) for stack in ("vision", "decoder") for point in points(6))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("decoder.0,decoder.3-5,final", "vision.final decoder.0 decoder.3 decoder.4 decoder.5 decoder.final"),
        ("decoder.final,decoder.0", "decoder.0 decoder.final"),
        ("0,5,-1", "vision.0 vision.5 decoder.0 decoder.5"),
        ("0:6:2", "vision.0 vision.2 vision.4 decoder.0 decoder.2 decoder.4"),
        ("decoder.-2:", "decoder.4 decoder.5"),
        ("vision.*", "vision.embed vision.0 vision.1 vision.2 vision.3 vision.4 vision.5 vision.final"),
        ("*.embed", "vision.embed decoder.embed"),
        ("decoder", "decoder.embed decoder.0 decoder.1 decoder.2 decoder.3 decoder.4 decoder.5 decoder.final"),
        ("last", "vision.5 decoder.5"),
        ("decoder.3,decoder.3", "decoder.3"),
        ("vision (embed, 0-1), decoder (final)", "vision.embed vision.0 vision.1 decoder.final"),
    ],
)
def test_a_specification_names_sites_in_the_networks_order(spec: str, expected: str) -> None:
    assert " ".join(map(str, select(spec, AVAILABLE))) == expected


@given(st.sets(st.sampled_from(AVAILABLE), min_size=1))
def test_what_is_printed_of_sites_can_be_typed(sites: set[Site]) -> None:
    chosen = tuple(site for site in AVAILABLE if site in sites)
    assert select(describe(chosen), AVAILABLE) == chosen
    check_selection(describe(chosen))


def test_all_names_every_site_and_a_sequence_works_as_a_list() -> None:
    assert select("all", AVAILABLE) == AVAILABLE
    assert select([Site("decoder", "3"), "vision.0"], AVAILABLE) == (Site("vision", "0"), Site("decoder", "3"))


@pytest.mark.parametrize("spec", ["decoder.9", "decoder.4-9", "nowhere", "6:", "-7", "", "decoder.6:"])
def test_an_unknown_site_is_refused_with_those_there_are(spec: str) -> None:
    with pytest.raises(UnknownName, match=r"there are vision \(embed, 0-5, final\), decoder \(embed, 0-5, final\)"):
        select(spec, AVAILABLE)


def test_a_slice_by_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot step by 0"):
        select("0:6:0", AVAILABLE)


@pytest.mark.parametrize("text", ["decoder", "", ".3", "a b.3", "../x.3"])
def test_a_site_is_spelled_stack_dot_point(text: str) -> None:
    with pytest.raises(UsageError, match=r"stack\.point"):
        Site.parse(text)


@given(st.sampled_from(AVAILABLE))
def test_a_site_parses_from_its_own_spelling(site: Site) -> None:
    assert Site.parse(str(site)) == site


@given(st.text(alphabet="decovisn.0123-:*, ", max_size=12))
def test_no_specification_fails_without_a_name(spec: str) -> None:
    with contextlib.suppress(RankscopeError):
        assert set(select(spec, AVAILABLE)) <= set(AVAILABLE)


def test_a_stack_of_few_or_scattered_sites_is_listed_point_by_point() -> None:
    assert describe(AVAILABLE[:2]) == "vision (embed, 0)"
    assert describe([Site("decoder", p) for p in ("0", "3", "5", "final")]) == "decoder (0, 3, 5, final)"
    assert describe([]) == "none"
