"""The miniature that hears: a Qwen2-Audio of eight hundred thousand parameters, pre-trained on scenes of sound (``spoken_scenes.py``).

Everything starts from random weights. First the tower *listens*: a head that is thrown away afterwards reads off what is heard in each
stretch of 80 ms. Then all parts together *tell*: captions of half of the scenes, and answers to questions about the other half. It is made
by ``third_modality.py``, which asserts that it listens, and is kept in ``build/``.
"""

# %%
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from spoken_scenes import KINDS, PROMPT, RATE, SECONDS, Spoken, caption, question, spoken, stretches, words
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import sinusoids

PAD, EOS, UNK, AUDIO, OPEN, CLOSE = range(6)
SPECIAL = ("<pad>", "</s>", "<unk>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
HOP, BANDS = 320, 40
"""Samples between two frames of the spectrum, and its bands."""
TOKENS = SECONDS * RATE // HOP // 4
"""Rows of the longest sound in the decoder: the tower halves the frames, and what leaves it is halved again."""


# %% The model and its processor.
def make_processor() -> Qwen2AudioProcessor:
    """Words, one token each, and the spectrum of up to two seconds of sound, a frame each 20 ms."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    text = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, clean_up_tokenization_spaces=False)
    text.add_tokens(list(SPECIAL[AUDIO:]), special_tokens=True)
    return Qwen2AudioProcessor(
        WhisperFeatureExtractor(feature_size=BANDS, hop_length=HOP, n_fft=512, chunk_length=SECONDS), text
    )


def make_model(vocabulary: int) -> Qwen2AudioForConditionalGeneration:
    """The model at its start: a tower of 96 × 3 layers, a decoder of 96 × 4 with rotary positions."""
    sizes = {"hidden_size": 96, "num_attention_heads": 4, "initializer_range": 0.06}
    config = Qwen2AudioConfig(
        audio_config={
            **sizes, "num_mel_bins": BANDS, "num_hidden_layers": 3, "intermediate_size": 256, "max_source_positions": 2 * TOKENS,
        },
        text_config={
            **sizes, "model_type": "qwen2", "vocab_size": vocabulary, "num_hidden_layers": 4, "num_key_value_heads": 4,
            "intermediate_size": 288, "max_position_embeddings": 256, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None,
        },
        audio_token_index=AUDIO,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(config)
    with torch.no_grad():  # the tower's positions are never trained; Whisper's, which they come from, are sinusoids
        model.model.audio_tower.embed_positions.weight.copy_(sinusoids(2 * TOKENS, sizes["hidden_size"]))
    return model


# %% Pre-training: what is heard in each stretch, read off by a head that is thrown away; then captions and questions.
class Pool:
    """Scenes of pre-training with their spectra, drawn from in turn."""

    def __init__(self, n: int, processor: Qwen2AudioProcessor) -> None:
        self.scenes: list[Spoken] = [spoken(Random(f"pre-training/{i}"), tuned=False) for i in range(n)]
        heard = processor.feature_extractor(
            [scene.wave for scene in self.scenes], sampling_rate=RATE, return_attention_mask=True, return_tensors="pt"
        )
        self.spectra, self.masks = heard["input_features"], heard["attention_mask"]
        self.vocabulary: dict[str, int] = processor.tokenizer.get_vocab()

    def sounds(self, chosen: Tensor) -> dict[str, Tensor]:
        """The sounds of scenes as the model takes them."""
        return {"input_features": self.spectra[chosen], "feature_attention_mask": self.masks[chosen]}

    def texts(self, chosen: Tensor, draw: Random) -> dict[str, Tensor]:
        """Tokens and labels of scenes: every other one a caption, the rest questions."""
        rows, labels = [], []
        for i, scene in enumerate(self.scenes[c] for c in chosen.tolist()):
            asked, said = (PROMPT, caption(scene)) if i % 2 else question(scene, draw)
            frames = int(self.masks[chosen[i]].sum())
            before = [
                OPEN,
                *[AUDIO] * (((frames - 1) // 2 - 1) // 2 + 1),
                CLOSE,
                *map(self.vocabulary.__getitem__, asked.split()),
            ]
            after = [*map(self.vocabulary.__getitem__, said.split()), EOS]
            rows.append(torch.tensor(before + after))
            labels.append(torch.tensor([-100] * len(before) + after))
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        wanted = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": wanted}


def pretrained(folder: Path, size: Mapping[str, Any]) -> Path:
    """The folder of the miniature, which is made if it is not there."""
    out = folder / "miniature"
    if (out / "config.json").exists():
        return out
    torch.set_num_threads(1)
    processor = make_processor()
    model, pool = make_model(len(processor.tokenizer)), Pool(size["pool"], processor)
    head = nn.Linear(model.config.text_config.hidden_size, 1 + len(KINDS))
    truth = torch.from_numpy(stretches(pool.scenes, 4 * HOP / RATE, TOKENS))
    model.train()

    def listening(chosen: Tensor, draw: Random) -> Tensor:
        frames = pool.masks[chosen]
        seen = torch.arange(2 * TOKENS) < ((frames.sum(1) - 1) // 2 + 1)[:, None]
        heard = model.model.audio_tower(pool.spectra[chosen], attention_mask=seen[:, None, None]).last_hidden_state
        said = head(model.model.multi_modal_projector(heard))
        return nn.functional.cross_entropy(said.flatten(0, 1), truth[chosen].flatten())

    def telling(chosen: Tensor, draw: Random) -> Tensor:
        loss: Tensor = model(**pool.sounds(chosen), **pool.texts(chosen, draw)).loss
        return loss

    learn(
        [*model.model.audio_tower.parameters(), *model.model.multi_modal_projector.parameters(), *head.parameters()],
        listening,
        "listen",
        size,
    )
    learn(list(model.parameters()), telling, "tell", size)
    made = folder / "unfinished"
    processor.save_pretrained(made)
    model.eval().save_pretrained(made)
    made.replace(out)
    return out


def learn(
    parameters: Sequence[nn.Parameter], loss_of: Callable[[Tensor, Random], Tensor], name: str, size: Mapping[str, Any]
) -> None:
    """AdamW on a loss of batches drawn from the pool, the rate warmed up and then taken down along half a cosine."""
    steps, draw = size[name], Random(name)
    trained = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.98), weight_decay=0.05)
    total = 0.0
    for step in range(steps):
        warm = min(1.0, (step + 1) / min(100, steps))
        optimizer.param_groups[0]["lr"] = 1.5e-3 * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        chosen = torch.tensor(draw.sample(range(size["pool"]), size["batch"]))
        loss = loss_of(chosen, draw)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % 50 == 0:
            print(f"{name} {step + 1:5d}  {total / 50:.3f} nats", flush=True)
            total = 0.0
