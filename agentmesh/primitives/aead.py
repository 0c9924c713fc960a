"""The committing AEAD (docs/protocol.md, section 1.2); what is sealed is padded first, in `padding`.

secretbox has no associated data and commits to no key. Both come from the KDF: the box key and a 32-byte key commitment
are derived from the key, the nonce and the context together. A changed context gives another box key and another
commitment, so the context is authenticated; the commitment makes a box that opens under two keys useless.
"""

from __future__ import annotations

from typing import Final, final

from agentmesh.errors import ArgumentInvalid, DecryptionFailed
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import KdfLabel
from agentmesh.primitives.keys import Redacted

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
    nonce_bytes, key_bytes = len(nonce), len(key)
    if nonce_bytes != _crypto.NONCE_BYTES or key_bytes not in (32, 64):
        del key, context, plaintext, nonce  # a traceback keeps this frame
        if nonce_bytes != _crypto.NONCE_BYTES:
            raise ArgumentInvalid("nonce", "of another length", nonce_bytes, _crypto.NONCE_BYTES)
        raise ArgumentInvalid("key", "neither 32 nor 64 bytes long", key_bytes)
    return _sealed(_crypto.kdf(key, label, nonce + context, 64), plaintext, nonce)


def open_sealed(key: bytes, label: KdfLabel, context: bytes, sealed: bytes) -> bytes:
    """Return the plaintext that `seal` was given, with the same key, label and context.

    Raises:
        DecryptionFailed: anything differs. The commitment is compared first, in constant time.
    """
    nonce = sealed[: _crypto.NONCE_BYTES]
    plaintext = _opened(_crypto.kdf(key, label, nonce + context, 64), nonce, sealed)
    if plaintext is None:
        del key  # a traceback keeps this frame
        raise DecryptionFailed
    return plaintext


@final
class Sealing(Redacted):
    """`seal` and `open_sealed` with one key and label, which it takes in once: for whoever seals a great many."""

    __slots__ = ("_derive",)

    def __init__(self, key: bytes, label: KdfLabel) -> None:
        self._derive = _crypto.keyed_kdf(key, label, 64)

    def seal(self, context: bytes, plaintext: bytes, nonce: bytes) -> bytes:
        """Return what `seal` returns; the nonce must be of the right length."""
        return _sealed(self._derive(nonce + context), plaintext, nonce)

    def open(self, context: bytes, sealed: bytes) -> bytes:
        """Return what `open_sealed` returns.

        Raises:
            DecryptionFailed: anything differs.
        """
        nonce = sealed[: _crypto.NONCE_BYTES]
        plaintext = _opened(self._derive(nonce + context), nonce, sealed)
        if plaintext is None:
            raise DecryptionFailed
        return plaintext


def _sealed(derived: bytes, plaintext: bytes, nonce: bytes) -> bytes:
    return nonce + derived[32:] + _crypto.secretbox(plaintext, nonce, derived[:32])


def _opened(derived: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
    """Return the plaintext, or `None`. The commitment is compared first, in constant time."""
    commitment, box = sealed[_crypto.NONCE_BYTES : _BOX_AT], sealed[_BOX_AT:]
    if not _crypto.constant_time_equal(derived[32:], commitment) or len(box) < _crypto.TAG_BYTES:
        return None
    return _crypto.secretbox_try_open(box, nonce, derived[:32])
