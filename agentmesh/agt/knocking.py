"""KNOCKs of an agent that speaks AGT's protocol: its own, its peers', and the answers (docs/agt.md, section 5).

A peer's KNOCK is not signed, and whoever can write to the relay may have copied it. What can be seen of it without a
message is that its identity key is its sender's. So it only becomes a candidate here; `agentmesh.agt.conversing` makes
a session of it once a message has opened under it.
"""

from __future__ import annotations

from typing import Final

from agentmesh.agt import records
from agentmesh.agt.agreement import initiate, respond
from agentmesh.agt.conversation import AgtFacts, AgtSession, Candidate, request_of
from agentmesh.agt.conversing import can_carry, open_waiting
from agentmesh.agt.core import AgtCore
from agentmesh.agt.frames import (
    ESTABLISH,
    AgtKnock,
    KnockFrame,
    VerdictFrame,
    frame_id,
    frame_receipt,
    knock_frame,
    parse_frame,
)
from agentmesh.agt.prekeys import Prekey, prekey_name
from agentmesh.agt.registry import FetchedBundle
from agentmesh.agt.stage import Stage
from agentmesh.agt.suite import receiving_first, sending_first
from agentmesh.agt_identity import AgtIdentityKey, identity_of_dh
from agentmesh.audit.record import AuditEvent
from agentmesh.engine.changes import InboxRemoved
from agentmesh.engine.state import Step
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadPoint,
    Busy,
    KnockNotAdmitted,
    KnockNotPending,
    KnockReplayed,
    KnockUnknownBundle,
    OneTimeRequired,
    RemoteError,
    SenderMismatch,
    VerdictUnmatched,
)
from agentmesh.events import Events, KnockReceived, SessionRejected
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import Conditions, Reason
from agentmesh.outgoing import Outgoing
from agentmesh.policy import ClaimedSender
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import Receipt, SessionId, X25519PublicKey, X25519Secret
from agentmesh.session.ratchet import Ratchet

_COSTS_CHECKS: Final = 15  # as many signature checks as a KNOCK costs: two agreements of four
_CANDIDATES_PER_PEER = 4  # unproved at a time; the oldest makes room: a genuine one is proved by the next frame


# --- this agent's own ------------------------------------------------------------------------------------------------


def knock(core: AgtCore, bundle: FetchedBundle, *, require_one_time: bool, now_ms: int) -> Step[AgtKnock]:
    """Make a KNOCK, and the session that it begins: messages may follow at once."""
    if require_one_time and bundle.one_time is None:
        raise OneTimeRequired
    bundle_class = BundleClass.LAST_RESORT if bundle.one_time is None else BundleClass.ONE_TIME
    core.check_peer(bundle.key, bundle_class)
    state = core.state
    secret = X25519Secret(core.entropy.token(32))
    ephemeral = X25519PublicKey(_crypto.x25519_public(secret))
    root = initiate(state.identity, bundle.key.dh, bundle.signed, bundle.one_time, secret)
    name = frame_id(core.entropy)
    envelope = knock_frame(
        state.identity.did,
        bundle.key.did,
        name,
        now_ms,
        dh=state.identity.key.dh,
        ephemeral=ephemeral,
        one_time_id=bundle.one_time_id,
    )
    facts = AgtFacts(
        peer=bundle.key,
        own=state.identity.key,
        initiator=True,
        ephemeral=ephemeral,
        one_time=bundle.one_time_id,
        knock_id=name,
        knock_time_ms=now_ms,
        knock_receipt=_receipt_of(envelope),
        action=ESTABLISH,
    )
    knocked = AgtKnock(envelope=envelope, session_id=facts.session_id, bundle_class=bundle_class, frame_id=name)
    stage = Stage(core, now_ms)
    stage.begin(facts, sending_first(root, bundle.signed, core.entropy))
    stage.records += records.sent(core, AuditEvent.KNOCK_SENT, facts, knocked, now_ms)
    return stage.step(knocked)


def _receipt_of(envelope: bytes) -> Receipt:
    frame = parse_frame(envelope, len(envelope))
    assert isinstance(frame, KnockFrame)  # it was just built
    return frame_receipt(frame)


# --- a peer's --------------------------------------------------------------------------------------------------------


def receive_knock(core: AgtCore, frame: KnockFrame, now_ms: int) -> Step[Events]:
    """Take a KNOCK as a candidate, and open under it what came before it.

    Raises:
        SenderMismatch: its identity key is not its sender's.
        KnockReplayed: it is here, or was.
        KnockNotAdmitted: the policy does not want to hear of its sender.
        KnockUnknownBundle: it names a prekey that this agent has not, or not any more.
        Busy: budgets are used up; it may be taken later.
        BadPoint: its ephemeral key is none that an X25519 secret has.
        LegacyPeer: what came before it opens by the old key agreement.
    """
    peer = _sender_of(frame)
    facts = _facts_of(core, frame, peer)
    one_time = _check_new(core, frame, facts)
    known = core.is_known(peer.raw)
    if not all(core.take_check(peer.raw, now_ms, known=known) for _ in range(_COSTS_CHECKS)):
        raise Busy
    if not _crypto.is_x25519_prime_order(frame.ephemeral):
        raise BadPoint  # a copy of a KNOCK under a name of its own: its first message would open once more
    if not core.may_use(peer, facts.bundle_class, now_ms):
        # What is rationed is so for a while. A KNOCK without a one-time prekey never gets one.
        raise KnockNotAdmitted if facts.one_time is None else Busy
    leave = core.must_leave(core.limits.tracked_identities, known=known)
    if not core.budgets.knocks.take(peer.raw, now_ms, leave_keys=leave):
        raise Busy
    try:
        candidate = Candidate(
            facts=facts, ratchets=tuple(_ratchets(core, facts, one_time)), made_ms=now_ms, is_known=known
        )
        return _taken(core, candidate, now_ms)
    except AgentMeshError:
        core.budgets.knocks.give_back(peer.raw)  # nothing comes of it
        raise


def _taken(core: AgtCore, candidate: Candidate, now_ms: int) -> Step[Events]:
    peer = candidate.facts.peer
    stage = Stage(core, now_ms)
    stage.charged = peer.raw
    _make_room(stage, candidate)
    stage.put(candidate)
    over = open_waiting(stage, candidate.facts.session_id, core.early.of(peer.did))
    if over:
        stage.afterwards.append(lambda: core.early.drop(peer.did, over))
    return stage.told()


def _sender_of(frame: KnockFrame) -> AgtIdentityKey:
    try:
        return identity_of_dh(frame.sender, frame.dh)
    except RemoteError:
        pass
    raise SenderMismatch


def _facts_of(core: AgtCore, frame: KnockFrame, peer: AgtIdentityKey) -> AgtFacts:
    return AgtFacts(
        peer=peer,
        own=core.state.identity.key,
        initiator=False,
        ephemeral=frame.ephemeral,
        one_time=frame.one_time_id,
        knock_id=frame.frame_id,
        knock_time_ms=frame.time_ms,
        knock_receipt=frame_receipt(frame),
        action=frame.action,
    )


def _check_new(core: AgtCore, frame: KnockFrame, facts: AgtFacts) -> Prekey | None:
    """Return the one-time prekey that a KNOCK names, if it could be a new one."""
    state = core.state
    if facts.session_id in state.held or facts.session_id in state.known:
        raise KnockReplayed
    try:
        may_knock = core.policy.may_knock(ClaimedSender(frame.sender, facts.peer.raw)) is True
    except Exception:
        may_knock = False
    if not may_knock:
        raise KnockNotAdmitted
    one_time = None
    if facts.one_time is not None:
        one_time = state.prekeys.get(prekey_name(facts.one_time, is_signed=False))
        if one_time is None:
            raise KnockUnknownBundle
    elif len(state.known) >= core.limits.remembered_knocks - core.must_leave(
        core.limits.remembered_knocks, known=core.is_known(facts.peer.raw)
    ):
        raise Busy  # a copy of one that is not remembered would open again
    if not state.signed_prekeys():
        raise KnockUnknownBundle
    return one_time


def _ratchets(core: AgtCore, facts: AgtFacts, one_time: Prekey | None) -> list[tuple[int, Ratchet]]:
    """Return a ratchet for each signed prekey that the KNOCK may have been made on: it does not say."""
    secret = None if one_time is None else one_time.dh_secret
    found: list[tuple[int, Ratchet]] = []
    for signed in core.state.signed_prekeys():
        root = respond(core.state.identity, facts.peer.dh, facts.ephemeral, signed.dh_secret, secret)
        found.append((signed.number, receiving_first(root, signed.dh_secret, signed.public)))
    return found


def _make_room(stage: Stage, candidate: Candidate) -> None:
    """Let go of KNOCKs that nobody has proved, where there are too many: strangers' first, the oldest first.

    Raises:
        Busy: all that there are were proved.
    """
    core = stage.core
    unproved = [one for one in core.state.candidates() if not one.is_proved]
    of_peer = [one for one in unproved if one.facts.peer == candidate.facts.peer]
    for surplus in of_peer[: max(0, len(of_peer) - _CANDIDATES_PER_PEER + 1)]:
        stage.drop(surplus.facts)
        unproved.remove(surplus)
    if len(core.state.candidates()) < core.limits.undecided_knocks:
        return
    gone = next((one for one in unproved if not one.is_known), None)
    if gone is None and candidate.is_known:
        gone = next(iter(unproved), None)
    if gone is None:
        raise Busy
    stage.drop(gone.facts)


# --- verdicts --------------------------------------------------------------------------------------------------------


def waiting(core: AgtCore) -> tuple[KnockReceived, ...]:
    """Return the KNOCKs that wait for the application, oldest first."""
    state = core.state
    told = {handed.event.session_id: handed.event for handed in state.inbox if isinstance(handed.event, KnockReceived)}
    proved = [held for held in state.candidates() if held.is_proved]
    return tuple(
        told.get(one.facts.session_id) or request_of(one, len(state.sessions_with(one.facts.peer.did)))
        for one in proved
    )


def pending(core: AgtCore, session_id: SessionId, now_ms: int) -> Candidate:
    """Return the KNOCK that waits for the application's verdict.

    Raises:
        KnockNotPending: none of this session, or its time is over.
    """
    held = core.state.held.get(session_id)
    if not isinstance(held, Candidate) or not held.is_proved or now_ms > held.expires_ms:
        raise KnockNotPending
    return held


def accept(core: AgtCore, session_id: SessionId, conditions: Conditions, now_ms: int) -> Step[Events]:
    """Make a session of a KNOCK that waits, and open what was held.

    Raises:
        KnockNotPending: as `pending`.
        ArgumentInvalid: the conditions allow no message.
        PeerNotAllowed: the policy does not allow the peer.
    """
    candidate = pending(core, session_id, now_ms)
    facts = candidate.facts
    if not can_carry(conditions, facts):
        raise ArgumentInvalid("conditions", "allowed actions without that of the KNOCK: messages here carry no other")
    core.check_peer(facts.peer, facts.bundle_class)
    stage = Stage(core, now_ms)
    _told(stage, session_id)
    [(_, ratchet)] = candidate.ratchets
    stage.establish(candidate, ratchet, conditions, "application")
    open_waiting(stage, session_id, candidate.held)  # what was granted may not allow all of them
    return stage.told()


def reject(core: AgtCore, session_id: SessionId, reason: Reason, now_ms: int) -> Step[Outgoing]:
    """Refuse a KNOCK that waits."""
    candidate = pending(core, session_id, now_ms)
    stage = Stage(core, now_ms)
    _told(stage, session_id)
    stage.drop(candidate.facts)
    return stage.step(stage.rejection(candidate.facts, str(reason)))


def _told(stage: Stage, session_id: SessionId) -> None:
    """Be done with the event that asked."""
    sequence = stage.core.state.inbox.knocks.get(session_id)
    if sequence is not None:
        stage.changes.append(InboxRemoved((sequence,)))


def receive_verdict(core: AgtCore, frame: VerdictFrame, now_ms: int, size_bytes: int) -> Step[Events]:
    """Take a peer's word on this agent's KNOCK.

    It is not signed. So an acceptance says nothing, and a refusal ends a session that nothing was heard on: it names
    the KNOCK by an id that only the relay and the peer have seen.

    Raises:
        VerdictUnmatched: it answers no KNOCK, or one whose session was heard on.
    """
    for session in core.state.sessions_with(frame.sender):
        if session.facts.initiator and session.facts.knock_id == frame.knock_id:
            break
    else:
        raise VerdictUnmatched
    if frame.accepted:
        return Step((), (), ())
    if session.heard_ms is not None:
        raise VerdictUnmatched
    return _rejected(core, session, frame, now_ms, size_bytes)


def _rejected(core: AgtCore, session: AgtSession, frame: VerdictFrame, now_ms: int, size_bytes: int) -> Step[Events]:
    facts = session.facts
    stage = Stage(core, now_ms)
    stage.drop(facts)
    stage.records += records.received(
        core,
        AuditEvent.KNOCK_REJECTED,
        facts,
        time_ms=frame.time_ms,
        receipt=frame_receipt(frame),
        size_bytes=size_bytes,
        now_ms=now_ms,
        why=str(Reason.POLICY),
    )
    stage.events.append(
        SessionRejected(peer=facts.peer, session_id=facts.session_id, reason=Reason.POLICY, retry_after_seconds=0)
    )
    return stage.told()
