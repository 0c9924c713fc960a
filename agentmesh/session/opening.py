"""How a conversation opens what its peer sealed: the checks of section 6.1, in their order (docs/protocol.md).

Nothing changes by opening: `Incoming.taken` gives the change to apply once the message is accepted.
"""

from __future__ import annotations

from typing import final

from agentmesh.envelope import Kind, OuterEnvelope
from agentmesh.errors import (
    ClosedSession,
    ContradictoryHeader,
    GapTooLarge,
    MessageAfterClose,
    MessageRefused,
    PeerConditionBroken,
    TooLarge,
)
from agentmesh.handshake.verdict import UNLIMITED
from agentmesh.limits import Limits
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import DisclosureKey, Redacted
from agentmesh.primitives.padding import unpadded_length
from agentmesh.session.content import (
    ContentType,
    References,
    content_type_of,
    parse_action,
    parse_close,
    parse_parts,
)
from agentmesh.session.epochs import Item, parse_item
from agentmesh.session.established import AckTaken, MessageTaken, Owed, Session
from agentmesh.session.facts import SESSION_ID_BYTES, Facts, PeerClose
from agentmesh.session.indices import IndexRange
from agentmesh.session.ratchet import Opened, Ratchet

_DATA, _ACCEPT, _CLOSE = ContentType.DATA, ContentType.ACCEPT, ContentType.CLOSE


@final
class Incoming(Redacted):
    """An authentic message that passed every check of section 6.1; nothing has changed yet.

    Attributes:
        content_type: Data, close or signal.
        action: The action that a data message carries.
        data: The data, or the reason of a close as UTF-8.
        number: The index of a data message; of a close one more than the last that it announces; of a signal 0.
        time_ms: The envelope's time, by the peer's clock.
        peer_close: What a close announces.
        disclosure_key: Opens this one message; only where it was asked for.
        ack: What it acknowledges, if anything that is new.
        references: What it refers to.
    """

    __slots__ = (
        "_item",
        "_opened",
        "_session",
        "ack",
        "action",
        "content_type",
        "data",
        "disclosure_key",
        "number",
        "peer_close",
        "references",
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
        item: Item | None,
        ack: AckTaken | None,
        references: References = (),
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
        self._item = item
        self.ack: AckTaken | None = ack
        self.references: References = references

    def taken(self, entropy: Entropy, now_ms: int, limits: Limits, acknowledge: bool = False) -> MessageTaken:
        """Return what accepting this message changes; with `acknowledge` it notes that data is to be acknowledged."""
        session = self._session
        received, owed = session.received, session.owed
        if self.content_type is _DATA:
            received = received.with_index(self.number, indices_kept(limits))
            if acknowledge:
                owed = _owed_one_more(owed, now_ms)
        return MessageTaken(session, self._opened.delta(entropy, self._item), received, owed, self.ack, self.peer_close)


def _owed_one_more(owed: Owed | None, now_ms: int) -> Owed:
    return (1, now_ms) if owed is None else (owed[0] + 1, owed[1])


def indices_kept(limits: Limits) -> int:
    """Return how many ranges of indices are kept for a direction.

    More than keys are kept for: where there are so many gaps, the key of the lowest is gone, and its message lost.
    """
    return limits.skipped_keys_per_session + 1


def open_message(
    session: Session,
    outer: OuterEnvelope,
    now_ms: int,
    limits: Limits,
    disclosable: bool = False,
    known: tuple[int, bytes] | None = None,
) -> Incoming:
    """Return an authentic message that may stand here. Steps 3 to 6 of section 6.1; changes nothing.

    Args:
        session: Where.
        outer: The envelope.
        now_ms: This side's clock.
        limits: This side's limits.
        disclosable: Keep the message's key (section 8.1).
        known: What `Facts.incoming` has told of it; the header is parsed otherwise.

    Raises:
        ClosedSession: the session is over.
        Malformed, DecryptionFailed, DuplicateMessage, ContradictoryHeader, GapTooLarge, BadPoint: as
            `Ratchet.open`.
        ContradictoryHeader: its index was opened before, or is more than its position.
        MessageRefused: authentic, but its kind, type or content may not stand here.
        TooLarge: more data than this side takes.
        MessageAfterClose: numbered behind the peer's close.
        PeerConditionBroken: it breaks a condition.
    """
    if session.ending(now_ms) is not None:
        raise ClosedSession
    facts, close = session.facts, session.peer_close
    is_message = known is not None or outer.header.kind is Kind.MESSAGE
    time_ms, context = (outer.header.time_ms, facts.context(outer.header_bytes)) if known is None else known
    opened = open_in_session(facts, session.ratchet, outer, context, now_ms, limits)
    position = facts.position_in(opened.number)
    padded = opened.plaintext
    length = unpadded_length(padded)
    content_type = content_type_of(padded, length)
    # Kind 2 goes with type 1, only as a pending session's first: neither can stand in an established one.
    if not is_message or content_type is _ACCEPT:
        raise MessageRefused
    if close is not None and position > close.position:
        raise MessageAfterClose
    key = DisclosureKey(opened.message_key) if disclosable else None
    if content_type is not _DATA:
        return _open_other(session, opened, content_type, padded[:length], position, time_ms, now_ms, limits, key)
    index, carried, ack, references, at = parse_parts(padded, length, facts.initiator)
    item = parse_item(carried, not facts.initiator) if carried else None
    if index > position or not session.received.is_new(index):
        raise ContradictoryHeader
    action, data = parse_action(padded, at, length)
    if len(data) > limits.plaintext_max_bytes:
        raise TooLarge(len(data), limits.plaintext_max_bytes)
    action = action or facts.action
    if session.conditions is not UNLIMITED:
        _check_conditions(session, time_ms, index, action)
    taken = _acknowledged(session, ack, limits) if ack else None
    return Incoming(session, opened, _DATA, action, data, index, time_ms, None, key, item, taken, references)


def _open_other(
    session: Session,
    opened: Opened,
    content_type: ContentType | None,
    plaintext: bytes,
    position: int,
    time_ms: int,
    now_ms: int,
    limits: Limits,
    key: DisclosureKey | None,
) -> Incoming:
    """Return a close or a signal that may stand here. Arguments and errors are those of `open_message`."""
    if content_type is None:
        raise MessageRefused
    if content_type is _CLOSE:
        reason, announced = _parse_close(session, plaintext[1:], position, now_ms)
        _check_conditions(session, time_ms)
        number = announced.data_sent + 1
        return Incoming(session, opened, _CLOSE, "", reason, number, time_ms, announced, key, None, None)
    to_initiator = session.facts.initiator
    _, carried, ack, _, _ = parse_parts(plaintext, len(plaintext), to_initiator)
    item = parse_item(carried, not to_initiator) if carried else None
    _check_conditions(session, time_ms)
    taken = _acknowledged(session, ack, limits) if ack else None
    return Incoming(session, opened, content_type, "", b"", 0, time_ms, None, key, item, taken)


def _acknowledged(session: Session, ranges: tuple[IndexRange, ...], limits: Limits) -> AckTaken | None:
    """Return what an acknowledgement says that is new. Of what this side never sent nothing is taken."""
    before = session.acknowledged
    if ranges[-1][1] > session.data_sent:
        return None if session.told_ahead else AckTaken(before, (), True)
    delivered = tuple(gap for first, last in ranges for gap in before.gaps(last, first))
    if not delivered:
        return None
    return AckTaken(before.with_ranges(ranges, indices_kept(limits)), delivered, session.told_ahead)


def _check_conditions(session: Session, time_ms: int, index: int = 0, action: str = "") -> None:
    """Hold a message of the peer to what was agreed; index 0 is no data, which only time can forbid."""
    conditions, ttl_end_ms = session.conditions, session.ttl_end_ms
    if ttl_end_ms is not None and time_ms > ttl_end_ms:
        raise PeerConditionBroken("ttl_seconds")
    if index == 0:
        return
    if conditions.max_messages is not None and index > conditions.max_messages:
        raise PeerConditionBroken("max_messages")
    if conditions.allowed_actions is not None and action not in conditions.allowed_actions:
        raise PeerConditionBroken("allowed_actions")


def _parse_close(session: Session, content: bytes, position: int, now_ms: int) -> tuple[bytes, PeerClose]:
    # A close is the last thing that its sender seals, so one that stands before another message is a lie.
    if session.peer_close is not None or position < session.last_position_in:
        raise MessageRefused
    reason, data_sent, data_opened = parse_close(content)
    return reason.encode(), PeerClose(position, data_sent, data_opened, now_ms)


def open_in_session(
    facts: Facts, ratchet: Ratchet, outer: OuterEnvelope, context: bytes, now_ms: int, limits: Limits
) -> Opened:
    """Open the message of an envelope in its session's context. Raises as `Ratchet.open`; a gap names the session."""
    try:
        return ratchet.open(outer.envelope, context, now_ms, limits, outer.body_at + SESSION_ID_BYTES)
    except GapTooLarge as error:
        got, allowed = error.got, error.allowed
    raise GapTooLarge(facts.session_id, got, allowed)
