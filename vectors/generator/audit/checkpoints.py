"""The family checkpoint: signed, verified, refused in every field, and one held against another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from runner.values import HASHED, SIGNATURE_NAMES

from agentmesh.identity import Identity
from agentmesh.primitives._labels import SIGN_CHECKPOINT, SignatureLabel
from generator import curve, wire
from generator.audit.trees import EMPTY_ROOT, entries, tree_of
from generator.codes import BAD_KEY, BAD_SIGNATURE, MALFORMED, PROOF, TOO_LARGE, VERSION
from generator.world import ALICE, BOB, MESH, NOW_MS, Files

Json = dict[str, Any]

SPEC: Final = "8"
SIZE: Final = 11
TIME_MS: Final = NOW_MS + 5000
NAMES: Final = ("version", "mesh", "issuer", "subject", "size", "time", "root")


def body_items(
    size: int = SIZE,
    root: bytes | None = None,
    *,
    who: Identity = ALICE,
    mesh: str = MESH,
    time_ms: int = TIME_MS,
) -> list[bytes]:
    """Return the encoded fields of a checkpoint's body."""
    root = tree_of(entries(SIZE)).root() if root is None else root
    return [
        wire.uint(1),
        wire.text(mesh.encode()),
        wire.binary(who.key.raw),
        wire.binary(who.key.raw),
        wire.uint(size),
        wire.uint(time_ms),
        wire.binary(root),
    ]


def signed(body: bytes, signer: Identity = ALICE, label: SignatureLabel = SIGN_CHECKPOINT) -> bytes:
    """Return a body with a good signature over it, whatever it is."""
    return wire.pair(body, signer.sign(label, body))


def signed_over(size: int, root: bytes, **changes: Any) -> bytes:
    """Return Alice's checkpoint over a log of this size and root."""
    return signed(wire.array(*body_items(size, root, **changes)))


def against(data: bytes, who: Identity = ALICE) -> Json:
    """Return what an operation takes of a checkpoint: its bytes, whose it must be, and in which mesh."""
    return {"checkpoint": data.hex(), "owner": who.key.raw.hex(), "mesh": MESH}


def checkpoint() -> Files:
    """Return the family checkpoint."""
    files = Files("checkpoint")
    root = tree_of(entries(SIZE)).root()
    largest = 2**53 - 1
    for name, comment, size, time_ms, mesh, over in (
        ("plain", "a log of 11 entries", SIZE, TIME_MS, MESH, root),
        ("empty-log", "a log without entries, under the root of the empty tree", 0, TIME_MS, MESH, EMPTY_ROOT),
        ("largest", "the largest size and time, and the longest mesh", largest, largest, "m" * 64, root),
        ("time-0", "time 0: it is the owner's own clock, and nobody checks it", SIZE, 0, MESH, root),
    ):
        body = wire.array(*body_items(size, over, time_ms=time_ms, mesh=mesh))
        files.add(
            f"sign-{name}",
            "checkpoint.sign",
            comment,
            spec=SPEC,
            given={
                "identity_seed": ALICE.seed.reveal().hex(),
                "mesh": mesh,
                "size": size,
                "time_ms": time_ms,
                "root": over.hex(),
            },
            intermediate={"checkpoint_body": body.hex(), "signed": (SIGN_CHECKPOINT + body).hex()},
            output={"checkpoint": signed(body).hex()},
        )
        files.add(
            f"verify-{name}",
            "checkpoint.verify",
            f"{comment}, verified",
            spec=SPEC,
            given={**against(signed(body)), "mesh": mesh},
            output={"size": size, "time_ms": time_ms, "root": over.hex()},
        )
    files.add_each("checkpoint.verify", SPEC, (
        (f"refuse-{name}", comment, given, expect)
        for name, comment, given, expect in (*_bad(), *_resigned(), *_orders(), *_forms())
    ))  # fmt: skip
    _grown(files)
    return files


# --- one checkpoint --------------------------------------------------------------------------------------------------


def _bad() -> Iterator[tuple[str, str, Json, str]]:
    body = wire.array(*body_items())
    good = signed(body)
    yield from (
        ("other-owner", "somebody else's log was wanted", against(good, BOB), BAD_SIGNATURE),
        ("other-mesh", "of another mesh, in which the owner keeps a log of its own",
         {**against(good), "mesh": "example/other"}, PROOF),
        ("mesh-prefix", "the wanted mesh is the beginning of its mesh", {**against(good), "mesh": MESH[:-1]}, PROOF),
    )  # fmt: skip
    for place in range(len(NAMES)):
        at = 1 + sum(map(len, body_items()[:place])) + len(body_items()[place]) - 1
        altered = wire.flipped(body, at)
        if place in {0, 1}:
            continue  # another version is refused as such; so is, here, a mesh that is none
        data = wire.pair(altered, ALICE.sign(SIGN_CHECKPOINT, body))
        yield (f"flipped-{NAMES[place]}", f"a bit of its field {NAMES[place]} flipped, under the old signature",
               against(data), BAD_SIGNATURE)  # fmt: skip
    signature = ALICE.sign(SIGN_CHECKPOINT, body)
    for name, comment, bad in (
        ("flipped-r", "a bit of R flipped", wire.flipped(signature, 0)),
        ("flipped-s", "a bit of S flipped", wire.flipped(signature, 32)),
        ("zero", "64 zero bytes", bytes(64)),
        ("short", "63 bytes", signature[:-1]),
        ("long", "65 bytes", signature + b"\x00"),
        ("empty", "no signature", b""),
        ("s-plus-l", "S + L in the place of S", curve.s_plus_l(signature)),
        ("by-other", "another signer's signature over the owner's body", BOB.sign(SIGN_CHECKPOINT, body)),
    ):  # fmt: skip
        data = wire.pair(body, bad)
        yield f"signature-{name}", f"the signature: {comment}", against(data), BAD_SIGNATURE
    for name, label in SIGNATURE_NAMES.items():
        if label not in {SIGN_CHECKPOINT} and name not in HASHED:
            yield f"label-{name}", f"signed under the label {name}", against(signed(body, label=label)), BAD_SIGNATURE
    longer = ALICE.sign(SIGN_CHECKPOINT, body + b"\x00")
    yield ("signed-longer", "a signature over the body with a byte behind it",
           against(wire.pair(body, longer)), BAD_SIGNATURE)  # fmt: skip


def _resigned() -> Iterator[tuple[str, str, Json, str]]:
    """Yield bodies that the owner itself signed."""
    items = body_items()
    key = BOB.key.raw
    for name, comment, place, item, expect in (
        ("version-0", "version 0", 0, wire.uint(0), VERSION),
        ("version-2", "version 2", 0, wire.uint(2), VERSION),
        ("version-true", "true as the version", 0, wire.TRUE, MALFORMED),
        ("mesh-empty", "no mesh", 1, wire.text(b""), MALFORMED),
        ("mesh-65", "a mesh of 65 bytes", 1, wire.text(b"a" * 65), MALFORMED),
        ("mesh-upper-case", "a capital in the mesh", 1, wire.text(b"example/Vectors"), MALFORMED),
        ("mesh-bin", "the mesh as a byte string", 1, wire.binary(MESH.encode()), MALFORMED),
        ("other-issuer", "another key as the issuer, signed by the owner", 2, wire.binary(key), BAD_SIGNATURE),
        ("other-subject", "another key as the subject, signed by the owner", 3, wire.binary(key), BAD_SIGNATURE),
        ("issuer-31", "an issuer of 31 bytes", 2, wire.binary(key[:-1]), MALFORMED),
        ("subject-33", "a subject of 33 bytes", 3, wire.binary(key + b"\x00"), MALFORMED),
        ("subject-nil", "nil as the subject", 3, wire.NIL, MALFORMED),
        ("size-2-53", "a size of 2^53", 4, wire.uint(2**53), MALFORMED),
        ("size-negative", "a negative size", 4, b"\xff", MALFORMED),
        ("size-long-form", "the size in the nine-byte form", 4, wire.uint64(SIZE), MALFORMED),
        ("time-2-53", "a time of 2^53", 5, wire.uint(2**53), MALFORMED),
        ("time-nil", "nil as the time", 5, wire.NIL, MALFORMED),
        ("root-31", "a root of 31 bytes", 6, wire.binary(bytes(31)), MALFORMED),
        ("root-33", "a root of 33 bytes", 6, wire.binary(bytes(33)), MALFORMED),
        ("root-empty", "no root", 6, wire.binary(b""), MALFORMED),
        ("root-text", "the root as a text", 6, wire.text(b"0" * 32), MALFORMED),
    ):
        data = signed(wire.with_item(items, place, item))
        yield f"signed-{name}", f"well signed by the owner: {comment}", against(data), expect
    yield ("signed-other-keys", "well signed by the owner: another's key in both places",
           against(signed(wire.array(*body_items(who=BOB)))), BAD_SIGNATURE)  # fmt: skip
    stranger = signed(wire.array(*body_items(who=BOB)), BOB)
    yield "stranger", "another agent's checkpoint over its own log", against(stranger), BAD_SIGNATURE


def _orders() -> Iterator[tuple[str, str, Json, str]]:
    """Yield checkpoints with two faults: which of them is told."""
    good = body_items()
    newer = wire.replaced(good, 0, wire.uint(2))
    other_mesh = wire.array(*body_items(mesh="example/other"))
    bad = wire.flipped(ALICE.sign(SIGN_CHECKPOINT, other_mesh), 0)
    yield ("other-mesh-and-signature", "of another mesh, and not signed: the signature comes first",
           against(wire.pair(other_mesh, bad)), BAD_SIGNATURE)  # fmt: skip
    for name, comment, items, expect in (
        ("newer-other-owner", "version 2, and somebody else's keys", [newer[0], *body_items(who=BOB)[1:]], VERSION),
        ("newer-mesh", "version 2, and a capital in the mesh", wire.replaced(newer, 1, wire.text(b"Mesh")), VERSION),
        ("newer-mesh-65", "version 2, and 65 bytes of mesh", wire.replaced(newer, 1, wire.text(b"a" * 65)), MALFORMED),
        ("newer-root-31", "version 2, and a root of 31 bytes", wire.replaced(newer, 6, wire.binary(b"r" * 31)),
         MALFORMED),
        ("newer-issuer-31", "version 2, and a short issuer", wire.replaced(newer, 2, wire.binary(b"k" * 31)),
         MALFORMED),
        ("newer-8-fields", "version 2, and a field more", [*newer, wire.NIL], MALFORMED),
        ("mesh-and-other-owner", "a capital in the mesh, and somebody else's keys",
         wire.replaced(body_items(who=BOB), 1, wire.text(b"Mesh")), MALFORMED),
    ):  # fmt: skip
        yield f"order-{name}", f"well signed by the owner: {comment}", against(signed(wire.array(*items))), expect
    unsigned = wire.pair(wire.array(*newer), bytes(64))
    large = signed(wire.array(*newer)).ljust(321, b"\x00")
    small_order = {"owner": (b"\x01" + bytes(31)).hex()}
    data = signed(wire.array(*good))
    yield from (
        ("order-newer-and-signature", "version 2, and 64 zero bytes as the signature", against(unsigned), VERSION),
        ("order-newer-321", "version 2, and 321 bytes: not looked at", against(large), TOO_LARGE),
        ("owner-unacceptable", "no key as the owner's: a point of small order", {**against(data), **small_order},
         BAD_KEY),
        ("order-owner-unacceptable-321", "the same with 321 bytes, which are not looked at",
         {**against(data.ljust(321, b"\x00")), **small_order}, BAD_KEY),
    )  # fmt: skip


def _forms() -> Iterator[tuple[str, str, Json, str]]:
    items = body_items()
    body = wire.array(*items)
    for name, comment, data in wire.foreign_arrays(items, shortly=True):
        yield f"form-body-{name}", f"well signed, the body: {comment}", against(signed(data)), MALFORMED
    signature = ALICE.sign(SIGN_CHECKPOINT, body)
    pair = [wire.binary(body), wire.binary(signature)]
    for name, comment, data in wire.foreign_arrays(pair):
        yield f"form-{name}", f"the pair: {comment}", against(data), MALFORMED
    whole = wire.array(*pair)
    yield from (
        ("form-body-bin16", "the body in a longer form", against(wire.array(wire.binary16(body), pair[1])), MALFORMED),
        ("form-signature-bin16", "the signature in a longer form",
         against(wire.array(pair[0], wire.binary16(signature))), MALFORMED),
        ("form-320", "320 bytes, with zeros behind the pair", against(whole.ljust(320, b"\x00")), MALFORMED),
        ("form-321", "321 bytes: not looked at", against(whole.ljust(321, b"\x00")), TOO_LARGE),
    )  # fmt: skip


# --- two checkpoints -------------------------------------------------------------------------------------------------


_TREE: Final = tree_of(entries(20))
_FORK: Final = tree_of([*entries(3), b"\xff\xff", *entries(20)[4:]])


def _growth(old_size: int, size: int, **changes: Any) -> Json:
    """Return the input of `checkpoint.grow` for a log that grew, checkpoints as bytes."""
    given = {
        "old": signed_over(old_size, _TREE.root(old_size)),
        "new": signed_over(size, _TREE.root(size), time_ms=TIME_MS + 1),
        "owner": ALICE.key.raw,
        "mesh": MESH,
        "proof": [step.hex() for step in _TREE.consistency_proof(old_size, size)],
        **changes,
    }
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in given.items()}


def _grown(files: Files) -> None:
    files.add_each("checkpoint.grow", SPEC, (
        (f"grow-{old_size}-to-{size}", f"a log that grew from {old_size} entries to {size}", _growth(old_size, size))
        for old_size, size in ((0, 5), (5, 5), (6, 13), (8, 20))
    ))  # fmt: skip
    files.add(
        "grow-with-the-clock-set-back",
        "checkpoint.grow",
        "the later one has the earlier time: sizes decide what is later",
        spec=SPEC,
        given=_growth(6, 13, new=signed_over(13, _TREE.root(13), time_ms=1)),
    )
    files.add_each("checkpoint.grow", SPEC, (
        (f"refuse-grow-{name}", comment, given, expect)
        for name, comment, given, expect in _not_grown()
    ))  # fmt: skip


def _not_grown() -> Iterator[tuple[str, str, Json, str]]:
    old, new = signed_over(6, _TREE.root(6)), signed_over(13, _TREE.root(13))
    other_old, other_new = (signed_over(size, _TREE.root(size), mesh="example/other") for size in (6, 13))
    forked = {"new": signed_over(13, _FORK.root(13)), "proof": [step.hex() for step in _FORK.consistency_proof(6, 13)]}
    of_other = signed(wire.array(*body_items(13, _TREE.root(13), who=BOB)), BOB)
    yield from (
        ("shrunk", "the new one covers fewer entries", _growth(13, 13, new=old), PROOF),
        ("forked", "another log's checkpoint as the new one, with that log's own proof", _growth(6, 13, **forked),
         PROOF),
        ("forked-at-once", "two checkpoints of one size and two roots",
         _growth(6, 6, new=signed_over(6, _FORK.root(6))), PROOF),
        ("without-a-proof", "no proof", _growth(6, 13, proof=[]), PROOF),
        ("size-mismatch", "the root of 13 entries under the size 8, with the proof of 13: hashes too many",
         _growth(6, 13, new=signed_over(8, _TREE.root(13))), PROOF),
        ("other-mesh", "the new one is of another mesh", _growth(6, 13, new=other_new), PROOF),
        ("old-signature", "a bit of the old one's signature flipped", _growth(6, 13, old=wire.flipped(old, -1)),
         BAD_SIGNATURE),
        ("old-other-mesh", "the old one is of another mesh", _growth(6, 13, old=other_old), PROOF),
        ("both-other-mesh", "both are of another mesh", _growth(6, 13, old=other_old, new=other_new), PROOF),
        ("old-before-new",
         "the old one's signature does not verify, and the new one is of another mesh: the old one comes first",
         _growth(6, 13, old=wire.flipped(old, -1), new=other_new), BAD_SIGNATURE),
        ("old-mesh-before-new-signature", "the old one is of another mesh, and the new one's signature does not verify",
         _growth(6, 13, old=other_old, new=wire.flipped(new, -1)), PROOF),
        ("new-before-the-proof", "no proof, and a new one that does not verify",
         _growth(6, 13, new=wire.flipped(new, -1), proof=[]), BAD_SIGNATURE),
        ("old-rubbish", "what is no checkpoint as the old one", _growth(6, 13, old=wire.pair(b"", b"")), MALFORMED),
        ("other-owner", "the new one is somebody else's", _growth(6, 13, new=of_other), BAD_SIGNATURE),
    )  # fmt: skip
