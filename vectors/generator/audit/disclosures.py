"""The family disclosure: one message opened to an auditor, and what does not belong together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from attrs import evolve

from agentmesh.envelope import receipt_of
from agentmesh.primitives.padding import pad
from generator import wire
from generator.audit.messages import Message, crafted, given, said, said_on_last_resort, two_keys
from generator.codes import MALFORMED
from generator.talk import LATER_MS, enveloped, header_items
from generator.world import ALICE, BOB, MALLORY, SMALL, Files, token

Json = dict[str, Any]

SPEC: Final = "8.1"
REFUSED: Final = "audit.disclosure"


LIMITS: Final = {**SMALL, "envelope_max_bytes": 5000}
Case = tuple[str, str, Json]

HEAD: Final = b"\x00\x00\x00\x00\x00\x01"  # data without parts, of index 1
ACK: Final = b"\x01" + b"\x00\x00\x00\x01" * 2  # of index 1


def disclosure() -> Files:
    """Return the family disclosure."""
    files = Files("disclosure")
    talk = said()
    one, other = two_keys()
    for name, comment, message, changes in _disclosed(one, other):
        files.add(
            f"verify-{name}",
            "disclosure.verify",
            comment,
            spec=SPEC,
            given=given(message, **changes),
            intermediate=message.keys_json(),
        )
    files.add(
        "verify-over-the-plaintext-limit",
        "disclosure.verify",
        "five bytes of data, where the verifier would take one as an agent: no check here is on that limit",
        spec=SPEC,
        given={**given(crafted()), "limits": LIMITS},
    )
    files.add_each("disclosure.verify", SPEC, (
        (f"refuse-{name}", comment, changed, REFUSED)
        for name, comment, changed in (
            *_other_records(),
            *_other_envelopes(),
            *_other_keys(one, other),
            *_other_contents(),
            *_other_forms(),
            ("over-the-limit", "an envelope over the verifier's limit",
             {**given(crafted(bytes(5000))), "limits": LIMITS}),
        )
    ))  # fmt: skip
    files.add(
        "refuse-no-entry",
        "disclosure.verify",
        "an entry with a byte behind it is refused as one",
        spec=SPEC,
        given={**given(talk["first"]), "entry": given(talk["first"])["entry"] + "00"},
        expect=MALFORMED,
    )
    return files


def _disclosed(one: Message, other: Message) -> Iterator[tuple[str, str, Message, Json]]:
    """Yield messages that are what the record says, and what is another one in their record."""
    talk = said()
    opened = {"event": "message.opened", "at_ms": LATER_MS + 80}
    unchecked = {"at_ms": 1, "number": 999, "class": 2, "decision": "deny", "reason": "other", "count": 7}
    yield from (
        ("sealed", "Alice's message, against the record of her log", talk["first"], {}),
        ("opened", "the same, against the record of Bob's log", talk["first"], opened),
        ("second", "the next of her chain, with an action of its own", talk["second"], {}),
        ("answer", "Bob's message, in a chain that began with a turn", talk["answer"], {}),
        ("empty", "no data", talk["empty"], {}),
        ("long", "750 bytes", talk["long"], {}),
        ("close", "a close: its content is disclosed as it is", talk["close"], {}),
        ("close-opened", "the same, against the record of Bob's log", talk["close"], opened),
        ("last-resort", "a message of a session on a last-resort bundle", said_on_last_resort(), {}),
        ("unchecked-fields", "a record whose other fields are other ones: the envelope does not show them",
         talk["first"], unchecked),
        ("made-by-anybody",
         "a message under a key that no chain gave: it shows what the log's owner had, not who sealed it", crafted(),
         {}),
        ("action-128", "an action of 128 bytes", crafted(HEAD + b"\x80" + b"a" * 128 + b"hello"), {}),
        ("item-offer", "an item of which no more is looked at than its length: this is no key",
         crafted(b"\x00\x01" + HEAD[2:] + bytes(1188) + b"\x00hello"), {}),
        ("item-answer", "an answer", crafted(b"\x00\x02" + HEAD[2:] + bytes(1124) + b"\x00hello"), {}),
        ("ack", "an ack", crafted(b"\x00\x04" + HEAD[2:] + ACK + b"\x00hello"), {}),
        ("close-reason-128", "a close with a reason of 128 bytes",
         crafted(b"\x02" + wire.array(wire.text(b"r" * 128), b"\x03", b"\x01")), {}),
        ("number-0", "a record with the number 0: it is not checked", crafted(), {"number": 0}),
        ("two-keys-one", "a box that opens under two keys, with the commitment to the first, and the first", one, {}),
        ("two-keys-other", "the same box with the commitment to the second, and the second", other, {}),
    )  # fmt: skip


def _other_records() -> Iterator[Case]:
    talk = said()
    first = talk["first"]
    for event in ("knock.sent", "knock.accepted", "message.refused", "session.closed", "envelope.seen"):
        yield f"record-event-{event.replace('.', '-')}", f"the record is of {event}", given(first, event=event)
    for name, comment, changes in (
        ("sender", "another sender", {"sender": MALLORY.did}),
        ("sender-empty", "no sender", {"sender": ""}),
        ("recipient", "another recipient", {"recipient": MALLORY.did}),
        ("parties-swapped", "sender and recipient swapped", {"sender": BOB.did, "recipient": ALICE.did}),
        ("mesh", "another mesh", {"mesh": "example/other"}),
        ("envelope-time", "another time of the envelope", {"envelope_time_ms": LATER_MS + 1}),
        ("receipt", "a bit of the receipt flipped", {"receipt": wire.flipped(receipt_of(first.envelope), 31).hex()}),
        ("receipt-empty", "no receipt", {"receipt": ""}),
        ("receipt-of-another", "the receipt of another message",
         {"receipt": receipt_of(talk["second"].envelope).hex()}),
        ("session-id", "another session id", {"session_id": token("audit/session/other", 16).hex()}),
        ("session-id-empty", "no session id", {"session_id": ""}),
        ("size", "a size of one byte more", {"size": len(first.envelope) + 1}),
    ):  # fmt: skip
        yield f"record-{name}", f"the record has {comment}", given(first, **changes)
    yield ("record-of-another", "the record of another message of the session",
           {**given(first), "entry": given(talk["second"])["entry"]})  # fmt: skip


def _other_envelopes() -> Iterator[Case]:
    talk = said()
    first = talk["first"]
    good = first.envelope
    begin = len(good) - len(first.body)
    places = (
        ("header-time", begin - len(wire.binary(first.body)) + len(first.body) - 1, "the header's time"),
        ("session-id", begin, "the session id"),
        ("nonce", begin + 16, "the nonce"),
        ("sealed-header", begin + 40, "the sealed header"),
        ("kc", begin + 96, "the commitment"),
        ("tag", begin + 132, "the box's tag"),
        ("box", len(good) - 1, "the last byte of the box"),
    )
    for name, at, what in places:
        altered = wire.flipped(good, at)
        yield (f"envelope-{name}", f"a bit of {what} flipped, and the record of the genuine envelope",
               {**given(first), "envelope": altered.hex()})  # fmt: skip
        follows: Json = {}
        if name == "header-time":
            follows = {"envelope_time_ms": LATER_MS ^ 1}
        if name == "session-id":
            follows = {"session_id": wire.flipped(first.session_id, 0).hex()}
        yield (f"envelope-{name}-recorded", f"a bit of {what} flipped, and a record of that",
               given(first, altered, **follows))  # fmt: skip
    yield ("envelope-of-another", "another message's envelope",
           {**given(first), "envelope": talk["second"].envelope.hex()})  # fmt: skip
    second = talk["second"]
    yield ("envelope-and-record-of-another", "another message's envelope and its record",
           {**given(second), "disclosure": first.disclosure.hex()})  # fmt: skip
    for name, comment, changed in (
        ("sender", "another sender in the header", evolve(first, sender=MALLORY)),
        ("recipient", "another recipient in the header", evolve(first, recipient=MALLORY)),
    ):
        moved = evolve(changed, header=wire.array(*header_items(4, LATER_MS, changed.sender, changed.recipient)))
        envelope = enveloped(moved.header, first.body)
        yield f"envelope-{name}-recorded", f"{comment}, and a record of that", given(moved, envelope)
    items = header_items(4, LATER_MS, ALICE, BOB)
    other_mesh = wire.with_item(items, 2, wire.text(b"example/other"))
    yield ("envelope-mesh-recorded", "another mesh in the header, and a record of that",
           given(first, enveloped(other_mesh, first.body), mesh="example/other"))  # fmt: skip


def _other_keys(one: Message, other: Message) -> Iterator[Case]:
    talk = said()
    first, second = talk["first"], talk["second"]
    for name, comment, data in (
        ("th", "a bit of th flipped", wire.flipped(first.th, 0) + first.mk),
        ("th-of-another-session", "th of another session", said_on_last_resort().th + first.mk),
        ("mk", "a bit of the message key flipped", first.th + wire.flipped(first.mk, 31)),
        ("mk-of-the-next", "the key of the chain's next message", first.th + second.mk),
        ("mk-of-the-answer", "the key of the peer's message", first.th + talk["answer"].mk),
        ("mk-zero", "32 zero bytes as the key", first.th + bytes(32)),
        ("bk", "the box key in the place of the message key", first.th + first.keys[0]),
        ("swapped", "the key before th", first.mk + first.th),
    ):
        yield f"key-{name}", comment, {**given(first), "disclosure": data.hex()}
    for name, comment, made, mk in (
        ("one", "the commitment to the first key, and the second", one, other.mk),
        ("other", "the commitment to the second key, and the first", other, one.mk),
    ):
        yield (f"two-keys-{name}", f"a box that opens under both keys to well-formed data: {comment}",
               {**given(made), "disclosure": (made.th + mk).hex()})  # fmt: skip
    neither = bytes(a ^ b for a, b in zip(one.keys[1], other.keys[1], strict=True))
    yield "two-keys-neither", "the same box with a commitment to neither", given(evolve(one, kc=neither))
    yield "kc-zero", "32 zero bytes as the commitment", given(evolve(crafted(), kc=bytes(32)))


def _other_contents() -> Iterator[Case]:
    close = wire.array(wire.text(b"enough"), wire.uint(3), wire.uint(1))
    for name, comment, inside in (
        ("type-accept", "an ACCEPT's type in a message", b"\x01" + close),
        ("type-accept-as-data", "an ACCEPT's type before what would be data", b"\x01" + HEAD[1:] + b"\x00hello"),
        ("type-4", "type 4", b"\x04hello"),
        ("type-4-as-data", "type 4 before what would be data", b"\x04" + HEAD[1:] + b"\x00hello"),
        ("signal", "a signal, which nobody records", b"\x03\x04" + ACK),
        ("parts-unknown", "a part that nobody knows", b"\x00\x10" + HEAD[2:] + b"\x00hello"),
        ("references-none", "the part of references without any", b"\x00\x08" + HEAD[2:] + b"\x00\x00hello"),
        ("parts-both-items", "both items", b"\x00\x03" + HEAD[2:] + bytes(1188 + 1124) + b"\x00hello"),
        ("item-short", "an answer that is a byte short", b"\x00\x02" + HEAD[2:] + bytes(1123)),
        ("ack-touching", "an ack of ranges that touch",
         b"\x00\x04" + HEAD[2:] + b"\x02" + ACK[1:] + ACK[1:-1] + b"\x02\x00hello"),
        ("type-4-as-close", "type 4 before what would be a close", b"\x04" + close),
        ("type-missing", "a plaintext without any byte", b""),
        ("index-missing", "data that ends within its index", HEAD[:-1]),
        ("index-0", "data of index 0", bytes(7) + b"hello"),
        ("action-missing", "data without an action length", HEAD),
        ("action-beyond", "an action length over what is there", HEAD + b"\x09eight..."),
        ("action-129", "an action of 129 bytes", HEAD + b"\x81" + b"a" * 129),
        ("action-not-utf8", "an action that is not UTF-8", HEAD + b"\x01\xff"),
        ("close-empty", "a close without content", b"\x02"),
        ("close-trailing-byte", "a close with a byte behind it", b"\x02" + close + b"\x00"),
        ("close-reason-129", "a close with a reason of 129 bytes",
         b"\x02" + wire.array(wire.text(b"r" * 129), b"\x03", b"\x01")),
        ("close-sent-nil", "a close with nil as the first count",
         b"\x02" + wire.array(wire.text(b"x"), wire.NIL, b"\x01")),
        ("close-opened-text", "a close with a text as the second count",
         b"\x02" + wire.array(wire.text(b"x"), b"\x03", wire.text(b"1"))),
        ("close-reason-bin", "a close with a byte string as the reason",
         b"\x02" + wire.array(wire.binary(b"x"), b"\x03", b"\x01")),
        ("close-long-form", "a close with a count in a longer form",
         b"\x02" + wire.array(wire.text(b"x"), wire.uint8(3), b"\x01")),
    ):  # fmt: skip
        yield f"content-{name}", f"well sealed: {comment}", given(crafted(inside))
    padded = pad(HEAD + b"\x00hello")
    for name, comment, bad in (
        ("missing", "no padding", HEAD + b"\x00hello"),
        ("zeros", "zeros without a marker", (HEAD + b"\x00hello").ljust(64, b"\x00")),
        ("other-byte", "another byte in the padding", padded[:-1] + b"\x01"),
        ("short", "63 bytes", padded[:-1]),
        ("long", "72 bytes where 64 would do", padded + bytes(8)),
    ):
        yield f"padding-{name}", f"well sealed: {comment}", given(crafted(padded=bad))


def _other_forms() -> Iterator[Case]:
    for kind, name in ((1, "knock"), (2, "accept"), (3, "reject")):
        yield f"kind-{name}", f"the same in an envelope of kind {kind}, sealed for it", given(crafted(kind=kind))
    made = crafted()
    for size in (15, 16, 131, 147):
        cut = enveloped(made.header, made.body[:size])
        changes = {"session_id": ""} if size < 16 else {}
        yield f"body-{size}", f"a body of {size} bytes", given(made, cut, **changes)
    newer = wire.with_item(header_items(4, LATER_MS, ALICE, BOB), 0, wire.uint(2))
    yield from (
        ("form-trailing-byte", "a byte behind the envelope, and a record of that",
         given(made, made.envelope + b"\x00")),
        ("form-long", "the body in a longer form, and a record of that",
         given(made, wire.array(wire.binary(made.header), wire.binary32(made.body)))),
        ("form-version", "an envelope of version 2, sealed for it", given(evolve(made, header=newer))),
        ("form-empty", "no envelope", given(made, b"")),
    )  # fmt: skip
