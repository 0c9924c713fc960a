"""The gate: what B checks of a KNOCK, in this order (docs/protocol.md, section 5.1).

    1. envelope     shape, recipient, times                       refused: an error, counted
    2. admission    local, read only                              refused: an error, counted
    3. signature    known bundle_ref, DID, budgets, signature     refused: an error; over a budget: Busy, nothing stored
    4. novelty      th is new; then, and only then, A is charged; the bundle is unused and valid
                                                                  refused: a replay is dropped; else a signed REJECT
    5. opening      three DHs, decapsulation, content             refused: an error, in silence
    6. decision     stale, room, policy                           accept, reject, or ask the application

Until 3 has passed nothing is answered, charged or remembered. What becomes of a KNOCK is in `verdicts`.
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
    RemoteError,
    SenderMismatch,
)
from agentmesh.events import AnswerRepeated, KnockReceived
from agentmesh.handshake.agreement import SessionKeys, respond, transcript_hash
from agentmesh.handshake.knock import KnockContent, ParsedKnock, parse_knock_body
from agentmesh.handshake.prekeys import BundleClass, PublishedBundle, is_valid_at
from agentmesh.handshake.verdict import Reason
from agentmesh.identity import IdentityKey, did_of
from agentmesh.limits import CLOCK_TOLERANCE_MS, KNOCK_LIFETIME_MAX_MS
from agentmesh.outgoing import Outgoing
from agentmesh.policy import Ask, ClaimedSender, Decision, Deny, Grant


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
    return VerifiedKnock(outer, parsed, initiator, published, is_known)


def check_novelty(core: Core, knock: VerifiedKnock, now_ms: int) -> KnockMemo | AnswerRepeated:
    """Step 4, its first half: an equal th gets no other answer than the first; a new one is to be remembered.

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
        return AnswerRepeated(peer=knock.initiator, receipt=memo.receipt, reply=Outgoing(memo.answer))
    leave = core.kept(limits.tracked_identities, known=knock.known)
    if knock.initiator.raw not in state.peers and len(state.peers) >= limits.tracked_identities - leave:
        raise Busy
    leave = core.kept(limits.remembered_knocks, known=knock.known)
    if state.knocks.is_full(knock.initiator.raw, limits, leave=leave):
        # What did not open may be forgotten here; what did goes with a commit (upkeep).
        for memo_th in state.knocks.due(now_ms):
            state.knocks.withdraw(memo_th)
        if state.knocks.is_full(knock.initiator.raw, limits, leave=leave):
            raise Busy
    return KnockMemo(
        th=th,
        initiator=knock.initiator.raw,
        receipt=knock.outer.receipt,
        expires_ms=parsed.expires_ms,
        forget_at_ms=parsed.expires_ms + CLOCK_TOLERANCE_MS,
    )


def check_bundle(core: Core, knock: VerifiedKnock, now_ms: int) -> Reason | None:
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
    replaced = len(core.begun_before(request.peer, request.time_ms, now_ms)) if request.fresh else 0
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
