"""One connection to a PostgreSQL server: made when it is needed, made again when it is lost, asked in bounded time."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator
from time import monotonic
from typing import Any, Final, final

from agentmesh.errors import ArgumentInvalid, ExtraMissing, StateVersionUnknown, StoreBroken, StoreError, StoreFailed
from agentmesh.primitives.keys import Redacted

FORMAT: Final = 1
LOCK_WAIT_MS_MAX: Final = 5000  # whoever holds an agent's row for longer has stopped
GRACE: Final = 1.25  # the server is to end a statement before this side gives up, because its answer says more

# What is not there, or is not of the kind that this module made: tables, columns, types, pages.
_BROKEN: Final = frozenset(("42P01", "42P07", "42703", "42804", "42883", "XX001", "XX002"))

# The isolation: a write that waits for an earlier one is to see what that one left. The durability: a server that is
# told to answer before it has written is told otherwise here. The keepalives: the lock of a machine that is gone is
# free within half a minute, and not after the two hours of the operating system.
_SETTINGS: Final = """
    SELECT set_config('search_path', quote_ident(%s), false),
           set_config('statement_timeout', %s, false),
           set_config('lock_timeout', %s, false),
           set_config('default_transaction_isolation', 'read committed', false),
           set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                                            WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false),
           set_config('tcp_keepalives_idle', '10', false),
           set_config('tcp_keepalives_interval', '5', false),
           set_config('tcp_keepalives_count', '3', false)"""
_ITSELF: Final = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
# Ours alone: the start, because the operating system gives numbers of processes again; the locks, because a pooler
# gives connections to others, without them. It waits until the old one is gone, and its locks with it.
_END: Final = """
    SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity AS old
    WHERE pid = %s AND backend_start = %s AND pid <> pg_backend_pid()
      AND EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = old.pid AND locktype = 'advisory')"""

_IS_THERE: Final = "SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL, to_regclass('format') IS NOT NULL"
_VERSION: Final = "SELECT version FROM format"
_SCHEMA: Final = "CREATE SCHEMA IF NOT EXISTS {schema};"
# Run as one transaction, and by one process at a time: `IF NOT EXISTS` alone fails where two begin at once.
_ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtextextended({lock}, 0));"
_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS agents (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text COLLATE "C" NOT NULL UNIQUE,
        commit_number bigint NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 1,
        owner uuid NOT NULL DEFAULT gen_random_uuid(),
        holder text NOT NULL,
        opened_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS rows (
        agent bigint NOT NULL REFERENCES agents ON DELETE CASCADE,
        kind text COLLATE "C" NOT NULL,
        key bytea NOT NULL,
        sealed bytea NOT NULL,
        PRIMARY KEY (agent, kind, key)
    );
    ALTER TABLE rows ALTER COLUMN sealed SET STORAGE EXTERNAL;
    CREATE TABLE IF NOT EXISTS format (version integer NOT NULL);
    INSERT INTO format SELECT {version} WHERE NOT EXISTS (SELECT FROM format);"""


def driver() -> Any:
    """Return the module psycopg, imported only here, because only this store needs it.

    Raises:
        ExtraMissing: it is not installed, or has no libpq.
    """
    try:
        import psycopg
    except ImportError:
        raise ExtraMissing("postgres") from None
    return psycopg


@final
class _Conninfo(Redacted):
    """Where the server is, and often the password for it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text


class Link:
    """A connection that comes back. Not for two threads at once: its owner has the lock.

    Attributes:
        number: Counts the connections; what was locked under another number is locked no more.
        locked: What the connection of this number has locked, by name.
    """

    def __init__(self, conninfo: str, schema: str, connect_timeout_seconds: int, call_timeout_seconds: int) -> None:
        """Take note of where the server is; nothing is connected yet.

        Raises:
            ArgumentInvalid: `conninfo` is no connection string.
            ExtraMissing: psycopg is not installed.
        """
        self._psycopg = driver()
        self._conninfo = _Conninfo(conninfo)
        self._schema = schema
        self._connect_timeout_seconds = connect_timeout_seconds
        self._call_timeout_seconds = call_timeout_seconds
        self._deadline = 0.0
        self._connection: Any = None
        self._is_ready = False  # made, and prepared whole
        self._former: tuple[Any, ...] | None = None  # the server's process for the last connection
        self.number: int = 0
        self.locked: set[str] = set()
        try:
            self._psycopg.conninfo.conninfo_to_dict(conninfo)
        except self._psycopg.Error:  # it repeats what it was given
            is_none = True
        else:
            is_none = False
        del conninfo
        if is_none:
            raise ArgumentInvalid("conninfo", "not a connection string of PostgreSQL")

    # --- asking ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a call: what it asks ends in time, and on a connection that is there.

        Raises:
            StoreFailed: the server cannot be reached.
            StoreBroken: what is there is not a store.
            StateVersionUnknown: it is one of a newer release.
        """
        self._deadline = monotonic() + self._call_timeout_seconds * GRACE
        if not self._is_ready or self._is_lost():
            self._connect()

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement, which is a transaction of its own, and return its rows.

        Raises:
            StoreFailed: the server refused, or did not answer: then the connection is gone, and the outcome open.
            StoreBroken: what is there is not a store.
        """
        connection = self._connection
        if connection is None:  # lost within this call
            raise StoreFailed
        try:
            cursor = connection.cursor(binary=True)
            cursor.execute(statement, values)
            found: list[tuple[Any, ...]] = cursor.fetchall()
        except self._psycopg.Error as error:
            failed = _failure(error)
        except BaseException:  # an interrupt: nobody knows where in the exchange
            self.drop()
            raise
        else:
            return found
        if not self._is_idle():
            self.drop()
        raise failed

    def drop(self) -> None:
        """Give the connection up, and what it has locked."""
        self._is_ready = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def application(self) -> str:
        """Return what the server calls this connection's application."""
        return str(self._connection.info.parameter_status("application_name"))

    # --- connecting --------------------------------------------------------------------------------------------------

    def _is_lost(self) -> bool:
        """Look, without asking the server, whether it has ended the connection since the last call."""
        try:
            for _ in range(2):  # what it says before it goes is one read, and that it went another
                self._connection.pgconn.consume_input()
        except self._psycopg.Error:
            return True
        return not self._is_idle()

    def _is_idle(self) -> bool:
        return bool(self._connection.info.transaction_status == self._psycopg.pq.TransactionStatus.IDLE)

    def _connect(self) -> None:
        self.drop()
        failed: StoreError | None = None
        try:
            self._connection = self._psycopg.connect(
                self._conninfo.reveal(),
                autocommit=True,
                client_encoding="utf8",
                connect_timeout=self._connect_timeout_seconds,
                fallback_application_name="agentmesh",
            )
        except self._psycopg.Error as error:
            failed = _failure(error)
        except BaseException as error:  # the frames below hold the password
            raise error.with_traceback(None) from None
        if failed is not None:
            raise failed
        try:
            self._prepare()
        except BaseException:
            self.drop()
            raise

    def _prepare(self) -> None:
        """Make a new connection what this store needs, and a new database a store."""
        self._deadline = monotonic() + self._call_timeout_seconds * GRACE
        wait = self._connection.wait
        self._connection.wait = lambda steps, *args, **named: wait(self._in_time(steps), *args, **named)
        statement_ms = 1000 * self._call_timeout_seconds
        lock_ms = min(statement_ms // 2, LOCK_WAIT_MS_MAX)
        self.ask(_SETTINGS, self._schema, str(statement_ms), str(lock_ms))
        if self._former is not None:  # it may not have noticed, and would keep its locks
            with contextlib.suppress(StoreFailed):  # not every server lets a role end its own
                self.ask(_END, lock_ms, *self._former)
        [self._former] = self.ask(_ITSELF)
        [(has_schema, has_tables)] = self.ask(_IS_THERE, self._schema)
        if not has_tables:
            self._create(has_schema)
        versions = self.ask(_VERSION)
        if len(versions) != 1 or type(versions[0][0]) is not int or versions[0][0] < 1:
            raise StoreBroken("file")
        if versions[0][0] > FORMAT:
            raise StateVersionUnknown
        self.locked = set()
        self.number += 1
        self._is_ready = True

    def _create(self, has_schema: bool) -> None:
        sql = self._psycopg.sql
        # A role that may not make schemas is refused even where the schema is there.
        text = _ONE_AT_A_TIME + ("" if has_schema else _SCHEMA) + _TABLES
        values = {"lock": sql.Literal(f"agentmesh {self._schema}"), "version": sql.Literal(FORMAT)}
        try:
            self._connection.execute(sql.SQL(text).format(schema=sql.Identifier(self._schema), **values))
        except self._psycopg.Error as error:
            failed = _failure(error)
        else:
            return
        raise failed

    def _in_time(self, steps: Any) -> Generator[Any, Any, Any]:
        """Go through the steps of an exchange with the server, which psycopg waits between, until time is up."""
        try:
            wanted = next(steps)
            while True:
                ready = yield wanted
                if monotonic() > self._deadline:
                    raise self._psycopg.OperationalError("no answer in time")
                wanted = steps.send(ready)
        except StopIteration as stop:
            return stop.value


def _failure(error: Any) -> StoreError:
    """Return our error for one of psycopg's. Its cause is a copy: the frames of the first hold the password."""
    failed = StoreBroken("rows") if error.sqlstate in _BROKEN else StoreFailed()
    failed.__cause__ = copy.copy(error)
    return failed
