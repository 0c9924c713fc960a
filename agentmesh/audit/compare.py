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
from agentmesh.keys import Receipt

_SENT: Final = {
    AuditEvent.KNOCK_SENT,
    AuditEvent.KNOCK_ACCEPTED,
    AuditEvent.KNOCK_REJECTED,
    AuditEvent.MESSAGE_SEALED,
}
_OPENED: Final = {
    AuditEvent.KNOCK_RECEIVED,
    AuditEvent.KNOCK_ACCEPTED,
    AuditEvent.KNOCK_REJECTED,
    AuditEvent.MESSAGE_OPENED,
}


class Finding(StrEnum):
    """What a comparison can find of one envelope."""

    SENT_NOT_SEEN = "sent, not seen by the relay"
    SEEN_NOT_SENT = "seen by the relay, not sent"
    SEEN_NOT_OPENED = "seen by the relay, not opened"
    SENT_NOT_OPENED = "sent, not opened"
    OPENED_NOT_SEEN = "opened, not seen by the relay"
    OPENED_NOT_SENT = "opened, not sent"
    OPENED_TWICE = "opened twice"
    ALTERED = "recorded differently"


@frozen
class Found:
    """One finding.

    Attributes:
        finding: What.
        receipt: Of which envelope.
        record: The record that shows it.
    """

    finding: Finding
    receipt: Receipt = field(repr=lambda receipt: receipt.hex())
    record: Record


@final
@frozen(kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes:
        found: The findings, in the order of the logs.
        matched: How many envelopes were sent and opened alike.
        opened_order: For each matched envelope, in the order of opening, its place in the order of sending: sorted
            where nothing overtook anything.
    """

    found: tuple[Found, ...]
    matched: int
    opened_order: tuple[int, ...]

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
    """
    route = (sender, recipient)
    sent = _by_receipt(sender_log, route, _SENT)
    opened = _by_receipt(recipient_log, route, _OPENED)
    found: list[Found] = []
    seen: dict[Receipt, list[Record]] | None = None
    if relay_log is not None:
        seen = _by_receipt(relay_log, route, {AuditEvent.ENVELOPE_SEEN})
        found += _missing(sent, seen, Finding.SENT_NOT_SEEN)
        found += _missing(seen, sent, Finding.SEEN_NOT_SENT)
        found += _missing(seen, opened, Finding.SEEN_NOT_OPENED)
        found += _missing(opened, seen, Finding.OPENED_NOT_SEEN)
    found += _missing(sent, opened, Finding.SENT_NOT_OPENED)
    found += _missing(opened, sent, Finding.OPENED_NOT_SENT)
    found += [
        Found(Finding.OPENED_TWICE, receipt, records[1]) for receipt, records in opened.items() if len(records) > 1
    ]
    for receipt, records in sent.items():
        others = opened.get(receipt, []) + ([] if seen is None else seen.get(receipt, []))
        found += [Found(Finding.ALTERED, receipt, other) for other in others if _outer(other) != _outer(records[0])]
    places = {receipt: place for place, receipt in enumerate(sent)}
    order = tuple(places[receipt] for receipt in opened if receipt in places)
    return Comparison(found=tuple(found), matched=len(order), opened_order=order)


def _by_receipt(
    records: Iterable[Record], route: tuple[str, str], events: set[AuditEvent]
) -> dict[Receipt, list[Record]]:
    grouped: dict[Receipt, list[Record]] = {}
    for record in records:
        if record.event in events and (record.sender, record.recipient) == route and record.receipt:
            grouped.setdefault(record.receipt, []).append(record)
    return grouped


def _missing(there: dict[Receipt, list[Record]], here: dict[Receipt, list[Record]], finding: Finding) -> list[Found]:
    return [Found(finding, receipt, records[0]) for receipt, records in there.items() if receipt not in here]


def _outer(record: Record) -> tuple[str, int, int]:
    return record.mesh, record.envelope_time_ms, record.size_bytes
