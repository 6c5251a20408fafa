"""The embedded checkpoint before it is trained: its tokenizer, its random weights, and scenes as its inputs.

The vocabulary is every word of the grammar; the text side is plain ``tokenizers``, so that Auto classes open the folder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    PreTrainedTokenizerFast,
)

from rankscope.data import Example, grammar
from rankscope.data.scenes import SIZE, TASKS, scenes

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<image>")
BOS, PAD, EOS, UNK, IMAGE = range(len(SPECIAL))
QUERIES = 12
SEED = 0


def words() -> list[str]:
    """Every word that scenes say, the rarest included, in alphabetical order."""
    found = {*grammar.WORDS, *(str(i) for i in range(19))}
    for task in TASKS:
        for item in scenes(task, "train", n=2000):
            found.update(w for text in (item.text, *item.targets) for w in text.split())
    return sorted(found)


def make_processor() -> Blip2Processor:
    """Word-level tokenizer (lower case, BOS in front) and image processor (48 × 48, values to −1…1)."""
    vocabulary = {w: i for i, w in enumerate([*SPECIAL, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    text = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, model_max_length=96, clean_up_tokenization_spaces=False
    )
    text.add_tokens(["<image>"], special_tokens=True)
    half = [0.5, 0.5, 0.5]
    image = BlipImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=half, image_std=half)
    return Blip2Processor(image, text, num_query_tokens=QUERIES)


def make_model(vocabulary: int) -> Blip2ForConditionalGeneration:
    """The model at its start: vision 64 × 4 layers, Q-Former 96 × 3, OPT 96 × 4.

    Transformers starts the learned queries at zero, where they would receive equal gradients and stay equal; here they start
    from a normal distribution.
    """
    config = Blip2Config(
        vision_config={
            "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4,
            "image_size": SIZE, "patch_size": 8, "initializer_range": 0.08,
        },
        qformer_config={
            "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4, "encoder_hidden_size": 64,
            "cross_attention_frequency": 1, "vocab_size": vocabulary, "max_position_embeddings": 64, "initializer_range": 0.08,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": PAD,
        },
        text_config={
            "model_type": "opt", "vocab_size": vocabulary, "hidden_size": 96, "word_embed_proj_dim": 96, "ffn_dim": 384,
            "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 128, "init_std": 0.06, "dropout": 0.0,
            "bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS,
        },
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )  # fmt: skip
    torch.manual_seed(SEED)
    model = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=1.0)
    return model


def pixels(items: Sequence[Example]) -> Tensor:
    """``(b, 3, 48, 48)`` in −1…1, as the image processor makes them."""
    images = torch.stack([torch.from_numpy(item.image.pixels()) for item in items])
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def batch(
    items: Sequence[Example], vocabulary: dict[str, int], before: Sequence[Sequence[int]] | None = None
) -> dict[str, Tensor]:
    """Model inputs, padded on the right, with labels on target and EOS; after the tokens of ``before``, where there are any."""
    rows, labels = [], []
    for item, first in zip(items, before or [()] * len(items), strict=True):
        prompt = [*first, *[IMAGE] * QUERIES, BOS, *(vocabulary[w] for w in item.text.split())]
        target = [vocabulary[w] for w in item.targets[0].split()] + [EOS]
        rows.append(torch.tensor(prompt + target))
        labels.append(torch.tensor([-100] * len(prompt) + target))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    wanted = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    return {"pixel_values": pixels(items), "input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": wanted}
