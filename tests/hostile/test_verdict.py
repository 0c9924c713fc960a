"""Forged, moved, late and contradicting verdicts, and KNOCKs that cross (protocol, sections 5.2 and 7)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    Assurance,
    Conditions,
    Grant,
    Intent,
    Kind,
    KnockReceived,
    KnockRefused,
    Phase,
    Reason,
    SessionEstablished,
    SessionOver,
    SessionRejected,
)
from agentmesh.errors import (
    ArgumentInvalid,
    BadPoint,
    BadSignature,
    ClosedSession,
    ContradictoryHeader,
    DecryptionFailed,
    DuplicateMessage,
    EnvelopeReflected,
    IdentityConflict,
    KnockFromFuture,
    KnockNotPending,
    KnockReplayed,
    Malformed,
    MessageRefused,
    NoSession,
    NotYet,
    PeerConditionBroken,
    PeerNotAllowed,
    SenderMismatch,
    SessionNotOpen,
    TooLarge,
    UnknownSession,
    VerdictUnmatched,
    WrongMesh,
    WrongRecipient,
)
from agentmesh.handshake.verdict import parse_reject_body
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import X25519PublicKey, X25519Secret
from agentmesh.primitives.padding import unpad
from agentmesh.session.chains import SendingChain
from agentmesh.session.epochs import Answering
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE

DAY = 86_400_000
TOLERANCE = 300_000


class Asked:
    """Alice has knocked, and Bob has been asked."""

    def __init__(self, scene: Any, forge: ModuleType, bundle: bytes | None = None) -> None:
        self.scene, self.forge = scene, forge
        self.alice, self.bob = scene.alice, scene.bob
        self.knock = scene.alice.knock(scene.bob.did, bundle or scene.one_time()[0], Intent("ask"))
        [self.event] = scene.bob.receive(self.knock)

    @property
    def undecided(self) -> Any:
        return self.forge.undecided_of(self.scene.bob, self.knock.session_id)

    def accept(self, **changes: Any) -> bytes:
        """An ACCEPT that Bob's identity makes over Bob's keys, with these changes."""
        identity = changes.pop("identity", None) or self.scene.identity(self.scene.bob)
        time_ms = changes.pop("time_ms", self.scene.clock.now_ms)
        made: bytes = self.forge.make_accept(identity, self.undecided, time_ms=time_ms, **changes)
        return made

    def reject(self, **changes: Any) -> bytes:
        identity = changes.pop("identity", None) or self.scene.identity(self.scene.bob)
        recipient = changes.pop("recipient", self.scene.alice.did)
        changes = {"receipt": self.knock.receipt, "time_ms": self.scene.clock.now_ms, **changes}
        made: bytes = self.forge.make_reject(identity, recipient, **changes)
        return made

    def ends_well(self) -> None:
        """Whatever was refused, the genuine ACCEPT is taken and the session carries data."""
        [event] = self.alice.receive(self.bob.accept(self.event).envelope)
        assert isinstance(event, SessionEstablished)
        self.forge.chat(self.alice, self.bob, self.knock.session_id)


@pytest.fixture
def asked(scene: Any, forge: ModuleType) -> Asked:
    return Asked(scene, forge)


def test_the_forger_of_these_tests_makes_what_bob_makes(asked: Asked) -> None:
    [event] = asked.alice.receive(asked.accept())
    assert isinstance(event, SessionEstablished)
    assert event.session_id == asked.knock.session_id


# --- forged ACCEPTs ---------------------------------------------------------------------------------------------------


def relabelled(asked: Asked, label: bytes) -> Callable[[bytes], bytes]:
    """A signature of Bob's over the same, under another label."""
    return lambda message: asked.scene.identity(asked.bob).sign(label, message.split(b"\x00", 1)[1])


FORGED_ACCEPTS: dict[str, tuple[Callable[[Asked], bytes], type[Exception]]] = {
    "no signature": (lambda a: a.accept(sign=lambda _: b""), BadSignature),
    "a zero signature": (lambda a: a.accept(sign=lambda _: bytes(64)), BadSignature),
    "Mallory's signature": (lambda a: a.accept(identity=a.scene.identity(a.scene.mallory)), BadSignature),
    "Alice's own signature": (lambda a: a.accept(identity=a.scene.identity(a.alice)), BadSignature),
    "the label of a reject": (lambda a: a.accept(sign=relabelled(a, a.forge.SIGN_REJECT)), BadSignature),
    "the label of a knock": (lambda a: a.accept(sign=relabelled(a, a.forge.SIGN_KNOCK)), BadSignature),
    "another th": (lambda a: a.accept(th=bytes(64)), BadSignature),
    "another KNOCK's receipt": (lambda a: a.accept(receipt=bytes(32)), BadSignature),
    "another ratchet key": (lambda a: a.accept(signed_key=bytes(32)), BadSignature),
    "signed for another time": (
        lambda a: a.accept(signed_header=a.forge.header_bytes(2, a.bob.did, a.alice.did, a.scene.clock.now_ms + 1)),
        BadSignature,
    ),
    "signed for another mesh": (
        lambda a: a.accept(
            signed_header=a.forge.header_bytes(2, a.bob.did, a.alice.did, a.scene.clock.now_ms, "example/other")
        ),
        BadSignature,
    ),
    "a data message": (lambda a: a.accept(plaintext=b"\x00\x00\x00\x00\x00\x01\x00data"), MessageRefused),
    "a close": (lambda a: a.accept(plaintext=b"\x02" + msgpack.packb(["", 0, 0])), MessageRefused),
    "an unknown type": (lambda a: a.accept(plaintext=b"\x03"), MessageRefused),
    "no type": (lambda a: a.accept(plaintext=b""), MessageRefused),
    "no content": (lambda a: a.accept(content=b""), MessageRefused),
    "content in clear": (lambda a: a.accept(content=msgpack.packb([[None] * 3, bytes(64)])), MessageRefused),
    "content and more": (
        lambda a: a.accept(content=msgpack.packb([Conditions().encode(), bytes(64), b""])),
        MessageRefused,
    ),
    "content as a map": (lambda a: a.accept(content=msgpack.packb({b"conditions": bytes(64)})), MessageRefused),
    "not the first message": (lambda a: a.accept(skip=1), MessageRefused),
    "far from the first message": (lambda a: a.accept(skip=1000), MessageRefused),
    "another kind": (lambda a: a.accept(kind=Kind.MESSAGE), NotYet),
}


@pytest.mark.parametrize("name", FORGED_ACCEPTS)
def test_a_forged_accept_is_refused_though_it_opens(name: str, asked: Asked) -> None:
    # Each of these is sealed under the session's own keys: only what it says gives it away.
    make, error = FORGED_ACCEPTS[name]
    for _ in range(2):
        with asked.forge.refused(asked.alice, error):
            asked.alice.receive(make(asked))
    asked.ends_well()


def test_an_accept_too_far_ahead_is_refused_as_a_gap_by_a_typed_error(asked: Asked) -> None:
    with pytest.raises(Exception) as caught:
        asked.alice.receive(asked.accept(skip=1001))
    assert type(caught.value).__module__.startswith("agentmesh.errors")
    asked.ends_well()


@pytest.mark.parametrize("name", ["S + L", "R neutral", "R of mixed order", "R non-canonical 7f", "R non-canonical ff"])
def test_odd_signatures_under_verdicts_are_refused(name: str, asked: Asked) -> None:
    bob = asked.scene.identity(asked.bob)

    def sign(message: bytes) -> bytes:
        signature: bytes = asked.forge.odd_signatures(bob, message)[name]
        return signature

    with asked.forge.refused(asked.alice, BadSignature):
        asked.alice.receive(asked.accept(sign=sign))
    with asked.forge.refused(asked.alice, BadSignature):
        asked.alice.receive(asked.reject(sign=sign))
    asked.ends_well()


def conditions_of(*values: Any) -> bytes:
    packed: bytes = msgpack.packb(list(values))
    return packed


BAD_CONDITIONS: dict[str, bytes] = {
    "nothing": b"",
    "nil": b"\xc0",
    "two": conditions_of(None, None),
    "four": conditions_of(None, None, None, None),
    "a map": msgpack.packb({"max_messages": 1}),
    "trailing": conditions_of(None, None, None) + b"\xc0",
    "a bool": conditions_of(True, None, None),
    "a float": conditions_of(1.0, None, None),
    "NaN": conditions_of(None, math.nan, None),
    "below zero": conditions_of(-1, None, None),
    "2^53": conditions_of(None, 2**53, None),
    "2^64 - 1": conditions_of(2**64 - 1, None, None),
    "text": conditions_of("1", None, None),
    "actions as text": conditions_of(None, None, "act"),
    "actions as bytes": conditions_of(None, None, [b"act"]),
    "an empty action": conditions_of(None, None, [""]),
    "a long action": conditions_of(None, None, ["a" * 129]),
    "257 actions": conditions_of(None, None, ["a"] * 257),
    "nested actions": conditions_of(None, None, [["a"]]),
    "a longer form of nil": b"\x93\xc0\xc0\xdc\x00\x00",
    "a longer form of a number": b"\x93\xcc\x01\xc0\xc0",
    "a longer form of the array": b"\xdc\x00\x03\xc0\xc0\xc0",
    "over the size limit": conditions_of(None, None, ["a" * 128] * 1000),
}


@pytest.mark.parametrize("name", BAD_CONDITIONS)
def test_conditions_that_are_none_are_refused_though_bob_signed_them(name: str, asked: Asked) -> None:
    with asked.forge.refused(asked.alice, MessageRefused):
        asked.alice.receive(asked.accept(conditions=BAD_CONDITIONS[name]))
    asked.ends_well()


@given(conditions=st.binary(max_size=60))
def test_no_conditions_bring_down_the_initiator(conditions: bytes, forge: ModuleType) -> None:
    asked = Asked(forge.new_scene(), forge)
    with forge.refused(asked.alice, MessageRefused):
        asked.alice.receive(asked.accept(conditions=conditions))


# --- ACCEPTs by somebody who knows the root key -----------------------------------------------------------------------


def opened_accept(asked: Asked, reply: bytes) -> bytes:
    """The content of a genuine ACCEPT, as somebody sees it who has all of Alice's state."""
    thief = Agent.restore(asked.alice.export_state(), clock=asked.scene.clock)
    pending = thief._core.state.sessions[asked.knock.session_id]
    outer = asked.forge.parse(reply)
    context = pending.facts.context(outer.header_bytes)
    opened = pending.ratchet.open(outer.body[16:], context, now_ms=asked.scene.clock.now_ms, limits=asked.forge.ROOMY)
    plaintext: bytes = unpad(opened.plaintext)
    assert plaintext[:1] == b"\x01"
    return plaintext[1:]


def test_a_genuine_accept_sealed_again_under_another_ratchet_key_is_refused(asked: Asked) -> None:
    undecided = asked.undecided
    genuine = asked.bob.accept(asked.event).envelope
    content = opened_accept(asked, genuine)
    header = asked.forge.parse(genuine).header_bytes
    for seed in range(3):
        ratchet = asked.forge.responder_ratchet(undecided, seed)
        resealed = asked.forge.make_accept(
            asked.scene.identity(asked.scene.mallory),
            undecided,
            time_ms=0,
            content=content,
            header=header,
            ratchet=ratchet,
        )
        with asked.forge.refused(asked.alice, BadSignature):
            asked.alice.receive(resealed)
    asked.alice.receive(genuine)
    asked.forge.chat(asked.alice, asked.bob)


def test_low_order_and_non_canonical_ratchet_keys_of_an_accept_are_refused(asked: Asked) -> None:
    # Even Bob, who signs it, cannot bring a ratchet key of small order: the shared secret would be known to all.
    undecided = asked.undecided
    for point in (*asked.forge.LOW_ORDER_X25519, *asked.forge.LOW_ORDER_NON_CANONICAL_X25519):
        root, chain_key, next_sending = SUITE.kdf_root(undecided.root, bytes(32))
        ratchet = Ratchet(
            SUITE,
            root,
            X25519Secret(bytes(32)),
            X25519PublicKey(point),
            SendingChain(chain_key, undecided.header_key_ba, 0, 0, 0),
            None,
            next_sending,
            undecided.header_key_ab,
            Answering(),
        )
        with asked.forge.refused(asked.alice, BadPoint):
            asked.alice.receive(asked.accept(ratchet=ratchet))
    asked.ends_well()


# --- ACCEPTs from elsewhere -------------------------------------------------------------------------------------------


def test_an_accept_of_another_knock_is_refused(scene: Any, forge: ModuleType) -> None:
    one, other = Asked(scene, forge), Asked(scene, forge)
    accepts = [asked.bob.accept(asked.event).envelope for asked in (one, other)]
    header, body = msgpack.unpackb(accepts[0])
    moved = msgpack.packb([header, other.knock.session_id + body[16:]])
    with forge.refused(scene.alice, DecryptionFailed):
        scene.alice.receive(moved)
    unknown = msgpack.packb([header, bytes(16) + body[16:]])
    with forge.refused(scene.alice, UnknownSession):
        scene.alice.receive(unknown)
    for asked, reply in zip((other, one), reversed(accepts), strict=True):
        [event] = scene.alice.receive(reply)
        assert event.session_id == asked.knock.session_id
        forge.chat(scene.alice, scene.bob, event.session_id)


HEADERS: dict[str, tuple[Callable[[Asked], dict[str, Any]], type[Exception]]] = {
    "another sender": (lambda a: {"sender": a.scene.mallory.did}, SenderMismatch),
    "another recipient": (lambda a: {"recipient": a.scene.mallory.did}, WrongRecipient),
    "another mesh": (lambda a: {"mesh": "example/other"}, WrongMesh),
    "another time": (lambda a: {"time_ms": a.scene.clock.now_ms + 1}, DecryptionFailed),
    "kind 4": (lambda a: {"kind": 4}, NotYet),
    "kind 1": (lambda a: {"kind": 1}, Malformed),
    "kind 3": (lambda a: {"kind": 3}, Malformed),
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_accept_under_another_header_is_refused(name: str, asked: Asked) -> None:
    changes, error = HEADERS[name]
    accepted = asked.bob.accept(asked.event).envelope
    with asked.forge.refused(asked.alice, error):
        asked.alice.receive(asked.forge.with_header(accepted, **changes(asked)))
    asked.alice.receive(accepted)
    asked.forge.chat(asked.alice, asked.bob)


def test_every_flipped_bit_of_an_accept_is_refused(asked: Asked) -> None:
    accepted = asked.bob.accept(asked.event).envelope
    before = asked.alice.export_state()
    for at in range(0, len(accepted) * 8, 3):
        forged = bytearray(accepted)
        forged[at // 8] ^= 1 << at % 8
        with pytest.raises(Exception) as caught:
            asked.alice.receive(bytes(forged))
        assert type(caught.value).__module__.startswith("agentmesh.errors")
    assert asked.alice.export_state() == before
    asked.alice.receive(accepted)
    asked.forge.chat(asked.alice, asked.bob)


def test_an_accept_goes_to_nobody_else(asked: Asked) -> None:
    accepted = asked.bob.accept(asked.event).envelope
    for receiver, error in ((asked.scene.mallory, WrongRecipient), (asked.bob, WrongRecipient)):
        with asked.forge.refused(receiver, error):
            receiver.receive(accepted)
    asked.alice.receive(accepted)


# --- forged REJECTs ---------------------------------------------------------------------------------------------------

FORGED_REJECTS: dict[str, tuple[Callable[[Asked], bytes], type[Exception]]] = {
    "no signature": (lambda a: a.reject(sign=lambda _: b""), BadSignature),
    "a short signature": (lambda a: a.reject(sign=lambda _: bytes(63)), BadSignature),
    "a zero signature": (lambda a: a.reject(sign=lambda _: bytes(64)), BadSignature),
    "Mallory's signature in Bob's name": (
        lambda a: a.reject(
            identity=a.scene.identity(a.scene.mallory),
            header=a.forge.header_bytes(3, a.bob.did, a.alice.did, a.scene.clock.now_ms),
        ),
        BadSignature,
    ),
    "Mallory's in her own name": (lambda a: a.reject(identity=a.scene.identity(a.scene.mallory)), VerdictUnmatched),
    "from a name that is no DID": (
        lambda a: a.reject(header=a.forge.header_bytes(3, "did:agentmesh:1", a.alice.did, a.scene.clock.now_ms)),
        VerdictUnmatched,
    ),
    "Alice's own": (lambda a: a.reject(identity=a.scene.identity(a.alice)), EnvelopeReflected),
    "the label of an accept": (lambda a: a.reject(sign=relabelled(a, a.forge.SIGN_ACCEPT)), BadSignature),
    "signed for another time": (
        lambda a: a.reject(signed_header=a.forge.header_bytes(3, a.bob.did, a.alice.did, a.scene.clock.now_ms + 1)),
        BadSignature,
    ),
    "another KNOCK's receipt": (lambda a: a.reject(receipt=bytes(32)), VerdictUnmatched),
    "a short receipt": (lambda a: a.reject(receipt=bytes(31)), Malformed),
    "a text receipt": (lambda a: a.reject(receipt="x" * 32), Malformed),
    "for Mallory": (lambda a: a.reject(recipient=a.scene.mallory.did), WrongRecipient),
    "of another mesh": (
        lambda a: a.reject(
            header=a.forge.header_bytes(3, a.bob.did, a.alice.did, a.scene.clock.now_ms, "example/other")
        ),
        WrongMesh,
    ),
    "another reason": (lambda a: a.reject(reason="because"), Malformed),
    "no reason": (lambda a: a.reject(reason=""), Malformed),
    "a nil reason": (lambda a: a.reject(reason=None), Malformed),
    "a reason as bytes": (lambda a: a.reject(reason=b"busy"), Malformed),
    "a reason in capitals": (lambda a: a.reject(reason="BUSY"), Malformed),
    "a reason with a space": (lambda a: a.reject(reason="busy "), Malformed),
    "a long reason": (lambda a: a.reject(reason="b" * 17), Malformed),
    "retry below zero": (lambda a: a.reject(retry_after=-1), Malformed),
    "retry of 2^53": (lambda a: a.reject(retry_after=2**53), Malformed),
    "a bool to retry": (lambda a: a.reject(retry_after=True), Malformed),
    "a float to retry": (lambda a: a.reject(retry_after=1.0), Malformed),
    "nil to retry": (lambda a: a.reject(retry_after=None), Malformed),
    "one more": (lambda a: a.reject(content=msgpack.packb([a.knock.receipt, "busy", 0, 0])), Malformed),
    "one less": (lambda a: a.reject(content=msgpack.packb([a.knock.receipt, "busy"])), Malformed),
    "a map": (lambda a: a.reject(content=msgpack.packb({"reason": "busy"})), Malformed),
    "a longer form": (
        lambda a: a.reject(content=b"\x93\xc5\x00\x20" + a.knock.receipt + msgpack.packb("busy") + b"\x00"),
        Malformed,
    ),
    "trailing": (lambda a: a.reject() + b"\x00", Malformed),
    "over the size limit": (lambda a: a.reject(content=bytes(300)), TooLarge),
    "no body": (lambda a: msgpack.packb([a.forge.header_bytes(3, a.bob.did, a.alice.did, 0), b""]), Malformed),
}


@pytest.mark.parametrize("name", FORGED_REJECTS)
def test_a_forged_reject_is_refused_and_the_session_goes_on(name: str, asked: Asked) -> None:
    make, error = FORGED_REJECTS[name]
    with asked.forge.refused(asked.alice, error):
        asked.alice.receive(make(asked))
    assert asked.alice.session(asked.bob.did).status.phase is Phase.PENDING
    asked.ends_well()


@pytest.mark.parametrize("reason", ["busy", "bundle", "policy", "stale"])
@pytest.mark.parametrize("retry_after", [0, 1, 2**53 - 1])
def test_the_four_reasons_are_taken(reason: str, retry_after: int, asked: Asked) -> None:
    [event] = asked.alice.receive(asked.reject(reason=reason, retry_after=retry_after))
    assert isinstance(event, SessionRejected)
    assert (event.reason, event.retry_after_seconds, event.peer) == (Reason(reason), retry_after, asked.bob.key)
    assert event.session_id == asked.knock.session_id
    status = asked.alice.session(asked.bob.did).status
    assert (status.phase, status.detail) == (Phase.REJECTED, reason)


def test_every_flipped_bit_of_a_reject_is_refused(asked: Asked) -> None:
    rejected = asked.bob.reject(asked.event, Reason.BUSY, retry_after_seconds=5).envelope
    before = asked.alice.export_state()
    for at in range(len(rejected) * 8):
        forged = bytearray(rejected)
        forged[at // 8] ^= 1 << at % 8
        with pytest.raises(Exception) as caught:
            asked.alice.receive(bytes(forged))
        assert type(caught.value).__module__.startswith("agentmesh.errors")
    assert asked.alice.export_state() == before
    [event] = asked.alice.receive(rejected)
    assert (event.reason, event.retry_after_seconds) == (Reason.BUSY, 5)


def test_a_reject_ends_its_own_knock_only(scene: Any, forge: ModuleType) -> None:
    one, other = Asked(scene, forge), Asked(scene, forge)
    scene.alice.receive(one.bob.reject(one.event))
    phases = [view.status.phase for view in scene.alice.sessions(scene.bob.did)]
    assert sorted(phases) == [Phase.PENDING, Phase.REJECTED]
    other.ends_well()


@pytest.mark.parametrize("reason", ["policy", None, 1, Phase.REJECTED, b"busy"])
def test_rejecting_takes_one_of_the_four_reasons(reason: Any, asked: Asked) -> None:
    with asked.forge.refused(asked.bob, ArgumentInvalid, argument="reason"):
        asked.bob.reject(asked.event, reason)
    asked.ends_well()


@pytest.mark.parametrize("seconds", [-1, 2**53, True, 1.0, None, "1"])
def test_rejecting_takes_seconds_that_travel(seconds: Any, asked: Asked) -> None:
    with asked.forge.refused(asked.bob, ArgumentInvalid, argument="retry_after_seconds"):
        asked.bob.reject(asked.event, retry_after_seconds=seconds)
    asked.ends_well()


# --- twice, and one after the other -----------------------------------------------------------------------------------


def test_an_accept_that_arrives_twice_is_a_duplicate(asked: Asked) -> None:
    accepted = asked.bob.accept(asked.event).envelope
    asked.alice.receive(accepted)
    for _ in range(2):
        with asked.forge.refused(asked.alice, DuplicateMessage):
            asked.alice.receive(accepted)
        with asked.forge.refused(asked.alice, DuplicateMessage):
            asked.alice.receive(asked.forge.retyped(accepted, Kind.MESSAGE))
    asked.forge.chat(asked.alice, asked.bob)
    with asked.forge.refused(asked.alice, DuplicateMessage):
        asked.alice.receive(accepted)


def test_a_second_accept_of_bobs_own_is_refused(asked: Asked) -> None:
    # Bob accepts, and a Bob that was restored accepts again: two ACCEPTs with two ratchet keys, both genuine.
    before = Agent.restore(asked.bob.export_state(), clock=asked.scene.clock, policy=asked.scene.rules)
    accepted = asked.bob.accept(asked.event).envelope
    second = before.accept(asked.event).envelope
    assert second != accepted
    asked.alice.receive(accepted)
    with asked.forge.refused(asked.alice, ContradictoryHeader):
        asked.alice.receive(second)
    asked.forge.chat(asked.alice, asked.bob)


def test_a_reject_after_the_accept_is_ignored(asked: Asked) -> None:
    rejected = asked.reject()
    asked.alice.receive(asked.bob.accept(asked.event).envelope)
    with asked.forge.refused(asked.alice, VerdictUnmatched):
        asked.alice.receive(rejected)
    asked.forge.chat(asked.alice, asked.bob)


def test_an_accept_after_the_reject_is_ignored(asked: Asked) -> None:
    accepted = asked.accept()
    rejected = asked.bob.reject(asked.event).envelope
    asked.alice.receive(rejected)
    with asked.forge.refused(asked.alice, ClosedSession):
        asked.alice.receive(accepted)
    with asked.forge.refused(asked.alice, VerdictUnmatched):
        asked.alice.receive(rejected)
    assert asked.alice.session(asked.bob.did).status.phase is Phase.REJECTED
    asked.forge.converse(asked.alice, asked.bob)


def test_a_knock_is_decided_once(asked: Asked) -> None:
    assert asked.bob.pending_knocks() == (asked.event,)
    accepted = asked.bob.accept(asked.event)
    for call in (asked.bob.accept, asked.bob.reject):
        with asked.forge.refused(asked.bob, KnockNotPending):
            call(asked.event)
    assert asked.bob.pending_knocks() == ()
    asked.alice.receive(accepted.envelope)
    asked.forge.chat(asked.alice, asked.bob)


def test_a_rejected_knock_cannot_be_accepted(asked: Asked) -> None:
    asked.bob.reject(asked.event)
    for call in (asked.bob.accept, asked.bob.reject):
        with asked.forge.refused(asked.bob, KnockNotPending):
            call(asked.event)
    asked.forge.converse(asked.alice, asked.bob)


@pytest.mark.parametrize("knock", [None, b"", "event", 5, object()])
def test_only_events_of_knocks_are_decided(knock: Any, asked: Asked) -> None:
    for call in (asked.bob.accept, asked.bob.reject):
        with asked.forge.refused(asked.bob, ArgumentInvalid, argument="knock"):
            call(knock)
    with asked.forge.refused(asked.scene.mallory, KnockNotPending):
        asked.scene.mallory.accept(asked.event)
    asked.ends_well()


def test_a_peer_that_is_no_longer_allowed_cannot_be_accepted_but_can_be_rejected(asked: Asked) -> None:
    asked.scene.rules.allows = False
    with asked.forge.refused(asked.bob, PeerNotAllowed):
        asked.bob.accept(asked.event)
    asked.alice.receive(asked.bob.reject(asked.event))
    asked.scene.rules.allows = True
    asked.forge.converse(asked.alice, asked.bob)


def test_whoever_is_not_allowed_any_more_is_neither_knocked_at_nor_heard_nor_answered_again(
    asked: Asked, scene: Any, forge: ModuleType
) -> None:
    bundle = scene.alice.publish_bundles(1).one_time[0]
    knock = scene.bob.knock(scene.alice.did, bundle, Intent("out"))
    [event] = scene.alice.receive(knock)
    accepted = scene.alice.accept(event)
    answer = scene.bob.accept(asked.event)
    scene.rules.allows = False
    spare = scene.alice.publish_bundles(1).one_time[0]
    for call in (
        lambda: scene.bob.knock(scene.alice.did, spare, Intent("out")),
        lambda: scene.bob.receive(accepted),
        lambda: scene.bob.receive(asked.knock),
        lambda: scene.bob.close(scene.alice.did, session_id=answer.session_id),
    ):
        with forge.refused(scene.bob, PeerNotAllowed):
            call()
    scene.rules.allows = True
    scene.bob.receive(accepted)
    [repeated] = scene.bob.receive(asked.knock)
    assert repeated.reply.envelope == answer.envelope
    scene.bob.drop(scene.alice.did, answer.session_id)
    with forge.refused(scene.bob, KnockReplayed):  # its sender would establish what is over here
        scene.bob.receive(asked.knock)


@pytest.mark.parametrize("by_clock", [False, True])
def test_the_answer_of_a_session_that_has_ended_is_not_repeated(by_clock: bool, scene: Any, forge: ModuleType) -> None:
    scene.rules.decides = Grant(Conditions(ttl_seconds=60))
    knock = scene.alice.knock(scene.bob.did, scene.one_time()[0], Intent("short"))
    [event] = scene.bob.receive(knock)
    if by_clock:
        scene.clock.advance(seconds=60 + 301)
    else:
        scene.alice.receive(event.reply)
        scene.bob.receive(scene.alice.close(scene.bob.did))
    with forge.refused(scene.bob, KnockReplayed):
        scene.bob.receive(knock)


def test_a_did_has_one_key(scene: Any, forge: ModuleType) -> None:
    """Another key of one DID is a collision of hashes; here the state says that there is one."""
    bundle, theirs = scene.one_time()[0], scene.alice.publish_bundles(1).one_time[0]
    knock = scene.alice.knock(scene.bob.did, bundle, Intent("x"))
    scene.bob._core.state.dids[scene.alice.did] = scene.mallory.key.raw
    with forge.refused(scene.bob, IdentityConflict):
        scene.bob.receive(knock)
    with forge.refused(scene.bob, IdentityConflict):
        scene.bob.knock(scene.alice.did, theirs, Intent("x"))


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_pending_knock_takes_an_accept_until_a_day_after_its_expiry(asked: Asked) -> None:
    accepted = asked.bob.accept(asked.event).envelope
    deadline_ms = asked.event.expires_ms + DAY
    assert asked.alice.next_deadline_ms == deadline_ms + 1
    asked.scene.clock.now_ms = deadline_ms + 1
    with asked.forge.refused(asked.alice, ClosedSession):
        asked.alice.receive(accepted)
    assert asked.alice.session(asked.bob.did).status.phase is Phase.EXPIRED
    asked.scene.clock.now_ms = deadline_ms
    assert asked.alice.poll() == ()
    asked.alice.receive(accepted)
    asked.forge.chat(asked.alice, asked.bob)


def test_a_pending_knock_ends_by_itself_and_its_keys_go(asked: Asked) -> None:
    pending = asked.alice._core.state.sessions[asked.knock.session_id]
    secrets = [
        pending.ratchet.root,
        pending.ratchet.secret,
        pending.ratchet.next_receiving,
        pending.ratchet.next_sending,
    ]
    assert all(secret in asked.alice.export_state() for secret in secrets)
    accepted = asked.bob.accept(asked.event).envelope
    asked.scene.clock.now_ms = asked.event.expires_ms + DAY + 1
    [event] = asked.alice.poll()
    assert isinstance(event, SessionOver)
    assert event.phase is Phase.EXPIRED
    assert not any(secret in asked.alice.export_state() for secret in secrets)
    with asked.forge.refused(asked.alice, ClosedSession):
        asked.alice.receive(accepted)
    with asked.forge.refused(asked.alice, VerdictUnmatched):
        asked.alice.receive(asked.reject())
    asked.forge.converse(asked.alice, asked.bob)


@pytest.mark.parametrize("call", ["accept", "reject"])
def test_an_undecided_knock_waits_until_it_expires_and_no_longer(call: str, asked: Asked) -> None:
    asked.bob.poll()  # tells that the stock is low
    asked.scene.clock.now_ms = asked.event.expires_ms + 1
    with asked.forge.refused(asked.bob, KnockNotPending):
        getattr(asked.bob, call)(asked.event)
    assert asked.bob.pending_knocks() == ()
    asked.scene.clock.now_ms = asked.event.expires_ms
    assert asked.bob.pending_knocks() == (asked.event,)
    assert asked.bob.poll() == ()
    assert asked.bob.next_deadline_ms == asked.event.expires_ms + 1
    assert getattr(asked.bob, call)(asked.event)


def test_an_undecided_knock_that_ends_leaves_no_keys(asked: Asked) -> None:
    undecided = asked.undecided
    secrets = [undecided.root, undecided.header_key_ab, undecided.header_key_ba]
    assert all(secret in asked.bob.export_state() for secret in secrets)
    asked.scene.clock.now_ms = asked.event.expires_ms + 1
    [event] = [event for event in asked.bob.poll() if isinstance(event, SessionOver)]
    assert event.phase is Phase.EXPIRED
    assert not any(secret in asked.bob.export_state() for secret in secrets)
    with asked.forge.refused(asked.bob, KnockNotPending):
        asked.bob.accept(asked.event)


@pytest.mark.parametrize("verdict", ["accept", "reject"])
def test_a_verdict_leaves_no_key_of_the_waiting_knock(verdict: str, asked: Asked) -> None:
    undecided = asked.undecided
    secrets = [undecided.root, undecided.ephemeral] + [undecided.header_key_ab] * (verdict == "reject")
    getattr(asked.bob, verdict)(asked.event)
    assert not any(secret in asked.bob.export_state() for secret in secrets)
    assert b"ask" not in asked.bob.export_state() or verdict == "accept"  # the action names the session's data


def test_the_time_to_live_at_its_edges(scene: Any, forge: ModuleType) -> None:
    now_ms = scene.clock.now_ms
    for late_ms, taken in ((TOLERANCE, True), (TOLERANCE + 1, False)):
        scene.clock.now_ms = now_ms
        asked = Asked(scene, forge)
        accepted = asked.bob.accept(asked.event, Conditions(ttl_seconds=60)).envelope
        scene.clock.now_ms = now_ms + 60_000 + late_ms
        if taken:
            [event] = asked.alice.receive(accepted)
            assert event.conditions.ttl_seconds == 60
        else:
            with forge.refused(asked.alice, PeerConditionBroken, condition="ttl_seconds"):
                asked.alice.receive(accepted)
        now_ms = scene.clock.now_ms + 1
    scene.clock.advance(seconds=1)
    forge.converse(scene.alice, scene.bob)


# --- not yet ----------------------------------------------------------------------------------------------------------


def test_messages_that_overtake_the_accept_are_told_not_yet_and_delivered_later(asked: Asked) -> None:
    accepted = asked.bob.accept(asked.event).envelope
    early = [asked.bob.send(asked.alice.did, f"early {number}".encode()).envelope for number in range(5)]
    for envelope in (*early, *early):
        with asked.forge.refused(asked.alice, NotYet):
            asked.alice.receive(envelope)
    with asked.forge.refused(asked.alice, NoSession):
        asked.alice.send(asked.bob.did, b"too early")
    # A genuine header over a forged body is told so too, and stores nothing. What looks like neither is refused.
    forged = bytearray(early[0])
    forged[-1] ^= 1
    with asked.forge.refused(asked.alice, NotYet):
        asked.alice.receive(bytes(forged))
    header, body = msgpack.unpackb(early[0])
    with asked.forge.refused(asked.alice, DecryptionFailed):
        asked.alice.receive(msgpack.packb([header, body[:16] + bytes(len(body) - 16)]))
    with asked.forge.refused(asked.alice, Malformed):
        asked.alice.receive(msgpack.packb([header, body[:60]]))
    asked.alice.receive(accepted)
    got = [asked.alice.receive(envelope)[0].plaintext for envelope in reversed(early)]
    assert got == [f"early {number}".encode() for number in reversed(range(5))]
    with asked.forge.refused(asked.alice, DuplicateMessage):
        asked.alice.receive(early[0])
    asked.forge.chat(asked.alice, asked.bob)


def test_a_lost_accept_is_recovered_by_offering_the_knock_again(asked: Asked) -> None:
    lost = asked.bob.accept(asked.event).envelope
    asked.scene.clock.advance(seconds=3600)
    [waiting] = asked.alice.pending_envelopes(asked.bob.did)
    assert (waiting.envelope, waiting.receipt) == (asked.knock.envelope, asked.knock.receipt)
    [again] = asked.bob.receive(asked.alice.pending_envelopes(asked.bob.did)[0])
    assert again.reply.envelope == lost
    asked.alice.receive(again.reply)
    assert asked.alice.pending_envelopes(asked.bob.did) == ()
    assert asked.bob.session(asked.alice.did).status.assurance is Assurance.SIGNED
    asked.bob.receive(asked.alice.send(asked.bob.did, b"here I am"))
    assert asked.bob.session(asked.alice.did).status.assurance is Assurance.CONFIRMED
    with asked.forge.refused(asked.bob, KnockReplayed):
        asked.bob.receive(asked.knock)


def test_an_accept_for_a_knock_that_was_dropped_is_ignored(asked: Asked) -> None:
    accepted = asked.bob.accept(asked.event).envelope
    asked.alice.drop(asked.bob.did, asked.knock.session_id)
    with asked.forge.refused(asked.alice, ClosedSession):
        asked.alice.receive(accepted)
    stranger = asked.forge.another_agent(asked.scene, "lost state")
    lost = Agent.create(asked.alice.mesh, identity=asked.scene.identity(asked.alice), clock=asked.scene.clock)
    with asked.forge.refused(lost, UnknownSession):
        lost.receive(accepted)
    with asked.forge.refused(stranger, WrongRecipient):
        stranger.receive(accepted)


# --- KNOCKs that cross ------------------------------------------------------------------------------------------------


def test_knocks_that_cross_end_in_one_sending_session_whatever_is_lost(forge: ModuleType) -> None:
    orders = [
        order
        for order in itertools.permutations(("knock A", "knock B", "accept A", "accept B"))
        if order.index("knock A") < order.index("accept A") and order.index("knock B") < order.index("accept B")
    ]
    assert len(orders) == 6
    losses = [
        frozenset(lost)
        for size in range(5)
        for lost in itertools.combinations(("knock A", "knock B", "accept A", "accept B"), size)
    ]
    for (order, lost), later in itertools.product(itertools.product(orders, losses), (-1, 0, 1)):
        crossing(forge, order, lost, later)


def crossing(forge: ModuleType, order: tuple[str, ...], lost: frozenset[str], later: int) -> None:
    scene = forge.new_scene(seed=later)
    alice, bob = scene.alice, scene.bob
    bundles = {"A": scene.one_time()[0], "B": alice.publish_bundles(1, last_resort=False).one_time[0]}
    knocks = {"A": None, "B": None}
    # The header times are as `later` says: Alice first, both at once, or Bob first.
    for name in ("A", "B") if later >= 0 else ("B", "A"):
        knocker, other = (alice, bob) if name == "A" else (bob, alice)
        knocks[name] = knocker.knock(other.did, bundles[name], Intent("cross"))
        scene.clock.advance(ms=abs(later))
    answers: dict[str, bytes] = {}
    for step in order:
        what, name = step.split()
        knocker, other = (alice, bob) if name == "A" else (bob, alice)
        if step in lost:
            continue
        if what == "knock":
            [event] = other.receive(knocks[name])
            answers[name] = other.accept(event).envelope
        elif name in answers:
            knocker.receive(answers[name])
    # Each side sends what it has, by the session that it thinks is the one.
    waiting: list[tuple[Agent, bytes, bytes]] = []
    for sender, receiver in ((alice, bob), (bob, alice)):
        try:
            data = f"from {sender.did}".encode()
            waiting.append((receiver, sender.send(receiver.did, data).envelope, data))
        except NoSession:
            pass
    # Then each side offers its pending KNOCKs again, and the relay what was told to come later.
    for knocker, other in ((alice, bob), (bob, alice)):
        for knock in knocker.pending_envelopes(other.did):
            [event] = other.receive(knock)
            knocker.receive(other.accept(event).envelope if isinstance(event, KnockReceived) else event.reply)
    for receiver, envelope, data in waiting:
        [event] = receiver.receive(envelope)
        assert event.plaintext == data
    # Each prefers what it knows the other to hold: once each has been heard, both choose the same.
    crossing_data = [(other, agent.send(other.did, b"heard")) for agent, other in ((alice, bob), (bob, alice))]
    for receiver, sealed in crossing_data:
        receiver.receive(sealed)
    chosen = [agent.session(other.did) for agent, other in ((alice, bob), (bob, alice))]
    assert chosen[0].session_id == chosen[1].session_id
    assert all(view.status.sends for view in chosen)
    for agent, other in ((alice, bob), (bob, alice)):
        assert [view.status.phase for view in agent.sessions(other.did)] == [Phase.ESTABLISHED] * 2
        assert sum(view.status.sends for view in agent.sessions(other.did)) == 1
    latest = {1: knocks["B"], -1: knocks["A"]}.get(later)
    if latest is not None:
        assert chosen[0].session_id == latest.session_id
    else:
        th = {held.facts.session_id: held.facts.th for held in alice._core.state.sessions.values()}
        assert chosen[0].session_id == min(th, key=th.__getitem__)
    forge.chat(alice, bob)


# --- lost state, held-back KNOCKs -------------------------------------------------------------------------------------


def test_a_peer_that_lost_its_state_knocks_fresh_and_its_older_sessions_end(scene: Any, forge: ModuleType) -> None:
    forge.converse(scene.alice, scene.bob)
    old = scene.bob.session(scene.alice.did).session_id
    # And one that Bob began: Alice accepted it before, so it goes too.
    scene.clock.advance(seconds=1)
    forge.converse(scene.bob, scene.alice)
    bobs = scene.bob.session(scene.alice.did).session_id
    in_flight = [
        scene.alice.send(scene.bob.did, f"old {number}".encode(), session_id=old).envelope for number in range(3)
    ]
    scene.clock.advance(seconds=1)
    reborn = Agent.create(scene.alice.mesh, identity=scene.identity(scene.alice), clock=scene.clock)
    knock = reborn.knock(scene.bob.did, scene.one_time()[0], Intent("again"))
    [event] = scene.bob.receive(knock)
    assert event.fresh
    before = {view.session_id: view.status for view in scene.bob.sessions(scene.alice.did)}
    assert not before[old].closing  # asked, not yet accepted: nothing has ended
    reborn.receive(scene.bob.accept(event).envelope)
    after = {view.session_id: view.status for view in scene.bob.sessions(scene.alice.did)}
    assert (after[old].closing, after[old].sends, after[old].phase) == (True, False, Phase.ESTABLISHED)
    assert (after[bobs].closing, after[bobs].sends) == (True, False)
    assert after[knock.session_id].sends
    forge.chat(reborn, scene.bob, knock.session_id)
    # The old one receives for 600 s more, and sends nothing.
    with forge.refused(scene.bob, SessionNotOpen):
        scene.bob.send(scene.alice.did, b"old", session_id=old)
    assert scene.bob.receive(in_flight[0])[0].plaintext == b"old 0"
    scene.clock.advance(seconds=600)
    assert scene.bob.receive(in_flight[1])[0].plaintext == b"old 1"
    assert not any(isinstance(event, SessionOver) for event in scene.bob.poll())
    scene.clock.advance(ms=1)
    with forge.refused(scene.bob, ClosedSession):
        scene.bob.receive(in_flight[2])
    overs = scene.bob.poll()
    assert {over.session_id for over in overs} == {old, bobs}
    assert {(over.phase, over.detail) for over in overs} == {(Phase.TRUNCATED, "superseded")}
    forge.chat(reborn, scene.bob, knock.session_id)


def test_a_fresh_knock_that_is_rejected_ends_nothing(scene: Any, forge: ModuleType) -> None:
    forge.converse(scene.alice, scene.bob)
    scene.clock.advance(seconds=2)
    [event] = scene.bob.receive(scene.craft(scene.one_time()[0], fresh=True).envelope)
    scene.bob.reject(event)
    forge.chat(scene.alice, scene.bob)


def test_an_earlier_fresh_knock_that_is_accepted_later_ends_nothing_that_is_newer(
    scene: Any, forge: ModuleType
) -> None:
    first, second = (
        scene.craft(bundle, time_ms=scene.clock.now_ms + at, fresh=True) for at, bundle in enumerate(scene.one_time(2))
    )
    [one] = scene.bob.receive(first.envelope)
    [two] = scene.bob.receive(second.envelope)
    scene.bob.accept(two)
    scene.bob.accept(one)
    status = {view.session_id: view.status for view in scene.bob.sessions(scene.alice.did)}
    assert not any(each.closing for each in status.values())
    assert status[two.session_id].sends


def test_a_knock_that_is_not_fresh_stands_beside_the_older_sessions(scene: Any, forge: ModuleType) -> None:
    forge.converse(scene.alice, scene.bob)
    first = scene.alice.session(scene.bob.did).session_id
    scene.clock.advance(seconds=1)
    forge.converse(scene.alice, scene.bob)
    second = scene.alice.session(scene.bob.did).session_id
    assert first != second
    for session_id in (first, second):
        forge.chat(scene.alice, scene.bob, session_id)
    assert not any(view.status.closing for view in scene.bob.sessions(scene.alice.did))


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("behind_ms", [0, 1, 1000])
def test_a_held_back_knock_is_stale_and_rolls_nothing_back(
    behind_ms: int, restart: bool, scene: Any, forge: ModuleType
) -> None:
    [first, second] = scene.one_time(2)
    held_back = scene.craft(first, time_ms=scene.clock.now_ms - behind_ms, fresh=True)
    latest = scene.craft(second, time_ms=scene.clock.now_ms, fresh=True)
    [event] = scene.bob.receive(latest.envelope)
    scene.bob.accept(event)
    if restart:
        scene.restart_bob()
    before = {view.session_id: view.status for view in scene.bob.sessions(scene.alice.did)}
    [refused] = scene.bob.receive(held_back.envelope)
    assert isinstance(refused, KnockRefused)
    assert refused.reason is Reason.STALE
    assert {view.session_id: view.status for view in scene.bob.sessions(scene.alice.did)} == before
    # It opened, so its bundle is used, and the answer stands.
    assert scene.bob._core.state.unused_one_time() == 0
    [again] = scene.bob.receive(held_back.envelope)
    assert again.reply.envelope == refused.reply.envelope


def test_a_rejected_knock_makes_earlier_ones_stale_too(scene: Any, forge: ModuleType) -> None:
    knocks = [scene.alice.knock(scene.bob.did, bundle, Intent("in order")).envelope for bundle in scene.one_time(3)]
    [event] = scene.bob.receive(knocks[1])
    scene.alice.receive(scene.bob.reject(event))
    [refused] = scene.bob.receive(knocks[0])
    assert refused.reason is Reason.STALE
    scene.alice.receive(refused.reply)
    [event] = scene.bob.receive(knocks[2])
    scene.alice.receive(scene.bob.accept(event).envelope)
    forge.chat(scene.alice, scene.bob)


def test_two_knocks_within_a_millisecond_are_in_order(scene: Any) -> None:
    knocks = [scene.alice.knock(scene.bob.did, bundle, Intent("fast")).envelope for bundle in scene.one_time(4)]
    events = [scene.bob.receive(knock)[0] for knock in knocks]
    assert all(isinstance(event, KnockReceived) for event in events)
    assert [event.time_ms for event in events] == [scene.clock.now_ms + number for number in range(4)]
    assert [event.fresh for event in events] == [True, False, False, False]


def test_a_clock_that_was_ahead_does_not_keep_an_agent_from_knocking_when_it_is_right_again(
    scene: Any, forge: ModuleType
) -> None:
    first, second = scene.one_time(2)
    scene.clock.advance(seconds=20 * 86_400)
    too_early = scene.alice.knock(scene.bob.did, first, Intent("ahead")).envelope
    scene.clock.advance(seconds=-20 * 86_400)
    with forge.refused(scene.bob, KnockFromFuture):
        scene.bob.receive(too_early)
    knock = scene.alice.knock(scene.bob.did, second, Intent("in time"))
    [event] = scene.bob.receive(knock)
    scene.alice.receive(scene.bob.accept(event).envelope)
    forge.chat(scene.alice, scene.bob, knock.session_id)


@given(body=st.binary(max_size=200))
def test_no_body_of_a_reject_brings_down_the_parser(body: bytes) -> None:
    with pytest.raises((Malformed, TooLarge)):
        parse_reject_body(body)


def test_what_alice_keeps_of_a_handshake_is_no_more_than_it_must(
    scene: Any, forge: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    for name in ("x25519", "kdf"):
        genuine = getattr(_crypto, name)

        def recording(*args: Any, genuine: Any = genuine, name: str = name) -> bytes:
            made: bytes = genuine(*args)
            label = args[1] if name == "kdf" else b""
            if label in (b"", b"am1-extract", b"am1-knock-key"):
                seen.append(made)
            return made

        monkeypatch.setattr(_crypto, name, recording)
    scene.alice.knock(
        scene.bob.did, scene.one_time()[0], Intent("quiet", detail=b"a quiet detail"), early_payload=b"quiet"
    )
    seen += [shared for _, shared in scene.alice._core.entropy._source.recorded]
    assert len(seen) == 3 + 2 + 1  # the Diffie-Hellmans, prk and the intent's key, the encapsulated secret
    exported = scene.alice.export_state()
    for secret in (*seen, b"a quiet detail"):
        assert secret not in exported
