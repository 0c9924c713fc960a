"""One conversation: conditions, positions, padding, and how it ends (docs/protocol.md, sections 5.2, 6.1 and 7).

The phases before and after stand in `agentmesh.session.pending` and `agentmesh.session.facts`.

Nothing here changes by opening or sealing: both return what they would change, and `apply` is the owner's last act.

Plaintexts are `type || content`, padded: 0 data [action length (1) || action || data], 1 accept, 2 close [msgpack].
"""

from __future__ import annotations

from typing import ClassVar, Protocol, final

from agentmesh.envelope import Kind, OuterEnvelope, build_behind
from agentmesh.errors import (
    ClosedSession,
    ConditionNotMet,
    GapTooLarge,
    MessageAfterClose,
    MessageRefused,
    PeerConditionBroken,
    SessionNotOpen,
    TooLarge,
)
from agentmesh.handshake.verdict import UNLIMITED, Conditions
from agentmesh.limits import ACTION_MAX_BYTES, CLOCK_TOLERANCE_MS, LATE_WINDOW_MS, PENDING_GRACE_MS, Limits
from agentmesh.outgoing import Sealed
from agentmesh.primitives import _crypto
from agentmesh.primitives.arguments import BytesLike, bytes_argument, text_argument
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import Disclosure, DisclosureKey, Redacted
from agentmesh.session.chains import OpenDelta, SendingChain, Turn
from agentmesh.session.content import REASON_MAX_BYTES, ContentType, pad_close, pad_data, parse_close, parse_content
from agentmesh.session.facts import SESSION_ID_BYTES, Facts, PeerClose
from agentmesh.session.phases import Happening, Phase
from agentmesh.session.ratchet import Opened, Ratchet


class Holder(Protocol):
    """Where a change finds the session that it advances: an agent's state, or a draft of it."""

    is_draft: bool

    def advancing(self, session: Session, /) -> Session:
        """Return the session to change: this one, or a draft's copy of it."""
        ...


@final
class MessageSent(Redacted):
    """The change that sealing one message makes in a session. Apply it before the message leaves.

    It says what is to hold afterwards, so that applying it again changes nothing.
    """

    __slots__ = ("data_sent", "own_close_at_ms", "sending", "session")

    def __init__(self, session: Session, sending: SendingChain, data_sent: int, own_close_at_ms: int | None) -> None:
        self.session: Session = session
        self.sending: SendingChain = sending
        self.data_sent: int = data_sent
        self.own_close_at_ms: int | None = own_close_at_ms

    def apply(self, state: Holder | None = None, /) -> None:
        """Advance the session."""
        session = self.session
        if state is not None and state.is_draft:
            session = state.advancing(session)
        session.ratchet.apply_sealed(self.sending)
        session.data_sent = self.data_sent
        if session.facts.initiator:
            session.begin_by_ms = None
        if self.own_close_at_ms is not None:
            session.own_close_at_ms = self.own_close_at_ms


@final
class MessageTaken(Redacted):
    """The change that opening one message makes in a session. Applying it again changes nothing."""

    __slots__ = ("data_opened", "opened", "peer_close", "session")

    def __init__(self, session: Session, opened: OpenDelta, data_opened: int, peer_close: PeerClose | None) -> None:
        self.session: Session = session
        self.opened: OpenDelta = opened
        self.data_opened: int = data_opened
        self.peer_close: PeerClose | None = peer_close

    def apply(self, state: Holder | None = None, /) -> None:
        """Advance the session."""
        session = self.session
        if state is not None and state.is_draft:
            session = state.advancing(session)
        session.ratchet.apply(self.opened)
        session.data_opened = self.data_opened
        if not session.facts.initiator:
            session.begin_by_ms = None
        if self.peer_close is not None:
            session.peer_close = self.peer_close


@final
class Incoming(Redacted):
    """An authentic message that passed every check of section 6.1; nothing has changed yet.

    Attributes:
        content_type: Data or close.
        action: The action that a data message carries.
        data: The data, or the reason of a close as UTF-8.
        number: Its position in the peer's direction.
        time_ms: The envelope's time, by the peer's clock.
        peer_close: What a close announces.
        disclosure_key: Opens this one message; only where it was asked for.
    """

    __slots__ = (
        "_opened",
        "_session",
        "action",
        "content_type",
        "data",
        "disclosure_key",
        "number",
        "peer_close",
        "time_ms",
    )

    def __init__(
        self,
        session: Session,
        opened: Opened,
        content_type: ContentType,
        action: str,
        data: bytes,
        number: int,
        time_ms: int,
        peer_close: PeerClose | None,
        disclosure_key: DisclosureKey | None,
    ) -> None:
        self._session = session
        self._opened = opened
        self.content_type: ContentType = content_type
        self.action: str = action
        self.data: bytes = data
        self.number: int = number
        self.time_ms: int = time_ms
        self.peer_close: PeerClose | None = peer_close
        self.disclosure_key: DisclosureKey | None = disclosure_key

    def taken(self, entropy: Entropy) -> MessageTaken:
        """Return what accepting this message changes."""
        session = self._session
        data_opened = session.data_opened + 1 if self.content_type is ContentType.DATA else session.data_opened
        return MessageTaken(session, self._opened.delta(entropy), data_opened, self.peer_close)


# --- established -----------------------------------------------------------------------------------------------------


@final
class Session(Redacted):
    """An established conversation. `seal` and `open` change nothing: both give the change to apply.

    Attributes:
        facts: What is fixed.
        ratchet: The Double Ratchet.
        conditions: What the acceptor granted.
        accepted_at_ms: The ACCEPT's header time.
        data_sent: Data messages sealed, early payload included.
        data_opened: Data messages opened, early payload included.
        begin_by_ms: Until when data is sent though this side knows of no message of the initiator; `None` once it does:
            A has sealed one, B has opened one.
        own_close_at_ms: When this side sealed its close.
        peer_close: The peer's close, once it was opened.
        superseded_at_ms: When a fresh KNOCK of the peer took this session's place.
    """

    phase: ClassVar[Phase] = Phase.ESTABLISHED
    __slots__ = (
        "accepted_at_ms",
        "begin_by_ms",
        "conditions",
        "data_opened",
        "data_sent",
        "facts",
        "own_close_at_ms",
        "peer_close",
        "ratchet",
        "superseded_at_ms",
    )

    def __init__(
        self,
        facts: Facts,
        ratchet: Ratchet,
        conditions: Conditions,
        *,
        accepted_at_ms: int,
        data_sent: int = 0,
        data_opened: int = 0,
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
        self.data_opened: int = data_opened
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
            data_opened=self.data_opened,
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
        if not closing and self.conditions.ttl_seconds is None and self.begin_by_ms is None:
            return None
        if close is not None and self.own_close_at_ms is not None and self.data_opened >= close.data_sent:
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

    # --- sealing ---------------------------------------------------------------------------------------------------

    def seal(
        self,
        data: BytesLike,
        *,
        action: str | None = None,
        now_ms: int,
        limits: Limits,
        entropy: Entropy,
        disclosable: bool = False,
    ) -> tuple[Sealed, MessageSent]:
        """Return (a data message, sealed; the change that it makes). Apply the change before the message leaves.

        Args:
            data: 0 to `limits.plaintext_max_bytes` bytes.
            action: What the data is for, 1 to 128 bytes of UTF-8; the KNOCK's action if `None`.
            now_ms: This side's clock.
            limits: This side's limits.
            entropy: For the nonce.
            disclosable: Return the message's key too (section 8.1); keeping it undoes its forward secrecy.

        Raises:
            ArgumentInvalid: a wrong type, or data over the limit.
            SessionNotOpen: closed, superseded or expired.
            ConditionNotMet: `max_messages` or `allowed_actions` forbids it.
            ChainExhausted: 2^32 - 1 messages without an answer.
        """
        if type(data) is not bytes or len(data) > limits.plaintext_max_bytes:
            data = bytes_argument("data", data, 0, limits.plaintext_max_bytes)
        named = b""
        if action is not None and action != self.facts.action:
            named = text_argument("action", action, 1, ACTION_MAX_BYTES).encode()
        if not self.may_send(now_ms):
            raise SessionNotOpen
        conditions = self.conditions
        allowed = conditions.allowed_actions
        if allowed is not None and (action or self.facts.action) not in allowed:
            raise ConditionNotMet("allowed_actions")
        if conditions.max_messages is not None and self.next_number > conditions.max_messages:
            raise ConditionNotMet("max_messages")
        padded = pad_data(named, data)
        return self._seal(padded, now_ms, entropy, disclosable, self.data_sent + 1, None)

    def seal_close(self, reason: str, *, now_ms: int, entropy: Entropy) -> tuple[Sealed, MessageSent]:
        """Return (this side's close, sealed; the change that it makes): the last thing that it sends.

        Allowed whatever `max_messages` says.

        Raises:
            ArgumentInvalid: the reason is not 0 to 128 bytes of UTF-8.
            SessionNotOpen: this side has closed already, or the session is over.
        """
        text_argument("reason", reason, 0, REASON_MAX_BYTES)
        expired = self.ttl_end_ms is not None and now_ms > self.ttl_end_ms
        if self.own_close_at_ms is not None or expired or self.ending(now_ms) is not None:
            raise SessionNotOpen
        padded = pad_close(reason, self.data_sent, self.data_opened)
        return self._seal(padded, now_ms, entropy, False, self.data_sent, now_ms)

    def answer_close(self, closing: MessageTaken, *, now_ms: int, entropy: Entropy) -> tuple[Sealed, MessageSent]:
        """Return this side's close in answer to the peer's, as `seal_close`, over the state after `closing`.

        Apply `closing` first.
        """
        padded = pad_close("", self.data_sent, self.data_opened)
        return self._seal(padded, now_ms, entropy, False, self.data_sent, now_ms, closing.opened.turn)

    @property
    def next_number(self) -> int:
        """The position of the next message of this side."""
        sending = self.ratchet.sending
        return self.facts.number_out(0 if sending is None else sending.start + sending.n)

    @property
    def last_number_in(self) -> int:
        """The highest position of a message received from the peer; -1 before the first."""
        receiving = self.ratchet.receiving
        return -1 if receiving is None else self.facts.number_in(receiving.start + receiving.n - 1)

    def _seal(
        self,
        padded: bytes,
        now_ms: int,
        entropy: Entropy,
        disclosable: bool,
        data_sent: int,
        own_close_at_ms: int | None,
        turn: Turn | None = None,
    ) -> tuple[Sealed, MessageSent]:
        facts = self.facts
        head, context = facts.outgoing(now_ms)
        nonce = entropy.token(_crypto.NONCE_BYTES)
        message, message_key, sending = self.ratchet.seal(padded, context, nonce, turn)
        number = facts.number_out(sending.start + sending.n - 1)
        envelope = build_behind(head, facts.session_id, *message)
        disclosure = Disclosure(facts.th + message_key) if disclosable else None
        return Sealed(envelope, number, disclosure), MessageSent(self, sending, data_sent, own_close_at_ms)

    # --- opening ---------------------------------------------------------------------------------------------------

    def open(
        self,
        outer: OuterEnvelope,
        *,
        now_ms: int,
        limits: Limits,
        disclosable: bool = False,
        time_ms: int | None = None,
    ) -> Incoming:
        """Return an authentic message that may stand here. Steps 3 to 6 of section 6.1; changes nothing.

        Args:
            outer: The envelope.
            now_ms: This side's clock.
            limits: This side's limits.
            disclosable: Keep the message's key (section 8.1).
            time_ms: The header's time, where `Facts.message_time_ms` has told it; the header is parsed otherwise.

        Raises:
            ClosedSession: the session is over.
            Malformed, DecryptionFailed, DuplicateMessage, ContradictoryHeader, GapTooLarge, BadPoint: as
                `Ratchet.open`.
            MessageRefused: authentic, but its kind, type or content may not stand here.
            TooLarge: more data than this side takes.
            MessageAfterClose: numbered behind the peer's close.
            PeerConditionBroken: it breaks a condition.
        """
        if self.ending(now_ms) is not None:
            raise ClosedSession
        facts, close = self.facts, self.peer_close
        opened = open_in_session(facts, self.ratchet, outer, now_ms, limits)
        number = facts.number_in(opened.number)
        kind = Kind.MESSAGE
        if time_ms is None:
            time_ms, kind = outer.header.time_ms, outer.header.kind
        behind = close is not None and number > close.number
        content_type = ContentType.DATA
        try:
            content_type, action, data = parse_content(opened.plaintext)
        except MessageRefused:
            if not behind:
                raise
        # Kind 2 goes with type 1, only as a pending session's first: neither can stand in an established one.
        if kind is not Kind.MESSAGE or content_type is ContentType.ACCEPT:
            raise MessageRefused
        if behind:
            raise MessageAfterClose
        announced: PeerClose | None = None
        if content_type is ContentType.CLOSE:
            data, announced = self._parse_close(data, number, now_ms)
        if announced is None and len(data) > limits.plaintext_max_bytes:  # a close is bounded by its 128 bytes
            raise TooLarge(len(data), limits.plaintext_max_bytes)
        action = "" if announced is not None else action or facts.action
        if self.conditions is not UNLIMITED:
            self._check_conditions(number, time_ms, None if announced is not None else action)
        key = DisclosureKey(opened.message_key) if disclosable else None
        return Incoming(self, opened, content_type, action, data, number, time_ms, announced, key)

    def _check_conditions(self, number: int, time_ms: int, action: str | None) -> None:
        """Hold a message of the peer to what was agreed; `action` is `None` for a close, which no number forbids."""
        conditions, ttl_end_ms = self.conditions, self.ttl_end_ms
        if ttl_end_ms is not None and time_ms > ttl_end_ms:
            raise PeerConditionBroken("ttl_seconds")
        if action is None:
            return
        if conditions.max_messages is not None and number > conditions.max_messages:
            raise PeerConditionBroken("max_messages")
        if conditions.allowed_actions is not None and action not in conditions.allowed_actions:
            raise PeerConditionBroken("allowed_actions")

    def _parse_close(self, content: bytes, number: int, now_ms: int) -> tuple[bytes, PeerClose]:
        # A close is the last thing that its sender seals, so one that stands before another message is a lie.
        if self.peer_close is not None or number < self.last_number_in:
            raise MessageRefused
        reason, data_sent, data_opened = parse_close(content)
        return reason.encode(), PeerClose(number, data_sent, data_opened, now_ms)


def open_in_session(facts: Facts, ratchet: Ratchet, outer: OuterEnvelope, now_ms: int, limits: Limits) -> Opened:
    """Open the message of an envelope in its session's context. Raises as `Ratchet.open`; a gap names the session."""
    context = facts.context(outer.header_bytes)
    try:
        start = outer.body_at + SESSION_ID_BYTES
        return ratchet.open(outer.envelope, context, now_ms, limits, start)
    except GapTooLarge as error:
        got, allowed = error.got, error.allowed
    raise GapTooLarge(facts.session_id, got, allowed)
