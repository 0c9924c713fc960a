"""The Merkle tree against RFC 9162's definitions, written down a second time, and against published values."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.audit import leaf_hash, verify_consistency, verify_inclusion
from agentmesh.audit.merkle import EMPTY_ROOT, EntryHash, MerkleTree, RootHash, RunningRoot
from agentmesh.errors import ArgumentInvalid, ProofInvalid
from agentmesh.primitives import _crypto

SIZE = 130

# --- RFC 9162, section 2.1, as its text has it: recursive, over the entries from `start` to `end` ---------------------

ENTRIES = [b"entry %d" % number for number in range(SIZE + 1)]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def power_below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


@cache
def mth(start: int, end: int) -> bytes:
    if start == end:
        return sha256(b"")
    if end - start == 1:
        return sha256(b"\x00" + ENTRIES[start])
    middle = start + power_below(end - start)
    return sha256(b"\x01" + mth(start, middle) + mth(middle, end))


def path(m: int, start: int, end: int) -> list[bytes]:
    if end - start == 1:
        return []
    k = power_below(end - start)
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end)]
    return [*path(m - k, start + k, end), mth(start, start + k)]


def subproof(m: int, start: int, end: int, complete: bool) -> list[bytes]:
    if m == end - start:
        return [] if complete else [mth(start, end)]
    k = power_below(end - start)
    if m <= k:
        return [*subproof(m, start, start + k, complete), mth(start + k, end)]
    return [*subproof(m - k, start + k, end, False), mth(start, start + k)]


ROOTS = [RootHash(mth(0, size)) for size in range(SIZE + 2)]


def tree_of(entries: list[bytes]) -> MerkleTree:
    tree = MerkleTree()
    for entry in entries:
        tree.append(leaf_hash(entry))
    return tree


TREE = tree_of(ENTRIES)


# --- roots and proofs -------------------------------------------------------------------------------------------------


def test_roots_of_all_sizes() -> None:
    tree, running = MerkleTree(), RunningRoot()
    assert tree.root() == running.root() == EMPTY_ROOT == ROOTS[0]
    for size, entry in enumerate(ENTRIES, start=1):
        tree.append(leaf_hash(entry))
        running.append(leaf_hash(entry))
        assert len(tree) == len(running) == size
        assert tree.root() == running.root() == ROOTS[size]
        assert tree.leaf(size - 1) == leaf_hash(entry) == sha256(b"\x00" + entry)
    assert [tree.root(size) for size in range(SIZE + 2)] == ROOTS


@pytest.mark.parametrize("size", range(1, SIZE + 1))
def test_every_inclusion_proof_of_a_size(size: int) -> None:
    for index in range(size):
        proof = TREE.inclusion_proof(index, size)
        assert list(proof) == path(index, 0, size)
        entry_hash = leaf_hash(ENTRIES[index])
        assert verify_inclusion(entry_hash, index, size, proof, ROOTS[size]) == entry_hash
        # It proves that place alone, in a log of that size alone.
        for place, length in ((index + 1, size), (index - 1, size), (index, size + 1), (index ^ 1, size)):
            with pytest.raises(ProofInvalid):
                verify_inclusion(entry_hash, place, length, proof, ROOTS[length])


@pytest.mark.parametrize("size", range(1, SIZE + 1))
def test_every_consistency_proof_to_a_size(size: int) -> None:
    for old in range(1, size + 1):
        proof = TREE.consistency_proof(old, size)
        assert list(proof) == subproof(old, 0, size, True)
        assert verify_consistency(old, ROOTS[old], size, ROOTS[size], proof) == ROOTS[size]
        for wrong in (old - 1, old + 1):
            if 0 < wrong <= size:
                with pytest.raises(ProofInvalid):
                    verify_consistency(wrong, ROOTS[old], size, ROOTS[size], proof)
                with pytest.raises(ProofInvalid):
                    verify_consistency(old, ROOTS[wrong], size, ROOTS[size], proof)


def test_the_empty_log_is_a_prefix_of_all() -> None:
    for size in (0, 1, 5):
        assert TREE.consistency_proof(0, size) == ()
        assert verify_consistency(0, EMPTY_ROOT, size, ROOTS[size], ()) == ROOTS[size]
        with pytest.raises(ProofInvalid):
            verify_consistency(0, ROOTS[1], size, ROOTS[size], ())
    with pytest.raises(ProofInvalid):
        verify_consistency(0, EMPTY_ROOT, 0, ROOTS[1], ())
    with pytest.raises(ProofInvalid):
        verify_consistency(0, EMPTY_ROOT, 3, ROOTS[3], (ROOTS[1],))
    with pytest.raises(ProofInvalid):
        verify_consistency(3, ROOTS[3], 3, ROOTS[3], (ROOTS[1],))


# --- published values: the test tree of the Certificate Transparency project ------------------------------------------

CT_ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_INCLUSION = {  # (leaf, size)
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CT_CONSISTENCY = {  # (old size, size)
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def test_the_published_tree() -> None:
    tree = tree_of(CT_ENTRIES)
    assert tree.root(0).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [tree.root(size).hex() for size in range(1, 9)] == CT_ROOTS
    for (index, size), proof in CT_INCLUSION.items():
        assert [step.hex() for step in tree.inclusion_proof(index, size)] == proof
        steps = [bytes.fromhex(step) for step in proof]
        verify_inclusion(leaf_hash(CT_ENTRIES[index]), index, size, steps, tree.root(size))
    for (old, size), proof in CT_CONSISTENCY.items():
        assert [step.hex() for step in tree.consistency_proof(old, size)] == proof
        verify_consistency(old, tree.root(old), size, tree.root(size), [bytes.fromhex(step) for step in proof])


# --- what is no proof -------------------------------------------------------------------------------------------------

sizes = st.integers(1, SIZE)


@given(sizes, st.data())
def test_a_proof_with_anything_altered_is_refused(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    entry_hash, root = leaf_hash(ENTRIES[index]), ROOTS[size]
    proof = list(TREE.inclusion_proof(index, size))
    bit = data.draw(st.integers(0, 255))

    def flipped(value: bytes) -> bytes:
        return (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(32, "big")

    altered: list[tuple[Any, Any, Any]] = [
        (EntryHash(flipped(entry_hash)), proof, root),
        (entry_hash, proof, RootHash(flipped(root))),
        (entry_hash, [*proof, flipped(root)], root),
        (entry_hash, [root, *proof], root),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        altered.append((entry_hash, [*proof[:at], EntryHash(flipped(proof[at])), *proof[at + 1 :]], root))
        altered.append((entry_hash, proof[:at] + proof[at + 1 :], root))
        altered.append((entry_hash, proof[:-1], root))
    if len(proof) > 1:
        altered.append((entry_hash, list(reversed(proof)), root))
    for changed_hash, changed_proof, changed_root in altered:
        with pytest.raises(ProofInvalid):
            verify_inclusion(changed_hash, index, size, changed_proof, changed_root)


@given(sizes, st.data())
def test_a_fork_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, size - 1))
    fork = [*ENTRIES[:SIZE]]
    fork[at] = b"another"
    forked = tree_of(fork)
    new_size = data.draw(st.integers(size, SIZE))
    for proof in (
        forked.consistency_proof(size, new_size),
        TREE.consistency_proof(size, new_size),
        (),
    ):
        with pytest.raises(ProofInvalid):
            verify_consistency(size, ROOTS[size], new_size, forked.root(new_size), proof)
    # Nor does a log that was cut: the newer checkpoint has fewer entries.
    with pytest.raises(ProofInvalid):
        verify_consistency(size, ROOTS[size], size - 1, ROOTS[size - 1], ())


def test_neither_a_node_nor_padding_passes_for_an_entry() -> None:
    for size in (2, 3, 4, 5, 7, 8, 13):
        root = ROOTS[size]
        # Every inner node, at every index with every run of the true hashes as its proof.
        nodes = {mth(start, end) for start in range(size) for end in range(start + 2, size + 1)}
        for index in range(min(size, 9)):
            proof = TREE.inclusion_proof(index, size)
            for node in (*nodes, bytes(32), sha256(b""), sha256(bytes(32)), leaf_hash(bytes(32)), root):
                for cut in range(len(proof) + 1):
                    with pytest.raises(ProofInvalid):
                        verify_inclusion(EntryHash(node), index, size, proof[cut:], root)
    # An entry whose bytes are a node's two children is hashed as a leaf, not as that node.
    children = leaf_hash(ENTRIES[0]) + leaf_hash(ENTRIES[1])
    assert leaf_hash(children) != mth(0, 2) != leaf_hash(b"\x01" + children)


NO_PLACES: list[Any] = [-1, 1.0, "1", None, True, b"1"]
NO_HASHES: list[Any] = [b"", bytes(31), bytes(33), bytearray(32), "0" * 32, None, 0]
NO_PROOFS: list[Any] = [None, b"", bytes(32), 7, iter(()), {}, [bytes(31)], [None], [bytearray(32)], [bytes(32)] * 65]


def test_verifying_takes_hostile_arguments() -> None:
    entry_hash, root = leaf_hash(ENTRIES[0]), ROOTS[2]
    proof = TREE.inclusion_proof(0, 2)
    bad: list[Any] = [(entry_hash, place, 2, proof, root) for place in NO_PLACES]
    bad += [(entry_hash, 0, size, proof, root) for size in NO_PLACES]
    bad += [(value, 0, 2, proof, root) for value in NO_HASHES] + [
        (entry_hash, 0, 2, proof, value) for value in NO_HASHES
    ]
    bad += [(entry_hash, 0, 2, value, root) for value in NO_PROOFS]
    for arguments in bad:
        with pytest.raises(ProofInvalid):
            verify_inclusion(*arguments)
    growth = TREE.consistency_proof(1, 2)
    bad = [(place, ROOTS[1], 2, root, growth) for place in NO_PLACES] + [
        (1, ROOTS[1], p, root, growth) for p in NO_PLACES
    ]
    bad += [(1, value, 2, root, growth) for value in NO_HASHES] + [
        (1, ROOTS[1], 2, value, growth) for value in NO_HASHES
    ]
    bad += [(1, ROOTS[1], 2, root, value) for value in NO_PROOFS]
    for arguments in bad:
        with pytest.raises(ProofInvalid):
            verify_consistency(*arguments)
    # A number beyond every log costs no more than its length.
    huge = 2**2000
    with pytest.raises(ProofInvalid):
        verify_inclusion(entry_hash, 0, huge, proof, root)
    with pytest.raises(ProofInvalid):
        verify_consistency(1, ROOTS[1], huge, root, growth)


def test_a_place_outside_the_tree_is_the_callers_mistake() -> None:
    tree = tree_of(ENTRIES[:3])
    calls: list[Any] = [
        lambda: tree.root(4), lambda: tree.root(-1), lambda: tree.root(True), lambda: tree.leaf(3),
        lambda: tree.leaf(-1),
        lambda: tree.inclusion_proof(3), lambda: tree.inclusion_proof(-1), lambda: tree.inclusion_proof(2, 2),
        lambda: tree.inclusion_proof(0, 4), lambda: tree.consistency_proof(4), lambda: tree.consistency_proof(-1),
        lambda: tree.consistency_proof(3, 2), lambda: tree.consistency_proof(1, 4),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ArgumentInvalid):
            call()


# --- cost -------------------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    original = _crypto.sha256

    def sha(data: bytes) -> bytes:
        calls.append(len(data))
        return original(data)

    monkeypatch.setattr(_crypto, "sha256", sha)
    return calls


def test_an_append_costs_two_hashes_and_a_proof_a_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    tree = MerkleTree()
    for number in range(4096):
        tree.append(leaf_hash(b"%d" % number))
    assert len(calls) == 2 * 4096 - 1  # a leaf each, and every inner node once
    for size in (4096, 4095, 2049, 1):
        calls.clear()
        root = tree.root(size)
        assert len(calls) <= 12
        calls.clear()
        proof = tree.inclusion_proof(0, size)
        assert len(proof) <= 12
        assert len(calls) <= 2 * 12
        calls.clear()
        verify_inclusion(tree.leaf(0), 0, size, proof, root)
        assert len(calls) <= 12
