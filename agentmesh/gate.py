"""The gate: what B checks of a KNOCK, in this order, and what becomes of it (docs/protocol.md, section 5.1).

    1. envelope     shape, recipient, times                       refused: an error, counted
    2. admission    local, read only                              refused: an error, counted
    3. signature    known bundle_ref, DID, budgets, signature     refused: an error; over a budget: Busy, nothing stored
    4. novelty      th is new; then, and only then, A is charged; the bundle is unused and valid
                                                                  refused: a replay is dropped; else a signed REJECT
    5. opening      three DHs, decapsulation, content             refused: an error, in silence
    6. decision     stale, room, policy                           accept, reject, or ask the application

Until 3 has passed nothing is answered, charged or remembered. What 5 has opened is committed in one step whatever 6
decides: a one-time bundle's secrets go, and th is remembered durably.
"""

from __future__ import annotations

from typing import final

from attrs import evolve, frozen

from agentmesh.admission.policy import Ask, ClaimedSender, Decision, Deny, Grant
from agentmesh.audit.record import AuditEvent, Record
from agentmesh.core import Core
from agentmesh.envelope import Header, Kind, OuterEnvelope, build, receipt_of
from agentmesh.errors import (
    AnswerOverdue,
    BadPoint,
    Busy,
    IdentityConflict,
    KnockExpired,
    KnockFromFuture,
    KnockNotAdmitted,
    KnockNotPending,
    KnockReplayed,
    KnockUnknownBundle,
    KnockUnopened,
    RemoteError,
    SenderMismatch,
)
from agentmesh.events import AnswerRepeated, Event, KnockReceived, KnockRefused, SessionEstablished
from agentmesh.facts import Facts, Phase
from agentmesh.handshake import SessionKeys, respond, transcript_hash
from agentmesh.identity import IdentityKey, did_of
from agentmesh.keys import Receipt, SessionId
from agentmesh.knock import KnockContent, ParsedKnock, parse_knock_body
from agentmesh.limits import CLOCK_TOLERANCE_MS, KNOCK_LIFETIME_MAX_MS
from agentmesh.pending import Undecided, ended
from agentmesh.prekeys import BundleClass, PublishedBundle, is_valid_at
from agentmesh.replay import KnockMemo
from agentmesh.session import Session
from agentmesh.state import (
    BundleUsed,
    Change,
    KnockRemembered,
    PeerKnocked,
    SessionEnded,
    SessionPut,
    SessionSuperseded,
    Step,
)
from agentmesh.verdict import Conditions, Reason, build_reject_body


@final
@frozen
class _Verified:
    """A KNOCK that passed step 3: it is A's, whatever else it may be."""

    outer: OuterEnvelope
    parsed: ParsedKnock
    initiator: IdentityKey
    published: PublishedBundle
    known: bool


# --- the six steps ---------------------------------------------------------------------------------------------------


def check_envelope(core: Core, outer: OuterEnvelope, now_ms: int) -> ParsedKnock:
    """Step 1: shape and times; version, kind, mesh and names were checked where the envelope was routed.

    Raises:
        TooLarge, Malformed: not a KNOCK's body.
        KnockFromFuture: more than 300 s ahead of this clock.
        KnockExpired: expired by more than 300 s, or its lifetime is none or over 14 days.
    """
    parsed = parse_knock_body(outer.body, core.limits)
    time_ms, expires_ms = outer.header.time_ms, parsed.expires_ms
    if time_ms > now_ms + CLOCK_TOLERANCE_MS:
        raise KnockFromFuture
    if now_ms > expires_ms + CLOCK_TOLERANCE_MS or not time_ms < expires_ms <= time_ms + KNOCK_LIFETIME_MAX_MS:
        raise KnockExpired
    return parsed


def check_admission(core: Core, outer: OuterEnvelope, parsed: ParsedKnock) -> None:
    """Step 2: the policy's word on who the sender claims to be; whatever goes wrong refuses.

    Raises:
        KnockNotAdmitted: refused.
    """
    try:
        if core.policy.may_knock(ClaimedSender(outer.header.sender, parsed.claimed_key)) is True:
            return
    except Exception:  # noqa: S110 - a policy that fails, however, denies
        pass
    raise KnockNotAdmitted


def check_signature(core: Core, outer: OuterEnvelope, parsed: ParsedKnock, now_ms: int) -> _Verified:
    """Step 3: a bundle of mine, the sender's key, the budgets, the signature.

    Raises:
        KnockUnknownBundle: no bundle that this agent published and remembers.
        SenderMismatch: the key's DID is not the sender's.
        IdentityConflict: the DID is known with another key.
        Busy: a budget is used up; nothing was stored and the envelope may be offered again.
        BadIdentityKey, BadSignature: the key or the signature is not acceptable.
    """
    published = core.state.bundles.get(parsed.bundle_ref)
    if published is None:
        raise KnockUnknownBundle
    if did_of(parsed.claimed_key) != outer.header.sender:
        raise SenderMismatch
    known = core.state.dids.get(outer.header.sender)
    if known is not None and known != parsed.claimed_key:
        raise IdentityConflict
    budgets = core.budgets
    guarded = published.bundle_class is BundleClass.ONE_TIME
    if guarded and not budgets.failed_checks.has(published.ref, now_ms):
        raise Busy
    is_known = core.is_known(parsed.claimed_key)
    if not core.take_check(parsed.claimed_key, now_ms, known=is_known):
        raise Busy
    try:
        initiator = IdentityKey(parsed.claimed_key)
        parsed.verify(initiator, outer.header_bytes)
    except RemoteError:
        if guarded:
            budgets.failed_checks.take(published.ref, now_ms)
        raise
    return _Verified(outer, parsed, initiator, published, is_known)


def check_novelty(core: Core, knock: _Verified, now_ms: int) -> KnockMemo | AnswerRepeated:
    """Step 4, its first half: an equal th gets no other answer than the first; a new one is remembered.

    Raises:
        KnockReplayed: seen before, and no answer is to be repeated, or the session that it began has ended.
        AnswerOverdue: its answer was repeated often enough for now.
        PeerNotAllowed: it was accepted, and the policy does not allow its sender any more.
        Busy: the memory is full; nothing was stored.
    """
    parsed, state, limits = knock.parsed, core.state, core.limits
    th = transcript_hash(
        mesh=state.mesh,
        initiator=knock.initiator.raw,
        responder=state.identity.key.raw,
        bundle_ref=parsed.bundle_ref,
        ephemeral=parsed.ephemeral,
        kem_ciphertext=parsed.kem_ciphertext,
        expires_ms=parsed.expires_ms,
    )
    memo = state.knocks.get(th)
    if memo is not None:
        if memo.receipt != knock.outer.receipt or memo.answer is None or now_ms > memo.expires_ms:
            raise KnockReplayed
        if OuterEnvelope(memo.answer, limits).header.kind is Kind.ACCEPT:
            # Its sender would establish what this side has ended, or take up again with whom it has dropped.
            if not core.holds_session(knock.initiator, th, now_ms):
                raise KnockReplayed
            core.check_allowed(knock.initiator)
        leave = core.kept(limits.remembered_knocks, known=knock.known)
        if not core.budgets.answers.take(th, now_ms, leave_keys=leave):
            raise AnswerOverdue
        return AnswerRepeated(peer=knock.initiator, receipt=memo.receipt, reply=memo.answer)
    leave = core.kept(limits.tracked_identities, known=knock.known)
    if knock.initiator.raw not in state.peers and len(state.peers) >= limits.tracked_identities - leave:
        raise Busy
    leave = core.kept(limits.remembered_knocks, known=knock.known)
    if state.knocks.is_full(knock.initiator.raw, limits, leave=leave):
        # What did not open may be forgotten here; what did goes with a commit (upkeep).
        state.knocks.forget(now_ms, durable_too=False)
        if state.knocks.is_full(knock.initiator.raw, limits, leave=leave):
            raise Busy
    memo = KnockMemo(
        th=th,
        initiator=knock.initiator.raw,
        receipt=knock.outer.receipt,
        expires_ms=parsed.expires_ms,
        forget_at_ms=parsed.expires_ms + CLOCK_TOLERANCE_MS,
    )
    state.knocks.remember(memo)
    return memo


def check_bundle(core: Core, knock: _Verified, now_ms: int) -> Reason | None:
    """Step 4, its second half: A's own rate limit, charged only now, and whether the bundle can serve.

    Returns the reason of a REJECT, or `None`.
    """
    published = knock.published
    leave = core.kept(core.limits.tracked_identities, known=knock.known)
    if not core.budgets.knocks.take(knock.initiator.raw, now_ms, leave_keys=leave):
        return Reason.BUSY
    if published.secrets is None or not is_valid_at(now_ms, published.not_before_ms, published.not_after_ms):
        return Reason.BUNDLE
    if knock.parsed.expires_ms > published.not_after_ms:
        return Reason.BUNDLE
    return None if core.may_use(knock.initiator, published.bundle_class, now_ms) else Reason.BUNDLE


def open_knock(core: Core, knock: _Verified, memo: KnockMemo) -> tuple[SessionKeys, KnockContent]:
    """Step 5: the handshake, and the content.

    Raises:
        KnockUnopened: keys or content are not acceptable: one error for all of them.
    """
    secrets = knock.published.secrets
    parsed = knock.parsed
    if secrets is None:
        raise KnockUnopened
    try:
        keys = respond(
            core.state.identity,
            secrets,
            initiator=knock.initiator,
            ephemeral=parsed.ephemeral,
            kem_ciphertext=parsed.kem_ciphertext,
            th=memo.th,
        )
        return keys, parsed.open_content(keys.intent_key, knock.outer.header_bytes, core.limits)
    except (BadPoint, KnockUnopened):
        pass
    raise KnockUnopened


def decide(core: Core, request: KnockReceived, now_ms: int, *, known: bool = False) -> Decision:
    """Step 6: stale, room, then the policy; whatever goes wrong in it denies."""
    peer = core.state.peers.get(request.peer.raw)
    if peer is not None and request.time_ms <= peer.latest_knock_ms:
        return Deny(Reason.STALE)
    replaced = len(_superseded(core, request.peer, request.time_ms, now_ms)) if request.fresh else 0
    leave = core.kept(core.limits.sessions_max, known=known)
    if not core.has_room(peer, now_ms, replaced=replaced, leave=leave):
        return Deny(Reason.BUSY)
    try:
        decision = core.policy.decide(request)
    except Exception:
        return Deny()
    if isinstance(decision, Grant | Deny):
        return decision
    if not isinstance(decision, Ask):
        return Deny()
    if now_ms > request.expires_ms:  # it came within the tolerance, and nobody can be asked any more
        return Deny(Reason.STALE)
    room = core.limits.undecided_knocks - core.kept(core.limits.undecided_knocks, known=known)
    return Deny(Reason.BUSY) if len(core.state.undecided) >= room else decision


# --- what becomes of a KNOCK -----------------------------------------------------------------------------------------


def receive_knock(core: Core, outer: OuterEnvelope, now_ms: int) -> Step:
    """Run the six steps, and return what is to be committed and told."""
    parsed = check_envelope(core, outer, now_ms)
    check_admission(core, outer, parsed)
    knock = check_signature(core, outer, parsed, now_ms)
    memo = check_novelty(core, knock, now_ms)
    if isinstance(memo, AnswerRepeated):
        return Step((), (), (memo,))
    try:
        return _receive_new(core, knock, memo, now_ms)
    except RemoteError:
        raise  # the KNOCK's own fault: it stays remembered
    except BaseException:
        core.withdraw(memo.th)
        raise


def _receive_new(core: Core, knock: _Verified, memo: KnockMemo, now_ms: int) -> Step:
    outer = knock.outer
    reason = check_bundle(core, knock, now_ms)
    if reason is not Reason.BUSY:  # its sender was charged, and gets it back if the step is not committed
        memo = evolve(memo, charged=True)
        core.state.knocks.remember(memo)
    if reason is not None:
        # Nothing durable has happened: the REJECT is remembered with its KNOCK, in memory alone.
        reply = _reject_envelope(core, knock.initiator, outer.receipt, Deny(reason), now_ms)
        core.state.knocks.remember(memo.answered(reply))
        refused = KnockRefused(peer=knock.initiator, receipt=outer.receipt, reason=reason, reply=reply)
        return Step((), _rejected(core, knock.initiator, reply, reason, now_ms), (refused,), withdraw=memo.th)
    keys, content = open_knock(core, knock, memo)
    return _commit_opened(core, knock, memo, keys, content, now_ms)


def _commit_opened(
    core: Core, knock: _Verified, memo: KnockMemo, keys: SessionKeys, content: KnockContent, now_ms: int
) -> Step:
    outer, published, parsed = knock.outer, knock.published, knock.parsed
    facts = Facts(
        session_id=keys.session_id,
        th=keys.th,
        mesh=core.state.mesh,
        own_did=core.state.identity.did,
        peer=knock.initiator,
        initiator=False,
        bundle_class=published.bundle_class,
        knock_time_ms=outer.header.time_ms,
        knock_receipt=outer.receipt,
        action=content.intent.action,
        early_payload=content.early_payload is not None,
    )
    undecided = Undecided(
        facts,
        root=keys.root,
        header_key_ab=keys.header_key_ab,
        header_key_ba=keys.header_key_ba,
        ephemeral=parsed.ephemeral,
        expires_ms=parsed.expires_ms,
        content=content,
    )
    memo = KnockMemo(
        th=memo.th,
        initiator=memo.initiator,
        receipt=memo.receipt,
        expires_ms=memo.expires_ms,
        forget_at_ms=max(memo.forget_at_ms, published.forget_at_ms),
        durable=True,
    )
    request = request_of(core, undecided, now_ms)
    decision = decide(core, request, now_ms, known=knock.known)
    changes: list[Change] = [PeerKnocked(knock.initiator, outer.header.time_ms)]
    if published.bundle_class is BundleClass.ONE_TIME:
        changes.append(BundleUsed(published.ref))
    received = core.record(
        AuditEvent.KNOCK_RECEIVED,
        now_ms,
        sender=outer.header.sender,
        recipient=outer.header.recipient,
        envelope_time_ms=outer.header.time_ms,
        receipt=outer.receipt,
        session_id=keys.session_id,
        size_bytes=outer.size_bytes,
        bundle_class=published.bundle_class,
        reason="asked" if isinstance(decision, Ask) else "",
    )
    if published.bundle_class is BundleClass.ONE_TIME and core.recording and core.state.unused_one_time(now_ms) == 1:
        received += core.record(AuditEvent.STOCK_EXHAUSTED, now_ms)
    if isinstance(decision, Deny):
        reply = _reject_envelope(core, knock.initiator, outer.receipt, decision, now_ms)
        changes.append(KnockRemembered(memo.answered(reply)))
        event: Event = KnockRefused(peer=knock.initiator, receipt=outer.receipt, reason=decision.reason, reply=reply)
        received += _rejected(core, knock.initiator, reply, decision.why or decision.reason, now_ms)
        return Step(tuple(changes), received, (event,), withdraw=memo.th)
    if isinstance(decision, Grant):
        session, reply = undecided.accept(core.state.identity, decision.conditions, now_ms=now_ms, entropy=core.entropy)
        changes += [KnockRemembered(memo.answered(reply)), *_accepting(core, session, content, now_ms)]
        event = SessionEstablished(
            peer=knock.initiator,
            session_id=keys.session_id,
            bundle_class=published.bundle_class,
            conditions=decision.conditions,
            intent=content.intent,
            early_payload=content.early_payload,
            reply=reply,
        )
        received += _accepted(core, session, reply, now_ms, decision.why or "policy")
        return Step(tuple(changes), received, (event,), withdraw=memo.th)
    changes += [KnockRemembered(memo), SessionPut(undecided)]
    return Step(tuple(changes), received, (request,), withdraw=memo.th)


def request_of(core: Core, undecided: Undecided, now_ms: int) -> KnockReceived:
    """Return what the policy and the application are asked about a KNOCK."""
    facts, content = undecided.facts, undecided.content
    peer = core.state.peers.get(facts.peer.raw)
    # Sessions that a fresh KNOCK is to take the place of are not open beside it.
    replaced = _superseded(core, facts.peer, facts.knock_time_ms, now_ms) if content.fresh else []
    gone = {facts.session_id, *(held.facts.session_id for held in replaced)}
    others = [held for held in core.open_sessions(peer, now_ms) if held.facts.session_id not in gone]
    return KnockReceived(
        peer=facts.peer,
        session_id=facts.session_id,
        receipt=facts.knock_receipt,
        intent=content.intent,
        bundle_class=facts.bundle_class,
        time_ms=facts.knock_time_ms,
        expires_ms=undecided.expires_ms,
        has_early_payload=content.early_payload is not None,
        fresh=content.fresh,
        open_sessions=len(others),
    )


# --- the application's verdict ---------------------------------------------------------------------------------------


def _undecided(core: Core, session_id: SessionId, now_ms: int) -> Undecided:
    held = core.state.sessions.get(session_id)
    if not isinstance(held, Undecided) or now_ms > held.deadline_ms:
        raise KnockNotPending
    return held


def accept_knock(core: Core, session_id: SessionId, conditions: Conditions, now_ms: int) -> Step:
    """Accept a KNOCK that waits. The output is (the ACCEPT envelope, the early payload or None).

    Raises:
        KnockNotPending: decided, expired or unknown.
        PeerNotAllowed: the policy does not allow the peer any more.
    """
    undecided = _undecided(core, session_id, now_ms)
    core.check_allowed(undecided.facts.peer)
    session, reply = undecided.accept(core.state.identity, conditions, now_ms=now_ms, entropy=core.entropy)
    memo = core.state.knocks.get(undecided.facts.th)
    changes: list[Change] = [] if memo is None else [KnockRemembered(memo.answered(reply))]
    changes += _accepting(core, session, undecided.content, now_ms)
    records = _accepted(core, session, reply, now_ms, "application")
    return Step(tuple(changes), records, (reply, undecided.content.early_payload))


def reject_knock(core: Core, session_id: SessionId, denial: Deny, now_ms: int) -> Step:
    """Reject a KNOCK that waits. The output is the REJECT envelope.

    Raises:
        KnockNotPending: decided, expired or unknown.
    """
    undecided = _undecided(core, session_id, now_ms)
    facts = undecided.facts
    reply = _reject_envelope(core, facts.peer, facts.knock_receipt, denial, now_ms)
    memo = core.state.knocks.get(facts.th)
    changes: list[Change] = [] if memo is None else [KnockRemembered(memo.answered(reply))]
    changes.append(SessionEnded(ended(undecided, Phase.REJECTED, at_ms=now_ms, detail=str(denial.reason))))
    return Step(tuple(changes), _rejected(core, facts.peer, reply, denial.why or denial.reason, now_ms), reply)


def _accepting(core: Core, session: Session, content: KnockContent, now_ms: int) -> list[Change]:
    changes: list[Change] = [SessionPut(session)]
    if content.fresh:
        for held in _superseded(core, session.facts.peer, session.facts.knock_time_ms, now_ms):
            changes.append(SessionSuperseded(held.facts.session_id, now_ms))
    return changes


def _superseded(core: Core, initiator: IdentityKey, before_ms: int, now_ms: int) -> list[Session]:
    """Return the established sessions that this peer began before: it says that it holds them no more."""
    return [
        held
        for held in core.open_sessions(core.state.peers.get(initiator.raw), now_ms)
        if isinstance(held, Session) and not held.facts.initiator and held.facts.knock_time_ms < before_ms
    ]


# --- answers ---------------------------------------------------------------------------------------------------------


def _reject_envelope(core: Core, initiator: IdentityKey, knock_receipt: Receipt, denial: Deny, now_ms: int) -> bytes:
    state = core.state
    header = Header(
        kind=Kind.REJECT, mesh=state.mesh, sender=state.identity.did, recipient=initiator.did, time_ms=now_ms
    )
    header_bytes = header.encode()
    body = build_reject_body(
        state.identity,
        header_bytes=header_bytes,
        knock_receipt=knock_receipt,
        reason=denial.reason,
        retry_after_seconds=denial.retry_after_seconds,
    )
    return build(header_bytes, body)


def _rejected(core: Core, initiator: IdentityKey, reply: bytes, why: str, now_ms: int) -> tuple[Record, ...]:
    return core.record(
        AuditEvent.KNOCK_REJECTED,
        now_ms,
        recipient=initiator.did,
        envelope_time_ms=now_ms,
        receipt=receipt_of(reply),
        size_bytes=len(reply),
        reason=str(why),
    )


def _accepted(core: Core, session: Session, reply: bytes, now_ms: int, why: str) -> tuple[Record, ...]:
    return core.record(
        AuditEvent.KNOCK_ACCEPTED,
        now_ms,
        recipient=session.facts.peer.did,
        envelope_time_ms=now_ms,
        receipt=receipt_of(reply),
        session_id=session.facts.session_id,
        size_bytes=len(reply),
        bundle_class=session.facts.bundle_class,
        reason=str(why),
    )
