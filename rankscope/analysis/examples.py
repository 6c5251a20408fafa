"""What a change means: the samples and tokens that moved most, and the directions of the change in the words of the model's head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.align import Aligned, data_notes, distinct_names, shared_sites
from rankscope.analysis.cautions import cautions
from rankscope.analysis.guards import GuardedView, guarded_views
from rankscope.analysis.intervals import bounds_of, limits_of, replicates
from rankscope.analysis.options import GROUPS, LEVEL, Analysis
from rankscope.analysis.references import change_of_noise
from rankscope.analysis.replicates import Method
from rankscope.analysis.second_pass import prepare
from rankscope.collecting.reopened import Opened, data_of, opened
from rankscope.data.probes import Example
from rankscope.definition import Comparison
from rankscope.errors import NotComparable, RankscopeError, UsageError, public
from rankscope.features import ROLES
from rankscope.inference.jackknife import critical_t
from rankscope.linalg.moments import Moments
from rankscope.linalg.rows import blocks, mean_row, sample_means
from rankscope.linalg.streamed import Streamed
from rankscope.linalg.sums import lifted
from rankscope.linalg.svd import leading_axes_of
from rankscope.models.lens import WordHead, head_of, tokens_of, words
from rankscope.progress import Progress, silent
from rankscope.registry import COMPARISONS, known
from rankscope.results.examples import ExampleRecord, Examples, What
from rankscope.results.record import Estimate, number
from rankscope.sites import Site
from rankscope.store import Run

SHOWN, DIRECTIONS, WORDS = 10, 3, 6
"""Samples and tokens, directions, and words at each end of them that are shown by default."""
READ_THROUGH = 256
"""The most rows, spread evenly, about which the head is asked how it answers to a step."""
OF_NOISE = 32
"""Random directions that are read through the head beside those of the change."""
BESIDE = 4
"""Tokens on each side of one that show where it stands."""


@public
def examples(
    base: Run | str | Path,
    tuned: Run | str | Path,
    *,
    n: int = SHOWN,
    directions: int = DIRECTIONS,
    words: int = WORDS,
    seed: Run | str | Path | None = None,
    data: Any = None,
    sites: str | Sequence[str | Site] = "all",
    groups: int = GROUPS,
    interval: Method = "influence",
    level: float = LEVEL,
    common_rows: bool = False,
    allow_duplicates: bool = False,
    base_model: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> Examples:
    """What the change between two runs means, at the site that moves most.

    The samples and tokens with the largest drift come with their texts and images, which are opened again by the name that the
    run keeps. The mean of the change and its leading principal directions come with their shares of it, and with the words that
    they say through the tuned model's own head, where the site belongs to the stack that the head reads. What is not at
    hand any more (the data, the checkpoint) is left out, and a note says so.

    Args:
        base: a run of the base, the path of one, or a checkpoint folder.
        tuned: a run of the tuned model on the same rows.
        n: how many samples, and how many tokens.
        directions: how many principal directions of the change.
        words: how many words at each end of a direction.
        seed: a run of the same training from another seed. Shares are then held against those of the change from one seed
            to the other, and no longer against those of a change without preferred direction.
        data: what both runs were read on, as :func:`rankscope.open_data` takes it, where that is not to be opened by the name that
            they keep; by default it is.
        sites: the sites among which the one is chosen whose rows move most, relative to the variance of the base there.
        groups: as in :func:`~rankscope.analysis.compare.compare`, as are the following.
        interval: where intervals come from.
        level: confidence of the intervals.
        common_rows: where the rows differ, use those that all runs have.
        allow_duplicates: read rows even if many are copies of others that the data do not explain.
        base_model: the base of checkpoint folders, and of the checkpoint whose head is read.
        device: the torch device.
        progress: called with the sites done, their number and the site at hand.

    Raises:
        NotComparable: if the runs hold sums instead of rows, nothing moved, or as :func:`~rankscope.analysis.compare.compare`.
        UnknownName: if there is no such site.
        UsageError: if a number is none, or an argument has the wrong type.
    """
    for name, value, least in (("n", n, 1), ("directions", directions, 0), ("words", words, 1)):
        if not isinstance(value, int) or value < least:
            raise UsageError(f"{name} is a whole number from {least}; got {value!r}")
    options = Analysis("all", groups, level, "raw", allow_duplicates, base_model, device, progress, interval)
    runs = tuple(options.open_together([base, tuned, *([] if seed is None else [seed])]))
    aligned = Aligned(runs, shared_sites(runs, sites), common_rows, allow_duplicates)
    if aligned.summed:
        raise NotComparable(
            f"{runs[1].name} holds sums over rows, and no sample's own rows; collect with --keep rows (keep='rows')"
        )
    told = data_notes(runs)
    found = _most_moved(aligned, options)
    sources = _Sources.of(runs[1], found.site, options, data)
    records = [*_site_and_directions(found, sources, directions, words, level), *_moved(found, sources, n)]
    names = distinct_names(runs)[:2]
    return Examples(
        tuple(replace(r, site=str(found.site), run=names[1], run_base=names[0]) for r in records),
        site=str(found.site),
        names=(names[0], names[1]),
        notes=(*told, *aligned.notes(), *sources.notes),
    )


class _MostMoved(NamedTuple):
    """The change at one site."""

    site: Site
    view: GuardedView
    lengths: Tensor
    """``(n,)`` drift of each row, whose mean is that of the site: ‖Δ‖² over the variance of the base."""

    @property
    def rows(self) -> Streamed:
        """``(n, d)`` float64 Δ, made as it is read."""
        return _difference(self.view)

    @property
    def seeds(self) -> bool:
        """Whether there is a run from another seed."""
        return len(self.view.features) > 2


def _difference(view: GuardedView) -> Streamed:
    x, y, device = view.features[0], view.features[1], view.device
    shape = (view.n, x.shape[1])
    return Streamed(shape, torch.float64, lambda rows: lifted(y[rows], device) - lifted(x[rows], device), device=device)


def _most_moved(aligned: Aligned, options: Analysis) -> _MostMoved:
    """The change at the site whose rows move most, of those that can be measured.

    Raises:
        NotComparable: if there is none, or nothing moved.
    """
    best, reasons = None, list[str]()
    for site, view in guarded_views(aligned, options, [COMPARISONS["drift"]], then="examples"):
        if view.refused or len(set(view.widths)) > 1:
            reasons.append(view.refused or f"the widths at {site} are {' and '.join(map(str, view.widths))}")
            continue
        squares = torch.cat([part.square().sum(1) for part in blocks(_difference(view))])
        # Divided as drift is, by the trace of the sample covariance
        spread = float(view.squares_of_units(0).sum()) / (view.n - 1)
        if spread > 0 and squares.any() and (best is None or float(squares.mean()) / spread > best.lengths.mean()):
            best = _MostMoved(site, view, squares.cpu() / spread)
    if best is None:
        raise NotComparable(
            f"no row of {aligned.runs[1].name} moved away from {aligned.runs[0].name}"
            + "".join(f"; {reason}" for reason in reasons)
        )
    return best


class _Sources(NamedTuple):
    """What samples and tokens were, as far as it can be found again, and the head."""

    data: Mapping[str, Example]
    """Id → example; empty if the data cannot be opened."""
    loaded: Opened | None
    """The tuned model with its reader; None if it cannot be loaded."""
    head: WordHead | None
    """The head that reads the stack of the site; None if there is none, or it cannot be known."""
    notes: tuple[str, ...]
    """Why something is missing, and how the head's words are to be taken."""

    @classmethod
    def of(cls, run: Run, site: Site, options: Analysis, given: Any) -> _Sources:
        data: Mapping[str, Example] = {}
        left_out = "their texts and images are left out"
        loaded = head = None
        notes = []
        try:
            data = {one.id: one for one in data_of(run, "the examples", remedy=left_out, data=given)}
        except RankscopeError as error:
            notes.append(str(error))
        try:
            loaded = opened(run, base_model=options.base_model, device=options.device)
        except RankscopeError as error:
            notes.append(f"{error}; tokens and the words of directions are left out")
        if loaded is not None:
            try:
                head = _head(loaded, site, data)
                notes.append(_read_as(site, head))
            except RankscopeError as error:
                notes.append(f"{error}; the words of directions are left out")
        return cls(data, loaded, head, tuple(notes))

    def tokens(self, sample: str, stack: str) -> list[int | None]:
        """The token of each row of a sample; none where they cannot be known."""
        if self.loaded is None or sample not in self.data or stack not in self.loaded.reader.stacks:
            return []
        return tokens_of(self.loaded.reader, self.data[sample], stack)


def _head(loaded: Opened, site: Site, data: Mapping[str, Example]) -> WordHead:
    """The head that reads a site's stack.

    Raises:
        NotComparable: if there is none, or no sample with which that can be seen.
    """
    if not data:
        raise NotComparable("without the data it cannot be seen what the model's head reads")
    stacks = loaded.reader.stacks
    if site.stack not in stacks:
        raise NotComparable(f"the stack {site.stack} is none of those that are read from examples")
    return head_of(loaded.model, stacks[site.stack], loaded.reader.read([next(iter(data.values()))]))


def _read_as(site: Site, head: WordHead) -> str:
    """How far the words of a site can be trusted."""
    last = list(head.stack.sites)[-1]
    said = "words are of logits that move with the mean change, or with one standard deviation along a direction"
    if site == last:
        return f"{said}; {site} is what the head reads"
    return (
        f"{said}, as if no block stood between {site} and {last}: blocks write in bases that turn with depth, so early sites "
        "may say nothing in words, and the words that stand out no more than those of noise mean nothing"
    )


def _site_and_directions(
    found: _MostMoved, sources: _Sources, directions: int, words_shown: int, level: float
) -> Iterator[ExampleRecord]:
    """The drift and its rank, the share of the mean, and that of each leading direction, with its words."""
    view = found.view
    # The rows of n samples about their mean span n - 1 directions, of which the last is left to tell them from noise
    count = min(directions, view.widths[0], view.n - 2)
    shares = [known(f"drift-share-{i + 1}") for i in range(count)]
    asked = [COMPARISONS["drift"], COMPARISONS["drift-rank"], COMPARISONS["drift-mean-share"], *shares]
    prepare(view, [(what, (0, 1)) for what in asked])
    null = partial(view.value) if found.seeds else change_of_noise(view, 1).value
    pair = (1, 2) if found.seeds else (0, 1)
    made = []
    for what in asked:
        assert isinstance(what, Comparison)
        value = replicates(what, view, 0, 1)
        limits = limits_of(value, bounds_of(what, view), level)
        noise = None if what.name == "drift" and not found.seeds else number(null(what, *pair))
        notes = (*limits.notes, *cautions(what, view, value))
        made.append(ExampleRecord("direction", "", what.name, limits.estimate, what.unit, noise, notes=notes))
    drift, rank, mean, *along = made
    yield from (replace(one, what="site") for one in (drift, rank))
    axes = _axes(found, count)
    for i, one in enumerate(_in_words([mean, *along], found, axes, sources, words_shown)):
        # What is left where the change has fewer directions is the rounding of its covariance
        if i == 0 or (one.value or 0) > view.widths[0] * torch.finfo(torch.float64).eps:
            undecided = _undecided(found, axes.unit[i], level) if i else ()
            yield replace(one, what="direction" if i else "mean", direction=i or None, notes=(*one.notes, *undecided))


class _ChangeAxes(NamedTuple):
    """The mean of the change and its principal directions."""

    unit: Tensor
    """``(1 + k, d)`` of length one (zero, if the mean is)."""
    steps: Tensor
    """``(1 + k, d)`` the mean itself, and one standard deviation along each direction."""


def _axes(found: _MostMoved, count: int) -> _ChangeAxes:
    change = found.rows
    mean = mean_row(change, change.device)
    if (
        len(change) < change.shape[1]
    ):  # a covariance of fewer rows than features has nothing that their own singular vectors lack
        axes = torch.linalg.svd(change[:] - mean, full_matrices=False).Vh[:count]
    else:
        axes = leading_axes_of(Moments.of(change, shift=mean)[0], count).mT if count else change[:0]
    # A direction has no sign of its own: it points where the mean change does
    axes = torch.where((axes @ mean < 0)[:, None], -axes, axes)
    along = _along(change, axes)
    size = mean.norm()
    unit = torch.cat([(mean / size if size > 0 else mean)[None], axes])
    return _ChangeAxes(unit, torch.cat([mean[None], along.std(0, correction=0)[:, None] * axes]))


def _along(change: Streamed, axes: Tensor) -> Tensor:
    """``(n, k)`` the change of each row along each of ``(k, d)`` axes."""
    return torch.cat([part @ axes.mT for part in blocks(change)])


def _undecided(found: _MostMoved, axis: Tensor, level: float) -> tuple[str, ...]:
    """A note where the mean over samples does not tell in which sense a direction points."""
    means = sample_means(_along(found.rows, axis[None]), found.view.rows.sample)[:, 0]
    error = float(means.std()) / len(means) ** 0.5
    if abs(float(means.mean())) >= float(critical_t(len(means) - 1, level)) * error:
        return ()
    return ("the mean change does not tell which of its two senses it has, so + and − may be exchanged",)


def _in_words(
    records: Sequence[ExampleRecord], found: _MostMoved, axes: _ChangeAxes, sources: _Sources, shown: int
) -> list[ExampleRecord]:
    """The records with the words of their directions, where there is a head."""
    head, loaded = sources.head, sources.loaded
    if head is None or loaded is None:
        return list(records)
    x = found.view.features[0]
    some = x[torch.linspace(0, len(x) - 1, min(len(x), READ_THROUGH)).long()].double() * 2.0**found.view.exponent
    steps = axes.steps.cpu() * 2.0**found.view.exponent
    generator = torch.Generator().manual_seed(0)
    random = torch.nn.functional.normalize(
        torch.randn(OF_NOISE, steps.shape[1], generator=generator, dtype=torch.float64)
    )
    logits = head.logits(found.site, some.cpu(), torch.cat([steps, random * steps[-1].norm()]))
    # A vocabulary may be padded beyond the words that the tokenizer has
    logits = logits[:, : len(loaded.reader.inputs.tokenizer)]
    outlying = (logits.amax(1) - logits.mean(1)) / logits.std(1)
    noise = number(outlying[len(steps) :].mean())

    def told(row: Tensor) -> tuple[str, ...]:
        return tuple(words(loaded.reader, [token]) for token in row.topk(min(shown, len(row))).indices.tolist())

    return [
        replace(one, promotes=told(row), suppresses=told(-row), outlying=number(outlying[i]), outlying_of_noise=noise)
        for i, (one, row) in enumerate(zip(records, logits, strict=False))
    ]


def _moved(found: _MostMoved, sources: _Sources, n: int) -> Iterator[ExampleRecord]:
    """The samples that moved most, and of token rows the tokens."""
    rows, lengths = found.view.rows, found.lengths
    places, counts = torch.unique(rows.sample, return_counts=True)
    of_sample = sample_means(lengths[:, None], rows.sample)[:, 0]
    for i in of_sample.argsort(descending=True, stable=True)[:n].tolist():
        name = rows.ids[int(places[i])]
        yield _record("sample", float(of_sample[i]), name, sources, rows=int(counts[i]))
    if len(rows) == len(places):
        return
    for i in lengths.argsort(descending=True, stable=True)[:n].tolist():
        name, position = rows.ids[int(rows.sample[i])], int(rows.position[i])
        one = _record("token", float(lengths[i]), name, sources)
        tokens = sources.tokens(name, found.site.stack)
        token, context = _in_context(tokens, position, sources)
        yield replace(one, position=position, role=ROLES[int(rows.role[i])], token=token, context=context)


def _record(what: What, value: float, name: str, sources: _Sources, *, rows: int | None = None) -> ExampleRecord:
    unit = COMPARISONS["drift"].unit
    made = ExampleRecord(what, "", "drift", Estimate(value), unit, sample=name, rows=rows)
    if (shown := sources.data.get(name)) is None:
        return made
    return replace(made, text=shown.text or None, target=shown.target or None, image=_called(shown))


def _called(example: Example) -> str | None:
    """What the image of an example is called: its path, where it came from, or what the data call it."""
    if example.image is None:
        return example.about.get("image_id") if example.regions is not None else None
    if isinstance(example.image, Path):
        return str(example.image)
    return getattr(example.image, "where", None) or example.about.get("image_id", "in memory")


def _in_context(tokens: Sequence[int | None], position: int, sources: _Sources) -> tuple[str | None, str | None]:
    """The token at a position, and it in brackets among its neighbours; None where it is no token."""
    if sources.loaded is None or not 0 <= position < len(tokens) or tokens[position] is None:
        return None, None
    tell = partial(words, sources.loaded.reader)
    token = tell([tokens[position]])
    before, after = tokens[max(0, position - BESIDE) : position], tokens[position + 1 : position + 1 + BESIDE]
    return token, f"{tell(before)}[{token}]{tell(after)}"
