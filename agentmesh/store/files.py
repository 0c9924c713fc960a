"""Files as this room needs them, on any system: opened with care, locked, written at their end, found again by name.

What a system does not have is done otherwise (no `pread`: seek and read under a lock), or left out where it means
nothing there (a folder is not forced to disk on Windows). Only a system without any file locks is refused, by `lock`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

from agentmesh.errors import ArgumentInvalid, StoreFailed, StoreMoved

READ_BYTES: Final = 1 << 20
_MODE: Final = 0o600
_STANDARD_STREAMS: Final = 3
_WINDOWS_LOCK_AT: Final = 0x7FFFFFFE  # locks there keep others from reading, so the byte is one that few files have
_NOT_FOR_FOLDERS: Final = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_seeking = threading.Lock()

Path = str | os.PathLike[str]


def path_argument(name: str, path: Path) -> str:
    """Return a path as text, absolute, so that it stays the same when the process changes its folder.

    Raises:
        ArgumentInvalid: not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentInvalid(name)
    text = os.fspath(path)
    if not isinstance(text, str):
        raise ArgumentInvalid(name)
    return os.path.abspath(text) if text else text


# --- opening ---------------------------------------------------------------------------------------------------------


def open_file(path: str, flags: int) -> int:
    """Return a descriptor of a regular file; whoever writes does not follow a symbolic link.

    Raises:
        StoreFailed: the operating system refuses, or it is something else.
    """
    descriptor = -1
    try:
        if flags & (os.O_RDWR | os.O_WRONLY):
            flags |= getattr(os, "O_NOFOLLOW", 0)
            if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY", "O_NOINHERIT"):
            # Not blocking, because whoever opens a named pipe waits for its other end.
            flags |= getattr(os, name, 0)
        descriptor = _above_streams(os.open(path, flags, _MODE))
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        raise OSError(errno.EINVAL, "not a regular file")
    except (OSError, ValueError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise StoreFailed from error


@contextlib.contextmanager
def made_whole(path: str) -> Iterator[str]:
    """Give the name of a new file, mode 0600, to be filled: it stands at `path` once that has succeeded, or nowhere.

    Raises:
        StoreFailed: something stands at `path`, or the operating system refuses.
    """
    beside = f"{path}.agentmesh-new"
    try:
        _remove(beside)  # of a process that was killed
        os.close(open_file(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        try:
            yield beside
            _force(beside)
            os.link(beside, path)  # which replaces nothing
        finally:
            _remove(beside)
        force_folder(path)
    except OSError as error:
        raise StoreFailed from error


def _remove(path: str) -> None:
    for name in (path, f"{path}-journal", f"{path}-wal", f"{path}-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _force(path: str) -> None:
    descriptor = open_file(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _above_streams(descriptor: int) -> int:
    """Return a descriptor of the same file that is not one of the standard streams, which everybody writes to."""
    below = []
    while descriptor < _STANDARD_STREAMS:
        below.append(descriptor)
        descriptor = os.dup(descriptor)
    for one in below:
        os.close(one)
    return descriptor


def identity(descriptor: int) -> tuple[int, int]:
    """Return what tells this file from every other: its device and its number there."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def is_at(path: str, descriptor: int) -> bool:
    """Say whether the file stands under that name."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == identity(descriptor)


def warn_if_others_may(what: str, found: os.stat_result, stacklevel: int) -> None:
    """Warn of a file that others may read or write, or that belongs to somebody else; `what` it is, in our words."""
    if not hasattr(os, "geteuid"):
        return
    mode = stat.S_IMODE(found.st_mode)
    if mode & ~_MODE & 0o777:
        text = f"{what} stands with mode {mode:04o}: others may read or write it; chmod it to {_MODE:04o}"
        warnings.warn(text, UserWarning, stacklevel + 1)
    if found.st_uid != os.geteuid():
        text = f"{what} belongs to user {found.st_uid}, who may read and write it"
        warnings.warn(text, UserWarning, stacklevel + 1)


# --- locking ---------------------------------------------------------------------------------------------------------


def lock(descriptor: int) -> None:
    """Lock a file for one writer, without waiting.

    Raises:
        BlockingIOError: it is locked.
        OSError: the operating system refuses, or has no file locks.
    """
    try:
        import fcntl
    except ImportError:
        _lock_region(descriptor, "LK_NBLCK")
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(descriptor: int) -> None:
    """Unlock a file, for every process that inherited the descriptor too."""
    try:
        import fcntl
    except ImportError:
        _lock_region(descriptor, "LK_UNLCK")
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock_region(descriptor: int, mode: str) -> None:
    windows: Any
    try:
        import msvcrt as windows
    except ImportError:
        windows = None
    if windows is None:
        raise OSError(errno.ENOLCK, "this system has no file locks")
    with _seeking:
        os.lseek(descriptor, _WINDOWS_LOCK_AT, os.SEEK_SET)
        try:
            windows.locking(descriptor, getattr(windows, mode), 1)
        except PermissionError as error:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error


# --- reading and writing ---------------------------------------------------------------------------------------------


def read_at(descriptor: int, size: int, at: int) -> bytes:
    """Return up to `size` bytes from a place."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, at)
    with _seeking:
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.read(descriptor, size)


def read_fully(descriptor: int, size: int, at: int) -> bytes:
    """Return `size` bytes from a place; fewer only where the file ends."""
    data = read_at(descriptor, size, at)
    if len(data) == size or not data:
        return data
    pieces = [data]  # one call gives 2 GiB at most, and fewer on some file systems
    left = size - len(data)
    while left and (data := read_at(descriptor, left, at + size - left)):
        pieces.append(data)
        left -= len(data)
    return b"".join(pieces)


def write_at(descriptor: int, data: bytes, at: int) -> None:
    """Write all of `data` at a place of a file that was not opened for appending; threads may at different places."""
    view = memoryview(data)
    while view:
        if hasattr(os, "pwrite"):
            written = _some(os.pwrite(descriptor, view, at))
        else:
            with _seeking:
                os.lseek(descriptor, at, os.SEEK_SET)
                written = _some(os.write(descriptor, view))
        view, at = view[written:], at + written


def reader(descriptor: int, start: int, end: int) -> Callable[[], bytes]:
    """Return what returns a file's bytes from `start` to `end`, piece by piece, and nothing at the end."""
    at = start

    def read() -> bytes:
        nonlocal at
        piece = read_at(descriptor, min(READ_BYTES, end - at), at) if at < end else b""
        at += len(piece)
        return piece

    return read


def append(descriptor: int, data: bytes) -> None:
    """Write all of `data` at the end of a file that was opened for appending."""
    written = _some(os.write(descriptor, data))
    while written < len(data):
        written += _some(os.write(descriptor, memoryview(data)[written:]))


def overwrite(path: str, descriptor: int, data: bytes, at: int) -> None:
    """Write over what stands at a place: through a second descriptor, because the first writes at the end alone.

    Raises:
        OSError: refused, as for a file that may only be appended to.
        StoreFailed, StoreMoved: it cannot be opened, or another file stands there.
    """
    second = open_file(path, os.O_WRONLY)
    try:
        if identity(second) != identity(descriptor):
            raise StoreMoved
        os.lseek(second, at, os.SEEK_SET)
        view = memoryview(data)
        while view:
            view = view[_some(os.write(second, view)) :]
    finally:
        os.close(second)


def _some(written: int) -> int:
    if written <= 0:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return written


def force_folder(path: str) -> None:
    """Force to disk which names the folder of `path` has, where the system and the file system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(folder)
