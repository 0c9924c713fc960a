"""An agent's state as bytes: canonical, versioned, *secret and unsealed* (docs/protocol.md, section 7.1).

What is exported is the equality that matters: two agents with one export behave alike. Sealing it for a disk is the
store's; never write it anywhere as it is. Damage is refused on the way back in, and so are fields that contradict one
another, and an export that is older than it may be: the frame is that of all states, in `agentmesh.at_rest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from agentmesh.at_rest import MANY, StateKind, export_fields, require, restore_fields
from agentmesh.engine.event_rows import Kept, export_event, restore_event
from agentmesh.engine.inbox import HandedUp
from agentmesh.engine.outbox import WAITING, Purpose, restore_waiting, waiting_fields
from agentmesh.engine.replay import KnockMemo
from agentmesh.engine.state import AgentState, Peer
from agentmesh.events import KnockReceived, MessageReceived, PeerClosed
from agentmesh.handshake.prekeys import PUBLISHED_LAYOUT, export_published, restore_published
from agentmesh.identity import Identity, IdentityKey
from agentmesh.limits import UINT_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import Ed25519PublicKey, Receipt, SessionId, TranscriptHash
from agentmesh.session.at_rest import export_session, restore_held
from agentmesh.session.facts import Ended
from agentmesh.session.held import Held, session_id_of

MEMO_LAYOUT: Final = _wire.array(
    _wire.Bin(64), _wire.Bin(32), _wire.Bin(32), _wire.Uint(), _wire.Uint(), _wire.Maybe(_wire.Bin(1, UINT_MAX))
)
_PEER: Final = _wire.array(
    _wire.Bin(32), _wire.Maybe(_wire.Uint()), _wire.Maybe(_wire.Uint()), _wire.ArrayOf(_wire.Bin(1, UINT_MAX), MANY)
)
HANDED_LAYOUT: Final = _wire.array(_wire.Uint(), _wire.Uint(), _wire.Uint(1), _wire.Bin(1, UINT_MAX))
_AGENT: Final = (
    _wire.Bin(32),
    _wire.Uint(1),
    _wire.ArrayOf(PUBLISHED_LAYOUT, MANY),
    _wire.ArrayOf(MEMO_LAYOUT, MANY),
    _wire.ArrayOf(_PEER, MANY),
)
_BOXES: Final = (_wire.ArrayOf(WAITING, MANY), _wire.ArrayOf(HANDED_LAYOUT, MANY))
_VERSIONS: Final = (_wire.array(*_AGENT), _wire.array(*_AGENT, *_BOXES))
_WITH_BOXES: Final = 2

# --- out -------------------------------------------------------------------------------------------------------------


def _none_if_never(time_ms: int) -> int | None:
    return None if time_ms < 0 else time_ms


def memo_fields(memo: KnockMemo) -> list[Any]:
    """Return the fields of the memory of a KNOCK."""
    return [memo.th, memo.initiator, memo.receipt, memo.expires_ms, memo.forget_at_ms, memo.answer]


def peer_fields(peer: Peer, sessions: list[bytes]) -> list[Any]:
    """Return the fields of a peer, with what stands there for its sessions, oldest first."""
    return [peer.key.raw, _none_if_never(peer.latest_knock_ms), _none_if_never(peer.own_knock_ms), sessions]


def handed_fields(handed: HandedUp) -> list[Any]:
    """Return the fields of an event that is not done."""
    return [
        handed.sequence,
        handed.at_ms,
        int(handed.is_held),
        export_event(cast(Kept, handed.event)),
    ]  # no other is put


def export_agent(state: AgentState, now_ms: int) -> bytes:
    """Return the canonical bytes of an agent's whole state: secret, and unsealed.

    Bundles that are past their time by `now_ms` are left out, whether or not `poll` has forgotten them: their secrets
    may be nowhere any more (section 3).
    """
    fields = [
        state.identity.seed.reveal(),
        int(state.has_policy),
        [export_published(bundle) for bundle in state.bundles.values() if now_ms <= bundle.forget_at_ms],
        [memo_fields(memo) for memo in state.knocks],
        [peer_fields(peer, [export_session(held) for held in peer.sessions]) for peer in state.peers.values()],
    ]
    if not state.reliable and not state.outbox and not state.inbox:
        return export_fields(StateKind.AGENT, state.mesh, state.generation, fields)
    fields += [[waiting_fields(one) for one in state.outbox], [handed_fields(one) for one in state.inbox]]
    return export_fields(StateKind.AGENT, state.mesh, state.generation, fields, version=_WITH_BOXES)


# --- in --------------------------------------------------------------------------------------------------------------


def put_bundle(state: AgentState, fields: list[Any]) -> None:
    """Put back a bundle of which an export tells. Raises as `require`, as all of these do."""
    bundle = restore_published(fields)
    require(bundle.ref not in state.bundles)
    state.bundles[bundle.ref] = bundle


def put_memo(state: AgentState, fields: list[Any]) -> None:
    """Put back the memory of a KNOCK."""
    th, initiator, receipt, expires_ms, forget_at_ms, answer = fields
    require(state.knocks.get(TranscriptHash(th)) is None)
    state.knocks.remember(
        KnockMemo(
            th=TranscriptHash(th),
            initiator=Ed25519PublicKey(initiator),
            receipt=Receipt(receipt),
            expires_ms=expires_ms,
            forget_at_ms=forget_at_ms,
            answer=answer,
        )
    )


def put_peer(
    state: AgentState,
    raw: bytes,
    latest_knock_ms: int | None,
    own_knock_ms: int | None,
    sessions: Iterable[tuple[bytes | None, Sequence[list[Any]]]],
) -> list[SessionId]:
    """Put back a peer with its sessions: each as its own export, and the kept keys that are not in it.

    Return their ids.
    """
    require(raw not in state.peers and raw != state.identity.key.raw)
    peer = state.ensure_peer(IdentityKey(raw))
    peer.latest_knock_ms = -1 if latest_knock_ms is None else latest_knock_ms
    peer.own_knock_ms = -1 if own_knock_ms is None else own_knock_ms
    own_did = state.identity.did
    restored: dict[SessionId, Held] = {}
    for data, kept in sessions:
        held = restore_held(data, state.mesh, own_did, kept, peer.key)
        # A record under another peer's name is a swapped record, whichever of them was moved.
        key = held.peer if isinstance(held, Ended) else held.facts.peer
        require(key is peer.key or key == peer.key)
        session_id = session_id_of(held)
        require(session_id not in restored and session_id not in state.sessions)
        restored[session_id] = held
    state.hold_all(peer, restored)
    return list(restored)


def put_waiting(state: AgentState, fields: list[Any]) -> None:
    """Put back an envelope that waits; the oldest first."""
    waiting = restore_waiting(fields)
    require(waiting.sequence > state.outbox.last_sequence and state.outbox.find(waiting.receipt) is None)
    if waiting.purpose is Purpose.DATA:
        one = range(waiting.number, waiting.number + 1)
        require(not state.outbox.data_of(waiting.session_id, (one,)))
    state.outbox.put(waiting)


def put_handed(state: AgentState, fields: list[Any]) -> None:
    """Put back an event that is not done, the oldest first; its peers and their sessions come before."""
    sequence, at_ms, is_held, exported = fields
    event = restore_event(exported, state)
    require(sequence > state.inbox.last_sequence)
    require(not is_held or isinstance(event, MessageReceived | PeerClosed))
    require(not isinstance(event, KnockReceived) or event.session_id not in state.inbox.knocks)
    state.inbox.put(HandedUp(sequence, event, at_ms, bool(is_held)))


def restore_agent(data: bytes, now_ms: int, *, at_least_generation: int = 0) -> AgentState:
    """Return the state that `export_agent` wrote, without the bundles that are past their time by `now_ms`.

    Raises:
        ArgumentInvalid: not bytes, or `at_least_generation` is not a count.
        StateMalformed: damaged, or fields that contradict one another.
        StateStale: older than `at_least_generation`.
        StateVersionUnknown: written by a newer release.
    """

    def build(_exported: bytes, mesh: str, generation: int, fields: list[Any]) -> AgentState:
        seed, has_policy, bundles, memos, peers, *boxes = fields
        state = AgentState(Identity.from_seed(seed), mesh)
        state.generation = generation
        state.has_policy = bool(has_policy)
        state.reliable = bool(boxes)
        for bundle in bundles:
            put_bundle(state, bundle)
        for memo in memos:
            put_memo(state, memo)
        for raw, latest_knock_ms, own_knock_ms, sessions in peers:
            put_peer(state, raw, latest_knock_ms, own_knock_ms, ((session, ()) for session in sessions))
        for box, put_back in zip(boxes, (put_waiting, put_handed), strict=False):
            for entry in box:
                put_back(state, entry)
        for ref in [ref for ref, bundle in state.bundles.items() if now_ms > bundle.forget_at_ms]:
            del state.bundles[ref]
        return state

    return restore_fields(StateKind.AGENT, _VERSIONS, data, build, at_least_generation=at_least_generation)
