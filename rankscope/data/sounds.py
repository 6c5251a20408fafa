"""Sounds: samples of one channel with their rate, from memory or from WAV files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankscope.errors import DataError


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound in memory."""

    samples: NDArray[np.floating[Any]]
    """``(t,)`` samples between -1 and 1."""
    rate: int
    """Samples in a second."""

    def __post_init__(self) -> None:
        if np.ndim(self.samples) != 1 or not len(self.samples):
            raise DataError(
                f"a sound is one channel of samples, an array (t,); got shape {np.shape(self.samples)}; mix channels down"
            )

    def digest(self) -> str:
        """The SHA-256, in hex, of the rate and the samples."""
        content = np.ascontiguousarray(self.samples, dtype=np.float32)
        return hashlib.sha256(f"{self.rate}:".encode() + content.tobytes()).hexdigest()


def decode_sound(path: Path, what: str) -> Sound:
    """The sound in a WAV file, its whole numbers scaled to lie between -1 and 1; ``what`` names it in messages.

    Raises:
        DataError: if the file is missing, is no WAV file, is cut short, or has several channels.
    """
    from scipy.io import wavfile  # here, because most probe sets have no sound

    try:
        rate, samples = wavfile.read(path)
    except FileNotFoundError:
        raise DataError(f"{what} is not there: {path}; check the file name") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{what} cannot be read as WAV: {error}; convert it to WAV, of one channel") from error
    if samples.ndim != 1:
        raise DataError(f"{what} has {samples.shape[1]} channels; mix them down to one")
    if samples.dtype.kind == "u":  # 8 bits are stored around 128
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return Sound(samples.astype(np.float32), int(rate))
