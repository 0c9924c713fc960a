"""State as bytes: canonical, versioned, *secret and unsealed* (docs/protocol.md, section 7).

What is exported is the equality that matters: two agents or sessions with one export behave alike. Sealing it for a
disk is the store's; never write it anywhere as it is. Every field is checked on the way back in, and fields that
contradict one another are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from agentmesh.engine.replay import KnockMemo
from agentmesh.engine.state import AgentState, Held, session_id_of
from agentmesh.envelope import is_mesh_name
from agentmesh.errors import AgentMeshError, Malformed, StateMalformed, StateVersionUnknown
from agentmesh.handshake.knock import decode_content, encode_content
from agentmesh.handshake.prekeys import PUBLISHED_LAYOUT, BundleClass, export_published, restore_published
from agentmesh.handshake.verdict import Conditions
from agentmesh.identity import Identity, IdentityKey
from agentmesh.limits import ACTION_MAX_BYTES, COUNTER_MAX, KEPT_CHAINS, MESH_MAX_BYTES, UINT_MAX, Limits
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import (
    ChainKey,
    Ed25519PublicKey,
    HeaderKey,
    MessageKey,
    Receipt,
    RootKey,
    SessionId,
    TranscriptHash,
    X25519PublicKey,
    X25519Secret,
)
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended, Facts, PeerClose, Phase
from agentmesh.session.pending import Pending, Undecided
from agentmesh.session.ratchet import PastChain, Ratchet, ReceivingChain, SendingChain, SkippedAt
from agentmesh.session.suite import SUITE

_VERSION: Final = 1
_STATE_MAX_BYTES: Final = 1 << 32
_MANY: Final = 1 << 24  # no export has more items than bytes; the byte cap is what bounds them

_KEY: Final = _wire.Bin(32)
_MS: Final = _wire.Uint()
_COUNT: Final = _wire.Uint()
_U32: Final = _wire.Uint(COUNTER_MAX)

_SENDING: Final = _wire.array(_KEY, _KEY, _U32, _U32, _COUNT)
_RECEIVING: Final = _wire.array(_KEY, _KEY, _KEY, _U32, _U32, _COUNT, _COUNT)
_PAST: Final = _wire.array(_KEY, _U32, _COUNT, _COUNT)
_SKIPPED: Final = _wire.array(_COUNT, _U32, _KEY, _MS)
_RATCHET: Final = _wire.array(
    _KEY,
    _KEY,
    _KEY,
    _wire.Maybe(_SENDING),
    _wire.Maybe(_RECEIVING),
    _KEY,
    _KEY,
    _wire.ArrayOf(_PAST, KEPT_CHAINS),
    _wire.ArrayOf(_SKIPPED, _MANY),
)
_FACTS: Final = _wire.array(
    _wire.Bin(16),
    _wire.Bin(64),
    _KEY,
    _wire.Uint(1),
    _wire.Uint(2),
    _MS,
    _KEY,
    _wire.Text(1, ACTION_MAX_BYTES),
    _wire.Uint(1),
)
_CLOSE: Final = _wire.array(_COUNT, _COUNT, _COUNT, _MS)

_PENDING: Final = _wire.array(_wire.Uint(), _FACTS, _RATCHET, _MS, _wire.Bin(1, UINT_MAX))
_UNDECIDED: Final = _wire.array(_wire.Uint(), _FACTS, _KEY, _KEY, _KEY, _KEY, _MS, _wire.Bin(1, UINT_MAX))
_SESSION: Final = _wire.array(
    _wire.Uint(),
    _FACTS,
    _RATCHET,
    _wire.Bin(1, UINT_MAX),
    _MS,
    _COUNT,
    _COUNT,
    _wire.Uint(1),
    _wire.Maybe(_MS),
    _wire.Maybe(_CLOSE),
    _wire.Maybe(_MS),
)
_ENDED: Final = _wire.array(
    _wire.Uint(),
    _wire.Bin(16),
    _KEY,
    _wire.Text(1, 16),
    _wire.Text(0, 32),
    _MS,
    _wire.Uint(2),
    _wire.Uint(1),
    _COUNT,
    _COUNT,
)
_TAGS: Final = {1: _PENDING, 2: _UNDECIDED, 3: _SESSION, 4: _ENDED}

_OVER: Final = {str(phase) for phase in (Phase.REJECTED, Phase.CLOSED, Phase.EXPIRED, Phase.TRUNCATED)}

_MEMO: Final = _wire.array(_wire.Bin(64), _KEY, _KEY, _MS, _MS, _wire.Maybe(_wire.Bin(1, UINT_MAX)))
_PEER: Final = _wire.array(_KEY, _wire.Maybe(_MS), _wire.Maybe(_MS), _wire.ArrayOf(_wire.Bin(1, UINT_MAX), _MANY))
_AGENT: Final = _wire.array(
    _wire.Uint(),
    _wire.Text(1, MESH_MAX_BYTES),
    _KEY,
    _wire.ArrayOf(PUBLISHED_LAYOUT, _MANY),
    _wire.ArrayOf(_MEMO, _MANY),
    _wire.ArrayOf(_PEER, _MANY),
)
# An intent and a payload were held to the limits of the agent that took them; here any that can exist may come back.
_ANY_LIMITS: Final = Limits(
    plaintext_max_bytes=1 << 31,
    envelope_max_bytes=1 << 40,
    intent_detail_max_bytes=1 << 31,
    capabilities_max=1 << 31,
)


# --- out -------------------------------------------------------------------------------------------------------------


def _ratchet_fields(ratchet: Ratchet) -> list[Any]:
    sending, receiving = ratchet.sending, ratchet.receiving
    return [
        ratchet.root,
        ratchet.secret,
        ratchet.public,
        None
        if sending is None
        else [sending.key, sending.header_key, sending.n, sending.previous_length, sending.start],
        None
        if receiving is None
        else [
            receiving.key,
            receiving.header_key,
            receiving.peer_key,
            receiving.n,
            receiving.previous_length,
            receiving.start,
            receiving.serial,
        ],
        ratchet.next_sending,
        ratchet.next_receiving,
        [[past.header_key, past.length, past.start, past.serial] for past in ratchet.past],
        [[serial, n, key, at_ms] for (serial, n), (key, at_ms) in ratchet.skipped.items()],
    ]


def _facts_fields(facts: Facts) -> list[Any]:
    return [
        facts.session_id,
        facts.th,
        facts.peer.raw,
        int(facts.initiator),
        int(facts.bundle_class),
        facts.knock_time_ms,
        facts.knock_receipt,
        facts.action,
        int(facts.early_payload),
    ]


def export_session(held: Held) -> bytes:
    """Return the canonical bytes of a session in any phase: secret, and unsealed."""
    if isinstance(held, Pending):
        return _wire.encode([1, _facts_fields(held.facts), _ratchet_fields(held.ratchet), held.expires_ms, held.knock])
    if isinstance(held, Undecided):
        return _wire.encode(
            [
                2,
                _facts_fields(held.facts),
                held.root,
                held.header_key_ab,
                held.header_key_ba,
                held.ephemeral,
                held.expires_ms,
                encode_content(held.content, _ANY_LIMITS),
            ]
        )
    if isinstance(held, Session):
        close = held.peer_close
        return _wire.encode(
            [
                3,
                _facts_fields(held.facts),
                _ratchet_fields(held.ratchet),
                held.conditions.encode(),
                held.accepted_at_ms,
                held.data_sent,
                held.data_opened,
                int(held.confirmed),
                held.own_close_at_ms,
                None if close is None else [close.number, close.data_sent, close.data_opened, close.at_ms],
                held.superseded_at_ms,
            ]
        )
    return _wire.encode(
        [
            4,
            held.session_id,
            held.peer.raw,
            str(held.phase),
            held.detail,
            held.at_ms,
            int(held.bundle_class),
            int(held.initiated),
            held.data_sent,
            held.data_opened,
        ]
    )


def _none_if_never(time_ms: int) -> int | None:
    return None if time_ms < 0 else time_ms


def export_agent(state: AgentState) -> bytes:
    """Return the canonical bytes of an agent's whole state: secret, and unsealed."""
    return _wire.encode(
        [
            _VERSION,
            state.mesh,
            state.identity.seed.reveal(),
            [export_published(bundle) for bundle in state.bundles.values()],
            [
                [memo.th, memo.initiator, memo.receipt, memo.expires_ms, memo.forget_at_ms, memo.answer]
                for memo in state.knocks
                if memo.durable
            ],
            [
                [
                    peer.key.raw,
                    _none_if_never(peer.latest_knock_ms),
                    _none_if_never(peer.own_knock_ms),
                    [export_session(held) for held in peer.sessions],
                ]
                for peer in state.peers.values()
            ],
        ]
    )


# --- in --------------------------------------------------------------------------------------------------------------


def _require(condition: bool) -> None:
    if not condition:
        raise Malformed


def _restore_ratchet(fields: list[Any]) -> Ratchet:
    root, secret, public, sent, received, next_sending, next_receiving, past_fields, skipped_fields = fields
    sending = receiving = None
    if sent is not None:
        key, header_key, n, previous_length, start = sent
        sending = SendingChain(ChainKey(key), HeaderKey(header_key), n, previous_length, start)
    if received is not None:
        key, header_key, peer_key, n, previous_length, start, serial = received
        _require(n > 0)  # a chain exists since its first message was opened
        receiving = ReceivingChain(
            ChainKey(key), HeaderKey(header_key), X25519PublicKey(peer_key), n, previous_length, start, serial
        )
    past = tuple(
        PastChain(HeaderKey(header_key), length, start, serial) for header_key, length, start, serial in past_fields
    )
    lengths: dict[int, int] = {chain.serial: chain.length for chain in past}
    if receiving is None:
        _require(not past)
    else:
        newest = receiving.serial
        _require([chain.serial for chain in past] == list(range(newest - len(past), newest)))
        _require(len(past) == min(newest, KEPT_CHAINS))
        lengths[newest] = receiving.n
    skipped: dict[SkippedAt, tuple[MessageKey, int]] = {}
    previous: SkippedAt | None = None
    for serial, n, message_key, at_ms in skipped_fields:
        at = (serial, n)
        _require(n < lengths.get(serial, 0) and (previous is None or previous < at))
        skipped[at] = (MessageKey(message_key), at_ms)
        previous = at
    return Ratchet(
        SUITE,
        RootKey(root),
        X25519Secret(secret),
        X25519PublicKey(public),
        sending,
        receiving,
        HeaderKey(next_sending),
        HeaderKey(next_receiving),
        past,
        skipped,
    )


def _restore_facts(fields: list[Any], mesh: str, own_did: str) -> Facts:
    session_id, th, peer, initiator, bundle_class, knock_time_ms, knock_receipt, action, early_payload = fields
    _require(bundle_class in (1, 2))
    return Facts(
        session_id=SessionId(session_id),
        th=TranscriptHash(th),
        mesh=mesh,
        own_did=own_did,
        peer=IdentityKey(peer),
        initiator=bool(initiator),
        bundle_class=BundleClass(bundle_class),
        knock_time_ms=knock_time_ms,
        knock_receipt=Receipt(knock_receipt),
        action=action,
        early_payload=bool(early_payload),
    )


def _restore_pending(fields: list[Any], mesh: str, own_did: str) -> Pending:
    _, facts_fields, ratchet_fields, expires_ms, knock = fields
    facts, ratchet = _restore_facts(facts_fields, mesh, own_did), _restore_ratchet(ratchet_fields)
    _require(facts.initiator and ratchet.sending is None and ratchet.receiving is None)
    return Pending(facts, ratchet, expires_ms=expires_ms, knock=knock)


def _restore_undecided(fields: list[Any], mesh: str, own_did: str) -> Undecided:
    _, facts_fields, root, header_key_ab, header_key_ba, ephemeral, expires_ms, content = fields
    facts = _restore_facts(facts_fields, mesh, own_did)
    restored = decode_content(content, _ANY_LIMITS)
    _require(not facts.initiator and facts.early_payload == (restored.early_payload is not None))
    return Undecided(
        facts,
        root=RootKey(root),
        header_key_ab=HeaderKey(header_key_ab),
        header_key_ba=HeaderKey(header_key_ba),
        ephemeral=X25519PublicKey(ephemeral),
        expires_ms=expires_ms,
        content=restored,
    )


def _restore_established(fields: list[Any], mesh: str, own_did: str) -> Session:
    _, facts_fields, ratchet_fields, conditions, accepted_at_ms, data_sent, data_opened, confirmed, *rest = fields
    own_close_at_ms, close, superseded_at_ms = rest
    ratchet = _restore_ratchet(ratchet_fields)
    _require(ratchet.sending is not None)
    return Session(
        _restore_facts(facts_fields, mesh, own_did),
        ratchet,
        Conditions.decode(conditions),
        accepted_at_ms=accepted_at_ms,
        data_sent=data_sent,
        data_opened=data_opened,
        confirmed=bool(confirmed),
        own_close_at_ms=own_close_at_ms,
        peer_close=None if close is None else PeerClose(*close),
        superseded_at_ms=superseded_at_ms,
    )


def _restore_ended(fields: list[Any]) -> Ended:
    _, session_id, peer, phase, detail, at_ms, bundle_class, initiated, data_sent, data_opened = fields
    _require(phase in _OVER and bundle_class in (1, 2))
    return Ended(
        session_id=SessionId(session_id),
        peer=IdentityKey(peer),
        phase=Phase(phase),
        detail=detail,
        at_ms=at_ms,
        bundle_class=BundleClass(bundle_class),
        initiated=bool(initiated),
        data_sent=data_sent,
        data_opened=data_opened,
    )


def _restore_held(data: bytes, mesh: str, own_did: str) -> Held:
    # The tag stands behind the array's head; which layout the rest must have follows from it.
    layout = _TAGS.get(_wire.peek_version(data) or 0) if isinstance(data, bytes) else None
    if layout is None:
        raise Malformed
    fields = _wire.decode(data, layout, _STATE_MAX_BYTES)
    if layout is _PENDING:
        return _restore_pending(fields, mesh, own_did)
    if layout is _UNDECIDED:
        return _restore_undecided(fields, mesh, own_did)
    if layout is _SESSION:
        return _restore_established(fields, mesh, own_did)
    return _restore_ended(fields)


def _restore_agent(data: bytes) -> AgentState:
    # A newer release may write another shape, so the version is read before the rest is held to this one's.
    if isinstance(data, bytes) and _wire.peek_version(data) not in (None, _VERSION):
        raise StateVersionUnknown
    version, mesh, seed, bundle_fields, memo_fields, peer_fields = _wire.decode(data, _AGENT, _STATE_MAX_BYTES)
    if version != _VERSION:
        raise StateVersionUnknown
    _require(is_mesh_name(mesh))
    state = AgentState(Identity.from_seed(seed), mesh)
    for fields in bundle_fields:
        bundle = restore_published(fields)
        _require(bundle.ref not in state.bundles)
        state.bundles[bundle.ref] = bundle
    for th, initiator, receipt, expires_ms, forget_at_ms, answer in memo_fields:
        _require(state.knocks.get(TranscriptHash(th)) is None)
        state.knocks.remember(
            KnockMemo(
                th=TranscriptHash(th),
                initiator=Ed25519PublicKey(initiator),
                receipt=Receipt(receipt),
                expires_ms=expires_ms,
                forget_at_ms=forget_at_ms,
                durable=True,
                answer=answer,
            )
        )
    for raw, latest_knock_ms, own_knock_ms, sessions in peer_fields:
        _require(raw not in state.peers and raw != state.identity.key.raw)
        peer = state.ensure_peer(IdentityKey(raw))
        peer.latest_knock_ms = -1 if latest_knock_ms is None else latest_knock_ms
        peer.own_knock_ms = -1 if own_knock_ms is None else own_knock_ms
        restored = [_restore_held(session_data, mesh, state.identity.did) for session_data in sessions]
        ids = {session_id_of(held) for held in restored}
        _require(len(ids) == len(restored) and ids.isdisjoint(state.sessions))
        for held in restored:
            # A record under another peer's name is a swapped record, whichever of them was moved.
            _require(peer.key == (held.peer if isinstance(held, Ended) else held.facts.peer))
        state.hold_all(peer, restored)
    return state


_Restored = TypeVar("_Restored")


def _guarded(restore: Callable[[], _Restored]) -> _Restored:
    version_unknown = False
    try:
        return restore()
    except StateVersionUnknown:
        version_unknown = True
    except AgentMeshError:
        pass
    raise StateVersionUnknown if version_unknown else StateMalformed


def restore_session(data: bytes, *, mesh: str, own_did: str) -> Held:
    """Return the session that `export_session` wrote.

    Raises:
        StateMalformed: damaged, or fields that contradict one another.
    """
    return _guarded(lambda: _restore_held(data, mesh, own_did))


def restore_agent(data: bytes) -> AgentState:
    """Return the state that `export_agent` wrote.

    Raises:
        StateMalformed: damaged, or fields that contradict one another.
        StateVersionUnknown: written by a newer release.
    """
    return _guarded(lambda: _restore_agent(data))
