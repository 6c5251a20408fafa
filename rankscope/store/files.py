"""Files that are written whole or not at all, and read as what they are.

Every operation that changes a disk goes through this module, so that a test can stop, fail or record each one. A file
appears under its name only after its bytes are on the disk: temporary file in the same folder, write, fsync, link (which
refuses to overwrite) or rename, fsync of the folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rankscope.errors import StorageError, StoreCorrupt

TEMPORARY = "tmp-"
"""How the name of every temporary file begins; one that is found was left by a process that died."""

_BLOCK = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)


@contextmanager
def storing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns a failing disk into a :class:`StorageError` with the path, the bytes needed and the bytes free."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {path}: {reason}{_room(path, needed)}; {_remedy(error)}") from error


def _room(path: Path, needed: int) -> str:
    free = free_bytes(path)
    return (f"; {needed:,} bytes are needed" if needed else "") + (f", {free:,} are free" if free is not None else "")


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "what was committed is kept: free some space and run the same command again"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "choose an output that this user may write"
    return "what was committed is kept: run the same command again once the disk works"


def free_bytes(path: Path) -> int | None:
    """The bytes free on the disk that holds ``path``, or would; None where that cannot be told."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder last, where the file system can."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes every byte, however few the system takes at a time."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(fd, view) :]


def make_folder(folder: Path) -> None:
    """The folder and its parents, if they are not there yet."""
    with storing(folder):
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            with suppress(FileExistsError):
                path.mkdir()
                sync_folder(path.parent)


def write_temporary(target: Path, chunks: Iterable[bytes | memoryview], *, needed: int = 0, tag: str = "") -> Path:
    """A temporary file beside ``target`` with these bytes, all of them on the disk; removed again if that fails.

    The mode is 0666 less the umask, so that whoever may read the folder may read the file.

    Raises:
        StorageError: if the disk is full, read-only or failing.
    """
    temporary = target.with_name(f"{TEMPORARY}{tag}{target.name}")
    with storing(target, needed):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
        try:
            for chunk in chunks:
                write_all(fd, chunk)
            os.fsync(fd)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(fd)
    return temporary


def publish(temporary: Path, target: Path, *, replace: bool = False) -> bool:
    """Gives the temporary file its name, in one step that lasts. Without ``replace`` an existing file is kept.

    Returns:
        Whether the name was given; False if the target exists already (then the temporary file is still there).
    """
    with storing(target):
        created = True
        if replace:
            temporary.rename(target)
        else:
            created = _link(temporary, target)
        sync_folder(target.parent)
    return created


def _link(temporary: Path, target: Path) -> bool:
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if not target.exists():
            raise
        return False  # another process has published the same, and tidied this one's temporary file away
    except OSError as error:
        if error.errno not in _NO_LINKS or target.exists():
            raise
        temporary.rename(target)
        return True
    temporary.unlink(missing_ok=True)  # another that completes the store may have tidied it away
    return True


def write_new(target: Path, data: bytes, *, replace: bool = False, tag: str = "") -> bool:
    """Writes a small file atomically; False if it exists already and ``replace`` is not asked for."""
    temporary = write_temporary(target, [data], needed=len(data), tag=tag)
    created = publish(temporary, target, replace=replace)
    if not created:
        remove(temporary)
    return created


def remove(path: Path) -> None:
    """Removes a file, if it is there."""
    with storing(path), suppress(FileNotFoundError):
        path.unlink()


def remove_folder(folder: Path) -> None:
    """Removes an empty folder, if it is there; one that another process fills again is left to that."""
    with storing(folder), suppress(FileNotFoundError):
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def append_line(fd: int, path: Path, line: bytes) -> None:
    """Adds a line to a log and waits until it is on the disk; a line that fails half way is taken back."""
    end = os.fstat(fd).st_size
    try:
        with storing(path, len(line)):
            write_all(fd, line)
            os.fsync(fd)
    except StorageError:
        with suppress(OSError):
            os.ftruncate(fd, end)
        raise


def open_regular(path: Path) -> int:
    """A file descriptor for reading a regular file that is no link, so that no name leads out of a store.

    Raises:
        StoreCorrupt: if there is no such file, or it is a link, a folder or a device.
        StorageError: if it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreCorrupt(f"{path} is missing; {COLLECT_AGAIN}") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreCorrupt(f"{path} is a link, and a store holds only regular files; {COLLECT_AGAIN}") from error
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StoreCorrupt(f"{path} is not a regular file; {COLLECT_AGAIN}")
    return fd


COLLECT_AGAIN = "restore it from a copy, or collect the run again with --overwrite"
"""What to do about a store whose bytes are not those that were written."""


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


def read_into(fd: int, path: Path, buffer: memoryview, offset: int) -> None:
    """Fills the buffer with the bytes from ``offset`` on.

    Raises:
        StoreCorrupt: if the file ends before.
    """
    view = buffer.cast("B")
    while len(view):
        got = os.preadv(fd, [view[: 1 << 30]], offset)
        if not got:
            raise StoreCorrupt(f"{path} ends at byte {offset:,}, {len(view):,} bytes too early; {COLLECT_AGAIN}")
        view, offset = view[got:], offset + got


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a file that must not be longer than ``limit``."""
    with reading(path) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise StoreCorrupt(f"{path} has {size:,} bytes, and at most {limit:,} are plausible; {COLLECT_AGAIN}")
        data = bytearray(size)
        read_into(fd, path, memoryview(data), 0)
    return bytes(data)


def blocks(fd: int, path: Path, start: int, stop: int) -> Iterator[memoryview]:
    """The bytes from ``start`` to ``stop``, a mebibyte at a time in one buffer that is used again."""
    buffer = memoryview(bytearray(min(_BLOCK, max(stop - start, 1))))
    for offset in range(start, stop, _BLOCK):
        part = buffer[: min(_BLOCK, stop - offset)]
        read_into(fd, path, part, offset)
        yield part


def digest_of(fd: int, path: Path, start: int, stop: int) -> str:
    """SHA-256 of the bytes from ``start`` to ``stop``, in hexadecimal."""
    sha = hashlib.sha256()
    for block in blocks(fd, path, start, stop):
        sha.update(block)
    return sha.hexdigest()


def digest_of_file(path: Path) -> tuple[int, str]:
    """The size in bytes and the SHA-256 of a file."""
    with reading(path) as fd:
        size = os.fstat(fd).st_size
        return size, digest_of(fd, path, 0, size)


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; none if there is no folder, or it goes away meanwhile.

    Raises:
        StoreCorrupt: if the folder is a link or not a folder.
    """
    try:
        if folder.is_symlink():
            raise NotADirectoryError
        return sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise StoreCorrupt(
            f"{folder} is a link or a file, and should be a folder of the store; {COLLECT_AGAIN}"
        ) from None
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror}") from error
