"""Calls that carry epochs and acknowledgements, broken off in front of each line: made again they did it once (6.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentmesh import Agent, SignalDue
from agentmesh.limits import Limits
from agentmesh.session.epochs import Standing
from agentmesh.session.established import Session
from agentmesh.testing import Pair, established_pair

LIMITS = Limits(epoch_turns=1)
Call = Callable[[Agent], Any]


def half_of(agent: Agent) -> Any:
    [session] = [one for one in agent._core.state.sessions.values() if isinstance(one, Session)]
    return session.ratchet.epochs


def restored(pair: Pair, exported: bytes) -> Agent:
    return Agent.restore(exported, clock=pair.clock, limits=LIMITS, acknowledge=True)


def turned(alice: Agent, bob: Agent, turns: int) -> None:
    for _ in range(turns):
        bob.receive(alice.send(bob.did, b"x"))
        alice.receive(bob.send(alice.did, b"y"))


def offering() -> tuple[Pair, bool, Call]:
    pair = established_pair(limits=LIMITS, acknowledge=True)
    turned(pair.alice, pair.bob, 1)
    return pair, True, lambda agent: agent.send(pair.bob.did, b"offers")


def answering() -> tuple[Pair, bool, Call]:
    pair, _, offers = offering()
    offer = offers(pair.alice).envelope
    return pair, False, lambda agent: agent.receive(offer)


def mixing() -> tuple[Pair, bool, Call]:
    pair, _, offers = offering()
    pair.bob.receive(offers(pair.alice))
    answer = pair.bob.send(pair.alice.did, b"answers").envelope
    return pair, True, lambda agent: agent.receive(answer)


def signalling() -> tuple[Pair, bool, Call]:
    pair, _, offers = offering()
    pair.bob.receive(offers(pair.alice))
    pair.clock.advance(ms=LIMITS.ack_delay_ms)
    return pair, False, lambda agent: agent.poll()


@pytest.mark.parametrize(
    ("scene", "standing", "epoch"),
    [
        (offering, Standing.OFFERED, 0),
        (answering, Standing.ANSWERED, 0),
        (mixing, Standing.NOTHING_OUT, 1),
        (signalling, Standing.ANSWERED, 0),
    ],
)
def test_a_call_that_was_broken_off_and_is_made_again_heals_all_the_same(
    scene: Callable[[], tuple[Pair, bool, Call]], standing: Standing, epoch: int, interrupts: Any
) -> None:
    pair, is_alice, call = scene()
    exported = (pair.alice.export_state(), pair.bob.export_state())
    before = half_of(pair.alice).epoch
    expected = restored(pair, exported[not is_alice])
    call(expected)
    for subject in interrupts.each(lambda: restored(pair, exported[not is_alice]), call, lines=True):
        other = restored(pair, exported[is_alice])
        restored(pair, subject.export_state())
        result = call(subject)
        assert (half_of(subject).standing, half_of(subject).epoch) == (standing, epoch)
        assert subject.generation == expected.generation
        if isinstance(result, tuple):
            for event in result:
                if isinstance(event, SignalDue):
                    other.receive(event.reply)
        else:
            other.receive(result)
        alice, bob = (subject, other) if is_alice else (other, subject)
        turned(alice, bob, 3)
        assert half_of(alice).epoch > before
        assert half_of(bob).epoch >= half_of(alice).epoch - 1
