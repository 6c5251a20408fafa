"""What a stage does to a model: what it attaches, which parameters it trains, and how that lies on disk.

The model that is called keeps its class, its ``generate`` and its loss, whatever is attached, in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from rankscope.errors import UsageError
from rankscope.models.stacks import unwrapped
from rankscope.models.tunings.prefix_start import Tokens
from rankscope.tuning.config import Recipe
from rankscope.tuning.kinds import KINDS, Saving, kind_of

HEADS = ("classifier", "score", "classification_head")
"""How the names of classification heads end, as PEFT finds them (``pre_classifier`` is one too); every stage of a
classification trains them."""


def attach_kinds(
    model: nn.Module, kinds: Iterable[str], recipe: Recipe, samples: Iterable[Tokens] | None = None
) -> None:
    """Attach kinds of tuning in place, with weights drawn from torch's generator.

    Args:
        model: the model.
        kinds: their names, in order.
        recipe: the recipe with their options.
        samples: what a prefix starts from if the recipe asks for tokens; with None it starts from zero.

    Raises:
        UnknownName: if the model has no such stack or target.
        UsageError: if a kind does not fit the architecture.
    """
    for name in kinds:
        KINDS[name].attach(model, recipe.options[name], samples)


@contextmanager
def attached_for_a_moment(model: nn.Module, kinds: Iterable[str], recipe: Recipe) -> Iterator[None]:
    """Check that kinds can be attached; inside the block a prefix among them is, and afterwards nothing.

    Raises:
        UnknownName: if the model has no such stack or target.
        UsageError: if a kind does not fit the architecture, or gradient checkpointing the prefix.
    """
    with ExitStack() as trials:
        for name in kinds:
            trials.enter_context(KINDS[name].trial(model, recipe.options[name], recipe.gradient_checkpointing))
        yield


def heads(model: nn.Module) -> tuple[str, ...]:
    """The names of the classification heads of a model."""
    return tuple(name for name, _ in unwrapped(model).named_children() if name.endswith(HEADS))


def set_trainable(model: nn.Module, kinds: Iterable[str], recipe: Recipe, *, head: bool) -> dict[str, nn.Parameter]:
    """Train exactly these kinds, and the classification head if ``head``; everything else is frozen.

    Returns:
        The trained parameters by name.

    Raises:
        UsageError: if no parameter would be trained.
    """
    begins = {name: KINDS[name].begins(model, recipe.options[name]) for name in kinds}
    own_heads = heads(model) if head else ()
    for name, parameter in model.named_parameters():
        chosen = name.startswith(begins.get(kind_of(name), ())) or name.split(".")[0] in own_heads
        parameter.requires_grad = chosen and parameter.is_floating_point()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise UsageError(f"{'+'.join(sorted(begins))} trains no parameter of this {type(model).__name__}")
    return trained


def numbers_by_kind(trained: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """How many numbers are trained of each kind; those of a classification head are counted as ``head``."""
    counts = Counter[str]()
    for name, parameter in trained.items():
        counts["head" if name.split(".")[0].endswith(HEADS) else kind_of(name)] += parameter.numel()
    return dict(counts)


def save_kinds(
    model: nn.Module, kinds: Iterable[str], folder: Path, *, base: str, head: bool, processor: Any
) -> list[str]:
    """Write each kind into a folder of its own, in order: PEFT's folders, and a plain model folder for ``full``.

    Args:
        model: the tuned model.
        kinds: what is attached, in order.
        folder: where the folders are made.
        base: the base checkpoint, as PEFT records it.
        head: whether a classification head was trained and is to be kept.
        processor: the tokenizer or processor, saved with a whole model.

    Returns:
        The names of the folders.
    """
    attached = list(kinds)
    keeper = head_keeper(attached) if head else None
    own_heads = heads(model)
    tensors = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items() if n.split(".")[0] in own_heads}
    names = [f"{place}-{kind}" for place, kind in enumerate(attached)]
    for name, kind in zip(names, attached, strict=True):
        (folder / name).mkdir(parents=True)
        KINDS[kind].save(model, Saving(folder / name, base, tensors if kind == keeper else {}, processor))
    return names


def head_keeper(kinds: Iterable[str]) -> str:
    """The kind that keeps a trained classification head: the whole model, the prefix, or the only adapter.

    Raises:
        UsageError: if there are several adapters and neither of the others.
    """
    ranked = sorted(kinds, key=lambda name: -KINDS[name].head_rank)
    if len(ranked) > 1 and not KINDS[ranked[0]].head_rank:
        raise UsageError(
            f"{', '.join(ranked)} cannot share a classification head; add a prefix or full, or tune with one of them"
        )
    return ranked[0]
