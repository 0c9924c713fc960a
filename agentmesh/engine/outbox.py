"""What waits to leave, or to be acknowledged: each envelope as the bytes that it was sealed to (section 7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final, final

from attrs import field, frozen

from agentmesh.at_rest import require
from agentmesh.envelope import receipt_of
from agentmesh.limits import COUNTER_MAX, UINT_MAX
from agentmesh.outgoing import LABEL_MAX_BYTES
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import Receipt, SessionId


class Purpose(IntEnum):
    """What an envelope is for, which says when it need not be sent any more."""

    KNOCK = 1  # until its verdict has come, or its session is over
    ANSWER = 2  # until it was handed over: whoever misses it knocks again, and is answered again
    DATA = 3  # until the peer has acknowledged it, or its session is over
    CLOSE = 4  # until the peer has closed too, or the session is over
    SIGNAL = 5  # until it was handed over, or another has taken its place


def _size(value: bytes) -> str:
    return f"<{len(value)} bytes>"


def _hidden(value: bytes) -> str:
    return "<redacted>" if value else "b''"


@final
@frozen(kw_only=True, eq=False)
class Waiting:
    """An envelope that waits in the outbox.

    Attributes:
        sequence: The order in which envelopes were made.
        purpose: What it is for.
        did: Whom it is for.
        session_id: Its session, 16 bytes; of a REJECT the one that it refuses.
        number: The index of a data message; otherwise 0.
        label: What the application attached to a data message, 0 to 64 bytes; it never leaves. Not printed.
        envelope: The bytes, always the same.
        receipt: Of the envelope, 32 bytes: what `sent` is told.
    """

    sequence: int
    purpose: Purpose
    did: str
    session_id: SessionId = field(repr=lambda value: value.hex())
    number: int
    label: bytes = field(repr=_hidden)
    envelope: bytes = field(repr=_size)
    receipt: Receipt = field(repr=lambda value: value.hex())


@final
class Outbox:
    """The envelopes that wait, found by their order, their receipt, and their session and number.

    Attributes:
        size_bytes: How many bytes of envelopes wait.
    """

    __slots__ = ("_by_receipt", "_by_session", "_entries", "size_bytes")

    def __init__(self) -> None:
        self._entries: dict[int, Waiting] = {}
        self._by_receipt: dict[Receipt, int] = {}
        self._by_session: dict[SessionId, dict[int, None]] = {}
        self.size_bytes: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._entries.values())

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest that waits, 0 where none does."""
        return next(reversed(self._entries), 0)

    def get(self, sequence: int) -> Waiting | None:
        """Return what waits under this number, or `None`."""
        return self._entries.get(sequence)

    def find(self, receipt: Receipt) -> Waiting | None:
        """Return the envelope of this receipt, or `None`."""
        sequence = self._by_receipt.get(receipt)
        return None if sequence is None else self._entries[sequence]

    def of_session(self, session_id: SessionId) -> tuple[Waiting, ...]:
        """Return what waits of a session, oldest first."""
        return tuple(self._entries[sequence] for sequence in self._by_session.get(session_id, ()))

    def put(self, waiting: Waiting) -> None:
        """Let an envelope wait. For changes alone; again changes nothing."""
        sequence = waiting.sequence
        if sequence not in self._entries:
            self.size_bytes += len(waiting.envelope)
        self._entries[sequence] = waiting
        self._by_receipt[waiting.receipt] = sequence
        self._by_session.setdefault(waiting.session_id, {})[sequence] = None

    def remove(self, sequence: int) -> None:
        """Let go of one. For changes alone; again changes nothing."""
        waiting = self._entries.get(sequence)
        if waiting is None:
            return
        self._by_receipt.pop(waiting.receipt, None)
        of_session = self._by_session.get(waiting.session_id)
        if of_session is not None:
            of_session.pop(sequence, None)
            if not of_session:
                del self._by_session[waiting.session_id]
        self.size_bytes -= len(waiting.envelope)
        del self._entries[sequence]


# --- as bytes --------------------------------------------------------------------------------------------------------

WAITING: Final = _wire.array(
    _wire.Uint(UINT_MAX),
    _wire.Uint(5),
    _wire.Text(1, 128),
    _wire.Bin(16),
    _wire.Uint(COUNTER_MAX),
    _wire.Bin(0, LABEL_MAX_BYTES),
    _wire.Bin(1, UINT_MAX),
)


def waiting_fields(waiting: Waiting) -> list[Any]:
    """Return what `WAITING` lays out."""
    return [
        waiting.sequence,
        int(waiting.purpose),
        waiting.did,
        waiting.session_id,
        waiting.number,
        waiting.label,
        waiting.envelope,
    ]


def restore_waiting(fields: list[Any]) -> Waiting:
    """Return the envelope of these fields.

    Raises:
        Malformed: fields that contradict one another.
    """
    sequence, purpose, did, session_id, number, label, envelope = fields
    require(sequence > 0 and purpose > 0 and (number > 0) == (purpose == Purpose.DATA))
    return Waiting(
        sequence=sequence,
        purpose=Purpose(purpose),
        did=did,
        session_id=SessionId(session_id),
        number=number,
        label=label,
        envelope=envelope,
        receipt=receipt_of(envelope),
    )
