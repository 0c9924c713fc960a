"""A's side of a KNOCK: making one, and taking the verdict on it (docs/protocol.md, sections 5 and 5.2)."""

from __future__ import annotations

from agentmesh.assurance import guarantees_of
from agentmesh.engine import records
from agentmesh.engine.changes import OwnKnockTime, SessionEnded, SessionPut
from agentmesh.engine.core import Core
from agentmesh.engine.state import Peer, Step
from agentmesh.envelope import Header, Kind, OuterEnvelope, build
from agentmesh.errors import (
    BundleExpired,
    IdentityConflict,
    OneTimeRequired,
    PeerNotAllowed,
    TooManySessions,
    VerdictUnmatched,
)
from agentmesh.events import Events, SessionEstablished, SessionRejected
from agentmesh.handshake.agreement import Initiation, initiate
from agentmesh.handshake.knock import Intent, KnockContent, build_knock_body, encode_content
from agentmesh.handshake.prekeys import Bundle, BundleClass, verify_bundle
from agentmesh.handshake.verdict import parse_reject_body
from agentmesh.limits import CLOCK_TOLERANCE_MS, KNOCK_LIFETIME_MAX_MS
from agentmesh.outgoing import Knock, Outgoing
from agentmesh.primitives.arguments import uint_argument
from agentmesh.session.facts import Ended, Facts
from agentmesh.session.held import ended
from agentmesh.session.pending import Pending
from agentmesh.session.phases import Happening
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE


def pending(core: Core, did: str) -> tuple[Outgoing, ...]:
    """Return the KNOCKs to a peer that wait for a verdict."""
    peer = core.state.peer(did)
    held = () if peer is None else peer.sessions
    return tuple(Outgoing(waiting.knock) for waiting in held if isinstance(waiting, Pending))


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
) -> Step[Knock]:
    """Make a KNOCK on a bundle. Sections 3 and 5."""
    bundle = _usable_bundle(core, did, bundle_bytes, now_ms, require_one_time=require_one_time)
    peer = core.state.peer(did)
    held = core.open_sessions(peer, now_ms)
    if not core.has_room(len(held)):
        raise TooManySessions(tuple(one.facts.session_id for one in held))
    is_last_resort = bundle.bundle_class is BundleClass.LAST_RESORT
    withheld = early_payload is not None and is_last_resort and not early_with_last_resort
    time_ms = _knock_time_ms(peer, now_ms)
    lifetime_ms = _lifetime_ms(expires_in_seconds, core.limits.knock_lifetime_seconds)
    expires_ms = min(time_ms + lifetime_ms, bundle.not_after_ms)
    if expires_ms <= time_ms:
        raise BundleExpired
    content = KnockContent(
        intent=intent,
        early_payload=None if withheld else early_payload,
        # A KNOCK whose time was put forward says nothing of sessions that were entered until then.
        fresh=time_ms == now_ms and not _holds_any(peer, now_ms),
    )
    initiation, made = _make(core, bundle, content, time_ms, expires_ms, withheld=withheld)
    pending = _pending(core, bundle, initiation, content, made, time_ms, expires_ms)
    trail = records.knock_sent(core, pending.facts, made, now_ms)
    return Step((OwnKnockTime(bundle.identity, time_ms), SessionPut(pending)), trail, made)


def _usable_bundle(core: Core, did: str, data: bytes, now_ms: int, *, require_one_time: bool) -> Bundle:
    """Return the bundle, verified, once everything speaks for knocking at its owner."""
    state = core.state
    bundle = verify_bundle(data, did=did, mesh=state.mesh, now_ms=now_ms)
    known = state.dids.get(did)
    if known is not None and known != bundle.identity.raw:
        raise IdentityConflict
    if require_one_time and bundle.bundle_class is not BundleClass.ONE_TIME:
        raise OneTimeRequired
    core.check_allowed(bundle.identity)
    if not core.may_converse(bundle.identity, guarantees_of(bundle.identity, bundle.bundle_class)):
        raise PeerNotAllowed(bundle.identity.did)
    return bundle


def _knock_time_ms(peer: Peer | None, now_ms: int) -> int:
    # A KNOCK is stale if it is not later than the last, and two may be made within a millisecond. One made by a clock
    # that was far ahead is no measure: its peer refused it.
    if peer is None or peer.own_knock_ms > now_ms + CLOCK_TOLERANCE_MS:
        return now_ms
    return max(now_ms, peer.own_knock_ms + 1)


def _make(
    core: Core, bundle: Bundle, content: KnockContent, time_ms: int, expires_ms: int, *, withheld: bool
) -> tuple[Initiation, Knock]:
    identity = core.state.identity
    encoded = encode_content(content, core.limits)
    initiation = initiate(identity, bundle, expires_ms=expires_ms, entropy=core.entropy)
    header_bytes = Header(
        kind=Kind.KNOCK, mesh=core.state.mesh, sender=identity.did, recipient=bundle.identity.did, time_ms=time_ms
    ).encode()
    body = build_knock_body(
        identity,
        initiation,
        bundle_ref=bundle.ref,
        expires_ms=expires_ms,
        header_bytes=header_bytes,
        content=encoded,
        entropy=core.entropy,
    )
    return initiation, Knock(
        envelope=build(header_bytes, body),
        session_id=initiation.keys.session_id,
        bundle_class=bundle.bundle_class,
        early_payload_withheld=withheld,
    )


def _pending(
    core: Core,
    bundle: Bundle,
    initiation: Initiation,
    content: KnockContent,
    made: Knock,
    time_ms: int,
    expires_ms: int,
) -> Pending:
    keys = initiation.keys
    facts = Facts(
        session_id=keys.session_id,
        th=keys.th,
        mesh=core.state.mesh,
        own_did=core.state.identity.did,
        peer=bundle.identity,
        initiator=True,
        bundle_class=bundle.bundle_class,
        knock_time_ms=time_ms,
        knock_receipt=made.receipt,
        action=content.intent.action,
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
    return Pending(facts, ratchet, expires_ms=expires_ms, knock=made.envelope)


def _lifetime_ms(expires_in_seconds: int | None, default_seconds: int) -> int:
    seconds = default_seconds if expires_in_seconds is None else expires_in_seconds
    return uint_argument("expires_in_seconds", seconds, KNOCK_LIFETIME_MAX_MS // 1000, minimum=1) * 1000


def _holds_any(peer: Peer | None, now_ms: int) -> bool:
    sessions = () if peer is None else peer.sessions
    return any(not isinstance(held, Ended) and held.ending(now_ms) is None for held in sessions)


# --- the verdict -----------------------------------------------------------------------------------------------------


def receive_accept(core: Core, pending: Pending, outer: OuterEnvelope, now_ms: int) -> Step[Events]:
    """Receive an ACCEPT: the session is established. Raises as `Pending.open_accept`."""
    conditions, opened = pending.open_accept(outer, now_ms=now_ms, limits=core.limits)
    session = pending.established(conditions, outer.header.time_ms)
    trail = records.acceptance_received(core, session.facts, outer, now_ms)
    event = SessionEstablished(
        peer=session.facts.peer,
        session_id=session.facts.session_id,
        bundle_class=session.facts.bundle_class,
        conditions=conditions,
    )
    return Step((SessionPut(session, opened.delta(core.entropy)),), trail, (event,))


def receive_reject(core: Core, outer: OuterEnvelope, now_ms: int) -> Step[Events]:
    """Receive a REJECT: it must answer a pending KNOCK of this agent, from the peer that was knocked at. Section 5.2.

    Raises:
        TooLarge, Malformed: not a REJECT.
        VerdictUnmatched: no pending session with that KNOCK at that peer, or its time is over.
        BadSignature: not the peer's.
    """
    reject = parse_reject_body(outer.body)
    key = core.state.dids.get(outer.header.sender)
    for held in () if key is None else core.state.peers[key].sessions:
        if not isinstance(held, Pending) or held.ending(now_ms) is not None:
            continue
        if held.facts.knock_receipt == reject.knock_receipt:
            reject.verify(held.facts.peer, outer.header_bytes)
            over = ended(held, Happening.REJECTED, at_ms=now_ms, detail=str(reject.reason))
            event = SessionRejected(
                peer=held.facts.peer,
                session_id=held.facts.session_id,
                reason=reject.reason,
                retry_after_seconds=reject.retry_after_seconds,
            )
            trail = records.rejection_received(core, held.facts, outer, now_ms, str(reject.reason))
            return Step((SessionEnded(over),), trail, (event,))
    raise VerdictUnmatched
