"""What every part of a courier uses: the agent's thread, the broker under a limit, pauses, and two bells."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Final, ParamSpec, TypeVar, final

from agentmesh.agent import Agent
from agentmesh.courier.pauses import Pauses
from agentmesh.courier.transport import Transport
from agentmesh.engine.hooks import Clock, read_clock
from agentmesh.errors import AgentMeshError, CourierStopped, TransportFailed
from agentmesh.primitives.arguments import bytes_argument
from agentmesh.primitives.entropy import Entropy

Pause = Callable[[float], Awaitable[object]]
Notice = Callable[[AgentMeshError, bytes | None], object]

LOOK_SECONDS: Final = 60.0  # a clock that is set is noticed so late at most
_SHORT_SECONDS: Final = 0.25
_CANCELLATIONS: Final = 2
_Output = TypeVar("_Output")
_P = ParamSpec("_P")


@final
class Bell:
    """Wakes everybody who took hold of it before it rang."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def hold(self) -> asyncio.Event:
        """Return what is set at the next ring. Take it before looking, so that no ring in between is missed."""
        return self._event

    def ring(self) -> None:
        """Wake whoever waits."""
        rung, self._event = self._event, asyncio.Event()
        rung.set()


@final
class Workings:
    """An agent, its broker, and how to wait.

    Attributes:
        agent: The agent. Its calls wait for a disk or a database, so none is made in the event loop: see `ask`.
        transport: The broker.
        news: Rings when something may be in the inbox, and when the courier stops.
        work: Rings when something may be in the outbox.
    """

    __slots__ = ("_answer_seconds", "_clock", "_entropy", "_notice", "_pause", "_thread", "agent", "news",
                 "transport", "work")  # fmt: skip

    def __init__(
        self,
        agent: Agent,
        transport: Transport,
        thread: Executor,
        *,
        clock: Clock,
        pause: Pause,
        entropy: Entropy | None,
        notice: Notice | None,
        answer_seconds: float,
    ) -> None:
        self.agent: Agent = agent
        self.transport: Transport = transport
        self._thread = thread
        self._clock = clock
        self._pause = pause
        self._entropy = entropy
        self._notice = notice
        self._answer_seconds = answer_seconds
        self.news: Bell = Bell()
        self.work: Bell = Bell()

    async def ask(self, function: Callable[_P, _Output], /, *args: _P.args, **named: _P.kwargs) -> _Output:
        """Return what a call of the agent returns, made in its thread.

        One that is cancelled before it began is not made; one that runs goes on to its end, and takes effect whole.

        Raises:
            CourierStopped: there is no thread any more.
        """
        try:
            made = self._thread.submit(function, *args, **named)
        except RuntimeError:
            made = None
        if made is None:
            raise CourierStopped
        return await asyncio.wrap_future(made)

    async def reach(self, call: Callable[[], Awaitable[_Output]]) -> _Output:
        """Return what the broker answers.

        Raises:
            TransportFailed: it raised, or did not answer in time.
        """
        try:
            return await self._within(call())
        except TransportFailed:
            raise
        except Exception as error:
            raise TransportFailed from error

    async def taken(self, did: str) -> bytes | None:
        """Return a bundle of an agent from the shelf, or `None` where there is none.

        Raises:
            TransportFailed: the shelf was not reached, or served what is no bytes.
        """

        async def take() -> bytes | None:
            served = await self.transport.take_bundle(did)
            return None if served is None else bytes_argument("bundle", served)

        return await self.reach(take)

    async def _within(self, answer: Awaitable[_Output]) -> _Output:
        asked, over = asyncio.ensure_future(answer), asyncio.ensure_future(self._pause(self._answer_seconds))
        try:
            await asyncio.wait({asked, over}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise TimeoutError
            if asked.cancelled():  # within the transport, and not by whoever waits here
                raise ConnectionError
            return asked.result()
        finally:
            await _ended(over)
            await self.end(asked)

    async def end(self, *futures: asyncio.Future[Any]) -> None:
        """Cancel what is not awaited any more, and wait until it has ended.

        A transport may swallow a cancellation. So there is another after `answer_seconds`, and what goes on for as long
        again is left alone: it would hold up whoever leaves for ever.
        """
        ended: asyncio.Future[Any] = asyncio.gather(*futures, return_exceptions=True)
        for _ in range(_CANCELLATIONS):
            for future in futures:
                future.cancel()
            if all(future.done() for future in futures):
                return
            over: asyncio.Future[Any] = asyncio.ensure_future(self._pause(self._answer_seconds))
            try:
                await asyncio.wait({ended, over}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _ended(over)

    async def until(self, bell: asyncio.Event, seconds: float) -> None:
        """Wait for a bell, or so long; never so long that a clock which was set would go unnoticed."""
        rung = asyncio.ensure_future(bell.wait())
        over = asyncio.ensure_future(self._pause(max(0.0, min(seconds, LOOK_SECONDS))))
        try:
            await asyncio.wait({rung, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _ended(rung, over)

    async def rest(self, pauses: Pauses, work: asyncio.Event | None = None) -> None:
        """Wait before the next try; once a short while is over, no longer than until there is work."""
        seconds = pauses.next_seconds()
        if work is None:
            await self._pause(seconds)
        else:
            await self._pause(min(seconds, _SHORT_SECONDS))
            await self.until(work, seconds - _SHORT_SECONDS)

    def pauses(self) -> Pauses:
        """Return pauses that begin with the shortest."""
        return Pauses(entropy=self._entropy)

    def now_ms(self) -> int:
        """Return the time.

        Raises:
            ArgumentInvalid: the clock shows none.
        """
        return read_clock(self._clock)

    def note(self, error: AgentMeshError, envelope: bytes | None = None) -> None:
        """Tell the application of what went wrong and is mended, or tried again, without it."""
        if self._notice is not None:
            self._notice(error, envelope)


async def _ended(*futures: asyncio.Future[Any]) -> None:
    """End what is not awaited any more, so that none outlives the call that began it."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)
