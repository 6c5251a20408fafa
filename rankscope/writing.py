"""Files and folders that are written whole or not at all.

Every operation of a store that changes a disk goes through this module, so that a test can stop, fail or record each one. A file
appears under its name only after its bytes are on the disk: temporary file in the same folder, write, fsync, link (which
refuses to overwrite) or rename, fsync of the folder. These are the steps of ``store/FORMAT.md``, Writing, 4.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rankscope.errors import OutputExists, StorageError

_TEMPORARY = re.compile(r"tmp-[0-9a-f]{32}")
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)  # how file systems without hard links refuse one


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


def check_free(output: Path, *, overwrite: bool = False) -> None:
    """Refuse an output that exists, unless it may be replaced; what a process left that was killed while it made it is removed.

    Raises:
        OutputExists: if it exists and is kept.
    """
    if os.path.lexists(output) and not overwrite:
        _remove_dead(output)
        raise OutputExists(f"{output} exists and is kept unless --overwrite is given (overwrite=True)")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """An empty folder beside an output, in which it is made: under a name that nobody else has, and removed with what is left in it.

    It is locked while this process lives. What a process left that was killed while it made the same output is removed first.
    """
    make_folder(output.absolute().parent)
    _remove_dead(output)
    with storing(output):
        path, fd = _locked_folder(output)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _locked_folder(output: Path) -> tuple[Path, int]:
    """A new folder, and the descriptor by which it is locked."""
    while True:
        path = output.with_name(_name_for(output, secrets.token_hex(8)))
        path.mkdir()
        # Until it is locked, a process that makes the same output takes it for a dead one, and may remove it.
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if _is_mine(fd) and path.exists():
                return path, fd
            os.close(fd)


def _is_mine(fd: int) -> bool:
    """Whether this process has locked an open folder; also where folders have no locks, because there nobody removes one either."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def _name_for(output: Path, chance: str) -> str:
    """The name of the folder in which this machine makes an output, by 64 random bits.

    The other half follows from them, so that the name tells by itself what it is: nobody else's has it by chance. The machine
    counts because a lock may not be seen by others that share the disk.
    """
    told = hashlib.sha256("\0".join((chance, output.name, socket.gethostname())).encode(errors="surrogateescape"))
    return f"tmp-{chance}{told.hexdigest()[:16]}"


def _remove_dead(output: Path) -> None:
    """Remove the folders in which processes made this output that have died since; their locks went with them."""
    with suppress(OSError):
        for path in output.absolute().parent.iterdir():
            if is_temporary(path.name) and path.name == _name_for(output, path.name[4:20]):
                _remove_if_dead(path)


def _remove_if_dead(folder: Path) -> None:
    with suppress(OSError):  # it is another process's, or somebody else was faster, or it may not be removed
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(fd)


def write_output(output: Path, data: bytes, *, replace: bool = True) -> bool:
    """Write a file of a user's atomically, as :func:`write_new`; what a killed process left of it is removed first."""
    with new_folder(output) as folder:
        temporary = write_temporary(folder / output.name, [data], needed=len(data))
        return publish(temporary, output, replace=replace)


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
