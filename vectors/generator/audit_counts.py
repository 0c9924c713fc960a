"""For the family record: what a relay sees of an envelope, and refusals that are counted."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.envelope import OuterEnvelope, receipt_of
from generator import wire
from generator.audit_entries import FIRST_PREVIOUS, NO_ENVELOPE, SPEC, chained, entry, record
from generator.envelopes import KINDS, enveloped, header_items
from generator.world import ALICE, BOB, MALLORY, MESH, NOW_MS, Files, token

Json = dict[str, Any]

MALFORMED: Final = "wire.malformed"
MINUTE_MS: Final = 60_000

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
    good = enveloped(wire.array(*header_items()))
    for name, comment, data, expect in (
        ("trailing-byte", "an envelope with a byte behind it is none", good + b"\x00", MALFORMED),
        (
            "kind-5",
            "an envelope of a kind that there is not",
            enveloped(wire.array(*wire.replaced(header_items(), 1, wire.uint(5)))),
            "wire.version",
        ),
    ):
        files.add(
            f"refuse-see-{name}",
            "record.see",
            comment,
            spec=SPEC,
            given={"sequence": 0, "previous": FIRST_PREVIOUS.hex(), "at_ms": NOW_MS, "envelope": data.hex()},
            expect=expect,
        )


# --- counting --------------------------------------------------------------------------------------------------------

GARBAGE: Final = b"\xc1not an envelope"
_NAMES: Final = ("did:agentmesh:2a", "did:agentmesh:2b", "did:agentmesh:2c")


def _to_bob(text: bytes, sender: str = ALICE.did, recipient: str = BOB.did, kind: int = 4) -> bytes:
    """Return an envelope that Bob refuses: he has no session."""
    header = [
        wire.uint(1),
        wire.uint(kind),
        wire.text(MESH.encode()),
        wire.text(sender.encode()),
        wire.text(recipient.encode()),
        wire.uint(NOW_MS),
    ]
    return enveloped(wire.array(*header), (token("audit/no-session", 16) + text).ljust(200, b"."))


def _refused(now_ms: int, envelope: bytes, code: str = "message.unknown_session") -> Json:
    return {"now_ms": now_ms, "envelope": envelope.hex(), "code": code}


def _records(refusals: list[Json], bound: int = 64) -> list[Json]:
    """Return the records of these refusals, all of one minute."""
    records: dict[tuple[str, str], Json] = {}
    for refusal in refusals:
        envelope = bytes.fromhex(refusal["envelope"])
        readable = refusal["code"] not in {"wire.malformed", "wire.version", "wire.too_large"}
        sender = OuterEnvelope.parse(envelope).header.sender if readable else ""
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
    cases: list[tuple[str, str, list[list[Json]], int, Json]] = [
        (
            "one-sender",
            "one code and one claimed sender: one record, with the first of them",
            [[_refused(start + 10 * index, _to_bob(b"%d" % index)) for index in range(3)]],
            end,
            {},
        ),
        (
            "senders-and-codes",
            "a record for each code and each claimed sender, in the order in which they began",
            [
                [
                    _refused(start, _to_bob(b"a")),
                    _refused(start + 1, _to_bob(b"b", MALLORY.did)),
                    _refused(start + 2, misrouted, "envelope.recipient"),
                    _refused(start + 3, _to_bob(b"c", MALLORY.did)),
                    _refused(start + 4, _to_bob(b"d")),
                ]
            ],
            end,
            {},
        ),
        (
            "same-envelope",
            "one envelope refused three times counts three times",
            [[_refused(start, misrouted, "envelope.recipient")] * 3],
            end,
            {},
        ),
        (
            "nobody",
            "what is no envelope claims no sender",
            [
                [
                    _refused(start, GARBAGE, MALFORMED),
                    _refused(start + 1, _to_bob(b"a")[:-1], MALFORMED),
                    _refused(
                        start + 2,
                        enveloped(wire.array(*wire.replaced(header_items(), 1, wire.uint(9)))),
                        "wire.version",
                    ),
                ]
            ],
            end,
            {},
        ),
        (
            "minutes",
            "the last millisecond of a minute and the first of the next are two records",
            [[_refused(end - 1, _to_bob(b"a"))], [_refused(end, _to_bob(b"b"))]],
            end + MINUTE_MS,
            {},
        ),
        (
            "clock-set-back",
            "an earlier minute is another one too",
            [[_refused(end, _to_bob(b"a"))], [_refused(start, _to_bob(b"b"))]],
            end,
            {},
        ),
        ("running", "the minute is not over: nothing is in the log yet", [], end - 1, {}),
        (
            "bounded",
            "two records tell senders apart; whoever comes later is counted under no name, with one record a code",
            [
                [
                    _refused(start, _to_bob(b"a")),
                    _refused(start + 1, _to_bob(b"b", MALLORY.did)),
                    *(_refused(start + 2 + index, _to_bob(b"c", name)) for index, name in enumerate(_NAMES)),
                    _refused(start + 8, _to_bob(b"d")),
                    _refused(start + 9, misrouted, "envelope.recipient"),
                ]
            ],
            end,
            {"refusal_records_per_minute": 2},
        ),
    ]
    for name, comment, minutes, now_ms, limits in cases:
        bound = limits.get("refusal_records_per_minute", 64)
        records = [fields for minute in minutes for fields in _records(minute, bound)]
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
