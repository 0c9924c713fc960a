"""What trust's calls take: identities, as keys or as 32 bytes."""

from __future__ import annotations

from agentmesh.errors import ArgumentInvalid
from agentmesh.identity import IdentityKey
from agentmesh.primitives.arguments import bytes_argument

KEY_BYTES = 32


def raw_key(identity: IdentityKey | bytes) -> bytes:
    """Return the 32 bytes that everything about trust is keyed by: one key has one entry, whatever names it.

    Raises:
        ArgumentInvalid: neither an `IdentityKey` nor 32 bytes.
    """
    if isinstance(identity, IdentityKey):
        return identity.raw
    if isinstance(identity, str):
        raise ArgumentInvalid("identity", "text, where an IdentityKey or its 32 bytes are taken")
    return bytes_argument("identity", identity, KEY_BYTES, KEY_BYTES)


def key_argument(name: str, key: IdentityKey) -> IdentityKey:
    """Return `key`.

    Raises:
        ArgumentInvalid: not an `IdentityKey`.
    """
    if not isinstance(key, IdentityKey):
        raise ArgumentInvalid(name, "not an IdentityKey")
    return key
