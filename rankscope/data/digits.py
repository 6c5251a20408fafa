"""The handwritten digits of which scenes are made, and their split into train, validation and test.

They are the 1,797 8 × 8 images, with 17 levels of grey, of the "Optical Recognition of Handwritten Digits" data set
(E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, doi 10.24432/C50P49, licence CC BY 4.0), in the
form and order in which scikit-learn carries them (``sklearn.datasets.load_digits``). Nothing was changed but the file format.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.data.embedded import HERE

LEVELS = 16
"""The value of full ink; 0 is none."""
SPLITS = {"train": (0.0, 0.7), "val": (0.7, 0.85), "test": (0.85, 1.0)}
"""The share of the images of every class that each split takes; no image stands in two."""


class Digits(NamedTuple):
    """The digits as they are stored."""

    images: NDArray[np.uint8]
    """``(1797, 8, 8)``, 0…16."""
    labels: NDArray[np.uint8]
    """``(1797,)``, 0…9."""


@cache
def digits() -> Digits:
    """All digits, read once."""
    with np.load(HERE / "digits.npz", allow_pickle=False) as file:
        return Digits(file["images"], file["labels"])


@cache
def drawings(split: str) -> tuple[tuple[int, ...], ...]:
    """For every class 0…9 the places of its images that belong to ``split``, in an order fixed by a hash."""
    low, high = SPLITS[split]
    labels = digits().labels
    classes = []
    for value in range(10):
        places = sorted(
            np.flatnonzero(labels == value).tolist(), key=lambda i: hashlib.sha256(f"digit {i}".encode()).digest()
        )
        classes.append(tuple(places[round(low * len(places)) : round(high * len(places))]))
    return tuple(classes)
