"""Audit records of statements that were taken or refused (docs/protocol.md, section 8)."""

from __future__ import annotations

from agentmesh.admission.statements import Continuity, Revocation, Statement, TrustEdge, TrustUpdate
from agentmesh.audit.record import AuditEvent, Record
from agentmesh.errors import ArgumentInvalid
from agentmesh.keys import Receipt


def statement_record(statement: Statement, *, at_ms: int) -> Record:
    """Return the record of a statement that was taken: `AuditLog.append` keeps it.

    Its sender is the issuer and its recipient the subject; in the place of a receipt stands the statement's digest, so
    that the record belongs to these signed bytes and no others; its number is the statement's sequence.

    Raises:
        ArgumentInvalid: not a verified statement.
    """
    reason = _what(statement)
    return Record(
        AuditEvent.TRUST_UPDATED,
        at_ms=at_ms,
        mesh=statement.mesh,
        sender=statement.issuer.did,
        recipient=statement.subject.did,
        envelope_time_ms=statement.time_ms,
        receipt=Receipt(statement.digest),
        number=statement.sequence,
        reason=reason,
    )


def _what(statement: Statement) -> str:
    if isinstance(statement, TrustUpdate):
        return "raised" if statement.signal > 0 else "lowered" if statement.signal < 0 else "unchanged"
    if isinstance(statement, TrustEdge):
        return "edge" if statement.weight else "edge-withdrawn"
    if isinstance(statement, Continuity):
        return "continuity"
    if isinstance(statement, Revocation):
        return "revocation"
    raise ArgumentInvalid("statement")
