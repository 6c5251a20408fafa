"""The configuration of VinVL, with the fields of the published ``config.json``."""

from __future__ import annotations

from transformers.configuration_utils import PreTrainedConfig

from rankscope.errors import CheckpointError


class VinVLConfig(PreTrainedConfig):
    """BERT's sizes, and how regions enter and answers leave.

    Raises:
        CheckpointError: for the discrete image codes of early Oscar experiments, of which no checkpoint was published.
    """

    model_type = "vinvl"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = 101
    """``[CLS]``, with which a caption starts; the tokenizer's, where a folder has another vocabulary."""
    eos_token_id: int | list[int] | None = 102
    """``[SEP]``, with which a caption ends."""
    mask_token_id: int | None = 103
    """``[MASK]``, in whose place the next word of a caption is predicted."""
    img_feature_dim: int = 2054
    """2048 appearance features and the box's corners and size, relative to the image."""
    img_feature_type: str = "faster_r-cnn"
    use_img_layernorm: bool | int | None = None
    img_layer_norm_eps: float = 1e-12
    tie_weights: bool | int | None = True
    """Whether the captioning head shares the word embeddings."""
    freeze_embedding: bool | int | None = False
    label_smoothing: float = 0.0
    drop_worst_ratio: float = 0.0
    drop_worst_after: int = 0
    loss_type: str = "sfmx"
    """Of the classification head: ``bce`` (VQA), ``kl``, else cross entropy."""
    classifier: str = "linear"
    """``linear`` or ``mlp`` (two layers with a ReLU)."""
    cls_hidden_scale: int = 2
    """The inner width of the ``mlp`` classifier, in hidden sizes."""

    def __post_init__(self, **kwargs: object) -> None:
        """Take the published spellings, and refuse what is not ported."""
        kwargs.pop("tie_word_embeddings", None)
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(self.tie_weights)
        if self.img_feature_type.startswith("dis_code"):
            raise CheckpointError(
                f"img_feature_type {self.img_feature_type!r} (discrete image codes) is not supported; "
                "VinVL's published checkpoints use region features ('frcnn', 'faster_r-cnn')"
            )
        if self.classifier not in ("linear", "mlp"):
            raise CheckpointError(f"config.json says classifier {self.classifier!r}; known are 'linear' and 'mlp'")
