"""The one suite of version 1: what the ratchet runs on (docs/protocol.md, sections 1 and 6).

    message  = nonce (24) || secretbox(header, nonce, header key) (56) || kc (32) || secretbox(padded, nonce, ek)
    ek || kc = kdf(mk, am1-message, nonce || sealed header || context, 64)

Both boxes use one nonce under two keys. The commitment kc is compared before the box is opened.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from agentmesh import _crypto
from agentmesh._labels import CHAIN, MESSAGE, RATCHET_CHAIN, RATCHET_HEADER, RATCHET_ROOT
from agentmesh.aead import COMMITMENT_BYTES
from agentmesh.entropy import Entropy
from agentmesh.errors import DecryptionFailed, Malformed
from agentmesh.keys import ChainKey, HeaderKey, MessageKey, RootKey, X25519PublicKey, X25519Secret
from agentmesh.ratchet import RatchetHeader, Suite

_HEADER_BYTES: Final = 32 + 4 + 4
_SEALED_HEADER_BYTES: Final = _HEADER_BYTES + _crypto.TAG_BYTES
_COMMITMENT_AT: Final = _crypto.NONCE_BYTES + _SEALED_HEADER_BYTES
_BOX_AT: Final = _COMMITMENT_AT + COMMITMENT_BYTES
MESSAGE_OVERHEAD_BYTES: Final = _BOX_AT + _crypto.TAG_BYTES


class Frame(NamedTuple):
    """A message cut into its parts; nothing of it is verified. The box stays where it is until it is opened."""

    nonce: bytes
    sealed_header: bytes
    commitment: bytes
    message: bytes
    box_at: int


def _key_pair(entropy: Entropy) -> tuple[X25519Secret, X25519PublicKey]:
    secret = X25519Secret(entropy.token(32))
    return secret, X25519PublicKey(_crypto.x25519_public(secret))


def _dh(secret: X25519Secret, public: X25519PublicKey) -> bytes:
    _crypto.check_x25519_encoding(public)
    return _crypto.x25519(secret, public)


def _kdf_root(root: RootKey, shared: bytes) -> tuple[RootKey, ChainKey, HeaderKey]:
    return (
        RootKey(_crypto.kdf(root, RATCHET_ROOT, shared, 32)),
        ChainKey(_crypto.kdf(root, RATCHET_CHAIN, shared, 32)),
        HeaderKey(_crypto.kdf(root, RATCHET_HEADER, shared, 32)),
    )


def _kdf_chain(chain_key: ChainKey) -> tuple[ChainKey, MessageKey]:
    derived = _crypto.kdf(chain_key, CHAIN, b"", 64)
    return ChainKey(derived[:32]), MessageKey(derived[32:])


def _seal(
    header_key: HeaderKey, message_key: MessageKey, header: RatchetHeader, context: bytes, padded: bytes, nonce: bytes
) -> tuple[bytes, ...]:
    key, previous_length, n = header
    clear = key + previous_length.to_bytes(4, "big") + n.to_bytes(4, "big")
    sealed_header = _crypto.secretbox(clear, nonce, header_key)
    derived = _crypto.kdf(message_key, MESSAGE, nonce + sealed_header + context, 64)
    return nonce, sealed_header, derived[32:], _crypto.secretbox(padded, nonce, derived[:32])


def _parse(message: bytes, start: int) -> Frame:
    if len(message) < start + MESSAGE_OVERHEAD_BYTES:
        raise Malformed
    header_at, commitment_at, box_at = start + _crypto.NONCE_BYTES, start + _COMMITMENT_AT, start + _BOX_AT
    return Frame(
        message[start:header_at], message[header_at:commitment_at], message[commitment_at:box_at], message, box_at
    )


def _open_header(header_key: HeaderKey, frame: Frame) -> RatchetHeader | None:
    clear = _crypto.secretbox_try_open(frame.sealed_header, frame.nonce, header_key)
    if clear is None:
        return None
    return RatchetHeader(
        X25519PublicKey(clear[:32]), int.from_bytes(clear[32:36], "big"), int.from_bytes(clear[36:], "big")
    )


def _open_body(message_key: MessageKey, frame: Frame, context: bytes) -> bytes:
    nonce, sealed_header, commitment, message, box_at = frame
    derived = _crypto.kdf(message_key, MESSAGE, nonce + sealed_header + context, 64)
    if not _crypto.constant_time_equal(derived[32:], commitment):
        raise DecryptionFailed
    return _crypto.secretbox_open(message[box_at:], nonce, derived[:32])


def _chain_name(header_key: HeaderKey, _peer_key: X25519PublicKey) -> HeaderKey:
    return header_key


SUITE: Final = Suite(
    key_pair=_key_pair,
    dh=_dh,
    kdf_root=_kdf_root,
    kdf_chain=_kdf_chain,
    seal=_seal,
    parse=_parse,
    open_header=_open_header,
    open_body=_open_body,
    chain_name=_chain_name,
)
