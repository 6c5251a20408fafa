"""What a checkpoint's tunings changed in the base's weights, matrix by matrix, and the rows that its prefix or prompt learnt.

A LoRA gives its factors, so that its spectrum is exact and cheap; several on one matrix are one LoRA of the summed rank.
Other adapters inside a matrix (DoRA, IA³, LoHa, OFT …) are merged by PEFT and give the tuned matrix, and so does a full
tuning. Matrices are laid out as ``(out, in)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rankscope.checkpoint import FULL, Checkpoint
from rankscope.models.load import load_base
from rankscope.models.notes import notes_of
from rankscope.models.tunings.adapters import read_weights
from rankscope.models.tunings.attach import PROMPTS, attach
from rankscope.models.tunings.bottleneck import BottleneckLayer
from rankscope.models.tunings.effect import adapters_in
from rankscope.models.tunings.prefix_files import PEFT_ROWS
from rankscope.models.tunings.prefix_live import prefix_of

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
        tuned = attach(model, checkpoint)
        yield from _adapted(tuned, checkpoint)
    yield from (Said(text) for text in notes_of(model))


def _matrices(model: nn.Module, *, shared: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Every weight of two dimensions or more as a matrix, with the path of its module; one with several names once.

    Args:
        model: the module.
        shared: give a matrix under each of its names.
    """
    modules = dict(model.named_modules(remove_duplicate=not shared))
    for name, weight in model.named_parameters(remove_duplicate=not shared):
        owner = name.rpartition(".")[0]
        if weight.ndim >= 2 and weight.is_floating_point():
            yield owner if name.endswith(".weight") else name, _oriented(modules[owner], weight.detach())


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
            yield Unweighed(name, "changed, and a vector has no spectrum")


def _in_body(model: nn.Module, name: str) -> str:
    """A name as the body alone has it, so that models with other heads on one body speak of the same matrix."""
    prefix = getattr(model, "base_model_prefix", "")
    return name.removeprefix(f"{prefix}.") if prefix and hasattr(model, prefix) else name


def _adapted(model: nn.Module, checkpoint: Checkpoint) -> Iterator[Change | Learnt | Unweighed]:
    for path, module in model.named_modules():
        name = next((path.removeprefix(p) for p in _WRAPPED if path.startswith(p)), path)
        if isinstance(module, ModulesToSaveWrapper):
            yield from _saved_whole(name, module)
        elif isinstance(module, BaseTunerLayer):
            yield from _inside(name, module)
    if (prefix := prefix_of(model)) is not None:
        for stack in prefix.shapes:
            for i, block in enumerate(prefix(stack).detach()):
                for which, rows in zip(("keys", "values"), block, strict=True):
                    yield Learnt(f"{stack}.{i}.{which}", "prefix_tuning", rows.transpose(0, 1).flatten(1))
    for tuning in (t for t in checkpoint.adapters if t.kind in PROMPTS):
        yield Learnt("prompt", tuning.kind, read_weights(tuning.path)[PEFT_ROWS])


def _saved_whole(name: str, module: ModulesToSaveWrapper) -> Iterator[Change]:
    before = dict(_matrices(module.original_module))
    for adapter in module.modules_to_save:
        for inner, after in _matrices(module.modules_to_save[adapter]):
            if not torch.equal(after, before[inner]):
                path = f"{name}.{inner}" if inner not in ("", "weight") else name
                yield Change(path, FULL, before[inner].clone(), after=after)


@torch.no_grad()
def _inside(name: str, layer: Any, /) -> Iterator[Change]:
    base = layer.get_base_layer()
    weight = getattr(base, "weight", None)
    if isinstance(layer, BottleneckLayer) or not isinstance(weight, Tensor) or weight.ndim < 2:
        return
    active = sorted(adapters_in(layer))
    if _plain_lora(layer, base, active):
        # s₁B₁A₁ + s₂B₂A₂ = [s₁B₁ s₂B₂][A₁; A₂]: several LoRAs on one matrix are one.
        scaled = [(layer.lora_B[a].weight.double() * layer.scaling[a], layer.lora_A[a].weight.double()) for a in active]
        factors = torch.cat([b for b, _ in scaled], 1), torch.cat([a for _, a in scaled])
        yield Change(name, "lora", _oriented(base, weight.detach()), factors=factors)
    elif weight.is_floating_point():
        base.float()  # merged in half precision the change would be rounded away
        before = _oriented(base, base.weight.detach()).clone()
        layer.merge(adapter_names=active)
        yield Change(name, type(layer).__module__.split(".")[-2], before, after=_oriented(base, base.weight.detach()))


def _plain_lora(layer: Any, base: nn.Module, active: list[str]) -> bool:
    """Whether the change is the product of two factors and nothing else."""
    if not isinstance(layer, LoraLayer) or not isinstance(base, nn.Linear | Conv1D):
        return False
    return all(a in layer.lora_A and not layer.use_dora.get(a, False) for a in active)
