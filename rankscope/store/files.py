"""Files that are written whole or not at all, and read with every doubt about them checked.

Every operation that changes a disk goes through this module, so that a test can stop, fail or record each one. A file
appears under its name only after its bytes are on the disk: temporary file in the same folder, write, fsync, link (which
refuses to overwrite) or rename, fsync of the folder. These are the steps of ``FORMAT.md``, Writing, 4.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rankscope.errors import StorageError, StoreCorrupt

_TEMPORARY = re.compile(r"tmp-[0-9a-f]{32}")

_BLOCK = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)  # how file systems without hard links refuse one


def corrupt(what: str) -> StoreCorrupt:
    """The error for bytes that are not those that were written. It says what is wrong, and what to do."""
    return StoreCorrupt(f"{what}; restore it from a copy, or collect the run again with --overwrite")


def temporary_name() -> str:
    """A name for something unfinished: ``tmp-`` and 128 random bits, so that nobody else has or will have chosen it."""
    return f"tmp-{secrets.token_hex(16)}"


def is_temporary(name: str) -> bool:
    """Whether a name was made by :func:`temporary_name`. Inside a store, such a file was left by a process that died."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def storing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn a failing disk into a :class:`StorageError` with the path, the bytes needed and the bytes free."""
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
    """The bytes free on the disk that holds ``path``, or would hold it; None if they cannot be determined."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, if the file system can.

    The fsync of a file saves its bytes, not its name: that is saved by the fsync of its folder.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync folders
            raise
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with reading(path) as fd, storing(path):
        os.fsync(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte, however few the system takes at a time."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(fd, view) :]


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write every byte, from ``offset`` on."""
    view = memoryview(data).cast("B")
    while len(view):
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, where they are missing."""
    with storing(folder):
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            with suppress(FileExistsError):  # another process may have made it meanwhile
                path.mkdir()
                sync_folder(path.parent)


def write_temporary(target: Path, chunks: Iterable[bytes | memoryview], *, needed: int = 0) -> Path:
    """A new temporary file beside ``target`` with these bytes, all of them on the disk. It is removed if writing fails.

    The mode is 0666 less the umask, so that whoever may read the folder may read the file.

    Args:
        target: the file that it is to become.
        chunks: the bytes, piece by piece.
        needed: their number, for the message if the disk is full.

    Raises:
        StorageError: if the disk is full, read-only or failing.
    """
    temporary = target.with_name(temporary_name())
    with storing(target, needed):
        # O_EXCL: it is this process's own file, and neither somebody else's nor a link that leads the bytes elsewhere.
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            for chunk in chunks:
                write_all(fd, chunk)
            os.fsync(fd)  # before it gets its name, so that a name never leads to bytes that a power failure loses
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(fd)
    return temporary


def publish(temporary: Path, target: Path, *, replace: bool = False) -> bool:
    """Give the temporary file its name, in one step that survives a power failure. An existing file is kept by default.

    Args:
        temporary: the file, whole and on the disk.
        target: its name.
        replace: overwrite an existing file.

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
    """Give the name by a hard link, which fails if the name exists, where a rename would silently overwrite."""
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
    temporary.unlink(missing_ok=True)  # another process that completes the store may have tidied it away
    return True


def write_new(target: Path, data: bytes, *, replace: bool = False) -> bool:
    """Write a small file atomically. False if it exists already and ``replace`` is not asked for."""
    temporary = write_temporary(target, [data], needed=len(data))
    created = publish(temporary, target, replace=replace)
    if not created:
        remove(temporary)
    return created


def remove(path: Path) -> None:
    """Remove a file, if it exists."""
    with storing(path), suppress(FileNotFoundError):
        path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove an empty folder, if it exists. One that another process has filled again is left to that process."""
    with storing(folder), suppress(FileNotFoundError):
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


@contextmanager
def new_file(folder: Path) -> Iterator[Path]:
    """An empty file in a folder, under a name that nobody else has. What then still has that name is removed."""
    path = folder / temporary_name()
    with storing(folder):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield path
    finally:
        remove(path)


@contextmanager
def new_folder(beside: Path) -> Iterator[Path]:
    """An empty folder beside a path, under a name that nobody else has. What then still has that name is removed."""
    path = beside.with_name(temporary_name())
    make_folder(path.absolute().parent)
    with storing(beside):
        path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def append_line(fd: int, path: Path, line: bytes) -> None:
    """Add a line to a log and wait until it is on the disk. A line that fails half way is taken back."""
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
