"""Checkpoints to networks, strictly: every tensor of the files lands, and every tensor of the network comes from them."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from rankscope.checkpoint import Checkpoint
from rankscope.devices import check_spread, where
from rankscope.errors import CheckpointError, MissingTool, UnsafeError, UsageError, public
from rankscope.models.dtypes import precision
from rankscope.models.families import family_of
from rankscope.models.heads import AUTOS, VALUE_HEAD, of_auto
from rankscope.models.notes import note
from rankscope.models.quiet import quiet
from rankscope.models.register import register
from rankscope.models.sizes import check_sizes
from rankscope.models.tunings.attach import attach

_COMPUTED = re.compile(r"(^|\.)(position_ids|inv_freq|masked_bias|num_batches_tracked)$")
"""Tensors that older versions saved with the weights and every version computes itself."""
_MARKED = re.compile(r"^(?:_orig_mod\.|module\.)+")
"""What torch.compile and data parallelism put before every name."""
_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys")


@public
def load_model(
    checkpoint: str | Path | Sequence[str | Path] | Checkpoint,
    *,
    base_model: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    load_in_4bit: bool = False,
    trust_remote_code: bool = False,
) -> nn.Module:
    """The tuned model, in evaluation mode, ready to call.

    Args:
        checkpoint: a folder, a name in the local Hub cache, a list of those in order, or what was read from them.
        base_model: the base, in place of the one that the adapter names.
        device: where the model is put; where it was loaded unless given.
        dtype: the dtype of the weights; that of the checkpoint unless given.
        device_map: how the model is spread over devices, as accelerate takes it; in place of ``device``.
        load_in_4bit: quantise the base's linear maps to 4 bits (needs bitsandbytes and a GPU).
        trust_remote_code: run the Python files that the checkpoint brings along. Never asked for on the terminal.

    Raises:
        CheckpointError: if a tensor is missing, left over, of another shape, or not finite, or an adapter does not land.
        UnsafeError: if the checkpoint needs code that was not trusted.
        MissingTool: if weights of few bits are asked for, or in the checkpoint, without the package that reads them.
        UsageError: if this machine has no such device, a model cannot be run in that dtype, or an option excludes another.
    """
    if device is not None and device_map is not None:
        raise UsageError("device puts the whole model in one place and device_map spreads it; give one of them")
    if device_map is not None:
        check_spread(device_map)
    device = None if device is None else where(device)
    found = Checkpoint.read(checkpoint, base_model=base_model)
    quantised = "quantization_config" in found.config
    if load_in_4bit and quantised:
        raise UsageError(f"the weights in {found.weights} are quantised already; leave load_in_4bit out")
    if device is not None and (load_in_4bit or quantised):
        device, device_map = None, {"": device}  # quantised weights cannot be moved
    model = load_base(
        found.weights, dtype=precision(dtype), device_map=device_map, trust_remote_code=trust_remote_code,
        quantization_config=_four_bits() if load_in_4bit else None,
    )  # fmt: skip
    if device is not None:
        model = model.to(device)
    return attach(model, found).eval()


def _four_bits() -> Any:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingTool(
            "4-bit weights need the package bitsandbytes and a GPU; install it, or leave load_in_4bit out"
        ) from error
    return transformers.BitsAndBytesConfig(load_in_4bit=True)


def load_base(
    folder: Path,
    *,
    dtype: torch.dtype | Literal["auto"] = "auto",
    device_map: str | Mapping[str, Any] | None = None,
    quantization_config: Any = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The model in a folder, without tunings.

    Args:
        folder: a full model.
        dtype: the dtype of the weights; that of the checkpoint unless given.
        device_map: how the model is spread over devices, as accelerate takes it.
        quantization_config: how its linear maps are quantised, as transformers takes it.
        trust_remote_code: run the Python files that it brings along.

    Raises:
        CheckpointError: if the folder's weights do not fit the architecture that its configuration describes.
        UnsafeError: if it needs code that was not trusted.
        MissingTool: if its weights are quantised in a way that a package not installed here reads.
    """
    register()
    check_sizes(folder)
    config = read_config(folder, trust_remote_code=trust_remote_code)
    options = {"dtype": dtype, "device_map": device_map, "quantization_config": quantization_config}
    faults: dict[str, dict[str, str]] = {}
    named = getattr(config, "architectures", None)
    named = named if isinstance(named, list) else []
    for cls in model_classes(config, folder, trust_remote_code=trust_remote_code):
        model, found, aside = _try(cls, folder, config, trust_remote_code=trust_remote_code, **options)
        if not found:
            _check_finite(model, folder)
            if aside:
                note(
                    model, f"{folder.name}: {', '.join(aside)} set aside, a value head that reinforcement learning left"
                )
            if check := family_of(model).check_vocabulary:
                check(folder, config.to_dict())
            return model
        faults[cls.__name__] = found
        if cls.__name__ in named and found.keys() - {"unexpected_keys"}:
            break  # another head can take tensors that this one leaves over, but not make up those that are missing
    if not faults:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no model class for {folder} ({config.model_type})"
        )
    name, found = next(iter(faults.items()))
    raise CheckpointError(
        f"{folder} does not fit {name}: {'; '.join(found.values())}. Its weights and its config.json belong to different models, or "
        "the files are incomplete; nothing is filled in at random"
    )


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a model folder.

    Raises:
        CheckpointError: if transformers does not know the model type.
        UnsafeError: if the configuration asks to run Python files that were not trusted.
    """
    content = json.loads((folder / "config.json").read_text())
    remote = content.get("auto_map")
    if remote and not trust_remote_code and content.get("model_type") not in transformers.CONFIG_MAPPING:
        raise UnsafeError(
            f"{folder / 'config.json'} wants to run Python files that come with the checkpoint ({remote}); read them, and "
            "if you trust them pass --trust-remote-code (trust_remote_code=True)"
        )
    if (model_type := str(content.get("model_type"))).startswith(
        "llava_"
    ) and model_type not in transformers.CONFIG_MAPPING:
        raise CheckpointError(
            f"{folder} is in the layout of the original LLaVA (model_type {model_type!r}), whose tensors have other names; use the "
            "converted checkpoint (llava-hf/…), or convert it with transformers' convert_llava_weights_to_hf"
        )
    try:
        return _returning_names(
            AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        )
    except Exception as error:  # a configuration is checked by code of its own type, which raises what it likes
        raise CheckpointError(
            f"{folder / 'config.json'} (model_type {content.get('model_type')!r}) is not understood by transformers "
            f"{transformers.__version__}: {_line(error)}"
        ) from error


def _returning_names(config: Any) -> Any:
    """A configuration under which the model and those inside it return outputs by name, not tuples of unknown order."""
    for inner in (config, *(v for v in vars(config).values() if isinstance(v, PreTrainedConfig))):
        inner.return_dict = True
        if inner is not config:
            _returning_names(inner)
    return config


def model_classes(config: Any, folder: Path, *, trust_remote_code: bool = False) -> Iterator[type[PreTrainedModel]]:
    """The classes that may hold a model: the one its configuration names, then others of its type."""
    if trust_remote_code and (remote := getattr(config, "auto_map", None)):
        yield from _remote_classes(remote, folder)
    architectures = getattr(config, "architectures", None)
    named = [
        c for n in (architectures if isinstance(architectures, list) else ()) if (c := _class(n, config)) is not None
    ]
    others = [c for auto in AUTOS if (c := of_auto(auto, config)) is not None]
    yield from dict.fromkeys([*named, *others])


def _class(name: str, config: Any) -> type[PreTrainedModel] | None:
    found = getattr(transformers, name, None)
    if isinstance(found, type) and issubclass(found, PreTrainedModel):
        return found
    return next((c for auto in AUTOS if (c := of_auto(auto, config)) is not None and c.__name__ == name), None)


def _remote_classes(remote: Mapping[str, str], folder: Path) -> Iterator[type[PreTrainedModel]]:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    for auto in AUTOS:
        if auto in remote:
            yield get_class_from_dynamic_module(remote[auto], str(folder), local_files_only=True)


def _try(
    cls: type[PreTrainedModel], folder: Path, config: Any, *, trust_remote_code: bool, **options: Any
) -> tuple[PreTrainedModel, dict[str, str], tuple[str, ...]]:
    """A model of a class, what in the files did not fit it, by kind, in words, and the names of what is no part of it."""
    try:
        with quiet():
            model, info = cls.from_pretrained(
                folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True,
                trust_remote_code=trust_remote_code, **options,
            )  # fmt: skip
            if "key_mapping" not in options and any(map(_MARKED.search, info.get("unexpected_keys") or ())):
                del model  # before it is loaded again with the names that it had before it was compiled or spread
                mapping = {_MARKED.pattern: ""}
                return _try(cls, folder, config, trust_remote_code=trust_remote_code, key_mapping=mapping, **options)
    except pickle.UnpicklingError as error:
        raise UnsafeError(
            f"the weights in {folder} are a pickle with more than tensors in it; it is not opened, because that could run "
            "any code. Ask for safetensors files"
        ) from error
    except ImportError as error:
        raise MissingTool(f"the weights in {folder} cannot be read without another package: {_line(error)}") from error
    except Exception as error:  # sizes that do not fit each other fail anywhere in the code of the model
        raise CheckpointError(f"the weights in {folder} cannot be loaded as {cls.__name__}: {_line(error)}") from error
    info["unexpected_keys"] = [k for k in info.get("unexpected_keys") or () if not _COMPUTED.search(k)]
    aside = tuple(k for k in info["unexpected_keys"] if k.startswith(f"{VALUE_HEAD}."))
    info["unexpected_keys"] = [k for k in info["unexpected_keys"] if k not in aside]
    faults = {kind: _fault(kind, info[kind]) for kind in _FAULTS if info.get(kind)}
    if messages := info.get("error_msgs"):
        faults["error_msgs"] = "; ".join(map(_line, messages))
    return model, faults, aside


def _fault(kind: str, keys: Sequence[Any]) -> str:
    word = kind.removesuffix("_keys")
    listed = sorted(
        f"{k[0]} {tuple(k[1])} in the file, {tuple(k[2])} in the model" if isinstance(k, tuple) else k for k in keys
    )
    return f"{len(listed)} {word} ({', '.join(listed[:4])}{', …' if len(listed) > 4 else ''})"


def _line(error: object) -> str:
    """The start of a message as one line, without advice to load what is not safe."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return " ".join(lines)[:300] or type(error).__name__


def _check_finite(model: nn.Module, folder: Path) -> None:
    tensors = ((n, p) for n, p in model.state_dict().items() if p.is_floating_point() and p.device.type != "meta")
    bad = [name for name, tensor in tensors if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(
            f"{len(bad)} tensors of {folder} hold NaN or infinite numbers ({', '.join(bad[:4])}): the file is damaged, or "
            "its training diverged"
        )
