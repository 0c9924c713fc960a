"""The courier: an agent over a broker, with asyncio.

Theory of operation. The agent's store is the only memory: its outbox says what is to leave, its inbox what is to be
told. The courier holds nothing that a kill could lose, and no queue that a peer could fill. Two tasks run: one takes
what the broker has, and acknowledges it once the agent has it durably; one polls the agent when time asks for it, and
offers its outbox. Each is begun anew by the state, so both may be broken off between any two awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar, final

from agentmesh.agent import Agent
from agentmesh.attachments.reference import Attachment
from agentmesh.courier.intake import Intake
from agentmesh.courier.offering import Offering
from agentmesh.courier.pauses import Pauses
from agentmesh.courier.stocking import Stocking
from agentmesh.courier.transport import Acknowledge, Transport
from agentmesh.courier.workings import Notice, Pause, Workings
from agentmesh.engine.hooks import Clock, system_clock_ms
from agentmesh.errors import ArgumentInvalid, BundleExpired, CourierStopped, NoBundle, TransportFailed
from agentmesh.events import Event
from agentmesh.handshake.knock import Intent
from agentmesh.handshake.verdict import UNLIMITED, Conditions, Reason
from agentmesh.outgoing import Accepted, Knock, Outgoing, Sealed
from agentmesh.policy import KnockRequest
from agentmesh.primitives.arguments import BytesLike, uint_argument
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import Redacted, SessionId

_TRIES: Final = 16  # of bundles that have expired on a shelf, before the shelf is given up
_Output = TypeVar("_Output")
_P = ParamSpec("_P")


@final
class Courier(Redacted):
    """Runs one agent over a `Transport`. Use it in an `async with` statement; docs/how-to/broker.md has the whole.

    Calls of the agent wait for its store, so they are made in a thread, one after another, and the event loop goes on.
    Policies and journals are therefore called in that thread. A call that is cancelled may have taken effect; `outbox`
    and `inbox` of the agent know.
    """

    __slots__ = ("_failed", "_intake", "_offering", "_own_thread", "_stocking", "_stopped", "_tasks", "_thread",
                 "_workings", "agent")  # fmt: skip

    def __init__(
        self,
        agent: Agent,
        transport: Transport,
        *,
        one_time: int = 100,
        notice: Notice | None = None,
        clock: Clock = system_clock_ms,
        pause: Pause = asyncio.sleep,
        entropy: Entropy | None = None,
        thread: Executor | None = None,
        answer_seconds: float = 30.0,
    ) -> None:
        """Run nothing yet.

        Args:
            agent: Who it is: reliable, as an agent of a store is.
            transport: The broker.
            one_time: How many one-time bundles the shelf is to have; 0 where nobody is to knock at this agent.
            notice: Called with each error that is mended without the application, in the event loop: a refused
                envelope and its bytes, a broker that was not reached. What it raises ends the courier.
            clock: The agent's.
            pause: Waits for so many seconds.
            entropy: Spreads the pauses; the operating system's if `None`.
            thread: Where the agent's calls are made, one at a time; a thread of its own if `None`.
            answer_seconds: How long the broker may take to answer.

        Raises:
            ArgumentInvalid: an agent that keeps no outbox, or a number that is none.
        """
        if not isinstance(agent, Agent) or not agent.is_reliable:
            raise ArgumentInvalid("agent", "not a reliable agent: it would lose what it is not rid of")
        self.agent: Agent = agent
        self._own_thread = thread is None
        self._thread: Executor = ThreadPoolExecutor(1, "agentmesh-courier") if thread is None else thread
        self._workings = Workings(
            agent,
            transport,
            self._thread,
            clock=clock,
            pause=pause,
            entropy=entropy,
            notice=notice,
            answer_seconds=answer_seconds,
        )
        self._intake = Intake(self._workings)
        self._stocking = Stocking(self._workings, uint_argument("one_time", one_time))
        self._offering = Offering(self._workings, self._intake, self._stocking)
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._stopped = False
        self._failed: BaseException | None = None

    # --- running -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._stopped or self._tasks:
            raise CourierStopped
        self._tasks = (asyncio.create_task(self._receive()), asyncio.create_task(self._offering.run()))
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; where it was left without an error, offer once more what waits. What stays waits in the store.

        It ends whatever the transport does. One that swallows its cancellation is cancelled again after
        `answer_seconds`, and left alone after as long again; who is cancelled while leaving waits no more.

        Raises:
            StoreError: what ended it, where no other error is on its way.
        """
        self.stop()
        try:
            await self._workings.end(*self._tasks)
            if error is None and self._failed is None:
                with suppress(TransportFailed):
                    await self._workings.reach(self._offer_once)
        finally:
            if self._own_thread:
                # Waits for the one call that may run, because whoever leaves closes the store next.
                self._thread.shutdown(wait=True, cancel_futures=True)
        if error is None and self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """Let `events` end. For a signal's handler; leaving the with statement does the rest."""
        self._stopped = True
        self._workings.news.ring()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failed = task.exception()
            self.stop()

    async def _receive(self) -> None:
        """Take what the broker has, over one connection after another, until it is cancelled."""
        pauses = self._workings.pauses()
        while True:
            try:
                await self._connection(pauses)
            except (TransportFailed, asyncio.CancelledError) as error:
                if not _is_broken_off():  # else it is what the transport made of that
                    # Where nobody cancelled this task, the transport cancelled something of its own.
                    self._workings.note(error if isinstance(error, TransportFailed) else TransportFailed())
            if _is_broken_off():
                return
            await self._workings.rest(pauses)

    async def _connection(self, pauses: Pauses) -> None:
        await self._stocking.look()
        self._workings.work.ring()  # the broker is there
        async with aclosing(_coming(self._workings.transport)) as envelopes:
            async for envelope, acknowledge in envelopes:
                if _is_broken_off():  # a transport may swallow that, and go on
                    return
                await self._intake.take(envelope, acknowledge)
                pauses.reset()

    async def _offer_once(self) -> None:
        await self._offering.offer(await self._workings.ask(self.agent.outbox))

    # --- what an application does ------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[Event]:
        """Yield what is in the inbox, oldest first, and what comes into it, until `stop`. Say `done` of each.

        A new loop begins with all that is not done. One loop at a time: each would be told everything. Bundles,
        signals and repeated answers are the courier's, and are not told.

        Raises:
            StoreError: the agent cannot go on.
        """
        told: dict[int, Event] = {}  # by identity: the inbox has the same objects until they are done
        while True:
            news = self._workings.news.hold()
            if self._failed is not None:
                raise self._failed
            if self._stopped:
                return
            inbox = await self._workings.ask(self.agent.inbox)
            fresh = [event for event in inbox if id(event) not in told]
            told = {id(event): event for event in inbox}
            for event in fresh:
                if self._stopped:
                    break
                yield event
            if not fresh:
                await news.wait()

    async def call(self, function: Callable[_P, _Output], /, *args: _P.args, **named: _P.kwargs) -> _Output:
        """Return what a call of the agent returns; what it makes leaves at once: `await courier.call(agent.drop, ...)`.

        Raises:
            AgentMeshError: whatever the call raises.
            CourierStopped: the courier was left.
        """
        try:
            return await self._workings.ask(function, *args, **named)
        finally:
            self._workings.work.ring()
            self._workings.news.ring()

    async def knock(
        self,
        did: str,
        intent: Intent,
        *,
        early_payload: BytesLike | None = None,
        early_with_last_resort: bool = False,
        require_one_time: bool = False,
        expires_in_seconds: int | None = None,
    ) -> Knock:
        """Take a bundle of a peer from the shelf and ask for a session. Arguments as for `Agent.knock`.

        Raises:
            NoBundle: the shelf has none that could serve.
            TransportFailed: the shelf was not reached.
            CourierStopped: nothing is begun after `stop`.
            AgentMeshError: as for `Agent.knock`.
        """
        workings = self._workings
        for _ in range(_TRIES):
            if self._stopped:
                raise CourierStopped
            bundle = await workings.taken(did)
            if bundle is None:
                break
            with suppress(BundleExpired):
                return await self.call(
                    self.agent.knock,
                    did,
                    bundle,
                    intent,
                    early_payload=early_payload,
                    early_with_last_resort=early_with_last_resort,
                    require_one_time=require_one_time,
                    expires_in_seconds=expires_in_seconds,
                )
        raise NoBundle

    async def send(
        self,
        did: str,
        data: BytesLike,
        *,
        action: str | None = None,
        session_id: SessionId | None = None,
        label: bytes = b"",
        attachments: Iterable[Attachment] = (),
    ) -> Sealed:
        """Seal a message, which leaves by itself: arguments and errors of `Agent.send`."""
        return await self.call(
            self.agent.send, did, data, action=action, session_id=session_id, label=label, attachments=attachments
        )

    async def accept(self, knock: KnockRequest, conditions: Conditions = UNLIMITED) -> Accepted:
        """Accept a KNOCK: arguments and errors of `Agent.accept`."""
        return await self.call(self.agent.accept, knock, conditions)

    async def reject(self, knock: KnockRequest, reason: Reason = Reason.POLICY) -> Outgoing:
        """Reject a KNOCK: arguments and errors of `Agent.reject`."""
        return await self.call(self.agent.reject, knock, reason)

    async def close(self, did: str, reason: str = "") -> Sealed:
        """Close the session with a peer: arguments and errors of `Agent.close`."""
        return await self.call(self.agent.close, did, reason)

    async def done(self, event: Event) -> None:
        """Say that an event was handled. Killed before this has returned, the application is told it again."""
        await self._workings.ask(self.agent.done, event)

    def __repr__(self) -> str:
        return f"Courier({self.agent!r})"


def _is_broken_off() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _coming(transport: Transport) -> AsyncGenerator[tuple[bytes, Acknowledge], None]:
    """Yield what a transport yields, and close it where it can be: it need not be a generator.

    Raises:
        TransportFailed: it raised, whatever it was, or yielded something else.
    """
    envelopes: AsyncIterator[tuple[bytes, Acknowledge]] | None = None
    try:
        try:
            envelopes = transport.envelopes()
            async for envelope, acknowledge in envelopes:
                yield envelope, acknowledge
        finally:
            close = getattr(envelopes, "aclose", None)
            if close is not None:
                await close()
    except TransportFailed:
        raise
    except Exception as error:
        raise TransportFailed from error
