"""What an analysis of weights returns: a record per matrix, and the spectra behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rankscope.results.record import NO_ESTIMATE, Estimate, Record, Table


@dataclass(frozen=True)
class Ranks:
    """Ranks of a change, of learnt rows, or of a matrix that was not tuned; none of them centred."""

    rank: float | None
    """Numerical rank."""
    effective: float | None
    """Effective rank (Roy & Vetterli), or effective number of rows."""
    stable: float | None
    """Stable rank."""


@dataclass(frozen=True)
class Size:
    """How large a change is beside the pre-trained weights; None where there is no change or the weights are zero."""

    leading: float | None = None
    """The largest singular value of the change over that of the pre-trained weights."""
    size: float | None = None
    """The Frobenius norm of the change over that of the pre-trained weights."""


@dataclass(frozen=True)
class IntruderCount:
    """Intruder dimensions, beside what noise makes of them; None where nothing was tuned or no noise was drawn."""

    intruders: float | None = None
    """Leading singular vectors of the tuned weights that the pre-trained ones do not have."""
    intruders_of_noise: float | None = None
    """As many as full-rank noise of the size of the change makes, on average over the draws."""
    intruders_of_noise_most: float | None = None
    """The most that one draw made."""
    gap: float | None = None
    """The median relative gap of the leading singular values: where it is small, any change turns their vectors."""


@dataclass(frozen=True)
class Moved:
    """What the change did to the weights, beside what noise of its size does on average; None where nothing was tuned, no noise
    was drawn, or the number does not exist. The weights are known in full, so that nothing is sampled and there is no interval."""

    spectral_shift: float | None = None
    """The distance between the spectra of the tuned and of the pre-trained weights over the size of the latter."""
    spectral_shift_of_noise: float | None = None
    """That of noise."""
    rotation_left: float | None = None
    """The mean angle, in degrees, by which the leading left singular vectors (directions of the outputs) turned together."""
    rotation_left_of_noise: float | None = None
    """That of noise."""
    rotation_right: float | None = None
    """The same of the right ones (directions of the inputs)."""
    rotation_right_of_noise: float | None = None
    """That of noise."""
    edge: float | None = None
    """The relative gap behind the last of the leading singular values: where it is small any change turns them, where it is 0
    they are not defined."""
    bf16_moved: float | None = None
    """The share of weights that differ once rounded to bfloat16."""
    bf16_moved_of_noise: float | None = None
    """That of noise."""


@dataclass(frozen=True)
class TailFit:
    """The power-law tail of the eigenvalues of the tuned (or untuned) weights; None with too few eigenvalues."""

    alpha: float | None = None
    """The exponent."""
    alpha_error: float | None = None
    """Its standard error."""
    alpha_before: float | None = None
    """The exponent of the pre-trained weights, where they were tuned."""
    tail: float | None = None
    """Number of eigenvalues in the tail."""


@dataclass(frozen=True)
class Reoriented:
    """What a change of the same singular values and random orientation does to the inputs of its module; None where no data were
    read, or nothing was drawn."""

    on_data_effective_of_random: float | None = None
    """The effective rank, on average over the draws."""
    on_data_participation_of_random: float | None = None
    """The participation ratio, on average over the draws."""
    on_data_share_of_random: float | None = None
    """The expected share of the output, in closed form."""
    on_data_rows: int | None = None
    """Inputs that were read: tokens, patches."""
    on_data_samples: int | None = None
    """Samples that they came from, the unit of the intervals."""


@dataclass(frozen=True)
class WeightRecord(Record):
    """One weight matrix and its change, or the rows that a prefix or prompt learnt for one place."""

    module: str
    """The module that holds the matrix, or the place of the rows (``decoder.3.keys``)."""
    kind: str
    """``lora``, ``full``, the kind of another adapter, or of earlier ones joined by ``+``; empty where the matrix was not tuned."""
    m: int
    """Outputs of the matrix, or number of learnt rows."""
    n: int
    """Inputs of the matrix, or width of the rows."""
    ranks: Ranks
    """Ranks of the change, of the rows, or of the matrix."""
    relative: Size = Size()
    """Size of the change."""
    intruder: IntruderCount = IntruderCount()
    """Intruder dimensions of the tuned weights."""
    moved: Moved = Moved()
    """Shift of the spectrum, rotation of the leading subspaces, and what bfloat16 shows of the change."""
    tail: TailFit = TailFit()
    """The power-law tail."""
    on_data_effective: Estimate = NO_ESTIMATE
    """The effective rank (Roy & Vetterli) of what the change adds to the outputs, on data: of ΔW·Σ^½, Σ the uncentred second
    moment of the module's inputs in the base. None where no data were read."""
    on_data_participation: Estimate = NO_ESTIMATE
    """The participation ratio of the same."""
    on_data_share: Estimate = NO_ESTIMATE
    """The size of what the change adds to the outputs, ‖ΔW·Σ^½‖², over that of the outputs, ‖W·Σ^½‖²."""
    random: Reoriented = Reoriented()
    """The same numbers of a change of random orientation, and what was read."""
    dtype: str = ""
    """The dtype in which the weights are stored; the arithmetic is float64."""
    convention: str = ""
    """How the numbers were computed; ``rankscope definitions`` has the formulas."""
    notes: tuple[str, ...] = ()
    """Why a number is missing."""
    checkpoint: str = ""
    """The name of the checkpoint."""


@dataclass(frozen=True, repr=False)
class WeightReport(Table[WeightRecord]):
    """The weights of a checkpoint: a record per matrix, or per place with learnt rows."""

    spectra: Mapping[str, Tensor] = field(default_factory=dict)
    """Module → the singular values of its change, of its rows, or of the untuned matrix, descending, float64."""
    name: str = ""
    """The name of the checkpoint."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to the whole."""

    def _size(self) -> str:
        return f"{len(self.records)} matrices or places of learnt rows of {self.name}"
