"""Roster: identities that an owner has listed, by key or by DID."""

from __future__ import annotations

from typing import TypeAlias, final

from agentmesh.identity import IdentityKey, did_argument, did_of
from agentmesh.trust.arguments import raw_key

Listed: TypeAlias = IdentityKey | bytes | str
"""How an identity is named on a list: its key, the 32 raw bytes of it, or its DID."""


@final
class Roster:
    """A set of identities. Whatever names an identity, it is on the list or it is not.

    A DID is a hash of its key, so that it stands for that one key; the key itself is needed only by what verifies.
    """

    __slots__ = ("_dids", "_keys")

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        self._dids: set[str] = set()

    def __contains__(self, raw: bytes) -> bool:
        # By key first, because a DID costs a hash, and everybody who knocks is looked up.
        return raw in self._keys or (bool(self._dids) and did_of(raw) in self._dids)

    def add(self, identity: Listed) -> None:
        """List an identity.

        Raises:
            ArgumentInvalid: neither a key, nor 32 bytes, nor a DID.
        """
        if isinstance(identity, str):
            self._dids.add(did_argument("identity", identity))
        else:
            self._keys.add(raw_key(identity))

    def discard(self, identity: Listed) -> None:
        """Take an identity off the list, by whichever of its names it is on it.

        Raises:
            ArgumentInvalid: neither a key, nor 32 bytes, nor a DID.
        """
        if isinstance(identity, str):
            did = did_argument("identity", identity)
            # In place and from a copy, because another thread may list somebody meanwhile.
            self._keys.difference_update([raw for raw in tuple(self._keys) if did_of(raw) == did])
        else:
            raw = raw_key(identity)
            self._keys.discard(raw)
            did = did_of(raw)
        self._dids.discard(did)
