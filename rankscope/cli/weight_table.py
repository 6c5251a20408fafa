"""How the weights of a checkpoint are printed: a small table of what matters first, or every number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from rankscope.cli import options, show

if TYPE_CHECKING:
    from rankscope.results.record import Estimate
    from rankscope.results.weights import WeightRecord, WeightReport

Column = tuple[str, Callable[["WeightRecord"], str]]

_SMALL: tuple[Column, ...] = (
    ("effective", lambda r: _short(r.ranks.effective)),
    ("size", lambda r: _short(r.relative.size)),
    ("shift", lambda r: _short(r.moved.spectral_shift)),
    ("left°", lambda r: _short(r.moved.rotation_left)),
    ("right°", lambda r: _short(r.moved.rotation_right)),
    ("intruders", lambda r: _short(r.intruder.intruders)),
)
"""What a row has of a matrix."""
_ON_DATA: tuple[Column, ...] = (
    *_SMALL[:2],
    ("on data", lambda r: _between(r.on_data_effective)),
    ("random", lambda r: _short(r.random.on_data_effective_of_random)),
    ("output", lambda r: _short(r.on_data_share.value)),
    ("random", lambda r: _short(r.random.on_data_share_of_random)),
)
"""The same with data."""
_UNTUNED: tuple[Column, ...] = (*_SMALL[:1], ("alpha", lambda r: _alpha(r)))
"""The same of a model that was not tuned."""
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
    records, title = result.records, f"{result.name}: weight changes and learnt rows"
    if full:
        chosen = [c for c in _FULL if any(c[1](r) != "–" for r in records)]
        show.table(title, ["module", *(name for name, _ in chosen)], [_line(r, r.module, chosen) for r in records])
    else:
        _glance(result, title)
    said = Counter(text for record in records for text in record.notes)
    printing.notes(f"{count} of {len(records)}: {text}" for text, count in said.items())


def _glance(result: WeightReport, title: str) -> None:
    """One row a matrix, and the mean over what noise makes of each."""
    records = result.records
    on_data = any(r.random.on_data_rows for r in records)
    tuned = any(r.relative.size is not None for r in records)
    chosen = [
        c for c in (_ON_DATA if on_data else _SMALL if tuned else _UNTUNED) if any(c[1](r) != "–" for r in records)
    ]
    columns, names = ["module", *(name for name, _ in chosen)], [r.module for r in records]
    lines = [_line(r, r.module, chosen) for r in records]
    shared = _shared(names)
    if shared and not show.fits(columns, lines):
        title = f"{title}, below {shared}"
        lines = [[name.removeprefix(f"{shared}."), *line[1:]] for name, line in zip(names, lines, strict=True)]
    show.paragraphs([title])
    show.plain(columns, lines)
    if tuned:
        show.paragraphs([_BELOW_ON_DATA if on_data else _BELOW])
    if (noise := _noise(records)) and not on_data:
        show.paragraphs([f"Noise of the size of each change, on average: {noise}."])


def _shared(names: Sequence[str]) -> str:
    """The path that all modules are below."""
    parents = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, parents))


_BELOW = (
    "effective: effective rank of the change; size: |ΔW|/|W|; shift: of the spectrum; left°, right°: mean angle by which the leading "
    "singular vectors turned; --full has the gap that it depends on, and what noise does to each."
)
_BELOW_ON_DATA = (
    "on data: effective rank of what the change adds to the outputs (ΔW Σ^½), with its interval; output: its share of the output, "
    "|ΔW Σ^½|²/|W Σ^½|²; random: of the same change in random orientation. --full has all."
)


def _noise(records: Sequence[WeightRecord]) -> str:
    """What noise of the size of the change does, on average over the matrices."""
    found = {
        "shift {}": [r.moved.spectral_shift_of_noise for r in records],
        "left {}°": [r.moved.rotation_left_of_noise for r in records],
        "right {}°": [r.moved.rotation_right_of_noise for r in records],
        "intruders {}": [r.intruder.intruders_of_noise for r in records],
    }
    there = {text: [x for x in values if x is not None] for text, values in found.items()}
    return ", ".join(text.format(_short(sum(values) / len(values))) for text, values in there.items() if values)


def _line(record: WeightRecord, name: str, chosen: Sequence[Column]) -> list[str]:
    return [name, *(of(record) for _, of in chosen)]


def _short(value: float | None) -> str:
    """Three significant digits; a dash where there is no value."""
    return "–" if value is None else f"{value:.3g}"


def _between(estimate: Estimate) -> str:
    return _short(estimate.value) + (
        "" if estimate.low is None else f" [{_short(estimate.low)}, {_short(estimate.high)}]"
    )


def _beside(value: float | None, of_noise: float | None) -> str:
    return show.number(value) + ("" if of_noise is None else f" ({show.number(of_noise)})")


def _on_data(estimate: Estimate, random: float | None) -> str:
    return show.interval(estimate) + ("" if random is None else f" ({show.number(random)})")


def _alpha(r: WeightRecord) -> str:
    before = "" if r.tail.alpha_before is None else f", before {show.number(r.tail.alpha_before)}"
    return "–" if r.tail.alpha is None else f"{show.number(r.tail.alpha)} ± {show.number(r.tail.alpha_error)}{before}"
