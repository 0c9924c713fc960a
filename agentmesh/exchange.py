"""What goes between two agents once a KNOCK is made: verdicts, messages, closes (docs/protocol.md, sections 5 to 7)."""

from __future__ import annotations

from agentmesh.audit.record import AuditEvent, Record
from agentmesh.content import ContentType
from agentmesh.core import Core
from agentmesh.envelope import Header, Kind, OuterEnvelope, build, receipt_of
from agentmesh.errors import (
    ArgumentInvalid,
    BundleExpired,
    ChainExhausted,
    ClosedSession,
    EnvelopeReflected,
    IdentityConflict,
    Malformed,
    NoSession,
    OneTimeRequired,
    SenderMismatch,
    TooManySessions,
    UnknownSession,
    VerdictUnmatched,
)
from agentmesh.events import Event, MessageReceived, PeerClosed, SessionEstablished, SessionOver, SessionRejected
from agentmesh.facts import SESSION_ID_BYTES, Ended, Facts, Phase
from agentmesh.handshake import initiate
from agentmesh.keys import Receipt, SessionId
from agentmesh.knock import Intent, KnockContent, build_knock_body, encode_content
from agentmesh.limits import CLOCK_TOLERANCE_MS, KNOCK_LIFETIME_MAX_MS
from agentmesh.pending import Pending, Undecided, ended
from agentmesh.prekeys import BundleClass, verify_bundle
from agentmesh.ratchet import Ratchet
from agentmesh.session import Disclosure, Incoming, MessageTaken, Sealed, Session
from agentmesh.state import AnswerDropped, Change, KnockedPeer, Peer, SessionEnded, SessionPut, Step
from agentmesh.suite import SUITE
from agentmesh.verdict import parse_reject_body

# --- knocking --------------------------------------------------------------------------------------------------------


class Knock(bytes):
    """A KNOCK envelope: the bytes to hand to a relay, and what became of the call.

    Attributes:
        session_id: The pending session, 16 bytes.
        receipt: The envelope's receipt, 32 bytes.
        bundle_class: The class of the bundle that it was made on.
        early_payload_withheld: The early payload was *not* sent, because the bundle is a last-resort one and the caller
            did not ask for it with `early_with_last_resort`. Send it after the acceptance.
    """

    session_id: SessionId
    receipt: Receipt
    bundle_class: BundleClass
    early_payload_withheld: bool


def knock(
    core: Core,
    did: str,
    bundle_bytes: bytes,
    intent: Intent,
    *,
    early_payload: bytes | None,
    early_with_last_resort: bool,
    require_one_time: bool,
    expires_in_seconds: int | None,
    now_ms: int,
) -> Step:
    """Make a KNOCK on a bundle. The output is the `Knock`. Sections 3 and 5."""
    state, limits = core.state, core.limits
    if did == state.identity.did:
        raise EnvelopeReflected
    bundle = verify_bundle(bundle_bytes, did=did, mesh=state.mesh, now_ms=now_ms)
    known = state.dids.get(did)
    if known is not None and known != bundle.identity.raw:
        raise IdentityConflict
    if require_one_time and bundle.bundle_class is not BundleClass.ONE_TIME:
        raise OneTimeRequired
    core.check_allowed(bundle.identity)
    peer = state.peer(did)
    if not core.has_room(peer, now_ms):
        raise TooManySessions
    withheld = (
        early_payload is not None and bundle.bundle_class is BundleClass.LAST_RESORT and not early_with_last_resort
    )
    # A KNOCK is stale if it is not later than the last, and two may be made within a millisecond. One made by a clock
    # that was far ahead is no measure: its peer refused it.
    time_ms = now_ms
    if peer is not None and peer.own_knock_ms <= now_ms + CLOCK_TOLERANCE_MS:
        time_ms = max(now_ms, peer.own_knock_ms + 1)
    expires_ms = min(time_ms + _lifetime_ms(expires_in_seconds, limits.knock_lifetime_seconds), bundle.not_after_ms)
    if expires_ms <= time_ms:
        raise BundleExpired
    fresh = not any(held.facts.initiator for held in _held(peer))
    content = KnockContent(intent=intent, early_payload=None if withheld else early_payload, fresh=fresh)
    encoded = encode_content(content, limits)
    initiation = initiate(state.identity, bundle, expires_ms=expires_ms, entropy=core.entropy)
    header_bytes = Header(
        kind=Kind.KNOCK, mesh=state.mesh, sender=state.identity.did, recipient=did, time_ms=time_ms
    ).encode()
    body = build_knock_body(
        state.identity,
        initiation,
        bundle_ref=bundle.ref,
        expires_ms=expires_ms,
        header_bytes=header_bytes,
        content=encoded,
        entropy=core.entropy,
    )
    envelope = build(header_bytes, body)
    keys = initiation.keys
    facts = Facts(
        session_id=keys.session_id,
        th=keys.th,
        mesh=state.mesh,
        own_did=state.identity.did,
        peer=bundle.identity,
        initiator=True,
        bundle_class=bundle.bundle_class,
        knock_time_ms=time_ms,
        knock_receipt=receipt_of(envelope),
        action=intent.action,
        early_payload=content.early_payload is not None,
    )
    ratchet = Ratchet.initiator(
        SUITE,
        keys.root,
        initiation.ephemeral_secret,
        initiation.ephemeral,
        header_key_ab=keys.header_key_ab,
        header_key_ba=keys.header_key_ba,
    )
    pending = Pending(facts, ratchet, expires_ms=expires_ms, knock=envelope)
    output = Knock(envelope)
    output.session_id = keys.session_id
    output.receipt = facts.knock_receipt
    output.bundle_class = bundle.bundle_class
    output.early_payload_withheld = withheld
    records = _sent(core, AuditEvent.KNOCK_SENT, facts, envelope, facts.knock_receipt, 0, time_ms, now_ms)
    return Step((KnockedPeer(bundle.identity, time_ms), SessionPut(pending)), records, output)


def _lifetime_ms(expires_in_seconds: int | None, default_seconds: int) -> int:
    seconds = default_seconds if expires_in_seconds is None else expires_in_seconds
    if type(seconds) is not int or not 0 < seconds * 1000 <= KNOCK_LIFETIME_MAX_MS:
        raise ArgumentInvalid("expires_in_seconds")
    return seconds * 1000


def _held(peer: Peer | None) -> list[Pending | Undecided | Session]:
    return [] if peer is None else [held for held in peer.sessions if not isinstance(held, Ended)]


# --- sending ---------------------------------------------------------------------------------------------------------


def session_with(core: Core, did: str, session_id: SessionId | None, now_ms: int) -> Session:
    """Return the session that sends to this peer, or the one that is named.

    Raises:
        NoSession: there is none.
    """
    peer = core.state.peer(did)
    if peer is None:
        raise NoSession
    if session_id is None:
        session = core.sending_session(peer, now_ms)
    else:
        held = peer.session(session_id)
        session = held if isinstance(held, Session) else None
    if session is None:
        raise NoSession
    return session


def send(
    core: Core,
    did: str,
    data: bytes,
    *,
    action: str | None,
    session_id: SessionId | None,
    disclosable: bool,
    now_ms: int,
) -> Step:
    """Seal a data message. The output is the envelope; where it is to be disclosable, the `Sealed`."""
    session = session_with(core, did, session_id, now_ms)
    core.check_allowed(session.facts.peer)
    sealed = session.seal(
        data, action=action, now_ms=now_ms, limits=core.limits, entropy=core.entropy, disclosable=disclosable
    )
    records = _sealed(core, session, sealed, now_ms)
    output = sealed.handed_out() if disclosable else sealed.envelope
    return Step((sealed.delta,), records, output)


def close(core: Core, did: str, reason: str, session_id: SessionId | None, now_ms: int) -> Step:
    """Close a session. The output is the close envelope."""
    session = session_with(core, did, session_id, now_ms)
    core.check_allowed(session.facts.peer)
    sealed = session.seal_close(reason, now_ms=now_ms, entropy=core.entropy)
    return Step((sealed.delta,), _sealed(core, session, sealed, now_ms), sealed.envelope)


def drop(core: Core, did: str, session_id: SessionId, now_ms: int) -> Step:
    """End a session on this side alone. There is no output.

    Raises:
        NoSession: no such session, or it is over or undecided.
    """
    peer = core.state.peer(did)
    held = None if peer is None else peer.session(session_id)
    if not isinstance(held, Pending | Session):
        raise NoSession
    phase = Phase.EXPIRED if isinstance(held, Pending) else Phase.TRUNCATED
    over = ended(held, phase, at_ms=now_ms, detail="dropped")
    # Its ACCEPT is not given again: the peer would establish what this side no longer holds.
    return Step((AnswerDropped(held.facts.th), SessionEnded(over)), over_record(core, over, now_ms), None)


# --- receiving -------------------------------------------------------------------------------------------------------


def receive_message(core: Core, outer: OuterEnvelope, now_ms: int, *, disclosable: bool) -> Step:
    """Receive a kind 2 or 4: the checks of section 6.1 from the session on. The output is the events.

    Raises:
        Malformed: too short to name a session.
        UnknownSession: no session of this agent.
        SenderMismatch: sender or mesh are not the session's.
        ClosedSession: the session is over.
        PeerNotAllowed: the policy does not allow the peer (any more).
    """
    session_id = _session_id(outer)
    if len(session_id) < SESSION_ID_BYTES:
        raise Malformed
    held = core.state.sessions.get(session_id)
    if held is None or isinstance(held, Undecided):
        raise UnknownSession
    peer = held.peer if isinstance(held, Ended) else held.facts.peer
    # An authentic header may still lie about who sent it.
    if outer.header.sender != peer.did:
        raise SenderMismatch
    if isinstance(held, Ended):
        raise ClosedSession
    core.check_allowed(peer)
    if isinstance(held, Pending):
        return _receive_accept(core, held, outer, now_ms)
    return _receive_message(core, held, outer, now_ms, disclosable)


def _receive_accept(core: Core, pending: Pending, outer: OuterEnvelope, now_ms: int) -> Step:
    conditions, opened = pending.open_accept(outer, now_ms=now_ms, limits=core.limits)
    session = pending.established(conditions, outer.header.time_ms)
    records = _received(core, AuditEvent.KNOCK_ACCEPTED, session.facts, outer, 0, outer.header.time_ms, now_ms)
    event = SessionEstablished(
        peer=session.facts.peer,
        session_id=session.facts.session_id,
        bundle_class=session.facts.bundle_class,
        conditions=conditions,
    )
    return Step((SessionPut(session, opened.delta(core.entropy)),), records, (event,))


def _session_id(outer: OuterEnvelope) -> SessionId:
    return SessionId(outer.envelope[outer.body_at : outer.body_at + SESSION_ID_BYTES])


def receive_known(core: Core, outer: OuterEnvelope, now_ms: int, *, disclosable: bool) -> Step | None:
    """Receive a kind 4 of an established session whose header is known by its bytes, or return `None`.

    Version, kind, mesh, sender and recipient are right then. Raises as `receive_message` does from the policy on.
    """
    session = core.state.sessions.get(_session_id(outer))
    if not isinstance(session, Session):
        return None
    time_ms = session.facts.message_time_ms(outer)
    if time_ms is None:
        return None
    core.check_allowed(session.facts.peer)
    return _receive_message(core, session, outer, now_ms, disclosable, time_ms)


def _receive_message(
    core: Core, session: Session, outer: OuterEnvelope, now_ms: int, disclosable: bool, time_ms: int | None = None
) -> Step:
    incoming = session.open(outer, now_ms=now_ms, limits=core.limits, disclosable=disclosable, time_ms=time_ms)
    facts = session.facts
    delta = incoming.delta(core.entropy)
    changes: tuple[Change, ...] = ()
    if not session.confirmed and not facts.initiator:
        changes = (AnswerDropped(facts.th),)
    records = _received(core, AuditEvent.MESSAGE_OPENED, facts, outer, incoming.number, incoming.time_ms, now_ms)
    if incoming.content_type is ContentType.CLOSE:
        return _receive_close(core, session, incoming, outer.receipt, delta, changes, records, now_ms)
    lost = len(delta.opened.evicted)
    key = incoming.disclosure_key
    event: Event = MessageReceived(
        facts.peer,
        facts.session_id,
        incoming.data,
        incoming.action,
        incoming.number,
        incoming.time_ms,
        outer,
        None if key is None else Disclosure(facts.th + key.reveal()),
        lost,
    )
    close = session.peer_close
    if close is not None and session.data_opened + 1 >= close.data_sent:
        # The last message that the peer announced has come: nothing more is awaited.
        over = ended(session, Phase.CLOSED, at_ms=now_ms, opened_now=1)
        changes += (SessionEnded(over),)
        return Step(changes, records + over_record(core, over, now_ms), (event, session_over(over)))
    return Step((*changes, delta), records, (event,))


def _receive_close(
    core: Core,
    session: Session,
    incoming: Incoming,
    receipt: Receipt,
    delta: MessageTaken,
    changes: tuple[Change, ...],
    records: tuple[Record, ...],
    now_ms: int,
) -> Step:
    facts, close = session.facts, incoming.peer_close
    if close is None:
        raise Malformed
    missing = max(0, close.data_sent - session.data_opened)
    changes += (delta,)
    reply: bytes | None = None
    if session.may_send(now_ms):
        # Sealed over the state as it will be: a peer's turn that came with its close is taken first.
        answer = _answer_close(core, session, delta, now_ms)
        if answer is not None:
            reply = answer.envelope
            changes += (answer.delta,)
            records += _sealed(core, session, answer, now_ms)
    event = PeerClosed(
        peer=facts.peer,
        session_id=facts.session_id,
        receipt=receipt,
        reason=incoming.data.decode(),
        missing=missing,
        peer_opened=close.data_opened,
        lost=len(delta.opened.evicted),
        reply=reply,
    )
    if missing:
        return Step(changes, records, (event,))
    over = ended(session, Phase.CLOSED, at_ms=now_ms)
    changes += (SessionEnded(over),)
    return Step(changes, records + over_record(core, over, now_ms), (event, session_over(over)))


def _answer_close(core: Core, session: Session, closing: MessageTaken, now_ms: int) -> Sealed | None:
    try:
        return session.answer_close(closing, now_ms=now_ms, entropy=core.entropy)
    except ChainExhausted:
        return None  # the peer's close counts all the same


def receive_reject(core: Core, outer: OuterEnvelope, now_ms: int) -> Step:
    """Receive a REJECT: it must answer a pending KNOCK of this agent, from the peer that was knocked at. Section 5.2.

    Raises:
        TooLarge, Malformed: not a REJECT.
        VerdictUnmatched: no pending session with that KNOCK at that peer.
        BadSignature: not the peer's.
    """
    reject = parse_reject_body(outer.body)
    key = core.state.dids.get(outer.header.sender)
    for held in () if key is None else core.state.peers[key].sessions:
        if isinstance(held, Pending) and held.facts.knock_receipt == reject.knock_receipt:
            reject.verify(held.facts.peer, outer.header_bytes)
            over = ended(held, Phase.REJECTED, at_ms=now_ms, detail=str(reject.reason))
            event = SessionRejected(
                peer=held.facts.peer,
                session_id=held.facts.session_id,
                reason=reject.reason,
                retry_after_seconds=reject.retry_after_seconds,
            )
            time_ms, reason = outer.header.time_ms, str(reject.reason)
            records = _received(core, AuditEvent.KNOCK_REJECTED, held.facts, outer, 0, time_ms, now_ms, reason)
            return Step((SessionEnded(over),), records, (event,))
    raise VerdictUnmatched


# --- records ---------------------------------------------------------------------------------------------------------


def session_over(over: Ended) -> SessionOver:
    """Return the event of an ending."""
    return SessionOver(peer=over.peer, session_id=over.session_id, phase=over.phase, detail=over.detail)


def over_record(core: Core, over: Ended, now_ms: int) -> tuple[Record, ...]:
    """Return the record of an ending."""
    return core.record(
        AuditEvent.SESSION_CLOSED,
        now_ms,
        recipient=over.peer.did,
        session_id=over.session_id,
        bundle_class=over.bundle_class,
        reason=str(over.phase),
    )


def _sealed(core: Core, session: Session, sealed: Sealed, now_ms: int) -> tuple[Record, ...]:
    if not core.recording:
        return ()
    event, envelope = AuditEvent.MESSAGE_SEALED, sealed.envelope
    return _sent(core, event, session.facts, envelope, sealed.receipt, sealed.number, now_ms, now_ms)


def _sent(
    core: Core,
    event: AuditEvent,
    facts: Facts,
    envelope: bytes,
    receipt: Receipt,
    number: int,
    time_ms: int,
    now_ms: int,
) -> tuple[Record, ...]:
    if not core.recording:
        return ()
    return (
        Record(
            event,
            at_ms=now_ms,
            mesh=facts.mesh,
            sender=facts.own_did,
            recipient=facts.peer.did,
            envelope_time_ms=time_ms,
            receipt=receipt,
            session_id=facts.session_id,
            number=number,
            size_bytes=len(envelope),
            bundle_class=facts.bundle_class,
        ),
    )


def _received(
    core: Core,
    event: AuditEvent,
    facts: Facts,
    outer: OuterEnvelope,
    number: int,
    time_ms: int,
    now_ms: int,
    reason: str = "",
) -> tuple[Record, ...]:
    if not core.recording:
        return ()
    return (
        Record(
            event,
            at_ms=now_ms,
            mesh=facts.mesh,
            sender=facts.peer.did,
            recipient=facts.own_did,
            envelope_time_ms=time_ms,
            receipt=outer.receipt,
            session_id=facts.session_id,
            number=number,
            size_bytes=outer.size_bytes,
            bundle_class=facts.bundle_class,
            reason=reason,
        ),
    )
