"""The sizes in a configuration beside those of the weights, compared before a network of that size is built."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from rankscope.checkpoint.files import entries, read_json, weight_files
from rankscope.errors import CheckpointError

_LAYERS = frozenset(
    {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
     "num_decoder_layers", "depth"}
)  # fmt: skip
"""What configurations call how many blocks there are."""
_WIDTHS = frozenset(
    {"hidden_size", "d_model", "n_embd", "dim", "embed_dim", "vocab_size", "intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim",
     "decoder_ffn_dim", "head_dim", "d_kv", "num_attention_heads", "num_heads", "n_head", "n_heads", "num_key_value_heads",
     "num_experts", "num_local_experts"}
)  # fmt: skip
"""What they call sizes that are, or divide, a side of some tensor."""
_PACKED = 16
"""The most numbers that a quantised tensor holds in one of its own."""
_BLOCKS, _WIDE = 1000, 2**20
"""Up to here a number may be stale, as PaliGemma's own vocabulary beside that of its language model: the loading judges it."""


def check_sizes(folder: Path) -> None:
    """Refuse a configuration whose sizes its weights cannot have: more blocks than tensors, or wider than any of them.

    Blocks may share their weights, but nobody runs one more often than the whole file has tensors. Only safetensors files say
    their sizes without being loaded; with others the check is left to the loading.

    Raises:
        CheckpointError: naming the entry of the configuration.
    """
    files = weight_files(folder)
    if any(file.suffix != ".safetensors" for file in files):
        return
    tensors, widest = 0, 0
    for file in files:
        with safe_open(file, framework="pt") as opened:
            shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118 (it is no mapping)
        tensors, widest = tensors + len(shapes), max([widest, *(side for shape in shapes for side in shape)])
    for key, value in entries(read_json(folder / "config.json")):
        layers = key in _LAYERS
        most = max(tensors, _BLOCKS) if layers else max(widest * _PACKED, _WIDE)
        what = f"{tensors} tensors" if layers else f"no tensor wider than {widest}"
        if key in _LAYERS | _WIDTHS and isinstance(value, int) and value > most:
            raise CheckpointError(
                f"{folder / 'config.json'} says {key} = {value}, and the weights have {what}: the configuration is damaged, or "
                "another model's"
            )
