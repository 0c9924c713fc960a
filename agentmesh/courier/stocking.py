"""Bundles on the shelf: topped up when they run low, and published anew where the shelf has lost them."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import final

from agentmesh.courier.workings import Workings
from agentmesh.engine.upkeep import Shelf
from agentmesh.errors import RemoteError, StockFull
from agentmesh.events import Events, RotationDue, StockLow
from agentmesh.handshake.prekeys import BundleClass, verify_bundle


@final
class Stocking:
    """Keeps this agent's part of the shelf.

    An agent counts the bundles that it made and were not used. What became of them is known to the shelf alone: it may
    have lost them with its memory, or a kill came between making them and putting them there. So the shelf is asked.
    """

    __slots__ = ("_one_time", "_to_put", "_workings")

    def __init__(self, workings: Workings, one_time: int) -> None:
        self._workings = workings
        self._one_time = one_time
        self._to_put: deque[Shelf] = deque()

    async def look(self) -> None:
        """See whether the shelf serves one-time bundles of this agent, and publish some where it does not.

        Raises:
            TransportFailed: the shelf was not reached.
            StoreError: the agent did not keep new ones.
        """
        if self._one_time == 0:
            return
        await self.put()
        workings = self._workings
        did = workings.agent.did
        served = await workings.taken(did)
        if served is not None and self._is_one_time(served):
            await workings.reach(lambda: workings.transport.put_bundles(did, (served,), None))
        else:
            await self._publish(self._one_time)

    async def heed(self, events: Events) -> None:
        """Publish what `poll` said is due.

        Raises:
            TransportFailed, StoreError: as for `look`.
        """
        if self._one_time and any(isinstance(event, StockLow | RotationDue) for event in events):
            await self._publish(None)

    async def put(self) -> None:
        """Put what was made and is not on the shelf yet.

        Raises:
            TransportFailed: the shelf was not reached; the rest stays here.
        """
        workings = self._workings
        while self._to_put:
            made = self._to_put.popleft()  # so that no other task puts it too: a bundle is to be served once
            put = partial(workings.transport.put_bundles, workings.agent.did, made.one_time, made.last_resort)
            try:
                await workings.reach(put)
            except BaseException:
                self._to_put.appendleft(made)
                raise

    async def _publish(self, one_time: int | None) -> None:
        self._to_put.append(await self._workings.ask(self._made, one_time))
        await self.put()

    def _made(self, one_time: int | None) -> Shelf:
        agent = self._workings.agent
        try:
            return agent.publish_bundles(one_time)
        except StockFull:
            pass
        agent.withdraw_bundles()  # of so many the most are lost, and nobody can say which
        return agent.publish_bundles(one_time)

    def _is_one_time(self, served: bytes) -> bool:
        agent = self._workings.agent
        try:
            bundle = verify_bundle(served, did=agent.did, mesh=agent.mesh, now_ms=self._workings.now_ms())
        except RemoteError:  # expired, or the shelf's own make
            return False
        return bundle.bundle_class is BundleClass.ONE_TIME
