"""What a package can add to rankscope, one of each kind; ``pyproject.toml`` beside it names them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rankscope import Comparison, Definition
from rankscope.data.intake import Intake
from rankscope.data.probes import Example
from rankscope.linalg.moments import PairMoments
from rankscope.models.family import Family, StackSpec


def tail_share(s: Tensor) -> Tensor:
    """Share of the variance outside the leading direction: ``(*, r)`` singular values to ``(*,)``; 0 for a zero matrix."""
    energy = s.double() ** 2
    whole = energy.sum(-1)
    return (energy[..., 1:].sum(-1) / whole).where(whole > 0, 0.0)


TAIL_SHARE = Definition(
    name="tail-share",
    function=tail_share,
    formula="1 − σ₁² / Σ σᵢ²",
    citation="an example",
    high="1",
    most=1.0,
    bias="low from few rows, whose leading direction takes up noise",
    unit="",
)


def top_share(s: Tensor) -> Tensor:
    """Share of the variance in the leading direction. A plain function will do where nothing else is known of the number."""
    return 1 - tail_share(s)


def mean_angle(pair: PairMoments) -> Tensor:
    """Cosine between the mean rows of two runs, 0 where one of them is zero."""
    a, b = pair.a.mean, pair.b.mean
    lengths = a.norm(dim=-1) * b.norm(dim=-1)
    return ((a * b).sum(-1) / lengths).where(lengths > 0, 0.0)


MEAN_ANGLE = Comparison(
    name="mean-angle",
    function=mean_angle,
    formula="⟨m_a, m_b⟩ / (‖m_a‖ ‖m_b‖)",
    citation="an example",
    low="-1",
    high="1",
    least=-1.0,
    most=1.0,
    bias="none to first order",
    noise="about 0, within 1/√d",
    same_width=True,
    centred=None,
)

EXAMPLE_GPT = Family((StackSpec("poet", "h", "ln_f"),))


def read_verse(path: Path, intake: Intake) -> list[Example]:
    """One example a verse: verses are divided by an empty line. A verse without words is a fault."""
    verses = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
    for number, verse in enumerate(verses, start=1):
        if not verse.strip():
            intake.fault("verse without words", f"{path}, verse {number}")
    return [Example(f"verse {i}", verse.replace("\n", " ")) for i, verse in enumerate(verses, start=1)]
