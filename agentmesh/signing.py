"""Signed statements: one shape for a bundle and for every statement of section 9.

A statement is `msgpack [body, signature]` with the body a byte string, signed under a label of its own. The body is
verified as received and only then trusted; nothing is ever encoded again to be verified.
"""

from __future__ import annotations

from agentmesh import _wire
from agentmesh._labels import SignatureLabel
from agentmesh.identity import Identity, IdentityKey
from agentmesh.keys import Signature


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
