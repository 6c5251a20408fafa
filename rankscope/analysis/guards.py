"""What is checked before rows are measured: copies, as padding leaves them, and rows or features of massive size.

Copies are refused unless the data explain them: in a causal model two texts that begin alike give the same rows until
they part, and at an embedding equal tokens give equal rows. Massive rows and features are reported, together with the
numbers without them; nothing is dropped unless a variant asks for it, and every record names its variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.align import Aligned, distinct_names
from rankscope.analysis.foreseen import check_fits, least_matrices
from rankscope.analysis.options import Analysis
from rankscope.analysis.repeats import hash_of_zeros, row_classes
from rankscope.analysis.replicates import computed_once
from rankscope.analysis.summed import INSTEAD, SummedView
from rankscope.analysis.view import FEWEST, View
from rankscope.definition import Comparison, Definition
from rankscope.devices import where
from rankscope.errors import NonFinite
from rankscope.features import Rows
from rankscope.linalg.rows import at_unit_scale, blocks, mean_row
from rankscope.linalg.streamed import RowMatrix, mapped, taken
from rankscope.measures.sinks import deviations, longest, massive_dimensions, sink_rows
from rankscope.sites import Site

MOST_COPIES = 0.005
"""Share of unexplained copies from which rows are refused."""


class Copies(NamedTuple):
    """Which rows of a run are copies."""

    copied: Tensor
    """``(n,)`` bool: rows that equal an earlier one."""
    unexplained: Tensor
    """``(n,)`` bool: rows of zeros, and those copies that the data do not explain."""


class GuardedView(View):
    """A view, and what was found wrong with its rows."""

    variant: str = "raw"
    """What was done to the rows of all runs alike."""
    refused: str = ""
    """Why these rows are not measured; empty where they are."""
    remarks: tuple[str, ...] = ()
    """Cautions that belong to every number of these rows."""
    without_sinks: View | None = None
    """The same without rows of massive length; None where no row is."""

    @computed_once
    def mean_share(self, run: int) -> float:
        """The mean row's share of a run's energy, which uncentred measures mostly see."""
        return mean_share(self.features[run])


def guarded_views(
    aligned: Aligned, options: Analysis, asked: Sequence[Definition | Comparison], *, then: str = "done"
) -> Iterator[tuple[Site, GuardedView]]:
    """The view of some runs at each of their sites, with what is wrong with their rows.

    Args:
        aligned: the runs; rows are left out of all of them alike.
        options: the groups of samples, the variant, whether too many copies are measured all the same, and the device.
        asked: what is to be measured.
        then: what progress reports after the last site.

    Raises:
        NotComparable: for fewer than four rows or two samples, or features of which no unit suits all.
        NonFinite: if a feature is NaN or infinite.
        TooLarge: if the sums that this takes fit into memory at no time.
    """
    check_fits(aligned, least_matrices(asked, len(aligned.runs)), options.device)
    for done, site in enumerate(aligned.sites):
        options.progress(done, len(aligned.sites), str(site))
        yield site, guarded_view(aligned, site, options)
    options.progress(len(aligned.sites), len(aligned.sites), then)


def guarded_view(aligned: Aligned, site: Site, options: Analysis) -> GuardedView:
    """The view of some runs at one site, as :func:`guarded_views`."""
    names = distinct_names(aligned.runs)
    if aligned.summed:
        return _guarded_sums(aligned, site, names, options)
    return _guarded(*aligned.at(site), site, names, options)


def _guarded(
    features: Sequence[RowMatrix], rows: Rows, site: Site, names: Sequence[str], options: Analysis
) -> GuardedView:
    for x, name in zip(features, names, strict=True):
        check_finite(x, rows, site, name)
    found = [copies(x, rows, site) for x in features]
    refused, remarks = _judged(found, names, site, options)
    features, exponent = at_unit_scale(features)
    features, rows, left_out = _varied(features, rows, [one.copied for one in found], options.variant)
    view = GuardedView(
        features,
        rows,
        groups=options.groups,
        device=where(options.device),
        exponent=exponent,
        interval=options.interval,
    )
    sinks = [sink_rows(x) for x in features]
    massive = torch.stack(sinks).any(0)
    view.variant, view.refused = options.variant, refused
    massive_found = [(int(s.sum()), int(massive_dimensions(x).sum())) for x, s in zip(features, sinks, strict=True)]
    view.remarks = tuple(filter(None, (*remarks, left_out, _massive_words(massive_found, names), _after_norm(site))))
    if massive.any() and len(torch.unique(rows.sample[~massive])) >= FEWEST:
        view.without_sinks = view.derived([taken(x, ~massive) for x in features], ~massive, groups=options.groups)
    return view


class GuardedSums(SummedView, GuardedView):
    """A view of sums, and what was found wrong with the rows that were summed."""


def _guarded_sums(aligned: Aligned, site: Site, names: Sequence[str], options: Analysis) -> GuardedSums:
    rows = aligned.rows(site)
    view = GuardedSums(
        aligned.summed, site, rows, groups=options.groups, device=where(options.device), interval=options.interval
    )
    told = [one for run in aligned.summed if (one := run.of_each_row(site)) is not None]
    remarks = ["copies and massive rows are not known: only sums of so many rows were kept"]
    if len(told) == len(names):
        zeros = [hash_of_zeros(d, run.manifest.torch_dtype) for run, d in zip(aligned.runs, view.widths, strict=True)]
        found = [copies_among(one.hash, one.hash == zero, rows, site) for one, zero in zip(told, zeros, strict=True)]
        view.refused, remarks = _judged(found, names, site, options, without="--keep rows and variant=distinct")
        # Of sums, features are massive by the diagonal of Σ xxᵀ
        sizes = [view.part(run).gram.diagonal().clamp(min=0).sqrt() for run in range(len(names))]
        massive = [(int(longest(one.length).sum()), int(longest(s).sum())) for one, s in zip(told, sizes, strict=True)]
        remarks.append(_massive_words(massive, names))
    if options.variant != "raw":
        view.refused = f"rows cannot be {options.variant} any more, because only sums of them were kept; {INSTEAD}"
    view.variant, view.remarks = options.variant, tuple(filter(None, (*remarks, _after_norm(site))))
    return view


def check_finite(x: RowMatrix, rows: Rows, site: Site, name: str) -> None:
    """Refuse features that are NaN or infinite, which a run holds if it was collected with ``nonfinite="keep"``.

    Args:
        x: ``(n, d)`` features.
        rows: where they came from.
        site: where they were read.
        name: the name of the run.

    Raises:
        NonFinite: naming the run, the site and the first such row.
    """
    finite = torch.cat([torch.isfinite(part).all(1) for part in blocks(x)]) if len(x) else torch.ones(0).bool()
    if not finite.all():
        first = rows[finite.logical_not().cpu()]
        raise NonFinite(
            f"{len(first)} of the {len(x)} rows of {name} at {site} are NaN or infinite, first sample {first.sample_ids[0]!r}, "
            f"token {int(first.position[0])}; choose other sites, or collect again without such samples"
        )


def mean_share(x: RowMatrix) -> float:
    """‖x̄‖²/(‖x̄‖² + tr S) of features, S their sample covariance; 0 where all are zero.

    As :func:`rankscope.measures.mean_share.mean_share`, without the sums of products that it does not need.

    Args:
        x: ``(n, d)`` features.
    """
    mean = mean_row(x, x.device)
    # tr S = Σ ‖xᵢ - x̄‖² / (n - 1)
    spread = sum(float((part - mean).square().sum()) for part in blocks(x)) / max(1, len(x) - 1)
    length = float(mean.square().sum())
    return length / (length + spread) if length else 0.0


def copies(x: RowMatrix, rows: Rows, site: Site) -> Copies:
    """Which rows equal an earlier one, and which of those the data do not explain.

    Explained are, at an embedding, all of them; elsewhere those of samples that begin alike, up to where they part.
    Rows of zeros, and samples whose every row is that of an earlier sample, are never explained.

    Args:
        x: ``(n, d)`` features, in the data's order.
        rows: where they came from.
        site: where they were read.
    """
    zero = torch.cat([(part.cpu() == 0).all(1) for part in blocks(x)])
    return copies_among(row_classes(x), zero, rows, site)


def copies_among(content: Tensor, zero: Tensor, rows: Rows, site: Site) -> Copies:
    """The copies among rows of which it is known which are equal.

    Args:
        content: ``(n,)`` int64, the same for rows that are equal.
        zero: ``(n,)`` bool, the rows of zeros.
        rows: where they came from, in the data's order.
        site: where they were read.
    """
    classes = torch.unique(content, return_inverse=True)[1]
    copied = _repeats(classes)
    if not copied.any() or site.point == "embed":
        return Copies(copied, zero)
    return Copies(copied, zero | (copied & ~_alike_so_far(classes, rows.sample)))


def _repeats(classes: Tensor) -> Tensor:
    """``(n,)`` bool: whose class, a number from 0, an earlier place has already."""
    places = torch.arange(len(classes))
    first = torch.full((int(classes.max()) + 1,), len(classes)).scatter_reduce_(0, classes, places, "amin")
    return places != first[classes]


def _alike_so_far(classes: Tensor, sample: Tensor) -> Tensor:
    """``(n,)`` bool: rows that equal others only where the samples were equal in every row before, and then part.

    Row t of a causal model depends on tokens 1…t alone. So two rows must be equal where all rows before them in their
    samples are, and are suspect where they are equal although those differ.
    """
    # Number the beginnings as a trie does: a row's beginning is (the beginning of the row before it, its own class), so
    # two rows share a number exactly if their samples are equal up to and including them.
    numbers: dict[tuple[int, int], int] = {}
    beginning: list[int] = []
    ends: dict[int, int] = {}
    for content, owner in zip(classes.tolist(), sample.tolist(), strict=True):
        before = ends.get(owner, -1)
        beginning.append(numbers.setdefault((before, content), len(numbers)))
        ends[owner] = beginning[-1]
    # A class of equal rows is explained if it occurs with one beginning only.
    pairs = torch.unique(torch.stack([classes, torch.tensor(beginning)]), dim=1)
    explained = torch.bincount(pairs[0])[classes] == 1
    # Samples that end at the same beginning are equal in whole: all but the first are repetitions, which never part.
    owners, last = torch.tensor([*ends.items()]).T
    return explained & ~torch.isin(sample, owners[_repeats(last)])


def _judged(
    found: Sequence[Copies], names: Sequence[str], site: Site, options: Analysis, *, without: str = "variant=distinct"
) -> tuple[str, list[str]]:
    """Why rows are refused, if they are, and remarks about copies otherwise; ``without`` is how copies can be left out."""
    refused, remarks = "", []
    for name, (copied, unexplained) in zip(names, found, strict=True):
        bad, alike, n = int(unexplained.sum()), int(copied.sum()), len(copied)
        words = f"{bad} of the {n} rows of {name} at {site} ({bad / n:.1%}) are zero or copies of others"
        if bad < MOST_COPIES * n:
            why = "equal tokens or patches" if site.point == "embed" else "texts that begin alike"
            remarks += [f"{alike} of {n} rows equal another: {why}"] if alike >= MOST_COPIES * n else []
        elif options.variant == "distinct":
            remarks.append(f"{words}, and left out")
        elif options.allow_duplicates:
            remarks.append(f"{words}, and measured all the same")
        elif not refused:
            refused = (
                f"{words}, as padding and repeated inputs produce, and would be measured as structure; "
                f"leave them out with {without}, or measure them with allow_duplicates"
            )
    return refused, list(dict.fromkeys(remarks))


def _varied(
    features: Sequence[RowMatrix], rows: Rows, copied: Sequence[Tensor], variant: str
) -> tuple[list[RowMatrix], Rows, str]:
    """The features and rows of a variant, and what was done."""
    if variant == "standardised":
        return (
            [_standardised(x) for x in features],
            rows,
            "every feature centred and divided by its deviation over all rows",
        )
    if variant == "raw":
        return list(features), rows, ""
    masks = copied if variant == "distinct" else [sink_rows(x) for x in features]
    drop = torch.stack([m.cpu() for m in masks]).any(0)
    what = "copies of others" if variant == "distinct" else "longer than ten medians"
    words = f"{int(drop.sum())} of {len(rows)} rows, {what} in a run"
    if not drop.any():
        return list(features), rows, ""
    if rows[~drop].samples < FEWEST:
        return list(features), rows, f"{words}, are kept, because too few would be left without them"
    return [taken(x, ~drop) for x in features], rows[~drop], f"without {words}"


def _standardised(x: RowMatrix) -> RowMatrix:
    mean, deviation = mean_row(x, x.device), deviations(x)
    return mapped(x, lambda part: ((part.double() - mean) / deviation).to(x.dtype))


def _massive_words(counts: Sequence[tuple[int, int]], names: Sequence[str]) -> str:
    """What is said of the number of massive rows and features of each run."""
    found = [f"{r} rows and {c} features in {name}" for name, (r, c) in zip(names, counts, strict=True) if r or c]
    return f"massive (over ten medians): {', '.join(found)}; see variants" if found else ""


def _after_norm(site: Site) -> str:
    return "after the final norm, so not on one curve with the sites before it" if site.point == "final" else ""
