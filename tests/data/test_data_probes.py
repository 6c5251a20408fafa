"""Probe sets and scenes: identity, determinism, and that captions and questions are true of the picture."""

from __future__ import annotations

import hashlib
import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rankscope.data import Example, ProbeSet, grammar, open_data
from rankscope.data.grammar import Digit
from rankscope.data.regions import ArrayRegions
from rankscope.data.scenes import SPLITS, TASKS, digits, drawings, example, scenes
from rankscope.errors import DataError, UnknownName


def picture(value: int = 7) -> Image.Image:
    return Image.fromarray(np.full((4, 5, 3), value, dtype=np.uint8))


def test_ids_must_be_unique() -> None:
    with pytest.raises(DataError, match=r"texts has 1 ids that occur more than once \(first 'a'\); ids must be unique"):
        ProbeSet("texts", [Example("a", "x"), Example("b", "x"), Example("a", "y")])
    with pytest.raises(DataError, match="texts holds no examples"):
        ProbeSet("texts", [])


def test_the_first_examples_are_a_probe_set() -> None:
    data = ProbeSet("texts", [Example(str(i), f"text {i}") for i in range(5)])
    assert data.first(2).ids == data[:2].ids == ("0", "1")
    assert data.first(5) is data
    assert [e.text for e in data[3:]] == ["text 3", "text 4"]
    with pytest.raises(DataError, match="texts holds 5 examples; 6 were asked for"):
        data.first(6)


def test_examples_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Example("a").text = "b"  # type: ignore[misc]


def test_the_fingerprint_follows_every_content_and_the_order() -> None:
    a, b = Example("a", "x", picture(), ("t",), 1), Example("b", "y")
    base = ProbeSet("one", [a, b]).fingerprint
    assert ProbeSet("another name", [replace(a, about={"k": "v"}), b]).fingerprint == base
    changes = (
        {"id": "c"},
        {"text": "z"},
        {"image": picture(8)},
        {"targets": ("t", "u")},
        {"targets": ("u",)},
        {"label": 2},
        {"image": None},
    )
    prints = {ProbeSet("one", [replace(a, **change), b]).fingerprint for change in changes}
    assert len(prints | {base, ProbeSet("one", [b, a]).fingerprint}) == len(changes) + 2
    # Parts that read alike when they are joined must differ.
    assert Example("a", "bc").digest() != Example("ab", "c").digest()


def test_an_image_file_is_opened_only_when_asked(tmp_path: Path) -> None:
    item = Example("a", image=tmp_path / "later.png")
    with pytest.raises(DataError, match=r"the image of example 'a', .*later.png is not there"):
        item.open_image()
    with pytest.raises(DataError, match="the image of example 'a' is not there"):
        item.digest()
    picture().convert("CMYK").save(tmp_path / "later.tiff")
    found = replace(item, image=tmp_path / "later.tiff").open_image()
    assert (found.mode, found.size) == ("RGB", (5, 4))
    with pytest.raises(DataError, match="example 'b' has no image"):
        Example("b").open_image()


def test_what_many_questions_show_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "a.png")
    np.savez(tmp_path / "a.npz", features=np.ones((2, 3)))
    shown = ArrayRegions(tmp_path / "a.npz", "features")
    data = ProbeSet("asked", [Example(str(i), "?", tmp_path / "a.png", regions=shown) for i in range(5)])
    wanted = hashlib.sha256(b"".join(bytes.fromhex(example.digest()) for example in data)).hexdigest()
    read: list[str] = []
    bytes_of, opened = Path.read_bytes, ArrayRegions.open
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or bytes_of(path))
    monkeypatch.setattr(ArrayRegions, "open", lambda regions: read.append(regions.path.name) or opened(regions))
    assert data.fingerprint == wanted
    assert read == ["a.png", "a.npz"]


def test_the_target_is_the_most_frequent_one() -> None:
    assert Example("a", targets=("no", "yes", "yes")).target == "yes"
    assert Example("a", targets=("no", "yes")).target == "no"
    assert Example("a").target == ""


def test_the_digits_are_those_of_scikit_learn() -> None:
    load = pytest.importorskip("sklearn.datasets").load_digits()
    np.testing.assert_array_equal(digits().images, load.images)
    np.testing.assert_array_equal(digits().labels, load.target)


def test_the_splits_of_the_digits_are_disjoint_and_whole() -> None:
    found = [i for split in SPLITS for value in range(10) for i in drawings(split)[value]]
    assert sorted(found) == list(range(1797))
    assert all(digits().labels[i] == v for v in range(10) for i in drawings("test")[v])


def test_scenes_are_the_same_everywhere() -> None:
    data = scenes("captions", "test", n=20)
    # The embedded checkpoint was trained on these very pictures: a change of the generator must be meant.
    assert data.fingerprint == FINGERPRINT
    assert scenes("captions", "test", n=50).first(20).fingerprint == FINGERPRINT
    assert scenes("captions", "test", n=20, seed=1).fingerprint != FINGERPRINT
    pixels = hashlib.sha256(data[0].open_image().tobytes()).hexdigest()
    assert pixels == data[0].image.digest()


FINGERPRINT = "98cf53004ffb92650d0ddbeedb26b7083b93be4a438980e9cc348b3f8619bff8"


def test_scenes_are_opened_by_name() -> None:
    data = open_data("scenes")
    assert (data.name, len(data)) == ("scenes:captions/test", 400)
    assert open_data("scenes:questions/train?n=30").ids[-1] == "questions/train/0/29"
    assert len(open_data("scenes:questions", split="val", n=7)) == 7
    with pytest.raises(UnknownName, match=r"no task 'captoins'; they have captions, questions"):
        open_data("scenes:captoins/test")
    with pytest.raises(UnknownName, match=r"no split 'dev'; they have train, val, test"):
        open_data("scenes:captions/dev")
    with pytest.raises(DataError, match=r"ends in \?m=3; write \?n=2000"):
        open_data("scenes?m=3")
    with pytest.raises(DataError, match="asked for 0 examples"):
        scenes(n=0)


@pytest.mark.parametrize("task", TASKS)
def test_the_splits_show_different_handwriting(task: str) -> None:
    seen = {s: {stroke.image for i in range(150) for stroke in example(task, s, i).image.strokes} for s in SPLITS}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["val"]
    assert not seen["val"] & seen["test"]


def test_captions_come_in_four_phrasings_that_tell_every_digit() -> None:
    names = {word: i for i, word in enumerate(grammar.WORDS[:10])} | {str(i): i for i in range(10)}
    for task in ("captions", "pretrain-captions"):
        for item in scenes(task, n=60):
            assert len(set(item.targets)) == 4
            wanted = {d.value for d in item.image.digits}
            for said in item.targets:
                assert wanted <= {names[w] for w in said.split() if w in names}


def answer(kind: str, text: str, marks: tuple[Digit, ...]) -> str:
    """The answer, worked out from the words of the question alone."""
    at = {d.place: d for d in marks}
    places = "|".join(sorted((p for row in grammar.PLACES for p in row), key=len, reverse=True))
    named = [at[place] for place in re.findall(f"the ({places}) digit", text)]
    told = {f"the {d.plain} ": d for d in marks}
    both = [told[k] for k in sorted((k for k in told if k in text), key=text.find)]
    numbers = [int(w) for w in text.split() if w.isdecimal()]
    by_value = [d for d in marks if numbers and d.value == numbers[0]]
    values = [d.value for d in marks]
    yes = {True: "yes", False: "no"}
    return {
        "which": lambda: str(named[0].value),
        "colour": lambda: named[0].ink,
        "where": lambda: by_value[0].place,
        "colour of": lambda: by_value[0].ink,
        "count": lambda: str(len(marks)),
        "exists": lambda: yes[bool(by_value)],
        "relation": lambda: yes[both[0].column < both[1].column if "left of" in text else both[0].row < both[1].row],
        "parity": lambda: ("even", "odd")[named[0].value % 2],
        "largest": lambda: str(max(values) if "largest" in text else min(values)),
        "larger": lambda: yes[named[0].value > named[1].value],
        "sum": lambda: str(named[0].value + named[1].value),
        "count of a colour": lambda: str(sum(d.ink in text.split() for d in marks)),
    }[kind]()


def test_every_answer_is_true() -> None:
    kinds = set()
    for task in ("questions", "pretrain-questions"):
        for item in scenes(task, n=400):
            kind = item.about["question_type"]
            kinds.add(kind)
            assert answer(kind, item.text, item.image.digits) == item.target, (item.text, item.image.digits)
    assert len(kinds) == 12


def test_digits_are_drawn_in_their_cell_in_their_colour() -> None:
    item = scenes("pretrain-captions")[0]
    pixels = item.image.pixels().astype(int)
    ground = pixels[0, 0]
    inked = (np.abs(pixels - ground).sum(-1) > 60).reshape(3, 16, 3, 16).any(axis=(1, 3))
    assert {(d.row, d.column) for d in item.image.digits} == set(zip(*map(list, np.nonzero(inked)), strict=True))


def test_the_downstream_domain_looks_and_reads_otherwise() -> None:
    light = [scenes("captions")[i].open_image().convert("L").getpixel((0, 0)) for i in range(5)]
    dark = [scenes("pretrain-captions")[i].open_image().convert("L").getpixel((0, 0)) for i in range(5)]
    assert min(light) > 200 > 100 > max(dark)
    shifted = [e.about for e in scenes("mixture", "train", n=2000)]
    for part in ("look", "manner"):
        assert sum(a[part] == "told" for a in shifted) / 2000 == pytest.approx(0.06, abs=0.02)
