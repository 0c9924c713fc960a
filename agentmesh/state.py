"""An agent's state, and the changes that are the only way to alter it.

Theory of operation. Every call of the façade computes a `Step` from the state without touching it: changes, audit
records, and what the call returns. The agent hands changes and records to its journal, if it has one, and then applies
the changes; the output leaves last. So a refusal or a failing journal leaves all as it was, and whatever is sent was
committed first.

A change names what it alters in the protocol's own terms, so that a store can write just that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, final

from attrs import frozen

from agentmesh.audit.record import Record
from agentmesh.facts import Ended
from agentmesh.identity import Identity, IdentityKey, parse_did
from agentmesh.keys import BundleRef, Ed25519PublicKey, Redacted, SessionId, TranscriptHash
from agentmesh.limits import CLOCK_TOLERANCE_MS, KNOCK_LIFETIME_MAX_MS
from agentmesh.pending import Pending, Undecided
from agentmesh.prekeys import BundleClass, PublishedBundle
from agentmesh.ratchet import OpenDelta
from agentmesh.replay import KnockMemo, KnockMemory
from agentmesh.session import Session

Held = Pending | Undecided | Session | Ended


def session_id_of(held: Held) -> SessionId:
    """Return a session's id, in whatever phase it is."""
    return held.session_id if isinstance(held, Ended) else held.facts.session_id


_ENDED_PER_PEER: Final = 8  # how many endings of one peer can be asked for


@final
class Peer:
    """What is known of one peer.

    Attributes:
        key: Its identity.
        sessions: Its sessions, oldest first, ended ones included. Few, so a tuple: it is a third of a dictionary.
        latest_knock_ms: The header time of its latest KNOCK that opened: an earlier one is stale.
        own_knock_ms: The header time of this agent's latest KNOCK to it: the next is later.
    """

    __slots__ = ("key", "latest_knock_ms", "own_knock_ms", "sessions")

    def __init__(self, key: IdentityKey, latest_knock_ms: int = -1, own_knock_ms: int = -1) -> None:
        self.key = key
        self.sessions: tuple[Held, ...] = ()
        self.latest_knock_ms = latest_knock_ms
        self.own_knock_ms = own_knock_ms

    def session(self, session_id: SessionId) -> Held | None:
        """Return a session by its id, or `None`."""
        return next((held for held in self.sessions if session_id_of(held) == session_id), None)

    def put(self, held: Held) -> None:
        """Hold a session in the place of its earlier phase, or as the newest. For changes alone."""
        session_id = session_id_of(held)
        if self.session(session_id) is None:
            self.sessions += (held,)
        else:
            self.sessions = tuple(held if session_id_of(one) == session_id else one for one in self.sessions)

    def drop(self, session_id: SessionId) -> None:
        """Hold this session no more. For changes alone."""
        self.sessions = tuple(held for held in self.sessions if session_id_of(held) != session_id)

    @property
    def forget_at_ms(self) -> int:
        """When no KNOCK can exist any more that these times would make stale."""
        return max(self.latest_knock_ms, self.own_knock_ms) + KNOCK_LIFETIME_MAX_MS + CLOCK_TOLERANCE_MS


@final
class AgentState(Redacted):
    """All that an agent must not lose.

    Attributes:
        identity: The agent's own identity.
        mesh: The mesh that it is in.
        bundles: What it published and has not forgotten, by ref.
        knocks: The memory of KNOCKs.
        peers: By identity key.
        dids: From DID to identity key.
        sessions: By session id, in every phase.
        undecided: Those of them that wait for the application's verdict, oldest first.
    """

    __slots__ = ("bundles", "dids", "identity", "knocks", "mesh", "peers", "sessions", "undecided")

    def __init__(self, identity: Identity, mesh: str) -> None:
        self.identity = identity
        self.mesh = mesh
        self.bundles: dict[BundleRef, PublishedBundle] = {}
        self.knocks = KnockMemory()
        self.peers: dict[Ed25519PublicKey, Peer] = {}
        self.dids: dict[str, Ed25519PublicKey] = {}
        self.sessions: dict[SessionId, Held] = {}
        self.undecided: dict[SessionId, Undecided] = {}

    def peer(self, did: str) -> Peer | None:
        """Return what is known of the peer with this DID, or `None`.

        Raises:
            BadDid: it is none. (A known one is compared, not parsed.)
        """
        raw = self.dids.get(did) if type(did) is str else None
        if raw is None:
            parse_did(did)
            return None
        return self.peers[raw]

    def unused_one_time(self, now_ms: int = 0) -> int:
        """Return how many one-time bundles are unused, and not expired by `now_ms`."""
        return sum(
            bundle.bundle_class is BundleClass.ONE_TIME and bundle.secrets is not None and now_ms <= bundle.forget_at_ms
            for bundle in self.bundles.values()
        )

    def ensure_peer(self, key: IdentityKey) -> Peer:
        """Return the peer of this identity, made if it is new. For changes alone."""
        peer = self.peers.get(key.raw)
        if peer is None:
            peer = self.peers[key.raw] = Peer(key)
            self.dids[key.did] = key.raw
        return peer

    def hold(self, peer: Peer, held: Held) -> None:
        """Hold a session in the phase that it is in now. For changes alone."""
        peer.put(held)
        self._index(held)

    def hold_all(self, peer: Peer, sessions: Sequence[Held]) -> None:
        """Hold a peer's sessions, oldest first, where it has none yet. For restoring alone."""
        peer.sessions = tuple(sessions)
        for held in sessions:
            self._index(held)

    def _index(self, held: Held) -> None:
        session_id = session_id_of(held)
        self.sessions[session_id] = held
        if isinstance(held, Undecided):
            self.undecided[session_id] = held
        else:
            self.undecided.pop(session_id, None)


# --- changes ---------------------------------------------------------------------------------------------------------


class Change(Protocol):
    """Something that a step alters. Applying it never fails: everything was checked before.

    What one message changes in a session are `MessageSent` and `MessageTaken`, in `agentmesh.session`.
    """

    def apply(self, state: AgentState, /) -> None:
        """Alter the state."""
        ...


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
        state.bundles[self.ref] = state.bundles[self.ref].used()


@frozen
class BundlesForgotten:
    """Nobody can name these bundles any more: secrets and memory go."""

    refs: tuple[BundleRef, ...]

    def apply(self, state: AgentState, /) -> None:
        """Delete them."""
        for ref in self.refs:
            del state.bundles[ref]


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

    now_ms: int

    def apply(self, state: AgentState, /) -> None:
        """Forget them."""
        state.knocks.forget(self.now_ms, durable_too=True)


@frozen
class PeerKnocked:
    """A peer's KNOCK opened: earlier ones are stale from now on."""

    key: IdentityKey
    time_ms: int

    def apply(self, state: AgentState, /) -> None:
        """Remember its time."""
        peer = state.ensure_peer(self.key)
        peer.latest_knock_ms = max(peer.latest_knock_ms, self.time_ms)


@frozen
class KnockedPeer:
    """This agent knocked at a peer: its next KNOCK there must be later."""

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
            del state.peers[key.raw]
            del state.dids[key.did]


@final
class SessionPut(Redacted):
    """A session is new, or enters another phase; `opened` is what its first message changes in its ratchet."""

    __slots__ = ("held", "opened")

    def __init__(self, held: Pending | Undecided | Session, opened: OpenDelta | None = None) -> None:
        self.held = held
        self.opened = opened

    def apply(self, state: AgentState, /) -> None:
        """Hold it in its new phase."""
        held = self.held
        if self.opened is not None and isinstance(held, Session):
            held.ratchet.apply(self.opened)
        state.hold(state.ensure_peer(held.facts.peer), held)


@final
class KeptKeysExpired(Redacted):
    """Skipped message keys of a session are past their lifetime."""

    __slots__ = ("expired", "session")

    def __init__(self, session: Session, expired: OpenDelta) -> None:
        self.session = session
        self.expired = expired

    def apply(self, _state: AgentState, /) -> None:
        """Delete them."""
        self.session.ratchet.apply(self.expired)


@frozen
class SessionSuperseded:
    """A fresh KNOCK of the peer takes this session's place: it receives a while longer and sends no more."""

    session_id: SessionId
    at_ms: int

    def apply(self, state: AgentState, /) -> None:
        """Let it end."""
        held = state.sessions[self.session_id]
        if isinstance(held, Session):
            held.superseded_at_ms = self.at_ms


@frozen
class SessionEnded:
    """A session is over: its keys go, the memory of how it ended stays for a while."""

    ended: Ended

    def apply(self, state: AgentState, /) -> None:
        """Replace it by its memory."""
        peer = state.ensure_peer(self.ended.peer)
        state.hold(peer, self.ended)
        over = [held for held in peer.sessions if isinstance(held, Ended)]
        surplus = {held.session_id for held in sorted(over, key=lambda held: held.at_ms)[:-_ENDED_PER_PEER]}
        if surplus:
            peer.sessions = tuple(held for held in peer.sessions if session_id_of(held) not in surplus)
            for session_id in surplus:
                del state.sessions[session_id]


@frozen
class SessionsForgotten:
    """The memory of these endings goes."""

    ended: tuple[Ended, ...]

    def apply(self, state: AgentState, /) -> None:
        """Delete them."""
        for ended in self.ended:
            # An ending in the same step may have pushed it out already.
            state.sessions.pop(ended.session_id, None)
            state.peers[ended.peer.raw].drop(ended.session_id)


# --- the seam --------------------------------------------------------------------------------------------------------


@final
class Step(Redacted):
    """What one call of the façade changes, records and returns.

    `withdraw` is a KNOCK that was remembered in memory while the step was computed: where the journal refuses the step,
    that memory goes too, so that the KNOCK can be offered again.
    """

    __slots__ = ("changes", "output", "records", "withdraw")

    def __init__(
        self,
        changes: tuple[Change, ...],
        records: tuple[Record, ...],
        output: Any,
        *,
        withdraw: TranscriptHash | None = None,
    ) -> None:
        self.changes = changes
        self.records = records
        self.output = output
        self.withdraw = withdraw


class Journal(Protocol):
    """What an agent tells of each step before it takes effect: an audit log, a durable store."""

    def commit(self, changes: tuple[Change, ...], records: tuple[Record, ...], /) -> None:
        """Take note of a step, durably if that is the journal's promise.

        Raising leaves the agent's state as it was, and nothing of the step's output leaves: the caller gets
        `CommitFailed` with this error as its cause.
        """
        ...
