"""Events as rows: what comes back is what was told, in one encoding, and damage is refused with our own error."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import UnionType
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import agentmesh.testing.strategies as am
from agentmesh import (
    Agent,
    AnswerRepeated,
    AskApplication,
    BundleClass,
    Conditions,
    Delivered,
    Disclosure,
    Event,
    IdentityKey,
    Intent,
    KnockReceived,
    KnockRefused,
    KnockRequest,
    Limits,
    MessageReceived,
    PeerAhead,
    PeerClosed,
    Phase,
    Reason,
    RolledBack,
    RotationDue,
    SessionEstablished,
    SessionId,
    SessionOver,
    SessionRejected,
    SignalDue,
    SkippedKeysExpired,
    StockLow,
    Tracked,
    Undelivered,
)
from agentmesh.engine.event_rows import (
    _FORMS,
    Kept,
    _fields_of,
    _fields_of_message,
    export_event,
    is_kept,
    restore_event,
)
from agentmesh.engine.export import restore_agent
from agentmesh.engine.state import AgentState
from agentmesh.errors import Malformed
from agentmesh.events import KeptReceipt
from agentmesh.limits import COUNTER_MAX, UINT_MAX
from agentmesh.outgoing import LABEL_MAX_BYTES, Outgoing
from agentmesh.policy import ASK, Decision, Grant
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import Receipt
from agentmesh.session.content import REASON_MAX_BYTES
from agentmesh.session.phases import ENDINGS
from agentmesh.testing import Faults, MeshSimulator, Pair, agent_pair

NOT_KEPT = {KnockRefused, AnswerRepeated, SignalDue, StockLow, RotationDue}
HOUR = 3600

# --- events ----------------------------------------------------------------------------------------------------------


def knocked() -> tuple[Pair, list[KnockReceived]]:
    """Return two agents, and what the second was told of the KNOCKs that wait with it."""
    pair = agent_pair("events")
    shelf = pair.bob.publish_bundles(2)
    told: list[Any] = []
    for bundle, early_payload in ((shelf.one_time[0], b"early"), (shelf.one_time[1], None), (shelf.last_resort, None)):
        assert bundle is not None
        intent = Intent("ask", capabilities=("read", "write"), detail=b"detail") if early_payload else Intent("again")
        told += pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, intent, early_payload=early_payload))
        pair.clock.advance(ms=1)
    return pair, told


PAIR, KNOCKS = knocked()
STATE = restore_agent(PAIR.bob.export_state(), PAIR.clock.now_ms)

peers = am.identities().map(lambda identity: identity.key)
session_ids = st.binary(min_size=16, max_size=16).map(SessionId)
receipts = st.binary(min_size=32, max_size=32).map(Receipt)
counts = st.one_of(st.integers(0, 300), st.sampled_from((0, UINT_MAX)))
indices = st.one_of(st.integers(1, 300), st.sampled_from((1, COUNTER_MAX)))
disclosures = st.one_of(st.none(), st.binary(min_size=96, max_size=96).map(Disclosure))


def ranges() -> SearchStrategy[tuple[range, ...]]:
    """Return ascending ranges that do not touch."""

    def build(steps: list[tuple[int, int]], start: int) -> tuple[range, ...]:
        found = []
        for gap, length in steps:
            found.append(range(start + gap, start + gap + length))
            start = found[-1].stop + 1
        return tuple(found)

    number = st.one_of(st.integers(1, 20), st.just(2**31))
    return st.builds(build, st.lists(st.tuples(number, number), max_size=6), st.sampled_from((-1, 0)))


def messages() -> SearchStrategy[tuple[Tracked, ...]]:
    """Return messages of the outbox, ascending by number."""
    labels = am.plaintexts(LABEL_MAX_BYTES)
    one = st.builds(Tracked, receipt=receipts, number=indices, label=labels)
    several = st.lists(one, max_size=4, unique_by=lambda message: message.number)
    return several.map(lambda found: tuple(sorted(found, key=lambda message: message.number)))


def established() -> SearchStrategy[SessionEstablished]:
    asked = st.one_of(st.tuples(st.none(), st.none()), st.tuples(am.intents(), st.one_of(st.none(), am.plaintexts())))
    return asked.flatmap(
        lambda pair: st.builds(
            SessionEstablished,
            peer=peers,
            session_id=session_ids,
            bundle_class=st.sampled_from(BundleClass),
            conditions=am.conditions(),
            intent=st.just(pair[0]),
            early_payload=st.just(pair[1]),
            reply=st.one_of(st.none(), st.just(Outgoing(b"reply"))),
        )
    )


def delivered() -> SearchStrategy[Delivered]:
    """Return what names all of its messages among the indices, and others."""

    def build(peer: IdentityKey, session_id: SessionId, found: tuple[Tracked, ...]) -> Delivered:
        within = [range(1, 2)]
        for number in (message.number for message in found):
            if number > within[-1].stop:
                within.append(range(number, number + 1))
            else:
                within[-1] = range(within[-1].start, number + 1)
        return Delivered(peer=peer, session_id=session_id, indices=tuple(within), messages=found)

    return st.builds(build, peers, session_ids, messages())


def plain(kind: type[Any], **attributes: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.builds(kind, peer=peers, session_id=session_ids, **attributes)


EVENTS: dict[type[Any], SearchStrategy[Any]] = {
    KnockReceived: st.sampled_from(KNOCKS),
    SessionEstablished: established(),
    SessionRejected: plain(SessionRejected, reason=am.reasons(), retry_after_seconds=counts),
    MessageReceived: plain(
        MessageReceived,
        plaintext=am.plaintexts(),
        action=am.texts(1),
        number=indices,
        time_ms=am.times_ms(),
        received=receipts.map(KeptReceipt),
        disclosure=disclosures,
        lost_at=ranges(),
    ),
    PeerClosed: plain(
        PeerClosed,
        receipt=receipts,
        reason=am.texts(0, REASON_MAX_BYTES),
        missing=ranges(),
        peer_opened=counts,
        lost_at=ranges(),
        reply=st.one_of(st.none(), st.just(Outgoing(b"reply"))),
        disclosure=disclosures,
    ),
    SessionOver: plain(
        SessionOver,
        phase=st.sampled_from(sorted(ENDINGS)),
        detail=st.sampled_from(("", "superseded", "dropped", "x" * 32)),
        missing=ranges(),
    ),
    SkippedKeysExpired: plain(SkippedKeysExpired, lost_at=ranges()),
    Delivered: delivered(),
    Undelivered: plain(Undelivered, messages=messages()),
    PeerAhead: plain(PeerAhead),
    RolledBack: st.builds(RolledBack, peers=st.lists(peers, max_size=4, unique=True).map(tuple), bundles=counts),
}


def attributes(event: Kept) -> dict[str, Any]:
    """Return all that an event says, but its reply."""
    if isinstance(event, MessageReceived):
        names = {*MessageReceived.__slots__, "receipt"} - {"_received"}
    else:
        names = {one.name for one in attrs.fields(type(event))} - {"reply"}
    return {name: getattr(event, name) for name in names}


# --- there and back --------------------------------------------------------------------------------------------------


@given(EVENTS[MessageReceived])
def test_a_message_is_written_as_its_form_says(event: MessageReceived) -> None:
    assert _fields_of_message(event) == _fields_of(event)


def assert_comes_back(event: Kept, state: AgentState) -> None:
    data = export_event(event)
    restored = restore_event(data, state)
    assert type(restored) is type(event)
    assert attributes(restored) == attributes(event)
    assert restored.reply is None
    assert export_event(restored) == data


@given(st.one_of(*EVENTS.values()))
def test_an_event_comes_back_as_it_was(event: Kept) -> None:
    assert is_kept(event)
    assert_comes_back(event, STATE)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_kind_comes_back_as_it_was(kind: type[Kept]) -> None:
    @given(EVENTS[kind])
    def comes_back(event: Kept) -> None:
        assert_comes_back(event, STATE)

    comes_back()


def members(union: UnionType) -> set[type]:
    return set(typing.get_args(union))


def test_every_event_is_kept_or_said_not_to_be() -> None:
    assert members(Kept) | NOT_KEPT == members(Event)
    assert members(Kept) & NOT_KEPT == set()
    assert set(EVENTS) == members(Kept)


@pytest.mark.parametrize("kind", sorted(NOT_KEPT, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_what_only_replies_or_is_told_again_is_not_kept(kind: type[Any]) -> None:
    assert not is_kept(kind.__new__(kind))


def test_the_reply_is_no_part_of_the_row() -> None:
    event = EXAMPLES[PeerClosed]
    assert isinstance(event, PeerClosed)
    assert export_event(attrs.evolve(event, reply=Outgoing(b"reply"))) == export_event(event)


# --- what agents tell ------------------------------------------------------------------------------------------------


class Various(AskApplication):
    """A policy that accepts some KNOCKs itself."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def decide(self, _knock: KnockRequest, /) -> Decision:
        return self._random.choice((ASK, Grant(Conditions(allowed_actions=("any", "test")))))


@contextmanager
def seeing_all() -> Iterator[set[type]]:
    """Have every event of every agent go there and back as it is told; whatever may be disclosed is."""
    seen: set[type] = set()

    def watched(agent: Agent, told: tuple[Event, ...]) -> tuple[Event, ...]:
        for event in told:
            if is_kept(event):
                seen.add(type(event))
                assert_comes_back(event, agent._core.state)
        return told

    receive, poll = Agent.receive, Agent.poll
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Agent, "receive", lambda agent, one: watched(agent, receive(agent, one, disclosable=True)))
        patch.setattr(Agent, "poll", lambda agent: watched(agent, poll(agent)))
        yield seen


def test_what_agents_of_a_hostile_mesh_are_told_comes_back_as_it_was() -> None:
    with seeing_all() as seen:
        for seed in range(6):
            random = Random(f"{seed}/events")
            mesh = MeshSimulator(
                seed,
                one_time=2,
                limits=Limits(
                    skipped_key_lifetime_seconds=6 * HOUR, skipped_keys_per_session=4, skipped_keys_per_step=4
                ),
                policy=Various(random),
                acknowledge=True,
                defer_percent=20,
                reject_percent=30,
                faults=Faults(drop_percent=15, delay_percent=20, reorder_percent=50),
            )
            for number in range(60):
                one, other = random.sample(mesh.names, 2)
                choice = random.randrange(100)
                if choice < 60:
                    mesh.send(one, other, b"%d" % number)
                elif choice < 80:
                    mesh.knock(one, other, early_payload=b"early" if choice % 2 else None)
                elif choice < 85:
                    mesh.close(one, other)
                elif choice < 90:
                    mesh.clock.advance(seconds=random.choice((700, 7 * HOUR)))
                mesh.run(random.randrange(6))
                mesh.poll(one)
    assert seen == set(EVENTS) - {PeerAhead, Undelivered, RolledBack}  # which no agent of such a mesh is told


# --- damage ----------------------------------------------------------------------------------------------------------

ALICE, CAROL = (
    KNOCKS[0].peer,
    IdentityKey(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")),
)
ID = SessionId(bytes(range(16)))
RECEIPT = Receipt(bytes(range(32)))
TRACKED = (
    Tracked(receipt=RECEIPT, number=3, label=b"the label"),
    Tracked(receipt=Receipt(bytes(32)), number=8, label=b""),
)
of_session: dict[str, Any] = {"peer": ALICE, "session_id": ID}
SECRETS = ("the plaintext", "the action", "the reason", "the label", "the early payload", "the detail")

EXAMPLES: dict[type[Any], Kept] = {
    KnockReceived: KNOCKS[0],
    SessionEstablished: SessionEstablished(
        **of_session,
        bundle_class=BundleClass.ONE_TIME,
        conditions=Conditions(max_messages=300, allowed_actions=("the action",)),
        intent=Intent("the action", capabilities=("the reason",), detail=b"the detail"),
        early_payload=b"the early payload",
    ),
    SessionRejected: SessionRejected(**of_session, reason=Reason.BUSY, retry_after_seconds=60),
    MessageReceived: MessageReceived(
        ALICE, ID, b"the plaintext", "the action", 7, 1_700_000_000_000, KeptReceipt(RECEIPT), Disclosure(bytes(96)),
        (range(1, 3), range(4, 5)),
    ),
    PeerClosed: PeerClosed(
        **of_session, receipt=RECEIPT, reason="the reason", missing=(range(2, 300),), peer_opened=4,
        lost_at=(range(1),), reply=None, disclosure=None,
    ),
    SessionOver: SessionOver(**of_session, phase=Phase.TRUNCATED, detail="dropped", missing=(range(1, 2),)),
    SkippedKeysExpired: SkippedKeysExpired(**of_session, lost_at=(range(5, 9), range(10, 11))),
    Delivered: Delivered(**of_session, indices=(range(2, 5), range(8, 9)), messages=TRACKED),
    Undelivered: Undelivered(**of_session, messages=TRACKED),
    PeerAhead: PeerAhead(**of_session),
    RolledBack: RolledBack(peers=(ALICE, CAROL), bundles=100),
}  # fmt: skip


def refused_or_another(data: bytes) -> bool:
    """Say whether bytes are refused; where they are not, they are the one encoding of an event."""
    try:
        restored = restore_event(data, STATE)
    except Malformed:
        return True
    assert export_event(restored) == data
    return False


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_a_flipped_bit_is_refused_or_makes_another_event(kind: type[Any]) -> None:
    data = export_event(EXAMPLES[kind])
    whole = int.from_bytes(data, "big")
    flipped = [(whole ^ 1 << bit).to_bytes(len(data), "big") for bit in range(8 * len(data))]
    assert sum(map(refused_or_another, flipped)) >= 16  # the array's head and the kind's number at least


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_what_is_cut_off_or_appended_to_is_refused(kind: type[Any]) -> None:
    data = export_event(EXAMPLES[kind])
    assert all(refused_or_another(data[:end]) for end in range(len(data)))
    assert refused_or_another(data + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_an_event(data: bytes) -> None:
    refused_or_another(data)


@given(st.data())
def test_altered_bytes_are_refused_or_an_event(data: st.DataObject) -> None:
    event = data.draw(st.one_of(*EVENTS.values()))
    refused_or_another(data.draw(am.mutated(export_event(event))))


@pytest.mark.parametrize("data", [None, "text", 1, [1], bytearray(b"\x93")])
def test_what_is_no_bytes_is_refused(data: Any) -> None:
    with pytest.raises(Malformed):
        restore_event(data, STATE)


def altered(kind: type[Any], at: int, value: Any) -> bytes:
    """Return the row of an example with another value in one place, canonical all the same."""
    data = export_event(EXAMPLES[kind])
    fields = _wire.decode(data, _FORMS[data[1]].layout, len(data))
    fields[at] = value
    return _wire.encode(fields)


OWN = STATE.identity.key.raw
ONE, TWO = [bytes(32), 3, b""], [bytes(32), 8, b""]


@pytest.mark.parametrize(
    ("kind", "at", "value"),
    [
        pytest.param(kind, at, value, id=f"{kind.__name__}-{why}")
        for kind, at, value, why in (
            (KnockReceived, 1, bytes(16), "that waits nowhere"),
            (SessionRejected, 1, OWN, "of itself"),
            (SessionRejected, 1, bytes(32), "of no identity"),
            (SessionRejected, 3, "why", "for no reason"),
            (SessionEstablished, 3, 0, "on no class"),
            (SessionEstablished, 5, None, "early payload without intent"),
            (SessionEstablished, 4, b"\x90", "on no conditions"),
            (SessionEstablished, 5, ["", [], b""], "intent without action"),
            (MessageReceived, 5, 0, "number 0"),
            (MessageReceived, 4, "", "no action"),
            (MessageReceived, 9, [[4, 3]], "range backwards"),
            (MessageReceived, 9, [[1, 3], [4, 5]], "ranges that touch"),
            (MessageReceived, 9, [[4, 5], [1, 2]], "ranges that descend"),
            (SessionOver, 3, "established", "that is not over"),
            (SessionOver, 3, "gone", "in no phase"),
            (Delivered, 4, [[bytes(32), 5, b""]], "not among the indices"),
            (Delivered, 4, [[bytes(32), 9, b""]], "behind the indices"),
            (Delivered, 4, [[bytes(32), 1, b""]], "before the indices"),
            (Undelivered, 3, [TWO, ONE], "descending"),
            (Undelivered, 3, [ONE, ONE], "twice"),
            (Undelivered, 3, [[bytes(32), 0, b""]], "number 0"),
            (Undelivered, 3, [[bytes(32), 1, bytes(LABEL_MAX_BYTES + 1)]], "long label"),
            (RolledBack, 1, [OWN], "of itself"),
            (RolledBack, 1, [ALICE.raw, ALICE.raw], "twice"),
            (PeerAhead, 0, 0, "kind 0"),
            (PeerAhead, 0, len(EVENTS) + 1, "unknown kind"),
        )
    ],
)
def test_fields_that_contradict_one_another_are_refused(kind: type[Any], at: int, value: Any) -> None:
    with pytest.raises(Malformed) as refused:
        restore_event(altered(kind, at, value), STATE)
    assert refused.value.__context__ is None  # no foreign exception hangs on ours


def test_a_knock_that_was_decided_is_told_no_more() -> None:
    pair, [event, other, *_] = knocked()
    data = export_event(event)
    assert_comes_back(event, pair.bob._core.state)
    pair.bob.accept(event)
    with pytest.raises(Malformed):
        restore_event(data, pair.bob._core.state)
    pair.bob.reject(other)
    with pytest.raises(Malformed):
        restore_event(export_event(other), pair.bob._core.state)


# --- what is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_a_restored_event_prints_nothing_of_its_content(kind: type[Any]) -> None:
    for event in (EXAMPLES[kind], restore_event(export_event(EXAMPLES[kind]), STATE)):
        assert repr(event).startswith(kind.__name__)
        assert [word for word in SECRETS if word in repr(event)] == []


def test_what_can_be_printed_is_in_the_examples() -> None:
    exported = b"".join(map(export_event, EXAMPLES.values()))
    assert [word for word in SECRETS if word.encode() not in exported] == []
