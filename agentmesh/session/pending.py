"""A session before its verdict: A's side after the KNOCK, B's side before the decision (sections 5 and 5.2)."""

from __future__ import annotations

from typing import ClassVar, final

from agentmesh.envelope import Kind, OuterEnvelope, build
from agentmesh.errors import (
    ClosedSession,
    DecryptionFailed,
    Malformed,
    MessageRefused,
    NotYet,
    PeerConditionBroken,
    TooLarge,
)
from agentmesh.handshake.knock import KnockContent
from agentmesh.handshake.verdict import Conditions, build_accept_content, verify_accept_content
from agentmesh.identity import Identity
from agentmesh.limits import CLOCK_TOLERANCE_MS, PENDING_GRACE_MS, Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import HeaderKey, Redacted, RootKey, X25519PublicKey
from agentmesh.session.content import ContentType, pad_accept, parse_content
from agentmesh.session.established import Session
from agentmesh.session.facts import SESSION_ID_BYTES, Facts
from agentmesh.session.indices import FIRST, NONE
from agentmesh.session.opening import open_in_session
from agentmesh.session.phases import Happening, Phase
from agentmesh.session.ratchet import Opened, Ratchet
from agentmesh.session.suite import SUITE


@final
class Pending(Redacted):
    """A's side between KNOCK and verdict. It keeps EK in its ratchet, and the KNOCK's bytes to offer again."""

    phase: ClassVar[Phase] = Phase.PENDING
    __slots__ = ("expires_ms", "facts", "knock", "ratchet")

    def __init__(self, facts: Facts, ratchet: Ratchet, *, expires_ms: int, knock: bytes) -> None:
        self.facts: Facts = facts
        self.ratchet: Ratchet = ratchet
        self.expires_ms: int = expires_ms
        self.knock: bytes = knock

    @property
    def deadline_ms(self) -> int:
        """When it ends without a verdict: a day after the KNOCK's expiry, since an ACCEPT may lie at a relay."""
        return self.expires_ms + PENDING_GRACE_MS

    def ending(self, now_ms: int) -> Happening | None:
        """Return what has ended it by `now_ms`, or `None` while it waits."""
        return Happening.TIMED_OUT if now_ms > self.deadline_ms else None

    def open_accept(self, outer: OuterEnvelope, *, now_ms: int, limits: Limits) -> tuple[Conditions, Opened]:
        """Return the conditions of a genuine ACCEPT, and the opened message. Sections 5.2 and 6.1; changes nothing.

        Raises:
            ClosedSession: the KNOCK has expired for good.
            NotYet: a message that overtook the ACCEPT.
            DecryptionFailed, Malformed, ContradictoryHeader, GapTooLarge, BadPoint: not an ACCEPT of this session.
            MessageRefused: authentic, but not the ACCEPT that may stand here.
            BadSignature: the acceptor's signature does not cover this very ACCEPT.
            PeerConditionBroken: its time to live is over already.
        """
        if self.ending(now_ms) is not None:
            raise ClosedSession
        if outer.header.kind is not Kind.ACCEPT:
            is_early = self.ratchet.awaits(outer.envelope, start=outer.body_at + SESSION_ID_BYTES)
            raise NotYet if is_early else DecryptionFailed
        opened = open_in_session(
            self.facts, self.ratchet, outer, self.facts.context(outer.header_bytes), now_ms, limits
        )
        content_type, _, content, _ = parse_content(opened.plaintext)
        if content_type is not ContentType.ACCEPT or opened.number != 0:
            raise MessageRefused
        conditions = _accept_conditions(content, self.facts, outer, opened)
        if conditions.ttl_seconds is not None:
            end_ms = outer.header.time_ms + conditions.ttl_seconds * 1000
            if now_ms > end_ms + CLOCK_TOLERANCE_MS:
                raise PeerConditionBroken("ttl_seconds")
        return conditions, opened

    def established(self, conditions: Conditions, accepted_at_ms: int) -> Session:
        """Return the session that this becomes, over the same ratchet. Its owner applies the opened delta to it."""
        return Session(
            self.facts,
            self.ratchet,
            conditions,
            accepted_at_ms=accepted_at_ms,
            data_sent=int(self.facts.early_payload),
            # What the peer accepted came with the payload.
            acknowledged=FIRST if self.facts.early_payload else NONE,
            begin_by_ms=self.deadline_ms,
        )


def _accept_conditions(content: bytes, facts: Facts, outer: OuterEnvelope, opened: Opened) -> Conditions:
    try:
        return verify_accept_content(
            content,
            facts.peer,
            header_bytes=outer.header_bytes,
            th=facts.th,
            knock_receipt=facts.knock_receipt,
            ratchet_key=opened.header[0],
        )
    except (Malformed, TooLarge):
        pass
    raise MessageRefused


@final
class Undecided(Redacted):
    """B's side between an opened KNOCK and the verdict: what is needed to accept it, and what it says."""

    phase: ClassVar[Phase] = Phase.UNDECIDED
    __slots__ = ("content", "ephemeral", "expires_ms", "facts", "header_key_ab", "header_key_ba", "root")

    def __init__(
        self,
        facts: Facts,
        *,
        root: RootKey,
        header_key_ab: HeaderKey,
        header_key_ba: HeaderKey,
        ephemeral: X25519PublicKey,
        expires_ms: int,
        content: KnockContent,
    ) -> None:
        self.facts: Facts = facts
        self.root: RootKey = root
        self.header_key_ab: HeaderKey = header_key_ab
        self.header_key_ba: HeaderKey = header_key_ba
        self.ephemeral: X25519PublicKey = ephemeral
        self.expires_ms: int = expires_ms
        self.content: KnockContent = content

    @property
    def deadline_ms(self) -> int:
        """When it ends without a decision."""
        return self.expires_ms

    def ending(self, now_ms: int) -> Happening | None:
        """Return what has ended it by `now_ms`, or `None` while it waits."""
        return Happening.TIMED_OUT if now_ms > self.deadline_ms else None

    def accept(
        self, identity: Identity, conditions: Conditions, *, now_ms: int, entropy: Entropy
    ) -> tuple[Session, bytes]:
        """Return (the established session, the ACCEPT envelope). Section 5.2; changes nothing of this object."""
        ratchet = Ratchet.responder(
            SUITE,
            self.root,
            self.ephemeral,
            header_key_ab=self.header_key_ab,
            header_key_ba=self.header_key_ba,
            entropy=entropy,
        )
        header_bytes = self.facts.header(Kind.ACCEPT, now_ms)
        content = build_accept_content(
            identity,
            conditions,
            header_bytes=header_bytes,
            th=self.facts.th,
            knock_receipt=self.facts.knock_receipt,
            ratchet_key=ratchet.public,
        )
        context = self.facts.context(header_bytes)
        message, _, sending = ratchet.seal(pad_accept(content), context, entropy.token(_crypto.NONCE_BYTES))
        ratchet.apply_sealed(sending)  # the ratchet is fresh and nobody else's yet
        session = Session(
            self.facts,
            ratchet,
            conditions,
            accepted_at_ms=now_ms,
            received=FIRST if self.facts.early_payload else NONE,
            begin_by_ms=self.expires_ms + PENDING_GRACE_MS,
        )
        return session, build(header_bytes, self.facts.session_id, *message)
