"""The one suite of version 1: what the ratchet runs on (docs/protocol.md, sections 1 and 6).

    message  = nonce (24) || secretbox(header, nonce, header key) (60) || kc (32) || secretbox(padded, nonce, ek)
    ek || kc = kdf(mk, am1-message, nonce || sealed header || context, 64)

Both boxes use one nonce under two keys. The commitment kc is compared before the box is opened.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from agentmesh.errors import DecryptionFailed, Malformed
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import CHAIN, MESSAGE, RATCHET_CHAIN, RATCHET_HEADER, RATCHET_ROOT
from agentmesh.primitives.aead import COMMITMENT_BYTES
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.needs import RatchetHeader, Suite

_HALVES: Final = Struct("32s32s")
_HEADER: Final = Struct(">32sIII")  # ratchet key, epoch, pn, n
HEADER_BYTES: Final = _HEADER.size
_PARTS: Final = Struct(f"{_crypto.NONCE_BYTES}s{HEADER_BYTES + _crypto.TAG_BYTES}s{COMMITMENT_BYTES}s")
MESSAGE_OVERHEAD_BYTES: Final = _PARTS.size + _crypto.TAG_BYTES

# A message cut into (nonce, sealed header, commitment), the bytes that hold it, and where in them its box begins: it
# stays there until it is opened. Nothing of it is verified. Not a class, because one is made for every message.
Frame = tuple[tuple[bytes, bytes, bytes], bytes, int]


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
    return _HALVES.unpack(_crypto.kdf(chain_key, CHAIN, b"", 64))


def _seal(
    header_key: HeaderKey, message_key: MessageKey, header: RatchetHeader, context: bytes, padded: bytes, nonce: bytes
) -> tuple[bytes, ...]:
    head = nonce + _crypto.secretbox(_HEADER.pack(*header), nonce, header_key)
    box_key, commitment = _HALVES.unpack(_crypto.kdf(message_key, MESSAGE, head + context, 64))
    return head, commitment, _crypto.secretbox(padded, nonce, box_key)


def _parse(message: bytes, start: int) -> Frame:
    if len(message) < start + MESSAGE_OVERHEAD_BYTES:
        raise Malformed
    return _PARTS.unpack_from(message, start), message, start + _PARTS.size


def _open_header(header_key: HeaderKey, frame: Frame) -> RatchetHeader | None:
    (nonce, sealed_header, _), _, _ = frame
    clear = _crypto.secretbox_try_open(sealed_header, nonce, header_key)
    return None if clear is None else _HEADER.unpack(clear)


def _open_body(message_key: MessageKey, frame: Frame, context: bytes) -> bytes:
    (nonce, sealed_header, commitment), message, box_at = frame
    box_key, expected = _HALVES.unpack(_crypto.kdf(message_key, MESSAGE, nonce + sealed_header + context, 64))
    if not _crypto.constant_time_equal(expected, commitment):
        raise DecryptionFailed
    plaintext = _crypto.secretbox_try_open(message[box_at:], nonce, box_key)  # `_parse` has seen that there is a tag
    if plaintext is None:
        raise DecryptionFailed
    return plaintext


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
