"""The audit log in a file: append-only, length-prefixed, one writer.

    file  = "agentmesh-log-1" 0x0a, then frames;   frame = len32 || entry

Frames are written in order and the file only grows, so a crash of the process leaves at most the beginning of a last
frame behind it, and a power cut at most that or a run of zeros. Opening leaves such a torn tail out and says so
(`torn_bytes`); the first append cuts it off. So to open a file, and to find by it that the log is broken, destroys
nothing. A write that fails is taken back; where even that fails, the file takes no more until it is opened again, so
that nothing is ever written behind a hole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self, final

from agentmesh.audit.record import ENTRY_MAX_BYTES
from agentmesh.errors import ArgumentInvalid, LogBroken, StoreFailed, StoreLocked

_MAGIC: Final = b"agentmesh-log-1\n"
_LENGTH_BYTES: Final = 4
_READ_BYTES: Final = 1 << 20
_MODE: Final = 0o600


@final
class LogFile:
    """A sink for `AuditLog` in a file of its own, mode 0600. One process writes it at a time.

    It is `AuditLog` that checks what the entries say; this checks frames alone.

    Attributes:
        torn_bytes: How many bytes of a torn last frame were left out when it was opened; 0 for a clean end. In a file
            that was torn while it was new: all that was there.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync_every: int | None = 1) -> None:
        """Open a log file for appending, made if it is new.

        Args:
            path: Where. A symbolic link is refused.
            fsync_every: Force to disk after so many appends. With 1 nothing that was acknowledged is lost to a power
                cut; with more up to so many appends may be; `None` leaves it to the operating system, and survives a
                crash of the process only.

        Raises:
            ArgumentInvalid: `fsync_every` is not a positive int or `None`.
            StoreLocked: another process has it open.
            StoreFailed: the operating system refuses, or it is not a regular file.
            LogBroken: not a log file.
        """
        if fsync_every is not None and (type(fsync_every) is not int or fsync_every < 1):
            raise ArgumentInvalid("fsync_every")
        self._fsync_every = fsync_every
        self._unsynced = 0
        self._broken = False
        self._process = os.getpid()
        self._descriptor = _open_locked(path)
        try:
            self._size, self.torn_bytes = self._recover(path)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._synced_size = self._size
        self._is_tail_dirty = self.torn_bytes > 0

    def _recover(self, path: str | os.PathLike[str]) -> tuple[int, int]:
        """Return (where the whole frames end, how much stands behind them)."""
        try:
            total = os.fstat(self._descriptor).st_size
            head = os.pread(self._descriptor, len(_MAGIC), 0)
            if head != _MAGIC:
                begun = head.rstrip(b"\x00")
                if not _MAGIC.startswith(begun) or not _is_zero(self._descriptor, len(begun), total):
                    raise LogBroken(0, "entry")
                # New, or torn while it was new: by a power cut, zeros may stand where the rest was written.
                self._write(_MAGIC, 0)
                os.fsync(self._descriptor)
                _fsync_folder(path)
                return len(_MAGIC), total
            end = len(_MAGIC)
            for entry in _read_entries(self._descriptor, total):
                end += _LENGTH_BYTES + len(entry)
            return end, total - end
        except OSError as error:
            raise StoreFailed from error

    def append(self, entries: Sequence[bytes], /) -> None:
        """Write these entries, all or none.

        Raises:
            ArgumentInvalid: an entry is not 1 to 1024 bytes.
            StoreLocked: this process is a fork of the one that opened the file.
            StoreFailed: the operating system refuses; the file is as it was, or takes no more until it is reopened.
        """
        if any(type(entry) is not bytes or not 0 < len(entry) <= ENTRY_MAX_BYTES for entry in entries):
            raise ArgumentInvalid("entries")
        if self._broken:
            raise StoreFailed
        if os.getpid() != self._process:
            raise StoreLocked  # the lock is inherited, but the file's end is known to one process alone
        data = b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)
        syncing = False
        try:
            if self._is_tail_dirty:
                os.ftruncate(self._descriptor, self._size)
            self._is_tail_dirty = True
            self._write(data, self._size)
            syncing = self._fsync_every is not None and self._unsynced + 1 >= self._fsync_every
            if syncing:
                os.fsync(self._descriptor)
                self._synced_size = self._size + len(data)
            self._unsynced = 0 if syncing else self._unsynced + 1
            self._size += len(data)
            self._is_tail_dirty = False
        except OSError as error:
            self._take_back(syncing)
            raise StoreFailed from error
        except BaseException:  # an interrupt: nobody may count on what was written
            self._take_back(syncing)
            raise

    def _write(self, data: bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, at)
            if written <= 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            at += written
            view = view[written:]

    def _take_back(self, syncing: bool) -> None:
        """Make the file again what it was before this append, or take no more."""
        try:
            os.ftruncate(self._descriptor, self._size)
            self._is_tail_dirty = False
            if syncing:
                # A sync that fails may drop what it was to write and forget it: what was not synced is written again.
                self._rewrite(self._synced_size, self._size)
            if self._fsync_every is not None:
                os.fsync(self._descriptor)
                self._unsynced, self._synced_size = 0, self._size
        except OSError:
            self._broken = True

    def _rewrite(self, start: int, end: int) -> None:
        while start < end:
            piece = os.pread(self._descriptor, min(_READ_BYTES, end - start), start)
            if not piece:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._write(piece, start)
            start += len(piece)

    def entries(self) -> Iterator[bytes]:
        """Yield the entries, in order, up to the last that was there when the call was made.

        Raises:
            StoreFailed: the operating system refuses, or the file was closed.
            LogBroken: somebody else wrote to the file.
        """
        return self._entries(self._size)

    def _entries(self, size: int) -> Iterator[bytes]:
        try:
            yield from _read_entries(self._descriptor, size)
        except OSError as error:
            raise StoreFailed from error

    def close(self) -> None:
        """Force what was written to disk, and let another process open the file.

        Raises:
            StoreFailed: the operating system refuses.
        """
        if self._descriptor < 0:
            return
        try:
            if self._unsynced and os.getpid() == self._process:
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
        StoreFailed: the operating system refuses, or it is not a regular file.
        LogBroken: not a log file (`entry` at 0), or its last frame is torn (`torn`, after all whole ones): cut off by a
            crash, or being written at this moment.
    """
    descriptor = _open(path, os.O_RDONLY)
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


# --- opening ---------------------------------------------------------------------------------------------------------


def _open(path: str | os.PathLike[str], flags: int) -> int:
    descriptor = -1
    try:
        # Not blocking, because whoever opens a named pipe waits for its other end.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, _MODE)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        raise OSError(errno.EINVAL, "not a regular file")
    except (OSError, ValueError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise StoreFailed from error


def _open_locked(path: str | os.PathLike[str]) -> int:
    descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    error: OSError | None = None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError as caught:
        error = caught
    os.close(descriptor)
    if isinstance(error, BlockingIOError):
        raise StoreLocked
    raise StoreFailed from error


def _fsync_folder(path: str | os.PathLike[str]) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_entries(descriptor: int, total: int) -> Iterator[bytes]:
    """Yield the whole frames' entries up to `total`, reading in large pieces; a torn tail ends it.

    Raises:
        LogBroken: a length that no entry has.
    """
    at, buffer, sequence = len(_MAGIC), b"", 0
    while True:
        piece = os.pread(descriptor, min(_READ_BYTES, total - at), at) if at < total else b""
        at += len(piece)
        buffer += piece
        start = 0
        while len(buffer) - start >= _LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + _LENGTH_BYTES], "big")
            if length == 0 and _is_zero(descriptor, at - len(buffer) + start, total):
                return
            if not 0 < length <= ENTRY_MAX_BYTES:
                raise LogBroken(sequence, "entry")
            end = start + _LENGTH_BYTES + length
            if end > len(buffer):
                break
            yield buffer[start + _LENGTH_BYTES : end]
            start = end
            sequence += 1
        buffer = buffer[start:]
        if not piece:
            return


def _is_zero(descriptor: int, at: int, total: int) -> bool:
    """Say whether nothing but zeros stands from `at` on: a power cut leaves them where a length was written first."""
    while at < total:
        piece = os.pread(descriptor, min(_READ_BYTES, total - at), at)
        if not piece or piece.strip(b"\x00"):
            return not piece
        at += len(piece)
    return True
