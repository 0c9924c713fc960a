"""The audit log in a file: append-only, length-prefixed, one writer.

    file  = "agentmesh-log-1" 0x0a, then frames;   frame = len32 || entry

A crash can tear the last frame only, since frames are written in order and the file only grows. Opening cuts a torn
tail off and says so (`torn_bytes`). A write that fails is taken back; where even that fails, the file takes no more
until it is opened again, so that nothing is ever written behind a hole.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self, final

from agentmesh.audit.record import ENTRY_MAX_BYTES
from agentmesh.errors import ArgumentInvalid, LogBroken, StoreFailed, StoreLocked

_MAGIC: Final = b"agentmesh-log-1\n"
_LENGTH_BYTES: Final = 4
_READ_BYTES: Final = 1 << 20


@final
class LogFile:
    """A sink for `AuditLog` in a file of its own, mode 0600. One process writes it at a time.

    Attributes:
        torn_bytes: How many bytes of a torn last frame were cut off when it was opened; 0 for a clean end.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync_every: int | None = 1) -> None:
        """Open a log file for appending, made if it is new.

        Args:
            path: Where. A symbolic link is refused.
            fsync_every: Force to disk after so many appends; 1 loses nothing that was acknowledged to a power cut;
                `None` leaves it to the operating system, and survives a crash of the process only.

        Raises:
            ArgumentInvalid: `fsync_every` is not a positive int or `None`.
            StoreLocked: another process has it open.
            StoreFailed: the operating system refuses.
            LogBroken: not a log file.
        """
        if fsync_every is not None and (type(fsync_every) is not int or fsync_every < 1):
            raise ArgumentInvalid("fsync_every")
        self._fsync_every = fsync_every
        self._unsynced = 0
        self._broken = False
        self._descriptor = _open(path)
        try:
            self._size, self.torn_bytes = self._recover(path)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _recover(self, path: str | os.PathLike[str]) -> tuple[int, int]:
        try:
            total = os.fstat(self._descriptor).st_size
            head = os.pread(self._descriptor, len(_MAGIC), 0)
            if not _MAGIC.startswith(head):
                raise LogBroken(0, "entry")
            if len(head) < len(_MAGIC):  # new, or torn while it was new
                os.ftruncate(self._descriptor, 0)
                self._write(_MAGIC, 0)
                os.fsync(self._descriptor)
                _fsync_folder(path)
                return len(_MAGIC), len(head)
            end = len(_MAGIC)
            for frame_bytes in _frame_lengths(self._descriptor, total):
                end += frame_bytes
            if end < total:
                os.ftruncate(self._descriptor, end)
                os.fsync(self._descriptor)
            return end, total - end
        except OSError as error:
            raise StoreFailed from error

    def append(self, entries: Sequence[bytes], /) -> None:
        """Write these entries, all or none.

        Raises:
            StoreFailed: the operating system refuses; the file is as it was, or takes no more until it is reopened.
        """
        if self._broken:
            raise StoreFailed
        data = b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)
        try:
            self._write(data, self._size)
            self._unsynced += 1
            if self._fsync_every is not None and self._unsynced >= self._fsync_every:
                os.fsync(self._descriptor)
                self._unsynced = 0
        except OSError as error:
            self._take_back()
            raise StoreFailed from error
        self._size += len(data)

    def _write(self, data: bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, at)
            at += written
            view = view[written:]

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
        except OSError:
            self._broken = True

    def entries(self) -> Iterator[bytes]:
        """Return the entries, in order."""
        return _read_entries(self._descriptor, self._size)

    def close(self) -> None:
        """Force what was written to disk, and let another process open the file.

        Raises:
            StoreFailed: the operating system refuses.
        """
        if self._descriptor < 0:
            return
        try:
            if self._unsynced:
                os.fsync(self._descriptor)
        except OSError as error:
            raise StoreFailed from error
        finally:
            os.close(self._descriptor)
            self._descriptor, self._broken = -1, True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log_file(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the entries of a log file that somebody else may be writing; nothing is changed.

    Raises:
        StoreFailed: the operating system refuses.
        LogBroken: not a log file (`entry` at 0), or its last frame is torn (`torn`, after all whole ones).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreFailed from error
    try:
        total = os.fstat(descriptor).st_size
        if os.pread(descriptor, len(_MAGIC), 0) != _MAGIC:
            raise LogBroken(0, "entry")
        end, sequence = len(_MAGIC), 0
        for entry in _read_entries(descriptor, total):
            yield entry
            end += _LENGTH_BYTES + len(entry)
            sequence += 1
        if end != total:
            raise LogBroken(sequence, "torn")
    except OSError as error:
        raise StoreFailed from error
    finally:
        os.close(descriptor)


def _open(path: str | os.PathLike[str]) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = -1
    locked = False
    try:
        descriptor = os.open(path, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except BlockingIOError:
        locked = True
    except (OSError, ValueError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise StoreFailed from error
    os.close(descriptor)
    raise StoreLocked if locked else StoreFailed


def _fsync_folder(path: str | os.PathLike[str]) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _frame_lengths(descriptor: int, total: int) -> Iterator[int]:
    for entry in _read_entries(descriptor, total):
        yield _LENGTH_BYTES + len(entry)


def _read_entries(descriptor: int, total: int) -> Iterator[bytes]:
    """Yield the whole frames' entries up to `total`, reading in large pieces."""
    at, buffer = len(_MAGIC), b""
    while True:
        piece = os.pread(descriptor, min(_READ_BYTES, total - at), at) if at < total else b""
        at += len(piece)
        buffer += piece
        start = 0
        while len(buffer) - start >= _LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + _LENGTH_BYTES], "big")
            if length > ENTRY_MAX_BYTES:
                raise LogBroken(0, "frame")
            end = start + _LENGTH_BYTES + length
            if end > len(buffer):
                break
            yield buffer[start + _LENGTH_BYTES : end]
            start = end
        buffer = buffer[start:]
        if not piece:
            return
