"""A store in a file of SQLite: the rows of any number of agents, written by one process at a time (section 7.2).

Theory of operation. Nothing is written before the first write: until then the file is read through a connection that
cannot alter it, so that a file that turns out to be damaged stays as it was found. Each write is one transaction, that
is forced to disk before it counts. It names the number of the last one and the *fence*, a random number that each
writer leaves with its commits: so a writer whose lock was taken away finds that another has written, and, after an
error in the midst of a commit, whether its own was.

What is written to a file that nobody will find is not acknowledged: before and after each transaction the file, and the
log that is written ahead, must be those that they were, under their names, and no shorter.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Final, Self, TypeVar, final

from agentmesh.errors import (
    ArgumentInvalid,
    ReentrantCall,
    StoreBroken,
    StoreClosed,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreMoved,
)
from agentmesh.primitives.arguments import text_argument, uint_argument
from agentmesh.primitives.forked import Birthplace
from agentmesh.store import files, sqlite_file
from agentmesh.store.lock_file import LockFile
from agentmesh.store.rows import NAME_MAX_BYTES
from agentmesh.store.sqlite_rows import SQLiteRows

_BUSY_MAX_MS: Final = 600_000
_NAMES_SQL: Final = "SELECT name FROM agents"
_AGENT_SQL: Final = "SELECT id, fence FROM agents WHERE name = ?"
_Result = TypeVar("_Result")


@final
class SQLiteBackend:
    """A SQLite file of agents' rows, mode 0600. Beside it stand a lock, as `path` with `.lock`, and SQLite's own files.

    Threads may share it. In a child of a fork every call raises `ForkedChild`. Close it, or use a with statement.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: str = "FULL",
        busy_ms: int = 5000,
        read_only: bool = False,
    ) -> None:
        """Open a store, made if it is new. Nothing in a file that is there is altered before the first write.

        Warns with `UserWarning` of a file that others may read or write.

        Args:
            path: Where. A symbolic link is refused.
            synchronous: "FULL": no commit is lost to a power cut. "NORMAL": the last ones may be, never half of one.
            busy_ms: How long to wait for a program that locks the file otherwise.
            read_only: Look at it as it is at this moment, whoever writes it; make no file, take no lock, alter nothing.

        Raises:
            ArgumentInvalid: no path, or another value than these.
            StoreLocked: it is open for writing already, in this process or another.
            StoreFailed: the operating system refuses, or it is not a regular file.
            StoreBroken: not a store, or damaged (`file`).
            StateVersionUnknown: its format is one that this release does not read.
        """
        self._connection: sqlite3.Connection | None = None
        self._lock_file: LockFile | None = None
        self._birthplace = Birthplace()
        self._path = files.path_argument("path", path)
        if not self._path:
            raise ArgumentInvalid("path", "empty")
        if synchronous not in ("FULL", "NORMAL"):
            raise ArgumentInvalid("synchronous", "neither FULL nor NORMAL")
        self._write_ahead = sqlite_file.write_ahead(self._path)
        self._synchronous = synchronous
        self._busy_ms = uint_argument("busy_ms", busy_ms, _BUSY_MAX_MS)
        self._is_read_only = bool(read_only)
        self._lock = threading.RLock()
        self._running = threading.Lock()  # taken by who has the other: so a call within a call is known
        self._rows: weakref.WeakValueDictionary[str, SQLiteRows] = weakref.WeakValueDictionary()
        self._is_writing = self._is_closed = self._is_moved = False
        self._log: tuple[int, int, int] | None = None  # the log that is written ahead: device, number, size
        failure: Exception
        answer: StoreError
        try:
            self._open()
            return
        except sqlite3.Error as error:
            failure, answer = error, sqlite_file.ours(error)
        except (OSError, ValueError) as error:
            failure, answer = error, StoreFailed()
        except BaseException:
            self._let_go()
            raise
        self._let_go()
        raise answer from failure

    def _open(self) -> None:
        if not self._is_read_only:
            self._lock_file = LockFile(f"{self._path}.lock")
            if not os.path.lexists(self._path):
                sqlite_file.make(self._path)
        found = os.stat(self._path, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.EINVAL, "not a regular file")
        if found.st_size < sqlite_file.PAGE_BYTES:
            raise StoreBroken("file")  # before SQLite takes it for a new one, and removes the log that stands beside it
        files.warn_if_others_may("the store", found, 3)
        self._file = found.st_dev, found.st_ino
        self._least_bytes = found.st_size
        is_alone = not self._is_read_only
        self._connection = connection = sqlite_file.connect_to_read(self._path, self._busy_ms, is_alone=is_alone)
        if self._is_read_only:
            connection.execute("BEGIN")  # so that all that is read is of one moment
        sqlite_file.verify(connection)
        self._check_place()

    # --- what `Backend` asks -----------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Return the names of the agents that are there, sorted."""
        return self.run(lambda connection: tuple(sorted(name for (name,) in connection.execute(_NAMES_SQL))))

    def open_rows(self, name: str, *, create: bool) -> SQLiteRows | None:
        """Open the rows of an agent; where there are none, make them (or return `None`). See `Backend`."""
        name = text_argument("name", name, 1, NAME_MAX_BYTES)
        return self.run(lambda connection: self._open_rows(connection, name, create))

    def _open_rows(self, connection: sqlite3.Connection, name: str, create: bool) -> SQLiteRows | None:
        if not self._is_read_only and name in self._rows:
            raise StoreLocked(by_this_process=True)
        found = connection.execute(_AGENT_SQL, (name,)).fetchone()
        if found is None:
            if not create:
                return None
            self.transact(lambda writer: sqlite_file.add_agent(writer, name))
            found = self._usable().execute(_AGENT_SQL, (name,)).fetchone()
        rows = SQLiteRows(self, *found)
        if not self._is_read_only:
            self._rows[name] = rows
        return rows

    def backup(self, to: str | os.PathLike[str]) -> None:
        """Copy the store, as it is at one moment, to a new file, mode 0600. Somebody else may be writing it.

        Raises:
            ArgumentInvalid: no path.
            StoreFailed: something stands there already, or the operating system refuses; nothing is left there.
            StoreBroken: it cannot be read whole.
        """
        target = files.path_argument("to", to)
        self.run(lambda connection: sqlite_file.copy(connection, target))

    def space(self) -> tuple[int, int]:
        """Return (the bytes of the file's pages, those of pages that are free: `vacuum` gives them back).

        Raises:
            StoreFailed, StoreClosed, StoreMoved: as any call.
        """
        return self.run(sqlite_file.space)

    def vacuum(self) -> None:
        """Give free pages back to the file system. Meanwhile it takes as much room again.

        Raises:
            StoreFailed: the operating system refuses; no row has changed.
        """
        self.run(lambda _: self._vacuum())

    def _vacuum(self) -> None:
        writer = self._writer()
        self._check_place()
        self._least_bytes, self._log = 0, None  # because both files get shorter now
        sqlite_file.vacuum(writer)
        self._check_place()

    def close(self) -> None:
        """Close every agent's rows, and the file; the log that was written ahead goes into it. In a fork: nothing."""
        if not self._birthplace.is_here:
            return
        with self._lock:
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._connection is not None and self._birthplace.is_here:
            warnings.warn("a store was dropped and not closed", ResourceWarning, stacklevel=2, source=self)
            self._let_go()

    # --- what the rows ask -------------------------------------------------------------------------------------------

    def run(self, call: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Return what a call returns that is given the connection, for itself alone.

        Raises:
            ForkedChild: this process is a fork of the one that opened the store.
            ReentrantCall: a signal's handler called in the midst of another call.
            StoreClosed, StoreMoved: the store takes no calls any more.
            StoreFailed, StoreBroken, StoreLocked: what SQLite or the operating system said.
        """
        self._birthplace.check()
        failure: Exception
        answer: StoreError
        with self._lock:
            if self._running.locked():
                raise ReentrantCall
            with self._running:
                try:
                    return call(self._usable())
                except sqlite3.Error as error:
                    failure, answer = error, sqlite_file.ours(error)
                except OSError as error:
                    failure, answer = error, StoreFailed()
        raise answer from failure

    def transact(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do something within a transaction, that is durable when this returns. Within `run` alone.

        An error in the midst of the commit itself leaves it open whether it was done. (No context manager: one that a
        signal broke off would roll back whatever runs when it is collected.)
        """
        connection = self._writer()
        self._check_place()
        try:
            connection.execute("BEGIN IMMEDIATE")
            work(connection)
            connection.execute("COMMIT")
        except BaseException:
            sqlite_file.roll_back(connection)
            raise
        self._check_place()

    def forget(self, rows: SQLiteRows) -> None:
        """Let an agent's rows be opened again."""
        self._birthplace.check()
        with self._lock:
            for name in [name for name, one in self._rows.items() if one is rows]:
                del self._rows[name]

    # --- the connection ----------------------------------------------------------------------------------------------

    def _usable(self) -> sqlite3.Connection:
        """Return the connection; a transaction that a signal broke off is taken back first."""
        if self._is_closed or self._connection is None:
            raise StoreClosed
        if self._is_moved:
            raise StoreMoved
        if self._is_writing:
            sqlite_file.roll_back(self._connection)
        return self._connection

    def _writer(self) -> sqlite3.Connection:
        """Return a connection that can write, in the place of the one that cannot."""
        if self._is_read_only:
            raise StoreFailed from OSError(errno.EROFS, os.strerror(errno.EROFS))
        connection = self._connection
        if self._is_writing and connection is not None:
            return connection
        following = sqlite_file.connect_to_write(self._path, self._busy_ms, self._synchronous)
        self._connection, self._is_writing = following, True
        if connection is not None:
            connection.close()
        return following

    def _check_place(self) -> None:
        """Find out whether the file, and the log ahead of it, are still those that were opened.

        Raises:
            StoreMoved: they are not. Nothing is read or written any more.
        """
        try:
            found = os.stat(self._path, follow_symlinks=False)
            is_there = (found.st_dev, found.st_ino) == self._file and found.st_size >= self._least_bytes
            if self._is_writing and is_there:
                is_there = self._is_log_there()
        except FileNotFoundError:
            is_there = False
        if not is_there:
            self._is_moved = True
            raise StoreMoved
        self._least_bytes = found.st_size

    def _is_log_there(self) -> bool:
        known = self._log
        try:
            found = os.stat(self._write_ahead, follow_symlinks=False)
        except FileNotFoundError:
            return known is None  # until the first commit there need be none
        if known is not None and (known[:2] != (found.st_dev, found.st_ino) or found.st_size < known[2]):
            return False
        self._log = found.st_dev, found.st_ino, found.st_size
        return True

    def _let_go(self) -> None:
        self._is_closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._lock_file is not None:
            self._lock_file.close()
