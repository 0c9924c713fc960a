"""KNOCKs that must be refused: altered, forged, MALFORMED, and well signed with something else inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentmesh.identity import did_of, signed_part
from agentmesh.primitives._labels import SIGN_BUNDLE, SIGN_REJECT, SignatureLabel
from agentmesh.primitives.padding import pad
from generator import curve, wire
from generator.codes import BAD_KEY, BAD_SIGNATURE, MALFORMED, TOO_LARGE, VERSION
from generator.forge import ACTION, ForgedKnock, content, knock
from generator.world import (
    ALICE,
    BOB,
    DAY_MS,
    EXPIRES_MS,
    MALLORY,
    NOW_MS,
    ONE_TIME,
    OTHER_ONE_TIME,
    TOLERANCE_MS,
    encapsulation,
    token,
)

Json = dict[str, Any]


Case = tuple[str, str, bytes, str]


def bad_headers(good: ForgedKnock) -> Iterator[Case]:
    """Yield KNOCKs with another outer header, under the old signature or a good one, and with times out of bounds."""
    old = good.signature()
    mallory, other = wire.text(MALLORY.did.encode()), wire.text(b"example/other")
    for name, comment, index, item, expect in (
        ("header-version", "version 2 in the header", 0, wire.uint(2), VERSION),
        ("header-kind-0", "kind 0", 1, wire.uint(0), VERSION),
        ("header-kind-accept", "kind 2: its body begins with no known session id", 1, wire.uint(2),
         "message.unknown_session"),
        ("header-kind-reject", "kind 3: its body is larger than any REJECT's", 1, wire.uint(3), TOO_LARGE),
        ("header-kind-message", "kind 4", 1, wire.uint(4), "message.unknown_session"),
        ("header-mesh", "another mesh", 2, other, "envelope.mesh"),
        ("header-sender", "another agent's name as the sender", 3, mallory, "envelope.sender"),
        ("header-sender-reflected", "the receiver's own name as the sender", 3, wire.text(BOB.did.encode()),
         "envelope.reflected"),
        ("header-recipient", "another recipient", 4, mallory, "envelope.recipient"),
        ("header-time", "a time a millisecond later", 5, wire.uint(NOW_MS + 1), BAD_SIGNATURE),
    ):  # fmt: skip
        yield name, f"{comment}, under the old signature", good.with_header(index, item).signed_with(old), expect
    for name, comment, index, item, expect in (
        ("signed-header-mesh", "another mesh", 2, other, "envelope.mesh"),
        ("signed-header-sender", "another agent's name as the sender", 3, mallory, "envelope.sender"),
        ("signed-header-recipient", "another recipient", 4, mallory, "envelope.recipient"),
    ):
        yield name, f"{comment}, under a good signature", good.with_header(index, item).envelope, expect
    future = knock(time_ms=NOW_MS + TOLERANCE_MS + 1)
    begun = NOW_MS - DAY_MS
    over = knock(time_ms=begun, expires_ms=NOW_MS - TOLERANCE_MS - 1)
    early = knock(expires_ms=NOW_MS - 1)
    long = knock(expires_ms=NOW_MS + 14 * DAY_MS + 1)
    ahead_ms = NOW_MS + TOLERANCE_MS + 1
    ahead_long = knock(time_ms=ahead_ms, expires_ms=NOW_MS + 15 * DAY_MS)
    ahead_over = knock(time_ms=ahead_ms, expires_ms=NOW_MS - TOLERANCE_MS - 1)
    yield from (
        ("future", "its time is 300 s and a millisecond ahead", future.envelope, "knock.future"),
        ("future-and-long-lived", "from the future, with too long a lifetime", ahead_long.envelope, "knock.future"),
        ("future-and-over", "from the future, and expired before it was made", ahead_over.envelope, "knock.future"),
        ("expired", "it expired 300 s and a millisecond ago", over.envelope, "knock.expired"),
        ("no-lifetime", "expires is its own time", knock(expires_ms=NOW_MS).envelope, "knock.expired"),
        ("negative-lifetime", "expires is before its time", early.envelope, "knock.expired"),
        ("long-lifetime", "14 days and a millisecond", long.envelope, "knock.expired"),
    )


def bad_signatures(good: ForgedKnock) -> Iterator[Case]:
    """Yield a KNOCK under signatures that are none for it."""
    signature, other = good.signature(), knock(index=1).signature()
    signed = signed_part(good.header, good.inner)
    for name, comment, bad in (
        ("empty", "the signature stripped", b""),
        ("zero", "64 zero bytes", bytes(64)),
        ("short", "63 bytes", signature[:-1]),
        ("long", "65 bytes", signature + b"\x00"),
        ("flipped-r", "a bit of R flipped", wire.flipped(signature, 0)),
        ("flipped-s", "a bit of S flipped", wire.flipped(signature, 63, 0x10)),
        ("malleable", "S + L in the place of S", curve.s_plus_l(signature)),
        ("other-signer", "signed by somebody else", MALLORY.sign(SignatureLabel(b"agentmesh/v1/knock\x00"), signed)),
        ("other-knock", "the signature of another KNOCK of the same sender", other),
        ("label-reject", "the sender's signature under the label of a REJECT", good.signature(SIGN_REJECT)),
        ("label-bundle", "the sender's signature under the label of a bundle", good.signature(SIGN_BUNDLE)),
        ("inner-alone", "a signature that leaves the header out",
         ALICE.sign(SignatureLabel(b"agentmesh/v1/knock\x00"), good.inner)),
    ):  # fmt: skip
        yield f"signature-{name}", comment, good.signed_with(bad), BAD_SIGNATURE


def bad_inner(good: ForgedKnock) -> Iterator[Case]:
    """Yield KNOCKs whose inner part has a field of another one."""
    old, other = good.signature(), knock(index=1)
    for name, comment, index, item, expect in (
        ("identity", "another agent's key", 0, wire.binary(MALLORY.key.raw), "envelope.sender"),
        ("bundle-ref", "another bundle of the receiver's", 1, wire.binary(OTHER_ONE_TIME.published.ref), BAD_SIGNATURE),
        ("ephemeral", "the EK of another KNOCK", 2, other.inner_items[2], BAD_SIGNATURE),
        ("ciphertext", "the ct of another KNOCK", 3, other.inner_items[3], BAD_SIGNATURE),
        ("expires", "another expiry", 4, wire.uint(EXPIRES_MS + 1), BAD_SIGNATURE),
        ("sealed", "the sealed intent of another KNOCK", 5, wire.binary(other.sealed), BAD_SIGNATURE),
        ("sealed-flipped", "a bit of the sealed intent flipped", 5, wire.binary(wire.flipped(good.sealed, -1)),
         BAD_SIGNATURE),
    ):  # fmt: skip
        yield (f"inner-{name}", f"{comment}, under the old signature", good.with_inner(index, item).signed_with(old),
               expect)  # fmt: skip
    unknown = good.with_inner(1, wire.binary(token("knock/unknown-bundle")))
    yield ("unknown-bundle", "a bundle_ref that was never published, under a good signature", unknown.envelope,
           "knock.unknown_bundle")  # fmt: skip
    stolen = good.with_inner(0, wire.binary(MALLORY.key.raw))
    yield "foreign-key", "another agent's key, under the sender's good signature", stolen.envelope, "envelope.sender"
    for name, comment, key in (
        ("identity-small-order", "a key of small order, under its own name", curve.TORSION[0][1]),
        ("identity-order-8", "a key of order 8, under its own name", curve.TORSION[4][1]),
        ("identity-mixed-order", "a key of mixed order, under its own name",
         curve.add(ALICE.key.raw, curve.TORSION[4][1])),
        ("identity-non-canonical", "a key that is not canonical, under its own name", curve.NON_CANONICAL[0][1]),
    ):  # fmt: skip
        named = good.with_header(3, wire.text(did_of(key).encode())).with_inner(0, wire.binary(key))
        neutral = (1).to_bytes(32, "little") + bytes(32)
        yield name, f"{comment}: refused before its signature is looked at", named.signed_with(neutral), BAD_KEY


def bad_forms(good: ForgedKnock) -> Iterator[Case]:
    """Yield KNOCKs that are not canonical."""
    items = good.inner_items
    ephemeral = bytes.fromhex(good.values["ephemeral"])
    for name, comment, index, item in (
        ("ephemeral-bin16", "EK in a longer form", 2, wire.binary16(ephemeral)),
        ("ephemeral-short", "EK of 31 bytes", 2, wire.binary(ephemeral[:-1])),
        ("ephemeral-nil", "nil for EK", 2, wire.NIL),
        ("ciphertext-short", "ct of 1,087 bytes", 3, wire.binary(encapsulation(ONE_TIME)[0][:-1])),
        ("ciphertext-empty", "ct removed", 3, wire.binary(b"")),
        ("expires-negative", "a negative expiry", 4, b"\xff"),
        ("expires-2-53", "an expiry of 2^53", 4, wire.uint(2**53)),
        ("expires-float", "an expiry as a float", 4, b"\xcb" + bytes(8)),
        ("sealed-short", "a sealed intent shorter than any", 5, wire.binary(good.sealed[:135])),
    ):
        yield f"signed-{name}", f"{comment}, under a good signature", good.with_inner(index, item).envelope, MALFORMED
    for name, comment, inner in wire.foreign_arrays(items, shortly=True):
        yield f"inner-form-{name}", f"the inner part: {comment}; the signature is good", good.around(inner), MALFORMED
    inner, signature = wire.binary(good.inner), wire.binary(good.signature())
    bodies = list(wire.foreign_arrays([inner, signature], shortly=True))
    bodies.append(("inner-bin32", "the inner part in a longer form", wire.array(wire.binary32(good.inner), signature)))
    bodies.append(
        ("signature-bin16", "the signature in a longer form", wire.array(inner, wire.binary16(good.signature())))
    )
    for name, comment, body in bodies:
        yield f"body-form-{name}", f"the body: {comment}", wire.pair(good.header, body), MALFORMED
    for name, comment, data in (
        ("trailing-byte", "a byte behind the envelope", good.envelope + b"\x00"),
        ("truncated-by-one", "the last byte missing", good.envelope[:-1]),
        ("truncated-half", "half of it", good.envelope[: len(good.envelope) // 2]),
        ("envelope-array16", "the envelope in a longer form", b"\xdc\x00\x02" + good.envelope[1:]),
    ):
        yield f"form-{name}", comment, data, MALFORMED


def unopened() -> Iterator[tuple[str, str, bytes]]:
    """Yield KNOCKs that their sender signed and that do not open."""
    good = knock()
    for index, (comment, point) in enumerate(curve.X25519_SMALL_ORDER[:4]):
        yield f"ephemeral-small-order-{index}", f"EK with {comment}", good.with_inner(2, wire.binary(point)).envelope
    top_bit = wire.flipped(bytes.fromhex(good.values["ephemeral"]), 31, 0x80)
    ciphertext = encapsulation(ONE_TIME)[0]
    for name, comment, index, item in (
        ("ephemeral-top-bit", "EK with its top bit set", 2, wire.binary(top_bit)),
        ("ephemeral-other", "the EK of another KNOCK", 2, knock(index=1).inner_items[2]),
        ("ciphertext-flipped", "a flipped bit in ct", 3, wire.binary(wire.flipped(ciphertext, 700))),
        ("ciphertext-other", "a ct made for another KEM key", 3, wire.binary(encapsulation(OTHER_ONE_TIME)[0])),
        ("expires-other", "an expiry that the intent was not sealed for", 4, wire.uint(EXPIRES_MS - 1)),
        ("sealed-nonce", "a bit of the nonce flipped", 5, wire.binary(wire.flipped(good.sealed, 0))),
        ("sealed-commitment", "a bit of kc flipped", 5, wire.binary(wire.flipped(good.sealed, 24))),
        ("sealed-tag", "a bit of the tag flipped", 5, wire.binary(wire.flipped(good.sealed, 56))),
        ("sealed-box", "a bit of the box flipped", 5, wire.binary(wire.flipped(good.sealed, -1))),
        ("sealed-truncated", "the box a byte shorter, and still not too short", 5, wire.binary(_longer().sealed[:-1])),
    ):
        yield name, comment, good.with_inner(index, item).envelope
    moved = good.with_header(5, wire.uint(NOW_MS + 1))
    yield "sealed-under-other-header", "the intent sealed under another header time, all of it signed", moved.envelope
    graft = knock(who=MALLORY).with_inner(5, wire.binary(good.sealed))
    yield "grafted-intent", "the sealed intent of another sender in a KNOCK of one's own", graft.envelope
    yield from _bad_content()


def _longer() -> ForgedKnock:
    return knock(inside=content(detail=bytes(100)))


def _bad_content() -> Iterator[tuple[str, str, bytes]]:
    good = content()
    for name, comment, padded in (
        ("padding-none", "zeros without a marker", bytes(64)),
        ("padding-long", "a step more padding than due", pad(good) + bytes(8)),
        ("padding-dirty", "a byte behind the marker", pad(good)[:-1] + b"\x01"),
    ):
        yield f"content-{name}", comment, knock(padded=padded).envelope
    intent = wire.array(wire.text(ACTION.encode()), wire.array(), wire.binary(b""))
    for name, comment, inside in (
        ("empty", "no content", b""),
        ("action-empty", "no action", content("")),
        ("action-129", "an action of 129 bytes", content("a" * 129)),
        ("capability-129", "a capability of 129 bytes", content(capabilities=("a" * 129,))),
        ("capabilities-65", "65 capabilities", content(capabilities=("a",) * 65)),
        ("fresh-2", "fresh = 2", content(fresh=2)),
        ("fresh-true", "true for fresh", wire.array(intent, wire.NIL, wire.TRUE)),
        ("fresh-missing", "an element too few", wire.array(intent, wire.NIL)),
        ("element-more", "an element too many", wire.array(intent, wire.NIL, wire.uint(1), wire.NIL)),
        ("early-payload-str", "the early payload as a string", wire.array(intent, wire.text(b"x"), wire.uint(1))),
        ("detail-nil", "nil for the detail",
         wire.array(wire.array(wire.text(b"x"), wire.array(), wire.NIL), wire.NIL, wire.uint(1))),
        ("action-not-utf8", "an action that is not UTF-8",
         wire.array(wire.array(wire.text(b"\xff"), wire.array(), wire.binary(b"")), wire.NIL, wire.uint(1))),
        ("action-str8", "the action in a longer form",
         wire.array(wire.array(wire.text8(b"x"), wire.array(), wire.binary(b"")), wire.NIL, wire.uint(1))),
        ("capabilities-array16", "the capabilities in a longer form",
         wire.array(wire.array(wire.text(b"x"), wire.array16(), wire.binary(b"")), wire.NIL, wire.uint(1))),
        ("trailing", "a byte behind the content", good + b"\x00"),
    ):  # fmt: skip
        yield f"content-{name}", comment, knock(inside=inside).envelope
