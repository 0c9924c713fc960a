"""What a relay or router records: it holds no keys and needs none (docs/protocol.md, sections 4 and 8)."""

from __future__ import annotations

from agentmesh.audit.record import AuditEvent, Record
from agentmesh.envelope import OuterEnvelope


def relay_record(outer: OuterEnvelope, *, at_ms: int) -> Record:
    """Return the record of an envelope that passed, from its bytes alone."""
    header = outer.header
    return Record(
        AuditEvent.ENVELOPE_SEEN,
        at_ms=at_ms,
        mesh=header.mesh,
        sender=header.sender,
        recipient=header.recipient,
        envelope_time_ms=header.time_ms,
        receipt=outer.receipt,
        size_bytes=outer.size_bytes,
        reason=header.kind.name.lower(),
    )
