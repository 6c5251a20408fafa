"""What the product knows of a model type: one record, with defaults that hold for most.

Paths in a record start at the base of the model (``GPT2LMHeadModel`` → its ``transformer``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rankscope.models.inputs.encode import Inputs
from rankscope.models.ported.port import Port

Columns = Literal["text", "target", "patches", "queries", "projected", "audio", "any"]
"""What the columns of a stack's hidden states are: tokens of the input text (with the placeholders of an image in it),
tokens of the decoder's own input, patches of the image, learned queries, patches as the language model receives them, stretches of sound."""


@dataclass(frozen=True)
class StackSpec:
    """Where one stack of a family is."""

    stack: str
    """Its name in a site."""
    blocks: str
    """Path to the list of blocks; with ``single``, to the module whose output is the only site."""
    final: str | None = None
    """Path to the module whose output is the final site: the norm after the last block; None if there is none."""
    columns: Columns = "text"
    """What its columns are."""
    width: str = "hidden_size"
    """What the configuration calls the width of its hidden states."""
    entry: str | None = None
    """Path to the module whose input is the stack's; None if it is the first block."""
    time_first: bool = False
    """Whether hidden states are ``(t, b, d)``."""
    channels_first: bool = False
    """Whether hidden states are ``(b, d, t)``."""
    part: str = ""
    """Path within each block to the module whose output is the block's; empty for the block itself."""
    inner: str = ""
    """Where the blocks share weights: the path leads to groups of them, this is the path to the blocks within a group, and
    they run again until there are as many passes as the configuration has layers."""
    single: bool = False
    """Whether the path leads to one module, read at ``output``."""


@dataclass(frozen=True)
class InnerModel:
    """A whole model inside another one, whose type has a record of its own."""

    path: str
    """Path to it."""
    rename: tuple[tuple[str, str], ...] = ()
    """New names for its stacks, as pairs (its name, the name in sites)."""
    columns: Columns | None = None
    """What its columns are within the outer model; None for what its own record says."""


Layout = tuple[StackSpec | InnerModel, ...]
"""The stacks of a family, in the order in which an input passes them."""


@dataclass(frozen=True)
class Family:
    """One model type. A new family is one record in :data:`rankscope.models.families.FAMILIES`, and its test."""

    stacks: Layout = ()
    """Where its stacks are. Without any they are searched by structure, which finds the one stack of most decoders and
    encoders."""
    inputs: type[Inputs] = Inputs
    """How its examples become tensors; a subclass only for what the fields below cannot say."""
    reads_images: bool = False
    """Whether it reads images although none of its stacks has patches for columns."""
    reads_regions: bool = False
    """Whether it reads features of image regions instead of pixels."""
    places_images: bool = False
    """Whether its processor puts the image's placeholders into the text; otherwise they are put before the text."""
    after_image: str = ""
    """What stands between the image's placeholder and the text where the placeholder is put before it."""
    image_rows: Literal["", "before", "after"] = ""
    """Where the rows of an image are among those of its text, for a model that joins them itself and has no placeholders."""
    generates_alone: bool = False
    """Whether prompts that are padded on the left would shift the positions of what it says after them."""
    frames_prompts: bool = False
    """Whether its own ``generate`` takes a prompt framed as a whole text, drops the token that ends it, and knows its own end."""
    caption_prompt: str = ""
    """What an image without a text is asked."""
    counts_positions: bool = False
    """Whether the model counts positions from the mask or the padding, or has none, so that it needs no ``position_ids``
    when padding is on the left."""
    pads_to: str = ""
    """What the configuration calls the number of which the model pads its tokens to a multiple, inside its forward pass."""
    masks_outside: bool = False
    """Whether its outer model makes the language model's masks and positions from the cache that it passes on. A prefix
    in that cache would be counted twice, so it is joined inside each attention instead."""
    starts_with_last: bool = False
    """Whether the decoder's input begins with the last token of its target, which names the language."""
    trained_padded: bool = False
    """Whether it was trained on texts padded to a fixed length that no mask hides."""
    check_vocabulary: Callable[[Path, Mapping[str, Any]], None] | None = None
    """Raises if the vocabulary in a folder does not fit the fields of its ``config.json``."""
    port: Port | None = None
    """The classes to register with transformers, for an architecture that transformers does not have."""


def decoder(blocks: str, final: str | None) -> Layout:
    """A decoder-only language model."""
    return (StackSpec("decoder", blocks, final),)


def encoder(blocks: str, final: str | None = None, columns: Columns = "text") -> Layout:
    """An encoder."""
    return (StackSpec("encoder", blocks, final, columns),)


def pair(blocks: str, final: str | None, *, time_first: bool = False) -> Layout:
    """An encoder and a decoder that are built alike."""
    ends = {side: f"{side}.{final}" if final else None for side in ("encoder", "decoder")}
    return (
        StackSpec("encoder", f"encoder.{blocks}", ends["encoder"], "text", time_first=time_first),
        StackSpec("decoder", f"decoder.{blocks}", ends["decoder"], "target", time_first=time_first),
    )
