"""Stacks: where the sites of a model are read, resolved on the base model inside whatever wraps it.

A site is read on the base network's own modules, which stay in place under every tuning: so ``decoder.3`` means the same
in a plain model, inside a ``PeftModel``, with LoRA injected, with hooks of a device map, and around a prefix. What is
*called* is always the outermost, tuned model.

The stacks of a known family are where its record says; those of any other transformers model are found by structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import signature

from peft import PeftMixedModel, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from rankscope.errors import CheckpointError
from rankscope.models.families import family_of
from rankscope.models.family import Columns, StackSpec
from rankscope.reading.hooks import LAST, Tap
from rankscope.sites import Site, points

_SENSES = {"vision": ("vision", "visual", "image", "vit"), "qformer": ("qformer",), "audio": ("audio", "speech")}
"""For the name of a stack, the words in a path that show it, wherever they are."""
_SIDES = {"decoder": ("decoder", "language"), "text": ("text",), "encoder": ("encoder",)}
"""The same for words of which the innermost in the path decides."""
_COLUMNS: dict[str, Columns] = {"vision": "patches", "qformer": "queries", "audio": "any"}
_OF_EMBEDDINGS = re.compile(r"embeddings|embedding$")
"""Names of norms of what goes into the blocks."""
_STAGE_WIDTHS = ("hidden_sizes", "embed_dims", "neck_hidden_sizes")
"""What configurations call the widths of the stages of a model of images."""
_READS: dict[str, Columns] = {"pixel_values": "patches", "input_values": "audio", "input_features": "audio"}
"""What an encoder's columns are, by what transformers calls the model's main input."""
_NORMS = ("norm", "ln_f", "layernorm", "layer_norm", "norm_f")


@dataclass(frozen=True)
class Stack:
    """A stack of blocks, or a single module with one site."""

    name: str
    """Its name in a site."""
    blocks: tuple[nn.Module, ...]
    """The blocks in the order in which they run, one that runs again named again; none if a single module is read."""
    final: nn.Module | None = None
    """The norm after the last block, whose output is the final site; None if the base has no norm there."""
    output: nn.Module | None = None
    """The single module that is read; None for a stack of blocks."""
    width: int | None = None
    """Width of the hidden states; None if the configuration does not say it."""
    columns: Columns = "any"
    """What the columns of the hidden states are."""
    owner: nn.Module | None = None
    """The outermost model around the blocks that has their configuration."""
    entry: nn.Module | None = None
    """The module whose input is the stack's; None if it is the first block."""
    time_first: bool = False
    """Whether hidden states are ``(t, b, d)``."""
    channels_first: bool = False
    """Whether hidden states are ``(b, d, h, w)``."""
    grid_first: bool = False
    """Whether those that are a grid are ``(b, d, h, w)``."""
    stage: bool = False
    """Whether it is one stage of a model whose width and grid change from stage to stage."""
    widths: frozenset[int] = frozenset()
    """The widths of all stages."""

    @property
    def taps(self) -> dict[Site, Tap]:
        """Where each site is read, from the stack's input to its output."""
        if self.output is not None:
            return {Site(self.name, "output"): Tap(self.output, grid_first=self.grid_first, widths=self.widths)}
        inner = points(len(self.blocks), embed=False, final=False)
        first = 0 if self.entry is None and self.blocks.count(self.blocks[0]) > 1 else None
        taps = {"embed": Tap(self.entry or self.blocks[0], entering=True, turn=first)}
        for i, (point, block) in enumerate(zip(inner, self.blocks, strict=True)):
            again = self.blocks.count(block) > 1
            taps[point] = Tap(block, turn=self.blocks[:i].count(block) if again else None)
        if self.final is not None:
            taps["final"] = Tap(self.final, turn=LAST)  # a norm may have run before, on what goes into the blocks
        return {
            Site(self.name, point): replace(tap, time_first=self.time_first, channels_first=self.channels_first)
            for point, tap in taps.items()
        }

    @property
    def sites(self) -> tuple[Site, ...]:
        """Its sites, from the input to the output."""
        return tuple(self.taps)


def unwrapped(module: nn.Module) -> nn.Module:
    """The base model inside PEFT's wrapper, data parallelism or ``torch.compile``; the module itself if there is none."""
    while True:
        if isinstance(module, PeftModel | PeftMixedModel):
            module = module.get_base_model()
        elif "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]  # type: ignore[assignment]
        elif isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            module = module.module
        else:
            return module


def own_modules(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """A network's modules by the paths of the base, each once, without what adapters put into them.

    A layer with an adapter stands for the layer inside it, a module saved whole for the one in whose place it runs.

    Args:
        module: the network, wrapped or not.
        path: its own path.
    """
    seen = set[int]()
    left = [(path, module)]
    while left:
        path, module = left.pop()
        if id(module := unwrapped(module)) in seen:
            continue
        seen.add(id(module))
        yield path, module
        children = [(f"{path}.{name}" if path else name, child) for name, child in _inside(module).named_children()]
        left += children[::-1]


def _inside(module: nn.Module) -> nn.Module:
    """The base's module inside a layer with an adapter, or what runs in place of one that was saved whole."""
    if isinstance(module, BaseTunerLayer):
        base: nn.Module = module.get_base_layer()
        return base
    if isinstance(module, ModulesToSaveWrapper) and module.active_adapters:
        return module.modules_to_save[module.active_adapters[-1]]
    return module


def stacks(model: nn.Module) -> dict[str, Stack]:
    """The stacks of a model by name, in the order in which an input passes them.

    A transformers model of a type in :data:`~rankscope.models.families.FAMILIES` has those of its record, any other
    those found by its structure; in any other ``nn.Module`` each named submodule is a stack with the site ``output``.

    Args:
        model: the model, wrapped or not.
    """
    base = unwrapped(model)
    found = list(_of_family(base)) or search(base) if isinstance(base, PreTrainedModel) else []
    if not found:
        return {name: Stack(name, (), output=module) for name, module in _named(base)}
    return {stack.name: stack for stack in found}


def taps(model: nn.Module) -> dict[Site, Tap]:
    """Where each site of a model is read, in the order in which an input passes them."""
    return {site: tap for stack in stacks(model).values() for site, tap in stack.taps.items()}


def _named(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in own_modules(base):
        if name and not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict):
            yield name, module


def _of_family(model: nn.Module) -> Iterator[Stack]:
    """The stacks that a model's record names; none if it has no record, or its paths do not exist."""
    base = getattr(model, "base_model", model)
    for spec in family_of(model).stacks:
        if isinstance(spec, StackSpec):
            yield from _at(base, spec)
        elif (inner := _along(base, spec.path)[-1]) is not None:
            names = dict(spec.rename)
            for stack in list(_of_family(inner)) or search(inner):
                yield replace(stack, name=names.get(stack.name, stack.name), columns=spec.columns or stack.columns)


def _at(base: nn.Module, spec: StackSpec) -> Iterator[Stack]:
    """The stack that one entry of a record names, if its path exists."""
    way = _along(base, spec.blocks)
    last = way[-1]
    if last is None:
        return
    models = [m for m in way if isinstance(m, PreTrainedModel)]
    owner = next(m for m in models if m.config is models[-1].config)
    if spec.single:
        yield Stack(spec.stack, (), output=last, width=_projected_width(last), columns=spec.columns, owner=owner)
        return
    blocks = tuple(last.children())
    if spec.inner:
        blocks = _passes(blocks, spec.inner, owner.config.num_hidden_layers)
    if spec.part:
        blocks = tuple(block.get_submodule(spec.part) for block in blocks)
    if not blocks:
        raise CheckpointError(f"the stack {spec.stack} of this {type(base).__name__} has no blocks")
    final = _along(base, spec.final)[-1] if spec.final else None
    width = width_of(owner, spec.width)
    entry = _along(base, spec.entry)[-1] if spec.entry else None
    yield Stack(
        spec.stack,
        blocks,
        final,
        width=width,
        columns=spec.columns,
        owner=owner,
        entry=entry,
        time_first=spec.time_first,
        channels_first=spec.channels_first,
    )


def _passes(groups: tuple[nn.Module, ...], inner: str, count: int) -> tuple[nn.Module, ...]:
    """The blocks of groups that share their weights, as often as they run: ``count`` passes, spread evenly over the groups."""
    chosen = [groups[i * len(groups) // count] for i in range(count)]
    return tuple(block for group in chosen for block in group.get_submodule(inner).children())


def _along(module: nn.Module, path: str) -> list[nn.Module | None]:
    """The modules along a path, wrappers opened at each step; the last is None if the path does not exist."""
    way: list[nn.Module | None] = [unwrapped(module)]
    for name in path.split("."):
        child = getattr(way[-1], name, None)
        if not isinstance(child, nn.Module):
            return [*way, None]
        way.append(unwrapped(child))
    return way


def search(model: nn.Module) -> list[Stack]:
    """The stacks of blocks of a model: its outermost lists of modules of one class, each with the norm that follows it."""
    model = unwrapped(model)
    found: dict[str, Stack] = {}
    lists = _lists(model)
    if _staged(model):
        return _stages(model, lists)
    for path, blocks in lists.items():
        name = _name(model, path, alone=len(lists) == 1)
        owner = _owner(model, path)
        columns = _COLUMNS.get(name) or _columns(model, name)
        if name in found:  # what is beside a tower's blocks need not have a row for each patch
            columns = "any" if name in _COLUMNS else columns
            name = path.replace(".", "_")
        found[name] = Stack(
            name, tuple(blocks), _norm_after(model, path), width=width_of(owner), columns=columns, owner=owner
        )
    return list(found.values())


def _staged(model: nn.Module) -> bool:
    """Whether a model of images has stages, from one to the next of which the width and the grid change."""
    if not reads_only_images(model):
        return False
    blocks = [block for blocks in _lists(model).values() for block in blocks]
    return isinstance(getattr(model.config, "depths", None), list | tuple) or any(_convolves(b) for b in blocks)


def _stages(model: nn.Module, lists: Mapping[str, nn.ModuleList]) -> list[Stack]:
    """A stack with one site for each stage: their rows cannot share a table, because their grids differ."""
    path, blocks = max(lists.items(), key=lambda item: _numbers(item[1]))
    owner = _owner(model, path)
    sizes = (getattr(owner.config, name, None) or () for name in _STAGE_WIDTHS)
    widths = frozenset(width for several in sizes for width in several)
    ends = [stage[-1] if isinstance(stage, nn.ModuleList) else stage for stage in blocks]
    return [
        Stack(f"stage{i}", (), output=end, owner=owner, grid_first=_convolves(end), stage=True, widths=widths)
        for i, end in enumerate(ends)
    ]


def _numbers(module: nn.Module) -> int:
    """How many numbers a part of the base holds."""
    return sum(p.numel() for _, m in own_modules(module) for p in _inside(m).parameters(recurse=False))


def _lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists of blocks: children of one class (or fewer classes than children) with weights, not inside another such list."""
    lists: dict[str, nn.ModuleList] = {}
    for path, module in own_modules(model):
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{outer}.") for outer in lists):
            continue
        kinds = {type(_inside(child)) for child in module}
        if kinds and len(kinds) < max(len(module), 2) and any(True for _ in module.parameters()) and _deep(module):
            lists[path] = module
    return lists


def _deep(blocks: nn.ModuleList) -> bool:
    """Whether the children are blocks, with parts of their own, and neither plain layers nor the filters before a tower."""
    inside = [module for child in blocks for _, module in own_modules(child)]
    filters = any(isinstance(m, nn.Conv1d) for m in inside) and not any(isinstance(m, nn.Linear) for m in inside)
    return not filters and all(sum(1 for _ in own_modules(child)) > 3 for child in blocks)


def _convolves(block: nn.Module) -> bool:
    """Whether a block is made of convolutions without attention, so that it takes and returns ``(b, d, h, w)``."""
    kinds = [type(_inside(module)) for _, module in own_modules(block)]
    attends = any("attention" in kind.__name__.lower() for kind in kinds)
    return not attends and any(issubclass(kind, nn.Conv2d) for kind in kinds)


def _name(model: nn.Module, path: str, *, alone: bool) -> str:
    config = getattr(model, "config", None)
    if alone:
        generates = bool(getattr(config, "is_decoder", False)) or _generates(model)
        return "decoder" if generates else "encoder"
    # A decoder's blocks may be those of an encoder, as BERT's, which are called so further in.
    around: dict[str, tuple[str, ...]] = {"decoder": ("decoder",)}
    steps = [(path, _SENSES), (path, around), *((step, _SIDES) for step in reversed(path.split(".")))]
    for step, names in steps:
        for name, words in names.items():
            if any(word in step.lower() for word in words):
                # What a model that generates calls its text model is what it generates with.
                return "decoder" if name == "text" and _generates(model) else name
    return "decoder" if _generates(model) else "encoder"


def _generates(model: nn.Module) -> bool:
    """Whether a model's stack is a decoder: by its type, or by the class that its checkpoint names.

    A type that also fills masks is an encoder unless its configuration says ``is_decoder``.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return True
    kinds = getattr(getattr(model, "config", None), "architectures", None) or [type(model).__name__]
    return any(word in kind for kind in kinds for word in ("CausalLM", "LMHead", "ConditionalGeneration"))


def _columns(model: nn.Module, name: str) -> Columns:
    twofold = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if name == "decoder":
        return "target" if twofold or "decoder_input_ids" in signature(model.forward).parameters else "text"
    if name == "encoder" and reads_only_images(model):
        return "patches"
    return _READS.get(getattr(model, "main_input_name", ""), "text") if name == "encoder" else "text"


def reads_only_images(model: nn.Module) -> bool:
    """Whether a transformers model takes pixels and no tokens, by the arguments of its forward pass."""
    takes = signature(model.forward).parameters if isinstance(model, PreTrainedModel) else {}
    return "pixel_values" in takes and not {"input_ids", "decoder_input_ids"} & takes.keys()


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
        siblings = list(_inside(model.get_submodule(parent)).named_children())
        place = [name for name, _ in siblings].index(child)
        for i, (name, module) in enumerate(siblings):
            # After the blocks by its class, whatever it is called (ln_out, emb_layer_norm_after); before them by its name.
            after = i > place and "norm" in type(_inside(module)).__name__.lower() and not _OF_EMBEDDINGS.search(name)
            named = name == "norm" or ("final" in name and name.endswith(_NORMS))
            if after or (named and not isinstance(module, nn.Identity)):
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


def _projected_width(module: nn.Module) -> int | None:
    """The width of what a projector returns, by its last linear map; None if it has none."""
    inside = [_inside(m) for _, m in own_modules(module)]
    widths = [m.out_features for m in inside if isinstance(m, nn.Linear)]
    return widths[-1] if widths else None
