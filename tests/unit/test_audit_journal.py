"""An agent's trail: one record for each thing that happened, refusals counted, and a sink that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from attrs import frozen

from agentmesh import (
    Agent,
    BundleClass,
    Conditions,
    Deny,
    Identity,
    Intent,
    KnockReceived,
    KnockRequest,
    Limits,
    MessageReceived,
    Reason,
    SessionOver,
)
from agentmesh.audit import (
    AuditEvent,
    AuditJournal,
    AuditLog,
    MemorySink,
    OnFailure,
    Outcome,
    Record,
    compare,
    owner_of,
    verified_records,
    verify_entries,
)
from agentmesh.engine import seam
from agentmesh.envelope import OuterEnvelope, receipt_of
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    CommitFailed,
    DecryptionFailed,
    DuplicateMessage,
    Malformed,
    StoreError,
    StoreFailed,
)
from agentmesh.identity import did_of
from agentmesh.policy import ASK, AskApplication, Decision
from agentmesh.primitives.keys import Receipt
from agentmesh.testing import ManualClock, SeededEntropy
from agentmesh.testing.mutation import with_header

MESH = "example/test"
MINUTE_MS = 60_000


class Choosy(AskApplication):
    """Asks the application, unless it was told to deny."""

    def __init__(self) -> None:
        self.decision: Decision = ASK

    def decide(self, knock: KnockRequest, /) -> Decision:
        return self.decision


class FragileSink:
    """A sink whose disk can be full."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.failure: Exception | None = None
        self.refused = 0

    def append(self, entries: Sequence[bytes], /) -> None:
        if self.failure is not None:
            self.refused += 1
            raise self.failure
        self.kept.extend(entries)

    def entries(self) -> Iterable[bytes]:
        return tuple(self.kept)


@frozen
class Side:
    agent: Agent
    sink: FragileSink
    journal: AuditJournal
    policy: Choosy

    @property
    def records(self) -> list[Record]:
        return list(verified_records(self.sink.entries()))

    def events(self) -> list[str]:
        return [str(record.event) for record in self.records]


def new_side(
    name: str, clock: ManualClock, *, on_failure: OnFailure = OnFailure.STOP, limits: Limits | None = None
) -> Side:
    sink, policy = FragileSink(), Choosy()
    journal = AuditJournal(AuditLog(sink), on_failure=on_failure)
    agent = Agent.create(
        MESH,
        identity=Identity.generate(SeededEntropy(name)),
        clock=clock,
        entropy=SeededEntropy(f"{name}/session"),
        policy=policy,
        limits=limits,
        journal=journal,
    )
    return Side(agent, sink, journal, policy)


@frozen
class World:
    alice: Side
    bob: Side
    clock: ManualClock

    def establish(self) -> None:
        bundle = self.bob.agent.publish_bundles(1, last_resort=False).one_time[0]
        [event] = self.bob.agent.receive(self.alice.agent.knock(self.bob.agent.did, bundle, Intent("test")))
        assert isinstance(event, KnockReceived)
        self.alice.agent.receive(self.bob.agent.accept(event).envelope)


@pytest.fixture
def world() -> World:
    clock = ManualClock()
    return World(new_side("alice", clock), new_side("bob", clock), clock)


def envelope_of(record: Record) -> dict[str, Any]:
    """Return what a record says of its envelope."""
    names = ("mesh", "sender", "recipient", "envelope_time_ms", "receipt", "size_bytes")
    return {name: getattr(record, name) for name in names}


def as_seen(envelope: bytes) -> dict[str, Any]:
    outer = OuterEnvelope.parse(envelope)
    header = outer.header
    return {
        "mesh": header.mesh, "sender": header.sender, "recipient": header.recipient,
        "envelope_time_ms": header.time_ms, "receipt": outer.receipt, "size_bytes": len(envelope),
    }  # fmt: skip


# --- one record for each thing that happens ---------------------------------------------------------------------------


def test_a_whole_conversation(world: World) -> None:
    alice, bob, clock = world.alice.agent, world.bob.agent, world.clock
    sent: dict[str, list[bytes]] = {"alice": [], "bob": []}

    shelf = bob.publish_bundles(2)
    knock = alice.knock(bob.did, shelf.one_time[0], Intent("test"), early_payload=b"early").envelope
    sent["alice"].append(knock)
    clock.advance(ms=1)
    [event] = bob.receive(knock)
    clock.advance(ms=1)
    assert isinstance(event, KnockReceived)
    reply = bob.accept(event).envelope
    sent["bob"].append(reply)
    alice.receive(reply)
    for number in range(3):
        clock.advance(ms=7)
        sent["alice"].append(alice.send(bob.did, b"there %d" % number).envelope)
        clock.advance(ms=7)
        bob.receive(sent["alice"][-1])
        sent["bob"].append(bob.send(alice.did, b"back %d" % number).envelope)
        alice.receive(sent["bob"][-1])
    sent["alice"].append(alice.close(bob.did, "done").envelope)
    [closed, over] = bob.receive(sent["alice"][-1])
    assert isinstance(over, SessionOver)
    assert closed.reply is not None
    sent["bob"].append(closed.reply.envelope)
    alice.receive(closed.reply)

    assert world.alice.events() == [
        "knock.sent", "knock.accepted",
        *["message.sealed", "message.opened"] * 3,
        "message.sealed", "message.opened", "session.closed",
    ]  # fmt: skip
    assert world.bob.events() == [
        *["bundle.published"] * 3, "knock.received", "knock.accepted",
        *["message.opened", "message.sealed"] * 3,
        "message.opened", "message.sealed", "session.closed",
    ]  # fmt: skip
    # What each side has of each envelope is what the envelope shows, and the same on both sides.
    for own, other, name in ((world.alice, world.bob, "alice"), (world.bob, world.alice, "bob")):
        expected = [as_seen(envelope) for envelope in sent[name]]
        for side in (own, other):
            records = [one for one in side.records if one.receipt and one.sender == own.agent.did]
            assert [envelope_of(one) for one in records] == expected
    session_id = event.session_id
    for side in (world.alice, world.bob):
        for one in side.records:
            is_published = one.event is AuditEvent.BUNDLE_PUBLISHED
            assert one.session_id == (b"" if is_published else session_id)
            assert one.count == 1
    # Positions in a direction: an early payload is Alice's first message.
    assert [one.number for one in world.bob.records if one.event is AuditEvent.MESSAGE_OPENED] == [2, 3, 4, 5]
    assert [one.number for one in world.alice.records if one.event is AuditEvent.MESSAGE_SEALED] == [2, 3, 4, 5]
    assert [one.number for one in world.alice.records if one.event is AuditEvent.MESSAGE_OPENED] == [1, 2, 3, 4]
    published = world.bob.records[:3]
    assert [one.bundle_class for one in published] == [BundleClass.ONE_TIME] * 2 + [BundleClass.LAST_RESORT]
    assert [one.size_bytes for one in published] == [*map(len, shelf.one_time), len(shelf.last_resort or b"")]
    assert [(one.reason, one.sender, one.recipient) for one in world.bob.records[-1:]] == [
        ("closed", bob.did, alice.did)
    ]
    assert [one.outcome for one in world.bob.records[:5]] == [Outcome.INFO] * 4 + [Outcome.ALLOW]
    # Times are each side's own clock.
    opened = [one for one in world.bob.records if one.event is AuditEvent.MESSAGE_OPENED]
    assert opened[0].at_ms == opened[0].envelope_time_ms + 7

    for one, two in ((world.alice, world.bob), (world.bob, world.alice)):
        result = compare(one.agent.did, one.records, two.agent.did, two.records)
        assert (result.found, result.in_order) == ((), True)
        assert result.matched == 5
        assert owner_of(one.records) == one.agent.did


def test_the_last_unused_bundle_is_recorded(world: World) -> None:
    alice, bob = world.alice.agent, world.bob.agent
    shelf = bob.publish_bundles(2)
    for bundle in (*shelf.one_time, shelf.last_resort):
        assert bundle is not None
        world.clock.advance(ms=1)
        bob.receive(alice.knock(bob.did, bundle, Intent("test")))
    assert world.bob.events()[3:] == ["knock.received", "knock.received", "stock.exhausted", "knock.received"]
    assert world.bob.records[-1].bundle_class is BundleClass.LAST_RESORT


@pytest.mark.parametrize("by_policy", [False, True])
def test_a_rejection_is_recorded_on_both_sides(by_policy: bool, world: World) -> None:
    alice, bob = world.alice.agent, world.bob.agent
    if by_policy:
        world.bob.policy.decision = Deny(Reason.POLICY)
    bundle = bob.publish_bundles(2, last_resort=False).one_time[0]
    [event] = bob.receive(alice.knock(bob.did, bundle, Intent("test")))
    reply = bob.reject(event) if event.reply is None else event.reply  # type: ignore[arg-type]
    alice.receive(reply)
    assert world.bob.events()[2:] == ["knock.received", "knock.rejected"]
    assert world.alice.events() == ["knock.sent", "knock.rejected"]
    for record in (world.bob.records[-1], world.alice.records[-1]):
        assert envelope_of(record) == as_seen(reply.envelope)
        assert (record.reason, record.outcome) == ("policy", Outcome.DENY)


def test_a_knock_on_a_used_bundle_is_rejected_and_recorded(world: World) -> None:
    alice, bob = world.alice.agent, world.bob.agent
    bundle = bob.publish_bundles(2, last_resort=False).one_time[0]
    bob.receive(alice.knock(bob.did, bundle, Intent("test")))
    world.clock.advance(ms=1)
    [event] = bob.receive(alice.knock(bob.did, bundle, Intent("test")))
    assert event.reply is not None
    alice.receive(event.reply)
    assert [(str(one.event), one.reason) for one in world.bob.records[3:]] == [("knock.rejected", "bundle")]
    assert (world.alice.records[-1].event, world.alice.records[-1].reason) == (AuditEvent.KNOCK_REJECTED, "bundle")


def test_endings_by_time_and_by_hand_are_recorded(world: World) -> None:
    alice, bob = world.alice.agent, world.bob.agent
    bundles = bob.publish_bundles(3, last_resort=False).one_time
    first = alice.knock(bob.did, bundles[0], Intent("test"))
    alice.drop(bob.did, first.session_id)
    world.clock.advance(ms=1)
    [event] = bob.receive(alice.knock(bob.did, bundles[1], Intent("test"), expires_in_seconds=60))
    assert isinstance(event, KnockReceived)
    alice.receive(bob.accept(event, Conditions(ttl_seconds=60)).envelope)
    bob.receive(alice.knock(bob.did, bundles[2], Intent("test"), expires_in_seconds=60))
    world.clock.advance(seconds=2 * 86_400)
    for side in (world.alice, world.bob):
        side.agent.poll()
    assert [(one.session_id, one.reason) for one in world.alice.records if one.event is AuditEvent.SESSION_CLOSED][
        :2
    ] == [
        (first.session_id, "expired"),
        (event.session_id, "expired"),
    ]
    assert sum(one.event is AuditEvent.SESSION_CLOSED for one in world.alice.records) == 3
    assert [one.reason for one in world.bob.records if one.event is AuditEvent.SESSION_CLOSED] == ["expired"] * 2


def test_a_repeated_answer_is_no_new_record(world: World) -> None:
    alice, bob = world.alice.agent, world.bob.agent
    bundle = bob.publish_bundles(2, last_resort=False).one_time[0]
    knock = alice.knock(bob.did, bundle, Intent("test")).envelope
    [event] = bob.receive(knock)
    assert isinstance(event, KnockReceived)
    reply = bob.accept(event).envelope
    before = len(world.bob.records)
    [again] = bob.receive(knock)
    assert again.reply.envelope == reply
    assert len(world.bob.records) == before


def test_an_agent_without_a_journal_makes_no_records(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Record, "__init__", never)
    plain = Agent.create(MESH, clock=world.clock)
    plain.publish_bundles(1)
    with pytest.raises(AgentMeshError):
        plain.receive(b"rubbish")
    world.clock.advance(seconds=61)
    plain.poll()


# --- refusals are counted ---------------------------------------------------------------------------------------------


def refused(agent: Agent, envelope: bytes, error: type[AgentMeshError]) -> None:
    with pytest.raises(error):
        agent.receive(envelope)


def refusals(side: Side) -> list[tuple[str, str, bytes, int, int]]:
    return [
        (one.reason, one.sender, one.receipt, one.size_bytes, one.count)
        for one in side.records
        if one.event is AuditEvent.MESSAGE_REFUSED
    ]


def test_one_record_a_reason_a_peer_and_a_minute(world: World) -> None:
    world.establish()
    alice, bob, clock = world.alice.agent, world.bob.agent, world.clock
    clock.now_ms = clock.now_ms // MINUTE_MS * MINUTE_MS + 10
    started_ms = clock.now_ms
    good = [alice.send(bob.did, b"%d" % number).envelope for number in range(3)]
    bad = [envelope[:-1] + bytes([envelope[-1] ^ 1]) for envelope in good]
    for envelope in bad:
        refused(bob, envelope, DecryptionFailed)
        clock.advance(ms=5)
    for envelope in good:
        bob.receive(envelope)
    for _ in range(2):
        for envelope in good:
            refused(bob, envelope, DuplicateMessage)
    refused(bob, b"rubbish", AgentMeshError)
    refused(bob, b"rubbish too", AgentMeshError)
    assert refusals(world.bob) == []  # the minute runs
    clock.advance(ms=MINUTE_MS)
    bob.poll()
    first = [
        ("message.unopened", alice.did, receipt_of(bad[0]), len(bad[0]), 3),
        ("message.duplicate", alice.did, receipt_of(good[0]), len(good[0]), 6),
        ("wire.malformed", "", receipt_of(b"rubbish"), 7, 2),
    ]
    assert refusals(world.bob) == first
    for one in world.bob.records[-3:]:
        assert (one.recipient, one.mesh, one.outcome, one.session_id) == (bob.did, MESH, Outcome.DENY, b"")
        assert started_ms <= one.at_ms < started_ms + MINUTE_MS
    # The next minute has records of its own.
    refused(bob, good[1], DuplicateMessage)
    clock.advance(ms=MINUTE_MS)
    bob.poll()
    assert refusals(world.bob) == [*first, ("message.duplicate", alice.did, receipt_of(good[1]), len(good[1]), 1)]
    # What is due is recorded once, and before whatever happens next.
    bob.poll()
    refused(bob, good[2], DuplicateMessage)
    clock.advance(ms=MINUTE_MS)
    bob.send(alice.did, b"next")
    assert world.bob.events()[-2:] == ["message.refused", "message.sealed"]


def test_a_clock_set_back_begins_new_records(world: World) -> None:
    world.establish()
    refused(world.bob.agent, b"one", AgentMeshError)
    world.clock.advance(seconds=-3600)
    refused(world.bob.agent, b"two", AgentMeshError)
    world.clock.advance(seconds=3600)
    world.bob.agent.poll()
    assert [(reason, count) for reason, _, _, _, count in refusals(world.bob)] == [("wire.malformed", 1)] * 2


def test_a_flood_from_ten_thousand_names_leaves_a_bounded_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []

    def receipt(envelope: bytes) -> Receipt:
        hashed.append(len(envelope))
        return receipt_of(envelope)

    monkeypatch.setattr(seam, "receipt_of", receipt)
    clock = ManualClock()
    bob = new_side("bob", clock)
    alice = new_side("alice", clock)
    World(alice, bob, clock).establish()
    before = len(bob.records)
    clock.now_ms = clock.now_ms // MINUTE_MS * MINUTE_MS
    template = alice.agent.send(bob.agent.did, b"genuine").envelope
    names = [did_of(number.to_bytes(32, "big")) for number in range(10_000)]
    for number, name in enumerate(names):
        envelope = with_header(template, sender=name)
        refused(bob.agent, envelope if number % 2 else envelope[:-1], AgentMeshError)
    clock.advance(ms=MINUTE_MS)
    bob.agent.poll()
    records = bob.records[before:]
    reasons = {one.reason for one in records}
    assert len(records) <= Limits().refusal_records_per_minute + len(reasons)
    assert sum(one.count for one in records) == 10_000
    assert len(hashed) == len(records)  # an envelope that is only counted is not hashed
    assert sum(one.count for one in records if one.sender == "") >= 9_000
    assert len(bob.agent.receive(template)) == 1


# --- a sink that fails ------------------------------------------------------------------------------------------------

Call = Callable[[World], Any]


def conversation(world: World) -> list[tuple[Side, Callable[[], Any]]]:
    """Return the calls of a conversation in turn, each of which records something."""
    alice, bob = world.alice.agent, world.bob.agent
    at: dict[str, Any] = {}

    def keep(name: str, value: Any) -> Any:
        at[name] = value
        return value

    return [
        (world.bob, lambda: keep("shelf", bob.publish_bundles(3))),
        (world.alice, lambda: keep("knock", alice.knock(bob.did, at["shelf"].one_time[0], Intent("test")))),
        (world.bob, lambda: keep("received", bob.receive(at["knock"]))),
        (world.bob, lambda: keep("accepted", bob.accept(at["received"][0]))),
        (world.alice, lambda: alice.receive(at["accepted"].envelope)),
        (world.alice, lambda: keep("sent", alice.send(bob.did, b"plaintext").envelope)),
        (world.bob, lambda: keep("opened", bob.receive(at["sent"]))),
        (world.alice, lambda: keep("sealed", alice.send(bob.did, b"plaintext", disclosable=True))),
        (world.bob, lambda: keep("opened", bob.receive(at["sealed"].envelope, disclosable=True))),
        (world.alice, lambda: keep("second", alice.knock(bob.did, at["shelf"].one_time[1], Intent("test")))),
        (world.bob, lambda: keep("received", bob.receive(at["second"]))),
        (world.bob, lambda: keep("rejected", bob.reject(at["received"][0]).envelope)),
        (world.alice, lambda: alice.receive(at["rejected"])),
        (world.alice, lambda: keep("third", alice.knock(bob.did, at["shelf"].one_time[2], Intent("test")))),
        (world.alice, lambda: alice.drop(bob.did, at["third"].session_id)),
        (world.bob, lambda: keep("received", bob.receive(at["third"]))),
        (world.alice, lambda: keep("close", alice.close(bob.did, "done").envelope)),
        (world.bob, lambda: keep("closed", bob.receive(at["close"]))),
        (world.alice, lambda: alice.receive(at["closed"][0].reply)),
        (world.bob, lambda: world.clock.advance(seconds=2 * 86_400) and bob.poll()),
    ]


CALLS = 20


@pytest.mark.parametrize("failure", [StoreFailed(), OSError("full")], ids=lambda value: repr(value).split(" at 0x")[0])
@pytest.mark.parametrize("failing", range(CALLS))
def test_where_a_sink_fails_nothing_leaves_and_nothing_changes(failing: int, failure: Exception, world: World) -> None:
    calls = conversation(world)
    assert len(calls) == CALLS
    for number, (side, call) in enumerate(calls):
        world.clock.advance(ms=1)
        if number == failing:
            before, kept = side.agent.export_state(), list(side.sink.kept)
            if number == CALLS - 1:
                world.clock.advance(seconds=2 * 86_400)
            side.sink.failure = failure
            for attempt in range(1, 3):
                with pytest.raises(StoreError) as caught:
                    call()
                assert caught.value is failure or caught.value.__cause__ is failure
                assert type(caught.value) is (StoreFailed if failure is caught.value else CommitFailed)
                assert side.sink.refused == attempt
                assert side.agent.export_state() == before
                assert side.sink.kept == kept
            side.sink.failure = None
        call()
    for side in (world.alice, world.bob):
        verify_entries(side.sink.entries())
    # The whole conversation was had, as if nothing had happened: what is in one log is in the other.
    for one, two in ((world.alice, world.bob), (world.bob, world.alice)):
        assert compare(one.agent.did, one.records, two.agent.did, two.records).found == ()


def test_the_conversation_records_at_every_call(world: World) -> None:
    """What the test above relies on."""
    for side, call in conversation(world):
        world.clock.advance(ms=1)
        before = len(side.sink.kept)
        call()
        assert len(side.sink.kept) > before


def test_counted_refusals_wait_for_the_sink(world: World) -> None:
    world.establish()
    refused(world.bob.agent, b"rubbish", AgentMeshError)
    world.clock.advance(ms=MINUTE_MS)
    world.bob.sink.failure = StoreFailed()
    envelope = world.alice.agent.send(world.bob.agent.did, b"x").envelope
    for _ in range(3):
        with pytest.raises(StoreFailed):
            world.bob.agent.receive(envelope)
        with pytest.raises(StoreFailed):
            world.bob.agent.poll()
    world.bob.sink.failure = None
    world.bob.agent.receive(envelope)
    assert [(reason, count) for reason, _, _, _, count in refusals(world.bob)] == [("wire.malformed", 1)]
    assert world.bob.events()[-2:] == ["message.refused", "message.opened"]


@pytest.mark.parametrize("failure", [StoreFailed(), OSError("full")], ids=lambda value: repr(value).split(" at 0x")[0])
def test_an_agent_may_carry_on_and_counts_what_is_missing(failure: Exception) -> None:
    clock = ManualClock()
    world = World(new_side("alice", clock), new_side("bob", clock, on_failure=OnFailure.CARRY_ON), clock)
    world.establish()
    alice, bob = world.alice.agent, world.bob.agent
    kept = len(world.bob.records)
    world.bob.sink.failure = failure
    for number in range(5):
        [event] = bob.receive(alice.send(bob.did, b"%d" % number))
        assert isinstance(event, MessageReceived)
        assert event.plaintext == b"%d" % number
    refused(bob, b"rubbish", AgentMeshError)
    clock.advance(ms=MINUTE_MS)
    bob.poll()
    assert (world.bob.journal.unrecorded, len(world.bob.records)) == (6, kept)
    bob.publish_bundles(2, last_resort=False)
    assert (world.bob.journal.unrecorded, len(world.bob.records)) == (8, kept)
    world.bob.sink.failure = None
    bob.receive(alice.send(bob.did, b"recorded again"))
    assert (world.bob.journal.unrecorded, len(world.bob.records)) == (8, kept + 1)
    # The hole is not in the chain; it shows against the other side's log.
    verify_entries(world.bob.sink.entries())
    result = compare(alice.did, world.alice.records, bob.did, world.bob.records)
    assert [str(one.finding) for one in result.found] == ["sent, not opened"] * 5


def test_what_to_do_on_failure_is_said_in_so_many_words() -> None:
    for wrong in (True, "stop", None):
        with pytest.raises(ArgumentInvalid):
            AuditJournal(AuditLog(MemorySink()), on_failure=wrong)  # type: ignore[arg-type]


def test_a_step_without_records_asks_nothing_of_the_sink(world: World) -> None:
    world.establish()
    world.bob.sink.failure = StoreFailed()
    world.bob.journal.commit((), ())
    world.bob.agent.poll()
    world.bob.agent.sessions(world.alice.agent.did)
    refused(world.bob.agent, b"rubbish", Malformed)


def test_a_minute_names_so_many_peers_and_counts_the_others_together() -> None:
    clock = ManualClock()
    clock.now_ms = clock.now_ms // MINUTE_MS * MINUTE_MS
    bob = new_side("bob", clock, limits=Limits(refusal_records_per_minute=3))
    alice = new_side("alice", clock)
    World(alice, bob, clock).establish()
    template = alice.agent.send(bob.agent.did, b"genuine").envelope
    names = [did_of(number.to_bytes(32, "big")) for number in range(8)]
    for name in names:
        refused(bob.agent, with_header(template, sender=name), AgentMeshError)
    clock.advance(ms=MINUTE_MS)
    bob.agent.poll()
    assert [(sender, count) for _, sender, _, _, count in refusals(bob)] == [
        *((name, 1) for name in names[:3]),
        ("", 5),
    ]


class Interrupted(BaseException):
    """What a signal's handler raises."""


class InterruptedSink(FragileSink):
    """A sink that is broken off each time: behind what it keeps, or before."""

    keeps = True

    def append(self, entries: Sequence[bytes], /) -> None:
        if self.keeps:
            super().append(entries)
        raise Interrupted


def test_what_became_of_a_commit_is_not_read_off_an_equal_one() -> None:
    sink = InterruptedSink()
    journal = AuditJournal(AuditLog(sink))
    record = Record(AuditEvent.STOCK_EXHAUSTED, at_ms=1, mesh=MESH, sender=did_of(bytes(32)))
    for number, sink.keeps in enumerate((True, False, True, True, False)):
        with pytest.raises(Interrupted):
            journal.commit((), (record,))
        assert journal.settled() is sink.keeps
        assert journal.settled() is sink.keeps, "it is asked until its answer is used"
        assert len(sink.kept) == len(journal.log) == (1, 1, 2, 3, 3)[number]
