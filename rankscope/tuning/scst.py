r"""Self-critical sequence training: captions are sampled, and rewarded for being better than the model's own greedy one.

.. math:: L = -\frac1{n} \sum_{i=1}^{n} \bigl(r(w^{(i)}) - r(\hat w)\bigr) \, \log p(w^{(i)})

with n sampled captions w, the greedy caption ŵ, and CIDEr-D against the image's references as the reward r.
Rennie et al., "Self-critical sequence training for image captioning", CVPR 2017, equation 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from rankscope.data.probes import Example, ProbeSet
from rankscope.errors import NonFinite
from rankscope.models.inputs.reader import Reader
from rankscope.scores.cider import CiderReward
from rankscope.tuning.batches import IGNORED
from rankscope.tuning.config import ScstOptions
from rankscope.tuning.generation import continuations, end_of, prompt_inputs
from rankscope.tuning.masked import fills_masks, masked_log_probabilities
from rankscope.tuning.trainer import StageTrainer, keep_statistics

PLAIN = {
    "num_beams": 1, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0,
}  # fmt: skip
"""Options of ``generate`` that draw from the model's own distribution, whatever its ``generation_config.json`` asks for."""


class RefuseNaN(LogitsProcessor):
    """Refuses to draw from logits that are NaN, of which torch would only say that probabilities are wrong."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The same logits.

        Raises:
            NonFinite: if one is NaN.
        """
        if torch.isnan(scores).any():
            raise NonFinite("the logits of a sampled caption are NaN")
        return scores


class ScstTrainer(StageTrainer):
    """Runs an SCST stage; its samples are the examples themselves, because captions are sampled anew in each step."""

    def __init__(self, *, reader: Reader, data: ProbeSet, options: ScstOptions, **rest: Any) -> None:
        super().__init__(train_dataset=data, data_collator=lambda examples: {"examples": examples}, **rest)
        self.reader, self.options = reader, options
        self.reward = CiderReward({example.id: list(example.targets) for example in data})

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The self-critical loss of a batch of examples."""
        inner, samples = self.accelerator.unwrap_model(model), self.options.samples
        examples: Sequence[Example] = inputs["examples"]
        prompt = prompt_inputs(inner, self.reader, examples, room=self.options.max_new_tokens)
        inner.eval()
        plain: dict[str, Any] = {**PLAIN, "max_new_tokens": self.options.max_new_tokens}
        # A placeholder in a caption would ask the model for an image that is not there.
        if unsaid := self.reader.inputs.placeholders:
            plain["suppress_tokens"] = list(unsaid)
        if self.sharded:
            plain["synced_gpus"] = True  # every process calls each block as often, or one would wait for the others
        greedy = continuations(inner, self.reader, prompt, plain)
        repeated = {name: tensor.repeat_interleave(samples, 0) for name, tensor in prompt.items()}
        drawn: dict[str, Any] = {"do_sample": True, "temperature": self.options.temperature}
        drawn |= {} if fills_masks(self.reader) else {"logits_processor": [RefuseNaN()]}  # VinVL's own generate checks
        try:
            sampled = continuations(inner, self.reader, repeated, {**drawn, **plain})
        except NonFinite:  # a NaN loss is refused in training_step, where all processes agree to stop
            return torch.stack([p.sum() for p in self.trained.values()]).sum() * float("nan")
        inner.train()
        keep_statistics(inner)
        # Rennie et al., equation 7: r(w) - r(ŵ), with the greedy caption of each image as the baseline of its samples.
        baseline = self._rewards(examples, greedy).repeat_interleave(samples)
        advantage = self._rewards([e for e in examples for _ in range(samples)], sampled) - baseline
        log_p = caption_log_probability(
            model, self.reader, repeated, self._ended(sampled), temperature=self.options.temperature, unsaid=unsaid
        )
        return -(advantage.to(log_p) * log_p).mean()

    def _rewards(self, examples: Sequence[Example], captions: Tensor) -> Tensor:
        """``(b,)`` rewards of captions, one for each example."""
        texts = self.reader.inputs.tokenizer.batch_decode(captions, skip_special_tokens=True)
        rewards = self.reward([example.id for example in examples], [text.strip() for text in texts])
        return torch.as_tensor(rewards, dtype=torch.float32)

    def _ended(self, captions: Tensor) -> Tensor:
        """Captions with the tokens after their first end token ignored: those were never drawn."""
        ends = torch.isin(captions, torch.tensor(end_of(self.reader), device=captions.device))
        # The cumulated count is above 0 from the end token on; without the token itself, after it.
        after = (ends.cumsum(1) - ends.long()) > 0
        return captions.masked_fill(after, IGNORED)


def caption_log_probability(
    model: nn.Module,
    reader: Reader,
    prompt: dict[str, Tensor],
    captions: Tensor,
    *,
    temperature: float = 1.0,
    unsaid: Sequence[int] = (),
) -> Tensor:
    """``(b,)`` log-probability of each caption after its prompt: the sum over its tokens.

    Args:
        model: the model.
        reader: its reader.
        prompt: the prompts, padded on the left (an encoder–decoder's on the right).
        captions: ``(b, t)`` tokens; those that do not count are :data:`~rankscope.tuning.batches.IGNORED`.
        temperature: of the distribution that they were drawn from.
        unsaid: tokens that were never drawn, so that the others share their probability.
    """
    tokens = captions.masked_fill(captions == IGNORED, reader.inputs.pad)
    if fills_masks(reader):
        logits = masked_log_probabilities(model, prompt, tokens, reader.inputs.tokenizer.mask_token_id)
    elif reader.stacks["decoder"].columns == "target":
        logits = model(**prompt, labels=captions.contiguous()).logits
    else:
        mask = torch.cat([prompt["attention_mask"], (captions != IGNORED).long()], 1)
        rest = {k: v for k, v in prompt.items() if k not in ("input_ids", "attention_mask")}
        if reader.positions:
            rest["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        ids = torch.cat([prompt["input_ids"], tokens], 1)
        # The logits of the prompt's last token say the first token of the caption.
        logits = model(input_ids=ids, attention_mask=mask, **rest).logits[:, prompt["input_ids"].shape[1] - 1 : -1]
    if unsaid:
        logits = logits.index_fill(-1, torch.tensor(unsaid, device=logits.device), float("-inf"))
    log_p = (logits.float() / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return (log_p * (captions != IGNORED)).sum(1)
