"""AGT's key agreement: X3DH over X25519, as its implementations run it.

    SK = HKDF-SHA256(ikm = F || DH1 || DH2 || DH3 [|| DH4], salt = 32 zero bytes, info = AgentMesh_X3DH_v1, 32)
    DH1 = (IKa, SPKb)   DH2 = (EKa, IKb)   DH3 = (EKa, SPKb)   DH4 = (EKa, OPKb), where there is a one-time prekey

with F = 32 times 0xff (Signal's X3DH specification, section 2.2). Nothing of the identities' names is in SK: both DIDs
and both identity keys stand in the associated data of every message (`context_of`). The npm package, up to 4.0.0,
hashes otherwise: F is its salt. That is recognised, so that the failure has a name, and never used.
"""

from __future__ import annotations

from typing import Final, Protocol

from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import AGT_X3DH
from agentmesh.primitives.arguments import frameless
from agentmesh.primitives.keys import RootKey, X25519PublicKey, X25519Secret

_F: Final = b"\xff" * 32
_ZEROS: Final = bytes(32)


class Agreeing(Protocol):
    """An identity as the agreement needs it."""

    @property
    def dh_secret(self) -> X25519Secret:
        """The X25519 image of its signing key, 32 bytes."""
        ...


@frameless
def initiate(
    identity: Agreeing,
    peer: X25519PublicKey,
    signed: X25519PublicKey,
    one_time: X25519PublicKey | None,
    ephemeral: X25519Secret,
) -> RootKey:
    """Return the root key of a session that this side asks for.

    Args:
        identity: This side's, IKa.
        peer: The peer's identity key IKb, 32 bytes: the image of the key that its DID is the hash of.
        signed: The peer's signed prekey SPKb, 32 bytes, its signature verified.
        one_time: The one-time prekey OPKb that came with it, 32 bytes; `None` where the registry had none left.
        ephemeral: EKa, fresh for this session, 32 bytes.

    Raises:
        BadPoint: a key of the peer is not canonical or has small order.
    """
    agreed = _dh(identity.dh_secret, signed) + _dh(ephemeral, peer) + _dh(ephemeral, signed)
    return _root(agreed if one_time is None else agreed + _dh(ephemeral, one_time))


@frameless
def respond(
    identity: Agreeing,
    peer: X25519PublicKey,
    ephemeral: X25519PublicKey,
    signed: X25519Secret,
    one_time: X25519Secret | None,
    *,
    legacy: bool = False,
) -> RootKey:
    """Return the root key of a session that a KNOCK asks for. No message has shown yet that the peer has it too.

    Args:
        identity: This side's, IKb.
        peer: The peer's identity key IKa, 32 bytes, once it is known to be its own.
        ephemeral: EKa of the KNOCK, 32 bytes.
        signed: The secret of this side's signed prekey, 32 bytes.
        one_time: That of the one-time prekey that the KNOCK names, 32 bytes; `None` where it names none.
        legacy: By the KDF of the npm package up to 4.0.0: only to find out that the peer runs it.

    Raises:
        BadPoint: a key of the peer is not canonical or has small order.
    """
    agreed = _dh(signed, peer) + _dh(identity.dh_secret, ephemeral) + _dh(signed, ephemeral)
    if one_time is not None:
        agreed += _dh(one_time, ephemeral)
    return _legacy_root(agreed) if legacy else _root(agreed)


def context_of(
    initiator_did: str, responder_did: str, initiator_dh: X25519PublicKey, responder_dh: X25519PublicKey
) -> bytes:
    """Return what the associated data of every message of a session begins with, in both directions alike.

    Args:
        initiator_did: The DID of whoever knocked.
        responder_did: That of the other side.
        initiator_dh: IKa, 32 bytes.
        responder_dh: IKb, 32 bytes.
    """
    return f"{initiator_did}|{responder_did}".encode() + initiator_dh + responder_dh


def _dh(secret: X25519Secret, public: X25519PublicKey) -> bytes:
    _crypto.check_x25519_encoding(public)
    return _crypto.x25519(secret, public)


def _root(agreed: bytes) -> RootKey:
    return RootKey(_crypto.hkdf_sha256(_F + agreed, _ZEROS, AGT_X3DH, 32))


def _legacy_root(agreed: bytes) -> RootKey:
    return RootKey(_crypto.hkdf_sha256(agreed, _F, AGT_X3DH, 32))
