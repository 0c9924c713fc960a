"""Acknowledgements and signals (section 6.4): when they leave, what they say, what is made of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    AskApplication,
    Conditions,
    Delivered,
    Event,
    IdentityKey,
    Limits,
    MessageReceived,
    PeerAhead,
    PeerClosed,
    SessionOver,
    SessionStatus,
    SignalDue,
    StockLow,
)
from agentmesh.audit import AuditEvent, AuditJournal, AuditLog, MemorySink, verified_records
from agentmesh.errors import (
    ArgumentInvalid,
    BadPoint,
    ConditionNotMet,
    ContradictoryHeader,
    DuplicateMessage,
    MessageAfterClose,
    MessageRefused,
    StateMalformed,
)
from agentmesh.limits import LATE_WINDOW_MS
from agentmesh.outgoing import Outgoing
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import Receipt, SessionId
from agentmesh.primitives.padding import pad
from agentmesh.session import at_rest, sealing
from agentmesh.session.content import pad_close, pad_data, pad_signal
from agentmesh.session.epochs import ANSWER_BYTES, OFFER_BYTES
from agentmesh.session.established import Session
from agentmesh.session.indices import NONE
from agentmesh.session.opening import indices_kept
from agentmesh.session.sealing import acknowledged_ranges
from agentmesh.testing import Pair, SeededEntropy, established_pair

DELAY_MS = Limits().ack_delay_ms


def acknowledging(**more: Any) -> Pair:
    """Two agents, both of which acknowledge, after one message each way so that nothing of the handshake is left."""
    pair = established_pair(acknowledge=True, **more)
    if "conditions" not in more:
        pair.bob.receive(pair.alice.send(pair.bob.did, b"first"))
        pair.alice.receive(pair.bob.send(pair.alice.did, b"first"))
        pair.bob.receive(pair.alice.send(pair.bob.did, b"second"))
        pair.alice.receive(pair.bob.send(pair.alice.did, b"second"))
        pair.bob.receive(pair.alice.send(pair.bob.did, b"third"))
        settle(pair)
    return pair


def settle(pair: Pair) -> None:
    pair.clock.advance(ms=DELAY_MS)
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        for event in polled(agent):
            if event.reply is not None:
                peer.receive(event.reply)


def status(agent: Agent, peer: Agent) -> SessionStatus:
    return agent.session(peer.did).status


def held(agent: Agent) -> Session:
    [session] = [one for one in agent._core.state.sessions.values() if isinstance(one, Session)]
    return session


def polled(agent: Agent) -> tuple[Event, ...]:
    """What `poll` tells, but of the stock of bundles."""
    return tuple(event for event in agent.poll() if not isinstance(event, StockLow))


def signal_of(events: tuple[Event, ...]) -> Outgoing:
    [event] = events
    assert isinstance(event, SignalDue)
    return event.reply


def craft(agent: Agent, padded: bytes) -> bytes:
    """Have a side seal any plaintext: an insider's lie."""
    session, core = held(agent), agent._core
    sealed, sent = sealing._seal(session, padded, 0, core.now_ms(), core.entropy, session.data_sent)
    sent.apply()
    return sealed.envelope


def next_position(agent: Agent) -> int:
    session = held(agent)
    sending = session.ratchet.sending
    assert sending is not None
    return session.facts.position_out(sending.start + sending.n)


def refuses(agent: Agent, envelope: bytes, error: type[Exception]) -> None:
    before = agent.export_state()
    with pytest.raises(error) as caught:
        agent.receive(envelope)
    assert type(caught.value) is error
    assert agent.export_state() == before


# --- on data ---------------------------------------------------------------------------------------------------------


def test_it_is_off_unless_it_is_asked_for() -> None:
    pair = established_pair()
    for _ in range(20):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    assert polled(pair.bob) == ()
    assert (pair.bob.next_deadline_ms or 0) > pair.clock.now_ms + 60_000
    pair.clock.advance(seconds=1)
    assert polled(pair.bob) == ()
    [event] = pair.alice.receive(pair.bob.send(pair.alice.did, b"y"))
    assert isinstance(event, MessageReceived)
    assert status(pair.alice, pair.bob).delivered == ()
    for flag in (1, "yes", None):
        with pytest.raises(ArgumentInvalid):
            Agent.create("m", acknowledge=flag)  # type: ignore[arg-type]
        with pytest.raises(ArgumentInvalid):
            Agent.restore(pair.bob.export_state(), acknowledge=flag)  # type: ignore[arg-type]


def test_it_rides_on_data_that_leaves_anyway_and_once() -> None:
    pair = acknowledging()
    for _ in range(2):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    answer, again = (pair.bob.send(pair.alice.did, bytes(50)) for _ in range(2))
    assert len(again.envelope) < len(answer.envelope)  # nine bytes more, and a longer padding
    message, delivered = pair.alice.receive(answer)
    assert isinstance(message, MessageReceived)
    assert delivered == Delivered(peer=pair.bob.key, session_id=message.session_id, indices=(range(4, 6),))
    assert status(pair.alice, pair.bob).delivered == (range(1, 6),)
    [message] = pair.alice.receive(again)
    pair.clock.advance(seconds=1)
    assert polled(pair.bob) == ()  # all has been said


def test_one_that_is_lost_costs_nothing() -> None:
    pair = acknowledging()
    for _ in range(3):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
        lost = pair.bob.send(pair.alice.did, b"lost")
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    _, delivered = pair.alice.receive(pair.bob.send(pair.alice.did, b"here"))
    assert isinstance(delivered, Delivered)
    assert delivered.indices == (range(4, 8),)
    assert len(pair.alice.receive(lost)) == 1  # what it says is old by now


def test_what_was_accepted_with_the_knock_is_delivered_by_the_acceptance() -> None:
    pair = established_pair(early_payload=b"early", acknowledge=True)
    assert status(pair.alice, pair.bob).delivered == (range(1, 2),)
    pair.clock.advance(seconds=1)
    assert polled(pair.bob) == ()


# --- signals ---------------------------------------------------------------------------------------------------------


def test_a_signal_is_due_a_quarter_of_a_second_after_the_first_that_is_owed() -> None:
    pair = acknowledging()
    due_ms = pair.clock.now_ms + DELAY_MS
    for _ in range(3):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
        assert pair.bob.next_deadline_ms == due_ms
        pair.clock.advance(ms=83)
        assert polled(pair.bob) == ()
    pair.clock.advance(ms=1)
    assert pair.clock.now_ms == due_ms
    signal = signal_of(polled(pair.bob))
    [delivered] = pair.alice.receive(signal)
    assert isinstance(delivered, Delivered)
    assert delivered.indices == (range(4, 7),)
    # It has no index, is not acknowledged, and nothing more is due on either side.
    assert (status(pair.bob, pair.alice).data_sent, status(pair.alice, pair.bob).data_opened) == (2, 2)
    pair.clock.advance(seconds=5)
    assert polled(pair.alice) == polled(pair.bob) == ()
    refuses(pair.alice, signal.envelope, DuplicateMessage)


def test_a_signal_is_due_at_once_after_sixteen_messages() -> None:
    pair = acknowledging()
    for count in range(1, 17):
        assert polled(pair.bob) == ()
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
        assert (pair.bob.next_deadline_ms == pair.clock.now_ms) is (count == 16)
    signal_of(polled(pair.bob))
    assert polled(pair.bob) == ()


def test_a_clock_that_was_set_back_does_not_hold_it_up() -> None:
    pair = acknowledging()
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    pair.clock.advance(seconds=-3600)
    assert pair.bob.next_deadline_ms == pair.clock.now_ms
    signal_of(polled(pair.bob))


def test_a_duplicate_is_answered_once_a_second_at_most() -> None:
    pair = acknowledging()
    sent = [pair.alice.send(pair.bob.did, b"x").envelope for _ in range(3)]
    for envelope in sent:
        pair.bob.receive(envelope)
    pair.clock.advance(ms=DELAY_MS)
    signal_of(polled(pair.bob))  # lost
    for repeats in (3, 1):
        for _ in range(repeats):
            refuses(pair.bob, sent[1], DuplicateMessage)
        assert pair.bob.next_deadline_ms == pair.clock.now_ms
        [event] = polled(pair.bob)
        refuses(pair.bob, sent[0], DuplicateMessage)
        assert pair.bob.next_deadline_ms != pair.clock.now_ms
        assert polled(pair.bob) == ()
        pair.clock.advance(seconds=1)
    [delivered] = pair.alice.receive(event.reply or b"")
    assert isinstance(delivered, Delivered)
    assert delivered.indices == (range(4, 7),)


def test_signals_that_a_relay_doubles_are_not_answered_with_signals_for_ever() -> None:
    pair = acknowledging()
    envelope = pair.alice.send(pair.bob.did, b"x").envelope
    pair.bob.receive(envelope)
    sides, hops = [pair.alice, pair.bob], 0
    while hops < 10:
        pair.clock.advance(seconds=1)
        due = [event.reply for event in polled(sides[1]) if isinstance(event, SignalDue)]
        if not due:
            break
        pair.clock.advance(seconds=1)
        sides[0].receive(due[0])
        refuses(sides[0], due[0].envelope, DuplicateMessage)
        sides.reverse()
        hops += 1
    assert hops == 1
    refuses(pair.bob, envelope, DuplicateMessage)  # data that comes again is answered still
    signal_of(polled(pair.bob))


def test_the_memory_of_signals_is_bounded() -> None:
    pair = acknowledging(limits=Limits(sessions_max=1))
    for _ in range(3):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
        pair.clock.advance(seconds=1)
        pair.alice._core.signals[SessionId(bytes(16))] = Receipt(bytes(32))  # of a session that is over
        pair.alice.receive(signal_of(polled(pair.bob)))
        assert list(pair.alice._core.signals) == [held(pair.alice).facts.session_id]


def test_a_duplicate_is_answered_with_data_that_leaves_anyway() -> None:
    pair = acknowledging()
    envelope = pair.alice.send(pair.bob.did, b"x").envelope
    pair.bob.receive(envelope)
    pair.bob.send(pair.alice.did, b"lost, with what it says")
    refuses(pair.bob, envelope, DuplicateMessage)
    assert len(pair.alice.receive(pair.bob.send(pair.alice.did, b"y"))) == 2
    assert polled(pair.bob) == ()


def test_a_duplicate_makes_nothing_due_where_nothing_was_opened() -> None:
    pair = acknowledging(conditions=Conditions())
    said = craft(pair.bob, pad_signal(b"", ((1, 1),)))
    pair.alice.receive(said)
    refuses(pair.alice, said, DuplicateMessage)
    assert not pair.alice._core.unheard
    pair.alice.receive(pair.bob.send(pair.alice.did, b"x"))
    assert polled(pair.alice) == ()
    pair.clock.advance(ms=DELAY_MS)
    signal_of(polled(pair.alice))


def test_who_does_not_acknowledge_does_not_answer_duplicates() -> None:
    pair = established_pair()
    envelope = pair.alice.send(pair.bob.did, b"x").envelope
    pair.bob.receive(envelope)
    refuses(pair.bob, envelope, DuplicateMessage)
    assert polled(pair.bob) == ()


def test_conditions_say_nothing_of_signals() -> None:
    pair = acknowledging(conditions=Conditions(max_messages=1, allowed_actions=("test",)))
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    pair.alice.receive(pair.bob.send(pair.alice.did, b"the one"))
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        with pytest.raises(ConditionNotMet):
            agent.send(peer.did, b"one more")
    pair.clock.advance(ms=DELAY_MS)
    pair.bob.receive(signal_of(polled(pair.alice)))
    assert status(pair.bob, pair.alice).delivered == (range(1, 2),)
    view = status(pair.alice, pair.bob)
    assert (view.messages_left_in, view.messages_left_out) == (0, 0)


def test_drops_and_signals_cost_nothing_of_max_messages() -> None:
    pair = acknowledging(conditions=Conditions(max_messages=3))
    pair.bob.receive(pair.alice.send(pair.bob.did, b"1"))
    for number in range(2, 4):
        pair.clock.advance(ms=DELAY_MS)
        pair.alice.receive(signal_of(polled(pair.bob)))
        pair.bob.receive(pair.alice.send(pair.bob.did, b"%d" % number))
    assert status(pair.bob, pair.alice).messages_left_in == 0
    for number in range(1, 4):  # positions of bob's are past three by now
        [event] = pair.alice.receive(pair.bob.send(pair.alice.did, b"x"))[:1]
        assert isinstance(event, MessageReceived)
        assert event.number == number


class Changeable(AskApplication):
    allowed = True

    def still_allowed(self, peer: IdentityKey, /) -> bool:
        return self.allowed


def test_a_peer_that_is_not_allowed_any_more_hears_nothing() -> None:
    pair = acknowledging()
    policy = Changeable()
    bob = Agent.restore(pair.bob.export_state(), clock=pair.clock, policy=policy, acknowledge=True)
    bob.receive(pair.alice.send(bob.did, b"x"))
    assert polled(bob) == ()
    pair.clock.advance(ms=DELAY_MS)
    policy.allowed = False
    due_ms = bob.next_deadline_ms
    assert due_ms == pair.clock.now_ms
    assert polled(bob) == ()
    assert bob.next_deadline_ms != due_ms  # nothing that `poll` would do again and again
    policy.allowed = True
    assert polled(bob) == ()
    bob.receive(pair.alice.send(bob.did, b"x"))
    pair.clock.advance(ms=DELAY_MS)
    [delivered] = pair.alice.receive(signal_of(polled(bob)))
    assert isinstance(delivered, Delivered)
    assert delivered.indices == (range(4, 6),)


@pytest.mark.parametrize("how", ["own close", "peer's close", "end of its time"])
def test_a_session_that_sends_no_data_sends_no_signal(how: str) -> None:
    pair = acknowledging(conditions=Conditions(ttl_seconds=100))
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    late = pair.alice.send(pair.bob.did, b"late").envelope
    if how == "own close":
        pair.bob.close(pair.alice.did)
    elif how == "peer's close":
        pair.bob.receive(pair.alice.close(pair.bob.did))
    else:
        pair.clock.advance(seconds=101)
    if how != "end of its time":
        pair.bob.receive(late)
    pair.clock.advance(ms=DELAY_MS)
    assert not [event for event in polled(pair.bob) if isinstance(event, SignalDue)]
    due_ms = pair.bob.next_deadline_ms
    assert due_ms is None or due_ms > pair.clock.now_ms


def test_a_signal_behind_a_close_is_refused() -> None:
    pair = acknowledging()
    pair.bob.send(pair.alice.did, b"missing, so that the session stays")
    pair.alice.receive(pair.bob.close(pair.alice.did))
    refuses(pair.alice, craft(pair.bob, pad_signal(b"", ((1, 1),))), MessageAfterClose)


def test_a_side_that_only_listens_answers_offers_so_that_the_conversation_heals() -> None:
    pair = established_pair(acknowledge=True, limits=Limits(epoch_turns=1))
    polled(pair.bob)
    epochs = []
    for _ in range(8):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"said"))
        pair.clock.advance(ms=DELAY_MS)
        pair.alice.receive(signal_of(polled(pair.bob)))
        epochs.append(status(pair.bob, pair.alice).epoch)
    assert status(pair.bob, pair.alice).data_sent == 0
    assert epochs[-1] >= 3
    assert status(pair.alice, pair.bob).epoch_turns is not None
    assert status(pair.bob, pair.alice).epoch_turns is None


# --- what is missing -------------------------------------------------------------------------------------------------


def test_missing_messages_are_named() -> None:
    pair = acknowledging()
    sent = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(4, 12)]
    assert [one.number for one in sent] == list(range(4, 12))
    for place in (1, 2, 5):
        pair.bob.receive(sent[place])
    seen = status(pair.bob, pair.alice)
    assert (seen.missing, seen.number_in) == ((range(4, 5), range(7, 9)), 9)
    [closed] = pair.bob.receive(pair.alice.close(pair.bob.did))
    assert isinstance(closed, PeerClosed)
    assert closed.missing == (range(4, 5), range(7, 9), range(10, 12))
    pair.bob.receive(sent[6])
    assert pair.bob.session(pair.alice.did, closed.session_id).status.missing == (
        range(4, 5), range(7, 9), range(11, 12),
    )  # fmt: skip
    pair.clock.advance(ms=600_001)
    [over] = polled(pair.bob)
    assert isinstance(over, SessionOver)
    assert over.missing == (range(4, 5), range(7, 9), range(11, 12))


def test_a_close_counts_as_complete_once_each_index_has_come() -> None:
    pair = acknowledging()
    sent = [pair.alice.send(pair.bob.did, b"x").envelope for _ in range(2)]
    [closed] = pair.bob.receive(pair.alice.close(pair.bob.did))
    assert isinstance(closed, PeerClosed)
    assert closed.missing == (range(4, 6),)
    assert len(pair.bob.receive(sent[1])) == 1
    _, over = pair.bob.receive(sent[0])
    assert isinstance(over, SessionOver)
    assert (over.phase, over.missing) == ("closed", ())


def test_what_is_numbered_over_the_announced_makes_up_for_nothing() -> None:
    pair = established_pair()
    first, lost, third = (pair.alice.send(pair.bob.did, b"x").envelope for _ in range(3))
    pair.bob.receive(first)
    pair.bob.receive(third)
    [closed] = pair.bob.receive(craft(pair.alice, pad_close("", 2, 0)))
    assert isinstance(closed, PeerClosed)
    assert closed.missing == (range(2, 3),)
    assert [type(event) for event in pair.bob.receive(lost)] == [MessageReceived, SessionOver]


def test_what_was_forgotten_does_not_count_as_come() -> None:
    """The session ends truncated, though all that is named as missing comes: what lies below may never have."""
    pair = established_pair(limits=Limits(skipped_keys_per_step=2, skipped_keys_per_session=2))
    for _ in range(8):
        pair.bob.receive(craft(pair.alice, pad_signal(b"", ((1, 1),))))
    for index in (2, 4, 6, 8, 7, 5, 3):
        pair.bob.receive(craft(pair.alice, pad_data(index, b"", b"x")))
    refuses(pair.bob, craft(pair.alice, pad_data(1, b"", b"x")), ContradictoryHeader)
    [closed] = pair.bob.receive(craft(pair.alice, pad_close("", 8, 0)))
    assert isinstance(closed, PeerClosed)
    assert closed.missing == ()
    pair.clock.advance(ms=LATE_WINDOW_MS + 1)
    [over] = polled(pair.bob)
    assert isinstance(over, SessionOver)
    assert over.phase == "truncated"


# --- lies, and states that are too old -------------------------------------------------------------------------------


def test_an_index_is_what_it_can_be() -> None:
    pair = acknowledging()
    for index in (0, 1, 3, 2**32 - 1):
        refuses(pair.bob, craft(pair.alice, pad_data(index, b"", b"x")), ContradictoryHeader)
    position = next_position(pair.alice) + 1
    refuses(pair.bob, craft(pair.alice, pad_data(position, b"", b"x")), ContradictoryHeader)
    pair.bob.receive(craft(pair.alice, pad_data(position, b"", b"x")))  # which leaves the indices between
    assert status(pair.bob, pair.alice).missing == (range(4, position),)
    pair.bob.receive(craft(pair.alice, pad_data(5, b"", b"x")))
    refuses(pair.bob, craft(pair.alice, pad_data(5, b"", b"x")), ContradictoryHeader)


def test_of_two_faults_the_earlier_check_speaks() -> None:
    pair = established_pair()
    bad_key, bad_action = b"\xff" * OFFER_BYTES, b"\x05four"
    head = b"\x00\x01\x00\x00\x00\x09"  # an offer, and an index that is too large
    refuses(pair.bob, craft(pair.alice, pad(head + bad_key[:-1])), MessageRefused)
    refuses(pair.bob, craft(pair.alice, pad(head + bad_key + bad_action)), BadPoint)
    refuses(pair.bob, craft(pair.alice, pad(b"\x00\x05" + head[2:] + bad_key + b"\x00")), MessageRefused)
    refuses(pair.bob, craft(pair.alice, pad(b"\x00\x00" + head[2:] + bad_action)), ContradictoryHeader)
    refuses(pair.bob, craft(pair.alice, pad(b"\x03\x01" + bad_key)), BadPoint)
    refuses(pair.bob, craft(pair.alice, pad(b"\x00\x00\x00\x00\x00\x01" + bad_action)), MessageRefused)
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))


@pytest.mark.parametrize("from_alice", [True, False])
def test_an_item_of_the_other_side_is_refused(from_alice: bool) -> None:
    pair = established_pair()
    sender, receiver = (pair.alice, pair.bob) if from_alice else (pair.bob, pair.alice)
    item = bytes(ANSWER_BYTES if from_alice else OFFER_BYTES)
    refuses(receiver, craft(sender, pad_data(1, b"", b"x", item)), MessageRefused)
    refuses(receiver, craft(sender, pad_signal(item)), MessageRefused)


def test_what_was_never_sent_is_not_delivered_and_told_once() -> None:
    pair = acknowledging()
    older = pair.alice.export_state()
    session_id = pair.alice.session(pair.bob.did).session_id
    for _ in range(2):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    restored = Agent.restore(older, clock=pair.clock, acknowledge=True)
    message, told = restored.receive(pair.bob.send(restored.did, b"y"))
    assert isinstance(message, MessageReceived)
    assert told == PeerAhead(peer=pair.bob.key, session_id=session_id)
    assert status(restored, pair.bob).delivered == (range(1, 4),)
    again = Agent.restore(restored.export_state(), clock=pair.clock, acknowledge=True)
    assert again.receive(craft(pair.bob, pad_signal(b"", ((1, 5),)))) == ()
    assert again.receive(craft(pair.bob, pad_signal(b"", ((1, 3),)))) == ()  # nothing new in it
    again.send(pair.bob.did, b"x")
    [event] = again.receive(craft(pair.bob, pad_signal(b"", ((1, 4),))))
    assert isinstance(event, Delivered)
    assert again.receive(craft(pair.bob, pad_signal(b"", ((1, 9),)))) == ()  # still told once


@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), max_size=12))
def test_what_is_told_is_what_was_acknowledged_each_once(acks: list[list[int]]) -> None:
    pair = established_pair()
    for _ in range(50):
        pair.alice.send(pair.bob.did, b"x")
    known: set[int] = set()
    ahead = False
    for indices in acks:
        ranges = NONE.with_ranges([(index, index) for index in indices], 100).ranges
        events = pair.alice.receive(craft(pair.bob, pad_signal(b"", ranges)))
        if max(indices) > 50:
            assert [type(event) for event in events] == [] if ahead else [PeerAhead]
            ahead = True
            continue
        told = {index for event in events if isinstance(event, Delivered) for one in event.indices for index in one}
        assert told == set(indices) - known
        known |= told
        assert {index for one in status(pair.alice, pair.bob).delivered for index in one} == known


def test_nobody_fills_a_memory_with_ranges() -> None:
    limits = Limits(skipped_keys_per_step=8, skipped_keys_per_session=8)
    most = indices_kept(limits)
    pair = established_pair(limits=limits)
    for _ in range(60):
        pair.alice.send(pair.bob.did, b"x")
    for index in range(2, 60, 2):
        pair.alice.receive(craft(pair.bob, pad_signal(b"", ((index, index),))))
        pair.bob.send(pair.alice.did, b"lost")
        pair.alice.receive(pair.bob.send(pair.alice.did, b"x"))
        session = held(pair.alice)
        assert len(session.received.ranges) <= most
        assert len(session.acknowledged.ranges) <= most
    assert session.acknowledged.count == 29
    assert session.acknowledged.floor > 0
    assert session.received.floor > 0
    assert len(Agent.restore(pair.alice.export_state(), clock=pair.clock).export_state()) < 4096


def test_of_many_ranges_the_lowest_and_the_highest_are_named() -> None:
    ranges = tuple((index, index) for index in range(1, 41, 2))
    received = NONE.with_ranges(ranges, 100)
    assert acknowledged_ranges(received) == (*ranges[:8], *ranges[-8:])
    assert acknowledged_ranges(NONE.with_ranges(ranges[:16], 100)) == ranges[:16]
    assert acknowledged_ranges(NONE) == ()


def test_behind_many_losses_what_is_new_is_still_acknowledged() -> None:
    pair = acknowledging()
    for _ in range(40):
        pair.alice.send(pair.bob.did, b"lost")
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
        pair.alice.receive(pair.bob.send(pair.alice.did, b"y"))
    assert sum(map(len, status(pair.alice, pair.bob).delivered)) == 43


# --- at rest ---------------------------------------------------------------------------------------------------------


def test_what_is_owed_outlives_a_restart() -> None:
    pair = acknowledging()
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    due_ms = pair.clock.now_ms + DELAY_MS
    exported = pair.bob.export_state()
    bob = Agent.restore(exported, clock=pair.clock, acknowledge=True)
    assert polled(bob) == ()
    assert bob.next_deadline_ms == due_ms
    assert bob.export_state() == exported
    pair.clock.advance(ms=DELAY_MS)
    assert len(pair.alice.receive(signal_of(polled(bob)))) == 1
    # An agent that does not acknowledge (any more) leaves it as it is.
    quiet = Agent.restore(exported, clock=pair.clock)
    assert polled(quiet) == ()


CONTRADICTIONS = [
    ("received", [0, 3, [[1, 2]]]),
    ("received", [0, 2, [[1, 1], [2, 2]]]),
    ("received", [0, 1, [[0, 0]]]),
    ("received", [0, 2, [[2, 1]]]),
    ("received", [5, 3, [[5, 7]]]),
    ("received", [2, 6, [[3, 3]]]),
    ("received", [0, 9, [[1, 9]]]),
    ("acknowledged", [0, 4, [[1, 4]]]),
    ("owed", [0, 1]),
    ("owed", [9, 1]),
]


@pytest.mark.parametrize(("field", "value"), CONTRADICTIONS)
def test_fields_that_contradict_one_another_are_refused(field: str, value: list[Any]) -> None:
    pair = acknowledging()
    exported = at_rest.export_session(held(pair.bob))
    place = {"received": 6, "acknowledged": 7, "owed": 8}[field]
    fields = _wire.decode(exported, at_rest._SESSION, 1 << 20)
    assert at_rest.restore_session(_wire.encode(fields), mesh=pair.bob.mesh, own_did=pair.bob.did)
    fields[place] = value
    with pytest.raises(StateMalformed):
        at_rest.restore_session(_wire.encode(fields), mesh=pair.bob.mesh, own_did=pair.bob.did)


# --- the trail -------------------------------------------------------------------------------------------------------


def test_signals_are_counted_and_not_recorded_one_by_one() -> None:
    pair = acknowledging()
    clock = pair.clock
    sinks = {name: MemorySink() for name in ("alice", "bob")}
    alice, bob = (
        Agent.restore(
            agent.export_state(),
            clock=clock,
            entropy=SeededEntropy(name),
            journal=AuditJournal(AuditLog(sinks[name])),
            acknowledge=name == "bob",
        )
        for name, agent in (("alice", pair.alice), ("bob", pair.bob))
    )
    for minute in range(2):
        for _ in range(3 - minute):
            bob.receive(alice.send(bob.did, b"x"))
            clock.advance(ms=DELAY_MS)
            alice.receive(signal_of(polled(bob)))
        clock.advance(seconds=60)
    for agent in (alice, bob):
        polled(agent)
    for name in sinks:
        records = [one for one in verified_records(sinks[name].entries()) if one.event is AuditEvent.MESSAGE_SIGNAL]
        assert [(one.sender, one.recipient, one.count) for one in records] == [
            (bob.did, alice.did, 3),
            (bob.did, alice.did, 2),
        ]
        assert {(one.receipt, one.session_id, one.number, one.reason) for one in records} == {(b"", b"", 0, "")}
