"""The file of a SQLite store: how it is made, opened, checked, and copied (docs/protocol.md, section 7.2).

It comes into being whole, under another name, and is then given its own: so a file that is cut, or empty, is never
taken for a new one. Whoever opens it reads it first through a connection that cannot write, because one that can
changes the file even as it is closed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from agentmesh.errors import (
    StateVersionUnknown,
    StoreBroken,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreMoved,
)
from agentmesh.limits import UINT_MAX
from agentmesh.primitives import _crypto, _wire
from agentmesh.store import files
from agentmesh.store.rows import NAME_MAX_BYTES

FORMAT: Final = 1
APPLICATION_ID: Final = 0x616D7331  # "ams1"
# A commit writes whole pages to the log: small ones, so that it writes little beside what changed.
PAGE_BYTES: Final = 512
_STORE_SQL: Final = "CREATE TABLE store (id INTEGER PRIMARY KEY, directory BLOB)"
_AGENTS_SQL: Final = (
    "CREATE TABLE agents (id INTEGER PRIMARY KEY, name TEXT, commit_number INTEGER, fence INTEGER, head BLOB)"
)
_BROKEN: Final = frozenset((
    sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_CONSTRAINT,
))  # fmt: skip
_UNOPENED: Final = frozenset((sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY))
_BUSY: Final = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))


# --- errors ----------------------------------------------------------------------------------------------------------


def ours(error: sqlite3.Error) -> StoreError:
    """Return the error of ours that stands for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # the module's own: text in the file that is no text, or a connection that is closed
        return StoreBroken("file") if isinstance(error, sqlite3.OperationalError) else StoreFailed()
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return StoreMoved()
    primary = code & 0xFF
    if primary in _BROKEN:
        return StoreBroken("file")
    return StoreLocked() if primary in _BUSY else StoreFailed()


# --- opening ---------------------------------------------------------------------------------------------------------


def connect(path: str, mode: str, busy_ms: int) -> sqlite3.Connection:
    """Return a connection that makes no file, and begins no transaction that it was not told to."""
    connection = sqlite3.connect(
        f"{Path(path).as_uri()}?mode={mode}",
        uri=True,
        timeout=busy_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        connection.execute("PRAGMA schema_version").fetchone()  # because the file is only opened by reading it
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: str, busy_ms: int, *, is_alone: bool) -> sqlite3.Connection:
    """Return a connection that writes nothing; where nobody else can write, it leaves no file beside it either."""
    is_whole = not has_write_ahead(path)
    if is_alone and is_whole:
        return connect(path, "ro&immutable=1", busy_ms)
    try:
        return connect(path, "ro", busy_ms)
    except sqlite3.OperationalError as error:
        if not is_whole or error.sqlite_errorcode & 0xFF not in _UNOPENED:
            raise
    return connect(path, "ro&immutable=1", busy_ms)  # a folder that takes no new file


def connect_to_write(path: str, busy_ms: int, synchronous: str) -> sqlite3.Connection:
    """Return a connection that writes ahead to a log, and leaves nothing of what it removes in the file."""
    connection = connect(path, "rw", busy_ms)
    try:
        if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise StoreFailed
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute(f"PRAGMA wal_autocheckpoint={(1 << 20) // PAGE_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def roll_back(connection: sqlite3.Connection) -> None:
    """Take back a transaction that an error or a signal broke off, if there is one."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def has_write_ahead(path: str) -> bool:
    """Say whether commits stand in the log beside the file: after a crash, or while somebody writes."""
    try:
        return os.stat(write_ahead(path), follow_symlinks=False).st_size > 0
    except FileNotFoundError:
        return False


def write_ahead(path: str) -> str:
    """Return where SQLite writes ahead."""
    return f"{path}-wal"


# --- making ----------------------------------------------------------------------------------------------------------


def make(path: str) -> None:
    """Make a store's file that has no agents.

    Raises:
        StoreFailed: the operating system refuses.
        StoreBroken: there is none, but a log of its commits.
    """
    if has_write_ahead(path):
        raise StoreBroken("file")
    with files.made_whole(path) as beside, contextlib.closing(connect(beside, "rw", 0)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("BEGIN")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute(_STORE_SQL)
        connection.execute(_AGENTS_SQL)
        connection.execute("INSERT INTO store VALUES (1, ?)", (directory([]),))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL")


def add_agent(connection: sqlite3.Connection, name: str) -> None:
    """Make the tables of another agent, within a transaction of the caller's."""
    number = connection.execute("INSERT INTO agents VALUES (NULL, ?, 0, 0, NULL)", (name,)).lastrowid
    for sql in _tables(number or 0).values():
        connection.execute(sql)
    agents = connection.execute("SELECT id, name FROM agents ORDER BY id").fetchall()
    connection.execute("UPDATE store SET directory = ? WHERE id = 1", (directory(agents),))


def copy(source: sqlite3.Connection, to: str) -> None:
    """Copy a store as it is at this moment to a new file, while somebody else writes it.

    Raises:
        StoreFailed: something stands there, or the operating system refuses.
        StoreBroken: it cannot be read whole.
    """
    with files.made_whole(to) as beside, contextlib.closing(connect(beside, "rw", 0)) as copied:
        source.backup(copied)
        verify(copied)


def space(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return (the bytes of the file's pages, those of pages that are free)."""
    pages, free, page_bytes = (
        _only(connection, f"PRAGMA {what}") for what in ("page_count", "freelist_count", "page_size")
    )
    return pages * page_bytes, free * page_bytes


def vacuum(connection: sqlite3.Connection) -> None:
    """Write the file anew without its free pages, and empty the log ahead of it."""
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _tables(number: int) -> dict[str, str]:
    return {
        f"agent_{number}": f"CREATE TABLE agent_{number} (id INTEGER PRIMARY KEY, kind TEXT, key BLOB, sealed BLOB)",
        f"log_{number}": f"CREATE TABLE log_{number} (id INTEGER PRIMARY KEY, sealed BLOB)",
    }


def directory(agents: list[tuple[int, str]]) -> bytes:
    """Return what the file says twice: which agents it has. Damage must not make one look as if it never was."""
    return _crypto.sha256(_wire.encode([list(agent) for agent in agents]))


# --- checking --------------------------------------------------------------------------------------------------------


def verify(connection: sqlite3.Connection) -> None:
    """Check all that does not need a key: the file is one of ours, sound, and has the tables of just its agents.

    Raises:
        StoreBroken: it is not (`file`).
        StateVersionUnknown: its format is one that this release does not read.
    """
    if _only(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StoreBroken("file")
    if _only(connection, "PRAGMA user_version") != FORMAT:
        raise StateVersionUnknown
    if _only(connection, "PRAGMA quick_check(1)") != "ok":
        raise StoreBroken("file")
    found = connection.execute("SELECT name, sql FROM sqlite_master LIMIT ?", (_most(connection),)).fetchall()
    tables = dict(found)
    if len(tables) != len(found) or (tables.pop("store", 0), tables.pop("agents", 0)) != (_STORE_SQL, _AGENTS_SQL):
        raise StoreBroken("file")
    agents = connection.execute("SELECT id, name, commit_number, fence FROM agents ORDER BY id").fetchall()
    names = [(number, name) for number, name, _, _ in agents]
    wanted: dict[str, str] = {}
    for number, name, commit_number, fence in agents:
        is_text = type(name) is str and 0 < len(name) <= NAME_MAX_BYTES
        if not is_text or not all(type(one) is int and 0 <= one <= UINT_MAX for one in (number, commit_number, fence)):
            raise StoreBroken("file")
        wanted |= _tables(number)
    stores = connection.execute("SELECT id, directory FROM store").fetchall()
    if tables != wanted or len({name for _, name in names}) != len(names) or stores != [(1, directory(names))]:
        raise StoreBroken("file")


def _most(connection: sqlite3.Connection) -> int:
    """Return how many tables a sound file of that size can have: each has a page at least."""
    return int(_only(connection, "PRAGMA page_count"))


def _only(connection: sqlite3.Connection, sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    return None if row is None else row[0]
