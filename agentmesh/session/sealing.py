"""How a conversation seals: data, signals and closes (docs/protocol.md, sections 6, 6.4 and 7).

Nothing changes by sealing: each call gives the change to apply before the message leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentmesh.envelope import build_behind
from agentmesh.errors import ChainExhausted, ConditionNotMet, SessionNotOpen
from agentmesh.limits import ACK_RANGES_MAX, ACTION_MAX_BYTES, COUNTER_MAX, Limits
from agentmesh.outgoing import Sealed
from agentmesh.primitives import _crypto
from agentmesh.primitives.arguments import BytesLike, bytes_argument, text_argument
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import Disclosure
from agentmesh.session.chains import Turn
from agentmesh.session.content import REASON_MAX_BYTES, pad_close, pad_data, pad_signal
from agentmesh.session.epochs import Half
from agentmesh.session.established import MessageSent, MessageTaken, Session
from agentmesh.session.indices import IndexRange, Indices

SealedStep = tuple[Sealed, MessageSent]
_NO_RANGES: Final[tuple[IndexRange, ...]] = ()
_NO_ITEM: Final[tuple[bytes, Half | None]] = (b"", None)


def seal_data(
    session: Session,
    data: BytesLike,
    *,
    action: str | None = None,
    now_ms: int,
    limits: Limits,
    entropy: Entropy,
    disclosable: bool = False,
    acknowledge: bool = False,
    references: Sequence[bytes] = (),
) -> SealedStep:
    """Return (a data message, sealed; the change that it makes). Apply the change before the message leaves.

    Args:
        session: Where.
        data: 0 to `limits.plaintext_max_bytes` bytes.
        action: What the data is for, 1 to 128 bytes of UTF-8; the KNOCK's action if `None`.
        now_ms: This side's clock.
        limits: This side's limits.
        entropy: For the nonce.
        disclosable: Return the message's key too (section 8.1); keeping it undoes its forward secrecy.
        acknowledge: Say which data messages of the peer were opened.
        references: To attachments, each encoded; at most 16.

    Raises:
        ArgumentInvalid: a wrong type, or data over the limit.
        SessionNotOpen: closed, superseded or expired.
        ConditionNotMet: `max_messages` or `allowed_actions` forbids it.
        ChainExhausted: 2^32 - 1 messages, in all or without an answer.
    """
    if type(data) is not bytes or len(data) > limits.plaintext_max_bytes:
        data = bytes_argument("data", data, 0, limits.plaintext_max_bytes)
    facts = session.facts
    named = b""
    if action is not None and action != facts.action:
        named = text_argument("action", action, 1, ACTION_MAX_BYTES).encode()
    if not session.may_send(now_ms):
        raise SessionNotOpen
    conditions, index = session.conditions, session.data_sent + 1
    allowed = conditions.allowed_actions
    if allowed is not None and (action or facts.action) not in allowed:
        raise ConditionNotMet("allowed_actions")
    if conditions.max_messages is not None and index > conditions.max_messages:
        raise ConditionNotMet("max_messages")
    if index > COUNTER_MAX:
        raise ChainExhausted
    ack = acknowledged_ranges(session.received) if acknowledge else _NO_RANGES
    item, half = _NO_ITEM
    if session.ratchet.begins_chain:
        item, half = session.ratchet.item_out(now_ms, entropy, limits)
    padded = pad_data(index, named, data, item, ack, references)
    return _seal(session, padded, index, now_ms, entropy, index, disclosable, bool(ack), half)


def seal_signal(session: Session, *, now_ms: int, limits: Limits, entropy: Entropy) -> SealedStep:
    """Return (a signal, sealed; the change that it makes): which data messages of the peer were opened, and no data.

    Allowed whatever the conditions say. It has no number.

    Raises:
        SessionNotOpen: there is nothing to say, or the session is closed, superseded or expired.
        ChainExhausted: 2^32 - 1 messages without an answer.
    """
    ack = acknowledged_ranges(session.received)
    if not ack or not session.may_send(now_ms):
        raise SessionNotOpen
    item, half = session.ratchet.item_out(now_ms, entropy, limits)
    padded = pad_signal(item, ack)
    return _seal(session, padded, 0, now_ms, entropy, session.data_sent, False, True, half)


def seal_close(session: Session, reason: str, *, now_ms: int, entropy: Entropy) -> SealedStep:
    """Return (this side's close, sealed; the change that it makes): the last thing that it sends.

    Allowed whatever `max_messages` says. Its number is one more than that of the last data message.

    Raises:
        ArgumentInvalid: the reason is not 0 to 128 bytes of UTF-8.
        SessionNotOpen: this side has closed already, or the session is over.
    """
    text_argument("reason", reason, 0, REASON_MAX_BYTES)
    expired = session.ttl_end_ms is not None and now_ms > session.ttl_end_ms
    if session.own_close_at_ms is not None or expired or session.ending(now_ms) is not None:
        raise SessionNotOpen
    return _seal_close(session, reason, now_ms, entropy, None)


def answer_close(session: Session, closing: MessageTaken, *, now_ms: int, entropy: Entropy) -> SealedStep:
    """Return this side's close in answer to the peer's, as `seal_close`, over the state after `closing`.

    Apply `closing` first.
    """
    return _seal_close(session, "", now_ms, entropy, closing.opened.turn)


def acknowledged_ranges(received: Indices) -> tuple[IndexRange, ...]:
    """Return what an acknowledgement names: all ranges, or the lowest eight and the highest eight of more.

    The lowest, because a sender that sends again fills its lowest gap first; the highest, because one that does not
    would otherwise never hear of anything behind the sixteenth gap.
    """
    ranges = received.ranges
    if len(ranges) <= ACK_RANGES_MAX:
        return ranges
    return ranges[: ACK_RANGES_MAX // 2] + ranges[-ACK_RANGES_MAX // 2 :]


def _seal_close(session: Session, reason: str, now_ms: int, entropy: Entropy, turn: Turn | None) -> SealedStep:
    sent = session.data_sent
    padded = pad_close(reason, sent, session.received.count)
    return _seal(session, padded, sent + 1, now_ms, entropy, sent, own_close_at_ms=now_ms, turn=turn)


def _seal(
    session: Session,
    padded: bytes,
    number: int,
    now_ms: int,
    entropy: Entropy,
    data_sent: int,
    disclosable: bool = False,
    acknowledges: bool = False,
    half: Half | None = None,
    own_close_at_ms: int | None = None,
    turn: Turn | None = None,
) -> SealedStep:
    facts = session.facts
    head, context = facts.outgoing(now_ms)
    nonce = entropy.token(_crypto.NONCE_BYTES)
    message, message_key, sending = session.ratchet.seal(padded, context, nonce, turn)
    envelope = build_behind(head, facts.session_id, *message)
    disclosure = Disclosure(facts.th + message_key) if disclosable else None
    sent = MessageSent(session, sending, half, data_sent, own_close_at_ms, acknowledges)
    return Sealed(envelope, number, disclosure), sent
