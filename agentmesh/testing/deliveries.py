"""The reference model of delivery: what was sent one way, and what became of it. Plain bookkeeping by receipts."""

from __future__ import annotations

from collections import deque
from typing import final

from agentmesh.errors import AgentMeshError
from agentmesh.primitives.keys import Receipt, SessionId
from agentmesh.session.indices import NONE, Indices

_RANGES_MAX = 100_000  # more than a test makes


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
        self._waiting: dict[Receipt, tuple[SessionId, bytes, int]] = {}
        self._early: dict[SessionId, bytes] = {}
        self._opened: dict[SessionId, Indices] = {}
        self._told: dict[SessionId, Indices] = {}

    @property
    def undelivered(self) -> tuple[bytes, ...]:
        """What was sent, and neither delivered nor dropped nor refused."""
        return tuple(data for _, data, _ in self._waiting.values())

    def send(self, receipt: Receipt, session_id: SessionId, data: bytes, number: int) -> None:
        """Note a message that was sealed."""
        self.sent.append(data)
        self._waiting[receipt] = (session_id, data, number)

    def send_early(self, session_id: SessionId, data: bytes) -> None:
        """Note the early payload of a KNOCK. It is owed to nobody, since a KNOCK may be rejected."""
        self.sent.append(data)
        self._early[session_id] = data

    def deliver(self, receipt: Receipt, session_id: SessionId, data: bytes, number: int) -> None:
        """Note a message that was opened: it was sent in this very envelope and has not been delivered."""
        if self._waiting.pop(receipt, None) != (session_id, data, number):
            raise AssertionError("a message was delivered that was not sent, not so, or not once")
        self.delivered.append(data)
        self._note_opened(session_id, number)

    def accept_early(self, session_id: SessionId) -> None:
        """Note that the sender knows that its early payload was released: its KNOCK was accepted."""
        if not self._opened.get(session_id, NONE).is_new(1):
            self._told[session_id] = self._told.get(session_id, NONE).with_range(1, 1, _RANGES_MAX)

    def deliver_early(self, session_id: SessionId, data: bytes) -> None:
        """Note an early payload that was released."""
        if self._early.pop(session_id, None) != data:
            raise AssertionError("an early payload was released that was not sent, not so, or not once")
        self.delivered.append(data)
        self._note_opened(session_id, 1)

    def acknowledge(self, session_id: SessionId, indices: tuple[range, ...]) -> None:
        """Note what the sender was told of: it was delivered, and the sender was not told before."""
        opened, told = self._opened.get(session_id, NONE), self._told.get(session_id, NONE)
        for one in indices:
            if opened.gaps(one.stop - 1, one.start) or told.gaps(one.stop - 1, one.start) != (one,):
                raise AssertionError("what was not delivered was acknowledged, or was told of twice")
            told = told.with_range(one.start, one.stop - 1, _RANGES_MAX)
        self._told[session_id] = told

    def unheard(self, session_id: SessionId) -> tuple[range, ...]:
        """Return the indices of what was delivered and the sender was not told of."""
        opened = self._opened.get(session_id, NONE)
        told = self._told.get(session_id, NONE)
        return tuple(gap for first, last in opened.ranges for gap in told.gaps(last, first))

    def _note_opened(self, session_id: SessionId, number: int) -> None:
        opened = self._opened.get(session_id, NONE)
        if not opened.is_new(number):
            raise AssertionError("two messages of a session had one number")
        self._opened[session_id] = opened.with_index(number, _RANGES_MAX)

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
        if any(waiting == session_id for waiting, _, _ in self._waiting.values()):
            raise AssertionError("a session is closed without all that was sent in it")
