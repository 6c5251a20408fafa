"""Modules in memory, fed with tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import rankscope
from rankscope.collecting.job import Request, prepare
from rankscope.collecting.loading import Loading
from rankscope.errors import CheckpointError, DataError, UnknownName, UsageError

Folder = Callable[..., Path]
IDS = torch.randint(0, 50, (12, 7), generator=torch.Generator().manual_seed(0))


class Reader(nn.Module):
    """A small network with a ``config`` of its own, as many have, a list of blocks and a part that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"width": 8}
        self.embed = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.unused = nn.Linear(2, 2)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = x + block(x).tanh()
        return x


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(IDS)


@pytest.mark.parametrize(
    "data",
    [
        IDS,
        IDS.numpy(),
        {"ids": IDS},
        (IDS,),
        list(IDS),
        [{"ids": ids} for ids in IDS],
        TensorDataset(IDS),
        DataLoader(TensorDataset(IDS), batch_size=5),
    ],
    ids=["tensor", "array", "dict", "tuple", "list", "dicts", "dataset", "loader"],
)
def test_whatever_holds_the_samples_gives_the_same_features(data: Any, tmp_path: Path) -> None:
    model = Reader()
    run = rankscope.collect(model, data, sites=["blocks.2"], rows="tokens", out=tmp_path / "run.pt")
    torch.testing.assert_close(run.features("blocks.2.output"), _last_block(model).flatten(0, 1))
    assert run.rows.samples == 12


def _last_block(model: Reader) -> Tensor:
    with torch.no_grad():
        x = model.embed(IDS)
        for block in model.blocks[:2]:
            x = x + block(x).tanh()
        return model.blocks[2](x)


def test_every_part_that_gives_rows_is_a_site_and_the_others_are_told(tmp_path: Path) -> None:
    run = rankscope.collect(Reader(), IDS, out=tmp_path / "run.pt")
    assert [site.stack for site in run.sites] == ["embed", "blocks.0", "blocks.1", "blocks.2"]
    assert "unused.output is left out: it does not run" in run.manifest.notes
    with pytest.raises(CheckpointError, match=r"unused\.output cannot be read: it does not run"):
        rankscope.collect(Reader(), IDS, sites=["unused"], out=tmp_path / "other.pt")


def test_what_the_mask_leaves_out_is_no_row(tmp_path: Path) -> None:
    mask = (torch.arange(7) < torch.arange(1, 13)[:, None].clamp(max=7)).long()
    data = {"ids": IDS, "attention_mask": mask}
    run = rankscope.collect(Reader(), data, sites=["embed"], rows="tokens", out=tmp_path / "run.pt")
    assert run.n("embed.output") == int(mask.sum())
    last = rankscope.collect(Reader(), data, sites=["embed"], out=tmp_path / "last.pt")
    assert last.rows.position.tolist() == (mask.sum(1) - 1).tolist()


def test_of_a_tuple_as_much_is_handed_over_as_is_taken(tmp_path: Path) -> None:
    x, label = torch.randn(6, 4), torch.arange(6)
    run = rankscope.collect(nn.Sequential(nn.Linear(4, 3)), TensorDataset(x, label), out=tmp_path / "run.pt")
    assert run.features("0.output").shape == (6, 3)


def test_a_part_is_asked_for_by_its_name_too(tmp_path: Path) -> None:
    run = rankscope.collect(Reader(), IDS, sites=["blocks.2"], rows="tokens", out=tmp_path / "run.pt")
    torch.testing.assert_close(run.features("blocks.2"), run.features("blocks.2.output"))
    with pytest.raises(UnknownName, match=r"has no site 'blocks\.1'; it has blocks\.2 \(output\)"):
        run.features("blocks.1")


def test_pictures_are_planned_by_their_patches() -> None:
    job = prepare(nn.Conv2d(3, 4, 3), torch.rand(100, 3, 64, 64), Request(tokens_per_batch=16 * 10), Loading())
    assert [len(batch.samples) for batch in job.plan] == [10] * 10


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (None, {}, "fed with a tensor, one row for each sample"),
        (IDS[:0], {}, "hold no sample"),
        (IDS, {"n": 0}, "hold 12 samples; 0 were asked for"),
        (IDS, {"n": -2}, "hold 12 samples; -2 were asked for"),
        ((IDS, IDS[:3]), {}, r"hold \[3, 12\] samples"),
        (torch.randn(4, 3, 2), {}, "Reader cannot be called with these samples"),
        (Stream(), {}, "of unknown length"),
        ([IDS[0], IDS[0, :4]], {}, "samples 0 to 1 do not fit into one batch"),
    ],
)
def test_what_a_module_cannot_be_fed_with_is_said(
    data: Any, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        rankscope.collect(Reader(), data, out=tmp_path / "run.pt", **options)


def test_a_module_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no part of Flatten can be read: model\.output is left out: it returns int64"
    ):
        rankscope.collect(nn.Flatten(), IDS, out=tmp_path / "run.pt")


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_loaded_model_reads_tokens_as_it_reads_texts(side: str, folder: Folder, texts: Path, tmp_path: Path) -> None:
    import transformers

    model = rankscope.load_model(folder("gpt2", "lora"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("gpt2"), padding_side=side)
    examples = list(rankscope.open_data(texts))
    tokens = dict(tokenizer([example.text for example in examples], return_tensors="pt", padding=True))
    options: dict[str, Any] = {"sites": "all", "rows": "last", "n": 20}
    from_tokens = rankscope.collect(model, tokens, out=tmp_path / "tokens.pt", **options)
    from_texts = rankscope.collect(model, texts, processor=folder("gpt2"), out=tmp_path / "texts.pt", **options)
    assert from_tokens.sites == from_texts.sites
    for site in from_texts.sites:
        torch.testing.assert_close(from_tokens.features(site), from_texts.features(site), rtol=1e-5, atol=1e-5)


def test_a_prompt_is_not_read_from_tokens(folder: Folder, tmp_path: Path) -> None:
    model = rankscope.load_model(folder("gpt2", "prompt"))
    with pytest.raises(UsageError, match="a model with a prompt is read from texts"):
        rankscope.collect(model, {"input_ids": IDS}, out=tmp_path / "run.pt")
