"""How the weights of a checkpoint are printed: a small table of what matters first, or every number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from rankscope.cli import options, show

if TYPE_CHECKING:
    from rankscope.results.glance import Glance
    from rankscope.results.record import Estimate
    from rankscope.results.weights import WeightRecord, WeightReport

Column = tuple[str, Callable[["WeightRecord"], str]]

_FULL: tuple[Column, ...] = (
    ("kind", lambda r: r.kind or "–"),
    ("shape", lambda r: f"{r.m} × {r.n}"),
    ("rank", lambda r: show.number(r.ranks.rank)),
    ("effective", lambda r: show.number(r.ranks.effective)),
    ("stable", lambda r: show.number(r.ranks.stable)),
    ("size", lambda r: show.number(r.relative.size)),
    ("leading", lambda r: show.number(r.relative.leading)),
    ("shift (noise)", lambda r: _beside(r.moved.spectral_shift, r.moved.spectral_shift_of_noise)),
    ("left° (noise)", lambda r: _beside(r.moved.rotation_left, r.moved.rotation_left_of_noise)),
    ("right° (noise)", lambda r: _beside(r.moved.rotation_right, r.moved.rotation_right_of_noise)),
    ("edge", lambda r: show.number(r.moved.edge)),
    ("bf16 moved (noise)", lambda r: _beside(r.moved.bf16_moved, r.moved.bf16_moved_of_noise)),
    ("intruders (noise)", lambda r: _beside(r.intruder.intruders, r.intruder.intruders_of_noise)),
    ("gap", lambda r: show.number(r.intruder.gap)),
    ("alpha", lambda r: _alpha(r)),
    ("on data: effective (random)", lambda r: _on_data(r.on_data_effective, r.random.on_data_effective_of_random)),
    (
        "participation (random)",
        lambda r: _on_data(r.on_data_participation, r.random.on_data_participation_of_random),
    ),
    ("share of the output (random)", lambda r: _on_data(r.on_data_share, r.random.on_data_share_of_random)),
)
"""All of it; what no matrix has is left out."""


def printed(result: WeightReport, printing: options.Printing, *, full: bool) -> Callable[[], None]:
    """What prints the weights: one row a matrix, or with ``full`` every number; and the notes of the records."""
    return lambda: _table(result, printing, full=full)


def _table(result: WeightReport, printing: options.Printing, *, full: bool) -> None:
    from rankscope.results.weight_glance import columns_with_values, glance_at_weights

    records, small = result.records, glance_at_weights(result)
    if full:
        chosen = columns_with_values(_FULL, records)
        lines = [[r.module, *(of(r) for _, of in chosen)] for r in records]
        show.table(small.title, ["module", *(name for name, _ in chosen)], lines)
    else:
        _glance(small)
    said = Counter(text for record in records for text in record.notes)
    printing.notes(f"{count} of {len(records)}: {text}" for text, count in said.items())


def _glance(small: Glance) -> None:
    """The small table; where it does not fit, without the path that all modules are below."""
    title, lines = small.title, small.rows
    shared = _shared([module for module, *_ in lines])
    if shared and not show.fits(small.columns, lines):
        title = f"{title}, below {shared}"
        lines = tuple((name.removeprefix(f"{shared}."), *cells) for name, *cells in lines)
    show.paragraphs([title])
    show.plain(small.columns, lines)
    if small.below:
        legend, *noise = small.below
        show.paragraphs([f"{legend} --full has every number, the gap that angles depend on among them.", *noise])


def _shared(names: Sequence[str]) -> str:
    """The path that all modules are below."""
    parents = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, parents))


def _beside(value: float | None, of_noise: float | None) -> str:
    return show.number(value) + ("" if of_noise is None else f" ({show.number(of_noise)})")


def _on_data(estimate: Estimate, random: float | None) -> str:
    return show.interval(estimate) + ("" if random is None else f" ({show.number(random)})")


def _alpha(r: WeightRecord) -> str:
    from rankscope.results.weight_glance import alpha

    return alpha(r)
