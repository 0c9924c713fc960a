"""A session as bytes: canonical, *secret and unsealed* (docs/protocol.md, section 7.1).

Every field is checked on the way back in, and fields that contradict one another are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from agentmesh.at_rest import MANY, STATE_MAX_BYTES, require
from agentmesh.errors import AgentMeshError, Malformed, StateMalformed, StateVersionUnknown
from agentmesh.handshake.knock import decode_content, encode_content
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import Conditions
from agentmesh.identity import IdentityKey
from agentmesh.limits import ACTION_MAX_BYTES, COUNTER_MAX, KEPT_CHAINS, UINT_MAX, Limits
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import (
    ChainKey,
    HeaderKey,
    MessageKey,
    Receipt,
    RootKey,
    SessionId,
    TranscriptHash,
    X25519PublicKey,
    X25519Secret,
)
from agentmesh.session.chains import PastChain, ReceivingChain, SendingChain, SkippedAt
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended, Facts, PeerClose
from agentmesh.session.held import Held
from agentmesh.session.pending import Pending, Undecided
from agentmesh.session.phases import ENDINGS, Phase
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE

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
    _wire.ArrayOf(_SKIPPED, MANY),
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
    _MS,
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
_HEARD: Final = 1  # in the place of the time until which the initiator is to be heard
_TAGS: Final = {1: _PENDING, 2: _UNDECIDED, 3: _SESSION, 4: _ENDED}

_OVER: Final = {str(phase) for phase in ENDINGS}

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
                _HEARD if held.begin_by_ms is None else held.begin_by_ms,
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


# --- in --------------------------------------------------------------------------------------------------------------


def _restore_ratchet(fields: list[Any]) -> Ratchet:
    root, secret, public, sent, received, next_sending, next_receiving, past_fields, skipped_fields = fields
    sending = receiving = None
    if sent is not None:
        key, header_key, n, previous_length, start = sent
        sending = SendingChain(ChainKey(key), HeaderKey(header_key), n, previous_length, start)
    if received is not None:
        key, header_key, peer_key, n, previous_length, start, serial = received
        require(n > 0)  # a chain exists since its first message was opened
        receiving = ReceivingChain(
            ChainKey(key), HeaderKey(header_key), X25519PublicKey(peer_key), n, previous_length, start, serial
        )
    past = tuple(
        PastChain(HeaderKey(header_key), length, start, serial) for header_key, length, start, serial in past_fields
    )
    lengths: dict[int, int] = {chain.serial: chain.length for chain in past}
    if receiving is None:
        require(not past)
    else:
        newest = receiving.serial
        require([chain.serial for chain in past] == list(range(newest - len(past), newest)))
        require(len(past) == min(newest, KEPT_CHAINS))
        lengths[newest] = receiving.n
    skipped: dict[SkippedAt, tuple[MessageKey, int]] = {}
    previous: SkippedAt | None = None
    for serial, n, message_key, at_ms in skipped_fields:
        at = (serial, n)
        require(n < lengths.get(serial, 0) and (previous is None or previous < at))
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
    require(bundle_class in (1, 2))
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
    require(facts.initiator and ratchet.sending is None and ratchet.receiving is None)
    return Pending(facts, ratchet, expires_ms=expires_ms, knock=knock)


def _restore_undecided(fields: list[Any], mesh: str, own_did: str) -> Undecided:
    _, facts_fields, root, header_key_ab, header_key_ba, ephemeral, expires_ms, content = fields
    facts = _restore_facts(facts_fields, mesh, own_did)
    restored = decode_content(content, _ANY_LIMITS)
    require(not facts.initiator and facts.early_payload == (restored.early_payload is not None))
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
    _, facts_fields, ratchet_fields, conditions, accepted_at_ms, data_sent, data_opened, *rest = fields
    begin_by_ms, own_close_at_ms, close, superseded_at_ms = rest
    ratchet = _restore_ratchet(ratchet_fields)
    require(ratchet.sending is not None)
    require(begin_by_ms > 0)  # 0 was written for one that was not heard, without the time until which it can be
    return Session(
        _restore_facts(facts_fields, mesh, own_did),
        ratchet,
        Conditions.decode(conditions),
        accepted_at_ms=accepted_at_ms,
        data_sent=data_sent,
        data_opened=data_opened,
        begin_by_ms=None if begin_by_ms == _HEARD else begin_by_ms,
        own_close_at_ms=own_close_at_ms,
        peer_close=None if close is None else PeerClose(*close),
        superseded_at_ms=superseded_at_ms,
    )


def _restore_ended(fields: list[Any]) -> Ended:
    _, session_id, peer, phase, detail, at_ms, bundle_class, initiated, data_sent, data_opened = fields
    require(phase in _OVER and bundle_class in (1, 2))
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


def restore_held(data: bytes, mesh: str, own_did: str) -> Held:
    """Return a session in whatever phase it is. Any error of ours says that it is damaged: see `guarded`."""
    # The tag stands behind the array's head; which layout the rest must have follows from it.
    layout = _TAGS.get(_wire.peek_version(data) or 0) if isinstance(data, bytes) else None
    if layout is None:
        raise Malformed
    fields = _wire.decode(data, layout, STATE_MAX_BYTES)
    if layout is _PENDING:
        return _restore_pending(fields, mesh, own_did)
    if layout is _UNDECIDED:
        return _restore_undecided(fields, mesh, own_did)
    if layout is _SESSION:
        return _restore_established(fields, mesh, own_did)
    return _restore_ended(fields)


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
