"""Identities: an Ed25519 key pair, its DID, and the X25519 key derived from it (docs/protocol.md, section 2)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Generic, Self, TypeVar, final

from agentmesh.errors import ArgumentInvalid, BadDid, Malformed
from agentmesh.limits import DID_MAX_BYTES
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import SignatureLabel
from agentmesh.primitives.arguments import BytesLike, bytes_argument, frameless, plain_text
from agentmesh.primitives.base58 import base58_decode, base58_encode
from agentmesh.primitives.entropy import CheckedEntropy, Entropy, SystemEntropy
from agentmesh.primitives.keys import Ed25519PublicKey, IdentitySeed, Redacted, Signature, X25519PublicKey, X25519Secret

DID_PREFIX: Final = "did:agentmesh:"
_DID_HASH_BYTES: Final = 20
_DID_SHAPE: Final = re.compile(DID_PREFIX + "[1-9A-HJ-NP-Za-km-z]{1,114}", re.ASCII)  # 128 bytes in all

# Conversion costs as much as a verification, and its result never changes. The entries are public keys and names.
_CACHED: Final = 1024
_converted = lru_cache(maxsize=_CACHED)(_crypto.ed25519_to_x25519)


@lru_cache(maxsize=_CACHED)
def did_of(public_key: bytes) -> str:
    """Return the DID of a 32-byte Ed25519 public key: the prefix and base58btc(SHA-256(key)[0:20]). Section 2.

    It is only a name: nothing is said of the key's validity, and what must not be confused is bound by the key.
    """
    return DID_PREFIX + base58_encode(_crypto.sha256(public_key)[:_DID_HASH_BYTES])


def is_did_shaped(did: object) -> bool:
    """Say whether `did` could be one: the prefix and base58btc, 128 bytes at most. It need not decode."""
    return type(did) is str and _DID_SHAPE.fullmatch(did) is not None


def parse_did(did: str) -> str:
    """Return `did`, which came from elsewhere, if it is a DID of this method in its one canonical form.

    Raises:
        BadDid: another method, case, length, alphabet or encoding.
    """
    did = plain_text(did)
    if _is_did(did):
        return did
    raise BadDid


def did_argument(name: str, value: str, *, own: str | None = None) -> str:
    """Return `value`, an argument of a call, if it is a DID of this method in its one canonical form.

    Args:
        name: The argument's name.
        value: The DID.
        own: The caller's own DID, where that one may not stand.

    Raises:
        ArgumentInvalid: it is none, or the caller's own.
    """
    did = plain_text(value)
    if not _is_did(did):
        raise ArgumentInvalid(name, "not a did:agentmesh DID in its one form")
    if did == own:
        raise ArgumentInvalid(name, "this agent's own DID")
    return str(did)


def _is_did(did: object) -> bool:
    return type(did) is str and len(did) <= DID_MAX_BYTES and _is_canonical(did)


@lru_cache(maxsize=_CACHED)  # short texts alone, because of the check before
def _is_canonical(did: str) -> bool:
    if not did.startswith(DID_PREFIX):
        return False
    try:
        base58_decode(did[len(DID_PREFIX) :], _DID_HASH_BYTES)
        return True
    except Malformed:
        return False


class IdentityKey:
    """The public half of an identity: an Ed25519 key that passed strict validation, with its DID and X25519 image.

    Attributes:
        raw: The Ed25519 public key, 32 bytes.
        did: The identity's name, `did:agentmesh:...`.
    """

    __slots__ = ("did", "raw")

    def __init__(self, raw: BytesLike) -> None:
        """Validate a 32-byte Ed25519 public key.

        Raises:
            ArgumentInvalid: not bytes-like.
            BadIdentityKey: not canonical, not on the curve, of small order or outside the prime-order subgroup.
        """
        raw = bytes_argument("raw", raw)
        self.raw: Ed25519PublicKey = Ed25519PublicKey(raw)
        _converted(raw)  # which refuses what is none
        self.did: str = did_of(self.raw)

    @property
    def dh(self) -> X25519PublicKey:
        """Its X25519 image, 32 bytes; always derived, never read from the wire.

        Not kept: a hub knows thousands of identities, and an agreement asks for the one that was just seen.
        """
        return X25519PublicKey(_converted(self.raw))

    def verify(self, label: SignatureLabel, body: bytes, signature: bytes) -> None:
        """Verify this identity's signature over `label || body`.

        Raises:
            BadSignature: it does not verify under the strict rules of section 1.
        """
        _crypto.ed25519_verify(self.raw, label + body, signature)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdentityKey) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        # A refused one stands in the frames of the refusal, for whoever shows locals.
        return f"{type(self).__name__}({self.did if hasattr(self, 'did') else '<refused>'})"


_Key = TypeVar("_Key", bound=IdentityKey)


class OwnIdentity(Redacted, Generic[_Key]):
    """An identity of one's own, whatever its names and signatures look like. It prints its DID and nothing else."""

    __slots__ = ("_seed", "_signing_key", "dh_secret", "key")

    @frameless
    def __init__(self, seed: IdentitySeed) -> None:
        """Derive the key pair of a seed: no two kinds of identity may have the same.

        Raises:
            ArgumentInvalid: not an `IdentitySeed`.
        """
        if type(seed) is not IdentitySeed:
            raise ArgumentInvalid("seed", "not an IdentitySeed; from_seed takes bytes")
        public, self._signing_key = _crypto.ed25519_keypair(seed.reveal())
        self._seed = seed
        self.key: _Key = self._key_of(public)
        self.dh_secret: X25519Secret = X25519Secret(_crypto.ed25519_secret_to_x25519(self._signing_key))

    @staticmethod
    def _key_of(public: bytes) -> _Key:
        raise NotImplementedError

    @classmethod
    def generate(cls, entropy: Entropy | None = None) -> Self:
        """Return a fresh identity, from the operating system's randomness unless another source is given.

        Raises:
            RandomnessFailed: the source broke its contract.
        """
        source = CheckedEntropy(SystemEntropy() if entropy is None else entropy)
        return cls(IdentitySeed(source.token(32)))

    @classmethod
    @frameless
    def from_seed(cls, seed: BytesLike) -> Self:
        """Return the identity of a 32-byte seed.

        Raises:
            ArgumentInvalid: not bytes-like, or of another length. Neither the error nor its traceback holds it.
        """
        return cls(IdentitySeed(seed))

    @property
    def seed(self) -> IdentitySeed:
        """The seed, wrapped; whoever has it is this agent."""
        return self._seed

    @property
    def did(self) -> str:
        """The identity's name."""
        return self.key.did

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.did}, <redacted>)"


@final
class Identity(OwnIdentity[IdentityKey]):
    """An agent's own identity: it signs, and agrees on keys. It prints its DID and nothing else.

    Attributes:
        key: The public half.
        dh_secret: The X25519 secret derived from the signing key (section 2).
    """

    __slots__ = ()

    @staticmethod
    def _key_of(public: bytes) -> IdentityKey:
        return IdentityKey(public)

    def sign(self, label: SignatureLabel, body: bytes) -> Signature:
        """Return the 64-byte signature over `label || body`."""
        return Signature(_crypto.ed25519_sign(self._signing_key, label + body))


# --- what an identity signs ------------------------------------------------------------------------------------------
#
# A statement is `msgpack [body, signature]` with the body a byte string, signed under a label of its own: one shape for
# a bundle and for every statement of section 9. The body is verified as received and only then trusted; nothing is ever
# encoded again to be verified.


def sign_statement(identity: Identity, label: SignatureLabel, body: bytes) -> bytes:
    """Return `msgpack [body, Ed25519(identity, label || body)]`."""
    return _wire.encode([body, identity.sign(label, body)])


def split_statement(data: bytes, max_bytes: int) -> tuple[bytes, Signature]:
    """Return (body, signature), neither verified: the body is needed to find out who is to have signed it.

    Raises:
        TooLarge: more than `max_bytes`.
        Malformed: not a canonical pair.
    """
    body, signature = _wire.decode_pair(data, max_bytes)
    return body, Signature(signature)


def verify_statement(issuer: IdentityKey, label: SignatureLabel, body: bytes, signature: bytes) -> bytes:
    """Return `body` once the issuer's signature over `label || body` has been verified.

    Raises:
        BadSignature: it does not verify.
    """
    issuer.verify(label, body, signature)
    return body


def signed_part(header_bytes: bytes, rest: bytes) -> bytes:
    """Return len32(header) || header || rest: how a signature covers an outer header and what follows it."""
    return len(header_bytes).to_bytes(4, "big") + header_bytes + rest
