"""Randomness as an argument: the `Entropy` protocol and the operating system's source."""

from __future__ import annotations

import os
from typing import Protocol

from agentmesh.errors import BackendUnfit, BadPoint, RandomnessFailed
from agentmesh.primitives import _crypto


class Entropy(Protocol):
    """Where an agent takes randomness from.

    There are two methods because the ML-KEM backend draws its own randomness: a source that replays must be able to
    replay (ciphertext, shared secret) pairs. Ed25519 signing is deterministic and needs none.
    """

    def token(self, size: int, /) -> bytes:
        """Return `size` bytes, unpredictable and independent of all others."""
        ...

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        """Return a fresh (ciphertext, 1088 bytes; shared secret, 32 bytes) for a 1184-byte ML-KEM-768 key.

        Raises:
            BadPoint: `public_key` is not valid.
        """
        ...


class SystemEntropy:
    """The operating system's randomness. It keeps no state, so a forked child never repeats its parent's values."""

    def token(self, size: int, /) -> bytes:
        """Return `size` bytes of the operating system's randomness."""
        return os.urandom(size)

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        """Return (ciphertext, shared secret) by the backend's own randomness. FIPS 203 section 7.2."""
        return _crypto.kem_encapsulate(public_key)


class CheckedEntropy:
    """Another source, held to its contract at every draw: the right type and length."""

    __slots__ = ("_source",)

    def __init__(self, source: Entropy) -> None:
        self._source: Entropy = source._source if isinstance(source, CheckedEntropy) else source

    def token(self, size: int, /) -> bytes:
        """Return `size` bytes of the source.

        Raises:
            RandomnessFailed: the source broke its contract.
        """
        try:
            draw: object = self._source.token(size)
        except Exception:
            draw = None
        if type(draw) is not bytes or len(draw) != size:
            raise RandomnessFailed
        return draw

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        """Return an encapsulation of the source.

        Raises:
            RandomnessFailed: the source broke its contract.
            BadPoint: `public_key` is not valid.
        """
        try:
            ciphertext, shared = self._source.encapsulate(public_key)
        except (BackendUnfit, BadPoint):
            raise
        except Exception:
            ciphertext = shared = b""
        if type(ciphertext) is not bytes or type(shared) is not bytes:
            raise RandomnessFailed
        if len(ciphertext) != _crypto.KEM_CIPHERTEXT_BYTES or len(shared) != _crypto.KEY_BYTES:
            raise RandomnessFailed
        return ciphertext, shared


def check_entropy(entropy: Entropy) -> None:
    """Refuse a source that is visibly stuck: two draws that are equal, constant, or of the wrong length.

    It cannot show that a source is good; it catches a patched constant or a dead device before a key is made from it.

    Raises:
        RandomnessFailed: the source failed.
    """
    source = CheckedEntropy(entropy)
    first, second = source.token(32), source.token(32)
    for draw in (first, second):
        if len(set(draw)) == 1:
            raise RandomnessFailed
    if _crypto.constant_time_equal(first, second):
        raise RandomnessFailed
