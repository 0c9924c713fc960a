"""Checkpoints: an agent's signature under the size and root of its log at a time (docs/protocol.md, sections 8 and 9).

    statement = msgpack [body, Ed25519(issuer, [checkpoint] || body)]
    body      = msgpack [1, mesh, issuer (32), subject (32), size, time (ms), root (32)]

It is what makes a log hard to rewrite: whoever holds a checkpoint from elsewhere sees any change before its size.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from agentmesh import _wire
from agentmesh._labels import SIGN_CHECKPOINT
from agentmesh.audit.merkle import RootHash
from agentmesh.envelope import is_mesh_name
from agentmesh.errors import BadSignature, Malformed, UnknownVersion
from agentmesh.identity import Identity, IdentityKey
from agentmesh.limits import MESH_MAX_BYTES
from agentmesh.signing import sign_statement, split_statement, verify_statement

_VERSION: Final = 1
_BODY: Final = _wire.array(
    _wire.Uint(), _wire.Text(1, MESH_MAX_BYTES), _wire.Bin(32), _wire.Bin(32), _wire.Uint(), _wire.Uint(), _wire.Bin(32)
)
CHECKPOINT_MAX_BYTES: Final = 320


@frozen(kw_only=True)
class Checkpoint:
    """A checkpoint whose signature has been verified.

    Attributes:
        mesh: The mesh of the log's owner.
        issuer: Who signed it, and whose log it is.
        size: How many entries it covers.
        root: The Merkle root over them.
        time_ms: When, by the issuer's clock.
        statement: The signed bytes.
    """

    mesh: str
    issuer: IdentityKey
    size: int
    root: RootHash = field(repr=lambda root: root.hex())
    time_ms: int
    statement: bytes = field(repr=False)


def sign_checkpoint(identity: Identity, *, mesh: str, size: int, root: RootHash, time_ms: int) -> Checkpoint:
    """Return a checkpoint over the first `size` entries of the signer's own log."""
    key = identity.key
    body = _wire.encode([_VERSION, mesh, key.raw, key.raw, size, time_ms, root])
    statement = sign_statement(identity, SIGN_CHECKPOINT, body)
    return Checkpoint(mesh=mesh, issuer=key, size=size, root=root, time_ms=time_ms, statement=statement)


def verify_checkpoint(statement: bytes, issuer: IdentityKey) -> Checkpoint:
    """Return the checkpoint that `statement` holds, once it is proved to be the issuer's.

    Args:
        statement: The signed bytes.
        issuer: Whose log it is said to be of. Take it from where you trust it, not from the statement.

    Raises:
        TooLarge, Malformed, UnknownVersion: not a checkpoint.
        BadSignature: another issuer's, or altered.
    """
    body, signature = split_statement(statement, CHECKPOINT_MAX_BYTES)
    version, mesh, issuer_raw, subject_raw, size, time_ms, root = _wire.decode(body, _BODY, CHECKPOINT_MAX_BYTES)
    if version != _VERSION:
        raise UnknownVersion
    if issuer_raw != issuer.raw or subject_raw != issuer.raw:
        raise BadSignature
    if not is_mesh_name(mesh):
        raise Malformed
    verify_statement(issuer, SIGN_CHECKPOINT, body, signature)
    return Checkpoint(
        mesh=mesh, issuer=issuer, size=size, root=RootHash(root), time_ms=time_ms, statement=bytes(statement)
    )
