"""Checkpoints: an agent's signature under the size and root of its log at a time (docs/protocol.md, sections 8 and 9).

    statement = msgpack [body, Ed25519(issuer, [checkpoint] || body)]
    body      = msgpack [1, mesh, issuer (32), subject (32), size, time (ms), root (32)]

It is what makes a log hard to rewrite: whoever holds a checkpoint from elsewhere sees any change before its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import field, frozen

from agentmesh.audit.merkle import RootHash, verify_consistency
from agentmesh.envelope import is_mesh_name
from agentmesh.errors import ArgumentInvalid, BadSignature, Malformed, ProofInvalid, UnknownVersion
from agentmesh.identity import Identity, IdentityKey, sign_statement, split_statement, verify_statement
from agentmesh.limits import MESH_MAX_BYTES, UINT_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives._labels import SIGN_CHECKPOINT

_VERSION: Final = 1
_BODY: Final = _wire.array(
    _wire.Uint(), _wire.Text(1, MESH_MAX_BYTES), _wire.Bin(32), _wire.Bin(32), _wire.Uint(), _wire.Uint(), _wire.Bin(32)
)
CHECKPOINT_MAX_BYTES: Final = 320  # a genuine one has at most 302


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
    """Return a checkpoint over the first `size` entries of the signer's own log.

    Raises:
        ArgumentInvalid: not an `Identity`, or a field that no verifier would take.
    """
    if not isinstance(identity, Identity):
        raise ArgumentInvalid("identity")
    if not is_mesh_name(mesh):
        raise ArgumentInvalid("mesh")
    for name, number in (("size", size), ("time_ms", time_ms)):
        if type(number) is not int or not 0 <= number <= UINT_MAX:
            raise ArgumentInvalid(name)
    if type(root) is not bytes or len(root) != 32:
        raise ArgumentInvalid("root")
    key = identity.key
    body = _wire.encode([_VERSION, mesh, key.raw, key.raw, size, time_ms, root])
    statement = sign_statement(identity, SIGN_CHECKPOINT, body)
    return Checkpoint(mesh=mesh, issuer=key, size=size, root=root, time_ms=time_ms, statement=statement)


def claimed_by(statement: bytes) -> tuple[IdentityKey, str]:
    """Return (issuer, mesh) that a checkpoint names; nothing is verified. To find the key behind a DID that is known.

    Raises:
        TooLarge, Malformed, UnknownVersion: not a checkpoint.
        BadIdentityKey: its issuer is no key.
    """
    _, _, (mesh, issuer_raw, *_) = _parse(statement)
    return IdentityKey(issuer_raw), mesh


def _parse(statement: bytes) -> tuple[bytes, bytes, list[Any]]:
    """Return (body, signature, fields behind the version)."""
    body, signature = split_statement(statement, CHECKPOINT_MAX_BYTES)
    version, *fields = _wire.decode(body, _BODY, CHECKPOINT_MAX_BYTES)
    if version != _VERSION:
        raise UnknownVersion
    if not is_mesh_name(fields[0]):
        raise Malformed
    return body, signature, fields


def verify_checkpoint(statement: bytes, issuer: IdentityKey, *, mesh: str) -> Checkpoint:
    """Return the checkpoint that `statement` holds, once it is proved to be the issuer's.

    Args:
        statement: The signed bytes.
        issuer: Whose log it is said to be of. Take it from where you trust it, not from the statement.
        mesh: The mesh in which the issuer keeps that log. One identity may keep one log in each of several meshes.

    Raises:
        ArgumentInvalid: the issuer is not an `IdentityKey`.
        TooLarge, Malformed, UnknownVersion: not a checkpoint.
        BadSignature: another issuer's, or altered.
        ProofInvalid: of another mesh.
    """
    if not isinstance(issuer, IdentityKey):
        raise ArgumentInvalid("issuer")
    body, signature, (named, issuer_raw, subject_raw, size, time_ms, root) = _parse(statement)
    if issuer_raw != issuer.raw or subject_raw != issuer.raw:
        raise BadSignature
    verify_statement(issuer, SIGN_CHECKPOINT, body, signature)
    if named != mesh:
        raise ProofInvalid
    return Checkpoint(mesh=named, issuer=issuer, size=size, root=RootHash(root), time_ms=time_ms, statement=statement)


def verify_growth(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> Checkpoint:
    """Return `new` once the log under it is proved to be the log under `old` with nothing changed but its end.

    Two checkpoints of one issuer between which no proof exists are evidence of a fork: their owner showed one log to
    one, and another log to another. Two of equal size and another root are so at sight.

    Args:
        old: A verified checkpoint.
        new: A later one of the same issuer and mesh.
        proof: `AuditLog.consistency_proof(old.size, new.size)`, from the log's keeper.

    Raises:
        ArgumentInvalid: not two checkpoints of one issuer and mesh.
        ProofInvalid: the log was cut or altered, or the proof is none.
    """
    if not (isinstance(old, Checkpoint) and isinstance(new, Checkpoint)):
        raise ArgumentInvalid("old" if not isinstance(old, Checkpoint) else "new")
    if (old.issuer, old.mesh) != (new.issuer, new.mesh):
        raise ArgumentInvalid("new")
    if old.size > new.size:
        raise ProofInvalid
    verify_consistency(old.size, old.root, new.size, new.root, proof)
    return new
