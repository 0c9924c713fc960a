"""Audit records of statements that were taken or refused (docs/protocol.md, section 8)."""

from __future__ import annotations

from agentmesh.audit.record import AuditEvent, Outcome, Record
from agentmesh.errors import ArgumentInvalid, RemoteError
from agentmesh.primitives.keys import Receipt
from agentmesh.trust.statements import Continuity, Revocation, Statement, TrustEdge, TrustUpdate


def statement_record(statement: Statement, *, at_ms: int, followed: bool = False) -> Record:
    """Return the record of a statement that was taken: `AuditLog.append` keeps it.

    Its sender is the issuer and its recipient the subject; in the place of a receipt stands the statement's digest, so
    that the record belongs to these signed bytes and no others; its number is the statement's sequence.

    Args:
        statement: What was taken.
        at_ms: The owner's clock.
        followed: The record is of the application's decision to follow a continuity that it was offered.

    Raises:
        ArgumentInvalid: not a verified statement, or one that nobody can follow.
    """
    reason = _what(statement)
    if followed:
        if not isinstance(statement, Continuity):
            raise ArgumentInvalid("followed")
        reason = "followed"
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


def refusal_record(error: RemoteError, *, owner: str, mesh: str, at_ms: int, count: int = 1) -> Record:
    """Return the record of statements that were refused, with the error's code as the reason.

    Anybody can cause it: count what is refused with one code in a minute, and record that once.

    Args:
        error: What a ledger, graph, list or successions raised.
        owner: The DID of the log's owner; who a refused statement was of is not known.
        mesh: The mesh.
        at_ms: The owner's clock.
        count: How many refusals it stands for.

    Raises:
        ArgumentInvalid: not an error about bytes from elsewhere.
    """
    if not isinstance(error, RemoteError):
        raise ArgumentInvalid("error")
    return Record(
        AuditEvent.TRUST_UPDATED,
        at_ms=at_ms,
        mesh=mesh,
        sender=owner,
        outcome=Outcome.DENY,
        reason=error.code,
        count=count,
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
