"""One message to many, against what breaks it off, never ends, or does not fit."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from agentmesh import Agent, AskApplication, Attachment, Identity, Intent, Limits, MessageReceived
from agentmesh.audit import AuditJournal, AuditLog, Finding, MemorySink, compare
from agentmesh.audit.record import AuditEvent, Record, decode_entry
from agentmesh.engine import many as engine_many
from agentmesh.errors import ArgumentInvalid, NoSession
from agentmesh.primitives.keys import AttachmentKey, Receipt
from agentmesh.testing import ManualClock, SeededEntropy

MESH = "example/many"


def named(number: int = 0, where: str = "") -> Attachment:
    key, receipt = AttachmentKey(bytes([number]) * 32), Receipt(bytes([number]) * 32)
    return Attachment(key=key, receipt=receipt, size=1000, chunk_exponent=18, where=where)


def talking(alice: Agent, bob: Agent) -> None:
    [asked] = bob.receive(alice.knock(bob.did, bob.publish_bundles(one_time=1).one_time[0], Intent("test")).envelope)
    alice.receive(bob.accept(asked).envelope)


def told(agent: Agent, envelope: bytes) -> MessageReceived:
    [event] = agent.receive(envelope)
    assert isinstance(event, MessageReceived)
    return event


def test_endless_names_are_refused_in_bounded_time() -> None:
    alice = Agent.create(MESH, limits=Limits(sessions_max=20))
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield Identity.generate().did

    before = alice.export_state()
    with pytest.raises(ArgumentInvalid) as refused:
        alice.send_many(endless(), b"data")
    assert (refused.value.argument, taken) == ("dids", 21)
    assert alice.export_state() == before


def test_attachments_that_have_no_room_beside_the_data_are_refused_where_they_are_sent() -> None:
    limits = Limits(plaintext_max_bytes=1000, intent_detail_max_bytes=100, capabilities_max=1, envelope_max_bytes=6000)
    alice, bob = Agent.create(MESH, limits=limits), Agent.create(MESH, limits=limits)
    talking(alice, bob)
    attachments = [named(number, "w" * 2048) for number in range(16)]
    before = alice.export_state()
    for call in (
        lambda: alice.send(bob.did, b"data", attachments=attachments),
        lambda: alice.send_many([bob.did], b"data", attachments=attachments),
    ):
        with pytest.raises(ArgumentInvalid) as refused:
            call()
        assert refused.value.argument == "attachments"
    assert alice.export_state() == before
    for number in range(1, 3):
        sealed = alice.send(bob.did, b"x" * 1000, attachments=attachments[:number])
        assert told(bob, sealed.envelope).attachments == tuple(attachments[:number])


def test_one_peer_that_cannot_be_sent_to_changes_nothing_of_the_others() -> None:
    """What each gets is what `send` would have made, in its order, whoever failed before and behind it."""
    clock = ManualClock()
    alice = Agent.create(MESH, clock=clock)
    peers = [Agent.create(MESH, clock=clock) for _ in range(3)]
    for peer in peers:
        talking(alice, peer)
    alice.drop(peers[1].did, alice.sessions(peers[1].did)[0].session_id)
    exported = alice.export_state()
    [first, second, third] = alice.send_many([peer.did for peer in peers], b"all", attachments=[named()]).results
    assert isinstance(second.error, NoSession)
    after = alice.export_state()
    again = Agent.restore(exported, clock=clock)
    for one, peer in ((first, peers[0]), (third, peers[2])):
        assert one.sealed is not None
        alone = again.send(peer.did, b"all", attachments=[named()])
        assert (alone.number, len(alone.envelope)) == (one.sealed.number, len(one.sealed.envelope))
        assert told(peer, one.sealed.envelope).attachments == (named(),)
    assert len(again.export_state()) == len(after)


# --- broken off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reliable", [False, True])
def test_a_call_that_is_broken_off_has_sent_to_all_or_to_nobody(reliable: bool, interrupts: ModuleType) -> None:
    clock = ManualClock()
    alice = Agent.create(MESH, clock=clock, reliable=reliable)
    peers = [Agent.create(MESH, clock=clock) for _ in range(2)]
    for peer in peers:
        talking(alice, peer)
    for waiting in alice.outbox() if reliable else ():
        alice.forget(waiting)
    dids = [peers[0].did, Identity.generate().did, peers[1].did]
    exported = alice.export_state()
    peers_exported = [peer.export_state() for peer in peers]

    def make() -> Any:
        log = AuditLog(MemorySink())
        journal = AuditJournal(log)
        agent = Agent.restore(exported, clock=clock, entropy=SeededEntropy("many"), journal=journal, reliable=reliable)
        return agent, log

    def call(made: Any) -> Any:
        return made[0].send_many(dids, b"all", attachments=[named()])

    rooms = ("engine/many.py", "engine/seam.py", "engine/delivery.py", "engine/conversing.py", "agent.py")
    outcomes = set()
    for agent, log in interrupts.each(make, call, rooms=rooms):
        state_then = agent.export_state()  # the next call finds out what became of the one that was broken off
        records = [decode_entry(entry)[2].event for entry in log.entries()]
        sealed = records.count(AuditEvent.MESSAGE_SEALED)
        assert sealed == records.count(AuditEvent.ATTACHMENT_NAMED)
        assert sealed in {0, 2}
        sent = sum(held.data_sent for held in agent._core.state.sessions.values())
        assert sent == sealed
        if reliable:
            assert len([one for one in agent.outbox() if one.did in dids]) == sealed
        outcomes.add(sealed)
        assert Agent.restore(state_then, clock=clock, reliable=reliable).did == agent.did
        again = agent.send_many(dids, b"all", attachments=[named()])
        for state, one in zip(peers_exported, (again.results[0], again.results[2]), strict=True):
            assert one.sealed is not None
            peer = Agent.restore(state, clock=clock)
            assert told(peer, one.sealed.envelope).plaintext == b"all"
    assert 0 in outcomes


class Shut(AskApplication):
    """Nobody may be sent to."""

    def still_allowed(self, _peer: object, /) -> bool:
        return False


def test_a_refusal_is_counted_once_where_the_call_was_broken_off_behind_it(interrupts: ModuleType) -> None:
    clock = ManualClock()
    alice = Agent.create(MESH, clock=clock)
    peers = [Agent.create(MESH, clock=clock) for _ in range(2)]
    for peer in peers:
        talking(alice, peer)
    exported = alice.export_state()

    def make() -> Any:
        sink = MemorySink()
        agent = Agent.restore(exported, clock=clock, policy=Shut(), journal=AuditJournal(AuditLog(sink)))
        return agent, sink

    def counts(made: Any) -> list[int]:
        made[0].record_refusals()
        return sorted(decode_entry(entry)[2].count for entry in made[1].entries())

    def call(made: Any) -> Any:
        return made[0].send_many([peer.did for peer in peers], b"all")

    seen = {tuple(counts(made)) for made in interrupts.each(make, call, rooms=("engine/many.py",), lines=True)}
    # The one that was being counted may be counted twice; the one behind it never is.
    assert seen <= {(), (1, 1), (1, 2)}
    assert (1, 1) in seen


@pytest.mark.parametrize("many", [False, True])
def test_what_says_that_it_equals_nothing_is_asked_for_its_attachments(many: bool) -> None:
    class Same(list[Any]):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    alice, bob = Agent.create(MESH), Agent.create(MESH)
    talking(alice, bob)
    send: Any = (
        (lambda given: alice.send_many([bob.did], b"x", attachments=given))
        if many
        else (lambda given: alice.send(bob.did, b"x", attachments=given))
    )
    with pytest.raises(ArgumentInvalid):
        send(Same(["no attachment"]))


def test_what_is_raised_behind_a_sealing_leaves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not a peer's ends the call, and nobody was sent to: those before it included."""
    alice = Agent.create(MESH)
    peers = [Agent.create(MESH) for _ in range(3)]
    for peer in peers:
        talking(alice, peer)
    before = alice.export_state()
    send = engine_many.conversing.send
    calls = 0

    def breaking(*arguments: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return send(*arguments, **given)

    with monkeypatch.context() as patched:
        patched.setattr(engine_many.conversing, "send", breaking)
        with pytest.raises(MemoryError):
            alice.send_many([peer.did for peer in peers], b"all")
    assert alice.export_state() == before
    for peer, one in zip(peers, alice.send_many([peer.did for peer in peers], b"all").results, strict=True):
        assert one.sealed is not None
        assert told(peer, one.sealed.envelope).number == 1


# --- what two logs say of attachments --------------------------------------------------------------------------------


class Logged:
    """Two agents that talk, and what each of them recorded."""

    def __init__(self) -> None:
        self.clock, self.sinks = ManualClock(), (MemorySink(), MemorySink())
        self.alice, self.bob = (
            Agent.create(MESH, clock=self.clock, journal=AuditJournal(AuditLog(sink))) for sink in self.sinks
        )
        talking(self.alice, self.bob)

    def found(self, changed: Callable[[list[Record]], list[Record]] = list) -> list[tuple[Finding, bytes]]:
        """What a comparison finds, where Bob's log is changed."""
        ours, theirs = ([decode_entry(entry)[2] for entry in sink.entries()] for sink in self.sinks)
        found = compare(self.alice.did, ours, self.bob.did, changed(theirs)).found
        return [(one.finding, one.receipt) for one in found]


def changed(record: Record, **fields: Any) -> Record:
    return Record(**{**{name: getattr(record, name) for name in Record.__slots__}, **fields})


def test_a_message_made_anew_after_a_crash_accuses_nobody_of_what_the_lost_one_named() -> None:
    logged = Logged()
    exported = logged.alice.export_state()
    logged.alice.send(logged.bob.did, b"lost with the state", attachments=[named(1), named(2)])
    logged.clock.advance(ms=5)
    again = Agent.restore(exported, clock=logged.clock, journal=AuditJournal(AuditLog(logged.sinks[0])))
    told(logged.bob, again.send(logged.bob.did, b"made anew", attachments=[named(2)]).envelope)
    assert logged.found() == []


def test_a_message_opened_twice_after_a_crash_names_nothing_more() -> None:
    logged = Logged()
    sealed = logged.alice.send(logged.bob.did, b"data", attachments=[named(1)])
    exported = logged.bob.export_state()
    told(logged.bob, sealed.envelope)
    again = Agent.restore(exported, clock=logged.clock, journal=AuditJournal(AuditLog(logged.sinks[1])))
    told(again, sealed.envelope)
    assert logged.found() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda named: named[1:],
        lambda named: [*named, named[-1]],
        lambda named: [named[0], named[2], *named[2:]],
        lambda named: named[::-1],
        lambda named: [changed(named[0], envelope_time_ms=named[0].envelope_time_ms + 1), *named[1:]],
        lambda named: [changed(named[0], mesh="example/other"), *named[1:]],
        lambda named: [changed(named[0], size_bytes=1), *named[1:]],
        lambda named: [changed(named[0], receipt=Receipt(bytes(32))), *named[1:]],
    ],
    ids=["fewer", "more", "another number", "another order", "time", "mesh", "size", "receipt"],
)
def test_what_two_logs_say_of_one_message_agrees_in_all_but_the_time_of_saying(change: Any) -> None:
    logged = Logged()
    sealed = logged.alice.send(logged.bob.did, b"data", attachments=[named(1), named(1), named(2), named(3)])
    logged.clock.advance(ms=777)
    told(logged.bob, sealed.envelope)
    assert logged.found() == []

    def lying(records: list[Record]) -> list[Record]:
        naming = [one for one in records if one.event is AuditEvent.ATTACHMENT_NAMED]
        return [one for one in records if one.event is not AuditEvent.ATTACHMENT_NAMED] + change(naming)

    kinds = {finding for finding, _ in logged.found(lying)}
    assert kinds == {Finding.NAMED_BY_ONE}
