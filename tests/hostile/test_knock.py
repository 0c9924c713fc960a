"""Hostile KNOCKs against the gate's six steps, one by one and in their order (protocol, sections 5 and 5.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import attrs
import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

import agentmesh.identity
from agentmesh import (
    Agent,
    BundleClass,
    Conditions,
    Deny,
    Grant,
    Intent,
    Kind,
    KnockReceived,
    KnockRefused,
    Limits,
    Phase,
    Reason,
    SessionEstablished,
    SessionRejected,
)
from agentmesh.engine.hooks import read_clock
from agentmesh.errors import (
    ArgumentInvalid,
    BadIdentityKey,
    BadSignature,
    Busy,
    ConditionNotMet,
    EnvelopeReflected,
    KnockExpired,
    KnockFromFuture,
    KnockNotAdmitted,
    KnockNotPending,
    KnockUnknownBundle,
    KnockUnopened,
    Malformed,
    PeerNotAllowed,
    ReentrantCall,
    SenderMismatch,
    TooLarge,
    TooManySessions,
    UnknownSession,
    UnknownVersion,
    WrongMesh,
    WrongRecipient,
)
from agentmesh.handshake.agreement import Initiation, SessionKeys, transcript_hash
from agentmesh.policy import ASK, KnockRequest
from agentmesh.primitives import _crypto

SECOND = 1000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND
TOLERANCE = 300 * SECOND


def outcome(agent: Agent, envelope: bytes) -> Any:
    """The error's class, the reason of a REJECT, or the event."""
    try:
        [event] = agent.receive(envelope)
    except Exception as error:
        return type(error)
    return event.reason if isinstance(event, KnockRefused) else event


class Spies:
    """Counts of the costly primitives since the last `reset`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: dict[str, int] = {}
        places = {
            "verify": (_crypto, "ed25519_verify"),
            "dh": (_crypto, "x25519"),
            "kem": (_crypto, "kem_decapsulate"),
            "convert": (agentmesh.identity, "_converted"),
            "sign": (_crypto, "ed25519_sign"),
        }
        for name, (module, attribute) in places.items():
            monkeypatch.setattr(module, attribute, self._counting(name, getattr(module, attribute)))
        self.reset()

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.counts[name] += 1
            return function(*args)

        return counted

    def reset(self) -> None:
        self.counts = dict.fromkeys(("verify", "dh", "kem", "convert", "sign"), 0)


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> Spies:
    return Spies(monkeypatch)


# --- the order --------------------------------------------------------------------------------------------------------

LADDER: dict[str, Any] = {
    "future": KnockFromFuture,
    "not admitted": KnockNotAdmitted,
    "unknown bundle": KnockUnknownBundle,
    "other sender": SenderMismatch,
    "signature checks": Busy,
    "signature": BadSignature,
    "too many peers": Busy,
    "full memory": Busy,
    "rate of the sender": Busy,
    "used bundle": Reason.BUNDLE,
    "expires after its bundle": Reason.BUNDLE,
    "bundle not valid yet": Busy,
    "bundle not for the sender": Busy,
    "content": KnockUnopened,
    "stale": Reason.STALE,
    "no room": Reason.BUSY,
    "policy": Reason.POLICY,
}
RUNGS = list(LADDER)


def faulty(scene: Any, forge: ModuleType, faults: set[str]) -> bytes:
    """A KNOCK with all of these faults, and Bob in the state that some of them are faults of."""
    clock, bob, alice = scene.clock, scene.bob, scene.identity(scene.alice)
    [bundle, *others] = scene.one_time(6)
    if "used bundle" in faults:
        bob.receive(scene.craft(bundle, sender=scene.mallory).envelope)
    if "no room" in faults:
        for number, other in enumerate(others):
            bob.receive(scene.craft(other, time_ms=clock.now_ms + number).envelope)
    elif "stale" in faults:
        bob.receive(scene.craft(others[0]).envelope)
    crafted = scene.craft(
        bundle,
        time_ms=clock.now_ms + (TOLERANCE + 1 if "future" in faults else 0 if "stale" in faults else 100),
        sender_did=scene.mallory.did if "other sender" in faults else None,
    )
    if "content" in faults:
        sealed = crafted.part("sealed")
        crafted = crafted.having(sealed=sealed[:-1] + bytes([sealed[-1] ^ 1]))
    if "unknown bundle" in faults:
        crafted = crafted.having(ref=bytes(32))
    crafted = crafted.signed_by(alice)
    if "signature" in faults:
        crafted = crafted.having(signature=bytes(64))
    budgets = bob._core.budgets
    for _ in range(2000 if "signature checks" in faults else 0):
        budgets.signature_checks.take(None, clock.now_ms)
    for _ in range(20 if "rate of the sender" in faults else 0):
        budgets.knocks.take(alice.key.raw, clock.now_ms)
    if "full memory" in faults:
        full = attrs.evolve(bob._core.limits, remembered_knocks=max(1, len(bob._core.state.knocks)))
        bob._core.limits = full
        if not len(bob._core.state.knocks):
            bob.receive(scene.craft(scene.one_time()[0], sender=scene.mallory).envelope)
    if "too many peers" in faults:
        bob._core.limits = attrs.evolve(bob._core.limits, tracked_identities=1)
        bob._core.state.peers.pop(alice.key.raw, None)
        bob._core.state.ensure_peer(scene.mallory.key)
    published = bob._core.state.bundles.get(crafted.part("ref"))
    if published is not None:
        bob._core.state.bundles[published.ref] = attrs.evolve(
            published,
            not_after_ms=crafted.part("expires_ms") - ("expires after its bundle" in faults),
            not_before_ms=clock.now_ms + TOLERANCE + 1 if "bundle not valid yet" in faults else clock.now_ms,
        )
    scene.rules.serves = "bundle not for the sender" not in faults
    scene.rules.admits = "not admitted" not in faults
    scene.rules.decides = Deny() if "policy" in faults else ASK
    return crafted.envelope


def rationed(forge: ModuleType) -> Any:
    """A scene whose policy has its word on bundles too."""
    scene = forge.new_scene(Limits())
    scene.rules = scene.bob._core.policy = forge.Rationing()
    return scene


def owed_by_alice(scene: Any) -> int:
    """How many KNOCKs Alice's own rate has been charged for."""
    owed: int = scene.bob._core.budgets.knocks._debts.get(scene.alice.key.raw, (0, 0))[0]
    return owed // SECOND


@pytest.mark.parametrize("rung", RUNGS)
def test_the_steps_come_in_their_order(rung: str, forge: ModuleType, spies: Spies) -> None:
    at = RUNGS.index(rung)
    scene = rationed(forge)
    # Everything from this rung on is wrong, and this rung answers.
    envelope = faulty(scene, forge, set(RUNGS[at:]))
    spies.reset()
    scene.rules.asked.clear()
    scene.rules.uses.clear()
    before, held, owed = scene.bob.export_state(), forge.volatile(scene.bob), owed_by_alice(scene)
    assert outcome(scene.bob, envelope) == LADDER[rung]
    counts, asked, now_held = spies.counts, scene.rules.asked, forge.volatile(scene.bob)
    assert (asked != []) == (at >= RUNGS.index("not admitted"))
    assert ("decide" in asked) == (rung == "policy")
    assert ("may_use" in asked) == (at >= RUNGS.index("bundle not for the sender"))
    assert (counts["verify"] > 0) == (at >= RUNGS.index("signature"))
    assert (counts["convert"] > 0) == (at >= RUNGS.index("signature"))
    assert (counts["kem"] > 0) == (counts["dh"] > 0) == (at >= RUNGS.index("content"))
    opened = at > RUNGS.index("content")
    told = LADDER[rung] in (Reason.BUNDLE, KnockUnopened)  # what Busy said, or nobody signed, is stored nowhere
    assert now_held[0] == held[0] + opened
    assert now_held[2] == held[2] + told
    assert owed_by_alice(scene) == owed + (opened or told)
    assert len(scene.rules.uses) == opened
    assert now_held[3] == held[3]
    assert (counts["sign"] > 0) == isinstance(LADDER[rung], Reason)
    # Before step 6 nothing durable has happened.
    assert (scene.bob.export_state() == before) == (not opened)


def test_a_knock_without_a_fault_climbs_the_whole_ladder(forge: ModuleType, spies: Spies) -> None:
    scene = rationed(forge)
    envelope = faulty(scene, forge, set())
    assert isinstance(outcome(scene.bob, envelope), KnockReceived)
    assert scene.rules.asked == ["may_knock", "may_use", "decide"]
    assert scene.rules.uses == [(scene.alice.key, BundleClass.ONE_TIME, scene.clock.now_ms)]
    assert spies.counts["verify"] == spies.counts["kem"] == 1


UNAUTHENTIC: dict[str, Callable[[Any, Any, Any], Any]] = {
    "no signature": lambda knock, scene, forge: knock.having(signature=b""),
    "zero signature": lambda knock, scene, forge: knock.having(signature=bytes(64)),
    "Mallory's signature": lambda knock, scene, forge: knock.signed_by(scene.identity(scene.mallory)),
    "Bob's signature": lambda knock, scene, forge: knock.signed_by(scene.identity(scene.bob)),
    "without the label": lambda knock, scene, forge: knock.signed_with(
        lambda message: scene.identity(scene.alice).sign(b"", message.split(b"\x00", 1)[1])
    ),
    "under the label of a bundle": lambda knock, scene, forge: knock.signed_with(
        lambda message: scene.identity(scene.alice).sign(b"agentmesh/v1/bundle\x00", message.split(b"\x00", 1)[1])
    ),
    "over the inner part alone": lambda knock, scene, forge: knock.signed_with(
        lambda _: scene.identity(scene.alice).sign(b"agentmesh/v1/knock\x00", knock.inner)
    ),
}


@pytest.mark.parametrize("name", UNAUTHENTIC)
@pytest.mark.parametrize("last_resort", [False, True])
def test_an_unauthentic_knock_is_answered_charged_and_remembered_nowhere(
    name: str, last_resort: bool, scene: Any, forge: ModuleType
) -> None:
    bundle = scene.last_resort() if last_resort else scene.one_time()[0]
    genuine = scene.craft(bundle)
    forged = UNAUTHENTIC[name](genuine, scene, forge)
    assert forged.envelope != genuine.envelope
    for _ in range(3):
        with forge.refused(scene.bob, BadSignature):
            scene.bob.receive(forged.envelope)
    assert forge.volatile(scene.bob) == (0, 0, 0, 0)
    assert set(scene.rules.asked) == {"may_knock"}
    # The forged copies came first, and the genuine one is taken.
    assert isinstance(outcome(scene.bob, genuine.envelope), KnockReceived)
    forge.converse(scene.alice, scene.bob)


# --- step 1: shape, names, times --------------------------------------------------------------------------------------


def encoded(*items: Any) -> bytes:
    packed: bytes = msgpack.packb(list(items))
    return packed


SHAPES: dict[str, Callable[[Any], bytes]] = {
    "no inner": lambda knock: encoded(knock.header, encoded(knock.signature)),
    "three parts": lambda knock: encoded(knock.header, encoded(knock.inner, knock.signature, b"")),
    "inner in clear": lambda knock: encoded(knock.header, encoded(list(knock.fields), knock.signature)),
    "swapped parts": lambda knock: encoded(knock.header, encoded(knock.signature, knock.inner)),
    "text signature": lambda knock: encoded(knock.header, encoded(knock.inner, "x" * 64)),
    "empty body": lambda knock: encoded(knock.header, b""),
    "trailing byte": lambda knock: encoded(knock.header, encoded(knock.inner, knock.signature) + b"\x00"),
    "trailing byte inside": lambda knock: encoded(knock.header, encoded(knock.inner + b"\xc0", knock.signature)),
    "five fields": lambda knock: attrs.evolve(knock, fields=knock.fields[:5]).envelope,
    "seven fields": lambda knock: attrs.evolve(knock, fields=(*knock.fields, b"")).envelope,
    "short key": lambda knock: knock.having(claimed=bytes(31)).envelope,
    "long key": lambda knock: knock.having(claimed=bytes(33)).envelope,
    "no key": lambda knock: knock.having(claimed=None).envelope,
    "short ref": lambda knock: knock.having(ref=bytes(31)).envelope,
    "text ref": lambda knock: knock.having(ref="x" * 32).envelope,
    "short ephemeral key": lambda knock: knock.having(ephemeral=bytes(31)).envelope,
    "no ephemeral key": lambda knock: knock.having(ephemeral=b"").envelope,
    "no KEM ciphertext": lambda knock: knock.having(ciphertext=b"").envelope,
    "nil KEM ciphertext": lambda knock: knock.having(ciphertext=None).envelope,
    "short KEM ciphertext": lambda knock: knock.having(ciphertext=knock.part("ciphertext")[:-1]).envelope,
    "long KEM ciphertext": lambda knock: knock.having(ciphertext=knock.part("ciphertext") + b"\x00").envelope,
    "no KEM field": lambda knock: attrs.evolve(knock, fields=(*knock.fields[:3], *knock.fields[4:])).envelope,
    "bool expiry": lambda knock: knock.having(expires_ms=True).envelope,
    "float expiry": lambda knock: knock.having(expires_ms=1.5e12).envelope,
    "NaN expiry": lambda knock: knock.having(expires_ms=math.nan).envelope,
    "negative expiry": lambda knock: knock.having(expires_ms=-1).envelope,
    "nil expiry": lambda knock: knock.having(expires_ms=None).envelope,
    "expiry of 2^53": lambda knock: knock.having(expires_ms=2**53).envelope,
    "nothing sealed": lambda knock: knock.having(sealed=b"").envelope,
    "sealed too short": lambda knock: knock.having(sealed=bytes(72 + 63)).envelope,
}


@pytest.mark.parametrize("name", SHAPES)
def test_another_shape_is_refused_before_anything_else(name: str, scene: Any, forge: ModuleType, spies: Spies) -> None:
    genuine = scene.craft(scene.one_time()[0])
    spies.reset()
    with forge.refused(scene.bob, Malformed):
        scene.bob.receive(SHAPES[name](genuine))
    assert scene.rules.asked == []
    assert not any(spies.counts.values())
    assert isinstance(outcome(scene.bob, genuine.envelope), KnockReceived)


def test_a_knock_over_the_size_limit_is_refused_by_its_length(forge: ModuleType) -> None:
    limits = attrs.evolve(
        forge.ROOMY, envelope_max_bytes=120_000, plaintext_max_bytes=30_000, intent_detail_max_bytes=30_000
    )
    scene = forge.new_scene(limits)
    bundle = scene.one_time()[0]
    too_large = scene.craft(bundle).having(sealed=bytes(120_000))
    with forge.refused(scene.bob, TooLarge):
        scene.bob.receive(too_large.signed_by(scene.identity(scene.alice)).envelope)
    assert isinstance(outcome(scene.bob, scene.craft(bundle).envelope), KnockReceived)


NAMES: dict[str, tuple[Callable[[Any], dict[str, Any]], type[Exception]]] = {
    "another recipient": (lambda scene: {"recipient": scene.mallory.did}, WrongRecipient),
    "itself as sender": (lambda scene: {"sender": scene.bob.did}, EnvelopeReflected),
    "another mesh": (lambda scene: {"mesh": "example/other"}, WrongMesh),
    "another version": (lambda scene: {"version": 2}, UnknownVersion),
    "another kind": (lambda scene: {"kind": 5}, UnknownVersion),
    "a verdict's kind": (lambda scene: {"kind": Kind.ACCEPT}, UnknownSession),
    "a reject's kind": (lambda scene: {"kind": Kind.REJECT}, TooLarge),
    "a message's kind": (lambda scene: {"kind": Kind.MESSAGE}, UnknownSession),
    "another agent's name": (lambda scene: {"sender": scene.mallory.did}, SenderMismatch),
    "another time": (lambda scene: {"time_ms": scene.clock.now_ms + 1}, BadSignature),
}


@pytest.mark.parametrize("resigned", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_another_header_is_refused(name: str, resigned: bool, scene: Any, forge: ModuleType) -> None:
    changes, error = NAMES[name]
    genuine = scene.craft(scene.one_time()[0])
    forged = forge.parts_of(forge.with_header(genuine.envelope, **changes(scene)))
    if resigned:
        # Alice herself may sign any header. Then only the sealed intent, bound to the old header, gives it away.
        forged = forged.signed_by(scene.identity(scene.alice))
        error = KnockUnopened if error is BadSignature else error
    with forge.refused(scene.bob, error):
        scene.bob.receive(forged.envelope)
    assert scene.rules.requests == []
    if error is not KnockUnopened:
        assert isinstance(outcome(scene.bob, genuine.envelope), KnockReceived)
    forge.converse(scene.alice, scene.bob)


def test_a_knock_of_another_mesh_is_refused_though_all_of_it_says_so(scene: Any, forge: ModuleType) -> None:
    # Bob serves a second mesh under one identity; a KNOCK made there is not for here.
    fields = forge.bundle_fields(scene.one_time()[0])
    elsewhere = forge.repack_bundle(scene.identity(scene.bob), encoded(*fields[:2], "example/other", *fields[3:]))
    knock = scene.craft(elsewhere, mesh="example/other")
    with forge.refused(scene.bob, WrongMesh):
        scene.bob.receive(knock.envelope)
    # And with this mesh's name on the envelope it names a bundle that was never published here.
    with forge.refused(scene.bob, KnockUnknownBundle):
        scene.bob.receive(scene.craft(elsewhere).envelope)
    forge.converse(scene.alice, scene.bob)


TIMES: dict[str, tuple[dict[str, int], Any]] = {
    # name -> (header time and expiry after the clock, what becomes of it)
    "at the tolerance ahead": ({"time": TOLERANCE, "expires": DAY}, SessionEstablished),
    "past the tolerance ahead": ({"time": TOLERANCE + 1, "expires": DAY}, KnockFromFuture),
    "at the tolerance after its expiry": ({"time": -DAY, "expires": -TOLERANCE}, SessionEstablished),
    "past the tolerance after its expiry": ({"time": -DAY, "expires": -TOLERANCE - 1}, KnockExpired),
    "a lifetime of nothing": ({"time": 0, "expires": 0}, KnockExpired),
    "a negative lifetime": ({"time": 0, "expires": -1}, KnockExpired),
    "a lifetime of a millisecond": ({"time": 0, "expires": 1}, SessionEstablished),
    "a lifetime of 14 days": ({"time": 0, "expires": 14 * DAY}, SessionEstablished),
    "a lifetime over 14 days": ({"time": 0, "expires": 14 * DAY + 1}, KnockExpired),
    "from long ago, with a lifetime over 14 days": ({"time": -13 * DAY, "expires": DAY + 1}, KnockExpired),
    "from long ago, with a lifetime of 14 days": ({"time": -13 * DAY, "expires": DAY}, SessionEstablished),
    "at the bundle's end": ({"time": 17 * DAY, "expires": 30 * DAY}, KnockFromFuture),
}


@pytest.mark.parametrize("name", TIMES)
def test_every_time_at_its_edge_and_past_it(name: str, scene: Any, forge: ModuleType) -> None:
    shift, expected = TIMES[name]
    scene.rules.decides = Grant()
    bundle, now_ms = scene.one_time()[0], scene.clock.now_ms
    knock = scene.craft(bundle, time_ms=now_ms + shift["time"], expires_ms=now_ms + shift["expires"])
    if expected is SessionEstablished:
        assert isinstance(outcome(scene.bob, knock.envelope), SessionEstablished)
    else:
        with forge.refused(scene.bob, expected):
            scene.bob.receive(knock.envelope)
        assert scene.rules.asked == []
    scene.rules.decides = ASK
    scene.clock.advance(seconds=301)
    forge.converse(scene.alice, scene.bob)


def test_a_knock_that_is_told_can_be_answered(scene: Any) -> None:
    # Within the tolerance after its expiry it still passes step 1: whoever is then asked must be able to answer.
    bundle, now_ms = scene.one_time()[0], scene.clock.now_ms
    knock = scene.craft(bundle, time_ms=now_ms - DAY, expires_ms=now_ms - TOLERANCE)
    [event] = scene.bob.receive(knock.envelope)
    assert isinstance(event, KnockRefused)
    assert event.reason is Reason.STALE
    assert event.reply.envelope


# --- step 2: admission ------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[Any], Any]:
    def raise_it(_: Any) -> Any:
        raise error

    return raise_it


FAILING_ANSWERS: dict[str, Any] = {
    "None": None,
    "NaN": math.nan,
    "one": 1,
    "minus one": -1,
    "text": "yes",
    "a list": [True],
    "an exception": raising(ValueError("policy")),
    "a timeout": raising(TimeoutError()),
    "an error of the library": raising(ArgumentInvalid("policy")),
    "a recursion": raising(RecursionError()),
    "an assertion": raising(AssertionError()),
}


@pytest.mark.parametrize("name", [*FAILING_ANSWERS, "False"])
def test_admission_denies_whatever_is_not_true(name: str, scene: Any, forge: ModuleType, spies: Spies) -> None:
    knock = scene.craft(scene.one_time()[0])
    scene.rules.admits = FAILING_ANSWERS.get(name, False)
    spies.reset()
    with forge.refused(scene.bob, KnockNotAdmitted):
        scene.bob.receive(knock.envelope)
    assert not any(spies.counts.values())
    assert forge.volatile(scene.bob) == (0, 0, 0, 0)
    [claimed] = scene.rules.senders
    assert (claimed.did, claimed.key) == (scene.alice.did, scene.alice.key.raw)
    scene.rules.admits = True
    assert isinstance(outcome(scene.bob, knock.envelope), KnockReceived)


# --- step 3: parts of other KNOCKs ------------------------------------------------------------------------------------


def two_knocks(scene: Any, other_sender: bool) -> tuple[Any, Any]:
    [first, second] = scene.one_time(2)
    other = scene.craft(
        second,
        sender=scene.mallory if other_sender else scene.alice,
        time_ms=scene.clock.now_ms + 1,
        expires_ms=scene.clock.now_ms + 2 * DAY,
    )
    return scene.craft(first), other


@pytest.mark.parametrize("other_sender", [False, True])
@pytest.mark.parametrize(
    "part", ["header", "claimed", "ref", "ephemeral", "ciphertext", "expires_ms", "sealed", "signature"]
)
def test_any_one_part_of_another_genuine_knock_is_refused(
    part: str, other_sender: bool, scene: Any, forge: ModuleType
) -> None:
    genuine, other = two_knocks(scene, other_sender)
    forged = genuine.having(**{part: other.part(part)})
    if forged == genuine:
        assert (part, other_sender) == ("claimed", False)
        return
    error = SenderMismatch if other_sender and part in ("header", "claimed") else BadSignature
    with forge.refused(scene.bob, error):
        scene.bob.receive(forged.envelope)
    assert scene.rules.requests == []
    for knock in (genuine, other):
        assert isinstance(outcome(scene.bob, knock.envelope), KnockReceived)


@pytest.mark.parametrize("part", ["ref", "ephemeral", "ciphertext", "expires_ms", "sealed"])
def test_a_part_of_another_knock_does_not_open_even_if_its_sender_signs_it(
    part: str, scene: Any, forge: ModuleType
) -> None:
    # The transcript hash and the intent's key depend on every part, so the signature is not what alone keeps it out.
    genuine, other = two_knocks(scene, other_sender=False)
    grafted = genuine.having(**{part: other.part(part)}).signed_by(scene.identity(scene.alice))
    with forge.refused(scene.bob, KnockUnopened):
        scene.bob.receive(grafted.envelope)
    assert scene.rules.requests == []
    assert scene.bob._core.state.unused_one_time() == 2
    assert isinstance(outcome(scene.bob, other.envelope), KnockReceived)


@pytest.mark.parametrize("kept", ["sealed", "all but the sender"])
def test_an_intent_grafted_onto_the_attackers_keys_does_not_open(kept: str, scene: Any, forge: ModuleType) -> None:
    [first, second] = scene.one_time(2)
    alices = scene.craft(first, intent=Intent("pay", description="a captured intent"))
    mallory = scene.identity(scene.mallory)
    if kept == "sealed":
        forged = scene.craft(second, sender=scene.mallory).having(sealed=alices.part("sealed"))
    else:
        forged = scene.craft(first, sender=scene.mallory)
        forged = forged.having(**{name: alices.part(name) for name in forge.FIELDS[1:]})
    with forge.refused(scene.bob, KnockUnopened):
        scene.bob.receive(forged.signed_by(mallory).envelope)
    event = outcome(scene.bob, alices.envelope)
    assert event.intent.description == "a captured intent"
    assert event.peer == scene.alice.key


def test_every_flipped_bit_of_a_knock_is_refused(scene: Any, forge: ModuleType) -> None:
    genuine = scene.craft(scene.one_time()[0]).envelope
    before = scene.bob.export_state()
    for at in range(0, len(genuine) * 8, 23):  # 23 is odd: every bit of the byte gets its turn
        forged = bytearray(genuine)
        forged[at // 8] ^= 1 << at % 8
        assert isinstance(outcome(scene.bob, bytes(forged)), type)
    assert scene.bob.export_state() == before
    assert scene.rules.requests == []
    assert isinstance(outcome(scene.bob, genuine), KnockReceived)


def test_a_truncated_knock_is_refused(scene: Any, forge: ModuleType) -> None:
    genuine = scene.craft(scene.one_time()[0]).envelope
    for length in range(0, len(genuine), 7):
        with forge.refused(scene.bob, Malformed):
            scene.bob.receive(genuine[:length])
    assert isinstance(outcome(scene.bob, genuine), KnockReceived)


# --- step 5: the KEM --------------------------------------------------------------------------------------------------


def test_a_flipped_kem_ciphertext_shows_only_as_content_that_does_not_open(scene: Any, forge: ModuleType) -> None:
    bundle, alice = scene.one_time()[0], scene.identity(scene.alice)
    genuine = scene.craft(bundle)
    for at in range(0, 1088, 8):
        flipped = bytearray(genuine.part("ciphertext"))
        flipped[at] ^= 1 << at // 8 % 8
        forged = genuine.having(ciphertext=bytes(flipped)).signed_by(alice)
        with forge.refused(scene.bob, KnockUnopened):
            scene.bob.receive(forged.envelope)
    assert isinstance(outcome(scene.bob, genuine.envelope), KnockReceived)


def test_a_secret_encapsulated_again_under_another_bundles_key_opens_nothing(scene: Any, forge: ModuleType) -> None:
    # Re-encapsulation: whoever learns one bundle's KEM secret offers the same shared secret under another bundle.
    [first, second] = scene.one_time(2)
    alices = scene.craft(first)
    second_view = forge.bundle_view(second)
    moved = alices.having(ref=second_view.ref, ciphertext=scene.craft(second).part("ciphertext"))
    with forge.refused(scene.bob, KnockUnopened):
        scene.bob.receive(moved.signed_by(scene.identity(scene.alice)).envelope)
    assert isinstance(outcome(scene.bob, alices.envelope), KnockReceived)


@pytest.mark.parametrize("replaced", [None, 0, 1, 2, 3])
def test_every_secret_of_the_handshake_is_needed(replaced: int | None, scene: Any, forge: ModuleType) -> None:
    # Three Diffie-Hellmans and the encapsulation: whoever lacks one of them, and only one, opens nothing.
    bundle, alice, secret = scene.one_time()[0], scene.identity(scene.alice), bytes(range(32))
    view, expires_ms = forge.bundle_view(bundle), scene.clock.now_ms + DAY
    ephemeral = _crypto.x25519_public(secret)
    ciphertext, shared_kem = _crypto.kem_encapsulate(view.kem_key)
    shared = [
        _crypto.x25519(alice.dh_secret, view.prekey),
        _crypto.x25519(secret, view.identity.dh),
        _crypto.x25519(secret, view.prekey),
        shared_kem,
    ]
    if replaced is not None:
        shared[replaced] = bytes(32)
    knock = knock_over(scene, bundle, ephemeral, ciphertext, shared, expires_ms)
    if replaced is None:
        assert isinstance(outcome(scene.bob, knock.envelope), KnockReceived)
    else:
        with forge.refused(scene.bob, KnockUnopened):
            scene.bob.receive(knock.envelope)


def test_another_agents_diffie_hellman_key_under_ones_own_signature_opens_nothing(
    scene: Any, forge: ModuleType
) -> None:
    # The X25519 identity key is derived from the key that signed; no other is ever read.
    bundle, mallory, secret = scene.one_time()[0], scene.identity(scene.mallory), bytes(range(32))
    view, expires_ms = forge.bundle_view(bundle), scene.clock.now_ms + DAY
    ciphertext, shared_kem = _crypto.kem_encapsulate(view.kem_key)
    shared = [
        _crypto.x25519(mallory.dh_secret, view.prekey),
        _crypto.x25519(secret, view.identity.dh),
        _crypto.x25519(secret, view.prekey),
        shared_kem,
    ]
    knock = knock_over(scene, bundle, _crypto.x25519_public(secret), ciphertext, shared, expires_ms)
    with forge.refused(scene.bob, KnockUnopened):
        scene.bob.receive(knock.envelope)
    assert isinstance(outcome(scene.bob, scene.craft(bundle).envelope), KnockReceived)


def knock_over(
    scene: Any, bundle: bytes, ephemeral: bytes, ciphertext: bytes, shared: list[bytes], expires_ms: int
) -> Any:
    """Alice's KNOCK over these keys and these shared secrets, whatever they are."""
    view, alice = scene.view(bundle), scene.identity(scene.alice)
    th = transcript_hash(
        mesh=view.mesh,
        initiator=alice.key.raw,
        responder=view.identity.raw,
        bundle_ref=view.ref,
        ephemeral=ephemeral,
        kem_ciphertext=ciphertext,
        expires_ms=expires_ms,
    )
    keys = SessionKeys(th, b"".join(shared))
    return scene.craft(bundle, initiation=Initiation(bytes(32), ephemeral, ciphertext, keys), expires_ms=expires_ms)


# --- points -----------------------------------------------------------------------------------------------------------


def knock_with_known_secrets(
    scene: Any, forge: ModuleType, bundle: bytes, ephemeral: bytes, with_identity: bytes, with_prekey: bytes
) -> Any:
    """A KNOCK over this EK, by a sender who knows what both Diffie-Hellmans with it give where nobody checks it."""
    view, alice = forge.bundle_view(bundle), scene.identity(scene.alice)
    ciphertext, shared_kem = _crypto.kem_encapsulate(view.kem_key)
    shared = [_crypto.x25519(alice.dh_secret, view.prekey), with_identity, with_prekey, shared_kem]
    return knock_over(scene, bundle, ephemeral, ciphertext, shared, scene.clock.now_ms + DAY)


def test_a_low_order_ephemeral_key_is_refused_though_its_sender_knows_every_secret(
    scene: Any, forge: ModuleType
) -> None:
    bundle = scene.one_time()[0]
    for point in (*forge.LOW_ORDER_X25519, *forge.LOW_ORDER_NON_CANONICAL_X25519):
        knock = knock_with_known_secrets(scene, forge, bundle, point, bytes(32), bytes(32))
        with forge.refused(scene.bob, KnockUnopened):
            scene.bob.receive(knock.envelope)
    assert scene.bob._core.state.unused_one_time() == 1
    assert isinstance(outcome(scene.bob, scene.craft(bundle).envelope), KnockReceived)


def test_a_second_encoding_of_an_ephemeral_key_is_refused(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    view = forge.bundle_view(bundle)
    base = [9 | 1 << 255, 9 + forge.FIELD_PRIME, 9 + forge.FIELD_PRIME | 1 << 255]
    for number in base:
        # The base point by another name: its product with Bob's secrets are Bob's public keys.
        point = number.to_bytes(32, "little")
        knock = knock_with_known_secrets(scene, forge, bundle, point, view.identity.dh, view.prekey)
        with forge.refused(scene.bob, KnockUnopened):
            scene.bob.receive(knock.envelope)
    canonical = (9).to_bytes(32, "little")
    knock = knock_with_known_secrets(scene, forge, bundle, canonical, view.identity.dh, view.prekey)
    assert isinstance(outcome(scene.bob, knock.envelope), KnockReceived)  # the same forgery under the one right name


def test_low_order_and_non_canonical_identity_keys_are_refused_as_senders(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    for key in (*forge.LOW_ORDER_ED25519, *forge.NON_CANONICAL_ED25519):
        did = forge.with_did(key)
        knock = scene.craft(bundle, sender_did=did).having(claimed=key).signed_with(forge.universal_signature)
        with forge.refused(scene.bob, BadIdentityKey):
            scene.bob.receive(knock.envelope)
        scene.clock.advance(seconds=1)
    assert isinstance(outcome(scene.bob, scene.craft(bundle).envelope), KnockReceived)


def test_a_mixed_order_identity_key_is_refused_as_sender(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    key, sign = forge.mixed_order_signer(scene.identity(scene.alice))
    knock = scene.craft(bundle, sender_did=forge.with_did(key)).having(claimed=key).signed_with(sign)
    with forge.refused(scene.bob, BadIdentityKey):
        scene.bob.receive(knock.envelope)
    assert isinstance(outcome(scene.bob, scene.craft(bundle).envelope), KnockReceived)


def test_odd_signatures_by_the_senders_own_key_are_refused(scene: Any, forge: ModuleType) -> None:
    bundle, alice = scene.one_time()[0], scene.identity(scene.alice)
    genuine = scene.craft(bundle)
    names = forge.odd_signatures(alice, b"")
    for name in names:
        knock = genuine.signed_with(lambda message, name=name: forge.odd_signatures(alice, message)[name])
        with forge.refused(scene.bob, BadSignature):
            scene.bob.receive(knock.envelope)
        scene.clock.advance(seconds=1)
    assert isinstance(outcome(scene.bob, genuine.envelope), KnockReceived)


def test_the_forged_signatures_pass_where_nobody_looks_closely(scene: Any, forge: ModuleType) -> None:
    # They are real ones: another library takes them, so it is this one's own checks that keep them out.
    alice, message = scene.identity(scene.alice), b"a message"
    identity_key = Ed25519PublicKey.from_public_bytes(alice.key.raw)
    identity_key.verify(forge.odd_signatures(alice, message)["R neutral"], message)
    Ed25519PublicKey.from_public_bytes(forge.NEUTRAL).verify(forge.universal_signature(message), message)
    key, sign = forge.mixed_order_signer(alice)
    Ed25519PublicKey.from_public_bytes(key).verify(sign(message), message)
    _crypto.ed25519_verify(key, message, sign(message))


# --- step 5: content --------------------------------------------------------------------------------------------------

GOOD_INTENT: list[Any] = ["act", ["can"], b"detail"]
CONTENTS: dict[str, Any] = {
    "nothing": b"",
    "not msgpack": b"\xc1",
    "a number": encoded()[:0] + b"\x05",
    "no fresh": encoded(GOOD_INTENT, None),
    "one more": encoded(GOOD_INTENT, None, 1, 1),
    "trailing": encoded(GOOD_INTENT, None, 1) + b"\xc0",
    "fresh of two": encoded(GOOD_INTENT, None, 2),
    "fresh as a bool": encoded(GOOD_INTENT, None, True),
    "fresh as a float": encoded(GOOD_INTENT, None, 1.0),
    "fresh as nil": encoded(GOOD_INTENT, None, None),
    "fresh below zero": encoded(GOOD_INTENT, None, -1),
    "early payload as text": encoded(GOOD_INTENT, "data", 1),
    "early payload as a number": encoded(GOOD_INTENT, 5, 1),
    "early payload over the limit": encoded(GOOD_INTENT, bytes(2**20 + 1), 1),
    "no action": encoded(["", [], b""], None, 1),
    "action over 128 bytes": encoded(["a" * 129, [], b""], None, 1),
    "action as bytes": encoded([b"act", [], b""], None, 1),
    "action as nil": encoded([None, [], b""], None, 1),
    "action with half a surrogate": b"\x93\x93\xa3\xed\xa0\x80\x90\xc4\x00\xc0\x01",
    "action that is not UTF-8": b"\x93\x93\xa1\xff\x90\xc4\x00\xc0\x01",
    "capabilities as text": encoded(["act", "can", b""], None, 1),
    "capabilities as bytes": encoded(["act", [b"can"], b""], None, 1),
    "65 capabilities": encoded(["act", ["c"] * 65, b""], None, 1),
    "a capability over 128 bytes": encoded(["act", ["c" * 129], b""], None, 1),
    "a nested capability": encoded(["act", [["can"]], b""], None, 1),
    "detail as text": encoded(["act", [], "detail"], None, 1),
    "detail over the limit": encoded(["act", [], bytes(2**16 + 1)], None, 1),
    "a map": encoded({"action": "act"}, None, 1),
    "two in the intent": encoded(["act", []], None, 1),
    "four in the intent": encoded(["act", [], b"", b""], None, 1),
    "deep nesting": encoded(GOOD_INTENT, None, 1)[:1] + b"\x91" * 10_000 + b"\xc0\xc0\x01",
    "a longer form of an array": b"\xdc\x00\x03" + encoded(GOOD_INTENT, None, 1)[1:],
    "a longer form of a number": encoded(GOOD_INTENT, None)[:0] + b"\x93" + encoded(GOOD_INTENT)[1:] + b"\xc0\xcc\x01",
    "a longer form of a text": b"\x93\x93\xd9\x03act\x90\xc4\x00\xc0\x01",
    "an ext": b"\x93\x93\xa3act\x90\xc4\x00\xd4\x01\x00\x01",
    "a timestamp": b"\x93\x93\xa3act\x90\xc4\x00\xd6\xff\x00\x00\x00\x00\x01",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_content_of_another_shape_does_not_open(name: str, scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    with forge.refused(scene.bob, KnockUnopened):
        scene.bob.receive(scene.craft(bundle, content=CONTENTS[name]).envelope)
    assert scene.rules.requests == []
    assert scene.bob._core.state.unused_one_time() == 1
    assert isinstance(outcome(scene.bob, scene.craft(bundle, time_ms=scene.clock.now_ms + 1).envelope), KnockReceived)


@pytest.mark.parametrize(
    ("content", "fresh"),
    [
        (encoded(["a" * 128, ["c" * 128] * 64, bytes(2**16)], bytes(2**20), 0), False),
        (encoded(["a", [], b""], None, 1), True),
        (encoded(["a", [""], b"\xff"], b"", 1), True),
    ],
)
def test_content_at_its_limits_opens(content: bytes, fresh: bool, scene: Any) -> None:
    [event] = scene.bob.receive(scene.craft(scene.one_time()[0], content=content).envelope)
    assert isinstance(event, KnockReceived)
    assert event.fresh is fresh
    [[action, capabilities, detail], *_] = msgpack.unpackb(content)
    assert (event.intent.action, list(event.intent.capabilities), event.intent.detail) == (action, capabilities, detail)


@given(content=st.binary(max_size=300))
def test_no_content_brings_down_the_gate(content: bytes, forge: ModuleType) -> None:
    scene = forge.new_scene()
    bundle = scene.one_time()[0]
    with forge.refused(scene.bob, KnockUnopened):
        scene.bob.receive(scene.craft(bundle, content=content).envelope)


def test_the_content_is_bound_to_the_header_and_padded(scene: Any, forge: ModuleType) -> None:
    bundle, alice = scene.one_time()[0], scene.identity(scene.alice)
    genuine = scene.craft(bundle)
    key = genuine.initiation.keys.intent_key
    sealed = {
        "another header": forge.seal(
            key, forge.INTENT, genuine.header + b"\x00", forge.pad(CONTENTS["nothing"]), bytes(24)
        ),
        "no padding": forge.seal(
            key, forge.INTENT, genuine.header, encoded(GOOD_INTENT, None, 1) + bytes(64), bytes(24)
        ),
        "more padding": forge.seal(
            key, forge.INTENT, genuine.header, forge.pad(encoded(GOOD_INTENT, None, 1)) + bytes(64), bytes(24)
        ),
    }
    for changed in sealed.values():
        with forge.refused(scene.bob, KnockUnopened):
            scene.bob.receive(genuine.having(sealed=changed).signed_by(alice).envelope)
            # One th is remembered after the first, so each needs keys of its own.
        genuine = scene.craft(bundle, time_ms=scene.clock.now_ms + len(changed))
        key = genuine.initiation.keys.intent_key


# --- step 6: policy ---------------------------------------------------------------------------------------------------


def test_the_default_policy_asks(forge: ModuleType) -> None:
    pair = forge.new_scene()
    pair.bob._core.policy = type(pair.alice._core.policy)()
    [event] = pair.bob.receive(pair.craft(pair.one_time()[0]).envelope)
    assert isinstance(event, KnockReceived)
    assert pair.bob.pending_knocks() == (event,)
    assert pair.bob.session(pair.alice.did).status.phase is Phase.UNDECIDED


@pytest.mark.parametrize("name", [*FAILING_ANSWERS, "True", "a class", "a condition", "a function"])
def test_a_policy_that_fails_denies(name: str, scene: Any, forge: ModuleType) -> None:
    odd = {"True": True, "a class": Grant, "a condition": Conditions(), "a function": lambda _: None}
    knock = scene.craft(scene.one_time()[0], early_payload=b"early")
    answer = FAILING_ANSWERS.get(name, odd.get(name))
    scene.rules.decides = answer if name in FAILING_ANSWERS else lambda _: answer
    [event] = scene.bob.receive(knock.envelope)
    assert isinstance(event, KnockRefused)
    assert event.reason is Reason.POLICY
    assert scene.bob.pending_knocks() == ()
    assert scene.bob.sessions(scene.alice.did) == ()
    assert b"early" not in scene.bob.export_state()
    scene.rules.decides = ASK
    scene.clock.advance(ms=1)
    forge.converse(scene.alice, scene.bob)


@pytest.mark.parametrize(
    "decision",
    [
        lambda: Grant(None),
        lambda: Grant("unlimited"),
        lambda: Grant(attrs.make_class("Odd", [])()),
        lambda: Deny("nonsense"),
        lambda: Deny(None),
        lambda: Deny(Reason.BUSY, -1),
        lambda: Deny(Reason.BUSY, True),
        lambda: Deny(Reason.BUSY, 2**53),
    ],
)
def test_a_policy_whose_decision_is_not_well_formed_denies(
    decision: Callable[[], Any], scene: Any, forge: ModuleType
) -> None:
    knock = scene.alice.knock(scene.bob.did, scene.one_time()[0], Intent("odd"))
    scene.rules.decides = lambda _: decision()
    [event] = scene.bob.receive(knock)
    assert isinstance(event, KnockRefused)
    assert event.reason is Reason.POLICY
    [event] = scene.alice.receive(event.reply)
    assert isinstance(event, SessionRejected)
    scene.rules.decides = ASK
    forge.converse(scene.alice, scene.bob)


@pytest.mark.parametrize("hook", ["admits", "decides", "allows"])
@pytest.mark.parametrize("call", ["send", "knock", "publish", "poll", "receive", "accept", "reject", "close"])
def test_a_policy_that_calls_back_is_denied_and_never_hangs(
    hook: str, call: str, scene: Any, forge: ModuleType
) -> None:
    forge.converse(scene.alice, scene.bob)
    scene.clock.advance(seconds=2)
    knock = scene.craft(scene.one_time()[0], fresh=False)
    waiting = scene.craft(scene.one_time()[0], sender=scene.mallory)
    [event] = scene.bob.receive(waiting.envelope)
    bundle = scene.alice.publish_bundles(1).one_time[0]
    calls: dict[str, Callable[[], Any]] = {
        "send": lambda: scene.bob.send(scene.alice.did, b"").envelope,
        "knock": lambda: scene.bob.knock(scene.alice.did, bundle, Intent("back")),
        "publish": lambda: scene.bob.publish_bundles(1),
        "poll": lambda: scene.bob.poll(),
        "receive": lambda: scene.bob.receive(knock.envelope),
        "accept": lambda: scene.bob.accept(event),
        "reject": lambda: scene.bob.reject(event).envelope,
        "close": lambda: scene.bob.close(scene.alice.did).envelope,
    }
    raised: list[BaseException] = []

    def calling_back(_: Any) -> Any:
        try:
            calls[call]()
        except ReentrantCall as error:
            raised.append(error)
            raise
        return True

    setattr(scene.rules, hook, calling_back)
    if hook == "allows":
        with forge.refused(scene.bob, PeerNotAllowed):
            scene.bob.send(scene.alice.did, b"data")
    elif hook == "admits":
        with forge.refused(scene.bob, KnockNotAdmitted):
            scene.bob.receive(knock.envelope)
    else:
        [refused] = scene.bob.receive(knock.envelope)
        assert isinstance(refused, KnockRefused)
        assert refused.reason is Reason.POLICY
    assert len(raised) == 1
    setattr(scene.rules, hook, {"admits": True, "decides": ASK, "allows": True}[hook])
    scene.clock.advance(ms=2)
    forge.converse(scene.alice, scene.bob)


def test_a_policy_may_look_at_the_agent_that_asks_it(scene: Any) -> None:
    seen: list[Any] = []

    def looking(request: KnockRequest) -> Any:
        seen.append((scene.bob.sessions(scene.alice.did), scene.bob.pending_knocks(), len(scene.bob.export_state())))
        return Grant()

    scene.rules.decides = looking
    [event] = scene.bob.receive(scene.craft(scene.one_time()[0]).envelope)
    assert isinstance(event, SessionEstablished)
    [(sessions, waiting, _)] = seen
    assert (sessions, waiting) == ((), ())


def test_what_the_policy_is_told(scene: Any) -> None:
    now_ms = scene.clock.now_ms
    intent = Intent("act", capabilities=("one", "two"), detail=b"\xffdetail")
    first = scene.craft(scene.one_time()[0], intent=intent, time_ms=now_ms, early_payload=b"canary")
    second = scene.craft(scene.last_resort(), time_ms=now_ms + 5, lifetime_ms=7 * DAY, fresh=False)
    [one] = scene.bob.receive(first.envelope)
    [two] = scene.bob.receive(second.envelope)
    asked = scene.rules.requests
    assert asked == [one, two]
    assert (one.peer, one.receipt, one.time_ms, one.expires_ms) == (
        scene.alice.key, first.receipt, now_ms, now_ms + DAY,
    )  # fmt: skip
    assert (one.intent, one.has_early_payload, one.fresh, one.open_sessions) == (intent, True, True, 0)
    assert (int(one.bundle_class), int(two.bundle_class)) == (1, 2)
    assert (two.has_early_payload, two.fresh, two.open_sessions, two.expires_ms) == (
        False,
        False,
        1,
        now_ms + 5 + 7 * DAY,
    )
    assert "canary" not in repr(asked)
    assert "detail" not in repr(asked)


# --- early payload ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_policy", [False, True])
@pytest.mark.parametrize("payload", [b"", b"early data"])
def test_the_early_payload_is_released_on_acceptance_only(by_policy: bool, payload: bytes, scene: Any) -> None:
    knock = scene.alice.knock(scene.bob.did, scene.one_time()[0], Intent("early"), early_payload=payload)
    assert not knock.early_payload_withheld
    if by_policy:
        scene.rules.decides = Grant(Conditions(max_messages=3))
        [event] = scene.bob.receive(knock)
        assert isinstance(event, SessionEstablished)
        released, reply = event.early_payload, event.reply.envelope
    else:
        [event] = scene.bob.receive(knock)
        assert event.has_early_payload
        assert not hasattr(event, "early_payload")
        accepted = scene.bob.accept(event, Conditions(max_messages=3))
        released, reply = accepted.early_payload, accepted.envelope
    assert released == payload
    scene.alice.receive(reply)
    [event] = scene.bob.receive(scene.alice.send(scene.bob.did, b"second"))
    assert event.number == 2


@pytest.mark.parametrize("early", [0, 1])
def test_the_early_payload_is_message_one_on_both_sides(early: int, scene: Any, forge: ModuleType) -> None:
    payload = b"early" if early else None
    knock = scene.alice.knock(scene.bob.did, scene.one_time()[0], Intent("early"), early_payload=payload)
    [event] = scene.bob.receive(knock)
    scene.alice.receive(scene.bob.accept(event, Conditions(max_messages=3)).envelope)

    def counts(agent: Agent, other: Agent) -> tuple[Any, ...]:
        status = agent.session(other.did).status
        numbers = (status.data_sent, status.number_in, status.data_opened)
        return (*numbers, status.messages_left_out, status.messages_left_in)

    assert counts(scene.alice, scene.bob) == (early, 0, 0, 3 - early, 3)
    assert counts(scene.bob, scene.alice) == (0, early, early, 3, 3 - early)
    for number in range(early, 3):
        [event] = scene.bob.receive(scene.alice.send(scene.bob.did, b"data"))
        assert event.number == number + 1
    assert counts(scene.alice, scene.bob) == (3, 0, 0, 0, 3)
    assert counts(scene.bob, scene.alice) == (0, 3, 3, 3, 0)
    with forge.refused(scene.alice, ConditionNotMet, condition="max_messages"):
        scene.alice.send(scene.bob.did, b"one too many")


def test_a_refused_knock_yields_no_application_bytes(scene: Any) -> None:
    canary = b"early canary"
    for refusing in ("policy", "application"):
        knock = scene.alice.knock(scene.bob.did, scene.one_time()[0], Intent("early"), early_payload=canary)
        scene.rules.decides = Deny() if refusing == "policy" else ASK
        [event] = scene.bob.receive(knock)
        if refusing == "application":
            assert canary in scene.bob.export_state()  # it waits
            scene.bob.reject(event)
        assert canary not in repr(event).encode()
        assert canary not in scene.bob.export_state()
        assert not any(canary in str(value).encode() for value in attrs.asdict(event, recurse=False).values())
        scene.clock.advance(ms=1)


def test_an_undecided_knock_that_expires_yields_no_application_bytes(scene: Any) -> None:
    canary = b"early canary"
    knock = scene.alice.knock(scene.bob.did, scene.one_time()[0], Intent("early"), early_payload=canary)
    [event] = scene.bob.receive(knock)
    scene.clock.now_ms = event.expires_ms + 1
    with pytest.raises(KnockNotPending):
        scene.bob.accept(event)
    scene.bob.poll()
    assert canary not in scene.bob.export_state()


@pytest.mark.parametrize("asked_for", [False, True])
def test_on_a_last_resort_bundle_the_early_payload_goes_only_if_asked_for(asked_for: bool, scene: Any) -> None:
    knock = scene.alice.knock(
        scene.bob.did, scene.last_resort(), Intent("early"), early_payload=b"early", early_with_last_resort=asked_for
    )
    assert knock.early_payload_withheld is not asked_for
    [event] = scene.bob.receive(knock)
    assert event.has_early_payload is asked_for
    accepted = scene.bob.accept(event)
    assert accepted.early_payload == (b"early" if asked_for else None)
    scene.alice.receive(accepted.envelope)
    [event] = scene.bob.receive(scene.alice.send(scene.bob.did, b"first message"))
    assert event.number == 1 + asked_for


# --- room -------------------------------------------------------------------------------------------------------------


def test_a_sixth_session_is_busy_at_the_peer_and_refused_at_home(scene: Any, forge: ModuleType) -> None:
    bundles = scene.one_time(8)
    knocks = []
    for number in range(5):
        knocks.append(scene.alice.knock(scene.bob.did, bundles[number], Intent("open")).envelope)
        assert isinstance(outcome(scene.bob, knocks[-1]), KnockReceived)
    with forge.refused(scene.alice, TooManySessions):
        scene.alice.knock(scene.bob.did, bundles[5], Intent("open"))
    # Whoever sends a sixth all the same, not fresh, is told to come later.
    sixth = scene.craft(bundles[5], time_ms=scene.clock.now_ms + 10, fresh=False)
    assert outcome(scene.bob, sixth.envelope) == Reason.BUSY
    # Others have room of their own.
    assert isinstance(outcome(scene.bob, scene.craft(bundles[6], sender=scene.mallory).envelope), KnockReceived)
    # And one that ends makes room for one more.
    scene.bob.reject(next(event for event in scene.bob.pending_knocks() if event.peer == scene.alice.key))
    seventh = scene.craft(bundles[7], time_ms=scene.clock.now_ms + 20, fresh=False)
    assert isinstance(outcome(scene.bob, seventh.envelope), KnockReceived)


def test_sessions_in_both_roles_count_together(scene: Any, forge: ModuleType) -> None:
    theirs = scene.alice.publish_bundles(5).one_time
    for number in range(3):
        scene.bob.knock(scene.alice.did, theirs[number], Intent("out"))
    bundles = scene.one_time(3)
    for number in range(2):
        knock = scene.craft(bundles[number], time_ms=scene.clock.now_ms + number)
        assert isinstance(outcome(scene.bob, knock.envelope), KnockReceived)
    sixth = scene.craft(bundles[2], time_ms=scene.clock.now_ms + 2)
    assert outcome(scene.bob, sixth.envelope) == Reason.BUSY
    with forge.refused(scene.bob, TooManySessions):
        scene.bob.knock(scene.alice.did, theirs[3], Intent("out"))


def test_a_fresh_knock_has_the_room_of_the_sessions_that_it_replaces(scene: Any, forge: ModuleType) -> None:
    for bundle in scene.one_time(5):
        knock = scene.alice.knock(scene.bob.did, bundle, Intent("open"))
        [event] = scene.bob.receive(knock)
        scene.alice.receive(scene.bob.accept(event).envelope)
        scene.bob.receive(scene.alice.send(scene.bob.did, b"heard", session_id=knock.session_id))
    scene.clock.advance(seconds=2)
    [bundle, other] = scene.one_time(2)
    assert outcome(scene.bob, scene.craft(bundle, fresh=False).envelope) == Reason.BUSY
    fresh = scene.craft(other, time_ms=scene.clock.now_ms + 1, fresh=True)
    [event] = scene.bob.receive(fresh.envelope)
    scene.bob.accept(event)
    views = scene.bob.sessions(scene.alice.did)
    assert [view.status.closing for view in views] == [True] * 5 + [False]
    assert [view.status.sends for view in views] == [False] * 5 + [True]


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_messages", "ttl_seconds"])
def test_numbers_in_conditions_at_their_edges(name: str) -> None:
    for number in (None, 0, 1, 2**53 - 1):
        conditions = Conditions(**{name: number})
        assert Conditions.decode(conditions.encode()) == conditions
    for number in (-1, 2**53, True, False, 1.0, math.nan, "1", b"1", [1]):
        with pytest.raises(ArgumentInvalid) as caught:
            Conditions(**{name: number})
        assert caught.value.argument == name


@pytest.mark.parametrize(
    ("actions", "good"),
    [
        (None, True),
        ((), True),
        (["a", "b"], True),
        (("a" * 128,), True),
        ((str(number) for number in range(256)), True),
        (("\u20ac" * 42,), True),
        ([""], False),
        (("a" * 129,), False),
        (("\u20ac" * 43,), False),
        ([str(number) for number in range(257)], False),
        ("act", False),
        (b"act", False),
        ([b"act"], False),
        ([None], False),
        ([1], False),
        (["\ud800"], False),
        (5, False),
        (True, False),
    ],
)
def test_actions_in_conditions_at_their_edges(actions: Any, good: bool) -> None:
    if good:
        conditions = Conditions(allowed_actions=actions)
        assert Conditions.decode(conditions.encode()) == conditions
        return
    with pytest.raises(ArgumentInvalid) as caught:
        Conditions(allowed_actions=actions)
    assert caught.value.argument == "allowed_actions"


def test_conditions_at_their_limits_travel(scene: Any, forge: ModuleType) -> None:
    most = Conditions(
        max_messages=2**53 - 1, ttl_seconds=2**53 - 1, allowed_actions=[f"{number:0128}" for number in range(256)]
    )
    knock = scene.alice.knock(scene.bob.did, scene.one_time()[0], Intent("0" * 127 + "1"))
    [event] = scene.bob.receive(knock)
    [established] = scene.alice.receive(scene.bob.accept(event, most).envelope)
    assert established.conditions == most
    forge.chat(scene.alice, scene.bob)
    for agent in (scene.alice, scene.bob):
        restored = Agent.restore(agent.export_state(), clock=scene.clock, policy=agent._core.policy)
        assert restored.export_state() == agent.export_state()


@pytest.mark.parametrize("conditions", [None, "unlimited", {}, (None, None, None), Grant()])
def test_accepting_takes_conditions_only(conditions: Any, scene: Any, forge: ModuleType) -> None:
    [event] = scene.bob.receive(scene.craft(scene.one_time()[0]).envelope)
    with forge.refused(scene.bob, ArgumentInvalid, argument="conditions"):
        scene.bob.accept(event, conditions)
    assert scene.bob.accept(event)


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [-1, True, False, 1.0, math.nan, math.inf, None, "0", 2**53])
def test_a_clock_that_shows_no_milliseconds_is_refused_everywhere(shown: Any, scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    knock = scene.craft(bundle).envelope
    [event] = scene.bob.receive(scene.craft(scene.one_time()[0], sender=scene.mallory).envelope)
    forge.converse(scene.alice, scene.bob)
    message = scene.alice.send(scene.bob.did, b"later").envelope
    exported = scene.bob.export_state()
    now_ms = scene.clock.now_ms
    scene.clock.now_ms = shown
    calls: list[Callable[[], Any]] = [
        lambda: scene.bob.receive(knock),
        lambda: scene.bob.receive(message),
        lambda: scene.bob.accept(event),
        lambda: scene.bob.reject(event).envelope,
        lambda: scene.bob.publish_bundles(1),
        lambda: scene.bob.poll(),
        lambda: scene.bob.send(scene.alice.did, b"").envelope,
        lambda: scene.bob.close(scene.alice.did).envelope,
        lambda: scene.bob.pending_knocks(),
        lambda: scene.bob.sessions(scene.alice.did),
        lambda: scene.bob.export_state(),  # it would not know which bundles are past their time
        lambda: Agent.restore(exported, clock=scene.clock),
    ]
    for call in calls:
        with forge.refused(scene.bob, ArgumentInvalid, argument="clock"):
            call()
    with forge.refused(scene.alice, ArgumentInvalid, argument="clock"):
        scene.alice.knock(scene.bob.did, bundle, Intent("now"))
    assert forge.volatile(scene.bob)[2:] == (0, 0)
    scene.clock.now_ms = now_ms
    [event] = scene.bob.receive(message)
    assert event.plaintext == b"later"
    forge.chat(scene.alice, scene.bob)


@pytest.mark.parametrize("error", [OSError(), ValueError(), AttributeError()])
def test_a_clock_that_raises_is_refused_by_a_typed_error(error: Exception, scene: Any, forge: ModuleType) -> None:
    knock = scene.craft(scene.one_time()[0])
    core = scene.bob._core
    kept, core.now_ms = core.now_ms, lambda: read_clock(lambda: raising(error)(None))
    with forge.refused(scene.bob, ArgumentInvalid, argument="clock"):
        scene.bob.receive(knock.envelope)
    core.now_ms = kept
    assert isinstance(outcome(scene.bob, knock.envelope), KnockReceived)


def test_knocking_at_oneself_is_refused(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    with forge.refused(scene.bob, ArgumentInvalid, argument="did"):
        scene.bob.knock(scene.bob.did, bundle, Intent("me"))
    with forge.refused(scene.bob, EnvelopeReflected):
        scene.bob.receive(scene.craft(bundle, sender=scene.bob).envelope)
    forge.converse(scene.alice, scene.bob)
