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
    bundle_can_serve,
    charge_rate,
    check_admission,
    check_envelope,
    check_novelty,
    check_signature,
    decide,
    open_knock,
)
from agentmesh.engine.replay import KnockMemo
from agentmesh.engine.state import Change, Step
from agentmesh.envelope import Header, Kind, OuterEnvelope, build
from agentmesh.errors import KnockNotPending, KnockUnopened
from agentmesh.events import AnswerRepeated, Event, Events, KnockReceived, KnockRefused, SessionEstablished
from agentmesh.handshake.agreement import SessionKeys
from agentmesh.handshake.knock import KnockContent
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import Conditions, Reason, build_reject_body
from agentmesh.identity import IdentityKey
from agentmesh.outgoing import Accepted, Outgoing
from agentmesh.policy import Ask, Decision, Deny
from agentmesh.primitives.keys import Receipt, SessionId
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
    charge_rate(core, knock, now_ms)
    try:
        return _receive_new(core, knock, memo, now_ms)
    except KnockUnopened:
        raise  # the KNOCK's own fault: it stays charged and remembered
    except BaseException:
        core.budgets.knocks.give_back(memo.initiator)
        raise


def _receive_new(core: Core, knock: VerifiedKnock, memo: KnockMemo, now_ms: int) -> Step[Events]:
    if not bundle_can_serve(core, knock, now_ms):
        denial = Deny(Reason.BUNDLE)
        reply = _reject_envelope(core, knock.initiator, memo.receipt, denial, now_ms)
        return Step(
            (),
            records.knock_rejected(core, knock.initiator, reply, now_ms, _why(denial)),
            (KnockRefused(peer=knock.initiator, receipt=memo.receipt, reason=denial.reason, reply=reply),),
            afterwards=partial(core.unopened.remember, memo.answered(reply.envelope)),
            charged=memo.initiator,
        )
    try:
        keys, content = open_knock(core, knock, memo)
    except KnockUnopened:
        core.unopened.remember(memo)
        raise
    undecided = _undecided_of(core, knock, keys, content)
    request = request_of(core, undecided, now_ms)
    decision = decide(core, request, now_ms, known=knock.known)
    changes, trail = _opened(core, knock, undecided.facts, now_ms, asked=isinstance(decision, Ask))
    more, written, event = _decided(core, undecided, memo, request, decision, now_ms)
    return Step(
        (*changes, *more),
        trail + written,
        (event,),
        afterwards=partial(core.bundle_used, knock.initiator, knock.published.bundle_class, now_ms),
        charged=memo.initiator,
    )


def _undecided_of(core: Core, knock: VerifiedKnock, keys: SessionKeys, content: KnockContent) -> Undecided:
    facts = Facts(
        session_id=keys.session_id,
        th=keys.th,
        mesh=core.state.mesh,
        own_did=core.state.identity.did,
        peer=knock.initiator,
        initiator=False,
        bundle_class=knock.published.bundle_class,
        knock_time_ms=knock.outer.header.time_ms,
        knock_receipt=knock.outer.receipt,
        action=content.intent.action,
        early_payload=content.early_payload is not None,
    )
    return Undecided(
        facts,
        root=keys.root,
        header_key_ab=keys.header_key_ab,
        header_key_ba=keys.header_key_ba,
        ephemeral=knock.parsed.ephemeral,
        expires_ms=knock.parsed.expires_ms,
        content=content,
    )


def _opened(
    core: Core, knock: VerifiedKnock, facts: Facts, now_ms: int, *, asked: bool
) -> tuple[list[Change], records.Records]:
    """What a KNOCK that opened changes and records, whatever is decided on it."""
    changes: list[Change] = [TheirKnockTime(knock.initiator, facts.knock_time_ms)]
    trail = records.knock_received(core, facts, knock.outer, now_ms, asked=asked)
    if knock.published.bundle_class is BundleClass.ONE_TIME:
        changes.append(BundleUsed(knock.published.ref))
        if core.recording and core.state.unused_one_time(now_ms) == 1:
            trail += records.stock_exhausted(core, now_ms)
    return changes, trail


def _decided(
    core: Core, undecided: Undecided, memo: KnockMemo, request: KnockReceived, decision: Decision, now_ms: int
) -> tuple[list[Change], records.Records, Event]:
    """What the decision changes, records and tells."""
    facts = undecided.facts
    if isinstance(decision, Deny):
        reply = _reject_envelope(core, facts.peer, facts.knock_receipt, decision, now_ms)
        return (
            [KnockRemembered(memo.answered(reply.envelope))],
            records.knock_rejected(core, facts.peer, reply, now_ms, _why(decision)),
            KnockRefused(peer=facts.peer, receipt=facts.knock_receipt, reason=decision.reason, reply=reply),
        )
    if isinstance(decision, Ask):
        return [KnockRemembered(memo), SessionPut(undecided)], (), request
    session, envelope = undecided.accept(core.state.identity, decision.conditions, now_ms=now_ms, entropy=core.entropy)
    reply = Outgoing(envelope)
    event = SessionEstablished(
        peer=facts.peer,
        session_id=facts.session_id,
        bundle_class=facts.bundle_class,
        conditions=decision.conditions,
        intent=undecided.content.intent,
        early_payload=undecided.content.early_payload,
        reply=reply,
    )
    changes = [KnockRemembered(memo.answered(envelope)), *_accepting(core, session, undecided.content, now_ms)]
    return changes, records.knock_accepted(core, facts, reply, now_ms, str(decision.why or "policy")), event


def pending(core: Core, now_ms: int) -> tuple[KnockReceived, ...]:
    """Return what the application is asked about the KNOCKs that wait for it, oldest first."""
    waiting = [held for held in core.state.undecided.values() if now_ms <= held.deadline_ms]
    waiting.sort(key=lambda held: held.facts.knock_time_ms)
    return tuple(request_of(core, held, now_ms) for held in waiting)


def request_of(core: Core, undecided: Undecided, now_ms: int) -> KnockReceived:
    """Return what the policy and the application are asked about a KNOCK."""
    facts, content = undecided.facts, undecided.content
    held = core.open_sessions(core.state.peers.get(facts.peer.raw), now_ms)
    # Sessions that the KNOCK is to take the place of are not open beside it.
    replaced = core.gives_way(held, facts.knock_time_ms, fresh=content.fresh)
    gone = {facts.session_id, *(one.facts.session_id for one in replaced)}
    others = [one for one in held if one.facts.session_id not in gone]
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
    facts = session.facts
    others = core.open_sessions(core.state.peers.get(facts.peer.raw), now_ms)
    for held in core.gives_way(others, facts.knock_time_ms, fresh=content.fresh):
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
