"""A session as bytes: canonical, *secret and unsealed* (docs/protocol.md, section 7.1).

Every field is checked on the way back in, and fields that contradict one another are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from agentmesh.at_rest import MANY, STATE_MAX_BYTES, require
from agentmesh.errors import AgentMeshError, Malformed, StateMalformed, StateVersionUnknown
from agentmesh.handshake.knock import decode_content, encode_content
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import Conditions
from agentmesh.identity import IdentityKey
from agentmesh.limits import ACTION_MAX_BYTES, COUNTER_MAX, UINT_MAX, Limits
from agentmesh.primitives import _wire
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended, Facts, PeerClose
from agentmesh.session.held import Held
from agentmesh.session.indices import Indices
from agentmesh.session.pending import Pending, Undecided
from agentmesh.session.phases import ENDINGS, Phase
from agentmesh.session.ratchet_export import KEPT_AT, RATCHET, ratchet_fields, restore_ratchet

_KEY: Final = _wire.Bin(32)
_MS: Final = _wire.Uint()
_COUNT: Final = _wire.Uint()
_U32: Final = _wire.Uint(COUNTER_MAX)

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
_CLOSE: Final = _wire.array(_COUNT, _U32, _U32, _MS)
_INDICES: Final = _wire.array(_U32, _U32, _wire.ArrayOf(_wire.array(_U32, _U32), MANY))
_OWED: Final = _wire.array(_U32, _MS)

_PENDING: Final = _wire.array(_wire.Uint(), _FACTS, RATCHET, _MS, _wire.Bin(1, UINT_MAX))
_UNDECIDED: Final = _wire.array(_wire.Uint(), _FACTS, _KEY, _KEY, _KEY, _KEY, _MS, _wire.Bin(1, UINT_MAX))
_SESSION: Final = _wire.often(
    _wire.Uint(),
    _FACTS,
    RATCHET,
    _wire.Bin(1, UINT_MAX),
    _MS,
    _U32,
    _INDICES,
    _INDICES,
    _wire.Maybe(_OWED),
    _wire.Uint(1),
    _MS,
    _wire.Maybe(_MS),
    _wire.Maybe(_CLOSE),
    _wire.Maybe(_MS),
)
_RATCHET_AT: Final = 2  # of the fields of an established session
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
_HEARD: Final = 1  # in the place of the time until which the initiator is to be heard
_TAGS: Final = {1: _PENDING, 2: _UNDECIDED, 3: _SESSION, 4: _ENDED}

_CLASSES: Final = {int(bundle_class): bundle_class for bundle_class in BundleClass}
_OVER: Final = {str(phase) for phase in ENDINGS}

# An intent and a payload were held to the limits of the agent that took them; here any that can exist may come back.
_ANY_LIMITS: Final = Limits(
    plaintext_max_bytes=1 << 31,
    envelope_max_bytes=1 << 40,
    intent_detail_max_bytes=1 << 31,
    capabilities_max=1 << 31,
)


# --- out -------------------------------------------------------------------------------------------------------------


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


def _indices_fields(indices: Indices) -> list[Any]:
    return [indices.floor, indices.count, [list(one) for one in indices.ranges]]


def export_session(held: Held, *, with_kept: bool = True) -> bytes:
    """Return the canonical bytes of a session in any phase: secret, and unsealed.

    Without the message keys that are kept for late messages where a store has them apart.
    """
    if isinstance(held, Pending):
        return _wire.encode([1, _facts_fields(held.facts), ratchet_fields(held.ratchet), held.expires_ms, held.knock])
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
                ratchet_fields(held.ratchet, with_kept=with_kept),
                held.conditions.encode(),
                held.accepted_at_ms,
                held.data_sent,
                _indices_fields(held.received),
                _indices_fields(held.acknowledged),
                None if held.owed is None else list(held.owed),
                int(held.told_ahead),
                _HEARD if held.begin_by_ms is None else held.begin_by_ms,
                held.own_close_at_ms,
                None if close is None else [close.position, close.data_sent, close.data_opened, close.at_ms],
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


# --- in --------------------------------------------------------------------------------------------------------------


def _key_of(raw: bytes, known: IdentityKey | None) -> IdentityKey:
    """Return the identity key of these bytes: the known one, if they are its."""
    return known if known is not None and known.raw == raw else IdentityKey(raw)


def _bundle_class(value: int) -> BundleClass:
    found = _CLASSES.get(value)
    if found is None:
        raise Malformed
    return found


def _restore_facts(fields: list[Any], mesh: str, own_did: str, known: IdentityKey | None) -> Facts:
    session_id, th, peer, initiator, bundle_class, knock_time_ms, knock_receipt, action, early_payload = fields
    return Facts(
        session_id=session_id,
        th=th,
        mesh=mesh,
        own_did=own_did,
        peer=_key_of(peer, known),
        initiator=bool(initiator),
        bundle_class=_bundle_class(bundle_class),
        knock_time_ms=knock_time_ms,
        knock_receipt=knock_receipt,
        action=action,
        early_payload=bool(early_payload),
    )


def _restore_pending(fields: list[Any], mesh: str, own_did: str, known: IdentityKey | None) -> Pending:
    _, facts_fields, ratchet_fields, expires_ms, knock = fields
    facts = _restore_facts(facts_fields, mesh, own_did, known)
    ratchet = restore_ratchet(ratchet_fields, facts.initiator)
    require(facts.initiator and ratchet.sending is None and ratchet.receiving is None)
    return Pending(facts, ratchet, expires_ms=expires_ms, knock=knock)


def _restore_undecided(fields: list[Any], mesh: str, own_did: str, known: IdentityKey | None) -> Undecided:
    _, facts_fields, root, header_key_ab, header_key_ba, ephemeral, expires_ms, content = fields
    facts = _restore_facts(facts_fields, mesh, own_did, known)
    restored = decode_content(content, _ANY_LIMITS)
    require(not facts.initiator and facts.early_payload == (restored.early_payload is not None))
    return Undecided(
        facts,
        root=root,
        header_key_ab=header_key_ab,
        header_key_ba=header_key_ba,
        ephemeral=ephemeral,
        expires_ms=expires_ms,
        content=restored,
    )


def _restore_established(fields: list[Any], mesh: str, own_did: str, known: IdentityKey | None) -> Session:
    _, facts_fields, ratchet_fields, conditions, accepted_at_ms, data_sent, received, acknowledged, *rest = fields
    owed, told_ahead, begin_by_ms, own_close_at_ms, close, superseded_at_ms = rest
    facts = _restore_facts(facts_fields, mesh, own_did, known)
    ratchet = restore_ratchet(ratchet_fields, facts.initiator)
    require(ratchet.sending is not None)
    require(begin_by_ms > 0)  # 0 was written for one that was not heard, without the time until which it can be
    session = Session(
        facts,
        ratchet,
        Conditions.decode(conditions),
        accepted_at_ms=accepted_at_ms,
        data_sent=data_sent,
        received=_restore_indices(received),
        acknowledged=_restore_indices(acknowledged),
        owed=None if owed is None else (owed[0], owed[1]),
        told_ahead=bool(told_ahead),
        begin_by_ms=None if begin_by_ms == _HEARD else begin_by_ms,
        own_close_at_ms=own_close_at_ms,
        peer_close=None if close is None else PeerClose(*close),
        superseded_at_ms=superseded_at_ms,
    )
    early_in = facts.early_payload and not facts.initiator
    require(session.received.last <= max(session.last_position_in, early_in))
    require(session.acknowledged.last <= data_sent)
    require(owed is None or 1 <= owed[0] <= session.received.count)
    return session


def _restore_indices(fields: list[Any]) -> Indices:
    floor, count, ranges = fields
    kept, least = 0, floor + 1
    for first, last in ranges:
        require(least <= first <= last)
        kept, least = kept + last - first + 1, last + 2
    require(kept <= count <= kept + floor)
    return Indices(tuple((first, last) for first, last in ranges), count, floor)


def _restore_ended(fields: list[Any], known: IdentityKey | None) -> Ended:
    _, session_id, peer, phase, detail, at_ms, bundle_class, initiated, data_sent, data_opened = fields
    require(phase in _OVER)
    return Ended(
        session_id=session_id,
        peer=_key_of(peer, known),
        phase=Phase(phase),
        detail=detail,
        at_ms=at_ms,
        bundle_class=_bundle_class(bundle_class),
        initiated=bool(initiated),
        data_sent=data_sent,
        data_opened=data_opened,
    )


def restore_held(
    data: bytes | None, mesh: str, own_did: str, kept: Sequence[list[Any]] = (), peer: IdentityKey | None = None
) -> Held:
    """Return a session in whatever phase it is. Any error of ours says that it is damaged: see `guarded`.

    Args:
        data: The bytes.
        mesh: The agent's mesh.
        own_did: The agent's DID.
        kept: The message keys that are kept for late messages, where they are not in the bytes.
        peer: Whose it should be: its key is shared then, and not made again.
    """
    # The tag stands behind the array's head; which layout the rest must have follows from it.
    layout = _TAGS.get(_wire.peek_version(data) or 0) if isinstance(data, bytes) else None
    if layout is None or data is None:
        raise Malformed
    fields = _wire.decode(data, layout, STATE_MAX_BYTES)
    if kept:
        require(layout is _SESSION)
        fields[_RATCHET_AT][KEPT_AT] += kept
    if layout is _PENDING:
        return _restore_pending(fields, mesh, own_did, peer)
    if layout is _UNDECIDED:
        return _restore_undecided(fields, mesh, own_did, peer)
    if layout is _SESSION:
        return _restore_established(fields, mesh, own_did, peer)
    return _restore_ended(fields, peer)


_Restored = TypeVar("_Restored")


def guarded(restore: Callable[[], _Restored]) -> _Restored:
    """Return what `restore` returns; whatever is wrong with the bytes becomes one of two errors.

    Raises:
        StateMalformed: damaged, or fields that contradict one another.
        StateVersionUnknown: written by a newer release.
    """
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
    return guarded(lambda: restore_held(data, mesh, own_did))
