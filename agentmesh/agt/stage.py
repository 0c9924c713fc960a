"""One step under way: sessions as they will be, and what the step has to change, to record and to tell.

A frame may bring others to light: a KNOCK the messages that came before it, an acceptance those that were held. All of
them are one step, each over what the one before it leads to, and nothing of it has changed anything yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar, final

from agentmesh.agt import records
from agentmesh.agt.conversation import (
    AgtFacts,
    AgtHeld,
    AgtSession,
    Candidate,
    HeldFrame,
    advanced,
    sends_before,
)
from agentmesh.agt.core import AgtCore
from agentmesh.agt.frames import AgtFrame, accept_frame, frame_id, reject_frame
from agentmesh.agt.payload import unwrap
from agentmesh.agt.prekeys import prekey_name
from agentmesh.agt.state import HeldDropped, HeldPut, KnockKnown, PrekeysDropped
from agentmesh.audit.record import AuditEvent
from agentmesh.engine.state import Change, Step
from agentmesh.errors import ClosedSession, PeerConditionBroken
from agentmesh.events import Event, Events, KeptReceipt, MessageReceived, SessionEstablished
from agentmesh.handshake.verdict import UNLIMITED, Conditions
from agentmesh.limits import CLOCK_TOLERANCE_MS, OPEN_SESSIONS_PER_PEER
from agentmesh.outgoing import Outgoing
from agentmesh.primitives.keys import Ed25519PublicKey, Redacted, SessionId
from agentmesh.session.ratchet import Opened, Ratchet

_Output = TypeVar("_Output")


@final
class Stage(Redacted):
    """What one call is going to do.

    Attributes:
        core: The agent's.
        now_ms: Its clock.
        changes: What it alters, beside sessions.
        records: What it records.
        events: What it tells.
        afterwards: What is done in memory once it has taken effect.
        charged: Whose rate was charged.
    """

    __slots__ = ("_put", "afterwards", "changes", "charged", "core", "events", "now_ms", "records")

    def __init__(self, core: AgtCore, now_ms: int) -> None:
        self.core: AgtCore = core
        self.now_ms: int = now_ms
        self.changes: list[Change] = []
        self.records: records.Records = ()
        self.events: list[Event] = []
        self.afterwards: list[Callable[[], None]] = []
        self.charged: Ed25519PublicKey | None = None
        self._put: dict[SessionId, AgtHeld | None] = {}

    def step(self, output: _Output) -> Step[_Output]:
        """Return the step."""
        held = [HeldPut(one) for one in self._put.values() if one is not None]
        over = tuple(name for name, one in self._put.items() if one is None)
        changes = (*self.changes, *((HeldDropped(over),) if over else ()), *held)
        return Step(
            changes,
            self.records,
            output,
            afterwards=partial(_call_all, tuple(self.afterwards)) if self.afterwards else None,
            charged=self.charged,
        )

    def told(self) -> Step[Events]:
        """Return the step of a call that returns events."""
        return self.step(tuple(self.events))

    # --- sessions as they will be ------------------------------------------------------------------------------------

    def held_with(self, did: str) -> list[AgtHeld]:
        """Return the sessions and candidates with a peer, oldest first."""
        before = {held.facts.session_id: held for held in self.core.state.held_with(did)}
        after = {**before, **{name: one for name, one in self._put.items() if one is None or one.facts.peer.did == did}}
        return [one for one in after.values() if one is not None]

    def sessions_with(self, did: str) -> list[AgtSession]:
        """Return the sessions with a peer, the one that sends first."""
        found = [held for held in self.held_with(did) if isinstance(held, AgtSession)]
        return sorted(found, key=sends_before)

    def candidates_of(self, did: str) -> list[Candidate]:
        """Return the KNOCKs of a peer that are no session yet, oldest first."""
        return [held for held in self.held_with(did) if isinstance(held, Candidate)]

    def get(self, session_id: SessionId) -> AgtHeld | None:
        """Return a session or a candidate, or `None` where there is none any more."""
        return self._put[session_id] if session_id in self._put else self.core.state.held.get(session_id)

    def put(self, held: AgtHeld) -> None:
        """Hold this from then on."""
        self._put[held.facts.session_id] = held

    def drop(self, facts: AgtFacts, chain: bytes = b"") -> None:
        """Hold this no more.

        Args:
            facts: Of the session or candidate.
            chain: The first chain of its peer, where it is known by a message, and not by what is held.
        """
        held = self.get(facts.session_id)
        if isinstance(held, AgtSession):
            chain = held.first_chain
        elif isinstance(held, Candidate) and held.held:
            chain = held.held[0].message[:32]
        if chain:
            self.afterwards.append(partial(self.core.note_over, chain))
        self._put[facts.session_id] = None

    # --- what a session goes through ---------------------------------------------------------------------------------

    def begin(self, facts: AgtFacts, ratchet: Ratchet, conditions: Conditions = UNLIMITED) -> AgtSession:
        """Return a session that begins, and will send; where there are too many with the peer one makes room.

        Of those that nothing was heard on the oldest, before any other.
        """
        others = self.sessions_with(facts.peer.did)
        for place, other in enumerate(sorted(others, key=lambda one: one.heard_ms is None)):
            if place >= OPEN_SESSIONS_PER_PEER - 1:
                self.drop(other.facts)
                self.records += records.session_ended(self.core, other.facts, "replaced", self.now_ms)
            elif other.heard_ms is not None:
                self.put(advanced(other, rank=0))  # whoever knocks anew may have lost it: what comes late tells nothing
        session = AgtSession(
            facts=facts,
            ratchet=ratchet,
            rank=others[0].rank + 1 if others else 1,
            made_ms=self.now_ms,
            conditions=conditions,
        )
        self.put(session)
        return session

    def prove(self, candidate: Candidate, signed: int, *, denied: bool) -> None:
        """Take note that a KNOCK is genuine, now that a message has opened under it: its prekey has served.

        One that is denied is remembered in the first half of the memory alone: a copy of it would be denied again, and
        who was let in must find room.
        """
        facts, core = candidate.facts, self.core
        if facts.one_time is None:
            if not denied or len(core.state.known) < core.limits.remembered_knocks // 2:
                self.changes.append(KnockKnown(facts.session_id, signed))
        else:
            self.changes.append(PrekeysDropped((prekey_name(facts.one_time, is_signed=False),)))
            for other in core.state.candidates():
                if other.facts.one_time == facts.one_time and other.facts.session_id != facts.session_id:
                    self.drop(other.facts)  # one-time is one time
        self.afterwards.append(lambda: core.bundle_used(facts.peer, facts.bundle_class, self.now_ms))
        self.afterwards.append(partial(_forget, core.tried, facts.session_id))

    def establish(self, candidate: Candidate, ratchet: Ratchet, conditions: Conditions, why: str) -> AgtSession:
        """Accept a KNOCK that was proved: tell it, with the frame that says so."""
        facts, core = candidate.facts, self.core
        session = self.begin(facts, ratchet, conditions)
        reply = self.frame(accept_frame, facts)
        self.records += records.sent(core, AuditEvent.KNOCK_ACCEPTED, facts, reply, self.now_ms, why=why)
        self.events.append(
            SessionEstablished(
                peer=facts.peer,
                session_id=facts.session_id,
                bundle_class=facts.bundle_class,
                conditions=conditions,
                intent=facts.intent,
                reply=reply,
            )
        )
        return session

    def rejection(self, facts: AgtFacts, why: str) -> Outgoing:
        """Return the frame that refuses a KNOCK."""
        reply = self.frame(reject_frame, facts)
        self.records += records.sent(self.core, AuditEvent.KNOCK_REJECTED, facts, reply, self.now_ms, why=why)
        return reply

    def frame(self, build: Callable[[str, str, str, int, str], bytes], facts: AgtFacts) -> AgtFrame:
        """Return an answer to a KNOCK."""
        name = frame_id(self.core.entropy)
        return AgtFrame(build(facts.own.did, facts.peer.did, name, self.now_ms, facts.knock_id))

    def take(self, session: AgtSession, opened: Opened, frame: HeldFrame) -> None:
        """Accept a message that opened: tell it, and advance the session.

        Raises:
            ClosedSession: the session's time to live is over.
            PeerConditionBroken: more messages than the policy granted.
            Malformed: what was sealed is no payload.
        """
        number, most = opened.number + 1, session.conditions.max_messages
        ends_at_ms = session.ends_at_ms
        if ends_at_ms is not None and self.now_ms > ends_at_ms + CLOCK_TOLERANCE_MS:
            raise ClosedSession
        if most is not None and number > most:
            raise PeerConditionBroken("max_messages")
        facts = session.facts
        plaintext = unwrap(opened.plaintext)
        delta = opened.delta(self.core.entropy)
        ratchet = session.ratchet.copy()
        ratchet.apply(delta)
        rank = session.rank
        if rank:  # of two that were asked for at once both sides take to one, as soon as an answer follows a message
            rank = max([rank, *(one.rank + 1 for one in self.sessions_with(facts.peer.did) if one is not session)])
        self.put(
            advanced(
                session,
                ratchet=ratchet,
                opened=session.opened + 1,
                rank=rank,
                heard_ms=self.now_ms,
                first_chain=session.first_chain if session.first_chain else frame.message[:32],
            )
        )
        self.records += records.received(
            self.core,
            AuditEvent.MESSAGE_OPENED,
            facts,
            time_ms=frame.time_ms,
            receipt=frame.receipt,
            size_bytes=len(frame.message),
            now_ms=self.now_ms,
            number=number,
        )
        self.events.append(
            MessageReceived(
                facts.peer,
                facts.session_id,
                plaintext,
                facts.action,
                number,
                frame.time_ms,
                KeptReceipt(frame.receipt),
                None,
                numbers_of(delta.lost),
            )
        )


def _call_all(calls: Iterable[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _forget(tried: dict[SessionId, bool], session_id: SessionId) -> None:
    tried.pop(session_id, None)


def numbers_of(running: Iterable[int]) -> tuple[range, ...]:
    """Return running numbers, ascending, as ranges of message numbers: those begin with 1."""
    found: list[range] = []
    for number in running:
        if found and found[-1].stop == number + 1:
            found[-1] = range(found[-1].start, number + 2)
        else:
            found.append(range(number + 1, number + 2))
    return tuple(found)
