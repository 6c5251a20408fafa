"""The label of a site on an axis: its point under the name of its stack, or the name of a module that is in no stack."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rankscope.sites import Site

MOST_LABELS = 12
"""Number of sites beyond which only every second, third, … is labelled."""


class Label(NamedTuple):
    """How one site is written."""

    group: str
    """The stack that it is written under; empty for a module that is in none."""
    text: str
    """What is written at the site itself."""
    number: int
    """Its number, by which labels are left out where there are too many."""


def labels(sites: Sequence[Site]) -> list[Label]:
    """A label for each site. Modules of one list that follow each other, as ``layers.0``, ``layers.1``, are a stack."""
    lists = [_list_of(site) for site in sites]
    runs = [name for name, _ in groupby(lists)]
    split = {name for name in runs if runs.count(name) > 1 or lists.count(name) < 2}
    return [
        _label(site, "" if name in split else name, i) for i, (site, name) in enumerate(zip(sites, lists, strict=True))
    ]


def _list_of(site: Site) -> str:
    """The list that a module is a numbered part of; empty for a site of a stack and for any other module."""
    name, _, number = site.stack.rpartition(".")
    return name if site.point == "output" and number.isdecimal() else ""


def _label(site: Site, name: str, place: int) -> Label:
    if site.point != "output":
        return Label(site.stack, site.point, site.index or 0)
    if name:
        number = site.stack.rpartition(".")[2]
        return Label(name, number, int(number))
    return Label("", site.stack, place)


def shown(given: Sequence[Label]) -> list[int]:
    """The places of the labels that are written: all, or every second, third, … where there are too many."""
    step = max(1, len(given) // MOST_LABELS)
    written: list[int] = []
    for i, label in enumerate(given):
        beside = step > 1 and i - 1 in written[-1:] and given[i - 1].group == label.group and label.text.isdecimal()
        if label.number % step == 0 and not beside:
            written.append(i)
    return written


def last_of_stacks(sites: Sequence[Site]) -> list[Site]:
    """The last site of every stack, and the last of all modules that are in none."""
    return list({label.group: site for label, site in zip(labels(sites), sites, strict=True)}.values())


def spelled(site: Site) -> str:
    """The site as a title writes it: a module by its name alone."""
    return site.stack if site.point == "output" else str(site)
