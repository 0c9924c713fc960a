"""Messages to and from an agent of AGT's mesh (docs/agt.md, section 5)."""

from __future__ import annotations

from agentmesh.agt import records
from agentmesh.agt.agreement import respond
from agentmesh.agt.conversation import AgtSession, Candidate, HeldFrame, advanced, request_of
from agentmesh.agt.core import AgtCore
from agentmesh.agt.frames import (
    MESSAGE_MAX_BYTES,
    AgtSealed,
    MessageFrame,
    RelayNotice,
    Routed,
    frame_id,
    frame_receipt,
    message_frame,
    parse_frame,
)
from agentmesh.agt.payload import wrap
from agentmesh.agt.prekeys import Prekey, prekey_name
from agentmesh.agt.stage import Stage
from agentmesh.agt.suite import MESSAGE_OVERHEAD_BYTES, NONCE_BYTES, knows_chain, previous_length_of, receiving_first
from agentmesh.agt_identity import mesh_did_argument
from agentmesh.audit.record import AuditEvent
from agentmesh.engine.state import Step
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    ConditionNotMet,
    DecryptionFailed,
    DuplicateMessage,
    EnvelopeReflected,
    LegacyPeer,
    MessageEarly,
    NoSession,
    RelayComplaint,
    RemoteError,
    SessionNotOpen,
    WrongRecipient,
)
from agentmesh.events import Events, KnockRefused
from agentmesh.handshake.verdict import Reason
from agentmesh.policy import Ask, Decision, Deny, Grant
from agentmesh.primitives.keys import SessionId
from agentmesh.session.ratchet import Opened, Ratchet

# --- sending ---------------------------------------------------------------------------------------------------------


def session_with(core: AgtCore, did: str, session_id: SessionId | None, now_ms: int) -> AgtSession:
    """Return the session that sends to this peer, or the one that is named.

    Raises:
        ArgumentInvalid: not a DID of AGT's mesh.
        NoSession: there is none.
        SessionNotOpen: its time to live is over.
    """
    sessions = core.state.sessions_with(mesh_did_argument("did", did))
    if session_id is not None:
        sessions = [one for one in sessions if one.facts.session_id == session_id]
    if not sessions:
        raise NoSession
    if sessions[0].is_over(now_ms):
        raise SessionNotOpen
    return sessions[0]


def send(
    core: AgtCore, did: str, data: bytes, *, json: bool, session_id: SessionId | None, now_ms: int
) -> Step[AgtSealed]:
    """Seal a message."""
    session = session_with(core, did, session_id, now_ms)
    facts, conditions = session.facts, session.conditions
    core.check_peer(facts.peer, facts.bundle_class)
    if conditions.max_messages is not None and session.sent >= conditions.max_messages:
        raise ConditionNotMet("max_messages")
    plaintext = wrap(data, json=json)
    most = MESSAGE_MAX_BYTES - MESSAGE_OVERHEAD_BYTES
    if len(plaintext) > most:
        raise ArgumentInvalid("data", "over the limit, as JSON", len(plaintext), most)
    nonce = core.entropy.token(NONCE_BYTES)
    message, _, chain = session.ratchet.seal(plaintext, facts.context, nonce)
    ratchet = session.ratchet.copy()
    ratchet.apply_sealed(chain)
    name = frame_id(core.entropy)
    envelope = message_frame(facts.own.did, facts.peer.did, name, now_ms, b"".join(message))
    number = session.sent + 1
    sealed = AgtSealed(envelope=envelope, number=number, frame_id=name)
    stage = Stage(core, now_ms)
    stage.put(advanced(session, ratchet=ratchet, sent=number))
    stage.records = records.sent(core, AuditEvent.MESSAGE_SEALED, facts, sealed, now_ms, number=number)
    return stage.step(sealed)


# --- receiving -------------------------------------------------------------------------------------------------------


def routed(core: AgtCore, data: bytes) -> Routed:
    """Return what a frame says, once it says that it is for this agent.

    Raises:
        TooLarge, Malformed, UnknownVersion, BadDid, BadPoint: not a frame; see `parse_frame`.
        RelayComplaint: the relay speaks, and not a peer.
        WrongRecipient, EnvelopeReflected: for another agent, or from this one itself.
    """
    frame = parse_frame(data, core.limits.envelope_max_bytes)
    if isinstance(frame, RelayNotice):
        raise RelayComplaint(frame.detail)
    own = core.state.identity.did
    if frame.recipient != own:
        raise WrongRecipient
    if frame.sender == own:
        raise EnvelopeReflected
    return frame


def receive_message(core: AgtCore, frame: MessageFrame, now_ms: int) -> Step[Events]:
    """Open a message; one that no session opens is held until its KNOCK comes.

    Raises:
        RemoteError: as `open_frame`.
        MessageEarly: it is held.
        PeerNotAllowed: the policy does not allow its sender.
    """
    stage = Stage(core, now_ms)
    held = HeldFrame(frame.frame_id, frame.time_ms, frame_receipt(frame), frame.message)
    refusal = open_frame(stage, frame.sender, held)
    if refusal is None:
        return stage.told()
    sessions = core.state.sessions_with(frame.sender)
    # What comes before its KNOCK is of the first chain of a session; by what the header says, which is a claim.
    if previous_length_of(held.message) or any(knows_chain(one.ratchet, held.message) for one in sessions):
        raise refusal
    if isinstance(refusal, LegacyPeer | DuplicateMessage):
        raise refusal
    known = bool(sessions) and core.is_known(sessions[0].facts.peer.raw)
    if core.early.put(frame.sender, held, now_ms, known=known):
        raise MessageEarly
    raise refusal


def open_frame(stage: Stage, did: str, frame: HeldFrame) -> RemoteError | None:
    """Open a message by what there is of its sender: tell it and return `None`, or return why not.

    Sessions first, and of these the one that knows the chain, because a chain is of one session alone. Then the KNOCKs
    that are no session yet, the latest first: what opens under one proves it.

    Raises:
        PeerNotAllowed: the policy does not allow the peer any more.
    """
    sessions = stage.sessions_with(did)
    knowing = [session for session in sessions if knows_chain(session.ratchet, frame.message)]
    refusal: RemoteError = DecryptionFailed()
    for session in knowing or sessions:
        stage.core.check_peer(session.facts.peer, session.facts.bundle_class)
        opened = _try_open(stage, session.ratchet, session.facts.context, frame)
        if isinstance(opened, Opened):
            return _try_take(stage, session, opened, frame)
        if not isinstance(opened, DecryptionFailed):
            refusal = opened
    if knowing:
        return refusal
    if any(session.first_chain == frame.message[:32] for session in sessions):
        return DuplicateMessage()
    for candidate in reversed(stage.candidates_of(did)):
        found = _open_candidate(stage, candidate, frame)
        if found is None or not isinstance(found, DecryptionFailed):
            return found
    return refusal


def _try_open(stage: Stage, ratchet: Ratchet, context: bytes, frame: HeldFrame) -> Opened | RemoteError:
    try:
        return ratchet.open(frame.message, context, stage.now_ms, stage.core.limits)
    except RemoteError as error:
        return type(error)() if isinstance(error, DecryptionFailed | DuplicateMessage) else error


def _try_take(stage: Stage, session: AgtSession, opened: Opened, frame: HeldFrame) -> RemoteError | None:
    try:
        stage.take(session, opened, frame)
    except RemoteError as error:
        return error
    return None


# --- a KNOCK that is proved ------------------------------------------------------------------------------------------


def _open_candidate(stage: Stage, candidate: Candidate, frame: HeldFrame) -> RemoteError | None:
    if candidate.is_proved:
        return _hold(stage, candidate, frame)
    for signed, ratchet in candidate.ratchets:
        opened = _try_open(stage, ratchet, candidate.facts.context, frame)
        if isinstance(opened, Opened):
            return _proved(stage, candidate, signed, ratchet, opened, frame)
    return LegacyPeer() if _is_legacy(stage, candidate, frame) else DecryptionFailed()


_HELD_MAX = 64
_HELD_MAX_BYTES = 4 << 20


def _hold(stage: Stage, candidate: Candidate, frame: HeldFrame) -> RemoteError | None:
    """Keep a message of a KNOCK that waits for its verdict, sealed, once it has been seen to open."""
    [(_, ratchet)] = candidate.ratchets
    opened = _try_open(stage, ratchet, candidate.facts.context, frame)
    if not isinstance(opened, Opened):
        return opened
    if any(one.message == frame.message for one in candidate.held):
        return DuplicateMessage()
    size = sum(len(one.message) for one in candidate.held) + len(frame.message)
    if len(candidate.held) >= _HELD_MAX or size > _HELD_MAX_BYTES:
        return MessageEarly()  # the relay keeps it, if it had stored it
    stage.put(advanced_candidate(candidate, (*candidate.held, frame)))
    return None


def advanced_candidate(candidate: Candidate, held: tuple[HeldFrame, ...]) -> Candidate:
    """Return the candidate with these messages held."""
    return Candidate(
        facts=candidate.facts,
        ratchets=candidate.ratchets,
        made_ms=candidate.made_ms,
        is_known=candidate.is_known,
        held=held,
    )


def _proved(
    stage: Stage, candidate: Candidate, signed: int, ratchet: Ratchet, opened: Opened, frame: HeldFrame
) -> RemoteError | None:
    """Decide on a KNOCK, now that a message has shown that its maker has the secret of the key that it names."""
    core, facts = stage.core, candidate.facts
    request = request_of(candidate, len(stage.sessions_with(facts.peer.did)))
    decision = decide(core, candidate, request)
    stage.prove(candidate, signed)
    stage.records += records.received(
        core,
        AuditEvent.KNOCK_RECEIVED,
        facts,
        time_ms=facts.knock_time_ms,
        receipt=facts.knock_receipt,
        size_bytes=0,
        now_ms=stage.now_ms,
        why="asked" if isinstance(decision, Ask) else "",
    )
    if isinstance(decision, Grant):
        session = stage.establish(candidate, ratchet, decision.conditions, decision.why)
        return _try_take(stage, session, opened, frame)
    if isinstance(decision, Deny):
        stage.drop(facts)
        why = decision.why if decision.why else str(decision.reason)
        reply = stage.rejection(facts, why)
        stage.events.append(
            KnockRefused(peer=facts.peer, receipt=facts.knock_receipt, reason=decision.reason, reply=reply)
        )
        return None
    waiting = Candidate(
        facts=facts,
        ratchets=((signed, ratchet),),
        made_ms=candidate.made_ms,
        is_known=candidate.is_known,
        held=(frame,),
    )
    stage.put(waiting)
    stage.events.append(request)
    return None


def decide(core: AgtCore, candidate: Candidate, request: object) -> Decision:
    """Ask the policy about a KNOCK that was proved; whatever goes wrong in it denies."""
    limits, peer = core.limits, candidate.facts.peer
    known = core.is_known(peer.raw)
    leave = core.must_leave(limits.sessions_max, known=known)
    if len(core.state.held) >= limits.sessions_max - leave:
        return Deny(Reason.BUSY)
    try:
        decision: object = core.policy.decide(request)  # type: ignore[arg-type]
        if not isinstance(decision, Deny):  # after it, because a denial has the word for the record
            core.check_peer(peer, candidate.facts.bundle_class)
    except Exception:
        return Deny()
    if isinstance(decision, Grant | Deny):
        return decision
    if not isinstance(decision, Ask):
        return Deny()
    waiting = sum(one.is_proved for one in core.state.candidates())
    room = limits.undecided_knocks - core.must_leave(limits.undecided_knocks, known=known)
    return Deny(Reason.BUSY) if waiting >= room else decision


def _is_legacy(stage: Stage, candidate: Candidate, frame: HeldFrame) -> bool:
    """Say whether the first message opens by the KDF of the npm package. Tried once a KNOCK: it costs as much again."""
    core, facts = stage.core, candidate.facts
    if facts.session_id in core.tried:
        return False
    core.tried[facts.session_id] = None
    one_time = None if facts.one_time is None else core.state.prekeys.get(prekey_name(facts.one_time, is_signed=False))
    for prekey in core.state.signed_prekeys():
        ratchet = _legacy_ratchet(core, candidate, prekey, one_time)
        if ratchet is not None and isinstance(_try_open(stage, ratchet, facts.context, frame), Opened):
            return True
    return False


def _legacy_ratchet(core: AgtCore, candidate: Candidate, signed: Prekey, one_time: Prekey | None) -> Ratchet | None:
    facts = candidate.facts
    if one_time is None and facts.one_time is not None:
        return None
    secret = None if one_time is None else one_time.dh_secret
    try:
        root = respond(core.state.identity, facts.peer.dh, facts.ephemeral, signed.dh_secret, secret, legacy=True)
    except AgentMeshError:
        return None
    return receiving_first(root, signed.dh_secret, signed.public)
