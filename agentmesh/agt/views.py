"""What an application may know of a conversation with an agent of AGT's mesh: values, no secrets."""

from __future__ import annotations

from agentmesh.agt.conversation import AgtHeld, Candidate
from agentmesh.agt.core import AgtCore
from agentmesh.agt.stage import numbers_of
from agentmesh.assurance import Assurance
from agentmesh.engine.status import SessionStatus, SessionView
from agentmesh.session.phases import Phase


def views_of(core: AgtCore, did: str) -> tuple[SessionView, ...]:
    """Return views of all sessions with a peer, and of its KNOCKs that wait for a verdict, oldest first."""
    sending = core.state.sessions_with(did)[:1]
    return tuple(
        SessionView(
            peer=held.facts.peer,
            session_id=held.facts.session_id,
            status=_status_of(held, sends=held in sending),
        )
        for held in core.state.held_with(did)
        if not isinstance(held, Candidate) or held.is_proved
    )


def _status_of(held: AgtHeld, *, sends: bool) -> SessionStatus:
    facts = held.facts
    if isinstance(held, Candidate):
        return SessionStatus(
            phase=Phase.UNDECIDED,
            bundle_class=facts.bundle_class,
            initiated=False,
            assurance=Assurance.CONFIRMED,
        )
    ratchet, conditions = held.ratchet, held.conditions
    receiving, kept = ratchet.receiving, ratchet.numbers(ratchet.skipped)
    most = conditions.max_messages
    number_in = 0 if receiving is None else receiving.start + receiving.n
    return SessionStatus(
        phase=Phase.ESTABLISHED,
        bundle_class=facts.bundle_class,
        initiated=facts.initiator,
        sends=sends,
        assurance=Assurance.NONE if held.heard_ms is None else Assurance.CONFIRMED,
        number_in=number_in,
        missing=numbers_of(sorted(kept)),  # what was skipped and is not kept any more is lost
        kept_keys=len(ratchet.skipped),
        kept_at=numbers_of(sorted(kept)),
        data_sent=held.sent,
        data_opened=held.opened,
        messages_left_out=None if most is None else max(0, most - held.sent),
        messages_left_in=None if most is None else max(0, most - number_in),
        allowed_actions=conditions.allowed_actions,
        ends_at_ms=held.ends_at_ms,
    )
