"""What a collect reads from: a checkpoint with its probe set, or any module with tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankscope.errors import DataError
from rankscope.reading.forward import Inputs
from rankscope.reading.hooks import Tap, reading
from rankscope.sites import Site

TENSORS = "tensors"
"""What the manifest calls tensors that a plain module was fed with."""
DEFAULT_DATA = "scenes"
"""The probe set where none is given: the embedded scenes."""


@dataclass(frozen=True)
class Source:
    """A model, and how samples become its inputs."""

    model: nn.Module
    """The tuned model, in evaluation mode; it is what is called."""
    name: str
    """The checkpoint's name."""
    taps: Mapping[Site, Tap]
    """Where each of its sites is read."""
    known_widths: Mapping[str, int | None]
    """The width of each stack, where the configuration tells it."""
    ids: tuple[str, ...]
    """The ids of the samples."""
    lengths: tuple[int, ...]
    """About how many columns each sample has."""
    collate: Callable[[Sequence[int]], Inputs]
    """From places of samples to a batch on the model's device."""
    checkpoint: dict[str, Any]
    """What the manifest says of the checkpoint."""
    data_name: str
    """What the manifest calls the probe set."""
    fingerprint: str
    """The probe set's fingerprint."""
    reading: dict[str, Any]
    """How the model is read: padding side, attention implementation, precision."""
    notes: tuple[str, ...] = ()
    """What the data's reader had to say."""

    def stored_dtype(self, kind: str) -> str:
        """The dtype in which rows of a kind are stored: the model's own; means over half precision in float32."""
        dtypes = [p.dtype for p in self.model.parameters() if p.is_floating_point()]
        dtype = dtypes[0] if dtypes else torch.float32
        lifted = torch.promote_types(dtype, torch.float32) if kind == "mean" else dtype
        return str(lifted).removeprefix("torch.")

    def widths(self, taps: Mapping[Site, Tap]) -> dict[Site, int]:
        """The number of features at each site: from the configuration, or from one sample where that does not tell."""
        if all(self.known_widths.get(site.stack) for site in taps):
            return {site: int(self.known_widths[site.stack] or 0) for site in taps}
        with torch.inference_mode(), reading(taps, lambda site, hidden: torch.empty(hidden.shape[-1])) as found:
            self.model(**self.collate(range(1)).kwargs)
        return {site: len(width) for site, width in found.items()}


def open_source(
    model: Any,
    data: Any = None,
    *,
    n: int | None = None,
    base_model: str | Path | None = None,
    processor: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> Source:
    """What to read from.

    Args:
        model: a checkpoint folder, several in order, a loaded transformers model, or any module.
        data: the probe set, as :func:`rankscope.open_data` takes it; tensors for a plain module.
        n: only the first n samples.
        base_model: the base, in place of the one that an adapter names.
        processor: the folder of the tokenizer or processor of a loaded model, where the model does not tell.
        device: where the model runs; the GPU where there is one. A loaded model stays where it is.
        dtype: the precision of the model; its own where nothing is given.
        trust_remote_code: whether code that lies in the checkpoint may run.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not load.
        DataError: if there are fewer than n samples, or none.
    """
    if isinstance(model, nn.Module) and not hasattr(model, "config"):
        return _plain(model, data, n)
    from rankscope.pipeline.checkpoint_source import from_checkpoint

    return from_checkpoint(
        model,
        data if data is not None else DEFAULT_DATA,
        n=n,
        processor=processor,
        base_model=base_model,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )


def _plain(model: nn.Module, data: Any, n: int | None) -> Source:
    """Any module, fed with a tensor or a dictionary of tensors."""
    tensors = data if isinstance(data, Mapping) else {"": data}
    if not tensors or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise DataError(
            f"a plain module is fed with a tensor, a sample a row, or a dictionary of those; got {type(data).__name__}"
        )
    sizes = {len(x) for x in tensors.values()}
    if len(sizes) > 1 or (n is not None and n > min(sizes)):
        raise DataError(f"the tensors hold {sorted(sizes)} samples; {n or 'equally many'} were asked for")
    count = n or sizes.pop()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    first = next(iter(tensors.values()))

    def collate(samples: Sequence[int]) -> Inputs:
        index = torch.tensor(list(samples))
        return Inputs({name: x[index].to(device) for name, x in tensors.items()}, {})

    called = model.eval() if isinstance(data, Mapping) else _Positional(model).eval()
    return Source(
        model=called,
        name=type(model).__name__,
        taps={Site(name, "output"): Tap(module) for name, module in model.named_modules() if name},
        known_widths={},
        ids=tuple(str(i) for i in range(count)),
        lengths=(first.shape[1] if first.ndim > 1 else 1,) * count,
        collate=collate,
        checkpoint={"summary": f"{type(model).__name__} in memory", "digest": module_digest(model), "tunings": []},
        data_name=TENSORS,
        fingerprint=_digest({name: x[:count] for name, x in tensors.items()}),
        reading={"device": device.type},
    )


class _Positional(nn.Module):
    """Calls a module with its one input by place, whatever that is called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Tensor) -> Any:
        return self.module(*inputs.values())


def module_digest(model: nn.Module) -> str:
    """The sha256, in hex, over a module's parameters and buffers."""
    return _digest(model.state_dict())


def where(device: str | None) -> torch.device:
    """The device asked for, or the GPU where there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256()
    for name, x in tensors.items():
        whole.update(f"{name}:{tuple(x.shape)}:{x.dtype};".encode())
        whole.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if x.numel() else b"")
    return whole.hexdigest()
