"""What a recipe is: its stages and their options, as plain data; :mod:`rankscope.tuning.recipes` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from rankscope.tuning.kinds import KINDS, require

SCST = "scst"
"""The stage that attaches nothing and rewards whole captions."""
Objective = Literal["cross-entropy", "scst"]
Precision = Literal["float32", "bf16", "fp16"]
Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"
]  # fmt: skip
"""The course of the learning rate over the steps of a stage; all but ``constant`` start with the warm-up."""


@dataclass(frozen=True)
class ScstOptions:
    """Self-critical sequence training."""

    samples: int = 5
    """Number of captions sampled for each image."""
    temperature: float = 1.0
    """Temperature at which captions are sampled."""
    max_new_tokens: int = 48
    """Maximum tokens per sampled caption."""

    def __post_init__(self) -> None:
        require(min(self.samples, self.max_new_tokens) >= 1, "SCST samples at least 1 caption of at least 1 token")
        require(self.temperature > 0, f"the temperature must be above 0; got {self.temperature}")


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe."""

    attach: tuple[str, ...]
    """The kinds that it attaches; none in a stage that only changes the objective."""
    train: tuple[str, ...]
    """The kinds that it trains, of all that are attached so far."""
    learning_rate: float
    """Peak learning rate; depends on the kind and the stage if not given."""
    objective: Objective = "cross-entropy"
    """What is minimised."""
    schedule: Schedule = "linear"
    """Learning-rate schedule, by transformers' name (linear, cosine, constant, …)."""
    warmup: float = 0.06
    """Share of the steps over which the learning rate rises from 0."""
    epochs: float = 3.0
    """Passes over the data."""
    steps: int = 0
    """Optimiser steps, instead of epochs; 0 to go by epochs."""
    batch_size: int = 16
    """Samples per batch on each device."""
    accumulation: int = 1
    """Batches per optimiser step."""
    weight_decay: float = 0.0
    """Weight decay (AdamW's)."""
    max_grad_norm: float = 1.0
    """Norm to which gradients are clipped; 0 for no clipping."""

    def __post_init__(self) -> None:
        least = min(self.learning_rate, self.weight_decay, self.max_grad_norm)
        require(least >= 0, f"learning rate, weight decay and gradient norm cannot be negative; got {least}")
        counts = self.batch_size >= 1 and self.accumulation >= 1 and self.steps >= 0
        require(
            counts and (self.epochs > 0 or self.steps > 0),
            "a stage needs a batch size of at least 1, and epochs above 0 or steps",
        )
        require(0 <= self.warmup < 1, f"the warm-up must be a share of the steps, in [0, 1); got {self.warmup}")
        require_one_of(Schedule, self.schedule, "schedule")

    @property
    def name(self) -> str:
        """What it is called: ``prefix``, ``prefix+lora``, ``scst``."""
        return "+".join(self.attach) or self.objective


class Group(NamedTuple):
    """A group of options that share the beginning of their names."""

    title: str
    """Its heading on the command line."""
    options: type[Any]
    """The dataclass of its options."""


GROUPS = {name: Group(kind.title, kind.options) for name, kind in KINDS.items()} | {SCST: Group("SCST", ScstOptions)}
"""The groups of options by the beginning of their names: ``lora`` has ``lora_rank``."""


@dataclass(frozen=True)
class Recipe:
    """How a base is tuned."""

    stages: tuple[Stage, ...]
    """The stages, in order."""
    method: str = ""
    """What was asked for: a method or a list of stages."""
    freeze_prefix: bool = False
    """Whether later stages keep the prefix fixed."""
    precision: Precision = "float32"
    """Precision: float32, or bf16 or fp16 for mixed precision."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass to save memory; refused with a prefix in a decoder."""
    max_length: int = 0
    """Maximum tokens per text, longer ones are refused; 0 for as many as the model has positions."""
    keep_epochs: bool = False
    """Whether the model at the end of each epoch is kept as a checkpoint of its own."""
    save_steps: int = 0
    """Optimiser steps between saved states, from which an interrupted run continues; 0 for once per epoch."""
    options: Mapping[str, Any] = field(
        default_factory=lambda: {name: group.options() for name, group in GROUPS.items()}
    )
    """The options of each group: an instance of its dataclass."""

    def __post_init__(self) -> None:
        require(min(self.max_length, self.save_steps) >= 0, "max_length and save_steps cannot be negative")
        require_one_of(Precision, self.precision, "precision")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, everything spelled out; each group of options under its own name."""
        plain = asdict(self)
        groups = plain.pop("options")
        return plain | groups


def require_one_of(choices: Any, value: str, what: str) -> None:
    """Refuse a value that is none of a Literal's.

    Raises:
        UsageError: if it is none of them; the message lists them.
    """
    known = get_args(choices)
    require(value in known, f"there is no {what} {value!r}; choose {', '.join(known)}")
