"""Two reliable agents over a relay that loses, doubles and reorders, and that are restarted at any call.

Every message is done with exactly once and told as delivered, or told as undelivered; with `in_order` in the order of
their numbers. In the end nothing waits any more, and nothing more happens.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    Delivered,
    Intent,
    KnockReceived,
    Limits,
    MessageReceived,
    SessionEstablished,
    StockLow,
    Undelivered,
)
from agentmesh.engine.rows import rows_of, state_of
from agentmesh.errors import AgentMeshError, NoSession, SessionNotOpen, TryAgain
from agentmesh.events import Event, SessionOver
from agentmesh.identity import Identity
from agentmesh.session.phases import Phase
from agentmesh.testing import ManualClock, SeededEntropy

MESH = "example/test"
PATIENT = Limits(in_order_wait_ms=86_400_000)  # no gap is given up: the resending closes each
ROUNDS_MAX = 400


class Side:
    """An application of a few lines: it hands over what waits, handles what it is told, and is done with it."""

    def __init__(self, name: str, clock: ManualClock, seed: int, *, in_order: bool) -> None:
        self.name = name
        self._entropy = SeededEntropy(f"{seed}/{name}/session")
        self._clock = clock
        self._in_order = in_order
        self.agent = Agent.create(
            MESH,
            identity=Identity.generate(SeededEntropy(f"{seed}/{name}")),
            clock=clock,
            entropy=self._entropy,
            limits=PATIENT,
            acknowledge=True,
            reliable=True,
            in_order=in_order,
        )
        self.did = self.agent.did
        self.sent: Counter[bytes] = Counter()
        self.delivered: Counter[bytes] = Counter()
        self.undelivered: Counter[bytes] = Counter()
        self.early: Counter[bytes] = Counter()
        self.handled: list[tuple[bytes, int, bytes]] = []  # session, number, plaintext
        self.over: Counter[bytes] = Counter()
        self.phases: set[Phase] = set()

    def restart(self) -> None:
        """Start anew from what a store would hold: the state after the last call."""
        exported = self.agent.export_state()
        assert rows_of(state_of(rows_of(self.agent._core.state))) == rows_of(self.agent._core.state)
        self.agent = Agent.restore(
            exported,
            clock=self._clock,
            entropy=self._entropy,
            limits=PATIENT,
            acknowledge=True,
            in_order=self._in_order,
        )
        assert self.agent.export_state() == exported

    def handle_all(self, random: Random | None = None) -> None:
        for event in self.agent.inbox():
            if random is not None and random.random() < 0.3:
                return  # it crashes, or is slow: the event comes again
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if isinstance(event, KnockReceived):
            self.agent.accept(event)
            return
        if isinstance(event, MessageReceived):
            self.handled.append((event.session_id, event.number, event.plaintext))
        elif isinstance(event, SessionEstablished) and event.early_payload is not None:
            self.early[event.early_payload] += 1
        elif isinstance(event, Delivered):
            self.delivered.update(message.label for message in event.messages)
        elif isinstance(event, Undelivered):
            self.undelivered.update(message.label for message in event.messages)
        elif isinstance(event, SessionOver):
            self.over[event.session_id] += 1
            self.phases.add(event.phase)
        self.agent.done(event)


class Run:
    """Two sides, and the relay between them."""

    def __init__(self, seed: int, *, in_order: bool, loss: float) -> None:
        self.random = Random(f"{seed}/delivery")
        self.clock = ManualClock()
        self.loss = loss
        self.alice = Side("alice", self.clock, seed, in_order=in_order)
        self.bob = Side("bob", self.clock, seed, in_order=in_order)
        self.sides = (self.alice, self.bob)
        self.under_way: list[tuple[Side, bytes]] = []
        self.fatal = 0

    def other(self, side: Side) -> Side:
        return self.bob if side is self.alice else self.alice

    def knock(self, side: Side, number: int) -> None:
        other = self.other(side)
        bundle = other.agent.publish_bundles(1, last_resort=False).one_time[0]
        side.agent.knock(other.did, bundle, Intent("test"), early_payload=b"early %d" % number)

    def send(self, side: Side, number: int) -> None:
        label = f"{side.name} {number}".encode()
        try:
            side.agent.send(self.other(side).did, b"of " + label, label=label)
        except (NoSession, SessionNotOpen):
            return
        side.sent[label] += 1

    def flush(self, side: Side) -> None:
        for waiting in side.agent.outbox():
            assert waiting.did == self.other(side).did
            self.under_way.append((self.other(side), waiting.envelope))
            if self.random.random() < 0.9:  # or it crashes between the two
                side.agent.sent(waiting.receipt)

    def deliver(self) -> None:
        if not self.under_way:
            return
        place = self.random.randrange(len(self.under_way))
        side, envelope = self.under_way[place]
        chance = self.random.random()
        if chance >= self.loss / 2:  # else a copy stays under way
            del self.under_way[place]
        if chance > 1 - self.loss:
            return  # lost
        before = side.agent.export_state()
        try:
            side.agent.receive(envelope)
        except TryAgain:
            assert side.agent.export_state() == before
            self.under_way.append((side, envelope))
        except AgentMeshError:
            assert side.agent.export_state() == before

    def step(self, number: int) -> None:
        side = self.random.choice(self.sides)
        choice = self.random.randrange(100)
        if choice < 30:
            self.send(side, number)
        elif choice < 50:
            self.flush(side)
        elif choice < 75:
            self.deliver()
        elif choice < 85:
            side.handle_all(self.random)
        elif choice < 92:
            self.clock.advance(ms=self.random.choice((1, 250, 6000, 40_000)))
            side.agent.poll()
        else:
            side.restart()

    def settle(self) -> None:
        """Let time pass and the relay carry until nothing is to be done."""
        for _ in range(ROUNDS_MAX):
            for side in self.sides:
                side.agent.poll()
                self.flush(side)
            while self.under_way:
                self.deliver()
            for side in self.sides:
                side.handle_all()
            if not self._waits():
                return
            deadlines = [side.agent.next_deadline_ms for side in self.sides]
            self.clock.now_ms = max(self.clock.now_ms, min(time for time in deadlines if time is not None))
        raise AssertionError("it never comes to rest")

    def _waits(self) -> bool:
        return any(len(side.agent._core.state.outbox) or side.agent.inbox() for side in self.sides)


def converse(seed: int, *, in_order: bool, steps: int = 80, loss: float = 0.25, drop: bool = False) -> Run:
    run = Run(seed, in_order=in_order, loss=loss)
    run.knock(run.alice, 0)
    run.settle()
    for number in range(steps):
        run.step(number)
    if drop:
        for side in run.random.sample(run.sides, 2):  # without a word, so the other sends on until it drops too
            [view] = side.agent.sessions(run.other(side).did)
            side.agent.drop(run.other(side).did, view.session_id)
            for number in range(steps, steps + 10):
                run.step(number)
    else:
        run.settle()
        closing = run.random.choice(run.sides)
        closing.agent.close(run.other(closing).did)
        if run.random.random() < 0.5:
            run.other(closing).agent.close(closing.did)
    run.settle()
    run.clock.advance(seconds=86_400)
    run.settle()
    return run


def check(run: Run, *, in_order: bool) -> None:
    for side in run.sides:
        other = run.other(side)
        assert side.delivered + side.undelivered == side.sent  # each told once
        handled = Counter(plaintext for _, _, plaintext in other.handled)
        assert not handled - Counter(b"of " + label for label in side.sent)  # none twice
        assert not Counter(b"of " + label for label in side.delivered) - handled  # none that was not
        if in_order:
            for session_id in {session_id for session_id, _, _ in side.handled}:
                numbers = [number for named, number, _ in side.handled if named == session_id]
                assert numbers == sorted(numbers)
        assert len(side.agent._core.state.outbox) == len(side.agent._core.state.inbox) == 0
        assert set(side.over.values()) <= {1}
    assert run.bob.early == {b"early 0": 1}


@given(st.integers(0, 2**32), st.booleans())
def test_each_message_is_done_with_once_or_told_as_undelivered(seed: int, in_order: bool) -> None:
    run = converse(seed, in_order=in_order)
    check(run, in_order=in_order)
    # Nothing was dropped, so nothing is left over: the relay carries what is offered again and again.
    assert not run.alice.undelivered
    assert not run.bob.undelivered


@given(st.integers(0, 2**32), st.booleans())
def test_what_is_under_way_when_a_session_is_dropped_is_told(seed: int, in_order: bool) -> None:
    check(converse(seed, in_order=in_order, steps=40, drop=True), in_order=in_order)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_more_happens_once_all_is_at_rest(seed: int) -> None:
    run = converse(seed, in_order=False)
    for side in run.sides:
        for _ in range(3):
            exported = side.agent.export_state()
            assert not set(map(type, side.agent.poll())) - {StockLow}
            assert side.agent.outbox() == side.agent.inbox() == ()
            assert side.agent.export_state() == exported
            side.restart()
