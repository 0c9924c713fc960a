"""What comes from the broker: received, then acknowledged; refused and acknowledged; or held, and taken again."""

from __future__ import annotations

from typing import Final, final

from agentmesh.courier.transport import Acknowledge
from agentmesh.courier.workings import Workings
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    CommitFailed,
    LocalError,
    RemoteError,
    StoreFailed,
    TransportFailed,
    TryAgain,
)
from agentmesh.events import Events, KnockReceived, SessionEstablished
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.primitives.arguments import bytes_argument
from agentmesh.retries import Retries

HELD_LOOK_MS: Final = 1000  # `Retries` counts its pauses in seconds


@final
class Intake:
    """Hands envelopes to the agent. What becomes of one decides what the broker is told.

    Attributes:
        last_resort_used: A KNOCK came on a last-resort bundle: the shelf may be empty.
    """

    __slots__ = ("_held", "_later", "_workings", "last_resort_used")

    def __init__(self, workings: Workings) -> None:
        self._workings = workings
        self._later = Retries()
        self._held: dict[bytes, Acknowledge] = {}
        self.last_resort_used: bool = False

    async def take(self, envelope: bytes, acknowledge: Acknowledge) -> None:
        """Receive an envelope. It is acknowledged once that is durable, or once it is known to be bad.

        What may be good later, or is denied by this side's own policy or disk, is held and not acknowledged: whatever
        becomes of this process, the broker has it. What is held waits for its own pause, however often it comes.

        Raises:
            StoreError: the agent cannot go on; the envelope is not acknowledged.
            TransportFailed: the broker did not take the acknowledgement; the envelope comes again, and is known then.
        """
        if isinstance(envelope, bytes) and envelope in self._held and envelope in self._later:
            self._held[envelope] = acknowledge  # one of a connection that has ended acknowledges nothing
            return
        await self._receive(envelope, acknowledge)

    async def _receive(self, envelope: bytes, acknowledge: Acknowledge) -> None:
        workings = self._workings
        events: Events = ()
        refused: AgentMeshError | None = None
        try:
            events = await workings.ask(workings.agent.receive, bytes_argument("envelope", envelope))
        except (LocalError, RemoteError, StoreFailed, CommitFailed) as error:
            refused = error
        if refused is not None:
            workings.note(refused, envelope)
            if _may_be_good(refused):
                self._hold(envelope, acknowledge)
                return
        self.last_resort_used |= any(
            isinstance(event, KnockReceived | SessionEstablished) and event.bundle_class is BundleClass.LAST_RESORT
            for event in events
        )
        workings.news.ring()
        workings.work.ring()  # of what was refused too: a duplicate wants a signal
        await workings.reach(lambda: _said(acknowledge))

    async def take_held(self) -> None:
        """Take again what was held, and is due.

        Raises:
            StoreError: as for `take`.
        """
        for envelope in self._later.due(self._workings.now_ms()):
            acknowledge = self._held.pop(envelope, None)
            if acknowledge is None:
                continue
            try:
                await self._receive(envelope, acknowledge)
            except TransportFailed as error:  # of a connection that has ended, perhaps: it comes again in the next one
                self._workings.note(error)

    @property
    def is_holding(self) -> bool:
        """Whether something is to be taken again."""
        return len(self._later) > 0

    def _hold(self, envelope: bytes, acknowledge: Acknowledge) -> None:
        self._later.hold(envelope, self._workings.now_ms())
        self._held[envelope] = acknowledge
        if len(self._held) > len(self._later):
            self._held = {one: told for one, told in self._held.items() if one in self._later}


def _may_be_good(refused: AgentMeshError) -> bool:
    if isinstance(refused, RemoteError):
        return isinstance(refused, TryAgain)
    is_no_bytes = isinstance(refused, ArgumentInvalid) and refused.argument == "envelope"
    return not is_no_bytes


async def _said(acknowledge: Acknowledge) -> None:
    await acknowledge()
