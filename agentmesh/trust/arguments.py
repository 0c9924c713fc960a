"""What admission's calls take: identities as 32 bytes, times, and limits."""

from __future__ import annotations

from agentmesh.errors import ArgumentInvalid
from agentmesh.identity import IdentityKey


def raw_key(identity: IdentityKey | bytes) -> bytes:
    """Return the 32 bytes that everything in admission is keyed by: one key has one entry, whatever names it.

    Raises:
        ArgumentInvalid: neither an `IdentityKey` nor 32 bytes.
    """
    raw = identity.raw if isinstance(identity, IdentityKey) else identity
    if type(raw) is not bytes or len(raw) != 32:
        raise ArgumentInvalid("identity")
    return raw


def key_argument(name: str, key: IdentityKey) -> IdentityKey:
    """Return `key`.

    Raises:
        ArgumentInvalid: not an `IdentityKey`.
    """
    if not isinstance(key, IdentityKey):
        raise ArgumentInvalid(name)
    return key
