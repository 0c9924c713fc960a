"""Events as rows: what was handed up is kept until the application is done with it (docs/protocol.md, section 7.2).

The bytes are canonical, *secret and unsealed*. Each attribute of an event stands in its row but two. `reply` does not,
because a store keeps what leaves elsewhere: a restored event has none. And a KNOCK that waits for the application is in
the state already, so its row only names it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from typing import Any, Final, TypeGuard

from attrs import field, frozen

from agentmesh.at_rest import MANY, STATE_MAX_BYTES, require
from agentmesh.engine.state import AgentState
from agentmesh.errors import AgentMeshError, Malformed
from agentmesh.events import (
    Delivered,
    Event,
    KeptReceipt,
    KnockReceived,
    MessageReceived,
    PeerAhead,
    PeerClosed,
    RolledBack,
    SessionEstablished,
    SessionOver,
    SessionRejected,
    SkippedKeysExpired,
    Undelivered,
)
from agentmesh.handshake.knock import Intent
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import Conditions, Reason
from agentmesh.identity import IdentityKey
from agentmesh.limits import ACTION_MAX_BYTES, CAPABILITY_MAX_BYTES, COUNTER_MAX, UINT_MAX
from agentmesh.outgoing import LABEL_MAX_BYTES, Tracked
from agentmesh.primitives import _wire
from agentmesh.primitives.arguments import TEXTS_MAX
from agentmesh.primitives.keys import Disclosure, Receipt, SessionId
from agentmesh.session.content import REASON_MAX_BYTES
from agentmesh.session.facts import SESSION_ID_BYTES
from agentmesh.session.phases import ENDINGS

Kept = (
    KnockReceived
    | SessionEstablished
    | SessionRejected
    | MessageReceived
    | PeerClosed
    | SessionOver
    | SkippedKeysExpired
    | Delivered
    | Undelivered
    | PeerAhead
    | RolledBack
)
"""What is kept. The others only bring a reply, which is kept as it leaves, or are told again while they are so."""


# --- how one attribute stands in a row -------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


@frozen
class _Part:
    """How an attribute stands in a row: its layout, the way out and the way back, which raises as `require`.

    `out` is `None` where it stands as it is.
    """

    layout: _wire.Kind
    out: Callable[[Any], Any] | None = None
    back: Callable[[Any], Any] = _same


def _maybe(part: _Part) -> _Part:
    out = part.out
    return _Part(
        _wire.Maybe(part.layout),
        None if out is None else lambda value: None if value is None else out(value),
        lambda value: None if value is None else part.back(value),
    )


def _several(part: _Part) -> _Part:
    out = part.out
    return _Part(
        _wire.ArrayOf(part.layout, MANY),
        list if out is None else lambda values: [out(value) for value in values],
        lambda values: tuple(part.back(value) for value in values),
    )


def _one_of(members: Iterable[Enum], layout: _wire.Kind) -> _Part:
    by_value = {member.value: member for member in members}

    def back(value: Any) -> Enum:
        require(value in by_value)
        return by_value[value]

    return _Part(layout, lambda member: member.value, back)


def _ranges_back(fields: list[list[int]]) -> tuple[range, ...]:
    least = 0
    for first, last in fields:
        require(least <= first <= last)
        least = last + 2  # what touches is one range
    return tuple(range(first, last + 1) for first, last in fields)


def _messages_back(fields: list[list[Any]]) -> tuple[Tracked, ...]:
    least = 1
    for _, number, _ in fields:
        require(least <= number)
        least = number + 1
    return tuple(Tracked(receipt=Receipt(receipt), number=number, label=label) for receipt, number, label in fields)


_COUNT: Final = _Part(_wire.Uint())
_DATA: Final = _Part(_wire.Bin(0, UINT_MAX))
_ACTION: Final = _Part(_wire.Text(1, ACTION_MAX_BYTES))
_KEY: Final = _Part(_wire.Bin(32), lambda key: key.raw, IdentityKey)
_SESSION_ID: Final = _Part(_wire.Bin(SESSION_ID_BYTES), back=SessionId)
_RECEIPT: Final = _Part(_wire.Bin(32), back=Receipt)
_CLASS: Final = _one_of(BundleClass, _wire.Uint(2))
_REASON: Final = _one_of(Reason, _wire.Text(1, 16))
_ENDING: Final = _one_of(ENDINGS, _wire.Text(1, 16))
_DISCLOSURE: Final = _maybe(_Part(_wire.Bin(Disclosure.size), Disclosure.reveal, Disclosure))
_CONDITIONS: Final = _Part(_wire.Bin(1, UINT_MAX), Conditions.encode, Conditions.decode)
_INTENT: Final = _Part(
    _wire.array(_ACTION.layout, _wire.ArrayOf(_wire.Text(0, CAPABILITY_MAX_BYTES), TEXTS_MAX), _wire.Bin(0, UINT_MAX)),
    lambda intent: [intent.action, list(intent.capabilities), intent.detail],
    lambda fields: Intent(fields[0], capabilities=fields[1], detail=fields[2]),
)
_RANGES: Final = _Part(
    _wire.ArrayOf(_wire.array(_wire.Uint(), _wire.Uint()), MANY),
    lambda ranges: [[one.start, one.stop - 1] for one in ranges],
    _ranges_back,
)
_MESSAGES: Final = _Part(
    _wire.ArrayOf(_wire.array(_wire.Bin(32), _wire.Uint(COUNTER_MAX), _wire.Bin(0, LABEL_MAX_BYTES)), MANY),
    lambda messages: [[one.receipt, one.number, one.label] for one in messages],
    _messages_back,
)


# --- how one kind of event does --------------------------------------------------------------------------------------


@frozen
class _Form:
    """The row of one kind of event: its attributes in their order, and what makes the event of them."""

    kind: type[Kept]
    parts: dict[str, _Part]
    build: Callable[..., Kept] = field()
    layout: _wire.Array = field(init=False)
    outs: tuple[tuple[str, Callable[[Any], Any] | None], ...] = field(init=False)

    @build.default
    def _kind(self) -> Callable[..., Kept]:
        return self.kind

    @layout.default
    def _array(self) -> _wire.Array:
        return _wire.array(_wire.Uint(), *(part.layout for part in self.parts.values()))

    @outs.default
    def _outs(self) -> tuple[tuple[str, Callable[[Any], Any] | None], ...]:
        return tuple((name, part.out) for name, part in self.parts.items())


def _form(kind: type[Kept], build: Callable[..., Kept] | None = None, **parts: _Part) -> _Form:
    parts = {"peer": _KEY, "session_id": _SESSION_ID, **parts}
    return _Form(kind, parts, kind if build is None else build)


def _message_received(*, receipt: Receipt, **attributes: Any) -> MessageReceived:
    return MessageReceived(received=KeptReceipt(receipt), **attributes)


_MESSAGE: Final = 4
# By the number that a row begins with. None is ever given to another kind.
_FORMS: Final = {
    1: _Form(KnockReceived, {"session_id": _SESSION_ID, "open_sessions": _COUNT}),
    2: _form(
        SessionEstablished,
        bundle_class=_CLASS,
        conditions=_CONDITIONS,
        intent=_maybe(_INTENT),
        early_payload=_maybe(_DATA),
    ),
    3: _form(SessionRejected, reason=_REASON, retry_after_seconds=_COUNT),
    _MESSAGE: _form(
        MessageReceived,
        _message_received,
        plaintext=_DATA,
        action=_ACTION,
        number=_Part(_wire.Uint(COUNTER_MAX)),
        time_ms=_COUNT,
        receipt=_RECEIPT,
        disclosure=_DISCLOSURE,
        lost_at=_RANGES,
    ),
    5: _form(
        PeerClosed,
        partial(PeerClosed, reply=None),
        receipt=_RECEIPT,
        reason=_Part(_wire.Text(0, REASON_MAX_BYTES)),
        missing=_RANGES,
        peer_opened=_COUNT,
        lost_at=_RANGES,
        disclosure=_DISCLOSURE,
    ),
    6: _form(SessionOver, phase=_ENDING, detail=_Part(_wire.Text(0, 32)), missing=_RANGES),
    7: _form(SkippedKeysExpired, lost_at=_RANGES),
    8: _form(Delivered, indices=_RANGES, messages=_MESSAGES),
    9: _form(Undelivered, messages=_MESSAGES),
    10: _form(PeerAhead),
    11: _Form(RolledBack, {"peers": _several(_KEY), "bundles": _COUNT}),
}
_TAGS: Final = {form.kind: tag for tag, form in _FORMS.items()}


def is_kept(event: Event) -> TypeGuard[Kept]:
    """Say whether a store keeps such an event until the application is done with it."""
    return type(event) in _TAGS


def export_event(event: Kept) -> bytes:
    """Return the canonical bytes of an event: secret, and unsealed."""
    return _wire.encode(_fields_of_message(event) if type(event) is MessageReceived else _fields_of(event))


def _fields_of(event: Kept) -> list[Any]:
    tag = _TAGS[type(event)]
    return [tag, *[_field(getattr(event, name), out) for name, out in _FORMS[tag].outs]]


def _field(value: Any, out: Callable[[Any], Any] | None) -> Any:
    return value if out is None else out(value)


def _fields_of_message(event: MessageReceived) -> list[Any]:
    """Return what its form says of it; written out, because every message passes here."""
    disclosure = event.disclosure
    return [
        _MESSAGE,
        event.peer.raw,
        event.session_id,
        event.plaintext,
        event.action,
        event.number,
        event.time_ms,
        event.receipt,
        None if disclosure is None else disclosure.reveal(),
        [[one.start, one.stop - 1] for one in event.lost_at],
    ]


def _knock_of(state: AgentState, session_id: SessionId, open_sessions: int) -> KnockReceived:
    """Return the event of a KNOCK that waits for the application.

    Raises:
        Malformed: none of this session waits.
    """
    held = state.undecided.get(session_id)
    if held is None:
        raise Malformed
    facts, content = held.facts, held.content
    return KnockReceived(
        peer=facts.peer,
        session_id=session_id,
        receipt=facts.knock_receipt,
        intent=content.intent,
        bundle_class=facts.bundle_class,
        time_ms=facts.knock_time_ms,
        expires_ms=held.expires_ms,
        has_early_payload=content.early_payload is not None,
        fresh=content.fresh,
        open_sessions=open_sessions,
    )


def restore_event(data: bytes, state: Any, knock_of: Callable[..., KnockReceived] = _knock_of) -> Kept:
    """Return the event that `export_event` wrote, without a reply.

    Args:
        data: The bytes.
        state: The agent's, whose `identity` has no events of itself.
        knock_of: Makes the event of a KNOCK that waits for its verdict, of the state, the session and how many were
            open then; raises `Malformed` where none waits: its row goes when it no longer does.

    Raises:
        Malformed: damaged, or fields that contradict one another or the state.
    """
    try:
        return _restore(data, state, knock_of)
    except AgentMeshError:
        pass
    raise Malformed


def _restore(data: bytes, state: Any, knock_of: Callable[..., KnockReceived]) -> Kept:
    form = _FORMS.get(_wire.peek_version(data) or 0) if isinstance(data, bytes) else None
    if form is None:
        raise Malformed
    _, *fields = _wire.decode(data, form.layout, STATE_MAX_BYTES)
    attributes = {name: part.back(value) for (name, part), value in zip(form.parts.items(), fields, strict=True)}
    if form.kind is KnockReceived:
        return knock_of(state, **attributes)
    event = form.build(**attributes)
    _check(event, state.identity.key)
    return event


def _check(event: Kept, own: IdentityKey) -> None:
    """Refuse what no agent says, however well each field is formed."""
    peers = event.peers if isinstance(event, RolledBack) else (event.peer,)
    require(len({own, *peers}) == 1 + len(peers))
    if isinstance(event, SessionEstablished):
        require(event.early_payload is None or event.intent is not None)
    elif isinstance(event, MessageReceived):
        require(event.number > 0)
    elif isinstance(event, Delivered):
        stops = [one.stop for one in event.indices]
        for message in event.messages:
            at = bisect_right(stops, message.number)
            require(at < len(stops) and message.number in event.indices[at])
