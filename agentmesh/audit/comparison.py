"""Two or three logs held against one another, offline and without content (docs/protocol.md, section 8).

Receipts tie the logs together. What a log's owner sent stands in it under the owner's name as sender; what it opened
stands in it under the owner's name as recipient. Verify each log first: a comparison believes what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, final

from attrs import field, frozen

from agentmesh.audit.record import AuditEvent, Record
from agentmesh.errors import ArgumentInvalid
from agentmesh.identity import parse_did
from agentmesh.primitives.keys import Receipt

_SENT: Final = {
    AuditEvent.KNOCK_SENT: "knock",
    AuditEvent.KNOCK_ACCEPTED: "accept",
    AuditEvent.KNOCK_REJECTED: "reject",
    AuditEvent.MESSAGE_SEALED: "message",
}
_OPENED: Final = {
    AuditEvent.KNOCK_RECEIVED: "knock",
    AuditEvent.KNOCK_ACCEPTED: "accept",
    AuditEvent.KNOCK_REJECTED: "reject",
    AuditEvent.MESSAGE_OPENED: "message",
}
_KINDS: Final = _SENT | _OPENED

_Grouped = dict[Receipt, list[Record]]


class Finding(StrEnum):
    """What a comparison can find of one envelope."""

    SENT_NOT_SEEN = "sent, not seen by the relay"
    SEEN_NOT_SENT = "seen by the relay, not sent"
    SEEN_NOT_OPENED = "seen by the relay, not opened"
    SENT_NOT_OPENED = "sent, not opened"
    OPENED_NOT_SEEN = "opened, not seen by the relay"
    OPENED_NOT_SENT = "opened, not sent"
    SENT_TWICE = "sent twice"
    SEEN_TWICE = "seen twice by the relay"  # sent again, which is allowed, or replayed
    OPENED_TWICE = "opened twice"
    SENT_REFUSED = "sent, refused by the recipient"
    REFUSED_NOT_SENT = "refused by the recipient, not sent"
    ALTERED = "recorded differently"


@frozen
class Found:
    """One finding.

    Attributes:
        finding: What.
        receipt: Of which envelope.
        record: The record that shows it.
        differing: For what was recorded differently, the names of the fields that differ.
    """

    finding: Finding
    receipt: Receipt = field(repr=lambda receipt: receipt.hex())
    record: Record
    differing: tuple[str, ...] = ()


@final
@frozen(kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes:
        found: The findings: kind by kind, and within a kind in the order of the log that shows them.
        matched: How many envelopes were sent and opened, and recorded alike in every log that has them.
        opened_order: For each envelope that was sent and opened, in the order of opening, its place in the order of
            sending: sorted where nothing overtook anything.
        seen_order: The same for what was sent and seen by the relay.
    """

    found: tuple[Found, ...]
    matched: int
    opened_order: tuple[int, ...]
    seen_order: tuple[int, ...]

    @property
    def in_order(self) -> bool:
        """Say whether every envelope was opened in the order of sending."""
        return all(earlier < later for earlier, later in zip(self.opened_order, self.opened_order[1:], strict=False))


def compare(
    sender: str,
    sender_log: Iterable[Record],
    recipient: str,
    recipient_log: Iterable[Record],
    relay_log: Iterable[Record] | None = None,
) -> Comparison:
    """Compare what one agent sent another with what the other opened, and with what a relay saw.

    Args:
        sender: The DID of the first log's owner.
        sender_log: Its records.
        recipient: The DID of the second log's owner.
        recipient_log: Its records.
        relay_log: A relay's records, if there is one.

    Raises:
        BadDid: a name is no DID.
        ArgumentInvalid: both names are the same.
    """
    if parse_did(sender) == parse_did(recipient):
        raise ArgumentInvalid("recipient")
    route = (sender, recipient)
    (sent,) = _by_receipt(sender_log, route, _SENT.keys())
    opened, refused = _by_receipt(recipient_log, route, _OPENED.keys(), {AuditEvent.MESSAGE_REFUSED})
    (seen,) = _by_receipt(relay_log or (), route, {AuditEvent.ENVELOPE_SEEN})
    found: list[Found] = []
    if relay_log is not None:
        found += _missing(sent, seen, Finding.SENT_NOT_SEEN)
        found += _missing(seen, sent, Finding.SEEN_NOT_SENT)
        found += _missing(seen, opened, Finding.SEEN_NOT_OPENED)
        found += _missing(opened, seen, Finding.OPENED_NOT_SEEN)
    found += _missing(sent, opened, Finding.SENT_NOT_OPENED)
    found += _missing(opened, sent, Finding.OPENED_NOT_SENT)
    found += _repeated(sent, Finding.SENT_TWICE)
    found += _repeated(seen, Finding.SEEN_TWICE)
    found += _repeated(opened, Finding.OPENED_TWICE)
    found += [
        Found(Finding.SENT_REFUSED if receipt in sent else Finding.REFUSED_NOT_SENT, receipt, record)
        for receipt, records in refused.items()
        for record in records
    ]
    altered = _altered(sent, seen, opened)
    found += altered
    order = _order(sent, opened)
    differing = {one.receipt for one in altered}
    matched = sum(1 for receipt in sent if receipt in opened and receipt not in differing)
    return Comparison(found=tuple(found), matched=matched, opened_order=order, seen_order=_order(sent, seen))


def _by_receipt(records: Iterable[Record], route: tuple[str, str], *wanted: Iterable[AuditEvent]) -> list[_Grouped]:
    """Return the records of envelopes of that route by receipt, one dictionary for each set of events."""
    groups: list[_Grouped] = [{} for _ in wanted]
    group_of = {event: group for events, group in zip(wanted, groups, strict=True) for event in events}
    for record in records:
        group = group_of.get(record.event)
        if group is not None and (record.sender, record.recipient) == route and record.receipt:
            group.setdefault(record.receipt, []).append(record)
    return groups


def _missing(there: _Grouped, here: _Grouped, finding: Finding) -> list[Found]:
    return [Found(finding, receipt, records[0]) for receipt, records in there.items() if receipt not in here]


def _repeated(grouped: _Grouped, finding: Finding) -> list[Found]:
    return [Found(finding, receipt, record) for receipt, records in grouped.items() for record in records[1:]]


def _altered(*logs: _Grouped) -> list[Found]:
    """Hold each record of an envelope against the first that there is of it, in the order of the logs."""
    found: list[Found] = []
    first: dict[Receipt, Record] = {}
    for grouped in logs:
        for receipt, records in grouped.items():
            for record in records:
                differing = _differing(first.setdefault(receipt, record), record)
                if differing:
                    found.append(Found(Finding.ALTERED, receipt, record, differing))
    return found


def _kind(record: Record) -> str:
    return record.reason if record.event is AuditEvent.ENVELOPE_SEEN else _KINDS[record.event]


def _differing(one: Record, other: Record) -> tuple[str, ...]:
    if one is other:
        return ()
    names = ["mesh", "envelope_time_ms", "size_bytes"]
    if AuditEvent.ENVELOPE_SEEN not in (one.event, other.event):
        # A relay sees no more than the outer header. A REJECT names no session, and what its maker records as its
        # reason may be finer than the one that it tells.
        names += [] if one.event is AuditEvent.KNOCK_REJECTED else ["session_id", "number", "bundle_class"]
    differing = [name for name in names if getattr(one, name) != getattr(other, name)]
    return tuple(["kind"] * (_kind(one) != _kind(other)) + differing)


def _order(sent: _Grouped, arrived: _Grouped) -> tuple[int, ...]:
    places = {receipt: place for place, receipt in enumerate(sent)}
    return tuple(places[receipt] for receipt in arrived if receipt in places)
