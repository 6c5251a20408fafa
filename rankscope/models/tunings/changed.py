"""What a checkpoint's tunings changed in the base's weights, matrix by matrix, and the rows that its prefix or prompt learnt.

A LoRA gives its factors, so that its spectrum is exact and cheap; several on one matrix are one LoRA of the summed rank.
Other adapters inside a matrix (DoRA, IA³, LoHa, OFT …) are merged by PEFT and give the tuned matrix, and so does a full
tuning. Matrices are laid out as ``(out, in)``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from rankscope.checkpoint import FULL, Checkpoint
from rankscope.models.load import load_base
from rankscope.models.notes import notes_of
from rankscope.models.stacks import unwrapped
from rankscope.models.tunings.adapters import read_weights, rewrites_base
from rankscope.models.tunings.attach import OUTSIDE, PROMPTS, attach, side_by_side
from rankscope.models.tunings.bottleneck import BottleneckLayer
from rankscope.models.tunings.effect import adapters_in
from rankscope.models.tunings.keys import plain_names
from rankscope.models.tunings.prefix_files import PEFT_ROWS
from rankscope.models.tunings.prefix_live import prefix_of

VECTOR = "a vector that changed has no spectrum"
_WRAPPED = ("base_model.model.", "base_model.")


@dataclass(frozen=True)
class Change:
    """One weight matrix of the base, and what it became."""

    name: str
    """The module that holds it, by its path in the base network."""
    kind: str
    """``lora``, ``full``, the kind of another adapter; empty if the matrix was not tuned."""
    before: Tensor
    """``(m, n)`` the pre-trained weights, outputs by inputs."""
    after: Tensor | None = None
    """``(m, n)`` the tuned weights; None if ``factors`` give them, or nothing was tuned."""
    factors: tuple[Tensor, Tensor] | None = None
    """``(m, r)`` and ``(r, n)``, whose product is the change; the scale is in the first."""


@dataclass(frozen=True)
class Learnt:
    """Rows that a prefix or a prompt learnt for one place."""

    name: str
    """Where they act: ``decoder.3.keys``, ``decoder.3.values``, or ``prompt``."""
    kind: str
    """``prefix_tuning``, ``prompt_tuning``, ``p_tuning``, …"""
    rows: Tensor
    """``(rows, width)``, all heads side by side."""


@dataclass(frozen=True)
class Unweighed:
    """Something that a tuning changed and that has no spectrum, or that cannot be compared."""

    name: str
    """Where it is, by its path in the base network."""
    why: str
    """Why it is not weighed."""


@dataclass(frozen=True)
class Said:
    """A note on how the checkpoint was read."""

    text: str


def weight_changes(
    checkpoint: Checkpoint, *, trust_remote_code: bool = False
) -> Iterator[Change | Learnt | Unweighed | Said]:
    """Every matrix that the tunings of a checkpoint changed, and the rows that they learnt; without tunings every matrix.

    What changed and cannot be weighed is named. A full tuning is compared with the base, an adapter with the weights that it sits on.

    Args:
        checkpoint: the base and what was done to it.
        trust_remote_code: run the Python files that the checkpoint brings along.

    Raises:
        CheckpointError: if it cannot be loaded, or a tuning does not land.
    """
    model = load_base(checkpoint.weights, trust_remote_code=trust_remote_code, dtype="auto")
    if checkpoint.weights != checkpoint.base:
        base = load_base(checkpoint.base, trust_remote_code=trust_remote_code, dtype="auto")
        yield from _tuned_fully(base, model)
    if not checkpoint.tunings:
        yield from (Change(name, "", w) for name, w in _matrices(model))
    if checkpoint.adapters:
        kept = _kept(model, checkpoint)
        yield from _adapted(attach(model, checkpoint), checkpoint, kept)
    yield from (Said(text) for text in notes_of(model))


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies its inputs by its weights, laid out either way."""
    return isinstance(module, nn.Linear | Conv1D)


def _matrices(model: nn.Module, *, shared: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Every weight of two dimensions or more as a matrix, with the path of its module; one with several names once.

    Args:
        model: the module.
        shared: give a matrix under each of its names.
    """
    modules = dict(model.named_modules(remove_duplicate=not shared))
    for name, weight in model.named_parameters(remove_duplicate=not shared):
        owner = name.rpartition(".")[0]
        yield from _split(name.removesuffix(".weight"), modules[owner], weight.detach())


def _split(name: str, module: nn.Module, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The matrices in a weight of a module, by name: one, or one of each expert; none in a vector."""
    if weight.ndim < 2 or not weight.is_floating_point():
        return
    if _is_of_experts(module, weight):
        yield from ((f"{name}.{expert}", _of_expert(module, matrix)) for expert, matrix in enumerate(weight))
    else:
        yield name, _oriented(module, weight)


def _is_of_experts(module: nn.Module, weight: Tensor) -> bool:
    """Whether a weight holds the matrices of several experts; a kernel of three dimensions is one matrix."""
    return weight.ndim == 3 and len(weight) > 1 and not isinstance(module, _ConvNd)


def _of_expert(module: nn.Module, matrix: Tensor) -> Tensor:
    """``(out, in)``: some layers store the matrices of their experts as inputs by outputs, and say so."""
    return matrix.mT if getattr(module, "is_transposed", False) else matrix


def _oriented(module: nn.Module, weight: Tensor) -> Tensor:
    """``(out, in)``: a convolution's kernels side by side, GPT-2's layers transposed."""
    return weight.mT if isinstance(module, Conv1D) else weight.flatten(1)


def _tuned_fully(base: nn.Module, model: nn.Module) -> Iterator[Change | Unweighed]:
    tuned = {_in_body(model, name): w for name, w in _matrices(model, shared=True)}
    before = {_in_body(base, name): (name, w) for name, w in _matrices(base)}
    for path, (name, old) in before.items():
        new = tuned.get(path)
        if new is None or new.shape != old.shape:
            has = "none of that name" if new is None else f"one of {tuple(new.shape)}"
            yield Unweighed(name, f"{tuple(old.shape)} in the base, and the tuned model has {has}")
        elif not torch.equal(new, old):
            yield Change(name, FULL, old, after=new)
    # A matrix that the base shares (its head with its embeddings) may have become two, and is then compared under both names.
    known = {_in_body(base, name): w for name, w in _matrices(base, shared=True)}
    told = {tuned[path].data_ptr() for path in before if path in tuned}
    for path, new in tuned.items():
        if path not in known:
            yield Unweighed(path, f"{tuple(new.shape)}, in the tuned model alone")
        elif path not in before and new.data_ptr() not in told and not torch.equal(new, known[path]):
            yield Change(path, FULL, known[path], after=new)
    yield from _vectors(base, model)


def _vectors(base: nn.Module, model: nn.Module) -> Iterator[Unweighed]:
    """Norms and biases that changed: no matrices, so that they have no spectrum."""
    tuned = {_in_body(model, n): p for n, p in model.named_parameters() if p.ndim < 2}
    for name, old in base.named_parameters():
        new = tuned.get(_in_body(base, name))
        if old.ndim < 2 and new is not None and (new.shape != old.shape or not torch.equal(new, old)):
            yield Unweighed(name, VECTOR)


def _in_body(model: nn.Module, name: str) -> str:
    """A name as the body alone has it, so that models with other heads on one body speak of the same matrix."""
    prefix = getattr(model, "base_model_prefix", "")
    return name.removeprefix(f"{prefix}.") if prefix and hasattr(model, prefix) else name


def _kept(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Weights of the base that attaching will write over, as they were before, by the names of the base.

    An adapter may bring embeddings, norms or biases in place of the base's. One whose initialisation takes its factors from
    the base (PiSSA, OLoRA) leaves a rest in every matrix that it targets, so that all matrices are kept.
    """
    inside = [t for t in checkpoint.adapters if t.kind not in OUTSIDE]
    if not side_by_side(inside) or any(map(rewrites_base, checkpoint.adapters)):
        return {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}
    brought = {name for t in checkpoint.adapters for name in plain_names(t, read_weights(t.path), model)}
    bare = brought | {_in_body(model, name) for name in brought}
    named = model.named_parameters(remove_duplicate=False)
    return {name: p.detach().clone() for name, p in named if name in brought or _in_body(model, name) in bare}


def _adapted(
    model: nn.Module, checkpoint: Checkpoint, kept: Mapping[str, Tensor]
) -> Iterator[Change | Learnt | Unweighed]:
    inside = [t for t in checkpoint.adapters if t.kind not in OUTSIDE]
    # What is changed outside the last stage's layers was brought whole beside it, or is what earlier stages did.
    earlier = FULL if side_by_side(inside) else "+".join(dict.fromkeys(t.kind for t in inside[:-1]))
    told, around = set[str](), ""
    for path, module in model.named_modules():
        if around and path.startswith(around):
            continue
        name = _base_name(path)
        if isinstance(module, ModulesToSaveWrapper):
            yield from _saved_whole(name, module, kept)
        elif isinstance(module, ParamWrapper):  # several parameters of one module have wrappers inside each other
            told.add(f"{name}.{module.parameter_name}")
            yield from _parameter(name, module, kept.get(f"{name}.{module.parameter_name}"))
        elif isinstance(module, BaseTunerLayer) and f"{name}.weight" not in told:
            told.add(f"{name}.weight")
            if isinstance(module.base_layer, BaseTunerLayer) and not isinstance(module, BottleneckLayer):
                around = f"{path}."
                yield Unweighed(name, "adapters of several kinds act on it, one around another")
            else:
                yield from _inside(name, module, kept.get(f"{name}.weight"), earlier=earlier)
    yield from _brought(model, kept, told, kind=earlier)
    if inside and not told:
        yield Unweighed(inside[-1].path.name, "what it learnt is no change of a weight")
    if (prefix := prefix_of(model)) is not None:
        for stack in prefix.shapes:
            for i, block in enumerate(prefix(stack)):
                for which, rows in zip(("keys", "values"), block, strict=True):
                    yield Learnt(f"{stack}.{i}.{which}", "prefix_tuning", rows.detach().transpose(0, 1).flatten(1))
    for tuning in (t for t in checkpoint.adapters if t.kind in PROMPTS):
        yield Learnt("prompt", tuning.kind, read_weights(tuning.path)[PEFT_ROWS])


def _base_name(path: str) -> str:
    """The path in the base of a module of the tuned model."""
    inner = next((path.removeprefix(p) for p in _WRAPPED if path.startswith(p)), path)
    return ".".join(part for part in inner.split(".") if part not in ("base_layer", "token_adapter"))


def _brought(
    model: nn.Module, kept: Mapping[str, Tensor], told: Collection[str], *, kind: str
) -> Iterator[Change | Unweighed]:
    """Weights that changed outside the layers that an adapter put in."""
    base = unwrapped(model)
    modules = {_base_name(path): module for path, module in base.named_modules(remove_duplicate=False)}
    now = {_base_name(name): p for name, p in base.named_parameters(remove_duplicate=False)}
    seen = set[int]()
    for name, old in kept.items():
        new, module = now.get(name), name.removesuffix(".weight")
        if new is None or name in told or new.data_ptr() in seen:
            continue
        seen.add(new.data_ptr())
        if new.shape != old.shape:
            yield Unweighed(
                module, f"{tuple(old.shape)} in the base and {tuple(new.shape)} tuned, so that rows were added"
            )
        elif old.ndim < 2 and not torch.equal(new, old):
            yield Unweighed(name, VECTOR)
        elif not torch.equal(new, old):
            owner = modules[name.rpartition(".")[0]]
            matrices = zip(_split(module, owner, old), _split(module, owner, new.detach()), strict=True)
            for (called, before), (_, after) in matrices:
                if not torch.equal(before, after):
                    yield Change(called, kind, before, after=after)


def _saved_whole(name: str, module: Any, kept: Mapping[str, Tensor]) -> Iterator[Change | Unweighed]:
    """What the modules that an adapter saved whole changed; of several in one place the last is active."""
    first: nn.Module = module.original_module
    before = {inner: kept.get(f"{name}.{inner}", p.detach()) for inner, p in first.named_parameters()}
    for adapter in module.active_adapters:
        now: nn.Module = module.modules_to_save[adapter]
        for inner, new in now.named_parameters():
            path, owner = f"{name}.{inner}".removesuffix(".weight"), now.get_submodule(inner.rpartition(".")[0])
            if torch.equal(new, before[inner]):
                continue
            if new.ndim < 2:
                yield Unweighed(f"{name}.{inner}", VECTOR)
            for (called, old), (_, after) in zip(
                _split(path, owner, before[inner]), _split(path, owner, new.detach()), strict=True
            ):
                yield Change(called, FULL, old.clone(), after=after)


@torch.no_grad()
def _parameter(name: str, layer: Any, original: Tensor | None) -> Iterator[Change]:
    """A LoRA on a parameter of a module (``target_parameters``): for a stack of experts one matrix each."""
    weight, owner = layer.get_param().detach(), layer.get_base_layer()
    before = weight if original is None else original
    active = [a for a in sorted(adapters_in(layer)) if a in layer.lora_A]
    called = name if layer.parameter_name == "weight" else f"{name}.{layer.parameter_name}"
    if weight.ndim == 2:
        # Of one matrix PEFT keeps (in, out) = (columns, rows), so that its factors are those of a linear map.
        b, a = (
            torch.cat([layer.lora_B[x].weight.double() * layer.scaling[x] for x in active], 1),
            torch.cat([layer.lora_A[x].weight.double() for x in active]),
        )
        yield _by_factors(called, before, weight, (b, a))
        return
    parts = [layer.get_delta_factors(a) for a in active]  # (experts, m, r) and (experts, r, n), as the weight is stored
    left = torch.cat([lhs.double() * scale for lhs, _, scale in parts], -1)
    right = torch.cat([rhs.double() for _, rhs, _ in parts], -2)
    for expert, matrix in enumerate(weight):
        b, a = left[expert], right[expert]
        if getattr(owner, "is_transposed", False):
            b, a = a.mT, b.mT
        yield _by_factors(f"{called}.{expert}", _of_expert(owner, before[expert]), _of_expert(owner, matrix), (b, a))


def _by_factors(name: str, before: Tensor, under: Tensor, factors: tuple[Tensor, Tensor]) -> Change:
    """What a LoRA changed: the product of its factors, and what was done before to the matrix under it (PiSSA, earlier stages)."""
    if torch.equal(before, under):
        return Change(name, "lora", before, factors=factors)
    return Change(name, "lora", before, after=under.double() + factors[0] @ factors[1])


@torch.no_grad()
def _inside(name: str, layer: Any, original: Tensor | None, *, earlier: str) -> Iterator[Change | Unweighed]:
    """What an adapter inside a layer, and the stages before it, did to its matrix, against what that was at first."""
    base, kind = layer.get_base_layer(), type(layer).__module__.split(".")[-2]
    weight = getattr(base, "weight", None)
    if isinstance(layer, BottleneckLayer):
        yield Unweighed(name, "a network beside the weights, which stay the base's")
        return
    if not isinstance(weight, Tensor) or weight.ndim < 2 or not weight.is_floating_point():
        yield Unweighed(name, f"{kind} on a {type(base).__name__}, which holds no matrix of floating point numbers")
        return
    active = sorted(adapters_in(layer))
    before = _oriented(base, weight.detach() if original is None else original)
    if _plain_lora(layer, base, active):
        # s₁B₁A₁ + s₂B₂A₂ = [s₁B₁ s₂B₂][A₁; A₂]: several LoRAs on one matrix are one.
        scaled = [(layer.lora_B[a].weight.double() * layer.scaling[a], layer.lora_A[a].weight.double()) for a in active]
        factors = torch.cat([b for b, _ in scaled], 1), torch.cat([a for _, a in scaled])
        yield _by_factors(name, before, _oriented(base, weight.detach()), factors)
        return
    base.float()  # merged in half precision the change would be rounded away
    before = before.float().clone()
    try:
        layer.merge(adapter_names=active)
    except (NotImplementedError, ValueError, AttributeError) as error:
        yield Unweighed(name, f"PEFT cannot merge {kind} into it: {error}")
        if torch.equal(before, _oriented(base, base.weight.detach())):
            return
        kind = earlier
    yield Change(name, kind, before, after=_oriented(base, base.weight.detach()))


def _plain_lora(layer: Any, base: nn.Module, active: list[str]) -> bool:
    """Whether the change is the product of two factors and nothing else."""
    if not isinstance(layer, LoraLayer) or not is_linear(base):
        return False
    # AdaLoRA keeps bare parameters and a third factor between them.
    return isinstance(layer.lora_A, nn.ModuleDict) and all(
        a in layer.lora_A and a not in layer.lora_variant for a in active
    )
