"""What becomes of a KNOCK: the step that takes it through the gate, and the verdict (docs/protocol.md, section 5).

What the gate's step 5 has opened is committed in one step whatever step 6 decides: a one-time bundle's secrets go, and
th is remembered durably.
"""

from __future__ import annotations

from functools import partial

from agentmesh.engine import records
from agentmesh.engine.changes import (
    BundleUsed,
    KnockRemembered,
    SessionEnded,
    SessionPut,
    SessionSuperseded,
    TheirKnockTime,
)
from agentmesh.engine.core import Core
from agentmesh.engine.gate import (
    VerifiedKnock,
    check_admission,
    check_bundle,
    check_envelope,
    check_novelty,
    check_signature,
    decide,
    open_knock,
)
from agentmesh.engine.replay import KnockMemo
from agentmesh.engine.state import Change, Step
from agentmesh.envelope import Header, Kind, OuterEnvelope, build
from agentmesh.errors import KnockNotPending, RemoteError
from agentmesh.events import AnswerRepeated, Event, Events, KnockReceived, KnockRefused, SessionEstablished
from agentmesh.handshake.agreement import SessionKeys
from agentmesh.handshake.knock import KnockContent
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import Conditions, Reason, build_reject_body
from agentmesh.identity import IdentityKey
from agentmesh.outgoing import Accepted, Outgoing
from agentmesh.policy import Ask, Deny, Grant
from agentmesh.primitives.keys import Ed25519PublicKey, Receipt, SessionId
from agentmesh.session.established import Session
from agentmesh.session.facts import Facts
from agentmesh.session.held import ended
from agentmesh.session.pending import Undecided
from agentmesh.session.phases import Happening


def receive_knock(core: Core, outer: OuterEnvelope, now_ms: int) -> Step[Events]:
    """Run the six steps, and return what is to be committed and told."""
    parsed = check_envelope(core, outer, now_ms)
    check_admission(core, outer, parsed)
    knock = check_signature(core, outer, parsed, now_ms)
    memo = check_novelty(core, knock, now_ms)
    if isinstance(memo, AnswerRepeated):
        return Step((), (), (memo,))
    reason = check_bundle(core, knock, now_ms)
    # Its sender was charged, and gets it back if the step takes no effect.
    charged = None if reason is Reason.BUSY else memo.initiator
    try:
        if reason is None:
            keys, content = open_knock(core, knock, memo)
            return _commit_opened(core, knock, memo, keys, content, now_ms)
        return _rejected(core, knock, memo, reason, charged, now_ms)
    except RemoteError:
        core.state.knocks.remember(memo)  # the KNOCK's own fault
        raise
    except BaseException:
        if charged is not None:
            core.budgets.knocks.give_back(charged)
        raise


def _rejected(
    core: Core, knock: VerifiedKnock, memo: KnockMemo, reason: Reason, charged: Ed25519PublicKey | None, now_ms: int
) -> Step[Events]:
    # Nothing durable happens: the REJECT is remembered with its KNOCK, in memory alone.
    receipt = knock.outer.receipt
    reply = _reject_envelope(core, knock.initiator, receipt, Deny(reason), now_ms)
    return Step(
        (),
        records.knock_rejected(core, knock.initiator, reply, now_ms, str(reason)),
        (KnockRefused(peer=knock.initiator, receipt=receipt, reason=reason, reply=reply),),
        afterwards=partial(core.state.knocks.remember, memo.answered(reply.envelope)),
        charged=charged,
    )


def _commit_opened(
    core: Core, knock: VerifiedKnock, memo: KnockMemo, keys: SessionKeys, content: KnockContent, now_ms: int
) -> Step[Events]:
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
    changes: list[Change] = [TheirKnockTime(knock.initiator, outer.header.time_ms)]
    if published.bundle_class is BundleClass.ONE_TIME:
        changes.append(BundleUsed(published.ref))
    received = records.knock_received(core, facts, outer, now_ms, asked=isinstance(decision, Ask))
    if published.bundle_class is BundleClass.ONE_TIME and core.recording and core.state.unused_one_time(now_ms) == 1:
        received += records.stock_exhausted(core, now_ms)
    if isinstance(decision, Deny):
        reply = _reject_envelope(core, knock.initiator, outer.receipt, decision, now_ms)
        changes.append(KnockRemembered(memo.answered(reply.envelope)))
        event: Event = KnockRefused(peer=knock.initiator, receipt=outer.receipt, reason=decision.reason, reply=reply)
        received += records.knock_rejected(core, knock.initiator, reply, now_ms, _why(decision))
        return Step(tuple(changes), received, (event,), charged=memo.initiator)
    if isinstance(decision, Grant):
        session, envelope = undecided.accept(
            core.state.identity, decision.conditions, now_ms=now_ms, entropy=core.entropy
        )
        reply = Outgoing(envelope)
        changes += [KnockRemembered(memo.answered(reply.envelope)), *_accepting(core, session, content, now_ms)]
        event = SessionEstablished(
            peer=knock.initiator,
            session_id=keys.session_id,
            bundle_class=published.bundle_class,
            conditions=decision.conditions,
            intent=content.intent,
            early_payload=content.early_payload,
            reply=reply,
        )
        received += records.knock_accepted(core, facts, reply, now_ms, str(decision.why or "policy"))
        return Step(tuple(changes), received, (event,), charged=memo.initiator)
    changes += [KnockRemembered(memo), SessionPut(undecided)]
    return Step(tuple(changes), received, (request,), charged=memo.initiator)


def pending(core: Core, now_ms: int) -> tuple[KnockReceived, ...]:
    """Return what the application is asked about the KNOCKs that wait for it, oldest first."""
    waiting = [held for held in core.state.undecided.values() if now_ms <= held.deadline_ms]
    waiting.sort(key=lambda held: held.facts.knock_time_ms)
    return tuple(request_of(core, held, now_ms) for held in waiting)


def request_of(core: Core, undecided: Undecided, now_ms: int) -> KnockReceived:
    """Return what the policy and the application are asked about a KNOCK."""
    facts, content = undecided.facts, undecided.content
    peer = core.state.peers.get(facts.peer.raw)
    # Sessions that a fresh KNOCK is to take the place of are not open beside it.
    replaced = core.begun_before(facts.peer, facts.knock_time_ms, now_ms) if content.fresh else []
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
    if not isinstance(held, Undecided) or held.ending(now_ms) is not None:
        raise KnockNotPending
    return held


def accept_knock(core: Core, session_id: SessionId, conditions: Conditions, now_ms: int) -> Step[Accepted]:
    """Accept a KNOCK that waits.

    Raises:
        KnockNotPending: decided, expired or unknown.
        PeerNotAllowed: the policy does not allow the peer any more.
    """
    undecided = _undecided(core, session_id, now_ms)
    core.check_allowed(undecided.facts.peer)
    session, envelope = undecided.accept(core.state.identity, conditions, now_ms=now_ms, entropy=core.entropy)
    reply = Accepted(envelope=envelope, session_id=session_id, early_payload=undecided.content.early_payload)
    memo = core.state.knocks.get(undecided.facts.th)
    changes: list[Change] = [] if memo is None else [KnockRemembered(memo.answered(reply.envelope))]
    changes += _accepting(core, session, undecided.content, now_ms)
    trail = records.knock_accepted(core, undecided.facts, reply, now_ms, "application")
    return Step(tuple(changes), trail, reply)


def reject_knock(core: Core, session_id: SessionId, denial: Deny, now_ms: int) -> Step[Outgoing]:
    """Reject a KNOCK that waits.

    Raises:
        KnockNotPending: decided, expired or unknown.
    """
    undecided = _undecided(core, session_id, now_ms)
    facts = undecided.facts
    reply = _reject_envelope(core, facts.peer, facts.knock_receipt, denial, now_ms)
    memo = core.state.knocks.get(facts.th)
    changes: list[Change] = [] if memo is None else [KnockRemembered(memo.answered(reply.envelope))]
    changes.append(SessionEnded(ended(undecided, Happening.REJECTED, at_ms=now_ms, detail=str(denial.reason))))
    return Step(tuple(changes), records.knock_rejected(core, facts.peer, reply, now_ms, _why(denial)), reply)


def _accepting(core: Core, session: Session, content: KnockContent, now_ms: int) -> list[Change]:
    changes: list[Change] = [SessionPut(session)]
    if content.fresh:
        for held in core.begun_before(session.facts.peer, session.facts.knock_time_ms, now_ms):
            changes.append(SessionSuperseded(held.facts.session_id, now_ms))
    return changes


def _why(denial: Deny) -> str:
    return str(denial.why or denial.reason)


# --- answers ---------------------------------------------------------------------------------------------------------


def _reject_envelope(core: Core, initiator: IdentityKey, knock_receipt: Receipt, denial: Deny, now_ms: int) -> Outgoing:
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
    return Outgoing(build(header_bytes, body))
