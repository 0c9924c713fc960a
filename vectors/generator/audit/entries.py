"""Records and entries by hand: one session's records, and the log that they make."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.primitives import _crypto
from generator import wire
from generator.codes import DUPLICATE
from generator.world import ALICE, BOB, MESH, NOW_MS, token

Json = dict[str, Any]

SPEC: Final = "8"
FIRST_PREVIOUS: Final = bytes(32)
SESSION_ID: Final = token("audit/session", 16)
NO_ENVELOPE: Final[Json] = {
    "recipient": "",
    "envelope_time_ms": 0,
    "receipt": "",
    "session_id": "",
    "number": 0,
    "size": 0,
    "class": 0,
}


def record(place: int = 1, /, **changes: Any) -> Json:
    """Return the fields of a record: Alice sealed the message at this position."""
    fields = {
        "at_ms": NOW_MS + place,
        "event": "message.sealed",
        "mesh": MESH,
        "sender": ALICE.did,
        "recipient": BOB.did,
        "envelope_time_ms": NOW_MS + place,
        "receipt": token(f"audit/receipt/{place}").hex(),
        "session_id": SESSION_ID.hex(),
        "number": place,
        "size": 326,
        "class": 1,
        "decision": "info",
        "reason": "",
        "count": 1,
    }
    if not changes.keys() <= fields.keys():
        raise KeyError(f"no fields of a record: {changes.keys() - fields.keys()}")
    return {**fields, **changes}


def items(fields: Json, sequence: int = 0, previous: bytes = FIRST_PREVIOUS) -> list[bytes]:
    """Return the encoded fields of an entry."""
    return [
        wire.uint(1),
        wire.uint(sequence),
        wire.binary(previous),
        wire.uint(fields["at_ms"]),
        wire.text(fields["event"].encode()),
        wire.text(fields["mesh"].encode()),
        wire.text(fields["sender"].encode()),
        wire.text(fields["recipient"].encode()),
        wire.uint(fields["envelope_time_ms"]),
        wire.binary(bytes.fromhex(fields["receipt"])),
        wire.binary(bytes.fromhex(fields["session_id"])),
        wire.uint(fields["number"]),
        wire.uint(fields["size"]),
        wire.uint(fields["class"]),
        wire.text(fields["decision"].encode()),
        wire.text(fields["reason"].encode()),
        wire.uint(fields["count"]),
    ]


def entry(fields: Json, sequence: int = 0, previous: bytes = FIRST_PREVIOUS) -> bytes:
    """Return an entry."""
    return wire.array(*items(fields, sequence, previous))


def leaf(data: bytes) -> bytes:
    """Return an entry_hash."""
    return _crypto.sha256(b"\x00" + data)


def chained(records: list[Json], sequence: int = 0, previous: bytes = FIRST_PREVIOUS) -> list[bytes]:
    """Return the entries of these records, one behind the other."""
    entries = []
    for fields in records:
        entries.append(entry(fields, sequence, previous))
        sequence, previous = sequence + 1, leaf(entries[-1])
    return entries


# --- a log ------------------------------------------------------------------------------------------------------------

RECORDS: Final = [
    record(1, **{**NO_ENVELOPE, "event": "bundle.published", "size": 1359, "class": 2}),
    record(2, event="knock.sent", number=0, size=1530),
    record(3, event="knock.accepted", decision="allow", sender=BOB.did, recipient=ALICE.did, number=0, size=342),
    record(4, number=1),
    record(5,
           **{**NO_ENVELOPE, "event": "message.refused", "decision": "deny", "sender": BOB.did, "recipient": ALICE.did,
              "receipt": token("audit/receipt/5").hex(), "size": 326, "reason": DUPLICATE, "count": 2}),
]  # fmt: skip
COUNT: Final = len(RECORDS)
ENTRIES: Final = chained(RECORDS)
