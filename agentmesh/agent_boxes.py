"""What an application says of what it handed over and was handed, and what time brings: a part of the façade."""

from __future__ import annotations

from contextlib import AbstractContextManager

from agentmesh.agent_views import AgentViews
from agentmesh.engine import delivery, upkeep
from agentmesh.engine.batch import Batch
from agentmesh.engine.guard import changing, check_flags
from agentmesh.errors import ArgumentInvalid
from agentmesh.events import Event, Events, RotationDue, StockLow
from agentmesh.primitives.arguments import bytes_argument
from agentmesh.primitives.keys import Receipt


class AgentBoxes(AgentViews):
    """An agent's outbox, inbox and batches. `agentmesh.agent.Agent` is what can be made."""

    __slots__ = ()

    def batch(self) -> AbstractContextManager[Batch]:
        """Commit the calls of a with statement together. What they make can be read behind it, and not before.

        `receive` and `poll` return no events in it: its `events` are there at its end. Other threads wait for it. Where
        it is left by an error, what was done is committed all the same.

        Raises:
            BatchOpen: in the with statement, of one that is begun within another.
            StoreError, CommitFailed: at its end; whatever is called next makes that again first.
        """
        return self._seam.together()

    # --- delivery --------------------------------------------------------------------------------------------------

    @changing
    def sent(self, receipt: bytes, *, final: bool = False) -> None:
        """Say that the relay has taken an envelope of the `outbox`. Section 7.3.

        An answer or a signal leaves the outbox. Anything else stays until the peer has acknowledged or answered it, and
        is due again after a pause. A receipt of which nothing waits changes nothing: it may have been acknowledged.

        Args:
            receipt: The envelope's, 32 bytes.
            final: Let go of it in any case: where the peer does not acknowledge, or the relay keeps what it takes.

        Raises:
            ArgumentInvalid: not a receipt.
        """
        check_flags(final=final)
        named = Receipt(bytes_argument("receipt", receipt, 32, 32))
        self._seam.run(lambda now_ms: delivery.sent(self._core, named, now_ms, final=final))

    @changing
    def done(self, event: Event) -> None:
        """Say that the application has done with an event: it leaves the `inbox`. Section 7.3.

        An event that is not kept, or done, changes nothing. `accept` and `reject` are done with the event of a KNOCK.

        Args:
            event: The very object that was handed up.

        Raises:
            ArgumentInvalid: not an event.
        """
        if not isinstance(event, Event):
            raise ArgumentInvalid("event", "not an event")
        self._seam.run(lambda _: delivery.done(self._core, event))

    # --- time ------------------------------------------------------------------------------------------------------

    @changing
    def poll(self) -> Events:
        """Return what time brought: sessions that ended, kept keys that expired, signals due, stock low, rotation due.

        A low stock and a due rotation are told once, until bundles are published again.
        """
        events = self._seam.run(lambda now_ms: upkeep.poll(self._core, now_ms, **self._still_to_tell))
        self._stock_told |= any(isinstance(event, StockLow) for event in events)
        self._rotation_told |= any(isinstance(event, RotationDue) for event in events)
        return events

    # --- the audit trail -------------------------------------------------------------------------------------------

    @changing
    def record_refusals(self) -> None:
        """Tell the journal of the refusals counted so far, without waiting for their minute to end. Section 8.

        For an agent that is about to stop: the counts are kept in memory alone.

        Raises:
            StoreError, CommitFailed: the journal did not take them; they are still counted.
        """
        self._seam.record_refusals()
