"""The family bundle: issued, verified, and refused in every field."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity, did_of
from agentmesh.primitives._labels import SIGN_BUNDLE, SIGN_KNOCK, SignatureLabel
from generator import curve, wire
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
    return wire.array(wire.binary(body), wire.binary(signer.sign(label, body)))


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
    _refuse_context(files, begin, end)
    _refuse_altered(files)
    _refuse_resigned(files)
    _refuse_forms(files)
    return files


def _refuse(files: Files, name: str, comment: str, given: Json, expect: str) -> None:
    files.add(f"refuse-{name}", "bundle.verify", comment, spec="3", given=given, expect=expect)


def _refuse_context(files: Files, begin: int, end: int) -> None:
    good = ONE_TIME.data
    _refuse(
        files,
        "other-did",
        "the DID of somebody else was wanted",
        verification(good, did=MALLORY.did),
        "bundle.identity",
    )
    _refuse(
        files, "other-mesh", "the verifier is in another mesh", verification(good, mesh="example/other"), "bundle.mesh"
    )
    early, late = verification(good, now_ms=begin - 1), verification(good, now_ms=end + 1)
    _refuse(files, "too-early", "a millisecond before the tolerance", early, "bundle.expired")
    _refuse(files, "too-late", "a millisecond behind the tolerance", late, "bundle.expired")


def _refuse_altered(files: Files) -> None:
    body, signature = wire.array(*items_of(ONE_TIME)), BOB.sign(SIGN_BUNDLE, wire.array(*items_of(ONE_TIME)))
    items = items_of(ONE_TIME)
    altered = {
        "class": wire.uint(2),
        "prekey": wire.binary(OTHER_ONE_TIME.prekey),
        "kem-key": wire.binary(OTHER_ONE_TIME.kem_key),
        "not-before": wire.uint(NOW_MS - DAY_MS),
        "not-after": wire.uint(NOT_AFTER_MS + DAY_MS),
    }
    for name, item in altered.items():
        changed = wire.array(*wire.replaced(items, NAMES.index(name), item))
        data = wire.array(wire.binary(changed), wire.binary(signature))
        _refuse(
            files,
            f"altered-{name}",
            "one field from elsewhere under the old signature",
            verification(data),
            "signature.invalid",
        )
    other_mesh = wire.array(*wire.replaced(items, 2, wire.text(b"example/other")))
    data = wire.array(wire.binary(other_mesh), wire.binary(signature))
    _refuse(
        files,
        "altered-mesh",
        "the mesh changed to the verifier's under the old signature",
        verification(data, mesh="example/other"),
        "signature.invalid",
    )
    stolen = wire.array(*wire.replaced(items, 3, wire.binary(MALLORY.key.raw)))
    data = wire.array(wire.binary(stolen), wire.binary(signature))
    _refuse(
        files,
        "altered-identity",
        "another owner's key under the old signature",
        verification(data, did=MALLORY.did),
        "signature.invalid",
    )
    for name, comment, bad in (
        ("signature-empty", "the signature stripped to no bytes", b""),
        ("signature-zero", "64 zero bytes", bytes(64)),
        ("signature-short", "63 bytes", signature[:-1]),
        ("signature-long", "65 bytes", signature + b"\x00"),
        ("signature-flipped-r", "a bit of R flipped", wire.flipped(signature, 5)),
        ("signature-flipped-s", "a bit of S flipped", wire.flipped(signature, 40)),
        ("signature-other-signer", "signed by somebody else", MALLORY.sign(SIGN_BUNDLE, body)),
        ("signature-other-label", "the owner's signature under another label", BOB.sign(SIGN_KNOCK, body)),
        ("signature-no-label", "the owner's signature over the body without a label",
         BOB.sign(SignatureLabel(b""), body)),
        ("signature-other-bundle", "the signature of another bundle of the owner",
         BOB.sign(SIGN_BUNDLE, wire.array(*items_of(OTHER_ONE_TIME)))),
    ):  # fmt: skip
        data = wire.array(wire.binary(body), wire.binary(bad))
        _refuse(files, name, comment, verification(data), "signature.invalid")


def _refuse_resigned(files: Files) -> None:
    items = items_of(ONE_TIME)
    neutral = curve.TORSION[0][1]
    mixed = curve.add(BOB.key.raw, curve.TORSION[4][1])
    kem_keys = {name: key for name, _, key in curve.bad_kem_keys(ONE_TIME.kem_key)}
    for name, comment, index, item, expect in (
        ("version-0", "version 0", 0, wire.uint(0), "wire.version"),
        ("version-2", "version 2", 0, wire.uint(2), "wire.version"),
        ("class-0", "class 0", 1, wire.uint(0), "wire.version"),
        ("class-3", "class 3", 1, wire.uint(3), "wire.version"),
        ("prekey-non-canonical", "a prekey with u = p + 9", 4, wire.binary((curve.P + 9).to_bytes(32, "little")),
         "crypto.point"),
        ("prekey-top-bit", "a prekey with its top bit set", 4, wire.binary(wire.flipped(ONE_TIME.prekey, 31, 0x80)),
         "crypto.point"),
        ("kem-key-modulus", "an unreduced coefficient in the KEM key", 5, wire.binary(kem_keys["key-modulus"]),
         "crypto.point"),
        ("kem-key-last-coefficient", "the last coefficient unreduced", 5, wire.binary(kem_keys["key-last-coefficient"]),
         "crypto.point"),
        ("validity-turned", "not_after before not_before", 7, wire.uint(NOW_MS - 1), "wire.malformed"),
        ("prekey-short", "a prekey of 31 bytes", 4, wire.binary(bytes(31)), "wire.malformed"),
        ("identity-long", "an identity of 33 bytes", 3, wire.binary(bytes(33)), "wire.malformed"),
        ("kem-key-empty", "the KEM key removed", 5, wire.binary(b""), "wire.malformed"),
        ("kem-key-nil", "nil in the KEM key's place", 5, wire.NIL, "wire.malformed"),
        ("time-negative", "a negative time", 6, b"\xff", "wire.malformed"),
        ("time-float", "a time as a float", 6, b"\xcb" + bytes(8), "wire.malformed"),
        ("time-over-2-53", "a time of 2^53", 7, wire.uint(2**53), "wire.malformed"),
        ("version-true", "true in the version's place", 0, wire.TRUE, "wire.malformed"),
        ("version-uint8", "the version in a longer form", 0, wire.uint8(1), "wire.malformed"),
        ("class-uint64", "the class in a longer form", 1, wire.uint64(1), "wire.malformed"),
        ("mesh-str8", "the mesh in a longer form", 2, wire.text8(MESH.encode()), "wire.malformed"),
        ("mesh-bin", "the mesh as a byte string", 2, wire.binary(MESH.encode()), "wire.malformed"),
        ("mesh-not-utf8", "a mesh that is not UTF-8", 2, wire.text(b"example/\xff"), "wire.malformed"),
        ("prekey-bin16", "the prekey in a longer form", 4, wire.binary16(ONE_TIME.prekey), "wire.malformed"),
        ("prekey-str", "the prekey as a string", 4, wire.text8(b"k" * 32), "wire.malformed"),
    ):  # fmt: skip
        data = signed(wire.array(*wire.replaced(items, index, item)))
        _refuse(files, f"signed-{name}", f"{comment}, under a good signature", verification(data), expect)
    for name, comment, key in (
        ("small-order", "the neutral element", neutral),
        ("mixed-order", "a key of mixed order", mixed),
    ):
        data = signed(wire.array(*wire.replaced(items, 3, wire.binary(key))))
        _refuse(
            files,
            f"identity-{name}",
            f"{comment} as the owner, whose DID is asked for",
            verification(data, did=did_of(key)),
            "identity.key",
        )
    grafted = wire.array(*wire.replaced(items, 3, wire.binary(MALLORY.key.raw)))
    _refuse(
        files,
        "misbinding",
        "Bob's prekeys published by somebody else under Bob's DID",
        verification(signed(grafted, MALLORY)),
        "bundle.identity",
    )
    _refuse(
        files,
        "signed-by-initiator",
        "a bundle that the verifier's own key signed",
        verification(signed(wire.array(*items), ALICE)),
        "signature.invalid",
    )


def _refuse_forms(files: Files) -> None:
    items = items_of(ONE_TIME)
    body = wire.array(*items)
    signature = BOB.sign(SIGN_BUNDLE, body)
    for name, comment, data in wire.foreign_arrays(items, shortly=True):
        _refuse(
            files,
            f"body-{name}",
            f"the body: {comment}; the signature over it is good",
            verification(signed(data)),
            "wire.malformed",
        )
    for name, comment, data in wire.foreign_arrays([wire.binary(body), wire.binary(signature)], shortly=True):
        _refuse(files, f"form-{name}", f"the bundle: {comment}", verification(data), "wire.malformed")
    for name, comment, data in (
        ("body-bin32", "the body in a longer form", wire.array(wire.binary32(body), wire.binary(signature))),
        ("signature-bin16", "the signature in a longer form", wire.array(wire.binary(body), wire.binary16(signature))),
        ("truncated-half", "half of it", ONE_TIME.data[: len(ONE_TIME.data) // 2]),
    ):
        _refuse(files, f"form-{name}", comment, verification(data), "wire.malformed")
    large = wire.array(wire.binary(body), wire.binary(signature + bytes(1501 - len(ONE_TIME.data))))
    _refuse(files, "too-large", "1,501 bytes: refused by length alone", verification(large), "wire.too_large")
