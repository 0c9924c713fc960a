"""What an application may know of a session: values, in every phase."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    Assurance,
    BundleClass,
    Conditions,
    Guarantee,
    Intent,
    KnockReceived,
    Phase,
    Reason,
    SessionEstablished,
    SessionStatus,
)
from agentmesh.limits import PENDING_GRACE_MS
from agentmesh.testing import Pair, agent_pair, establish, established_pair

brisk = settings(max_examples=max(1, settings().max_examples // 4))


def status(agent: Agent, peer: Agent) -> SessionStatus:
    return agent.session(peer.did).status


def knocked(early_payload: bytes | None = None, *, last_resort: bool = False) -> tuple[Pair, KnockReceived]:
    pair = agent_pair()
    shelf = pair.bob.publish_bundles(1)
    bundle = shelf.last_resort if last_resort else shelf.one_time[0]
    assert bundle is not None
    knock = pair.alice.knock(
        pair.bob.did, bundle, Intent("x"), early_payload=early_payload, early_with_last_resort=last_resort
    ).envelope
    [event] = pair.bob.receive(knock)
    assert isinstance(event, KnockReceived)
    return pair, event


@pytest.mark.parametrize("last_resort", [False, True])
def test_before_the_verdict(last_resort: bool) -> None:
    pair, event = knocked(b"early", last_resort=last_resort)
    used = BundleClass.LAST_RESORT if last_resort else BundleClass.ONE_TIME
    assert status(pair.alice, pair.bob) == SessionStatus(
        phase=Phase.PENDING,
        bundle_class=used,
        initiated=True,
        assurance=Assurance.NONE,
        ends_at_ms=event.expires_ms + PENDING_GRACE_MS,
    )
    waiting = status(pair.bob, pair.alice)
    assert (waiting.phase, waiting.assurance, waiting.initiated) == (Phase.UNDECIDED, Assurance.SIGNED, False)
    assert waiting.bundle_class is used
    assert waiting.ends_at_ms is not None
    assert waiting.ends_at_ms >= event.expires_ms
    assert not waiting.sends


@pytest.mark.parametrize("early", [None, b"early"])
def test_just_established(early: bytes | None) -> None:
    pair, event = knocked(early)
    conditions = Conditions(max_messages=10, ttl_seconds=60, allowed_actions=["x"])
    pair.alice.receive(pair.bob.accept(event, conditions).envelope)
    count = int(early is not None)
    common = {
        "phase": Phase.ESTABLISHED,
        "bundle_class": BundleClass.ONE_TIME,
        "sends": True,
        "allowed_actions": ("x",),
        "ends_at_ms": pair.clock.now_ms + 360_000,
    }
    assert status(pair.alice, pair.bob) == SessionStatus(
        **common,  # type: ignore[arg-type]
        initiated=True,
        assurance=Assurance.CONFIRMED,
        number_in=0,
        data_sent=count,
        delivered=(range(1, 2),) * count,  # whoever accepted the KNOCK has opened what came with it
        epoch_turns=0,
        messages_left_out=10 - count,
        messages_left_in=10,
    )
    assert status(pair.bob, pair.alice) == SessionStatus(
        **common,  # type: ignore[arg-type]
        initiated=False,
        assurance=Assurance.SIGNED,
        number_in=count,
        data_opened=count,
        messages_left_out=10,
        messages_left_in=10 - count,
    )
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    assert status(pair.bob, pair.alice).assurance is Assurance.CONFIRMED


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20), st.booleans())
@brisk
def test_indices_counts_and_what_is_left(steps: list[tuple[bool, bool]], early: bool) -> None:
    pair = established_pair(conditions=Conditions(max_messages=50), early_payload=b"early" if early else None)
    agents = (pair.alice, pair.bob)
    sent = [int(early), 0]
    opened = [0, int(early)]
    highest = [0, int(early)]
    for from_alice, arrives in steps:
        sender = 0 if from_alice else 1
        envelope = agents[sender].send(agents[1 - sender].did, b"x").envelope
        sent[sender] += 1
        if arrives:
            agents[1 - sender].receive(envelope)
            opened[1 - sender] += 1
            highest[1 - sender] = sent[sender]
    for side in (0, 1):
        seen = status(agents[side], agents[1 - side])
        assert (seen.data_sent, seen.data_opened) == (sent[side], opened[side])
        assert seen.number_in == highest[side]
        assert sum(map(len, seen.missing)) == seen.kept_keys == highest[side] - opened[side]
        assert seen.kept_at == seen.missing  # where no signals are sent, positions and numbers are the same
        assert (seen.messages_left_out, seen.messages_left_in) == (50 - sent[side], 50 - highest[side])


def test_nothing_is_left_and_never_less() -> None:
    pair = established_pair(conditions=Conditions(max_messages=1))
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    pair.bob.receive(pair.alice.close(pair.bob.did))  # which no number forbids
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        seen = status(agent, peer)
        assert all(left is None or left >= 0 for left in (seen.messages_left_out, seen.messages_left_in))


def test_unlimited_is_none() -> None:
    pair = established_pair()
    day_ms = 86_400_000
    assert status(pair.alice, pair.bob).ends_at_ms == pair.clock.now_ms + 3 * day_ms  # expires + 48 h: nobody was heard
    pair.alice.send(pair.bob.did, b"heard")
    seen = status(pair.alice, pair.bob)
    assert (seen.messages_left_out, seen.messages_left_in, seen.allowed_actions, seen.ends_at_ms) == (None,) * 4


def test_closing() -> None:
    pair = established_pair()
    pair.alice.send(pair.bob.did, b"lost")
    closing = pair.alice.close(pair.bob.did).envelope
    mine = status(pair.alice, pair.bob)
    assert (mine.phase, mine.closing, mine.sends) == (Phase.ESTABLISHED, True, False)
    assert mine.ends_at_ms == pair.clock.now_ms + 600_000
    pair.clock.advance(ms=5)
    pair.bob.receive(closing)
    theirs = status(pair.bob, pair.alice)
    assert (theirs.phase, theirs.closing, theirs.sends, theirs.missing) == (
        Phase.ESTABLISHED,
        True,
        False,
        (range(1, 2),),
    )
    assert theirs.ends_at_ms == pair.clock.now_ms + 600_000
    pair.clock.advance(ms=600_001)
    assert status(pair.bob, pair.alice).phase is Phase.TRUNCATED  # before poll has told it
    pair.bob.poll()
    assert status(pair.bob, pair.alice).phase is Phase.TRUNCATED


def rejected() -> tuple[Pair, Phase, str]:
    pair, event = knocked()
    pair.alice.receive(pair.bob.reject(event, Reason.BUSY))
    return pair, Phase.REJECTED, "busy"


def closed() -> tuple[Pair, Phase, str]:
    pair = established_pair()
    [event, _] = pair.bob.receive(pair.alice.close(pair.bob.did))
    pair.alice.receive(event.reply)  # type: ignore[arg-type]
    return pair, Phase.CLOSED, ""


def dropped() -> tuple[Pair, Phase, str]:
    pair = established_pair()
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        agent.drop(peer.did, agent.session(peer.did).session_id)
    return pair, Phase.TRUNCATED, "dropped"


def expired() -> tuple[Pair, Phase, str]:
    pair = established_pair(conditions=Conditions(ttl_seconds=1))
    pair.clock.advance(seconds=302)
    for agent in (pair.alice, pair.bob):
        agent.poll()
    return pair, Phase.EXPIRED, ""


@pytest.mark.parametrize("ending", [rejected, closed, dropped, expired])
def test_what_is_over(ending: Callable[[], tuple[Pair, Phase, str]]) -> None:
    pair, phase, detail = ending()
    for agent, peer, initiated in ((pair.alice, pair.bob, True), (pair.bob, pair.alice, False)):
        seen = status(agent, peer)
        assert (seen.phase, seen.detail, seen.initiated) == (phase, detail, initiated)
        assert (seen.sends, seen.ends_at_ms, seen.closing) == (False, None, False)
        assert seen.bundle_class is BundleClass.ONE_TIME


def test_a_view_is_a_value_and_does_not_move() -> None:
    pair = established_pair()
    view = pair.alice.session(pair.bob.did)
    pair.alice.send(pair.bob.did, b"x")
    assert view.status.data_sent == 0
    assert pair.alice.session(pair.bob.did).status.data_sent == 1
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        view.status.data_sent = 5  # type: ignore[misc]
    assert view.peer == pair.bob.key
    assert view.session_id.hex() in repr(view)
    assert view == attrs.evolve(view)


def test_one_session_sends_at_a_time() -> None:
    pair = established_pair()
    for _ in range(3):
        pair.clock.advance(ms=1)
        establish(pair.alice, pair.bob)
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        assert [view.status.sends for view in agent.sessions(peer.did)] == [False, False, False, True]


@pytest.mark.parametrize("last_resort", [False, True])
def test_both_sides_see_what_a_session_gives(last_resort: bool) -> None:
    pair, event = knocked(last_resort=last_resort)
    expected = set(Guarantee) - ({Guarantee.ONE_TIME_PREKEY} if last_resort else set())
    assert event.guarantees == expected
    [established] = pair.alice.receive(pair.bob.accept(event).envelope)
    assert isinstance(established, SessionEstablished)
    assert established.guarantees == expected
    assert pair.alice.session(pair.bob.did).guarantees == pair.bob.session(pair.alice.did).guarantees == expected
