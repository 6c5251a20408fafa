"""What a stage does to a model: what it attaches, which parameters it trains, and how that lies on disk.

LoRA and bottleneck adapters are put inside the base by PEFT's own injection, the prefix is hooked into the base's own
modules: so the model that is called keeps its class, its ``generate`` and its loss, whatever is attached, in any order.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rankscope.errors import UsageError
from rankscope.models.quiet import quiet
from rankscope.models.stacks import stacks, unwrapped
from rankscope.models.tunings.bottleneck import BottleneckConfig, register_bottleneck
from rankscope.models.tunings.prefix import Prefix, PrefixEncoder
from rankscope.models.tunings.prefix_files import HEAD, save_prefix
from rankscope.models.tunings.prefix_join import NAME as PREFIX
from rankscope.models.tunings.prefix_live import (
    attach_prefix,
    cached_owner,
    detach_prefix,
    new_prefix,
    no_checkpointing,
    prefix_of,
)
from rankscope.models.tunings.prefix_start import Tokens, token_rows
from rankscope.tuning.config import Recipe
from rankscope.tuning.targets import blocks_of, named, query_key_value, sublayer_outputs

CARD = """# Bottleneck adapter

PEFT has no bottleneck adapter of its own; `rankscope.register()` makes this one known to it:

    import rankscope
    from peft import PeftModel

    rankscope.register()
    model = PeftModel.from_pretrained(base, "this folder")
"""
"""The ``README.md`` beside a bottleneck adapter."""
HEADS = ("classifier", "score", "classification_head")
"""How the names of classifiers' heads end, as PEFT finds them (``pre_classifier``); every stage of a classification trains them."""
_MARKS = {"prefix": f"{PREFIX}.", "lora": ".lora_", "adapter": ".bottleneck_"}
_NAMED = re.compile(r"(\.(?:lora_[A-Za-z]+|bottleneck_[a-z]+)(?:_vector)?)\.(?:lora|adapter)(?=\.|$)")


def attach_kinds(
    model: nn.Module, kinds: Iterable[str], recipe: Recipe, tokens: Iterable[Tokens] | None = None
) -> None:
    """Attach what a stage attaches, newly drawn from torch's generator, in place.

    Args:
        model: the model.
        kinds: what is attached, in order.
        recipe: how.
        tokens: what a prefix starts from where the recipe asks for tokens; None to try only whether it fits.

    Raises:
        UnknownName: if the model has no such stack or target.
        UsageError: if the method does not fit the architecture.
    """
    for kind in kinds:
        if kind == "prefix":
            _attach_prefix(model, recipe, tokens)
        else:
            _ATTACH[kind](model, recipe)


def _attach_prefix(model: nn.Module, recipe: Recipe, tokens: Iterable[Tokens] | None = None) -> Prefix:
    o = recipe.prefix
    given = o.init == "tokens"
    encoder = PrefixEncoder(o.projection, o.embedding, o.hidden, o.depth, o.dropout, o.init_std, given)
    prefix = new_prefix(model, rows=o.length, stacks_in=o.stacks, encoder=encoder)
    if given and tokens is not None:
        prefix.start_at(token_rows(model, prefix, tokens))
    return attach_prefix(model, prefix)


def lora_config(model: nn.Module, recipe: Recipe) -> LoraConfig:
    """PEFT's configuration of the recipe's LoRA, with the paths of its targets in this model."""
    o = recipe.lora
    targets = named(model, o.targets, in_stacks=o.stacks) if o.targets else query_key_value(model, in_stacks=o.stacks)
    transposed = any(isinstance(model.get_submodule(path), Conv1D) for path in targets)
    return LoraConfig(
        r=o.rank, lora_alpha=o.alpha, lora_dropout=o.dropout, target_modules=targets, fan_in_fan_out=transposed
    )  # fmt: skip


def adapter_config(model: nn.Module, recipe: Recipe) -> BottleneckConfig:
    """PEFT's configuration of the recipe's bottleneck adapters, with the paths of its targets in this model."""
    o = recipe.adapter
    targets = named(model, o.targets, in_stacks=o.stacks) if o.targets else sublayer_outputs(model, in_stacks=o.stacks)
    return BottleneckConfig(
        target_modules=targets, bottleneck_size=o.size, non_linearity=o.function, bottleneck_dropout=o.dropout,
        bottleneck_scaling=o.scaling,
    )  # fmt: skip


def _inject(model: nn.Module, config: PeftConfig, name: str) -> None:
    trained = {n: p.requires_grad for n, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        inject_adapter_in_model(config, model, adapter_name=name)
    for n, p in model.named_parameters():
        p.requires_grad = trained.get(n, p.requires_grad)


def _attach_lora(model: nn.Module, recipe: Recipe) -> None:
    _inject(model, lora_config(model, recipe), "lora")


def _attach_adapter(model: nn.Module, recipe: Recipe) -> None:
    register_bottleneck()
    _inject(model, adapter_config(model, recipe), "adapter")


def _attach_full(model: nn.Module, recipe: Recipe) -> None:
    if recipe.full.stacks:
        blocks_of(model, recipe.full.stacks)


_ATTACH: dict[str, Callable[[nn.Module, Recipe], object]] = {
    "lora": _attach_lora, "adapter": _attach_adapter, "full": _attach_full,
}  # fmt: skip


@contextmanager
def attached_for_a_moment(model: nn.Module, kinds: Iterable[str], recipe: Recipe) -> Iterator[None]:
    """See that all these kinds can be attached; inside the block the prefix is, and afterwards nothing.

    Raises:
        UnknownName: if the model has no such stack or target.
        UsageError: if a method does not fit the architecture, or gradient checkpointing the prefix.
    """
    there = set(kinds)
    for kind, config in (("lora", lora_config), ("adapter", adapter_config), ("full", _attach_full)):
        if kind in there:
            config(model, recipe)
    if "prefix" not in there:
        yield
        return
    prefix = _attach_prefix(model, recipe)
    try:
        cached = [name for name in prefix.shapes if cached_owner(model, stacks(model), name) is not None]
        if recipe.gradient_checkpointing and cached:
            raise no_checkpointing(cached[0])
        yield
    finally:
        detach_prefix(model)


def numbers_by_kind(trained: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """How many numbers are trained, by what they are a part of; a classification head is told apart."""
    counts = Counter[str]()
    for name, parameter in trained.items():
        counts["head" if name.split(".")[0].endswith(HEADS) else kind_of(name)] += parameter.numel()
    return dict(counts)


def kind_of(name: str) -> str:
    """Of what a parameter of this name is a part: ``prefix``, ``lora``, ``adapter``, or ``full`` for the base's own."""
    return next((kind for kind, mark in _MARKS.items() if mark in f".{name}"), "full")


def heads(model: nn.Module) -> tuple[str, ...]:
    """The names of the classification heads of a model."""
    return tuple(name for name, _ in unwrapped(model).named_children() if name.endswith(HEADS))


def set_trainable(model: nn.Module, kinds: Iterable[str], recipe: Recipe, *, head: bool) -> dict[str, nn.Parameter]:
    """Train exactly these kinds, and the classification head where ``head``; everything else is frozen.

    Returns:
        The trained parameters by name.
    """
    wanted = set(kinds)
    within = tuple(f"{path}." for path in blocks_of(model, recipe.full.stacks)) if recipe.full.stacks else ("",)
    first = heads(model) if head else ()
    for name, parameter in model.named_parameters():
        kind = kind_of(name)
        chosen = kind in wanted and (kind != "full" or name.startswith(within))
        parameter.requires_grad = parameter.is_floating_point() and (chosen or name.split(".")[0] in first)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise UsageError(f"{'+'.join(sorted(wanted))} trains no parameter of this {type(model).__name__}")
    return trained


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The base's own tensors under their own names, without what is attached."""
    return {n.replace(".base_layer.", "."): t for n, t in model.state_dict().items() if kind_of(n) == "full"}


def save_kinds(
    model: nn.Module, kinds: Iterable[str], folder: Path, recipe: Recipe, *, base: str, head: bool, processor: Any
) -> list[str]:
    """Write each kind into a folder of its own, in order: plain PEFT folders, and a plain model folder for ``full``.

    Args:
        model: the tuned model.
        kinds: what is attached, in order.
        folder: where the folders are made.
        recipe: how it was attached.
        base: the base checkpoint, as PEFT records it.
        head: whether the classification head was trained and is kept with the adapters.
        processor: the tokenizer or processor, saved with a whole model.

    Returns:
        The names of the folders.
    """
    names: list[str] = []
    kinds = list(kinds)
    keeper = head_keeper(kinds) if head else None
    for place, kind in enumerate(kinds):
        names.append(f"{place}-{kind}")
        into = folder / names[-1]
        into.mkdir(parents=True)
        if kind == "prefix":
            prefix = prefix_of(model)
            assert prefix is not None
            save_prefix(
                prefix, into, model=model, base=base, extra=_head_tensors(model, HEAD) if kind == keeper else None
            )
        elif kind == "full":
            with quiet():
                model.save_pretrained(into, state_dict=base_tensors(model))  # type: ignore[operator]
                processor.save_pretrained(into)
        else:
            _save_adapter(model, kind, into, base=base, head=kind == keeper)
    return names


def head_keeper(kinds: Iterable[str]) -> str:
    """Which of the kinds keeps a trained classification head: the whole model, the prefix, or the only adapter.

    Raises:
        UsageError: if there are several adapters and neither of the others.
    """
    there = list(kinds)
    for kind in ("full", "prefix"):
        if kind in there:
            return kind
    if len(there) > 1:
        raise UsageError(
            f"{', '.join(there)} cannot share a classification head; add a prefix or full, or tune with one of them"
        )
    return there[0]


def _head_tensors(model: nn.Module, before: str) -> dict[str, Tensor]:
    own = heads(model)
    return {
        f"{before}{n}": t.detach().cpu().contiguous() for n, t in model.state_dict().items() if n.split(".")[0] in own
    }


def _save_adapter(model: nn.Module, kind: str, folder: Path, *, base: str, head: bool) -> None:
    configs: Mapping[str, PeftConfig] = model.peft_config  # type: ignore[assignment]
    config = configs[kind]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.target_modules = sorted(config.target_modules)  # as a set its order would be chance
    if head:
        config.modules_to_save = list(heads(model))
    config.save_pretrained(str(folder))
    if kind == "adapter":
        (folder / "README.md").write_text(CARD)
    tensors = {
        "base_model.model." + _NAMED.sub(r"\1", name): tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if kind_of(name) == kind
    }
    tensors |= _head_tensors(model, "base_model.model.") if head else {}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
