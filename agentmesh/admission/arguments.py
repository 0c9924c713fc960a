"""What admission's calls take: identities as 32 bytes, times, and limits."""

from __future__ import annotations

from agentmesh.errors import ArgumentInvalid
from agentmesh.identity import IdentityKey
from agentmesh.limits import UINT_MAX, Limits


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


def uint_argument(name: str, value: int, maximum: int = UINT_MAX) -> int:
    """Return `value`. No bool, float, NaN or text is a number here.

    Raises:
        ArgumentInvalid: not an int from 0 to `maximum`.
    """
    if type(value) is not int or not 0 <= value <= maximum:
        raise ArgumentInvalid(name)
    return value


def limits_argument(limits: Limits | None) -> Limits:
    """Return `limits`, the defaults if `None`.

    Raises:
        ArgumentInvalid: not `Limits`.
    """
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise ArgumentInvalid("limits")
    return limits
