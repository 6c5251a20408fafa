"""What the tests here share: a few examples, and the rows that a model's sites give for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor, nn

from rankscope.data.probes import Example
from rankscope.models.inputs.reader import Reader, reader
from rankscope.models.load import load_model
from rankscope.models.stacks import taps
from rankscope.models.tunings.prefix_live import attach_prefix, new_prefix
from rankscope.reading.forward import ModelBatch
from rankscope.sites import Site

TEXTS = ("how many digits are there?", "three is left of seven, and", "a photo of")
TARGETS = ("five", "nothing", "two digits")


def examples(count: int = 3) -> list[Example]:
    return [
        Example(str(i), text, tiny.picture(i), (target,))
        for i, (text, target) in enumerate(zip(TEXTS, TARGETS, strict=True))
    ][:count]


def called(model: nn.Module, batch: ModelBatch) -> dict[Site, Tensor]:
    """What each site gives for a batch."""
    return recorded(model, batch.inputs)


def recorded(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[Site, Tensor]:
    """What each site gives for some inputs, recorded by hooks of our own."""
    found: dict[Site, Tensor] = {}

    def keep(site: Site, value: Any) -> None:
        value = next(iter(value.values())) if isinstance(value, dict) else value
        assert site not in found, f"{site} ran twice"
        found[site] = (value[0] if isinstance(value, tuple) else value).clone()

    def entering(site: Site) -> Callable[..., None]:
        return lambda module, args, kwargs: keep(site, args[0] if args else kwargs["hidden_states"])

    def leaving(site: Site) -> Callable[..., None]:
        return lambda module, args, output: keep(site, output)

    handles = [
        tap.module.register_forward_pre_hook(entering(site), with_kwargs=True)
        if tap.entering
        else tap.module.register_forward_hook(leaving(site))
        for site, tap in taps(model).items()
    ]
    with torch.inference_mode():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return found


def real(hidden: Tensor, batch: ModelBatch, site: Site, place: int) -> Tensor:
    """The real rows of one sample of a batch."""
    mask = batch.grids[site.stack].real[place]
    hidden = hidden.reshape(batch.grids[site.stack].real.shape[0], -1, hidden.shape[-1])
    assert hidden.shape[1] == len(mask), f"{site}: {hidden.shape[1]} columns, {len(mask)} in the grid"
    return hidden[place, mask]


def prefixed(base: Path) -> tuple[Any, Reader, Any]:
    """A model with a random prefix, its reader of prompts, and the prefix."""
    model = load_model(base)
    torch.manual_seed(3)
    prefix = attach_prefix(model, new_prefix(model, rows=4)).eval()
    return model, reader(model, base, answers=False), prefix


@torch.inference_mode()
def stepwise(model: Any, reading: Reader, inputs: dict[str, Tensor], count: int) -> list[int]:
    """Greedy decoding by calling the model anew on everything said so far."""
    said: list[int] = []
    twofold = reading.stacks["decoder"].columns == "target"
    for _ in range(count):
        if twofold:
            start = torch.tensor([[reading.inputs._start(), *said]])
            said.append(int(model(**inputs, decoder_input_ids=start).logits[0, -1].argmax()))
            continue
        more = torch.tensor([said], dtype=torch.long)
        fill = {"input_ids": more, "attention_mask": torch.ones_like(more), "mm_token_type_ids": torch.zeros_like(more)}
        fill |= {"token_type_ids": torch.ones_like(more), "image_embeds_position_mask": torch.zeros_like(more)}
        if (seen := inputs.get("cross_attention_mask")) is not None:  # a new word sees the image as the last one does
            fill["cross_attention_mask"] = seen[:, -1:].repeat(1, len(said), 1, 1)
        grown = {k: torch.cat([v, fill[k]], 1) if k in fill else v for k, v in inputs.items()}
        said.append(int(model(**grown).logits[0, -1].argmax()))
    return said
