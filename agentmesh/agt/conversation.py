"""A conversation with an agent of AGT's mesh: what is fixed, its ratchet, and what a KNOCK is before it is proved.

A KNOCK is not signed. Its identity key is its sender's, or it is refused; but anybody who can write to the relay may
have copied it. So it is a *candidate* until a message opens under it, which nobody can make who has not the secret of
that key: until then it replaces nothing, uses up nothing, and nobody is told of it.

All of these are values: a step brings new ones in their place, with a ratchet of their own (docs/agt.md, section 5).
"""

from __future__ import annotations

from typing import Any, Final, final

from attrs import evolve, field, frozen

from agentmesh.agt.agreement import context_of
from agentmesh.agt.frames import FRAME_ID_MAX_BYTES
from agentmesh.agt.suite import AGT_SUITE, ANY_CHAIN
from agentmesh.agt_identity import AgtIdentityKey
from agentmesh.at_rest import require
from agentmesh.events import KnockReceived
from agentmesh.handshake.knock import Intent
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import UNLIMITED, Conditions
from agentmesh.limits import ACTION_MAX_BYTES, COUNTER_MAX, PENDING_GRACE_MS, UINT_MAX
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives.keys import Receipt, Redacted, SessionId, X25519PublicKey
from agentmesh.session.facts import SESSION_ID_BYTES
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.ratchet_export import RATCHET, ratchet_fields, restore_ratchet

_HELD_MAX: Final = 1 << 16


@frozen(kw_only=True)
class AgtFacts:
    """What is fixed for a conversation's whole life, and not secret.

    Attributes:
        peer: The other side.
        own: This side.
        initiator: This side knocked.
        ephemeral: The X25519 key of the KNOCK, 32 bytes.
        one_time: The number of the one-time prekey that it was made on, or `None`.
        knock_id: The id of the KNOCK's frame.
        knock_time_ms: Its time, which nobody vouches for; 0 where it told none.
        knock_receipt: Its receipt.
        action: What it asks for, as its sender says.
    """

    peer: AgtIdentityKey
    own: AgtIdentityKey
    initiator: bool
    ephemeral: X25519PublicKey
    one_time: int | None
    knock_id: str
    knock_time_ms: int
    knock_receipt: Receipt
    action: str = field(repr=False)
    context: bytes = field(init=False, eq=False, repr=False)
    session_id: SessionId = field(init=False, eq=False)

    @context.default
    def _(self) -> bytes:
        first, second = (self.own, self.peer) if self.initiator else (self.peer, self.own)
        return context_of(first.did, second.did, first.dh, second.dh)

    @session_id.default
    def _(self) -> SessionId:
        # AGT has none. Both sides come to the same, for their logs.
        return SessionId(_crypto.sha256(self.context + self.ephemeral)[:SESSION_ID_BYTES])

    @property
    def bundle_class(self) -> BundleClass:
        """What the KNOCK was made on, in our terms: without a one-time prekey it is as on a last-resort bundle."""
        return BundleClass.LAST_RESORT if self.one_time is None else BundleClass.ONE_TIME

    @property
    def intent(self) -> Intent:
        """What the KNOCK asks for: an action, and no more."""
        return Intent(self.action)


@final
@frozen(kw_only=True, repr=False)
class AgtSession(Redacted):
    """A conversation.

    Attributes:
        facts: What is fixed.
        ratchet: Its ratchet. Whoever changes a session copies it first.
        sent: How many messages this side has sealed.
        opened: How many of the peer's were opened.
        rank: Of several with a peer the one with the highest sends: whichever was made, or heard on, last. 0 once it
            was heard on and another began: it comes back only when that one goes.
        made_ms: When it began.
        heard_ms: When a message of the peer was opened last; `None` before the first.
        conditions: What the policy granted.
        first_chain: The ratchet key of the peer's first chain, 32 bytes; empty before its first message. What comes of
            that chain when the ratchet has forgotten it came before, and precedes no KNOCK.
    """

    facts: AgtFacts
    ratchet: Ratchet
    sent: int = 0
    opened: int = 0
    rank: int
    made_ms: int
    heard_ms: int | None = None
    conditions: Conditions = UNLIMITED
    first_chain: bytes = b""

    @property
    def ends_at_ms(self) -> int | None:
        """When its time to live is over, or `None` for unlimited. The peer is told of none: this side keeps it."""
        ttl_seconds = self.conditions.ttl_seconds
        return None if ttl_seconds is None else self.made_ms + ttl_seconds * 1000

    def is_over(self, now_ms: int) -> bool:
        """Say whether its time to live is over."""
        ends_at_ms = self.ends_at_ms
        return ends_at_ms is not None and now_ms > ends_at_ms


def sends_before(session: AgtSession) -> tuple[int, int]:
    """Return what the sessions with a peer are sorted by: the first one sends."""
    return -session.rank, -session.made_ms


@final
@frozen(repr=False)
class HeldFrame(Redacted):
    """A message that opens under a candidate, sealed as it came: id, time, receipt, bytes."""

    frame_id: str
    time_ms: int
    receipt: Receipt
    message: bytes


@final
@frozen(kw_only=True, repr=False)
class Candidate(Redacted):
    """A peer's KNOCK that is no session yet.

    Attributes:
        facts: What is fixed.
        ratchets: One for each signed prekey that it may have been made on, the newest first, with the prekey's number;
            the one that a message has opened under, once it is proved.
        made_ms: When it came.
        is_known: The policy knew its sender when it came: strangers' make room first.
        held: What opened under it and waits for the application's verdict, oldest first; empty until it is proved.
    """

    facts: AgtFacts
    ratchets: tuple[tuple[int, Ratchet], ...]
    made_ms: int
    is_known: bool
    held: tuple[HeldFrame, ...] = ()

    @property
    def expires_ms(self) -> int:
        """When it is over, if nobody has proved it, or decided on it."""
        return self.made_ms + PENDING_GRACE_MS

    @property
    def held_bytes(self) -> int:
        """How many bytes wait with it."""
        return sum(len(one.message) for one in self.held)

    @property
    def is_proved(self) -> bool:
        """A message has opened under it, and the application has been asked."""
        return bool(self.held)


AgtHeld = AgtSession | Candidate


def request_of(candidate: Candidate, open_sessions: int) -> KnockReceived:
    """Return what policy and application are asked about a KNOCK.

    Args:
        candidate: The KNOCK.
        open_sessions: How many sessions its sender has by now.
    """
    facts = candidate.facts
    return KnockReceived(
        peer=facts.peer,
        session_id=facts.session_id,
        receipt=facts.knock_receipt,
        intent=facts.intent,
        bundle_class=facts.bundle_class,
        time_ms=facts.knock_time_ms,
        expires_ms=candidate.expires_ms,
        has_early_payload=False,
        fresh=False,
        open_sessions=open_sessions,
    )


# --- at rest ---------------------------------------------------------------------------------------------------------
#
# [0, facts, made, known, [[prekey, ratchet], ...], [[frame id, time, receipt, message], ...]]   a candidate
# [1, facts, ratchet, sent, opened, rank, made, heard | nil, conditions, first chain]            a session
# facts = [peer (32), 1 if this side knocked, ephemeral (32), one-time prekey | nil, KNOCK id, its time, its receipt,
#          action]

_U32: Final = _wire.Uint(COUNTER_MAX)
_FRAME_ID: Final = _wire.Text(1, FRAME_ID_MAX_BYTES)
_FACTS: Final = _wire.array(
    _wire.Bin(32),
    _wire.Uint(1),
    _wire.Bin(32),
    _wire.Maybe(_U32),
    _FRAME_ID,
    _wire.Uint(),
    _wire.Bin(32),
    _wire.Text(1, ACTION_MAX_BYTES),
)
_CANDIDATE: Final = _wire.array(
    _wire.Uint(1),
    _FACTS,
    _wire.Uint(),
    _wire.Uint(1),
    _wire.ArrayOf(_wire.array(_U32, RATCHET), 2),
    _wire.ArrayOf(_wire.array(_FRAME_ID, _wire.Uint(), _wire.Bin(32), _wire.Bin(1, UINT_MAX)), _HELD_MAX),
)
_SESSION: Final = _wire.array(
    _wire.Uint(1),
    _FACTS,
    RATCHET,
    _wire.Uint(),
    _wire.Uint(),
    _wire.Uint(),
    _wire.Uint(),
    _wire.Maybe(_wire.Uint()),
    _wire.Bin(1, UINT_MAX),
    _wire.Bin(0, 32),
)


def export_held(held: AgtHeld) -> bytes:
    """Return the canonical bytes of a session or a candidate: secret, and unsealed."""
    facts = held.facts
    fixed = [
        facts.peer.raw,
        int(facts.initiator),
        facts.ephemeral,
        facts.one_time,
        facts.knock_id,
        facts.knock_time_ms,
        facts.knock_receipt,
        facts.action,
    ]
    if isinstance(held, Candidate):
        ratchets = [[number, ratchet_fields(ratchet)] for number, ratchet in held.ratchets]
        frames = [[one.frame_id, one.time_ms, one.receipt, one.message] for one in held.held]
        return _wire.encode([0, fixed, held.made_ms, int(held.is_known), ratchets, frames])
    return _wire.encode(
        [
            1,
            fixed,
            ratchet_fields(held.ratchet),
            held.sent,
            held.opened,
            held.rank,
            held.made_ms,
            held.heard_ms,
            held.conditions.encode(),
            held.first_chain,
        ]
    )


def restore_held(data: bytes, own: AgtIdentityKey, max_bytes: int) -> AgtHeld:
    """Return what `export_held` wrote.

    Raises:
        Malformed, ArgumentInvalid, BadIdentityKey: damaged, or fields that contradict one another.
    """
    if _wire.peek_version(data) == 0:
        _, fixed, made_ms, is_known, ratchets, frames = _wire.decode(data, _CANDIDATE, max_bytes)
        facts = _restore_facts(fixed, own)
        require(not facts.initiator and (len(ratchets) == 1 or bool(ratchets and not frames)))
        return Candidate(
            facts=facts,
            ratchets=tuple((number, _restore_first(one)) for number, one in ratchets),
            made_ms=made_ms,
            is_known=bool(is_known),
            held=tuple(HeldFrame(name, time_ms, Receipt(receipt), sealed) for name, time_ms, receipt, sealed in frames),
        )
    _, fixed, ratchet, sent, opened, rank, made_ms, heard_ms, *rest = _wire.decode(data, _SESSION, max_bytes)
    facts, (conditions, first_chain) = _restore_facts(fixed, own), rest
    require(len(first_chain) == (0 if heard_ms is None else 32))
    return AgtSession(
        facts=facts,
        # Of the two roles of a ratchet AGT's initiator has that of the side which seals first.
        ratchet=_restore_ratchet(ratchet, initiator=not facts.initiator),
        sent=sent,
        opened=opened,
        rank=rank,
        made_ms=made_ms,
        heard_ms=heard_ms,
        conditions=Conditions.decode(conditions),
        first_chain=first_chain,
    )


def _restore_ratchet(fields: list[Any], *, initiator: bool) -> Ratchet:
    ratchet = restore_ratchet(fields, initiator, AGT_SUITE)
    require(_crypto.constant_time_equal(ratchet.next_sending + ratchet.next_receiving, ANY_CHAIN + ANY_CHAIN))
    return ratchet


def _restore_first(fields: list[Any]) -> Ratchet:
    """Return a ratchet that nothing was opened on yet."""
    ratchet = _restore_ratchet(fields, initiator=True)
    require(ratchet.receiving is None and ratchet.sending is None)
    return ratchet


def _restore_facts(fields: list[Any], own: AgtIdentityKey) -> AgtFacts:
    raw, initiator, ephemeral, one_time, knock_id, knock_time_ms, knock_receipt, action = fields
    require(raw != own.raw)
    return AgtFacts(
        peer=AgtIdentityKey(raw),
        own=own,
        initiator=bool(initiator),
        ephemeral=X25519PublicKey(ephemeral),
        one_time=one_time,
        knock_id=knock_id,
        knock_time_ms=knock_time_ms,
        knock_receipt=Receipt(knock_receipt),
        action=action,
    )


def advanced(session: AgtSession, **changed: Any) -> AgtSession:
    """Return the session with these attributes changed."""
    return evolve(session, **changed)
