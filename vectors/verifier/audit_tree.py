"""The Merkle tree over entries, its proofs, and checkpoints: section 8, and RFC 9162, section 2.1."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from verifier.audit_record import entry_hash
from verifier.common import Json, Trace, refuse, unhex
from verifier.encoding import encode, exactly, is_bin, is_mesh, is_uint, text_of, unpack
from verifier.primitives import identity_point, label_of, verify
from verifier.structures import Identity

CHECKPOINT_MAX_BYTES = 320
PROOF_MAX = 64
EMPTY_ROOT = hashlib.sha256(b"").digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two below a size of at least 2."""
    return 1 << (size - 1).bit_length() - 1


def root_of(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, from the hashes of the leaves."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    k = split(len(leaves))
    return node_hash(root_of(leaves[:k]), root_of(leaves[k:]))


def inclusion_proof(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 9162, 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*inclusion_proof(index, leaves[:k]), root_of(leaves[k:])]
    return [*inclusion_proof(index - k, leaves[k:]), root_of(leaves[:k])]


def consistency_proof(old_size: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PROOF of RFC 9162, 2.1.4.1; from 0, and from the whole, it is empty."""
    return [] if old_size in (0, len(leaves)) else _subproof(old_size, leaves, True)


def _subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [root_of(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*_subproof(m, leaves[:k], whole), root_of(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], False), root_of(leaves[:k])]


def _check(holds: bool) -> None:
    if not holds:
        refuse("audit.proof")


def _check_hashes(proof: Sequence[bytes], *roots: bytes) -> None:
    _check(len(proof) <= PROOF_MAX)
    _check(all(len(one) == 32 for one in (*proof, *roots)))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """The first column of the table, with RFC 9162, 2.1.3.2."""
    _check_hashes(proof, root)
    _check(index < size)
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        _check(sn != 0)
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while fn & 1 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    _check(sn == 0 and r == root)


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """The second column of the table, with RFC 9162, 2.1.4.2."""
    _check_hashes(proof, old_root, root)
    _check(old_size <= size)
    if old_size == 0:
        _check(not proof and old_root == EMPTY_ROOT and (size != 0 or root == EMPTY_ROOT))
        return
    if old_size == size:
        _check(not proof and old_root == root)
        return
    _check(len(proof) > 0)
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    fn, sn = old_size - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        _check(sn != 0)
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while fn & 1 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    _check(fr == old_root and sr == root and sn == 0)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified."""

    size: int
    time: int
    root: bytes

    def out(self) -> Json:
        """As README.md shows it."""
        return {"size": self.size, "time_ms": self.time, "root": self.root}


def verify_checkpoint(data: bytes, owner: bytes, mesh: str) -> Checkpoint:
    """The table "Checkpoints", in its order. The owner's key comes from elsewhere, and is acceptable."""
    identity_point(owner)
    if len(data) > CHECKPOINT_MAX_BYTES:
        refuse("wire.too_large")
    body, signature = unpack(data, is_bin, is_bin)
    version, its_mesh, first, second, size, time, root = unpack(
        body, is_uint, text_of(1, 64), exactly(32), exactly(32), is_uint, is_uint, exactly(32)
    )
    if version != 1:
        refuse("wire.version")
    if not is_mesh(its_mesh):
        refuse("wire.malformed")
    if first != owner or second != owner:
        refuse("signature.invalid")
    verify(owner, "checkpoint", body, signature)
    if its_mesh != mesh:
        refuse("audit.proof")
    return Checkpoint(size, time, root)


def checkpoint_in(given: Json, name: str = "checkpoint") -> Checkpoint:
    """The checkpoint of an input, verified."""
    return verify_checkpoint(unhex(given[name]), unhex(given["owner"]), given["mesh"])


def leaves_in(given: Json) -> list[bytes]:
    """The hashes of the entries of an input."""
    return [entry_hash(unhex(entry)) for entry in given["entries"]]


def proof_in(given: Json) -> list[bytes]:
    """The proof of an input."""
    return [unhex(one) for one in given["proof"]]


def merkle_root(given: Json, _: Trace) -> Json:
    """merkle.root."""
    return {"root": root_of(leaves_in(given))}


def merkle_inclusion_proofs(given: Json, _: Trace) -> Json:
    """merkle.inclusion_proofs."""
    leaves = leaves_in(given)
    return {"root": root_of(leaves), "proofs": [inclusion_proof(index, leaves) for index in range(len(leaves))]}


def merkle_consistency_proofs(given: Json, _: Trace) -> Json:
    """merkle.consistency_proofs."""
    leaves = leaves_in(given)
    sizes = range(len(leaves) + 1)
    return {
        "old_roots": [root_of(leaves[:size]) for size in sizes],
        "proofs": [consistency_proof(size, leaves) for size in sizes],
    }


def merkle_verify_inclusion(given: Json, _: Trace) -> Json:
    """merkle.verify_inclusion."""
    leaf = entry_hash(unhex(given["entry"]))
    verify_inclusion(leaf, given["index"], given["size"], proof_in(given), unhex(given["root"]))
    return {"entry_hash": leaf}


def merkle_verify_consistency(given: Json, _: Trace) -> Json:
    """merkle.verify_consistency."""
    old_root, root = unhex(given["old_root"]), unhex(given["root"])
    verify_consistency(given["old_size"], old_root, given["size"], root, proof_in(given))
    return {}


def checkpoint_sign(given: Json, trace: Trace) -> Json:
    """checkpoint.sign."""
    own = Identity(unhex(given["identity_seed"]))
    body = encode([1, given["mesh"], own.key, own.key, given["size"], given["time_ms"], unhex(given["root"])])
    trace |= {"checkpoint_body": body, "signed": label_of("checkpoint") + body}
    return {"checkpoint": encode([body, own.sign("checkpoint", body)])}


def checkpoint_grow(given: Json, _: Trace) -> Json:
    """checkpoint.grow."""
    old, new = checkpoint_in(given, "old"), checkpoint_in(given, "new")
    verify_consistency(old.size, old.root, new.size, new.root, proof_in(given))
    return new.out()


OPERATIONS = {
    "merkle.root": merkle_root,
    "merkle.inclusion_proofs": merkle_inclusion_proofs,
    "merkle.consistency_proofs": merkle_consistency_proofs,
    "merkle.verify_inclusion": merkle_verify_inclusion,
    "merkle.verify_consistency": merkle_verify_consistency,
    "checkpoint.sign": checkpoint_sign,
    "checkpoint.verify": lambda given, _: checkpoint_in(given).out(),
    "checkpoint.grow": checkpoint_grow,
}
