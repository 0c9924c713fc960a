"""Identities of AGT's mesh: an Ed25519 key pair under the name `did:mesh:`, which signs bare bytes (docs/agt.md).

It is no native identity, because AGT has it sign bare timestamps and bare 32-byte strings: a key that signs what others
choose, without a label, must be no key of ours.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, final

from agentmesh.errors import ArgumentInvalid, BadDid, BundleIdentityMismatch
from agentmesh.identity import IdentityKey, OwnIdentity
from agentmesh.primitives import _crypto
from agentmesh.primitives.arguments import BytesLike, plain_text
from agentmesh.primitives.keys import Signature

MESH_DID_PREFIX: Final = "did:mesh:"
_DID_HASH_BYTES: Final = 16
_DID_SHAPE: Final = re.compile(MESH_DID_PREFIX + "[0-9a-f]{32}", re.ASCII)


# --- names -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def mesh_did_of(raw: bytes) -> str:
    """Return the DID of a 32-byte Ed25519 public key: the prefix and SHA-256(key)[0:16] in lower-case hex.

    It is only a name: nothing is said of the key's validity.
    """
    return MESH_DID_PREFIX + _crypto.sha256(raw)[:_DID_HASH_BYTES].hex()


def is_mesh_did(did: object) -> bool:
    """Say whether `did` is one of AGT's mesh: the prefix and 32 digits of lower-case hex."""
    return type(did) is str and _DID_SHAPE.fullmatch(did) is not None


def parse_mesh_did(did: object) -> str:
    """Return `did`, which came from elsewhere, if it is a `did:mesh` DID in its one form.

    Raises:
        BadDid: another type, method, case, length or alphabet.
    """
    did = plain_text(did)
    if is_mesh_did(did):
        return str(did)
    raise BadDid


def mesh_did_argument(name: str, value: str, *, own: str | None = None) -> str:
    """Return `value`, an argument of a call, if it is a `did:mesh` DID in its one form.

    Args:
        name: The argument's name.
        value: The DID.
        own: The caller's own DID, where that one may not stand.

    Raises:
        ArgumentInvalid: it is none, or the caller's own.
    """
    did = plain_text(value)
    if not is_mesh_did(did):
        raise ArgumentInvalid(name, "not a did:mesh DID in its one form")
    if did == own:
        raise ArgumentInvalid(name, "this agent's own DID")
    return str(did)


# --- keys ------------------------------------------------------------------------------------------------------------


@final
class AgtIdentityKey(IdentityKey):
    """The public half of an identity of AGT's mesh: an Ed25519 key that passed the same strict validation as ours.

    Attributes:
        raw: The Ed25519 public key, 32 bytes.
        did: The identity's name, `did:mesh:...`.
    """

    __slots__ = ()

    def __init__(self, raw: BytesLike) -> None:
        """Validate a 32-byte Ed25519 public key.

        Raises:
            ArgumentInvalid: not bytes-like.
            BadIdentityKey: not canonical, not on the curve, of small order or outside the prime-order subgroup.
        """
        super().__init__(raw)
        self.did: str = mesh_did_of(self.raw)

    def verify_bare(self, message: bytes, signature: bytes) -> None:
        """Verify this identity's signature over `message` alone, which is all that AGT signs.

        Raises:
            BadSignature: it does not verify under the strict rules of section 1.
        """
        _crypto.ed25519_verify(self.raw, message, signature)


def key_of(did: str, raw: bytes) -> AgtIdentityKey:
    """Return the identity that is called `did`, from its Ed25519 public key.

    Raises:
        BadDid: `did` is none.
        BundleIdentityMismatch: the key's hash is another DID.
        BadIdentityKey: it is not, but no honest agent has such a key.
    """
    if mesh_did_of(raw) != parse_mesh_did(did):
        raise BundleIdentityMismatch
    return AgtIdentityKey(raw)


def identity_of_dh(did: str, dh: bytes) -> AgtIdentityKey:
    """Return the identity that is called `did`, from its X25519 key: so a KNOCK is checked without asking a registry.

    An X25519 key is the image of two Ed25519 keys. Their hashes are compared with the DID, and libsodium converts the
    one that is meant back again. The arithmetic before that only proposes.

    Args:
        did: Whom the key is said to belong to.
        dh: The X25519 key, 32 bytes.

    Raises:
        BadDid: `did` is none.
        BundleIdentityMismatch: neither key's hash is that DID.
        BadIdentityKey: one is, but no honest agent has such a key.
    """
    did = parse_mesh_did(did)
    for raw in _crypto.ed25519_of_x25519(dh):
        if mesh_did_of(raw) == did and (key := AgtIdentityKey(raw)).dh == dh:
            return key
    raise BundleIdentityMismatch


@final
class AgtIdentity(OwnIdentity[AgtIdentityKey]):
    """An agent's own identity on AGT's mesh: it signs bare bytes, and agrees on keys. It prints its DID alone.

    Let its seed be no seed of a native identity.

    Attributes:
        key: The public half.
        dh_secret: The X25519 secret derived from the signing key.
    """

    __slots__ = ()

    @staticmethod
    def _key_of(public: bytes) -> AgtIdentityKey:
        return AgtIdentityKey(public)

    def sign(self, message: bytes) -> Signature:
        """Return the 64-byte signature over `message` alone."""
        return Signature(_crypto.ed25519_sign(self._signing_key, message))
