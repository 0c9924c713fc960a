"""Padmé padding: what a length still tells (docs/protocol.md, section 1.2)."""

from __future__ import annotations

from agentmesh.errors import DecryptionFailed
from agentmesh.limits import PADDED_MIN_BYTES


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
