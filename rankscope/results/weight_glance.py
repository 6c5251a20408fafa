"""The weights of a checkpoint at a glance: one row a matrix, few columns, for terminals of 80 columns and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rankscope.results.glance import Glance
from rankscope.results.record import Estimate
from rankscope.results.weights import WeightRecord, WeightReport

Column = tuple[str, Callable[[WeightRecord], str]]
"""The head of a column, and what it has of a matrix; a dash where there is nothing."""


def glance_at_weights(result: WeightReport) -> Glance:
    """The small table of a checkpoint's weights, without the columns that no matrix has, and the mean over what noise makes of each."""
    records = result.records
    on_data = any(r.random.on_data_rows for r in records)
    tuned = any(r.relative.size is not None for r in records)
    offered = _ON_DATA if on_data else _SMALL if tuned else _UNTUNED
    columns = columns_with_values(offered, records)
    noise = "" if on_data else _noise(records)
    below = [_BELOW_ON_DATA if on_data else _BELOW] if tuned else []
    below += [f"Noise of the size of each change, on average: {noise}."] if noise else []
    rows = tuple((r.module, *(of(r) for _, of in columns)) for r in records)
    return Glance(
        f"{result.name}: weight changes and learnt rows",
        ("module", *(name for name, _ in columns)),
        rows,
        tuple(below),
    )


def columns_with_values(offered: Sequence[Column], records: Sequence[WeightRecord]) -> list[Column]:
    """The columns in which some matrix has something."""
    return [column for column in offered if any(column[1](r) != "–" for r in records)]


def alpha(r: WeightRecord) -> str:
    """The exponent of the tail with its standard error, and that of the pre-trained weights; a dash where there is none."""
    before = "" if r.tail.alpha_before is None else f", before {r.tail.alpha_before:.4g}"
    return "–" if r.tail.alpha is None else f"{r.tail.alpha:.4g} ± {r.tail.alpha_error:.4g}{before}"


def _short(value: float | None) -> str:
    """Three significant digits; a dash where there is no value."""
    return "–" if value is None else f"{value:.3g}"


def _between(estimate: Estimate) -> str:
    return _short(estimate.value) + (
        "" if estimate.low is None else f" [{_short(estimate.low)}, {_short(estimate.high)}]"
    )


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
_UNTUNED: tuple[Column, ...] = (*_SMALL[:1], ("alpha", alpha))
"""The same of a model that was not tuned."""
_BELOW = (
    "effective: effective rank of the change; size: |ΔW|/|W|; shift: of the spectrum; left°, right°: mean angle by which the leading "
    "singular vectors turned."
)
_BELOW_ON_DATA = (
    "on data: effective rank of what the change adds to the outputs (ΔW Σ^½), with its interval; output: its share of the output, "
    "|ΔW Σ^½|²/|W Σ^½|²; random: of the same change in random orientation."
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
