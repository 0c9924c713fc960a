"""Our ratchet over AGT's suite converses with one that is written here from AGT's wire alone, whatever is done to it.

Headers are in clear, so whoever is on the way can write any: nothing of that may change this side, or cost much.
"""

from __future__ import annotations

import hmac
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from attrs import evolve
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey as OpenSslPublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.agt.suite import AGT_SUITE, ANY_CHAIN, MESSAGE_OVERHEAD_BYTES, receiving_first, sending_first
from agentmesh.errors import (
    AgentMeshError,
    BadPoint,
    ChainExhausted,
    ContradictoryHeader,
    DecryptionFailed,
    DuplicateMessage,
    GapTooLarge,
    Malformed,
    RemoteError,
)
from agentmesh.limits import COUNTER_MAX, KEPT_CHAINS, LATE_CHAINS, Limits
from agentmesh.primitives.keys import RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.ratchet_export import ratchet_fields, restore_ratchet
from agentmesh.testing import SeededEntropy

LIMITS = Limits()
CONTEXT = b"did:mesh:a|did:mesh:b" + bytes(range(64))
P = 2**255 - 19
SMALL_ORDER = (
    0,
    1,
    P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
NOT_CANONICAL = (P, P + 1, P + 9, 2**255, 2**255 + 9, 2**256 - 1)


def scaled(share: float) -> settings:
    return settings(max_examples=max(1, int(settings().max_examples * share)))


# --- a peer, written from the wire -----------------------------------------------------------------------------------


class Keys:
    """A ratchet pair."""

    def __init__(self, rng: random.Random) -> None:
        self.secret = rng.randbytes(32)
        self._private = X25519PrivateKey.from_private_bytes(self.secret)
        self.public = self._private.public_key().public_bytes_raw()

    def with_(self, peer: bytes) -> bytes:
        return self._private.exchange(OpenSslPublicKey.from_public_bytes(peer))


class Reference:
    """The Double Ratchet as AGT's implementations run it, without their fault: it takes genuine messages, each once."""

    def __init__(self, rng: random.Random, root: bytes) -> None:
        self.rng, self.root = rng, root
        self.own = Keys(rng)
        self.theirs = self.sending = self.receiving = b""
        self.sent = self.received = self.sent_before = 0
        self.skipped: dict[tuple[bytes, int], bytes] = {}

    @classmethod
    def knocking(cls, rng: random.Random, root: bytes, signed: bytes) -> Reference:
        self = cls(rng, root)
        self.root, self.sending = self.roots(self.own.with_(signed))
        return self

    @classmethod
    def knocked_on(cls, rng: random.Random, root: bytes, signed: Keys) -> Reference:
        self = cls(rng, root)
        self.own = signed
        return self

    def roots(self, agreed: bytes) -> tuple[bytes, bytes]:
        prk, info = hmac.digest(self.root, agreed, "sha256"), b"AgentMesh_Ratchet_v1"
        first = hmac.digest(prk, info + b"\x01", "sha256")
        return first, hmac.digest(prk, first + info + b"\x02", "sha256")

    @staticmethod
    def header(key: bytes, before: int, number: int) -> bytes:
        return key + before.to_bytes(4, "big") + number.to_bytes(4, "big")

    def seal(self, plaintext: bytes, **lies: Any) -> bytes:
        """Seal; with `lies` a header that says otherwise, authentically."""
        key, self.sending = (hmac.digest(self.sending, byte, "sha256") for byte in (b"\x01", b"\x02"))
        told = {"key": self.own.public, "before": self.sent_before, "number": self.sent} | lies
        self.sent += 1
        header, nonce = self.header(**told), self.rng.randbytes(12)
        return header + nonce + ChaCha20Poly1305(key).encrypt(nonce, plaintext, CONTEXT + header)

    def open(self, message: bytes) -> bytes:
        header, nonce, body = message[:40], message[40:52], message[52:]
        theirs, before, number = header[:32], *(int.from_bytes(header[at : at + 4], "big") for at in (32, 36))
        key = self.skipped.pop((theirs, number), None)
        if key is None:
            if theirs != self.theirs:
                self.skip(before)
                self.turn(theirs)
            self.skip(number)
            key, self.receiving = (hmac.digest(self.receiving, byte, "sha256") for byte in (b"\x01", b"\x02"))
            self.received += 1
        return ChaCha20Poly1305(key).decrypt(nonce, body, CONTEXT + header)

    def skip(self, until: int) -> None:
        while self.receiving and self.received < until:
            key, self.receiving = (hmac.digest(self.receiving, byte, "sha256") for byte in (b"\x01", b"\x02"))
            self.skipped[self.theirs, self.received] = key
            self.received += 1

    def turn(self, theirs: bytes) -> None:
        self.sent_before, self.sent, self.received, self.theirs = self.sent, 0, 0, theirs
        self.root, self.receiving = self.roots(self.own.with_(theirs))
        self.own = Keys(self.rng)
        self.root, self.sending = self.roots(self.own.with_(theirs))


# --- our side --------------------------------------------------------------------------------------------------------


class Ours:
    """Our ratchet, and what its owner brings."""

    def __init__(self, ratchet: Ratchet, knocks: bool, seed: object, limits: Limits = LIMITS) -> None:
        self.ratchet, self.knocks, self.limits = ratchet, knocks, limits
        self.entropy = SeededEntropy(f"ours {seed}")
        self.calls: dict[str, int] = {}

    def seal(self, plaintext: bytes) -> bytes:
        parts, _, after = self.ratchet.seal(plaintext, CONTEXT, self.entropy.token(12))
        self.ratchet.apply_sealed(after)
        return b"".join(parts)

    def open(self, message: bytes) -> bytes:
        opened = self.ratchet.open(message, CONTEXT, 0, self.limits)
        assert opened.header[1] == 0
        self.ratchet.apply(opened.delta(self.entropy))
        return opened.plaintext

    def refuses(self, message: bytes, *errors: type[AgentMeshError], context: bytes = CONTEXT) -> None:
        before = ratchet_fields(self.ratchet)
        with pytest.raises(RemoteError) as caught:
            self.ratchet.open(message, context, 0, self.limits)
        assert not errors or type(caught.value) in errors
        assert caught.value.__context__ is None
        assert ratchet_fields(self.ratchet) == before

    def restart(self) -> None:
        fields = ratchet_fields(self.ratchet)
        self.ratchet = restore_ratchet(fields, not self.knocks, AGT_SUITE)
        assert ratchet_fields(self.ratchet) == fields

    def counts(self) -> None:
        """Count from now on what is asked of the suite."""
        self.calls = dict.fromkeys(("dh", "kdf_root", "kdf_chain", "open_body", "key_pair"), 0)
        self.ratchet.suite = evolve(AGT_SUITE, **{name: self._counting(name) for name in self.calls})

    def _counting(self, name: str) -> Callable[..., Any]:
        call = getattr(AGT_SUITE, name)

        def counted(*arguments: Any) -> Any:
            self.calls[name] += 1
            return call(*arguments)

        return counted


def pair(knocks: bool, seed: object, limits: Limits = LIMITS) -> tuple[Ours, Reference]:
    """Return our side, which knocks or is knocked on, and its peer."""
    rng = random.Random(f"{seed}")
    root, signed = rng.randbytes(32), Keys(rng)
    if knocks:
        ratchet = sending_first(RootKey(root), X25519PublicKey(signed.public), SeededEntropy(f"first {seed}"))
        return Ours(ratchet, True, seed, limits), Reference.knocked_on(rng, root, signed)
    ratchet = receiving_first(RootKey(root), X25519Secret(signed.secret), X25519PublicKey(signed.public))
    return Ours(ratchet, False, seed, limits), Reference.knocking(rng, root, signed.public)


def after_turns(knocks: bool, turns: int, seed: object = 0) -> tuple[Ours, Reference]:
    """Return both after so many messages in turn; the last is the peer's, so that our side may seal."""
    ours, peer = pair(knocks, seed)
    if knocks:
        peer.open(ours.seal(b"first"))
    ours.open(peer.seal(b"first of the peer"))
    for _ in range(turns):
        peer.open(ours.seal(b"ping"))
        ours.open(peer.seal(b"pong"))
    return ours, peer


# --- conversations ---------------------------------------------------------------------------------------------------


class Forged(NamedTuple):
    """What somebody on the way makes of messages that have passed."""

    message: bytes
    genuine: bool


def forge(rng: random.Random, message: bytes, passed: list[bytes], ours: Ours) -> bytes:
    """Return something else than a genuine message, of what is known on the way."""
    other = rng.choice(passed) if passed else message
    at = rng.randrange(len(message))
    numbers = rng.choice((0, 1, 2, 99, 1000, 1001, 2**31, COUNTER_MAX - 1, COUNTER_MAX)).to_bytes(4, "big")
    key = rng.choice(
        (
            Keys(rng).public,
            ours.ratchet.public,
            bytes(ANY_CHAIN),
            rng.choice(SMALL_ORDER + NOT_CANONICAL).to_bytes(32, "little"),
            other[:32],
        )
    )
    return rng.choice(
        (
            message[:at] + bytes([message[at] ^ 1 << rng.randrange(8)]) + message[at + 1 :],
            message[:at],
            message + b"\x00",
            key + message[32:],
            message[:32] + numbers + message[36:],
            message[:36] + numbers + message[40:],
            key + numbers + numbers + message[40:],
            message[:40] + other[40:],
            other[:40] + message[40:],
            rng.randbytes(rng.randrange(200)),
        )
    )


STEPS = st.integers(0, 80).flatmap(
    lambda size: st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**16)), min_size=size, max_size=size)
)


@pytest.mark.parametrize("knocks", [True, False], ids=["ours knocks", "ours is knocked on"])
@given(seed=st.integers(0, 2**32), steps=STEPS)
@scaled(0.7)
def test_any_order_loss_and_forgery(knocks: bool, seed: int, steps: list[tuple[int, int]]) -> None:
    ours, peer = pair(knocks, seed)
    rng = random.Random(seed)
    to_us: list[tuple[bytes, bytes]] = []
    to_peer: list[tuple[bytes, bytes]] = []
    passed: list[bytes] = []  # every genuine message there was, in either direction
    opened: list[bytes] = []

    def take(at: int) -> None:
        message, plaintext = to_us.pop(at)
        assert ours.open(message) == plaintext
        opened.append(message)

    for action, choice in steps:
        plaintext = rng.randbytes(choice % 100)
        if action <= 1:
            if ours.ratchet.sending is None:
                with pytest.raises(ChainExhausted):
                    ours.seal(plaintext)
            else:
                to_peer.append((ours.seal(plaintext), plaintext))
                passed.append(to_peer[-1][0])
        elif action <= 3:
            if peer.sending:
                to_us.append((peer.seal(plaintext), plaintext))
                passed.append(to_us[-1][0])
        elif action <= 5 and to_us:
            take(choice % len(to_us))
        elif action == 6 and to_peer:
            message, plaintext = to_peer.pop(choice % len(to_peer))
            assert peer.open(message) == plaintext
        elif action == 7 and opened:
            ours.refuses(opened[choice % len(opened)])  # once more
        elif action == 8 and passed:
            for _ in range(5):
                forgery = forge(rng, rng.choice(passed), passed, ours)
                if forgery not in passed:
                    ours.refuses(forgery)
            ours.refuses(next((message for message, _ in to_peer), b""))  # our own, sent back
        elif action == 9:
            if choice % 2:
                ours.restart()
            elif to_us:
                to_us.pop(choice % len(to_us))  # lost
    while to_us:
        take(rng.randrange(len(to_us)))
    for message in opened:
        ours.refuses(message)


@pytest.mark.parametrize("knocks", [True, False], ids=["ours knocks", "ours is knocked on"])
def test_hundreds_of_turns_with_late_messages_and_restarts(knocks: bool) -> None:
    ours, peer = after_turns(knocks, 0)
    late: list[tuple[bytes, bytes]] = []
    for number in range(300):
        held = b"held back %d" % number
        if number % 7 == 0:
            late.append((peer.seal(held), held))
        assert ours.open(peer.seal(b"pong")) == b"pong"
        assert peer.open(ours.seal(b"ping")) == b"ping"
        if number % 11 == 0:
            ours.restart()
    assert len(ours.ratchet.past) <= KEPT_CHAINS + LATE_CHAINS
    random.Random(3).shuffle(late)
    assert [ours.open(message) for message, _ in late] == [held for _, held in late]
    for message, _ in late:
        ours.refuses(message)


# --- whatever a header says, before anything is authenticated ---------------------------------------------------------


@pytest.mark.parametrize("u", SMALL_ORDER + NOT_CANONICAL)
@pytest.mark.parametrize("turns", [0, 3])
def test_a_ratchet_key_that_is_none_is_refused(u: int, turns: int) -> None:
    key = u.to_bytes(32, "little")
    first, peer = pair(False, "first")
    first.refuses(key + peer.seal(b"held")[32:], BadPoint)
    ours, peer = after_turns(True, turns)
    peer.open(ours.seal(b"turn"))
    ours.counts()
    message = peer.seal(b"genuine")
    ours.refuses(key + message[32:], BadPoint)
    assert ours.calls == {"dh": 1, "kdf_root": 0, "kdf_chain": 0, "open_body": 0, "key_pair": 0}
    assert ours.open(message) == b"genuine"


@given(
    key=st.sampled_from(["current", "past", "next", "new"]),
    before=st.integers(0, 5) | st.integers(0, 1100) | st.integers(0, COUNTER_MAX),
    number=st.integers(0, 5) | st.integers(0, 1100) | st.integers(0, COUNTER_MAX),
    turns=st.integers(1, 8),
)
def test_no_header_costs_more_than_one_agreement_and_a_steps_keys(
    key: str, before: int, number: int, turns: int
) -> None:
    ours, peer = after_turns(True, turns)
    lost = peer.seal(b"lost")
    assert ours.open(peer.seal(b"here")) == b"here"
    past = ours.ratchet.past[-1].header_key
    current = peer.own.public
    peer.open(ours.seal(b"turn"))
    message = peer.seal(b"genuine")
    named = {"current": current, "past": past, "next": message[:32], "new": Keys(random.Random(number)).public}[key]
    header = Reference.header(named, before, number)
    ours.counts()
    ours.refuses(header + message[40:-1] + bytes([message[-1] ^ 1]))
    assert ours.calls["dh"] == ours.calls["kdf_root"] <= 1
    assert ours.calls["open_body"] <= 1
    assert ours.calls["kdf_chain"] <= LIMITS.skipped_keys_per_step + 1
    assert ours.calls["key_pair"] == 0
    assert ours.open(message) == b"genuine"
    assert ours.open(lost) == b"lost"


def test_what_is_too_short_is_malformed() -> None:
    ours, peer = pair(False, 0)
    empty = peer.seal(b"")
    assert len(empty) == MESSAGE_OVERHEAD_BYTES == 68
    for length in range(68):
        ours.refuses(empty[:length], Malformed)
    assert ours.open(empty) == b""


def test_the_context_is_a_part_of_it() -> None:
    ours, peer = pair(False, 0)
    message = peer.seal(b"here")
    for context in (b"", CONTEXT[:-1], CONTEXT + b"\x00", CONTEXT + message[:1]):
        ours.refuses(message, DecryptionFailed, context=context)
    assert ours.open(message) == b"here"


def test_our_own_messages_do_not_come_back() -> None:
    for knocks in (True, False):
        ours, peer = after_turns(knocks, 2)
        for _ in range(3):
            ours.refuses(ours.seal(b"mine"), DecryptionFailed, ContradictoryHeader)
        assert peer.open(ours.seal(b"mine")) == b"mine"


# --- authentic headers that lie --------------------------------------------------------------------------------------


def test_chains_that_contradict_what_was_received() -> None:
    ours, peer = after_turns(False, 2)
    for _ in range(4):
        ours.open(peer.seal(b"m"))
    peer.open(ours.seal(b"turn"))
    chain = peer.sending
    for before in range(5):
        peer.sending, peer.sent = chain, 0
        ours.refuses(peer.seal(b"!", before=before), ContradictoryHeader)  # five were received
    peer.sending, peer.sent = chain, 0
    assert ours.open(peer.seal(b"the right one", before=5)) == b"the right one"
    for before in (0, 4, 6, COUNTER_MAX):  # and then another in the same chain
        chain = peer.sending
        ours.refuses(peer.seal(b"!", before=before), ContradictoryHeader)
        peer.sending, peer.sent = chain, 1
    assert ours.open(peer.seal(b"on")) == b"on"


def test_two_chains_exchanged() -> None:
    """The later chain first: the first of the earlier one are then late, those that were never sent contradict."""
    ours, peer = after_turns(False, 2)
    earlier = [peer.seal(b"earlier %d" % number) for number in range(3)]
    peer.open(ours.seal(b"turn"))
    later = peer.seal(b"later")
    assert ours.open(later) == b"later"
    unsent = Reference.header(earlier[0][:32], 1, 4) + earlier[0][40:]
    ours.refuses(unsent, ContradictoryHeader)
    assert [ours.open(message) for message in reversed(earlier)] == [b"earlier 2", b"earlier 1", b"earlier 0"]
    for message in (*earlier, later):
        ours.refuses(message, DuplicateMessage)


def test_a_first_chain_has_nothing_before_it() -> None:
    ours, peer = pair(False, 0)
    chain = peer.sending
    for before in (1, 5, COUNTER_MAX):
        ours.refuses(peer.seal(b"!", before=before), ContradictoryHeader)
        peer.sending, peer.sent = chain, 0
    assert ours.open(peer.seal(b"first")) == b"first"


def test_a_gap_is_measured_before_a_key_is_derived() -> None:
    ours, peer = after_turns(True, 2)
    lost = [peer.seal(b"lost") for _ in range(1001)]
    ours.counts()
    over = peer.seal(b"over the limit")
    ours.refuses(over, GapTooLarge)
    assert set(ours.calls.values()) == {0}
    assert ours.open(lost[1000]) == b"lost"
    assert ours.open(over) == b"over the limit"
    assert [ours.open(message) for message in lost[:1000]] == [b"lost"] * 1000


# --- at rest ---------------------------------------------------------------------------------------------------------


def test_a_chain_at_rest_has_its_keys_name() -> None:
    ours, _ = after_turns(True, 2)
    fields = ratchet_fields(ours.ratchet)
    assert restore_ratchet(fields, False, AGT_SUITE).suite is AGT_SUITE
    with pytest.raises(Malformed):
        restore_ratchet(fields, True, AGT_SUITE)
    received = list(fields[4])
    for name in (bytes(ANY_CHAIN), Keys(random.Random(1)).public):
        with pytest.raises(Malformed):
            restore_ratchet([*fields[:4], [received[0], name, *received[2:]], *fields[5:]], False, AGT_SUITE)


def test_the_reference_refuses_what_is_altered() -> None:
    ours, peer = after_turns(True, 1)
    message = ours.seal(b"here")
    with pytest.raises(InvalidTag):
        peer.open(message[:-1] + bytes([message[-1] ^ 1]))
