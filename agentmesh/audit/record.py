"""What is recorded of an envelope: who, when, how much, with which receipt; by type never what it says.

A record has no field for plaintext, intent, a key, or a hash of plaintext: short plaintexts can be guessed from one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import final

from agentmesh.keys import Receipt, SessionId
from agentmesh.prekeys import BundleClass


class AuditEvent(StrEnum):
    """What happened."""

    BUNDLE_PUBLISHED = "bundle.published"
    KNOCK_SENT = "knock.sent"
    KNOCK_RECEIVED = "knock.received"
    KNOCK_ACCEPTED = "knock.accepted"
    KNOCK_REJECTED = "knock.rejected"
    MESSAGE_SEALED = "message.sealed"
    MESSAGE_OPENED = "message.opened"
    SESSION_CLOSED = "session.closed"


@final
class Record:
    """One line of the audit trail, before it has a sequence number.

    Slotted and not frozen, because one is made for every message.

    Attributes:
        event: What happened.
        at_ms: This agent's clock.
        mesh: The mesh.
        sender: The envelope's sender, a DID; for an event without an envelope this agent's.
        recipient: The envelope's recipient, a DID, or empty.
        envelope_time_ms: The envelope's time, or 0 without one.
        receipt: The envelope's receipt, 32 bytes, or empty without one.
        session_id: 16 bytes, or empty.
        number: The position in the envelope's direction.
        size_bytes: The envelope's length on the wire.
        bundle_class: What the session's KNOCK was made on, or `None`.
        reason: A fixed word of ours: how a session ended, why a KNOCK was rejected.
    """

    __slots__ = (
        "at_ms",
        "bundle_class",
        "envelope_time_ms",
        "event",
        "mesh",
        "number",
        "reason",
        "receipt",
        "recipient",
        "sender",
        "session_id",
        "size_bytes",
    )

    def __init__(
        self,
        event: AuditEvent,
        *,
        at_ms: int,
        mesh: str,
        sender: str,
        recipient: str = "",
        envelope_time_ms: int = 0,
        receipt: Receipt = Receipt(b""),  # noqa: B008 - an immutable value
        session_id: SessionId = SessionId(b""),  # noqa: B008 - an immutable value
        number: int = 0,
        size_bytes: int = 0,
        bundle_class: BundleClass | None = None,
        reason: str = "",
    ) -> None:
        self.event = event
        self.at_ms = at_ms
        self.mesh = mesh
        self.sender = sender
        self.recipient = recipient
        self.envelope_time_ms = envelope_time_ms
        self.receipt = receipt
        self.session_id = session_id
        self.number = number
        self.size_bytes = size_bytes
        self.bundle_class = bundle_class
        self.reason = reason

    def __repr__(self) -> str:
        return f"Record({self.event}, {self.sender} -> {self.recipient or '-'}, receipt={self.receipt.hex() or '-'})"
