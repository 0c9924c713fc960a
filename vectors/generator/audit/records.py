"""The family record: entries as they are written, read, seen by a relay, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from generator import wire
from generator.audit import counts
from generator.audit.entries import FIRST_PREVIOUS, NO_ENVELOPE, SESSION_ID, SPEC, entry, items, leaf, record
from generator.codes import MALFORMED, STALE, TOO_LARGE, UNOPENED, VERSION
from generator.world import ALICE, BOB, MALLORY, MESH, NOW_MS, Files, token

Json = dict[str, Any]

LARGEST: Final = 2**53 - 1

# --- one record of each kind -----------------------------------------------------------------------------------------

LONGEST_NAME: Final = "did:" + "m" * 3 + ":" + "n" * 120

EVENTS: Final[tuple[tuple[str, str, Json], ...]] = (
    ("bundle-published", "Alice made a last-resort bundle; its size, and no envelope",
     {**NO_ENVELOPE, "event": "bundle.published", "size": 1359, "class": 2}),
    ("knock-sent", "Alice's own KNOCK", {"event": "knock.sent", "number": 0, "size": 1530}),
    ("knock-received", "the same in Bob's log", {"event": "knock.received", "number": 0, "size": 1530}),
    ("knock-accepted", "Bob's ACCEPT, in both logs alike",
     {"event": "knock.accepted", "decision": "allow", "number": 0, "size": 342, "sender": BOB.did,
      "recipient": ALICE.did}),
    ("knock-rejected", "Bob's REJECT in Bob's log: it names no session",
     {"event": "knock.rejected", "decision": "deny", "number": 0, "size": 230, "sender": BOB.did,
      "recipient": ALICE.did, "session_id": "", "class": 0, "reason": "policy"}),
    ("message-sealed", "a message of Alice's", {}),
    ("message-opened", "the same in Bob's log", {"event": "message.opened"}),
    ("message-refused", "three refusals with one code in one minute, with the first receipt",
     {**NO_ENVELOPE, "event": "message.refused", "decision": "deny", "recipient": BOB.did,
      "receipt": token("audit/receipt/refused").hex(), "size": 326, "reason": UNOPENED, "count": 3}),
    ("message-refused-nobody", "a refused envelope that names no readable sender",
     {**NO_ENVELOPE, "event": "message.refused", "decision": "deny", "sender": "", "recipient": BOB.did,
      "receipt": token("audit/receipt/refused").hex(), "size": 5, "reason": MALFORMED}),
    ("session-closed", "a session that ended with data missing: its id and no envelope",
     {**NO_ENVELOPE, "event": "session.closed", "recipient": BOB.did, "session_id": SESSION_ID.hex(), "class": 1,
      "reason": "truncated"}),
    ("stock-exhausted", "nothing but the owner", {**NO_ENVELOPE, "event": "stock.exhausted"}),
    ("trust-updated", "a statement that was taken: issuer, subject, its time, its digest and its sequence",
     {**NO_ENVELOPE, "event": "trust.updated", "sender": MALLORY.did, "recipient": BOB.did, "envelope_time_ms": NOW_MS,
      "receipt": token("audit/receipt/statement").hex(), "number": 7, "reason": "edge-withdrawn"}),
    ("trust-refused", "statements that were refused: the one event with a decision of two kinds",
     {**NO_ENVELOPE, "event": "trust.updated", "decision": "deny", "reason": STALE, "count": 9}),
    ("envelope-seen", "what a relay notes: no session, and the kind as the reason",
     {"event": "envelope.seen", "session_id": "", "number": 0, "class": 0, "reason": "message"}),
    ("largest", "every number the largest that there is, and the longest names",
     {"at_ms": LARGEST, "envelope_time_ms": LARGEST, "number": LARGEST, "size": LARGEST, "count": LARGEST,
      "mesh": "a" * 64, "sender": LONGEST_NAME, "recipient": "did:" + "m" * 32 + ":" + "n" * 91, "class": 2,
      "reason": "r" * 32}),
    ("smallest", "every number 0, every text and byte string as short as it may be",
     {**NO_ENVELOPE, "at_ms": 0, "mesh": "m", "sender": ""}),
    ("foreign-names", "names of other DID methods, with every character that a name may have",
     {"sender": "did:mesh:6d92ABD_z-7.%3A:x", "recipient": "did:web:example.com%3A3000:user:alice"}),
    ("digit-in-the-method", "a DID method with digits; a reason with every kind of character that it may have",
     {"sender": "did:3:abc", "recipient": "did:v1x2:abc", "reason": "wire.too_large-2"}),
    ("seen-of-nobody", "an envelope seen, of nobody: no decoder asks whether an event goes without a name",
     {"event": "envelope.seen", "session_id": "", "number": 0, "class": 0, "sender": "", "reason": "message"}),
    ("shortest-forms", "the least number of each longer form, and the shortest mesh and reason of theirs",
     {"at_ms": 1 << 32, "envelope_time_ms": 1 << 16, "number": 1 << 8, "size": 1 << 7, "count": (1 << 7) - 1,
      "mesh": "m" * 32, "reason": "r" * 31}),
    ("message-signal", "three signals of Alice's in one minute: no envelope, and a count",
     {**NO_ENVELOPE, "event": "message.signal", "recipient": BOB.did, "decision": "info", "count": 3}),
    ("attachment-named", "an attachment that a message names: its receipt, and the size of its blob",
     {"event": "attachment.named", "number": 7, "size": (1 << 30) + 104 * 4096, "reason": "", "decision": "info"}),
)  # fmt: skip


def record_family() -> Files:
    """Return the family record."""
    files = Files("record")
    for index, (name, comment, changes) in enumerate(EVENTS):
        fields = record(1, **changes)
        sequence, previous = (0, FIRST_PREVIOUS) if index % 2 == 0 else (index, token(f"audit/previous/{index}"))
        if name == "largest":
            sequence = LARGEST
        made = entry(fields, sequence, previous)
        place = {"sequence": sequence, "previous": previous.hex()}
        output = {"entry": made.hex(), "entry_hash": leaf(made).hex()}
        files.add(f"build-{name}", "record.build", comment, spec=SPEC, given={**place, **fields}, output=output)
        files.add(
            f"decode-{name}",
            "record.decode",
            f"{comment}, read",
            spec=SPEC,
            given={"entry": made.hex()},
            output={**place, **fields, "entry_hash": leaf(made).hex()},
        )
    unfit = record(1, decision="deny", receipt="", **{"class": 0})
    files.add(
        "decode-unfit",
        "record.decode",
        "a message sealed, denied, and without a receipt: a decoder holds fields to their forms, not to the event",
        spec=SPEC,
        given={"entry": entry(unfit).hex()},
        output=unfit,
    )
    files.add_each("record.decode", SPEC, (
        (f"refuse-{name}", comment, {"entry": data.hex()}, expect)
        for name, comment, data, expect in _bad()
    ))  # fmt: skip
    counts.seen(files)
    counts.counted(files)
    return files


# --- what is no entry ------------------------------------------------------------------------------------------------


Field = tuple[str, str, int, bytes]


def _numbers() -> Iterator[Field]:
    """Yield (name, comment, place, encoded field)."""
    for name, comment, place in (
        ("sequence", "the sequence", 1),
        ("at", "the time", 3),
        ("envelope-time", "the envelope's time", 8),
        ("number", "the number", 11),
        ("size", "the size", 12),
        ("count", "the count", 16),
    ):
        yield from (
            (f"{name}-2-53", f"{comment} 2^53: one more than the largest number", place, wire.uint(2**53)),
            (f"{name}-negative", f"{comment} negative", place, b"\xff"),
            (f"{name}-long-form", f"{comment} in the nine-byte form", place, wire.uint64(5)),
            (f"{name}-text", f"{comment} as a text", place, wire.text(b"5")),
        )


def _byte_strings() -> Iterator[Field]:
    for name, comment, place, sizes in (
        ("previous", "a previous hash", 2, (0, 31, 33)),
        ("receipt", "a receipt", 9, (1, 16, 31, 33)),
        ("session-id", "a session id", 10, (1, 15, 17, 32)),
    ):
        for size in sizes:
            yield f"{name}-{size}", f"{comment} of {size} bytes", place, wire.binary(bytes(size))


# Field, its place, what the comment begins with, and texts that do not belong there.
_TEXTS: Final[tuple[tuple[str, int, str, tuple[tuple[str, str, bytes], ...]], ...]] = (
    ("event", 4, "", (
        ("empty", "no event", b""),
        ("unknown", "an event that there is not", b"message.read"),
        ("upper-case", "an event in capitals", b"MESSAGE.SEALED"),
        ("trailing-space", "a space behind the event", b"message.sealed "),
        ("33", "an event of 33 bytes", b"e" * 33),
    )),
    ("decision", 14, "", (
        ("empty", "no decision", b""),
        ("unknown", "a decision that there is not", b"maybe"),
        ("upper-case", "a decision in capitals", b"INFO"),
    )),
    ("mesh", 5, "", (
        ("empty", "no mesh", b""),
        ("65", "a mesh of 65 bytes", b"a" * 65),
        ("upper-case", "a capital in the mesh", b"example/Vectors"),
        ("newline", "a line feed behind the mesh", b"example/vectors\n"),
    )),
    ("sender", 6, "in the sender's place: ", (
        ("prefix-alone", "nothing behind the method", b"did:agentmesh:"),
        ("no-method", "no method", b"did::abc"),
        ("method-upper-case", "a capital in the method", b"did:Mesh:abc"),
        ("method-33", "a method of 33 characters", b"did:" + b"m" * 33 + b":abc"),
        ("method-hyphen", "a hyphen in the method", b"did:my-method:abc"),
        ("no-scheme", "no did:", b"agentmesh:abc"),
        ("scheme-upper-case", "DID: in capitals", b"DID:agentmesh:abc"),
        ("129", "129 bytes", b"did:" + b"m" * 4 + b":" + b"n" * 120),
        ("part-121", "121 characters behind the method", b"did:m:" + b"n" * 121),
        ("space", "a space", b"did:agentmesh:a b"),
        ("newline", "a line feed behind it", b"did:agentmesh:abc\n"),
        ("slash", "a path", b"did:agentmesh:abc/x"),
        ("fragment", "a fragment", b"did:agentmesh:abc#key"),
        ("escape", "what would act on a terminal", b"did:agentmesh:\x1b[31m"),
        ("umlaut", "a letter that is not ASCII", "did:agentmesh:\u00e4".encode()),
        ("nul", "a zero byte", b"did:agentmesh:abc\x00"),
        ("not-utf8", "bytes that are not UTF-8", b"did:agentmesh:\xff"),
    )),
    ("reason", 15, "", (
        ("33", "a reason of 33 bytes", b"r" * 33),
        ("upper-case", "a capital in the reason", b"Policy"),
        ("space", "a space in the reason: words of others have no place in a record", b"because i say so"),
        ("slash", "a slash in the reason", b"policy/no"),
        ("colon", "a colon in the reason", b"policy:no"),
        ("newline", "a line feed behind the reason", b"policy\n"),
        ("umlaut", "a letter that is not ASCII", "gr\u00fcnde".encode()),
    )),
)  # fmt: skip


def _texts() -> Iterator[Field]:
    for field, place, before, texts in _TEXTS:
        for name, comment, text in texts:
            yield f"{field}-{name}", before + comment, place, wire.text(text)


def _others() -> Iterator[Field]:
    """Yield fields of another kind, of another value, and in a longer form."""
    yield from (
        ("count-0", "a record that stands for no event", 16, wire.uint(0)),
        ("count-true", "true as the count", 16, wire.TRUE),
        ("version-text", "the version as a text", 0, wire.text(b"1")),
        ("previous-nil", "nil as the previous hash of the first entry", 2, wire.NIL),
        ("previous-text", "the previous hash as a text", 2, wire.text(b"0" * 32)),
        ("receipt-nil", "nil as the receipt", 9, wire.NIL),
        ("session-id-nil", "nil as the session id", 10, wire.NIL),
        ("class-3", "class 3", 13, wire.uint(3)),
        ("class-nil", "nil as the class", 13, wire.NIL),
        ("event-bin", "the event as a byte string", 4, wire.binary(b"message.sealed")),
        ("event-number", "the event as a number", 4, wire.uint(6)),
        ("decision-true", "true as the decision", 14, wire.TRUE),
        ("recipient-word", "a word and no DID as the recipient", 7, wire.text(b"bob")),
        ("recipient-129", "a recipient of 129 bytes", 7, wire.text(b"did:mmmm:" + b"n" * 120)),
        ("recipient-nil", "nil as the recipient: without one it is empty", 7, wire.NIL),
        ("sender-bin", "the sender as a byte string", 6, wire.binary(ALICE.did.encode())),
        ("reason-nil", "nil as the reason", 15, wire.NIL),
        ("reason-bin", "the reason as a byte string", 15, wire.binary(b"policy")),
        ("number-uint8", "a number that one byte holds, in the two-byte form", 11, wire.uint8(127)),
        ("number-uint16", "a number that the two-byte form holds, in the three-byte form", 11, wire.uint16(255)),
        ("number-uint32", "a number that the three-byte form holds, in the five-byte form", 11, wire.uint32(65_535)),
        ("number-uint64", "a number that the five-byte form holds, in the nine-byte form", 11, wire.uint64(2**32 - 1)),
        ("mesh-str8-31", "a mesh of 31 bytes in a longer form", 5, wire.text8(b"m" * 31)),
        ("mesh-str16", "the mesh with a two-byte length", 5, wire.text16(b"m" * 64)),
        ("mesh-str32", "the mesh with a four-byte length", 5, wire.text32(b"m" * 64)),
        ("receipt-bin32", "the receipt with a four-byte length", 9, wire.binary32(token("audit/receipt/1"))),
        ("mesh-str8", "the mesh in a longer form", 5, wire.text8(MESH.encode())),
        ("receipt-bin16", "the receipt in a longer form", 9, wire.binary16(token("audit/receipt/1"))),
    )


def _bad() -> Iterator[tuple[str, str, bytes, str]]:
    good = items(record(1, at_ms=5, envelope_time_ms=5, number=5, size=5, count=5))
    for version in (0, 2):
        yield f"version-{version}", f"version {version}", wire.with_item(good, 0, wire.uint(version)), VERSION
    for name, comment, place, item in (*_numbers(), *_byte_strings(), *_texts(), *_others()):
        yield name, comment, wire.with_item(good, place, item), MALFORMED
    plain = wire.array(*good)
    for name, comment, data in wire.foreign_arrays(good):
        # Seventeen fields have a two-byte count anyway: here the four-byte one is the longer form.
        data = b"\xdd" + len(good).to_bytes(4, "big") + b"".join(good) if name == "array16" else data
        comment = "the array's length in the four-byte form" if name == "array16" else comment
        yield f"form-{name.replace('array16', 'array32')}", f"the entry: {comment}", data, MALFORMED
    newer = wire.replaced(good, 0, wire.uint(2))
    for name, comment, data, expect in (
        ("previous-31", "a previous hash of 31 bytes", wire.replaced(newer, 2, wire.binary(bytes(31))), MALFORMED),
        ("18-fields", "eighteen fields", [*newer, wire.NIL], MALFORMED),
        ("class-3", "class 3", wire.replaced(newer, 13, wire.uint(3)), MALFORMED),
        ("receipt-33", "a receipt of 33 bytes", wire.replaced(newer, 9, wire.binary(bytes(33))), MALFORMED),
        ("event-33", "an event of 33 bytes", wire.replaced(newer, 4, wire.text(b"e" * 33)), MALFORMED),
        ("event-unknown", "an event of its own", wire.replaced(newer, 4, wire.text(b"message.read")), VERSION),
        ("receipt-16", "a receipt of 16 bytes", wire.replaced(newer, 9, wire.binary(bytes(16))), VERSION),
        ("mesh-upper-case", "a capital in the mesh", wire.replaced(newer, 5, wire.text(b"Mesh")), VERSION),
        ("sender-word", "a word as the sender", wire.replaced(newer, 6, wire.text(b"alice")), VERSION),
        ("reason-space", "a space in the reason", wire.replaced(newer, 15, wire.text(b"no no")), VERSION),
        ("count-0", "a count of 0", wire.replaced(newer, 16, wire.uint(0)), VERSION),
    ):
        checked = "before the version" if expect == MALFORMED else "behind the version"
        yield f"newer-{name}", f"version 2, and {comment}, which is checked {checked}", wire.array(*data), expect
    large = wire.array(*newer).ljust(1025, b"\x00")
    left, right = token("audit/left"), token("audit/right")
    yield from (
        ("newer-1025", "version 2, and 1,025 bytes: not looked at", large, TOO_LARGE),
        ("form-two-entries", "two entries, one behind the other", plain * 2, MALFORMED),
        ("form-1024", "1,024 bytes, with zeros behind the entry", plain.ljust(1024, b"\x00"), MALFORMED),
        ("form-1025", "1,025 bytes: not looked at", plain.ljust(1025, b"\x00"), TOO_LARGE),
        ("form-node", "what an inner node of the tree is the hash of", left + right, MALFORMED),
        ("form-leaf-zero", "32 zero bytes: what other trees pad with", bytes(32), MALFORMED),
    )
