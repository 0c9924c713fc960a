"""The phases of a session, and what leads from one to another (docs/protocol.md, section 7): one table.

The engine, its tests and the diagram in docs/architecture.md read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Phase(StrEnum):
    """Where a session stands."""

    PENDING = "pending"
    UNDECIDED = "undecided"
    ESTABLISHED = "established"
    REJECTED = "rejected"
    CLOSED = "closed"
    EXPIRED = "expired"
    TRUNCATED = "truncated"


class Happening(StrEnum):
    """What can happen to a session that moves it to another phase."""

    KNOCKED = "this agent knocked"
    ASKED = "a peer's KNOCK opened, and the application is asked"
    ACCEPTED = "the KNOCK was accepted"
    REJECTED = "the KNOCK was rejected"
    DROPPED = "the application dropped it"
    TIMED_OUT = "its time is over"
    COMPLETED = "both sides have closed, and all that was announced has come"
    CUT_OFF = "the wait for late data is over"


_P, _H = Phase, Happening
# From (phase, or `None` for no session; happening) to phase. What is not here cannot happen: no ending is left again.
TRANSITIONS: Final[Mapping[tuple[Phase | None, Happening], Phase]] = MappingProxyType(
    {
        (None, _H.KNOCKED): _P.PENDING,
        (None, _H.ASKED): _P.UNDECIDED,
        (None, _H.ACCEPTED): _P.ESTABLISHED,  # by the policy, in the step that opened the KNOCK
        (_P.PENDING, _H.ACCEPTED): _P.ESTABLISHED,
        (_P.PENDING, _H.REJECTED): _P.REJECTED,
        (_P.PENDING, _H.DROPPED): _P.EXPIRED,
        (_P.PENDING, _H.TIMED_OUT): _P.EXPIRED,
        (_P.UNDECIDED, _H.ACCEPTED): _P.ESTABLISHED,
        (_P.UNDECIDED, _H.REJECTED): _P.REJECTED,
        (_P.UNDECIDED, _H.TIMED_OUT): _P.EXPIRED,
        (_P.ESTABLISHED, _H.DROPPED): _P.TRUNCATED,
        (_P.ESTABLISHED, _H.TIMED_OUT): _P.EXPIRED,
        (_P.ESTABLISHED, _H.COMPLETED): _P.CLOSED,
        (_P.ESTABLISHED, _H.CUT_OFF): _P.TRUNCATED,
    }
)
ENDINGS: Final = frozenset(Phase) - {phase for phase, _ in TRANSITIONS}
