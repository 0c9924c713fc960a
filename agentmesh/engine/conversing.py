"""What goes between two agents in a session: messages, closes, endings (docs/protocol.md, sections 6 and 7)."""

from __future__ import annotations

from functools import partial

from agentmesh.attachments.reference import Attachment
from agentmesh.audit.record import Record
from agentmesh.engine import records
from agentmesh.engine.changes import AckWaived, AnswerDropped, SessionEnded
from agentmesh.engine.core import Core
from agentmesh.engine.knocking import receive_accept
from agentmesh.engine.state import Change, Step
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import (
    ArgumentInvalid,
    ChainExhausted,
    ClosedSession,
    DuplicateMessage,
    Malformed,
    NoSession,
    PeerNotAllowed,
    SenderMismatch,
    SessionNotOpen,
    UnknownSession,
)
from agentmesh.events import Delivered, Event, Events, MessageReceived, PeerAhead, PeerClosed, SessionOver, SignalDue
from agentmesh.outgoing import Sealed
from agentmesh.primitives.keys import Disclosure, DisclosureKey, Receipt, SessionId
from agentmesh.session.content import ContentType
from agentmesh.session.established import AckTaken, MessageSent, MessageTaken, Session
from agentmesh.session.facts import SESSION_ID_BYTES, Ended, Facts
from agentmesh.session.held import ended
from agentmesh.session.opening import Incoming, open_message
from agentmesh.session.pending import Pending, Undecided
from agentmesh.session.phases import TRANSITIONS, Happening
from agentmesh.session.sealing import answer_close, seal_close, seal_data, seal_signal

_SIGNAL, _CLOSE = ContentType.SIGNAL, ContentType.CLOSE  # looking up a member costs as much as a call

# --- sending ---------------------------------------------------------------------------------------------------------


def session_with(core: Core, did: str, session_id: SessionId | None, now_ms: int) -> Session:
    """Return the session that sends to this peer, or the one that is named.

    Raises:
        NoSession: there is none.
        SessionNotOpen: the named one is over.
    """
    peer = core.state.peer(did)
    if peer is None:
        raise NoSession
    if session_id is None:
        session = core.sending_session(peer, now_ms)
    else:
        held = peer.session(session_id)
        if held is not None and (isinstance(held, Ended) or held.ending(now_ms) is not None):
            raise SessionNotOpen
        session = held if isinstance(held, Session) else None
    if session is None:
        raise NoSession
    return session


# What a call to send is given: DID, data, action, session id, disclosable, label, attachments; as `Agent.send`.
Sending = tuple[str, bytes, str | None, SessionId | None, bool, bytes, tuple[Attachment, ...]]


def send(core: Core, asked: Sending, now_ms: int) -> Step[Sealed]:
    """Seal a data message."""
    did, data, action, session_id, disclosable, label, attachments = asked
    session = session_with(core, did, session_id, now_ms)
    core.check_allowed(session.facts.peer)
    facts = session.facts
    acknowledge = core.acknowledge and (session.owed is not None or facts.session_id in core.unheard)
    sealed, sent = seal_data(
        session,
        data,
        action=action,
        now_ms=now_ms,
        limits=core.limits,
        entropy=core.entropy,
        disclosable=disclosable,
        acknowledge=acknowledge,
        references=[one.encode() for one in attachments] if attachments else (),
    )
    trail = records.message_sealed(core, facts, sealed, now_ms)
    if attachments:
        if len(sealed.envelope) > core.limits.envelope_max_bytes:  # which counts on data and no references
            raise ArgumentInvalid(
                "attachments", "no room beside the data", len(sealed.envelope), core.limits.envelope_max_bytes
            )
        trail += records.attachments_named(
            core, facts, attachments, now_ms, number=sealed.number, time_ms=now_ms, sent=True
        )
    heard = partial(core.unheard.pop, facts.session_id, None) if acknowledge else None
    return Step((sent,), trail, sealed, heard, label)


def close(core: Core, did: str, reason: str, session_id: SessionId | None, now_ms: int) -> Step[Sealed]:
    """Close a session."""
    session = session_with(core, did, session_id, now_ms)
    core.check_allowed(session.facts.peer)
    sealed, sent = seal_close(session, reason, now_ms=now_ms, entropy=core.entropy)
    return Step((sent,), records.message_sealed(core, session.facts, sealed, now_ms), sealed)


def drop(core: Core, did: str, session_id: SessionId, now_ms: int) -> Step[None]:
    """End a session on this side alone.

    Raises:
        NoSession: no such session, or it is over or undecided.
    """
    peer = core.state.peer(did)
    held = None if peer is None else peer.session(session_id)
    if held is None or isinstance(held, Ended) or held.ending(now_ms) is not None:
        raise NoSession
    if (held.phase, Happening.DROPPED) not in TRANSITIONS:
        raise NoSession
    over = ended(held, Happening.DROPPED, at_ms=now_ms, detail="dropped")
    # Its ACCEPT is not given again: the peer would establish what this side no longer holds.
    return Step((AnswerDropped(held.facts.th), SessionEnded(over)), records.session_ended(core, over, now_ms), None)


# --- receiving -------------------------------------------------------------------------------------------------------


def receive_message(core: Core, outer: OuterEnvelope, now_ms: int, *, disclosable: bool) -> Step[Events]:
    """Receive a kind 2 or 4: the checks of section 6.1 from the session on.

    Raises:
        Malformed: too short to name a session.
        UnknownSession: no session of this agent.
        SenderMismatch: sender or mesh are not the session's.
        PeerNotAllowed: the policy does not allow the peer (any more).
        ClosedSession: the session is over.
    """
    session_id = _session_id(outer)
    if len(session_id) < SESSION_ID_BYTES:
        raise Malformed
    held = core.state.sessions.get(session_id)
    if held is None or (isinstance(held, Undecided) and held.ending(now_ms) is None):
        raise UnknownSession(outer.header.sender, session_id)
    peer = held.peer if isinstance(held, Ended) else held.facts.peer
    # An authentic header may still lie about who sent it.
    if outer.header.sender != peer.did:
        raise SenderMismatch
    core.check_allowed(peer)
    if isinstance(held, Ended | Undecided):  # a KNOCK that ran out undecided is over, whether or not `poll` came
        raise ClosedSession
    if isinstance(held, Pending):
        return receive_accept(core, held, outer, now_ms)
    return _receive_message(core, held, outer, now_ms, disclosable)


def _session_id(outer: OuterEnvelope) -> SessionId:
    return SessionId(outer.envelope[outer.body_at : outer.body_at + SESSION_ID_BYTES])


def receive_by_prefix(core: Core, outer: OuterEnvelope, now_ms: int, *, disclosable: bool) -> Step[Events] | None:
    """Receive a kind 4 of an established session whose header is known by its bytes, or return `None`.

    Version, kind, mesh, sender and recipient are right then. Raises as `receive_message` does from the policy on.
    """
    session = core.state.sessions.get(_session_id(outer))
    if type(session) is not Session:
        return None
    facts = session.facts
    known = facts.incoming(outer)
    if known is None:
        return None
    core.check_allowed(facts.peer)
    return _receive_message(core, session, outer, now_ms, disclosable, known)


def _receive_message(
    core: Core,
    session: Session,
    outer: OuterEnvelope,
    now_ms: int,
    disclosable: bool,
    known: tuple[int, bytes] | None = None,
) -> Step[Events]:
    facts, limits = session.facts, core.limits
    try:
        incoming = open_message(session, outer, now_ms, limits, disclosable, known)
    except DuplicateMessage:
        if core.acknowledge and session.may_signal(now_ms):
            _note_duplicate(core, facts.session_id, outer, now_ms)
        raise
    taken = incoming.taken(core.entropy, now_ms, limits, core.acknowledge)
    changes: tuple[Change, ...] = ()
    if session.begin_by_ms is not None and not facts.initiator:
        changes = (AnswerDropped(facts.th),)
    content_type = incoming.content_type
    if content_type is _SIGNAL:
        told = () if incoming.ack is None else _acknowledged(facts, incoming.ack)
        return Step((*changes, taken), (), told, afterwards=partial(_note_signal, core, facts, outer, now_ms))
    trail = records.message_opened(core, facts, outer, incoming, now_ms)
    if content_type is _CLOSE:
        return _receive_close(core, session, incoming, outer.receipt, taken, changes, trail, now_ms)
    lost, key = taken.opened.lost, incoming.disclosure_key
    event: Event = MessageReceived(
        facts.peer,
        facts.session_id,
        incoming.data,
        incoming.action,
        incoming.number,
        incoming.time_ms,
        outer,
        None if key is None else _disclosure(facts, key),
        facts.positions_in(lost) if lost else (),
        incoming.references,
    )
    if incoming.references:
        trail += records.attachments_named(
            core, facts, incoming.references, now_ms, number=incoming.number, time_ms=incoming.time_ms, sent=False
        )
    events: Events = (event,)
    if incoming.ack is not None:
        events += _acknowledged(facts, incoming.ack)
    close = session.peer_close
    if close is not None and taken.received.has_all(close.data_sent):
        # The last message that the peer announced has come: nothing more is awaited.
        over = ended(session, Happening.COMPLETED, at_ms=now_ms, opened_now=1)
        changes += (SessionEnded(over),)
        return Step(changes, trail + records.session_ended(core, over, now_ms), (*events, session_over(over)))
    return Step((*changes, taken), trail, events)


def _acknowledged(facts: Facts, ack: AckTaken) -> Events:
    if ack.delivered:
        return (Delivered(peer=facts.peer, session_id=facts.session_id, indices=ack.delivered),)
    return (PeerAhead(peer=facts.peer, session_id=facts.session_id),)


def _disclosure(facts: Facts, key: DisclosureKey) -> Disclosure:
    return Disclosure(facts.th + key.reveal())


def _receive_close(
    core: Core,
    session: Session,
    incoming: Incoming,
    receipt: Receipt,
    taken: MessageTaken,
    changes: tuple[Change, ...],
    trail: tuple[Record, ...],
    now_ms: int,
) -> Step[Events]:
    facts, close = session.facts, incoming.peer_close
    if close is None:
        raise Malformed
    missing = session.received.gaps(close.data_sent)
    changes += (taken,)
    reply: Sealed | None = None
    if session.may_send(now_ms, answer=True):
        # Sealed over the state as it will be: a peer's turn that came with its close is taken first.
        answer = _answer_close(core, session, taken, now_ms)
        if answer is not None:
            reply, sent = answer
            changes += (sent,)
            trail += records.message_sealed(core, facts, reply, now_ms)
    event = PeerClosed(
        peer=facts.peer,
        session_id=facts.session_id,
        receipt=receipt,
        reason=incoming.data.decode(),
        missing=missing,
        peer_opened=close.data_opened,
        lost_at=facts.positions_in(taken.opened.lost),
        reply=reply,
        disclosure=None if incoming.disclosure_key is None else _disclosure(facts, incoming.disclosure_key),
    )
    if not session.received.has_all(close.data_sent):
        return Step(changes, trail, (event,))
    over = ended(session, Happening.COMPLETED, at_ms=now_ms)
    changes += (SessionEnded(over),)
    return Step(changes, trail + records.session_ended(core, over, now_ms), (event, session_over(over)))


def _answer_close(
    core: Core, session: Session, closing: MessageTaken, now_ms: int
) -> tuple[Sealed, MessageSent] | None:
    try:
        return answer_close(session, closing, now_ms=now_ms, entropy=core.entropy)
    except ChainExhausted:
        return None  # the peer's close counts all the same


def session_over(over: Ended, missing: tuple[range, ...] = ()) -> SessionOver:
    """Return the event of an ending; `missing` names what did not come."""
    return SessionOver(
        peer=over.peer, session_id=over.session_id, phase=over.phase, detail=over.detail, missing=missing
    )


# --- acknowledging ---------------------------------------------------------------------------------------------------


def _note_duplicate(core: Core, session_id: SessionId, outer: OuterEnvelope, now_ms: int) -> None:
    """Note that a peer may not have heard of what was opened. Not a change: the message is refused.

    A signal that comes again says nothing of that. Answered with a signal, which comes again too where a relay doubles
    what it carries, it would keep two agents that have nothing to say talking for ever.
    """
    last = core.signals.get(session_id)
    if last is not None and last == outer.receipt:
        return
    if len(core.unheard) < core.limits.sessions_max and core.budgets.signals.take(session_id, now_ms):
        core.unheard[session_id] = None


def _note_signal(core: Core, facts: Facts, outer: OuterEnvelope, now_ms: int) -> None:
    """Note that a signal was opened: in memory alone."""
    if core.acknowledge:
        core.signals.pop(facts.session_id, None)
        if len(core.signals) >= core.limits.sessions_max:
            core.signals.pop(next(iter(core.signals)))  # a session that is over, or the one that is silent longest
        core.signals[facts.session_id] = outer.receipt
    if core.recording:
        core.counted.count_signal_in(facts.peer.did, now_ms)


def signal_due_ms(core: Core, session: Session, now_ms: int) -> int | None:
    """Return when a signal is to leave in this session, or `None` where none is due."""
    if not core.acknowledge:
        return None
    if session.facts.session_id in core.unheard and session.may_signal(now_ms):
        return now_ms
    return session.signal_due_ms(now_ms, core.limits)


def signal(core: Core, session: Session, now_ms: int) -> tuple[Change, SignalDue | None]:
    """Return (the change, the event) of a signal that is due; no event where the policy does not allow the peer."""
    facts = session.facts
    try:
        core.check_allowed(facts.peer)
        sealed, sent = seal_signal(session, now_ms=now_ms, limits=core.limits, entropy=core.entropy)
    except PeerNotAllowed:
        return AckWaived(session), None
    return sent, SignalDue(peer=facts.peer, session_id=facts.session_id, reply=sealed)
