"""What a step leads to, as rows: so that a store writes just that (docs/protocol.md, section 7.1).

Theory of operation. A step's changes are applied to a *draft*, a state that copies what they touch and leaves the
agent's own as it is; those of a batch to the state itself, *noted* (`agentmesh.engine.draft`). The rows are what they
touched, as canonical bytes. So each change is written once, and its rows cannot differ from what it does. The rows of
all steps since an agent was made are the rows of its state.

| kind | key | bytes |
|---|---|---|
| `agent` | empty | [version, mesh, seed, 1 if it has a policy of its own and else 0]: a restart may change it |
| `generation` | empty | 8 bytes, big-endian: every step that changes anything writes it |
| `bundle` | its ref | as in an export |
| `knock` | its th | as in an export |
| `peer` | its identity key | as in an export, with session ids in the place of its sessions |
| `session` | its id | as `export_session` writes it, without the keys that are kept for late messages |
| `kept` | session id, serial of the chain (8 bytes), number in it (4) | [message key, when it was kept] |
| `outbox` | its sequence, 8 bytes | an envelope that waits: `agentmesh.engine.outbox` |
| `inbox` | its sequence, 8 bytes | [sequence, when, 1 if it is held and else 0, `agentmesh.engine.event_rows`] |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, final

from agentmesh.at_rest import MANY, STATE_MAX_BYTES, VERSION, require
from agentmesh.engine.draft import Draft, Kept, Noted, Touched, kept_of
from agentmesh.engine.export import (
    HANDED_LAYOUT,
    MEMO_LAYOUT,
    handed_fields,
    memo_fields,
    peer_fields,
    put_bundle,
    put_handed,
    put_memo,
    put_peer,
    put_waiting,
)
from agentmesh.engine.inbox import HandedUp
from agentmesh.engine.outbox import WAITING, Waiting, waiting_fields
from agentmesh.engine.replay import KnockMemo
from agentmesh.engine.state import AgentState, Change, Peer, RowKind
from agentmesh.envelope import is_mesh_name
from agentmesh.errors import Malformed, StateVersionUnknown
from agentmesh.handshake.prekeys import PUBLISHED_LAYOUT, PublishedBundle, export_published
from agentmesh.identity import Identity
from agentmesh.limits import MESH_MAX_BYTES, UINT_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import Redacted, SessionId
from agentmesh.session.at_rest import export_session, guarded
from agentmesh.session.chains import SkippedAt
from agentmesh.session.established import Session
from agentmesh.session.held import Held, session_id_of

RowKey = tuple[RowKind, bytes]
Rows = dict[RowKey, bytes]
RowChanges = dict[RowKey, bytes | None]


def rows_of(state: AgentState) -> Rows:
    """Return the rows of a whole state: *secret, and unsealed*."""
    rows: RowChanges = {
        (RowKind.AGENT, b""): _agent_row(state),
        (RowKind.GENERATION, b""): _generation_row(state.generation),
    }
    everything = Touched(
        state.bundles.items(),
        ((memo.th, memo) for memo in state.knocks),
        state.peers.items(),
        ((session_id, (), held) for session_id, held in state.sessions.items()),
        ((waiting.sequence, waiting) for waiting in state.outbox),
        ((handed.sequence, handed) for handed in state.inbox),
    )
    _write(rows, everything)
    return {name: data for name, data in rows.items() if data is not None}


def _write(rows: RowChanges, touched: Touched) -> None:
    """Write the rows of what was touched."""
    for ref, bundle in touched.bundles:
        rows[RowKind.BUNDLE, ref] = None if bundle is None else _bundle_row(bundle)
    for th, memo in touched.knocks:
        rows[RowKind.KNOCK, th] = None if memo is None else _knock_row(memo)
    for raw, peer in touched.peers:
        rows[RowKind.PEER, raw] = None if peer is None else _peer_row(peer)
    for session_id, before, held in touched.sessions:
        rows[RowKind.SESSION, session_id] = None if held is None else export_session(held, with_kept=False)
        after = kept_of(held)
        if before or after:
            _write_kept(rows, session_id, before, after, held)
    for sequence, waiting in touched.outbox:
        rows[RowKind.OUTBOX, _sequence_key(sequence)] = None if waiting is None else _waiting_row(waiting)
    for sequence, handed in touched.inbox:
        rows[RowKind.INBOX, _sequence_key(sequence)] = None if handed is None else _handed_row(handed)


def _write_kept(rows: RowChanges, session_id: SessionId, before: Kept, after: Kept, held: Held | None) -> None:
    """Write the message keys that a session keeps now and did not keep before; a kept key never changes."""
    for at in before:
        if at not in after:
            rows[RowKind.KEPT, _kept_key(session_id, at)] = None
    if isinstance(held, Session):
        for at, (message_key, at_ms) in held.ratchet.skipped.items():
            if at not in before:
                rows[RowKind.KEPT, _kept_key(session_id, at)] = _wire.encode([message_key, at_ms])


def _kept_key(session_id: SessionId, at: SkippedAt) -> bytes:
    serial, number = at
    return session_id + serial.to_bytes(8, "big") + number.to_bytes(4, "big")


def _sequence_key(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")


def _waiting_row(waiting: Waiting) -> bytes:
    return _wire.encode(waiting_fields(waiting))


def _handed_row(handed: HandedUp) -> bytes:
    return _wire.encode(handed_fields(handed))


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
_KEPT: Final = _wire.array(_wire.Bin(32), _wire.Uint())
_SESSION_ID_BYTES: Final = 16
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
    by_kind: dict[str, dict[bytes, bytes]] = {kind: {} for kind in RowKind}
    for (kind, key), data in rows.items():
        of_kind = by_kind.get(kind)
        if of_kind is None:
            raise Malformed
        of_kind[key] = data
    for kind, layout, put_back in (
        (RowKind.BUNDLE, PUBLISHED_LAYOUT, put_bundle),
        (RowKind.KNOCK, MEMO_LAYOUT, put_memo),
    ):
        for key, data in by_kind[kind].items():
            fields = _decode(data, layout)
            put_back(state, fields)
            require(fields[0] == key)
    _restore_peers(state, by_kind)
    _restore_boxes(state, sorted(by_kind[RowKind.OUTBOX].items()), sorted(by_kind[RowKind.INBOX].items()))
    require(len(by_kind[RowKind.AGENT]) == len(by_kind[RowKind.GENERATION]) == 1)
    return state


def _restore_peers(state: AgentState, by_kind: Mapping[str, dict[bytes, bytes]]) -> None:
    exported = by_kind[RowKind.SESSION]
    kept: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for key, data in by_kind[RowKind.KEPT].items():
        kept.setdefault(key[:_SESSION_ID_BYTES], []).append((key, data))
    for key, data in by_kind[RowKind.PEER].items():
        raw, latest_knock_ms, own_knock_ms, session_ids = _decode(data, _PEER)
        require(raw == key)
        sessions = [
            (exported.pop(one, None), _restore_kept(kept.pop(one)) if one in kept else ()) for one in session_ids
        ]
        require(put_peer(state, raw, latest_knock_ms, own_knock_ms, sessions) == session_ids)
    require(not exported and not kept)  # none without its peer


def _restore_kept(rows: Iterable[tuple[bytes, bytes]]) -> list[list[Any]]:
    """Return the kept keys of a session as its export has them, in their order."""
    fields: list[list[Any]] = []
    for key, data in sorted(rows):
        require(len(key) == _SESSION_ID_BYTES + 12)
        message_key, at_ms = _decode(data, _KEPT)
        serial, number = key[_SESSION_ID_BYTES:-4], key[-4:]
        fields.append([int.from_bytes(serial, "big"), int.from_bytes(number, "big"), message_key, at_ms])
    return fields


def _restore_boxes(state: AgentState, outbox: list[tuple[bytes, bytes]], inbox: list[tuple[bytes, bytes]]) -> None:
    for key, data in outbox:
        put_waiting(state, _decode(data, WAITING))
        require(key == _sequence_key(state.outbox.last_sequence))
    for key, data in inbox:
        put_handed(state, _decode(data, HANDED_LAYOUT))
        require(key == _sequence_key(state.inbox.last_sequence))


def _decode(data: bytes | None, layout: _wire.Array) -> list[Any]:
    if not isinstance(data, bytes):
        raise Malformed
    return _wire.decode(data, layout, STATE_MAX_BYTES)


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


@final
class ChangesNoted(Redacted):
    """The changes of a batch, which have taken effect: what a journal is told at its end."""

    __slots__ = ("_changes", "_noted")

    def __init__(self, changes: tuple[Change, ...], noted: Noted) -> None:
        self._changes = changes
        self._noted = noted

    def __iter__(self) -> Iterator[Change]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def rows(self) -> RowChanges:
        """Return the rows that the batch writes, and removes (`None`): *secret, and unsealed*."""
        rows: RowChanges = {}
        _write(rows, self._noted.touched())
        if self._changes:
            rows[RowKind.GENERATION, b""] = _generation_row(self._noted.below.generation)
        return rows


def rows_after(state: AgentState, changes: Iterable[Change]) -> RowChanges:
    """Return the rows that these changes write, and remove (`None`), over this state. Nothing is altered."""
    draft = Draft(state)
    for change in changes:
        change.apply(draft)
    rows: RowChanges = {}
    _write(rows, draft.touched())
    return rows
