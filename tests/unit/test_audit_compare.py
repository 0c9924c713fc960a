"""Sender's, relay's and recipient's logs held against one another: exactly what happened is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh import Agent, BundleClass, Identity, Intent, KnockReceived
from agentmesh.audit import (
    AuditEvent,
    AuditJournal,
    AuditLog,
    Comparison,
    Finding,
    MemorySink,
    Outcome,
    Record,
    compare,
    owner_of,
    verified_records,
)
from agentmesh.envelope import OuterEnvelope, receipt_of
from agentmesh.errors import ArgumentInvalid, BadDid, RemoteError
from agentmesh.relay import relay_record
from agentmesh.testing import ManualClock, SeededEntropy

MESH = "example/test"
MINUTE_MS = 60_000


class Party:
    def __init__(self, name: str, clock: ManualClock) -> None:
        self.log = AuditLog(MemorySink())
        self.agent = Agent.create(
            MESH,
            identity=Identity.generate(SeededEntropy(name)),
            clock=clock,
            entropy=SeededEntropy(f"{name}/session"),
            journal=AuditJournal(self.log),
        )

    def records(self) -> list[Record]:
        return list(verified_records(self.log.entries()))


@define
class Mail:
    """Alice and Bob, a session that Alice began, and a relay with a log of its own."""

    clock: ManualClock = field(factory=ManualClock)
    alice: Party = field(init=False)
    bob: Party = field(init=False)
    relay: AuditLog = field(factory=lambda: AuditLog(MemorySink()))

    def __attrs_post_init__(self) -> None:
        self.alice, self.bob = Party("alice", self.clock), Party("bob", self.clock)
        alice, bob = self.alice.agent, self.bob.agent
        knock = alice.knock(bob.did, bob.publish_bundles(2, last_resort=False).one_time[0], Intent("test")).envelope
        self.see(knock)
        [event] = bob.receive(knock)
        assert isinstance(event, KnockReceived)
        reply = bob.accept(event).envelope
        self.see(reply)
        alice.receive(reply)

    def see(self, envelope: Any) -> None:
        self.relay.append([relay_record(OuterEnvelope.parse(bytes(envelope)), at_ms=self.clock())])

    def send(self, count: int) -> list[bytes]:
        sent = []
        for number in range(count):
            self.clock.advance(ms=3)
            sent.append(self.alice.agent.send(self.bob.agent.did, b"%d" % number).envelope)
        return sent

    def deliver(self, envelope: bytes) -> None:
        with suppress(RemoteError):
            self.bob.agent.receive(envelope)

    def end(self) -> None:
        """Let the minute end, so that refusals are in the log."""
        self.clock.advance(ms=MINUTE_MS)
        self.bob.agent.poll()

    def compare(self, *, relay: bool = True, **altered: list[Record]) -> Comparison:
        self.end()
        return compare(
            self.alice.agent.did,
            altered.get("sender", self.alice.records()),
            self.bob.agent.did,
            altered.get("recipient", self.bob.records()),
            altered.get("seen", list(verified_records(self.relay.entries()))) if relay else None,
        )


def found(result: Comparison) -> set[tuple[Finding, bytes]]:
    findings = [(one.finding, bytes(one.receipt)) for one in result.found]
    assert len(findings) == len(set(findings))
    return set(findings)


def of(envelope: bytes, *findings: Finding) -> set[tuple[Finding, bytes]]:
    return {(finding, bytes(receipt_of(envelope))) for finding in findings}


# --- one thing at a time ----------------------------------------------------------------------------------------------


def test_what_arrived_is_matched() -> None:
    mail = Mail()
    for envelope in mail.send(4):
        mail.see(envelope)
        mail.deliver(envelope)
    for relay in (False, True):
        result = mail.compare(relay=relay)
        assert result.found == ()
        assert result.matched == 5  # the KNOCK too
        assert result.opened_order == (0, 1, 2, 3, 4)
        assert result.seen_order == ((0, 1, 2, 3, 4) if relay else ())
        assert result.in_order
    # And back: Bob's ACCEPT.
    back = compare(mail.bob.agent.did, mail.bob.records(), mail.alice.agent.did, mail.alice.records())
    assert (back.found, back.matched) == ((), 1)


def test_lost_on_the_way_to_the_relay() -> None:
    mail = Mail()
    lost, other = mail.send(2)
    mail.see(other)
    mail.deliver(other)
    assert found(mail.compare()) == of(lost, Finding.SENT_NOT_SEEN, Finding.SENT_NOT_OPENED)
    assert found(mail.compare(relay=False)) == of(lost, Finding.SENT_NOT_OPENED)


def test_dropped_by_the_relay() -> None:
    mail = Mail()
    dropped, other = mail.send(2)
    for envelope in (dropped, other):
        mail.see(envelope)
    mail.deliver(other)
    assert found(mail.compare()) == of(dropped, Finding.SEEN_NOT_OPENED, Finding.SENT_NOT_OPENED)


def test_carried_past_the_relays_log() -> None:
    mail = Mail()
    [envelope] = mail.send(1)
    mail.deliver(envelope)
    assert found(mail.compare()) == of(envelope, Finding.SENT_NOT_SEEN, Finding.OPENED_NOT_SEEN)


def test_replayed_by_the_relay() -> None:
    mail = Mail()
    [envelope] = mail.send(1)
    for _ in range(3):
        mail.see(envelope)
        mail.deliver(envelope)
    result = mail.compare()
    assert result.found == ()
    assert [(one.finding, one.receipt, one.record.reason, one.record.count) for one in result.copies] == [
        (Finding.SEEN_TWICE, receipt_of(envelope), "message", 1),
        (Finding.SEEN_TWICE, receipt_of(envelope), "message", 1),
        (Finding.COPY_REFUSED, receipt_of(envelope), "message.duplicate", 2),
    ]
    assert result.matched == 2


def test_altered_on_the_way() -> None:
    mail = Mail()
    [envelope] = mail.send(1)
    altered = envelope[:-1] + bytes([envelope[-1] ^ 1])
    mail.see(envelope)
    mail.deliver(altered)
    assert found(mail.compare()) == of(envelope, Finding.SEEN_NOT_OPENED, Finding.SENT_NOT_OPENED) | of(
        altered, Finding.REFUSED_NOT_SENT
    )


def test_forged_in_the_senders_name() -> None:
    mail = Mail()
    [envelope] = mail.send(1)
    forged = envelope[:-1] + bytes([envelope[-1] ^ 1])
    for one in (forged, envelope):
        mail.see(one)
        mail.deliver(one)
    assert found(mail.compare()) == of(forged, Finding.SEEN_NOT_SENT, Finding.SEEN_NOT_OPENED, Finding.REFUSED_NOT_SENT)


def test_reordered() -> None:
    mail = Mail()
    sent = mail.send(4)
    for place in (1, 0, 3, 2):
        mail.see(sent[place])
    for place in (3, 0, 1, 2):
        mail.deliver(sent[place])
    result = mail.compare()
    assert result.found == ()
    assert result.seen_order == (0, 2, 1, 4, 3)  # the KNOCK was first
    assert result.opened_order == (0, 4, 1, 2, 3)
    assert not result.in_order


def test_offered_too_early_and_opened_later_is_in_the_order_of_opening() -> None:
    mail = Mail()
    first, second = mail.send(2)
    records = mail.bob.records()
    early = Record(
        AuditEvent.MESSAGE_REFUSED, at_ms=1, mesh=MESH, sender=mail.alice.agent.did, recipient=mail.bob.agent.did,
        receipt=receipt_of(second), size_bytes=len(second), reason="message.not_yet",
    )  # fmt: skip
    for envelope in (first, second):
        mail.see(envelope)
        mail.deliver(envelope)
    result = mail.compare(recipient=[*records, early, *mail.bob.records()[len(records) :]])
    assert result.in_order
    assert found(result) == set()
    assert [(one.finding, one.receipt) for one in result.copies] == [(Finding.COPY_REFUSED, receipt_of(second))]


# --- false logs -------------------------------------------------------------------------------------------------------


def changed(records: list[Record], receipt: bytes, event: AuditEvent, /, **fields: Any) -> list[Record]:
    """Alter the record of that envelope in place."""
    [record] = [one for one in records if one.receipt == receipt and one.event is event]
    for name, value in fields.items():
        assert getattr(record, name) != value
        setattr(record, name, value)
    return records


FIELDS: dict[str, Any] = {
    "size_bytes": 1,
    "envelope_time_ms": 1,
    "mesh": "another",
    "session_id": bytes(16),
    "number": 99,
    "bundle_class": BundleClass.LAST_RESORT,
    "outcome": Outcome.DENY,
    "reason": "asked",
    "count": 2,
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_record_that_differs_is_named_with_its_field(name: str) -> None:
    mail = Mail()
    envelope, other = mail.send(2)
    for one in (envelope, other):
        mail.see(one)
        mail.deliver(one)
    receipt = receipt_of(envelope)
    result = mail.compare(
        recipient=changed(mail.bob.records(), receipt, AuditEvent.MESSAGE_OPENED, **{name: FIELDS[name]})
    )
    assert [(one.finding, one.receipt, one.differing) for one in result.found] == [(Finding.ALTERED, receipt, (name,))]
    assert result.found[0].record.event is AuditEvent.MESSAGE_OPENED
    assert result.matched == 2
    if name == "reason":
        return  # held to what any honest sender records, not to what the other has: the next test
    # The sender may be the one that lies: then both others differ, where a relay sees the field.
    result = mail.compare(
        sender=changed(mail.alice.records(), receipt, AuditEvent.MESSAGE_SEALED, **{name: FIELDS[name]})
    )
    seen_too = name in ("size_bytes", "envelope_time_ms", "mesh")
    alone = name in ("outcome", "count")  # what follows from the event convicts the liar alone
    assert [one.record.event for one in result.found] == [
        *[AuditEvent.MESSAGE_SEALED] * (alone or name == "envelope_time_ms"),
        *[AuditEvent.ENVELOPE_SEEN] * seen_too,
        *[AuditEvent.MESSAGE_OPENED] * (not alone),
    ]
    if seen_too:
        records = list(verified_records(mail.relay.entries()))
        result = mail.compare(seen=changed(records, receipt, AuditEvent.ENVELOPE_SEEN, **{name: FIELDS[name]}))
        assert [(one.record.event, one.differing) for one in result.found] == [(AuditEvent.ENVELOPE_SEEN, (name,))]


SENDERS: list[tuple[AuditEvent, dict[str, Any], bool]] = [
    (AuditEvent.MESSAGE_SEALED, {"at_ms": 1}, True),
    (AuditEvent.MESSAGE_SEALED, {"reason": "asked"}, True),
    (AuditEvent.KNOCK_SENT, {"at_ms": 1}, False),  # its clock went back, and the time of a KNOCK does not
    (AuditEvent.KNOCK_SENT, {"at_ms": 2**53 - 1}, True),
    (AuditEvent.KNOCK_SENT, {"reason": "policy"}, True),
    (AuditEvent.KNOCK_SENT, {"outcome": Outcome.ALLOW}, True),
]
TOLERANCE_MS, LONGEST_MS = 300_000, 14 * 86_400_000
RECIPIENTS: list[tuple[AuditEvent, dict[str, Any], bool]] = [
    (AuditEvent.MESSAGE_OPENED, {"at_ms": 1}, False),  # clocks differ
    (AuditEvent.MESSAGE_OPENED, {"at_ms": 2**53 - 1}, False),
    (AuditEvent.MESSAGE_OPENED, {"reason": "closed"}, True),
    (AuditEvent.KNOCK_RECEIVED, {"reason": "asked"}, False),
    (AuditEvent.KNOCK_RECEIVED, {"reason": "policy"}, True),
    (AuditEvent.KNOCK_RECEIVED, {"since_ms": -TOLERANCE_MS}, False),
    (AuditEvent.KNOCK_RECEIVED, {"since_ms": -TOLERANCE_MS - 1}, True),
    (AuditEvent.KNOCK_RECEIVED, {"since_ms": LONGEST_MS + TOLERANCE_MS}, False),
    (AuditEvent.KNOCK_RECEIVED, {"since_ms": LONGEST_MS + TOLERANCE_MS + 1}, True),
    (AuditEvent.KNOCK_RECEIVED, {"count": 2}, True),
]


@pytest.mark.parametrize(("event", "fields", "is_found"), SENDERS, ids=str)
def test_a_sender_is_held_to_what_every_honest_sender_records(
    event: AuditEvent, fields: dict[str, Any], is_found: bool
) -> None:
    mail = Mail()
    [envelope] = mail.send(1)
    mail.see(envelope)
    mail.deliver(envelope)
    records = mail.alice.records()
    [one] = [record for record in records if record.event is event]
    changed(records, one.receipt, event, **fields)
    result = mail.compare(sender=records)
    assert [(other.record.event, other.differing) for other in result.found] == [(event, tuple(fields))] * is_found


@pytest.mark.parametrize(("event", "fields", "is_found"), RECIPIENTS, ids=str)
def test_a_recipient_is_held_to_what_every_honest_recipient_records(
    event: AuditEvent, fields: dict[str, Any], is_found: bool
) -> None:
    mail = Mail()
    [envelope] = mail.send(1)
    mail.see(envelope)
    mail.deliver(envelope)
    records = mail.bob.records()
    [one] = [record for record in records if record.event is event]
    one.reason = ""
    if "since_ms" in fields:
        fields = {"at_ms": one.envelope_time_ms + fields["since_ms"]}
    changed(records, one.receipt, event, **fields)
    result = mail.compare(recipient=records)
    assert [(other.record.event, other.differing) for other in result.found] == [(event, tuple(fields))] * is_found


def test_another_kind_of_envelope_is_a_difference() -> None:
    mail = Mail()
    [envelope] = mail.send(1)
    mail.see(envelope)
    mail.deliver(envelope)
    records = changed(
        mail.bob.records(), receipt_of(envelope), AuditEvent.MESSAGE_OPENED, event=AuditEvent.KNOCK_RECEIVED
    )
    assert [one.differing for one in mail.compare(recipient=records).found] == [("kind",)]
    seen = changed(
        list(verified_records(mail.relay.entries())), receipt_of(envelope), AuditEvent.ENVELOPE_SEEN, reason="knock"
    )
    assert [one.differing for one in mail.compare(seen=seen).found] == [("kind",)]


def test_a_reject_is_one_envelope_to_both_sides_whatever_they_record_as_its_reason() -> None:
    mail = Mail()
    alice, bob = mail.alice.agent, mail.bob.agent
    mail.clock.advance(ms=1)
    [event] = bob.receive(alice.knock(bob.did, bob.publish_bundles(2).one_time[0], Intent("test")))
    assert isinstance(event, KnockReceived)
    reply = bob.reject(event).envelope
    alice.receive(reply)
    ours, theirs = mail.bob.records(), mail.alice.records()
    assert compare(bob.did, ours, alice.did, theirs).found == ()
    changed(ours, receipt_of(reply), AuditEvent.KNOCK_REJECTED, reason="score-too-low")
    assert compare(bob.did, ours, alice.did, theirs).found == ()
    changed(ours, receipt_of(reply), AuditEvent.KNOCK_REJECTED, size_bytes=1)
    assert [one.differing for one in compare(bob.did, ours, alice.did, theirs).found] == [("size_bytes",)]


def test_records_made_up_or_doubled_are_found() -> None:
    mail = Mail()
    [envelope] = mail.send(1)
    mail.see(envelope)
    mail.deliver(envelope)
    sent, opened = mail.alice.records(), mail.bob.records()
    made_up = Record(
        AuditEvent.MESSAGE_OPENED, at_ms=1, mesh=MESH, sender=mail.alice.agent.did, recipient=mail.bob.agent.did,
        receipt=receipt_of(b"never sent"), session_id=opened[-1].session_id, number=2, size_bytes=1,
    )  # fmt: skip
    assert found(mail.compare(recipient=[*opened, made_up])) == of(
        b"never sent", Finding.OPENED_NOT_SENT, Finding.OPENED_NOT_SEEN
    )
    [one] = [record for record in opened if record.receipt == receipt_of(envelope)]
    result = mail.compare(recipient=[*opened, one])  # as after a crash: nobody is wronged by it
    assert (found(result), [one.finding for one in result.crashes]) == (set(), [Finding.OPENED_TWICE])
    [one] = [record for record in sent if record.receipt == receipt_of(envelope)]
    assert found(mail.compare(sender=[*sent, one])) == of(envelope, Finding.SENT_TWICE)
    # A sender that denies what it sent.
    assert found(mail.compare(sender=sent[:-1])) == of(envelope, Finding.OPENED_NOT_SENT, Finding.SEEN_NOT_SENT)


@pytest.mark.parametrize("more", [0, 1])
def test_signals_are_in_no_log_and_no_finding_but_no_more_of_them_than_were_counted(more: int) -> None:
    mail = Mail()
    alice, bob = mail.alice.agent, mail.bob.agent
    bob._core.acknowledge = True
    signals = []
    for _ in range(2):
        mail.deliver(mail.send(1)[0])
        mail.clock.advance(ms=250)
        [signal] = [event.reply.envelope for event in bob.poll() if event.reply is not None]
        mail.see(signal)
        alice.receive(signal)
        signals.append(signal)
    with suppress(RemoteError):
        alice.receive(signals[0])  # delivered again
    hidden = bob.send(alice.did, b"sent, and taken out of both logs").envelope
    if more:
        mail.see(hidden)
    mail.end()
    alice.poll()
    theirs = [record for record in mail.bob.records() if record.receipt != receipt_of(hidden)]
    relayed = list(verified_records(mail.relay.entries()))
    result = compare(bob.did, theirs, alice.did, mail.alice.records(), relayed)
    assert (result.signals, result.copies) == (2, ())
    assert found(result) == of(hidden, *[Finding.SEEN_NOT_SENT, Finding.SEEN_NOT_OPENED] * more)
    # Who does not count them has no excuse.
    uncounted = [record for record in theirs if record.event is not AuditEvent.MESSAGE_SIGNAL]
    findings = {one.finding for one in compare(bob.did, uncounted, alice.did, mail.alice.records(), relayed).found}
    assert findings == {Finding.SEEN_NOT_SENT, Finding.SEEN_NOT_OPENED, Finding.REFUSED_NOT_SENT}


def test_other_peers_in_the_logs_are_left_out() -> None:
    mail = Mail()
    carol = Party("carol", mail.clock)
    bundle = carol.agent.publish_bundles(1).one_time[0]
    envelope = mail.alice.agent.knock(carol.agent.did, bundle, Intent("other")).envelope
    mail.see(envelope)
    carol.agent.receive(envelope)
    assert mail.compare().found == ()
    assert [one.finding for one in compare(
        mail.alice.agent.did, mail.alice.records(), carol.agent.did, mail.bob.records()
    ).found] == [Finding.SENT_NOT_OPENED]  # fmt: skip


def test_names_are_checked() -> None:
    mail = Mail()
    did = mail.alice.agent.did
    for sender, recipient, error in ((did, did, ArgumentInvalid), ("x", did, BadDid), (did, did[:-1] + "0", BadDid)):
        with pytest.raises(error):
            compare(sender, [], recipient, [])


# --- what honest agents come to ---------------------------------------------------------------------------------------


def crashed(party: Party, mail: Mail, act: Callable[[Agent], Any]) -> None:
    """Let a step be recorded and then lost: nothing of it leaves, and the state is the one before."""
    before = party.agent.export_state()
    act(party.agent)
    party.agent = Agent.restore(
        before,
        clock=mail.clock,
        entropy=SeededEntropy(f"again/{len(party.log)}"),
        journal=AuditJournal(party.log),
    )


def test_a_crash_between_log_and_state_is_no_finding() -> None:
    mail = Mail()
    bob = mail.bob.agent.did
    crashed(mail.alice, mail, lambda alice: alice.send(bob, b"never left"))
    [envelope] = mail.send(1)
    mail.see(envelope)
    crashed(mail.bob, mail, lambda agent: agent.receive(envelope))
    mail.deliver(envelope)
    for relay in (False, True):
        result = mail.compare(relay=relay)
        assert result.found == ()
        assert [one.finding for one in result.crashes] == [Finding.OPENED_TWICE, Finding.SENT_ANEW]
        assert result.crashes[1].record.number == 1
    assert result.matched == 2


def test_a_knock_and_an_answer_that_a_crash_lost_are_no_finding() -> None:
    mail = Mail()
    alice, bob = mail.alice.agent, mail.bob.agent
    shelf = bob.publish_bundles(3, last_resort=False).one_time
    mail.clock.advance(ms=10)
    crashed(mail.alice, mail, lambda agent: agent.knock(bob.did, shelf[0], Intent("lost")))
    mail.clock.advance(ms=10)
    knock = mail.alice.agent.knock(bob.did, shelf[1], Intent("again"))
    mail.see(knock)
    [event] = mail.bob.agent.receive(knock)
    assert isinstance(event, KnockReceived)
    pending = event
    crashed(mail.bob, mail, lambda agent: agent.accept(pending))
    [again] = mail.bob.agent.pending_knocks()
    reply = mail.bob.agent.accept(again).envelope
    mail.see(reply)
    mail.alice.agent.receive(reply)
    there = mail.compare()
    assert (there.found, [one.finding for one in there.crashes]) == ((), [Finding.SENT_ANEW])
    seen = list(verified_records(mail.relay.entries()))
    back = compare(bob.did, mail.bob.records(), alice.did, mail.alice.records(), seen)
    assert (back.found, [one.finding for one in back.crashes]) == ((), [Finding.SENT_ANEW])


def test_what_left_and_was_lost_is_a_finding_though_another_followed() -> None:
    mail = Mail()
    bob = mail.bob.agent.did
    left: list[bytes] = []
    crashed(mail.alice, mail, lambda alice: left.append(alice.send(bob, b"left").envelope))
    mail.see(left[0])
    [envelope] = mail.send(1)
    mail.see(envelope)
    mail.deliver(envelope)
    assert found(mail.compare()) == of(left[0], Finding.SEEN_NOT_OPENED, Finding.SENT_NOT_OPENED)
    # And the later of two that arrived nowhere is one.
    mail = Mail()
    crashed(mail.alice, mail, lambda alice: left.append(alice.send(mail.bob.agent.did, b"first").envelope))
    [envelope] = mail.send(1)
    assert found(mail.compare(relay=False)) == of(envelope, Finding.SENT_NOT_OPENED)


def test_a_knock_that_was_lost_and_not_forgotten_is_a_finding() -> None:
    mail = Mail()
    alice, bob = mail.alice.agent, mail.bob.agent
    shelf = bob.publish_bundles(3, last_resort=False).one_time
    mail.clock.advance(ms=10)
    lost = alice.knock(bob.did, shelf[0], Intent("lost"), expires_in_seconds=1)
    mail.clock.advance(seconds=2 * 86_400)
    alice.poll()
    knock = alice.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("again"))
    bob.receive(knock)
    assert found(mail.compare(relay=False)) == of(bytes(lost), Finding.SENT_NOT_OPENED)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), max_size=6), st.randoms(use_true_random=False))
def test_a_transport_that_delivers_at_least_once_makes_no_finding(copies: list[int], random: Any) -> None:
    mail = Mail()
    letters = [one for one, more in zip(mail.send(len(copies)), copies, strict=True) for _ in range(1 + more)]
    random.shuffle(letters)
    for envelope in letters:
        mail.see(envelope)
        mail.deliver(envelope)
        if random.random() < 0.2:
            mail.end()
    result = mail.compare()
    assert (result.found, result.crashes, result.matched) == ((), (), 1 + len(copies))
    assert sum(one.record.count for one in result.copies if one.finding is Finding.COPY_REFUSED) == sum(copies)


# --- whose log it is --------------------------------------------------------------------------------------------------


def test_a_log_says_whose_it_is() -> None:
    mail = Mail()
    assert owner_of(mail.alice.records()) == mail.alice.agent.did
    assert owner_of(mail.bob.records()) == mail.bob.agent.did
    verdicts = [one for one in mail.bob.records() if one.event is AuditEvent.KNOCK_ACCEPTED]
    for records in (
        [],
        verdicts,
        list(verified_records(mail.relay.entries())),
        mail.alice.records() + mail.bob.records(),
    ):
        with pytest.raises(ArgumentInvalid):
            owner_of(records)


# --- everything at once -----------------------------------------------------------------------------------------------

FATES: dict[str, Callable[[Mail, bytes], set[tuple[Finding, bytes]]]] = {}


def fate(act: Callable[[Mail, bytes], set[tuple[Finding, bytes]]]) -> Callable[[Mail, bytes], Any]:
    FATES[act.__name__] = act
    return act


@fate
def arrives(mail: Mail, envelope: bytes) -> set[tuple[Finding, bytes]]:
    mail.see(envelope)
    mail.deliver(envelope)
    return set()


@fate
def is_lost(_mail: Mail, envelope: bytes) -> set[tuple[Finding, bytes]]:
    return of(envelope, Finding.SENT_NOT_SEEN, Finding.SENT_NOT_OPENED)


@fate
def is_dropped(mail: Mail, envelope: bytes) -> set[tuple[Finding, bytes]]:
    mail.see(envelope)
    return of(envelope, Finding.SEEN_NOT_OPENED, Finding.SENT_NOT_OPENED)


@fate
def is_smuggled(mail: Mail, envelope: bytes) -> set[tuple[Finding, bytes]]:
    mail.deliver(envelope)
    return of(envelope, Finding.SENT_NOT_SEEN, Finding.OPENED_NOT_SEEN)


@fate
def is_seen_again(mail: Mail, envelope: bytes) -> set[tuple[Finding, bytes]]:
    mail.see(envelope)
    mail.see(envelope)
    mail.deliver(envelope)
    return set()


@fate
def is_replayed_alone_in_its_minute(mail: Mail, envelope: bytes) -> set[tuple[Finding, bytes]]:
    arrives(mail, envelope)
    mail.end()
    mail.deliver(envelope)
    mail.end()
    return set()


@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(FATES)), max_size=8), st.randoms(use_true_random=False))
def test_any_mixture_of_fates_is_told_apart(fates: list[str], random: Any) -> None:
    mail = Mail()
    letters = list(zip(mail.send(len(fates)), fates, strict=True))
    random.shuffle(letters)
    expected: set[tuple[Finding, bytes]] = set()
    for envelope, name in letters:
        expected |= FATES[name](mail, envelope)
    result = mail.compare()
    assert found(result) == expected
    opened = sum(name not in ("is_lost", "is_dropped") for _, name in letters)
    assert result.matched == 1 + opened == len(result.opened_order)
