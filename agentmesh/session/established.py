"""One established conversation: what it holds, when it ends, and what a message changes in it (section 7).

The phases before and after stand in `agentmesh.session.pending` and `agentmesh.session.facts`. How it seals and opens
is in `agentmesh.session.sealing` and `agentmesh.session.opening`: they change nothing, and return a change of here.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, final

from attrs import frozen

from agentmesh.handshake.verdict import UNLIMITED, Conditions
from agentmesh.limits import CLOCK_TOLERANCE_MS, COUNTER_MAX, LATE_WINDOW_MS, PENDING_GRACE_MS, Limits
from agentmesh.primitives.keys import Redacted
from agentmesh.session.chains import Delta, SendingChain
from agentmesh.session.epochs import Half
from agentmesh.session.facts import Facts, PeerClose
from agentmesh.session.indices import NONE, Indices
from agentmesh.session.phases import Happening, Phase
from agentmesh.session.ratchet import Ratchet

# What is not acknowledged yet: (how many data messages, when the first of them was opened).
Owed = tuple[int, int]


class Holder(Protocol):
    """Where a change finds the session that it advances: an agent's state, or a draft of it."""

    def advancing(self, session: Session, /) -> Session:
        """Return the session to change: this one, or a draft's copy of it; where changes are noted, note it."""
        ...


@final
class MessageSent(Redacted):
    """The change that sealing one message makes in a session. Apply it before the message leaves.

    It says what is to hold afterwards, so that applying it again changes nothing.
    """

    __slots__ = ("acknowledges", "data_sent", "half", "own_close_at_ms", "sending", "session")

    def __init__(
        self,
        session: Session,
        sending: SendingChain,
        half: Half | None,
        data_sent: int,
        own_close_at_ms: int | None,
        acknowledges: bool,
    ) -> None:
        self.session: Session = session
        self.sending: SendingChain = sending
        self.half: Half | None = half
        self.data_sent: int = data_sent
        self.own_close_at_ms: int | None = own_close_at_ms
        self.acknowledges: bool = acknowledges

    def apply(self, state: Holder | None = None, /) -> None:
        """Advance the session."""
        session = self.session if state is None else state.advancing(self.session)
        session.ratchet.apply_sealed(self.sending, self.half)
        session.data_sent = self.data_sent
        if session.facts.initiator:
            session.begin_by_ms = None
        if self.own_close_at_ms is not None:
            session.own_close_at_ms = self.own_close_at_ms
        if self.acknowledges:
            session.owed = None


@frozen
class AckTaken:
    """What an acknowledgement makes known.

    Attributes:
        acknowledged: The indices of this side that the peer has said it opened.
        delivered: Those of them that are new.
        told_ahead: The application is, or was, told that the peer acknowledges what this side never sent.
    """

    acknowledged: Indices
    delivered: tuple[range, ...]
    told_ahead: bool


@final
class MessageTaken(Redacted):
    """The change that opening one message makes in a session. Applying it again changes nothing."""

    __slots__ = ("ack", "opened", "owed", "peer_close", "received", "session")

    def __init__(
        self,
        session: Session,
        opened: Delta,
        received: Indices,
        owed: Owed | None,
        ack: AckTaken | None,
        peer_close: PeerClose | None,
    ) -> None:
        self.session: Session = session
        self.opened: Delta = opened
        self.received: Indices = received
        self.owed: Owed | None = owed
        self.ack: AckTaken | None = ack
        self.peer_close: PeerClose | None = peer_close

    def apply(self, state: Holder | None = None, /) -> None:
        """Advance the session."""
        session = self.session if state is None else state.advancing(self.session)
        session.ratchet.apply(self.opened)
        session.received = self.received
        session.owed = self.owed
        if not session.facts.initiator:
            session.begin_by_ms = None
        if self.ack is not None:
            session.acknowledged = self.ack.acknowledged
            session.told_ahead = self.ack.told_ahead
        if self.peer_close is not None:
            session.peer_close = self.peer_close


@final
class Session(Redacted):
    """An established conversation, changed by `MessageSent`, `MessageTaken` and the engine's changes alone.

    Attributes:
        facts: What is fixed.
        ratchet: The Double Ratchet.
        conditions: What the acceptor granted.
        accepted_at_ms: The ACCEPT's header time.
        data_sent: The index of the last data message that was sealed, early payload included.
        received: The indices of the peer's data messages that were opened, early payload included.
        acknowledged: The indices of this side's that the peer has said it opened.
        owed: What is to be acknowledged; `None` where nothing is, or nobody asked for it.
        told_ahead: The application was told that the peer acknowledges what this side never sent.
        begin_by_ms: Until when data is sent though this side knows of no message of the initiator; `None` once it does:
            A has sealed one, B has opened one.
        own_close_at_ms: When this side sealed its close.
        peer_close: The peer's close, once it was opened.
        superseded_at_ms: When a fresh KNOCK of the peer took this session's place.
    """

    phase: ClassVar[Phase] = Phase.ESTABLISHED
    __slots__ = (
        "accepted_at_ms",
        "acknowledged",
        "begin_by_ms",
        "conditions",
        "data_sent",
        "facts",
        "owed",
        "own_close_at_ms",
        "peer_close",
        "ratchet",
        "received",
        "superseded_at_ms",
        "told_ahead",
    )

    def __init__(
        self,
        facts: Facts,
        ratchet: Ratchet,
        conditions: Conditions,
        *,
        accepted_at_ms: int,
        data_sent: int = 0,
        received: Indices = NONE,
        acknowledged: Indices = NONE,
        owed: Owed | None = None,
        told_ahead: bool = False,
        begin_by_ms: int | None = None,
        own_close_at_ms: int | None = None,
        peer_close: PeerClose | None = None,
        superseded_at_ms: int | None = None,
    ) -> None:
        self.facts: Facts = facts
        self.ratchet: Ratchet = ratchet
        self.conditions: Conditions = conditions
        self.accepted_at_ms: int = accepted_at_ms
        self.data_sent: int = data_sent
        self.received: Indices = received
        self.acknowledged: Indices = acknowledged
        self.owed: Owed | None = owed
        self.told_ahead: bool = told_ahead
        self.begin_by_ms: int | None = begin_by_ms
        self.own_close_at_ms: int | None = own_close_at_ms
        self.peer_close: PeerClose | None = peer_close
        self.superseded_at_ms: int | None = superseded_at_ms

    def copy(self) -> Session:
        """Return a session of the same state that can be changed apart."""
        return Session(
            self.facts,
            self.ratchet.copy(),
            self.conditions,
            accepted_at_ms=self.accepted_at_ms,
            data_sent=self.data_sent,
            received=self.received,
            acknowledged=self.acknowledged,
            owed=self.owed,
            told_ahead=self.told_ahead,
            begin_by_ms=self.begin_by_ms,
            own_close_at_ms=self.own_close_at_ms,
            peer_close=self.peer_close,
            superseded_at_ms=self.superseded_at_ms,
        )

    @property
    def confirmed(self) -> bool:
        """The peer has shown that it holds the session's keys: A by its first message, B by its ACCEPT."""
        return self.facts.initiator or self.begin_by_ms is None

    def unheard(self, now_ms: int) -> bool:
        """Say whether no message of the initiator has come in time."""
        return self.begin_by_ms is not None and now_ms > self.begin_by_ms + PENDING_GRACE_MS

    # --- when it ends ----------------------------------------------------------------------------------------------

    @property
    def ttl_end_ms(self) -> int | None:
        """The end of its time to live, or `None` for unlimited. Sending ends here, receiving 300 s later."""
        ttl_seconds = self.conditions.ttl_seconds
        return None if ttl_seconds is None else self.accepted_at_ms + ttl_seconds * 1000

    @property
    def deadline_ms(self) -> int | None:
        """The next time at which it ends by itself, or `None`."""
        times: list[int] = []
        if self.begin_by_ms is not None:  # what was sent by then may lie at a relay for a day
            times.append(self.begin_by_ms + PENDING_GRACE_MS)
        if self.ttl_end_ms is not None:
            times.append(self.ttl_end_ms + CLOCK_TOLERANCE_MS)
        if self.peer_close is not None:  # from here on only what it announced is awaited
            times.append(self.peer_close.at_ms + LATE_WINDOW_MS)
        elif self.own_close_at_ms is not None:
            times.append(self.own_close_at_ms + LATE_WINDOW_MS)
        if self.superseded_at_ms is not None:
            times.append(self.superseded_at_ms + LATE_WINDOW_MS)
        return min(times, default=None)

    def ending(self, now_ms: int) -> Happening | None:
        """Return what has ended it by `now_ms`, or `None` while it lives."""
        close = self.peer_close
        closing = close is not None or self.own_close_at_ms is not None or self.superseded_at_ms is not None
        if not closing and self.conditions.ttl_seconds is None:
            return Happening.TIMED_OUT if self.unheard(now_ms) else None
        if close is not None and self.own_close_at_ms is not None and self.received.has_all(close.data_sent):
            return Happening.COMPLETED
        deadline_ms = self.deadline_ms
        if deadline_ms is None or now_ms <= deadline_ms:
            return None
        return Happening.CUT_OFF if closing else Happening.TIMED_OUT

    def may_send(self, now_ms: int, *, answer: bool = False) -> bool:
        """Say whether data can be sealed now, conditions aside; or the close in answer to the peer's."""
        if self.own_close_at_ms is not None or self.peer_close is not None or self.superseded_at_ms is not None:
            return False
        if self.begin_by_ms is not None and now_ms > self.begin_by_ms and not answer:
            return False
        return self.conditions is UNLIMITED or (end_ms := self.ttl_end_ms) is None or now_ms <= end_ms

    # --- what it counts --------------------------------------------------------------------------------------------

    @property
    def data_opened(self) -> int:
        """How many data messages of the peer were opened, early payload included."""
        return self.received.count

    @property
    def last_position_in(self) -> int:
        """The highest position of a message received from the peer; -1 before the first."""
        receiving = self.ratchet.receiving
        return -1 if receiving is None else self.facts.position_in(receiving.start + receiving.n - 1)

    @property
    def missing(self) -> tuple[range, ...]:
        """The indices of the peer's data messages that are known to exist and were not opened, ascending.

        The last is at most what the peer's close announced, or what was opened: a claim, so count them by their ends.
        """
        close = self.peer_close
        return self.received.gaps(self.received.last if close is None else max(close.data_sent, self.received.last))

    def signal_due_ms(self, now_ms: int, limits: Limits) -> int | None:
        """Return when what is owed is to be acknowledged without data, or `None` where it is not. Section 6.4."""
        if self.owed is None or not self.may_signal(now_ms):
            return None
        messages, since_ms = self.owed
        # A clock that was set back says nothing of how long the peer waits.
        return now_ms if messages >= limits.ack_after_messages or now_ms < since_ms else since_ms + limits.ack_delay_ms

    def may_signal(self, now_ms: int) -> bool:
        """Say whether a signal could be sealed now, and would say something."""
        sending = self.ratchet.sending
        return bool(self.received.ranges) and sending is not None and sending.n < COUNTER_MAX and self.may_send(now_ms)
