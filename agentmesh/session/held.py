"""A session in whatever phase it is, and how it passes from one to another (docs/protocol.md, section 7)."""

from __future__ import annotations

from agentmesh.primitives.keys import SessionId
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended
from agentmesh.session.pending import Pending, Undecided
from agentmesh.session.phases import TRANSITIONS, Happening

Open = Pending | Undecided | Session
Held = Open | Ended


def session_id_of(held: Held) -> SessionId:
    """Return a session's id, in whatever phase it is."""
    return held.session_id if isinstance(held, Ended) else held.facts.session_id


def ended(held: Open, happening: Happening, *, at_ms: int, detail: str = "", opened_now: int = 0) -> Ended:
    """Return the memory of a session that this ends.

    Args:
        held: The session.
        happening: What ends it, by the table of phases.
        at_ms: When.
        detail: A fixed word; where it is empty, `superseded` if a later KNOCK has taken the session's place, and
            `unconfirmed` if no message of the initiator came in time.
        opened_now: How many data messages the step that ends it has opened.
    """
    session = held if isinstance(held, Session) else None
    if session is not None and not detail:
        if session.superseded_at_ms is not None:
            detail = "superseded"
        elif happening is Happening.TIMED_OUT and session.unheard(at_ms):
            detail = "unconfirmed"
    return Ended(
        session_id=held.facts.session_id,
        peer=held.facts.peer,
        phase=TRANSITIONS[held.phase, happening],
        detail=detail,
        at_ms=at_ms,
        bundle_class=held.facts.bundle_class,
        initiated=held.facts.initiator,
        data_sent=0 if session is None else session.data_sent,
        data_opened=0 if session is None else session.received.count + opened_now,
    )
