"""Forged, moved, used-up and outlived prekey bundles, and what becomes of their secrets (protocol, section 3)."""

from __future__ import annotations

import base64
import math
from types import ModuleType
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, BundleClass, Intent, KnockReceived, KnockRefused, Reason, RotationDue, StockLow
from agentmesh.errors import (
    ArgumentInvalid,
    BadIdentityKey,
    BadPoint,
    BadSignature,
    BundleExpired,
    BundleIdentityMismatch,
    BundleMeshMismatch,
    Busy,
    KnockExpired,
    KnockUnknownBundle,
    Malformed,
    OneTimeRequired,
    PeerNotAllowed,
    StockFull,
    TooLarge,
    UnknownVersion,
)
from agentmesh.handshake.prekeys import verify_bundle

SECOND = 1000
DAY = 86_400 * SECOND
TOLERANCE = 300 * SECOND
FIELDS = ("version", "number", "mesh", "identity", "prekey", "kem_key", "not_before", "not_after")


def fields_of(forge: ModuleType, bundle: bytes) -> dict[str, Any]:
    return dict(zip(FIELDS, forge.bundle_fields(bundle), strict=True))


def knock(scene: Any, bundle: Any, **options: Any) -> Any:
    return scene.alice.knock(scene.bob.did, bundle, Intent("knock"), **options)


def altered(scene: Any, forge: ModuleType, bundle: bytes, *, signed: bool = True, **changes: Any) -> bytes:
    """Bob's bundle with other fields, signed by Bob again or left with its old signature."""
    body = msgpack.packb(list({**fields_of(forge, bundle), **changes}.values()))
    made: bytes
    if signed:
        made = forge.repack_bundle(scene.identity(scene.bob), body)
    else:
        made = msgpack.packb([body, msgpack.unpackb(bundle)[1]])
    return made


# --- what an initiator refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
def test_any_one_field_of_another_genuine_bundle_is_refused(field: str, scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    scene.clock.advance(seconds=1)
    others = {
        "another of Bob's": scene.one_time()[0],
        "Bob's last resort": scene.last_resort(),
        "Mallory's": scene.mallory.publish_bundles(1).one_time[0],
    }
    tried = 0
    for other in others.values():
        value = fields_of(forge, other)[field]
        if value == fields_of(forge, bundle)[field]:
            continue
        tried += 1
        error = BundleIdentityMismatch if field == "identity" else BadSignature
        with forge.refused(scene.alice, error):
            knock(scene, altered(scene, forge, bundle, signed=False, **{field: value}))
    assert tried >= 1 or field in ("version", "mesh")
    assert isinstance(scene.bob.receive(knock(scene, bundle))[0], KnockReceived)


def test_every_flipped_bit_of_a_bundle_is_refused(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    before = scene.alice.export_state()
    for at in range(0, len(bundle) * 8, 5):
        forged = bytearray(bundle)
        forged[at // 8] ^= 1 << at % 8
        with pytest.raises(Exception) as caught:
            knock(scene, bytes(forged))
        assert type(caught.value).__module__.startswith("agentmesh.errors")
    assert scene.alice.export_state() == before
    assert isinstance(scene.bob.receive(knock(scene, bundle))[0], KnockReceived)


@given(data=st.binary(max_size=1600))
def test_no_bytes_bring_down_the_verifier(data: bytes, forge: ModuleType) -> None:
    with pytest.raises((Malformed, TooLarge)):
        verify_bundle(data, did=forge.with_did(bytes(32)), mesh=forge.MESH, now_ms=0)


SIGNED_AND_WRONG: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "version 0": ({"version": 0}, UnknownVersion),
    "version 2": ({"version": 2}, UnknownVersion),
    "class 0": ({"number": 0}, UnknownVersion),
    "class 3": ({"number": 3}, UnknownVersion),
    "another mesh": ({"mesh": "example/other"}, BundleMeshMismatch),
    "an empty mesh": ({"mesh": ""}, Malformed),
    "a short prekey": ({"prekey": bytes(31)}, Malformed),
    "no prekey": ({"prekey": b""}, Malformed),
    "a short KEM key": ({"kem_key": bytes(1183)}, Malformed),
    "no KEM key": ({"kem_key": b""}, Malformed),
    "a nil KEM key": ({"kem_key": None}, Malformed),
    "a KEM key over its modulus": ({"kem_key": b"\xff" * 1184}, BadPoint),
    "a bool as version": ({"version": True}, Malformed),
    "a bool as class": ({"number": True}, Malformed),
    "a float as time": ({"not_after": 1e13}, Malformed),
    "NaN as time": ({"not_before": math.nan}, Malformed),
    "a time below zero": ({"not_before": -1}, Malformed),
    "a time of 2^53": ({"not_after": 2**53}, Malformed),
    "a time of 2^64 - 1": ({"not_after": 2**64 - 1}, Malformed),
    "a text as key": ({"prekey": "x" * 32}, Malformed),
    "a bin as mesh": ({"mesh": b"example/test"}, Malformed),
}


@pytest.mark.parametrize("name", SIGNED_AND_WRONG)
def test_a_wrong_field_is_refused_though_its_owner_signed_it(name: str, scene: Any, forge: ModuleType) -> None:
    changes, error = SIGNED_AND_WRONG[name]
    bundle = scene.one_time()[0]
    with forge.refused(scene.alice, error):
        knock(scene, altered(scene, forge, bundle, **changes))
    assert isinstance(scene.bob.receive(knock(scene, bundle))[0], KnockReceived)


def test_other_shapes_are_refused(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    body, signature = msgpack.unpackb(bundle)
    bob = scene.identity(scene.bob)
    fields = forge.bundle_fields(bundle)
    shapes = {
        "trailing": (bundle + b"\x00", Malformed),
        "body alone": (body, Malformed),
        "three parts": (msgpack.packb([body, signature, b""]), Malformed),
        "body in clear": (msgpack.packb([fields, signature]), Malformed),
        "a longer form": (b"\xdc\x00\x02" + bundle[1:], Malformed),
        "a longer form inside": (forge.repack_bundle(bob, b"\xdc\x00\x08" + body[1:]), Malformed),
        "seven fields": (forge.repack_bundle(bob, msgpack.packb(fields[:7])), Malformed),
        "nine fields": (forge.repack_bundle(bob, msgpack.packb([*fields, 0])), Malformed),
        "a short signature": (msgpack.packb([body, signature[:63]]), BadSignature),
        "no signature": (msgpack.packb([body, b""]), BadSignature),
        "a zero signature": (msgpack.packb([body, bytes(64)]), BadSignature),
        "over the size limit": (msgpack.packb([body, bytes(400)]), TooLarge),
        "empty": (b"", Malformed),
        "a signed statement of another kind": (
            msgpack.packb([body, bob.sign(forge.SIGN_KNOCK, body)]),
            BadSignature,
        ),
        "Mallory's signature": (
            msgpack.packb([body, scene.identity(scene.mallory).sign(forge.SIGN_BUNDLE, body)]),
            BadSignature,
        ),
    }
    for data, error in shapes.values():
        with forge.refused(scene.alice, error):
            knock(scene, data)
    for data in (None, "bundle", 5, [bundle]):
        with forge.refused(scene.alice, ArgumentInvalid, argument="bundle"):
            knock(scene, data)
    assert isinstance(scene.bob.receive(knock(scene, bundle))[0], KnockReceived)


def test_a_bundle_of_somebody_else_is_refused_under_any_name(scene: Any, forge: ModuleType) -> None:
    mallorys = scene.mallory.publish_bundles(1).one_time[0]
    with forge.refused(scene.alice, BundleIdentityMismatch):
        knock(scene, mallorys)
    with forge.refused(scene.alice, BundleIdentityMismatch):
        scene.alice.knock(scene.mallory.did, scene.one_time()[0], Intent("knock"))
    # Mallory signs a bundle with Bob's name and her keys: the classic misbinding.
    body = msgpack.packb(list({**fields_of(forge, mallorys), "identity": scene.bob.key.raw}.values()))
    with forge.refused(scene.alice, BadSignature):
        knock(scene, forge.repack_bundle(scene.identity(scene.mallory), body))
    with forge.refused(scene.alice, ArgumentInvalid, argument="did"):
        scene.alice.knock(scene.alice.did, mallorys, Intent("me"))
    forge.converse(scene.alice, scene.bob)


def test_low_order_prekeys_are_refused_though_their_owner_signed_them(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    for point in (*forge.LOW_ORDER_X25519, *forge.LOW_ORDER_NON_CANONICAL_X25519):
        with forge.refused(scene.alice, BadPoint):
            knock(scene, altered(scene, forge, bundle, prekey=point))
    # And a second encoding of a good one.
    prekey = fields_of(forge, bundle)["prekey"]
    topped = prekey[:31] + bytes([prekey[31] | 0x80])
    with forge.refused(scene.alice, BadPoint):
        knock(scene, altered(scene, forge, bundle, prekey=topped))
    for number in range(19):
        with forge.refused(scene.alice, BadPoint):
            knock(scene, altered(scene, forge, bundle, prekey=(forge.FIELD_PRIME + number).to_bytes(32, "little")))
    assert isinstance(scene.bob.receive(knock(scene, bundle))[0], KnockReceived)


def test_low_order_and_non_canonical_owners_are_refused(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    fields = fields_of(forge, bundle)
    for key in (*forge.LOW_ORDER_ED25519, *forge.NON_CANONICAL_ED25519):
        body = msgpack.packb(list({**fields, "identity": key}.values()))
        forged = forge.repack_bundle(scene.identity(scene.bob), body, forge.universal_signature)
        with forge.refused(scene.alice, BadIdentityKey):
            scene.alice.knock(forge.with_did(key), forged, Intent("knock"))
    key, sign = forge.mixed_order_signer(scene.identity(scene.bob))
    body = msgpack.packb(list({**fields, "identity": key}.values()))
    with forge.refused(scene.alice, BadIdentityKey):
        scene.alice.knock(
            forge.with_did(key), forge.repack_bundle(scene.identity(scene.bob), body, sign), Intent("knock")
        )
    assert isinstance(scene.bob.receive(knock(scene, bundle))[0], KnockReceived)


def test_odd_signatures_of_the_owner_are_refused(scene: Any, forge: ModuleType) -> None:
    bundle, bob = scene.one_time()[0], scene.identity(scene.bob)
    body = msgpack.unpackb(bundle)[0]
    for name in forge.odd_signatures(bob, b""):
        forged = forge.repack_bundle(bob, body, lambda message, name=name: forge.odd_signatures(bob, message)[name])
        with forge.refused(scene.alice, BadSignature):
            knock(scene, forged)
    assert isinstance(scene.bob.receive(knock(scene, bundle))[0], KnockReceived)


VALIDITY: dict[str, tuple[int, bool]] = {
    # name -> (the initiator's clock against the validity's beginning, and whether the bundle is taken)
    "at the tolerance before it begins": (-TOLERANCE, True),
    "past the tolerance before it begins": (-TOLERANCE - 1, False),
    "at its end": (30 * DAY, False),  # no KNOCK can expire later than its bundle, nor before it is made
    "a millisecond before its end": (30 * DAY - 1, True),
    "past the tolerance after its end": (30 * DAY + TOLERANCE + 1, False),
}


@pytest.mark.parametrize("name", VALIDITY)
def test_the_validity_at_its_edges(name: str, scene: Any, forge: ModuleType) -> None:
    shift_ms, taken = VALIDITY[name]
    bundle, begin_ms = scene.one_time()[0], scene.clock.now_ms
    scene.clock.now_ms += shift_ms
    if not taken:
        with forge.refused(scene.alice, BundleExpired):
            knock(scene, bundle)
        return
    envelope = knock(scene, bundle)
    expires_ms = forge.parts_of(envelope).part("expires_ms")
    assert expires_ms == min(scene.clock.now_ms + DAY, begin_ms + 30 * DAY)
    assert isinstance(scene.bob.receive(envelope)[0], KnockReceived)


@pytest.mark.parametrize(
    ("shift_ms", "good"),
    [
        (-TOLERANCE - 1, False),
        (-TOLERANCE, True),
        (0, True),
        (1000 * SECOND + TOLERANCE, True),
        (1000 * SECOND + TOLERANCE + 1, False),
    ],
)
def test_the_verifiers_tolerance_at_its_edges(shift_ms: int, good: bool, scene: Any, forge: ModuleType) -> None:
    begin_ms = scene.clock.now_ms
    bundle = altered(scene, forge, scene.one_time()[0], not_after=begin_ms + 1000 * SECOND)
    arguments = {"did": scene.bob.did, "mesh": forge.MESH, "now_ms": begin_ms + shift_ms}
    if good:
        assert verify_bundle(bundle, **arguments).not_after_ms == begin_ms + 1000 * SECOND
    else:
        with pytest.raises(BundleExpired):
            verify_bundle(bundle, **arguments)


def test_a_bundle_whose_end_comes_before_its_beginning_is_refused(scene: Any, forge: ModuleType) -> None:
    begin_ms = scene.clock.now_ms
    twisted = altered(scene, forge, scene.one_time()[0], not_before=begin_ms + 1, not_after=begin_ms - 2 * TOLERANCE)
    with forge.refused(scene.alice, Malformed):
        knock(scene, twisted)


def test_a_caller_may_require_a_one_time_bundle(scene: Any, forge: ModuleType) -> None:
    with forge.refused(scene.alice, OneTimeRequired):
        knock(scene, scene.last_resort(), require_one_time=True)
    envelope = knock(scene, scene.one_time()[0], require_one_time=True)
    assert envelope.bundle_class is BundleClass.ONE_TIME
    [event] = scene.bob.receive(envelope)
    assert event.bundle_class is BundleClass.ONE_TIME
    envelope = knock(scene, scene.last_resort())
    assert envelope.bundle_class is BundleClass.LAST_RESORT
    [event] = scene.bob.receive(envelope)
    assert event.bundle_class is BundleClass.LAST_RESORT
    assert scene.bob.session(scene.alice.did, envelope.session_id).status.bundle_class is BundleClass.LAST_RESORT


def test_a_class_cannot_be_changed_on_the_way(scene: Any, forge: ModuleType) -> None:
    one_time, last_resort = scene.one_time()[0], scene.last_resort()
    for bundle, number in ((one_time, 2), (last_resort, 1)):
        with forge.refused(scene.alice, BadSignature):
            knock(scene, altered(scene, forge, bundle, signed=False, number=number))
    # Were it signed, it would have another ref, which Bob never published.
    envelope = knock(scene, altered(scene, forge, last_resort, number=1))
    with forge.refused(scene.bob, KnockUnknownBundle):
        scene.bob.receive(envelope)


@pytest.mark.parametrize("seconds", [0, -1, True, 1.0, math.nan, "1", 14 * 86_400 + 1, 2**53])
def test_a_lifetime_that_no_knock_may_have_is_refused(seconds: Any, scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    with forge.refused(scene.alice, ArgumentInvalid, argument="expires_in_seconds"):
        knock(scene, bundle, expires_in_seconds=seconds)
    for good in (1, 14 * 86_400):
        [event] = scene.bob.receive(knock(scene, scene.one_time()[0], expires_in_seconds=good))
        assert event.expires_ms - event.time_ms == good * SECOND


def test_a_peer_that_the_policy_does_not_allow_is_not_knocked_at(scene: Any, forge: ModuleType) -> None:
    bundle = scene.alice.publish_bundles(1).one_time[0]
    for answer in (False, None, 1, math.nan):
        scene.rules.allows = answer
        with forge.refused(scene.bob, PeerNotAllowed):
            scene.bob.knock(scene.alice.did, bundle, Intent("knock"))
    scene.rules.allows = True
    assert scene.bob.knock(scene.alice.did, bundle, Intent("knock")).envelope


# --- one use, one ref -------------------------------------------------------------------------------------------------


def secrets_of(agent: Agent, bundle_ref: bytes) -> tuple[bytes, bytes]:
    secrets = agent._core.state.bundles[bundle_ref].secrets
    return secrets.prekey_secret.reveal(), secrets.kem_seed.reveal()


def test_the_secrets_of_a_used_one_time_bundle_are_gone_at_once(scene: Any, forge: ModuleType) -> None:
    used, unused = scene.one_time(2)
    last_resort = scene.last_resort()
    secrets = {bundle: secrets_of(scene.bob, forge.bundle_view(bundle).ref) for bundle in (used, unused, last_resort)}
    for bundle in (used, last_resort):
        assert all(secret in scene.bob.export_state() for secret in secrets[bundle])
        scene.bob.receive(scene.craft(bundle, time_ms=scene.clock.now_ms + (bundle is last_resort)).envelope)
    exported = scene.bob.export_state()
    assert not any(secret in exported for secret in secrets[used])
    assert all(secret in exported for bundle in (unused, last_resort) for secret in secrets[bundle])
    assert forge.bundle_view(used).ref in exported  # that it was published is still known
    # Not in memory either.
    assert scene.bob._core.state.bundles[forge.bundle_view(used).ref].secrets is None


def test_refs_are_never_reused(scene: Any, forge: ModuleType) -> None:
    refs: set[bytes] = set()
    keys: set[bytes] = set()
    for _ in range(5):
        shelf = scene.bob.publish_bundles(20)
        for bundle in (*shelf.one_time, shelf.last_resort):
            view = forge.bundle_view(bundle)
            refs.add(view.ref)
            keys |= {view.prekey, view.kem_key}
        scene.restart_bob()
    assert len(refs) == 5 * 21
    assert len(keys) == 2 * 5 * 21
    assert set(scene.bob._core.state.bundles) == refs


def test_nothing_that_is_published_or_sent_holds_a_private_half(scene: Any, forge: ModuleType) -> None:
    shelf = scene.bob.publish_bundles(10)
    bundles = [*shelf.one_time, shelf.last_resort]
    secrets = [secret for bundle in bundles for secret in secrets_of(scene.bob, forge.bundle_view(bundle).ref)]
    bob = scene.identity(scene.bob)
    secrets += [bob.seed.reveal(), bob.dh_secret, bob._signing_key[:32]]
    published: list[bytes] = [*bundles]
    for bundle in (shelf.one_time[0], shelf.last_resort):
        [event] = scene.bob.receive(knock(scene, bundle))
        published.append(scene.bob.accept(event).envelope)
    [event] = scene.bob.receive(knock(scene, shelf.one_time[1]))
    published.append(scene.bob.reject(event).envelope)
    published.append(
        bytes(scene.bob.knock(scene.alice.did, scene.alice.publish_bundles(1).one_time[0], Intent("me")).envelope)
    )
    texts = [*published, repr(shelf).encode(), repr(scene.bob).encode(), str(scene.bob.poll()).encode()]
    for secret in secrets:
        forms = [secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), secret[::-1], secret[:16]]
        forms += [base64.urlsafe_b64encode(secret).rstrip(b"="), secret.hex().upper().encode()]
        for text in texts:
            assert not any(form in text for form in forms)
    assert bob.seed.reveal() in scene.bob.export_state()  # the search would find one


def test_a_restarted_recipient_takes_knocks_on_what_it_published_before(scene: Any, forge: ModuleType) -> None:
    shelf = scene.bob.publish_bundles(3)
    before = [knock(scene, shelf.one_time[0]), knock(scene, shelf.last_resort)]
    scene.restart_bob()
    more = scene.one_time(2)
    for envelope in (*before, knock(scene, shelf.one_time[1]), knock(scene, more[0])):
        assert isinstance(scene.bob.receive(envelope)[0], KnockReceived)


# --- rotation ---------------------------------------------------------------------------------------------------------


def test_older_last_resort_bundles_serve_until_their_end_and_then_their_secrets_go(
    scene: Any, forge: ModuleType
) -> None:
    begin_ms = scene.clock.now_ms
    shelves = []
    for week in range(3):
        scene.clock.now_ms = begin_ms + week * 7 * DAY
        shelves.append(scene.last_resort())
    first = shelves[0]
    secrets = secrets_of(scene.bob, forge.bundle_view(first).ref)
    # A KNOCK made long ago on the oldest, which has been rotated twice since.
    scene.clock.now_ms = begin_ms + 10 * DAY
    in_flight = knock(scene, first, expires_in_seconds=11 * 86_400)
    last = knock(scene, first, expires_in_seconds=11 * 86_400)
    scene.clock.now_ms = begin_ms + 21 * DAY
    scene.bob.poll()
    scene.restart_bob()
    assert all(secret in scene.bob.export_state() for secret in secrets)
    [event] = scene.bob.receive(in_flight)
    assert isinstance(event, KnockReceived)
    scene.alice.receive(scene.bob.accept(event).envelope)
    forge.chat(scene.alice, scene.bob)
    # At the very end of the tolerance the secrets are still there; one past it they are gone.
    scene.clock.now_ms = begin_ms + 21 * DAY + TOLERANCE
    scene.bob.poll()
    assert all(secret in scene.bob.export_state() for secret in secrets)
    scene.clock.advance(ms=1)
    with forge.refused(scene.bob, KnockExpired):
        scene.bob.receive(last)
    scene.bob.poll()
    exported = scene.bob.export_state()
    assert not any(secret in exported for secret in secrets)
    assert forge.bundle_view(first).ref not in exported
    # The clock set back brings nothing back.
    scene.clock.now_ms = begin_ms + 20 * DAY
    with forge.refused(scene.bob, KnockUnknownBundle):
        scene.bob.receive(last)
    for bundle in shelves[1:]:
        scene.clock.advance(ms=10)
        assert isinstance(scene.bob.receive(scene.craft(bundle, time_ms=scene.clock.now_ms).envelope)[0], KnockReceived)


def test_a_knock_may_not_outlive_its_bundle(scene: Any) -> None:
    begin_ms = scene.clock.now_ms
    bundle = scene.last_resort()
    scene.clock.now_ms = begin_ms + 20 * DAY
    for expires_ms, taken in ((begin_ms + 21 * DAY, True), (begin_ms + 21 * DAY + 1, False)):
        crafted = scene.craft(bundle, expires_ms=expires_ms, time_ms=scene.clock.now_ms + expires_ms % 2)
        [event] = scene.bob.receive(crafted.envelope)
        assert isinstance(event, KnockReceived) is taken
        if not taken:
            assert isinstance(event, KnockRefused)
            assert event.reason is Reason.BUNDLE


@pytest.mark.parametrize(("shift_ms", "taken"), [(-TOLERANCE, True), (-TOLERANCE - 1, False)])
def test_a_recipient_whose_clock_was_set_back_behind_its_own_bundles(
    shift_ms: int, taken: bool, scene: Any, forge: ModuleType
) -> None:
    bundle = scene.one_time()[0]
    scene.clock.now_ms += shift_ms
    knock = scene.craft(bundle)
    if not taken:
        # It will be valid, so nothing is signed that the same bytes would contradict then.
        with forge.refused(scene.bob, Busy):
            scene.bob.receive(knock.envelope)
        scene.clock.advance(ms=1)
    [event] = scene.bob.receive(knock.envelope)
    assert isinstance(event, KnockReceived)


def test_low_stock_is_told_once_until_more_is_published(scene: Any, forge: ModuleType) -> None:
    assert scene.bob.poll() == ()  # nobody publishes, nobody is told
    bundles = list(scene.bob.publish_bundles(10, last_resort=False).one_time)
    strangers = [forge.another_agent(scene, number) for number in range(10)]

    def use(number: int) -> None:
        scene.bob.receive(scene.craft(bundles[number], sender=strangers[number]).envelope)

    for number in range(8):
        use(number)
        assert scene.bob.poll() == ()
    use(8)  # less than a fifth is left
    assert scene.bob.poll() == (StockLow(unused=1),)
    assert scene.bob.poll() == ()
    use(9)
    assert scene.bob.poll() == ()
    bundles += scene.bob.publish_bundles(1, last_resort=False).one_time
    assert scene.bob.poll() == (StockLow(unused=1),)
    scene.bob.publish_bundles(1, last_resort=False)
    assert scene.bob.poll() == ()
    scene.bob.receive(scene.craft(bundles[10], sender=strangers[0]).envelope)
    assert scene.bob.poll() == (StockLow(unused=1),)


def test_a_due_rotation_is_told_once_until_it_was_made(scene: Any) -> None:
    begin_ms = scene.clock.now_ms
    scene.bob.publish_bundles(20)
    assert scene.bob.next_deadline_ms == begin_ms + 7 * DAY
    scene.clock.now_ms = begin_ms + 7 * DAY - 1
    assert scene.bob.poll() == ()
    scene.clock.advance(ms=1)
    assert scene.bob.poll() == (RotationDue(published_at_ms=begin_ms),)
    assert scene.bob.poll() == ()
    scene.bob.publish_bundles(20, last_resort=False)  # one-time bundles are no rotation
    assert scene.bob.poll() == ()
    scene.bob.publish_bundles(20)
    assert scene.bob.poll() == ()
    scene.clock.advance(seconds=7 * 86_400)
    assert scene.bob.poll() == (RotationDue(published_at_ms=begin_ms + 7 * DAY),)


# --- publishing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [-1, True, 1.0, "1", 2**70])
def test_an_impossible_number_of_bundles_is_refused(count: Any, scene: Any, forge: ModuleType) -> None:
    with forge.refused(scene.bob, ArgumentInvalid, argument="one_time"):
        scene.bob.publish_bundles(count)


def test_what_is_published_and_not_forgotten_is_bounded(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, bundles_max=10))
    scene.bob.publish_bundles(9)
    for one_time, last_resort, got in ((1, False, 1), (0, True, 1), (10_001, False, 10_001), (None, True, 1)):
        with forge.refused(scene.bob, StockFull, got=got, allowed=10):
            scene.bob.publish_bundles(one_time, last_resort=last_resort)
    assert scene.bob.publish_bundles(last_resort=False).one_time == ()
    scene.clock.advance(seconds=30 * 86_400 + 301)
    scene.bob.poll()
    assert len(scene.bob.publish_bundles(9).one_time) == 9


def test_more_can_be_published_whatever_was_drained(forge: ModuleType) -> None:
    # An agent that drains the stock again and again must not keep the owner from ever being reached again.
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, bundles_max=20))
    drained = 0
    while drained < 20:
        for bundle in scene.bob.publish_bundles(5, last_resort=False).one_time:
            stranger = forge.another_agent(scene, drained)
            scene.bob.receive(scene.craft(bundle, sender=stranger).envelope)
            drained += 1
    assert scene.bob._core.state.unused_one_time() == 0
    assert scene.bob.publish_bundles(0).last_resort
    assert len(scene.bob.publish_bundles(5).one_time) == 5


def test_what_is_remembered_of_used_bundles_is_bounded_too(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, bundles_max=2))
    for _ in range(10):
        scene.bob.publish_bundles(2, last_resort=False)
        scene.bob.withdraw_bundles()
    with forge.refused(scene.bob, StockFull, got=1, allowed=2):
        scene.bob.publish_bundles(1, last_resort=False)
    assert scene.bob.publish_bundles().one_time == ()  # and a last-resort bundle, which whoever knocks cannot use up
    scene.clock.advance(seconds=30 * 86_400 + 301)
    scene.bob.poll()
    assert len(scene.bob.publish_bundles(1).one_time) == 1
