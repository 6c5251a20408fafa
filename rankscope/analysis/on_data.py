"""What changes of weights do to the inputs that their modules meet: the base is read on data, and its linear layers' inputs summed.

The inputs are those of the *base*. What a change adds to its module's output is then ΔW·x of the same x, whatever the other
modules' changes or a prefix did to the tuned model, so that every number belongs to one module, and those of several tunings
of one base are of the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rankscope import memory
from rankscope.analysis.intervals import Bounds, Limits, limits_of
from rankscope.analysis.options import LEVEL
from rankscope.analysis.replicates import Replicates
from rankscope.checkpoint import Checkpoint
from rankscope.collecting.budget import tokens_that_fit
from rankscope.collecting.job import open_source
from rankscope.collecting.loading import Loading
from rankscope.collecting.request import GROUPS
from rankscope.collecting.selfcheck import why_one_by_one
from rankscope.collecting.source import Source
from rankscope.collecting.summing import groups_of_samples
from rankscope.data.open import is_carried
from rankscope.definition import Range
from rankscope.devices import where
from rankscope.errors import NonFinite
from rankscope.inference.influence import gradient, left_out
from rankscope.measures.effective_rank import effective_rank
from rankscope.measures.participation_ratio import participation_ratio
from rankscope.models.stacks import stacks, unwrapped
from rankscope.models.tunings.changed import Change, is_linear
from rankscope.progress import Progress, silent
from rankscope.reading.course import Course
from rankscope.reading.forward import ModelBatch, batches_by_length, forward_pass, misfits, read
from rankscope.reading.hooks import Tap, reading
from rankscope.results.record import N_LIMITED, NO_ESTIMATE, Estimate, number
from rankscope.results.weights import Reoriented
from rankscope.sites import Site
from rankscope.weights.decomposed import Decomposed
from rankscope.weights.on_data import ChangedLayer, InputSums
from rankscope.weights.updates import full_update, low_rank_update

PART = 0.25
"""The part of the free memory that the sums of one pass over the data may take; more modules take further passes."""
ENOUGH = 4
"""Inputs for each direction of a change below which its rank on data also measures how many they are."""

Batches = list[tuple[tuple[int, ...], int]]


class OnData(NamedTuple):
    """What one change does to the inputs of its module; or why that is not known."""

    effective: Estimate = NO_ESTIMATE
    """The effective rank."""
    participation: Estimate = NO_ESTIMATE
    """The participation ratio."""
    share: Estimate = NO_ESTIMATE
    """The share of the output."""
    random: Reoriented = Reoriented()
    """The same of a change of random orientation."""
    notes: tuple[str, ...] = ()
    """Why there is no interval, or few inputs."""
    why: str = ""
    """Why its inputs were not read; empty if they were."""


class Pass(NamedTuple):
    """What reading the base on data gave."""

    found: dict[int, OnData]
    """By the place of each change."""
    convention: str
    """What was read."""
    notes: tuple[str, ...]
    """Remarks of the data's reader."""


def on_data(
    base: Checkpoint,
    items: Sequence[Change],
    data: object,
    *,
    n: int | None,
    draws: int,
    loading: Loading,
    progress: Progress = silent,
) -> Pass:
    """Read a base on data, and tell what each change does to the inputs of its module.

    Args:
        base: the base, without its tunings.
        items: the changes.
        data: the probe set, as :func:`rankscope.open_data` takes it.
        n: the number of samples, from the first; None for all.
        draws: changes of random orientation beside each.
        loading: how the base is loaded and the data are read.
        progress: called with 0, the number of modules, and the batch at hand in words.

    Raises:
        CheckpointError: if the base does not load, or a module's inputs are not those that the first batches showed.
        DataError: if there are fewer than n samples, or they do not fit the model.
        NonFinite: if an input is NaN or infinite; the module is named.
    """
    source = open_source(base, data, n, loading)
    tokens = 1 if source.apart else tokens_that_fit(source)
    batches = batches_by_length(source.lengths, tokens)
    taps, why = _taps(source, items, [source.collate(some) for some, _ in dict.fromkeys((batches[0], batches[-1]))])
    found = {place: OnData(why=reason) for place, reason in why.items()}
    by_site = _by_site(taps)
    alone = why_one_by_one(source, by_site, batches, Course(source.model, by_site)) if taps else ""
    if alone:
        batches = batches_by_length(source.lengths, 1)
    groups = groups_of_samples(source.ids, source.lengths, GROUPS) if len(source.ids) > 1 else ()
    of_sample = torch.zeros(len(source.ids), dtype=torch.int64)
    for group in groups:
        of_sample[list(group.samples)] = group.id
    device, widest = where(loading.device), max(len(some) * length for some, length in batches)
    for together in _passes(items, taps, groups=len(groups) or 1, tokens=widest, draws=draws):
        readings = {place: _reading(items[place], draws, device) for place in together}
        summed = _read(source, {p: taps[p] for p in together}, readings, batches, of_sample, progress)
        found |= {p: _told(items[p].name, readings[p], summed[p], len(source.ids)) for p in together}
    name = source.data_name if is_carried(source.data_name) else PurePath(source.data_name).name
    convention = (
        f"on data: uncentred inputs of the base, tokens of {len(source.ids)} samples of {name}, {LEVEL:.0%} intervals over "
        f"{len(groups)} groups of samples"
    )
    return Pass(found, convention, (*source.notes, *filter(None, [alone])))


def decomposed(item: Change, w0: Tensor) -> Decomposed:
    """The decomposition of a change of weights that are ``w0`` before, in float64 on its device."""
    if item.factors is not None:
        return low_rank_update(*(part.to(w0) for part in item.factors))
    assert item.after is not None
    return full_update(w0, item.after.to(w0))


def _reading(item: Change, draws: int, device: torch.device) -> ChangedLayer:
    # Each module has the same seed, so that its null does not depend on which others are read
    w0, generator = item.before.to(device, torch.float64), torch.Generator().manual_seed(0)
    return ChangedLayer.of(decomposed(item, w0), w0, draws=draws, generator=generator)


class _Place(NamedTuple):
    """Where the inputs of a module are read."""

    site: Site
    tap: Tap


def _by_site(places: Mapping[int, _Place]) -> dict[Site, Tap]:
    return {place.site: place.tap for place in places.values()}


def _taps(
    source: Source, items: Sequence[Change], tried: Sequence[ModelBatch]
) -> tuple[dict[int, _Place], dict[int, str]]:
    """Where the inputs of each changed module are read, and why some are not, as a few batches show it.

    A module's inputs are columns of a stack, whose padding is then known: mostly the stack that it is in, but keys and values of
    another stack where a decoder attends to an encoder.
    """
    modules = dict(unwrapped(source.model).named_modules(remove_duplicate=False))
    why = {place: reason for place, item in enumerate(items) if (reason := _no_layer(modules.get(item.name)))}
    home = {
        id(module): stack.name
        for stack in stacks(source.model).values()
        for block in stack.blocks
        for module in block.modules()
    }
    known = [name for name in tried[0].grids if all(name in batch.grids for batch in tried)]
    candidates = {
        place: {
            Site(stack, item.name): Tap(modules[item.name], entering=True)
            for stack in _first(home.get(id(modules[item.name])), known)
        }
        for place, item in enumerate(items)
        if place not in why
    }
    misfit, again, missed = _tried(source, {s: tap for some in candidates.values() for s, tap in some.items()}, tried)
    places: dict[int, _Place] = {}
    for place, some in candidates.items():
        fits = [site for site in some if site not in misfit]
        if missed.issuperset(some):
            why[place] = "the base does not run it as a layer on these data"
        elif not again.isdisjoint(some):
            why[place] = "it runs several times in one forward pass"
        elif not fits:
            why[place] = misfit[next(iter(some))]
        elif not _alike(names := [site.stack for site in fits], tried):
            why[place] = (
                f"its inputs may be columns of {' or '.join(sorted(names))}, which are equally many in these data"
            )
        else:
            places[place] = _Place(fits[0], some[fits[0]])
    return places, why


def _first(own: str | None, known: Sequence[str]) -> Sequence[str]:
    """The stacks, the one that a module is in first: of several with the same columns its inputs are that one's."""
    return [*(stack for stack in known if stack == own), *(stack for stack in known if stack != own)]


def _tried(
    source: Source, taps: Mapping[Site, Tap], batches: Sequence[ModelBatch]
) -> tuple[dict[Site, str], set[Site], set[Site]]:
    """The sites that lack the columns of their stack in a batch, each with the reason; those that ran twice in one; and those that
    did not run in one."""
    misfit, again, missed = dict[Site, str](), set[Site](), set[Site]()
    for batch in batches:
        with (
            torch.inference_mode(),
            misfits(taps, batch, {}) as unfit,
            reading(taps, lambda site, hidden: hidden.new_empty(0), again=again) as found,
        ):
            forward_pass(source.model, batch.inputs)
        misfit, missed = unfit | misfit, missed | (set(taps) - set(found))
    return misfit, again, missed


def _no_layer(module: nn.Module | None) -> str:
    """Why a module has no inputs that could be summed, in words; empty if it is a linear layer."""
    if module is None:
        return "no layer of the base has this matrix for itself"
    if isinstance(module, nn.Embedding):
        return "its inputs are the numbers of tokens, no features"
    return "" if is_linear(module) else f"it is a {type(module).__name__}, and inputs are those of linear layers"


def _alike(names: Sequence[str], batches: Sequence[ModelBatch]) -> bool:
    """Whether stacks of equally many columns have the same real ones, of the same roles."""
    first, *others = names
    return all(
        torch.equal(b.grids[first].real, b.grids[s].real) and torch.equal(b.grids[first].role, b.grids[s].role)
        for b in batches
        for s in others
    )


def _passes(
    items: Sequence[Change], places: Mapping[int, _Place], *, groups: int, tokens: int, draws: int
) -> Iterator[list[int]]:
    """The modules whose sums fit into memory together, each at least by itself."""
    room, some, taken = PART * memory.free(), list[int](), 0.0
    for place in places:
        item, (m, n) = items[place], items[place].before.shape
        rank = min(m, n) if item.factors is None else item.factors[1].shape[0]
        kept = min(n, (1 + draws) * rank)
        # In float64: the sums of each group, the maps, the weights, and the inputs of a batch
        needed = 8.0 * (groups * kept**2 + (1 + draws) * rank * n + m * n + 2 * tokens * n)
        if some and taken + needed > room:
            yield some
            some, taken = [], 0.0
        some.append(place)
        taken += needed
    if some:
        yield some


def _read(
    source: Source,
    places: Mapping[int, _Place],
    readings: Mapping[int, ChangedLayer],
    batches: Batches,
    of_sample: Tensor,
    progress: Progress,
) -> dict[int, InputSums]:
    """One pass over the data: the sums over the inputs of some modules."""
    taps, groups = _by_site(places), int(of_sample.max()) + 1
    sums = {place: one.zeros(groups) for place, one in readings.items()}
    for done, (samples, _) in enumerate(batches):
        progress(0, len(places), f"batch {done + 1} of {len(batches)}")
        found = read(source.model, taps, source.collate(samples), kind="tokens")
        for place, (site, _) in places.items():
            group = of_sample[torch.tensor(samples)[found.rows[site.stack][0]]]
            readings[place].add(sums[place], found.features[site], group)
    return sums


def _told(name: str, of: ChangedLayer, sums: InputSums, samples: int) -> OnData:
    """The numbers of one module, with their intervals."""
    total = sums.sum()
    if not total.second.isfinite().all():
        raise NonFinite(f"the inputs of {name} must be finite; they are NaN or infinite for some samples")
    rows = int(total.rows)
    if not rows:
        return OnData(why="these data give it no inputs that count")
    if not of.rank:
        return OnData(why="its change is zero")
    rank = Bounds(Range(1.0, of.rank), "log", of_nothing=0.0)
    effective = _limits(lambda s: effective_rank(of.values(s)), sums, rank)
    participation = _limits(lambda s: participation_ratio(of.values(s)), sums, rank)
    share = _limits(of.share, sums, Bounds(Range(0.0)))
    drawn = [of.values(total, which) for which in range(1, len(of.maps))]
    turned = [_mean([measure(s) for s in drawn]) for measure in (effective_rank, participation_ratio)]
    notes = dict.fromkeys((*effective.notes, *participation.notes, *share.notes))
    if rows < (enough := ENOUGH * of.rank):
        notes[
            f"{N_LIMITED}: {rows} inputs for a change of rank {of.rank}, where {enough} are enough, so its rank on data also measures "
            "how many they are"
        ] = None
    random = Reoriented(turned[0], turned[1], number(of.random_share(total)), rows, samples)
    return OnData(effective.estimate, participation.estimate, share.estimate, random, tuple(notes))


def _mean(values: Sequence[Tensor]) -> float | None:
    return number(torch.stack(list(values)).mean()) if values else None


def _limits(function: Callable[[InputSums], Tensor], sums: InputSums, bounds: Bounds) -> Limits:
    """A number of the sums over all groups, with its interval from the influence of each group."""
    total = sums.sum()
    slope = gradient(function, [total]) if len(sums.rows) > 1 else None
    if slope is None:
        return Limits(Estimate(number(function(total))))
    # The derivative with respect to the weight of a group is that with respect to each sum, times the group's part of it
    parts = [(getattr(sums, name) * by).reshape(len(sums.rows), -1).sum(1) for name, by in slope.slopes[0].items()]
    influence = sum(parts, torch.zeros_like(sums.rows))
    left = left_out(slope.value, influence, sums.rows / total.rows)
    return limits_of(Replicates(slope.value, left, method="influence"), bounds, LEVEL)
