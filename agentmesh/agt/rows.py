"""The state of an agent that speaks AGT's protocol, as rows, and as one export (docs/agt.md, section 7).

| kind | key | bytes |
|---|---|---|
| `agt` | empty | [version, mesh, seed, 1 if it has a policy of its own and else 0, `Stock`] |
| `agt-prekey` | its name | [1 if it is signed, number, when made, secret] |
| `agt-session` | its id | a session or a candidate: `agentmesh.agt.conversation` |
| `agt-knock` | its session id | [the number of the signed prekey that it used] |
| `inbox` | its sequence, 8 bytes | as of a native agent |
| `generation` | empty | 8 bytes, big-endian |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, final

from attrs import evolve

from agentmesh.agt.conversation import Candidate, export_held, request_of, restore_held
from agentmesh.agt.prekeys import NUMBER_MAX, PREKEY, prekey_fields, restore_prekey
from agentmesh.agt.state import (
    AgtChange,
    AgtState,
    HeldDropped,
    HeldPut,
    KnockKnown,
    KnocksForgotten,
    PrekeysDropped,
    PrekeysPut,
    Stock,
    Stocked,
)
from agentmesh.agt_identity import AgtIdentity, AgtIdentityKey
from agentmesh.at_rest import MANY, STATE_MAX_BYTES, StateKind, export_fields, require, restore_fields
from agentmesh.engine.changes import InboxPut, InboxRemoved
from agentmesh.engine.event_rows import export_event, is_kept, restore_event
from agentmesh.engine.inbox import HandedUp
from agentmesh.engine.state import RowKind
from agentmesh.envelope import is_mesh_name
from agentmesh.errors import Malformed, StateVersionUnknown
from agentmesh.events import KnockReceived, MessageReceived, RolledBack
from agentmesh.limits import MESH_MAX_BYTES, UINT_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import IdentitySeed, Redacted, SessionId
from agentmesh.session.at_rest import guarded
from agentmesh.session.facts import SESSION_ID_BYTES

VERSION: Final = 1


class AgtRowKind(StrEnum):
    """What a row of such an agent holds, beside `RowKind.INBOX` and `RowKind.GENERATION`."""

    AGENT = "agt"
    PREKEY = "agt-prekey"
    SESSION = "agt-session"
    KNOCK = "agt-knock"


Name = tuple[str, bytes]
_AGENT: Final = (AgtRowKind.AGENT, b"")
_GENERATION: Final = (RowKind.GENERATION, b"")
_NUMBER: Final = _wire.Uint(NUMBER_MAX + 1)
_AGENT_LAYOUT: Final = _wire.array(
    _wire.Uint(), _wire.Text(1, MESH_MAX_BYTES), _wire.Bin(32), _wire.Uint(1), _NUMBER, _NUMBER, _NUMBER
)
_KNOCK_LAYOUT: Final = _wire.array(_wire.Uint(NUMBER_MAX))
_HANDED: Final = _wire.array(_wire.Uint(), _wire.Uint(), _wire.Bin(1, UINT_MAX))
_EXPORT: Final = _wire.array(
    _wire.ArrayOf(_wire.array(_wire.Text(1, 16), _wire.Bin(0, 32), _wire.Bin(1, UINT_MAX)), MANY)
)


# --- out -------------------------------------------------------------------------------------------------------------


def rows_of(state: AgtState) -> dict[Name, bytes]:
    """Return the rows of a whole state: *secret, and unsealed*."""
    rows: dict[Name, bytes] = {_AGENT: _agent_row(state, state.stock), _GENERATION: _generation_row(state.generation)}
    for prekey in state.prekeys.values():
        rows[AgtRowKind.PREKEY, prekey.name] = _wire.encode(prekey_fields(prekey))
    for session_id, held in state.held.items():
        rows[AgtRowKind.SESSION, session_id] = export_held(held)
    for session_id, signed in state.known.items():
        rows[AgtRowKind.KNOCK, session_id] = _wire.encode([signed])
    for handed in state.inbox:
        rows[RowKind.INBOX, _sequence_key(handed.sequence)] = _handed_row(handed)
    return rows


def _agent_row(state: AgtState, stock: Stock) -> bytes:
    return _wire.encode(
        [
            VERSION,
            state.mesh,
            state.identity.seed.reveal(),
            int(state.has_policy),
            stock.next_signed,
            stock.next_one_time,
            stock.first_listed,
        ]
    )


def _generation_row(generation: int) -> bytes:
    return generation.to_bytes(8, "big")


def _sequence_key(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")


def _handed_row(handed: HandedUp) -> bytes:
    assert is_kept(handed.event)  # nothing else is put there
    return _wire.encode([handed.sequence, handed.at_ms, export_event(handed.event)])


def _rows_of_change(state: AgtState, change: Any) -> Iterator[tuple[Name, bytes | None]]:
    if isinstance(change, HeldPut):
        yield (AgtRowKind.SESSION, change.held.facts.session_id), export_held(change.held)
    elif isinstance(change, HeldDropped):
        yield from (((AgtRowKind.SESSION, session_id), None) for session_id in change.session_ids)
    elif isinstance(change, InboxPut):
        yield (RowKind.INBOX, _sequence_key(change.handed.sequence)), _handed_row(change.handed)
    elif isinstance(change, InboxRemoved):
        yield from (((RowKind.INBOX, _sequence_key(sequence)), None) for sequence in change.sequences)
    elif isinstance(change, PrekeysPut):
        for prekey in change.prekeys:
            yield (AgtRowKind.PREKEY, prekey.name), _wire.encode(prekey_fields(prekey))
    elif isinstance(change, PrekeysDropped):
        yield from (((AgtRowKind.PREKEY, name), None) for name in change.names)
    elif isinstance(change, KnockKnown):
        yield (AgtRowKind.KNOCK, change.session_id), _wire.encode([change.signed])
    elif isinstance(change, KnocksForgotten):
        yield from (((AgtRowKind.KNOCK, session_id), None) for session_id in change.session_ids)
    else:
        assert isinstance(change, Stocked)
        yield _AGENT, _agent_row(state, change.stock)


@final
class AgtChanges(Redacted):
    """The changes of a step, or of a batch of them, as a journal is told of them."""

    __slots__ = ("_changes", "_generation", "_state")

    def __init__(self, changes: tuple[AgtChange, ...], state: AgtState, generation: int | None) -> None:
        """Take them up.

        Args:
            changes: The changes, in their order.
            state: The state that they are for.
            generation: That of the state after them; the state's own, where they have taken effect, if `None`.
        """
        self._changes = changes
        self._generation = generation
        self._state = state

    def __iter__(self) -> Iterator[AgtChange]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def rows(self) -> dict[Name, bytes | None]:
        """Return the rows that they write, and remove (`None`): *secret, and unsealed*. Nothing is altered."""
        rows: dict[Name, bytes | None] = {}
        for change in self._changes:
            rows.update(_rows_of_change(self._state, change))
        if self._changes:
            generation = self._state.generation if self._generation is None else self._generation
            rows[_GENERATION] = _generation_row(generation)
        return rows


# --- and back --------------------------------------------------------------------------------------------------------


def state_of(rows: Mapping[Name, bytes]) -> AgtState:
    """Return the state whose rows these are.

    Raises:
        StateMalformed: damaged, missing or of another key, or fields that contradict one another.
        StateVersionUnknown: written by a newer release.
    """
    return guarded(lambda: _restore(rows))


def _restore(rows: Mapping[Name, bytes]) -> AgtState:
    agent = rows.get(_AGENT)
    if isinstance(agent, bytes) and _wire.peek_version(agent) not in (None, VERSION):
        raise StateVersionUnknown
    _, mesh, seed, has_policy, next_signed, next_one_time, first_listed = _decode(agent, _AGENT_LAYOUT)
    require(is_mesh_name(mesh) and first_listed <= next_one_time)
    state = AgtState(AgtIdentity(IdentitySeed(seed)), mesh)
    state.has_policy = bool(has_policy)
    state.stock = Stock(next_signed, next_one_time, first_listed)
    generation = rows.get(_GENERATION)
    if not isinstance(generation, bytes) or len(generation) != 8:
        raise Malformed
    state.generation = int.from_bytes(generation, "big")
    require(state.generation <= UINT_MAX)
    by_kind: dict[str, list[tuple[bytes, bytes]]] = {
        kind: [] for kind in (*AgtRowKind, RowKind.INBOX, RowKind.GENERATION)
    }
    for (kind, key), data in rows.items():
        require(kind in by_kind)
        by_kind[kind].append((key, data))
    require(len(by_kind[AgtRowKind.AGENT]) == len(by_kind[RowKind.GENERATION]) == 1)
    _restore_prekeys(state, by_kind[AgtRowKind.PREKEY])
    _restore_held(state, by_kind[AgtRowKind.SESSION])
    for key, data in by_kind[AgtRowKind.KNOCK]:
        [signed] = _decode(data, _KNOCK_LAYOUT)
        require(len(key) == SESSION_ID_BYTES)
        state.known[SessionId(key)] = signed
    for key, data in sorted(by_kind[RowKind.INBOX]):
        _restore_handed(state, key, data)
    return state


def _restore_prekeys(state: AgtState, rows: Iterable[tuple[bytes, bytes]]) -> None:
    for key, data in rows:
        prekey = restore_prekey(_decode(data, PREKEY))
        beyond = state.stock.next_signed if prekey.is_signed else state.stock.next_one_time
        require(prekey.name == key and prekey.number < beyond)  # no number is given twice
        state.prekeys[key] = prekey


def _restore_held(state: AgtState, rows: Iterable[tuple[bytes, bytes]]) -> None:
    own = state.identity.key
    found = [(key, restore_held(data, own, STATE_MAX_BYTES)) for key, data in rows]
    for key, held in sorted(found, key=lambda one: (one[1].made_ms, one[0])):
        require(held.facts.session_id == key)
        state.hold(held)


def _restore_handed(state: AgtState, key: bytes, data: bytes) -> None:
    sequence, at_ms, exported = _decode(data, _HANDED)
    require(key == _sequence_key(sequence) and sequence > state.inbox.last_sequence)
    state.inbox.put(HandedUp(sequence, _event_of(exported, state), at_ms))


def _event_of(exported: bytes, state: AgtState) -> Any:
    event: Any = restore_event(exported, state, _knock_of)
    if isinstance(event, KnockReceived):
        return event
    # By their names in AGT's mesh, since a row has the keys alone.
    if isinstance(event, MessageReceived):
        event.peer = AgtIdentityKey(event.peer.raw)
        return event
    if isinstance(event, RolledBack):
        return evolve(event, peers=tuple(AgtIdentityKey(peer.raw) for peer in event.peers))
    return evolve(event, peer=AgtIdentityKey(event.peer.raw))


def _knock_of(state: AgtState, session_id: SessionId, open_sessions: int) -> KnockReceived:
    held = state.held.get(session_id)
    if not isinstance(held, Candidate) or not held.is_proved:
        raise Malformed
    return request_of(held, open_sessions)


def _decode(data: bytes | None, layout: _wire.Array) -> list[Any]:
    if not isinstance(data, bytes):
        raise Malformed
    return _wire.decode(data, layout, STATE_MAX_BYTES)


# --- one export ------------------------------------------------------------------------------------------------------


def export_agent(state: AgtState) -> bytes:
    """Return the canonical bytes of a whole state: *secret, and unsealed*."""
    rows = rows_of(state)
    rows.pop(_GENERATION)
    fields = [[str(kind), key, data] for (kind, key), data in sorted(rows.items())]
    return export_fields(StateKind.AGT, state.mesh, state.generation, [fields])


def restore_agent(exported: bytes, at_least_generation: int) -> AgtState:
    """Return the state that `export_agent` wrote.

    Raises:
        ArgumentInvalid, StateMalformed, StateStale, StateVersionUnknown: as for `Agent.restore`.
    """

    def build(exported: bytes, mesh: str, generation: int, fields: list[Any]) -> AgtState:
        rows: dict[Name, bytes] = {(kind, key): data for kind, key, data in fields[0]}
        rows[_GENERATION] = _generation_row(generation)
        state = _restore(rows)
        require(state.mesh == mesh and export_agent(state) == exported)
        return state

    return restore_fields(StateKind.AGT, (_EXPORT,), exported, build, at_least_generation=at_least_generation)
