"""What a recipe is: its stages and their options, as plain data; :mod:`rankscope.tuning.recipes` writes them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rankscope.errors import UsageError

KINDS = ("prefix", "lora", "adapter", "full")
"""What a stage can attach; ``full`` attaches nothing and trains the base's own weights."""
SCST = "scst"
"""The stage that attaches nothing and rewards whole captions."""
Objective = Literal["cross-entropy", "scst"]
SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup",
)  # fmt: skip
"""How a rate can go over the steps of a stage; all but ``constant`` start with the warm-up."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


@dataclass(frozen=True)
class PrefixOptions:
    """The prefix."""

    length: int = 16
    """Rows."""
    projection: bool = True
    """Whether a network makes the rows (the prefix encoder)."""
    embedding: int = 0
    """Width of what enters the network; 0 for the stack's own."""
    hidden: int = 0
    """Width of its hidden layers; 0 for that of what enters."""
    depth: int = 2
    """Its linear layers."""
    dropout: float = 0.1
    """Dropout before its last layer, which keeps rows apart."""
    init: str = "random"
    """What the rows start as: random, or tokens (the keys and values of tokens of the task)."""
    init_std: float = 1.0
    """Spread of what enters it at the start."""
    stacks: tuple[str, ...] = ()
    """The stacks in which a prefix stands; those that read text unless given."""

    def __post_init__(self) -> None:
        _require(self.init in ("random", "tokens"), f"a prefix starts as random or tokens; got {self.init!r}")


@dataclass(frozen=True)
class LoraOptions:
    """LoRA."""

    rank: int = 8
    """Rank of each update."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the update."""
    targets: tuple[str, ...] = ()
    """Endings of module paths; the query, key and value maps of every attention unless given."""
    stacks: tuple[str, ...] = ()
    """The stacks in which targets are sought; those that read text unless given."""

    def __post_init__(self) -> None:
        _require(self.rank >= 1, f"LoRA has a rank of at least 1; got {self.rank}")
        _require(self.alpha > 0, f"LoRA's alpha is above 0; got {self.alpha}")
        _require(0 <= self.dropout < 1, f"LoRA's dropout lies in [0, 1); got {self.dropout}")


@dataclass(frozen=True)
class AdapterOptions:
    """The bottleneck adapter."""

    size: int = 16
    """Dimensions inside."""
    function: str = "gelu"
    """The function between down and up."""
    dropout: float = 0.0
    """Dropout before the way up."""
    scaling: float = 1.0
    """Factor on what is added."""
    targets: tuple[str, ...] = ()
    """Endings of module paths; the last map of attention and of feed-forward unless given."""
    stacks: tuple[str, ...] = ()
    """The stacks in which targets are sought; those that read text unless given."""

    def __post_init__(self) -> None:
        _require(0 <= self.dropout < 1, f"the adapter's dropout lies in [0, 1); got {self.dropout}")


@dataclass(frozen=True)
class FullOptions:
    """Full fine-tuning."""

    stacks: tuple[str, ...] = ()
    """The stacks whose weights are trained; all weights of the model unless given."""


@dataclass(frozen=True)
class ScstOptions:
    """Self-critical sequence training."""

    samples: int = 5
    """Captions sampled for each image."""
    temperature: float = 1.0
    """Temperature of the samples."""
    max_new_tokens: int = 48
    """The longest caption, in tokens."""

    def __post_init__(self) -> None:
        _require(min(self.samples, self.max_new_tokens) >= 1, "SCST samples at least 1 caption of at least 1 token")
        _require(self.temperature > 0, f"a temperature is above 0; got {self.temperature}")


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe."""

    attach: tuple[str, ...]
    """What is attached: some of :data:`KINDS`; nothing in a stage that only changes the objective."""
    train: tuple[str, ...]
    """What is trained, of all that is attached so far."""
    learning_rate: float
    """The highest rate."""
    objective: Objective = "cross-entropy"
    """What is minimised."""
    schedule: str = "linear"
    """How the rate falls, by transformers' name (linear, cosine, constant)."""
    warmup: float = 0.06
    """Share of the steps in which the rate rises."""
    epochs: float = 3.0
    """Passes over the data."""
    steps: int = 0
    """Optimiser steps, instead of epochs; 0 to count epochs."""
    batch_size: int = 16
    """Samples in a batch on each device."""
    accumulation: int = 1
    """Batches in an optimiser step."""
    weight_decay: float = 0.0
    """Weight decay (AdamW's)."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it; 0 to leave them."""

    def __post_init__(self) -> None:
        least = min(self.learning_rate, self.weight_decay, self.max_grad_norm)
        _require(least >= 0, f"rates, decay and the longest gradient are not negative; got {least}")
        whole = self.batch_size >= 1 and self.accumulation >= 1 and self.steps >= 0
        _require(
            whole and (self.epochs > 0 or self.steps > 0),
            "a stage needs a batch of at least 1 and something to do: epochs above 0, or steps",
        )
        _require(0 <= self.warmup < 1, f"the warm-up is a share of the steps, in [0, 1); got {self.warmup}")
        _require(self.schedule in SCHEDULES, f"there is no schedule {self.schedule!r}; there is {', '.join(SCHEDULES)}")

    @property
    def name(self) -> str:
        """What it is called: ``prefix``, ``prefix+lora``, ``scst``."""
        return "+".join(self.attach) or self.objective


@dataclass(frozen=True)
class Recipe:
    """How a base is tuned."""

    stages: tuple[Stage, ...]
    """The stages, in order."""
    method: str = ""
    """What was asked for: a method or a list of stages."""
    freeze_prefix: bool = False
    """Whether later stages leave the prefix as the first one ended it."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """float32, or mixed precision."""
    gradient_checkpointing: bool = False
    """Trade time for memory; refused with a prefix in a decoder."""
    max_length: int = 0
    """Texts longer than this many tokens are refused; 0 for what the model's positions hold."""
    keep_epochs: bool = False
    """Whether the model at the end of each epoch is kept, as a checkpoint of its own."""
    save_steps: int = 0
    """Optimiser steps between the states from which a killed run continues; 0 for once an epoch."""
    prefix: PrefixOptions = field(default_factory=PrefixOptions)
    """The prefix."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """LoRA."""
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    """The bottleneck adapter."""
    full: FullOptions = field(default_factory=FullOptions)
    """Full fine-tuning."""
    scst: ScstOptions = field(default_factory=ScstOptions)
    """Self-critical sequence training."""

    def __post_init__(self) -> None:
        _require(min(self.max_length, self.save_steps) >= 0, "max_length and save_steps are not negative")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, everything spelled out."""
        return asdict(self)


GROUPS: dict[str, type[Any]] = {
    "prefix": PrefixOptions, "lora": LoraOptions, "adapter": AdapterOptions, "full": FullOptions, "scst": ScstOptions,
}  # fmt: skip
