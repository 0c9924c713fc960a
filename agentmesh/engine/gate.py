"""The gate: what B checks of a KNOCK, in this order (docs/protocol.md, section 5.1).

    1. envelope     shape, recipient, times                       refused: an error, counted
    2. admission    local, read only                              refused: an error, counted
    3. signature    known bundle_ref, DID, budget, signature      refused: an error; over the budget: Busy
    4. novelty      th is new, it could be remembered, A's rate, the policy lets the bundle serve
                                                                  refused: a replay is dropped; else Busy
                    the bundle is unused                          refused: a signed REJECT, which nothing can contradict
    5. opening      three DHs, decapsulation, content             refused: an error, in silence
    6. decision     stale, room, policy                           accept, reject, or ask the application

Until 3 has passed nothing is answered, charged or remembered; Busy means that nothing was stored. What becomes of a
KNOCK is in `verdicts`.
"""

from __future__ import annotations

from typing import final

from attrs import frozen

from agentmesh.engine.core import Core
from agentmesh.engine.replay import KnockMemo
from agentmesh.envelope import Kind, OuterEnvelope
from agentmesh.errors import (
    AnswerOverdue,
    BadPoint,
    Busy,
    IdentityConflict,
    KnockExpired,
    KnockFromFuture,
    KnockNotAdmitted,
    KnockReplayed,
    KnockUnknownBundle,
    KnockUnopened,
    SenderMismatch,
)
from agentmesh.events import AnswerRepeated, KnockReceived
from agentmesh.handshake.agreement import SessionKeys, respond, transcript_hash
from agentmesh.handshake.knock import KnockContent, ParsedKnock, parse_knock_body
from agentmesh.handshake.prekeys import PublishedBundle, is_valid_at
from agentmesh.handshake.verdict import Reason
from agentmesh.identity import IdentityKey, did_of
from agentmesh.limits import CLOCK_TOLERANCE_MS, KNOCK_LIFETIME_MAX_MS
from agentmesh.outgoing import Outgoing
from agentmesh.policy import Ask, ClaimedSender, Decision, Deny, Grant
from agentmesh.primitives.buckets import Buckets


@final
@frozen
class VerifiedKnock:
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


def check_signature(core: Core, outer: OuterEnvelope, parsed: ParsedKnock, now_ms: int) -> VerifiedKnock:
    """Step 3: a bundle of mine, the sender's key, the budget, the signature.

    Raises:
        KnockUnknownBundle: no bundle that this agent published and remembers, or one that is past its time.
        SenderMismatch: the key's DID is not the sender's.
        IdentityConflict: the DID is known with another key.
        Busy: the budget is used up; nothing was stored and the envelope may be offered again.
        BadIdentityKey, BadSignature: the key or the signature is not acceptable.
    """
    published = core.state.bundles.get(parsed.bundle_ref)
    if published is None or now_ms > published.forget_at_ms:
        raise KnockUnknownBundle
    if did_of(parsed.claimed_key) != outer.header.sender:
        raise SenderMismatch
    known = core.state.dids.get(outer.header.sender)
    if known is not None and known != parsed.claimed_key:
        raise IdentityConflict
    is_known = core.is_known(parsed.claimed_key)
    if not core.take_check(parsed.claimed_key, now_ms, known=is_known):
        raise Busy
    initiator = IdentityKey(parsed.claimed_key)
    parsed.verify(initiator, outer.header_bytes)
    return VerifiedKnock(outer, parsed, initiator, published, is_known)


def check_novelty(core: Core, knock: VerifiedKnock, now_ms: int) -> KnockMemo | AnswerRepeated:
    """Step 4, its first half: an equal th gets no other answer than the first; a new one could be remembered.

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
        leave = core.must_leave(limits.remembered_knocks, known=knock.known)
        return _repeated(core, knock, memo, core.budgets.answers, leave, now_ms)
    memo = core.unopened.get(th)
    if memo is not None:
        leave = core.must_leave(limits.unopened_knocks, known=knock.known)
        return _repeated(core, knock, memo, core.budgets.rejections, leave, now_ms)
    leave = core.must_leave(limits.tracked_identities, known=knock.known)
    if knock.initiator.raw not in state.peers and len(state.peers) >= limits.tracked_identities - leave:
        raise Busy
    leave = core.must_leave(limits.remembered_knocks, known=knock.known)
    if state.knocks.is_full(knock.initiator.raw, limits, leave=leave):
        raise Busy
    return KnockMemo(
        th=th,
        initiator=knock.initiator.raw,
        receipt=knock.outer.receipt,
        expires_ms=parsed.expires_ms,
        forget_at_ms=max(parsed.expires_ms + CLOCK_TOLERANCE_MS, knock.published.forget_at_ms),
    )


def _repeated(
    core: Core, knock: VerifiedKnock, memo: KnockMemo, budget: Buckets, leave: int, now_ms: int
) -> AnswerRepeated:
    if memo.receipt != knock.outer.receipt or memo.answer is None or now_ms > memo.expires_ms:
        raise KnockReplayed
    if OuterEnvelope(memo.answer, core.limits).header.kind is Kind.ACCEPT:
        # Its sender would establish what this side has ended, or take up again with whom it has dropped.
        if not core.holds_session(knock.initiator, memo.th, now_ms):
            raise KnockReplayed
        core.check_allowed(knock.initiator)
    if not budget.take(memo.th, now_ms, leave_keys=leave):
        raise AnswerOverdue
    return AnswerRepeated(peer=knock.initiator, receipt=memo.receipt, reply=Outgoing(memo.answer))


def charge_rate(core: Core, knock: VerifiedKnock, now_ms: int) -> None:
    """Step 4: A's own rate limit, charged only now that the KNOCK is known to be A's and new.

    Raises:
        Busy: it is used up; nothing was stored. There is no REJECT: one that is signed must stay true, and this KNOCK
            may be taken later.
    """
    leave = core.must_leave(core.limits.tracked_identities, known=knock.known)
    if not core.budgets.knocks.take(knock.initiator.raw, now_ms, leave_keys=leave):
        raise Busy


def bundle_can_serve(core: Core, knock: VerifiedKnock, now_ms: int) -> bool:
    """Step 4: whether the bundle can serve this KNOCK; if it cannot, it never will, so a REJECT may say so.

    Raises:
        Busy: not now: its time has not come, or the policy does not let it serve this sender for the moment.
    """
    published = knock.published
    if published.secrets is None or knock.parsed.expires_ms > published.not_after_ms:
        return False
    if not is_valid_at(now_ms, published.not_before_ms, published.not_after_ms):
        raise Busy
    if not core.may_use(knock.initiator, published.bundle_class, now_ms):
        raise Busy
    return True


def open_knock(core: Core, knock: VerifiedKnock, memo: KnockMemo) -> tuple[SessionKeys, KnockContent]:
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
    leave = core.must_leave(core.limits.sessions_max, known=known)
    if not core.has_room(request.open_sessions, leave=leave):
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
    room = core.limits.undecided_knocks - core.must_leave(core.limits.undecided_knocks, known=known)
    waiting = len(core.state.undecided)
    if waiting >= room:  # those that ran out wait for nobody, whether or not `poll` came
        waiting = sum(now_ms <= held.deadline_ms for held in core.state.undecided.values())
    return Deny(Reason.BUSY) if waiting >= room else decision
