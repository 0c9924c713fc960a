"""Roster: identities that an owner has listed, by key or by DID, of our own mesh or of AGT's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, final

from agentmesh.agt_identity import is_mesh_did, mesh_did_of
from agentmesh.identity import IdentityKey, did_argument, did_of
from agentmesh.primitives.arguments import plain_text
from agentmesh.trust.arguments import raw_key

Listed: TypeAlias = IdentityKey | bytes | str
"""How an identity is named on a list: its key, the 32 raw bytes of it, or its DID, `did:agentmesh:` or `did:mesh:`."""

Name: TypeAlias = bytes | str
"""What stands on the list: 32 bytes, or a DID."""


def listed_argument(identity: Listed) -> Name:
    """Return the 32 bytes of a key, or the DID, that names an identity.

    Raises:
        ArgumentInvalid: neither a key, nor 32 bytes, nor a DID.
    """
    return listed_did(identity) if isinstance(identity, str) else raw_key(identity)


def listed_did(did: str) -> str:
    """Return `did`, if it is a DID of our own mesh or of AGT's, in its one form.

    Raises:
        ArgumentInvalid: it is neither.
    """
    did = plain_text(did)
    return did if is_mesh_did(did) else did_argument("identity", did)


def _dids_of(raw: bytes) -> tuple[str, str]:
    return did_of(raw), mesh_did_of(raw)


@final
class Roster:
    """A set of identities. Whatever names an identity, it is on the list or it is not.

    A DID is a hash of its key, so that it stands for that one key; the key itself is needed only by what verifies. A
    key has two, one of our own mesh and one of AGT's: whichever is listed, that key is.
    """

    __slots__ = ("dids", "keys")

    def __init__(self, keys: Iterable[bytes] = (), dids: Iterable[str] = ()) -> None:
        self.keys: set[bytes] = set(keys)
        self.dids: set[str] = set(dids)

    def __contains__(self, raw: bytes) -> bool:
        # By key first, because a DID costs a hash, and everybody who knocks is looked up.
        return raw in self.keys or (bool(self.dids) and not self.dids.isdisjoint(_dids_of(raw)))

    def holds(self, name: Name) -> bool:
        """Say whether an identity is on the list by this very name."""
        return name in self.dids if isinstance(name, str) else name in self.keys

    def names(self, name: Name) -> tuple[Name, ...]:
        """Return by which names an identity is on the list, whichever it is given by."""
        if isinstance(name, str):
            keys = [raw for raw in self.keys if name in _dids_of(raw)]
            dids = {name, *(did for raw in keys for did in _dids_of(raw))}
        else:
            keys, dids = [name] if name in self.keys else [], set(_dids_of(name))
        return (*keys, *(dids & self.dids))

    def add(self, name: Name) -> None:
        """List an identity."""
        if isinstance(name, str):
            self.dids.add(name)
        else:
            self.keys.add(name)

    def remove(self, names: Iterable[Name]) -> None:
        """Take names off the list."""
        for name in names:
            if isinstance(name, str):
                self.dids.discard(name)
            else:
                self.keys.discard(name)
