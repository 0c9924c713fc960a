"""The sizes that all rows share."""

from __future__ import annotations

SIZES = (64, 256, 1024, 16_384, 1 << 20)
MESH = "example/mesh"  # 12 characters, as in the protocol's own table of sizes
CONTEXT_BYTES = 193  # session id, th and outer header: what a message authenticates beside itself
ENTRY_BYTES = 330  # an audit entry of a message


def padded_bytes(size: int) -> int:
    """Return how long a message's plaintext is with type, parts, index, action and padding (Padmé, at least 64)."""
    length = size + 8
    exponent = length.bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return max(64, -(-length // step) * step)


def wire_bytes(size: int) -> int:
    """Return about how long the envelope of a message is."""
    return padded_bytes(size) + 265
