"""What time brings: deadlines, endings, forgetting, and what is told (sections 3, 5 and 7)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, Conditions, Intent, KnockReceived, Limits, Phase, RotationDue, SessionOver, StockLow
from agentmesh.engine.export import export_agent
from agentmesh.engine.state import AgentState
from agentmesh.engine.upkeep import Shelf
from agentmesh.errors import ArgumentInvalid, UnknownSession
from agentmesh.testing import ManualClock, Pair, agent_pair, established_pair

SECOND = 1000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
TOLERANCE = 300 * SECOND


def state_of(agent: Agent) -> AgentState:
    state: AgentState = agent._core.state
    return state


def knock_at(pair: Pair, **options: Any) -> Any:
    """Alice's KNOCK at Bob on a fresh one-time bundle, and what Bob makes of it."""
    bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
    knock = pair.alice.knock(pair.bob.did, bundle, Intent("upkeep"), **options).envelope
    [event] = pair.bob.receive(knock)
    assert isinstance(event, KnockReceived)
    return event


def overs(events: tuple[Any, ...]) -> list[tuple[Phase, str]]:
    return [(event.phase, event.detail) for event in events if isinstance(event, SessionOver)]


def test_an_agent_with_nothing_has_nothing_to_do() -> None:
    alice = agent_pair().alice
    assert alice.poll() == ()
    assert alice.next_deadline_ms is None


# --- deadlines --------------------------------------------------------------------------------------------------------


@given(
    lifetimes=st.lists(st.sampled_from([1, 60, 86_400, 14 * 86_400]), max_size=4),
    ttl=st.none() | st.integers(0, 7200),
    closing=st.booleans(),
    last_resort=st.booleans(),
)
def test_polling_at_each_deadline_misses_nothing(
    lifetimes: list[int], ttl: int | None, closing: bool, last_resort: bool
) -> None:
    pair = agent_pair(limits=Limits(one_time_bundles_low=1))
    pair.bob.publish_bundles(2, last_resort=last_resort)
    event = knock_at(pair)
    pair.alice.receive(pair.bob.accept(event, Conditions(ttl_seconds=ttl)).envelope)
    for lifetime in lifetimes:
        pair.clock.advance(ms=7)
        knock_at(pair, expires_in_seconds=lifetime)
    if closing and ttl != 0:
        pair.bob.close(pair.alice.did)
    for agent in (pair.alice, pair.bob):
        pair.clock.now_ms = max(held.facts.knock_time_ms for held in state_of(pair.bob).sessions.values())
        agent.poll()
        for _ in range(100):
            deadline_ms = agent.next_deadline_ms
            if deadline_ms is None:
                break
            # One millisecond early there is nothing to tell; in time there is something to do, and then it is done.
            assert deadline_ms > pair.clock.now_ms
            pair.clock.now_ms = deadline_ms - 1
            assert agent.poll() == ()
            pair.clock.now_ms = deadline_ms
            before = export_agent(state_of(agent), now_ms=0)  # with the bundles that are past their time
            events = agent.poll()
            assert events or export_agent(state_of(agent), now_ms=0) != before
            assert agent.poll() == ()
        else:
            pytest.fail("the deadlines do not end")
        state = state_of(agent)
        assert state.bundles == {}
        assert all(held.conditions.ttl_seconds is None for held in state.sessions.values())


@pytest.mark.parametrize(("unused", "told"), [(2, False), (1, True)])
def test_a_low_stock_is_a_deadline_of_its_own(unused: int, told: bool) -> None:
    # Whoever polls when told to must hear of it: the stock can be gone within seconds.
    pair = agent_pair()
    for bundle in pair.bob.publish_bundles(10).one_time[unused:]:
        knock = pair.alice.knock(pair.bob.did, bundle, Intent("use one"))
        pair.bob.receive(knock)
        pair.alice.drop(pair.bob.did, knock.session_id)
    deadline_ms = pair.bob.next_deadline_ms
    assert deadline_ms is not None
    assert (deadline_ms <= pair.clock.now_ms) is told
    assert (StockLow(unused=unused) in pair.bob.poll()) is told
    after_ms = pair.bob.next_deadline_ms
    assert after_ms is not None
    assert after_ms > pair.clock.now_ms


def test_a_stock_that_expired_is_low() -> None:
    pair = agent_pair()
    pair.bob.publish_bundles(30, last_resort=False)
    told: list[Any] = []
    while (deadline_ms := pair.bob.next_deadline_ms) is not None:
        pair.clock.now_ms = max(pair.clock.now_ms, deadline_ms)
        told += pair.bob.poll()
    assert state_of(pair.bob).bundles == {}
    assert told == [StockLow(unused=0)]


def test_a_restored_agent_tells_again_and_has_the_same_deadlines() -> None:
    pair = agent_pair()
    [bundle] = pair.bob.publish_bundles(1).one_time
    pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("the only one")))
    pair.clock.advance(seconds=7 * 86_400)
    told = pair.bob.poll()
    assert [type(event) for event in told] == [SessionOver, StockLow, RotationDue]
    again = Agent.restore(pair.bob.export_state(), clock=pair.clock)
    assert again.poll() == told[1:]
    assert again.next_deadline_ms == pair.bob.next_deadline_ms
    assert again.export_state() == pair.bob.export_state()


# --- endings ----------------------------------------------------------------------------------------------------------


def test_old_endings_and_new_ones_in_one_poll() -> None:
    # Eight endings are remembered of a peer: a ninth pushes one out that is due to be forgotten in the same step.
    pair = agent_pair()
    for _ in range(8):
        event = knock_at(pair)
        pair.alice.receive(pair.bob.reject(event))
        pair.clock.advance(seconds=1)
    knock_at(pair)
    pair.clock.advance(seconds=2 * 86_400 + 1)
    for agent, other in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        assert len(agent.sessions(other.did)) == 9
        assert overs(agent.poll()) == [(Phase.EXPIRED, "")]
        [left] = agent.sessions(other.did)
        assert left.status.phase is Phase.EXPIRED
        assert Agent.restore(agent.export_state(), clock=pair.clock).export_state() == agent.export_state()


def test_no_more_than_eight_endings_of_a_peer_are_remembered() -> None:
    pair = agent_pair()
    knocks = []
    for _ in range(12):
        event = knock_at(pair)
        knocks.append(event.session_id)
        pair.alice.receive(pair.bob.reject(event))
        pair.clock.advance(seconds=1)
    for agent, other in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        assert [view.session_id for view in agent.sessions(other.did)] == knocks[-8:]
        assert len(state_of(agent).sessions) == 8


def test_an_ending_is_remembered_for_its_time_and_not_a_millisecond_more() -> None:
    pair = agent_pair(limits=Limits(ended_session_seconds=100))
    pair.bob.reject(knock_at(pair))
    pair.bob.publish_bundles(30)
    pair.clock.advance(seconds=100)
    pair.bob.poll()
    assert pair.bob.session(pair.alice.did).status.phase is Phase.REJECTED
    pair.clock.advance(ms=1)
    assert overs(pair.bob.poll()) == []
    assert pair.bob.sessions(pair.alice.did) == ()


@pytest.mark.parametrize("late_ms", [0, 1])
def test_each_phase_ends_past_its_deadline_and_not_at_it(late_ms: int) -> None:
    pair = agent_pair()
    waiting = knock_at(pair, expires_in_seconds=1000)
    pair.clock.now_ms = waiting.expires_ms + late_ms
    assert overs(pair.bob.poll()) == [(Phase.EXPIRED, "")] * late_ms
    assert overs(pair.alice.poll()) == []
    pair.clock.now_ms = waiting.expires_ms + DAY + late_ms
    pair.bob.poll()
    assert overs(pair.alice.poll()) == [(Phase.EXPIRED, "")] * late_ms

    pair = established_pair(conditions=Conditions(ttl_seconds=60))
    pair.clock.advance(seconds=360, ms=late_ms)
    for agent in (pair.alice, pair.bob):
        assert overs(agent.poll()) == [(Phase.EXPIRED, "")] * late_ms

    pair = established_pair()
    pair.alice.close(pair.bob.did)
    pair.clock.advance(seconds=600, ms=late_ms)
    assert overs(pair.alice.poll()) == [(Phase.TRUNCATED, "")] * late_ms
    assert overs(pair.bob.poll()) == []

    pair = established_pair()
    pair.clock.advance(ms=3 * DAY + late_ms)  # the KNOCK's own day, and two more
    for agent in (pair.alice, pair.bob):
        assert overs(agent.poll()) == [(Phase.EXPIRED, "unconfirmed")] * late_ms


def test_a_poll_ends_all_that_is_over_at_once() -> None:
    pair = agent_pair()
    for _ in range(4):
        knock_at(pair)
    pair.clock.advance(seconds=60 * 86_400)
    assert overs(pair.bob.poll()) == [(Phase.EXPIRED, "")] * 4
    assert overs(pair.alice.poll()) == [(Phase.EXPIRED, "")] * 4
    pair.clock.advance(seconds=86_401)
    for agent in (pair.alice, pair.bob):
        assert overs(agent.poll()) == []
        state = state_of(agent)
        assert (state.sessions, state.peers, state.dids, state.bundles, len(state.knocks)) == ({}, {}, {}, {}, 0)
        assert state.undecided == {}


def test_a_clock_set_back_ends_nothing_and_brings_nothing_back() -> None:
    pair = agent_pair()
    event = knock_at(pair)
    begin_ms = pair.clock.now_ms
    pair.clock.now_ms = event.expires_ms + 1
    assert overs(pair.bob.poll()) == [(Phase.EXPIRED, "")]
    pair.clock.now_ms = begin_ms
    before = pair.bob.export_state()
    assert overs(pair.bob.poll()) == []
    assert pair.bob.export_state() == before
    assert pair.bob.pending_knocks() == ()


# --- forgetting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late_ms", [0, 1])
def test_a_peer_is_forgotten_when_no_knock_of_before_can_come(late_ms: int) -> None:
    pair = agent_pair()
    event = knock_at(pair)
    pair.bob.reject(event)
    pair.clock.now_ms = event.time_ms + 14 * DAY + TOLERANCE + late_ms
    pair.bob.poll()
    pair.bob.poll()
    assert len(state_of(pair.bob).peers) == 1 - late_ms
    assert len(state_of(pair.bob).dids) == 1 - late_ms


def test_a_peer_with_a_session_is_never_forgotten() -> None:
    pair = established_pair()
    pair.bob.receive(pair.alice.send(pair.bob.did, b"heard"))
    envelope = pair.alice.send(pair.bob.did, b"after a long time").envelope
    for _ in range(10):
        pair.clock.advance(seconds=30 * 86_400)
        for agent in (pair.alice, pair.bob):
            agent.poll()
    [event] = pair.bob.receive(envelope)
    assert event.plaintext == b"after a long time"
    assert len(state_of(pair.bob).peers) == 1


@pytest.mark.parametrize("late_ms", [0, 1])
@pytest.mark.parametrize("last_resort", [False, True])
def test_bundles_and_their_knocks_are_forgotten_together(last_resort: bool, late_ms: int) -> None:
    pair = agent_pair()
    begin_ms = pair.clock.now_ms
    shelf = pair.bob.publish_bundles(1)
    bundle = shelf.last_resort if last_resort else shelf.one_time[0]
    assert bundle is not None
    [event] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("on either")))
    pair.bob.reject(event)
    end_ms = begin_ms + (21 if last_resort else 30) * DAY + TOLERANCE
    pair.clock.now_ms = end_ms + late_ms
    pair.bob.poll()
    state = state_of(pair.bob)
    assert len(state.knocks) == 1 - late_ms
    expected = {True: 2 - late_ms, False: 1 - late_ms}[last_resort]  # by then the last-resort one is long gone
    assert len(state.bundles) == expected


def test_what_opened_is_forgotten_with_its_bundle_or_past_its_own_time_if_that_is_later() -> None:
    pair = agent_pair()
    knock_at(pair)
    [held] = state_of(pair.bob).knocks
    [bundle] = [each for each in state_of(pair.bob).bundles.values() if each.secrets is None]
    assert held.forget_at_ms == bundle.forget_at_ms > held.expires_ms + TOLERANCE
    pair.clock.now_ms = held.forget_at_ms
    pair.bob.poll()
    assert len(state_of(pair.bob).knocks) == 1
    pair.clock.advance(ms=1)
    pair.bob.poll()
    assert len(state_of(pair.bob).knocks) == 0


def test_a_message_to_what_was_forgotten_is_unknown() -> None:
    pair = established_pair()
    envelope = pair.alice.send(pair.bob.did, b"too late").envelope
    pair.bob.drop(pair.alice.did, pair.bob.session(pair.alice.did).session_id)
    pair.clock.advance(seconds=86_401)
    pair.bob.poll()
    before = pair.bob.export_state()
    with pytest.raises(UnknownSession):
        pair.bob.receive(envelope)
    assert pair.bob.export_state() == before


# --- publishing -------------------------------------------------------------------------------------------------------


def test_publishing_makes_what_was_asked_for() -> None:
    bob = Agent.create("example/test", clock=ManualClock(), limits=Limits(one_time_bundles=3))
    for arguments, count, last_resort in (
        ({}, 3, True),
        ({"one_time": 2}, 2, True),
        ({"one_time": 0}, 0, True),
        ({"one_time": 5, "last_resort": False}, 5, False),
        ({"one_time": 0, "last_resort": False}, 0, False),
    ):
        before = len(state_of(bob).bundles)
        shelf = bob.publish_bundles(**arguments)
        assert (len(shelf.one_time), shelf.last_resort is not None) == (count, last_resort)
        assert len(state_of(bob).bundles) == before + count + last_resort
        assert repr(shelf) == f"Shelf(one_time=<{count}>, last_resort={'yes' if last_resort else 'no'})"


def test_a_clock_that_no_bundle_can_be_valid_by_is_refused() -> None:
    clock = ManualClock(2**53 - 1)
    bob = Agent.create("example/test", clock=clock)
    before = bob.export_state()
    with pytest.raises(ArgumentInvalid):
        bob.publish_bundles(1)
    assert bob.export_state() == before
    clock.now_ms = 0
    assert bob.publish_bundles(1).one_time


def test_a_shelf_is_a_value() -> None:
    shelf = Shelf(one_time=(b"one",), last_resort=None)
    assert shelf == Shelf(one_time=(b"one",), last_resort=None)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        shelf.last_resort = b"two"  # type: ignore[misc]
