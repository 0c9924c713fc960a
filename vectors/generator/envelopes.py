"""The families envelope and receipt: what every relay can read, and the name that it gives to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentmesh.identity import DID_PREFIX
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import RECEIPT
from generator import wire
from generator.codes import MALFORMED, TOO_LARGE, VERSION
from generator.world import ALICE, BOB, MESH, NOW_MS, SMALL, Files

Json = dict[str, Any]

KINDS: Final = ("knock", "accept", "reject", "message")
BODY: Final = bytes(range(200))


def header_items(kind: int = 4, time_ms: int = NOW_MS) -> list[bytes]:
    """Return the encoded fields of a header from Alice to Bob."""
    return [
        wire.uint(1),
        wire.uint(kind),
        wire.text(MESH.encode()),
        wire.text(ALICE.did.encode()),
        wire.text(BOB.did.encode()),
        wire.uint(time_ms),
    ]


def enveloped(header: bytes, body: bytes = BODY) -> bytes:
    """Return the envelope around these bytes, whatever they are."""
    return wire.pair(header, body)


def envelope() -> Files:
    """Return the family envelope."""
    files = Files("envelope")
    cases = [(kind, number, NOW_MS, BODY, f"an envelope of kind {number}") for number, kind in enumerate(KINDS, 1)]
    cases += [
        ("empty-body", 4, NOW_MS, b"", "nothing says here what a body holds, so an empty one is an envelope"),
        ("long-body", 4, NOW_MS, bytes(300), "a body of 300 bytes: a two-byte length"),
        ("time-zero", 4, 0, BODY, "time 0: one byte"),
        ("time-32-bit", 4, 2**32 - 1, BODY, "the last time of the five-byte form"),
        ("time-largest", 4, 2**53 - 1, BODY, "the largest number"),
    ]
    for name, kind, time_ms, body, comment in cases:
        header = wire.array(*header_items(kind, time_ms))
        data = enveloped(header, body)
        fields = {"kind": kind, "mesh": MESH, "sender": ALICE.did, "recipient": BOB.did, "time_ms": time_ms}
        files.add(
            f"build-{name}",
            "envelope.build",
            comment,
            spec="4",
            given={**fields, "body": body.hex()},
            output={"header": header.hex(), "envelope": data.hex()},
        )
        files.add(
            f"parse-{name}",
            "envelope.parse",
            f"{comment}, parsed",
            spec="4",
            given={"envelope": data.hex()},
            output=fields,
        )
    longest = [*header_items()[:2], wire.text(b"a" * 64), _did(114), _did(114), wire.uint(NOW_MS)]
    files.add(
        "parse-longest-names",
        "envelope.parse",
        "a mesh name of 64 bytes and DIDs of 128: a parser checks their length and prefix, not their hash",
        spec="4",
        given={"envelope": enveloped(wire.array(*longest)).hex()},
    )
    header = wire.array(*header_items())
    overhead = len(enveloped(header, bytes(1000))) - 1000
    files.add_each("envelope.parse", "1.3", (
        (name, f"{size:,} bytes where the limit is 4,300",
         {"envelope": enveloped(header, bytes(size - overhead)).hex(), "limits": SMALL}, expect)
        for name, size, expect in (
            ("parse-at-the-limit", 4300, "ok"),
            ("refuse-over-the-limit", 4301, TOO_LARGE),
        )
    ))  # fmt: skip
    files.add_each("envelope.parse", "4", (
        (f"refuse-{name}", comment, {"envelope": data.hex()}, expect)
        for name, comment, data, expect in _bad()
    ))  # fmt: skip
    return files


def _did(more: int) -> bytes:
    return wire.text(DID_PREFIX.encode() + b"1" * more)


def _bad() -> Iterator[tuple[str, str, bytes, str]]:
    items = header_items()
    for name, comment, index, item, expect in (
        ("version-0", "version 0", 0, wire.uint(0), VERSION),
        ("version-2", "version 2", 0, wire.uint(2), VERSION),
        ("kind-0", "kind 0", 1, wire.uint(0), VERSION),
        ("kind-5", "kind 5", 1, wire.uint(5), VERSION),
        ("mesh-empty", "no mesh", 2, wire.text(b""), MALFORMED),
        ("mesh-65", "a mesh name of 65 bytes", 2, wire.text(b"a" * 65), MALFORMED),
        ("mesh-upper-case", "a capital in the mesh", 2, wire.text(b"example/Vectors"), MALFORMED),
        ("mesh-space", "a space in the mesh", 2, wire.text(b"example vectors"), MALFORMED),
        ("mesh-newline", "a line feed behind the mesh", 2, wire.text(b"example/vectors\n"), MALFORMED),
        ("mesh-umlaut", "a letter that is not ASCII", 2, wire.text("exämple".encode()), MALFORMED),
        ("sender-other-method", "a sender of another DID method", 3, wire.text(b"did:mesh:abc"), MALFORMED),
        ("recipient-other-method", "a recipient of another DID method", 4, wire.text(b"did:mesh:abc"), MALFORMED),
        ("sender-129", "a sender of 129 bytes", 3, _did(115), MALFORMED),
        ("sender-empty", "no sender", 3, wire.text(b""), MALFORMED),
        ("sender-prefix-alone", "a DID with nothing behind its prefix", 3, _did(0), MALFORMED),
        ("recipient-zero-digit", "a 0 in a DID, which base58btc does not have", 4, wire.text(b"did:agentmesh:0"),
         MALFORMED),
        ("sender-not-utf8", "a sender that is not UTF-8", 3, wire.text(b"did:agentmesh:\xff"), MALFORMED),
        ("sender-surrogate", "a lone surrogate in the sender", 3, wire.text(b"did:agentmesh:\xed\xa0\x80"), MALFORMED),
        ("sender-bin", "the sender as a byte string", 3, wire.binary(ALICE.did.encode()), MALFORMED),
        ("sender-str16", "the sender in a longer form", 3, b"\xda\x00" + bytes([len(ALICE.did)]) + ALICE.did.encode(),
         MALFORMED),
        ("recipient-nil", "nil as recipient", 4, wire.NIL, MALFORMED),
        ("time-negative", "a negative time", 5, b"\xff", MALFORMED),
        ("time-2-53", "2^53: one more than the largest number", 5, wire.uint(2**53), MALFORMED),
        ("time-2-64", "2^64 - 1", 5, wire.uint(2**64 - 1), MALFORMED),
        ("time-float", "the time as a float", 5, b"\xcb\x42\x79\xb7\x00\x00\x00\x00\x00", MALFORMED),
        ("time-timestamp", "the time as msgpack's timestamp", 5, b"\xd6\xff\x69\x55\x00\x00", MALFORMED),
        ("version-uint8", "the version in the two-byte form", 0, wire.uint8(1), MALFORMED),
        ("version-int8", "the version in a signed form", 0, b"\xd0\x01", MALFORMED),
        ("kind-uint64", "the kind in the nine-byte form", 1, wire.uint64(4), MALFORMED),
        ("kind-true", "true as kind", 1, wire.TRUE, MALFORMED),
        ("kind-nested", "the kind inside an array", 1, wire.array(wire.uint(4)), MALFORMED),
        ("mesh-str8", "the mesh in a longer form", 2, wire.text8(MESH.encode()), MALFORMED),
    ):  # fmt: skip
        yield f"header-{name}", comment, enveloped(wire.with_item(items, index, item)), expect
    short_time = wire.with_item(items, 5, wire.uint64(7))
    yield "header-time-uint64", "a small time in the nine-byte form", enveloped(short_time), MALFORMED
    for name, comment, header in wire.foreign_arrays(items):
        yield f"header-{name}", f"the header: {comment}", enveloped(header), MALFORMED
    header = wire.array(*items)
    pair = [wire.binary(header), wire.binary(BODY)]
    for name, comment, data in wire.foreign_arrays(pair):
        yield f"form-{name}", f"the envelope: {comment}", data, MALFORMED
    yield from (
        ("form-header-bin16", "the header in a longer form", wire.array(wire.binary16(header), pair[1]), MALFORMED),
        ("form-body-bin16", "the body in a longer form", wire.array(pair[0], wire.binary16(BODY)), MALFORMED),
        ("form-body-bin32", "the body in the longest form", wire.array(pair[0], wire.binary32(BODY)), MALFORMED),
        ("form-body-str", "the body as a string", wire.array(pair[0], wire.text8(b"x" * 200)), MALFORMED),
        ("form-body-nil", "nil for the body", wire.array(pair[0], wire.NIL), MALFORMED),
        ("header-339", "a header of 339 bytes: more than any has, whatever else it is",
         enveloped(wire.array(wire.uint(2), wire.uint(1), wire.text(b"a" * 65), _did(114), _did(114),
                              wire.uint(NOW_MS))), TOO_LARGE),
        ("form-header-unwrapped", "the header as an array and not as bytes that hold one", wire.array(header, pair[1]),
         MALFORMED),
    )  # fmt: skip
    whole = wire.array(*pair)
    for size in (1, 2, len(header), len(whole) // 2):
        yield f"form-truncated-{size}", f"cut after {size} bytes", whole[:size], MALFORMED


def receipt() -> Files:
    """Return the family receipt."""
    files = Files("receipt")
    for number, kind in enumerate(KINDS, 1):
        data = enveloped(wire.array(*header_items(number)))
        expected = _crypto.sha256(RECEIPT + data).hex()
        files.add(
            kind,
            "receipt.compute",
            f"the receipt of an envelope of kind {number}",
            spec="4",
            given={"envelope": data.hex()},
            intermediate={"hashed": (RECEIPT + data).hex()},
            output={"receipt": expected},
        )
    items = header_items()
    data = enveloped(wire.array(*items), wire.flipped(BODY, 100))
    files.add(
        "flipped-body",
        "receipt.compute",
        "one bit of the body flipped: another receipt",
        spec="4",
        given={"envelope": data.hex()},
    )
    header, good = wire.array(*items), enveloped(wire.array(*items))
    files.add_each("receipt.compute", "4", (
        (f"refuse-{name}", comment, {"envelope": bad.hex()}, MALFORMED)
        for name, comment, bad in (
            ("longer-form", "the same content in a longer form has no receipt",
             wire.array(wire.binary(header), wire.binary16(BODY))),
            ("trailing-byte", "a byte behind the envelope", good + b"\x00"),
            ("truncated", "the last byte missing", good[:-1]),
            ("header-alone", "a header and no envelope", header),
            ("empty", "no bytes", b""),
        )
    ))  # fmt: skip
    return files
