"""What an analysis of weights returns: a record a matrix, and the spectra that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rankscope.results.record import NOTHING, Table


@dataclass(frozen=True)
class Weighed:
    """One weight matrix and its change, or the rows that a prefix or prompt learnt for one place."""

    module: str
    """The module that holds the matrix, or the place of the rows (``decoder.3.keys``)."""
    kind: str
    """``lora``, ``full``, the kind of another adapter; nothing where the matrix was not tuned."""
    m: int
    """Outputs of the matrix, or rows that were learnt."""
    n: int
    """Inputs of the matrix, or the width of the rows."""
    rank: float = NOTHING
    """The numerical rank of the change, of the rows, or of a matrix that was not tuned; and so the next two."""
    effective: float = NOTHING
    """The effective rank of the change (Roy & Vetterli), or the effective number of rows: both not centred."""
    stable: float = NOTHING
    """The stable rank of the same."""
    leading: float = NOTHING
    """The largest singular value of the change over that of the pre-trained weights."""
    size: float = NOTHING
    """The Frobenius norm of the change over that of the pre-trained weights."""
    intruders: float = NOTHING
    """Leading singular vectors of the tuned weights that the pre-trained ones do not have."""
    intruders_of_noise: float = NOTHING
    """As many as full-rank noise of the size of the change makes, on average over the draws."""
    intruders_of_noise_most: float = NOTHING
    """The most that a draw made."""
    gap: float = NOTHING
    """The median relative gap of the leading singular values: where it is small any change turns their vectors."""
    alpha: float = NOTHING
    """The exponent of the power-law tail of the eigenvalues of the tuned (or untuned) weights."""
    alpha_error: float = NOTHING
    """Its standard error."""
    alpha_before: float = NOTHING
    """The exponent of the pre-trained weights."""
    tail: float = NOTHING
    """The eigenvalues in the tail."""
    dtype: str = ""
    """The dtype in which the weights lie; all is computed in float64."""
    convention: str = ""
    """How the numbers were computed; ``rankscope definitions`` has the formulas."""
    note: str = ""
    """What must be said beside the numbers."""


@dataclass(frozen=True)
class WeightReport(Table):
    """The weights of a checkpoint, matrix by matrix."""

    records: tuple[Weighed, ...]
    """One record a matrix, or a place with learnt rows."""
    spectra: Mapping[str, Tensor] = field(default_factory=dict)
    """Module → the singular values of its change, of its rows, or of the untuned matrix, descending, float64."""
    name: str = ""
    """The name of the checkpoint."""
    notes: tuple[str, ...] = ()
    """What must be said beside the whole."""
