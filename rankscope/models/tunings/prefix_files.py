"""A prefix on disk: a plain PEFT folder as far as PEFT can express it, and files for what PEFT has no place for.

=================================== =====================================================================
``adapter_config.json``             PEFT's
``adapter_model.safetensors``       ``prompt_embeddings``, PEFT's, of the stack that takes a cache, where
                                    PEFT puts a prefix, the network folded away; the rows of other stacks
                                    (the encoder of T5 or BART) as ``rankscope_prefix.<stack>``
``prefix.json``                     rows, stacks with their shapes, encoder, the stack that PEFT sees
``prefix_encoder.safetensors``      the prefix's own parameters, so that training can go on
``README.md``                       what plain PEFT does with them
=================================== =====================================================================

Plain PEFT ignores the last three and the rows of other stacks. If no stack takes a cache there are no
``prompt_embeddings``, and plain PEFT refuses the folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PrefixTuningConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from rankscope.errors import CheckpointError
from rankscope.models.stacks import stacks, unwrapped
from rankscope.models.tensor_files import read_tensors
from rankscope.models.tunings.adapters import read_weights
from rankscope.models.tunings.attention import attending
from rankscope.models.tunings.prefix import Prefix, PrefixEncoder, PrefixShape
from rankscope.models.tunings.prefix_live import cached_owner, passes_cache_on, shape_of

ABOUT, ENCODER = "prefix.json", "prefix_encoder.safetensors"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FORMAT = "rankscope-prefix/1"
CARD = """# Prefix

`rankscope.load_model("this folder")` gives the model with the prefix live in `forward` and in `generate`, in every stack that has
one. Plain PEFT opens the folder too, but knows only the decoder's prefix, and its `generate` silently leaves that out on models
that generate from an inner language model (BLIP-2).
"""
"""The ``README.md`` of the folder."""
PEFT_ROWS, OTHER_ROWS, HEAD = "prompt_embeddings", "rankscope_prefix.", "base_model."


def cached_stack(model: nn.Module) -> str | None:
    """The stack in which PEFT puts a prefix: the last that takes a cache, or whose attentions do; None if there is none.

    PEFT's keys are as wide as its values.
    """
    there = stacks(model)
    taking = [name for name in reversed(there) if cached_owner(model, there, name) is not None]
    taking = taking or [name for name in reversed(there) if passes_cache_on(there[name])]
    even = taking and all(a.value_width == a.head_width for a in attending(there[taking[0]].blocks))
    return taking[0] if even else None


def save_prefix(
    prefix: Prefix, folder: Path, *, model: nn.Module, base: str | None, extra: Mapping[str, Tensor] | None = None
) -> None:
    """Write a prefix into a folder, which is created.

    Args:
        prefix: the prefix.
        folder: where to write it; files of the same name are replaced.
        model: the model that it belongs to, which decides where PEFT would put it.
        base: the base checkpoint, as PEFT records it.
        extra: further tensors for PEFT's file, by PEFT's names (a classifier's).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = {name: table.cpu().contiguous() for name, table in prefix.tables().items()}
    seen = cached_stack(model)
    seen = seen if seen in tables else None
    about = {"format": FORMAT, "peft_stack": seen, **prefix.about()}
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    save_file({k: v.detach().cpu().contiguous() for k, v in prefix.state_dict().items()}, folder / ENCODER)
    shape = prefix.shapes[seen or next(iter(tables))]
    heads = {name.removeprefix(HEAD).split(".")[0] for name in extra or ()}
    prefix_config(shape, prefix.rows, model=model, base=base, heads=heads).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    tensors = dict(extra or {})
    for name, table in tables.items():
        rows = to_peft(table, prefix.shapes[name]) if name == seen and _has_both_sides(model) else table
        tensors[PEFT_ROWS if name == seen else OTHER_ROWS + name] = rows
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_prefix(folder: Path, model: nn.Module, *, trainable: bool = False) -> Prefix:
    """The prefix in a folder, made by rankscope or by plain PEFT; not attached yet.

    Args:
        folder: the folder.
        model: the model that it is for.
        trainable: whether the network that makes the rows is wanted, so that training can go on.

    Raises:
        CheckpointError: if files are missing, hold other tensors than they should, are not finite, or fit another base.
    """
    about = json.loads((folder / ABOUT).read_text()) if (folder / ABOUT).is_file() else None
    if trainable and (about is None or not (folder / ENCODER).is_file()):
        raise CheckpointError(
            f"{folder} has no {ENCODER}: the network that made the prefix is gone, its training cannot go on"
        )
    tensors = read_weights(folder)
    prefix = _built(about, folder) if about is not None and trainable else _folded(about, tensors, folder, model)
    # Whatever is no rows is the head; PEFT's wrappers of a task put one or two prefixes before its names.
    rest = {k: t for k, t in tensors.items() if k != PEFT_ROWS and not k.startswith(OTHER_ROWS)}
    prefix.head = {name.removeprefix(HEAD).removeprefix("model."): tensor for name, tensor in rest.items()}
    return prefix


def _folded(about: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], folder: Path, model: nn.Module) -> Prefix:
    """The prefix without its network: the rows that PEFT's file holds."""
    tables = {k.removeprefix(OTHER_ROWS): t for k, t in tensors.items() if k.startswith(OTHER_ROWS)}
    seen: str | None = cached_stack(model) if about is None else about["peft_stack"]
    if about is not None:
        shapes = _shapes(about)
    elif seen is not None:
        shapes = {seen: shape_of(stacks(model)[seen])}
    else:
        raise CheckpointError(
            f"{folder} holds PEFT's prefix, which goes into the cache of a decoder; this {type(unwrapped(model)).__name__} has none in "
            "which it would be what PEFT makes of it. Train one here (--method prefix), which is joined inside each attention"
        )
    if seen is not None:
        tables[seen] = of_peft(json.loads((folder / CONFIG).read_text()), tensors, shapes[seen], folder)
    if tables.keys() != shapes.keys():
        raise CheckpointError(
            f"{folder} holds a prefix for {', '.join(tables) or 'nothing'}; it should hold one for {', '.join(shapes)}"
        )
    return Prefix.of_tables(tables, shapes)


def _built(about: Mapping[str, Any], folder: Path) -> Prefix:
    """The prefix with the network that makes its rows."""
    tensors = read_tensors(folder / ENCODER)
    prefix = Prefix(_shapes(about), rows=about["rows"], encoder=PrefixEncoder(**about["encoder"]))
    wanted = {name: tuple(t.shape) for name, t in prefix.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != found:
        wrong = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        raise CheckpointError(
            f"{folder / ENCODER} does not fit its {ABOUT}: {wrong[0]} is {found.get(wrong[0])}, not {wanted.get(wrong[0])}"
        )
    prefix.load_state_dict(tensors)
    return prefix


def _shapes(about: Mapping[str, Any]) -> dict[str, PrefixShape]:
    return {name: PrefixShape(**shape) for name, shape in about["stacks"].items()}


def _has_both_sides(model: nn.Module) -> bool:
    """Whether the model has an encoder and a decoder of text."""
    return {"encoder", "decoder"} <= stacks(model).keys()


def task_type(model: nn.Module) -> str:
    """PEFT's name for what the model does, which decides how plain PEFT wraps it."""
    if _has_both_sides(model):
        return "SEQ_2_SEQ_LM"
    if type(model).__name__.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    can = getattr(model, "can_generate", None)
    return "CAUSAL_LM" if can is not None and can() else "FEATURE_EXTRACTION"


def prefix_config(
    shape: PrefixShape, rows: int, *, model: nn.Module, base: str | None, heads: Collection[str] = ()
) -> PrefixTuningConfig:
    """PEFT's configuration of a prefix of ``rows`` rows.

    For an encoder–decoder PEFT takes its list of slots twice and gives block i the slots 4i and 4i+1 (the two between are
    meant for attention to the encoder, and are dropped). A list for twice the blocks gives every block slots of its own.
    """
    times = 2 if _has_both_sides(model) else 1
    return PrefixTuningConfig(
        task_type=task_type(model), num_virtual_tokens=rows, token_dim=shape.heads * shape.width, inference_mode=True,
        num_layers=shape.layers * times, num_attention_heads=shape.heads, prefix_projection=False,
        num_transformer_submodules=times, encoder_hidden_size=shape.heads * shape.width,
        base_model_name_or_path=base, modules_to_save=sorted(heads) or None,
    )  # fmt: skip


def to_peft(table: Tensor, shape: PrefixShape) -> Tensor:
    """PEFT's ``prompt_embeddings`` for an encoder–decoder, with zeros in the slots that it drops.

    Args:
        table: ``(n, numbers)`` rows.
        shape: what they are shaped for.
    """
    blocks = table.view(len(table), shape.layers, 2, -1)
    return torch.cat([blocks, torch.zeros_like(blocks)], dim=2).reshape(len(table), -1)


def of_peft(config: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: PrefixShape, folder: Path) -> Tensor:
    """``(n, numbers)`` rows that PEFT would give the blocks of the stack.

    Raises:
        CheckpointError: if the tensor is missing or belongs to a base of another shape.
    """
    table = tensors.get(PEFT_ROWS)
    if table is None:
        raise CheckpointError(f"{folder} holds no {PEFT_ROWS}; it holds {', '.join(tensors) or 'nothing'}")
    heads, width = config["num_attention_heads"], config["token_dim"] // config["num_attention_heads"]
    slots = 2 * config["num_layers"]
    if (heads, width) != (shape.heads, shape.width) or table.shape[1] != slots * heads * width:
        raise CheckpointError(
            f"{folder} holds a prefix of {tuple(table.shape)} for {heads} heads of width {width} in {config['num_layers']} blocks; "
            f"the model has {shape.heads} of width {shape.width} in {shape.layers}: it belongs to another base"
        )
    rows = table.view(len(table), slots, heads * width)
    # Block i is given the slots step·i (keys) and step·i + 1 (values) of the list taken step / 2 times.
    step = 2 * (config.get("num_transformer_submodules") or 1)
    rows = torch.cat([rows] * (step // 2), dim=1)
    if rows.shape[1] < step * shape.layers:
        raise CheckpointError(
            f"{folder} holds a prefix for {rows.shape[1] // step} blocks; the model has {shape.layers}"
        )
    keys_values = [rows[:, step * block : step * block + 2] for block in range(shape.layers)]
    return torch.cat(keys_values, dim=1).reshape(len(table), -1)
