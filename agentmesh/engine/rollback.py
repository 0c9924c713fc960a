"""An agent whose state is known to be older than one that has acted (docs/protocol.md, section 7.2).

It has sent, opened and accepted what it does not know of. So its sessions end, since a replay could be opened in them
again; its bundles lose their secrets, since a KNOCK that was opened could be opened again; and its next KNOCK at each
peer says that it holds no session, which ends there what it has lost.
"""

from __future__ import annotations

from typing import Final

from agentmesh.audit.record import Record
from agentmesh.engine import records
from agentmesh.engine.changes import BundleUsed, SessionEnded
from agentmesh.engine.conversing import session_over
from agentmesh.engine.core import Core
from agentmesh.engine.state import Change, Step
from agentmesh.events import Event, Events, RolledBack
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended
from agentmesh.session.held import ended
from agentmesh.session.pending import Undecided
from agentmesh.session.phases import Happening

_DETAIL: Final = "rolled back"


def roll_back(core: Core, now_ms: int) -> Step[Events]:
    """End every session, delete the secrets of every bundle, and tell."""
    state = core.state
    refs = [bundle.ref for bundle in state.bundles.values() if bundle.secrets is not None]
    changes: list[Change] = [BundleUsed(ref) for ref in refs]
    trail: tuple[Record, ...] = ()
    events: list[Event] = []
    peers = []
    for held in tuple(state.sessions.values()):
        if isinstance(held, Ended):
            continue
        # Nobody has decided on a KNOCK that waits; to its maker it is one that was never answered.
        happening = Happening.TIMED_OUT if isinstance(held, Undecided) else Happening.DROPPED
        over = ended(held, happening, at_ms=now_ms, detail=_DETAIL)
        changes.append(SessionEnded(over))
        trail += records.session_ended(core, over, now_ms)
        events.append(session_over(over, held.missing if isinstance(held, Session) else ()))
        peers.append(held.facts.peer)
    told = RolledBack(peers=tuple(dict.fromkeys(peers)), bundles=len(refs))
    return Step(tuple(changes), trail, (told, *events))
