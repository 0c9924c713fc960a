"""The hybrid handshake: X25519 and ML-KEM-768 to one set of session keys (docs/protocol.md, section 5).

Three Diffie-Hellmans and one encapsulation. The transcript hash th binds mesh, both identities, the bundle (and through
its ref the KEM key), the ephemeral key, the KEM ciphertext and the expiry; everything derived depends on it. Signal's
X3DH and PQXDH are the source; the bundle's whole signature and single use make a fourth Diffie-Hellman unnecessary.
"""

from __future__ import annotations

from typing import final

from agentmesh.handshake.prekeys import Bundle, BundleSecrets
from agentmesh.identity import Identity, IdentityKey
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import EXTRACT, FIRST_ROOT, HEADER_AB, HEADER_BA, KNOCK_KEY, SESSION_ID, TRANSCRIPT
from agentmesh.primitives.arguments import frameless, uint_argument
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import (
    HeaderKey,
    IntentKey,
    KemCiphertext,
    Redacted,
    RootKey,
    SessionId,
    TranscriptHash,
    X25519PublicKey,
    X25519Secret,
)


@final
class SessionKeys(Redacted):
    """What both sides hold when the handshake is done. Lives until the session's state has been made from it.

    Attributes:
        th: The transcript hash, 64 bytes; not secret.
        session_id: 16 bytes; not secret.
        root: The ratchet's first root key.
        intent_key: Opens the KNOCK's content, once.
        header_key_ba: The responder's first header key, B to A.
        header_key_ab: The initiator's first header key, A to B.
    """

    __slots__ = ("header_key_ab", "header_key_ba", "intent_key", "root", "session_id", "th")

    def __init__(self, th: TranscriptHash, shared: bytes) -> None:
        prk = _crypto.kdf(th, EXTRACT, shared, 64)
        self.th: TranscriptHash = th
        self.root: RootKey = RootKey(_crypto.kdf(prk, FIRST_ROOT, b"", 32))
        self.intent_key: IntentKey = IntentKey(_crypto.kdf(prk, KNOCK_KEY, b"", 32))
        self.header_key_ba: HeaderKey = HeaderKey(_crypto.kdf(prk, HEADER_BA, b"", 32))
        self.header_key_ab: HeaderKey = HeaderKey(_crypto.kdf(prk, HEADER_AB, b"", 32))
        self.session_id: SessionId = SessionId(_crypto.kdf(prk, SESSION_ID, b"", 16))


def transcript_hash(
    *,
    mesh: str,
    initiator: bytes,
    responder: bytes,
    bundle_ref: bytes,
    ephemeral: bytes,
    kem_ciphertext: bytes,
    expires_ms: int,
) -> TranscriptHash:
    """Return th = kdf(none, am1-transcript, list(mesh, A, B, bundle_ref, EK, ct, expires), 64). Section 5.

    Each item goes in as len32 || item, so that no two lists of items give the same bytes.
    """
    items = (
        mesh.encode(), initiator, responder, bundle_ref, ephemeral, kem_ciphertext, expires_ms.to_bytes(8, "big"),
    )  # fmt: skip
    data = b"".join(len(item).to_bytes(4, "big") + item for item in items)
    return TranscriptHash(_crypto.kdf(b"", TRANSCRIPT, data, 64))


@final
class Initiation(Redacted):
    """The initiator's half: what goes into the KNOCK, and what stays.

    Attributes:
        ephemeral: EK, the public key; goes into the KNOCK, and is the initiator's first ratchet key.
        ephemeral_secret: Its secret; stays until the first ratchet step.
        kem_ciphertext: 1088 bytes; goes into the KNOCK.
        keys: The session's keys.
    """

    __slots__ = ("ephemeral", "ephemeral_secret", "kem_ciphertext", "keys")

    def __init__(
        self,
        ephemeral_secret: X25519Secret,
        ephemeral: X25519PublicKey,
        kem_ciphertext: KemCiphertext,
        keys: SessionKeys,
    ) -> None:
        self.ephemeral_secret: X25519Secret = ephemeral_secret
        self.ephemeral: X25519PublicKey = ephemeral
        self.kem_ciphertext: KemCiphertext = kem_ciphertext
        self.keys: SessionKeys = keys


@frameless
def initiate(identity: Identity, bundle: Bundle, *, expires_ms: int, entropy: Entropy) -> Initiation:
    """Run the initiator's side against a verified bundle. Section 5.

    Raises:
        ArgumentInvalid: `expires_ms` is not a time.
        BadPoint: the bundle's prekey has small order, or its KEM key is not valid.
    """
    uint_argument("expires_ms", expires_ms)
    secret = X25519Secret(entropy.token(32))
    public = X25519PublicKey(_crypto.x25519_public(secret))
    ciphertext, shared_kem = entropy.encapsulate(bundle.kem_key)
    th = transcript_hash(
        mesh=bundle.mesh,
        initiator=identity.key.raw,
        responder=bundle.identity.raw,
        bundle_ref=bundle.ref,
        ephemeral=public,
        kem_ciphertext=ciphertext,
        expires_ms=expires_ms,
    )
    shared = (
        _crypto.x25519(identity.dh_secret, bundle.prekey)
        + _crypto.x25519(secret, bundle.identity.dh)
        + _crypto.x25519(secret, bundle.prekey)
        + shared_kem
    )
    return Initiation(secret, public, KemCiphertext(ciphertext), SessionKeys(th, shared))


@frameless
def respond(
    identity: Identity,
    secrets: BundleSecrets,
    *,
    initiator: IdentityKey,
    ephemeral: X25519PublicKey,
    kem_ciphertext: KemCiphertext,
    th: TranscriptHash,
) -> SessionKeys:
    """Run the responder's side. `th` is the responder's own, from what it verified and holds. Section 5.

    A forged KEM ciphertext gives keys that open nothing (FIPS 203's implicit rejection), not an error here.

    Raises:
        BadPoint: the ephemeral key is not canonical or has small order.
    """
    _crypto.check_x25519_encoding(ephemeral)
    prekey_secret = secrets.prekey_secret.reveal()
    shared = (
        _crypto.x25519(prekey_secret, initiator.dh)
        + _crypto.x25519(identity.dh_secret, ephemeral)
        + _crypto.x25519(prekey_secret, ephemeral)
        + _crypto.kem_decapsulate(secrets.kem_key, kem_ciphertext)
    )
    return SessionKeys(th, shared)
