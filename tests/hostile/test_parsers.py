"""Every decoder of sessions, KNOCKs and whole agents against hostile bytes: errors of ours alone, bounded work.

What stands below (codec, envelope, bundle, identity) has tests of its own kind in test_parsers_low.
"""

from __future__ import annotations

import functools
import itertools
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh import Agent, Conditions, Header, Intent, Limits, OuterEnvelope
from agentmesh.engine.export import restore_agent
from agentmesh.envelope import Kind, build
from agentmesh.errors import AgentMeshError, DecryptionFailed, RemoteError, StoreError, TooLarge
from agentmesh.handshake.knock import KnockContent, decode_content, encode_content, parse_knock_body
from agentmesh.handshake.prekeys import verify_bundle
from agentmesh.handshake.verdict import parse_reject_body, verify_accept_content
from agentmesh.primitives import _crypto
from agentmesh.session.at_rest import export_session, restore_session
from agentmesh.session.content import parse_close, parse_content
from agentmesh.session.established import Session
from agentmesh.testing import ManualClock, SeededEntropy

MESH = "example/parsers"
LIMITS = Limits()
brisk = settings(max_examples=max(1, settings().max_examples // 2))


# --- genuine inputs --------------------------------------------------------------------------------------------------


@frozen
class Genuine:
    """One conversation, cut open: every structure that crosses a boundary."""

    clock: ManualClock
    alice_pending: bytes  # her state before the verdict
    alice: bytes
    bob_idle: bytes  # his state before anything
    bob: bytes
    bob_did: str
    alice_did: str
    structures: dict[str, bytes]
    accept_arguments: dict[str, Any]


@functools.cache
def genuine() -> Genuine:
    clock = ManualClock()
    alice, bob = (Agent.create(MESH, clock=clock, entropy=SeededEntropy(name)) for name in ("alice", "bob"))
    bundles = bob.publish_bundles(2).one_time
    idle = bob.export_state()
    intent = Intent("action", capabilities=["one", "two"], detail=b"detail")
    knock = alice.knock(bob.did, bundles[0], intent, early_payload=b"early").envelope
    pending = alice.export_state()
    other = alice.knock(bob.did, bundles[1], intent).envelope
    [event] = bob.receive(knock)
    [second] = bob.receive(other)
    reject = bob.reject(second).envelope  # type: ignore[arg-type]
    conditions = Conditions(max_messages=100, ttl_seconds=3600, allowed_actions=["action", "other"])
    accept = bob.accept(event, conditions).envelope  # type: ignore[arg-type]
    session = next(held for held in bob._core.state.sessions.values() if isinstance(held, Session))
    waiting = Agent.restore(pending, clock=clock, entropy=SeededEntropy("waiting"))
    opened = next(iter(waiting._core.state.sessions.values())).ratchet.open(  # type: ignore[union-attr]
        OuterEnvelope.parse(accept).body,
        session.facts.context(OuterEnvelope.parse(accept).header_bytes),
        now_ms=clock.now_ms,
        limits=LIMITS,
        start=16,
    )
    _, _, accept_content, _ = parse_content(opened.plaintext)
    alice.receive(accept)
    late = alice.send(bob.did, b"late").envelope
    bob.receive(alice.send(bob.did, b"data", action="other"))
    message = alice.send(bob.did, b"next").envelope
    closing_alice = Agent.restore(alice.export_state(), clock=clock, entropy=SeededEntropy("closing"))
    structures = {
        "bundle": bundles[0],
        "knock": bytes(knock),
        "accept": accept,
        "reject": reject,
        "message": message,
        "late message": late,
        "close": closing_alice.close(bob.did, "reason").envelope,
        "header": OuterEnvelope.parse(message).header_bytes,
        "knock body": OuterEnvelope.parse(knock).body,
        "reject body": OuterEnvelope.parse(reject).body,
        "message body": OuterEnvelope.parse(message).body,
        "content": encode_content(KnockContent(intent=intent, early_payload=b"early", fresh=True), LIMITS),
        "conditions": conditions.encode(),
        "accept content": accept_content,
        "padded": opened.plaintext,
        "close content": msgpack.packb(["reason", 3, 0]),
        "agent": bob.export_state(),
        "session": export_session(session),
    }
    arguments = {
        "header_bytes": OuterEnvelope.parse(accept).header_bytes,
        "th": session.facts.th,
        "knock_receipt": session.facts.knock_receipt,
        "ratchet_key": opened.header[0],
    }
    return Genuine(
        clock,
        pending,
        alice.export_state(),
        idle,
        bob.export_state(),
        bob.did,
        alice.did,
        structures,
        arguments,
    )


def revived(exported: bytes) -> Agent:
    return Agent.restore(exported, clock=ManualClock(genuine().clock.now_ms), entropy=SeededEntropy("revived"))


@functools.cache
def standing(name: str) -> Agent:
    """Return an agent that refusals leave as it is, so that it serves every input."""
    return revived(getattr(genuine(), name))


def receiving(name: str) -> Callable[[bytes], object]:
    def receive(data: bytes) -> object:
        agent = standing(name)
        before = agent.export_state()
        try:
            return agent.receive(data)
        except AgentMeshError:
            assert agent.export_state() == before
            raise
        finally:
            if agent.export_state() != before:
                standing.cache_clear()

    return receive


# Each decoder, and which genuine structures it takes.
DECODERS: dict[str, tuple[Callable[[bytes], object], set[str]]] = {
    "OuterEnvelope.parse": (
        OuterEnvelope.parse,
        {"knock", "accept", "reject", "message", "late message", "close"},
    ),
    "Header.decode": (Header.decode, {"header"}),
    "verify_bundle": (
        lambda data: verify_bundle(data, did=genuine().bob_did, mesh=MESH, now_ms=genuine().clock.now_ms),
        {"bundle"},
    ),
    "parse_knock_body": (lambda data: parse_knock_body(data, LIMITS), {"knock body"}),
    "parse_reject_body": (parse_reject_body, {"reject body"}),
    "Conditions.decode": (Conditions.decode, {"conditions"}),
    "decode_content": (lambda data: decode_content(data, LIMITS), {"content"}),
    "verify_accept_content": (
        lambda data: verify_accept_content(data, standing("bob").key, **genuine().accept_arguments),
        {"accept content"},
    ),
    "parse_content": (parse_content, {"padded"}),
    "parse_close": (parse_close, {"close content"}),
    "restore_agent": (lambda data: restore_agent(data, 0), {"agent"}),
    "restore_session": (lambda data: restore_session(data, mesh=MESH, own_did=genuine().bob_did), {"session"}),
    "receive, nothing before": (receiving("bob_idle"), {"knock"}),
    "receive, a KNOCK waits": (receiving("alice_pending"), {"accept"}),
    "receive, a session": (receiving("bob"), {"message", "late message", "close"}),
}
each_decoder = pytest.mark.parametrize("name", DECODERS)
OURS = (RemoteError, StoreError)


def refused_or_taken(name: str, data: bytes) -> bool:
    """Offer bytes to a decoder: True if they were taken; an error of ours is the one other end."""
    try:
        DECODERS[name][0](data)
    except OURS:
        return False
    return True


# --- the genuine ones ------------------------------------------------------------------------------------------------


@each_decoder
def test_each_structure_is_taken_by_its_own_decoders_and_by_no_other(name: str) -> None:
    for structure, data in genuine().structures.items():
        # A padded plaintext is any bytes with a marker at the right place: nothing else here has it by chance.
        assert refused_or_taken(name, data) is (structure in DECODERS[name][1]), structure


@each_decoder
def test_every_truncation_and_some_tails(name: str) -> None:
    for structure in DECODERS[name][1]:
        data = genuine().structures[structure]
        for length in range(0, len(data), 1 if len(data) < 1000 else 7):
            # One byte in 256 is the marker of the padding, and a cut behind it is well padded.
            ends_as_padded = name == "parse_content" and data[:length].rstrip(b"\x00").endswith(b"\x80")
            assert not refused_or_taken(name, data[:length]) or ends_as_padded, length
        for tail in (b"\x00", b"\xc0", b"\x80", data[:1], data, bytes(200)):
            assert not refused_or_taken(name, data + tail) or name == "parse_content"


@each_decoder
def test_mutations(name: str) -> None:
    rng = random.Random(name)
    decoder, structures = DECODERS[name]
    del decoder
    for data in (genuine().structures[structure] for structure in sorted(structures)):
        for _ in range(150):
            refused_or_taken(name, mutated(rng, data))


LENGTHS = (b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\x00\x00\x00\x01")


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Alter bytes as a fuzzer does: flips, cuts, insertions, copies, and the bytes that msgpack reads lengths from."""
    altered = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(altered) + 1)
        what = rng.randrange(7)
        if what == 0 and altered:
            altered[at % len(altered)] ^= 1 << rng.randrange(8)
        elif what == 1:
            del altered[at : at + rng.choice((1, 2, 16))]
        elif what == 2:
            altered[at:at] = rng.randbytes(rng.choice((1, 4, 40)))
        elif what == 3 and altered:
            other = rng.randrange(len(altered))
            altered[at : at + 8] = altered[other : other + 8]
        elif what == 4:
            altered[at : at + 1] = rng.choice(LENGTHS)
        elif what == 5:
            altered[at : at + 1] = bytes([rng.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xCA, 0xD4, 0xC7, 0x80, 0x90, 0xFF))])
        else:
            altered[at : at + 9] = b"\xcf" + struct.pack(">Q", rng.choice((0, 2**32, 2**53, 2**64 - 1)))
    return bytes(altered)


@each_decoder
@given(noise=st.binary(max_size=300))
@brisk
def test_noise(name: str, noise: bytes) -> None:
    assert not refused_or_taken(name, noise) or name == "parse_content"


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=16,
)


@each_decoder
@given(value=values)
@settings(max_examples=max(1, settings().max_examples // 5))
def test_well_formed_msgpack_of_another_shape(name: str, value: Any) -> None:
    refused_or_taken(name, msgpack.packb(value))


# --- the one form ----------------------------------------------------------------------------------------------------

WIRES = ("header", "knock body", "reject body", "conditions", "content", "close content", "session")


def longer(value: Any) -> Iterator[bytes]:
    """Yield the same value in longer or foreign forms, one change at a time."""
    if isinstance(value, int):
        for width, head in ((1, 0xCC), (2, 0xCD), (4, 0xCE), (8, 0xCF)):
            if value < 1 << 8 * width:
                yield bytes([head]) + value.to_bytes(width, "big")
                if value < 1 << 8 * width - 1:
                    yield bytes([head + 4]) + value.to_bytes(width, "big")
        yield msgpack.packb(float(value))
        if value in (0, 1):
            yield msgpack.packb(bool(value))
    elif isinstance(value, bytes):
        for width, head in ((1, 0xC4), (2, 0xC5), (4, 0xC6)):
            if len(value) < 1 << 8 * width:
                yield bytes([head]) + len(value).to_bytes(width, "big") + value
        yield msgpack.packb(msgpack.ExtType(1, value))
        yield bytes([0xDB]) + len(value).to_bytes(4, "big") + value
    elif isinstance(value, str):
        encoded = value.encode()
        for width, head in ((1, 0xD9), (2, 0xDA), (4, 0xDB)):
            yield bytes([head]) + len(encoded).to_bytes(width, "big") + encoded
        yield msgpack.packb(encoded)
    elif isinstance(value, list):
        yield b"\xdc" + len(value).to_bytes(2, "big") + b"".join(map(msgpack.packb, value))
        yield b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(msgpack.packb, value))
        yield msgpack.packb(dict(enumerate(value)))
        for index, item in enumerate(value):
            for form in longer(item):
                packed = [msgpack.packb(other) for other in value]
                packed[index] = form
                yield msgpack.packb([None] * len(value))[:1] + b"".join(packed)


@pytest.mark.parametrize("structure", WIRES)
def test_every_longer_form_is_refused(structure: str) -> None:
    data = genuine().structures[structure]
    checked = 0
    for name, (_, structures) in DECODERS.items():
        if structure in structures:
            for form in longer(msgpack.unpackb(data)):
                if form != data:
                    assert not refused_or_taken(name, form), (name, form)
                    checked += 1
    assert checked >= 5


def test_a_longer_form_within_an_envelope_is_refused_though_it_is_signed_or_sealed_by_nobody() -> None:
    for name in ("knock", "accept", "message"):
        envelope = genuine().structures[name]
        header, body = msgpack.unpackb(envelope)
        for decoder, (_, structures) in DECODERS.items():
            if name in structures:
                for form in itertools.islice(longer([header, body]), 40):
                    if form != envelope:
                        assert not refused_or_taken(decoder, form)
                for form in longer(msgpack.unpackb(header)):
                    if form != header:
                        assert not refused_or_taken(decoder, build(form, body)) or decoder == "OuterEnvelope.parse"


# --- bounded work ----------------------------------------------------------------------------------------------------


def nested(opener: bytes, depth: int, size: int) -> bytes:
    return (opener * depth)[:size].ljust(size, b"\xc0")


BOMBS = {
    "deep arrays": b"\x91" * 200_000,
    "deep and wide arrays": b"\xdd\x00\x01\x00\x00" * 40_000,
    "deep maps": b"\x81" * 200_000,
    "a length of 4 GiB": b"\xc6\xff\xff\xff\xff" + bytes(100),
    "an array of 4 Gi": b"\xdd\xff\xff\xff\xff" + bytes(100),
    "a map of 4 Gi": b"\xdf\xff\xff\xff\xff" + bytes(100),
    "two byte strings, the second a claim": b"\x92\xc4\x01x\xc6\xff\xff\xff\xff",
    "a million small items": b"\xdd\x00\x0f\x42\x40" + bytes(1_000_000),
    "half a million arrays": b"\xdd\x00\x07\xa1\x20" + b"\x90" * 500_000,
    "a million strings": b"\xdd\x00\x07\xa1\x20" + b"\xa1x" * 500_000,
}


@each_decoder
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_in_little_memory(name: str, bomb: str) -> None:
    if name.startswith("restore"):  # an agent's own state comes from its own store, and may be large
        assert not refused_or_taken(name, BOMBS[bomb])
        return
    refused_or_taken(name, b"")  # whatever is made once is made now
    tracemalloc.start()
    try:
        assert not refused_or_taken(name, BOMBS[bomb])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 400_000  # the codec's own buffer is 256 KiB


def test_oversize_is_refused_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counting(monkeypatch)
    over = bytes(LIMITS.envelope_max_bytes + 1)
    for state in ("bob_idle", "alice_pending", "bob"):
        agent = standing(state)
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge):
                agent.receive(over)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 50_000
    assert not counts


# Every primitive, counted.
PRIMITIVES = (
    "kdf",
    "sha256",
    "sha256_of_two",
    "ed25519_sign",
    "ed25519_verify",
    "ed25519_to_x25519",
    "x25519",
    "x25519_public",
    "kem_key",
    "kem_encapsulate",
    "kem_decapsulate",
    "secretbox",
    "secretbox_try_open",
)


def counting(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    counts: dict[str, int] = {}

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return call(*arguments)

        return wrapper

    for name in PRIMITIVES:
        monkeypatch.setattr(_crypto, name, counted(name, getattr(_crypto, name)))
    return counts


def refused(agent: Agent, envelope: bytes) -> AgentMeshError:
    with pytest.raises(AgentMeshError) as caught:
        agent.receive(envelope)
    return caught.value


def test_a_random_header_costs_seven_openings_and_derives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    alice, bob = (Agent.create(MESH, clock=clock) for _ in range(2))
    establish(alice, bob)
    for _ in range(8):  # as many past chains as there ever are
        bob.receive(alice.send(bob.did, b"x"))
        alice.receive(bob.send(alice.did, b"x"))
    outer = OuterEnvelope.parse(alice.send(bob.did, b"x").envelope)
    rng = random.Random(1)
    counts = counting(monkeypatch)
    for size in (132, 200, 5000, 1_000_000):
        error = refused(bob, build(outer.header_bytes, outer.body[:16], rng.randbytes(size)))
        assert type(error) is DecryptionFailed
        assert counts == {"secretbox_try_open": 7}
        counts.clear()


@pytest.mark.parametrize("gap", [0, 50])
@pytest.mark.parametrize("turn", [False, True], ids=["current chain", "new chain"])
def test_a_copied_header_costs_one_dh_and_the_step_limit(monkeypatch: pytest.MonkeyPatch, gap: int, turn: bool) -> None:
    clock = ManualClock()
    limits = Limits(skipped_keys_per_step=50)
    alice, bob = (Agent.create(MESH, clock=clock, limits=limits) for _ in range(2))
    establish(alice, bob)
    bob.receive(alice.send(bob.did, b"x"))
    if turn:
        alice.receive(bob.send(alice.did, b"x"))
    for _ in range(gap):
        alice.send(bob.did, b"lost")
    envelope = alice.send(bob.did, b"genuine").envelope
    before = bob.export_state()
    counts = counting(monkeypatch)
    error = refused(bob, envelope[:-1] + bytes([envelope[-1] ^ 1]))
    assert type(error) is DecryptionFailed
    # Three for a root step, one a skipped key, one for the message key, one for the body.
    assert counts.pop("kdf") == 3 * turn + gap + 2
    assert counts.pop("x25519", 0) == int(turn)
    assert counts.pop("secretbox_try_open") <= 7 + 1
    assert counts == {}
    assert bob.export_state() == before
    for _ in range(gap):
        alice.send(bob.did, b"lost too")
    beyond = alice.send(bob.did, b"beyond the limit").envelope
    counts.clear()
    if gap:
        assert refused(bob, beyond).code == "message.gap"
        assert counts.keys() == {"secretbox_try_open"}  # measured before anything is derived
    else:
        bob.receive(envelope)


def establish(alice: Agent, bob: Agent) -> None:
    bundle = bob.publish_bundles(1).one_time[0]
    [event] = bob.receive(alice.knock(bob.did, bundle, Intent("action")))
    alice.receive(bob.accept(event).envelope)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ["bob_idle", "alice_pending", "bob"])
def test_what_a_stranger_can_make_an_agent_do(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """Any mutation of any genuine envelope: one signature check, one DH and one conversion at the very most."""
    rng = random.Random(state)
    envelopes = [genuine().structures[name] for name in ("knock", "accept", "reject", "message", "late message")]
    counts = counting(monkeypatch)
    for _ in range(300):
        envelope = mutated(rng, rng.choice(envelopes))
        agent = standing(state)
        counts.clear()
        try:
            agent.receive(envelope)
        except AgentMeshError:
            pass
        else:
            standing.cache_clear()
            continue
        assert counts.get("ed25519_verify", 0) <= 1
        assert counts.get("ed25519_to_x25519", 0) <= 1
        assert counts.get("x25519", 0) <= 1
        assert counts.get("kem_decapsulate", 0) == 0
        assert counts.get("secretbox_try_open", 0) <= 8
        assert counts.get("kdf", 0) <= 8
        assert {"ed25519_sign", "secretbox", "kem_encapsulate", "kem_key"} & counts.keys() == set()


def test_work_does_not_grow_with_what_is_held() -> None:
    """A hundred strangers' sessions make no refused envelope dearer: look-ups, not searches."""
    clock = ManualClock()
    bob = Agent.create(MESH, clock=clock)
    alices = [Agent.create(MESH, clock=clock) for _ in range(20)]
    for alice in alices:
        establish(alice, bob)
    envelope = alices[0].send(bob.did, b"x").envelope
    with pytest.MonkeyPatch.context() as patch:
        counts = counting(patch)
        refused(bob, envelope[:-1] + bytes([envelope[-1] ^ 1]))
        assert counts.get("secretbox_try_open", 0) <= 2
        counts.clear()
        unknown = OuterEnvelope.parse(envelope)
        refused(bob, build(unknown.header_bytes, bytes(16), unknown.body[16:]))
        assert counts == {}
        header = Header(
            kind=Kind.REJECT, mesh=MESH, sender=alices[0].did, recipient=bob.did, time_ms=clock.now_ms
        ).encode()
        refused(bob, build(header, genuine().structures["reject body"]))
        assert counts == {}
