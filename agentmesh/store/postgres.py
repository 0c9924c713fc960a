"""Rows in PostgreSQL: many agents of many machines in one database (docs/protocol.md, section 7.2).

Two things keep an agent's writers apart. A lock, which the server holds for a connection, refuses a second writer while
the first lives. A fence, a number that is raised with every opening and every new connection, stands in each write:
whoever was cut off, paused or declared dead cannot write any more once another has opened the agent.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from threading import Lock
from typing import Any, Final, final
from weakref import WeakValueDictionary

from agentmesh.errors import ArgumentInvalid, StoreBroken, StoreClosed, StoreError, StoreFenced, StoreLocked
from agentmesh.primitives.arguments import frameless, text_argument, uint_argument
from agentmesh.primitives.forked import Birthplace
from agentmesh.store.postgres_link import Link
from agentmesh.store.rows import LOG, NAME_MAX_BYTES, NUMBER_BYTES, Name, log_number

HOLDER_MAX: Final = 120
TIMEOUT_SECONDS_MAX: Final = 24 * 3600
PAGE: Final = 500  # rows that are read at once

_NAMES: Final = "SELECT name FROM agents"
# The number by which an agent is locked: 64 bits of its name, because those are all that an advisory lock has.
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_WAIT_FOR_LOCK: Final = "SELECT pg_advisory_lock(hashtextextended(%s, 0))::text"
_UNLOCK: Final = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
_HOLDER: Final = "SELECT holder FROM agents WHERE name = %s"

_MAKE: Final = """
    INSERT INTO agents (name, holder) VALUES (%s, %s)
    ON CONFLICT (name) DO UPDATE
    SET fence = agents.fence + 1, owner = gen_random_uuid(), holder = excluded.holder, opened_at = now()
    RETURNING id, owner, fence"""
_OPEN: Final = """
    UPDATE agents SET fence = fence + 1, owner = gen_random_uuid(), holder = %s, opened_at = now()
    WHERE name = %s RETURNING id, owner, fence"""
# On a new connection. What the last one was still to write carries the old fence: it has been written when this has the
# row, or never will be.
_COME_BACK: Final = "UPDATE agents SET fence = fence + 1 WHERE id = %s AND owner = %s RETURNING fence"
_COMMIT_NUMBER: Final = "SELECT commit_number FROM agents WHERE id = %s AND owner = %s AND fence = %s"

# One statement, so that it is one exchange with the server, and whole or nothing without a word from here.
_WRITE: Final = """
    WITH mine AS (
        UPDATE agents SET commit_number = %s
        WHERE id = %s AND owner = %s AND fence = %s AND commit_number = %s RETURNING id
    ), gone AS (
        DELETE FROM rows USING mine, unnest(%s::text[], %s::bytea[]) AS old (kind, key)
        WHERE rows.agent = mine.id AND rows.kind = old.kind AND rows.key = old.key
    ), kept AS (
        INSERT INTO rows (agent, kind, key, sealed)
        SELECT mine.id, new.kind, new.key, new.sealed
        FROM mine, unnest(%s::text[], %s::bytea[], %s::bytea[]) AS new (kind, key, sealed)
        ON CONFLICT (agent, kind, key) DO UPDATE SET sealed = excluded.sealed
    )
    SELECT id FROM mine"""
# The agent's own row comes along, alone where there are no others: so one look tells whether it is still this writer's.
_PAGE: Final = """
    SELECT found.kind, found.key, found.sealed
    FROM agents LEFT JOIN LATERAL (
        SELECT kind, key, sealed FROM rows
        WHERE agent = agents.id AND (kind, key) >= (%s, %s) AND (kind, key) < (%s, ''::bytea)
        ORDER BY kind, key LIMIT %s
    ) AS found ON true
    WHERE agents.id = %s AND agents.owner = %s AND agents.fence = %s
    ORDER BY found.kind, found.key"""
# From a kind to the one before which it ends. Kinds are ASCII; the log, which may be far longer, is stepped over.
_LOG: Final = ((LOG, f"{LOG}\x01"),)
_ALL_BUT_LOG: Final = (("", LOG), (f"{LOG}\x01", "\x7f"))


@final
class PostgresRows:
    """The rows of one agent, opened by a `PostgresBackend`."""

    def __init__(self, backend: PostgresBackend, name: str, number: int, opened: tuple[Any, ...]) -> None:
        self._backend = backend
        self._name = name
        self._number = number  # of the connection that holds the lock
        self._id, self._owner, self._fence = opened
        self._closed = False

    @property
    @frameless
    def commit_number(self) -> int:
        """The number of the last write, 0 before the first. It is final: no write is under way that could change it.

        Raises:
            StoreFailed: the server did not answer.
            StoreFenced: another writer has opened these rows since.
            StoreClosed: they are closed.
            ForkedChild: this process is a fork of the one that opened them.
        """
        self._check()
        with self._backend.turn:
            found = self._link().ask(_COMMIT_NUMBER, self._id, self._owner, self._fence)
        if not found:
            raise StoreFenced
        return int(found[0][0])

    @frameless
    def write(self, commit_number: int, put: Mapping[Name, bytes], removed: Collection[Name]) -> None:
        """Write rows and remove others, in one transaction, as `Rows` says.

        Raises:
            ArgumentInvalid: a row of the log has no number for a key.
            StoreFailed: the server refused, or did not answer: then `commit_number` tells whether it wrote.
            StoreFenced: another writer has opened these rows since, or has written; nothing was written.
            StoreClosed: they are closed.
            ForkedChild: this process is a fork of the one that opened them.
        """
        self._check()
        for name in (*put, *removed):
            if name[0] == LOG:
                log_number(name)
        old = [name for name in removed if name not in put]
        with self._backend.turn:
            written = self._link().ask(
                _WRITE,
                *(commit_number, self._id, self._owner, self._fence, commit_number - 1),
                *([kind for kind, _ in old], [key for _, key in old]),
                *([kind for kind, _ in put], [key for _, key in put], list(put.values())),
            )
        if not written:
            raise StoreFenced

    @frameless
    def read(self, *, log: bool = False, first: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
        """Return the rows but those of the log, or those alone, by key; some hundreds at a time are in memory.

        Raises:
            StoreFailed: the server did not answer.
            StoreBroken: what is there are no rows.
            StoreFenced: another writer has opened these rows since.
            StoreClosed: they are closed.
            ForkedChild: this process is a fork of the one that opened them.
        """
        self._check()
        return self._pages(_LOG, first.to_bytes(NUMBER_BYTES, "big")) if log else self._pages(_ALL_BUT_LOG, b"")

    def _pages(self, ranges: tuple[tuple[str, str], ...], key: bytes) -> Iterator[tuple[str, bytes, bytes]]:
        for kind, end in ranges:
            while page := self._page(kind, key, end):
                yield from page
                kind, key = page[-1][0], page[-1][1] + b"\x00"  # the next that there can be
            key = b""

    @frameless
    def _page(self, kind: str, key: bytes, end: str) -> list[tuple[str, bytes, bytes]]:
        self._check()
        with self._backend.turn:
            page = self._link().ask(_PAGE, kind, key, end, PAGE, self._id, self._owner, self._fence)
        if not page:
            raise StoreFenced
        if page[0][0] is None:  # the agent's own row, because there are no others
            return []
        rows = [(kind, key, sealed) for kind, key, sealed in page]
        if not all(type(kind) is str and type(key) is type(sealed) is bytes for kind, key, sealed in rows):
            raise StoreBroken("rows")
        return rows

    @frameless
    def close(self) -> None:
        """Let go of them: another may open them then. In a child of a fork: nothing."""
        if not self._closed and self._backend.is_open_here:
            with self._backend.turn:
                self._backend.let_go(self._name, self)
        self._closed = True

    # --- whose they are ----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        self._backend.check()
        if self._closed:
            raise StoreClosed

    def _link(self) -> Link:
        """Begin a call, and take these rows again where the connection that had locked them is gone."""
        link = self._backend.link
        link.begin()
        if self._number != link.number:
            # By whom they were opened last, and not by the fence: an answer to this may have been lost as well.
            found = link.ask(_COME_BACK, self._id, self._owner)
            if not found:
                raise StoreFenced
            self._fence = found[0][0]
            # It waits, because the server may not have noticed yet that the last connection is gone.
            self._backend.lock(self._name, wait=True)
            self._number = link.number
        return link


@final
class PostgresBackend:
    """Agents' rows in a schema of a PostgreSQL database (14 or newer), over one connection that comes back when lost.

    All that is done with one backend is done one after another, whatever threads do it: who wants more at once makes
    more backends. It needs a connection of its own to the server for as long as it lives: a pooler in between must not
    give it away between two transactions.
    """

    @frameless
    def __init__(
        self,
        conninfo: str,
        *,
        schema: str = "agentmesh",
        connect_timeout_seconds: int = 10,
        call_timeout_seconds: int = 30,
    ) -> None:
        """Connect, and make the tables where there are none.

        Args:
            conninfo: Where the server is, as libpq takes it: `host=db.example dbname=fleet user=mesh` or a URI. It may
                hold a password, which is shown nowhere.
            schema: The schema of the tables: up to 63 of a-z, 0-9 and the underscore.
            connect_timeout_seconds: How long to try each address of the server, from 2 up.
            call_timeout_seconds: How long the server may take for a call, from 1 up; it waits for a lock, which
                is only ever the agent's own, at most 5 s of it.

        Raises:
            ArgumentInvalid: an argument is not what it must be.
            ExtraMissing: psycopg is not installed.
            StoreFailed: the server cannot be reached, or refuses; its cause says why.
            StoreBroken: what is there is not a store.
            StateVersionUnknown: it is one of a newer release.
        """
        self._birthplace = Birthplace()
        self._closed = False
        text = text_argument("conninfo", conninfo, 0, 1 << 16)
        del conninfo
        self._schema = text_argument("schema", schema, 1, 63)
        if re.fullmatch("[a-z_][a-z0-9_]*", self._schema) is None:
            raise ArgumentInvalid("schema", "not a-z, 0-9 and _")
        self.link: Link = Link(
            text,
            self._schema,
            uint_argument("connect_timeout_seconds", connect_timeout_seconds, TIMEOUT_SECONDS_MAX, 2),
            uint_argument("call_timeout_seconds", call_timeout_seconds, TIMEOUT_SECONDS_MAX, 1),
        )
        self.turn: Lock = Lock()
        self._open: WeakValueDictionary[str, PostgresRows] = WeakValueDictionary()
        self.link.begin()

    @frameless
    def names(self) -> tuple[str, ...]:
        """Return the names of the agents that are there, sorted.

        Raises:
            StoreFailed: the server did not answer.
            StoreBroken: what is there is not a store.
            StoreClosed: the backend is closed.
            ForkedChild: this process is a fork of the one that made it.
        """
        self.check()
        with self.turn:
            self.link.begin()
            found = self.link.ask(_NAMES)
        return tuple(sorted(name for (name,) in found))

    @frameless
    def open_rows(self, name: str, *, create: bool) -> PostgresRows | None:
        """Open the rows of an agent for writing; where there are none, make them (or return `None`).

        Args:
            name: The agent's name, 1 to 128 bytes of UTF-8 without a NUL.
            create: Whether to make them.

        Raises:
            ArgumentInvalid: the name is none.
            StoreLocked: they are open already; `holder` is what the other has left behind, and may be wrong.
            StoreFailed: the server did not answer.
            StoreBroken: what is there is not a store.
            StoreClosed: the backend is closed.
            ForkedChild: this process is a fork of the one that made it.
        """
        name = text_argument("name", name, 1, NAME_MAX_BYTES)
        if "\x00" in name:
            raise ArgumentInvalid("name", "with a NUL")
        self.check()
        with self.turn:
            self.link.begin()
            me = _holder(f"process {os.getpid()} on {socket.gethostname()}, {self.link.application()}")
            if name in self._open:
                raise StoreLocked(by_this_process=True, holder=me)
            try:
                if not self.lock(name, wait=False):
                    found = self.link.ask(_HOLDER, name)
                    holder = _holder(found[0][0]) if found else ""
                    raise StoreLocked(by_this_process=holder == me, holder=holder)
                opened = self.link.ask(_MAKE, name, me) if create else self.link.ask(_OPEN, me, name)
                if not opened:
                    self._unlock(name)
                    return None
                self._open[name] = rows = PostgresRows(self, name, self.link.number, opened[0])
            except StoreLocked:
                raise
            except BaseException:
                self.link.drop()  # nobody knows whether it has the lock
                raise
            return rows

    @frameless
    def close(self) -> None:
        """Close every agent's rows, and the connection. In a child of a fork: nothing."""
        if self.is_open_here:
            with self.turn:
                self.link.drop()
        self._closed = True

    # --- for the rows, which have the turn ----------------------------------------------------------------------------

    @property
    def is_open_here(self) -> bool:
        """Whether there is a connection that is this process's."""
        return not self._closed and self._birthplace.is_here

    def check(self) -> None:
        """Refuse a child of a fork, and a backend that is closed."""
        self._birthplace.check()
        if self._closed:
            raise StoreClosed

    def lock(self, name: str, *, wait: bool) -> bool:
        """Lock an agent, and say whether that was possible. What was locked by this connection is so still."""
        if name not in self.link.locked:
            try:
                [(locked,)] = self.link.ask(_WAIT_FOR_LOCK if wait else _TRY_LOCK, self._locked_as(name))
                if not wait and not locked:
                    return False
                self.link.locked.add(name)
            except BaseException:
                self.link.drop()
                raise
        return True

    def let_go(self, name: str, rows: PostgresRows) -> None:
        """Unlock an agent whose rows are closed."""
        if self._open.get(name) is not rows:
            return
        try:
            self.link.begin()
            self._unlock(name)
        except StoreError:  # with the connection the lock goes
            self.link.drop()
        except BaseException:
            self.link.drop()
            raise
        del self._open[name]

    def _unlock(self, name: str) -> None:
        if name in self.link.locked:
            self.link.ask(_UNLOCK, self._locked_as(name))
            self.link.locked.discard(name)

    def _locked_as(self, name: str) -> str:
        return f"agentmesh {self._schema} {name}"


def _holder(text: object) -> str:
    """Return what a holder says of itself, as far as it can be shown: anybody who may write the table can write it."""
    shown = str(text)[:HOLDER_MAX]
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in shown)
