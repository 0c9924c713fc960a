"""The family bundle: issued, verified, and refused in every field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentmesh.identity import Identity, did_of
from agentmesh.primitives._labels import SIGN_BUNDLE, SIGN_KNOCK, SignatureLabel
from generator import curve, wire
from generator.codes import BAD_KEY, BAD_SIGNATURE, MALFORMED, POINT, TOO_LARGE, VERSION
from generator.world import (
    ALICE,
    BOB,
    DAY_MS,
    LAST_RESORT,
    MALLORY,
    MESH,
    NOT_AFTER_MS,
    NOW_MS,
    ONE_TIME,
    OTHER_ONE_TIME,
    TOLERANCE_MS,
    Files,
    Stock,
)

Json = dict[str, Any]

Case = tuple[str, str, Json, str]

NAMES: Final = ("version", "class", "mesh", "identity", "prekey", "kem-key", "not-before", "not-after")


def items_of(bundle: Stock) -> list[bytes]:
    """Return the encoded fields of a bundle's body."""
    return [
        wire.uint(1),
        wire.uint(bundle.bundle_class),
        wire.text(MESH.encode()),
        wire.binary(BOB.key.raw),
        wire.binary(bundle.prekey),
        wire.binary(bundle.kem_key),
        wire.uint(bundle.not_before_ms),
        wire.uint(bundle.not_after_ms),
    ]


def signed(body: bytes, signer: Identity = BOB, label: SignatureLabel = SIGN_BUNDLE) -> bytes:
    """Return a body with a good signature over it, whatever it is."""
    return wire.pair(body, signer.sign(label, body))


def verification(data: bytes, **changes: Any) -> Json:
    """Return the input of `bundle.verify` for these bytes."""
    return {"bundle": data.hex(), "did": BOB.did, "mesh": MESH, "now_ms": NOW_MS, **changes}


def bundle() -> Files:
    """Return the family bundle."""
    files = Files("bundle")
    for name, kind, stock in (
        ("one-time", "a one-time bundle", ONE_TIME),
        ("last-resort", "a last-resort bundle", LAST_RESORT),
    ):
        body = wire.array(*items_of(stock))
        given = {
            "identity_seed": BOB.seed.reveal().hex(),
            "class": stock.bundle_class,
            "mesh": MESH,
            "not_before_ms": stock.not_before_ms,
            "not_after_ms": stock.not_after_ms,
            "prekey_secret": stock.prekey_secret.hex(),
            "kem_seed": stock.kem_seed.hex(),
        }
        files.add(
            f"issue-{name}",
            "bundle.issue",
            f"{kind}, from its secrets",
            spec="3",
            given=given,
            intermediate={
                "identity": BOB.key.raw.hex(),
                "prekey": stock.prekey.hex(),
                "body": body.hex(),
                "signed": (SIGN_BUNDLE + body).hex(),
                "signature": BOB.sign(SIGN_BUNDLE, body).hex(),
            },
            output={"bundle": signed(body).hex(), "bundle_ref": stock.published.ref.hex()},
        )
        files.add(f"verify-{name}", "bundle.verify", f"{kind}, verified", spec="3", given=verification(stock.data))
    begin, end = NOW_MS - TOLERANCE_MS, NOT_AFTER_MS + TOLERANCE_MS
    files.add_each("bundle.verify", "3", (
        (f"verify-{name}", comment, verification(ONE_TIME.data, now_ms=at_ms))
        for name, comment, at_ms in (
            ("early", "300 s before its validity: the last moment of the tolerance", begin),
            ("late", "300 s behind its validity", end),
        )
    ))  # fmt: skip
    fields = (*_fields(), *_two_faults(), *_owners())
    refused = (*_other_context(begin, end), *_altered(), *_signatures(), *fields, *_forms())
    files.add_each("bundle.verify", "3", (
        (f"refuse-{name}", comment, given, code)
        for name, comment, given, code in refused
    ))  # fmt: skip
    return files


def _other_context(begin: int, end: int) -> Iterator[Case]:
    good = ONE_TIME.data
    yield from (
        ("other-did", "the DID of somebody else was wanted", verification(good, did=MALLORY.did), "bundle.identity"),
        ("other-mesh", "the verifier is in another mesh", verification(good, mesh="example/other"), "bundle.mesh"),
        ("too-early", "a millisecond before the tolerance", verification(good, now_ms=begin - 1), "bundle.expired"),
        ("too-late", "a millisecond behind the tolerance", verification(good, now_ms=end + 1), "bundle.expired"),
    )


def _altered() -> Iterator[Case]:
    """Yield bundles with one field from elsewhere, under the old signature."""
    items, signature = items_of(ONE_TIME), ONE_TIME.data[-64:]
    elsewhere = "one field from elsewhere under the old signature"
    for name, comment, item, change in (
        ("class", elsewhere, wire.uint(2), {}),
        ("prekey", elsewhere, wire.binary(OTHER_ONE_TIME.prekey), {}),
        ("kem-key", elsewhere, wire.binary(OTHER_ONE_TIME.kem_key), {}),
        ("not-before", elsewhere, wire.uint(NOW_MS - DAY_MS), {}),
        ("not-after", elsewhere, wire.uint(NOT_AFTER_MS + DAY_MS), {}),
        ("mesh", "the mesh changed to the verifier's under the old signature", wire.text(b"example/other"),
         {"mesh": "example/other"}),
        ("identity", "another owner's key under the old signature", wire.binary(MALLORY.key.raw), {"did": MALLORY.did}),
    ):  # fmt: skip
        data = wire.pair(wire.with_item(items, NAMES.index(name), item), signature)
        yield f"altered-{name}", comment, verification(data, **change), BAD_SIGNATURE


def _signatures() -> Iterator[Case]:
    body, signature = wire.array(*items_of(ONE_TIME)), ONE_TIME.data[-64:]
    for name, comment, bad in (
        ("empty", "the signature stripped to no bytes", b""),
        ("zero", "64 zero bytes", bytes(64)),
        ("short", "63 bytes", signature[:-1]),
        ("long", "65 bytes", signature + b"\x00"),
        ("flipped-r", "a bit of R flipped", wire.flipped(signature, 5)),
        ("flipped-s", "a bit of S flipped", wire.flipped(signature, 40)),
        ("other-signer", "signed by somebody else", MALLORY.sign(SIGN_BUNDLE, body)),
        ("other-label", "the owner's signature under another label", BOB.sign(SIGN_KNOCK, body)),
        ("no-label", "the owner's signature over the body without a label", BOB.sign(SignatureLabel(b""), body)),
        ("other-bundle", "the signature of another bundle of the owner", OTHER_ONE_TIME.data[-64:]),
    ):
        yield f"signature-{name}", comment, verification(wire.pair(body, bad)), BAD_SIGNATURE


def _fields() -> Iterator[Case]:
    """Yield bundles with another field, under a good signature."""
    items = items_of(ONE_TIME)
    kem_keys = {name: key for name, _, key in curve.bad_kem_keys(ONE_TIME.kem_key)}
    for name, comment, index, item, expect in (
        ("version-0", "version 0", 0, wire.uint(0), VERSION),
        ("version-2", "version 2", 0, wire.uint(2), VERSION),
        ("class-0", "class 0", 1, wire.uint(0), VERSION),
        ("class-3", "class 3", 1, wire.uint(3), VERSION),
        ("prekey-non-canonical", "a prekey with u = p + 9", 4, wire.binary((curve.P + 9).to_bytes(32, "little")),
         POINT),
        ("prekey-top-bit", "a prekey with its top bit set", 4, wire.binary(wire.flipped(ONE_TIME.prekey, 31, 0x80)),
         POINT),
        ("kem-key-modulus", "an unreduced coefficient in the KEM key", 5, wire.binary(kem_keys["key-modulus"]), POINT),
        ("kem-key-last-coefficient", "the last coefficient unreduced", 5, wire.binary(kem_keys["key-last-coefficient"]),
         POINT),
        ("validity-turned", "not_after before not_before", 7, wire.uint(NOW_MS - 1), MALFORMED),
        ("prekey-short", "a prekey of 31 bytes", 4, wire.binary(bytes(31)), MALFORMED),
        ("identity-long", "an identity of 33 bytes", 3, wire.binary(bytes(33)), MALFORMED),
        ("kem-key-empty", "the KEM key removed", 5, wire.binary(b""), MALFORMED),
        ("kem-key-nil", "nil in the KEM key's place", 5, wire.NIL, MALFORMED),
        ("time-negative", "a negative time", 6, b"\xff", MALFORMED),
        ("time-float", "a time as a float", 6, b"\xcb" + bytes(8), MALFORMED),
        ("time-over-2-53", "a time of 2^53", 7, wire.uint(2**53), MALFORMED),
        ("version-true", "true in the version's place", 0, wire.TRUE, MALFORMED),
        ("version-uint8", "the version in a longer form", 0, wire.uint8(1), MALFORMED),
        ("class-uint64", "the class in a longer form", 1, wire.uint64(1), MALFORMED),
        ("mesh-str8", "the mesh in a longer form", 2, wire.text8(MESH.encode()), MALFORMED),
        ("mesh-bin", "the mesh as a byte string", 2, wire.binary(MESH.encode()), MALFORMED),
        ("mesh-not-utf8", "a mesh that is not UTF-8", 2, wire.text(b"example/\xff"), MALFORMED),
        ("mesh-empty", "a mesh of no bytes", 2, wire.text(b""), MALFORMED),
        ("mesh-65", "a mesh of 65 bytes", 2, wire.text(b"a" * 65), MALFORMED),
        ("mesh-other-characters", "a mesh that is no name: it is not the verifier's, and that is all", 2,
         wire.text(b"Example Mesh"), "bundle.mesh"),
        ("prekey-bin16", "the prekey in a longer form", 4, wire.binary16(ONE_TIME.prekey), MALFORMED),
        ("prekey-str", "the prekey as a string", 4, wire.text8(b"k" * 32), MALFORMED),
    ):  # fmt: skip
        data = signed(wire.with_item(items, index, item))
        yield f"signed-{name}", f"{comment}, under a good signature", verification(data), expect


def _two_faults() -> Iterator[Case]:
    """Yield bundles with two faults: the first in the order of section 3 is told."""
    unnamed = wire.replaced(items_of(ONE_TIME), 2, wire.text(b"Example Mesh"))
    yield from (
        ("two-faults-version-mesh", "version 2, and a mesh that is no name",
         verification(signed(wire.with_item(unnamed, 0, wire.uint(2)))), VERSION),
        ("two-faults-identity-mesh", "another identity's, and a mesh that is no name",
         verification(signed(wire.array(*unnamed)), did=MALLORY.did), "bundle.identity"),
        ("two-faults-mesh-signature", "a mesh that is no name, under a bad signature",
         verification(wire.pair(wire.array(*unnamed), bytes(64))), "bundle.mesh"),
    )  # fmt: skip


def _owners() -> Iterator[Case]:
    """Yield bundles of somebody else, or of nobody."""
    items = items_of(ONE_TIME)
    for name, comment, key in (
        ("small-order", "the neutral element", curve.TORSION[0][1]),
        ("mixed-order", "a key of mixed order", curve.add(BOB.key.raw, curve.TORSION[4][1])),
    ):
        data = signed(wire.with_item(items, 3, wire.binary(key)))
        comment = f"{comment} as the owner, whose DID is asked for"
        yield f"identity-{name}", comment, verification(data, did=did_of(key)), BAD_KEY
    grafted = signed(wire.with_item(items, 3, wire.binary(MALLORY.key.raw)), MALLORY)
    own = signed(wire.array(*items), ALICE)
    yield from (
        ("misbinding", "Bob's prekeys published by somebody else under Bob's DID", verification(grafted),
         "bundle.identity"),
        ("signed-by-initiator", "a bundle that the verifier's own key signed", verification(own), BAD_SIGNATURE),
    )  # fmt: skip


def _forms() -> Iterator[Case]:
    items, signature = items_of(ONE_TIME), ONE_TIME.data[-64:]
    body = wire.array(*items)
    for name, comment, data in wire.foreign_arrays(items, shortly=True):
        comment = f"the body: {comment}; the signature over it is good"
        yield f"body-{name}", comment, verification(signed(data)), MALFORMED
    for name, comment, data in wire.foreign_arrays([wire.binary(body), wire.binary(signature)], shortly=True):
        yield f"form-{name}", f"the bundle: {comment}", verification(data), MALFORMED
    for name, comment, data in (
        ("body-bin32", "the body in a longer form", wire.array(wire.binary32(body), wire.binary(signature))),
        ("signature-bin16", "the signature in a longer form", wire.array(wire.binary(body), wire.binary16(signature))),
        ("truncated-half", "half of it", ONE_TIME.data[: len(ONE_TIME.data) // 2]),
    ):
        yield f"form-{name}", comment, verification(data), MALFORMED
    large = wire.pair(body, signature + bytes(1501 - len(ONE_TIME.data)))
    yield "too-large", "1,501 bytes: refused by length alone", verification(large), TOO_LARGE
