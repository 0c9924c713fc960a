"""Attachments in messages, and one message to many: what leaves, what comes, what is recorded, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    Attachment,
    Grant,
    Identity,
    Intent,
    Limits,
    MessageReceived,
    UnknownReference,
)
from agentmesh.audit import AuditEvent, AuditJournal, AuditLog, Finding, MemorySink, compare, verify_disclosure
from agentmesh.audit.record import Record, decode_entry
from agentmesh.errors import (
    ArgumentInvalid,
    BatchOpen,
    ConditionNotMet,
    MessageRefused,
    NoSession,
    OutboxFull,
    PeerNotAllowed,
    StoreFailed,
)
from agentmesh.handshake.verdict import Conditions
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import AttachmentKey, Receipt
from agentmesh.session.content import pad_data
from agentmesh.store import MemoryStore
from agentmesh.testing import ManualClock

MESH = "example/naming"


def named(number: int = 0, **given: Any) -> Attachment:
    key, receipt = AttachmentKey(bytes([number]) * 32), Receipt(bytes([255 - number]) * 32)
    return Attachment(key=key, receipt=receipt, **{"size": 1000 + number, "chunk_exponent": 18, **given})


def talking(alice: Agent, bob: Agent, conditions: Conditions | None = None) -> None:
    bundle = bob.publish_bundles(one_time=1, last_resort=False).one_time[0]
    [asked] = bob.receive(alice.knock(bob.did, bundle, Intent("test")).envelope)
    alice.receive(bob.accept(asked, *([] if conditions is None else [conditions])).envelope)  # type: ignore[arg-type]


def opened(agent: Agent, envelope: bytes) -> MessageReceived:
    events = agent.receive(envelope)
    assert isinstance(events[0], MessageReceived)
    return events[0]


def pair(**given: Any) -> tuple[Agent, Agent]:
    alice, bob = Agent.create(MESH, **given), Agent.create(MESH, **given)
    talking(alice, bob)
    return alice, bob


def records_of(log: AuditLog) -> list[Record]:
    return [decode_entry(entry)[2] for entry in log.entries()]


def replaced(record: Record, **changed: Any) -> Record:
    fields = {name: getattr(record, name) for name in Record.__slots__}
    return Record(**{**fields, **changed})


# --- attachments in a message ----------------------------------------------------------------------------------------


@given(st.integers(0, 16), st.binary(max_size=2000))
def test_what_is_named_comes_in_its_order(count: int, data: bytes) -> None:
    alice, bob = pair()
    attachments = [named(number, name=f"part {number}", where="x" * (number * 100)) for number in range(count)]
    event = opened(bob, alice.send(bob.did, data, attachments=iter(attachments)).envelope)
    assert event.plaintext == data
    assert list(event.attachments) == attachments
    assert [one.name for one in event.attachments if isinstance(one, Attachment)] == [one.name for one in attachments]


def test_a_message_without_attachments_is_the_one_that_it_was() -> None:
    alice, bob = pair()
    with_none = alice.send(bob.did, b"data", attachments=[])
    assert len(with_none.envelope) == len(alice.send(bob.did, b"data").envelope)
    assert opened(bob, with_none.envelope).attachments == ()


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        1,
        "reference",
        named().encode(),
        [named().encode()],
        [named(), None],
        [named(number) for number in range(17)],
    ],
    ids=["None", "a number", "text", "bytes", "encoded", "None among them", "17"],
)
def test_what_is_no_attachment_is_refused(wrong: Any) -> None:
    alice, bob = pair()
    before = alice.export_state()
    for call in (
        lambda: alice.send(bob.did, b"data", attachments=wrong),
        lambda: alice.send_many([bob.did], b"data", attachments=wrong),
    ):
        with pytest.raises(ArgumentInvalid):
            call()
    assert alice.export_state() == before


def test_endless_attachments_are_refused_in_bounded_time() -> None:
    alice, bob = pair()

    def endless() -> Any:
        while True:
            yield named()

    with pytest.raises(ArgumentInvalid):
        alice.send(bob.did, b"data", attachments=endless())


def test_a_kind_that_is_not_known_is_handed_up() -> None:
    alice, bob = pair()
    encoded = _wire.encode([2, b"of a later release"])

    class Later:
        def encode(self) -> bytes:
            return encoded

    session = next(iter(alice._core.state.sessions.values()))
    sealed = _crafted(alice, pad_data(1, b"", b"data", references=[encoded]))
    del session
    event = opened(bob, sealed)
    [reference] = event.attachments
    assert isinstance(reference, UnknownReference)
    assert (reference.kind, reference.encode()) == (2, encoded)


def test_a_reference_that_is_none_costs_its_message_alone() -> None:
    alice, bob = pair()
    before = bob.export_state()
    with pytest.raises(MessageRefused):
        bob.receive(_crafted(alice, pad_data(1, b"", b"data", references=[b"\x90"])))
    assert bob.export_state() == before
    assert opened(bob, alice.send(bob.did, b"next").envelope).plaintext == b"next"


def _crafted(agent: Agent, padded: bytes) -> bytes:
    """Return an envelope of an agent that lies: sealed with its keys, over a plaintext of one's own."""
    from agentmesh.session import sealing
    from agentmesh.session.established import Session

    [session] = [one for one in agent._core.state.sessions.values() if isinstance(one, Session)]
    sealed, sent = sealing._seal(session, padded, 1, agent._core.now_ms(), agent._core.entropy, 1)
    sent.apply()
    return sealed.envelope


# --- kept, recorded --------------------------------------------------------------------------------------------------


def test_what_is_named_is_there_after_a_restart() -> None:
    alice, bob = pair(reliable=True)
    attachments = (named(1, name="one"), named(2, where="somewhere"))
    opened(bob, alice.send(bob.did, b"data", attachments=attachments).envelope)
    opened(bob, alice.send(bob.did, b"more").envelope)
    again = Agent.restore(bob.export_state())
    events = [event for event in again.inbox() if isinstance(event, MessageReceived)]
    assert [event.attachments for event in events] == [attachments, ()]
    assert again.export_state() == bob.export_state()
    with MemoryStore(key=bytes(32)) as store:
        kept = store.open_agent(MESH, exported=bob.export_state())
        assert [one.attachments for one in kept.inbox() if isinstance(one, MessageReceived)] == [attachments, ()]


def test_what_a_peer_names_fills_its_share_of_the_inbox() -> None:
    limits = Limits(inbox_max_bytes=4 * 20_000)
    alice, bob = Agent.create(MESH), Agent.create(MESH, reliable=True, limits=limits)
    talking(alice, bob)
    from agentmesh.errors import InboxFull

    large = [named(number, where="x" * 2000) for number in range(8)]
    opened(bob, alice.send(bob.did, b"", attachments=large).envelope)
    with pytest.raises(InboxFull):
        bob.receive(alice.send(bob.did, b"", attachments=large).envelope)


def test_each_attachment_is_recorded_on_both_sides_by_its_receipt() -> None:
    clock, sinks = ManualClock(), (MemorySink(), MemorySink())
    logs = [AuditLog(sink) for sink in sinks]
    alice, bob = (Agent.create(MESH, clock=clock, journal=AuditJournal(log)) for log in logs)
    talking(alice, bob)
    attachments = [named(1), named(2, size=10**9, name="secret name")]
    sealed = alice.send(bob.did, b"data", attachments=attachments)
    clock.advance(ms=777)
    bob.receive(sealed.envelope)
    for log, at_ms in zip(logs, (clock.now_ms - 777, clock.now_ms), strict=True):
        records = records_of(log)
        found = [one for one in records if one.event is AuditEvent.ATTACHMENT_NAMED]
        assert [one.receipt for one in found] == [one.receipt for one in attachments]
        assert [one.size_bytes for one in found] == [one.blob_bytes for one in attachments]
        message = records[records.index(found[0]) - 1]
        for one in found:
            assert (one.sender, one.recipient) == (alice.did, bob.did)
            assert (one.session_id, one.number, one.envelope_time_ms) == (
                message.session_id,
                message.number,
                message.envelope_time_ms,
            )
            assert (one.at_ms, one.reason, one.count) == (at_ms, "", 1)
        assert message.receipt == sealed.receipt
        assert not any(
            secret in entry for entry in log.entries() for secret in (b"secret name", attachments[0].key.reveal())
        )
    ours, theirs = map(records_of, logs)
    assert not compare(alice.did, ours, bob.did, theirs).found
    # What one of them left out, or says otherwise, is found.
    for other in (theirs[:-1], [*theirs[:-1], replaced(theirs[-1], size_bytes=1)]):
        kinds = {one.finding for one in compare(alice.did, ours, bob.did, other).found}
        assert kinds == {Finding.NAMED_BY_ONE}


def test_whoever_is_shown_a_message_is_shown_what_it_names() -> None:
    log = AuditLog(MemorySink())
    alice, bob = Agent.create(MESH, journal=AuditJournal(log)), Agent.create(MESH)
    talking(alice, bob)
    sealed = alice.send(bob.did, b"data", attachments=[named(1), named(2)], disclosable=True)
    assert sealed.disclosure is not None
    [record] = [one for one in records_of(log) if one.event is AuditEvent.MESSAGE_SEALED]
    disclosed = verify_disclosure(sealed.envelope, sealed.disclosure, record)
    assert (disclosed.data, disclosed.attachments) == (b"data", (named(1), named(2)))
    assert named(1).key.reveal().hex() not in repr(disclosed)


# --- to many ---------------------------------------------------------------------------------------------------------


class Blocking:
    """Lets everybody in, and forgets some."""

    def __init__(self) -> None:
        self.blocked: set[bytes] = set()

    def may_knock(self, _sender: object, /) -> bool:
        return True

    def decide(self, _knock: object, /) -> Grant:
        return Grant()

    def still_allowed(self, peer: Any, /) -> bool:
        return peer.raw not in self.blocked


def test_each_of_many_gets_a_message_or_there_is_an_error() -> None:
    policy = Blocking()
    alice = Agent.create(MESH, reliable=True, policy=policy)
    bob, carol, dave = (Agent.create(MESH) for _ in range(3))
    for peer in (bob, carol):
        talking(alice, peer)
    talking(alice, dave, Conditions(max_messages=0))
    stranger = Identity.generate().did
    policy.blocked.add(carol.key.raw)
    many = alice.send_many([stranger, bob.did, carol.did, dave.did], b"all", label=b"row 1", attachments=[named()])
    assert [one.did for one in many.results] == [stranger, bob.did, carol.did, dave.did]
    errors = [type(one.error) for one in many.results]
    assert errors == [NoSession, type(None), PeerNotAllowed, ConditionNotMet]
    assert [one.did for one in many.failed] == [stranger, carol.did, dave.did]
    assert all(one.error is None or one.error.__traceback__ is None for one in many.results)
    sealed = many.results[1].sealed
    assert sealed is not None
    event = opened(bob, sealed.envelope)
    assert (event.plaintext, event.attachments) == (b"all", (named(),))
    [waiting] = [one for one in alice.outbox() if one.did == bob.did and one.label]
    assert (waiting.envelope, waiting.label) == (sealed.envelope, b"row 1")


def test_many_are_one_commit_and_its_records() -> None:
    class Counting:
        def __init__(self) -> None:
            self.commits: list[tuple[int, tuple[Record, ...]]] = []

        def commit(self, changes: Any, records: tuple[Record, ...], /) -> None:
            self.commits.append((len(changes), records))

    journal = Counting()
    alice = Agent.create(MESH, journal=journal)
    peers = [Agent.create(MESH) for _ in range(10)]
    for peer in peers:
        talking(alice, peer)
    journal.commits.clear()
    many = alice.send_many([peer.did for peer in peers], b"all", attachments=[named()])
    [(changes, records)] = journal.commits
    assert changes == 10
    assert [str(record.event) for record in records] == ["message.sealed", "attachment.named"] * 10
    for peer, one in zip(peers, many.results, strict=True):
        assert one.sealed is not None
        assert opened(peer, one.sealed.envelope).number == 1


def test_a_journal_that_fails_sends_to_nobody() -> None:
    class Failing:
        fails = False

        def commit(self, _changes: Any, _records: Any, /) -> None:
            if self.fails:
                raise StoreFailed

    journal = Failing()
    alice, bob = Agent.create(MESH, journal=journal), Agent.create(MESH)
    talking(alice, bob)
    before, journal.fails = alice.export_state(), True
    with pytest.raises(StoreFailed):
        alice.send_many([bob.did], b"all")
    assert alice.export_state() == before


def test_no_peer_stands_twice() -> None:
    alice, bob = pair()
    before = alice.export_state()
    for wrong in ([bob.did, bob.did], [bob.did, "did:agentmesh:"], bob.did, [None], None, [b"x"]):
        with pytest.raises(ArgumentInvalid):
            alice.send_many(wrong, b"all")  # type: ignore[arg-type]
    assert alice.export_state() == before
    assert alice.send_many([], b"to nobody").results == ()


def test_a_full_outbox_stops_those_that_have_no_room() -> None:
    alice = Agent.create(MESH, reliable=True, limits=Limits(outbox_max_envelopes=3))
    peers = [Agent.create(MESH) for _ in range(5)]
    for peer in peers:
        talking(alice, peer)
    many = alice.send_many([peer.did for peer in peers], b"all")
    assert [type(one.error) for one in many.results] == [type(None)] * 3 + [OutboxFull] * 2
    assert [one.did for one in alice.outbox()] == [peer.did for peer in peers[:3]]
    for one in alice.outbox():
        alice.sent(one.receipt, final=True)
    again = alice.send_many([peer.did for peer in peers[3:]], b"all")
    assert not again.failed
    for peer, one in zip(peers[3:], again.results, strict=True):
        assert one.sealed is not None
        assert opened(peer, one.sealed.envelope).number == 1  # what was not sent has used up no number


def test_in_a_batch_nothing_of_many_can_be_read() -> None:
    alice, bob = pair(reliable=True)
    with alice.batch():
        many = alice.send_many([bob.did], b"all")
        for read in (lambda: many.results, lambda: many.failed):
            with pytest.raises(BatchOpen):
                read()
        assert repr(many) == "SentMany(<withheld>)"
    [one] = many.results
    assert one.sealed is not None
    assert opened(bob, one.sealed.envelope).plaintext == b"all"


def test_a_call_to_many_that_is_made_again_gives_the_same() -> None:
    """A call that was broken off behind its commit returns, made again, what it was to return."""
    alice, bob = pair()

    class Broken(Exception):
        pass

    seam = alice._seam
    original: Callable[..., Any] = type(seam)._apply

    def broken(self: Any, step: Any) -> None:
        original(self, step)
        raise Broken

    type(seam)._apply = broken  # type: ignore[method-assign]
    try:
        with pytest.raises(Broken):
            alice.send_many([bob.did], b"all")
    finally:
        type(seam)._apply = original  # type: ignore[method-assign]
    again = alice.send_many([bob.did], b"all")
    [one] = again.results
    assert one.sealed is not None
    assert one.sealed.number == 1
    assert opened(bob, one.sealed.envelope).number == 1
