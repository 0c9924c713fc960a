"""A state as it would be, and a state whose changes are noted: so that rows are what a step touches, and no more.

A *draft* copies what is touched, and the state below it stays as it is: for a step whose rows are written before it
takes effect. A *noted* state is the state itself, and remembers what was touched and how it was: for a batch, whose
steps take effect at once and are written together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final, Generic, NamedTuple, TypeVar, final

from agentmesh.engine.inbox import HandedUp, Inbox
from agentmesh.engine.outbox import Outbox, Waiting
from agentmesh.engine.replay import KnockMemo, KnockMemory
from agentmesh.engine.state import AgentState, Peer
from agentmesh.handshake.prekeys import PublishedBundle
from agentmesh.identity import Identity
from agentmesh.primitives.keys import BundleRef, Ed25519PublicKey, SessionId, TranscriptHash
from agentmesh.session.chains import SkippedAt
from agentmesh.session.established import Session
from agentmesh.session.held import Held
from agentmesh.session.pending import Undecided

Kept = Collection[SkippedAt]


class Touched(NamedTuple):
    """What changes have touched, by key, as it is afterwards; `None` is gone.

    Of a session it says besides which message keys were kept for it before.
    """

    bundles: Iterable[tuple[BundleRef, PublishedBundle | None]]
    knocks: Iterable[tuple[TranscriptHash, KnockMemo | None]]
    peers: Iterable[tuple[Ed25519PublicKey, Peer | None]]
    sessions: Iterable[tuple[SessionId, Kept, Held | None]]
    outbox: Iterable[tuple[int, Waiting | None]]
    inbox: Iterable[tuple[int, HandedUp | None]]


def kept_of(held: Held | None) -> Kept:
    """Return which message keys are kept for a session: those of a live view, which changes with it."""
    return held.ratchet.skipped.keys() if isinstance(held, Session) else ()


# --- as it would be --------------------------------------------------------------------------------------------------

_Key = TypeVar("_Key", bound=bytes | str)
_Value = TypeVar("_Value")
_Entry = TypeVar("_Entry", Waiting, HandedUp)
_GONE: Final = object()


@final
class Layer(MutableMapping[_Key, _Value], Generic[_Key, _Value]):
    """A dictionary over another that stays as it is: what is written, removed or given out to be changed is kept here.

    Args:
        below: The dictionary below.
        copy: Makes a copy of a value, where values are changed in place.
    """

    def __init__(self, below: Mapping[_Key, _Value], copy: Callable[[_Value], _Value] | None = None) -> None:
        self._below = below
        self._copy = copy
        self.touched: dict[_Key, _Value | object] = {}

    def __getitem__(self, key: _Key) -> _Value:
        value = self.touched.get(key)
        if value is None:
            value = self._below[key]
            if self._copy is not None:
                value = self.touched[key] = self._copy(value)
        if value is _GONE:
            raise KeyError(key)
        return value  # type: ignore[return-value]

    def __setitem__(self, key: _Key, value: _Value) -> None:
        self.touched[key] = value

    def __delitem__(self, key: _Key) -> None:
        if key not in self:
            raise KeyError(key)
        self.touched[key] = _GONE

    def __contains__(self, key: object) -> bool:
        return self.touched[key] is not _GONE if key in self.touched else key in self._below

    def __iter__(self) -> Iterator[_Key]:
        return (key for key in {**self._below, **self.touched} if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def changes(self) -> Iterator[tuple[_Key, _Value | None]]:
        """Yield (key, value or `None`) of all that was touched here, or is gone."""
        for key, value in self.touched.items():
            if value is not _GONE:
                yield key, value  # type: ignore[misc]
            elif key in self._below:
                yield key, None


@final
class _Memory(KnockMemory):
    """A memory of KNOCKs over another that stays as it is, as far as changes use it."""

    __slots__ = ("layer",)

    def __init__(self, below: KnockMemory) -> None:
        super().__init__()
        self.layer: Layer[TranscriptHash, KnockMemo] = Layer(below.by_th)

    def get(self, th: TranscriptHash) -> KnockMemo | None:
        return self.layer.get(th)

    def remember(self, memo: KnockMemo) -> None:
        self.layer[memo.th] = memo

    def drop(self, th: TranscriptHash) -> None:
        self.layer.pop(th, None)


def _copied(held: Held) -> Held:
    return held.copy() if isinstance(held, Session) else held


@final
class Draft(AgentState):
    """An agent's state as it would be; the state below it stays as it is."""

    __slots__ = ("_below", "_bundles", "_inbox", "_knocks", "_outbox", "_peers", "_sessions")

    def __init__(self, below: AgentState) -> None:
        self._below = below
        self.identity: Identity = below.identity
        self.mesh: str = below.mesh
        self._bundles = Layer(below.bundles)
        self.bundles: MutableMapping[BundleRef, PublishedBundle] = self._bundles
        memory = _Memory(below.knocks)
        self.knocks: KnockMemory = memory
        self._knocks = memory.layer
        self._peers = Layer(below.peers, Peer.copy)
        self.peers: MutableMapping[Ed25519PublicKey, Peer] = self._peers
        self.dids: MutableMapping[str, Ed25519PublicKey] = Layer(below.dids)
        self._sessions = Layer(below.sessions, _copied)
        self.sessions: MutableMapping[SessionId, Held] = self._sessions
        self.undecided: MutableMapping[SessionId, Undecided] = Layer(below.undecided)
        outbox: _Drafted[Waiting] = _Drafted(below.outbox)
        inbox: _Drafted[HandedUp] = _Drafted(below.inbox)
        self._outbox, self._inbox = outbox, inbox
        self.outbox: Outbox = outbox  # type: ignore[assignment]
        self.inbox: Inbox = inbox  # type: ignore[assignment]

    def hold(self, peer: Peer, held: Held) -> None:
        """Hold a session in the phase that it is in now."""
        # A copy, because the session that a step brings shares its ratchet with the phase before.
        super().hold(peer, _copied(held))

    def advancing(self, session: Session) -> Session:
        """Return a copy of the session, the same for all changes."""
        held = self.sessions.get(session.facts.session_id)
        return held if isinstance(held, Session) else session.copy()

    def touched(self) -> Touched:
        """Return what is otherwise than below."""
        before = self._below.sessions
        return Touched(
            self._bundles.changes(),
            self._knocks.changes(),
            self._peers.changes(),
            ((session_id, kept_of(before.get(session_id)), held) for session_id, held in self._sessions.changes()),
            self._outbox.touched.items(),
            self._inbox.touched.items(),
        )


@final
class _Drafted(Generic[_Entry]):
    """An outbox or inbox over another that stays as it is, as far as changes use it."""

    __slots__ = ("below", "touched")

    def __init__(self, below: Any) -> None:
        self.below = below
        self.touched: dict[int, _Entry | None] = {}

    def put(self, entry: _Entry) -> None:
        self.touched[entry.sequence] = entry

    def remove(self, sequence: int) -> None:
        if sequence in self.touched or self.below.get(sequence) is not None:
            self.touched[sequence] = None


# --- a state whose changes are noted ---------------------------------------------------------------------------------


class _NotedMap(MutableMapping[_Key, _Value], Generic[_Key, _Value]):
    """A dictionary that is written through, and remembers which keys were touched."""

    def __init__(self, below: MutableMapping[_Key, _Value], *, changed_in_place: bool = False) -> None:
        self.below = below
        self.touched: dict[_Key, Any] = {}
        self._changed_in_place = changed_in_place

    def note(self, key: _Key) -> None:
        self.touched[key] = None

    def __getitem__(self, key: _Key) -> _Value:
        if self._changed_in_place:  # whoever looks it up may change it
            self.note(key)
        return self.below[key]

    def __setitem__(self, key: _Key, value: _Value) -> None:
        self.note(key)
        self.below[key] = value

    def __delitem__(self, key: _Key) -> None:
        self.note(key)
        del self.below[key]

    def __contains__(self, key: object) -> bool:
        return key in self.below

    def __iter__(self) -> Iterator[_Key]:
        return iter(self.below)

    def __len__(self) -> int:
        return len(self.below)

    def changes(self) -> Iterator[tuple[_Key, _Value | None]]:
        """Yield (key, value or `None`) of all that was touched."""
        return ((key, self.below.get(key)) for key in self.touched)


@final
class _NotedSessions(_NotedMap[SessionId, Held]):
    """Sessions, and which message keys were kept for each before it was touched first."""

    def note(self, key: SessionId) -> None:
        if key not in self.touched:
            self.touched[key] = frozenset(kept_of(self.below.get(key)))

    def kept(self) -> Iterator[tuple[SessionId, Kept, Held | None]]:
        return ((key, before, self.below.get(key)) for key, before in self.touched.items())


@final
class _NotedMemory(KnockMemory):
    """A memory of KNOCKs that is written through, as far as changes use it."""

    __slots__ = ("below", "touched")

    def __init__(self, below: KnockMemory) -> None:
        super().__init__()
        self.below = below
        self.touched: dict[TranscriptHash, None] = {}

    def get(self, th: TranscriptHash) -> KnockMemo | None:
        return self.below.get(th)

    def remember(self, memo: KnockMemo) -> None:
        self.touched[memo.th] = None
        self.below.remember(memo)

    def drop(self, th: TranscriptHash) -> None:
        self.touched[th] = None
        self.below.drop(th)


@final
class _NotedBox(Generic[_Entry]):
    """An outbox or inbox that is written through, as far as changes use it."""

    __slots__ = ("below", "touched")

    def __init__(self, below: Any) -> None:
        self.below = below
        self.touched: dict[int, None] = {}

    def put(self, entry: _Entry) -> None:
        self.touched[entry.sequence] = None
        self.below.put(entry)

    def remove(self, sequence: int) -> None:
        self.touched[sequence] = None
        self.below.remove(sequence)

    def changes(self) -> Iterator[tuple[int, _Entry | None]]:
        return ((sequence, self.below.get(sequence)) for sequence in self.touched)


@final
class Noted(AgentState):
    """An agent's state, and what changes have touched in it since this was made. For changes alone."""

    __slots__ = ("_bundles", "_inbox", "_memory", "_outbox", "_peers", "_sessions", "below")

    def __init__(self, below: AgentState) -> None:
        self.below: AgentState = below
        self.identity: Identity = below.identity
        self.mesh: str = below.mesh
        self._bundles = _NotedMap(below.bundles)
        self.bundles: MutableMapping[BundleRef, PublishedBundle] = self._bundles
        self._memory = _NotedMemory(below.knocks)
        self.knocks: KnockMemory = self._memory
        self._peers = _NotedMap(below.peers, changed_in_place=True)
        self.peers: MutableMapping[Ed25519PublicKey, Peer] = self._peers
        self.dids: MutableMapping[str, Ed25519PublicKey] = below.dids
        self._sessions = _NotedSessions(below.sessions)
        self.sessions: MutableMapping[SessionId, Held] = self._sessions
        self.undecided: MutableMapping[SessionId, Undecided] = below.undecided
        outbox: _NotedBox[Waiting] = _NotedBox(below.outbox)
        inbox: _NotedBox[HandedUp] = _NotedBox(below.inbox)
        self._outbox, self._inbox = outbox, inbox
        self.outbox: Outbox = outbox  # type: ignore[assignment]
        self.inbox: Inbox = inbox  # type: ignore[assignment]

    def advancing(self, session: Session) -> Session:
        """Return the very session, and note it."""
        self._sessions.note(session.facts.session_id)
        return session

    def touched(self) -> Touched:
        """Return what was touched, as it is now."""
        memory = self._memory
        return Touched(
            self._bundles.changes(),
            ((th, memory.below.get(th)) for th in memory.touched),
            self._peers.changes(),
            self._sessions.kept(),
            self._outbox.changes(),
            self._inbox.changes(),
        )
