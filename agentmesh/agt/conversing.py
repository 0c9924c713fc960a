"""Messages to and from an agent of AGT's mesh (docs/agt.md, section 5)."""

from __future__ import annotations

from typing import Final

from attrs import evolve

from agentmesh.agt import records
from agentmesh.agt.agreement import respond
from agentmesh.agt.conversation import AgtFacts, AgtSession, Candidate, HeldFrame, advanced, request_of
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
from agentmesh.agt.payload import unwrap, wrap
from agentmesh.agt.prekeys import Prekey, prekey_name
from agentmesh.agt.stage import Stage
from agentmesh.agt.suite import (
    MESSAGE_OVERHEAD_BYTES,
    NONCE_BYTES,
    knows_chain,
    number_of,
    previous_length_of,
    receiving_first,
)
from agentmesh.agt_identity import mesh_did_argument
from agentmesh.audit.record import AuditEvent
from agentmesh.engine.state import Step
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    Busy,
    ClosedSession,
    ConditionNotMet,
    DecryptionFailed,
    DuplicateMessage,
    EnvelopeReflected,
    GapTooLarge,
    LegacyPeer,
    Malformed,
    MessageEarly,
    NoSession,
    PeerConditionBroken,
    RelayComplaint,
    RemoteError,
    SessionNotOpen,
    TryAgain,
    WrongRecipient,
)
from agentmesh.events import Events, KnockRefused
from agentmesh.handshake.verdict import Conditions, Reason
from agentmesh.limits import OPEN_SESSIONS_PER_PEER
from agentmesh.policy import Ask, Decision, Deny, Grant
from agentmesh.primitives.keys import SessionId
from agentmesh.session.ratchet import Opened, Ratchet

# --- sending ---------------------------------------------------------------------------------------------------------


def session_with(core: AgtCore, did: str, session_id: SessionId | None, now_ms: int) -> AgtSession:
    """Return the session that sends to this peer, or the one that is named.

    Raises:
        ArgumentInvalid: not a DID of AGT's mesh.
        NoSession: there is none.
        SessionNotOpen: the time to live of all of them is over.
    """
    sessions = core.state.sessions_with(mesh_did_argument("did", did))
    if session_id is not None:
        sessions = [one for one in sessions if one.facts.session_id == session_id]
    if not sessions:
        raise NoSession
    for session in sessions:
        if not session.is_over(now_ms):
            return session
    raise SessionNotOpen


def send(
    core: AgtCore, did: str, data: bytes, *, json: bool, session_id: SessionId | None, now_ms: int
) -> Step[AgtSealed]:
    """Seal a message."""
    session = session_with(core, did, session_id, now_ms)
    facts, conditions = session.facts, session.conditions
    core.check_peer(facts.peer, facts.bundle_class)
    if session.ratchet.sending is None:  # accepted, and nothing of what was held could be opened under its conditions
        raise SessionNotOpen
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
        ClosedSession: its session was ended, or its KNOCK refused.
        MessageEarly: it is held.
        Busy: it would be, and there is no room.
        PeerNotAllowed: the policy does not allow its sender.
    """
    if core.is_over(frame.message[:32]):
        raise ClosedSession
    stage = Stage(core, now_ms)
    held = HeldFrame(frame.frame_id, frame.time_ms, frame_receipt(frame), frame.message)
    refusal = open_frame(stage, frame.sender, held)
    if refusal is None:
        return stage.told()
    sessions = core.state.sessions_with(frame.sender)
    # What comes before its KNOCK is of the first chain of a session; by what the header says, which is a claim.
    if not isinstance(refusal, DecryptionFailed) or previous_length_of(held.message):
        raise refusal
    if any(knows_chain(one.ratchet, held.message) for one in sessions):
        raise refusal
    known = bool(sessions) and core.is_known(sessions[0].facts.peer.raw)
    if core.early.put(frame.sender, held, now_ms, known=known):
        raise MessageEarly
    raise Busy


def open_frame(stage: Stage, did: str, frame: HeldFrame) -> RemoteError | None:
    """Open a message by what there is of its sender: tell it and return `None`, or return why not.

    Sessions first, and of these the one that knows the chain, because a chain is of one session alone. Then the KNOCKs
    that are no session yet, the latest first: what opens under one proves it. What a session that does not know the
    chain has against the header of a first chain counts for nothing: the message may be of a KNOCK that is to come.

    Raises:
        PeerNotAllowed: the policy does not allow the peer any more.
    """
    sessions = stage.sessions_with(did)
    if sessions:
        stage.core.check_allowed(sessions[0].facts.peer)
    for session in sessions:
        if knows_chain(session.ratchet, frame.message):
            return _open_in(stage, session, frame)
    if any(session.first_chain == frame.message[:32] for session in sessions):
        return DuplicateMessage()
    if (gap := number_of(frame.message)) > _FIRST_MAX:
        return GapTooLarge(None, gap, _FIRST_MAX)
    refusal: RemoteError = DecryptionFailed()
    for session in sessions:
        found = _open_in(stage, session, frame)
        if found is None or isinstance(found, _REFUSED_OPENED):
            return found
        if previous_length_of(frame.message) and not isinstance(found, DecryptionFailed):
            refusal = found
    for candidate in reversed(stage.candidates_of(did)):
        found = _open_candidate(stage, candidate, frame)
        if found is None or not isinstance(found, DecryptionFailed):
            return found
    return refusal


def open_waiting(stage: Stage, session_id: SessionId, frames: tuple[HeldFrame, ...]) -> tuple[HeldFrame, ...]:
    """Open what waited for this KNOCK, or session, in their order; return what is of it, and waits no more.

    Raises:
        PeerNotAllowed: the policy does not allow the peer.
        LegacyPeer: one of them opens by the old key agreement.
    """
    over: list[HeldFrame] = []
    for frame in sorted(frames, key=lambda one: number_of(one.message)):
        held = stage.get(session_id)
        if isinstance(held, AgtSession):
            # Of its first chain, or of none: each other costs as much as one that is genuine.
            is_other = held.ratchet.receiving is not None and not knows_chain(held.ratchet, frame.message)
            refusal = DecryptionFailed() if is_other else _open_in(stage, held, frame)
        else:
            refusal = DecryptionFailed() if held is None else _open_candidate(stage, held, frame)
        if isinstance(refusal, LegacyPeer):
            raise refusal
        if not isinstance(refusal, DecryptionFailed | TryAgain):
            over.append(frame)
    return tuple(over)


# Before a message has opened its number is a claim, which costs a derivation each. AGT's receivers skip no more.
_FIRST_MAX: Final = 100
_REFUSED_OPENED: Final = (ClosedSession, PeerConditionBroken, Malformed)  # what refuses a message that did open


def _open_in(stage: Stage, session: AgtSession, frame: HeldFrame) -> RemoteError | None:
    opened = _try_open(stage, session.ratchet, session.facts.context, frame)
    if not isinstance(opened, Opened):
        return opened
    stage.core.check_peer(session.facts.peer, session.facts.bundle_class)
    try:
        stage.take(session, opened, frame)
    except RemoteError as error:
        return error
    return None


def _try_open(stage: Stage, ratchet: Ratchet, context: bytes, frame: HeldFrame) -> Opened | RemoteError:
    try:
        return ratchet.open(frame.message, context, stage.now_ms, stage.core.limits)
    except RemoteError as error:
        return type(error)() if isinstance(error, DecryptionFailed | DuplicateMessage) else error


# --- a KNOCK that is proved ------------------------------------------------------------------------------------------


def _open_candidate(stage: Stage, candidate: Candidate, frame: HeldFrame) -> RemoteError | None:
    if candidate.is_proved:
        return _hold(stage, candidate, frame)
    for signed, ratchet in candidate.ratchets:
        opened = _try_open(stage, ratchet, candidate.facts.context, frame)
        if isinstance(opened, Opened):
            return _proved(stage, candidate, signed, ratchet, opened, frame)
    return LegacyPeer() if _is_legacy(stage, candidate, frame) else DecryptionFailed()


_HELD_MAX: Final = 64
_HELD_MAX_BYTES: Final = 4 << 20


def _hold(stage: Stage, candidate: Candidate, frame: HeldFrame) -> RemoteError | None:
    """Keep a message of a KNOCK that waits for its verdict, sealed, once it has been seen to open."""
    [(_, ratchet)] = candidate.ratchets
    opened = _try_open(stage, ratchet, candidate.facts.context, frame)
    if not isinstance(opened, Opened):
        return opened
    if any(one.message == frame.message for one in candidate.held):
        return DuplicateMessage()
    stage.core.check_peer(candidate.facts.peer, candidate.facts.bundle_class)
    if not _is_payload(opened):
        return Malformed()
    size = len(frame.message)
    if len(candidate.held) >= _HELD_MAX or candidate.held_bytes + size > _HELD_MAX_BYTES:
        return Busy()  # the relay keeps it, if it had stored it
    if not _has_room(stage.core, size):
        return Busy()
    stage.put(evolve(candidate, held=(*candidate.held, frame)))
    return None


def _has_room(core: AgtCore, size: int) -> bool:
    """Say whether so many bytes more can wait for the application. They are what its inbox may hold, once more."""
    return sum(one.held_bytes for one in core.state.candidates()) + size <= core.limits.inbox_max_bytes


def _is_payload(opened: Opened) -> bool:
    try:
        unwrap(opened.plaintext)
    except Malformed:
        return False
    return True


def _proved(
    stage: Stage, candidate: Candidate, signed: int, ratchet: Ratchet, opened: Opened, frame: HeldFrame
) -> RemoteError | None:
    """Decide on a KNOCK, now that a message has shown that its maker has the secret of the key that it names.

    A message that would be refused at once decides nothing, so that no session begins on which nothing was opened.
    """
    core, facts = stage.core, candidate.facts
    if not _is_payload(opened):
        return Malformed()
    request = request_of(candidate, len(stage.sessions_with(facts.peer.did)))
    decision = decide(core, candidate, request, len(frame.message))
    most = decision.conditions.max_messages if isinstance(decision, Grant) else None
    if most is not None and opened.number >= most:
        return PeerConditionBroken("max_messages")
    stage.prove(candidate, signed, denied=isinstance(decision, Deny))
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
        stage.take(session, opened, frame)
        return None
    if isinstance(decision, Deny):
        stage.drop(facts, frame.message[:32])
        why = decision.why if decision.why else str(decision.reason)
        reply = stage.rejection(facts, why)
        stage.events.append(
            KnockRefused(peer=facts.peer, receipt=facts.knock_receipt, reason=decision.reason, reply=reply)
        )
        return None
    stage.put(evolve(candidate, ratchets=((signed, ratchet),), held=(frame,)))
    stage.events.append(request)
    return None


def decide(core: AgtCore, candidate: Candidate, request: object, size: int) -> Decision:
    """Ask the policy about a KNOCK that was proved, by `size` bytes; whatever goes wrong in it denies."""
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
    if isinstance(decision, Grant):
        return decision if can_carry(decision.conditions, candidate.facts) else Deny()
    if not isinstance(decision, Ask):
        return decision if isinstance(decision, Deny) else Deny()
    waiting = [one for one in core.state.candidates() if one.is_proved]
    room = limits.undecided_knocks - core.must_leave(limits.undecided_knocks, known=known)
    of_peer = sum(one.facts.peer == peer for one in waiting)
    is_full = len(waiting) >= room or of_peer >= OPEN_SESSIONS_PER_PEER or not _has_room(core, size)
    return Deny(Reason.BUSY) if is_full else decision


def can_carry(conditions: Conditions, facts: AgtFacts) -> bool:
    """Say whether a message may come under these conditions: AGT's say no action, so theirs is the KNOCK's."""
    return conditions.allowed_actions is None or facts.action in conditions.allowed_actions


def _is_legacy(stage: Stage, candidate: Candidate, frame: HeldFrame) -> bool:
    """Say whether the first message opens by the KDF of the npm package. Tried once a KNOCK: it costs as much again."""
    core, facts = stage.core, candidate.facts
    tried = core.tried.get(facts.session_id)
    if tried is not None:
        return tried
    core.tried[facts.session_id] = False
    one_time = None if facts.one_time is None else core.state.prekeys.get(prekey_name(facts.one_time, is_signed=False))
    for prekey in core.state.signed_prekeys():
        ratchet = _legacy_ratchet(core, candidate, prekey, one_time)
        if ratchet is not None and isinstance(_try_open(stage, ratchet, facts.context, frame), Opened):
            core.tried[facts.session_id] = True
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
