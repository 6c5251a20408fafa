"""Planted answers through the whole pipeline: out of a module by hooks, into a store, read back, compared.

The first nine scenarios are the dissociation table (:mod:`rankscope.selftest.planted`): a reshaped spectrum, a turned basis,
lost information and a drifted mean come apart, and no single measure distinguishes them all. The others are a known rank,
and inputs that must not fool a comparison. Then every measure is asked (:mod:`rankscope.selftest.every`), and intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rankscope.analysis.compare import compare
from rankscope.collecting.collect import collect
from rankscope.errors import NotComparable, UnknownName
from rankscope.progress import Progress, silent
from rankscope.results.runs import PairRecord
from rankscope.selftest.answer import Answer
from rankscope.selftest.every import DRAWS, EVERY, draws, every_measure
from rankscope.selftest.planted import CONTROLS, DISSOCIATION, SCENARIOS, SCORED, plant
from rankscope.store import Run, open_run

COLUMNS = (*SCORED, "drift")
"""The measures of the table: two of the spectrum, one of the basis, two of alignment, two of information, one of drift."""
OF_THE_TUNED_RUN = ("entropy-rank", "participation-ratio")
"""Those that are numbers of one run; the table shows them in the tuned one."""
TOLERANCES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "entropy-rank": (0.04, 0.15),
        "participation-ratio": (0.09, 0.05),
        "variance-captured": (0.0, 0.012),
        "cka": (0.0, 0.035),
        "procrustes": (0.0, 0.02),
        "recoverable-components": (0.0, 0.5),
        "recoverability": (0.0, 0.015),
        "drift": (0.05, 0.001),
    }
)
"""By measure, the share of the expected value and what is added to it: the expected values are of one draw of 4096 rows,
and those measured are of another."""
GROUPS = 4
"""Groups of samples in each comparison; only values are looked at, so the fewest that cross-fitting takes."""


@dataclass(frozen=True)
class Selftest:
    """All answers."""

    answers: tuple[Answer, ...]
    """The dissociation table first, row by row, then the others."""

    @property
    def wrong(self) -> tuple[Answer, ...]:
        """Those outside their tolerance."""
        return tuple(a for a in self.answers if not a.right)

    def to_records(self) -> list[dict[str, Any]]:
        """The answers as plain dictionaries."""
        return [{**asdict(a), "right": a.right} for a in self.answers]


class Ask(NamedTuple):
    """One comparison of a scenario's two runs, and its right values."""

    scenario: str
    expected: Mapping[str, float]
    variant: str = "raw"
    refuses: bool = False


_DRIFTS = {"identical": 0.0, "independent noise added": 1.0, "independent features": 2.0, "mean shift": 9.0}
"""What the drift E‖y − x‖²/tr S is by construction, where that is a round number."""


def questions() -> tuple[Ask, ...]:
    """The comparisons of every scenario: the dissociation table, then the controls."""
    table = [
        Ask(s.name, {**s.expected, **({"drift": _DRIFTS[s.name]} if s.name in _DRIFTS else {})}) for s in DISSOCIATION
    ]
    untouched = {k: v for k, v in DISSOCIATION[0].expected.items() if k in ("entropy-rank", "cka", "recoverability")}
    padded = {"entropy-rank": 72.2, "cka": 0.0, "recoverable-components": 0.0}
    traps = (
        Ask("duplicated rows", padded, refuses=True),
        Ask("duplicated rows", padded, variant="distinct"),
        Ask("one sink", {"entropy-rank": 1.0, "cka": 0.0}),
        Ask("one sink", untouched, variant="sinks-dropped"),
    )
    plain = [Ask(s.name, s.expected) for s in CONTROLS if s.expected]
    return (*table, *plain, *traps)


def run(scenarios: Sequence[str] | None = None, *, progress: Progress = silent) -> Selftest:
    """Put the planted answers through the whole pipeline, in a folder that is thrown away.

    Args:
        scenarios: the names of some; by default all.
        progress: called with the scenarios done, their number and the one at hand.

    Returns:
        The value of every measure and the right one.

    Raises:
        UnknownName: if there is no such scenario.
    """
    there_are = (*SCENARIOS, EVERY, DRAWS)
    unknown = [name for name in scenarios or () if name not in there_are]
    if unknown:
        raise UnknownName(f"there is no planted scenario {unknown[0]!r}; the scenarios are {', '.join(there_are)}")
    found: list[Answer] = []
    with TemporaryDirectory() as folder:
        asked: list[tuple[str, Callable[[], Iterable[Answer]]]] = [
            *((q.scenario, partial(_answers, q, Path(folder))) for q in questions()),
            (EVERY, partial(every_measure, Path(folder))),
            (DRAWS, draws),
        ]
        asked = [one for one in asked if scenarios is None or one[0] in scenarios]
        for done, (name, answers) in enumerate(asked):
            progress(done, len(asked), name)
            found += answers()
    progress(len(asked), len(asked), "done")
    return Selftest(tuple(found))


def _answers(question: Ask, folder: Path) -> Iterator[Answer]:
    planted = plant(question.scenario)
    base, tuned = _collected(planted.x, "base", folder), _collected(planted.y, "tuned", folder)
    values: dict[str, float | None] = dict.fromkeys(question.expected)
    said = ""
    try:
        result = compare(base, tuned, measures=list(question.expected), groups=GROUPS, variant=question.variant)
        values = {r.measure: _value(r) for r in result.records}
    except NotComparable as refusal:
        said = str(refusal)
    suffix = "" if question.variant == "raw" else f" ({question.variant})"
    for measure, expected in question.expected.items():
        relative, absolute = TOLERANCES[measure]
        tolerance, answer = relative * abs(expected) + absolute, None if question.refuses else expected
        truth = SCENARIOS[question.scenario].answer
        yield Answer(question.scenario, truth, measure + suffix, values[measure], answer, tolerance, said)


def _value(record: PairRecord) -> float | None:
    return record.b.value if record.measure in OF_THE_TUNED_RUN else record.value


def _collected(x: Tensor, name: str, folder: Path) -> Run:
    """The run of a module that gives these rows for their numbers; the base, which most scenarios share, is collected once."""
    rows = x.float()
    out = folder / f"{name}-{sha256(rows.numpy().tobytes()).hexdigest()}.pt"
    if out.exists():
        return open_run(out)
    return collect(nn.Sequential(nn.Embedding.from_pretrained(rows)), torch.arange(len(rows)), out=out, name=name)
