"""A ratchet as fields of a session's export: secret (docs/protocol.md, section 7.1)."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.at_rest import MANY, require
from agentmesh.limits import COUNTER_MAX, KEPT_CHAINS, LATE_CHAINS
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives.keys import MessageKey
from agentmesh.session.chains import PastChain, ReceivingChain, SendingChain, SkippedAt
from agentmesh.session.epochs import ANSWER_BYTES, Answering, Half, Offering, Standing
from agentmesh.session.kept import NO_KEYS
from agentmesh.session.needs import Suite
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE

_KEY: Final = _wire.Bin(32)
_MS: Final = _wire.Uint()
_COUNT: Final = _wire.Uint()
_U32: Final = _wire.Uint(COUNTER_MAX)

_SENDING: Final = _wire.array(_KEY, _KEY, _U32, _U32, _COUNT)
_RECEIVING: Final = _wire.array(_KEY, _KEY, _KEY, _U32, _U32, _U32, _COUNT, _COUNT)
_PAST: Final = _wire.array(_KEY, _U32, _COUNT, _COUNT)
_SKIPPED: Final = _wire.array(_COUNT, _U32, _KEY, _MS)
_OFFERING: Final = _wire.array(_U32, _MS, _wire.Maybe(_wire.Bin(_crypto.KEM_SEED_BYTES)), _wire.Maybe(_KEY))
_ANSWERING: Final = _wire.array(_KEY, _wire.Bin(ANSWER_BYTES), _KEY)
RATCHET: Final = _wire.array(
    _KEY,
    _KEY,
    _KEY,
    _wire.Maybe(_SENDING),
    _wire.Maybe(_RECEIVING),
    _KEY,
    _KEY,
    _wire.ArrayOf(_PAST, LATE_CHAINS + KEPT_CHAINS),
    _wire.ArrayOf(_SKIPPED, MANY),
    _U32,
    _wire.Maybe(_OFFERING),
    _wire.Maybe(_ANSWERING),
)
KEPT_AT: Final = 8  # where the skipped keys stand in it


# --- out -------------------------------------------------------------------------------------------------------------


def ratchet_fields(ratchet: Ratchet, *, with_kept: bool = True) -> list[Any]:
    """Return what `RATCHET` lays out; without the kept keys where a store has them apart."""
    sending, receiving = ratchet.sending, ratchet.receiving
    (root, secret, next_sending, next_receiving), past = ratchet.packed_fields()
    return [
        root,
        secret,
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
            receiving.epoch,
            receiving.n,
            receiving.previous_length,
            receiving.start,
            receiving.serial,
        ],
        next_sending,
        next_receiving,
        past,
        [[serial, n, key, at_ms] for (serial, n), (key, at_ms) in ratchet.skipped.items()] if with_kept else [],
        *_half_fields(ratchet.epochs),
    ]


def _half_fields(half: Half) -> list[Any]:
    if isinstance(half, Offering):
        seed = half.secret if half.standing is Standing.OFFERED else None
        ready = half.secret if half.standing is Standing.READY else None
        return [half.epoch, [half.turns, half.since_ms, seed, ready], None]
    is_kept = half.standing is Standing.ANSWERED
    return [half.epoch, None, [half.ref, half.answer, half.secret] if is_kept else None]


# --- in --------------------------------------------------------------------------------------------------------------


def restore_ratchet(fields: list[Any], initiator: bool, suite: Suite | None = None) -> Ratchet:
    """Return the ratchet of an initiator or a responder.

    Args:
        fields: What `ratchet_fields` gave.
        initiator: It was made by `Ratchet.initiator`.
        suite: The one that it was made with; `None` for that of version 1.

    Raises:
        Malformed: fields that contradict one another.
    """
    suite = SUITE if suite is None else suite
    root, secret, public, sent, received, next_sending, next_receiving, past_fields, skipped_fields, *rest = fields
    half = _restore_half(rest, initiator)
    sending = receiving = None
    if sent is not None:
        sending = SendingChain(*sent)
    if received is not None:
        receiving = ReceivingChain(*received)
        require(receiving.n > 0)  # a chain exists since its first message was opened
        name = suite.chain_name(receiving.header_key, receiving.peer_key)
        require(_crypto.constant_time_equal(name, receiving.header_key))
        # A may have mixed behind the chain of B that it has; B has followed by the chain of A that it has.
        require(receiving.epoch == half.epoch or (initiator and receiving.epoch == half.epoch - 1))
    else:
        require(_half_fields(half) == _half_fields(Offering() if initiator else Answering()))
    past = tuple(PastChain(*one) for one in past_fields)
    _check_past([chain.serial for chain in past], None if receiving is None else receiving.serial)
    lengths: dict[int, int] = {chain.serial: chain.length for chain in past}
    if receiving is not None:
        lengths[receiving.serial] = receiving.n
    skipped: dict[SkippedAt, tuple[MessageKey, int]] = {}
    previous: SkippedAt | None = None
    for serial, n, message_key, at_ms in skipped_fields:
        at = (serial, n)
        require(n < lengths.get(serial, 0) and (previous is None or previous < at))
        skipped[at] = (message_key, at_ms)
        previous = at
    return Ratchet(
        suite,
        root,
        secret,
        public,
        sending,
        receiving,
        next_sending,
        next_receiving,
        half,
        past,
        skipped or NO_KEYS,
    )


def _check_past(serials: list[int], newest: int | None) -> None:
    """Refuse past chains that cannot stand behind the newest one: all of the last are there, and some before them."""
    if newest is None:
        require(not serials)
        return
    last = min(newest, KEPT_CHAINS)
    late, kept = serials[: len(serials) - last], serials[len(serials) - last :]
    require(len(serials) >= last and kept == list(range(newest - last, newest)) and len(late) <= LATE_CHAINS)
    require(late == sorted(set(late)) and (not late or late[-1] < newest - last))


def _restore_half(fields: list[Any], initiator: bool) -> Half:
    epoch, offering, answering = fields
    if initiator:
        require(answering is None and offering is not None)
        turns, since_ms, seed, ready = offering
        if seed is not None or ready is not None:
            require((seed is None or ready is None) and epoch < COUNTER_MAX)
            standing, secret = (Standing.READY, ready) if seed is None else (Standing.OFFERED, seed)
            return Offering(epoch, standing, turns, since_ms, secret)
        return Offering(epoch, Standing.NOTHING_OUT, turns, since_ms)
    require(offering is None)
    if answering is None:
        return Answering(epoch)
    ref, answer, secret = answering
    require(int.from_bytes(answer[:4], "big") == epoch + 1)
    return Answering(epoch, Standing.ANSWERED, ref, answer, secret)
