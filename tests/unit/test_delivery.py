"""Outbox and inbox: what waits, what is due, what leaves, what is told, in which order, and how much of it."""

from __future__ import annotations

from collections.abc import Iterable

import msgpack
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
    PeerClosed,
    SessionEstablished,
    SessionId,
    SessionRejected,
    SignalDue,
    StockLow,
    Undelivered,
)
from agentmesh.at_rest import StateKind, export_fields
from agentmesh.engine.export import export_agent, restore_agent
from agentmesh.engine.offers import Offers
from agentmesh.engine.outbox import Outbox, Purpose, Waiting
from agentmesh.engine.tally import Tally
from agentmesh.envelope import receipt_of
from agentmesh.errors import (
    ArgumentInvalid,
    BatchOpen,
    CommitFailed,
    InboxFull,
    OutboxFull,
    StateMalformed,
    StateVersionUnknown,
    TryAgain,
)
from agentmesh.events import Event, SessionOver
from agentmesh.identity import Identity
from agentmesh.limits import LATE_WINDOW_MS
from agentmesh.outgoing import Tracked
from agentmesh.policy import Deny, Grant
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives.keys import Receipt
from agentmesh.session.phases import Phase
from agentmesh.testing import ManualClock, SeededEntropy, agent_pair, establish, established_pair
from agentmesh.testing.pair import MESH, Pair


def reliable_pair(*, limits: Limits | None = None, in_order: bool = False, acknowledge: bool = True) -> Pair:
    """Return two reliable agents with a session, and nothing that waits."""
    pair = established_pair(limits=limits, acknowledge=acknowledge, reliable=True, in_order=in_order)
    for agent in (pair.alice, pair.bob):
        finish(agent)
        for waiting in agent.outbox():
            agent.sent(waiting.receipt)
    assert not pair.alice._core.state.outbox
    assert not pair.bob._core.state.outbox
    return pair


def finish(agent: Agent) -> list[Event]:
    events = list(agent.inbox())
    for event in events:
        agent.done(event)
    return events


def polled(agent: Agent, *, signals: bool = True) -> list[Event]:
    """Return what time brought, but for the stock of bundles."""
    left_out = StockLow if signals else StockLow | SignalDue
    return [event for event in agent.poll() if not isinstance(event, left_out)]


def purposes(agent: Agent) -> list[Purpose]:
    return [waiting.purpose for waiting in agent._core.state.outbox]


def restarted(agent: Agent, clock: ManualClock, **around: bool) -> Agent:
    return Agent.restore(agent.export_state(), clock=clock, entropy=SeededEntropy("again"), acknowledge=True, **around)


# --- an agent that is not reliable -----------------------------------------------------------------------------------


def test_an_agent_that_is_not_reliable_keeps_nothing_and_takes_the_same_calls() -> None:
    pair = established_pair()
    sealed = pair.alice.send(pair.bob.did, b"1")
    [event] = pair.bob.receive(sealed)
    before = pair.alice.export_state(), pair.bob.export_state()
    assert pair.alice.outbox() == pair.bob.inbox() == ()
    pair.alice.sent(sealed.receipt)
    pair.alice.sent(sealed.receipt, final=True)
    pair.bob.done(event)
    assert (pair.alice.export_state(), pair.bob.export_state()) == before


def test_what_only_a_reliable_agent_can_do_is_refused_elsewhere() -> None:
    pair = established_pair()
    before = pair.alice.export_state()
    with pytest.raises(ArgumentInvalid) as refused:
        pair.alice.send(pair.bob.did, b"1", label=b"mine")
    assert refused.value.argument == "label"
    with pytest.raises(ArgumentInvalid) as refused:
        Agent.create(MESH, in_order=True)
    assert refused.value.argument == "in_order"
    assert pair.alice.export_state() == before


class Uncomparable:
    """As an array of numbers is, whose comparison has no one answer."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, _: object) -> bool:
        raise ValueError("ambiguous")


@pytest.mark.parametrize(
    "label", [b"x" * 65, "text", 7, None, Uncomparable()], ids=["long", "text", "int", "none", "uncomparable"]
)
def test_a_label_is_up_to_64_bytes(label: object) -> None:
    pair = reliable_pair()
    before = pair.alice.export_state()
    with pytest.raises(ArgumentInvalid) as refused:
        pair.alice.send(pair.bob.did, b"1", label=label)  # type: ignore[arg-type]
    assert refused.value.argument == "label"
    assert pair.alice.export_state() == before
    pair.alice.send(pair.bob.did, b"1", label=b"x" * 64)


# --- what waits to leave ---------------------------------------------------------------------------------------------


def test_a_message_stays_the_same_bytes_until_it_is_acknowledged() -> None:
    pair = reliable_pair()
    sealed = pair.alice.send(pair.bob.did, b"1", label=b"mine")
    [waiting] = pair.alice.outbox()
    assert (waiting.envelope, waiting.receipt) == (sealed.envelope, sealed.receipt)
    assert (waiting.did, waiting.purpose, waiting.number) == (pair.bob.did, Purpose.DATA, 1)
    assert waiting.session_id == pair.alice.session(pair.bob.did).session_id
    assert b"mine" not in repr(waiting).encode()
    pair.alice.sent(waiting.receipt)
    assert pair.alice.outbox() == ()
    pair.clock.advance(seconds=7)
    assert pair.alice.outbox() == (waiting,)
    pair.bob.receive(waiting.envelope)
    [told] = pair.alice.receive(pair.bob.send(pair.alice.did, b"2"))[1:]
    assert told.messages == (Tracked(receipt=sealed.receipt, number=1, label=b"mine"),)
    assert pair.alice.outbox() == ()
    assert purposes(pair.alice) == []


def test_the_order_is_that_in_which_they_were_made() -> None:
    pair = reliable_pair()
    made = [pair.alice.send(pair.bob.did, b"%d" % number).receipt for number in range(5)]
    pair.alice.close(pair.bob.did)
    assert [waiting.receipt for waiting in pair.alice.outbox()][:5] == made
    pair.alice.sent(made[0])
    pair.alice.sent(made[3])
    assert [waiting.number for waiting in pair.alice.outbox()] == [2, 3, 5, 0]
    assert [waiting.receipt for waiting in restarted(pair.alice, pair.clock).outbox()][:5] == made


def test_pauses_double_up_to_the_longest_and_differ_by_a_quarter() -> None:
    pair = reliable_pair()
    sealed = pair.alice.send(pair.bob.did, b"1")
    pauses = []
    for _ in range(12):
        pair.alice.sent(sealed.receipt)
        assert pair.alice.outbox() == ()
        due_ms = pair.alice.next_deadline_ms
        assert due_ms is not None
        pauses.append(due_ms - pair.clock.now_ms)
        pair.clock.now_ms = due_ms - 1
        assert pair.alice.outbox() == ()
        pair.clock.now_ms = due_ms
        assert len(pair.alice.outbox()) == 1
    middle = [min(5000 << times, 600_000) for times in range(12)]
    assert all(ms * 3 // 4 <= pause <= ms * 5 // 4 for pause, ms in zip(pauses, middle, strict=True))
    assert len(set(pauses[8:])) > 1  # no two agents stay in step


def test_what_waits_is_due_now() -> None:
    pair = reliable_pair()
    pair.alice.send(pair.bob.did, b"1")
    assert pair.alice.next_deadline_ms == pair.clock.now_ms


@given(st.lists(st.integers(-10_000_000, 10_000_000), max_size=6))
def test_a_clock_that_is_set_stalls_nothing(leaps: list[int]) -> None:
    limits = Limits()
    offers, outbox = Offers(limits), Outbox()
    waiting = Waiting(
        sequence=1,
        purpose=Purpose.DATA,
        did="did",
        session_id=SessionId(bytes(16)),
        number=1,
        label=b"",
        envelope=b"x",
    )
    outbox.put(waiting)
    now_ms = 1_000_000_000
    offers.handed_over(waiting.receipt, outbox, now_ms)
    for leap in leaps:
        now_ms += leap
        offers.due(outbox, now_ms)
    for _ in range(7):
        now_ms += 1000
        due = offers.due(outbox, now_ms)
    assert due == (waiting,)


def test_pauses_of_what_is_gone_are_forgotten() -> None:
    pair = reliable_pair(acknowledge=False)
    for _ in range(300):
        sealed = pair.alice.send(pair.bob.did, b"1")
        pair.alice.sent(sealed.receipt)
        pair.alice.sent(sealed.receipt, final=True)
    assert len(pair.alice._core.offers._paused) < 100


def test_after_a_restart_all_is_due() -> None:
    pair = reliable_pair()
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(3)]
    for sealed in made:
        pair.alice.sent(sealed.receipt)
    assert pair.alice.outbox() == ()
    alice = restarted(pair.alice, pair.clock)
    assert [waiting.envelope for waiting in alice.outbox()] == [sealed.envelope for sealed in made]


def test_answers_and_signals_leave_when_the_relay_has_taken_them() -> None:
    pair = agent_pair(reliable=True, acknowledge=True)
    establish(pair.alice, pair.bob)
    assert purposes(pair.bob) == [Purpose.ANSWER]
    [waiting] = pair.bob.outbox()
    pair.bob.sent(waiting.receipt)
    assert purposes(pair.bob) == []
    pair.bob.receive(pair.alice.send(pair.bob.did, b"1"))
    pair.clock.advance(seconds=1)
    [due] = polled(pair.bob)
    assert isinstance(due, SignalDue)
    assert [waiting.envelope for waiting in pair.bob.outbox()] == [due.reply.envelope]
    pair.bob.sent(due.reply.receipt)
    assert purposes(pair.bob) == []


def test_a_newer_signal_takes_the_place_of_an_older_one() -> None:
    pair = reliable_pair()
    for number in range(3):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"%d" % number))
        pair.clock.advance(seconds=1)
        [due] = polled(pair.bob)
        assert [waiting.envelope for waiting in pair.bob.outbox()] == [due.reply.envelope]


def test_final_lets_go_of_anything() -> None:
    pair = reliable_pair(acknowledge=False)
    bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
    pair.alice.send(pair.bob.did, b"1")
    pair.alice.close(pair.bob.did)
    pair.alice.knock(pair.bob.did, bundle, Intent("test"))
    assert purposes(pair.alice) == [Purpose.DATA, Purpose.CLOSE, Purpose.KNOCK]
    for waiting in pair.alice.outbox():
        pair.alice.sent(waiting.receipt, final=True)
    assert purposes(pair.alice) == []


def test_an_unknown_receipt_changes_nothing_and_what_is_none_is_refused() -> None:
    pair = reliable_pair()
    sealed = pair.alice.send(pair.bob.did, b"1")
    before = pair.alice.export_state()
    pair.alice.sent(Receipt(bytes(32)))
    for wrong in (sealed, sealed.receipt[:31], sealed.receipt.hex(), None, 7):
        with pytest.raises(ArgumentInvalid) as refused:
            pair.alice.sent(wrong)  # type: ignore[arg-type]
        assert refused.value.argument == "receipt"
    with pytest.raises(ArgumentInvalid) as refused:
        pair.alice.sent(sealed.receipt, final="no")  # type: ignore[arg-type]
    assert refused.value.argument == "final"
    assert pair.alice.export_state() == before
    assert len(pair.alice.outbox()) == 1


def test_a_call_that_fails_has_kept_nothing() -> None:
    class Failing:
        fails = False

        def commit(self, _changes: object, _records: object, /) -> None:
            if self.fails:
                raise OSError

    journal, clock = Failing(), ManualClock()
    alice = Agent.create(MESH, clock=clock, journal=journal, reliable=True)
    bob = Agent.create(MESH, clock=clock, reliable=True)
    establish(alice, bob)
    message = bob.send(alice.did, b"1")
    before = alice.export_state()
    journal.fails = True
    with pytest.raises(CommitFailed):
        alice.send(bob.did, b"1")
    with pytest.raises(CommitFailed):
        alice.receive(message)
    with pytest.raises(CommitFailed):
        alice.done(alice.inbox()[0])
    assert alice.export_state() == before
    journal.fails = False
    alice.receive(message)
    assert len(alice.inbox()) == 2


# --- KNOCKs and their answers ----------------------------------------------------------------------------------------


def test_a_knock_waits_for_its_verdict() -> None:
    pair = agent_pair(reliable=True)
    bundle = pair.bob.publish_bundles(2, last_resort=False).one_time
    for accepts in (True, False):
        knock = pair.alice.knock(pair.bob.did, bundle[accepts], Intent("test"))
        pair.alice.sent(knock.receipt)
        pair.clock.advance(seconds=7)
        [waiting] = pair.alice.outbox()
        assert waiting.envelope == knock.envelope
        [asked] = pair.bob.receive(waiting.envelope)
        answer = pair.bob.accept(asked) if accepts else pair.bob.reject(asked)
        [told] = pair.alice.receive(answer)
        assert isinstance(told, SessionEstablished if accepts else SessionRejected)
        assert purposes(pair.alice) == []
        assert [waiting.envelope for waiting in pair.bob.outbox()] == [answer.envelope]
        assert pair.bob.inbox() == ()  # decided is done
        pair.bob.sent(answer.receipt)


def test_a_knock_that_has_expired_is_offered_no_more() -> None:
    pair = agent_pair(reliable=True)
    bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
    pair.alice.knock(pair.bob.did, bundle, Intent("test"), expires_in_seconds=60)
    pair.clock.advance(seconds=360)
    pair.alice.poll()
    [waiting] = pair.alice.outbox()  # its peer's clock may be late
    pair.alice.sent(waiting.receipt)
    assert pair.alice.next_deadline_ms == pair.clock.now_ms + 1
    pair.clock.advance(ms=1)
    pair.alice.poll()
    assert pair.alice.outbox() == ()
    assert pair.alice.pending_envelopes(pair.bob.did)  # an ACCEPT may still come


def test_an_answer_that_is_asked_for_again_waits_once() -> None:
    pair = agent_pair(reliable=True)
    bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
    knock = pair.alice.knock(pair.bob.did, bundle, Intent("test"))
    [asked] = pair.bob.receive(knock)
    answer = pair.bob.accept(asked)
    pair.bob.receive(knock)
    assert [waiting.receipt for waiting in pair.bob.outbox()] == [answer.receipt]
    pair.bob.sent(answer.receipt)
    pair.bob.receive(knock)
    assert [waiting.receipt for waiting in pair.bob.outbox()] == [answer.receipt]


def test_a_policy_s_answers_wait_too() -> None:
    class Mixed:
        grants = True

        def may_knock(self, _sender: object, /) -> bool:
            return True

        def decide(self, _request: object, /) -> Grant | Deny:
            return Grant() if self.grants else Deny()

        def still_allowed(self, _peer: object, /) -> bool:
            return True

    policy = Mixed()
    pair = agent_pair(reliable=True, bob_policy=policy)
    bundles = pair.bob.publish_bundles(2, last_resort=False).one_time
    pair.bob.receive(pair.alice.knock(pair.bob.did, bundles[0], Intent("test"), early_payload=b"early"))
    policy.grants = False
    [refused] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundles[1], Intent("test")))
    assert refused.reply is not None
    assert purposes(pair.bob) == [Purpose.ANSWER, Purpose.ANSWER]
    [established] = pair.bob.inbox()  # a refusal is not kept: its answer is
    assert established.early_payload == b"early"
    pair.bob.done(refused)
    assert pair.bob.inbox() == (established,)


def test_an_early_payload_that_the_application_accepts_is_kept_until_it_is_done() -> None:
    pair = agent_pair(reliable=True)
    bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
    [asked] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("test"), early_payload=b"early"))
    assert pair.bob.accept(asked).early_payload == b"early"
    bob = restarted(pair.bob, pair.clock)
    [established] = bob.inbox()
    assert isinstance(established, SessionEstablished)
    assert (established.early_payload, established.intent) == (b"early", Intent("test"))
    bob.done(established)
    assert bob.inbox() == ()


@pytest.mark.parametrize("how", ["accept", "reject", "expire"])
def test_the_event_of_a_knock_goes_with_its_decision(how: str) -> None:
    pair = agent_pair(reliable=True)
    bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
    [asked] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("test")))
    bob = restarted(pair.bob, pair.clock)
    [again] = bob.inbox()
    assert isinstance(again, KnockReceived)
    assert (again.session_id, again.intent) == (asked.session_id, asked.intent)
    if how == "accept":
        bob.accept(again)
    elif how == "reject":
        bob.reject(again)
    else:
        pair.clock.advance(seconds=2 * 86_400)
        bob.poll()
    assert [type(event) for event in bob.inbox()] == ([SessionOver] if how == "expire" else [])
    restarted(bob, pair.clock)


# --- endings ---------------------------------------------------------------------------------------------------------


def test_what_was_not_acknowledged_when_a_session_ends_is_told_behind_its_end() -> None:
    pair = reliable_pair()
    for number in range(4):
        sealed = pair.alice.send(pair.bob.did, b"%d" % number, label=b"%d" % number)
        if number == 2:
            pair.bob.receive(sealed)
    pair.alice.receive(pair.bob.send(pair.alice.did, b"and"))
    pair.alice.close(pair.bob.did)
    finish(pair.alice)
    pair.clock.advance(ms=LATE_WINDOW_MS + 1)
    over, told = polled(pair.alice)
    assert isinstance(over, SessionOver)
    assert isinstance(told, Undelivered)
    assert [(one.number, one.label) for one in told.messages] == [(1, b"0"), (2, b"1"), (4, b"3")]
    assert pair.alice.inbox() == (over, told)
    assert purposes(pair.alice) == []


def test_a_session_that_is_dropped_tells_in_the_inbox() -> None:
    pair = reliable_pair()
    pair.alice.send(pair.bob.did, b"1", label=b"mine")
    pair.alice.drop(pair.bob.did, pair.alice.session(pair.bob.did).session_id)
    [told] = pair.alice.inbox()
    assert isinstance(told, Undelivered)
    assert [one.label for one in told.messages] == [b"mine"]
    assert pair.alice.outbox() == ()


@pytest.mark.parametrize("opened", range(4))
def test_a_count_in_a_close_tells_of_all_messages_or_of_none(opened: int) -> None:
    pair = reliable_pair(acknowledge=False)
    for number in range(3):
        sealed = pair.alice.send(pair.bob.did, b"%d" % number)
        if number < opened:
            pair.bob.receive(sealed)
    events = pair.alice.receive(pair.bob.close(pair.alice.did))
    last = Delivered if opened == 3 else Undelivered
    assert [type(event) for event in events] == (
        [PeerClosed, Delivered, SessionOver] if opened == 3 else [PeerClosed, SessionOver, Undelivered]
    )
    [told] = [event for event in events if isinstance(event, last)]
    assert [one.number for one in told.messages] == [1, 2, 3]
    assert pair.alice.inbox() == events
    if isinstance(told, Delivered):
        assert told.indices == (range(1, 4),)


def test_what_is_acknowledged_in_the_step_that_ends_a_session_is_told_once() -> None:
    pair = reliable_pair()
    pair.bob.receive(pair.alice.send(pair.bob.did, b"1"))
    late = pair.bob.send(pair.alice.did, b"with an acknowledgement")
    pair.alice.receive(pair.bob.close(pair.alice.did))
    events = pair.alice.receive(late)
    assert [type(event) for event in events] == [MessageReceived, Delivered, SessionOver]


def test_a_close_waits_for_the_peer_s_and_an_answer_while_the_peer_may_wait() -> None:
    pair = reliable_pair()
    closing = pair.alice.close(pair.bob.did)
    pair.alice.sent(closing.receipt)
    pair.clock.advance(seconds=7)
    assert [waiting.envelope for waiting in pair.alice.outbox()] == [closing.envelope]
    closed, _ = pair.bob.receive(closing)
    assert [waiting.envelope for waiting in pair.bob.outbox()] == [closed.reply.envelope]
    pair.bob.sent(closed.reply.receipt)
    pair.clock.advance(seconds=7)
    assert [waiting.envelope for waiting in pair.bob.outbox()] == [closed.reply.envelope]  # it may be lost
    pair.alice.receive(closed.reply)
    assert purposes(pair.alice) == []
    pair.clock.advance(ms=LATE_WINDOW_MS - 7000)
    pair.bob.poll()
    assert purposes(pair.bob) == [Purpose.CLOSE]
    deadline_ms = pair.bob.next_deadline_ms
    assert deadline_ms is not None
    assert deadline_ms <= pair.clock.now_ms + 1
    pair.clock.advance(ms=1)
    pair.bob.poll()
    assert purposes(pair.bob) == []


def test_a_close_that_never_left_is_no_less_needed_for_the_peer_s() -> None:
    pair = reliable_pair()
    closing = pair.alice.close(pair.bob.did)
    _, over = pair.alice.receive(pair.bob.close(pair.alice.did))
    assert over.phase is Phase.CLOSED
    [waiting] = pair.alice.outbox()
    assert waiting.envelope == closing.envelope
    *_, over = pair.bob.receive(waiting.envelope)
    assert over.phase is Phase.CLOSED


# --- what was handed up ----------------------------------------------------------------------------------------------


def test_events_are_handed_up_again_until_they_are_done() -> None:
    pair = reliable_pair()
    events = [pair.bob.receive(pair.alice.send(pair.bob.did, b"%d" % number))[0] for number in range(4)]
    assert all(one is other for one, other in zip(pair.bob.inbox(), events, strict=True))
    pair.bob.done(events[1])
    pair.bob.done(events[1])
    assert [event.number for event in pair.bob.inbox()] == [1, 3, 4]
    bob = restarted(pair.bob, pair.clock)
    assert [(event.number, event.plaintext) for event in bob.inbox()] == [(1, b"0"), (3, b"2"), (4, b"3")]
    before = bob.export_state()
    bob.done(events[0])  # of another life: the object is what is done
    assert bob.export_state() == before
    assert len(finish(bob)) == 3
    assert bob.inbox() == ()


def test_what_is_no_event_cannot_be_done_and_what_is_not_kept_is_no_mistake() -> None:
    pair = reliable_pair()
    before = pair.bob.export_state()
    for wrong in (None, b"", "event", object(), MessageReceived):
        with pytest.raises(ArgumentInvalid) as refused:
            pair.bob.done(wrong)  # type: ignore[arg-type]
        assert refused.value.argument == "event"
    pair.bob.done(StockLow(unused=1))
    assert pair.bob.export_state() == before


# --- in the order of their numbers -----------------------------------------------------------------------------------


def told(events: Iterable[Event]) -> list[object]:
    return [event.number if isinstance(event, MessageReceived) else type(event) for event in events]


def test_what_came_early_is_handed_up_behind_what_comes_before_it() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(6)]
    assert told(pair.bob.receive(made[0])) == [1]
    assert told(pair.bob.receive(made[3])) == []
    assert told(pair.bob.receive(made[2])) == []
    assert told(pair.bob.receive(made[5])) == []
    assert told(pair.bob.inbox()) == [1]
    assert told(pair.bob.receive(made[1])) == [2, 3, 4]
    assert told(pair.bob.inbox()) == [1, 2, 3, 4]
    assert told(pair.bob.receive(made[4])) == [5, 6]
    assert told(restarted(pair.bob, pair.clock, in_order=True).inbox()) == [1, 2, 3, 4, 5, 6]


def test_what_was_held_is_handed_up_with_the_next_message_where_order_is_asked_for_no_more() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(4)]
    assert told(pair.bob.receive(made[2])) == []
    bob = restarted(pair.bob, pair.clock)
    assert told(bob.receive(made[3])) == [4, 3]
    assert told(bob.inbox()) == [4, 3]


def test_the_wait_for_a_message_is_bounded() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(6)]
    pair.bob.receive(made[2])
    began_ms = pair.clock.now_ms
    pair.clock.advance(seconds=10)
    pair.bob.receive(made[1])
    pair.bob.receive(made[3])
    pair.bob.receive(made[5])
    pair.bob.poll()  # the signal
    assert pair.bob.next_deadline_ms in {began_ms + 30_000, pair.clock.now_ms}
    for waiting in pair.bob.outbox():
        pair.bob.sent(waiting.receipt)
    assert pair.bob.next_deadline_ms == began_ms + 30_000
    pair.clock.now_ms = began_ms + 29_999
    assert told(polled(pair.bob, signals=False)) == []
    pair.clock.now_ms = began_ms + 30_000
    assert told(polled(pair.bob, signals=False)) == [
        2,
        3,
        4,
    ]  # 3 waited long enough: what is here before it, and what it unblocks
    assert told(pair.bob.receive(made[0])) == [1]  # late, and told at once
    assert told(pair.bob.receive(made[4])) == [5, 6]


def test_what_is_held_survives_a_restart_and_waits_no_longer() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(4)]
    pair.bob.receive(made[1])
    pair.bob.receive(made[3])
    pair.clock.advance(seconds=20)
    bob = restarted(pair.bob, pair.clock, in_order=True)
    assert bob.inbox() == ()
    pair.clock.advance(seconds=10)
    assert told(polled(bob, signals=False)) == [2, 4]
    assert told(bob.receive(made[2])) == [3]


def test_a_gap_that_was_given_up_is_waited_for_once_more_after_a_restart() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(3)]
    pair.bob.receive(made[1])
    pair.clock.advance(seconds=30)
    assert told(polled(pair.bob, signals=False)) == [2]
    bob = restarted(pair.bob, pair.clock, in_order=True)
    assert told(bob.inbox()) == [2]
    assert told(bob.receive(made[2])) == []
    pair.clock.advance(seconds=30)
    assert told(polled(bob, signals=False)) == [3]


def test_what_is_held_is_handed_up_where_order_is_asked_for_no_more() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(4)]
    pair.bob.receive(made[3])
    pair.bob.receive(made[1])
    bob = restarted(pair.bob, pair.clock)
    assert bob.next_deadline_ms == pair.clock.now_ms
    assert told(polled(bob, signals=False)) == [2, 4]
    assert told(bob.receive(made[2])) == [3]


def test_a_clock_that_was_set_back_holds_nothing_for_longer() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(2)]
    pair.bob.receive(made[1])
    pair.clock.advance(seconds=-3600)
    assert told(polled(pair.bob, signals=False)) == [2]


def test_a_close_comes_behind_the_messages_that_came_before_it() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(4)]
    closing = pair.alice.close(pair.bob.did)
    pair.bob.receive(made[2])
    assert told(pair.bob.receive(closing)) == []
    assert purposes(pair.bob) == [Purpose.CLOSE]  # the answer does not wait
    assert told(pair.bob.receive(made[3])) == []
    bob = restarted(pair.bob, pair.clock, in_order=True)
    assert told(bob.receive(made[0])) == [1]
    assert told(bob.receive(made[1])) == [2, 3, 4, PeerClosed, SessionOver]


def test_a_close_does_not_wait_for_what_comes_early_behind_it() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(5)]
    pair.bob.receive(made[1])
    pair.bob.receive(pair.alice.close(pair.bob.did))
    pair.bob.receive(made[4])
    assert told(pair.bob.receive(made[0])) == [1, 2, PeerClosed]


def test_what_is_held_comes_before_the_end_of_its_session() -> None:
    pair = reliable_pair(in_order=True, limits=Limits(in_order_wait_ms=10 * LATE_WINDOW_MS))
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(4)]
    pair.bob.receive(made[2])
    pair.bob.receive(made[1])
    pair.bob.receive(pair.alice.close(pair.bob.did))
    pair.clock.advance(ms=LATE_WINDOW_MS + 1)
    assert told(polled(pair.bob, signals=False)) == [2, 3, PeerClosed, SessionOver]
    assert told(pair.bob.inbox()) == [2, 3, PeerClosed, SessionOver]


def test_what_is_held_of_a_session_that_is_dropped_is_in_the_inbox() -> None:
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(3)]
    pair.bob.receive(made[1])
    pair.clock.advance(seconds=30)
    assert told(polled(pair.bob, signals=False)) == [2]
    pair.bob.done(pair.bob.inbox()[0])
    assert pair.bob._core.passed
    made += [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(3, 6)]
    pair.bob.receive(made[5])
    pair.bob.receive(made[4])
    pair.bob.send(pair.alice.did, b"lost")
    pair.bob.drop(pair.alice.did, pair.bob.session(pair.alice.did).session_id)
    assert told(pair.bob.inbox()) == [5, 6, Undelivered]
    assert pair.bob._core.passed == {}


# --- batches ---------------------------------------------------------------------------------------------------------


def test_what_a_batch_makes_waits_for_its_end() -> None:
    pair = reliable_pair()
    message = pair.bob.send(pair.alice.did, b"1")
    with pair.alice.batch() as batch:
        sealed = pair.alice.send(pair.bob.did, b"2", label=b"mine")
        pair.alice.receive(message)
        for look in (pair.alice.outbox, pair.alice.inbox):
            with pytest.raises(BatchOpen):
                look()
    assert [waiting.envelope for waiting in pair.alice.outbox()] == [sealed.envelope]
    assert pair.alice.inbox() == batch.events
    with pair.alice.batch():
        pair.alice.done(batch.events[0])
        pair.alice.sent(sealed.receipt, final=True)
    assert pair.alice.outbox() == pair.alice.inbox() == ()


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_an_outbox_holds_so_many_envelopes() -> None:
    pair = reliable_pair(limits=Limits(outbox_max_envelopes=3))
    bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
    for number in range(3):
        pair.alice.send(pair.bob.did, b"%d" % number)
    before = pair.alice.export_state()
    with pytest.raises(OutboxFull) as refused:
        pair.alice.send(pair.bob.did, b"over")
    assert (refused.value.got, refused.value.allowed) == (4, 3)
    with pytest.raises(OutboxFull):
        pair.alice.knock(pair.bob.did, bundle, Intent("test"))
    assert pair.alice.export_state() == before
    for waiting in pair.alice.outbox():
        pair.bob.receive(waiting.envelope)
    pair.alice.receive(pair.bob.send(pair.alice.did, b"heard"))
    pair.alice.send(pair.bob.did, b"again")
    for _ in range(2):
        pair.alice.send(pair.bob.did, b"again")
    pair.alice.close(pair.bob.did)  # which is always possible


def test_an_outbox_holds_so_many_bytes() -> None:
    pair = reliable_pair(limits=Limits(outbox_max_bytes=2000))
    pair.alice.send(pair.bob.did, bytes(1000))
    with pytest.raises(OutboxFull) as refused:
        pair.alice.send(pair.bob.did, bytes(1000))
    assert refused.value.allowed == 2000
    for waiting in pair.alice.outbox():
        pair.alice.sent(waiting.receipt, final=True)
    pair.alice.send(pair.bob.did, bytes(5000))  # alone, because it could never leave otherwise


def test_answers_make_room_for_one_another_and_never_for_data() -> None:
    pair = reliable_pair(limits=Limits(outbox_max_answers=3))
    sealed = pair.bob.send(pair.alice.did, b"mine")
    answers: list[Receipt] = []
    for seed in range(5):
        stranger = Agent.create(MESH, identity=Identity.generate(SeededEntropy(f"{seed}")), clock=pair.clock)
        bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
        [asked] = pair.bob.receive(stranger.knock(pair.bob.did, bundle, Intent("test")))
        answers.append(pair.bob.reject(asked).receipt)
    assert [waiting.receipt for waiting in pair.bob.outbox()] == [sealed.receipt, *answers[2:]]


def test_an_inbox_holds_so_many_events_of_one_peer_and_of_all() -> None:
    limits = Limits(inbox_max_events=8)
    pair = reliable_pair(limits=limits)
    other = Agent.create(MESH, identity=Identity.generate(SeededEntropy("other")), clock=pair.clock)
    establish(other, pair.bob)
    finish(pair.bob)
    for number in range(2):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"%d" % number))
    message = pair.alice.send(pair.bob.did, b"over")
    before = pair.bob.export_state()
    with pytest.raises(InboxFull) as refused:
        pair.bob.receive(message)
    assert isinstance(refused.value, TryAgain)
    assert pair.bob.export_state() == before
    assert told(pair.bob.receive(other.send(pair.bob.did, b"of another"))) == [1]
    pair.bob.done(pair.bob.inbox()[0])
    assert told(pair.bob.receive(message)) == [3]


def test_all_peers_together_fill_an_inbox() -> None:
    pair = reliable_pair(limits=Limits(inbox_max_events=3))
    for seed in range(4):
        stranger = Agent.create(MESH, identity=Identity.generate(SeededEntropy(f"{seed}")), clock=pair.clock)
        bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
        knock = stranger.knock(pair.bob.did, bundle, Intent("test"))
        if seed < 3:
            pair.bob.receive(knock)
    before = pair.bob.export_state()
    for _ in range(3 * pair.bob._core.limits.knocks_per_identity):  # its rate is given back each time
        with pytest.raises(InboxFull):
            pair.bob.receive(knock)
    assert pair.bob.export_state() == before
    pair.bob.done(pair.bob.inbox()[0])
    pair.bob.receive(knock)


def test_an_inbox_holds_so_many_bytes_of_one_peer() -> None:
    pair = reliable_pair(limits=Limits(inbox_max_bytes=4000))
    pair.bob.receive(pair.alice.send(pair.bob.did, bytes(5000)))  # alone, because it could never come otherwise
    message = pair.alice.send(pair.bob.did, b"1")
    with pytest.raises(InboxFull):
        pair.bob.receive(message)
    finish(pair.bob)
    pair.bob.receive(message)
    pair.bob.receive(pair.alice.send(pair.bob.did, bytes(999)))
    with pytest.raises(InboxFull):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"1"))


def test_what_is_held_counts_too() -> None:
    pair = reliable_pair(limits=Limits(inbox_max_events=8), in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(4)]
    pair.bob.receive(made[3])
    pair.bob.receive(made[2])
    with pytest.raises(InboxFull):
        pair.bob.receive(made[1])
    pair.clock.advance(seconds=30)
    assert told(polled(pair.bob, signals=False)) == [3, 4]  # they had their room


def test_what_this_side_tells_itself_is_always_taken() -> None:
    pair = reliable_pair(limits=Limits(inbox_max_events=4))
    pair.alice.receive(pair.bob.send(pair.alice.did, b"1"))
    for number in range(3):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"%d" % number))
        finish(pair.bob)
        pair.clock.advance(seconds=1)
        [due] = polled(pair.bob)
        [delivered] = pair.alice.receive(due.reply)
        assert isinstance(delivered, Delivered)
    assert len(pair.alice.inbox()) == 4


def test_resend_first_is_not_longer_than_resend_longest() -> None:
    with pytest.raises(ArgumentInvalid) as refused:
        Limits(resend_first_ms=11, resend_longest_ms=10)
    assert refused.value.argument == "resend_first_ms"


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 9)), max_size=30))
def test_a_tally_that_is_broken_off_counts_once(moves: list[tuple[int, bool, int]]) -> None:
    tally, there = Tally(), dict[int, int]()
    names = {1: "a", 2: "b", 3: "a", 4: "a"}
    for sequence, again, size in moves:
        comes = sequence not in there
        for _ in range(1 + again):  # the entry did not come to be there, or to be gone
            if comes:
                tally.come(sequence, names[sequence], size)
            else:
                tally.go(sequence, names[sequence], there[sequence])
        if comes:
            there[sequence] = size
        else:
            del there[sequence]
        assert tally.total == (len(there), sum(there.values()))
        for name in ("a", "b"):
            sizes = [size for one, size in there.items() if names[one] == name]
            assert tally.of(name) == (len(sizes), sum(sizes))


@given(st.lists(st.tuples(st.sampled_from(("put", "remove", "find")), st.integers(1, 5)), max_size=40))
def test_what_waits_is_found_by_its_receipt(moves: list[tuple[str, int]]) -> None:
    outbox, there = Outbox(), dict[int, Waiting]()
    envelopes = [b"%d" % number for number in range(6)]
    for move, number in moves:
        if move == "put" and number not in there:
            there[number] = Waiting(number, Purpose.DATA, "did", SessionId(bytes(16)), number, b"", envelopes[number])
            outbox.put(there[number])
        elif move == "remove":
            outbox.remove(number)
            there.pop(number, None)
        elif move == "find":
            assert outbox.find(receipt_of(envelopes[number])) is there.get(number)


# --- exports ---------------------------------------------------------------------------------------------------------


def version_of(exported: bytes) -> int:
    body, _ = _wire.decode_pair(exported, 1 << 32)
    return int(_wire.decode(body, BODY, 1 << 32)[1])


BODY = _wire.array(_wire.Text(1, 16), _wire.Uint(), _wire.Text(1, 64), _wire.Uint(), _wire.Bin(1, 1 << 32))


def with_version(exported: bytes, version: int) -> bytes:
    body, _ = _wire.decode_pair(exported, 1 << 32)
    kind, _, mesh, generation, fields = _wire.decode(body, BODY, 1 << 32)
    body = _wire.encode([kind, version, mesh, generation, fields])
    return _wire.encode_pair(body, _crypto.sha256(body))


def test_an_export_has_boxes_where_there_are_any() -> None:
    pair = established_pair()
    assert version_of(pair.alice.export_state()) == 1
    both = reliable_pair()
    assert version_of(both.alice.export_state()) == 2
    both.alice.send(both.bob.did, b"1", label=b"mine")
    exported = both.alice.export_state()
    alice = Agent.restore(exported, clock=both.clock)
    assert alice.export_state() == exported
    assert [waiting.label for waiting in alice.outbox()] == [b"mine"]


def test_an_agent_stays_reliable_and_does_not_lose_what_waits() -> None:
    pair = reliable_pair()
    empty = pair.alice.export_state()
    assert version_of(Agent.restore(empty, clock=pair.clock, reliable=False).export_state()) == 1
    pair.alice.send(pair.bob.did, b"1")
    for state in (pair.alice.export_state(), pair.bob.export_state()):
        assert version_of(Agent.restore(state, clock=pair.clock).export_state()) == 2
    with pytest.raises(ArgumentInvalid) as refused:
        Agent.restore(pair.alice.export_state(), clock=pair.clock, reliable=False)
    assert refused.value.argument == "reliable"
    other = established_pair()
    assert version_of(Agent.restore(other.bob.export_state(), clock=pair.clock, reliable=True).export_state()) == 2


def test_entries_of_an_export_are_in_their_order() -> None:
    pair = reliable_pair()
    for number in range(3):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"%d" % number))
    for agent, box in ((pair.alice, -2), (pair.bob, -1)):
        exported = agent.export_state()
        for order in ([1, 0, 2], [0, 1, 1], [0, 1, 2, 2]):
            with pytest.raises(StateMalformed):
                Agent.restore(with_box(exported, box, order), clock=pair.clock)
        assert with_box(exported, box, [0, 1, 2]) == exported


def with_box(exported: bytes, box: int, order: list[int]) -> bytes:
    """Return an export with the entries of its outbox or inbox in another order."""
    body, _ = _wire.decode_pair(exported, 1 << 32)
    *front, packed = _wire.decode(body, BODY, 1 << 32)
    fields = msgpack.unpackb(packed)
    fields[box] = [fields[box][place] for place in order]
    body = _wire.encode([*front, _wire.encode(fields)])
    return _wire.encode_pair(body, _crypto.sha256(body))


@given(st.data())
def test_a_damaged_box_is_refused_or_another_state(data: st.DataObject) -> None:
    exported = EXPORTED
    body, _ = _wire.decode_pair(exported, 1 << 32)
    *front, packed = _wire.decode(body, BODY, 1 << 32)
    at = data.draw(st.integers(0, 8 * len(packed) - 1))
    flipped = bytearray(packed)
    flipped[at // 8] ^= 1 << at % 8
    body = _wire.encode([*front, bytes(flipped)])
    damaged = _wire.encode_pair(body, _crypto.sha256(body))
    try:
        state = restore_agent(damaged, 0)  # at a time when no bundle is past its own
    except (StateMalformed, StateVersionUnknown):
        return
    assert export_agent(state, 0) == damaged  # nothing is repaired in silence


def some_export() -> bytes:
    """Return what an agent exports that has several of everything in its boxes."""
    pair = reliable_pair(in_order=True)
    made = [pair.alice.send(pair.bob.did, b"%d" % number) for number in range(4)]
    for late in (made[0], made[3], made[2]):
        pair.bob.receive(late)
    pair.bob.send(pair.alice.did, b"waits", label=b"mine")
    bundle = pair.bob.publish_bundles(1, last_resort=False).one_time[0]
    pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("test"), early_payload=b"early"))
    pair.bob.close(pair.alice.did)
    return pair.bob.export_state()


EXPORTED = some_export()


def test_versions_that_are_not_known_or_not_these_are_refused() -> None:
    pair = reliable_pair()
    exported = pair.alice.export_state()
    for version in (0, 3, 1 << 40):
        with pytest.raises(StateVersionUnknown):
            Agent.restore(with_version(exported, version), clock=pair.clock)
    with pytest.raises(StateMalformed):
        Agent.restore(with_version(exported, 1), clock=pair.clock)
    with pytest.raises(StateMalformed):
        Agent.restore(with_version(established_pair().alice.export_state(), 2), clock=pair.clock)
    assert version_of(export_fields(StateKind.LEDGER, MESH, 1, [])) == 1
