"""What a step leads to, as rows: so that a store writes just that (docs/protocol.md, section 7.1).

Theory of operation. A step's changes are applied to a *draft*, a state that copies what they touch and leaves the
agent's own as it is; the rows are what they touched, as canonical bytes. So each change is written once, and its rows
cannot differ from what it does. The rows of all steps since an agent was made are the rows of its state.

| kind | key | bytes |
|---|---|---|
| `agent` | empty | [version, mesh, seed, 1 if it has a policy of its own and else 0]: a restart may change it |
| `generation` | empty | 8 bytes, big-endian: every step that changes anything writes it |
| `bundle` | its ref | as in an export |
| `knock` | its th | as in an export |
| `peer` | its identity key | as in an export, with session ids in the place of its sessions |
| `session` | its id | as `export_session` writes it |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final, Generic, TypeVar, final

from agentmesh.at_rest import MANY, STATE_MAX_BYTES, VERSION, require
from agentmesh.engine.export import MEMO_LAYOUT, memo_fields, peer_fields, put_bundle, put_memo, put_peer
from agentmesh.engine.replay import KnockMemo, KnockMemory
from agentmesh.engine.state import AgentState, Change, Peer, RowKind
from agentmesh.envelope import is_mesh_name
from agentmesh.errors import Malformed, StateVersionUnknown
from agentmesh.handshake.prekeys import PUBLISHED_LAYOUT, PublishedBundle, export_published
from agentmesh.identity import Identity
from agentmesh.limits import MESH_MAX_BYTES, UINT_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import Redacted, TranscriptHash
from agentmesh.session.at_rest import export_session, guarded
from agentmesh.session.established import Session
from agentmesh.session.held import Held, session_id_of

RowKey = tuple[RowKind, bytes]
Rows = dict[RowKey, bytes]
RowChanges = dict[RowKey, bytes | None]


def rows_of(state: AgentState) -> Rows:
    """Return the rows of a whole state: *secret, and unsealed*."""
    return {
        (RowKind.AGENT, b""): _agent_row(state),
        (RowKind.GENERATION, b""): _generation_row(state.generation),
        **{(RowKind.BUNDLE, bundle.ref): _bundle_row(bundle) for bundle in state.bundles.values()},
        **{(RowKind.KNOCK, memo.th): _knock_row(memo) for memo in state.knocks},
        **{(RowKind.PEER, peer.key.raw): _peer_row(peer) for peer in state.peers.values()},
        **{(RowKind.SESSION, session_id_of(held)): export_session(held) for held in state.sessions.values()},
    }


def _agent_row(state: AgentState) -> bytes:
    return _wire.encode([VERSION, state.mesh, state.identity.seed.reveal(), int(state.has_policy)])


def _generation_row(generation: int) -> bytes:
    return generation.to_bytes(8, "big")


def _bundle_row(bundle: PublishedBundle) -> bytes:
    return _wire.encode(export_published(bundle))


def _knock_row(memo: KnockMemo) -> bytes:
    return _wire.encode(memo_fields(memo))


def _peer_row(peer: Peer) -> bytes:
    return _wire.encode(peer_fields(peer, [session_id_of(held) for held in peer.sessions]))


# --- and back --------------------------------------------------------------------------------------------------------

_AGENT: Final = _wire.array(_wire.Uint(), _wire.Text(1, MESH_MAX_BYTES), _wire.Bin(32), _wire.Uint(1))
_PEER: Final = _wire.array(
    _wire.Bin(32), _wire.Maybe(_wire.Uint()), _wire.Maybe(_wire.Uint()), _wire.ArrayOf(_wire.Bin(16), MANY)
)


def state_of(rows: Mapping[RowKey, bytes]) -> AgentState:
    """Return the state whose rows these are; what is in no order here comes back in the order of the rows.

    Raises:
        StateMalformed: damaged, missing or of another key, or fields that contradict one another.
        StateVersionUnknown: written by a newer release.
    """
    return guarded(lambda: _restore_rows(rows))


def _restore_rows(rows: Mapping[RowKey, bytes]) -> AgentState:
    agent = rows.get((RowKind.AGENT, b""))
    if isinstance(agent, bytes) and _wire.peek_version(agent) not in (None, VERSION):
        raise StateVersionUnknown
    version, mesh, seed, has_policy = _decode(agent, _AGENT)
    require(version == VERSION and is_mesh_name(mesh))
    state = AgentState(Identity.from_seed(seed), mesh)
    state.has_policy = bool(has_policy)
    generation = rows.get((RowKind.GENERATION, b""))
    if not isinstance(generation, bytes) or len(generation) != 8:
        raise Malformed
    state.generation = int.from_bytes(generation, "big")
    require(state.generation <= UINT_MAX)
    peers: list[tuple[bytes, list[Any]]] = []
    for (kind, key), data in rows.items():
        if kind == RowKind.BUNDLE:
            fields = _decode(data, PUBLISHED_LAYOUT)
            put_bundle(state, fields)
            require(fields[0] == key)
        elif kind == RowKind.KNOCK:
            fields = _decode(data, MEMO_LAYOUT)
            put_memo(state, fields)
            require(fields[0] == key)
        elif kind == RowKind.PEER:
            peers.append((key, _decode(data, _PEER)))
        else:
            require(kind == RowKind.SESSION or (kind in {RowKind.AGENT, RowKind.GENERATION} and not key))
    for key, (raw, latest_knock_ms, own_knock_ms, session_ids) in peers:
        require(raw == key)
        sessions = [rows.get((RowKind.SESSION, session_id)) for session_id in session_ids]
        put_peer(state, [raw, latest_knock_ms, own_knock_ms, sessions])
        require([session_id_of(held) for held in state.peers[raw].sessions] == session_ids)
    require(len(state.sessions) == sum(kind == RowKind.SESSION for kind, _ in rows))  # none without its peer
    return state


def _decode(data: bytes | None, layout: _wire.Array) -> list[Any]:
    if not isinstance(data, bytes):
        raise Malformed
    return _wire.decode(data, layout, STATE_MAX_BYTES)


# --- a draft of the state --------------------------------------------------------------------------------------------

_Key = TypeVar("_Key", bound=bytes | str)
_Value = TypeVar("_Value")
_GONE: Final = object()


@final
class _Layer(MutableMapping[_Key, _Value], Generic[_Key, _Value]):
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
        """Yield (key, value or `None`) of all that is otherwise here than below."""
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
        self.layer: _Layer[TranscriptHash, KnockMemo] = _Layer(below.by_th)

    def get(self, th: TranscriptHash) -> KnockMemo | None:
        return self.layer.get(th)

    def remember(self, memo: KnockMemo) -> None:
        self.layer[memo.th] = memo

    def drop(self, th: TranscriptHash) -> None:
        self.layer.pop(th, None)


def _copied(held: Held) -> Held:
    return held.copy() if isinstance(held, Session) else held


@final
class _Draft(AgentState):
    """An agent's state as it would be; the state below it stays as it is."""

    is_draft = True
    __slots__ = ("bundle_layer", "knock_layer", "peer_layer", "session_layer")

    def __init__(self, below: AgentState) -> None:
        self.identity = below.identity
        self.mesh = below.mesh
        self.bundles = self.bundle_layer = _Layer(below.bundles)
        self.knocks = memory = _Memory(below.knocks)
        self.knock_layer = memory.layer
        self.peers = self.peer_layer = _Layer(below.peers, Peer.copy)
        self.dids = _Layer(below.dids)
        self.sessions = self.session_layer = _Layer(below.sessions, _copied)
        self.undecided = _Layer(below.undecided)

    def hold(self, peer: Peer, held: Held) -> None:
        # A copy, because the session that a step brings shares its ratchet with the phase before.
        super().hold(peer, _copied(held))

    def advancing(self, session: Session) -> Session:
        held = self.sessions.get(session.facts.session_id)
        return held if isinstance(held, Session) else session.copy()


@final
class ChangesOf(Redacted):
    """The changes of one step over the state before it: what a journal is told."""

    __slots__ = ("_changes", "_generation", "_state")

    def __init__(self, changes: tuple[Change, ...], state: AgentState, generation: int) -> None:
        self._changes = changes
        self._generation = generation
        self._state = state

    def __iter__(self) -> Iterator[Change]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def rows(self) -> RowChanges:
        """Return the rows that the step writes, and removes (`None`): *secret, and unsealed*. Nothing is altered."""
        rows = rows_after(self._state, self._changes)
        if self._changes:
            rows[RowKind.GENERATION, b""] = _generation_row(self._generation)
        return rows


def rows_after(state: AgentState, changes: Iterable[Change]) -> RowChanges:
    """Return the rows that these changes write, and remove (`None`), over this state. Nothing is altered."""
    draft = _Draft(state)
    for change in changes:
        change.apply(draft)
    rows: RowChanges = {}
    for ref, bundle in draft.bundle_layer.changes():
        rows[RowKind.BUNDLE, ref] = None if bundle is None else _bundle_row(bundle)
    for th, memo in draft.knock_layer.changes():
        rows[RowKind.KNOCK, th] = _knock_row(memo) if memo is not None else None
    for raw, peer in draft.peer_layer.changes():
        rows[RowKind.PEER, raw] = None if peer is None else _peer_row(peer)
    for session_id, held in draft.session_layer.changes():
        rows[RowKind.SESSION, session_id] = None if held is None else export_session(held)
    return rows
