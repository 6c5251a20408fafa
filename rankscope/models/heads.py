"""The classes that may hold a model, each with another head on one body, and what their heads are called."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

AUTOS = (
    "AutoModelForImageTextToText",
    "AutoModelForSeq2SeqLM",
    "AutoModelForCausalLM",
    "AutoModelForPreTraining",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForImageClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForTokenClassification",
    "AutoModelForZeroShotImageClassification",
    "AutoModel",
)
"""Where a class is looked for, in this order, if the configuration names none or one that the weights do not fit."""
VALUE_HEAD = "v_head"
"""TRL's value head, which stands beside any model and is saved with it."""


def of_auto(auto: str, config: Any) -> type[PreTrainedModel] | None:
    """The class that one of transformers' auto classes has for a configuration; None if it has none."""
    found = getattr(modeling_auto, auto)._model_mapping.get(type(config), None)
    return found[0] if isinstance(found, tuple | list) else found


def classes_of(config: Any) -> tuple[type[PreTrainedModel], ...]:
    """Every class that may hold a model of a configuration."""
    return tuple(dict.fromkeys(c for auto in AUTOS if (c := of_auto(auto, config)) is not None))


def body_names(model: nn.Module) -> tuple[str, ...]:
    """What the classes of a model's type call the body inside them, its own class first (Llama's: ``model``, ``transformer``)."""
    classes = (type(model), *classes_of(getattr(model, "config", None)))
    return tuple(dict.fromkeys(name for cls in classes if (name := getattr(cls, "base_model_prefix", ""))))


def are_heads(model: nn.Module, names: Iterable[str]) -> bool:
    """Whether every name is of a module beside the body in some class of the model's type, so that no site passes it.

    Args:
        model: a model of that type.
        names: names of tensors, from the class that has them (``score.weight``).
    """
    wanted = {name.partition(".")[0] for name in names} - {VALUE_HEAD}
    config = getattr(model, "config", None)
    for cls in classes_of(config):
        if not wanted:
            break
        with torch.device("meta"):  # only its modules are asked for
            made = cls(copy.deepcopy(config))
        wanted -= {name for name, _ in made.named_children()} - {made.base_model_prefix}
    return not wanted
