"""The rows of one agent in a SQLite file (docs/protocol.md, section 7.2).

Rows are found by an index in memory, because one in the file would be written with every row.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypeVar, final

from agentmesh.errors import StoreBroken, StoreClosed, StoreFenced
from agentmesh.primitives.arguments import uint_argument
from agentmesh.store.rows import HEAD_NAME, LOG, NUMBER_BYTES, Name, log_number

_READ_ROWS: Final = 64  # at a time: each may be a megabyte
_FENCE_BYTES: Final = 6
_LAST_SQL: Final = "SELECT commit_number, fence FROM agents WHERE id = ?"
_COMMIT_SQL: Final = "UPDATE agents SET commit_number = ?, fence = ? WHERE id = ? AND commit_number = ? AND fence = ?"
_COMMIT_HEAD_SQL: Final = (
    "UPDATE agents SET commit_number = ?, fence = ?, head = ? WHERE id = ? AND commit_number = ? AND fence = ?"
)
_HEAD_SQL: Final = "SELECT head FROM agents WHERE id = ?"
_Result = TypeVar("_Result")


class File(Protocol):
    """What rows ask of the file that they stand in."""

    def run(self, call: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Return what a call returns that is given the connection, for itself alone."""
        ...

    def transact(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do something within a transaction, that is durable when this returns. Within `run` alone."""
        ...

    def forget(self, rows: SQLiteRows) -> None:
        """Let the rows be opened again."""
        ...


@final
class SQLiteRows:
    """The rows of one agent in a SQLite file. See `Rows`."""

    def __init__(self, file: File, number: int, fence: int) -> None:
        """Hold an agent's rows; `SQLiteBackend.open_rows` makes them."""
        self._file = file
        self._number = number
        self._table = f"agent_{number}"
        self._log_table = f"log_{number}"
        self._statements = (  # of `_Write.told`
            f"DELETE FROM agent_{number} WHERE id = ?",  # noqa: S608 - our own names
            f"UPDATE agent_{number} SET sealed = ? WHERE id = ?",  # noqa: S608
            f"INSERT INTO agent_{number} VALUES (?, ?, ?, ?)",  # noqa: S608
            f"DELETE FROM log_{number} WHERE id = ?",  # noqa: S608
            f"INSERT OR REPLACE INTO log_{number} VALUES (?, ?)",  # noqa: S608
        )
        self._fence = fence  # what stands with the last commit, as far as this writer knows
        self._own_fence = int.from_bytes(os.urandom(_FENCE_BYTES), "big") | 1
        self._places: dict[Name, int] | None = None
        self._next = 1
        self._unsettled: _Write | None = None
        self._is_closed = False

    def _run(self, call: Callable[[sqlite3.Connection], _Result]) -> _Result:
        return self._file.run(lambda connection: call(self._settled(connection)))

    def _settled(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Return the connection, once it is found out what became of a write that was broken off."""
        if self._is_closed:
            raise StoreClosed
        if self._unsettled is not None:
            if self._last(connection) == (self._unsettled.commit_number, self._own_fence):
                self._adopt(self._unsettled)
            self._unsettled = None
        return connection

    def _last(self, connection: sqlite3.Connection) -> tuple[int, int]:
        found = connection.execute(_LAST_SQL, (self._number,)).fetchone()
        if found is None:
            raise StoreBroken("file")
        commit_number, fence = found
        return commit_number, fence

    @property
    def commit_number(self) -> int:
        """The number of the last write, 0 before the first; asked of the file. See `Rows`."""
        commit_number, fence = self._run(self._last)
        if fence != self._fence:
            raise StoreFenced
        return commit_number

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, *, log: bool = False, first: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
        """Return (kind, key, sealed bytes) of all rows but those of the log, or of those alone, by number.

        They are read as they are taken; nothing may be written meanwhile. See `Rows`.
        """
        self._run(lambda _: None)  # whoever may not read is told so now, and not with the first row
        return self._read_log(first) if log else self._read()

    def _read(self) -> Iterator[tuple[str, bytes, bytes]]:
        found = self._run(lambda connection: connection.execute(_HEAD_SQL, (self._number,)).fetchone())
        if found is not None and found[0] is not None:
            yield *HEAD_NAME, _bytes(found[0])
        places: dict[Name, int] = {}
        last = 0
        for last, kind, key, sealed in self._pages(self._table, "id, kind, key, sealed"):
            if type(kind) is not str or type(key) is not bytes or type(sealed) is not bytes or (kind, key) in places:
                raise StoreBroken("rows")
            places[kind, key] = last
            yield kind, key, sealed
        if self._places is None:
            self._next = last + 1
            self._places = places

    def _read_log(self, first: int) -> Iterator[tuple[str, bytes, bytes]]:
        for number, sealed in self._pages(self._log_table, "id, sealed", first - 1):
            yield LOG, number.to_bytes(NUMBER_BYTES, "big"), _bytes(sealed)

    def _pages(self, table: str, columns: str, last: int = -1) -> Iterator[tuple[Any, ...]]:
        sql = f"SELECT {columns} FROM {table} WHERE id > ? ORDER BY id LIMIT {_READ_ROWS}"  # noqa: S608 - our own names
        while found := self._run(partial(_fetch, sql, last)):
            yield from found
            last = found[-1][0]

    def _index(self, connection: sqlite3.Connection) -> dict[Name, int]:
        """Return where each row stands."""
        places = self._places
        if places is None:
            places, last = {}, 0
            for place, kind, key in connection.execute(f"SELECT id, kind, key FROM {self._table}"):  # noqa: S608
                if type(kind) is not str or type(key) is not bytes or (kind, key) in places:
                    raise StoreBroken("rows")
                places[kind, key] = place
                last = max(last, place)
            self._next = last + 1
            self._places = places
        return places

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, commit_number: int, put: Mapping[Name, bytes], removed: Collection[Name]) -> None:
        """Remove rows and write others, in one transaction that is durable when this returns. See `Rows`."""
        self._run(lambda connection: self._write(connection, commit_number, put, removed))

    def _write(
        self, connection: sqlite3.Connection, commit_number: int, put: Mapping[Name, bytes], removed: Collection[Name]
    ) -> None:
        write = _Write(self._index(connection), self._next, commit_number, put, removed)
        self._unsettled = write
        self._file.transact(lambda writer: self._execute(writer, write))
        self._adopt(write)
        self._unsettled = None

    def _execute(self, connection: sqlite3.Connection, write: _Write) -> None:
        sql, head = (_COMMIT_HEAD_SQL, (write.head,)) if write.has_head else (_COMMIT_SQL, ())
        last = self._number, write.commit_number - 1, self._fence
        if connection.execute(sql, (write.commit_number, self._own_fence, *head, *last)).rowcount != 1:
            raise StoreFenced
        for sql, rows in zip(self._statements, write.told, strict=True):
            if rows:
                connection.executemany(sql, rows)

    def _adopt(self, write: _Write) -> None:
        """Let what was written count. It says what holds, so that doing it twice is doing it once."""
        places = {} if self._places is None else self._places
        for name, place in write.places.items():
            if place is None:
                places.pop(name, None)
            else:
                places[name] = place
        self._next = write.following
        self._fence = self._own_fence

    def close(self) -> None:
        """Let go of them: another may open them then."""
        if not self._is_closed:
            self._is_closed = True
            self._file.forget(self)


class _Write:
    """One write, taken apart.

    Attributes:
        commit_number: Its number.
        has_head: The head is to be put, or removed.
        head: The head, or `None`.
        told: What each statement is told: rows to delete, to update, to insert; rows of the log to delete, to put.
        places: What the index is to say afterwards; `None` is gone.
        following: The place of the row that is inserted next.
    """

    __slots__ = ("commit_number", "following", "has_head", "head", "places", "told")

    def __init__(
        self,
        index: Mapping[Name, int],
        following: int,
        commit_number: int,
        put: Mapping[Name, bytes],
        removed: Collection[Name],
    ) -> None:
        self.commit_number = uint_argument("commit_number", commit_number)
        self.has_head = HEAD_NAME in put or HEAD_NAME in removed
        self.head = put.get(HEAD_NAME)
        deleted: list[tuple[int]] = []
        updated: list[tuple[bytes, int]] = []
        inserted: list[tuple[int, str, bytes, bytes]] = []
        log_deleted: list[tuple[int]] = []
        log_put: list[tuple[int, bytes]] = []
        places: dict[Name, int | None] = {}
        for name in removed:
            if name[0] == LOG:
                log_deleted.append((log_number(name),))
            elif name in index and name not in put:
                deleted.append((index[name],))
                places[name] = None
        for name, sealed in put.items():
            kind, key = name
            if name in index:
                updated.append((sealed, index[name]))
            elif kind == LOG:
                log_put.append((log_number(name), sealed))
            elif name != HEAD_NAME:
                places[name] = following
                inserted.append((following, kind, key, sealed))
                following += 1
        self.told: tuple[list[Any], ...] = deleted, updated, inserted, log_deleted, log_put
        self.places = places
        self.following = following


def _fetch(sql: str, last: int, connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(sql, (last,)).fetchall()


def _bytes(value: object) -> bytes:
    if type(value) is not bytes:
        raise StoreBroken("rows")
    return value
