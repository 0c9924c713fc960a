"""What AGT's conversations write to the audit trail: one function an event, and no other place.

The records are those of a native session, with the names of AGT's mesh. Their reason begins with `agt`, so that a log
says which conversations had no more than that protocol gives: see docs/security.md.
"""

from __future__ import annotations

from typing import Any, Final

from agentmesh.agt.conversation import AgtFacts
from agentmesh.agt.core import AgtCore
from agentmesh.audit.record import AuditEvent, Record
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.outgoing import Outgoing
from agentmesh.primitives.keys import Receipt

Records = tuple[Record, ...]
PROTOCOL: Final = "agt"
_REASON_MAX: Final = 32


def own(core: AgtCore, event: AuditEvent, now_ms: int, why: str = "", **fields: Any) -> Records:
    """Record what this agent did."""
    if not core.recording:
        return ()
    state = core.state
    return (Record(event, at_ms=now_ms, mesh=state.mesh, sender=state.identity.did, reason=_reason(why), **fields),)


def sent(
    core: AgtCore, event: AuditEvent, facts: AgtFacts, frame: Outgoing, now_ms: int, *, why: str = "", number: int = 0
) -> Records:
    """Record a frame of this agent."""
    if not core.recording:
        return ()
    return own(
        core,
        event,
        now_ms,
        why,
        recipient=facts.peer.did,
        envelope_time_ms=now_ms,
        receipt=frame.receipt,
        session_id=facts.session_id,
        number=number,
        size_bytes=len(frame.envelope),
        bundle_class=facts.bundle_class,
    )


def received(
    core: AgtCore,
    event: AuditEvent,
    facts: AgtFacts,
    *,
    time_ms: int,
    receipt: Receipt,
    size_bytes: int,
    now_ms: int,
    why: str = "",
    number: int = 0,
) -> Records:
    """Record a frame of the peer. Its time is its own word."""
    if not core.recording:
        return ()
    return (
        Record(
            event,
            at_ms=now_ms,
            mesh=core.state.mesh,
            sender=facts.peer.did,
            recipient=facts.own.did,
            envelope_time_ms=time_ms,
            receipt=receipt,
            session_id=facts.session_id,
            number=number,
            size_bytes=size_bytes,
            bundle_class=facts.bundle_class,
            reason=_reason(why),
        ),
    )


def prekey_made(core: AgtCore, size_bytes: int, bundle_class: BundleClass, now_ms: int) -> Records:
    """Record that a prekey was made."""
    return own(core, AuditEvent.BUNDLE_PUBLISHED, now_ms, size_bytes=size_bytes, bundle_class=bundle_class)


def session_ended(core: AgtCore, facts: AgtFacts, why: str, now_ms: int) -> Records:
    """Record an ending, on this side alone: AGT has no close."""
    return own(
        core,
        AuditEvent.SESSION_CLOSED,
        now_ms,
        why,
        recipient=facts.peer.did,
        session_id=facts.session_id,
        bundle_class=facts.bundle_class,
    )


def _reason(why: str) -> str:
    return f"{PROTOCOL}.{why}"[:_REASON_MAX] if why else PROTOCOL
