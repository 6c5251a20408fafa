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
from torch.utils.data import Dataset
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
"""How captions are drawn: from the model's own distribution, whatever its ``generation_config.json`` asks for."""


class Numbers(LogitsProcessor):
    """Refuses to draw from logits that are no numbers, which torch does with a message about probabilities."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The same logits.

        Raises:
            NonFinite: if one is NaN.
        """
        if torch.isnan(scores).any():
            raise NonFinite("the logits of a sampled caption are NaN")
        return scores


class Prompts(Dataset[Example]):
    """The examples themselves."""

    def __init__(self, data: ProbeSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Example:
        return self.data[index]


def prompts(data: ProbeSet, reading: Reader) -> Prompts:
    """The data of an SCST stage."""
    return Prompts(data)


class ScstTrainer(StageTrainer):
    """Runs an SCST stage."""

    def __init__(self, *, reader: Reader, data: ProbeSet, options: ScstOptions, **rest: Any) -> None:
        super().__init__(data_collator=lambda examples: {"examples": examples}, **rest)
        self.reader, self.options = reader, options
        self.reward = CiderReward({example.id: list(example.targets) for example in data})

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The self-critical loss of a batch of examples."""
        inner = self.accelerator.unwrap_model(model)
        examples: Sequence[Example] = inputs["examples"]
        prompt = prompt_inputs(inner, self.reader, examples, room=self.options.max_new_tokens)
        inner.eval()
        plain = {**PLAIN, "max_new_tokens": self.options.max_new_tokens}
        if self.sharded:
            plain["synced_gpus"] = True  # every process calls each block as often, or one would wait for the others
        greedy = continuations(inner, self.reader, prompt, **plain)
        many = {name: tensor.repeat_interleave(self.options.samples, 0) for name, tensor in prompt.items()}
        drawn: dict[str, Any] = {"do_sample": True, "temperature": self.options.temperature}
        drawn |= {} if fills_masks(self.reader) else {"logits_processor": [Numbers()]}  # VinVL's own generate checks
        try:
            sampled = continuations(inner, self.reader, many, **drawn, **plain)
        except NonFinite:  # told by the loss, on which all processes agree
            return torch.stack([p.sum() for p in self.trained.values()]).sum() * float("nan")
        inner.train()
        keep_statistics(inner)
        advantage = self._rewards(examples, sampled, self.options.samples)
        advantage = advantage - self._rewards(examples, greedy, 1).repeat_interleave(self.options.samples)
        log_p = caption_log_probability(
            model, self.reader, many, self._ended(sampled), temperature=self.options.temperature
        )
        return -(advantage.to(log_p) * log_p).mean()

    def _rewards(self, examples: Sequence[Example], said: Tensor, each: int) -> Tensor:
        texts = self.reader.inputs.tokenizer.batch_decode(said, skip_special_tokens=True)
        ids = [example.id for example in examples for _ in range(each)]
        return torch.as_tensor(self.reward(ids, [text.strip() for text in texts]), dtype=torch.float32)

    def _ended(self, said: Tensor) -> Tensor:
        """Tokens after the first end token carry no probability."""
        ends = torch.isin(said, torch.tensor(end_of(self.reader), device=said.device))
        after = (ends.cumsum(1) - ends.long()) > 0
        return said.masked_fill(after, IGNORED)


def caption_log_probability(
    model: nn.Module, reading: Reader, prompt: dict[str, Tensor], said: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """``(b,)`` the log-probability of each caption after its prompt.

    Args:
        model: the model.
        reading: its reader.
        prompt: the prompts, padded on the left (an encoder–decoder's on the right).
        said: ``(b, t)`` tokens; those that do not count are :data:`~rankscope.tuning.batches.IGNORED`.
        temperature: of the distribution that they were drawn from.
    """
    tokens = said.masked_fill(said == IGNORED, reading.inputs.pad)
    if fills_masks(reading):
        logits = masked_log_probabilities(model, prompt, tokens, reading.inputs.tokenizer.mask_token_id)
    elif reading.stacks["decoder"].columns == "target":
        logits = model(**prompt, labels=said.contiguous()).logits
    else:
        mask = torch.cat([prompt["attention_mask"], (said != IGNORED).long()], 1)
        rest = {k: v for k, v in prompt.items() if k not in ("input_ids", "attention_mask")}
        if reading.positions:
            rest["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        ids = torch.cat([prompt["input_ids"], tokens], 1)
        logits = model(input_ids=ids, attention_mask=mask, **rest).logits[:, prompt["input_ids"].shape[1] - 1 : -1]
    chosen = (logits.float() / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return (chosen * (said != IGNORED)).sum(1)
