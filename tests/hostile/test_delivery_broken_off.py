"""Calls of reliable agents, broken off in front of each byte code: made again, what waits is what one call leaves."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from agentmesh import Agent, Delivered, Intent, KnockReceived, MessageReceived
from agentmesh.engine.inbox import is_from_peer, size_of
from agentmesh.engine.outbox import Purpose
from agentmesh.testing import Pair, SeededEntropy, agent_pair, established_pair

Call = Callable[[Agent], Any]
# Where a step is computed, nothing has happened yet; here it takes effect.
ROOMS = (
    "engine/changes.py",
    "engine/inbox.py",
    "engine/offers.py",
    "engine/outbox.py",
    "engine/seam.py",
    "engine/tally.py",
)


def talking() -> Pair:
    pair = established_pair(acknowledge=True, reliable=True, in_order=True)
    for number in range(3):
        pair.bob.send(pair.alice.did, b"waits", label=b"%d" % number)
        pair.bob.receive(pair.alice.send(pair.bob.did, b"%d" % number))
    return pair


def sending() -> tuple[Pair, Call]:
    pair = talking()
    return pair, lambda agent: agent.send(pair.alice.did, b"one more", label=b"mine")


def hearing() -> tuple[Pair, Call]:
    pair = talking()
    for waiting in pair.bob.outbox():
        if waiting.purpose is Purpose.DATA:
            pair.alice.receive(waiting.envelope)
    message = pair.alice.send(pair.bob.did, b"heard").envelope
    return pair, lambda agent: agent.receive(message)


def releasing() -> tuple[Pair, Call]:
    pair = talking()
    made = [pair.alice.send(pair.bob.did, b"late %d" % number).envelope for number in range(3)]
    pair.bob.receive(made[2])
    pair.bob.receive(made[1])
    return pair, lambda agent: agent.receive(made[0])


def giving_up() -> tuple[Pair, Call]:
    pair = talking()
    made = [pair.alice.send(pair.bob.did, b"late %d" % number).envelope for number in range(3)]
    pair.bob.receive(made[2])
    pair.bob.receive(made[1])
    pair.clock.advance(seconds=30)
    return pair, lambda agent: agent.poll()


def finishing() -> tuple[Pair, Call]:
    def call(agent: Agent) -> None:
        for event in agent.inbox():
            if isinstance(event, MessageReceived) and event.number == 2:
                agent.done(event)

    return talking(), call


def letting_go() -> tuple[Pair, Call]:
    pair = talking()
    receipt = next(waiting.receipt for waiting in pair.bob.outbox() if waiting.label == b"1")
    return pair, lambda agent: agent.sent(receipt, final=True)


def dropping() -> tuple[Pair, Call]:
    pair = talking()
    session_id = pair.bob.session(pair.alice.did).session_id

    def call(agent: Agent) -> None:
        if agent.session(pair.alice.did).status.phase == "established":
            agent.drop(pair.alice.did, session_id)

    return pair, call


def accepting() -> tuple[Pair, Call]:
    pair = agent_pair(reliable=True, acknowledge=True)
    bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
    pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("test"), early_payload=b"early"))

    def call(agent: Agent) -> None:
        for event in agent.inbox():
            if isinstance(event, KnockReceived):
                agent.accept(event)

    return pair, call


def boxes(agent: Agent) -> tuple[list[Any], list[Any]]:
    """Return what waits, without the bytes that chance has a part in."""
    state = agent._core.state
    events = [(one.sequence, one.is_held, type(one.event), told_of(one.event)) for one in state.inbox]
    return [(one.sequence, one.purpose, one.number, one.label) for one in state.outbox], events


def told_of(event: Any) -> object:
    if isinstance(event, MessageReceived):
        return event.number
    return tuple(one.label for one in event.messages) if isinstance(event, Delivered) else None


def check_sums(agent: Agent) -> None:
    outbox, inbox = agent._core.state.outbox, agent._core.state.inbox
    made = [one for one in outbox if one.purpose not in {Purpose.ANSWER, Purpose.SIGNAL}]
    assert outbox.made == (len(made), sum(len(one.envelope) for one in made))
    theirs = [one.event for one in inbox if is_from_peer(one.event)]
    assert inbox.from_peers == (len(theirs), sum(map(size_of, theirs)))


@pytest.mark.parametrize("scene", [sending, hearing, releasing, giving_up, finishing, letting_go, dropping, accepting])
def test_a_call_that_was_broken_off_and_is_made_again_leaves_what_one_leaves(
    scene: Callable[[], tuple[Pair, Call]], interrupts: ModuleType
) -> None:
    pair, call = scene()
    exported = pair.bob.export_state()

    def make() -> Agent:
        return Agent.restore(
            exported,
            clock=pair.clock,
            entropy=SeededEntropy("again"),
            acknowledge=True,
            in_order=scene is not accepting,
        )

    expected = make()
    before = boxes(expected)
    call(expected)
    after = boxes(expected)
    assert before != after
    for subject in interrupts.each(make, call, rooms=ROOMS, once=True):
        again = Agent.restore(subject.export_state(), clock=pair.clock)
        assert boxes(again) == boxes(subject)
        assert boxes(subject) in (before, after)
        check_sums(subject)
        call(subject)
        assert boxes(subject) == after
        check_sums(subject)
