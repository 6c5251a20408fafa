"""``rankscope compare --arm``: several runs of each recipe, named with a pattern."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rankscope.cli import show
from rankscope.errors import UsageError

if TYPE_CHECKING:
    from rankscope.results.arms import ArmContrast, ArmRecord


def named_arms(texts: Sequence[str]) -> dict[str, list[Path]]:
    """``lora=lora-s*.pt`` and its like as name → paths in order; several patterns by comma, or the name given again.

    Raises:
        UsageError: if a text has no name, or nothing matches its pattern.
    """
    found: dict[str, list[Path]] = {}
    for text in texts:
        name, equals, patterns = text.partition("=")
        if not (name and equals and patterns):
            raise UsageError(f"an arm is written name=pattern, e.g. lora=lora-s*.pt; got {text!r}")
        for pattern in patterns.split(","):
            anchor = Path(pattern).anchor
            paths = sorted(Path(anchor).glob(pattern.removeprefix(anchor)))
            if not paths:
                raise UsageError(f"nothing matches {pattern!r}, the pattern for the runs of arm {name!r}")
            found.setdefault(name, []).extend(paths)
    return found


def every_record(result: ArmContrast) -> None:
    """Print the numbers of each arm and of each pair of arms, then the verdict at every site."""
    first = result.records[0]
    against = f", against {result.base}" if result.base else ""
    runs = ", ".join(f"{arm} ({len(names)} runs)" for arm, names in result.arms.items())
    title = f"{runs}{against}; {result.level:.0%} intervals over seeds and {first.shape.samples} samples, bands over all sites"
    columns = ["site", "measure", "arm", "value", "band", "p", "seed sd", "sample se", "floor", "equivalent"]
    show.table(title, columns, [_line(r) for r in result.records])
    if result.verdicts:
        lines = [[site, arm, v.word, v.why] for (site, arm), v in result.verdicts.items()]
        show.table("Verdicts", ["site", "arm", "verdict", "because"], lines)


def _line(r: ArmRecord) -> list[str]:
    e = r.equivalence
    same = "–" if e.equivalent is None else f"{'yes' if e.equivalent else 'no'} (p {show.number(e.p_equivalent)})"
    numbers = [show.number(x) for x in (r.p, r.errors.seed_sd, r.errors.sample_se, e.floor)]
    return [r.site, r.measure, r.arm, show.interval(r.estimate), show.band(r.band), *numbers, same]
