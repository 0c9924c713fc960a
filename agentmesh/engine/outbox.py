"""What waits to leave, or to be acknowledged: each envelope as the bytes that it was sealed to (section 7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final, final

from attrs import define, field

from agentmesh.at_rest import require
from agentmesh.engine.tally import Sum, Tally
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
    CLOSE = 4  # until the peer has closed too; in answer to the peer's, while the peer may still wait for it
    SIGNAL = 5  # until it was handed over, or another has taken its place


def _size(value: bytes) -> str:
    return f"<{len(value)} bytes>"


def _hidden(value: bytes) -> str:
    return "<redacted>" if value else "b''"


@final
@define(eq=False)
class Waiting:
    """An envelope that waits in the outbox. Slotted and not frozen, because one is made for every message.

    Attributes:
        sequence: The order in which envelopes were made.
        purpose: What it is for.
        did: Whom it is for.
        session_id: Its session, 16 bytes; of a REJECT, which begins none, zeros.
        number: The index of a data message; otherwise 0.
        label: What the application attached to a data message, 0 to 64 bytes; it never leaves. Not printed.
        envelope: The bytes, always the same.
    """

    sequence: int
    purpose: Purpose
    did: str
    session_id: SessionId = field(repr=lambda value: value.hex())
    number: int
    label: bytes = field(repr=_hidden)
    envelope: bytes = field(repr=_size)
    _receipt: Receipt | None = field(default=None, init=False, repr=False)

    @property
    def has_receipt(self) -> bool:
        """Whether anybody asked for the receipt yet."""
        return self._receipt is not None

    @property
    def receipt(self) -> Receipt:
        """The envelope's receipt, 32 bytes: what `sent` is told. Computed when asked for."""
        receipt = self._receipt
        if receipt is None:
            receipt = self._receipt = receipt_of(self.envelope)
        return receipt


NO_SESSION: Final = SessionId(bytes(16))
# By their own names, because looking up a member costs as much as a call, and every message passes here.
DATA: Final = Purpose.DATA
CLOSE: Final = Purpose.CLOSE
CAUSED: Final = frozenset({Purpose.ANSWER, Purpose.SIGNAL})  # by peers


@final
class Outbox:
    """The envelopes that wait, found by their order, their receipt, and their session and number.

    Attributes:
        caused: What peers caused, answers and signals, by sequence, oldest first.
        passing: KNOCKs and closes, by sequence: what time alone may take away.
    """

    __slots__ = (
        "_by_number", "_by_receipt", "_entries", "_others", "_tally", "_unread", "caused", "passing",
    )  # fmt: skip

    def __init__(self) -> None:
        self._entries: dict[int, Waiting] = {}
        self._by_receipt: dict[Receipt, int] = {}
        self._unread: dict[int, None] = {}  # those that are not in there yet: most are never asked for by their receipt
        self._by_number: dict[SessionId, dict[int, int]] = {}  # data, by index
        self._others: dict[SessionId, dict[int, None]] = {}
        self._tally = Tally()  # of what no peer caused, by whom it is for
        self.caused: dict[int, None] = {}
        self.passing: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._entries.values())

    @property
    def made(self) -> Sum:
        """How many the application made, or this side for it, and how many bytes they have."""
        return self._tally.total

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest that waits, 0 where none does."""
        return next(reversed(self._entries), 0)

    def get(self, sequence: int) -> Waiting | None:
        """Return what waits under this number, or `None`."""
        return self._entries.get(sequence)

    def find(self, receipt: Receipt) -> Waiting | None:
        """Return the envelope of this receipt, or `None`."""
        for unread in [*self._unread]:
            self._by_receipt[self._entries[unread].receipt] = unread
            del self._unread[unread]
        sequence = self._by_receipt.get(receipt)
        return None if sequence is None else self._entries[sequence]

    def data_of(self, session_id: SessionId, indices: tuple[range, ...] | None = None) -> list[Waiting]:
        """Return the data messages of a session that wait, by their numbers: all, or those of these indices."""
        of_session = self._by_number.get(session_id, {})
        if indices is None:
            numbers = sorted(of_session)
        elif sum(map(len, indices)) <= len(of_session):
            numbers = [number for one in indices for number in one if number in of_session]
        else:
            numbers = [number for number in sorted(of_session) if any(number in one for one in indices)]
        return [self._entries[of_session[number]] for number in numbers]

    def others_of(self, session_id: SessionId) -> list[Waiting]:
        """Return what else waits of a session, oldest first."""
        return [self._entries[sequence] for sequence in self._others.get(session_id, ())]

    # An entry comes into `_entries` last, and leaves it last: what is broken off before is done whole again.

    def put(self, waiting: Waiting) -> None:
        """Let an envelope wait. For changes alone; again changes nothing."""
        sequence, is_caused = waiting.sequence, False
        if waiting.purpose is DATA:
            self._by_number.setdefault(waiting.session_id, {})[waiting.number] = sequence
        else:
            is_caused = waiting.purpose in CAUSED
            self._others.setdefault(waiting.session_id, {})[sequence] = None
            (self.caused if is_caused else self.passing)[sequence] = None
        if sequence not in self._entries:
            if not is_caused:
                self._tally.come(sequence, waiting.did, len(waiting.envelope))
            self._unread[sequence] = None
            self._entries[sequence] = waiting

    def remove(self, sequence: int) -> None:
        """Let go of one. For changes alone; again changes nothing."""
        waiting = self._entries.get(sequence)
        if waiting is None:
            return
        self._unread.pop(sequence, None)
        if waiting.has_receipt:  # it may be in both, where `find` was broken off
            self._by_receipt.pop(waiting.receipt, None)
        if waiting.purpose is DATA:
            _take_out(self._by_number, waiting.session_id, waiting.number)
        else:
            _take_out(self._others, waiting.session_id, sequence)
            self.caused.pop(sequence, None)
            self.passing.pop(sequence, None)
        if waiting.purpose not in CAUSED:
            self._tally.go(sequence, waiting.did, len(waiting.envelope))
        del self._entries[sequence]


def _take_out(index: dict[SessionId, dict[int, Any]], session_id: SessionId, key: int) -> None:
    of_session = index.get(session_id)
    if of_session is not None:
        of_session.pop(key, None)
        if not of_session:
            index.pop(session_id, None)


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
    )
