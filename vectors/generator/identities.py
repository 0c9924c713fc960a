"""The families did and keys: one call each."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from runner.values import HASHED, SIGNATURE_NAMES, signature_label

from agentmesh.identity import DID_PREFIX, did_of
from agentmesh.primitives import _crypto
from generator import curve
from generator.codes import BAD_KEY, BAD_SIGNATURE, POINT
from generator.wire import flipped
from generator.world import ALICE, BOB, LAST_RESORT, ONE_TIME, Files, encapsulation, token

Json = dict[str, Any]

BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


# --- did -------------------------------------------------------------------------------------------------------------


def did() -> Files:
    """Return the family did."""
    files = Files("did")
    keys = [("alice", ALICE.key.raw), ("bob", BOB.key.raw)]
    # A hash that begins with a zero byte shows the leading `1`, which an encoder of numbers forgets.
    zero = next(key for index in range(10_000) if hashlib.sha256(key := token(f"did/{index}")).digest()[0] == 0)
    keys.append(("leading-zero", zero))
    for name, key in keys:
        digest = hashlib.sha256(key).digest()
        files.add(
            f"derive-{name}",
            "did.derive",
            "the name of a key" if name != "leading-zero" else "a hash with a leading zero byte gives a leading 1",
            spec="2",
            given={"public_key": key.hex()},
            intermediate={"sha256": digest.hex(), "hash": digest[:20].hex()},
        )
    good = ALICE.did
    files.add("parse", "did.parse", "a canonical DID", spec="2", given={"did": good}, output={})
    files.add("parse-leading-one", "did.parse", "one 1 for one zero byte", spec="2", given={"did": did_of(zero)})
    all_zero = DID_PREFIX + "1" * 20
    files.add("parse-all-zero", "did.parse", "twenty zero bytes are twenty times 1", spec="2", given={"did": all_zero})
    suffix = good.removeprefix(DID_PREFIX)
    for name, comment, bad in (
        ("empty", "no text", ""),
        ("prefix-alone", "nothing behind the prefix", DID_PREFIX),
        ("other-method", "the name of another method", f"did:mesh:{suffix}"),
        ("upper-case-scheme", "DID in capitals", good.replace("did:", "DID:")),
        ("upper-case-method", "the method in capitals", good.replace("agentmesh", "AgentMesh")),
        ("multibase-prefix", "a multibase z in front of the base58btc", f"{DID_PREFIX}z{suffix}"),
        ("no-scheme", "without did:", good.removeprefix("did:")),
        ("zero-digit", "0 is not of the alphabet", good[:-1] + "0"),
        ("capital-o", "O is not of the alphabet", good[:-1] + "O"),
        ("capital-i", "I is not of the alphabet", good[:-1] + "I"),
        ("small-l", "l is not of the alphabet", good[:-1] + "l"),
        ("nineteen-bytes", "a hash of 19 bytes", DID_PREFIX + base58(b"\x01" * 19)),
        ("twenty-one-bytes", "a hash of 21 bytes", DID_PREFIX + base58(b"\x01" * 21)),
        ("leading-one-too-many", "a 1 that stands for no zero byte", f"{DID_PREFIX}1{suffix}"),
        ("leading-one-missing", "one 1 less than zero bytes", DID_PREFIX + "1" * 19),
        ("leading-space", "a space in front", f" {good}"),
        ("trailing-newline", "a line feed behind", f"{good}\n"),
        ("trailing-nul", "a zero byte behind", f"{good}\x00"),
        ("fragment", "a fragment behind", f"{good}#key"),
        ("percent-encoded", "a character in its percent form", good[:-1] + f"%{ord(good[-1]):02X}"),
        ("full-width", "a full-width digit that other alphabets fold", good[:-1] + "１"),  # noqa: RUF001
    ):
        files.add(f"refuse-{name}", "did.parse", comment, spec="2", given={"did": bad}, expect="identity.did")
    return files


def base58(data: bytes) -> str:
    """Return the base58btc of data, with no opinion on its length."""
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\x00"))) + digits


# --- keys ------------------------------------------------------------------------------------------------------------


def keys() -> Files:
    """Return the family keys."""
    files = Files("keys")
    for name, who in (("alice", ALICE), ("bob", BOB)):
        seed = who.seed.reveal()
        scalar = hashlib.sha512(seed).digest()[:32]
        files.add(
            f"identity-{name}",
            "keys.identity",
            "from a seed to the key pair, its DID, and the X25519 pair derived from it",
            spec="2",
            given={"seed": seed.hex()},
            intermediate={"sha512_first_half": scalar.hex()},
        )
    rfc8032 = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    files.add(
        "identity-rfc8032-test-1",
        "keys.identity",
        "the seed of RFC 8032, section 7.1, test 1: the public key is known from there",
        spec="2",
        given={"seed": rfc8032},
        output={"public_key": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"},
    )
    _conversions(files)
    _signatures(files)
    _agreements(files)
    _kem(files)
    return files


def _conversions(files: Files) -> None:
    for name, who in (("alice", ALICE), ("bob", BOB)):
        given = {"public_key": who.key.raw.hex()}
        files.add(
            f"convert-{name}",
            "keys.convert",
            "u = (1 + y) / (1 - y)",
            spec="2",
            given=given,
            output={"x25519_public": who.key.dh.hex()},
        )
    bad = [
        (f"order-{order}-{index}", f"a point of order {order}", point)
        for index, (order, point) in enumerate(curve.TORSION)
    ]
    bad += [(f"non-canonical-{index}", comment, point) for index, (comment, point) in enumerate(curve.NON_CANONICAL)]
    bad += [
        (
            f"mixed-order-{order}",
            f"Alice's key and a point of order {order} added: on the curve, outside the subgroup",
            curve.add(ALICE.key.raw, point),
        )
        for order, point in curve.TORSION[1:3] + curve.TORSION[4:5]
    ]
    bad += [
        ("not-on-curve", "y = 2: no x belongs to it", (2).to_bytes(32, "little")),
        ("short", "31 bytes", ALICE.key.raw[:-1]),
        ("long", "33 bytes", ALICE.key.raw + b"\x00"),
        ("empty", "no bytes", b""),
    ]
    files.add_each("keys.convert", "1", (
        (f"refuse-convert-{name}", comment, {"public_key": key.hex()}, BAD_KEY)
        for name, comment, key in bad
    ))  # fmt: skip


def _signatures(files: Files) -> None:
    body = b"what is signed"
    seed, public = ALICE.seed.reveal(), ALICE.key.raw
    labels = [name for name in SIGNATURE_NAMES if name not in HASHED]
    for label in labels[:4]:
        signed = signature_label(label) + body
        given = {"label": label, "body": body.hex()}
        made = files.add(
            f"sign-{label}",
            "keys.sign",
            "a signature covers its label and what follows it",
            spec="1.1",
            given={"seed": seed.hex(), **given},
            intermediate={"signed": signed.hex()},
        )
        given = {"public_key": public.hex(), **given, "signature": made["output"]["signature"]}
        files.add(f"verify-{label}", "keys.verify", "the same, verified", spec="1", given=given)
    _bad_signatures(files, given, labels)


def _bad_signatures(files: Files, base: Json, labels: list[str]) -> None:
    """Add what does not verify in the place of a good signature under the fourth label."""
    body, signature = bytes.fromhex(base["body"]), bytes.fromhex(base["signature"])
    signed, seed = signature_label(labels[3]) + body, ALICE.seed.reveal()
    bad: list[tuple[str, str, Json]] = [
        (f"for-{label}", f"a signature made for {labels[3]}, offered for {label}", {"label": label})
        for label in labels
        if label != labels[3]
    ]
    bad += [
        ("empty", "the signature stripped", {"signature": ""}),
        ("short", "63 bytes", {"signature": signature[:-1].hex()}),
        ("long", "65 bytes", {"signature": (signature + b"\x00").hex()}),
        ("zero", "64 zero bytes", {"signature": bytes(64).hex()}),
        ("flipped-r", "a bit of R flipped", {"signature": flipped(signature, 0).hex()}),
        ("flipped-s", "a bit of S flipped", {"signature": flipped(signature, 32).hex()}),
        ("s-plus-l", "S + L in the place of S: the same number, another encoding",
         {"signature": curve.s_plus_l(signature).hex()}),
        ("s-equals-l", "S = L", {"signature": (signature[:32] + curve.L.to_bytes(32, "little")).hex()}),
        ("small-order-r", "R of small order with the S that satisfies the equation",
         {"signature": curve.signature_with_small_r(seed, signed).hex()}),
        ("other-body", "another body", {"body": b"what is signe.".hex()}),
        ("longer-body", "a body with a byte more", {"body": (body + b"\x00").hex()}),
        ("other-key", "another signer's key", {"public_key": BOB.key.raw.hex()}),
    ]  # fmt: skip
    files.add_each("keys.verify", "1", (
        (f"refuse-verify-{name}", comment, {**base, **change}, BAD_SIGNATURE)
        for name, comment, change in bad
    ))  # fmt: skip
    neutral = (1).to_bytes(32, "little")
    files.add(
        "refuse-verify-identity-point",
        "keys.verify",
        "A = R = the neutral element and S = 0: without a check of the key, one signature for every message",
        spec="1",
        given={**base, "public_key": neutral.hex(), "signature": (neutral + bytes(32)).hex()},
        expect=BAD_KEY,
    )
    mixed, forged = curve.mixed_order_signature(seed, signed)
    files.add(
        "refuse-verify-mixed-order",
        "keys.verify",
        "a key outside the prime-order subgroup with a signature that satisfies the equation byte for byte: "
        "the key is refused before the signature is looked at",
        spec="1",
        given={**base, "public_key": mixed.hex(), "signature": forged.hex()},
        expect=BAD_KEY,
    )


def _agreements(files: Files) -> None:
    alice, bob = token("keys/agree/alice"), token("keys/agree/bob")
    files.add_each("keys.agree", "1", (
        (f"agree-{name}", "X25519; both sides get the same",
         {"secret": secret.hex(), "public": _crypto.x25519_public(public).hex()})
        for name, secret, public in (("alice", alice, bob), ("bob", bob, alice))
    ))  # fmt: skip
    files.add_each("keys.agree", "1", (
        (f"refuse-agree-small-order-{index}", f"u of small order: {comment}",
         {"secret": alice.hex(), "public": point.hex()}, POINT)
        for index, (comment, point) in enumerate(curve.X25519_SMALL_ORDER)
    ))  # fmt: skip
    genuine = int.from_bytes(_crypto.x25519_public(bob), "little")
    files.add_each("keys.agree", "1", (
        (f"refuse-agree-{name}", comment, {"secret": alice.hex(), "public": key.hex()}, POINT)
        for name, comment, key in (
            ("p-plus-9", "the base point as p + 9: RFC 7748 would take it", (curve.P + 9).to_bytes(32, "little")),
            ("top-bit", "a genuine key with its top bit set: RFC 7748 would mask it",
             (genuine | 1 << 255).to_bytes(32, "little")),
            ("all-ones", "2^256 - 1", b"\xff" * 32),
            ("short", "31 bytes", bytes(31)),
            ("long", "33 bytes", b"\x09" + bytes(32)),
        )
    ))  # fmt: skip


def _kem(files: Files) -> None:
    seed = ONE_TIME.kem_seed.hex()
    ciphertext, shared = encapsulation(ONE_TIME)
    files.add(
        "kem-key",
        "keys.kem_key",
        "ML-KEM-768 key generation from the 64-byte seed d || z",
        spec="1",
        given={"kem_seed": seed},
    )
    files.add("kem-check", "keys.kem_check", "a genuine key", spec="1", given={"kem_key": ONE_TIME.kem_key.hex()})
    files.add(
        "kem-decapsulate",
        "keys.kem_decapsulate",
        "a genuine ciphertext",
        spec="1",
        given={"kem_seed": seed, "kem_ciphertext": ciphertext.hex()},
        output={"kem_shared_secret": shared.hex()},
    )
    files.add_each("keys.kem_decapsulate", "1", (
        ("kem-implicit-rejection",
         "a flipped bit gives no error but another secret (FIPS 203's implicit rejection): what was sealed then fails",
         {"kem_seed": seed, "kem_ciphertext": flipped(ciphertext, 0).hex()}),
        ("kem-other-key", "a ciphertext for another key: another secret, no error",
         {"kem_seed": LAST_RESORT.kem_seed.hex(), "kem_ciphertext": ciphertext.hex()}),
    ))  # fmt: skip
    files.add_each("keys.kem_check", "1", (
        (f"refuse-kem-{name}", comment, {"kem_key": key.hex()}, POINT)
        for name, comment, key in curve.bad_kem_keys(ONE_TIME.kem_key)
    ))  # fmt: skip
    files.add_each("keys.kem_decapsulate", "1", (
        (f"refuse-kem-{name}", comment, {"kem_seed": seed, "kem_ciphertext": bad.hex()}, POINT)
        for name, comment, bad in (
            ("ciphertext-short", "1,087 bytes", ciphertext[:-1]),
            ("ciphertext-long", "1,089 bytes", ciphertext + b"\x00"),
            ("ciphertext-empty", "no bytes", b""),
        )
    ))  # fmt: skip
