"""Messages in the order of their indices, where that was asked for (docs/protocol.md, section 7.3).

One that came early is held, in the inbox and not handed up, until those before it have been opened, its wait is over,
or its session is. So is a close of the peer while messages that came before it are held. That something is held is
durable. Which gaps were given up is not: after a restart what comes behind one waits again, and no longer than before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, final

from agentmesh.engine.core import Core
from agentmesh.engine.inbox import HandedUp
from agentmesh.engine.state import Step
from agentmesh.events import Event, Events, MessageReceived, PeerClosed, SessionOver
from agentmesh.primitives.keys import SessionId
from agentmesh.session.established import MessageTaken, Session
from agentmesh.session.indices import Indices


@final
class InOrder:
    """What one step hands up of what it tells, and of what was held before.

    Attributes:
        held: What is held from now on.
        released: The sequences of what is held no more.
        last_sequence: The last that was given to an event.
    """

    __slots__ = ("_before", "_core", "_ended", "_now_ms", "_passed", "_step", "held", "last_sequence", "released")

    def __init__(self, core: Core, step: Step[Any], ended: Collection[SessionId], now_ms: int) -> None:
        self._core = core
        self._step = step
        self._ended = ended
        self._now_ms = now_ms
        self._before: dict[SessionId, list[HandedUp]] = {}
        self._passed: dict[SessionId, int] = {}
        self.held: list[HandedUp] = []
        self.released: dict[int, None] = {}
        self.last_sequence: int = core.state.inbox.last_sequence

    def handed_up(self, told: Events) -> Events:
        """Return what of a step's events is handed up now, in its order."""
        events: list[Event] = []
        over = {event.session_id for event in told if isinstance(event, SessionOver)}
        for session_id in self._ended:
            if session_id not in over:  # dropped
                events += self._released(session_id)
        for event in told:
            if isinstance(event, MessageReceived):
                events += self._message(event)
            elif isinstance(event, PeerClosed) and self._of(event.session_id):
                self._hold(event)
            elif isinstance(event, SessionOver):
                events += [*self._released(event.session_id), event]
            else:
                events.append(event)
        if self._passed or self._ended:
            self._step.afterwards = partial(_note, self._core, self._passed, self._ended, self._step.afterwards)
        return tuple(events)

    def _message(self, event: MessageReceived) -> Iterator[Event]:
        session_id = event.session_id
        if self._core.state.inbox.find(event) is not None:
            self._passed[session_id] = event.number  # it was held, and its wait is over
        elif self._is_next(event):
            yield event  # before all that is held, or that would have come before it
        else:
            self._hold(event)
        yield from self._released(session_id)

    def _is_next(self, event: MessageReceived) -> bool:
        """Say whether all messages before this one have been opened, or are awaited no more."""
        session_id = event.session_id
        received = None if session_id in self._ended else self._received(session_id)
        if received is None or not self._core.in_order:
            return True
        passed = max(self._passed.get(session_id, 0), self._core.passed.get(session_id, 0))
        return not received.gaps(event.number - 1, passed + 1)

    def _received(self, session_id: SessionId) -> Indices | None:
        for change in self._step.changes:
            if type(change) is MessageTaken and change.session.facts.session_id == session_id:
                return change.received
        held = self._core.state.sessions.get(session_id)
        return held.received if isinstance(held, Session) else None

    def _of(self, session_id: SessionId) -> list[HandedUp]:
        """Return what is held of a session."""
        if session_id not in self._before:
            self._before[session_id] = list(self._core.state.inbox.held.get(session_id, {}).values())
        return self._before[session_id]

    def _hold(self, event: MessageReceived | PeerClosed) -> None:
        self.last_sequence += 1
        held = HandedUp(self.last_sequence, event, self._now_ms, is_held=True)
        self.held.append(held)
        self._of(event.session_id).append(held)

    def _released(self, session_id: SessionId) -> Iterator[Event]:
        """Yield what is held of a session and need not be any more: messages by their indices, then a close."""
        held = self._of(session_id)
        messages = [one for one in held if isinstance(one.event, MessageReceived)]
        ready = [one for one in messages if self._is_next(one.event)]  # type: ignore[arg-type]
        ready.sort(key=lambda one: one.event.number)  # type: ignore[union-attr]
        awaited = min((one.sequence for one in messages if one not in ready), default=None)
        closes = [one for one in held if isinstance(one.event, PeerClosed)]
        ready += [one for one in closes if awaited is None or one.sequence < awaited]
        for one in ready:
            held.remove(one)
            if one in self.held:
                self.held.remove(one)  # it came in this step
            else:
                self.released[one.sequence] = None
            yield one.event


def waited(core: Core, now_ms: int) -> Events:
    """Return of each session the last message whose wait for those before it is over."""
    last: list[MessageReceived] = []
    for held in core.state.inbox.held.values():
        over = [
            one.event
            for one in held.values()
            if isinstance(one.event, MessageReceived) and due_ms(core, one, now_ms) <= now_ms
        ]
        last += [max(over, key=lambda event: event.number)] if over else []
    return tuple(last)


def due_ms(core: Core, held: HandedUp, now_ms: int) -> int:
    """Return when a held message is awaited no longer; at once where the clock was set back, or nobody asks for it."""
    if not core.in_order or now_ms < held.at_ms:
        return now_ms
    return held.at_ms + core.limits.in_order_wait_ms


def next_due_ms(core: Core, now_ms: int) -> Iterator[int]:
    """Yield when what is held is handed up at the latest."""
    for held in core.state.inbox.held.values():
        for one in held.values():
            if isinstance(one.event, MessageReceived):
                yield due_ms(core, one, now_ms)


def _note(core: Core, passed: dict[SessionId, int], ended: Collection[SessionId], after: Any) -> None:
    """Note which gaps were given up: in memory alone."""
    core.passed.update(passed)
    for session_id in ended:
        core.passed.pop(session_id, None)
    if after is not None:
        after()
