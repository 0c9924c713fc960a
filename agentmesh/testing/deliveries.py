"""The reference model of delivery: what was sent one way, and what became of it. Plain bookkeeping by receipts."""

from __future__ import annotations

from collections import deque
from typing import final

from agentmesh.errors import AgentMeshError
from agentmesh.primitives.keys import Receipt, SessionId


@final
class Ledger:
    """One direction between two agents. It raises AssertionError where a message arrives that may not.

    Attributes:
        sent: What was sent, oldest first; of a long run the latest.
        delivered: What was delivered, in the order of delivery; of a long run the latest.
        dropped: What the network dropped for good; of a long run the latest.
        refused: What the recipient refused for good, and how; of a long run the latest.
        lost: How many messages the recipient said were lost, because their keys went.
    """

    def __init__(self, history_max: int) -> None:
        self.sent: deque[bytes] = deque(maxlen=history_max)
        self.delivered: deque[bytes] = deque(maxlen=history_max)
        self.dropped: deque[bytes] = deque(maxlen=history_max)
        self.refused: deque[tuple[bytes, type[AgentMeshError]]] = deque(maxlen=history_max)
        self.lost = 0
        self._waiting: dict[Receipt, tuple[SessionId, bytes]] = {}
        self._early: dict[SessionId, bytes] = {}

    @property
    def undelivered(self) -> tuple[bytes, ...]:
        """What was sent, and neither delivered nor dropped nor refused."""
        return tuple(data for _, data in self._waiting.values())

    def send(self, receipt: Receipt, session_id: SessionId, data: bytes) -> None:
        """Note a message that was sealed."""
        self.sent.append(data)
        self._waiting[receipt] = (session_id, data)

    def send_early(self, session_id: SessionId, data: bytes) -> None:
        """Note the early payload of a KNOCK. It is owed to nobody, since a KNOCK may be rejected."""
        self.sent.append(data)
        self._early[session_id] = data

    def deliver(self, receipt: Receipt, session_id: SessionId, data: bytes) -> None:
        """Note a message that was opened: it was sent in this very envelope and has not been delivered."""
        if self._waiting.pop(receipt, None) != (session_id, data):
            raise AssertionError("a message was delivered that was not sent, not so, or not once")
        self.delivered.append(data)

    def deliver_early(self, session_id: SessionId, data: bytes) -> None:
        """Note an early payload that was released."""
        if self._early.pop(session_id, None) != data:
            raise AssertionError("an early payload was released that was not sent, not so, or not once")
        self.delivered.append(data)

    def reject(self, session_id: SessionId) -> None:
        """Note that a KNOCK was rejected: its early payload may not be released any more."""
        self._early.pop(session_id, None)

    def drop(self, receipt: Receipt) -> None:
        """Note that the last copy of an envelope is gone."""
        waiting = self._waiting.pop(receipt, None)
        if waiting is not None:
            self.dropped.append(waiting[1])

    def refuse(self, receipt: Receipt, error: AgentMeshError) -> None:
        """Note that the recipient refused the last copy of an envelope."""
        waiting = self._waiting.pop(receipt, None)
        if waiting is not None:
            self.refused.append((waiting[1], type(error)))

    def close(self, session_id: SessionId) -> None:
        """Note that the recipient counts a session as closed: then everything sent in it has been delivered."""
        if any(waiting == session_id for waiting, _ in self._waiting.values()):
            raise AssertionError("a session is closed without all that was sent in it")
