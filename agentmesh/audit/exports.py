"""The audit trail in other systems' forms; JSON is built here and nowhere else (docs/protocol.md, section 8).

- JSON Lines, one entry a line;
- CloudEvents 1.0 in structured JSON, with types `ai.agentmesh.<event>`;
- AuditEntry of Microsoft's Agent Governance Toolkit (AGT), whose own `verify_hash` and `MerkleAuditChain` take it;
- AuditEvent of the kars router.

None of them can say more than a record does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from agentmesh.audit.merkle import leaf_hash
from agentmesh.audit.record import AuditEvent, Outcome, Record, decode_entry
from agentmesh.errors import ArgumentInvalid
from agentmesh.primitives import _crypto

_TYPE_PREFIX: Final = "ai.agentmesh."
_ACTION_PREFIX: Final = "agentmesh."
_AGT_OUTCOMES: Final = {Outcome.ALLOW: "success", Outcome.INFO: "success", Outcome.DENY: "denied"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


_LAST: Final = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)


def _utc(time_ms: int) -> datetime | None:
    """Return the moment, or `None` after the year 9999: no calendar of these forms has it."""
    try:
        return _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        return None


def _iso_time(moment: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds, as `2026-01-01T00:00:00.000Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def record_data(record: Record) -> dict[str, Any]:
    """Return what a record says, but for its event and time, in the types of JSON, by the names of its attributes."""
    return {
        "mesh": record.mesh,
        "sender": record.sender,
        "recipient": record.recipient,
        "envelope_time_ms": record.envelope_time_ms,
        "receipt": record.receipt.hex(),
        "session_id": record.session_id.hex(),
        "number": record.number,
        "size_bytes": record.size_bytes,
        "bundle_class": 0 if record.bundle_class is None else int(record.bundle_class),
        "outcome": str(record.outcome),
        "reason": record.reason,
        "count": record.count,
    }


def _data(record: Record, sequence: int) -> dict[str, Any]:
    return {"sequence": sequence, **record_data(record)}


def to_json_lines(entries: Iterable[bytes]) -> Iterator[str]:
    """Yield one JSON object an entry, without line ends; ASCII only, so that no text in it can act on a terminal.

    Raises:
        ArgumentInvalid: not entries.
        TooLarge, Malformed, UnknownVersion: not an entry.
    """
    _check(entries)
    for entry in entries:
        sequence, previous, record = decode_entry(entry)
        line = {
            "event": str(record.event),
            "at_ms": record.at_ms,
            **_data(record, sequence),
            "previous_hash": previous.hex(),
            "entry_hash": leaf_hash(entry).hex(),
        }
        yield json.dumps(line, separators=(",", ":"))


def _check(entries: Iterable[bytes], owner: str = "-") -> None:
    if not isinstance(entries, Iterable):
        raise ArgumentInvalid("entries")
    if type(owner) is not str or not owner:
        raise ArgumentInvalid("owner")


def to_cloud_events(entries: Iterable[bytes], *, owner: str) -> Iterator[dict[str, Any]]:
    """Yield a CloudEvents 1.0 object an entry (structured mode, JSON).

    A time after the year 9999 stands as at_ms in the data, and the event has no time.

    Args:
        entries: The log.
        owner: The DID of its owner: the events' source.

    Raises:
        ArgumentInvalid: not entries, or the owner is empty.
        TooLarge, Malformed, UnknownVersion: not an entry.
    """
    _check(entries, owner)
    for entry in entries:
        sequence, previous, record = decode_entry(entry)
        entry_hash = leaf_hash(entry).hex()
        moment = _utc(record.at_ms)
        event = {
            "specversion": "1.0",
            "id": entry_hash,
            "source": owner,
            "type": _TYPE_PREFIX + str(record.event),
            "datacontenttype": "application/json",
            "data": _data(record, sequence) | ({"at_ms": record.at_ms} if moment is None else {}),
            "agentmeshentryhash": entry_hash,
            "agentmeshprevioushash": previous.hex(),
        }
        if moment is not None:
            event["time"] = _iso_time(moment)
        if record.receipt:
            event["subject"] = record.receipt.hex()
        yield event


def agt_canonical_text(fields: Mapping[str, Any]) -> str:
    """Return the text of an AuditEntry whose SHA-256 is AGT's `entry_hash`.

    Args:
        fields: entry_id, timestamp (as Python's `datetime.isoformat` prints it), event_type, agent_did, action,
            resource, data, outcome, previous_hash. AGT hashes no other.

    Raises:
        ArgumentInvalid: not what JSON can say.
    """
    try:
        return json.dumps(fields, sort_keys=True)
    except (TypeError, ValueError):
        pass
    raise ArgumentInvalid("fields")


def to_agt_entries(entries: Iterable[bytes], *, owner: str) -> Iterator[dict[str, Any]]:
    """Yield the keyword arguments of AGT's `AuditEntry` an entry, in a chain of AGT's own hashes.

    AGT hashes the JSON of nine of its fields with Python's default separators, and the time as Python prints it. Its
    chain starts with an empty `previous_hash`; it does not cover the fields that this library's own chain does not put
    into `data`, so everything is in `data`. A time after the year 9999 stands there as at_ms, and the timestamp is
    the last that there is.

    Raises:
        ArgumentInvalid: not entries, or the owner is empty.
        TooLarge, Malformed, UnknownVersion: not an entry.
    """
    _check(entries, owner)
    previous_hash = ""
    for entry in entries:
        sequence, _, record = decode_entry(entry)
        moment = _utc(record.at_ms)
        timestamp = _LAST if moment is None else moment
        peer = record.recipient if record.sender == owner else record.sender
        hashed = {
            "entry_id": f"audit_{sequence:016d}",
            "timestamp": timestamp.isoformat(),
            "event_type": str(record.event),
            "agent_did": owner,
            "action": _ACTION_PREFIX + str(record.event),
            "resource": peer or None,
            "data": _data(record, sequence) | ({"at_ms": record.at_ms} if moment is None else {}),
            "outcome": _AGT_OUTCOMES[record.outcome],
            "previous_hash": previous_hash,
        }
        previous_hash = _crypto.sha256(agt_canonical_text(hashed).encode()).hex()
        yield {**hashed, "timestamp": _iso_time(timestamp), "entry_hash": previous_hash}


def to_kars_events(entries: Iterable[bytes], *, owner: str) -> Iterator[dict[str, Any]]:
    """Yield the kars router's AuditEvent an entry.

    Its digest is the receipt, a SHA-256 over the sealed envelope; for an event without one, and for refusals, which
    stand for several envelopes, the entry's hash, because the router takes equal (time, principal, action, digest) for
    one event.

    Raises:
        ArgumentInvalid: not entries, or the owner is empty.
        TooLarge, Malformed, UnknownVersion: not an entry.
    """
    _check(entries, owner)
    for entry in entries:
        sequence, _, record = decode_entry(entry)
        verdict = str(record.outcome)
        if record.outcome is Outcome.DENY:
            verdict = f"deny:{record.reason}"
        is_one = bool(record.receipt) and record.event is not AuditEvent.MESSAGE_REFUSED
        yield {
            "timestamp_ms": record.at_ms,
            "principal": owner,
            "action": _ACTION_PREFIX + str(record.event),
            "payload_digest_hex": (record.receipt if is_one else leaf_hash(entry)).hex(),
            "verdict": verdict,
            "labels": [[name, str(value)] for name, value in _data(record, sequence).items()],
        }
