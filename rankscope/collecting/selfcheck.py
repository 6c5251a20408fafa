"""What a collect tries on a few samples before it plans: that sites are what the model says, and samples are on their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rankscope.collecting.source import Source
from rankscope.errors import CheckpointError
from rankscope.reading.course import Course
from rankscope.reading.forward import Read, misfits, read
from rankscope.reading.hooks import Tap
from rankscope.reading.rounding import apart, rounding
from rankscope.sites import Site

CHECKED = 4
"""Samples of one batch that are read together and one at a time."""

Batches = Sequence[tuple[tuple[int, ...], int]]


def checked_sites(source: Source, sample: int) -> Source:
    """The source without the sites that are not the hidden states which the model itself returns for a sample, or lack its columns.

    Such sites are unreadable: a request for one by name is refused, and without names they are left out with a note.
    """
    if source.told is None:
        return source
    parts, batch = source.parts, source.collate([sample])
    with misfits(parts.taps, batch, parts.widths) as unfit:
        faults = source.told(batch.inputs)
    faults = unfit | faults
    right = {site: tap for site, tap in parts.taps.items() if site not in faults}
    return replace(source, parts=replace(parts, taps=right, unreadable={**parts.unreadable, **faults}))


def why_one_by_one(source: Source, taps: Mapping[Site, Tap], batches: Batches, course: Course) -> str:
    """Why samples must be read one at a time, in words; empty if they may be read in batches.

    A few samples of the batch with the most padding are read together and then each alone. A model that mixes in padding
    despite its mask, or a router that averages over the batch, gives other features then.

    Args:
        source: the model and its samples.
        taps: where each site is read.
        batches: the batches as far as they are planned.
        course: takes up how these passes go through the sites: batches of one and of several, long and short.

    Raises:
        CheckpointError: if one sample read twice gives two results: no reading of it is the right one.
    """
    if source.apart:
        return f"samples are read one by one: {source.apart}"
    if source.told is None:
        return ""
    members = _members(batches, source.lengths)
    alone = [_read(source, taps, [i], course) for i in members]
    distance, site = _farthest(_read(source, taps, members[:1], course), alone[:1])
    if site is not None:
        raise CheckpointError(
            f"{source.name} draws at random: sample {source.ids[members[0]]!r} read twice gives features at {site} that are "
            f"{distance:.2g} of their size apart, so no run of it can be repeated; read a model that does not"
        )
    if len(members) == 1:
        return ""
    distance, site = _farthest(_read(source, taps, members, course), alone)
    if site is None:
        return ""
    return (
        f"samples are read one by one, because in this model they depend on their batch: features at {site} were {distance:.2g} "
        "of their size apart"
    )


def _members(batches: Batches, lengths: Sequence[int]) -> list[int]:
    """A few samples of the batch whose lengths differ most, its longest and its shortest among them.

    Batches are of like lengths, longest first: the first batch may well have no padding at all.
    """
    several = [samples for samples, _ in batches if len(samples) > 1] or [batches[0][0]]
    chosen = max(several, key=lambda samples: max(lengths[i] for i in samples) - min(lengths[i] for i in samples))
    count = min(CHECKED, len(chosen))
    return [chosen[round(k * (len(chosen) - 1) / max(count - 1, 1))] for k in range(count)]


def _read(source: Source, taps: Mapping[Site, Tap], samples: Sequence[int], course: Course) -> Read:
    """All real rows of some samples in one batch."""
    return read(source.model, taps, source.collate(samples), kind="tokens", keep_special=True, course=course)


def _farthest(together: Read, alone: Sequence[Read]) -> tuple[float, Site | None]:
    """The site at which samples differ most from what each gives alone, beyond rounding, and how much; None if none does."""
    distance = 0.0
    worst: Site | None = None
    for place, single in enumerate(alone):
        for site, x in single.features.items():
            own = together.features[site][together.rows[site.stack][0] == place]
            far = apart(own, x)
            if far > max(distance, rounding(x) if x.is_floating_point() else 0.0):
                distance, worst = far, site
    return distance, worst
