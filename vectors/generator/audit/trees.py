"""The family merkle: roots, proofs, and everything that is nearly a proof."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentmesh.audit import leaf_hash
from agentmesh.audit.merkle import MerkleTree
from agentmesh.primitives import _crypto
from generator.codes import PROOF
from generator.wire import flipped
from generator.world import Files, token

Json = dict[str, Any]

SPEC: Final = "8"
EMPTY_ROOT: Final = _crypto.sha256(b"")

# The entries that the Certificate Transparency project tests its trees with, and its roots over the first 0 to 8.
CT_ENTRIES: Final = (
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
)
CT_ROOTS: Final = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
SIZES: Final = (*range(21), 31, 32, 33)


def entries(size: int) -> list[bytes]:
    """Return this many byte strings; a tree does not care what they say."""
    return [index.to_bytes(2, "big") for index in range(size)]


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return _crypto.sha256(b"\x01" + left + right)


def tree_of(leaves: list[bytes]) -> MerkleTree:
    """Return the tree over these entries."""
    tree = MerkleTree()
    for data in leaves:
        tree.append(leaf_hash(data))
    return tree


def _hex(values: Any) -> list[str]:
    return [value.hex() for value in values]


def merkle() -> Files:
    """Return the family merkle."""
    files = Files("merkle")
    for size, root in enumerate(CT_ROOTS):
        files.add(
            f"root-published-{size}",
            "merkle.root",
            f"the published root over the first {size} entries of the Certificate Transparency project's test tree",
            spec=SPEC,
            given={"entries": list(CT_ENTRIES[:size])},
            output={"root": root},
        )
    files.add_each("merkle.root", SPEC, (
        (f"root-{size}", f"the root over {size} entries", {"entries": _hex(entries(size))})
        for size in (*SIZES, 100, 255, 256, 257, 1000)
    ))  # fmt: skip
    for size in SIZES:
        given = {"entries": _hex(entries(size))}
        files.add(
            f"inclusion-proofs-{size}",
            "merkle.inclusion_proofs",
            f"for each of {size} entries, the proof that it is among them",
            spec=SPEC,
            given=given,
        )
        files.add(
            f"consistency-proofs-{size}",
            "merkle.consistency_proofs",
            f"for each size from 0 to {size}, the proof that the tree of {size} begins with that of the size",
            spec=SPEC,
            given=given,
        )
    _inclusion(files)
    _consistency(files)
    return files


# --- inclusion -------------------------------------------------------------------------------------------------------


def _included(index: int, size: int) -> Json:
    """Return the input of `merkle.verify_inclusion` for a good proof."""
    data = entries(size)
    tree = tree_of(data)
    return {
        "entry": data[index].hex(),
        "index": index,
        "size": size,
        "proof": _hex(tree.inclusion_proof(index)),
        "root": tree.root().hex(),
    }


def _inclusion(files: Files) -> None:
    for index, size in (
        (0, 1), (0, 2), (1, 2), (2, 3), (3, 7), (6, 7), (7, 8), (8, 9), (19, 20), (511, 1000), (999, 1000),
    ):  # fmt: skip
        files.add(
            f"verify-inclusion-{index}-of-{size}",
            "merkle.verify_inclusion",
            f"entry {index} of {size}",
            spec=SPEC,
            given=_included(index, size),
            output={"entry_hash": leaf_hash(entries(size)[index]).hex()},
        )
    files.add(
        "verify-inclusion-another-size",
        "merkle.verify_inclusion",
        "size 12 with the root of 11, a path of the same shape: who signs the root binds the size, and no proof does",
        spec=SPEC,
        given={**_included(5, 11), "size": 12},
    )
    files.add_each("merkle.verify_inclusion", SPEC, (
        (f"refuse-inclusion-{name}", comment, {**base, **change}, PROOF)
        for name, comment, base, change in (*_bad_inclusions(), *_passed_off(), *_unfit_inclusions())
    ))  # fmt: skip


def _bad_inclusions() -> Iterator[tuple[str, str, Json, Json]]:
    base = _included(5, 11)
    proof: list[str] = base["proof"]
    root = bytes.fromhex(base["root"])
    for step, value in enumerate(proof):
        bad = [*proof[:step], flipped(bytes.fromhex(value), 31).hex(), *proof[step + 1 :]]
        yield f"flipped-step-{step}", f"a bit of hash {step} of the proof flipped", base, {"proof": bad}
    one = _included(0, 1)
    last = _included(10, 11)
    yield from (
        ("step-missing-first", "the first hash of the proof missing", base, {"proof": proof[1:]}),
        ("step-missing-last", "the last hash of the proof missing", base, {"proof": proof[:-1]}),
        ("step-twice", "a hash of the proof twice", base, {"proof": [proof[0], *proof]}),
        ("step-more", "the root behind the proof: too long by one", base, {"proof": [*proof, root.hex()]}),
        ("step-short", "a hash of 31 bytes", base, {"proof": [*proof[:-1], proof[-1][:-2]]}),
        ("step-long", "a hash of 33 bytes", base, {"proof": [*proof[:-1], proof[-1] + "00"]}),
        ("step-empty", "an empty hash behind the proof", base, {"proof": [*proof, ""]}),
        ("swapped", "two hashes of the proof swapped", base, {"proof": [proof[1], proof[0], *proof[2:]]}),
        ("reversed", "the proof from the root down", base, {"proof": proof[::-1]}),
        ("empty", "no proof", base, {"proof": []}),
        ("zero", "as many hashes as it takes, all zero", base, {"proof": [bytes(32).hex()] * len(proof)}),
        ("65", "65 hashes: more than any log's proof has", base, {"proof": [proof[0]] * 65}),
        ("next-index", "the index of the next entry", base, {"index": 6}),
        ("previous-index", "the index of the entry before", base, {"index": 4}),
        ("index-at-size", "an index that is the size", base, {"index": 11}),
        ("index-beyond", "an index over the size", base, {"index": 5 + 16}),
        ("size-16", "a size that makes the path one step longer here", base, {"size": 17}),
        ("size-of-subtree", "the size of the complete subtree on the left", base, {"size": 8}),
        ("size-0", "no entry is in a log of size 0", base, {"size": 0, "index": 0, "proof": []}),
        ("other-entry", "another entry", base, {"entry": entries(11)[6].hex()}),
        ("longer-entry", "the entry with a byte behind it", base, {"entry": base["entry"] + "00"}),
        ("empty-entry", "no bytes as the entry", base, {"entry": ""}),
        ("flipped-root", "a bit of the root flipped", base, {"root": flipped(root, 0).hex()}),
        ("root-of-10", "the root of the log one entry earlier", base, {"root": tree_of(entries(10)).root().hex()}),
        ("root-short", "a root of 31 bytes", base, {"root": base["root"][:-2]}),
        ("root-empty-log", "the root of the empty log", base, {"root": EMPTY_ROOT.hex()}),
        ("only-entry-with-a-step", "one entry needs no hash", one, {"proof": [token("audit/step").hex()]}),
        ("only-entry-itself-as-root", "the entry's hash without the byte 0x00", one,
         {"root": _crypto.sha256(bytes.fromhex(one["entry"])).hex()}),
        ("last-as-complete", "the last entry's proof with a hash where its path goes up alone", last,
         {"proof": [last["proof"][0], *last["proof"]]}),
        ("other-entrys-proof", "the proof of another entry", base, {"proof": last["proof"]}),
    )  # fmt: skip


def _passed_off() -> Iterator[tuple[str, str, Json, Json]]:
    """Yield what no leaf is hashed from."""
    data = entries(8)
    tree = tree_of(data)
    leaves = [leaf_hash(one) for one in data]
    pair = leaves[4] + leaves[5]
    proof = _hex(tree.inclusion_proof(4))
    base = {"entry": pair.hex(), "index": 2, "size": 4, "proof": proof[1:], "root": tree.root().hex()}
    tree_of_roots = "in a tree that is four times as small"
    top = node(node(leaves[0], leaves[1]), node(leaves[2], leaves[3])) + node(
        node(leaves[4], leaves[5]), node(leaves[6], leaves[7])
    )
    eleven = tree_of(entries(11))
    padded = {
        "entry": "",
        "index": 11,
        "size": 12,
        "proof": _hex([leaf_hash(entries(11)[10]), *eleven.inclusion_proof(10)]),
        "root": eleven.root().hex(),
    }
    yield from (
        ("inner-node", f"two leaf hashes for an entry, {tree_of_roots.replace('four times', 'half')}", base, {}),
        ("inner-node-with-prefix", "the same with the byte 0x01 that a node is hashed with in front", base,
         {"entry": "01" + pair.hex()}),
        ("inner-node-at-its-leaf", "two leaf hashes for an entry, at the place of the first", base,
         {"index": 4, "size": 8, "proof": proof[1:]}),
        ("root-node", "both halves of the root for the only entry of a log", base,
         {"entry": top.hex(), "index": 0, "size": 1, "proof": []}),
        ("padding", "an empty entry behind the last: other trees fill up to a power of two", padded, {}),
        ("zero-leaf", "32 zero bytes behind the last: other trees pad with them", padded, {"entry": bytes(32).hex()}),
    )  # fmt: skip


def _unfit_inclusions() -> Iterator[tuple[str, str, Json, Json]]:
    """Yield what gives the root, where one check alone refuses."""
    one, two = _included(0, 1), _included(1, 2)
    eight = _included(7, 8)
    yield from (
        ("beyond-the-top-1", "entry 1 of 2 as the only one: the path goes on above the top", two,
         {"index": 0, "size": 1}),
        ("beyond-the-top-2", "entry 7 of 8 as entry 1 of 2, with all its path", eight, {"index": 1, "size": 2}),
        ("index-at-size-1", "the only entry as entry 1 of 1", one, {"index": 1}),
    )  # fmt: skip
    leaf, step = leaf_hash(entries(1)[0]), token("audit/step")
    for size in (31, 33):
        short = (step + step)[:size]
        yield (f"step-{size}-gives-the-root", f"a hash of {size} bytes, and the root that comes of it", one,
               {"size": 2, "proof": [short.hex()], "root": node(leaf, short).hex()})  # fmt: skip


# --- consistency -----------------------------------------------------------------------------------------------------


def _consistent(old_size: int, size: int) -> Json:
    """Return the input of `merkle.verify_consistency` for a good proof."""
    tree = tree_of(entries(size))
    return {
        "old_size": old_size,
        "old_root": tree.root(old_size).hex(),
        "size": size,
        "root": tree.root().hex(),
        "proof": _hex(tree.consistency_proof(old_size)),
    }


def _consistency(files: Files) -> None:
    pairs = (
        (0, 0), (0, 1), (0, 7), (1, 1), (1, 2), (2, 2), (3, 4), (4, 7), (5, 6), (6, 8), (7, 7), (8, 9), (9, 10),
        (9, 11), (13, 20), (17, 20), (512, 1000),
    )  # fmt: skip
    files.add_each("merkle.verify_consistency", SPEC, (
        (f"verify-consistency-{old_size}-to-{size}", f"a log of {old_size} entries that grew to {size}",
         _consistent(old_size, size))
        for old_size, size in pairs
    ))  # fmt: skip
    files.add(
        "verify-consistency-another-size",
        "merkle.verify_consistency",
        "size 10 with the root of 11, a path of the same shape: who signs the root binds the size, and no proof does",
        spec=SPEC,
        given={**_consistent(6, 11), "size": 10},
    )
    files.add_each("merkle.verify_consistency", SPEC, (
        (f"refuse-consistency-{name}", comment, {**base, **change}, PROOF)
        for name, comment, base, change in (*_bad_consistency(), *_other_trees(), *_unfit_consistency())
    ))  # fmt: skip


def _bad_consistency() -> Iterator[tuple[str, str, Json, Json]]:
    base = _consistent(6, 11)
    proof: list[str] = base["proof"]
    for step, value in enumerate(proof):
        bad = [*proof[:step], flipped(bytes.fromhex(value), 0).hex(), *proof[step + 1 :]]
        yield f"flipped-step-{step}", f"a bit of hash {step} of the proof flipped", base, {"proof": bad}
    old_root, root = bytes.fromhex(base["old_root"]), bytes.fromhex(base["root"])
    yield from (
        ("step-missing-first", "the first hash of the proof missing", base, {"proof": proof[1:]}),
        ("step-missing-last", "the last hash of the proof missing", base, {"proof": proof[:-1]}),
        ("step-more", "a hash behind the proof", base, {"proof": [*proof, base["root"]]}),
        ("step-short", "a hash of 31 bytes", base, {"proof": [*proof[:-1], proof[-1][:-2]]}),
        ("swapped", "two hashes of the proof swapped", base, {"proof": [proof[1], proof[0], *proof[2:]]}),
        ("reversed", "the proof from the root down", base, {"proof": proof[::-1]}),
        ("empty", "no proof", base, {"proof": []}),
        ("65", "65 hashes: more than any log's proof has", base, {"proof": [proof[0]] * 65}),
        ("shrunk", "the larger size as the old one", base,
         {"old_size": 11, "old_root": base["root"], "size": 6, "root": base["old_root"]}),
        ("old-size-7", "an old size of one more", base, {"old_size": 7}),
        ("old-size-5", "an old size of one less", base, {"old_size": 5}),
        ("size-8", "a size that makes the path shorter", base, {"size": 8}),
        ("size-17", "a size that makes the path longer", base, {"size": 17}),
        ("flipped-old-root", "a bit of the old root flipped: another log", base,
         {"old_root": flipped(old_root, 0).hex()}),
        ("flipped-root", "a bit of the root flipped: another log", base, {"root": flipped(root, 31).hex()}),
        ("roots-swapped", "the two roots swapped", base, {"old_root": base["root"], "root": base["old_root"]}),
        ("old-root-short", "an old root of 31 bytes", base, {"old_root": base["old_root"][:-2]}),
        ("root-short", "a root of 31 bytes", base, {"root": base["root"][:-2]}),
    )  # fmt: skip


def _other_trees() -> Iterator[tuple[str, str, Json, Json]]:
    """Yield proofs of logs that were rewritten, and of sizes between which no proof is needed."""
    base = _consistent(6, 11)
    altered = entries(11)
    altered[2] = b"\xff\xff"
    rewritten = tree_of(altered)
    inserted = entries(11)
    inserted.insert(6, b"\xff\xff")
    other = tree_of(inserted[:11])
    dropped = tree_of(entries(11)[1:])
    power = _consistent(8, 11)
    same = _consistent(7, 7)
    empty = _consistent(0, 7)
    nothing = _consistent(0, 0)
    yield from (
        ("rewritten", "entry 2 written anew: the proof that its tree gives", base,
         {"root": rewritten.root().hex(), "proof": _hex(rewritten.consistency_proof(6))}),
        ("inserted-under-the-old-proof", "an entry put in behind the old size, and the honest log's proof", base,
         {"root": other.root().hex()}),
        ("first-dropped", "the first entry left out", base,
         {"size": 10, "root": dropped.root().hex(), "proof": _hex(dropped.consistency_proof(6))}),
        ("power-of-two-with-its-root", "an old size of 8 with its own root before the proof, which goes without saying",
         power, {"proof": [power["old_root"], *power["proof"]]}),
        ("power-of-two-empty", "no proof from 8 to 11", power, {"proof": []}),
        ("same-size-other-root", "one size and two roots: a fork at sight", same,
         {"root": tree_of(altered[:7]).root().hex()}),
        ("same-size-with-a-step", "a proof where there is nothing to prove", same, {"proof": [same["root"]]}),
        ("from-0-with-a-step", "a proof from the empty log", empty, {"proof": [empty["root"]]}),
        ("from-0-other-root", "an empty log with a root that is not the empty one's", empty,
         {"old_root": empty["root"]}),
        ("from-0-zero-root", "32 zero bytes as the root of the empty log", empty, {"old_root": bytes(32).hex()}),
        ("from-0-to-0-other-root", "the empty log with two roots", nothing, {"root": empty["root"]}),
    )  # fmt: skip


def _unfit_consistency() -> Iterator[tuple[str, str, Json, Json]]:
    """Yield what gives both roots, where one check alone refuses."""
    seven = _consistent(7, 8)
    four = _consistent(4, 8)
    two = _consistent(2, 4)
    moved = two["old_root"] + two["proof"][0][:2]
    yield from (
        ("beyond-the-top", "the proof from 7 to 8, as one from 3 to 4", seven, {"old_size": 3, "size": 4}),
        ("shrunk-on-a-path", "from 3 to 2: a path that goes on above the smaller log gives both roots", four,
         {"old_size": 3, "size": 2, "proof": [four["old_root"], *four["proof"]]}),
        ("boundary-moved", "the first byte of the proof as the 33rd of the old root: the hash over both is the same",
         two, {"old_root": moved, "proof": [two["proof"][0][2:]]}),
    )  # fmt: skip
    same = _consistent(7, 7)
    old_root, step = bytes.fromhex(two["old_root"]), bytes.fromhex(two["proof"][0])
    for size in (31, 33):
        left, right = (old_root * 2)[:size], (step * 2)[:size]
        yield (f"old-root-{size}-gives-the-root", f"an old root of {size} bytes, and the root that comes of it", two,
               {"old_root": left.hex(), "root": node(left, step).hex()})  # fmt: skip
        yield (f"step-{size}-gives-the-root", f"a hash of {size} bytes, and the root that comes of it", two,
               {"proof": [right.hex()], "root": node(old_root, right).hex()})  # fmt: skip
        root = (bytes.fromhex(same["root"]) * 2)[:size].hex()
        both = {"old_root": root, "root": root}
        yield f"same-size-both-{size}", f"one size, and both roots the same {size} bytes", same, both
    yield "from-0-root-empty", "from the empty log to a root of no bytes", _consistent(0, 7), {"root": ""}
    yield "from-0-root-33", "from the empty log to a root of 33 bytes", _consistent(0, 7), {"root": "00" * 33}
