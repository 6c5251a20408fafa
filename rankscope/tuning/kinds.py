"""The kinds of tuning: everything that is known of a kind is in its record in :data:`KINDS`.

A new kind is a dataclass of options, the functions that attach and save it, and its record; the names of methods, the options
in TOML files and on the command line, and what a stage trains all follow from the table. Its options also have to be written
into the signature and docstring of ``train``; a test says which lines are missing.

The command line reads the options from here before it does anything else, so heavy libraries are imported inside functions.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from rankscope.errors import UsageError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from torch import Tensor, nn

    from rankscope.models.tunings.bottleneck import BottleneckConfig
    from rankscope.models.tunings.prefix import Prefix
    from rankscope.models.tunings.prefix_start import Tokens

Options = TypeVar("Options")


def require(holds: bool, message: str) -> None:
    """Refuse an option with a message unless a condition holds.

    Raises:
        UsageError: if it does not.
    """
    if not holds:
        raise UsageError(message)


class Saving(NamedTuple):
    """How and where the tuning of one kind is saved."""

    folder: Path
    """An empty folder for it alone."""
    base: str
    """The base checkpoint, as PEFT records it."""
    head: dict[str, Tensor]
    """The trained classification head that is kept with it, by the names in the model; empty if another kind keeps it."""
    processor: Any
    """The tokenizer or processor, which goes with a whole model."""


@dataclass(frozen=True)
class Kind(Generic[Options]):
    """Everything that is known of one kind of tuning."""

    name: str
    """Its name in methods, stages and folders, and before its options: ``lora`` in ``lora_rank``."""
    title: str
    """The heading of its options on the command line."""
    options: type[Options]
    """The dataclass of its options."""
    learning_rate: float
    """The default learning rate of a first stage; if several kinds are trained at once the lowest holds."""
    mark: str
    """What the name of each of its parameters contains, after a dot; empty for the base's own."""
    attach: Callable[[nn.Module, Options, Iterable[Tokens] | None], object]
    """Attaches it in place, with weights drawn from torch's generator or, if the options say so, from samples."""
    trial: Callable[[nn.Module, Options, bool], AbstractContextManager[object]]
    """Raises if it does not fit the model, or gradient checkpointing if that is on. Inside the block it is attached if it
    takes positions from the text, and afterwards it is gone."""
    save: Callable[[nn.Module, Saving], object]
    """Writes it into a folder that PEFT, or transformers, opens."""
    begins: Callable[[nn.Module, Options], tuple[str, ...]] = lambda model, options: ("",)
    """The beginnings of the names of the parameters that it trains."""
    starts_as_nothing: bool = True
    """Whether the model computes the same just after it is attached."""
    head_rank: int = 0
    """The kind with the highest rank keeps a trained classification head; several of rank 0 cannot share one."""


# The prefix.


@dataclass(frozen=True)
class PrefixOptions:
    """The prefix."""

    length: int = 16
    """Length of the prefix."""
    projection: bool = True
    """Whether a network makes the rows (the prefix encoder)."""
    embedding: int = 0
    """Width of the embeddings that enter the network; 0 for heads × width of the stack."""
    hidden: int = 0
    """Width of the network's hidden layers; 0 for the width of the embeddings."""
    depth: int = 2
    """Number of the network's linear layers."""
    dropout: float = 0.1
    """Dropout before the network's last layer, which keeps rows apart."""
    init: Literal["random", "tokens"] = "random"
    """How the rows are initialised: random, or tokens (the keys and values of tokens of the task)."""
    init_std: float = 1.0
    """Initial standard deviation of the embeddings (of the rows, without a network)."""
    stacks: tuple[str, ...] = ()
    """Stacks that get a prefix; by default those that read text."""

    def __post_init__(self) -> None:
        require(self.length >= 1, f"a prefix must have at least 1 row; got {self.length}")
        require(self.init in ("random", "tokens"), f"a prefix starts as random or tokens; got {self.init!r}")


def _attach_prefix(model: nn.Module, options: PrefixOptions, samples: Iterable[Tokens] | None) -> Prefix:
    from rankscope.models.tunings.prefix import PrefixEncoder
    from rankscope.models.tunings.prefix_live import attach_prefix, new_prefix
    from rankscope.models.tunings.prefix_start import token_rows

    o, from_tokens = options, options.init == "tokens"
    encoder = PrefixEncoder(o.projection, o.embedding, o.hidden, o.depth, o.dropout, o.init_std, from_tokens)
    prefix = new_prefix(model, rows=o.length, stacks_in=o.stacks, encoder=encoder)
    if from_tokens and samples is not None:
        prefix.start_at(token_rows(model, prefix, samples))
    return attach_prefix(model, prefix)


@contextmanager
def _try_prefix(model: nn.Module, options: PrefixOptions, checkpointing: bool) -> Iterator[None]:
    from rankscope.models.stacks import stacks
    from rankscope.models.tunings.prefix_live import cached_owner, detach_prefix, no_checkpointing

    prefix = _attach_prefix(model, options, None)
    try:
        cached = [name for name in prefix.shapes if cached_owner(model, stacks(model), name) is not None]
        if checkpointing and cached:
            raise no_checkpointing(cached[0])
        yield
    finally:
        detach_prefix(model)


def _save_prefix(model: nn.Module, saving: Saving) -> None:
    from rankscope.models.tunings.prefix_files import HEAD, save_prefix
    from rankscope.models.tunings.prefix_live import prefix_of

    prefix = prefix_of(model)
    assert prefix is not None
    head = {f"{HEAD}{name}": tensor for name, tensor in saving.head.items()}
    save_prefix(prefix, saving.folder, model=model, base=saving.base, extra=head)


PREFIX = Kind(
    "prefix",
    "Prefix",
    PrefixOptions,
    learning_rate=5e-3,
    mark=".rankscope_prefix.",
    attach=_attach_prefix,
    trial=_try_prefix,
    save=_save_prefix,
    starts_as_nothing=False,
    head_rank=1,
)


# LoRA and bottleneck adapters, which PEFT injects into the base's own modules: the model that is called keeps its class, its
# ``generate`` and its loss. The adapter's name in PEFT is the name of the kind.


@dataclass(frozen=True)
class LoraOptions:
    """LoRA."""

    rank: int = 8
    """Rank of each update."""
    alpha: float = 16.0
    """Numerator of the scale of the update, alpha / rank."""
    dropout: float = 0.0
    """Dropout before the update."""
    targets: tuple[str, ...] = ()
    """Endings of module paths; by default the query, key and value projections of every attention."""
    stacks: tuple[str, ...] = ()
    """Stacks in which targets are looked for; by default those that read text."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"the rank of LoRA must be at least 1; got {self.rank}")
        require(self.alpha > 0, f"LoRA's alpha must be above 0; got {self.alpha}")
        require(0 <= self.dropout < 1, f"LoRA's dropout must lie in [0, 1); got {self.dropout}")


FUNCTIONS = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh",
    "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu",
    "sqrtsoftplus", "swish", "tanh", "xielu",
)  # fmt: skip
"""The activation functions of transformers, known here without it; a test holds the two equal."""


@dataclass(frozen=True)
class AdapterOptions:
    """The bottleneck adapter."""

    size: int = 16
    """Width of the bottleneck."""
    function: str = "gelu"
    """Activation function between the down- and up-projection."""
    dropout: float = 0.0
    """Dropout before the up-projection."""
    scaling: float = 1.0
    """Factor on the output of the adapter."""
    targets: tuple[str, ...] = ()
    """Endings of module paths; by default the last projection of every attention and feed-forward."""
    stacks: tuple[str, ...] = ()
    """Stacks in which targets are looked for; by default those that read text."""

    def __post_init__(self) -> None:
        require(self.size >= 1, f"a bottleneck must have at least 1 dimension; got {self.size}")
        known = ", ".join(FUNCTIONS)
        require(
            self.function in FUNCTIONS, f"there is no activation function {self.function!r}; transformers has {known}"
        )
        require(0 <= self.dropout < 1, f"the adapter's dropout must lie in [0, 1); got {self.dropout}")


def lora_config(model: nn.Module, options: LoraOptions) -> LoraConfig:
    """PEFT's configuration of LoRA, with the paths of its targets in this model."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    from rankscope.tuning.targets import query_key_value, target_maps

    o = options
    targets = target_maps(model, o.targets, in_stacks=o.stacks, by_default=query_key_value)
    # GPT-2's Conv1D keeps its weight as (in, out), which PEFT calls fan_in_fan_out.
    transposed = any(isinstance(model.get_submodule(path), Conv1D) for path in targets)
    return LoraConfig(
        r=o.rank, lora_alpha=o.alpha, lora_dropout=o.dropout, target_modules=targets, fan_in_fan_out=transposed
    )  # fmt: skip


def adapter_config(model: nn.Module, options: AdapterOptions) -> BottleneckConfig:
    """PEFT's configuration of bottleneck adapters, with the paths of their targets in this model."""
    from rankscope.models.tunings.bottleneck import BottleneckConfig
    from rankscope.tuning.targets import sublayer_outputs, target_maps

    o = options
    targets = target_maps(model, o.targets, in_stacks=o.stacks, by_default=sublayer_outputs)
    return BottleneckConfig(
        target_modules=targets, bottleneck_size=o.size, non_linearity=o.function, bottleneck_dropout=o.dropout,
        bottleneck_scaling=o.scaling,
    )  # fmt: skip


def _inject(
    name: str,
    config: Callable[[nn.Module, Options], PeftConfig],
    model: nn.Module,
    options: Options,
    samples: Iterable[Tokens] | None,
) -> None:
    from peft import inject_adapter_in_model

    # PEFT freezes everything but the new adapter; what was trainable before stays so, and set_trainable decides.
    trained = {n: p.requires_grad for n, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        inject_adapter_in_model(config(model, options), model, adapter_name=name)
    for n, p in model.named_parameters():
        p.requires_grad = trained.get(n, p.requires_grad)


def _try_injection(
    config: Callable[[nn.Module, Options], PeftConfig], model: nn.Module, options: Options, checkpointing: bool
) -> AbstractContextManager[object]:
    """An adapter fits if its targets are found; no text needs to be shorter because of it."""
    return nullcontext(config(model, options))


def _save_injected(name: str, model: nn.Module, saving: Saving) -> None:
    from safetensors.torch import save_file

    config: PeftConfig = model.peft_config[name]  # type: ignore[index]
    config.base_model_name_or_path, config.inference_mode = saving.base, True
    config.target_modules = sorted(config.target_modules)  # a set, whose order is chance
    if saving.head:
        config.modules_to_save = list(dict.fromkeys(n.split(".")[0] for n in saving.head))
    config.save_pretrained(str(saving.folder))
    tensors = {
        # PEFT's files leave out the name of the adapter: lora_A.lora.weight in the model is lora_A.weight.
        re.sub(rf"({re.escape(KINDS[name].mark)}\w+)\.{name}(?=\.|$)", r"\1", own): tensor.detach().cpu().contiguous()
        for own, tensor in model.state_dict().items()
        if kind_of(own) == name
    }
    whole = {f"base_model.model.{own}": tensor for own, tensor in (tensors | saving.head).items()}
    save_file(whole, saving.folder / "adapter_model.safetensors", metadata={"format": "pt"})


LORA = Kind(
    "lora",
    "LoRA",
    LoraOptions,
    learning_rate=1e-3,
    mark=".lora_",
    attach=partial(_inject, "lora", lora_config),
    trial=partial(_try_injection, lora_config),
    save=partial(_save_injected, "lora"),
)

CARD = """# Bottleneck adapter

PEFT has no bottleneck adapter of its own; `rankscope.register()` makes this one known to it:

    import rankscope
    from peft import PeftModel

    rankscope.register()
    model = PeftModel.from_pretrained(base, "this folder")
"""
"""The ``README.md`` beside a bottleneck adapter."""


def _save_adapter(model: nn.Module, saving: Saving) -> None:
    _save_injected("adapter", model, saving)
    (saving.folder / "README.md").write_text(CARD)


ADAPTER = Kind(
    "adapter",
    "Bottleneck adapter",
    AdapterOptions,
    learning_rate=1e-3,
    mark=".bottleneck_",
    attach=partial(_inject, "adapter", adapter_config),
    trial=partial(_try_injection, adapter_config),
    save=_save_adapter,
)


# Full fine-tuning, which attaches nothing and trains the base's own weights.


@dataclass(frozen=True)
class FullOptions:
    """Full fine-tuning."""

    stacks: tuple[str, ...] = ()
    """Stacks whose weights are trained; by default all weights of the model."""


def _blocks_begin(model: nn.Module, options: FullOptions) -> tuple[str, ...]:
    from rankscope.tuning.targets import blocks_of

    return tuple(f"{path}." for path in blocks_of(model, options.stacks)) if options.stacks else ("",)


def _save_full(model: nn.Module, saving: Saving) -> None:
    from rankscope.models.quiet import quiet

    # PEFT moved the weights that have an adapter into a base_layer; the saved model has them under their own names.
    own = {n.replace(".base_layer.", "."): t for n, t in model.state_dict().items() if kind_of(n) == "full"}
    with quiet():
        model.save_pretrained(saving.folder, state_dict=own)  # type: ignore[operator]
        saving.processor.save_pretrained(saving.folder)


FULL = Kind(
    "full",
    "Full fine-tuning",
    FullOptions,
    learning_rate=3e-4,
    mark="",
    attach=lambda model, options, samples: _blocks_begin(model, options),
    trial=lambda model, options, checkpointing: nullcontext(_blocks_begin(model, options)),
    save=_save_full,
    begins=_blocks_begin,
    head_rank=2,
)


# Full comes last: its empty mark is in the name of every parameter, so that kind_of finds it where no other mark is.
KINDS: dict[str, Kind[Any]] = {kind.name: kind for kind in (PREFIX, LORA, ADAPTER, FULL)}
"""Every kind of tuning by name."""


def kind_of(parameter: str) -> str:
    """The kind that a parameter of this name belongs to; ``full`` for the base's own."""
    return next(name for name, kind in KINDS.items() if kind.mark in f".{parameter}")
