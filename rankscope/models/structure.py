"""Stacks found by structure, for models that the table of families does not name."""

from __future__ import annotations

from torch import nn

from rankscope.models.families import Columns
from rankscope.models.stack import Stack, unwrapped

_SENSES = {"vision": ("vision", "visual", "image", "vit"), "qformer": ("qformer",), "audio": ("audio", "speech")}
"""Words anywhere in a path, and the name of the stack that they tell of."""
_SIDES = {"decoder": ("decoder", "language"), "text": ("text",), "encoder": ("encoder",)}
"""The same for words of which the innermost counts."""
_COLUMNS: dict[str, Columns] = {"vision": "patches", "qformer": "queries", "audio": "any"}
_NORMS = ("norm", "ln_f", "layernorm", "layer_norm", "norm_f")


def search(model: nn.Module) -> list[Stack]:
    """The stacks of blocks of a model: its outermost lists of modules of one class, each with the norm that follows it."""
    model = unwrapped(model)
    found: dict[str, Stack] = {}
    lists = _lists(model)
    for path, blocks in lists.items():
        name = _name(model, path, alone=len(lists) == 1)
        if name in found:
            name = path.replace(".", "_")
        owner = _owner(model, path)
        columns = _COLUMNS.get(name) or _columns(model, name)
        found[name] = Stack(
            name, tuple(blocks), _norm_after(model, path), width=width_of(owner), columns=columns, owner=owner
        )
    return list(found.values())


def _lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists of blocks: of at least two children of one class that have weights, not inside another such list."""
    lists: dict[str, nn.ModuleList] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{outer}.") for outer in lists):
            continue
        kinds = {type(child) for child in module}
        if kinds and len(kinds) < max(len(module), 2) and any(True for _ in module.parameters()) and _deep(module):
            lists[path] = module
    return lists


def _deep(blocks: nn.ModuleList) -> bool:
    """Whether the children are blocks, with parts of their own, and not plain layers."""
    return all(sum(1 for _ in child.modules()) > 3 for child in blocks)


def _name(model: nn.Module, path: str, *, alone: bool) -> str:
    config = getattr(model, "config", None)
    if alone:
        generates = bool(getattr(config, "is_decoder", False)) or _generates(model)
        return "decoder" if generates else "encoder"
    for step, names in [(path, _SENSES), *((step, _SIDES) for step in reversed(path.split(".")))]:
        for name, words in names.items():
            if any(word in step.lower() for word in words):
                return name
    return "decoder" if _generates(model) else "encoder"


def _generates(model: nn.Module) -> bool:
    kinds = getattr(getattr(model, "config", None), "architectures", None) or [type(model).__name__]
    return any(word in kind for kind in kinds for word in ("CausalLM", "LMHead", "ConditionalGeneration"))


def _columns(model: nn.Module, name: str) -> Columns:
    if name == "decoder" and getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return "target"
    pictures = name == "encoder" and getattr(model, "main_input_name", "") == "pixel_values"
    return "patches" if pictures else "text"


def _owner(model: nn.Module, path: str) -> nn.Module:
    """The outermost module around a path that has the configuration of the innermost one with any."""
    owner = model
    names = path.split(".")
    for end in range(1, len(names)):
        module = model.get_submodule(".".join(names[:end]))
        if getattr(module, "config", None) not in (None, getattr(owner, "config", None)):
            owner = module
    return owner


def _norm_after(model: nn.Module, path: str) -> nn.Module | None:
    """The norm after a list among its siblings, or after its parent among the parent's; None if there is none."""
    for _ in range(2):
        parent, _, child = path.rpartition(".")
        siblings = list(model.get_submodule(parent).named_children())
        place = [name for name, _ in siblings].index(child)
        for i, (name, module) in enumerate(siblings):
            if name.lower().endswith(_NORMS) and "embed" not in name and (i > place or "final" in name):
                return module
        if not parent:
            return None
        path = parent
    return None


def width_of(owner: nn.Module, name: str = "hidden_size") -> int | None:
    """The width of the hidden states, from the configuration."""
    config = getattr(owner, "config", None)
    if config is not None and hasattr(config, "get_text_config") and not hasattr(config, name):
        config = config.get_text_config()
    width = getattr(config, name, None)
    return width if isinstance(width, int) else None


def width_out(module: nn.Module) -> int | None:
    """The width of what a module returns, where its last linear map tells."""
    widths = [m.out_features for m in module.modules() if isinstance(m, nn.Linear)]
    return widths[-1] if widths else None
