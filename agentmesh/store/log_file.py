"""The audit log in a file: append-only, length-prefixed, one writer (docs/protocol.md, section 8.2).

Frames are written in order and the file only grows, so a crash of the process leaves at most the beginning of a last
frame behind it, and a power cut at most that or a run of zeros. Opening leaves such a torn tail out and says so
(`torn_bytes`); the first append cuts it off. So to open a file, and to find by it that the log is broken, destroys
nothing. A write that fails is taken back; where even that fails, the file takes no more until it is opened again, so
that nothing is ever written behind a hole.

The descriptor appends and cannot write elsewhere. Before and after each write the file is asked whether it is still as
long as it was left, and has a name; with each sync, and every 64 appends without one, whether that name is still its
own. What was written to a file that nobody will find is not acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self, final

from agentmesh.audit.handover import HANDOVER_MAX_BYTES
from agentmesh.audit.merkle import CHUNK
from agentmesh.audit.record import ENTRY_MAX_BYTES
from agentmesh.audit.sink import Milestone
from agentmesh.errors import ArgumentInvalid, LogBroken, StoreFailed, StoreLocked, StoreMoved
from agentmesh.primitives.forked import Birthplace
from agentmesh.store import files
from agentmesh.store.frames import (
    CONTINUED,
    LENGTH_BYTES,
    MAGIC,
    framed,
    handed_over,
    is_zero,
    read_entries,
    read_head,
)
from agentmesh.store.log_index import LogIndex, Row

_HEAD_BYTES: Final = len(CONTINUED) + LENGTH_BYTES + HANDOVER_MAX_BYTES
_NAME_CHECKED_EVERY: Final = 64
_SEQUENCES: Final = (list, tuple)
_open_here: weakref.WeakSet[LogFile] = weakref.WeakSet()


@final
class LogFile:
    """A sink for `AuditLog` in a file of its own, mode 0600. One process writes it at a time.

    It is `AuditLog` that checks what the entries say; this checks frames alone. Close it, or use a with statement. In a
    child of a fork every call raises `ForkedChild`.

    Attributes:
        torn_bytes: How many bytes of a torn last frame were left out when it was opened; 0 for a clean end. In a file
            that was torn while it was new: all that was there.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync_every: int | None = 1) -> None:
        """Open a log file for appending, made if it is new.

        Warns with `UserWarning` of a file that others may read or write.

        Args:
            path: Where. A symbolic link is refused. Beside it an index is kept, as `path` with `.index`.
            fsync_every: Force to disk after so many appends. With 1 nothing that was acknowledged is lost to a power
                cut; with more up to so many appends may be; `None` leaves it to the operating system, and survives a
                crash of the process only.

        Raises:
            ArgumentInvalid: `path` is no path, or `fsync_every` is not a positive int or `None`.
            StoreLocked: it is open already, in this process or another.
            StoreFailed: the operating system refuses, or it is not a regular file.
            LogBroken: not a log file, or shorter than the index beside it knows.
        """
        self._descriptor = -1
        self._birthplace = Birthplace()
        if fsync_every is not None and (type(fsync_every) is not int or fsync_every < 1):
            raise ArgumentInvalid("fsync_every")
        self._path = files.path_argument("path", path)
        self._fsync_every = fsync_every
        self._unsynced = 0
        self._unnamed = 0  # appends since the name was checked
        self._broken = False
        descriptor = _open_locked(self._path, os.O_CREAT)
        try:
            files.warn_if_others_may("the audit log", os.fstat(descriptor), 2)
            self._recover(descriptor)
        except OSError as error:
            _close(descriptor)
            raise StoreFailed from error
        except BaseException:
            _close(descriptor)
            raise
        self._descriptor = descriptor
        _open_here.add(self)

    # --- opening -----------------------------------------------------------------------------------------------------

    def _recover(self, descriptor: int) -> None:
        """Find where the whole frames end, and how much stands behind them."""
        total = os.fstat(descriptor).st_size
        head = files.read_at(descriptor, _HEAD_BYTES, 0)
        begun = head[: len(MAGIC)].rstrip(b"\x00")
        is_new = begun != MAGIC and MAGIC.startswith(begun)
        if is_new and is_zero(b"", files.reader(descriptor, len(begun), total)):
            if LogIndex.read(self._index_path, 0).rows:
                raise LogBroken(0, "cut")
            self._begin(descriptor, total)
            return
        self._handover, start = read_head(head)
        handover = handed_over(self._handover)
        first = 0 if handover is None else handover.size
        self._index = index = LogIndex.read(self._index_path, first)
        count, end = _indexed(descriptor, index, total) if index.rows else (0, start)
        for entry in read_entries(files.reader(descriptor, end, total), first + count):
            begins, end = end, end + LENGTH_BYTES + len(entry)
            count += 1
            if not (first + count) % CHUNK:
                index.rows.append(Row(begins, end))
        if not count:
            files.force_folder(self._path)  # because the call that made the file may have failed at that
        self._start, self._count = start, first + count
        self._size = self._synced_size = end
        self.torn_bytes: int = total - end
        self._is_tail_dirty = end < total

    def _begin(self, descriptor: int, total: int) -> None:
        """Begin a file that is new, or was torn while it was new: by a power cut, zeros may stand in it."""
        if total:
            files.overwrite(self._path, descriptor, MAGIC, 0)
        else:
            files.append(descriptor, MAGIC)
        os.fsync(descriptor)
        files.force_folder(self._path)
        self._handover, self._index = b"", LogIndex(self._index_path, 0)
        self._start, self._count = len(MAGIC), 0
        self._size = self._synced_size = len(MAGIC)
        self.torn_bytes = total
        self._is_tail_dirty = total > 0

    @property
    def _index_path(self) -> str:
        return f"{self._path}.index"

    # --- writing -----------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[bytes], /) -> None:
        """Write these entries, all or none.

        Raises:
            ArgumentInvalid: an entry is not 1 to 1024 bytes.
            ForkedChild: this process is a fork of the one that opened the file.
            StoreMoved: the file was deleted, renamed or cut by somebody else; it takes no more.
            StoreFailed: the operating system refuses; the file is as it was, or takes no more until it is reopened.
        """
        self._birthplace.check()
        if type(entries) not in _SEQUENCES and not isinstance(entries, Sequence):
            raise ArgumentInvalid("entries")
        for entry in entries:
            if type(entry) is not bytes or not 0 < len(entry) <= ENTRY_MAX_BYTES:
                raise ArgumentInvalid("entries")
        if self._broken:
            raise StoreFailed
        data = b"".join(map(framed, entries))
        size = self._size + len(data)
        due = self._fsync_every is not None and self._unsynced + 1 >= self._fsync_every
        syncing = False
        try:
            if self._is_tail_dirty:
                self._cut_tail()
            if os.lseek(self._descriptor, 0, os.SEEK_END) != self._size:
                raise StoreMoved
            self._is_tail_dirty = True
            files.append(self._descriptor, data)
            if due:
                syncing = True
                os.fsync(self._descriptor)
            found = os.fstat(self._descriptor)
            self._unnamed += 1
            if found.st_size != size or not found.st_nlink:
                raise StoreMoved
            if syncing or self._unnamed >= _NAME_CHECKED_EVERY:
                self._check_name()
        except OSError as error:
            self._take_back(syncing)
            raise StoreFailed from error
        except StoreMoved:
            self._broken = True
            with contextlib.suppress(OSError):  # renamed, it is still whole: then without what is not acknowledged
                if os.fstat(self._descriptor).st_size == size:
                    os.ftruncate(self._descriptor, self._size)
            raise
        except BaseException:  # an interrupt: nobody may count on what was written
            self._take_back(syncing)
            raise
        count = self._count + len(entries)
        if self._count // CHUNK != count // CHUNK:
            self._index_ends(entries)
        # No call stands between these, so an interrupt finds all of them or none.
        self._size, self._count = size, count
        self._synced_size = size if syncing else self._synced_size
        self._unsynced = 0 if syncing else self._unsynced + 1
        self._is_tail_dirty = False

    def _index_ends(self, entries: Sequence[bytes]) -> None:
        count, end = self._count, self._size
        del self._index.rows[count // CHUNK - self._index.first // CHUNK :]  # of a call that was interrupted here
        for entry in entries:
            begins, end = end, end + LENGTH_BYTES + len(entry)
            count += 1
            if not count % CHUNK:
                self._index.rows.append(Row(begins, end))

    def _check_name(self) -> None:
        self._unnamed = 0
        if not files.is_at(self._path, self._descriptor):
            raise StoreMoved

    def _cut_tail(self) -> None:
        """Cut off what stands behind the whole frames; where nothing does, ask nothing of an append-only file."""
        if os.fstat(self._descriptor).st_size > self._size:
            os.ftruncate(self._descriptor, self._size)

    def _take_back(self, syncing: bool) -> None:
        """Make the file again what it was before this append, if one was begun, or take no more."""
        try:
            self._cut_tail()
            self._is_tail_dirty = False
            if syncing:
                # A sync that fails may drop what it was to write and forget it: what was not synced is written again.
                self._rewrite(self._synced_size, self._size)
            if self._fsync_every is not None:
                os.fsync(self._descriptor)
                self._unsynced, self._synced_size = 0, self._size
        except (OSError, StoreFailed, StoreMoved):
            self._broken = True

    def _rewrite(self, start: int, end: int) -> None:
        while start < end:
            piece = files.read_at(self._descriptor, min(files.READ_BYTES, end - start), start)
            if not piece:
                raise StoreMoved
            files.overwrite(self._path, self._descriptor, piece, start)
            start += len(piece)

    def mark(self, owner: str, milestones: Sequence[Milestone], /) -> None:
        """Keep the hashes of further chunks in the index; where that cannot be done, the next time does it.

        Raises:
            ArgumentInvalid: not milestones, or more of them than chunks.
        """
        self._birthplace.check()
        if type(owner) is not str:
            raise ArgumentInvalid("owner")
        if not isinstance(milestones, list | tuple) or not all(isinstance(one, Milestone) for one in milestones):
            raise ArgumentInvalid("milestones")
        if len(self._index.milestones) + len(milestones) > len(self._index.rows):
            raise ArgumentInvalid("milestones")
        self._index.add(owner, milestones)
        if self._broken or not milestones:
            return
        # The index may say nothing of the log that a power cut could still undo.
        if self._synced_size < self._index.rows[-1].end:
            try:
                os.fsync(self._descriptor)
            except OSError:
                if self._fsync_every is not None:  # else nothing was promised that could be lost
                    self._take_back(syncing=True)
                return
            self._unsynced, self._synced_size = 0, self._size
        self._index.write()

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def handover(self) -> bytes:
        """What the file begins with: the handover of the file before it, or nothing where it is a log's first."""
        self._birthplace.check()
        return self._handover

    @property
    def owner(self) -> str:
        """Whose log it is, as the index has it, or empty text."""
        self._birthplace.check()
        return self._index.owner

    @property
    def milestones(self) -> Sequence[Milestone]:
        """The hashes of the chunks that end in this file, as far as they are known without reading it."""
        self._birthplace.check()
        return self._index.milestones

    def entries(self) -> Iterator[bytes]:
        """Yield the entries, in order, up to the last that was there when the call was made.

        Raises:
            ForkedChild: this process is a fork of the one that opened the file.
            StoreFailed: the operating system refuses, or the file was closed.
            LogBroken: somebody else wrote to the file.
        """
        return self.entries_from(self._index.first)

    def entries_from(self, sequence: int, /) -> Iterator[bytes]:
        """Yield the entries from that number on; otherwise as `entries`.

        Raises:
            ArgumentInvalid: an entry of an earlier file, or no number.
        """
        self._birthplace.check()
        first = self._index.first
        if type(sequence) is not int or sequence < first:
            raise ArgumentInvalid("sequence")
        at, number = self._start, first
        # The last entry of a chunk is the first that can be found at once.
        chunk = (sequence + 1) // CHUNK - first // CHUNK - 1
        if self._index.rows and chunk >= 0:
            chunk = min(chunk, len(self._index.rows) - 1)
            at, number = self._index.rows[chunk].last, (first // CHUNK + chunk + 1) * CHUNK - 1
        entries = self._entries(at, self._size, number, sequence)
        next(entries)  # so that it has a descriptor of its own from here on
        return entries

    def _entries(self, at: int, size: int, number: int, wanted: int) -> Iterator[bytes]:
        own = -1
        try:
            own = os.dup(self._descriptor)  # because rotating or closing may end the other while this is read
            yield b""
            for entry in read_entries(files.reader(own, at, size), number):
                if number >= wanted:
                    yield entry
                number += 1
        except OSError as error:
            raise StoreFailed from error
        finally:
            if own >= 0:
                os.close(own)

    # --- ending ------------------------------------------------------------------------------------------------------

    def rotate(self, to: str | os.PathLike[str], handover: bytes, /) -> None:
        """End this file under another name, and begin the next in its place. Call `AuditLog.rotate`, which hands over.

        At every moment a whole log stands under the file's name: a crash leaves the old one, with its new name besides,
        or the new one.

        Raises:
            ArgumentInvalid: `to` is no path, or `handover` no handover.
            StoreMoved: the file was deleted, renamed or cut by somebody else.
            StoreFailed: something stands at `to` already, or the operating system refuses. The file is as it was, or
                takes no more until it is reopened.
        """
        self._birthplace.check()
        ended = files.path_argument("to", to)
        if type(handover) is not bytes or not 0 < len(handover) <= HANDOVER_MAX_BYTES:
            raise ArgumentInvalid("handover")
        if self._broken:
            raise StoreFailed
        beside, following = f"{self._path}.new", -1
        try:
            if self._is_tail_dirty:
                self._cut_tail()
                self._is_tail_dirty = False
            if os.fstat(self._descriptor).st_size != self._size:
                raise StoreMoved
            self._check_name()
            os.fsync(self._descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            following = _open_locked(beside, os.O_CREAT | os.O_EXCL)
            files.append(following, CONTINUED + framed(handover))
            os.fsync(following)
            self._index.forget()
            if not files.is_at(ended, self._descriptor):  # as a rotation leaves it that was broken off
                os.link(self._path, ended)
            files.force_folder(ended)
            os.replace(beside, self._path)
        except BaseException as error:
            if following >= 0:
                _close(following)
                with contextlib.suppress(OSError):
                    os.unlink(beside)
            if isinstance(error, OSError | ValueError):
                raise StoreFailed from error
            raise
        self._go_on(following)

    def _go_on(self, following: int) -> None:
        previous, self._descriptor = self._descriptor, following
        _close(previous)
        self._unsynced = 0
        try:
            self._recover(following)
        except OSError as error:
            self._broken = True
            raise StoreFailed from error

    def close(self) -> None:
        """Force what was written to disk, and let another process open the file. In a child of a fork: nothing.

        Raises:
            StoreFailed: the operating system refuses.
        """
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        self._broken = True
        if not self._birthplace.is_here:
            os.close(descriptor)  # the lock is the parent's
            return
        try:
            if self._unsynced:
                os.fsync(descriptor)
        except OSError as error:
            raise StoreFailed from error
        finally:
            _close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._descriptor < 0:
            return
        if self._birthplace.is_here:
            warnings.warn("a LogFile was dropped and not closed", ResourceWarning, stacklevel=2, source=self)
        with contextlib.suppress(StoreFailed, OSError):
            self.close()


def _open_locked(path: str, flags: int) -> int:
    descriptor = files.open_file(path, os.O_RDWR | os.O_APPEND | flags)
    error: OSError
    try:
        files.lock(descriptor)
        return descriptor
    except OSError as caught:
        error = caught
    held = isinstance(error, BlockingIOError)
    here = held and _is_open_here(descriptor)
    os.close(descriptor)
    if held:
        raise StoreLocked(here)
    raise StoreFailed from error


def _is_open_here(descriptor: int) -> bool:
    wanted = files.identity(descriptor)
    return any(one._descriptor >= 0 and files.identity(one._descriptor) == wanted for one in list(_open_here))


def _close(descriptor: int) -> None:
    """Close a file that this process locked: for every process that inherited it."""
    with contextlib.suppress(OSError):
        files.unlock(descriptor)
    os.close(descriptor)


def _indexed(descriptor: int, index: LogIndex, total: int) -> tuple[int, int]:
    """Return (how many entries, where they end) as the index has it, once its last row is found to fit the file.

    Raises:
        LogBroken: it does not: the file was cut (`cut`), or altered (`index`).
    """
    count = (index.first // CHUNK + len(index.rows)) * CHUNK - index.first
    row = index.rows[-1]
    if row.end > total:
        _, start = read_head(files.read_at(descriptor, _HEAD_BYTES, 0))
        there = sum(1 for _ in read_entries(files.reader(descriptor, start, total), index.first))
        raise LogBroken(index.first + there, "cut")
    length = files.read_at(descriptor, LENGTH_BYTES, row.last)
    if row.last + LENGTH_BYTES + int.from_bytes(length, "big") != row.end:
        raise LogBroken(index.first + count - 1, "index")
    return count, row.end


def _close_in_child() -> None:
    """Let go of what a fork copied: the lock is the parent's, and ends with the parent."""
    for one in list(_open_here):
        one.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
