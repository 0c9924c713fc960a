"""Padmé padding: what a length still tells (docs/protocol.md, section 1.2)."""

from __future__ import annotations

from typing import Final

from agentmesh.errors import DecryptionFailed
from agentmesh.limits import PADDED_MIN_BYTES


def _padme(length: int) -> int:
    if length <= PADDED_MIN_BYTES:
        return PADDED_MIN_BYTES
    exponent = length.bit_length() - 1
    dropped_bits = exponent - exponent.bit_length()
    mask = (1 << dropped_bits) - 1
    return (length + mask) & ~mask


_SHORT: Final = tuple(map(_padme, range(1 << 12)))  # by the length; what most messages look up


def padded_length(length: int) -> int:
    """Return the Padmé length for `length` >= 1 bytes (Nikitin et al., PoPETs 2019), at least 64: at most 12 % more."""
    return _SHORT[length] if length < len(_SHORT) else _padme(length)


def padding(length: int) -> bytes:
    """Return what stands behind `length` bytes up to their padded length: `0x80 || zeros`."""
    return b"\x80".ljust(padded_length(length + 1) - length, b"\x00")


def pad(*parts: bytes) -> bytes:
    """Return the concatenated parts and their `padding`, in one copy."""
    return b"".join((*parts, padding(sum(map(len, parts)))))


def unpadded_length(padded: bytes) -> int:
    """Return how many bytes `pad` was given, without copying them.

    Raises:
        DecryptionFailed: the marker is missing, or the length is not exactly the padded one.
    """
    length = padded.rfind(b"\x80")
    if length < 0 or padded[length:] != padding(length):
        raise DecryptionFailed
    return length


def unpad(padded: bytes) -> bytes:
    """Return what `pad` was given.

    Raises:
        DecryptionFailed: as `unpadded_length`.
    """
    return padded[: unpadded_length(padded)]
