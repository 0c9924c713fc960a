"""The answers to a KNOCK: ACCEPT with its conditions, and REJECT (docs/protocol.md, section 5.2)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from attrs import field, frozen

from agentmesh.errors import Malformed
from agentmesh.identity import Identity, IdentityKey, signed_part
from agentmesh.limits import ACTION_MAX_BYTES
from agentmesh.primitives import _wire
from agentmesh.primitives._labels import SIGN_ACCEPT, SIGN_REJECT
from agentmesh.primitives.arguments import frameless_init, maybe_uint, texts_argument
from agentmesh.primitives.keys import Receipt, Signature, TranscriptHash, X25519PublicKey

_ACTIONS_MAX: Final = 256
_CONDITIONS: Final = _wire.array(
    _wire.Maybe(_wire.Uint()),
    _wire.Maybe(_wire.Uint()),
    _wire.Maybe(_wire.ArrayOf(_wire.Text(1, ACTION_MAX_BYTES), _ACTIONS_MAX)),
)
_ACCEPT_MAX_BYTES: Final = 64 << 10
_REJECT: Final = _wire.array(_wire.Bin(32), _wire.Text(1, 16), _wire.Uint())
_REJECT_MAX_BYTES: Final = 256


class Reason(StrEnum):
    """Why a KNOCK was rejected. Coarse on purpose: relays read it."""

    BUSY = "busy"
    BUNDLE = "bundle"
    POLICY = "policy"
    STALE = "stale"


_REASONS: Final = {str(reason): reason for reason in Reason}


def _actions(value: Iterable[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return texts_argument("allowed_actions", value, 1, ACTION_MAX_BYTES, most=_ACTIONS_MAX)


def number_of_actions(actions: tuple[str, ...] | None) -> str:
    """Say how many actions there are: what somebody is allowed to do is part of what the intent says."""
    return "None" if actions is None else f"<{len(actions)} actions>"


@frameless_init
@frozen(kw_only=True)
class Conditions:
    """What the acceptor grants. `None` is unlimited. Both sides enforce all of it.

    Attributes:
        max_messages: Data messages in each direction, counted by position; the early payload is one.
        ttl_seconds: The session's life from the ACCEPT's header time.
        allowed_actions: The actions that data messages may carry; at most 256.
    """

    max_messages: int | None = field(default=None, validator=maybe_uint)
    ttl_seconds: int | None = field(default=None, validator=maybe_uint)
    allowed_actions: tuple[str, ...] | None = field(default=None, converter=_actions, repr=number_of_actions)

    def encode(self) -> bytes:
        """Return `msgpack [max_messages, ttl_seconds, allowed_actions]`."""
        actions = None if self.allowed_actions is None else list(self.allowed_actions)
        return _wire.encode([self.max_messages, self.ttl_seconds, actions])

    @classmethod
    def decode(cls, data: bytes) -> Conditions:
        """Return the conditions that `data` is the canonical encoding of.

        Raises:
            TooLarge, Malformed: it is none.
        """
        if data == _UNLIMITED:
            return UNLIMITED  # one object for all sessions without conditions
        max_messages, ttl_seconds, actions = _wire.decode(data, _CONDITIONS, _ACCEPT_MAX_BYTES)
        return cls(max_messages=max_messages, ttl_seconds=ttl_seconds, allowed_actions=actions)


UNLIMITED: Final = Conditions()
_UNLIMITED: Final = UNLIMITED.encode()


# --- ACCEPT ----------------------------------------------------------------------------------------------------------


def _accept_signed(
    header_bytes: bytes, th: TranscriptHash, knock_receipt: Receipt, ratchet_key: X25519PublicKey, conditions: bytes
) -> bytes:
    return signed_part(header_bytes, th + knock_receipt + ratchet_key + conditions)


def build_accept_content(
    identity: Identity,
    conditions: Conditions,
    *,
    header_bytes: bytes,
    th: TranscriptHash,
    knock_receipt: Receipt,
    ratchet_key: X25519PublicKey,
) -> bytes:
    """Return `msgpack [conditions, signature]`, the content of the first message of the acceptor's ratchet.

    The signature covers the acceptor's ratchet key: without it, whoever learns the root key could seal a genuine ACCEPT
    again under a ratchet key of its own.
    """
    encoded = conditions.encode()
    signed = _accept_signed(header_bytes, th, knock_receipt, ratchet_key, encoded)
    return _wire.encode([encoded, identity.sign(SIGN_ACCEPT, signed)])


def verify_accept_content(
    content: bytes,
    acceptor: IdentityKey,
    *,
    header_bytes: bytes,
    th: TranscriptHash,
    knock_receipt: Receipt,
    ratchet_key: X25519PublicKey,
) -> Conditions:
    """Return the conditions of an ACCEPT, once the acceptor's signature has been verified over the caller's own values.

    Raises:
        TooLarge, Malformed: not an ACCEPT's content.
        BadSignature: another ACCEPT, another KNOCK's, another ratchet key, or not the acceptor's.
    """
    encoded, signature = _wire.decode_pair(content, _ACCEPT_MAX_BYTES)
    signed = _accept_signed(header_bytes, th, knock_receipt, ratchet_key, encoded)
    acceptor.verify(SIGN_ACCEPT, signed, signature)
    return Conditions.decode(encoded)


# --- REJECT ----------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Reject:
    """A REJECT's body, parsed; `verify` says whether it is genuine.

    Attributes:
        knock_receipt: The KNOCK that it answers.
        reason: Why.
        retry_after_seconds: When to try again; 0 for no advice.
    """

    knock_receipt: Receipt = field(repr=lambda receipt: receipt.hex())
    reason: Reason
    retry_after_seconds: int
    _content: bytes = field(repr=False)
    _signature: Signature = field(repr=False)

    def verify(self, rejecter: IdentityKey, header_bytes: bytes) -> None:
        """Verify the rejecter's signature over header and content, as received.

        Raises:
            BadSignature: it does not verify.
        """
        rejecter.verify(SIGN_REJECT, signed_part(header_bytes, self._content), self._signature)


def build_reject_body(
    identity: Identity, *, header_bytes: bytes, knock_receipt: Receipt, reason: Reason, retry_after_seconds: int = 0
) -> bytes:
    """Return `msgpack [content, signature]` with content = msgpack [knock receipt, reason, retry_after]."""
    content = _wire.encode([knock_receipt, str(reason), retry_after_seconds])
    return _wire.encode([content, identity.sign(SIGN_REJECT, signed_part(header_bytes, content))])


def parse_reject_body(body: bytes) -> Reject:
    """Return the parts of a REJECT's body, unverified.

    Raises:
        TooLarge, Malformed: it is none, or its reason is not one of the four.
    """
    content, signature = _wire.decode_pair(body, _REJECT_MAX_BYTES)
    knock_receipt, reason, retry_after_seconds = _wire.decode(content, _REJECT, _REJECT_MAX_BYTES)
    if reason not in _REASONS:
        raise Malformed
    return Reject(
        knock_receipt=Receipt(knock_receipt),
        reason=_REASONS[reason],
        retry_after_seconds=retry_after_seconds,
        content=content,
        signature=Signature(signature),
    )
