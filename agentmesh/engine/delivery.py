"""Delivered, or told: what a step puts into the outbox and the inbox, and takes out (docs/protocol.md, section 7.3).

Theory of operation. `kept` looks at a step that was computed and not committed, and adds the changes that keep what it
makes: each envelope that leaves, until it need not be sent any more; each event that is handed up, until the
application has done with it. So both are durable with what they follow from, and a call that fails has kept nothing.
Nothing that makes a step knows of outbox and inbox, but for `poll`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import Any, Final, TypeVar, final

from agentmesh.engine.changes import InboxPut, InboxRemoved, OutboxPut, OutboxRemoved, SessionEnded, SessionPut
from agentmesh.engine.core import Core
from agentmesh.engine.event_rows import is_kept
from agentmesh.engine.inbox import HandedUp, is_from_peer, size_of
from agentmesh.engine.order import InOrder, next_due_ms
from agentmesh.engine.outbox import CAUSED, CLOSE, DATA, NO_SESSION, Purpose, Waiting
from agentmesh.engine.state import Change, Step
from agentmesh.envelope import Kind, OuterEnvelope
from agentmesh.errors import InboxFull, OutboxFull
from agentmesh.events import (
    AnswerRepeated,
    Delivered,
    Event,
    Events,
    KnockRefused,
    MessageReceived,
    PeerClosed,
    SessionEstablished,
    SessionOver,
    SignalDue,
    Undelivered,
)
from agentmesh.handshake.verdict import UNLIMITED
from agentmesh.limits import CLOCK_TOLERANCE_MS, LATE_WINDOW_MS
from agentmesh.outgoing import Accepted, Knock, Outgoing, Sealed, SentMany, Tracked
from agentmesh.primitives.keys import Receipt, SessionId
from agentmesh.session.established import MessageSent, MessageTaken, Session
from agentmesh.session.facts import SESSION_ID_BYTES, Ended, PeerClose
from agentmesh.session.pending import Pending
from agentmesh.session.phases import Phase

_SHARES: Final = 4  # of the inbox: one peer fills one at most
_Output = TypeVar("_Output")


def kept(core: Core, step: Step[_Output], now_ms: int) -> Step[_Output]:
    """Return the step with what it puts into outbox and inbox, and what it takes out.

    Raises:
        OutboxFull: the application's own envelopes have no room.
        InboxFull: a peer's events have none.
    """
    output: Any = step.output
    if type(output) is Sealed:
        _keep_sealed(core, step, output)
        return step
    if type(output) is SentMany:
        _keep_many(core, step, output)
        return step
    if _is_one_message(core, step):
        _keep_received(core, step, now_ms)
        return step
    events = _events_of(output)
    if events or step.changes or isinstance(output, Outgoing):
        try:
            _Keeping(core, step, events, now_ms).add()
        except BaseException:  # the step takes no effect
            charged, step.charged = step.charged, None
            if charged is not None:
                core.budgets.knocks.give_back(charged)
            raise
    return step


# --- one message, which most steps are -------------------------------------------------------------------------------


def _keep_sealed(core: Core, step: Step[Any], sealed: Sealed) -> None:
    """Keep a data message, or a close, that the application sends: nothing else comes of such a step."""
    [sent] = step.changes
    assert type(sent) is MessageSent
    facts, outbox = sent.session.facts, core.state.outbox
    purpose, number = DATA, sealed.number
    if sent.own_close_at_ms is None:
        check_outbox(core, len(sealed.envelope))
    else:
        purpose, number = CLOSE, 0
    sequence = outbox.last_sequence + 1
    waiting = Waiting(sequence, purpose, facts.peer.did, facts.session_id, number, step.label, sealed.envelope)
    step.changes = (sent, OutboxPut(waiting))


def _keep_many(core: Core, step: Step[Any], many: SentMany) -> None:
    """Keep the messages of one call to many peers: whoever made the step has seen that there is room."""
    sealed = [one.sealed for one in many.results if one.sealed is not None]
    first = core.state.outbox.last_sequence + 1
    kept: list[Change] = []
    for sequence, (sent, made) in enumerate(zip(step.changes, sealed, strict=True), first):
        assert type(sent) is MessageSent
        facts = sent.session.facts
        waiting = Waiting(sequence, DATA, facts.peer.did, facts.session_id, made.number, step.label, made.envelope)
        kept.append(OutboxPut(waiting))
    step.changes = (*step.changes, *kept)


def _is_one_message(core: Core, step: Step[Any]) -> bool:
    """Say whether a message that was opened is all that there is to a step, and may be handed up at once."""
    changes, output = step.changes, step.output
    if len(changes) != 1 or type(changes[0]) is not MessageTaken or len(output) != 1:
        return False
    return type(output[0]) is MessageReceived and not core.in_order and not core.state.inbox.held


def _keep_received(core: Core, step: Step[Any], now_ms: int) -> None:
    [taken], [event] = step.changes, step.output
    assert type(event) is MessageReceived
    _check_inbox(core, event.peer.did, size_of(event))
    step.changes = (taken, InboxPut(HandedUp(core.state.inbox.last_sequence + 1, event, now_ms)))


def check_outbox(core: Core, size: int, more: int = 0, more_bytes: int = 0) -> None:
    """Refuse an envelope of the application's own that has no room, beside others that the same step makes.

    Raises:
        OutboxFull: it has none.
    """
    limits = core.limits
    count, waiting_bytes = core.state.outbox.made
    count, waiting_bytes = count + more, waiting_bytes + more_bytes
    if count >= limits.outbox_max_envelopes:
        raise OutboxFull(count + 1, limits.outbox_max_envelopes)
    # One that is larger than all that may wait may wait alone.
    if count and waiting_bytes + size > limits.outbox_max_bytes:
        raise OutboxFull(waiting_bytes + size, limits.outbox_max_bytes)


def _check_inbox(core: Core, did: str, size: int) -> None:
    """Refuse an event of a peer's that has no room."""
    inbox, limits = core.state.inbox, core.limits
    count, held_bytes = inbox.from_peers
    if (count + 1) * _SHARES <= limits.inbox_max_events and (held_bytes + size) * _SHARES <= limits.inbox_max_bytes:
        return  # what fits into one share
    for (count, held_bytes), shares in ((inbox.from_peers, 1), (inbox.from_peer(did), _SHARES)):
        # What is larger than a share may lie there alone.
        most_bytes = limits.inbox_max_bytes // shares
        if count >= max(1, limits.inbox_max_events // shares) or (count and held_bytes + size > most_bytes):
            raise InboxFull


# --- any step --------------------------------------------------------------------------------------------------------


def _events_of(output: object) -> Events:
    return output if type(output) is tuple and output and isinstance(output[0], Event) else ()


@final
class _Keeping:
    """What one step keeps, while it is found out."""

    __slots__ = (
        "_caused",
        "_changes",
        "_core",
        "_done",
        "_ended",
        "_events",
        "_gone",
        "_now_ms",
        "_step",
        "_waiting",
    )

    def __init__(self, core: Core, step: Step[Any], events: Events, now_ms: int) -> None:
        self._core = core
        self._step = step
        self._events = events
        self._now_ms = now_ms
        self._ended = {change.ended.session_id: change.ended for change in step.changes if type(change) is SessionEnded}
        self._gone: dict[int, None] = {}
        self._done: dict[int, None] = {}
        self._waiting: list[Waiting] = []
        self._caused = 0  # how many of those peers caused
        self._changes: list[Change] = []

    def add(self) -> None:
        """Add it to the step."""
        self._verdicts()
        self._leaving()
        if self._events or self._ended:
            self._handed_up(self._told())
        elif isinstance(self._step.output, Accepted):
            self._keep(self._early_payload(), self._core.state.inbox.last_sequence)
        if self._caused:
            self._make_room()
        if self._gone:
            self._changes.insert(0, OutboxRemoved(tuple(self._gone)))
        if self._done:
            self._changes.insert(0, InboxRemoved(tuple(self._done)))
        self._changes += map(OutboxPut, self._waiting)
        self._step.changes = (*self._step.changes, *self._changes)

    # --- what leaves -------------------------------------------------------------------------------------------------

    def _verdicts(self) -> None:
        """Take out what a verdict has answered, and what is for nothing where a session ends."""
        for change in self._step.changes:
            if type(change) is SessionPut and isinstance(change.held, Session):
                self._decided(change.held.facts.session_id, (Purpose.KNOCK,))
            elif type(change) is SessionEnded:
                # A peer that closed first waits for the close in answer, though this side waits for nothing any more.
                kept = change.ended.phase is Phase.CLOSED
                self._decided(change.ended.session_id, set(Purpose) - ({Purpose.CLOSE} if kept else set()))
            elif type(change) is MessageTaken and change.peer_close is not None:
                # One that never left stays: the peer's is then no answer to it.
                closes = self._of(change.session.facts.session_id, (Purpose.CLOSE,))
                self._let_go(one for one in closes if self._core.offers.was_handed_over(one.receipt))

    def _decided(self, session_id: SessionId, purposes: Collection[Purpose]) -> None:
        self._let_go(self._of(session_id, purposes))
        told = self._core.state.inbox.knocks.get(session_id)
        if told is not None:
            self._done[told] = None

    def _of(self, session_id: SessionId, purposes: Collection[Purpose]) -> list[Waiting]:
        return [one for one in self._core.state.outbox.others_of(session_id) if one.purpose in purposes]

    def _let_go(self, waiting: Iterable[Waiting]) -> None:
        self._gone.update((one.sequence, None) for one in waiting)

    def _leaving(self) -> None:
        output, changes = self._step.output, self._step.changes
        if isinstance(output, Knock):
            [held] = [change.held for change in changes if type(change) is SessionPut]
            self._put(Purpose.KNOCK, held.facts.peer.did, held.facts.session_id, output)
        elif isinstance(output, Accepted):
            [held] = [change.held for change in changes if type(change) is SessionPut]
            self._put(Purpose.ANSWER, held.facts.peer.did, output.session_id, output)
        elif isinstance(output, Outgoing):
            [over] = self._ended.values()
            self._put(Purpose.ANSWER, over.peer.did, NO_SESSION, output)
        for event in self._events:
            self._answered(event)

    def _answered(self, event: Event) -> None:
        """Put what an event wants sent."""
        if event.reply is None or isinstance(event, SessionOver):
            return
        did = event.peer.did
        if isinstance(event, SignalDue):
            self._let_go(self._of(event.session_id, (Purpose.SIGNAL,)))  # the newer one says more
            self._put(Purpose.SIGNAL, did, event.session_id, event.reply)
        elif isinstance(event, PeerClosed):
            self._put(Purpose.CLOSE, did, event.session_id, event.reply)
        elif isinstance(event, SessionEstablished):
            self._put(Purpose.ANSWER, did, event.session_id, event.reply)
        elif isinstance(event, KnockRefused):
            self._put(Purpose.ANSWER, did, NO_SESSION, event.reply)
        elif isinstance(event, AnswerRepeated) and self._core.state.outbox.find(event.reply.receipt) is None:
            self._put(Purpose.ANSWER, did, _session_of(self._core, event.reply), event.reply)

    def _put(self, purpose: Purpose, did: str, session_id: SessionId, made: Outgoing) -> None:
        if purpose in CAUSED:
            self._caused += 1
        elif purpose is Purpose.KNOCK:
            check_outbox(self._core, len(made.envelope))
        sequence = self._core.state.outbox.last_sequence + 1 + len(self._waiting)
        self._waiting.append(Waiting(sequence, purpose, did, session_id, 0, b"", made.envelope))

    def _make_room(self) -> None:
        """Let the oldest answers and signals go where there are too many: whoever misses one asks again."""
        staying = [sequence for sequence in self._core.state.outbox.caused if sequence not in self._gone]
        surplus = len(staying) + self._caused - self._core.limits.outbox_max_answers
        self._gone.update((sequence, None) for sequence in staying[: max(0, surplus)])

    # --- what is told ------------------------------------------------------------------------------------------------

    def _told(self) -> Events:
        """Return the events of the step: with what was delivered, and what was not."""
        if not self._ended:
            return tuple(self._with_messages(event) for event in self._events)
        told: list[Event] = []
        over = dict(self._ended)
        for event in self._events:
            if isinstance(event, SessionOver):
                told += self._with_rest(over.pop(event.session_id), event)
            else:
                told.append(self._with_messages(event))
        for ended in over.values():  # rejected, or dropped
            told += self._with_rest(ended, None)
        return tuple(told)

    def _with_messages(self, event: Event) -> Event:
        if type(event) is not Delivered:
            return event
        delivered = self._core.state.outbox.data_of(event.session_id, event.indices)
        self._let_go(delivered)
        return Delivered(
            peer=event.peer, session_id=event.session_id, indices=event.indices, messages=_tracked(delivered)
        )

    def _with_rest(self, ended: Ended, over: SessionOver | None) -> Iterator[Event]:
        """Yield the end of a session, and what became of its messages that were not acknowledged one by one."""
        rest = [one for one in self._core.state.outbox.data_of(ended.session_id) if one.sequence not in self._gone]
        self._let_go(rest)
        peer, session_id, messages = ended.peer, ended.session_id, _tracked(rest)
        close = self._peer_close(session_id)
        # A count names none of them, unless it is that of all.
        all_opened = close is not None and close.data_opened == ended.data_sent
        if rest and all_opened:
            indices = _ranges(one.number for one in rest)
            yield Delivered(peer=peer, session_id=session_id, indices=indices, messages=messages)
        if over is not None:
            yield over
        if rest and not all_opened:
            yield Undelivered(peer=peer, session_id=session_id, messages=messages)

    def _peer_close(self, session_id: SessionId) -> PeerClose | None:
        for change in self._step.changes:
            if type(change) is MessageTaken and change.session.facts.session_id == session_id:
                if change.peer_close is not None:
                    return change.peer_close
                break
        held = self._core.state.sessions.get(session_id)
        return held.peer_close if isinstance(held, Session) else None

    # --- what is handed up -------------------------------------------------------------------------------------------

    def _handed_up(self, told: Events) -> None:
        inbox = self._core.state.inbox
        sequence = inbox.last_sequence
        if self._core.in_order or inbox.held:
            ordered = InOrder(self._core, self._step, self._ended, self._now_ms)
            told = ordered.handed_up(told)
            self._done |= ordered.released
            self._changes += [InboxPut(handed) for handed in ordered.held]
            sequence = ordered.last_sequence
        if self._events:  # else the call returns none, as `drop`: what is told stands in the inbox alone
            self._step.output = told
        self._keep(told, sequence)

    def _keep(self, events: Events, sequence: int) -> None:
        inbox = self._core.state.inbox
        for event in self._events:  # those that are held too
            if is_from_peer(event) and inbox.find(event) is None:
                _check_inbox(self._core, event.peer.did, size_of(event))
        for event in events:
            if is_kept(event):
                sequence += 1
                self._changes.append(InboxPut(HandedUp(sequence, event, self._now_ms)))

    def _early_payload(self) -> Events:
        """Return the event of a KNOCK that the application accepted, where data came with it: nothing else keeps it."""
        output = self._step.output
        if not isinstance(output, Accepted) or output.early_payload is None:
            return ()
        [session] = [change.held for change in self._step.changes if type(change) is SessionPut]
        undecided = self._core.state.undecided[output.session_id]
        return (
            SessionEstablished(
                peer=undecided.facts.peer,
                session_id=output.session_id,
                bundle_class=undecided.facts.bundle_class,
                conditions=session.conditions if isinstance(session, Session) else UNLIMITED,
                intent=undecided.content.intent,
                early_payload=output.early_payload,
            ),
        )


def _tracked(waiting: Iterable[Waiting]) -> tuple[Tracked, ...]:
    return tuple(Tracked(receipt=one.receipt, number=one.number, label=one.label) for one in waiting)


def _ranges(numbers: Iterable[int]) -> tuple[range, ...]:
    """Return ascending numbers as ranges that do not touch."""
    ranges: list[range] = []
    for number in numbers:
        if ranges and ranges[-1].stop == number:
            ranges[-1] = range(ranges[-1].start, number + 1)
        else:
            ranges.append(range(number, number + 1))
    return tuple(ranges)


def _session_of(core: Core, answer: Outgoing) -> SessionId:
    outer = OuterEnvelope(answer.envelope, core.limits)
    if outer.header.kind is not Kind.ACCEPT:
        return NO_SESSION
    return SessionId(answer.envelope[outer.body_at : outer.body_at + SESSION_ID_BYTES])


# --- what the application says ---------------------------------------------------------------------------------------


def sent(core: Core, receipt: Receipt, now_ms: int, *, final: bool) -> Step[None]:
    """Note that the relay has taken an envelope: it goes, or is due again after a pause."""
    waiting = core.state.outbox.find(receipt)
    if waiting is None:
        return Step((), (), None)
    if final or waiting.purpose in CAUSED:
        return Step((OutboxRemoved((waiting.sequence,)),), (), None)
    return Step((), (), None, afterwards=partial(core.offers.handed_over, receipt, core.state.outbox, now_ms))


def done(core: Core, event: Event) -> Step[None]:
    """Let go of an event, if it is kept."""
    handed = core.state.inbox.find(event)
    return Step(() if handed is None else (InboxRemoved((handed.sequence,)),), (), None)


def due(core: Core) -> tuple[Waiting, ...]:
    """Return what is to be handed to the relay now, oldest first."""
    return core.offers.due(core.state.outbox, core.now_ms())


def not_done(core: Core) -> Events:
    """Return the events that were handed up, or may be, and are not done, oldest first."""
    return tuple(handed.event for handed in core.state.inbox if not handed.is_held)


# --- time ------------------------------------------------------------------------------------------------------------


def outdated(core: Core, now_ms: int) -> list[Change]:
    """Return the change that takes out what nobody waits for any more."""
    passing = core.state.outbox.passing
    times = ((sequence, _outdated_ms(core, sequence)) for sequence in passing)
    gone = tuple(sequence for sequence, until_ms in times if until_ms is not None and until_ms < now_ms)
    return [OutboxRemoved(gone)] if gone else []


def next_deadline_ms(core: Core, now_ms: int) -> Iterator[int]:
    """Yield the times at which something is due: to leave, to be handed up, or to be let go."""
    due_ms = core.offers.due_ms(core.state.outbox, now_ms)
    if due_ms is not None:
        yield due_ms
    for sequence in core.state.outbox.passing:
        until_ms = _outdated_ms(core, sequence)
        if until_ms is not None:
            yield until_ms + 1
    yield from next_due_ms(core, now_ms)


def _outdated_ms(core: Core, sequence: int) -> int | None:
    """Return until when a KNOCK or a close may do something at its peer, or `None` where that is not known yet."""
    waiting = core.state.outbox.get(sequence)
    held = None if waiting is None else core.state.sessions.get(waiting.session_id)
    if isinstance(held, Pending):
        return held.expires_ms + CLOCK_TOLERANCE_MS
    if isinstance(held, Session):
        return None  # as long as the session, at least
    return held.at_ms + LATE_WINDOW_MS if isinstance(held, Ended) else -1
