"""The trail in other systems' forms: nothing more than a record says, each in the form's own terms."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import BundleClass, Identity
from agentmesh.audit import (
    AuditEvent,
    Outcome,
    Record,
    agt_canonical_text,
    decode_entry,
    leaf_hash,
    to_agt_entries,
    to_cloud_events,
    to_json_lines,
    to_kars_events,
)
from agentmesh.errors import ArgumentInvalid, RemoteError
from agentmesh.limits import UINT_MAX

OWNER = Identity.from_seed(bytes(31) + b"\x01").did
PEER = Identity.from_seed(bytes(31) + b"\x02").did
LAST_MS = 253_402_300_799_999  # the last millisecond of the year 9999

times = st.integers(0, LAST_MS)
uints = st.integers(0, UINT_MAX)
records = st.builds(
    Record,
    st.sampled_from(AuditEvent),
    at_ms=times,
    mesh=st.from_regex(r"[a-z0-9._/-]{1,64}", fullmatch=True),
    sender=st.sampled_from(["", OWNER, PEER]),
    recipient=st.sampled_from(["", OWNER, PEER]),
    envelope_time_ms=uints,
    receipt=st.sampled_from([b"", bytes(32), bytes(range(32))]),
    session_id=st.sampled_from([b"", bytes(range(16))]),
    number=uints,
    size_bytes=uints,
    bundle_class=st.one_of(st.none(), st.sampled_from(BundleClass)),
    outcome=st.one_of(st.none(), st.sampled_from(Outcome)),
    reason=st.sampled_from(["", "closed", "message.unknown_session"]),
    count=st.integers(1, UINT_MAX),
)
logs = st.lists(records, max_size=5)


def entries_of(some: Iterable[Record]) -> list[bytes]:
    # By hand, because an AuditLog takes the records of one owner, and these name anybody.
    entries: list[bytes] = []
    previous = bytes(32)
    for sequence, record in enumerate(some):
        entries.append(record.encode(sequence, previous))
        previous = leaf_hash(entries[-1])
    return entries


# --- JSON Lines -------------------------------------------------------------------------------------------------------


@given(logs)
def test_json_lines_say_what_the_entries_say(some: list[Record]) -> None:
    entries = entries_of(some)
    lines = list(to_json_lines(entries))
    assert len(lines) == len(entries)
    previous = bytes(32)
    for number, (line, entry, record) in enumerate(zip(lines, entries, some, strict=True)):
        assert line.isascii()
        assert line.isprintable()
        value = json.loads(line)
        assert value == {
            "event": str(record.event), "at_ms": record.at_ms, "sequence": number, "mesh": record.mesh,
            "sender": record.sender, "recipient": record.recipient, "envelope_time_ms": record.envelope_time_ms,
            "receipt": record.receipt.hex(), "session_id": record.session_id.hex(), "number": record.number,
            "size_bytes": record.size_bytes, "bundle_class": int(record.bundle_class or 0),
            "outcome": str(record.outcome), "reason": record.reason, "count": record.count,
            "previous_hash": previous.hex(), "entry_hash": leaf_hash(entry).hex(),
        }  # fmt: skip
        previous = leaf_hash(entry)


def test_each_form_refuses_what_is_no_entry() -> None:
    forms: list[Callable[[Iterable[bytes]], Iterator[Any]]] = [
        to_json_lines,
        lambda entries: to_cloud_events(entries, owner=OWNER),
        lambda entries: to_agt_entries(entries, owner=OWNER),
        lambda entries: to_kars_events(entries, owner=OWNER),
    ]
    good = entries_of([Record(AuditEvent.KNOCK_SENT, at_ms=1, mesh="m", sender=OWNER)])
    for form in forms:
        assert list(form([])) == []
        assert len(list(form(good))) == 1
        for rubbish in (b"", b"\xc0", bytes(2_000), good[0] + b"\x00"):
            with pytest.raises(RemoteError):
                list(form([*good, rubbish]))


@pytest.mark.parametrize("form", [to_cloud_events, to_agt_entries, to_kars_events])
@pytest.mark.parametrize("owner", ["", None, b"did", 1])
def test_a_form_with_an_owner_needs_one(form: Any, owner: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        list(form([], owner=owner))


@pytest.mark.parametrize("at_ms", [LAST_MS + 1, UINT_MAX])
def test_one_time_that_no_calendar_has_ends_no_export_and_is_named(at_ms: int) -> None:
    times_ms = (1, LAST_MS, at_ms, 2)
    entries = entries_of(Record(AuditEvent.KNOCK_SENT, at_ms=one, mesh="m", sender=OWNER) for one in times_ms)
    assert [json.loads(line)["at_ms"] for line in to_json_lines(entries)] == [*times_ms]
    assert [event["timestamp_ms"] for event in to_kars_events(entries, owner=OWNER)] == [*times_ms]
    events = list(to_cloud_events(entries, owner=OWNER))
    assert ["time" in event for event in events] == [True, True, False, True]
    assert [event["data"].get("at_ms") for event in events] == [None, None, at_ms, None]
    exported = list(to_agt_entries(entries, owner=OWNER))
    last = "9999-12-31T23:59:59.999Z"
    assert [one["timestamp"] for one in exported][1:3] == [last, last]
    assert [one["data"].get("at_ms") for one in exported] == [None, None, at_ms, None]
    for one, after in pairwise(exported):  # and the chain of their own hashes goes on
        assert after["previous_hash"] == one["entry_hash"]


# --- CloudEvents ------------------------------------------------------------------------------------------------------

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@given(logs)
def test_cloud_events_keep_to_the_specification(some: list[Record]) -> None:
    entries = entries_of(some)
    events = list(to_cloud_events(entries, owner=OWNER))
    ids = {(event["source"], event["id"]) for event in events}
    assert len(ids) == len(entries)  # source and id together are unique
    for event, entry, record in zip(events, entries, some, strict=True):
        json.dumps(event)
        assert (event["specversion"], event["source"], event["datacontenttype"]) == ("1.0", OWNER, "application/json")
        assert event["id"] == event["agentmeshentryhash"] == leaf_hash(entry).hex()
        assert event["agentmeshprevioushash"] == decode_entry(entry)[1].hex()
        assert event["type"] == f"ai.agentmesh.{record.event}"
        assert RFC3339.fullmatch(event["time"])
        moment = datetime.fromisoformat(event["time"])
        assert round(moment.timestamp() * 1000) == record.at_ms
        assert ("subject" in event) == bool(record.receipt)
        assert event.get("subject", "") == record.receipt.hex()
        for name, value in event.items():
            assert re.fullmatch(r"[a-z0-9]+", name)
            assert name == "data" or (type(value) is str and value)


# --- AGT --------------------------------------------------------------------------------------------------------------

HASHED = {
    "entry_id", "timestamp", "event_type", "agent_did", "action", "resource", "data", "outcome", "previous_hash",
}  # fmt: skip


@given(logs)
def test_agts_hashes_are_those_of_its_own_form(some: list[Record]) -> None:
    entries = entries_of(some)
    previous = ""
    for number, (value, record) in enumerate(zip(to_agt_entries(entries, owner=OWNER), some, strict=True)):
        assert set(value) == HASHED | {"entry_hash"}  # nothing that its hash leaves out
        assert value["previous_hash"] == previous
        # AGT parses the time, and hashes what Python prints of it.
        hashed = {name: value[name] for name in HASHED}
        hashed["timestamp"] = datetime.fromisoformat(value["timestamp"]).isoformat()
        text = json.dumps(hashed, sort_keys=True)
        assert value["entry_hash"] == hashlib.sha256(text.encode()).hexdigest()
        assert agt_canonical_text(hashed) == text
        previous = value["entry_hash"]
        assert value["entry_id"] == f"audit_{number:016d}"
        assert (value["agent_did"], value["event_type"]) == (OWNER, str(record.event))
        assert value["action"] == f"agentmesh.{record.event}"
        assert value["outcome"] == ("denied" if record.outcome is Outcome.DENY else "success")
        assert value["resource"] == ((record.recipient if record.sender == OWNER else record.sender) or None)


def test_the_worked_example_of_agts_form() -> None:
    """Text and hash of one record, as AGT's own code computed them."""
    fields = {
        "entry_id": "audit_0000000000000002",
        "timestamp": "2026-08-24T06:18:02.500000+00:00",
        "event_type": "agentmesh.message",
        "agent_did": "did:mesh:6d92abd732a5e02800997df38235cad9",
        "action": "agentmesh.send",
        "resource": "did:mesh:7afb1a66f5afb056dffe0097427b62d5",
        "data": {
            "message_id": "e58a043a-76be-4429-b3d3-6d8a2ce9c6f9", "n": 0, "note": "\u00e9\u2603",
            "nested": {"z": 1.0, "a": [1, None, True]},
        },
        "outcome": "success",
        "previous_hash": "64dfe735b6fb506a69da5ff72aad800a35eb4eb65dfaaae1da71852615342014",
    }  # fmt: skip
    text = agt_canonical_text(fields)
    assert '"nested": {"a": [1, null, true], "z": 1.0}, "note": "\\u00e9\\u2603"}' in text
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "e73603b364ee167e7bd15b84ae360d91c39f487c5c4aa7ca92db534db0c852ce"
    )


def test_captured_entries_reproduce() -> None:
    folder = Path(__file__).resolve().parents[2] / "vectors" / "agt"
    lines = (folder / "audit-example.jsonl").read_text("utf-8").splitlines()
    canonical = json.loads((folder / "audit-example-canonical.json").read_text("utf-8"))
    texts, hashes = canonical["canonical_text_of_each_record"], canonical["entry_hashes"]
    assert len(lines) == len(texts) == len(hashes) == 3
    for line, text, entry_hash in zip(lines, texts, hashes, strict=True):
        value = json.loads(line)
        fields = {name: value[name] for name in HASHED}
        fields["timestamp"] = datetime.fromisoformat(value["timestamp"]).isoformat()
        assert agt_canonical_text(fields) == text
        assert hashlib.sha256(text.encode()).hexdigest() == entry_hash == value["entry_hash"]


# --- kars -------------------------------------------------------------------------------------------------------------


@given(logs)
def test_kars_events_have_the_routers_fields(some: list[Record]) -> None:
    entries = entries_of(some)
    for value, entry, record in zip(to_kars_events(entries, owner=OWNER), entries, some, strict=True):
        assert list(value) == ["timestamp_ms", "principal", "action", "payload_digest_hex", "verdict", "labels"]
        assert (value["timestamp_ms"], value["principal"]) == (record.at_ms, OWNER)
        assert value["action"] == f"agentmesh.{record.event}"
        assert re.fullmatch(r"[0-9a-f]{64}", value["payload_digest_hex"])
        one_envelope = record.receipt and record.event is not AuditEvent.MESSAGE_REFUSED
        assert value["payload_digest_hex"] == (record.receipt if one_envelope else leaf_hash(entry)).hex()
        verdicts = {Outcome.ALLOW: "allow", Outcome.INFO: "info", Outcome.DENY: f"deny:{record.reason}"}
        assert value["verdict"] == verdicts[record.outcome]
        assert all(type(name) is type(label) is str for name, label in value["labels"])
        assert dict(value["labels"])["receipt"] == record.receipt.hex()


def test_two_events_of_one_moment_are_two_to_the_router() -> None:
    """It takes equal (time, principal, action, digest) for one."""
    same: dict[str, Any] = {"at_ms": 5, "mesh": "m", "sender": PEER, "recipient": OWNER}
    some = [
        Record(AuditEvent.BUNDLE_PUBLISHED, **same),
        Record(AuditEvent.BUNDLE_PUBLISHED, **same),
        Record(AuditEvent.MESSAGE_REFUSED, receipt=bytes(32), reason="message.not_yet", **same),
        Record(AuditEvent.MESSAGE_REFUSED, receipt=bytes(32), reason="message.unopened", **same),
        Record(AuditEvent.MESSAGE_OPENED, receipt=bytes(32), **same),
    ]
    events = list(to_kars_events(entries_of(some), owner=OWNER))
    keys = {
        tuple(event[name] for name in ("timestamp_ms", "principal", "action", "payload_digest_hex")) for event in events
    }
    assert len(keys) == len(some)
