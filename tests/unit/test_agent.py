"""The façade: its arguments, its one seam, its hooks."""

from __future__ import annotations

import doctest
import inspect
import os
import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from attrs import define, field

import agentmesh
from agentmesh import (
    Agent,
    Ask,
    AskApplication,
    Conditions,
    Deny,
    Grant,
    Identity,
    Intent,
    KnockReceived,
    KnockRefused,
    Limits,
    MessageReceived,
    OuterEnvelope,
    PeerClosed,
    Phase,
    Reason,
    RotationDue,
    SessionEstablished,
    SessionRejected,
    StockLow,
    SystemEntropy,
    errors,
)
from agentmesh.audit.record import AuditEvent, Record
from agentmesh.engine import guard
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BackendUnfit,
    BadDid,
    CommitFailed,
    DecryptionFailed,
    GapTooLarge,
    LocalError,
    NoSession,
    RandomnessFailed,
    ReentrantCall,
)
from agentmesh.handshake.prekeys import verify_bundle
from agentmesh.testing import ManualClock, SeededEntropy, agent_pair, establish, established_pair
from agentmesh.trust import AdmissionPolicy, RevocationList

MESH = "example/agent"


# --- arguments -------------------------------------------------------------------------------------------------------

NO_DIDS = (
    None,
    5,
    b"did:agentmesh:x",
    "",
    "did:agentmesh:",
    "did:mesh:4Hbi7vKxuvV14pj6keiYff7amZDA",
    "DID:agentmesh:4Hbi7vKxuvV14pj6keiYff7amZDA",
    "did:agentmesh:4Hbi7vKxuvV14pj6keiYff7amZDA ",
    "did:agentmesh:0OIl",
    "did:agentmesh:" + "1" * 10_000,
    ["did"],
    {},
)
NO_BYTES = (None, 5, "text", [b"x"], object())
NO_SESSION_IDS = ("x", 5, b"short", bytes(17), [], {}, bytearray(16), 1.5)
NO_COUNTS = (-1, True, 1.5, "1", b"1", [], 2**70)
NO_FLAGS = ("yes", 5, None, [], b"")
NO_SECONDS = (0, -1, True, 1.5, "60", 14 * 86_400 + 1, 2**70, [])
NO_ACTIONS = ("", "x" * 129, "\ud800", 5, b"x", ["x"], {})
NO_REASONS = ("x" * 129, "\ud800", 5, b"x", None, [])


def wrong_calls() -> list[tuple[str, Callable[[Agent, Agent, KnockReceived], object]]]:
    """Every façade call, with each of its arguments wrong in turn."""
    calls: list[tuple[str, Callable[[Agent, Agent, KnockReceived], object]]] = []

    def each(name: str, values: Any, call: Callable[[Agent, Agent, KnockReceived, Any], object]) -> None:
        for value in values:
            calls.append(
                (f"{name}={repr(value).split(' at 0x')[0]:.30}", lambda a, b, k, value=value: call(a, b, k, value))
            )

    bundle = established_pair(9).bob.publish_bundles(1).one_time[0]
    intent = Intent("x")
    each("knock did", NO_DIDS, lambda a, b, k, v: a.knock(v, bundle, intent))
    each("knock bundle", (*NO_BYTES[:3], [b"x"], object()), lambda a, b, k, v: a.knock(b.did, v, intent))
    each("knock intent", (None, "x", b"x", {}), lambda a, b, k, v: a.knock(b.did, fresh(b), v))
    each("knock early", NO_BYTES[1:], lambda a, b, k, v: a.knock(b.did, fresh(b), intent, early_payload=v))
    each("knock expires", NO_SECONDS, lambda a, b, k, v: a.knock(b.did, fresh(b), intent, expires_in_seconds=v))
    each("knock require", NO_FLAGS, lambda a, b, k, v: a.knock(b.did, fresh(b), intent, require_one_time=v))
    each("knock flag", NO_FLAGS, lambda a, b, k, v: a.knock(b.did, fresh(b), intent, early_with_last_resort=v))
    each("publish", NO_COUNTS, lambda a, b, k, v: a.publish_bundles(v))
    each("publish last", NO_FLAGS, lambda a, b, k, v: a.publish_bundles(1, last_resort=v))
    each("accept", (None, 5, "x", object()), lambda a, b, k, v: b.accept(v))
    each("accept conditions", (None, 5, {}, ("x",)), lambda a, b, k, v: b.accept(k, v))
    each("reject", (None, 5, "x", object()), lambda a, b, k, v: b.reject(v).envelope)
    each("reject reason", (None, 5, "policy"), lambda a, b, k, v: b.reject(k, v).envelope)
    each(
        "reject retry",
        (-1, True, 1.5, None, "1", 2**53),
        lambda a, b, k, v: b.reject(k, retry_after_seconds=v).envelope,
    )
    each("send did", NO_DIDS, lambda a, b, k, v: a.send(v, b"x").envelope)
    each("send data", NO_BYTES, lambda a, b, k, v: a.send(b.did, v).envelope)
    each("send too much", (bytes((1 << 20) + 1),), lambda a, b, k, v: a.send(b.did, v).envelope)
    each("send action", NO_ACTIONS, lambda a, b, k, v: a.send(b.did, b"x", action=v).envelope)
    each("send session", NO_SESSION_IDS, lambda a, b, k, v: a.send(b.did, b"x", session_id=v).envelope)
    each("seal did", NO_DIDS, lambda a, b, k, v: a.send(v, b"x", disclosable=True))
    each("seal data", NO_BYTES, lambda a, b, k, v: a.send(b.did, v, disclosable=True))
    each("seal session", NO_SESSION_IDS, lambda a, b, k, v: a.send(b.did, b"x", session_id=v, disclosable=True))
    each("close did", NO_DIDS, lambda a, b, k, v: a.close(v).envelope)
    each("close reason", NO_REASONS, lambda a, b, k, v: a.close(b.did, v).envelope)
    each("close session", NO_SESSION_IDS, lambda a, b, k, v: a.close(b.did, session_id=v).envelope)
    each("drop did", NO_DIDS, lambda a, b, k, v: a.drop(v, bytes(16)))  # type: ignore[arg-type]
    each("drop session", (None, *NO_SESSION_IDS), lambda a, b, k, v: a.drop(b.did, v))
    each("receive", NO_BYTES, lambda a, b, k, v: a.receive(v))
    each("receive flag", NO_FLAGS, lambda a, b, k, v: b.receive(a.pending_envelopes(b.did)[0], disclosable=v))
    each("session did", NO_DIDS, lambda a, b, k, v: a.session(v))
    each("session id", NO_SESSION_IDS, lambda a, b, k, v: a.session(b.did, v))
    each("sessions", NO_DIDS, lambda a, b, k, v: a.sessions(v))
    each("pending_envelopes", NO_DIDS, lambda a, b, k, v: a.pending_envelopes(v))
    return calls


def fresh(agent: Agent) -> bytes:
    """Return a bundle that the agent published before the call that is tested."""
    return BUNDLES[agent.did]


BUNDLES: dict[str, bytes] = {}


@pytest.mark.parametrize(("name", "call"), wrong_calls(), ids=lambda value: value if type(value) is str else "")
def test_a_wrong_argument_is_told_as_such_and_changes_nothing(
    name: str, call: Callable[[Agent, Agent, KnockReceived], object]
) -> None:
    pair = established_pair()
    BUNDLES[pair.bob.did], second = pair.bob.publish_bundles(2).one_time
    pair.clock.advance(ms=1)
    [knock] = pair.bob.receive(pair.alice.knock(pair.bob.did, second, Intent("x")))
    assert isinstance(knock, KnockReceived)
    before = [pair.alice.export_state(), pair.bob.export_state()]
    with pytest.raises(AgentMeshError) as caught:
        call(pair.alice, pair.bob, knock)
    allowed = (ArgumentInvalid, NoSession) if "session" in name else (ArgumentInvalid, BadDid)
    assert type(caught.value) in (*allowed, BadDid)
    assert [pair.alice.export_state(), pair.bob.export_state()] == before
    [event] = pair.bob.receive(pair.alice.send(pair.bob.did, b"on it goes"))
    assert isinstance(event, MessageReceived)
    assert event.plaintext == b"on it goes"


WRONG_HOOKS = [
    ("mesh", 5),
    ("mesh", None),
    ("mesh", "Upper"),
    ("mesh", b"example"),
    ("identity", "alice"),
    ("identity", bytes(32)),
    ("identity", 0),
    ("clock", 5),
    ("clock", "now"),
    ("clock", None),
    ("entropy", 5),
    ("entropy", os.urandom),
    ("entropy", 0),
    ("policy", 5),
    ("policy", True),
    ("policy", 0),
    ("limits", 5),
    ("limits", {}),
    ("limits", 0),
    ("journal", 5),
    ("journal", print),
    ("journal", 0),
]


@pytest.mark.parametrize(("name", "value"), WRONG_HOOKS)
def test_a_wrong_argument_makes_no_agent(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"mesh": MESH, name: value}
    with pytest.raises(ArgumentInvalid) as caught:
        Agent.create(**arguments)
    assert caught.value.argument == name


@pytest.mark.parametrize(("name", "value"), [hook for hook in WRONG_HOOKS if hook[0] not in ("mesh", "identity")])
def test_a_wrong_argument_restores_no_agent(name: str, value: Any) -> None:
    exported = established_pair().alice.export_state()
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ArgumentInvalid) as caught:
        Agent.restore(exported, **arguments)
    assert caught.value.argument == name


@pytest.mark.parametrize("shown", [-1, 1.5, True, None, "1", 2**53, b"1"])
def test_a_clock_that_shows_no_time_stops_every_call(shown: Any) -> None:
    pair = established_pair()
    envelope = pair.alice.send(pair.bob.did, b"x").envelope
    before = pair.bob.export_state()
    good, pair.clock.now_ms = pair.clock.now_ms, shown
    for call in (
        lambda: pair.bob.receive(envelope),
        lambda: pair.bob.send(pair.alice.did, b"x").envelope,
        lambda: pair.bob.poll(),
        lambda: pair.bob.publish_bundles(1),
        lambda: pair.bob.sessions(pair.alice.did),
        lambda: pair.bob.pending_knocks(),
        lambda: pair.bob.export_state(),
        lambda: Agent.restore(before, clock=pair.clock),
    ):
        with pytest.raises(ArgumentInvalid) as caught:
            call()
        assert caught.value.argument == "clock"
    pair.clock.now_ms = good
    assert pair.bob.export_state() == before
    assert delivered(pair.bob, envelope) == b"x"


def delivered(agent: Agent, envelope: Any) -> bytes:
    """Return what the agent opens: one message, and nothing else happens."""
    [event] = agent.receive(envelope)
    assert isinstance(event, MessageReceived)
    return event.plaintext


# --- randomness ------------------------------------------------------------------------------------------------------


class Stuck:
    """A source that breaks its contract in one way, once it is told to."""

    def __init__(self, draw: Callable[[int], Any]) -> None:
        self.draw = draw
        self.broken = False

    def token(self, size: int, /) -> Any:
        return self.draw(size) if self.broken else os.urandom(size)

    def encapsulate(self, public_key: bytes, /) -> Any:
        return SeededEntropy(0).encapsulate(public_key)


BROKEN = {
    "short": lambda size: bytes(size - 1),
    "long": lambda size: os.urandom(size + 1),
    "not bytes": lambda size: bytearray(os.urandom(size)),
    "nothing": lambda size: None,
    "text": lambda size: "x" * size,
}


@pytest.mark.parametrize("name", [*BROKEN, "constant", "repeating"])
def test_a_broken_source_makes_no_agent(name: str) -> None:
    broken = BROKEN | {"constant": lambda size: bytes(size), "repeating": lambda size: bytes(range(size))}
    entropy = Stuck(broken[name])
    entropy.broken = True
    with pytest.raises(RandomnessFailed):
        Agent.create(MESH, entropy=entropy)
    with pytest.raises(RandomnessFailed):
        Agent.restore(established_pair().alice.export_state(), entropy=entropy)


@pytest.mark.parametrize("name", BROKEN)
def test_a_source_that_breaks_later_sends_nothing(name: str) -> None:
    clock = ManualClock()
    entropy = Stuck(BROKEN[name])
    alice = Agent.create(MESH, clock=clock, entropy=entropy)
    bob = Agent.create(MESH, clock=clock)
    establish(alice, bob)
    bundle = bob.publish_bundles(1).one_time[0]
    bob.receive(alice.send(bob.did, b"x"))
    turn = bob.send(alice.did, b"a turn needs a key pair").envelope
    before = alice.export_state()
    entropy.broken = True
    for call in (
        lambda: alice.send(bob.did, b"x").envelope,
        lambda: alice.close(bob.did).envelope,
        lambda: alice.receive(turn),
        lambda: alice.publish_bundles(1),
        lambda: alice.knock(bob.did, bundle, Intent("x")),
    ):
        with pytest.raises(RandomnessFailed):
            call()
        assert alice.export_state() == before
    entropy.broken = False
    [event] = alice.receive(turn)
    assert isinstance(event, MessageReceived)
    assert delivered(bob, alice.send(bob.did, b"mended")) == b"mended"


# --- the seam --------------------------------------------------------------------------------------------------------


@define
class Journal:
    """Takes note of all, and fails while it is told to."""

    failure: BaseException | None = None
    seen: list[tuple[tuple[Any, ...], tuple[Record, ...]]] = field(factory=list)
    during: Callable[[], object] | None = None

    def commit(self, changes: tuple[Any, ...], records: tuple[Record, ...], /) -> None:
        if self.during is not None:
            self.during()
        if self.failure is not None:
            raise self.failure
        self.seen.append((changes, records))

    @property
    def records(self) -> list[Record]:
        return [record for _, records in self.seen for record in records]


class Scene:
    """Two agents with a journal each."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journals = (Journal(), Journal())
        self.alice, self.bob = (Agent.create(MESH, clock=self.clock, journal=journal) for journal in self.journals)

    def knock(self) -> bytes:
        self.clock.advance(ms=1)
        return self.alice.knock(self.bob.did, self.bob.publish_bundles(1).one_time[0], Intent("x"))

    def waiting(self) -> KnockReceived:
        [event] = self.bob.receive(self.knock())
        assert isinstance(event, KnockReceived)
        return event

    def establish(self) -> None:
        self.alice.receive(self.bob.accept(self.waiting()).envelope)


def steps(scene: Scene) -> dict[str, Callable[[], tuple[Agent, Callable[[], Any]]]]:
    """Return, for each kind of step, what prepares it and makes the call."""

    def at(agent: Agent, call: Callable[[], Any]) -> tuple[Agent, Callable[[], Any]]:
        return agent, call

    def receive_accept() -> tuple[Agent, Callable[[], Any]]:
        accept = scene.bob.accept(scene.waiting()).envelope
        return at(scene.alice, lambda: scene.alice.receive(accept))

    def receive_reject() -> tuple[Agent, Callable[[], Any]]:
        reject = scene.bob.reject(scene.waiting()).envelope
        return at(scene.alice, lambda: scene.alice.receive(reject))

    def receive_knock() -> tuple[Agent, Callable[[], Any]]:
        knock = scene.knock()
        return at(scene.bob, lambda: scene.bob.receive(knock))

    def refuse_knock() -> tuple[Agent, Callable[[], Any]]:
        [bundle] = scene.bob.publish_bundles(1).one_time
        scene.bob.receive(scene.alice.knock(scene.bob.did, bundle, Intent("x")))
        scene.clock.advance(ms=1)
        knock = scene.alice.knock(scene.bob.did, bundle, Intent("x")).envelope
        return at(scene.bob, lambda: scene.bob.receive(knock))

    def established(call: Callable[[], Any], agent: Agent) -> Callable[[], tuple[Agent, Callable[[], Any]]]:
        def prepare() -> tuple[Agent, Callable[[], Any]]:
            scene.establish()
            return at(agent, call)

        return prepare

    def receive_message() -> tuple[Agent, Callable[[], Any]]:
        scene.establish()
        envelope = scene.alice.send(scene.bob.did, b"x").envelope
        return at(scene.bob, lambda: scene.bob.receive(envelope))

    def receive_close(missing: bool) -> Callable[[], tuple[Agent, Callable[[], Any]]]:
        def prepare() -> tuple[Agent, Callable[[], Any]]:
            scene.establish()
            if missing:
                scene.alice.send(scene.bob.did, b"x")
            envelope = scene.alice.close(scene.bob.did).envelope
            return at(scene.bob, lambda: scene.bob.receive(envelope))

        return prepare

    def receive_last() -> tuple[Agent, Callable[[], Any]]:
        scene.establish()
        envelope = scene.alice.send(scene.bob.did, b"x").envelope
        scene.bob.receive(scene.alice.close(scene.bob.did))
        return at(scene.bob, lambda: scene.bob.receive(envelope))

    def poll() -> tuple[Agent, Callable[[], Any]]:
        scene.establish()
        scene.alice.close(scene.bob.did)
        scene.clock.advance(seconds=601)
        return at(scene.alice, scene.alice.poll)

    def drop() -> tuple[Agent, Callable[[], Any]]:
        scene.establish()
        session_id = scene.alice.session(scene.bob.did).session_id
        return at(scene.alice, lambda: scene.alice.drop(scene.bob.did, session_id))

    def accept() -> tuple[Agent, Callable[[], Any]]:
        event = scene.waiting()
        return at(scene.bob, lambda: scene.bob.accept(event))

    def reject() -> tuple[Agent, Callable[[], Any]]:
        event = scene.waiting()
        return at(scene.bob, lambda: scene.bob.reject(event).envelope)

    def knock() -> tuple[Agent, Callable[[], Any]]:
        bundle = scene.bob.publish_bundles(1).one_time[0]
        return at(scene.alice, lambda: scene.alice.knock(scene.bob.did, bundle, Intent("x")))

    return {
        "publish": lambda: at(scene.bob, lambda: scene.bob.publish_bundles(3)),
        "knock": knock,
        "receive a KNOCK": receive_knock,
        "refuse a KNOCK": refuse_knock,
        "accept": accept,
        "reject": reject,
        "receive an ACCEPT": receive_accept,
        "receive a REJECT": receive_reject,
        "send": established(lambda: scene.alice.send(scene.bob.did, b"x").envelope, scene.alice),
        "seal": established(lambda: scene.alice.send(scene.bob.did, b"x", disclosable=True), scene.alice),
        "receive a message": receive_message,
        "close": established(lambda: scene.alice.close(scene.bob.did).envelope, scene.alice),
        "receive a close": receive_close(missing=False),
        "receive a close before its data": receive_close(missing=True),
        "receive the last of a closed session": receive_last,
        "poll": poll,
        "drop": drop,
    }


STEPS = tuple(steps(Scene()))
FAILURES = (OSError("disk full"), KeyError("x"), ValueError(), MemoryError(), RuntimeError("text"))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_failing_journal_leaves_all_as_it_was_and_the_call_can_be_made_again(name: str, failure: Exception) -> None:
    scene = Scene()
    agent, call = steps(scene)[name]()
    journal = scene.journals[agent is scene.bob]
    before, told = agent.export_state(), len(journal.seen)
    journal.failure = failure
    for _ in range(2):
        with pytest.raises(CommitFailed) as caught:
            call()
        assert caught.value.__cause__ is failure
        assert agent.export_state() == before
        assert len(journal.seen) == told
    journal.failure = None
    output = call()
    assert agent.export_state() != before or name == "refuse a KNOCK"
    assert len(journal.seen) == told + 1
    if name == "receive a message":
        assert output[0].plaintext == b"x"
    conversing(scene)


def conversing(scene: Scene) -> None:
    """A new session works, whatever was before."""
    scene.establish()
    assert delivered(scene.bob, scene.alice.send(scene.bob.did, b"x")) == b"x"
    assert delivered(scene.alice, scene.bob.send(scene.alice.did, b"x")) == b"x"


@pytest.mark.parametrize("name", STEPS)
def test_an_error_of_ours_from_a_journal_passes_as_it_is(name: str) -> None:
    scene = Scene()
    agent, call = steps(scene)[name]()
    journal = scene.journals[agent is scene.bob]
    before = agent.export_state()
    journal.failure = errors.StoreFailed()
    with pytest.raises(errors.StoreFailed):
        call()
    assert agent.export_state() == before
    journal.failure = None
    call()


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("name", ["send", "receive a message", "receive a KNOCK", "refuse a KNOCK"])
def test_an_interrupt_leaves_all_as_it_was(name: str, failure: BaseException) -> None:
    scene = Scene()
    agent, call = steps(scene)[name]()
    journal = scene.journals[agent is scene.bob]
    before = agent.export_state()
    journal.failure = failure
    with pytest.raises(type(failure)):
        call()
    assert agent.export_state() == before
    journal.failure = None
    call()
    conversing(scene)


@pytest.mark.parametrize("name", STEPS)
def test_the_journal_is_told_before_anything_changes(name: str) -> None:
    scene = Scene()
    agent, call = steps(scene)[name]()
    journal = scene.journals[agent is scene.bob]
    before = agent.export_state()
    states: list[bytes] = []
    journal.during = lambda: states.append(agent.export_state())
    call()
    assert states == [before]


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_recorded(name: str) -> None:
    scene = Scene()
    agent, call = steps(scene)[name]()
    journal = scene.journals[agent is scene.bob]
    journal.seen.clear()
    call()
    expected = {
        "publish": {AuditEvent.BUNDLE_PUBLISHED},
        "knock": {AuditEvent.KNOCK_SENT},
        "receive a KNOCK": {AuditEvent.KNOCK_RECEIVED},
        "refuse a KNOCK": {AuditEvent.KNOCK_REJECTED},
        "accept": {AuditEvent.KNOCK_ACCEPTED},
        "reject": {AuditEvent.KNOCK_REJECTED},
        "receive an ACCEPT": {AuditEvent.KNOCK_ACCEPTED},
        "receive a REJECT": {AuditEvent.KNOCK_REJECTED},
        "send": {AuditEvent.MESSAGE_SEALED},
        "seal": {AuditEvent.MESSAGE_SEALED},
        "receive a message": {AuditEvent.MESSAGE_OPENED},
        "close": {AuditEvent.MESSAGE_SEALED},
        "receive a close": {AuditEvent.MESSAGE_OPENED, AuditEvent.MESSAGE_SEALED, AuditEvent.SESSION_CLOSED},
        "receive a close before its data": {AuditEvent.MESSAGE_OPENED, AuditEvent.MESSAGE_SEALED},
        "receive the last of a closed session": {AuditEvent.MESSAGE_OPENED, AuditEvent.SESSION_CLOSED},
        "poll": {AuditEvent.SESSION_CLOSED},
        "drop": {AuditEvent.SESSION_CLOSED},
    }[name]
    assert expected <= {record.event for record in journal.records}
    assert {record.mesh for record in journal.records} == {MESH}


def test_refusals_are_counted_and_recorded_in_the_next_minute() -> None:
    scene = Scene()
    scene.establish()
    journal = scene.journals[1]
    envelope = scene.alice.send(scene.bob.did, b"x").envelope
    for _ in range(7):
        with pytest.raises(DecryptionFailed):
            scene.bob.receive(envelope[:-1] + bytes([envelope[-1] ^ 1]))
    journal.seen.clear()
    scene.bob.receive(envelope)
    assert not [record for record in journal.records if record.event is AuditEvent.MESSAGE_REFUSED]
    scene.clock.advance(seconds=61)
    # A journal that fails at that moment loses neither the count nor the call.
    journal.failure = OSError()
    before = scene.bob.export_state()
    with pytest.raises(CommitFailed):
        scene.bob.send(scene.alice.did, b"x")
    assert scene.bob.export_state() == before
    journal.failure = None
    assert delivered(scene.alice, scene.bob.send(scene.alice.did, b"x")) == b"x"
    [refused] = [record for record in journal.records if record.event is AuditEvent.MESSAGE_REFUSED]
    assert (refused.count, refused.reason, refused.sender) == (7, DecryptionFailed.code, scene.alice.did)
    scene.bob.poll()
    assert len([record for record in journal.records if record.event is AuditEvent.MESSAGE_REFUSED]) == 1


# --- hooks that call back --------------------------------------------------------------------------------------------


@define
class CallingBack:
    """A policy that calls the agent which asks it, and remembers what came of it."""

    agent: Agent | None = None
    outcomes: list[type[BaseException] | None] = field(factory=list)

    def _call(self) -> None:
        assert self.agent is not None
        for call in (
            lambda: self.agent.poll(),  # type: ignore[union-attr]
            lambda: self.agent.publish_bundles(1),  # type: ignore[union-attr]
            lambda: self.agent.receive(b"\x92\xc4\x00\xc4\x00"),  # type: ignore[union-attr]
        ):
            try:
                call()
            except AgentMeshError as error:
                self.outcomes.append(type(error))
            else:
                self.outcomes.append(None)

    def may_knock(self, _sender: Any, /) -> bool:
        self._call()
        return True

    def decide(self, _knock: Any, /) -> Any:
        self._call()
        return Ask()

    def still_allowed(self, _peer: Any, /) -> bool:
        self._call()
        return True


def test_a_policy_cannot_call_back() -> None:
    policy = CallingBack()
    pair = agent_pair(bob_policy=policy)
    policy.agent = pair.bob
    establish(pair.alice, pair.bob)
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    assert len(policy.outcomes) >= 9
    assert set(policy.outcomes) == {ReentrantCall}
    assert delivered(pair.alice, pair.bob.send(pair.alice.did, b"x")) == b"x"


def test_a_journal_cannot_call_back_but_may_look() -> None:
    scene = Scene()
    scene.establish()
    caught: list[type[BaseException]] = []

    def during() -> None:
        scene.bob.export_state()
        scene.bob.sessions(scene.alice.did)
        try:
            scene.bob.send(scene.alice.did, b"from inside")
        except ReentrantCall as error:
            caught.append(type(error))

    scene.journals[1].during = during
    assert delivered(scene.bob, scene.alice.send(scene.bob.did, b"x")) == b"x"
    assert caught == [ReentrantCall]
    scene.journals[1].during = None
    assert delivered(scene.alice, scene.bob.send(scene.alice.did, b"x")) == b"x"


def test_a_journal_that_lets_its_own_call_fail_fails_the_step() -> None:
    scene = Scene()
    scene.establish()
    envelope = scene.alice.send(scene.bob.did, b"x").envelope
    before = scene.bob.export_state()
    scene.journals[1].during = lambda: scene.bob.send(scene.alice.did, b"from inside").envelope
    with pytest.raises(ReentrantCall):
        scene.bob.receive(envelope)
    assert scene.bob.export_state() == before
    scene.journals[1].during = None
    assert delivered(scene.bob, envelope) == b"x"


# --- policies --------------------------------------------------------------------------------------------------------


@define
class Deciding:
    """A policy that decides as it is told."""

    decision: Any

    def may_knock(self, _sender: Any, /) -> bool:
        return True

    def decide(self, _knock: Any, /) -> Any:
        if isinstance(self.decision, Exception):
            raise self.decision
        return self.decision

    def still_allowed(self, _peer: Any, /) -> bool:
        return True


@pytest.mark.parametrize(
    ("decision", "event"),
    [
        (Grant(Conditions(max_messages=5)), SessionEstablished),
        (Grant(), SessionEstablished),
        (Deny(), KnockRefused),
        (Deny(Reason.BUSY, 60), KnockRefused),
        (Ask(), KnockReceived),
        (None, KnockRefused),
        (True, KnockRefused),
        ("grant", KnockRefused),
        (Grant, KnockRefused),
        (ValueError(), KnockRefused),
    ],
)
def test_what_a_policy_decides_is_done(decision: Any, event: type) -> None:
    pair = agent_pair(bob_policy=Deciding(decision))
    bundle = pair.bob.publish_bundles(1).one_time[0]
    knock = pair.alice.knock(pair.bob.did, bundle, Intent("x"), early_payload=b"early").envelope
    [came] = pair.bob.receive(knock)
    assert type(came) is event
    if isinstance(came, KnockReceived):
        return
    [verdict] = pair.alice.receive(came.reply)  # type: ignore[union-attr, arg-type]
    if isinstance(came, SessionEstablished):
        assert came.early_payload == b"early"
        assert came.intent == Intent("x")
        assert "'x'" not in repr(came)
        assert isinstance(verdict, SessionEstablished)
        assert verdict.intent is None
        assert verdict.conditions == came.conditions == decision.conditions
    else:
        assert isinstance(came, KnockRefused)
        assert isinstance(verdict, SessionRejected)
        told = decision if isinstance(decision, Deny) else Deny()
        assert (verdict.reason, verdict.retry_after_seconds) == (told.reason, told.retry_after_seconds)
        assert pair.alice.session(pair.bob.did).status.phase is Phase.REJECTED


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_low_stock_is_told_once_until_bundles_are_published() -> None:
    clock = ManualClock()
    agent = Agent.create(MESH, clock=clock, limits=Limits(one_time_bundles_low=3))
    assert agent.poll() == ()
    refs = [
        verify_bundle(bundle, did=agent.did, mesh=MESH, now_ms=clock.now_ms).ref
        for bundle in agent.publish_bundles(10, last_resort=False).one_time
    ]
    assert agent.withdraw_bundles(refs[:8]) == tuple(refs[:8])
    assert agent.poll() == ()  # a fifth of ten is left
    agent.withdraw_bundles(refs[:9])
    assert agent.poll() == (StockLow(unused=1),)
    assert agent.poll() == ()
    agent.publish_bundles(1, last_resort=False)
    assert agent.poll() == ()
    other = Agent.create(MESH, clock=clock)
    other.knock(agent.did, agent.publish_bundles(1, last_resort=False).one_time[0], Intent("x"))
    assert agent.poll() == ()


def test_of_a_large_stock_the_limit_says_when_it_is_low() -> None:
    agent = Agent.create(MESH, clock=ManualClock(), limits=Limits(one_time_bundles_low=3))
    agent.publish_bundles(40, last_resort=False)
    refs = [*agent._core.state.bundles]
    agent.withdraw_bundles(refs[:37])  # three are left, and a fifth of forty is eight
    assert agent.poll() == ()
    agent.withdraw_bundles(refs[:38])
    assert agent.poll() == (StockLow(unused=2),)


def test_a_rotation_is_told_once_when_it_is_due() -> None:
    clock = ManualClock()
    agent = Agent.create(MESH, clock=clock, limits=Limits(one_time_bundles_low=1, last_resort_rotation_seconds=60))
    agent.publish_bundles(1)
    published_at_ms = clock.now_ms
    clock.advance(ms=59_999)
    assert agent.poll() == ()
    assert agent.next_deadline_ms == published_at_ms + 60_000
    clock.advance(ms=1)
    assert agent.poll() == (RotationDue(published_at_ms=published_at_ms),)
    assert agent.poll() == ()
    agent.publish_bundles(1, last_resort=False)
    assert agent.poll() == ()
    agent.publish_bundles(0)
    clock.advance(seconds=60)
    assert agent.poll() == (RotationDue(published_at_ms=published_at_ms + 60_000),)


def test_bundles_go_with_their_time() -> None:
    clock = ManualClock()
    agent = Agent.create(
        MESH,
        clock=clock,
        limits=Limits(one_time_lifetime_seconds=60, last_resort_lifetime_seconds=120, last_resort_rotation_seconds=120),
    )
    agent.publish_bundles(2)
    exported = agent.export_state()
    clock.advance(ms=60_000 + 300_000)
    agent.poll()
    assert agent.export_state() == exported
    clock.advance(ms=1)
    agent.poll()
    assert len(agent._core.state.bundles) == 1
    clock.advance(ms=60_000)
    agent.poll()
    assert agent._core.state.bundles == {}


# --- looking ---------------------------------------------------------------------------------------------------------


def test_an_agent_shows_who_it_is_and_nothing_more() -> None:
    identity = Identity.generate()
    agent = Agent.create(MESH, identity=identity)
    assert (agent.did, agent.key, agent.mesh) == (identity.did, identity.key, MESH)
    assert repr(agent) == str(agent) == f"Agent({identity.did}, mesh={MESH!r}, <redacted>)"
    assert not hasattr(agent, "__dict__")
    with pytest.raises(TypeError):
        pickle.dumps(agent)


def test_a_new_agent_uses_the_systems_clock_and_randomness() -> None:
    alice, bob = Agent.create(MESH), Agent.create(MESH)
    assert alice.did != bob.did
    establish(alice, bob)
    [event] = bob.receive(alice.send(bob.did, b"x"))
    assert isinstance(event, MessageReceived)
    close = alice.close(bob.did).envelope
    [closed, _] = bob.receive(close)
    assert isinstance(closed, PeerClosed)
    assert closed.receipt == OuterEnvelope.parse(close).receipt


def test_pending_envelopes_are_the_same_bytes_again() -> None:
    pair = agent_pair()
    assert pair.alice.pending_envelopes(pair.bob.did) == ()
    knock = pair.alice.knock(pair.bob.did, pair.bob.publish_bundles(1).one_time[0], Intent("x")).envelope
    assert [waiting.envelope for waiting in pair.alice.pending_envelopes(pair.bob.did)] == [knock]
    [event] = pair.bob.receive(pair.alice.pending_envelopes(pair.bob.did)[0])
    assert isinstance(event, KnockReceived)
    pair.alice.receive(pair.bob.accept(event).envelope)
    assert pair.alice.pending_envelopes(pair.bob.did) == ()


def test_looking_changes_nothing() -> None:
    pair = established_pair()
    before = pair.alice.export_state()
    pair.alice.sessions(pair.bob.did)
    pair.alice.session(pair.bob.did)
    pair.alice.pending_knocks()
    pair.alice.pending_envelopes(pair.bob.did)
    _ = pair.alice.next_deadline_ms
    pair.alice.sessions(Identity.generate().did)
    assert pair.alice.export_state() == before


# --- errors ----------------------------------------------------------------------------------------------------------


def leaves(kind: type[AgentMeshError]) -> list[type[AgentMeshError]]:
    below = kind.__subclasses__()
    return [kind] if not below else [leaf for one in below for leaf in leaves(one)]


def test_an_error_crosses_to_another_process_with_its_notes() -> None:
    for error in (ArgumentInvalid("did"), GapTooLarge(bytes(16)), GapTooLarge(), NoSession()):
        error.add_note("said by the caller")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), getattr(again, "argument", None)) == (str(error), getattr(error, "argument", None))
        assert getattr(again, "session_id", None) == getattr(error, "session_id", None)


def test_what_a_facade_call_raises_for_the_caller_is_local() -> None:
    agent = Agent.create(MESH)
    with pytest.raises(LocalError):
        agent.send(Identity.generate().did, b"x")
    assert all(leaf.code.count(".") >= 1 and leaf.text and leaf.hint for leaf in leaves(AgentMeshError))


# --- the interface ---------------------------------------------------------------------------------------------------


def test_the_example_in_its_docstring_runs() -> None:
    found = doctest.DocTestFinder(recurse=False).find(Agent, "Agent", globs=vars(agentmesh))
    assert sum(len(test.examples) for test in found) >= 5
    for test in found:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_the_package_shows_its_public_names_alone() -> None:
    assert dir(agentmesh) == sorted(agentmesh.__all__)
    assert all(hasattr(agentmesh, name) for name in agentmesh.__all__)
    # What stands in a public signature can be named by whoever calls it.
    public = set(agentmesh.__all__)
    named: set[str] = set()
    for _, member in inspect.getmembers(Agent):
        if inspect.isroutine(member) and not member.__name__.startswith("_"):
            named |= set(re.findall(r"\b[A-Z][A-Za-z]+", str(inspect.signature(member))))
    internal = {
        "None",
        "True",
        "False",
        "POLICY",
        "AbstractContextManager",
        "BytesLike",
        "Checkpoint",
        "AuditLog",
        "Events",
        "Iterable",
    }  # of a room of their own, or an alias
    assert named - internal <= public


# --- what an agent is made with --------------------------------------------------------------------------------------


class Empty:
    """Falsy, as an allow list is that holds nobody at the moment."""

    def __len__(self) -> int:
        return 0


class NobodyYet(Empty):
    """A policy that denies."""

    def may_knock(self, _sender: object) -> bool:
        return True

    def decide(self, _knock: object) -> Deny:
        return Deny()

    def still_allowed(self, _peer: object) -> bool:
        return True


class Drawing(Empty, SystemEntropy):
    """A source of randomness that counts what is drawn."""

    drawn = 0

    def token(self, size: int, /) -> bytes:
        self.drawn += 1
        return super().token(size)


class Told(Empty):
    """A journal."""

    told = 0

    def commit(self, _changes: object, _records: object, /) -> None:
        self.told += 1


@pytest.mark.parametrize("restored", [False, True])
def test_what_is_falsy_is_not_taken_for_nothing(restored: bool) -> None:
    policy, entropy, journal = NobodyYet(), Drawing(), Told()
    given: dict[str, Any] = {"policy": policy, "entropy": entropy, "journal": journal}
    bob = Agent.create("example/test", **given)
    if restored:
        bob = Agent.restore(bob.export_state(), **given)
    before = entropy.drawn
    alice = Agent.create("example/test")
    bundle = bob.publish_bundles(1).one_time[0]
    assert entropy.drawn > before
    [event] = bob.receive(alice.knock(bob.did, bundle, Intent("x")))
    assert isinstance(event, KnockRefused)  # and nobody was asked
    assert journal.told == 2


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize(
    ("argument", "value", "why"),
    [
        ("policy", AskApplication, "a class, not an instance: call it"),
        ("entropy", SystemEntropy, "a class, not an instance: call it"),
        ("clock", lambda: 1_767_225_600, "seconds, not milliseconds since the epoch"),
        ("policy", AdmissionPolicy(revocations=RevocationList("example/elsewhere")), ""),
    ],
)
def test_what_an_agent_cannot_be_made_with(restored: bool, argument: str, value: Any, why: str) -> None:
    exported = Agent.create("example/test").export_state()
    make = partial(Agent.restore, exported) if restored else partial(Agent.create, "example/test")
    with pytest.raises(ArgumentInvalid) as caught:
        make(**{argument: value})
    assert caught.value.argument == argument
    assert not why or caught.value.why == why


def test_an_agent_is_made_only_where_the_cryptography_works(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = Agent.create("example/test").export_state()

    def unfit() -> None:
        raise BackendUnfit("ML-KEM-768")

    monkeypatch.setattr(guard, "check_backend", unfit)
    for make in (lambda: Agent.create("example/test"), lambda: Agent.restore(exported)):
        with pytest.raises(BackendUnfit):
            make()


def test_an_agent_gives_its_identity_and_nothing_prints_of_it() -> None:
    made = Agent.create("example/test")
    for agent in (made, Agent.restore(made.export_state())):
        assert agent.identity.key == agent.key
        assert agent.identity.seed.reveal().hex() not in f"{agent.identity!r} {agent.identity} {agent!r}"
    again = Agent.create("example/test", identity=Identity.from_seed(made.identity.seed.reveal()))
    assert again.did == made.did
