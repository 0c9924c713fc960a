"""Which event writes what to the audit trail (docs/protocol.md, section 8): one function an event, and no other place.

Each returns the records, or nothing where no journal reads them. What was refused, and signals, are counted in
`audit.counts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from agentmesh.attachments.reference import Attachment, UnknownReference
from agentmesh.audit.record import AuditEvent, Outcome, Record
from agentmesh.engine.core import Core
from agentmesh.envelope import OuterEnvelope
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import IdentityKey
from agentmesh.outgoing import Knock, Outgoing, Sealed
from agentmesh.session.facts import Ended, Facts
from agentmesh.session.opening import Incoming

Records = tuple[Record, ...]
_NOTHING: Records = ()
_SEALED: Final = AuditEvent.MESSAGE_SEALED
_OPENED: Final = AuditEvent.MESSAGE_OPENED
_INFO: Final = Outcome.INFO  # of both


# --- bundles ---------------------------------------------------------------------------------------------------------


def bundle_published(core: Core, bundle: bytes, bundle_class: BundleClass, now_ms: int) -> Records:
    """Record that a bundle was made."""
    return _own(core, AuditEvent.BUNDLE_PUBLISHED, now_ms, size_bytes=len(bundle), bundle_class=bundle_class)


def stock_exhausted(core: Core, now_ms: int) -> Records:
    """Record that the last unused one-time bundle has served."""
    return _own(core, AuditEvent.STOCK_EXHAUSTED, now_ms)


# --- KNOCKs ----------------------------------------------------------------------------------------------------------


def knock_sent(core: Core, facts: Facts, knock: Knock, now_ms: int) -> Records:
    """Record this agent's KNOCK."""
    return _sent(core, AuditEvent.KNOCK_SENT, facts, knock, now_ms, time_ms=facts.knock_time_ms)


def knock_received(core: Core, facts: Facts, outer: OuterEnvelope, now_ms: int, *, asked: bool) -> Records:
    """Record that a peer's KNOCK opened; `asked` says that the application is to decide."""
    reason = "asked" if asked else ""
    return _received(core, AuditEvent.KNOCK_RECEIVED, facts, outer, now_ms, reason=reason)


def knock_accepted(core: Core, facts: Facts, reply: Outgoing, now_ms: int, why: str) -> Records:
    """Record this agent's ACCEPT; `why` says who decided."""
    return _sent(core, AuditEvent.KNOCK_ACCEPTED, facts, reply, now_ms, reason=why)


def acceptance_received(core: Core, facts: Facts, outer: OuterEnvelope, now_ms: int) -> Records:
    """Record the peer's ACCEPT."""
    return _received(core, AuditEvent.KNOCK_ACCEPTED, facts, outer, now_ms)


def knock_rejected(core: Core, initiator: IdentityKey, reply: Outgoing, now_ms: int, why: str) -> Records:
    """Record this agent's REJECT; `why` says the reason. A KNOCK that never opened has no session to name."""
    if not core.recording:
        return _NOTHING
    return _own(
        core,
        AuditEvent.KNOCK_REJECTED,
        now_ms,
        recipient=initiator.did,
        envelope_time_ms=now_ms,
        receipt=reply.receipt,
        size_bytes=len(reply.envelope),
        reason=why,
    )


def rejection_received(core: Core, facts: Facts, outer: OuterEnvelope, now_ms: int, why: str) -> Records:
    """Record the peer's REJECT."""
    return _received(core, AuditEvent.KNOCK_REJECTED, facts, outer, now_ms, reason=why)


# --- conversations ---------------------------------------------------------------------------------------------------
#
# The two of a message are written out and by position, because every message passes here.


def message_sealed(core: Core, facts: Facts, sealed: Sealed, now_ms: int) -> Records:
    """Record a data message or a close of this agent."""
    if not core.recording:
        return _NOTHING
    return (
        Record(
            _SEALED, now_ms, facts.mesh, facts.own_did, facts.peer.did, now_ms, sealed.receipt, facts.session_id,
            sealed.number, len(sealed.envelope), facts.bundle_class, _INFO,
        ),
    )  # fmt: skip


def message_opened(core: Core, facts: Facts, outer: OuterEnvelope, incoming: Incoming, now_ms: int) -> Records:
    """Record a data message or a close of the peer."""
    if not core.recording:
        return _NOTHING
    return (
        Record(
            _OPENED, now_ms, facts.mesh, facts.peer.did, facts.own_did, incoming.time_ms, outer.receipt,
            facts.session_id, incoming.number, outer.size_bytes, facts.bundle_class, _INFO,
        ),
    )  # fmt: skip


def attachments_named(
    core: Core,
    facts: Facts,
    references: Iterable[Attachment | UnknownReference],
    now_ms: int,
    *,
    number: int,
    time_ms: int,
    sent: bool,
) -> Records:
    """Record what a data message names: one record an attachment, with its receipt and the size of its blob."""
    if not core.recording:
        return _NOTHING
    own, peer = facts.own_did, facts.peer.did
    return tuple(
        Record(
            AuditEvent.ATTACHMENT_NAMED,
            at_ms=now_ms,
            mesh=facts.mesh,
            sender=own if sent else peer,
            recipient=peer if sent else own,
            envelope_time_ms=time_ms,
            receipt=reference.receipt,
            session_id=facts.session_id,
            number=number,
            size_bytes=reference.blob_bytes,
            bundle_class=facts.bundle_class,
        )
        for reference in references
        if isinstance(reference, Attachment)
    )


def session_ended(core: Core, over: Ended, now_ms: int) -> Records:
    """Record an ending."""
    return _own(
        core,
        AuditEvent.SESSION_CLOSED,
        now_ms,
        recipient=over.peer.did,
        session_id=over.session_id,
        bundle_class=over.bundle_class,
        reason=str(over.phase),
    )


# --- what they share -------------------------------------------------------------------------------------------------


def _own(core: Core, event: AuditEvent, now_ms: int, **fields: Any) -> Records:
    """Return the record of what this agent did, whatever else is known of it."""
    if not core.recording:
        return _NOTHING
    state = core.state
    return (Record(event, at_ms=now_ms, mesh=state.mesh, sender=state.identity.did, **fields),)


def _sent(
    core: Core,
    event: AuditEvent,
    facts: Facts,
    outgoing: Outgoing,
    now_ms: int,
    *,
    time_ms: int | None = None,
    reason: str = "",
) -> Records:
    """Return the record of this side's part of a handshake; its time is now, unless `time_ms` says another."""
    if not core.recording:
        return _NOTHING
    return (
        Record(
            event,
            at_ms=now_ms,
            mesh=facts.mesh,
            sender=facts.own_did,
            recipient=facts.peer.did,
            envelope_time_ms=now_ms if time_ms is None else time_ms,
            receipt=outgoing.receipt,
            session_id=facts.session_id,
            size_bytes=len(outgoing.envelope),
            bundle_class=facts.bundle_class,
            reason=reason,
        ),
    )


def _received(
    core: Core,
    event: AuditEvent,
    facts: Facts,
    outer: OuterEnvelope,
    now_ms: int,
    *,
    reason: str = "",
) -> Records:
    """Return the record of the peer's part of a handshake."""
    if not core.recording:
        return _NOTHING
    return (
        Record(
            event,
            at_ms=now_ms,
            mesh=facts.mesh,
            sender=facts.peer.did,
            recipient=facts.own_did,
            envelope_time_ms=outer.header.time_ms,
            receipt=outer.receipt,
            session_id=facts.session_id,
            size_bytes=outer.size_bytes,
            bundle_class=facts.bundle_class,
            reason=reason,
        ),
    )
