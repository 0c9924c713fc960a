"""A peer that loses its state each day, thirty days long (docs/protocol.md, section 7): both converse on each."""

from __future__ import annotations

import pytest

from agentmesh import Agent, Intent, KnockReceived, MessageReceived
from agentmesh.errors import NoSession, TooManySessions, UnknownSession
from agentmesh.testing import ManualClock, SeededEntropy, agent_pair, establish

DAYS = 30


def reborn(agent: Agent, clock: ManualClock, day: int) -> Agent:
    return Agent.create(agent.mesh, identity=agent.identity, clock=clock, entropy=SeededEntropy(f"day {day}"))


def converse(*sides: Agent) -> None:
    for sender, receiver in (sides, sides[::-1]):
        [event] = receiver.receive(sender.send(receiver.did, b"good morning"))
        assert isinstance(event, MessageReceived)


@pytest.mark.parametrize("pattern", ["the loser knocks", "the loser knocks when it is sent to", "both knock"])
def test_a_daily_loss_is_ended_by_the_losers_knock(pattern: str) -> None:
    pair = agent_pair()
    alice, bob = pair.alice, pair.bob
    establish(alice, bob)
    converse(alice, bob)
    for day in range(DAYS):
        pair.clock.advance(seconds=86_400)
        bob = reborn(bob, pair.clock, day)
        if pattern == "the loser knocks when it is sent to":
            with pytest.raises(UnknownSession):
                bob.receive(alice.send(bob.did, b"into nothing"))
        establish(bob, alice)
        if pattern == "both knock":
            pair.clock.advance(seconds=1)
            establish(alice, bob)
        converse(alice, bob)
        converse(alice, bob)
        alice.poll()
        views = [view for view in alice.sessions(bob.did) if view.status.sends]
        assert len(views) == 1
        open_ones = [v for v in alice.sessions(bob.did) if v.status.phase == "established" and not v.status.closing]
        assert len(open_ones) <= 2


def test_where_the_other_side_alone_knocks_it_is_told_what_to_drop() -> None:
    pair = agent_pair()
    alice, bob = pair.alice, pair.bob
    dropped = 0
    for day in range(DAYS):
        pair.clock.advance(seconds=86_400)
        bob = reborn(bob, pair.clock, day)
        held = [view.session_id for view in alice.sessions(bob.did) if view.status.phase == "established"]
        if len(held) == 5:
            with pytest.raises(TooManySessions) as caught:
                establish(alice, bob)
            assert list(caught.value.sessions) == held
            for session_id in caught.value.sessions:
                alice.drop(bob.did, session_id)
                dropped += 1
        establish(alice, bob)
        converse(alice, bob)
    assert dropped == 25


def test_lost_answers_do_not_fill_the_five_sessions() -> None:
    pair = agent_pair()
    alice, bob = pair.alice, pair.bob
    establish(alice, bob)
    converse(alice, bob)
    works = alice.session(bob.did).session_id
    for _ in range(12):
        pair.clock.advance(seconds=10)
        knock = alice.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("again"))
        [event] = bob.receive(knock)
        assert isinstance(event, KnockReceived)
        assert event.open_sessions <= 4
        bob.accept(event)  # and the ACCEPT is lost
        alice.drop(bob.did, knock.session_id)
        converse(alice, bob)  # in the session that works
        assert bob.session(alice.did).session_id == works
    pair.clock.advance(seconds=3 * 86_400 + 1)
    overs = {event.detail for event in bob.poll() if hasattr(event, "detail")}
    assert overs == {"superseded", "unconfirmed"}
    assert [v.session_id for v in bob.sessions(alice.did) if v.status.phase == "established"] == [works]
    converse(alice, bob)


def test_a_late_fresh_knock_ends_nothing_that_its_maker_entered_since() -> None:
    # Bob knocks, Alice accepts after she made her own fresh KNOCK, which comes last.
    pair = agent_pair()
    alice, bob = pair.alice, pair.bob
    bobs = bob.knock(alice.did, alice.publish_bundles(1).one_time[0], Intent("bob's"))
    pair.clock.advance(ms=1)
    fresh = alice.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("fresh"))
    pair.clock.advance(ms=1)
    [event] = alice.receive(bobs)
    bob.receive(alice.accept(event))
    [event] = bob.receive(fresh)
    assert event.fresh
    bob.accept(event)  # lost
    assert not bob.session(alice.did, bobs.session_id).status.closing
    with pytest.raises(NoSession):
        alice.session(bob.did, b"\0" * 16)
    converse(alice, bob)
