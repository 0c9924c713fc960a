"""A store in memory, for agents that end with their process, and for tests: a model of what the others promise."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Self, final

from agentmesh.errors import ArgumentInvalid, StoreClosed, StoreFenced, StoreLocked
from agentmesh.primitives.arguments import text_argument
from agentmesh.primitives.forked import Birthplace
from agentmesh.store.rows import LOG, NAME_MAX_BYTES, NUMBER_BYTES, Name, log_number


class _Agent:
    """What is kept of one agent, whoever has it open."""

    __slots__ = ("commit_number", "holder", "rows", "written")

    def __init__(self) -> None:
        self.rows: dict[Name, bytes] = {}
        self.commit_number: int = 0
        self.holder: MemoryRows | None = None
        self.written: tuple[int, dict[Name, bytes], tuple[Name, ...]] | None = None

    def finish(self) -> None:
        """Finish a write that a signal broke off: it counts from the moment that `written` was set."""
        if self.written is None:
            return
        number, put, removed = self.written
        for name in removed:
            self.rows.pop(name, None)
        self.rows.update(put)
        self.commit_number = number
        self.written = None


@final
class MemoryBackend:
    """Rows in dictionaries. Closed, it keeps them for those that were made over it."""

    def __init__(self, other: MemoryBackend | None = None) -> None:
        """Keep rows, or the same rows as another backend, as two processes do over one file."""
        if other is not None and not isinstance(other, MemoryBackend):
            raise ArgumentInvalid("other", "not a MemoryBackend")
        self._birthplace = Birthplace()
        self._lock: threading.RLock = threading.RLock() if other is None else other._lock
        self._agents: dict[str, _Agent] = {} if other is None else other._agents
        self._open: list[MemoryRows] = []
        self._is_closed = False

    def names(self) -> tuple[str, ...]:
        """Return the names of the agents that are there, sorted."""
        self._check()
        with self._lock:
            return tuple(sorted(self._agents))

    def open_rows(self, name: str, *, create: bool) -> MemoryRows | None:
        """Open the rows of an agent; where there are none, make them (or return `None`). See `Backend`."""
        self._check()
        name = text_argument("name", name, 1, NAME_MAX_BYTES)
        with self._lock:
            agent = self._agents.get(name)
            if agent is None:
                if not create:
                    return None
                agent = self._agents[name] = _Agent()
            if agent.holder is not None:
                raise StoreLocked(by_this_process=True)
            rows = MemoryRows(agent, self._lock, self._birthplace)
            self._open.append(rows)
            agent.holder = rows
            return rows

    def close(self) -> None:
        """Close every agent's rows."""
        self._birthplace.check()
        with self._lock:
            for rows in self._open:
                rows.close()
            self._is_closed = True

    def _check(self) -> None:
        self._birthplace.check()
        if self._is_closed:
            raise StoreClosed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@final
class MemoryRows:
    """The rows of one agent in memory. See `Rows`."""

    def __init__(self, agent: _Agent, lock: threading.RLock, birthplace: Birthplace) -> None:
        """Hold an agent's rows; `MemoryBackend.open_rows` makes them."""
        self._agent = agent
        self._lock = lock
        self._birthplace = birthplace
        self._is_closed = False

    def _check(self) -> None:
        self._birthplace.check()
        if self._is_closed:
            raise StoreClosed
        if self._agent.holder is not self:
            raise StoreFenced

    @property
    def commit_number(self) -> int:
        """The number of the last write, 0 before the first."""
        self._check()
        with self._lock:
            self._agent.finish()
            return self._agent.commit_number

    def read(self, *, log: bool = False, first: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
        """Return (kind, key, sealed bytes) of all rows but those of the log, or of those alone, by number."""
        self._check()
        with self._lock:
            self._agent.finish()
            found = [(*name, sealed) for name, sealed in self._agent.rows.items() if (name[0] == LOG) == log]
        least = first.to_bytes(NUMBER_BYTES, "big")
        return iter(sorted(row for row in found if row[1] >= least) if log else found)

    def write(self, commit_number: int, put: Mapping[Name, bytes], removed: Collection[Name]) -> None:
        """Remove rows and write others, all or none. See `Rows`."""
        self._check()
        with self._lock:
            self._agent.finish()
            if commit_number != self._agent.commit_number + 1:
                raise StoreFenced
            for name in (*put, *removed):
                if name[0] == LOG:
                    log_number(name)
            self._agent.written = commit_number, dict(put), tuple(removed)
            self._agent.finish()

    def close(self) -> None:
        """Let go of them."""
        self._birthplace.check()
        with self._lock:
            self._is_closed = True
            if self._agent.holder is self:
                self._agent.holder = None
