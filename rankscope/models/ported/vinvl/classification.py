"""The answer head: the pooled first position through a linear layer or a two-layer network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.modeling_outputs import SequenceClassifierOutput

from rankscope.errors import UsageError
from rankscope.models.ported.vinvl.configuration import VinVLConfig
from rankscope.models.ported.vinvl.encoder import VinVLModel, VinVLPreTrainedModel


class VinVLForSequenceClassification(VinVLPreTrainedModel):
    """Visual question answering over a fixed list of answers (3129 for VQAv2)."""

    def __init__(self, config: VinVLConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = VinVLModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        inner = config.hidden_size * config.cls_hidden_scale
        self.classifier: nn.Module
        if config.classifier == "mlp":
            self.classifier = nn.Sequential(
                nn.Linear(config.hidden_size, inner), nn.ReLU(), nn.Linear(inner, config.num_labels)
            )
        else:
            self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        img_feats: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """``(b, labels)`` logits; the arguments are those of :class:`VinVLModel`.

        Args:
            labels: ``(b, labels)`` soft scores for ``bce`` and ``kl``, ``(b,)`` numbers of answers otherwise.
        """
        plain = options.pop("return_dict", None)
        out = self.bert(input_ids, img_feats, attention_mask, segment_ids, past_key_values, **options)
        logits = self.classifier(self.dropout(out.pooler_output))
        result = SequenceClassifierOutput(
            loss=None if labels is None else self.loss(logits, labels),
            logits=logits,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
        return result.to_tuple() if plain is False else result

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss that the configuration names: a mean over the batch.

        ``bce`` sums the binary cross entropies over the answers; ``kl`` is the divergence from the given distribution.

        Raises:
            UsageError: if the labels do not have the shape that the loss needs.
        """
        kind = self.config.loss_type
        needed = logits.shape if kind in ("bce", "kl") else logits.shape[:1]
        if labels.shape != needed:
            raise UsageError(f"loss_type {kind!r} needs labels of shape {tuple(needed)}, got {tuple(labels.shape)}")
        if kind == "bce":
            return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)) * labels.shape[1]
        if kind == "kl":
            return functional.kl_div(logits.log_softmax(-1), labels.to(logits.dtype), reduction="batchmean")
        if self.num_labels == 1:
            return functional.mse_loss(logits[:, 0], labels.to(logits.dtype))
        return functional.cross_entropy(logits, labels)
