"""For the family record: what a relay sees of an envelope, and refusals that are counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentmesh.envelope import OuterEnvelope, receipt_of
from agentmesh.errors import AgentMeshError
from agentmesh.limits import Limits
from generator import wire
from generator.audit.entries import FIRST_PREVIOUS, NO_ENVELOPE, SPEC, chained, entry, record
from generator.codes import MALFORMED, TOO_LARGE, VERSION
from generator.envelopes import KINDS, enveloped, header_items
from generator.world import ALICE, BOB, MALLORY, MESH, NOW_MS, SMALL, Files, token

Json = dict[str, Any]
# Name, comment, the refusals of each minute, the time of the last look at the clock, limits.
Case = tuple[str, str, list[list[Json]], int, Json]

MINUTE_MS: Final = 60_000
LIMITS: Final = {**SMALL, "envelope_max_bytes": 5000}
_NAMES: Final = ("did:agentmesh:2a", "did:agentmesh:2b", "did:agentmesh:2c")

# --- a relay ---------------------------------------------------------------------------------------------------------


def seen(files: Files) -> None:
    """Add what a relay records."""
    for number, kind in enumerate(KINDS, 1):
        data = enveloped(wire.array(*header_items(number)))
        fields = record(
            1,
            event="envelope.seen",
            at_ms=NOW_MS + 250,
            envelope_time_ms=NOW_MS,
            receipt=receipt_of(data).hex(),
            session_id="",
            number=0,
            size=len(data),
            reason=kind,
            **{"class": 0},
        )
        files.add(
            f"see-{kind}",
            "record.see",
            f"what a relay notes of an envelope of kind {number}, without a key",
            spec=SPEC,
            given={
                "sequence": number,
                "previous": token("audit/previous/relay").hex(),
                "at_ms": NOW_MS + 250,
                "envelope": data.hex(),
            },
            output={"entry": entry(fields, number, token("audit/previous/relay")).hex()},
        )
    files.add(
        "see-uncanonical-sender",
        "record.see",
        "a sender that no key has: a relay looks at a DID's form alone",
        spec=SPEC,
        given={
            "sequence": 0,
            "previous": FIRST_PREVIOUS.hex(),
            "at_ms": NOW_MS,
            "envelope": enveloped(wire.with_item(header_items(), 3, wire.text(_NAMES[0].encode()))).hex(),
        },
    )
    good = enveloped(wire.array(*header_items()))
    files.add_each("record.see", SPEC, (
        (f"refuse-see-{name}", comment,
         {"sequence": 0, "previous": FIRST_PREVIOUS.hex(), "at_ms": NOW_MS, "envelope": data.hex(), **more}, expect)
        for name, comment, data, expect, more in (
            ("trailing-byte", "an envelope with a byte behind it is none", good + b"\x00", MALFORMED, {}),
            ("kind-5", "an envelope of a kind that there is not",
             enveloped(wire.with_item(header_items(), 1, wire.uint(5))), VERSION, {}),
            ("too-large", "an envelope over the relay's limit", enveloped(wire.array(*header_items()), bytes(5000)),
             TOO_LARGE, {"limits": LIMITS}),
        )
    ))  # fmt: skip


# --- counting --------------------------------------------------------------------------------------------------------

GARBAGE: Final = b"\xc1not an envelope"


def _to_bob(text: bytes, sender: str = ALICE.did, recipient: str = BOB.did, kind: int = 4, mesh: str = MESH) -> bytes:
    """Return an envelope that Bob refuses: he has no session."""
    header = [
        wire.uint(1),
        wire.uint(kind),
        wire.text(mesh.encode()),
        wire.text(sender.encode()),
        wire.text(recipient.encode()),
        wire.uint(NOW_MS),
    ]
    return enveloped(wire.array(*header), (token("audit/no-session", 16) + text).ljust(200, b"."))


def _refused(now_ms: int, envelope: bytes, code: str = "message.unknown_session") -> Json:
    return {"now_ms": now_ms, "envelope": envelope.hex(), "code": code}


def _claimed(envelope: bytes, limits: Json) -> str:
    try:
        return OuterEnvelope.parse(envelope, Limits(**limits)).header.sender
    except AgentMeshError:
        return ""


def _records(refusals: list[Json], limits: Json) -> list[Json]:
    """Return the records of these refusals, all of one minute."""
    records: dict[tuple[str, str], Json] = {}
    bound = limits.get("refusal_records_per_minute", 64)
    for refusal in refusals:
        envelope = bytes.fromhex(refusal["envelope"])
        sender = _claimed(envelope, limits)
        if (refusal["code"], sender) not in records and len(records) >= bound:
            sender = ""
        key = (refusal["code"], sender)
        if key in records:
            records[key]["count"] += 1
            continue
        records[key] = record(
            1,
            **{
                **NO_ENVELOPE,
                "event": "message.refused",
                "decision": "deny",
                "at_ms": refusal["now_ms"],
                "sender": sender,
                "recipient": BOB.did,
                "receipt": receipt_of(envelope).hex(),
                "size": len(envelope),
                "reason": refusal["code"],
            },
        )
    return list(records.values())


def counted(files: Files) -> None:
    """Add what is counted."""
    start = NOW_MS // MINUTE_MS * MINUTE_MS
    end = start + MINUTE_MS
    misrouted = _to_bob(b"a", recipient=MALLORY.did)
    cases: list[Case] = [
        ("one-sender", "one code and one claimed sender: one record, with the first of them",
         [[_refused(start + 10 * index, _to_bob(b"%d" % index)) for index in range(3)]], end, {}),
        ("senders-and-codes", "a record for each code and each claimed sender, in the order in which they began",
         [[_refused(start, _to_bob(b"a")), _refused(start + 1, _to_bob(b"b", MALLORY.did)),
           _refused(start + 2, misrouted, "envelope.recipient"), _refused(start + 3, _to_bob(b"c", MALLORY.did)),
           _refused(start + 4, _to_bob(b"d"))]], end, {}),
        ("same-envelope", "one envelope refused three times counts three times",
         [[_refused(start, misrouted, "envelope.recipient")] * 3], end, {}),
        ("nobody", "what is no envelope claims no sender",
         [[_refused(start, GARBAGE, MALFORMED), _refused(start + 1, _to_bob(b"a")[:-1], MALFORMED),
           _refused(start + 2, enveloped(wire.with_item(header_items(), 1, wire.uint(9))), VERSION)]], end, {}),
        ("minutes", "the last millisecond of a minute and the first of the next are two records",
         [[_refused(end - 1, _to_bob(b"a"))], [_refused(end, _to_bob(b"b"))]], end + MINUTE_MS, {}),
        ("clock-set-back", "an earlier minute is another one too",
         [[_refused(end, _to_bob(b"a"))], [_refused(start, _to_bob(b"b"))]], end, {}),
        ("running", "the minute is not over: nothing is in the log yet", [], end - 1, {}),
        ("bounded",
         "two records tell senders apart; whoever comes later is counted under no name, with one record a code",
         [[_refused(start, _to_bob(b"a")), _refused(start + 1, _to_bob(b"b", MALLORY.did)),
           *(_refused(start + 2 + index, _to_bob(b"c", name)) for index, name in enumerate(_NAMES)),
           _refused(start + 8, _to_bob(b"d")), _refused(start + 9, misrouted, "envelope.recipient")]], end,
         {"refusal_records_per_minute": 2}),
        *_unreadable(start, end),
        *_bounded(start, end),
    ]  # fmt: skip
    for name, comment, minutes, now_ms, limits in cases:
        records = [fields for minute in minutes for fields in _records(minute, limits)]
        refusals = [refusal for minute in minutes for refusal in minute]
        if name == "running":
            refusals = [_refused(start, _to_bob(b"a"))]
        files.add(
            f"count-{name}",
            "record.count",
            comment,
            spec=SPEC,
            given={
                "identity_seed": BOB.seed.reveal().hex(),
                "mesh": MESH,
                "refusals": refusals,
                "now_ms": now_ms,
                **({"limits": limits} if limits else {}),
            },
            output={"entries": [data.hex() for data in chained(records)]},
        )


def _unreadable(start: int, end: int) -> Iterator[Case]:
    """Yield who is counted where a check before or behind that of the recipient refuses."""
    cut = wire.array(*header_items()[:3], wire.text(ALICE.did.encode()), wire.text(BOB.did.encode()), wire.uint(NOW_MS))
    for name, comment, envelope, code, limits in (
        ("no-bytes", "no bytes have a receipt too", b"", MALFORMED, {}),
        ("too-large", "an envelope over the limit is not read: it claims no sender", _to_bob(bytes(5000)), TOO_LARGE,
         LIMITS),
        ("bad-sender", "a sender that has not the form of a DID is none", _to_bob(b"a", "did:agentmesh:0OIl"),
         MALFORMED, {}),
        ("bad-recipient", "where the recipient has not the form of a DID, a good sender is none either",
         _to_bob(b"a", recipient="did:agentmesh:0OIl"), MALFORMED, {}),
        ("bad-mesh", "so it is where the mesh has a capital", _to_bob(b"a", mesh="example/Vectors"), MALFORMED, {}),
        ("other-mesh", "an envelope of another mesh claims a sender; the record is of the owner's mesh",
         _to_bob(b"a", mesh="example/other"), "envelope.mesh", {}),
        ("reflected", "an envelope from the receiver claims the receiver", _to_bob(b"a", BOB.did), "envelope.reflected",
         {}),
        ("body-too-short",
         "a good header with a body that is too short claims its sender, although the code is that of no envelope",
         enveloped(cut, b"short"), MALFORMED, {}),
    ):  # fmt: skip
        yield name, comment, [[_refused(start, envelope, code)]], end, limits
    yield ("body-too-short-and-nobody", "one code, from a sender and from nobody: two records",
           [[_refused(start, enveloped(cut, b"short"), MALFORMED), _refused(start + 1, GARBAGE, MALFORMED)]], end,
           {})  # fmt: skip


def _bounded(start: int, end: int) -> Iterator[Case]:
    """Yield what counts toward the limit, and what stays as it is within a minute."""
    one, two = ({"refusal_records_per_minute": bound} for bound in (1, 2))
    names = [f"did:agentmesh:2{letter}{digit}" for letter in "abcdefg" for digit in "123456789A"]
    yield from (
        ("nobody-toward-the-limit", "a record under no name counts toward the limit of two like any other",
         [[_refused(start, GARBAGE, MALFORMED), _refused(start + 1, _to_bob(b"a")),
           _refused(start + 2, _to_bob(b"b", MALLORY.did))]], end, two),
        ("nobody-beyond-the-limit",
         "where the limit is reached, a record under no name may still begin, one for each code",
         [[_refused(start, _to_bob(b"a")), _refused(start + 1, GARBAGE, MALFORMED),
           _refused(start + 2, _to_bob(b"b", MALLORY.did)), _refused(start + 3, GARBAGE + b".", MALFORMED),
           _refused(start + 4, _to_bob(b"c", _NAMES[0]))]], end, one),
        ("limit-in-each-minute",
         "the limit starts anew with each minute: who had no record of its own in the first has one in the second",
         [[_refused(start, _to_bob(b"a")), _refused(start + 1, _to_bob(b"b", MALLORY.did))],
          [_refused(end, _to_bob(b"c", MALLORY.did)), _refused(end + 1, _to_bob(b"d"))]], end + MINUTE_MS, one),
        ("limit-64", "sixty-six senders and the limit that stands unsaid: the last two are counted under no name",
         [[_refused(start + index, _to_bob(b"a", name)) for index, name in enumerate(names[:66])]], end, {}),
        ("clock-set-back-within-the-minute",
         "the clock goes back and stays in the minute: one record, with the time of the first",
         [[_refused(start + 30, _to_bob(b"a")), _refused(start + 10, _to_bob(b"b"))]], end, {}),
    )  # fmt: skip
