"""The scenes that the studies tune on, and what they hold back, so that generalisation can be asked for.

Tuning sees captions in the downstream look of scenes with two or three digits, none purple, none in the lower right corner. Held
back are other drawings of the digits (the splits share none), a fourth digit, that colour and that corner, each by itself: a
scene of ``new colour`` has a purple digit and nothing else that tuning did not see. A scene is tuned on with one caption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import count, islice

from rankscope.data import ProbeSet
from rankscope.data.probes import Example
from rankscope.data.scenes import Scene, example, scenes

INK, CORNER, DIGITS = "purple", (2, 2), 3
"""The colour and the corner (row and column) that tuning does not see, and the most digits that it sees."""
NEW = ("fourth digit", "new colour", "new corner")
"""What tuning does not see, by the name of the data."""
BEFORE, OTHER, SEEN = "old look", "questions", "seen drawings"
"""The captions of pre-training; the other task; and new scenes of the very drawings that tuning saw."""
SPLITS = {"train": "train", SEEN: "train", "validation": "val", "test": "test"} | dict.fromkeys(NEW, "test")
UNSEEN = 40_000
"""The index of the first scene of ``seen drawings``: tuning takes scenes from the first on, and does not come so far."""


def data(name: str, n: int, task: str = "captions") -> ProbeSet:
    """The first ``n`` examples of a set of data: one of :data:`SPLITS`, :data:`BEFORE` or :data:`OTHER`; fewer are the first of more.

    ``task`` is what is asked of the scenes of :data:`SPLITS`: captions or questions.
    """
    if name == BEFORE:
        return scenes("pretrain-captions", "test", n=n)
    if name == OTHER:
        return scenes("questions", "test", n=n)
    return ProbeSet(f"limited scenes: {name}{'' if task == 'captions' else f', {task}'}", _first(name, n, task))


def news(scene: Scene) -> set[str]:
    """What of a scene tuning does not see, by the names of :data:`NEW`."""
    there = (
        len(scene.digits) > DIGITS,
        any(digit.ink == INK for digit in scene.digits),
        any((digit.row, digit.column) == CORNER for digit in scene.digits),
    )
    return {name for name, found in zip(NEW, there, strict=True) if found}


@cache
def _first(name: str, n: int, task: str) -> tuple[Example, ...]:
    return tuple(islice(_examples(name, task), n))


def _examples(name: str, task: str) -> Iterator[Example]:
    wanted = {name} & set(NEW)
    for index in count(UNSEEN if name == SEEN else 0):
        one = example(task, SPLITS[name], index)
        assert isinstance(one.image, Scene)
        if news(one.image) == wanted:
            yield replace(one, targets=one.targets[:1]) if name == "train" else one
