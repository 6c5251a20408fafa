"""A sample that stands twice is read once: by what the model reads of it, with one note, in whatever the data are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import rankscope
from rankscope.data import Example, open_data
from rankscope.errors import NotComparable

Folder = Callable[..., Path]
QUESTIONS = [("five?", "yes"), ("nine?", "no"), ("five?", "no"), ("five?", "yes")]


def _examples(picture: Any = None) -> list[Example]:
    return [Example(f"s{i}", text, picture, (target,)) for i, (text, target) in enumerate(QUESTIONS)]


def _collect(model: Any, data: Any, path: Path, **options: Any) -> rankscope.Run:
    return rankscope.collect(model, data, out=path / "run.pt", overwrite=True, **options)


@pytest.mark.parametrize(
    ("family", "left"),
    [("gpt2", ("s0", "s1", "s2")), ("t5", ("s0", "s1", "s2")), ("bart", ("s0", "s1", "s2")), ("bert", ("s0", "s1"))],
)
def test_texts_are_copies_where_the_model_reads_the_same(
    family: str, left: tuple[str, ...], folder: Folder, tmp_path: Path
) -> None:
    run = _collect(folder(family), _examples(), tmp_path)
    assert run.manifest.ids == left
    (note,) = [str(note) for note in run.manifest.notes if "repeats an earlier one" in str(note)]
    assert note.startswith(f"{4 - len(left)} × sample repeats an earlier one, and is left out (")
    assert "'s3' is 's0'" in note
    once = _collect(folder(family), [e for e in _examples() if e.id in left], tmp_path)
    assert once.manifest.probe["fingerprint"] == run.manifest.probe["fingerprint"]


def test_pictures_are_copies_by_their_pixels(folder: Folder, tmp_path: Path) -> None:
    pictures = [example.open_image() for example in open_data("scenes?n=3")]
    examples = [Example(f"{i}{word}", word, picture) for i, picture in enumerate(pictures) for word in ("a", "b")]
    seen = _collect(folder("vit"), examples, tmp_path, rows="mean")
    assert seen.manifest.ids == ("0a", "1a", "2a")
    both = _collect(folder("blip2-opt"), [*examples, Example("again", "a", pictures[0].copy())], tmp_path, rows="mean")
    assert both.manifest.ids == tuple(example.id for example in examples)
    read = _collect(folder("bert"), examples, tmp_path)
    assert read.manifest.ids == ("0a", "0b")


def test_nothing_is_left_of_samples_that_are_all_one(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(
        NotComparable, match="all 400 samples of scenes:captions/test are one and the same to this model"
    ) as caught:
        _collect(folder("bert"), "scenes", tmp_path)
    assert caught.value.exit_code == 5
    with pytest.raises(NotComparable, match="all 5 samples are one and the same to the module"):
        _collect(nn.Identity(), torch.ones(5, 3), tmp_path)
    assert _collect(folder("bert"), ["one"], tmp_path).manifest.ids == ("0",)


class Words(Dataset[str]):
    """Samples that only their own collate function can read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> str:
        return ["a", "b", "a", "c"][index]


def _counted(words: list[str]) -> Tensor:
    return torch.tensor([[float(ord(word))] * 3 for word in words])


def test_tensors_are_copies_number_for_number(tmp_path: Path) -> None:
    x = torch.arange(12.0).reshape(4, 3)
    x[2] = x[0]
    labels = torch.arange(4)
    sources: list[tuple[Any, tuple[str, ...]]] = [
        (x, ("0", "1", "3")),
        (x.numpy(), ("0", "1", "3")),
        (list(x), ("0", "1", "3")),
        ({"input": x}, ("0", "1", "3")),
        ((x, labels), ("0", "1", "2", "3")),
        (DataLoader(Words(), collate_fn=_counted), ("0", "1", "2", "3")),
    ]
    for data, left in sources:
        run = _collect(nn.Sequential(nn.Identity()), data, tmp_path)
        assert run.manifest.ids == left, data
        assert run.n(run.sites[0]) == len(left)
        if len(left) == 3:
            assert torch.equal(run.features(run.sites[0]), x[[0, 1, 3]])
            assert "1 × sample repeats an earlier one, and is left out ('2' is '0')" in run.manifest.notes


def test_an_analysis_repeats_the_note_of_the_collect(folder: Folder, tmp_path: Path) -> None:
    texts = [f"{a} {b}" for a in ("five", "nine", "one") for b in ("is", "left", "of")]
    run = _collect(folder("gpt2"), [*texts, texts[0]], tmp_path)
    (note,) = rankscope.measure(run, ["roy-vetterli"], groups=3, sites="decoder.1").notes
    assert note == "1 × sample repeats an earlier one, and is left out ('9' is '0')"
    assert rankscope.compare(run, run, measures=["cka"], groups=3, sites="decoder.1").notes.count(note) == 1
