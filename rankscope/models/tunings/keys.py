"""From the names in an adapter's file to the modules of the base that is loaded.

An adapter is saved under the names of the class that it was made with. A sequence classifier has ``model.layers.0`` and
``score``, the causal model of the same folder ``model.layers.0`` and ``lm_head``, the plain ``AutoModel`` ``layers.0``. The
body is one and the same, and every site is in it; so an adapter that was made under another head is put into the body,
and the tensors of the head, which no site passes, are set aside. Wrappers (``torch.compile``, DistributedDataParallel) and
older ways of saving leave further marks in the names, which are taken off first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from rankscope.checkpoint import Tuning
from rankscope.errors import CheckpointError
from rankscope.models.heads import are_heads, body_names

WRAPPED = "base_model.model."
"""What PEFT puts before the name of every module of the base."""
SHARED = "base_model."
"""What stands before the names of tensors that all layers of an adapter share (VeRA's projections)."""
_MARKS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""Modules that torch.compile, FSDP, checkpointing and data parallelism put around a module."""
_SAVED = re.compile(r"\.modules_to_save\.(?:[^.]+\.)?")
"""What PEFT puts before the names of a module that is saved whole, with the adapter's name or without."""
_REPLACED = ".original_module."
"""What it puts before the base's own weights of such a module, which are saved too where the vocabulary was resized."""
_HEADS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "FEATURE_EXTRACTION": "Model",
}
"""PEFT's tasks whose head is not that of a language model, and how their classes' names end."""
_BEHIND = ("pooler",)
"""Modules of a body that some of its classes have and others leave out; they stand behind the last block."""


@dataclass(frozen=True)
class Placed:
    """An adapter's tensors by the modules of a loaded base."""

    host: str
    """The path of the module that the adapter goes into; empty for the whole model."""
    weights: dict[str, Tensor]
    """Its tensors, named from that module."""
    before: str = ""
    """What stood before the path of each module of the host in the class that the adapter was made with (``bert.``)."""
    heads: tuple[str, ...] = ()
    """Names of tensors of a head that the base lacks."""
    moved: bool = False
    """Whether it was made under another head than the base has."""
    renamed: bool = False
    """Whether its names were those of an older transformers."""


def plain_names(tuning: Tuning, weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Tensors by the paths of the class that the adapter was made with, without what wrappers and savers left in them.

    Args:
        tuning: the adapter.
        weights: its tensors by the names in its file.
        model: the base, in which a module may really be called ``module``.

    Raises:
        CheckpointError: if two tensors claim one path.
    """
    own = {name for path, _ in model.named_modules() for name in path.split(".")}
    marks = [mark for mark in _MARKS if mark not in own]
    kept = [key for key in weights if _REPLACED not in key]
    names = {key: _SAVED.sub(".", _unmarked(key, marks)).removeprefix(WRAPPED) for key in kept}
    left = _name_left(tuning.kind, names.values())
    if left:
        names = {key: _without(name, _prefix(tuning.kind), left) for key, name in names.items()}
    plain: dict[str, Tensor] = {}
    for key, name in names.items():
        if not torch.equal(plain.setdefault(name, weights[key]), weights[key]):
            raise CheckpointError(
                f"{tuning.path} holds two different tensors for {name}, one of them as {key}; which of them acts is not in the file"
            )
    return plain


def _unmarked(key: str, marks: Iterable[str]) -> str:
    return ".".join(part for part in key.split(".") if part not in marks)


def _prefix(kind: str) -> str:
    """How the names of a kind's factors begin (``lora_``); empty for a kind without."""
    return next((p for k, p in PEFT_TYPE_TO_PREFIX_MAPPING.items() if str(getattr(k, "value", k)).lower() == kind), "")


def _name_left(kind: str, names: Iterable[str]) -> str:
    """The adapter's name, where the file kept it behind every factor (``lora_A.default.weight``); empty where it did not."""
    prefix = _prefix(kind)
    if not prefix:
        return ""
    found = set()
    for name in names:
        parts = name.split(".")
        at = next((i for i, part in enumerate(parts) if part.startswith(prefix)), None)
        if at is not None:
            rest = parts[at + 1 :]
            # Behind a factor stands nothing, or one word for its tensor; with one more word before that it is the adapter's name.
            found.add(
                rest[0] if rest and rest[0] not in ("weight", "bias") and rest[1:] in ([], ["weight"], ["bias"]) else ""
            )
    only = found.pop() if len(found) == 1 else ""
    return "" if only.isdigit() else only


def _without(name: str, prefix: str, left: str) -> str:
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.startswith(prefix)), len(parts))
    return ".".join(part for i, part in enumerate(parts) if i != at + 1 or part != left)


def place(tuning: Tuning, weights: Mapping[str, Tensor], model: nn.Module) -> Placed:
    """Where the tensors of an adapter belong in a base, which may have another head than the adapter was made with.

    Args:
        tuning: the adapter.
        weights: its tensors, by :func:`plain_names`.
        model: the base.

    Raises:
        CheckpointError: if it was made with a class into which the base's weights do not go.
    """
    prefix = getattr(model, "base_model_prefix", "") or ""
    body = getattr(model, prefix, None) if prefix else None
    host = prefix if isinstance(body, nn.Module) and body is not model else ""
    inside: nn.Module = model.get_submodule(host)
    todays = _todays(weights, model, inside)
    if todays.keys() != weights.keys():
        return Placed("", todays, renamed=True)
    starts = {name.partition(".")[0] for name in weights if not name.startswith(SHARED)}
    here = {name for name, _ in model.named_children()} | {name for name, _ in model.named_parameters(recurse=False)}
    if starts <= here and not _other_head(tuning, model, prefix, starts, host):
        return Placed("", dict(weights))
    called = next((name for name in body_names(model) if name in starts), "")
    if called and host and called != prefix:
        raise CheckpointError(
            f"{tuning.path} was made with a class that calls its body {called!r}, and {type(model).__name__} calls it {prefix!r}: from "
            "such a folder transformers fills that class at random, so that the adapter sat on random weights. Give the base with "
            "that class's own names with --base-model (base_model=…)"
        )
    if called:  # made with a head, which stands beside the body
        before, inner = f"{called}.", (f"{called}.", SHARED)
        own = {name.removeprefix(before): t for name, t in weights.items() if name.startswith(inner)}
        heads = [name for name in weights if not name.startswith(inner)]
        if heads and not are_heads(model, heads):  # what no class of this type has is no head, and does not land
            return Placed("", dict(weights))
    elif host and starts <= {name for name, _ in inside.named_children()} | set(_BEHIND):  # made with the body alone
        own, heads, before = dict(weights), [], ""
    else:
        return Placed("", dict(weights))
    behind = [name for name in own if (first := name.partition(".")[0]) in _BEHIND and _absent(inside, first)]
    heads += behind
    return Placed(host, {n: t for n, t in own.items() if n not in behind}, before, tuple(sorted(heads)), moved=True)


def _absent(module: nn.Module, child: str) -> bool:
    return getattr(module, child, None) is None


def _other_head(tuning: Tuning, model: nn.Module, prefix: str, starts: set[str], host: str) -> bool:
    """Whether an adapter, all of whose tensors have a place in the base, was made under a head that the base lacks.

    Its targets may then fit modules of the base's own head, which it never had.
    """
    end = _HEADS.get(str(tuning.config.get("task_type")), "")
    recorded = (tuning.config.get("auto_mapping") or {}).get("base_model_class") or ""
    differs = bool(recorded) and recorded != type(model).__name__
    return bool(host) and starts == {prefix} and (differs or (bool(end) and not type(model).__name__.endswith(end)))


def targets_in(kind: str, names: Iterable[str]) -> list[str]:
    """The modules that tensors of a kind belong to, by the names of the tensors."""
    marked = (name.partition(f".{_prefix(kind)}") for name in names)
    return sorted({module for module, mark, _ in marked if mark})


def speak_of_host(config: peft.PeftConfig, host: nn.Module, placed: Placed) -> None:
    """Let a configuration that was made under another head mean the same modules, by their paths in the host; in place.

    PEFT matches whole paths, in several ways, so that its own answers for the paths as they were are written down one by one.

    Args:
        config: PEFT's configuration.
        host: the module that the adapter goes into.
        placed: its tensors.
    """
    options: Any = config
    options.task_type = None  # PEFT would add the modules of the task's head
    paths = [path for path, _ in host.named_modules() if path]
    # A module behind the last block may be the base's alone: what has no tensors there was not tuned.
    tuned = [
        p for p in paths if p.partition(".")[0] not in _BEHIND or any(k.startswith(f"{p}.") for k in placed.weights)
    ]
    for name in ("rank_pattern", "alpha_pattern"):
        if pattern := getattr(options, name, None):
            found = {path: get_pattern_key(pattern.keys(), placed.before + path) for path in paths}
            setattr(options, name, {re.escape(path): pattern[key] for path, key in found.items() if key in pattern})
    if getattr(options, "target_modules", None) and options.target_modules != "all-linear":
        options.target_modules = [p for p in tuned if check_target_module_exists(options, placed.before + p)]
        for name in ("layers_to_transform", "layers_pattern", "exclude_modules"):
            if getattr(options, name, None) is not None:
                setattr(options, name, None)
    if getattr(options, "target_parameters", None):
        options.target_parameters = [name.removeprefix(placed.before) for name in options.target_parameters]
    if getattr(options, "modules_to_save", None):
        ends = {path.rpartition(".")[2] for path in paths}
        options.modules_to_save = [n for n in options.modules_to_save if n.rpartition(".")[2] in ends] or None


def _todays(weights: Mapping[str, Tensor], model: nn.Module, body: nn.Module) -> dict[str, Tensor]:
    """Tensors under today's names, as transformers renames those of whole models that it saved before parts were moved.

    A name is changed only if that leads deeper into the model: what PEFT renames itself is left to it.
    """
    renamings = [way for way in get_model_conversion_mapping(model) if isinstance(way, WeightRenaming)]
    there = [{path for path, _ in module.named_modules()} for module in (model, body)]
    found = {}
    for name, tensor in weights.items():
        new = name
        for renaming in renamings:
            new, _ = renaming.rename_source_key(new)
        deeper = _depth(new, there[0]) > max(_depth(name, paths) for paths in there)
        found[new if deeper else name] = tensor
    return found


def _depth(name: str, paths: Set[str]) -> int:
    """How many parts of a name lead to modules of these paths."""
    parts = name.split(".")
    return next(n for n in range(len(parts), -1, -1) if not n or ".".join(parts[:n]) in paths)
