"""Files of NumPy, and their arrays as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankscope.errors import DataError, UnsafeError


def numpy_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays in a ``.npz`` file by name, or the one in a ``.npy`` file under the file's own name.

    Raises:
        UnsafeError: if it holds Python objects.
        DataError: if it cannot be read.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            return {path.stem: found}
        with found:
            return {name: found[name] for name in found.files}
    except (ValueError, EOFError, OSError) as error:
        if "pickle" in str(error).lower():
            raise UnsafeError(
                f"{path} holds Python objects, and could run code if it were loaded; save it as plain arrays"
            ) from error
        raise DataError(f"{path} cannot be read by NumPy: {error}") from error


def as_tensor(array: NDArray[Any]) -> Tensor:
    """An array as a tensor: floating-point numbers as they are, of at most 64 bits; of anything else only the shape."""
    if array.dtype.kind != "f":
        return torch.zeros(array.shape, dtype=torch.bool)  # left out later, with its shape in the note
    # Torch has no float longer than 64 bits.
    dtype = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
