"""Whose log it is: what a record says of the log that it stands in (docs/protocol.md, section 8)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agentmesh.audit.record import AuditEvent, Record
from agentmesh.errors import ArgumentInvalid

# Of whom a record with such an event is: the sender's, or the recipient's. Verdicts, signals and attachments are in
# both logs alike.
_OF_SENDER: Final = {
    AuditEvent.BUNDLE_PUBLISHED,
    AuditEvent.KNOCK_SENT,
    AuditEvent.MESSAGE_SEALED,
    AuditEvent.SESSION_CLOSED,
    AuditEvent.STOCK_EXHAUSTED,
}
_OF_RECIPIENT: Final = {AuditEvent.KNOCK_RECEIVED, AuditEvent.MESSAGE_OPENED, AuditEvent.MESSAGE_REFUSED}
_OF_EITHER: Final = {
    AuditEvent.ATTACHMENT_NAMED,
    AuditEvent.KNOCK_ACCEPTED,
    AuditEvent.KNOCK_REJECTED,
    AuditEvent.MESSAGE_SIGNAL,
}


def owner_named(record: Record) -> str:
    """Return the DID of the one agent whose log this record can stand in, or empty text where it does not say."""
    return owner_in(record.event, record.sender, record.recipient, has_receipt=bool(record.receipt))


def owner_in(event: str, sender: str, recipient: str, *, has_receipt: bool) -> str:
    """Return the same of a record's fields."""
    # A refusal without a receipt is of an envelope that was never made, to the recipient that it names.
    unsent = event == AuditEvent.MESSAGE_REFUSED and not has_receipt
    if unsent or event in _OF_SENDER:
        return sender
    return recipient if event in _OF_RECIPIENT else ""


def can_stand(owner: str, record: Record) -> bool:
    """Say whether a record can stand in the log of `owner`."""
    event = record.event
    if event in _OF_SENDER:
        return record.sender == owner or not record.sender
    if event in _OF_RECIPIENT and record.receipt:
        return record.recipient == owner or not record.recipient
    if event in _OF_EITHER:
        return owner in (record.sender, record.recipient)
    return owner_named(record) in (owner, "")


def owner_of(records: Iterable[Record]) -> str:
    """Return the DID of the agent whose log these records are, as the records have it.

    Raises:
        ArgumentInvalid: not records; or no record says it, or two say different things: not the log of one agent.
    """
    owners: set[str] = set()
    for record in records_argument("records", records):
        owners.add(owner_named(record))
    owners.discard("")
    if len(owners) != 1:
        raise ArgumentInvalid("records")
    return owners.pop()


def records_argument(name: str, records: Iterable[Record]) -> Iterable[Record]:
    """Yield the records of an argument of a public call.

    Raises:
        ArgumentInvalid: not records.
    """
    if not isinstance(records, Iterable):
        raise ArgumentInvalid(name)
    for record in records:
        if not isinstance(record, Record):
            raise ArgumentInvalid(name)
        yield record
