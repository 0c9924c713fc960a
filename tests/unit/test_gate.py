"""The gate's steps one by one, what is committed and recorded, and hooks that fail (sections 5.1 and 5.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    AnswerRepeated,
    Ask,
    BundleClass,
    Conditions,
    Deny,
    Grant,
    Identity,
    Intent,
    KnockReceived,
    KnockRefused,
    Limits,
    Phase,
    Reason,
    SessionEstablished,
)
from agentmesh.audit.record import AuditEvent
from agentmesh.engine import gate
from agentmesh.engine.changes import SessionEnded, SessionPut, TheirKnockTime
from agentmesh.envelope import OuterEnvelope, build
from agentmesh.errors import (
    AgentMeshError,
    AnswerOverdue,
    Busy,
    CommitFailed,
    IdentityConflict,
    KnockExpired,
    KnockFromFuture,
    KnockNotAdmitted,
    KnockNotPending,
    KnockUnknownBundle,
    KnockUnopened,
    Malformed,
    PeerNotAllowed,
    RandomnessFailed,
    SenderMismatch,
)
from agentmesh.limits import OPEN_SESSIONS_PER_PEER
from agentmesh.outgoing import Accepted, Knock
from agentmesh.policy import ASK, AskApplication, KnockRequest
from agentmesh.testing import ManualClock, SeededEntropy

MESH = "example/test"
SECOND = 1000
DAY = 86_400 * SECOND
TOLERANCE = 300 * SECOND


class JournalBroken(Exception):
    """What the journal of these tests raises."""


@define
class Journal:
    """A journal that keeps what it is told, and fails while it is told to."""

    failing: bool = False
    commits: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = field(factory=list)

    def commit(self, changes: tuple[Any, ...], records: tuple[Any, ...], /) -> None:
        if self.failing:
            raise JournalBroken
        self.commits.append((changes, records))

    def events(self) -> list[AuditEvent]:
        return [record.event for _, records in self.commits for record in records]


@define
class Decides(AskApplication):
    """The default, but that it decides as it is told."""

    decision: Any = ASK
    hook: Callable[[], None] = lambda: None
    allowed: bool = True
    asked: int = 0

    def decide(self, _knock: KnockRequest, /) -> Any:
        self.asked += 1
        self.hook()
        return self.decision

    def still_allowed(self, _peer: Any, /) -> bool:
        return self.allowed


class Faulty(SeededEntropy):
    """Randomness that fails while it is told to."""

    failing: BaseException | None = None

    def token(self, size: int, /) -> bytes:
        if self.failing is not None:
            raise self.failing
        return super().token(size)


@define
class Room:
    """Bob with all his hooks, and Alice who knocks."""

    clock: ManualClock
    journal: Journal
    policy: Decides
    entropy: Faulty
    bob: Agent
    alice: Agent

    @property
    def core(self) -> Any:
        return self.bob._core

    def knock(self, bundle: bytes | None = None, **options: Any) -> Any:
        bundle = bundle or self.bob.publish_bundles(1, last_resort=False).one_time[0]
        return self.alice.knock(self.bob.did, bundle, Intent("act", detail=b"the detail"), **options)

    def outer(self, envelope: bytes | Knock) -> OuterEnvelope:
        return OuterEnvelope.parse(bytes(envelope))

    def parsed(self, envelope: bytes) -> Any:
        return gate.check_envelope(self.core, self.outer(envelope), self.clock.now_ms)

    def verified(self, envelope: bytes) -> Any:
        return gate.check_signature(self.core, self.outer(envelope), self.parsed(envelope), self.clock.now_ms)

    def volatile(self) -> tuple[int, ...]:
        state, budgets = self.core.state, self.core.budgets
        memories = (state.knocks, state.undecided, state.peers, self.core.unopened, budgets.answers, budgets.rejections)
        knocks, elapsed_ms = budgets.knocks, budgets.knocks._elapsed.at(self.clock.now_ms)
        owed = sum(knocks._debt(entry, elapsed_ms) for entry in knocks._debts.values())  # one that owes nothing is none
        return (*map(len, memories), owed)

    def talk(self) -> None:
        """The sending session carries data both ways."""
        for sender, receiver in ((self.alice, self.bob), (self.bob, self.alice)) * 2:
            [event] = receiver.receive(sender.send(receiver.did, b"data"))
            assert event.plaintext == b"data"


def new_room(limits: Limits | None = None) -> Room:
    clock, journal, policy, entropy = ManualClock(), Journal(), Decides(), Faulty("bob")
    bob = Agent.create(
        MESH,
        identity=Identity.generate(SeededEntropy("bob's identity")),
        clock=clock,
        entropy=entropy,
        policy=policy,
        limits=limits,
        journal=journal,
    )
    alice = Agent.create(
        MESH,
        identity=Identity.generate(SeededEntropy("alice")),
        clock=clock,
        entropy=SeededEntropy("alice's"),
        limits=limits,
    )
    return Room(clock, journal, policy, entropy, bob, alice)


@pytest.fixture
def room() -> Room:
    return new_room()


# --- step by step -----------------------------------------------------------------------------------------------------


def test_step_1_looks_at_shape_and_times_and_at_nothing_else(room: Room) -> None:
    knock = room.knock()
    parsed = room.parsed(knock)
    assert parsed.claimed_key == room.alice.key.raw
    assert parsed.expires_ms == room.clock.now_ms + DAY
    room.core.state.bundles.clear()
    room.parsed(knock)
    now_ms = room.clock.now_ms
    for shift_ms, error in (
        (-TOLERANCE, None),
        (-TOLERANCE - 1, KnockFromFuture),
        (DAY + TOLERANCE, None),
        (DAY + TOLERANCE + 1, KnockExpired),
    ):
        room.clock.now_ms = now_ms + shift_ms
        if error is None:
            room.parsed(knock)
        else:
            with pytest.raises(error):
                room.parsed(knock)


@given(body=st.binary(max_size=200))
def test_step_1_takes_no_other_body(body: bytes) -> None:
    room = new_room()
    outer = room.outer(build(room.outer(room.knock()).header_bytes, body))
    with pytest.raises(Malformed):
        gate.check_envelope(room.core, outer, room.clock.now_ms)


def test_step_2_asks_the_policy_about_the_claim(room: Room) -> None:
    knock = room.knock()
    outer, parsed = room.outer(knock), room.parsed(knock)
    seen: list[Any] = []
    for answer, passes in ((True, True), (False, False), (None, False), (1, False), ("True", False), (2.0, False)):
        room.core.policy = type(
            "P", (), {"may_knock": lambda _self, sender, answer=answer: seen.append(sender) or answer}
        )()
        if passes:
            gate.check_admission(room.core, outer, parsed)
        else:
            with pytest.raises(KnockNotAdmitted):
                gate.check_admission(room.core, outer, parsed)
    assert {(sender.did, sender.key) for sender in seen} == {(room.alice.did, room.alice.key.raw)}


def test_step_3_returns_whose_knock_it_is(room: Room) -> None:
    knock = room.knock()
    verified = room.verified(knock)
    assert verified.initiator == room.alice.key
    assert verified.published.bundle_class is BundleClass.ONE_TIME
    room.core.state.bundles.clear()
    with pytest.raises(KnockUnknownBundle):
        room.verified(knock)


def test_step_3_takes_a_known_did_with_its_known_key_only(room: Room) -> None:
    knock = room.knock()
    room.core.state.dids[room.alice.did] = bytes(32)
    with pytest.raises(IdentityConflict):
        room.verified(knock)
    parsed = room.parsed(knock)
    parsed.claimed_key = bytes(32)
    with pytest.raises(SenderMismatch):
        gate.check_signature(room.core, room.outer(knock), parsed, room.clock.now_ms)


def test_step_4_looks_before_it_charges(room: Room) -> None:
    verified, now_ms = room.verified(room.knock()), room.clock.now_ms
    before = room.bob.export_state()
    for _ in range(3):  # it is looked at, and not kept
        memo = gate.check_novelty(room.core, verified, now_ms)
        assert not isinstance(memo, AnswerRepeated)
        assert memo.initiator == room.alice.key.raw
    assert len(room.core.state.knocks) == len(room.core.unopened) == len(room.core.budgets.knocks) == 0
    gate.charge_rate(room.core, verified, now_ms)
    assert len(room.core.budgets.knocks) == 1
    assert gate.bundle_can_serve(room.core, verified, now_ms)
    assert room.bob.export_state() == before


def test_step_4_charges_before_it_looks_at_the_bundle() -> None:
    room = new_room(Limits(knocks_per_identity=1))
    bundle = knock_bundle(room)
    first, second = room.knock(bundle), room.knock(bundle)
    room.bob.receive(first)
    with pytest.raises(Busy):
        room.bob.receive(second)
    room.clock.advance(seconds=1)
    [refused] = room.bob.receive(second)
    assert refused.reason is Reason.BUNDLE


def test_step_4_says_in_a_rejection_only_what_stays_so(room: Room) -> None:
    verified, now_ms = room.verified(room.knock()), room.clock.now_ms
    published, expires_ms = verified.published, verified.parsed.expires_ms

    def served(at_ms: int = now_ms, **changes: Any) -> bool:
        return gate.bundle_can_serve(room.core, evolve(verified, published=evolve(published, **changes)), at_ms)

    assert served(not_after_ms=expires_ms)
    assert not served(not_after_ms=expires_ms - 1)
    assert not served(secrets=None)
    assert served(not_before_ms=now_ms + TOLERANCE)
    with pytest.raises(Busy):
        served(not_before_ms=now_ms + TOLERANCE + 1)
    # What can never serve is said at once, also where it could not serve now either.
    assert not served(not_before_ms=now_ms + TOLERANCE + 1, secrets=None)
    assert not served(not_before_ms=now_ms + TOLERANCE + 1, not_after_ms=expires_ms - 1)


def test_step_5_has_one_error_for_all(room: Room) -> None:
    verified, now_ms = room.verified(room.knock()), room.clock.now_ms
    memo = gate.check_novelty(room.core, verified, now_ms)
    assert not isinstance(memo, AnswerRepeated)
    keys, content = gate.open_knock(room.core, verified, memo)
    assert keys.th == memo.th
    assert content.intent.detail == b"the detail"
    with pytest.raises(KnockUnopened):
        gate.open_knock(room.core, verified, evolve(memo, th=bytes(64)))
    with pytest.raises(KnockUnopened):
        gate.open_knock(room.core, evolve(verified, published=verified.published.used()), memo)


def test_step_6_is_stale_then_room_then_policy(room: Room) -> None:
    [event] = room.bob.receive(room.knock())
    now_ms = room.clock.now_ms
    room.policy.asked = 0
    room.policy.decision = Grant()
    assert gate.decide(room.core, event, now_ms) == Deny(Reason.STALE)
    later = evolve(event, time_ms=event.time_ms + 1)
    assert room.policy.asked == 0
    assert gate.decide(room.core, later, now_ms) == Grant()
    room.policy.decision = Ask()
    for _ in range(4):
        room.bob.receive(room.knock())
    room.policy.decision = Grant()
    assert gate.decide(room.core, later, now_ms) == Deny(Reason.STALE)
    room.policy.asked = 0
    # A request says how many sessions are open beside it, by the state that it is decided on.
    full = evolve(event, time_ms=now_ms + 99, fresh=False, open_sessions=OPEN_SESSIONS_PER_PEER)
    assert gate.decide(room.core, full, now_ms) == Deny(Reason.BUSY)
    assert room.policy.asked == 0


# --- what is committed and recorded -----------------------------------------------------------------------------------

KNOCKED = [AuditEvent.KNOCK_RECEIVED]
DECIDED: dict[str, tuple[Any, list[AuditEvent]]] = {
    "ask": (Ask(), KNOCKED),
    "grant": (Grant(), [*KNOCKED, AuditEvent.KNOCK_ACCEPTED]),
    "deny": (Deny(), [*KNOCKED, AuditEvent.KNOCK_REJECTED]),
}


@pytest.mark.parametrize("name", DECIDED)
def test_what_opened_is_one_commit_whatever_is_decided(name: str, room: Room) -> None:
    decision, records = DECIDED[name]
    room.policy.decision = decision
    knock = room.knock(room.bob.publish_bundles(5).one_time[0], early_payload=b"the payload")
    room.journal.commits.clear()
    room.bob.receive(knock)
    [(changes, _)] = room.journal.commits
    assert room.journal.events() == records
    names = [type(change).__name__ for change in changes]
    assert names.count("BundleUsed") == names.count("KnockRemembered") == names.count("TheirKnockTime") == 1
    assert ("SessionPut" in names) is (name != "deny")
    for record in room.journal.commits[0][1]:
        shown = [str(getattr(record, slot)).encode() for slot in record.__slots__] + [repr(record).encode()]
        assert not any(word in text for text in shown for word in (b"the detail", b"the payload", b"act"))
        assert record.mesh == MESH
    received = room.journal.commits[0][1][0]
    assert (received.sender, received.recipient) == (room.alice.did, room.bob.did)
    assert (received.receipt, received.size_bytes) == (knock.receipt, len(knock.envelope))


def test_a_verdict_of_the_application_is_one_commit(room: Room) -> None:
    for call, event, change in (
        (room.bob.accept, AuditEvent.KNOCK_ACCEPTED, SessionPut),
        (room.bob.reject, AuditEvent.KNOCK_REJECTED, SessionEnded),
    ):
        [asked] = room.bob.receive(room.knock())
        room.journal.commits.clear()
        call(asked)
        [(changes, _)] = room.journal.commits
        assert room.journal.events() == [event]
        assert sum(isinstance(each, change) for each in changes) == 1
        assert not any(isinstance(each, TheirKnockTime) for each in changes)


def test_what_did_not_open_is_no_commit_of_changes(room: Room) -> None:
    knock = room.knock().envelope
    room.journal.commits.clear()
    for at in range(len(knock)):
        with pytest.raises(AgentMeshError):
            room.bob.receive(knock[:at] + bytes([knock[at] ^ 1]) + knock[at + 1 :])
        room.clock.advance(seconds=1)
    # Refusals are counted, minute by minute; none of them is a change.
    assert [changes for changes, _ in room.journal.commits if changes] == []
    assert set(room.journal.events()) == {AuditEvent.MESSAGE_REFUSED}
    assert isinstance(room.bob.receive(knock)[0], KnockReceived)


def knock_bundle(room: Room) -> bytes:
    bundle: bytes = room.bob.publish_bundles(1, last_resort=False).one_time[0]
    return bundle


def test_a_second_knock_on_a_bundle_commits_no_change(room: Room) -> None:
    bundle = knock_bundle(room)
    room.bob.receive(room.knock(bundle))
    second = room.knock(bundle)
    room.journal.commits.clear()
    [refused] = room.bob.receive(second)
    assert refused.reason is Reason.BUNDLE
    assert [tuple(changes) for changes, _ in room.journal.commits] == [()]
    assert room.journal.events() == [AuditEvent.KNOCK_REJECTED]


def test_a_repeated_answer_commits_nothing(room: Room) -> None:
    room.policy.decision = Deny()
    knock = room.knock()
    room.bob.receive(knock)
    room.journal.commits.clear()
    assert isinstance(room.bob.receive(knock)[0], AnswerRepeated)
    assert room.journal.commits == []


# --- a journal that fails ---------------------------------------------------------------------------------------------


def fails(room: Room, call: Callable[[], Any], agent: Agent | None = None) -> None:
    """The call is refused by the journal, three times, and nothing at all has happened."""
    agent = agent or room.bob
    before, volatile, told = agent.export_state(), room.volatile(), len(room.journal.commits)
    room.journal.failing = True
    for _ in range(3):
        with pytest.raises(CommitFailed) as caught:
            call()
        assert isinstance(caught.value.__cause__, JournalBroken)
        assert agent.export_state() == before
        assert room.volatile() == volatile
    room.journal.failing = False
    assert len(room.journal.commits) == told


@pytest.mark.parametrize("decision", [Ask(), Grant(), Deny()])
@pytest.mark.parametrize("last_resort", [False, True])
def test_a_knock_that_the_journal_refused_is_taken_when_it_is_offered_again(
    decision: Any, last_resort: bool, room: Room
) -> None:
    room.policy.decision = decision
    shelf = room.bob.publish_bundles(1)
    knock = room.knock(shelf.last_resort if last_resort else shelf.one_time[0])
    fails(room, lambda: room.bob.receive(knock))
    [event] = room.bob.receive(knock)
    expected = {Ask: KnockReceived, Grant: SessionEstablished, Deny: KnockRefused}[type(decision)]
    assert isinstance(event, expected)
    if isinstance(event, KnockReceived):
        fails(room, lambda: room.bob.accept(event))
        assert room.bob.pending_knocks() == (event,)
        accepted = room.bob.accept(event)
        assert isinstance(accepted, Accepted)
        room.alice.receive(accepted.envelope)
        room.talk()
    elif isinstance(event, SessionEstablished):
        room.alice.receive(event.reply)
        room.talk()
    else:
        [rejected] = room.alice.receive(event.reply)
        assert rejected.reason is Reason.POLICY


def test_a_rejection_that_the_journal_refused_is_made_when_it_is_asked_for_again(room: Room) -> None:
    [event] = room.bob.receive(room.knock())
    fails(room, lambda: room.bob.reject(event, Reason.BUSY).envelope)
    assert room.bob.pending_knocks() == (event,)
    [rejected] = room.alice.receive(room.bob.reject(event, Reason.BUSY))
    assert rejected.reason is Reason.BUSY


def test_a_rejection_before_the_opening_that_the_journal_refused_is_given_later(room: Room) -> None:
    bundle = knock_bundle(room)
    room.bob.receive(room.knock(bundle))
    second = room.knock(bundle)
    fails(room, lambda: room.bob.receive(second))
    [refused] = room.bob.receive(second)
    assert refused.reason is Reason.BUNDLE


def test_a_journal_that_fails_for_long_does_not_use_up_the_senders_rate(room: Room) -> None:
    knock = room.knock()
    for _ in range(10):
        fails(room, lambda: room.bob.receive(knock))
    assert isinstance(room.bob.receive(knock)[0], KnockReceived)


def test_what_is_charged_once_is_given_back_once_when_the_journal_refused_it() -> None:
    room = new_room(Limits(knocks_per_identity=1))
    room.policy.decision = Deny()
    room.bob.receive(room.knock())
    over = room.knock()
    with pytest.raises(Busy):
        room.bob.receive(over)
    room.clock.advance(seconds=1)
    fails(room, lambda: room.bob.receive(over))
    [refused] = room.bob.receive(over)
    assert refused.reason is Reason.POLICY
    with pytest.raises(Busy):  # nothing was given back beyond what was taken
        room.bob.receive(room.knock())


@pytest.mark.parametrize("decision", [Ask(), Grant(), Deny(), "used bundle"])
def test_a_journal_that_fails_for_long_leaves_memory_as_it_was(decision: Any, room: Room) -> None:
    bundle = knock_bundle(room)
    if decision == "used bundle":
        room.bob.receive(room.knock(bundle))
    else:
        room.policy.decision = decision
    knock, core = room.knock(bundle), room.core

    def held() -> list[int]:
        budgets = [getattr(core.budgets, name) for name in core.budgets.__slots__]
        memories = [core.state.knocks, core.state.knocks._order, core.state.knocks._of, core.unopened]
        return [len(memory) for memory in (*memories, *budgets)]

    room.journal.failing = True
    sizes = []
    for _ in range(1000):
        with pytest.raises(CommitFailed):
            room.bob.receive(knock)
        sizes.append(held())
    assert sizes[0] == sizes[-1] == max(sizes)
    room.journal.failing = False
    expected = {Ask: KnockReceived, Grant: SessionEstablished, Deny: KnockRefused, str: KnockRefused}[type(decision)]
    assert isinstance(room.bob.receive(knock)[0], expected)


def test_publishing_and_polling_that_the_journal_refused(room: Room) -> None:
    fails(room, lambda: room.bob.publish_bundles(3))
    shelf = room.bob.publish_bundles(1)
    room.bob.receive(room.knock(shelf.one_time[0]))
    room.clock.advance(seconds=2 * 86_400)
    fails(room, room.bob.poll)
    kinds = [type(event).__name__ for event in room.bob.poll()]
    assert kinds == ["SessionOver", "StockLow"]


def test_knocking_and_verdicts_that_the_journal_refused(room: Room) -> None:
    for verdict in ("accept", "reject"):
        bundle = room.alice.publish_bundles(1).one_time[0]
        fails(room, lambda bundle=bundle: room.bob.knock(room.alice.did, bundle, Intent("out")))
        knock = room.bob.knock(room.alice.did, bundle, Intent("out"))
        [event] = room.alice.receive(knock)
        reply = room.alice.accept(event).envelope if verdict == "accept" else room.alice.reject(event).envelope
        fails(room, lambda reply=reply: room.bob.receive(reply))
        assert room.bob.session(room.alice.did, knock.session_id).status.phase is Phase.PENDING
        room.bob.receive(reply)
    room.talk()
    fails(room, lambda: room.bob.send(room.alice.did, b"data").envelope)
    message = room.alice.send(room.bob.did, b"data").envelope
    fails(room, lambda: room.bob.receive(message))
    assert room.bob.receive(message)[0].plaintext == b"data"
    fails(room, lambda: room.bob.close(room.alice.did).envelope)
    room.talk()


# --- other hooks that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError("no randomness"), RandomnessFailed),
        (RandomnessFailed(), RandomnessFailed),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_knock_during_which_randomness_failed_is_taken_when_it_is_offered_again(
    error: BaseException, raised: type[BaseException], room: Room
) -> None:
    room.policy.decision = Grant()  # an acceptance draws randomness
    knock = room.knock()
    before, volatile = room.bob.export_state(), room.volatile()
    room.entropy.failing = error
    for _ in range(2):
        with pytest.raises(raised):
            room.bob.receive(knock)
        assert room.bob.export_state() == before
        assert room.volatile() == volatile
    room.entropy.failing = None
    [event] = room.bob.receive(knock)
    room.alice.receive(event.reply)
    room.talk()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_a_knock_during_which_the_process_was_interrupted_is_taken_when_it_is_offered_again(
    error: BaseException, room: Room
) -> None:
    knock = room.knock()
    before, volatile = room.bob.export_state(), room.volatile()

    def interrupting() -> None:
        raise error

    room.policy.hook = interrupting
    with pytest.raises(type(error)):
        room.bob.receive(knock)
    assert room.bob.export_state() == before
    assert room.volatile() == volatile
    room.policy.hook = lambda: None
    [event] = room.bob.receive(knock)
    room.alice.receive(room.bob.accept(event).envelope)
    room.talk()


def test_an_acceptance_during_which_randomness_failed_can_be_made_again(room: Room) -> None:
    [event] = room.bob.receive(room.knock())
    before = room.bob.export_state()
    room.entropy.failing = OSError("no randomness")
    with pytest.raises(RandomnessFailed):
        room.bob.accept(event)
    assert room.bob.export_state() == before
    room.entropy.failing = None
    room.alice.receive(room.bob.accept(event).envelope)
    room.talk()


# --- the application's verdict ----------------------------------------------------------------------------------------


@given(max_messages=st.none() | st.integers(0, 2**53 - 1), ttl=st.none() | st.integers(0, 2**53 - 1))
def test_whatever_is_granted_is_what_the_other_side_sees(max_messages: int | None, ttl: int | None) -> None:
    room = new_room()
    conditions = Conditions(max_messages=max_messages, ttl_seconds=ttl, allowed_actions=("act", "other"))
    [event] = room.bob.receive(room.knock())
    accepted = room.bob.accept(event, conditions)
    [established] = room.alice.receive(accepted.envelope)
    assert established.conditions == conditions
    for agent, other in ((room.alice, room.bob), (room.bob, room.alice)):
        status = agent.session(other.did).status
        assert status.messages_left_out == status.messages_left_in == max_messages
        assert status.allowed_actions == ("act", "other")


def test_accepting_needs_the_peer_to_be_allowed_still(room: Room) -> None:
    [event] = room.bob.receive(room.knock())
    before = room.bob.export_state()
    room.policy.allowed = False
    with pytest.raises(PeerNotAllowed):
        room.bob.accept(event)
    assert room.bob.export_state() == before
    room.policy.allowed = True
    assert room.bob.accept(event)
    with pytest.raises(KnockNotPending):
        room.bob.accept(event)


def test_waiting_knocks_are_listed_oldest_first_also_after_a_restart(room: Room) -> None:
    others = [
        Agent.create(
            MESH, identity=Identity.generate(SeededEntropy(number)), clock=room.clock, entropy=SeededEntropy(number)
        )
        for number in range(3)
    ]
    bundles = iter(room.bob.publish_bundles(6).one_time)
    events = []
    for _ in range(2):
        for other in others:
            room.clock.advance(ms=1)
            events += room.bob.receive(other.knock(room.bob.did, next(bundles), Intent("wait")))
    ids = [event.session_id for event in events]
    assert [event.session_id for event in room.bob.pending_knocks()] == ids
    again = Agent.restore(room.bob.export_state(), clock=room.clock, policy=room.bob._core.policy)
    assert [event.session_id for event in again.pending_knocks()] == ids


def test_answers_repeated_do_not_outlive_their_rate(room: Room) -> None:
    room.policy.decision = Deny()
    knock = room.knock()
    room.bob.receive(knock)
    for _ in range(5):
        room.bob.receive(knock)
    with pytest.raises(AnswerOverdue):
        room.bob.receive(knock)
