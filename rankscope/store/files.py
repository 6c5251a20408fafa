"""Files read with every doubt about them checked: regular, as long as they were, and the bytes that were written."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rankscope import writing
from rankscope.errors import StorageError, StoreCorrupt

_BLOCK = 1 << 20


def corrupt(what: str) -> StoreCorrupt:
    """The error for bytes that are not those that were written. It says what is wrong, and what to do."""
    return StoreCorrupt(f"{what}; restore it from a copy, or collect the run again with --overwrite")


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file that is not a link, so that no name leads out of a store.

    Raises:
        StoreCorrupt: if there is no such file, or it is a link, a folder or a device.
        StorageError: if it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # O_NONBLOCK: opening a pipe must not hang
    except (FileNotFoundError, NotADirectoryError) as error:
        raise corrupt(f"{path} is missing") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise corrupt(f"{path} is a link, and a store holds only regular files") from error
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise corrupt(f"{path} is not a regular file")
    return fd


@contextmanager
def reading(path: Path) -> Iterator[int]:
    """The descriptor of a regular file; errors while reading it become :class:`StorageError`."""
    fd = open_regular(path)
    try:
        yield fd
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with reading(path) as fd, writing.storing(path):
        os.fsync(fd)


def read_into(fd: int, path: Path, buffer: memoryview, offset: int) -> None:
    """Fill the buffer with the bytes from ``offset`` on.

    They are read, not mapped: a file that is cut short under a map kills the process (``FORMAT.md``, Reading).

    Raises:
        StoreCorrupt: if the file ends earlier.
    """
    view = buffer.cast("B")
    while len(view):
        got = os.preadv(fd, [view[: 1 << 30]], offset)  # Linux reads at most 2 GiB at a time
        if not got:
            raise corrupt(f"{path} ends at byte {offset:,}, {len(view):,} bytes too early")
        view, offset = view[got:], offset + got


def read_bytes(fd: int, path: Path, start: int, stop: int) -> bytes:
    """The bytes from ``start`` to ``stop``. Raises as :func:`read_into` does."""
    data = bytearray(stop - start)
    read_into(fd, path, memoryview(data), start)
    return bytes(data)


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a file that must not be longer than ``limit``."""
    with reading(path) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise corrupt(f"{path} has {size:,} bytes, and at most {limit:,} are plausible")
        return read_bytes(fd, path, 0, size)


def stamp(fd: int) -> tuple[int, int, int]:
    """A mark that changes when a file is replaced or written: its inode, size and time."""
    status = os.fstat(fd)
    return status.st_ino, status.st_size, status.st_mtime_ns


def digest_of(fd: int, path: Path, start: int, stop: int) -> str:
    """SHA-256 of the bytes from ``start`` to ``stop``, in hexadecimal."""
    sha = hashlib.sha256()
    for block in blocks(fd, path, start, stop):
        sha.update(block)
    return sha.hexdigest()


def blocks(fd: int, path: Path, start: int, stop: int) -> Iterator[memoryview]:
    """The bytes from ``start`` to ``stop``, a block at a time; each lies where the one before it lay."""
    buffer = memoryview(bytearray(min(_BLOCK, max(stop - start, 1))))
    for offset in range(start, stop, _BLOCK):
        block = buffer[: min(_BLOCK, stop - offset)]
        read_into(fd, path, block, offset)
        yield block


def digest_of_file(path: Path) -> tuple[int, str]:
    """The size in bytes and the SHA-256 of a file."""
    with reading(path) as fd:
        size = os.fstat(fd).st_size
        return size, digest_of(fd, path, 0, size)


def files_below(path: Path) -> list[Path]:
    """Every file below a folder, sorted; the path itself if it is a file."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; none if there is no folder, or it disappears meanwhile.

    Raises:
        StoreCorrupt: if the folder is a link or is not a folder.
    """
    try:
        if folder.is_symlink():
            raise NotADirectoryError
        return sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise corrupt(f"{folder} is a link or a file, and should be a folder of the store") from None
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror}") from error
