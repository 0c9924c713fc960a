"""Sessions at their own layer (sections 5.2, 6.1 and 7): what sealing and opening return, conditions, endings."""

from __future__ import annotations

import math
import os
from typing import Any, TypeVar

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh import OuterEnvelope
from agentmesh.envelope import Header, Kind, build, receipt_of
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    ClosedSession,
    ConditionNotMet,
    DecryptionFailed,
    DuplicateMessage,
    PeerConditionBroken,
    SessionNotOpen,
    TooLarge,
)
from agentmesh.handshake.knock import Intent, KnockContent
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import UNLIMITED, Conditions
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.primitives.keys import HeaderKey, MessageKey, Receipt, RootKey, SessionId, TranscriptHash
from agentmesh.primitives.padding import padded_length
from agentmesh.session.at_rest import export_session, restore_session
from agentmesh.session.content import ContentType
from agentmesh.session.established import Session
from agentmesh.session.facts import Facts, PeerClose
from agentmesh.session.indices import NONE
from agentmesh.session.opening import open_message
from agentmesh.session.pending import Pending, Undecided
from agentmesh.session.phases import Happening
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.sealing import answer_close, seal_close, seal_data
from agentmesh.session.suite import MESSAGE_OVERHEAD_BYTES, SUITE
from agentmesh.testing import SeededEntropy

NOW_MS = 1_767_225_600_000
LIMITS = Limits()
HEAD_BYTES = 7  # of data without parts: type, parts, index, and the length of the action
ENTROPY = SeededEntropy("sessions")
ALICE, BOB = (Identity.generate(SeededEntropy(name)) for name in ("alice", "bob"))
Refusal = TypeVar("Refusal", bound=AgentMeshError)
brisk = settings(max_examples=max(1, settings().max_examples // 2))


def undecided_and_pending(early: bool = False) -> tuple[Undecided, Pending]:
    secret, public = SUITE.key_pair(ENTROPY)
    keys = {
        "header_key_ab": HeaderKey(ENTROPY.token(32)),
        "header_key_ba": HeaderKey(ENTROPY.token(32)),
    }
    root, receipt = RootKey(ENTROPY.token(32)), Receipt(ENTROPY.token(32))
    sides = [
        Facts(
            session_id=SessionId(b"s" * 16),
            th=TranscriptHash(b"t" * 64),
            mesh="example/test",
            own_did=own.did,
            peer=peer.key,
            initiator=own is ALICE,
            bundle_class=BundleClass.ONE_TIME,
            knock_time_ms=NOW_MS,
            knock_receipt=receipt,
            action="knocked-for",
            early_payload=early,
        )
        for own, peer in ((ALICE, BOB), (BOB, ALICE))
    ]
    content = KnockContent(intent=Intent("knocked-for"), early_payload=b"early" if early else None, fresh=True)
    undecided = Undecided(sides[1], root=root, ephemeral=public, expires_ms=NOW_MS + 1, content=content, **keys)
    ratchet = Ratchet.initiator(SUITE, root, secret, public, **keys)
    return undecided, Pending(sides[0], ratchet, expires_ms=NOW_MS + 1, knock=b"the KNOCK")


def two_sessions(conditions: Conditions = UNLIMITED, *, early: bool = False) -> tuple[Session, Session]:
    """Return (A's session, B's session), just established."""
    undecided, pending = undecided_and_pending(early)
    b, accept = undecided.accept(BOB, conditions, now_ms=NOW_MS, entropy=ENTROPY)
    granted, opened = pending.open_accept(OuterEnvelope.parse(accept), now_ms=NOW_MS, limits=LIMITS)
    assert granted == conditions
    a = pending.established(granted, NOW_MS)
    a.ratchet.apply(opened.delta(ENTROPY))
    return a, b


def seal(session: Session, data: bytes = b"data", now_ms: int = NOW_MS, **more: Any) -> bytes:
    arguments = {"now_ms": now_ms, "limits": LIMITS, "entropy": ENTROPY} | more
    sealed, sent = seal_data(session, data, **arguments)
    sent.apply()
    return sealed.envelope


def close(session: Session, reason: str = "", now_ms: int = NOW_MS) -> bytes:
    sealed, sent = seal_close(session, reason, now_ms=now_ms, entropy=ENTROPY)
    sent.apply()
    return sealed.envelope


def take(session: Session, envelope: bytes, now_ms: int = NOW_MS, limits: Limits = LIMITS) -> tuple[str, bytes, int]:
    incoming = open_message(session, OuterEnvelope.parse(envelope), now_ms=now_ms, limits=limits)
    incoming.taken(ENTROPY, NOW_MS, LIMITS).apply()
    return incoming.action, incoming.data, incoming.number


def refuses(session: Session, envelope: bytes, error: type[Refusal], **more: Any) -> Refusal:
    before = export_session(session)
    with pytest.raises(error) as caught:
        open_message(session, OuterEnvelope.parse(envelope), **({"now_ms": NOW_MS, "limits": LIMITS} | more))
    assert type(caught.value) is error
    assert export_session(session) == before
    return caught.value


def will_not(session: Session, error: type[Refusal], **more: Any) -> Refusal:
    before = export_session(session)
    with pytest.raises(error) as caught:
        seal(session, **more)
    assert type(caught.value) is error
    assert export_session(session) == before
    return caught.value


# --- data ------------------------------------------------------------------------------------------------------------

actions = st.text(min_size=1, max_size=128).filter(lambda text: len(text.encode("utf-8", "ignore")) <= 128)


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.binary(max_size=300),
            st.none() | st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=32),
        ),
        max_size=12,
    )
)
@brisk
def test_what_is_sealed_arrives_with_its_action_and_index(steps: list[tuple[bool, bytes, str | None]]) -> None:
    a, b = two_sessions()
    numbers = {True: 0, False: 0}
    for from_a, data, action in steps:
        sender, receiver = (a, b) if from_a else (b, a)
        numbers[from_a] += 1
        envelope = seal(sender, data, action=action)
        assert take(receiver, envelope) == (action or "knocked-for", data, numbers[from_a])
        assert (sender.data_sent, receiver.received.count) == (numbers[from_a], numbers[from_a])


@pytest.mark.parametrize("early", [False, True])
def test_indices_count_the_early_payload_and_not_the_accept(early: bool) -> None:
    a, b = two_sessions(early=early)
    assert (a.data_sent, b.received.count) == (int(early), int(early))
    assert (a.last_position_in, b.last_position_in) == (0, -1)
    assert a.acknowledged == b.received  # whoever accepted the KNOCK has opened what came with it
    assert take(b, seal(a))[2] == 1 + early
    assert take(a, seal(b))[2] == 1


def test_the_knocks_own_action_is_not_sent_twice() -> None:
    a, b = two_sessions()
    sizes = {len(seal(a, b"x" * 55, action=action)) for action in (None, "knocked-for")}
    assert len(sizes) == 1
    assert take(b, seal(a, b"x", action="knocked-for"))[0] == "knocked-for"


def test_sealing_and_opening_change_nothing_until_applied() -> None:
    a, b = two_sessions()
    before = [export_session(side) for side in (a, b)]
    sealed, sent = seal_data(a, b"data", now_ms=NOW_MS, limits=LIMITS, entropy=ENTROPY)
    closing, _ = seal_close(a, "done", now_ms=NOW_MS, entropy=ENTROPY)
    for envelope in (sealed.envelope, closing.envelope):
        open_message(b, OuterEnvelope.parse(envelope), now_ms=NOW_MS, limits=LIMITS).taken(ENTROPY, NOW_MS, LIMITS)
    assert [export_session(side) for side in (a, b)] == before
    sent.apply()
    assert export_session(a) != before[0]
    after = export_session(a)
    sent.apply()
    assert export_session(a) == after


@given(st.binary(min_size=32, max_size=64), st.binary(min_size=32, max_size=64))
@brisk
def test_a_restored_snapshot_repeats_a_message_key_and_no_keystream(one: bytes, other: bytes) -> None:
    a, b = two_sessions()
    size = min(len(one), len(other))
    exported = export_session(a)
    first = seal(a, one[:size])
    again = restore_session(exported, mesh="example/test", own_did=ALICE.did)
    assert isinstance(again, Session)
    second = seal(again, other[:size])
    boxes = [
        OuterEnvelope.parse(envelope).body[-padded_length(HEAD_BYTES + size + 1) :] for envelope in (first, second)
    ]
    assert export_session(a) == export_session(again)
    xor = bytes(x ^ y for x, y in zip(*boxes, strict=True))
    assert xor[HEAD_BYTES : HEAD_BYTES + size] != bytes(x ^ y for x, y in zip(one[:size], other[:size], strict=True))
    nonces = {OuterEnvelope.parse(envelope).body[16:40] for envelope in (first, second)}
    assert len(nonces) == 2
    assert take(b, second)[1] == other[:size]
    refuses(b, first, DuplicateMessage)


@pytest.mark.parametrize("data", [b"", b"\x80", bytes(100), b"\x80" + bytes(61), b"x" * (1 << 20)])
def test_the_extremes_of_data(data: bytes) -> None:
    a, b = two_sessions()
    assert take(b, seal(a, data))[1] == data


@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 61, 62, 63, 500, 5000, 70000])
def test_a_size_tells_the_padded_length_and_no_more(size: int) -> None:
    a, _ = two_sessions()
    alike, random = seal(a, b"a" * size), seal(a, os.urandom(size))
    assert len(alike) == len(random)
    outer = OuterEnvelope.parse(alike)
    assert len(outer.body) == 16 + MESSAGE_OVERHEAD_BYTES + padded_length(HEAD_BYTES + size + 1)
    exponent = math.floor(math.log2(max(64, HEAD_BYTES + size + 1)))
    step = 1 << (exponent - math.floor(math.log2(exponent)) - 1)
    assert padded_length(HEAD_BYTES + size + 1) % step == 0
    assert padded_length(HEAD_BYTES + size + 1) <= max(64, (HEAD_BYTES + size + 1) * 1.12 + 1)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_data_that_can_change_is_copied_when_it_is_sealed(kind: Any) -> None:
    a, b = two_sessions()
    buffer = bytearray(b"as it was")
    envelope = seal(a, kind(buffer))
    buffer[:] = b"changed!!"
    assert take(b, envelope)[1] == b"as it was"


@pytest.mark.parametrize("data", ["x", None, 1, [b"x"], b"x" * 1025, bytearray(1025)])
def test_data_of_another_type_or_over_the_limit_is_the_callers_mistake(data: Any) -> None:
    a, b = two_sessions()
    small = Limits(plaintext_max_bytes=1024)
    assert will_not(a, ArgumentInvalid, data=data, limits=small).argument == "data"
    assert take(b, seal(a, b"x" * 1024, limits=small), limits=small)[1] == b"x" * 1024


@pytest.mark.parametrize("action", ["", "x" * 129, "\N{GREEK SMALL LETTER ALPHA}" * 65, "\ud800", b"x", 1, ["x"]])
def test_an_action_that_cannot_travel_is_the_callers_mistake(action: Any) -> None:
    a, b = two_sessions()
    assert will_not(a, ArgumentInvalid, action=action).argument == "action"
    assert take(b, seal(a, action="x" * 128))[0] == "x" * 128


@pytest.mark.parametrize("reason", ["x" * 129, "\ud800", b"x", None, 1])
def test_a_reason_that_cannot_travel_is_the_callers_mistake(reason: Any) -> None:
    a, _ = two_sessions()
    before = export_session(a)
    with pytest.raises(ArgumentInvalid):
        seal_close(a, reason, now_ms=NOW_MS, entropy=ENTROPY)
    assert export_session(a) == before


def test_a_receiver_holds_the_peer_to_its_own_size_limit() -> None:
    a, b = two_sessions()
    small = Limits(plaintext_max_bytes=1024)
    assert take(b, seal(a, b"x" * 1024), limits=small)[1] == b"x" * 1024
    over = seal(a, b"x" * 1025)
    before = export_session(b)
    with pytest.raises(TooLarge):
        open_message(b, OuterEnvelope.parse(over), now_ms=NOW_MS, limits=small)
    assert export_session(b) == before
    assert take(b, seal(a, b"next"), limits=small)[1] == b"next"


# --- disclosure ------------------------------------------------------------------------------------------------------


def test_a_disclosure_key_opens_its_own_message_and_no_other() -> None:
    a, b = two_sessions()
    sealed = []
    for number in range(4):
        one, sent = seal_data(
            a, b"m%d" % number, now_ms=NOW_MS, limits=LIMITS, entropy=ENTROPY, disclosable=number % 2 == 1
        )
        sent.apply()
        sealed.append(one)
    assert [one.disclosure is None for one in sealed] == [True, False, True, False]
    assert sealed[1].receipt == receipt_of(sealed[1].envelope)
    for mine in sealed[1::2]:
        assert mine.disclosure is not None
        for other in sealed:
            outer = OuterEnvelope.parse(other.envelope)
            frame, context = SUITE.parse(outer.body, 16), a.facts.context(outer.header_bytes)
            key = MessageKey(mine.disclosure.key.reveal())
            if other is mine:
                assert b"m" in SUITE.open_body(key, frame, context)
            else:
                with pytest.raises(DecryptionFailed):
                    SUITE.open_body(key, frame, context)
    incoming = [
        open_message(b, OuterEnvelope.parse(one.envelope), now_ms=NOW_MS, limits=LIMITS, disclosable=True)
        for one in sealed[1:]
    ]
    assert sealed[1].disclosure is not None
    assert incoming[0].disclosure_key == sealed[1].disclosure.key
    assert incoming[1].disclosure_key is not None
    assert incoming[0].disclosure_key != incoming[1].disclosure_key


# --- conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("limit", [0, 1, 3])
def test_max_messages_at_the_sender_by_index(limit: int, early: bool) -> None:
    for from_a, left in ((True, limit - early), (False, limit)):
        a, b = two_sessions(Conditions(max_messages=limit), early=early)
        sender, receiver = (a, b) if from_a else (b, a)
        for _ in range(max(0, left)):
            take(receiver, seal(sender))
        assert will_not(sender, ConditionNotMet).condition == "max_messages"
        take(receiver, close(sender, "a close is always allowed"))


def test_allowed_actions_at_the_sender() -> None:
    a, _ = two_sessions(Conditions(allowed_actions=("read", "list")))
    seal(a, action="read")
    for action in (None, "knocked-for", "write", "Read", "read "):
        assert will_not(a, ConditionNotMet, action=action).condition == "allowed_actions"
    nothing, _ = two_sessions(Conditions(allowed_actions=()))
    will_not(nothing, ConditionNotMet)
    close(nothing)


@pytest.mark.parametrize("ttl", [0, 1, 60, 2**53 - 1])
def test_the_time_to_live_at_both_sides(ttl: int) -> None:
    a, b = two_sessions(Conditions(ttl_seconds=ttl))
    end_ms = NOW_MS + ttl * 1000
    assert a.ttl_end_ms == b.ttl_end_ms == end_ms
    if ttl == 2**53 - 1:  # beyond what any clock shows: as good as unlimited
        assert take(b, seal(a))[1] == b"data"
        return
    last = seal(a, now_ms=end_ms)
    spare = seal(a, now_ms=end_ms)
    assert take(b, last, now_ms=end_ms + 300_000)[1] == b"data"
    refuses(b, spare, ClosedSession, now_ms=end_ms + 300_001)
    will_not(a, SessionNotOpen, now_ms=end_ms + 1)
    with pytest.raises(SessionNotOpen):
        close(a, now_ms=end_ms + 1)
    assert take(b, spare, now_ms=end_ms)[1] == b"data"
    assert a.ending(end_ms + 300_000) is None
    assert a.ending(end_ms + 300_001) is Happening.TIMED_OUT


def test_a_header_time_past_the_end_breaks_the_time_to_live() -> None:
    a, b = two_sessions(Conditions(ttl_seconds=10))
    a.conditions = UNLIMITED
    for envelope in (seal(a, now_ms=NOW_MS + 10_001), close(a, now_ms=NOW_MS + 10_001)):
        assert refuses(b, envelope, PeerConditionBroken).condition == "ttl_seconds"


# --- endings ---------------------------------------------------------------------------------------------------------

WINDOW_MS = 600_000


@pytest.mark.parametrize(
    ("own_close", "peer_close", "superseded", "ttl", "opened", "phases"),
    [
        # phases: at once, at the end of the window, one past it
        (False, None, False, None, 0, (None, None, None)),
        (True, None, False, None, 0, (None, None, Happening.CUT_OFF)),
        (False, 0, False, None, 0, (None, None, Happening.CUT_OFF)),
        (True, 0, False, None, 0, (Happening.COMPLETED, Happening.COMPLETED, Happening.COMPLETED)),
        (True, 2, False, None, 1, (None, None, Happening.CUT_OFF)),
        (True, 2, False, None, 2, (Happening.COMPLETED, Happening.COMPLETED, Happening.COMPLETED)),
        (True, 2, False, None, 3, (Happening.COMPLETED, Happening.COMPLETED, Happening.COMPLETED)),
        (False, None, True, None, 0, (None, None, Happening.CUT_OFF)),
        (False, None, False, 300, 0, (None, None, Happening.TIMED_OUT)),
        (True, None, False, 300, 0, (None, None, Happening.CUT_OFF)),
        (True, None, False, 3000, 0, (None, None, Happening.CUT_OFF)),
        (False, None, False, 3000, 0, (None, None, None)),
        (True, 2, True, 300, 1, (None, None, Happening.CUT_OFF)),
    ],
)
def test_how_a_session_ends(
    own_close: bool,
    peer_close: int | None,
    superseded: bool,
    ttl: int | None,
    opened: int,
    phases: tuple[Happening | None, ...],
) -> None:
    a, _ = two_sessions(Conditions(ttl_seconds=ttl))
    a.own_close_at_ms = NOW_MS if own_close else None
    a.peer_close = None if peer_close is None else PeerClose(9, peer_close, 0, NOW_MS)
    a.superseded_at_ms = NOW_MS if superseded else None
    a.received = NONE.with_range(1, opened, 9)
    assert tuple(a.ending(NOW_MS + after) for after in (0, WINDOW_MS, WINDOW_MS + 1)) == phases
    assert a.may_send(NOW_MS) is not (own_close or peer_close is not None or superseded)
    if phases[2] in (Happening.CUT_OFF, Happening.TIMED_OUT) and phases[0] is None:
        assert a.deadline_ms == NOW_MS + WINDOW_MS


def test_the_earliest_end_counts() -> None:
    a, _ = two_sessions(Conditions(ttl_seconds=100))
    assert a.deadline_ms == NOW_MS + 400_000
    a.own_close_at_ms = NOW_MS - 300_000
    assert a.deadline_ms == NOW_MS + 300_000
    a.superseded_at_ms = NOW_MS - 400_000
    assert a.deadline_ms == NOW_MS + 200_000
    a.peer_close = PeerClose(1, 1, 1, NOW_MS - 500_000)
    assert a.deadline_ms == NOW_MS + 100_000
    unlimited, _ = two_sessions()
    assert unlimited.deadline_ms is not None  # until its initiator is heard
    seal(unlimited)
    assert unlimited.deadline_ms is None


def test_a_close_says_what_was_sent_and_opened() -> None:
    a, b = two_sessions(early=True)
    for _ in range(3):
        take(b, seal(a))
    seal(a, b"lost")
    take(a, seal(b))
    incoming = open_message(b, OuterEnvelope.parse(close(a, "because")), now_ms=NOW_MS + 5, limits=LIMITS)
    assert incoming.content_type is ContentType.CLOSE
    assert incoming.data == b"because"
    assert incoming.peer_close == PeerClose(position=6, data_sent=5, data_opened=1, at_ms=NOW_MS + 5)


@pytest.mark.parametrize("reason", ["", "x" * 128, "\N{GREEK SMALL LETTER ALPHA}" * 64, "line\nbreak\x1b[31m"])
def test_reasons_arrive_as_they_were(reason: str) -> None:
    a, b = two_sessions()
    assert take(b, close(a, reason))[1].decode() == reason


def test_after_its_own_close_a_side_sends_nothing() -> None:
    a, b = two_sessions()
    closing = close(a)
    will_not(a, SessionNotOpen)
    with pytest.raises(SessionNotOpen):
        close(a)
    assert take(a, seal(b, b"late"))[1] == b"late"
    take(b, closing)
    will_not(b, SessionNotOpen)
    take(a, close(b))
    assert a.ending(NOW_MS) is b.ending(NOW_MS) is Happening.COMPLETED


def test_an_answer_is_sealed_over_the_state_after_the_close() -> None:
    a, b = two_sessions()
    take(b, seal(a))
    incoming = open_message(b, OuterEnvelope.parse(close(a)), now_ms=NOW_MS, limits=LIMITS)
    delta = incoming.taken(ENTROPY, NOW_MS, LIMITS)
    before = export_session(b)
    answer, answered = answer_close(b, delta, now_ms=NOW_MS, entropy=ENTROPY)
    assert export_session(b) == before
    delta.apply()
    answered.apply()
    assert open_message(a, OuterEnvelope.parse(answer.envelope), now_ms=NOW_MS, limits=LIMITS).peer_close is not None


# --- the header ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_ms", [0, 1, 2**32 - 1, 2**32, NOW_MS, 2**53 - 1])
def test_a_header_of_any_time_opens_and_is_told(time_ms: int) -> None:
    a, b = two_sessions()
    take(b, seal(a))  # at any time, once there was a first message
    envelope = seal(a, now_ms=time_ms)
    outer = OuterEnvelope.parse(envelope)
    assert outer.header == Header(
        kind=Kind.MESSAGE, mesh="example/test", sender=ALICE.did, recipient=BOB.did, time_ms=time_ms
    )
    assert outer.header_bytes == outer.header.encode()
    assert open_message(b, outer, now_ms=NOW_MS, limits=LIMITS).time_ms == time_ms


@given(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1))
@brisk
def test_a_header_is_known_by_its_bytes_if_and_only_if_it_is_the_canonical_one(time_ms: int, other_ms: int) -> None:
    a, b = two_sessions()
    header_bytes = a.facts.header(Kind.MESSAGE, time_ms)
    assert Header.decode(header_bytes).time_ms == time_ms

    def told(header_bytes: bytes) -> int | None:
        known = b.facts.incoming(OuterEnvelope(build(header_bytes, b"body"), LIMITS))
        if known is None:
            return None
        time_ms, context = known
        assert context == b.facts.context(header_bytes)
        return time_ms

    known = told(header_bytes)
    assert known == (time_ms if time_ms >= 2**32 else None)
    header = Header.decode(header_bytes)
    for changed in (
        evolve(header, kind=Kind.ACCEPT),
        evolve(header, mesh="example/tesu"),
        evolve(header, sender=header.recipient),
        evolve(header, recipient=header.sender),
    ):
        assert told(changed.encode()) is None
    padded_time = header_bytes[:-9] if len(header_bytes) > 9 else header_bytes
    assert told(padded_time + b"\xcf" + min(other_ms, 2**32 - 1).to_bytes(8, "big")) is None
    assert told(padded_time + b"\xcf" + (2**53 + other_ms).to_bytes(8, "big")) is None


def test_the_same_message_under_another_header_time_does_not_open() -> None:
    a, b = two_sessions()
    envelope = seal(a)
    outer = OuterEnvelope.parse(envelope)
    moved = evolve(outer.header, time_ms=NOW_MS + 1).encode()
    refuses(b, build(moved, outer.body), DecryptionFailed)
    assert take(b, envelope)[1] == b"data"


def test_nothing_of_a_session_prints() -> None:
    a, b = two_sessions()
    sealed, sent = seal_data(a, b"data", now_ms=NOW_MS, limits=LIMITS, entropy=ENTROPY, disclosable=True)
    incoming = open_message(b, OuterEnvelope.parse(sealed.envelope), now_ms=NOW_MS, limits=LIMITS, disclosable=True)
    undecided, pending = undecided_and_pending()
    for value in (a, b, sent, incoming, incoming.taken(ENTROPY, NOW_MS, LIMITS), undecided, pending):
        assert repr(value) == str(value) == f"{type(value).__name__}(<redacted>)"
        assert not hasattr(value, "__dict__")
    assert repr(sealed) == f"Sealed(envelope=<{len(sealed.envelope)} bytes>, receipt={sealed.receipt.hex()})"
    assert not hasattr(sealed, "__dict__")
