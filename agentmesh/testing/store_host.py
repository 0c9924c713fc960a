"""The host of an agent that lives in a store whose writes fail (docs/protocol.md, section 7.2)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, TypeVar, final

from agentmesh.agent import Agent
from agentmesh.engine.upkeep import Shelf
from agentmesh.errors import AgentMeshError, StoreFailed
from agentmesh.identity import Identity
from agentmesh.store.memory import MemoryBackend
from agentmesh.store.rows import Name
from agentmesh.store.store import Store
from agentmesh.testing.faulty_backend import FaultyBackend, Moment
from agentmesh.testing.host import WritingHost

_R = TypeVar("_R")
_KEY: Final = bytes(32)
_NAME: Final = "agent"


@final
class StoreHost(WritingHost):
    """A host that starts its agent from a store in memory, and lets some of its writes fail or be broken off.

    What the application does then is to make the call again. It holds the agent to more than a `WritingHost` does:
    where a call was refused, or a write failed, the rows are what they were, and a store opens what was written.
    """

    __slots__ = ("_backend", "_memory", "_percent", "_random", "_rows", "_store")

    def __init__(self, seed: str, *, write_fault_percent: int, **more: Any) -> None:
        self._random = Random(f"{seed}/faults")  # noqa: S311 - repeatable on purpose
        self._percent = write_fault_percent
        self._rows: dict[Name, bytes] = {}  # as they were after the last call
        self._store: Store | None = None
        super().__init__(seed, **more)

    def start(self, mesh: str, identity: Identity | None) -> None:
        """Start in a new store."""
        self._memory = MemoryBackend()
        self._open(mesh, identity)

    def crash(self) -> None:
        """Start from the store, that was let go of without a word."""
        self._open(self.agent.mesh, None)
        after = self.agent.export_state()
        if after != self._written and after != self.brought_to_now(self._written):
            self.broke("a store opens another state than was written")

    def publish(self, one_time: int, *, last_resort: bool) -> Shelf:
        """Publish bundles; nothing fails here."""
        shelf = super().publish(one_time, last_resort=last_resort)
        self._rows = self._now()
        return shelf

    def attempt(self, call: Callable[[Agent], _R]) -> _R | AgentMeshError:
        """Return what the call returns, made again where the store failed; or the error that it raises."""
        if self._random.randrange(100) < self._percent:
            error = self._random.choice((StoreFailed(), KeyboardInterrupt()))
            self._backend.fail(self._random.choice((Moment.WRITE, Moment.WRITTEN)), error)
        result = super().attempt(lambda agent: self._again(call, agent))
        self._backend.mend()
        self._rows = self._now()
        return result

    def refused(self, error: AgentMeshError, before: bytes) -> None:
        """Hold the agent to what a refusal is, in its rows too."""
        super().refused(error, before)
        if self._now() != self._rows:
            self.broke(f"a refusal changed the rows: {error.code}")

    def _again(self, call: Callable[[Agent], _R], agent: Agent) -> _R:
        try:
            return call(agent)
        except KeyboardInterrupt:
            return call(agent)
        except StoreFailed as error:
            self.refused(error, self._written)
            return call(agent)

    def _open(self, mesh: str, identity: Identity | None) -> None:
        around: Any = {name: value for name, value in self._around.items() if name != "reliable"}
        if self._store is not None:
            self._store.close()
        self._backend = FaultyBackend(MemoryBackend(self._memory))
        self._store = Store(self._backend, _KEY)
        self.agent: Agent = self._store.open_agent(mesh, name=_NAME, identity=identity, **around)
        self._rows = self._now()

    def _now(self) -> dict[Name, bytes]:
        return self._backend.rows(_NAME)
