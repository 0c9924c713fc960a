"""An agent's state, and the steps that are the only way to alter it.

Theory of operation. Every call of the façade computes a `Step` from the state without touching it: changes, audit
records, and what the call returns. The agent hands changes and records to its journal, if it has one, and then applies
the changes; the output leaves last. So a refusal or a failing journal leaves all as it was, and whatever is sent was
committed first.

A change names what it alters in the protocol's own terms, so that a store can write just that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar, final

from agentmesh.audit.record import Record
from agentmesh.engine.inbox import Inbox
from agentmesh.engine.outbox import Outbox
from agentmesh.engine.replay import KnockMemory
from agentmesh.handshake.prekeys import BundleClass, PublishedBundle
from agentmesh.identity import Identity, IdentityKey, did_argument
from agentmesh.limits import CLOCK_TOLERANCE_MS, KNOCK_LIFETIME_MAX_MS
from agentmesh.primitives.keys import BundleRef, Ed25519PublicKey, Redacted, SessionId
from agentmesh.session.established import Session
from agentmesh.session.held import Held, session_id_of
from agentmesh.session.pending import Undecided


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
        self.key: IdentityKey = key
        self.sessions: tuple[Held, ...] = ()
        self.latest_knock_ms: int = latest_knock_ms
        self.own_knock_ms: int = own_knock_ms

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

    def drop(self, session_ids: Collection[SessionId]) -> None:
        """Hold these sessions no more. For changes alone."""
        self.sessions = tuple(held for held in self.sessions if session_id_of(held) not in session_ids)

    def copy(self) -> Peer:
        """Return a peer of the same state that can be changed apart; its sessions are the same."""
        peer = Peer(self.key, self.latest_knock_ms, self.own_knock_ms)
        peer.sessions = self.sessions
        return peer

    @property
    def forget_at_ms(self) -> int:
        """When no KNOCK can exist any more that these times would make stale."""
        return max(self.latest_knock_ms, self.own_knock_ms) + KNOCK_LIFETIME_MAX_MS + CLOCK_TOLERANCE_MS


class AgentState(Redacted):
    """All that an agent must not lose.

    Attributes:
        identity: The agent's own identity.
        mesh: The mesh that it is in.
        generation: How many steps have changed it. Raised by the seam alone.
        has_policy: It was given a policy of its own, and is not to be restored without one by mistake.
        reliable: It keeps outbox and inbox, and is not to be restored without them by mistake.
        bundles: What it published and has not forgotten, by ref.
        knocks: The memory of KNOCKs.
        peers: By identity key.
        dids: From DID to identity key.
        sessions: By session id, in every phase.
        undecided: Those of them that wait for the application's verdict, oldest first.
        outbox: What waits to leave, or to be acknowledged; empty where the agent keeps none.
        inbox: What the application has not done with; empty where the agent keeps none.
    """

    __slots__ = (
        "bundles", "dids", "generation", "has_policy", "identity", "inbox", "knocks", "mesh", "outbox", "peers",
        "reliable", "sessions", "undecided",
    )  # fmt: skip

    def __init__(self, identity: Identity, mesh: str) -> None:
        self.identity: Identity = identity
        self.mesh: str = mesh
        self.generation: int = 0
        self.has_policy: bool = False
        self.reliable: bool = False
        self.bundles: MutableMapping[BundleRef, PublishedBundle] = {}
        self.knocks: KnockMemory = KnockMemory()
        self.peers: MutableMapping[Ed25519PublicKey, Peer] = {}
        self.dids: MutableMapping[str, Ed25519PublicKey] = {}
        self.sessions: MutableMapping[SessionId, Held] = {}
        self.undecided: MutableMapping[SessionId, Undecided] = {}
        self.outbox: Outbox = Outbox()
        self.inbox: Inbox = Inbox()

    def peer(self, did: str) -> Peer | None:
        """Return what is known of the peer with this DID, or `None`.

        Raises:
            ArgumentInvalid: it is none. (A known one is compared, not parsed.)
        """
        raw = self.dids.get(did) if type(did) is str else None
        if raw is None:
            raw = self.dids.get(did_argument("did", did))
        return None if raw is None else self.peers[raw]

    def unused_one_time(self, now_ms: int = 0) -> int:
        """Return how many one-time bundles are unused, and not expired by `now_ms`."""
        return sum(
            bundle.bundle_class is BundleClass.ONE_TIME and bundle.secrets is not None and now_ms <= bundle.forget_at_ms
            for bundle in self.bundles.values()
        )

    def advancing(self, session: Session) -> Session:
        """Return the session that a change is to advance: the very one. A draft gives a copy."""
        return session

    def ensure_peer(self, key: IdentityKey) -> Peer:
        """Return the peer of this identity, made if it is new. For changes alone."""
        peer = self.peers.get(key.raw)
        if peer is None:
            self.dids[key.did] = key.raw  # first, because a peer that is there is looked at no more
            peer = self.peers[key.raw] = Peer(key)
        return peer

    def hold(self, peer: Peer, held: Held) -> None:
        """Hold a session in the phase that it is in now. For changes alone."""
        peer.put(held)
        self._index(held)

    def hold_all(self, peer: Peer, sessions: Mapping[SessionId, Held]) -> None:
        """Hold a peer's sessions by their ids, oldest first, where it has none yet. For restoring alone."""
        peer.sessions = tuple(sessions.values())
        for session_id, held in sessions.items():
            self.sessions[session_id] = held
            if isinstance(held, Undecided):
                self.undecided[session_id] = held

    def _index(self, held: Held) -> None:
        session_id = session_id_of(held)
        self.sessions[session_id] = held
        if isinstance(held, Undecided):
            self.undecided[session_id] = held
        else:
            self.undecided.pop(session_id, None)


# --- steps -----------------------------------------------------------------------------------------------------------


class Change(Protocol):
    """Something that a step alters, in the protocol's own terms: see `agentmesh.engine.changes`.

    It says what is to hold afterwards. So applying it never fails (everything was checked before), applying it again
    changes nothing, and a step that was broken off half-way is finished by applying all of it once more.

    What one message changes in a session are `MessageSent` and `MessageTaken`, in `agentmesh.session.established`.
    """

    def apply(self, state: Any, /) -> None:
        """Alter the state, or a draft of it."""
        ...


_Output = TypeVar("_Output", covariant=True)


@final
class Step(Redacted, Generic[_Output]):
    """What one call of the façade changes, records and returns.

    `afterwards`, if any, is called once the step has taken effect: for what is kept in memory alone. `charged` is whose
    rate was charged while the step was computed: where it takes no effect, that is given back. `label` is what the
    application attached to a message. `call` and `generation`, that of the state after the step, are the seam's.
    """

    call: object
    generation: int
    __slots__ = ("afterwards", "call", "changes", "charged", "generation", "label", "output", "records")

    def __init__(
        self,
        changes: tuple[Change, ...],
        records: tuple[Record, ...],
        output: _Output,
        afterwards: Callable[[], None] | None = None,
        label: bytes = b"",
        *,
        charged: Ed25519PublicKey | None = None,
    ) -> None:
        self.changes: tuple[Change, ...] = changes
        self.records: tuple[Record, ...] = records
        self.output: _Output = output
        self.afterwards: Callable[[], None] | None = afterwards
        self.charged: Ed25519PublicKey | None = charged
        self.label: bytes = label


class RowKind(StrEnum):
    """What a row holds."""

    AGENT = "agent"
    BUNDLE = "bundle"
    GENERATION = "generation"
    INBOX = "inbox"
    KEPT = "kept"
    KNOCK = "knock"
    OUTBOX = "outbox"
    PEER = "peer"
    SESSION = "session"


class Changes(Protocol):
    """The changes of one step, as a journal is told of them."""

    def __iter__(self) -> Iterator[Change]:
        """Iterate over the changes, in their order."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def rows(self) -> Mapping[tuple[Any, bytes], bytes | None]:
        """Return the rows that the step writes, as canonical bytes of the state after it, and removes (`None`).

        By (kind, key). The bytes are *secret and unsealed*. Nothing is altered. See `agentmesh.engine.rows`.
        """
        ...


class Journal(Protocol):
    """What an agent tells of each step before it takes effect: an audit log, a durable store.

    One that has `reads_changes = False` is told of records alone.
    """

    def commit(self, changes: Changes, records: tuple[Record, ...], /) -> None:
        """Take note of a step, durably if that is the journal's promise.

        Raising leaves the agent's state as it was, and nothing of the step's output leaves: the caller gets
        `CommitFailed` with this error as its cause.

        A call may be broken off in here, or just behind, by what Python raises between two byte codes (a signal, a lack
        of memory). A journal that can tell afterwards whether it took the step says so in `settled`; see `Settling`. Of
        one that has no such method a step is taken once `commit` has returned, and not before.
        """
        ...


class Settling(Protocol):
    """What a journal may answer besides: what became of a commit that was broken off.

    If it has a method `begin`, without arguments, that is called before each `commit`: `settled` is about that one from
    then on, though it is broken off before the first line of `commit`.
    """

    def settled(self) -> bool:
        """Say whether the step that `commit` was told of last was taken, whole.

        It is asked before anything else is done with the agent, and asked again where it raises.
        """
        ...
