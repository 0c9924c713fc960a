"""The committing AEAD and Padmé padding (docs/protocol.md, section 1.2).

secretbox has no associated data and commits to no key. Both come from the KDF: the box key and a 32-byte key commitment
are derived from the key, the nonce and the context together. A changed context gives another box key and another
commitment, so the context is authenticated; the commitment makes a box that opens under two keys useless.
"""

from __future__ import annotations

from typing import Final

from agentmesh import _crypto
from agentmesh._labels import KdfLabel
from agentmesh.errors import ArgumentInvalid, DecryptionFailed
from agentmesh.limits import PADDED_MIN_BYTES

COMMITMENT_BYTES: Final = 32
OVERHEAD_BYTES: Final = _crypto.NONCE_BYTES + COMMITMENT_BYTES + _crypto.TAG_BYTES
_BOX_AT: Final = _crypto.NONCE_BYTES + COMMITMENT_BYTES


def seal(key: bytes, label: KdfLabel, context: bytes, plaintext: bytes, nonce: bytes) -> bytes:
    """Return `nonce || kc || secretbox(plaintext)`, 72 bytes longer than `plaintext`.

    Args:
        key: 32 or 64 bytes.
        label: What the key is used for.
        context: Authenticated and not sent.
        plaintext: Any bytes; pad them first where their length tells something.
        nonce: 24 fresh random bytes. Random even where a key is used once, because a restored snapshot may use it
            again, and must not then reuse a keystream.

    Raises:
        ArgumentInvalid: a key or nonce of another length.
    """
    if len(nonce) != _crypto.NONCE_BYTES:
        raise ArgumentInvalid("nonce")
    if len(key) not in (32, 64):
        raise ArgumentInvalid("key")
    derived = _crypto.kdf(key, label, nonce + context, 64)
    return nonce + derived[32:] + _crypto.secretbox(plaintext, nonce, derived[:32])


def open_sealed(key: bytes, label: KdfLabel, context: bytes, sealed: bytes) -> bytes:
    """Return the plaintext that `seal` was given, with the same key, label and context.

    Raises:
        DecryptionFailed: anything differs. The commitment is compared first, in constant time.
    """
    nonce, commitment, box = sealed[: _crypto.NONCE_BYTES], sealed[_crypto.NONCE_BYTES : _BOX_AT], sealed[_BOX_AT:]
    derived = _crypto.kdf(key, label, nonce + context, 64)
    if not _crypto.constant_time_equal(derived[32:], commitment):
        raise DecryptionFailed
    return _crypto.secretbox_open(box, nonce, derived[:32])


def padded_length(length: int) -> int:
    """Return the Padmé length for `length` >= 1 bytes (Nikitin et al., PoPETs 2019), at least 64: at most 12 % more."""
    if length <= PADDED_MIN_BYTES:
        return PADDED_MIN_BYTES
    exponent = length.bit_length() - 1
    dropped_bits = exponent - exponent.bit_length()
    mask = (1 << dropped_bits) - 1
    return (length + mask) & ~mask


def pad(*parts: bytes) -> bytes:
    """Return the concatenated parts `|| 0x80 || zeros`, of Padmé length, in one copy."""
    length = sum(map(len, parts)) + 1
    return b"".join((*parts, b"\x80", bytes(padded_length(length) - length)))


def unpadded_length(padded: bytes) -> int:
    """Return how many bytes `pad` was given, without copying them.

    Raises:
        DecryptionFailed: the marker is missing, or the length is not exactly the padded one.
    """
    length = padded.rfind(b"\x80")
    zeros = len(padded) - length - 1
    if length < 0 or padded.count(b"\x00", length) != zeros or len(padded) != padded_length(length + 1):
        raise DecryptionFailed
    return length


def unpad(padded: bytes) -> bytes:
    """Return what `pad` was given.

    Raises:
        DecryptionFailed: as `unpadded_length`.
    """
    return padded[: unpadded_length(padded)]
