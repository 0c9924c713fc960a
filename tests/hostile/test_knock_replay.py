"""KNOCKs that come again: as they were, re-encoded, elsewhere, later, after a restart (protocol, section 5.1)."""

from __future__ import annotations

from contextlib import suppress
from types import ModuleType
from typing import Any

import attrs
import msgpack
import pytest

from agentmesh import Agent, AnswerRepeated, Deny, Grant, Intent, KnockReceived, KnockRefused, Limits, Phase, Reason
from agentmesh.errors import (
    AnswerOverdue,
    BadSignature,
    Busy,
    ClosedSession,
    KnockExpired,
    KnockReplayed,
    KnockUnknownBundle,
    KnockUnopened,
    Malformed,
    UnknownSession,
    VerdictUnmatched,
    WrongMesh,
    WrongRecipient,
)
from agentmesh.outgoing import Outgoing
from agentmesh.policy import ASK

DAY = 86_400_000
TOLERANCE = 300_000


def a_bundle(scene: Any, last_resort: bool) -> bytes:
    bundle: bytes = scene.last_resort() if last_resort else scene.one_time()[0]
    return bundle


def knocks_charged(agent: Agent, scene: Any) -> int:
    """How many more KNOCKs this identity may make now, by the agent's own bucket."""
    bucket, now_ms = agent._core.budgets.knocks, scene.clock.now_ms
    left = 0
    entry = bucket._debts.get(scene.alice.key.raw)
    while bucket.take(scene.alice.key.raw, now_ms):
        left += 1
    bucket._debts.pop(scene.alice.key.raw)
    if entry is not None:
        bucket._debts[scene.alice.key.raw] = entry
    return left


# --- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last_resort", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_waiting_knock_is_not_taken_twice(last_resort: bool, restart: bool, scene: Any, forge: ModuleType) -> None:
    knock = scene.alice.knock(scene.bob.did, a_bundle(scene, last_resort), Intent("once"))
    [event] = scene.bob.receive(knock)
    if restart:
        scene.restart_bob()
    for _ in range(3):
        with forge.refused(scene.bob, KnockReplayed):
            scene.bob.receive(knock)
    assert scene.bob.pending_knocks() == (event,)
    scene.alice.receive(scene.bob.accept(event).envelope)
    forge.chat(scene.alice, scene.bob)


@pytest.mark.parametrize("last_resort", [False, True])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("decided_by", ["policy", "application"])
@pytest.mark.parametrize("verdict", ["accept", "reject"])
def test_an_equal_knock_gets_the_same_answer_until_the_first_message(
    verdict: str, decided_by: str, restart: bool, last_resort: bool, scene: Any, forge: ModuleType
) -> None:
    scene.rules.decides = ASK if decided_by == "application" else Grant() if verdict == "accept" else Deny()
    knock = scene.alice.knock(
        scene.bob.did,
        a_bundle(scene, last_resort),
        Intent("pay once"),
        early_payload=b"pay",
        early_with_last_resort=True,
    )
    [event] = scene.bob.receive(knock)
    released = [getattr(event, "early_payload", None)]
    if decided_by == "policy":
        answer = event.reply.envelope
    elif verdict == "accept":
        accepted = scene.bob.accept(event)
        answer, released = accepted.envelope, [accepted.early_payload]
    else:
        answer = scene.bob.reject(event).envelope
    if restart:
        scene.restart_bob()
    before = scene.bob.export_state()
    for _ in range(3):
        scene.clock.advance(seconds=1)
        [again] = scene.bob.receive(knock)
        assert again == AnswerRepeated(peer=scene.alice.key, receipt=knock.receipt, reply=Outgoing(answer))
        assert scene.bob.export_state() == before
    assert released == ([b"pay"] if verdict == "accept" else [None])
    assert scene.rules.asked.count("decide") == 1
    # The answer was lost twice; it serves all the same.
    scene.alice.receive(answer)
    if verdict == "reject":
        assert scene.alice.session(scene.bob.did).status.phase is Phase.REJECTED
        scene.rules.decides = ASK
        forge.converse(scene.alice, scene.bob)
        return
    scene.bob.receive(scene.alice.send(scene.bob.did, b"first"))
    with forge.refused(scene.bob, KnockReplayed):
        scene.bob.receive(knock)
    forge.chat(scene.alice, scene.bob)


def test_an_answer_is_repeated_until_the_knock_expires_and_not_after(scene: Any, forge: ModuleType) -> None:
    knock = scene.alice.knock(scene.bob.did, a_bundle(scene, True), Intent("once"), expires_in_seconds=1000)
    [event] = scene.bob.receive(knock)
    answer = scene.bob.reject(event).envelope
    scene.clock.now_ms = event.expires_ms
    [again] = scene.bob.receive(knock)
    assert again.reply.envelope == answer
    scene.clock.advance(ms=1)
    with forge.refused(scene.bob, KnockReplayed):
        scene.bob.receive(knock)
    scene.clock.now_ms = event.expires_ms + TOLERANCE
    with forge.refused(scene.bob, KnockReplayed):
        scene.bob.receive(knock)
    scene.clock.advance(ms=1)
    with forge.refused(scene.bob, KnockExpired):
        scene.bob.receive(knock)


def test_answers_are_repeated_at_a_rate_of_their_own(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    first, second = scene.one_time(2)
    knocks = [scene.alice.knock(scene.bob.did, bundle, Intent("once")) for bundle in (first, second)]
    answers = [scene.bob.accept(*scene.bob.receive(knock)).envelope for knock in knocks]
    for _ in range(5):
        assert scene.bob.receive(knocks[0])[0].reply.envelope == answers[0]
    for _ in range(3):
        with forge.refused(scene.bob, AnswerOverdue):
            scene.bob.receive(knocks[0])
    # It is kept by KNOCK, not by sender.
    assert scene.bob.receive(knocks[1])[0].reply.envelope == answers[1]
    scene.clock.advance(ms=59_999)
    with forge.refused(scene.bob, AnswerOverdue):
        scene.bob.receive(knocks[0])
    scene.clock.advance(ms=1)
    assert scene.bob.receive(knocks[0])[0].reply.envelope == answers[0]
    scene.alice.receive(answers[0])
    forge.chat(scene.alice, scene.bob, knocks[0].session_id)


@pytest.mark.parametrize("decision", [ASK, Grant(), Deny()])
def test_a_replay_charges_nobodys_limit(decision: Any, forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    scene.rules.decides = decision
    knock = scene.craft(a_bundle(scene, True))
    scene.bob.receive(knock.envelope)
    left = knocks_charged(scene.bob, scene)
    assert left == 19
    for number in range(100):
        with suppress(KnockReplayed, AnswerOverdue):
            scene.bob.receive(knock.envelope)
        assert knocks_charged(scene.bob, scene) == left, number
    assert len(scene.bob._core.state.knocks) == 1


def test_a_rejection_before_the_opening_is_repeated_too_and_at_a_rate_that_holds_up_no_other_answer(
    forge: ModuleType,
) -> None:
    scene = forge.new_scene(Limits(answers_per_knock=1, unopened_knocks=2))
    used, other = scene.one_time(2)
    accepted = scene.craft(other, sender=scene.mallory)
    [event] = scene.bob.receive(accepted.envelope)
    answer = scene.bob.accept(event).envelope
    scene.bob.receive(scene.craft(used, sender=scene.mallory, time_ms=scene.clock.now_ms).envelope)
    late = [scene.craft(used, time_ms=scene.clock.now_ms + number) for number in range(3)]
    refused = [scene.bob.receive(knock.envelope)[0] for knock in late]
    assert [event.reason for event in refused] == [Reason.BUNDLE] * 3
    left = knocks_charged(scene.bob, scene)
    for knock, event in zip(late[1:], refused[1:], strict=True):  # the first was let go
        [again] = scene.bob.receive(knock.envelope)
        assert again.reply.envelope == event.reply.envelope
        with forge.refused(scene.bob, AnswerOverdue):
            scene.bob.receive(knock.envelope)
    assert knocks_charged(scene.bob, scene) == left
    assert len(scene.bob._core.budgets.answers) == 0
    assert scene.bob.receive(accepted.envelope)[0].reply.envelope == answer
    # What was let go is answered anew, with the same word: it is true for good.
    [again] = scene.bob.receive(late[0].envelope)
    assert (type(again), again.reason) == (KnockRefused, Reason.BUNDLE)
    assert knocks_charged(scene.bob, scene) == left - 1


def test_over_the_rate_nothing_is_signed_and_the_same_knock_is_taken_later(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits(knocks_per_identity=1))
    scene.rules.decides = Deny()
    first, second = scene.one_time(2)
    scene.bob.receive(scene.craft(first).envelope)
    busy = scene.craft(second, time_ms=scene.clock.now_ms)
    with forge.refused(scene.bob, Busy):
        scene.bob.receive(busy.envelope)
    assert knocks_charged(scene.bob, scene) == 0
    scene.clock.advance(seconds=1)
    [event] = scene.bob.receive(busy.envelope)
    assert (event.reason, knocks_charged(scene.bob, scene)) == (Reason.POLICY, 0)


# --- an equal th in other bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [ASK, Grant(), Deny()])
@pytest.mark.parametrize("restart", [False, True])
def test_an_equal_th_in_another_envelope_is_dropped(
    decision: Any, restart: bool, scene: Any, forge: ModuleType
) -> None:
    # Only the sender can sign such variants: same keys, another header time, another content, another signature.
    scene.rules.decides = decision
    bundle, alice = a_bundle(scene, True), scene.identity(scene.alice)
    first = scene.craft(bundle)
    scene.bob.receive(first.envelope)
    if restart:
        scene.restart_bob()
    common = {"initiation": first.initiation, "expires_ms": first.part("expires_ms")}
    variants = [
        scene.craft(bundle, time_ms=scene.clock.now_ms + 5, **common),
        scene.craft(bundle, intent=Intent("something else"), **common),
        scene.craft(bundle, early_payload=b"again", **common),
        first.having(sealed=first.part("sealed") + b"\x00").signed_by(alice),
    ]
    for variant in variants:
        assert variant.envelope != first.envelope
        with forge.refused(scene.bob, KnockReplayed):
            scene.bob.receive(variant.envelope)
    assert scene.rules.asked.count("decide") == 1
    scene.rules.decides = ASK
    forge.converse(scene.alice, scene.bob)


def test_a_knock_that_did_not_open_is_remembered_by_its_th(scene: Any, forge: ModuleType) -> None:
    bundle = a_bundle(scene, False)
    broken = scene.craft(bundle, content=b"\xc1")
    with forge.refused(scene.bob, KnockUnopened):
        scene.bob.receive(broken.envelope)
    mended = scene.craft(bundle, initiation=broken.initiation, expires_ms=broken.part("expires_ms"))
    for knock in (broken, mended):
        with forge.refused(scene.bob, KnockReplayed):
            scene.bob.receive(knock.envelope)
    assert isinstance(scene.bob.receive(scene.craft(bundle, time_ms=scene.clock.now_ms).envelope)[0], KnockReceived)


def longer_forms(knock: Any) -> dict[str, bytes]:
    """The same KNOCK with one of its msgpack structures in a longer form, signed or not as it stands."""
    inner, signature, header = knock.inner, knock.signature, knock.header
    body = msgpack.packb([inner, signature])
    envelope = msgpack.packb([header, body])

    def bin32(data: bytes) -> bytes:
        return b"\xc6" + len(data).to_bytes(4, "big") + data

    def bin16(data: bytes) -> bytes:
        return b"\xc5" + len(data).to_bytes(2, "big") + data

    return {
        "outer array of 16 bits": b"\xdc\x00\x02" + envelope[1:],
        "outer array of 32 bits": b"\xdd\x00\x00\x00\x02" + envelope[1:],
        "header as bin 16": b"\x92" + bin16(header) + msgpack.packb(body),
        "header as bin 32": b"\x92" + bin32(header) + msgpack.packb(body),
        "body as bin 32": b"\x92" + msgpack.packb(header) + bin32(body),
        "body array of 16 bits": msgpack.packb([header, b"\xdc\x00\x02" + body[1:]]),
        "inner as bin 32": msgpack.packb([header, b"\x92" + bin32(inner) + msgpack.packb(signature)]),
        "signature as bin 16": msgpack.packb([header, b"\x92" + msgpack.packb(inner) + bin16(signature)]),
        "trailing outside": envelope + b"\x00",
    }


def test_longer_forms_around_what_is_signed_are_refused(scene: Any, forge: ModuleType) -> None:
    knock = scene.craft(a_bundle(scene, False))
    forms = longer_forms(knock)
    assert len(set(forms.values())) == len(forms) == 9
    for replayed in (False, True):
        for data in forms.values():
            assert [knock.header, knock.signature] != data  # the same content, and other bytes
            with forge.refused(scene.bob, Malformed):
                scene.bob.receive(data)
        if not replayed:
            assert isinstance(scene.bob.receive(knock.envelope)[0], KnockReceived)


def test_longer_forms_of_what_is_signed_are_refused_though_the_sender_signs_them(scene: Any, forge: ModuleType) -> None:
    bundle, alice = a_bundle(scene, False), scene.identity(scene.alice)
    knock = scene.craft(bundle)

    def signed(header: bytes, inner: bytes) -> bytes:
        signature = alice.sign(forge.SIGN_KNOCK, forge.signed_part(header, inner))
        packed: bytes = msgpack.packb([header, msgpack.packb([inner, signature])])
        return packed

    header, inner, fields = knock.header, knock.inner, knock.fields
    number = fields[4]
    assert inner.count(b"\xcf" + number.to_bytes(8, "big")) == 1
    variants = [
        signed(b"\xdc\x00\x06" + header[1:], inner),
        signed(header[:1] + b"\xcc\x01" + header[2:], inner),
        signed(header[:2] + b"\xcc\x01" + header[3:], inner),
        signed(header, b"\xdc\x00\x06" + inner[1:]),
        signed(header, b"\xdd\x00\x00\x00\x06" + inner[1:]),
        signed(header, b"\x96\xc5\x00\x20" + inner[3:]),
        signed(header, b"\x96\xc6\x00\x00\x00\x20" + inner[3:]),
        signed(header, inner.replace(b"\xcf" + number.to_bytes(8, "big"), b"\xd3" + number.to_bytes(8, "big"))),
        signed(header, inner + b"\xc0"),
    ]
    for replayed in (False, True):
        for variant in variants:
            with forge.refused(scene.bob, Malformed):
                scene.bob.receive(variant)
        if not replayed:
            assert signed(header, inner) == knock.envelope
            assert isinstance(scene.bob.receive(knock.envelope)[0], KnockReceived)


# --- elsewhere --------------------------------------------------------------------------------------------------------


def test_a_knock_is_for_one_recipient_only(scene: Any, forge: ModuleType) -> None:
    knock = scene.alice.knock(scene.bob.did, a_bundle(scene, True), Intent("for Bob"))
    scene.mallory.publish_bundles(3)
    with forge.refused(scene.mallory, WrongRecipient):
        scene.mallory.receive(knock)
    readdressed = forge.with_header(knock, recipient=scene.mallory.did)
    with forge.refused(scene.mallory, KnockUnknownBundle):
        scene.mallory.receive(readdressed)
    # Even on a bundle of Mallory's own the signature is over another header and another ref.
    [bundle] = scene.mallory.publish_bundles(1, last_resort=False).one_time
    moved = forge.parts_of(readdressed).having(ref=forge.bundle_view(bundle).ref)
    with forge.refused(scene.mallory, BadSignature):
        scene.mallory.receive(moved.envelope)
    elsewhere = Agent.create("example/other", identity=scene.identity(scene.bob), clock=scene.clock)
    with forge.refused(elsewhere, WrongMesh):
        elsewhere.receive(knock)
    [event] = scene.bob.receive(knock)
    scene.alice.receive(scene.bob.accept(event).envelope)
    forge.chat(scene.alice, scene.bob)


def test_mallory_cannot_make_a_captured_knock_her_own(scene: Any, forge: ModuleType) -> None:
    captured = scene.craft(a_bundle(scene, True), intent=Intent("captured"))
    mallory = scene.identity(scene.mallory)
    hers = forge.parts_of(forge.with_header(captured.envelope, sender=mallory.did)).having(claimed=mallory.key.raw)
    with forge.refused(scene.bob, KnockUnopened):
        scene.bob.receive(hers.signed_by(mallory).envelope)
    [event] = scene.bob.receive(captured.envelope)
    assert event.peer == scene.alice.key


# --- order and time ---------------------------------------------------------------------------------------------------


def test_a_forged_copy_first_does_not_keep_the_genuine_one_out(scene: Any, forge: ModuleType) -> None:
    knock = scene.craft(a_bundle(scene, False))
    mallory, sealed = scene.identity(scene.mallory), knock.part("sealed")
    copies = [
        (knock.having(signature=bytes(64)), BadSignature),
        (knock.signed_by(mallory), BadSignature),
        (knock.having(header=forge.header_bytes(1, scene.alice.did, scene.bob.did, scene.clock.now_ms)), BadSignature),
        (knock.having(sealed=sealed[:-1] + bytes([sealed[-1] ^ 1])), BadSignature),
    ]
    for copy, error in copies:
        with forge.refused(scene.bob, error):
            scene.bob.receive(copy.envelope)
    assert len(scene.bob._core.state.knocks) == 0
    assert isinstance(scene.bob.receive(knock.envelope)[0], KnockReceived)


def test_a_replay_stays_refused_as_long_as_anything_could_take_it(scene: Any, forge: ModuleType) -> None:
    now_ms = scene.clock.now_ms
    knock = scene.craft(scene.last_resort(), lifetime_ms=14 * DAY)
    [event] = scene.bob.receive(knock.envelope)
    scene.bob.reject(event)
    scene.alice.poll()
    errors = set()
    for hours in range(0, 24 * 24, 5):
        scene.clock.now_ms = now_ms + hours * 3_600_000
        scene.bob.poll()
        if hours % 35 == 0:
            scene.restart_bob()
        before = scene.bob.export_state()
        try:
            [again] = scene.bob.receive(knock.envelope)
            assert isinstance(again, AnswerRepeated)
        except (KnockReplayed, KnockExpired, KnockUnknownBundle) as error:
            errors.add(type(error))
        assert scene.bob.export_state() == before
    assert errors == {KnockExpired}  # the shape comes first, and it has expired by then
    assert len(scene.bob._core.state.knocks) == 0


@pytest.mark.parametrize("last_resort", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_clock_set_back_after_forgetting_brings_no_knock_back(
    last_resort: bool, restart: bool, scene: Any, forge: ModuleType
) -> None:
    now_ms = scene.clock.now_ms
    knock = scene.craft(a_bundle(scene, last_resort))
    scene.bob.reject(*scene.bob.receive(knock.envelope))
    # Past the KNOCK's expiry, past its sender's memory, and past its bundle.
    for days in (2, 15, 22, 31):
        scene.clock.now_ms = now_ms + days * DAY
        scene.bob.poll()
        scene.clock.now_ms = now_ms
        if restart:
            scene.restart_bob()
        before = scene.bob.export_state()
        try:
            [again] = scene.bob.receive(knock.envelope)
            assert isinstance(again, AnswerRepeated)
            scene.clock.now_ms += 1
        except (KnockReplayed, KnockUnknownBundle, AnswerOverdue):
            pass
        assert scene.bob.export_state() == before
        assert scene.bob.pending_knocks() == ()
    assert scene.rules.asked.count("decide") == 1
    forge.converse(scene.alice, scene.bob)


def test_busy_is_not_remembered_so_the_same_knock_is_taken_later(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, remembered_knocks=1))
    bundle, other = scene.one_time(2)
    scene.bob.receive(scene.craft(bundle, sender=scene.mallory, lifetime_ms=1001, content=None).envelope)
    knock = scene.craft(other)
    for _ in range(5):
        with forge.refused(scene.bob, Busy):
            scene.bob.receive(knock.envelope)
    scene.bob._core.limits = forge.ROOMY
    assert isinstance(scene.bob.receive(knock.envelope)[0], KnockReceived)


# --- a second KNOCK on one bundle -------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_two_knocks_for_one_bundle_the_second_gets_a_rejection(restart: bool, scene: Any, forge: ModuleType) -> None:
    bundle = a_bundle(scene, False)
    first = scene.alice.knock(scene.bob.did, bundle, Intent("first"))
    second = scene.mallory.knock(scene.bob.did, bundle, Intent("second"))
    [event] = scene.bob.receive(first)
    if restart:
        scene.restart_bob()
    before = scene.bob.export_state()
    [refused] = scene.bob.receive(second)
    assert isinstance(refused, KnockRefused)
    assert (refused.reason, refused.peer) == (Reason.BUNDLE, scene.mallory.key)
    assert scene.bob.export_state() == before
    [again] = scene.bob.receive(second)
    assert again.reply.envelope == refused.reply.envelope
    with forge.refused(scene.alice, WrongRecipient):
        scene.alice.receive(refused.reply)
    scene.mallory.receive(refused.reply)
    assert scene.mallory.session(scene.bob.did).status.phase is Phase.REJECTED
    scene.alice.receive(scene.bob.accept(event).envelope)
    forge.chat(scene.alice, scene.bob)
    forge.converse(scene.mallory, scene.bob)


# --- what was answered belongs to one KNOCK ---------------------------------------------------------------------------


def test_old_answers_do_nothing_to_a_new_knock(scene: Any, forge: ModuleType) -> None:
    scene.rules.decides = Deny()
    first = scene.alice.knock(scene.bob.did, scene.one_time()[0], Intent("first"))
    rejected = scene.bob.receive(first)[0].reply.envelope
    scene.rules.decides = Grant()
    second = scene.alice.knock(scene.bob.did, scene.one_time()[0], Intent("second"))
    accepted = scene.bob.receive(second)[0].reply.envelope
    scene.alice.receive(rejected)
    for _ in range(2):
        with forge.refused(scene.alice, VerdictUnmatched):
            scene.alice.receive(rejected)
    scene.alice.drop(scene.bob.did, second.session_id)
    with forge.refused(scene.alice, ClosedSession):
        scene.alice.receive(accepted)
    with forge.refused(scene.mallory, WrongRecipient):
        scene.mallory.receive(accepted)
    stranger = forge.another_agent(scene, "new")
    with forge.refused(stranger, UnknownSession):
        stranger.receive(forge.with_header(accepted, recipient=stranger.did))
    scene.rules.decides = ASK
    forge.converse(scene.alice, scene.bob)
