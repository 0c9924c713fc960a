"""A store that fails where it is told to: to test what an application makes of it (docs/protocol.md, section 7.2)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from enum import StrEnum
from typing import final

from agentmesh.errors import ArgumentInvalid
from agentmesh.primitives.arguments import uint_argument
from agentmesh.store.rows import Backend, Name, Rows


class Moment(StrEnum):
    """When something can be made to happen."""

    OPEN = "open"  # before an agent's rows are opened
    READ = "read"  # before they are read
    ASK = "ask"  # before the store is asked for the number of the last write
    WRITE = "write"  # before a write: nothing of it is there
    WRITTEN = "written"  # behind a write: it is durable, and its caller does not know


@final
class FaultyBackend:
    """Rows in another backend, and faults at chosen moments: an error, a signal, the end of the process.

    >>> backend = FaultyBackend(MemoryBackend())
    >>> with Store(backend, bytes(32)) as store:
    ...     alice = store.open_agent("example/prod")
    ...     backend.fail(Moment.WRITE, StoreFailed())
    ...     try:
    ...         alice.publish_bundles(one_time=1)
    ...     except StoreFailed:
    ...         print("refused; nothing has changed")
    refused; nothing has changed
    """

    def __init__(self, backend: Backend, happen: Callable[[Moment], None] | None = None) -> None:
        """Stand in front of a backend.

        Args:
            backend: What keeps the rows.
            happen: Is called at every moment; what it raises is raised there.
        """
        self._backend = backend
        self._happen = happen
        self._failures: list[tuple[Moment, BaseException, int]] = []
        self._open: dict[str, Rows] = {}

    def fail(self, moment: Moment, error: BaseException, *, after: int = 0) -> None:
        """Raise an error once: at the next such moment, or at that which has so many before it.

        A store raises `StoreFailed`, which leaves open whether it wrote; `KeyboardInterrupt` stands for any signal.

        Args:
            moment: When.
            error: What.
            after: How many such moments pass before it.

        Raises:
            ArgumentInvalid: not a moment, not an error, or not a count.
        """
        if not isinstance(moment, Moment):
            raise ArgumentInvalid("moment", "not a Moment")
        if not isinstance(error, BaseException):
            raise ArgumentInvalid("error", "not an exception")
        self._failures.append((moment, error, uint_argument("after", after)))

    def mend(self) -> int:
        """Forget the errors that have not been raised. Return how many these were."""
        failures, self._failures = self._failures, []
        return len(failures)

    def rows(self, name: str) -> dict[Name, bytes]:
        """Return the rows of an agent that is open here, as they are now: what a refusal, or a fault, left unchanged.

        Raises:
            ArgumentInvalid: it is not open here.
            StoreError: the store did not answer.
        """
        rows = self._open.get(name)
        if rows is None:
            raise ArgumentInvalid("name", "not open here")
        return {(kind, key): sealed for log in (False, True) for kind, key, sealed in rows.read(log=log)}

    def reach(self, moment: Moment) -> None:
        """Let happen what is to happen at this moment."""
        if self._happen is not None:
            self._happen(moment)
        due: BaseException | None = None
        left: list[tuple[Moment, BaseException, int]] = []
        for when, error, after in self._failures:
            if when is not moment:
                left.append((when, error, after))
            elif after or due is not None:
                left.append((when, error, max(0, after - 1)))
            else:
                due = error
        self._failures = left
        if due is not None:
            raise due

    # --- what `Backend` asks -----------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Return the names of the agents that are there, sorted."""
        return self._backend.names()

    def open_rows(self, name: str, *, create: bool) -> Rows | None:
        """Open the rows of an agent. See `Backend`."""
        self.reach(Moment.OPEN)
        rows = self._backend.open_rows(name, create=create)
        if rows is None:
            return None
        self._open[name] = rows
        return FaultyRows(rows, self.reach)

    def close(self) -> None:
        """Close every agent's rows."""
        self._backend.close()


@final
class FaultyRows:
    """The rows of one agent, and faults. See `Rows`."""

    def __init__(self, rows: Rows, reach: Callable[[Moment], None]) -> None:
        """Stand in front of rows; `FaultyBackend.open_rows` makes them."""
        self._rows = rows
        self._reach = reach

    @property
    def commit_number(self) -> int:
        """The number of the last write. See `Rows`."""
        self._reach(Moment.ASK)
        return self._rows.commit_number

    def read(self, *, log: bool = False, first: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
        """Return the rows. See `Rows`."""
        self._reach(Moment.READ)
        return self._rows.read(log=log, first=first)

    def write(self, commit_number: int, put: Mapping[Name, bytes], removed: Collection[Name]) -> None:
        """Write rows and remove others. See `Rows`."""
        self._reach(Moment.WRITE)
        self._rows.write(commit_number, put, removed)
        self._reach(Moment.WRITTEN)

    def close(self) -> None:
        """Let go of them."""
        self._rows.close()
