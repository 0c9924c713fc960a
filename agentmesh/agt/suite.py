"""AGT's Double Ratchet: our ratchet over AGT's primitives, with headers in clear, as in Signal's plain variant.

    message   = dh (32) || u32(pn) || u32(n) || nonce (12) || ciphertext || tag (16)
    tag over  = context || dh || u32(pn) || u32(n)
    root, ck  = HKDF-SHA256(ikm = agreed, salt = root, info = AgentMesh_Ratchet_v1, 64)
    mk, ck    = HMAC-SHA256(ck, 0x01), HMAC-SHA256(ck, 0x02)

A chain is named by its ratchet key, which anybody can read and write. So whatever is found out from a header, that it
is a duplicate, a gap or a contradiction, is a claim until the body opens: it may be answered by dropping the frame, and
by nothing else. A key that is not known yet begins the next chain, if the body says so too.

Who knocks sends first, with a fresh key against the signed prekey, which is the other side's first ratchet key. There
are no epochs: the owner of such a ratchet asks for no items.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from agentmesh.errors import Malformed
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import AGT_RATCHET
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.needs import RatchetHeader, Suite
from agentmesh.session.ratchet import Ratchet

_HALVES: Final = Struct("32s32s")
_HEADER: Final = Struct(">32sII")  # dh, pn, n
HEADER_BYTES: Final = _HEADER.size
NONCE_BYTES: Final = _crypto.CHACHA_NONCE_BYTES
_BODY_AT: Final = HEADER_BYTES + NONCE_BYTES
MESSAGE_OVERHEAD_BYTES: Final = _BODY_AT + _crypto.TAG_BYTES

ANY_CHAIN: Final = HeaderKey(bytes(32))
"""What names the chain that is not known yet: any ratchet key answers to it. No key is that itself: 0 is no point."""

# A message cut into (header, as it came; dh, pn, n; nonce), the bytes that hold it, and where in them its body begins.
# Nothing of it is verified.
Frame = tuple[bytes, tuple[bytes, int, int], bytes, bytes, int]


def _key_pair(entropy: Entropy) -> tuple[X25519Secret, X25519PublicKey]:
    secret = X25519Secret(entropy.token(32))
    return secret, X25519PublicKey(_crypto.x25519_public(secret))


def _dh(secret: X25519Secret, public: X25519PublicKey) -> bytes:
    _crypto.check_x25519_encoding(public)
    return _crypto.x25519(secret, public)


def _kdf_root(root: RootKey, agreed: bytes) -> tuple[RootKey, ChainKey, HeaderKey]:
    root_key, chain_key = _HALVES.unpack(_crypto.hkdf_sha256(agreed, root, AGT_RATCHET, 64))
    return RootKey(root_key), ChainKey(chain_key), ANY_CHAIN


def _kdf_chain(chain_key: ChainKey) -> tuple[ChainKey, MessageKey]:
    return ChainKey(_crypto.hmac_sha256(chain_key, b"\x02")), MessageKey(_crypto.hmac_sha256(chain_key, b"\x01"))


def _seal(
    _name: HeaderKey, message_key: MessageKey, header: RatchetHeader, context: bytes, plaintext: bytes, nonce: bytes
) -> tuple[bytes, ...]:
    key, _, previous_length, n = header
    clear = _HEADER.pack(key, previous_length, n)
    return clear, nonce, _crypto.chacha20poly1305_seal(message_key, nonce, plaintext, context + clear)


def _parse(message: bytes, start: int) -> Frame:
    if len(message) < start + MESSAGE_OVERHEAD_BYTES:
        raise Malformed
    clear, body_at = message[start : start + HEADER_BYTES], start + _BODY_AT
    return clear, _HEADER.unpack(clear), message[body_at - NONCE_BYTES : body_at], message, body_at


def _open_header(name: HeaderKey, frame: Frame) -> RatchetHeader | None:
    _, (key, previous_length, n), _, _, _ = frame
    if name not in (ANY_CHAIN, key):
        return None
    return X25519PublicKey(key), 0, previous_length, n


def _open_body(message_key: MessageKey, frame: Frame, context: bytes) -> bytes:
    clear, _, nonce, message, body_at = frame
    return _crypto.chacha20poly1305_open(message_key, nonce, message[body_at:], context + clear)


def _chain_name(_name: HeaderKey, peer_key: X25519PublicKey) -> HeaderKey:
    return HeaderKey(peer_key)


AGT_SUITE: Final = Suite(
    key_pair=_key_pair,
    dh=_dh,
    kdf_root=_kdf_root,
    kdf_chain=_kdf_chain,
    seal=_seal,
    parse=_parse,
    open_header=_open_header,
    open_body=_open_body,
    chain_name=_chain_name,
    past_first=True,
)


def sending_first(root: RootKey, signed: X25519PublicKey, entropy: Entropy) -> Ratchet:
    """Return the ratchet of whoever knocked: it seals at once. To `restore_ratchet` it is no initiator.

    Args:
        root: Of the agreement.
        signed: The peer's signed prekey, 32 bytes.
        entropy: For the first ratchet key.

    Raises:
        BadPoint: `signed` is not canonical or has small order.
    """
    return Ratchet.responder(AGT_SUITE, root, signed, header_key_ab=ANY_CHAIN, header_key_ba=ANY_CHAIN, entropy=entropy)


def receiving_first(root: RootKey, signed_secret: X25519Secret, signed: X25519PublicKey) -> Ratchet:
    """Return the ratchet of whoever was knocked on: it seals once it has opened. To `restore_ratchet` the initiator.

    Args:
        root: Of the agreement.
        signed_secret: The secret of the signed prekey, 32 bytes.
        signed: That prekey, 32 bytes.
    """
    return Ratchet.initiator(AGT_SUITE, root, signed_secret, signed, header_key_ab=ANY_CHAIN, header_key_ba=ANY_CHAIN)


def previous_length_of(message: bytes) -> int:
    """Return the length of the chain before, as the header of a message says."""
    return int.from_bytes(message[_crypto.KEY_BYTES : _crypto.KEY_BYTES + 4], "big")


def number_of(message: bytes) -> int:
    """Return the number of a message in its chain, as its header says."""
    return int.from_bytes(message[_crypto.KEY_BYTES + 4 : HEADER_BYTES], "big")


def knows_chain(ratchet: Ratchet, message: bytes) -> bool:
    """Say whether a message names a chain that its receiver has begun to open. No other session has that chain."""
    begun = {past.header_key for past in ratchet.past}  # chains are named by keys that everybody sees
    if ratchet.receiving is not None:
        begun.add(ratchet.receiving.header_key)
    return HeaderKey(message[: _crypto.KEY_BYTES]) in begun
