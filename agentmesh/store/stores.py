"""The stores that are ready: in a file of SQLite, in a database of PostgreSQL, in memory (section 7.2)."""

from __future__ import annotations

import os
from typing import final

from agentmesh.primitives.arguments import frameless
from agentmesh.primitives.entropy import SystemEntropy
from agentmesh.store.data_key import StoreKey, key_argument
from agentmesh.store.memory import MemoryBackend
from agentmesh.store.postgres import PostgresBackend
from agentmesh.store.sqlite import SQLiteBackend
from agentmesh.store.store import Store

_KEY_BYTES = 32


@final
class SQLiteStore(Store):
    """Any number of agents in one file, mode 0600, which one process at a time has open."""

    __slots__ = ("_file",)

    @frameless
    def __init__(self, path: str | os.PathLike[str], *, key: StoreKey, synchronous: str = "FULL") -> None:
        """Open a file of agents, made if it is new.

        Args:
            path: Where. A symbolic link is refused.
            key: As for `Store`.
            synchronous: "FULL": what a call returned is not lost to a power cut. "NORMAL": the last calls may be, as if
                an older copy had been put back, and nothing is lost to a crash of the process.

        Raises:
            ArgumentInvalid: no such path, key or value.
            StoreLocked: another has it open; it says who.
            StoreFailed: the operating system refuses.
            StoreBroken: not a store, or damaged; nothing was altered.
            StateVersionUnknown: written by a newer release.
        """
        key_argument(key)  # before there is a file
        self._file = SQLiteBackend(path, synchronous=synchronous)
        super().__init__(self._file, key)

    @frameless
    def backup(self, to: str | os.PathLike[str]) -> None:
        """Copy the store, as it is at one moment, to a new file, mode 0600. It opens under the same key.

        Raises:
            ArgumentInvalid: no path.
            StoreFailed: something stands there already, or the operating system refuses; nothing is left there.
            StoreBroken: it cannot be read whole.
        """
        self._file.backup(to)

    @frameless
    def vacuum(self) -> None:
        """Give the space that removed rows have left back to the file system. It takes as much again meanwhile.

        Raises:
            StoreFailed: the operating system refuses; nothing has changed.
        """
        self._file.vacuum()


@final
class PostgresStore(Store):
    """Agents of many machines in one database. Each is open in one process at a time, on whichever machine."""

    __slots__ = ()

    @frameless
    def __init__(self, conninfo: str, *, key: StoreKey, schema: str = "agentmesh") -> None:
        """Connect to a database; its tables are made where there are none.

        Args:
            conninfo: Where the server is, as libpq takes it: `host=db.example dbname=fleet user=mesh`, or a URI.
            key: As for `Store`.
            schema: The schema of its tables.

        Raises:
            ArgumentInvalid: no such text, key or schema.
            ExtraMissing: psycopg is not installed: it comes with the extra `postgres`.
            StoreFailed: the server cannot be reached, or refuses.
            StoreBroken: what is there is no store.
            StateVersionUnknown: written by a newer release.
        """
        key_argument(key)
        super().__init__(PostgresBackend(conninfo, schema=schema), key)


@final
class MemoryStore(Store):
    """Agents in memory: for tests, and for agents that end with their process."""

    __slots__ = ()

    def __init__(self, *, key: StoreKey | None = None) -> None:
        """Begin with no agents.

        Args:
            key: As for `Store`; a random one if `None`.

        Raises:
            ArgumentInvalid: no such key.
        """
        super().__init__(MemoryBackend(), SystemEntropy().token(_KEY_BYTES) if key is None else key_argument(key))
