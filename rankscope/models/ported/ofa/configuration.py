"""The configuration of OFA, with the fields of the published ``config.json``."""

from __future__ import annotations

from transformers.configuration_utils import PreTrainedConfig

from rankscope.errors import CheckpointError

RESNETS = {
    "resnet18": (2, 2, 2),
    "resnet34": (3, 4, 6),
    "resnet50": (3, 4, 6),
    "resnet101": (3, 4, 23),
    "resnet152": (3, 8, 36),
}
"""Bottleneck blocks of the stem's three stages; the fourth of a ResNet is left out."""


class OFAConfig(PreTrainedConfig):
    """BART's sizes, the stem, and the positions.

    Raises:
        CheckpointError: for an unknown stem, or an output matrix that is not the embeddings (none is published).
    """

    model_type = "ofa"
    keys_to_ignore_at_inference = ("past_key_values",)
    attribute_map = {  # noqa: RUF012
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "initializer_range": "init_std",
    }

    vocab_size: int = 59457
    max_position_embeddings: int = 1024
    d_model: int = 768
    encoder_layers: int = 6
    encoder_ffn_dim: int = 3072
    encoder_attention_heads: int = 12
    decoder_layers: int = 6
    decoder_ffn_dim: int = 3072
    decoder_attention_heads: int = 12
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    encoder_drop_path_rate: float = 0.0
    decoder_drop_path_rate: float = 0.0
    resnet_drop_path_rate: float = 0.0
    encoder_normalize_before: bool = True
    decoder_normalize_before: bool = True
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    """Whether embeddings are multiplied by the root of their width."""
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 0
    is_encoder_decoder: bool = True
    normformer: bool = True
    """Whether there are norms after attention and inside the feed-forward network."""
    layernorm_embedding: bool = True
    patch_layernorm_embedding: bool = True
    code_layernorm_embedding: bool = True
    add_type_embedding: bool = True
    entangle_position_embedding: bool = False
    """Whether positions are added to words too, besides their own part in the scores."""
    resnet_type: str = "resnet101"
    resnet_model_path: str | None = None
    """Where the authors kept a ResNet; not read, because a checkpoint holds the stem."""
    token_bucket_size: int = 256
    image_bucket_size: int = 42
    code_image_size: int = 128
    attn_scale_factor: float = 2.0
    share_decoder_input_output_embed: bool = True

    def __post_init__(self, **kwargs: object) -> None:
        """Refuse what is not ported."""
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = True
        if self.resnet_type not in RESNETS:
            raise CheckpointError(f"resnet_type {self.resnet_type!r} is unknown; known are {', '.join(RESNETS)}")
        if not self.share_decoder_input_output_embed:
            raise CheckpointError("share_decoder_input_output_embed is false; OFA's published checkpoints share them")
