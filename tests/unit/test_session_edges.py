"""Small rules of section 7 and of what is told of a session, each with a test of its own."""

from __future__ import annotations

import pytest

from agentmesh import Agent, Conditions, Intent, KnockReceived, Limits, PeerClosed, Phase
from agentmesh.audit.record import Record
from agentmesh.engine.state import Changes
from agentmesh.envelope import Header, Kind, build
from agentmesh.errors import ArgumentInvalid, ClosedSession, NoSession, PeerNotAllowed, SessionNotOpen, UnknownSession
from agentmesh.handshake.prekeys import verify_bundle
from agentmesh.identity import IdentityKey
from agentmesh.policy import AskApplication, Decision, Deny, Grant, KnockRequest
from agentmesh.testing import ManualClock, agent_pair, established_pair

DAY = 86_400


def test_a_close_is_not_bounded_by_what_data_is() -> None:
    pair = established_pair(limits=Limits(plaintext_max_bytes=8))
    [closed, _] = pair.bob.receive(pair.alice.close(pair.bob.did, "x" * 128))
    assert isinstance(closed, PeerClosed)
    assert closed.reason == "x" * 128


@pytest.mark.parametrize("polled", [False, True])
def test_a_named_session_that_is_over_is_not_open_whether_time_was_looked_at_or_not(polled: bool) -> None:
    pair = established_pair(conditions=Conditions(ttl_seconds=60))
    session_id = pair.alice.session(pair.bob.did).session_id
    pair.clock.advance(seconds=361)
    if polled:
        pair.alice.poll()
    before = pair.alice.export_state()
    with pytest.raises(SessionNotOpen):
        pair.alice.send(pair.bob.did, b"x", session_id=session_id)
    with pytest.raises(SessionNotOpen):
        pair.alice.close(pair.bob.did, session_id=session_id)
    with pytest.raises(NoSession):
        pair.alice.drop(pair.bob.did, session_id)
    with pytest.raises(NoSession):
        pair.alice.send(pair.bob.did, b"x", session_id=bytes(16))
    assert pair.alice.export_state() == before


def message_in(sender: Agent, recipient: Agent, session_id: bytes, now_ms: int) -> bytes:
    """Return what looks like a message of a session, by somebody who holds none of its keys."""
    header = Header(kind=Kind.MESSAGE, mesh=sender.mesh, sender=sender.did, recipient=recipient.did, time_ms=now_ms)
    return build(header.encode(), session_id, bytes(200))


@pytest.mark.parametrize("polled", [False, True])
def test_a_knock_that_ran_out_undecided_is_over_whether_time_was_looked_at_or_not(polled: bool) -> None:
    pair = agent_pair()
    [bundle] = pair.bob.publish_bundles(1, last_resort=False).one_time
    [event] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("x"), expires_in_seconds=60))
    assert isinstance(event, KnockReceived)
    message = message_in(pair.alice, pair.bob, event.session_id, pair.clock.now_ms)
    pair.clock.now_ms = event.expires_ms
    with pytest.raises(UnknownSession):
        pair.bob.receive(message)
    pair.clock.now_ms += 1
    if polled:
        pair.bob.poll()
    before = pair.bob.export_state()
    with pytest.raises(ClosedSession):
        pair.bob.receive(message)
    assert pair.bob.export_state() == before


@pytest.mark.parametrize("polled", [False, True])
def test_the_policy_is_asked_of_a_peer_before_it_is_told_that_its_session_is_over(polled: bool) -> None:
    class Switch(AskApplication):
        allowed = True

        def still_allowed(self, _peer: IdentityKey, /) -> bool:
            return self.allowed

    switch = Switch()
    pair = established_pair(conditions=Conditions(ttl_seconds=60))
    session_id = pair.bob.session(pair.alice.did).session_id
    message = message_in(pair.alice, pair.bob, session_id, pair.clock.now_ms)
    bob = Agent.restore(pair.bob.export_state(), clock=pair.clock, policy=switch)
    pair.clock.advance(seconds=361)
    if polled:
        bob.poll()
    with pytest.raises(ClosedSession):
        bob.receive(message)
    switch.allowed = False
    before = bob.export_state()
    with pytest.raises(PeerNotAllowed):
        bob.receive(message)
    assert bob.export_state() == before


def test_a_peer_that_is_to_be_forgotten_is_a_deadline() -> None:
    pair = agent_pair()
    [bundle] = pair.bob.publish_bundles(1, last_resort=False).one_time
    pair.alice.knock(pair.bob.did, bundle, Intent("nobody answers"))
    told = 0
    while (deadline_ms := pair.alice.next_deadline_ms) is not None:
        assert deadline_ms > pair.clock.now_ms
        pair.clock.now_ms = deadline_ms
        before = pair.alice.export_state()
        pair.alice.poll()
        assert pair.alice.export_state() != before  # whoever is told to come has something to do
        told += 1
    assert told == 3  # the KNOCK ran out, its memory went, its peer went
    assert pair.alice._core.state.peers == {}


def test_a_start_publishes_up_to_the_target_and_never_fills_up() -> None:
    agent = Agent.create("example/test", clock=ManualClock(), limits=Limits(one_time_bundles=10, bundles_max=40))
    assert len(agent.publish_bundles().one_time) == 10
    for _ in range(20):
        assert agent.publish_bundles(last_resort=False).one_time == ()
    assert agent._core.state.unused_one_time() == 10


@pytest.mark.parametrize("last_resort", [False, True])
def test_a_withdrawn_bundle_has_no_secrets_and_its_knock_is_rejected(last_resort: bool) -> None:
    pair = agent_pair()
    shelf = pair.bob.publish_bundles(2)
    bundle = shelf.last_resort if last_resort else shelf.one_time[0]
    assert bundle is not None
    ref = verify_bundle(bundle, did=pair.bob.did, mesh=pair.bob.mesh, now_ms=pair.clock.now_ms).ref
    knock = pair.alice.knock(pair.bob.did, bundle, Intent("too late"))
    assert pair.bob.withdraw_bundles([ref]) == (ref,)
    assert pair.bob.withdraw_bundles([ref, bytes(32)]) == ()
    bob = Agent.restore(pair.bob.export_state(), clock=pair.clock)
    [refused] = bob.receive(knock)
    assert refused.reason == "bundle"
    assert len(bob.withdraw_bundles()) == 2
    assert all(bundle.secrets is None for bundle in bob._core.state.bundles.values())
    for wrong in (b"x" * 32, ["x"], [b"x"], 5, "x"):
        with pytest.raises(ArgumentInvalid):
            bob.withdraw_bundles(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "contradiction",
    [
        {"knock_lifetime_seconds": 14 * DAY + 1},
        {"one_time_lifetime_seconds": 2**53 - 1},
        {"last_resort_lifetime_seconds": 2**53 - 1},
        {"last_resort_lifetime_seconds": 7 * DAY - 1},
    ],
)
def test_limits_that_every_call_would_refuse_are_refused_at_once(contradiction: dict[str, int]) -> None:
    with pytest.raises(ArgumentInvalid):
        Limits(**contradiction)
    agent = Agent.create("example/test", limits=Limits(one_time_lifetime_seconds=(2**53 - 1) // 2000))
    assert agent.publish_bundles(1).last_resort


def test_what_a_session_allows_is_not_printed() -> None:
    pair = established_pair(conditions=Conditions(allowed_actions=["transfer-the-secret-fund"]))
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        view = agent.session(peer.did)
        assert view.status.allowed_actions == ("transfer-the-secret-fund",)
        for shown in (repr(view), str(view), repr(view.status)):
            assert "secret-fund" not in shown
            assert "<1 actions>" in shown


def test_who_knocks_and_says_nothing_is_not_waited_for() -> None:
    pair = established_pair()
    session_id = pair.alice.session(pair.bob.did).session_id
    pair.clock.advance(seconds=2 * DAY)
    news = pair.bob.send(pair.alice.did, b"news")
    pair.clock.advance(ms=1)
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        with pytest.raises(NoSession):
            agent.send(peer.did, b"late")
        with pytest.raises(SessionNotOpen):
            agent.send(peer.did, b"late", session_id=session_id)
    pair.clock.advance(ms=DAY * 1000 - 1)
    [event] = pair.alice.receive(news)  # what left in time has a day
    assert event.plaintext == b"news"
    # A close of the peer is answered until the end.
    [closed] = [one for one in pair.alice.receive(pair.bob.close(pair.alice.did, session_id=session_id)) if one.reply]
    assert isinstance(closed, PeerClosed)
    [_, over] = pair.bob.receive(closed.reply)
    assert over.phase is Phase.CLOSED


def test_a_session_is_confirmed_by_what_its_initiator_says_and_kept() -> None:
    pair = established_pair()
    pair.bob.receive(pair.alice.send(pair.bob.did, b"here"))
    for agent in (pair.alice, pair.bob):
        assert Agent.restore(agent.export_state(), clock=pair.clock).export_state() == agent.export_state()
    pair.clock.advance(seconds=100 * DAY)
    assert pair.alice.poll() == ()
    assert pair.bob.send(pair.alice.did, b"still") is not None
    [event] = pair.bob.receive(
        pair.alice.knock(pair.bob.did, pair.bob.publish_bundles(1).one_time[0], Intent("another"))
    )
    assert isinstance(event, KnockReceived)
    assert not event.fresh


def test_the_records_of_one_step_stand_in_one_order() -> None:
    steps: list[tuple[str, ...]] = []

    class Noting:
        def commit(self, _changes: Changes, records: tuple[Record, ...], /) -> None:
            steps.append(tuple(str(record.event) for record in records))

    class Deciding(AskApplication):
        accepting = True

        def decide(self, _request: KnockRequest, /) -> Decision:
            return Grant() if self.accepting else Deny()

    pair, policy = agent_pair(), Deciding()
    bob = Agent.create("example/test", clock=pair.clock, policy=policy, journal=Noting())
    for verdict in ("knock.accepted", "knock.rejected"):
        policy.accepting = verdict == "knock.accepted"
        [bundle] = bob.publish_bundles(1, last_resort=False).one_time
        knock = pair.alice.knock(bob.did, bundle, Intent("x"))
        [event] = bob.receive(knock)
        assert steps.pop() == ("knock.received", "stock.exhausted", verdict)
        steps.clear()
        pair.alice.receive(event.reply)
        bob.receive(knock)
        assert not any(steps)  # the same answer again is no record
        pair.clock.advance(seconds=1)
    bob.receive(pair.alice.close(bob.did))
    assert steps.pop() == ("message.opened", "message.sealed", "session.closed")
