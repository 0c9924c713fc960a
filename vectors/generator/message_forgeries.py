"""Messages that must be refused: altered on the way, or sealed by a peer that breaks a rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentmesh.attachments.reference import Attachment
from agentmesh.primitives.keys import AttachmentKey, Receipt
from generator import curve, wire
from generator.codes import CONTRADICTION, DUPLICATE, MALFORMED, POINT, REFUSED, UNOPENED, VERSION
from generator.tables import Step, cut_off, joined, step
from generator.talk import (
    LATER_MS,
    body_cut,
    body_flipped,
    body_longer,
    closing,
    data,
    header_items,
    hear,
    moved,
    say,
    sealed_by_peer,
    split,
    with_body,
)
from generator.world import ALICE, MALLORY, token

Json = dict[str, Any]
Case = tuple[str, str, Step, str]


CLOSE: Final = closing()

HEAD: Final = b"\x00\x00\x00\x00\x00\x01"  # data without parts, of index 1


def with_parts(parts: int, between: bytes, behind: bytes = b"\x00hello") -> bytes:
    """Return data of index 1 that says it has these parts."""
    return b"\x00" + bytes([parts]) + HEAD[2:] + between + behind


def ranges(*numbers: int) -> bytes:
    """Return an ack of these first and last indices, in turn."""
    return bytes([len(numbers) // 2]) + b"".join(number.to_bytes(4, "big") for number in numbers)


def naming(*references: bytes) -> bytes:
    """Return the part of these references."""
    return bytes([len(references)]) + b"".join(len(one).to_bytes(2, "big") + one for one in references)


def attachment(number: int = 0, **given: Any) -> bytes:
    """Return a reference to an attachment that is not there."""
    key, receipt = token(f"message/attachment/{number}/key"), token(f"message/attachment/{number}/receipt")
    fields = {"size": 1000 + number, "chunk_exponent": 18, "name": f"part {number}", **given}
    return Attachment(key=AttachmentKey(key), receipt=Receipt(receipt), **fields).encode()


NAMED: Final = attachment()

_behind = step(lambda _, *values: values[-1])
_spliced = step(lambda _, first, second: with_body(second, lambda body: split(first)[1][:132] + body[132:]))


# --- bytes that somebody else changed --------------------------------------------------------------------------------


def foreign() -> Iterator[Case]:
    """Yield messages that somebody without keys changed."""
    mallory = wire.text(MALLORY.did.encode())
    for name, comment, index, item, expect in (
        ("header-version", "version 2 in the header", 0, wire.uint(2), VERSION),
        ("header-kind-knock", "kind 1", 1, wire.uint(1), MALFORMED),
        ("header-kind-accept", "kind 2", 1, wire.uint(2), UNOPENED),
        ("header-kind-reject", "kind 3", 1, wire.uint(3), MALFORMED),
        ("header-kind-5", "kind 5", 1, wire.uint(5), VERSION),
        ("header-mesh", "another mesh", 2, wire.text(b"example/other"), "envelope.mesh"),
        ("header-sender", "another sender", 3, mallory, "envelope.sender"),
        ("header-sender-reflected", "the receiver as sender", 3, wire.text(ALICE.did.encode()), "envelope.reflected"),
        ("header-recipient", "another recipient", 4, mallory, "envelope.recipient"),
        ("header-time", "a time a millisecond later", 5, wire.uint(LATER_MS + 1), UNOPENED),
    ):
        header = wire.with_item(header_items(4, LATER_MS), index, item)
        yield name, f"{comment}, around the old body", moved(header, hear(b"altered")), expect
    for name, comment, at, expect in (
        ("session-id", "a bit of the session id flipped", 3, "message.unknown_session"),
        ("nonce", "a bit of the nonce flipped", 39, UNOPENED),
        ("sealed-header-tag", "a bit of the sealed header's tag flipped", 40, UNOPENED),
        ("sealed-header", "a bit of the sealed header flipped", 60, UNOPENED),
        ("commitment", "a bit of kc flipped", 131, UNOPENED),
        ("tag", "a bit of the body's tag flipped", 147, UNOPENED),
        ("box", "a bit of the body flipped", 148, UNOPENED),
        ("last", "the last bit flipped", -1, UNOPENED),
    ):
        yield f"flipped-{name}", comment, body_flipped(hear(b"altered"), at), expect
    for size, expect in (
        (0, MALFORMED), (15, MALFORMED), (16, MALFORMED), (147, MALFORMED), (148, UNOPENED), (160, UNOPENED),
    ):  # fmt: skip
        yield f"truncated-{size}", f"the body cut after {size} bytes", body_cut(hear(b"altered"), size), expect
    yield from (
        ("truncated-by-one", "the last byte missing", body_cut(hear(b"altered"), -1), UNOPENED),
        ("appended", "a byte behind the body", body_longer(hear(b"altered"), b"\x00"), UNOPENED),
        ("random-body", "the session id and random bytes",
         body_longer(body_cut(hear(b"altered"), 16), token("message/random", 200)), UNOPENED),
        ("envelope-trailing", "a byte behind the envelope", joined(hear(), b"\x00"), MALFORMED),
        ("envelope-array16", "the envelope in a longer form", joined(b"\xdc\x00\x02", cut_off(hear(), 1)), MALFORMED),
        ("spliced", "the sealed header of one message before the body of another", _spliced(hear(b"one"), hear(b"two")),
         UNOPENED),
    )  # fmt: skip


# --- bytes that the peer itself sealed -------------------------------------------------------------------------------


def lies() -> Iterator[Case]:
    """Yield messages whose ratchet header or outer header lies, sealed by the peer."""
    for name, comment, index, item, expect in (
        ("sealed-sender", "the peer seals under another agent's name", 3, wire.text(MALLORY.did.encode()),
         "envelope.sender"),
        ("sealed-mesh", "the peer seals for another mesh", 2, wire.text(b"example/other"), "envelope.mesh"),
        ("sealed-recipient", "the peer seals for another recipient", 4, wire.text(MALLORY.did.encode()),
         "envelope.recipient"),
    ):  # fmt: skip
        header = wire.with_item(header_items(4, LATER_MS), index, item)
        yield name, comment, sealed_by_peer(header=header, kept=False), expect
    kind_2 = wire.array(*header_items(2, LATER_MS))
    yield ("sealed-for-kind-2", "sealed for kind 2, sent as kind 4", sealed_by_peer(sealed_for=kind_2, kept=False),
           UNOPENED)  # fmt: skip
    for name, comment, change, expect in (
        ("pn", "another pn under the current header key", {"pn": 7}, CONTRADICTION),
        ("n-end", "n = 2^32 - 1, which no chain reaches", {"n": 2**32 - 1}, CONTRADICTION),
        ("key", "another ratchet key under the current header key", {"ratchet_key": token("message/other-key")},
         CONTRADICTION),
        ("n-earlier", "a number that was opened", {"n": 0}, DUPLICATE),
        ("n-other", "another number than that whose key sealed it", {"n": 2}, UNOPENED),
    ):  # fmt: skip
        yield f"ratchet-{name}", comment, sealed_by_peer(kept=False, **change), expect

    yield ("gap", "1,001 messages are missing before it: more than a step may skip",
           sealed_by_peer(ahead=1001, kept=False), "message.gap")  # fmt: skip

    small = sealed_by_peer(ratchet_key=curve.X25519_SMALL_ORDER[2][1], kept=False)
    turn = _behind(say(b"a turn is due"), small)
    yield "turn-small-order", "a turn with a ratchet key of small order", turn, POINT
    for name, comment, change, expect in (
        ("gap", "1,001 messages are missing before it", {"ahead": 1001}, "message.gap"),
        ("n-end", "n = 2^32 - 1: no chain reaches it, so it is no gap", {"n": 2**32 - 1}, CONTRADICTION),
        ("pn-end", "a pn below what was received", {"pn": 0, "ahead": 1001}, CONTRADICTION),
    ):
        small = sealed_by_peer(ratchet_key=curve.X25519_SMALL_ORDER[2][1], kept=False, **change)
        yield (f"turn-small-order-{name}", f"a turn with a ratchet key of small order; {comment}",
               _behind(say(b"a turn is due"), small), expect)  # fmt: skip


def indices() -> Iterator[Case]:
    """Yield data whose index is none that its sender can have: the fourth message of its direction, the third data."""
    for name, comment, index in (
        ("zero", "index 0", 0),
        ("again", "an index that was opened", 1),
        ("beyond", "an index larger than its position", 5),
        ("last", "index 2^32 - 1", 2**32 - 1),
    ):
        # Of two faults the earlier check speaks: parts, then the index, then the action.
        head = b"\x00\x00" + index.to_bytes(4, "big")
        yield f"index-{name}", comment, sealed_by_peer(head + b"\x00hello", filled=False), CONTRADICTION
        yield (
            f"index-{name}-action",
            f"{comment}, and an action longer than the message",
            sealed_by_peer(head + b"\x05abc", filled=False),
            CONTRADICTION,
        )


def ill_formed() -> Iterator[Case]:
    """Yield messages whose content is not well formed, sealed by the peer."""
    for name, comment, inside in (
        ("type-accept", "type 1 in kind 4", b"\x01" + CLOSE[1:]),
        ("type-4", "type 4", b"\x04hello"),
        ("type-missing", "no type byte", b""),
        ("data-nothing", "type 0 and nothing else", b"\x00"),
        ("data-no-index", "data that ends within its index", HEAD[:-1]),
        ("data-no-action", "data that ends behind its index", HEAD),
        ("data-action-beyond", "an action longer than the message", HEAD + b"\x05abc"),
        ("data-action-129", "an action of 129 bytes", HEAD + b"\x81" + b"a" * 129),
        ("data-action-255", "an action of 255 bytes", HEAD + b"\xff" + b"a" * 255),
        ("data-action-not-utf8", "an action that is not UTF-8", HEAD + b"\x02\xff\xfehello"),
        ("parts-unknown", "a part that nobody knows", with_parts(16, b"")),
        ("references-none", "the part of references without any", with_parts(8, naming())),
        ("references-seventeen", "seventeen references", with_parts(8, naming(*[NAMED] * 17))),
        ("references-count-cut", "data that ends before its count of references", with_parts(8, b"", b"")),
        ("references-length-cut", "data that ends within the length of a reference",
         with_parts(8, naming(NAMED)[:2], b"")),
        ("references-cut", "data that ends within a reference", with_parts(8, naming(NAMED)[:-1], b"")),
        ("reference-empty", "a reference of no bytes", with_parts(8, naming(b""))),
        ("reference-4097", "a reference of 4097 bytes, of a kind that nobody knows",
         with_parts(8, naming(wire.array(wire.uint(2), wire.binary(bytes(4092)))))),
        ("reference-kind-0", "a reference of kind 0", with_parts(8, naming(b"\x98\x00" + NAMED[2:]))),
        ("reference-ill-formed", "a reference to an attachment with a byte behind it",
         with_parts(8, naming(NAMED + b"\x00"))),
        ("reference-second-ill-formed", "the second of two references is none", with_parts(8, naming(NAMED, b"\x90"))),
        ("reference-ill-formed-index", "a reference that is none, and an index beyond its position",
         b"\x00\x08\x00\x00\x00\x09" + naming(b"\x90") + b"\x00hello"),
        ("references-no-action", "data that ends behind its references", with_parts(8, naming(NAMED), b"")),
        ("parts-offer-of-b", "an offer from B", with_parts(1, bytes(1188))),
        ("parts-both-items", "an offer and an answer", with_parts(3, bytes(1188 + 1124))),
        ("parts-answer-short", "an answer that is a byte short", with_parts(2, bytes(1123), b"")),
        ("parts-answer-short-index", "an answer that is a byte short, and an index beyond its position",
         b"\x00\x02\x00\x00\x00\x09" + bytes(1123)),
        ("signal-answer-short", "a signal with an answer that is a byte short", b"\x03\x02" + bytes(1123)),
        ("signal-both-items", "a signal with an offer and an answer", b"\x03\x03" + bytes(1188 + 1124)),
        ("ack-none", "an ack without ranges", with_parts(4, b"\x00")),
        ("ack-seventeen", "an ack of seventeen ranges", with_parts(4, ranges(*range(1, 35)))),
        ("ack-cut", "an ack that is a byte short", with_parts(4, ranges(1, 1)[:-1], b"")),
        ("ack-zero", "an ack of index 0", with_parts(4, ranges(0, 1))),
        ("ack-backwards", "a range that ends before it begins", with_parts(4, ranges(2, 1))),
        ("ack-touching", "ranges that touch", with_parts(4, ranges(1, 1, 2, 2))),
        ("ack-overlapping", "ranges that overlap", with_parts(4, ranges(1, 3, 3, 4))),
        ("ack-descending", "ranges that descend", with_parts(4, ranges(5, 5, 1, 1))),
        ("signal-nothing", "type 3 and nothing else", b"\x03"),
        ("signal-no-parts", "a signal without parts", b"\x03\x00"),
        ("signal-references", "a signal with a good reference", b"\x03\x08" + naming(NAMED)),
        ("signal-ack-references", "a signal with an ack and a good reference",
         b"\x03\x0c" + ranges(1, 1) + naming(NAMED)),
        ("signal-data", "a signal with data behind its parts", b"\x03\x04" + ranges(1, 1) + b"hello"),
        ("signal-offer-of-b", "a signal with an offer from B", b"\x03\x01" + bytes(1188)),
        ("close-nothing", "type 2 and nothing else", b"\x02"),
        ("close-two", "a close with two elements", b"\x02" + wire.array(wire.text(b""), wire.uint(0))),
        ("close-four", "a close with four elements",
         b"\x02" + wire.array(wire.text(b""), wire.uint(0), wire.uint(0), wire.NIL)),
        ("close-trailing", "a byte behind the close", CLOSE + b"\x00"),
        ("close-reason-129", "a reason of 129 bytes",
         b"\x02" + wire.array(wire.text(b"a" * 129), wire.uint(0), wire.uint(0))),
        ("close-reason-bin", "the reason as a byte string",
         b"\x02" + wire.array(wire.binary(b""), wire.uint(0), wire.uint(0))),
        ("close-count-negative", "a negative count", b"\x02" + wire.array(wire.text(b""), b"\xff", wire.uint(0))),
        ("close-count-2-53", "a count of 2^53", b"\x02" + wire.array(wire.text(b""), wire.uint(2**53), wire.uint(0))),
        ("close-count-2-32", "a count of 2^32: no index",
         b"\x02" + wire.array(wire.text(b""), wire.uint(2**32), wire.uint(0))),
        ("close-count-uint8", "a count in a longer form",
         b"\x02" + wire.array(wire.text(b""), wire.uint8(0), wire.uint(0))),
    ):  # fmt: skip
        yield name, f"{comment}, sealed well", sealed_by_peer(inside), REFUSED
    for name, comment, padded in (
        ("padding-none", "zeros without a marker", bytes(64)),
        ("padding-missing", "content without padding", data()),
        ("padding-long", "a step more padding than due", data() + b"\x80" + bytes(64)),
        ("padding-dirty", "a byte behind the marker", data() + b"\x80" + bytes(50) + b"\x01"),
        ("padding-empty", "a box of nothing", b""),
    ):
        yield name, f"{comment}, sealed well", sealed_by_peer(padded=padded), UNOPENED
    yield ("kind-2-data", "type 0 sealed for kind 2, behind the ACCEPT", sealed_by_peer(kind=2), REFUSED)  # fmt: skip
    yield ("kind-2-accept", "type 1 sealed for kind 2, behind the ACCEPT", sealed_by_peer(b"\x01" + CLOSE[1:], kind=2),
           REFUSED)  # fmt: skip
