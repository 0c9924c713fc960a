"""One side's end of one session: what was sent and is not confirmed, what came and is not acknowledged."""

from __future__ import annotations

from enum import Enum
from typing import Final, final

from attrs import define, field

from agentmesh.primitives.keys import Receipt, SessionId
from benchmarks.fleet.script import ACKS_MAX, Conversation

# A peer opens late messages of its five latest past chains. So an application that must lose nothing lets no more turns
# than that go by while something of its own is unconfirmed. The last one is for an acknowledgement of everything that
# the peer has sent: if both sides spent it otherwise, each could wait for the other's confirmation for ever.
_TURNS_MAX: Final = 4
_ACK_TURNS_MAX: Final = 5


class Stage(Enum):
    """Where a link stands."""

    KNOCKING = "knocking"
    OPEN = "open"
    CLOSING = "closing"
    OVER = "over"


@final
@define(eq=False)
class Channel:
    """What both ends of a session share, as far as the script goes.

    Attributes:
        users: How many conversations go on in it.
        closer: Who closes it when they are over, by number, or `None`.
    """

    users: int = 0
    closer: int | None = None


@final
@define(eq=False)
class Item:
    """An envelope that was sealed: these bytes are sent again, never other ones, until they are known to have come."""

    envelope: bytes
    receipt: Receipt
    acks: list[Receipt]
    turn: int
    is_payload: bool
    tries: int = 0


@final
@define(eq=False)
class Link:
    """One side of a session.

    Attributes:
        peer: The other agent's number.
        session_id: The session.
        stage: Where it stands.
        channel: What both sides share.
        begun: This side knocked.
        early: The KNOCK carried a payload, which is message 1.
        conversations: Those that go on in it and that this side knows of.
        outbox: What was sealed and is not confirmed, by receipt.
        owed: Receipts of what has come and is not acknowledged yet.
        owes_payload: One of them is a payload's: an acknowledgement is due, whatever else there is to say.
        answers: By which envelope what has come was acknowledged; `None` where it is still owed.
        sealed: How many data messages this side has sealed.
        may_speak: The other side is known to hold the session.
        knock_receipt: Of this side's KNOCK.
        expires_ms: When the KNOCK expires, where it may be dropped after that: it carries no payload.
        is_ack_due: An acknowledgement is on the agenda.
        close: This side's close, where it was the first to close.
        answer: This side's close, where it answered the peer's.
        close_receipt: Of the peer's close.
        answered_ms: When a repeated close was last answered.
    """

    peer: int
    session_id: SessionId
    channel: Channel
    begun: bool = field(kw_only=True)
    early: bool = field(kw_only=True)
    stage: Stage = field(init=False)
    conversations: list[Conversation] = field(factory=list)
    outbox: dict[Receipt, Item] = field(factory=dict)
    owed: list[Receipt] = field(factory=list)
    owes_payload: bool = False
    answers: dict[Receipt, Item | None] = field(factory=dict)
    sealed: int = 0
    may_speak: bool = field(init=False)
    knock_receipt: Receipt | None = None
    expires_ms: int | None = None
    is_ack_due: bool = False
    close: bytes | None = None
    answer: bytes | None = None
    close_receipt: Receipt | None = None
    answered_ms: int = 0
    _turn: int = 0
    _has_heard: bool = False
    _highest: int = 0

    def __attrs_post_init__(self) -> None:
        self.stage = Stage.KNOCKING if self.begun else Stage.OPEN
        self.may_speak = self.begun or self.early

    @property
    def number(self) -> int:
        """The position of the next data message of this side (docs/protocol.md, section 6.2)."""
        return self.sealed + 1 + (self.begun and self.early)

    @property
    def awaits_confirmation(self) -> bool:
        """Say whether a payload of this side is not known to have come."""
        return any(item.is_payload for item in self.outbox.values())

    def is_held_up(self, *, acknowledges_all: bool = False) -> bool:
        """Say whether something unconfirmed is so many turns old that this side has to wait for its confirmation."""
        if not self.outbox:
            return False
        oldest = next(iter(self.outbox.values()))  # sealed first, so of the earliest turn
        turns = self._turn + self._has_heard - oldest.turn
        return turns > (_ACK_TURNS_MAX if acknowledges_all else _TURNS_MAX)

    def next_acks(self) -> list[Receipt]:
        """Return what the next message acknowledges."""
        return self.owed[:ACKS_MAX]

    def note_sealed(self, envelope: bytes, receipt: Receipt, acks: list[Receipt], *, is_payload: bool) -> Item:
        """Note a message that was sealed with these acknowledgements."""
        self._turn += self._has_heard
        self._has_heard = False
        self.sealed += 1
        item = self.outbox[receipt] = Item(envelope, receipt, acks, self._turn, is_payload)
        for acknowledged in acks:
            self.answers[acknowledged] = item
        del self.owed[: len(acks)]
        self.owes_payload = self.owes_payload and bool(self.owed)
        return item

    def note_received(self, receipt: Receipt, number: int, acks: list[Receipt], *, is_payload: bool) -> None:
        """Note a message that was opened, and what it confirms."""
        # A turn of the peer's begins with a number above all before it; what came late begins none.
        self._has_heard |= number > self._highest
        self._highest = max(number, self._highest)
        self.may_speak = True
        self.owed.append(receipt)
        self.owes_payload |= is_payload
        self.answers[receipt] = None
        for confirmed in acks:
            item = self.outbox.pop(confirmed, None)
            if item is not None:
                # The peer knows that its messages came, and sends them no more.
                for settled in item.acks:
                    self.answers.pop(settled, None)
