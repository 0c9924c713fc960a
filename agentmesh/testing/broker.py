"""A broker in memory, and pauses that end when a test says so: for applications that run over a `Transport`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Final, ParamSpec, TypeVar, final

from agentmesh.courier.transport import Acknowledge
from agentmesh.engine.upkeep import Shelf
from agentmesh.testing.clock import ManualClock
from agentmesh.testing.shelf import BundleShelf

_P = ParamSpec("_P")
_T = TypeVar("_T")
_TURNS: Final = 100  # of an event loop, before time goes on
_IDLE: Final = 100  # so often, where nothing waits for time, before nothing is waited for


@final
class MemoryBroker:
    """Queues of envelopes, one for each agent, and a shelf: at least once, as any real broker.

    Attributes:
        shelf: The bundles.
        is_away: Everything raises `ConnectionError` while it is set; nothing is lost.
    """

    def __init__(self) -> None:
        self.shelf: BundleShelf = BundleShelf()
        self.is_away: bool = False
        self._kept: dict[str, dict[int, bytes]] = {}
        self._next = 0
        self._connections = 0
        self._changed = asyncio.Event()

    def transport(self, did: str) -> MemoryTransport:
        """Return a connection for an agent; it is a `Transport`."""
        return MemoryTransport(self, did)

    def kept(self, did: str) -> tuple[bytes, ...]:
        """Return what was published for an agent and not acknowledged, oldest first."""
        return tuple(self._kept.get(did, {}).values())

    def cut(self) -> None:
        """End every connection: what was not acknowledged comes again over the next."""
        self._connections += 1
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def keep(self, did: str, envelope: bytes) -> None:
        """Keep an envelope for an agent, whoever it is of."""
        self._kept.setdefault(did, {})[self._next] = envelope
        self._next += 1
        self._wake()

    def forget(self, did: str, number: int) -> None:
        """Take an acknowledgement."""
        self._kept.get(did, {}).pop(number, None)

    def waiting(self, did: str, after: int) -> tuple[asyncio.Event, list[tuple[int, bytes]]]:
        """Return what is kept behind a number, and what is set once there may be more."""
        return self._changed, [(number, one) for number, one in self._kept.get(did, {}).items() if number > after]

    def check(self, connection: int | None = None) -> int:
        """Return which connection is the newest; raise `ConnectionError` where the broker is away, or that one cut."""
        if self.is_away or connection not in (None, self._connections):
            raise ConnectionError
        return self._connections


@final
class MemoryTransport:
    """One agent's connection to a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, did: str) -> None:
        self._broker = broker
        self._did = did

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        """Keep an envelope."""
        await asyncio.sleep(0)
        self._broker.check()
        self._broker.keep(recipient, envelope)
        await asyncio.sleep(0)

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        """Yield what is kept for this agent, all of it anew in each connection."""
        seen, connection = -1, self._broker.check()
        while True:
            self._broker.check(connection)
            changed, waiting = self._broker.waiting(self._did, seen)
            for seen, envelope in waiting:
                yield envelope, partial(self._acknowledge, seen)
                self._broker.check(connection)
            if not waiting:
                await changed.wait()

    async def _acknowledge(self, number: int) -> None:
        await asyncio.sleep(0)
        self._broker.check()
        self._broker.forget(self._did, number)
        await asyncio.sleep(0)

    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        """Add to the shelf."""
        await asyncio.sleep(0)
        self._broker.check()
        self._broker.shelf.put(did, Shelf(one_time=tuple(one_time), last_resort=last_resort))
        await asyncio.sleep(0)

    async def take_bundle(self, did: str, /) -> bytes | None:
        """Take from the shelf."""
        await asyncio.sleep(0)
        self._broker.check()
        try:
            taken = self._broker.shelf.take(did)
        except LookupError:
            taken = None
        await asyncio.sleep(0)
        return taken


@final
class AtOnce(Executor):
    """Makes each call when it is handed over: for `Courier(thread=AtOnce())`, so that a test runs as it did before."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Return what has happened."""
        made: Future[_T] = Future()
        try:
            made.set_result(fn(*args, **kwargs))
        except Exception as error:
            made.set_exception(error)
        return made


@final
class ManualTimer:
    """Pauses by a `ManualClock`: for `Courier(pause=timer.pause, clock=timer.clock)`, in tests that never sleep.

    Attributes:
        clock: What `run_until` advances.
    """

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock: ManualClock = ManualClock() if clock is None else clock
        self._pausing: list[tuple[int, asyncio.Future[None]]] = []

    async def pause(self, seconds: float) -> None:
        """Wait until the clock shows so much more."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self.clock() + max(0, round(seconds * 1000)), over)
        self._pausing.append(entry)
        self._end()
        try:
            await over
        finally:
            self._pausing.remove(entry)

    async def run_until(self, is_so: Callable[[], bool], *, within_seconds: int = 3600) -> None:
        """Let everything go on, and the time from one pause's end to the next, until something is so.

        Raises:
            TimeoutError: so much time has passed by the clock, and it is not.
        """
        last_ms, idle = self.clock() + within_seconds * 1000, 0
        while not is_so():
            for _ in range(_TURNS):
                await asyncio.sleep(0)
                if is_so():
                    return
            due = [due_ms for due_ms, over in self._pausing if not over.done()]
            idle = 0 if due else idle + 1
            if idle > _IDLE or (due and min(due) > last_ms):
                raise TimeoutError
            self.clock.now_ms = max([self.clock.now_ms, *sorted(due)[:1]])
            self._end()

    def _end(self) -> None:
        for due_ms, over in self._pausing:
            if due_ms <= self.clock() and not over.done():
                over.set_result(None)
