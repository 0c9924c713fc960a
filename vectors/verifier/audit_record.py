"""Records and entries of an audit log, and the counting of refusals: section 8."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from verifier.common import ACCEPT, KNOCK, MESSAGE, REJECT, Json, Refused, Trace, limits_of, refuse, unhex
from verifier.encoding import Form, encode, exactly, is_mesh, is_uint, text_of, unpack
from verifier.primitives import label_of
from verifier.structures import Envelope, Identity, parse_envelope

ENTRY_MAX_BYTES = 1024
MINUTE_MS = 60_000
FIRST_PREVIOUS = bytes(32)
EVENTS = frozenset(
    (
        "bundle.published",
        "knock.sent",
        "knock.received",
        "knock.accepted",
        "knock.rejected",
        "message.sealed",
        "message.opened",
        "message.signal",
        "message.refused",
        "session.closed",
        "stock.exhausted",
        "trust.updated",
        "envelope.seen",
        "attachment.named",
    )
)
DECISIONS = frozenset(("allow", "deny", "info"))
SEEN = {KNOCK: "knock", ACCEPT: "accept", REJECT: "reject", MESSAGE: "message"}
# The fields of an entry behind `previous`, by the names that README.md gives them.
FIELDS = (
    "at_ms",
    "event",
    "mesh",
    "sender",
    "recipient",
    "envelope_time_ms",
    "receipt",
    "session_id",
    "number",
    "size",
    "class",
    "decision",
    "reason",
    "count",
)
NAME = re.compile(r"did:[a-z0-9]{1,32}:[A-Za-z0-9._:%-]{1,120}")
REASON = re.compile(r"[a-z0-9._-]{0,32}")


def at_most(size: int) -> Form:
    """A byte string of some length or less."""
    return lambda value: isinstance(value, bytes) and len(value) <= size


def is_name(text: str) -> bool:
    """A DID of any method, or the empty text."""
    return text == "" or (len(text) <= 128 and NAME.fullmatch(text) is not None)


def entry_hash(entry: bytes) -> bytes:
    """The hash of an entry, a leaf of the tree."""
    return hashlib.sha256(b"\x00" + entry).digest()


def encode_entry(sequence: int, previous: bytes, record: Json) -> bytes:
    """The entry that keeps a record."""
    return encode([1, sequence, previous, *(record[name] for name in FIELDS)])


def chain(records: Iterable[Json], sequence: int = 0, previous: bytes = FIRST_PREVIOUS) -> list[bytes]:
    """The entries that keep some records, one after the other."""
    entries: list[bytes] = []
    for record in records:
        entries.append(encode_entry(sequence, previous, record))
        sequence, previous = sequence + 1, entry_hash(entries[-1])
    return entries


def decode_entry(entry: bytes) -> Json:
    """The table "Decoding an entry": sequence, previous and the record."""
    if len(entry) > ENTRY_MAX_BYTES:
        refuse("wire.too_large")
    version, *values = unpack(
        entry,
        is_uint,
        is_uint,
        exactly(32),
        is_uint,
        text_of(1, 32),
        text_of(1, 64),
        text_of(0, 128),
        text_of(0, 128),
        is_uint,
        at_most(32),
        at_most(16),
        is_uint,
        is_uint,
        lambda value: is_uint(value) and value <= 2,
        text_of(1, 32),
        text_of(0, 32),
        is_uint,
    )
    if version != 1:
        refuse("wire.version")
    fields = dict(zip(("sequence", "previous", *FIELDS), values, strict=True))
    well_formed = (
        fields["event"] in EVENTS
        and fields["decision"] in DECISIONS
        and is_mesh(fields["mesh"])
        and is_name(fields["sender"])
        and is_name(fields["recipient"])
        and len(fields["receipt"]) in (0, 32)
        and len(fields["session_id"]) in (0, 16)
        and REASON.fullmatch(fields["reason"]) is not None
        and fields["count"] != 0
    )
    return fields if well_formed else refuse("wire.malformed")


def record_in(given: Json) -> Json:
    """The record of an input."""
    hexes = ("receipt", "session_id")
    return {name: unhex(given[name]) if name in hexes else given[name] for name in FIELDS}


def record_out(fields: Json) -> Json:
    """The record of an entry, without sequence and previous."""
    return {name: fields[name] for name in FIELDS}


def receipt_of(data: bytes) -> bytes:
    """The receipt of some bytes, an envelope or not (section 4)."""
    return hashlib.sha256(label_of("receipt") + data).digest()


def seen(envelope: Envelope, at: int) -> Json:
    """What a relay records of an envelope."""
    return {
        "at_ms": at,
        "event": "envelope.seen",
        "mesh": envelope.mesh,
        "sender": envelope.sender,
        "recipient": envelope.recipient,
        "envelope_time_ms": envelope.time,
        "receipt": envelope.receipt,
        "session_id": b"",
        "number": 0,
        "size": len(envelope.data),
        "class": 0,
        "decision": "info",
        "reason": SEEN[envelope.kind],
        "count": 1,
    }


class RefusalCounter:
    """The paragraph "Counting": refusals of one minute, until the clock shows another."""

    def __init__(self, own: Identity, mesh: str, limits: dict[str, int]) -> None:
        self.own = own
        self.mesh = mesh
        self.limits = limits
        self.minute: int | None = None
        self.standing: dict[tuple[str, str], Json] = {}
        self.appended: list[Json] = []

    def look(self, now: int) -> None:
        """The agent does something: what was counted in another minute is appended."""
        minute = now // MINUTE_MS
        if minute != self.minute:
            self.appended += self.standing.values()
            self.minute, self.standing = minute, {}

    def count(self, now: int, data: bytes, code: str) -> None:
        """An envelope was refused."""
        self.look(now)
        try:
            sender = parse_envelope(data, self.limits).sender
        except Refused:
            sender = ""
        full = len(self.standing) >= self.limits["refusal_records_per_minute"]
        if (sender, code) not in self.standing and full:
            sender = ""
        if (sender, code) in self.standing:
            self.standing[sender, code]["count"] += 1
            return
        self.standing[sender, code] = {
            "at_ms": now,
            "event": "message.refused",
            "mesh": self.mesh,
            "sender": sender,
            "recipient": self.own.did,
            "envelope_time_ms": 0,
            "receipt": receipt_of(data),
            "session_id": b"",
            "number": 0,
            "size": len(data),
            "class": 0,
            "decision": "deny",
            "reason": code,
            "count": 1,
        }


def hashed(entry: bytes) -> Json:
    """An entry and its hash."""
    return {"entry": entry, "entry_hash": entry_hash(entry)}


def record_build(given: Json, _: Trace) -> Json:
    """record.build."""
    return hashed(encode_entry(given["sequence"], unhex(given["previous"]), record_in(given)))


def record_decode(given: Json, _: Trace) -> Json:
    """record.decode."""
    entry = unhex(given["entry"])
    return decode_entry(entry) | {"entry_hash": entry_hash(entry)}


def record_see(given: Json, _: Trace) -> Json:
    """record.see."""
    envelope = parse_envelope(unhex(given["envelope"]), limits_of(given))
    return hashed(encode_entry(given["sequence"], unhex(given["previous"]), seen(envelope, given["at_ms"])))


def record_count(given: Json, _: Trace) -> Json:
    """record.count."""
    counter = RefusalCounter(Identity(unhex(given["identity_seed"])), given["mesh"], limits_of(given))
    for refusal in given["refusals"]:
        counter.count(refusal["now_ms"], unhex(refusal["envelope"]), refusal["code"])
    counter.look(given["now_ms"])
    return {"entries": chain(counter.appended)}


OPERATIONS = {
    "record.build": record_build,
    "record.decode": record_decode,
    "record.see": record_see,
    "record.count": record_count,
}
