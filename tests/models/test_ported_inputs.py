"""OFA and VinVL are read like every other family: roles, padding of their own kind, rows that do not depend on company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_ofa
import tiny_vinvl
import torch
from tapped import called, real
from tiny import picture

from rankscope.data.probes import Example
from rankscope.data.regions import RegionFeatures
from rankscope.errors import DataError, UsageError
from rankscope.features import ROLES
from rankscope.models.inputs.reader import reader
from rankscope.models.load import load_model
from rankscope.models.stacks import taps

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other


class Seen:
    """Regions of an image, made up."""

    def __init__(self, count: int, tags: tuple[str, ...]) -> None:
        self.count, self.tags = count, tags

    def open(self) -> RegionFeatures:
        rows = np.random.default_rng(self.count).standard_normal((self.count, tiny_vinvl.FEATURES))
        return RegionFeatures(rows.astype(np.float32), self.tags)

    def digest(self) -> str:
        return str((self.count, self.tags))


def words(batch: Any, stack: str, place: int = 0) -> list[str]:
    """The roles of a sample's real columns, in order."""
    grid = batch.grids[stack]
    return [ROLES[i] for i in grid.role[place][grid.real[place]].tolist()]


def agree(model: Any, read: Any, examples: list[Example]) -> None:
    """Each sample gives the same rows alone and in company, as many as there are columns of hidden states."""
    batch = read.read(examples)
    together = called(model, batch)
    for i, example in enumerate(examples):
        alone = read.read([example])
        for site, hidden in called(model, alone).items():
            torch.testing.assert_close(
                real(together[site], batch, site, i),
                real(hidden, alone, site, 0),
                rtol=1e-5,
                atol=2e-5,
                msg=lambda m, s=site: f"{s}: {m}",
            )
    assert together.keys() == set(taps(model))


@pytest.mark.parametrize("head", ["captioning", "vqa"])
def test_vinvl_reads_words_tags_and_regions(tmp_path: Path, head: str) -> None:
    folder = tiny_vinvl.save_published(tmp_path / head, head=head)
    model = load_model(folder)
    read = reader(model, folder)
    examples = [
        Example("a", "what is on the mat?", regions=Seen(4, ("cat", "mat")), targets=("a cat",)),
        Example("b", "is the dog a cat?", regions=Seen(2, ("dog",)), targets=("the dog on the mat",)),
        Example("c", "what?", regions=Seen(3, ()), targets=("cats",)),
    ]
    agree(model, read, examples)
    said = ["special", "answer", "answer", "special"] if head == "captioning" else ["special", *["text"] * 6, "special"]
    assert words(read.read(examples), "encoder") == [*said, "text", "text", "special", *["image"] * 4]
    assert words(read.read(examples), "encoder", 2)[-3:] == ["image"] * 3
    if head == "captioning":
        slots = words(read.read([Example("d", regions=Seen(2, ()))]), "encoder")
        assert slots == ["special"] * 40 + ["image"] * 2
    with pytest.raises(DataError, match="'e' has no regions"):
        read.encode(Example("e", "what?"))
    read.inputs.config.img_feature_dim = 2054
    with pytest.raises(DataError, match=rf"'a' have {tiny_vinvl.FEATURES} features, and the model reads 2054"):
        read.encode(examples[0])
    with pytest.raises(UsageError, match="takes no position_ids"):
        reader(model, folder, padding_side="left")


def test_ofa_reads_patches_and_words(tmp_path: Path) -> None:
    folder = tiny_ofa.save_published(tmp_path / "ofa")
    model = load_model(folder)
    read = reader(model, folder)
    read.inputs.processor.image_processor.resolution = tiny_ofa.PIXELS
    examples = [
        Example("a", " what does the image show?", picture(1), ("the image",)),
        Example("b", " what?", picture(2), ("what the",)),
        Example("c", "", picture(3)),
    ]
    agree(model, read, examples)
    batch, patches = read.read(examples), (tiny_ofa.PIXELS // 16) ** 2
    assert words(batch, "encoder")[: patches + 1] == ["image"] * patches + ["special"]
    assert words(batch, "encoder")[-1] == "special"
    assert set(words(batch, "decoder")[1:]) == {"answer"}
    assert batch.inputs["decoder_input_ids"][0, :2].tolist().count(model.config.bos_token_id) == 1
    agree(model, read, [Example("d", " the image"), Example("e", " what does it")])
    with pytest.raises(DataError, match="some have none; read them separately"):
        read.read([examples[0], Example("d", " the image")])
    with pytest.raises(DataError, match="'f' has neither an image nor a text"):
        read.encode(Example("f", "", targets=("the image",)))
