"""Scenes, the embedded data: two to four handwritten digits in colour on a ground, captions, and questions about them.

Everything follows from (seed, domain, split, index) by Python's own generator, whose stream is documented not to change;
the handwritten digits of the three splits are disjoint. There are two domains:

- *plain*, for pre-training: bright digits, 14 to 16 pixels high, on a dark ground; the grammar's plain manner.
- *told*, the downstream domain: dark digits, 11 to 13 pixels high and slanted, on a light ground; the told manner.

Tasks: ``captions`` and ``questions`` (told), ``pairs``, in which the caption is the text, as encoders of both read them, ``pretrain-captions`` and ``pretrain-questions`` (plain), and ``mixture``, on which the
embedded checkpoint was pre-trained: half captions and half questions, a small share of which (:data:`SHIFTED`) has the
other domain's look, and another small share its manner.

The digits are the 1,797 8 × 8 images, with 17 levels of grey, of the "Optical Recognition of Handwritten Digits" data set
(E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, doi 10.24432/C50P49, licence CC BY 4.0), in the
form and order in which scikit-learn carries them (``sklearn.datasets.load_digits``). Nothing was changed but the file format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from random import Random
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from rankscope.data import grammar
from rankscope.data.embedded import HERE
from rankscope.data.grammar import CAPTION, Digit
from rankscope.data.probes import Example, ProbeSet
from rankscope.errors import DataError, UnknownName

if TYPE_CHECKING:
    from PIL.Image import Image

LEVELS = 16
"""The grey value of full ink in the handwritten digits; 0 is no ink."""
SPLITS = {"train": (0.0, 0.7), "val": (0.7, 0.85), "test": (0.85, 1.0)}
"""The share of the handwritten digits of every class that each split takes; no image is in two."""
SIZE = 48
"""The side of an image in pixels: three cells of 16."""
CELL = 16
"""The side of a cell in pixels."""
SHIFTED = 0.06
"""The share of the pre-training mixture that looks like the downstream domain, and the share that reads like it."""
TASKS = ("captions", "questions", "pairs", "pretrain-captions", "pretrain-questions", "mixture")
COUNTS = {"train": 4000, "val": 400, "test": 400}
"""Number of examples of a task by default."""
KEPT = 4096
"""Number of examples, without their pixels, that are kept once they are made: training asks for each many times."""
GROUNDS = {
    "plain": {"black": (12, 12, 12), "grey": (64, 64, 64), "brown": (60, 36, 16)},
    "told": {"white": (244, 244, 244), "pink": (250, 210, 216), "cream": (250, 240, 200)},
}
"""The grounds of each domain, as RGB."""
INKS = {
    "plain": {"red": (255, 60, 50), "green": (60, 220, 70), "blue": (80, 130, 255), "yellow": (250, 230, 60),
              "purple": (215, 110, 250), "orange": (255, 160, 40)},
    "told": {"red": (170, 10, 10), "green": (10, 110, 20), "blue": (10, 30, 160), "yellow": (150, 130, 0),
             "purple": (100, 10, 130), "orange": (200, 95, 0)},
}  # fmt: skip
"""The inks of each domain, as RGB: the names are shared, the colours are not."""
HEIGHTS = {"plain": (14, 16), "told": (11, 13)}
"""The least and the largest height of a digit in pixels."""


class Digits(NamedTuple):
    """The handwritten digits as they are stored."""

    images: NDArray[np.uint8]
    """``(1797, 8, 8)``, 0…16."""
    labels: NDArray[np.uint8]
    """``(1797,)``, 0…9."""


@cache
def digits() -> Digits:
    """All handwritten digits, read once."""
    with np.load(HERE / "digits.npz", allow_pickle=False) as file:
        return Digits(file["images"], file["labels"])


@cache
def drawings(split: str) -> tuple[tuple[int, ...], ...]:
    """For every class 0…9 the indices of its images that belong to ``split``, in an order fixed by a hash."""
    low, high = SPLITS[split]
    labels, classes = digits().labels, []
    for value in range(10):
        own = np.flatnonzero(labels == value).tolist()
        own.sort(key=lambda i: hashlib.sha256(f"digit {i}".encode()).digest())
        classes.append(tuple(own[round(low * len(own)) : round(high * len(own))]))
    return tuple(classes)


@dataclass(frozen=True)
class Stroke:
    """How one digit is drawn."""

    image: int
    """Its index among the handwritten digits."""
    top: int
    """The pixel row of its top edge."""
    left: int
    """The pixel column of its left edge."""
    height: int
    """Its height and width in pixels."""
    slant: float
    """Pixels by which the top row leans to the right of the bottom row."""


@dataclass(frozen=True)
class Scene:
    """A picture of digits, drawn when it is opened; a :class:`~rankscope.data.probes.Picture`."""

    look: str
    """The domain whose colours it has."""
    ground: str
    """The name of the colour of its ground."""
    digits: tuple[Digit, ...]
    """Its digits in reading order."""
    strokes: tuple[Stroke, ...]
    """How each of them is drawn."""

    def pixels(self) -> NDArray[np.uint8]:
        """``(48, 48, 3)`` RGB."""
        canvas = np.empty((SIZE, SIZE, 3))
        canvas[:] = GROUNDS[self.look][self.ground]
        for digit, stroke in zip(self.digits, self.strokes, strict=True):
            alpha = _enlarged(stroke.image, stroke.height, stroke.slant)[..., None]
            cell = canvas[stroke.top : stroke.top + stroke.height, stroke.left : stroke.left + stroke.height]
            cell += alpha * (np.array(INKS[self.look][digit.ink]) - cell)  # (1 - α) ground + α ink
        return np.rint(canvas).astype(np.uint8)

    def open(self) -> Image:
        """The picture."""
        from PIL import Image

        return Image.fromarray(self.pixels())

    def digest(self) -> str:
        """The SHA-256, in hex, of the pixels."""
        return hashlib.sha256(self.pixels().tobytes()).hexdigest()


@cache
def _stretch(height: int) -> NDArray[np.float64]:
    """``(height, 8)`` weights of linear interpolation from 8 samples to ``height``, constant beyond the outermost samples."""
    # Pixel centres: target i + ½ of `height` is at 8 (i + ½)/height, in source pixels whose centres are at j + ½.
    at = np.clip((np.arange(height) + 0.5) * 8 / height - 0.5, 0, 7)
    low = np.minimum(at.astype(int), 6)
    weights = np.zeros((height, 8))
    weights[np.arange(height), low] = 1 - (at - low)
    weights[np.arange(height), low + 1] += at - low
    return weights


def _enlarged(image: int, height: int, slant: float) -> NDArray[np.float64]:
    """``(height, height)`` shares of ink: the handwritten digit enlarged, its rows moved by ``slant``."""
    weights = _stretch(height)  # bilinear interpolation is separable: W D Wᵀ
    large = weights @ (digits().images[image] / LEVELS) @ weights.T
    if slant:
        columns = np.arange(height)
        for row in range(height):
            large[row] = np.interp(columns - slant * (0.5 - row / (height - 1)), columns, large[row], left=0, right=0)
    return large


class _Draw:
    """A fixed stream of choices, made of ``Random.random`` only: that stream is documented not to change."""

    def __init__(self, *key: object) -> None:
        self._random = Random("/".join(map(str, key))).random

    def __call__(self, n: int) -> int:
        return int(self._random() * n)

    def chance(self, share: float) -> bool:
        return self._random() < share

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()


def scene(look: str, split: str, draw: _Draw) -> Scene:
    """The scene that ``draw`` chooses: two to four digits in different cells of a three-by-three grid."""
    cells = list(range(9))
    chosen = sorted(cells.pop(draw(len(cells))) for _ in range(2 + draw(3)))
    marks, strokes = [], []
    for cell in chosen:
        row, column = divmod(cell, 3)
        value = draw(10)
        images = drawings(split)[value]
        low, high = HEIGHTS[look]
        height = low + draw(high - low + 1)
        free = CELL - height + 1
        slant = draw.between(2.0, 5.0) if look == "told" else 0.0
        marks.append(Digit(value, grammar.INKS[draw(len(grammar.INKS))], row, column))
        strokes.append(
            Stroke(images[draw(len(images))], row * CELL + draw(free), column * CELL + draw(free), height, slant)
        )
    grounds = tuple(GROUNDS[look])
    return Scene(look, grounds[draw(len(grounds))], tuple(marks), tuple(strokes))


def _example(name: str, task: str, look: str, manner: str, split: str, draw: _Draw) -> Example:
    picture = scene(look, split, draw)
    if task == "captions":
        captions = grammar.plain_captions if manner == "plain" else grammar.told_captions
        texts = captions(picture.digits, picture.ground)
        # The first reference is the one that the example is trained on, so every phrasing takes its turn there.
        turn = draw(len(texts))
        about = {"task": "caption", "look": look, "manner": manner}
        return Example(name, CAPTION, picture, texts[turn:] + texts[:turn], about=about)
    asked = grammar.ask(grammar.PLAIN if manner == "plain" else grammar.TOLD, picture.digits, draw)
    about = {"task": "question", "look": look, "manner": manner, "question_type": asked.kind}
    return Example(name, asked.text, picture, (asked.answer,), about=about)


@lru_cache(maxsize=KEPT)
def example(task: str, split: str, index: int, *, seed: int = 0) -> Example:
    """One example of a task, the same on every machine."""
    name = f"{task}/{split}/{seed}/{index}"
    if task == "pairs":
        captioned = example("captions", split, index, seed=seed)
        return replace(captioned, id=name, text=captioned.target, targets=())
    draw = _Draw("scenes 1", name)
    if task != "mixture":
        domain = "plain" if task.startswith("pretrain-") else "told"
        return _example(name, task.removeprefix("pretrain-"), domain, domain, split, draw)
    look = "told" if draw.chance(SHIFTED) else "plain"
    manner = "told" if draw.chance(SHIFTED) else "plain"
    return _example(name, ("captions", "questions")[index % 2], look, manner, split, draw)


class _Scenes(Sequence[Example]):
    """The examples of a task, each made when it is needed."""

    def __init__(self, task: str, split: str, seed: int, indices: range) -> None:
        self._task, self._split, self._seed, self._indices = task, split, seed, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> _Scenes: ...

    def __getitem__(self, index: int | slice) -> Example | _Scenes:
        if isinstance(index, slice):
            return _Scenes(self._task, self._split, self._seed, self._indices[index])
        return example(self._task, self._split, self._indices[index], seed=self._seed)


def scenes(task: str = "captions", split: str = "test", *, n: int | None = None, seed: int = 0) -> ProbeSet:
    """The scenes of a task and split, ``n`` of them (by default :data:`COUNTS`); fewer are the first of more.

    Args:
        task: one of :data:`TASKS`.
        split: ``train``, ``val`` or ``test``.
        n: number of examples.
        seed: the seed of all choices.

    Raises:
        UnknownName: if there is no such task or split.
        DataError: if ``n`` is not positive.
    """
    if task not in TASKS:
        raise UnknownName(f"scenes have no task {task!r}; they have {', '.join(TASKS)}")
    if split not in COUNTS:
        raise UnknownName(f"scenes have no split {split!r}; they have {', '.join(COUNTS)}")
    if n is not None and n < 1:
        raise DataError(f"scenes:{task}/{split} were asked for {n} examples; ask for at least one")
    count = n or COUNTS[split]
    # Fewer are found by their ids in the whole; more are only there if they are asked for.
    more = f"?n={count}" if count > COUNTS[split] else ""
    return ProbeSet(f"scenes:{task}/{split}{more}", _Scenes(task, split, seed, range(count)))
