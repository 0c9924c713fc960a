"""The changes that are the only way to alter an agent's state, each named in the protocol's own terms.

Each says what is to hold afterwards, never what to add: a step that was broken off, between two changes or in the
middle of one, is finished by applying it again.
"""

from __future__ import annotations

from typing import Final, final

from attrs import define, frozen

from agentmesh.engine.inbox import HandedUp
from agentmesh.engine.outbox import Waiting
from agentmesh.engine.replay import KnockMemo
from agentmesh.engine.state import AgentState
from agentmesh.handshake.prekeys import PublishedBundle
from agentmesh.identity import IdentityKey
from agentmesh.primitives.keys import BundleRef, Redacted, SessionId, TranscriptHash
from agentmesh.session.chains import Delta, OpenDelta
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended
from agentmesh.session.pending import Pending, Undecided

_ENDED_PER_PEER: Final = 8  # how many endings of one peer can be asked for


@frozen
class BundlesPublished:
    """These bundles may be named by KNOCKs from now on."""

    bundles: tuple[PublishedBundle, ...]

    def apply(self, state: AgentState, /) -> None:
        """Keep their secrets."""
        for bundle in self.bundles:
            state.bundles[bundle.ref] = bundle


@frozen
class BundleUsed:
    """A one-time bundle has served: its secrets go, the memory of it stays."""

    ref: BundleRef

    def apply(self, state: AgentState, /) -> None:
        """Delete the secrets."""
        bundle = state.bundles.get(self.ref)
        if bundle is not None:
            state.bundles[self.ref] = bundle.used()


@frozen
class BundlesForgotten:
    """Nobody can name these bundles any more: secrets and memory go."""

    refs: tuple[BundleRef, ...]

    def apply(self, state: AgentState, /) -> None:
        """Delete them."""
        for ref in self.refs:
            state.bundles.pop(ref, None)


@frozen
class KnockRemembered:
    """A KNOCK that opened, or its answer."""

    memo: KnockMemo

    def apply(self, state: AgentState, /) -> None:
        """Remember it."""
        state.knocks.remember(self.memo)


@frozen
class AnswerDropped:
    """The initiator has shown that it holds the session: its KNOCK's answer need not be repeated."""

    th: TranscriptHash

    def apply(self, state: AgentState, /) -> None:
        """Drop the answer's bytes."""
        memo = state.knocks.get(self.th)
        if memo is not None:
            state.knocks.remember(memo.answered(None))


@frozen
class KnocksForgotten:
    """Memories past their time go: never before their bundle, so a clock set back brings no KNOCK back."""

    ths: tuple[TranscriptHash, ...]

    def apply(self, state: AgentState, /) -> None:
        """Forget them."""
        for th in self.ths:
            state.knocks.drop(th)


@frozen
class TheirKnockTime:
    """The header time of a peer's KNOCK that opened: earlier ones are stale from now on."""

    key: IdentityKey
    time_ms: int

    def apply(self, state: AgentState, /) -> None:
        """Remember its time."""
        peer = state.ensure_peer(self.key)
        peer.latest_knock_ms = max(peer.latest_knock_ms, self.time_ms)


@frozen
class OwnKnockTime:
    """The header time of this agent's KNOCK to a peer: its next one there is later."""

    key: IdentityKey
    time_ms: int

    def apply(self, state: AgentState, /) -> None:
        """Remember its time."""
        state.ensure_peer(self.key).own_knock_ms = self.time_ms


@frozen
class PeersForgotten:
    """Nothing is held of these peers any more."""

    keys: tuple[IdentityKey, ...]

    def apply(self, state: AgentState, /) -> None:
        """Delete them."""
        for key in self.keys:
            state.peers.pop(key.raw, None)
            state.dids.pop(key.did, None)


@final
class SessionPut(Redacted):
    """A session is new, or enters another phase; `opened` is what its first message changes in its ratchet."""

    __slots__ = ("held", "opened")

    def __init__(self, held: Pending | Undecided | Session, opened: Delta | None = None) -> None:
        self.held: Pending | Undecided | Session = held
        self.opened: Delta | None = opened

    def apply(self, state: AgentState, /) -> None:
        """Hold it in its new phase."""
        held = self.held
        state.hold(state.ensure_peer(held.facts.peer), held)
        if self.opened is not None and isinstance(held, Session):
            state.advancing(held).ratchet.apply(self.opened)


@final
class KeptKeysExpired(Redacted):
    """Skipped message keys of a session are past their lifetime."""

    __slots__ = ("expired", "session")

    def __init__(self, session: Session, expired: OpenDelta) -> None:
        self.session: Session = session
        self.expired: OpenDelta = expired

    def apply(self, state: AgentState, /) -> None:
        """Delete them."""
        state.advancing(self.session).ratchet.apply(self.expired)


@final
class AckWaived(Redacted):
    """What a session's peer is owed is not acknowledged: the policy does not allow the peer any more."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session: Session = session

    def apply(self, state: AgentState, /) -> None:
        """Owe nothing until more is opened."""
        state.advancing(self.session).owed = None


@frozen
class SessionSuperseded:
    """A fresh KNOCK of the peer takes this session's place: it receives a while longer and sends no more."""

    session_id: SessionId
    at_ms: int

    def apply(self, state: AgentState, /) -> None:
        """Let it end."""
        held = state.sessions.get(self.session_id)
        if isinstance(held, Session):
            state.advancing(held).superseded_at_ms = self.at_ms


@frozen
class SessionEnded:
    """A session is over: its keys go, the memory of how it ended stays for a while."""

    ended: Ended

    def apply(self, state: AgentState, /) -> None:
        """Replace it by its memory."""
        peer = state.ensure_peer(self.ended.peer)
        state.hold(peer, self.ended)
        over = [held for held in peer.sessions if isinstance(held, Ended)]
        surplus = {
            held.session_id for held in sorted(over, key=lambda held: (held.at_ms, held.session_id))[:-_ENDED_PER_PEER]
        }
        if surplus:
            for session_id in surplus:
                state.sessions.pop(session_id, None)
            peer.drop(surplus)  # last, because it tells what is surplus


@frozen
class SessionsForgotten:
    """The memory of these endings goes."""

    ended: tuple[Ended, ...]

    def apply(self, state: AgentState, /) -> None:
        """Delete them."""
        for ended in self.ended:
            # An ending in the same step may have pushed it out already, and its peer may be forgotten in it.
            state.sessions.pop(ended.session_id, None)
            peer = state.peers.get(ended.peer.raw)
            if peer is not None:
                peer.drop({ended.session_id})


@define
class OutboxPut:
    """An envelope waits to leave from now on. Not frozen, because one is made for every message."""

    waiting: Waiting

    def apply(self, state: AgentState, /) -> None:
        """Let it wait."""
        state.outbox.put(self.waiting)


@frozen
class OutboxRemoved:
    """These envelopes wait no more: handed over, acknowledged, or told as undelivered."""

    sequences: tuple[int, ...]

    def apply(self, state: AgentState, /) -> None:
        """Let go of them."""
        for sequence in self.sequences:
            state.outbox.remove(sequence)


@define
class InboxPut:
    """An event is handed up, and kept until the application has done with it. Not frozen, as `OutboxPut`."""

    handed: HandedUp

    def apply(self, state: AgentState, /) -> None:
        """Keep it."""
        state.inbox.put(self.handed)


@frozen
class InboxRemoved:
    """The application has done with these events."""

    sequences: tuple[int, ...]

    def apply(self, state: AgentState, /) -> None:
        """Let go of them."""
        for sequence in self.sequences:
            state.inbox.remove(sequence)
