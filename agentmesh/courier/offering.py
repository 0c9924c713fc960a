"""What leaves: the outbox is offered to the broker, and the agent is polled when time asks for it."""

from __future__ import annotations

from typing import Final, NamedTuple, final

from agentmesh.courier.intake import HELD_LOOK_MS, Intake
from agentmesh.courier.stocking import Stocking
from agentmesh.courier.workings import LOOK_SECONDS, Workings
from agentmesh.engine.outbox import Waiting
from agentmesh.errors import CommitFailed, StoreFailed, TransportFailed
from agentmesh.events import Events

_LOOK_MS: Final = int(LOOK_SECONDS * 1000)


class Due(NamedTuple):
    """What a look at the agent found: what time brought, what is to leave, and when to look again."""

    events: Events
    waiting: tuple[Waiting, ...]
    deadline_ms: int | None


@final
class Offering:
    """Offers the outbox, again and again: what a broker or a peer lost is due again, always the same bytes."""

    __slots__ = ("_intake", "_stocking", "_unlucky", "_workings")

    def __init__(self, workings: Workings, intake: Intake, stocking: Stocking) -> None:
        self._workings = workings
        self._intake = intake
        self._stocking = stocking
        self._unlucky: set[bytes] = set()

    async def run(self) -> None:
        """Do all of it until it is cancelled.

        Raises:
            StoreError: the agent cannot go on.
        """
        pauses = self._workings.pauses()
        while True:
            work = self._workings.work.hold()
            try:
                due_seconds = await self._round()
            except (TransportFailed, StoreFailed, CommitFailed) as error:
                self._workings.note(error)
                await self._workings.rest(pauses, work)
            else:
                pauses.reset()
                await self._workings.until(work, due_seconds)

    async def _round(self) -> float:
        """Do what is due, and return in how many seconds something will be."""
        await self._stocking.put()
        await self._intake.take_held()
        due = await self._workings.ask(self._look)
        if due.events:
            self._workings.news.ring()
        await self._stocking.heed(due.events)
        if self._intake.last_resort_used:
            self._intake.last_resort_used = False
            await self._stocking.look()
        await self.offer(due.waiting)
        if due.waiting:
            return 0.0  # to look again: what was offered has a new deadline
        now_ms = self._workings.now_ms()
        deadline_ms = now_ms + _LOOK_MS if due.deadline_ms is None else due.deadline_ms
        if self._intake.is_holding:
            deadline_ms = min(deadline_ms, now_ms + HELD_LOOK_MS)
        return (deadline_ms - now_ms) / 1000

    def _look(self) -> Due:
        agent = self._workings.agent
        return Due(agent.poll(), agent.outbox(), agent.next_deadline_ms)

    async def offer(self, waiting: tuple[Waiting, ...]) -> None:
        """Hand over what waits. What the broker did not take is offered behind all others the next time.

        So an envelope that no broker takes, because it is too large for it, does not hold up the others.

        Raises:
            TransportFailed: the broker did not take one; those behind it were not offered.
        """
        workings = self._workings
        self._unlucky &= {one.receipt for one in waiting}
        for one in sorted(waiting, key=lambda one: one.receipt in self._unlucky):
            self._unlucky.add(one.receipt)
            await workings.reach(lambda one=one: workings.transport.publish(one.did, one.envelope))  # type: ignore[misc]
            self._unlucky.discard(one.receipt)
            await workings.ask(workings.agent.sent, one.receipt)
