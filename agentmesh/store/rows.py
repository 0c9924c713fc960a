"""What a store is asked for: one agent's rows, sealed, in transactions (docs/protocol.md, section 7.2).

A store sees kinds, keys and sealed bytes. It holds no key and opens no row; what it must promise is small: a write is
whole or nothing, durable when it returns, and made by the one writer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, Protocol

from agentmesh.errors import ArgumentInvalid
from agentmesh.limits import UINT_MAX

Name = tuple[str, bytes]  # (kind, key): what a row is found by
LOG: Final = "log"  # the kind of rows that are numbered: their key is that number, 8 bytes, big-endian
NUMBER_BYTES: Final = 8
HEAD_NAME: Final = ("head", b"")  # a row that every write of an agent puts: a store may keep it where that is cheap
NAME_MAX_BYTES: Final = 128


def log_number(name: Name) -> int:
    """Return the number of a row of the log.

    Raises:
        ArgumentInvalid: its key is none.
    """
    number = int.from_bytes(name[1], "big")
    if len(name[1]) != NUMBER_BYTES or number > UINT_MAX:
        raise ArgumentInvalid("rows", "not the number of a row of the log")
    return number


class Rows(Protocol):
    """The rows of one agent, opened for writing by this process alone."""

    @property
    def commit_number(self) -> int:
        """The number of the last write, 0 before the first; asked of the store itself, and not remembered.

        Raises:
            StoreFailed: the store did not answer.
            StoreFenced: another writer has opened these rows since.
        """
        ...

    def read(self, *, log: bool = False, first: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
        """Return (kind, key, sealed bytes) of all rows but those of the kind `log`, or of those alone, by key.

        Of the log they are those from the number `first` on, found by its key: 8 bytes, big-endian. They are not all
        held in memory, and a reader may stop at any of them.

        Raises:
            StoreFailed: the store did not answer.
            StoreBroken: what is there are no rows.
        """
        ...

    def write(self, commit_number: int, put: Mapping[Name, bytes], removed: Collection[Name]) -> None:
        """Write rows and remove others, in one transaction that is durable when this returns.

        It is numbered one more than the last. What is to be removed and is not there is no error.

        Raises:
            StoreFailed: the store did not write, or it is not known whether it did: `commit_number` tells.
            StoreFenced: another writer has opened these rows since, or has written; nothing was written.
        """
        ...

    def close(self) -> None:
        """Let go of them: another may open them then. Closing twice is no error."""
        ...


class Backend(Protocol):
    """What a kind of store is: agents' rows by the agents' names."""

    def names(self) -> tuple[str, ...]:
        """Return the names of the agents that are there, sorted."""
        ...

    def open_rows(self, name: str, *, create: bool) -> Rows | None:
        """Open the rows of an agent for writing; where there are none, make them (or return `None`).

        Raises:
            StoreLocked: they are open already; it says by whom, as far as the store knows.
            StoreFailed: the store did not answer.
            StoreBroken: what is there are no rows.
        """
        ...

    def close(self) -> None:
        """Close every agent's rows, and the store. Closing twice is no error."""
        ...
