"""The Double Ratchet (section 6), over the suite of version 1, AGT's, and a toy one that keeps the seam honest.

The toy suite shares nothing with ours: headers in clear, chains named by the peer's ratchet key, hashing for a KDF, a
small group for Diffie-Hellman. AGT's is real, and has its headers in clear too. What a ratchet promises must hold over
all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base, crypto_secretbox_easy, crypto_secretbox_open_easy
from nacl.exceptions import CryptoError

from agentmesh.agt.suite import AGT_SUITE, ANY_CHAIN, NONCE_BYTES
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
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
from agentmesh.primitives.entropy import Entropy, SystemEntropy
from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.chains import Delta, ReceivingChain, SendingChain
from agentmesh.session.needs import RatchetHeader, Suite
from agentmesh.session.ratchet import Opened, Ratchet
from agentmesh.session.suite import SUITE
from agentmesh.testing import SeededEntropy

LIMITS = Limits()
NOW_MS = 1_767_225_600_000
CONTEXT = b"session id, th and header"


def scaled(share: float) -> settings:
    return settings(max_examples=max(1, int(settings().max_examples * share)))


# --- a toy suite -----------------------------------------------------------------------------------------------------

TOY_PRIME = 2**255 - 19
TOY_ANY = HeaderKey(bytes(32))  # the name of a chain that is not known yet: any header answers to it


def toy_hash(label: bytes, *parts: bytes) -> bytes:
    return hashlib.sha256(b"".join((label, *parts))).digest()


def toy_key_pair(entropy: Entropy) -> tuple[X25519Secret, X25519PublicKey]:
    secret = entropy.token(32)
    public = pow(5, int.from_bytes(secret, "little"), TOY_PRIME)
    return X25519Secret(secret), X25519PublicKey(public.to_bytes(32, "little"))


def toy_dh(secret: X25519Secret, public: X25519PublicKey) -> bytes:
    value = int.from_bytes(public, "little")
    if value in (0, 1, TOY_PRIME - 1) or value >= TOY_PRIME:
        raise BadPoint
    return pow(value, int.from_bytes(secret, "little"), TOY_PRIME).to_bytes(32, "little")


def toy_kdf_root(root: RootKey, shared: bytes) -> tuple[RootKey, ChainKey, HeaderKey]:
    return RootKey(toy_hash(b"root", root, shared)), ChainKey(toy_hash(b"chain", root, shared)), TOY_ANY


def toy_kdf_chain(chain_key: ChainKey) -> tuple[ChainKey, MessageKey]:
    return ChainKey(toy_hash(b"next", chain_key)), MessageKey(toy_hash(b"message", chain_key))


def toy_mask(message_key: bytes, nonce: bytes, size: int) -> bytes:
    return hashlib.shake_256(message_key + nonce).digest(size)


def toy_seal(
    _name: HeaderKey, message_key: MessageKey, header: RatchetHeader, context: bytes, plaintext: bytes, nonce: bytes
) -> tuple[bytes, ...]:
    clear = header[0] + b"".join(number.to_bytes(4, "big") for number in header[1:])
    mask = toy_mask(message_key, nonce, len(plaintext))
    hidden = bytes(a ^ b for a, b in zip(plaintext, mask, strict=True))
    return clear, nonce, toy_hash(b"tag", message_key, clear, nonce, context, hidden), hidden


class ToyFrame(NamedTuple):
    clear: bytes
    nonce: bytes
    tag: bytes
    hidden: bytes


def toy_parse(message: bytes, start: int) -> ToyFrame:
    message = message[start:]
    if len(message) < 100:
        raise Malformed
    return ToyFrame(message[:44], message[44:68], message[68:100], message[100:])


def toy_open_header(name: HeaderKey, frame: ToyFrame) -> RatchetHeader | None:
    numbers = [int.from_bytes(frame.clear[at : at + 4], "big") for at in (32, 36, 40)]
    key, [epoch, previous_length, n] = X25519PublicKey(frame.clear[:32]), numbers
    return (key, epoch, previous_length, n) if name in (TOY_ANY, key) else None


def toy_open_body(message_key: MessageKey, frame: ToyFrame, context: bytes) -> bytes:
    if toy_hash(b"tag", message_key, frame.clear, frame.nonce, context, frame.hidden) != frame.tag:
        raise DecryptionFailed
    mask = toy_mask(message_key, frame.nonce, len(frame.hidden))
    return bytes(a ^ b for a, b in zip(frame.hidden, mask, strict=True))


TOY = Suite(
    key_pair=toy_key_pair,
    dh=toy_dh,
    kdf_root=toy_kdf_root,
    kdf_chain=toy_kdf_chain,
    seal=toy_seal,
    parse=toy_parse,
    open_header=toy_open_header,
    open_body=toy_open_body,
    chain_name=lambda _name, peer_key: HeaderKey(peer_key),
    past_first=True,
)
EACH = pytest.mark.parametrize("suite", [SUITE, AGT_SUITE, TOY], ids=["v1", "agt", "toy"])
IN_CLEAR = {AGT_SUITE: ANY_CHAIN, TOY: TOY_ANY}  # suites with headers in clear, each with its name of any chain


def nonce_of(suite: Suite, entropy: Entropy) -> bytes:
    return entropy.token(NONCE_BYTES if suite.seal is AGT_SUITE.seal else 24)


# --- two sides -------------------------------------------------------------------------------------------------------


class Side:
    """One ratchet, and what its owner would bring: randomness, a clock, limits."""

    def __init__(self, ratchet: Ratchet, seed: str, limits: Limits = LIMITS) -> None:
        self.ratchet = ratchet
        self.entropy = SeededEntropy(seed)
        self.limits = limits
        self.now_ms = NOW_MS

    def seal(self, plaintext: bytes, context: bytes = CONTEXT) -> bytes:
        parts, _, after = self.ratchet.seal(plaintext, context, nonce_of(self.ratchet.suite, self.entropy))
        self.ratchet.apply_sealed(after)
        return b"".join(parts)

    def look(self, message: bytes, context: bytes = CONTEXT) -> Opened:
        return self.ratchet.open(message, context, now_ms=self.now_ms, limits=self.limits)

    def take(self, message: bytes, context: bytes = CONTEXT) -> Delta:
        delta = self.look(message, context).delta(self.entropy)
        self.ratchet.apply(delta)
        return delta

    def open(self, message: bytes, context: bytes = CONTEXT) -> bytes:
        opened = self.look(message, context)
        self.ratchet.apply(opened.delta(self.entropy))
        return opened.plaintext

    def copy(self, seed: str) -> Side:
        """Return what a thief of the whole state has; its randomness is its own."""
        side = Side(self.ratchet.copy(), seed, self.limits)
        side.now_ms = self.now_ms
        return side

    def refuses(self, message: bytes, error: type[AgentMeshError], context: bytes = CONTEXT) -> None:
        before = snapshot(self.ratchet)
        with pytest.raises(AgentMeshError) as caught:
            self.look(message, context)
        assert type(caught.value) is error
        assert snapshot(self.ratchet) == before


class Secrets(NamedTuple):
    root: RootKey
    header_key_ab: HeaderKey
    header_key_ba: HeaderKey
    secret: X25519Secret
    public: X25519PublicKey


def secrets_of(suite: Suite, seed: str) -> Secrets:
    entropy = SeededEntropy(seed)
    secret, public = suite.key_pair(entropy)
    fresh = (HeaderKey(entropy.token(32)), HeaderKey(entropy.token(32)))
    names = (IN_CLEAR[suite], IN_CLEAR[suite]) if suite in IN_CLEAR else fresh
    return Secrets(RootKey(entropy.token(32)), *names, secret, public)


def two_sides(suite: Suite, seed: object = 0, limits: Limits = LIMITS) -> tuple[Side, Side]:
    """Return (A, which cannot seal yet; B, which can)."""
    shared = secrets_of(suite, f"shared {seed}")
    names = {"header_key_ab": shared.header_key_ab, "header_key_ba": shared.header_key_ba}
    a = Ratchet.initiator(suite, shared.root, shared.secret, shared.public, **names)
    b = Ratchet.responder(suite, shared.root, shared.public, entropy=SeededEntropy(f"b0 {seed}"), **names)
    return Side(a, f"a {seed}", limits), Side(b, f"b {seed}", limits)


def conversing(suite: Suite, seed: object = 0, limits: Limits = LIMITS, turns: int = 1) -> tuple[Side, Side]:
    """Return both sides after B's first message and as many answers in turn."""
    a, b = two_sides(suite, seed, limits)
    a.open(b.seal(b"accept"))
    for turn in range(turns):
        sender, receiver = (a, b) if turn % 2 == 0 else (b, a)
        receiver.open(sender.seal(b"turn"))
    return a, b


def snapshot(value: Any) -> Any:
    """Return all of a state, as values that can be compared."""
    if value is None or isinstance(value, bytes | int | str | Suite):
        return value
    if isinstance(value, Mapping):
        return [(snapshot(key), snapshot(item)) for key, item in value.items()]
    if isinstance(value, tuple | list):
        return [snapshot(item) for item in value]
    return [(name, snapshot(getattr(value, name))) for name in type(value).__slots__]


def header_of(receiver: Side, message: bytes) -> RatchetHeader:
    """Return the header of a message that the receiver could open."""
    frame, ratchet = receiver.ratchet.suite.parse(message, 0), receiver.ratchet
    names = [ratchet.next_receiving, *(past.header_key for past in ratchet.past)]
    names += [] if ratchet.receiving is None else [ratchet.receiving.header_key]
    return next(header for name in names if (header := ratchet.suite.open_header(name, frame)) is not None)


def forged(
    sender: Side,
    *,
    key: bytes | None = None,
    epoch: int | None = None,
    pn: int | None = None,
    n: int,
    plaintext: bytes = b"!",
) -> bytes:
    """Return a message that the peer itself would make with a header that lies: sealed with its own keys.

    The body's key is the right one where the number is near the chain's.
    """
    suite, chain = sender.ratchet.suite, sender.ratchet.sending
    assert chain is not None
    chain_key, message_key = suite.kdf_chain(chain.key)
    for _ in range(n - chain.n if 0 <= n - chain.n <= 5000 else 0):
        chain_key, message_key = suite.kdf_chain(chain_key)
    header = (
        sender.ratchet.public if key is None else X25519PublicKey(key),
        sender.ratchet.epochs.epoch if epoch is None else epoch,
        chain.previous_length if pn is None else pn,
        n,
    )
    nonce = nonce_of(suite, SystemEntropy())
    return b"".join(suite.seal(chain.header_key, message_key, header, CONTEXT, plaintext, nonce))


# --- an independent re-implementation --------------------------------------------------------------------------------


def blake(key: bytes, label: bytes, data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size, key=key, person=label.ljust(16, b"\x00")).digest()


class Reference:
    """Section 6 written again from its text, in the words of Signal's specification, over hashlib and libsodium.

    It commits as it goes and bounds nothing: what a correct peer would do with correct messages.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.dhs = self.dhs_public = self.dhr = b""
        self.rk = self.cks = self.ckr = b""
        self.hks = self.hkr = self.nhks = self.nhkr = b""
        self.ns = self.nr = self.pn = 0
        self.skipped: dict[tuple[bytes, int], bytes] = {}

    @classmethod
    def as_initiator(cls, shared: Secrets, rng: random.Random) -> Reference:
        self = cls(rng)
        self.rk, self.dhs, self.dhs_public = shared.root, shared.secret, shared.public
        self.nhkr, self.nhks = shared.header_key_ba, shared.header_key_ab
        return self

    @classmethod
    def as_responder(cls, shared: Secrets, rng: random.Random) -> Reference:
        self = cls(rng)
        self.fresh_pair()
        self.rk, self.cks, self.nhks = self.kdf_root(shared.root, crypto_scalarmult(self.dhs, shared.public))
        self.hks, self.nhkr = shared.header_key_ba, shared.header_key_ab
        return self

    def fresh_pair(self) -> None:
        self.dhs = self.rng.randbytes(32)
        self.dhs_public = crypto_scalarmult_base(self.dhs)

    @staticmethod
    def kdf_root(root: bytes, shared: bytes) -> tuple[bytes, bytes, bytes]:
        labels = (b"am1-ratchet-root", b"am1-ratchet-ck", b"am1-ratchet-hk")
        root_key, chain_key, header_key = (blake(root, label, shared, 32) for label in labels)
        return root_key, chain_key, header_key

    @staticmethod
    def kdf_chain(chain_key: bytes) -> tuple[bytes, bytes]:
        both = blake(chain_key, b"am1-chain", b"", 64)
        return both[:32], both[32:]

    def seal(self, plaintext: bytes, context: bytes = CONTEXT) -> bytes:
        self.cks, mk = self.kdf_chain(self.cks)
        nonce = self.rng.randbytes(24)
        header = self.dhs_public + bytes(4) + self.pn.to_bytes(4, "big") + self.ns.to_bytes(4, "big")
        sealed_header = crypto_secretbox_easy(header, nonce, self.hks)
        derived = blake(mk, b"am1-message", nonce + sealed_header + context, 64)
        self.ns += 1
        return nonce + sealed_header + derived[32:] + crypto_secretbox_easy(plaintext, nonce, derived[:32])

    def open(self, message: bytes, context: bytes = CONTEXT) -> bytes:
        nonce, sealed_header, kc, box = message[:24], message[24:84], message[84:116], message[116:]
        for (header_key, n), mk in self.skipped.items():
            header = self.try_header(header_key, nonce, sealed_header)
            if header is not None and header[2] == n:
                del self.skipped[header_key, n]
                return self.open_body(mk, nonce, sealed_header, kc, box, context)
        header = self.try_header(self.hkr, nonce, sealed_header)
        if header is None:
            header = self.try_header(self.nhkr, nonce, sealed_header)
            assert header is not None
            self.skip(header[1])
            self.turn(header[0])
        self.skip(header[2])
        self.ckr, mk = self.kdf_chain(self.ckr)
        self.nr += 1
        return self.open_body(mk, nonce, sealed_header, kc, box, context)

    @staticmethod
    def try_header(header_key: bytes, nonce: bytes, sealed: bytes) -> tuple[bytes, int, int] | None:
        if not header_key:
            return None
        try:
            clear = crypto_secretbox_open_easy(sealed, nonce, header_key)
        except CryptoError:
            return None
        assert clear[32:36] == bytes(4)  # nothing is mixed where nothing is offered
        return clear[:32], int.from_bytes(clear[36:40], "big"), int.from_bytes(clear[40:], "big")

    @staticmethod
    def open_body(mk: bytes, nonce: bytes, sealed_header: bytes, kc: bytes, box: bytes, context: bytes) -> bytes:
        derived = blake(mk, b"am1-message", nonce + sealed_header + context, 64)
        assert hmac.compare_digest(derived[32:], kc)
        plaintext: bytes = crypto_secretbox_open_easy(box, nonce, derived[:32])
        return plaintext

    def skip(self, until: int) -> None:
        while self.ckr and self.nr < until:
            self.ckr, self.skipped[self.hkr, self.nr] = self.kdf_chain(self.ckr)
            self.nr += 1

    def turn(self, peer_key: bytes) -> None:
        self.pn, self.ns, self.nr = self.ns, 0, 0
        self.hks, self.hkr, self.dhr = self.nhks, self.nhkr, peer_key
        self.rk, self.ckr, self.nhkr = self.kdf_root(self.rk, crypto_scalarmult(self.dhs, self.dhr))
        self.fresh_pair()
        self.rk, self.cks, self.nhks = self.kdf_root(self.rk, crypto_scalarmult(self.dhs, self.dhr))


@pytest.mark.parametrize("ours_knocks", [True, False], ids=["ours is A", "ours is B"])
@given(seed=st.integers(0, 2**32))
@scaled(0.3)
def test_an_independent_implementation_converses_with_ours(ours_knocks: bool, seed: int) -> None:
    rng = random.Random(seed)
    shared, sides = secrets_of(SUITE, f"shared {seed}"), two_sides(SUITE, seed)
    peers: list[Side | Reference]
    if ours_knocks:
        peers = [sides[0], Reference.as_responder(shared, rng)]
    else:
        peers = [Reference.as_initiator(shared, rng), sides[1]]
    first = peers[1].seal(b"accept")
    assert peers[0].open(first) == b"accept"
    wires: list[list[tuple[bytes, bytes]]] = [[], []]
    for number in range(rng.randrange(1, 60)):
        sender = rng.randrange(2)
        if rng.random() < 0.5 and wires[sender]:
            message, plaintext = wires[sender].pop(rng.randrange(len(wires[sender])))
            assert peers[sender].open(message) == plaintext
        elif sender == 0 or number or rng.random() < 0.5:
            plaintext = rng.randbytes(rng.randrange(100))
            wires[1 - sender].append((peers[sender].seal(plaintext), plaintext))
    for receiver in (0, 1):
        while wires[receiver]:
            message, plaintext = wires[receiver].pop(rng.randrange(len(wires[receiver])))
            assert peers[receiver].open(message) == plaintext


# --- delivery, whatever the network does -----------------------------------------------------------------------------


class Sent(NamedTuple):
    message: bytes
    plaintext: bytes
    chain: int
    n: int


class Model:
    """What a receiver must do with each message, said without any cryptography.

    A chain before the last five goes at the first turn at which nothing of it is missing.
    """

    def __init__(self) -> None:
        self.current = -1
        self.opened: set[tuple[int, int]] = set()
        self.gone: set[int] = set()

    def expects(self, sent: Sent) -> type[AgentMeshError] | None:
        if sent.chain in self.gone:
            return DecryptionFailed
        return DuplicateMessage if (sent.chain, sent.n) in self.opened else None

    def took(self, sent: Sent, wire: list[Sent]) -> None:
        self.opened.add((sent.chain, sent.n))
        if sent.chain > self.current:
            self.current = sent.chain
            missing = {each.chain for each in wire if (each.chain, each.n) not in self.opened}
            self.gone |= set(range(self.current - KEPT_CHAINS)) - missing


@EACH
@given(
    seed=st.integers(0, 2**16),
    steps=st.integers(0, 120).flatmap(
        lambda size: st.lists(
            st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2**16)), min_size=size, max_size=size
        )
    ),
)
@scaled(0.5)
def test_every_message_opens_once_in_any_order_and_nothing_else_does(
    suite: Suite, seed: int, steps: list[tuple[bool, int, int]]
) -> None:
    sides, models = two_sides(suite, seed), (Model(), Model())
    wires: tuple[list[Sent], list[Sent]] = ([], [])  # by receiver; nothing is ever taken off
    chains: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})  # by sender

    def send(sender: int) -> None:
        plaintext = len(wires[1 - sender]).to_bytes(4, "big")
        ratchet, begun = sides[sender].ratchet, chains[sender]
        assert ratchet.sending is not None
        chain, n = begun.setdefault(ratchet.public, len(begun)), ratchet.sending.n
        wires[1 - sender].append(Sent(sides[sender].seal(plaintext), plaintext, chain, n))

    def deliver(receiver: int, sent: Sent) -> None:
        side, model = sides[receiver], models[receiver]
        error = model.expects(sent)
        if error is None:
            assert side.open(sent.message) == sent.plaintext
            model.took(sent, wires[receiver])
        elif suite in IN_CLEAR and error is DecryptionFailed:
            # Headers in clear: a chain that was let go looks like a new one, until its body fails.
            before = snapshot(side.ratchet)
            with pytest.raises(RemoteError):
                side.look(sent.message)
            assert snapshot(side.ratchet) == before
        else:
            side.refuses(sent.message, error)

    send(1)
    deliver(0, wires[0][0])
    for to_b, action, choice in steps:
        sender = 0 if to_b else 1
        if action <= 1:
            send(sender)
        elif wires[sender]:
            deliver(sender, wires[sender][choice % len(wires[sender])])
    for receiver in (0, 1):
        for sent in random.Random(seed).sample(wires[receiver], len(wires[receiver])):
            deliver(receiver, sent)


@EACH
def test_ping_pong_and_late_messages_across_turns(suite: Suite) -> None:
    a, b = conversing(suite)
    late = []
    for turn in range(KEPT_CHAINS):
        late.append((b, a.seal(b"held back %d" % turn), b"held back %d" % turn))
        assert b.open(a.seal(b"ping")) == b"ping"
        assert a.open(b.seal(b"pong")) == b"pong"
    random.Random(1).shuffle(late)
    for side, message, plaintext in late:
        assert side.open(message) == plaintext
    for side, message, _ in late:
        side.refuses(message, DuplicateMessage)
    assert not b.ratchet.skipped


@EACH
@pytest.mark.parametrize("turns", [KEPT_CHAINS, KEPT_CHAINS + 1, 40])
def test_a_message_opens_however_many_turns_it_is_late(suite: Suite, turns: int) -> None:
    a, b = conversing(suite)
    held, other = a.seal(b"held back"), a.seal(b"held back too")
    for _ in range(turns):
        b.open(a.seal(b"ping"))
        a.open(b.seal(b"pong"))
    assert b.open(other) == b"held back too"
    b.refuses(other, DuplicateMessage)
    assert not b.take(a.seal(b"one turn more")).evicted
    b.refuses(other, DuplicateMessage)
    assert b.open(held) == b"held back"
    b.refuses(held, DuplicateMessage)
    a.open(b.seal(b"pong"))
    assert b.open(a.seal(b"the chain goes on")) == b"the chain goes on"
    if turns >= KEPT_CHAINS:  # nothing of the chain is awaited any more, so it went at the turn
        assert len(b.ratchet.past) == KEPT_CHAINS
        with pytest.raises(RemoteError):
            b.look(held)


@EACH
def test_of_the_chains_that_late_messages_are_awaited_of_the_newest_stay(suite: Suite) -> None:
    a, b = conversing(suite)
    held, lost = [], []
    for turn in range(KEPT_CHAINS + LATE_CHAINS + 10):
        held.append([a.seal(b"%d.%d" % (turn, number)) for number in range(2)])
        lost.append(list(b.take(a.seal(b"ping")).lost))
        a.open(b.seal(b"pong"))
        assert len(b.ratchet.past) == min(turn, KEPT_CHAINS + LATE_CHAINS)
    # Each turn past the limit evicts the keys of one chain and names their numbers: three messages a chain, and one
    # that `conversing` opened before them in the first.
    assert lost == [[]] * (KEPT_CHAINS + LATE_CHAINS + 1) + [[3 * chain + 1, 3 * chain + 2] for chain in range(9)]
    for turn, pair in enumerate(held):
        for number, message in enumerate(pair):
            if turn < 9:
                with pytest.raises(RemoteError):
                    b.look(message)
            else:
                assert b.open(message) == b"%d.%d" % (turn, number)


@EACH
def test_a_whole_chain_can_be_lost(suite: Suite) -> None:
    a, b = conversing(suite)
    lost = [a.seal(b"lost") for _ in range(7)]
    assert a.open(b.seal(b"b speaks")) == b"b speaks"
    assert b.open(a.seal(b"a new chain")) == b"a new chain"
    assert len(b.ratchet.skipped) == 7
    assert [b.open(message) for message in reversed(lost)] == [b"lost"] * 7


@EACH
def test_opening_and_its_delta_change_nothing_until_applied(suite: Suite) -> None:
    a, b = conversing(suite)
    skipped, current = a.seal(b"skipped"), a.seal(b"current")
    before = snapshot(b.ratchet)
    deltas = [b.look(current).delta(b.entropy) for _ in range(2)]
    assert snapshot(b.ratchet) == before
    b.ratchet.apply(deltas[0])
    assert snapshot(b.ratchet) != before
    before = snapshot(b.ratchet)
    b.look(skipped).delta(b.entropy)
    assert snapshot(b.ratchet) == before
    before = snapshot(a.ratchet)
    a.look(b.seal(b"turn")).delta(a.entropy)
    a.ratchet.seal(b"unsent", CONTEXT, nonce_of(suite, a.entropy))
    assert snapshot(a.ratchet) == before


@EACH
def test_sealing_over_a_turn_that_is_not_applied_yet(suite: Suite) -> None:
    a, b = conversing(suite)
    delta = b.look(a.seal(b"question")).delta(b.entropy)
    first = a.look(b.seal(b"still the old chain")).delta(a.entropy)
    assert first.turn is not None
    before = snapshot(a.ratchet)
    answer, _, after = a.ratchet.seal(b"answer", CONTEXT, nonce_of(suite, a.entropy), first.turn)
    assert snapshot(a.ratchet) == before
    a.ratchet.apply(first)
    a.ratchet.apply_sealed(after)
    b.ratchet.apply(delta)
    assert b.open(b"".join(answer)) == b"answer"
    assert b.open(a.seal(b"and on")) == b"and on"


@EACH
def test_the_running_number_counts_through_chains(suite: Suite) -> None:
    a, b = conversing(suite, turns=0)
    numbers = []
    for length in (3, 1, 4):
        chain = [a.seal(b"m") for _ in range(length)]
        for message in chain:
            opened = b.look(message)
            numbers.append(opened.number)
            b.ratchet.apply(opened.delta(b.entropy))
        a.open(b.seal(b"turn"))
    assert numbers == list(range(8))


@EACH
def test_the_initiator_cannot_seal_before_it_has_opened(suite: Suite) -> None:
    a, b = two_sides(suite)
    before = snapshot(a.ratchet)
    with pytest.raises(ChainExhausted):
        a.ratchet.seal(b"too early", CONTEXT, nonce_of(suite, a.entropy))
    assert snapshot(a.ratchet) == before
    a.open(b.seal(b"accept"))
    assert b.open(a.seal(b"now")) == b"now"


def test_awaits_says_whether_a_header_is_of_the_next_chain() -> None:
    a, b = two_sides(SUITE)
    accept = b.seal(b"accept")
    assert a.ratchet.awaits(accept)
    assert not b.ratchet.awaits(accept)
    a.open(accept)
    assert not a.ratchet.awaits(accept)
    with pytest.raises(Malformed):
        a.ratchet.awaits(b"short")


# --- forgeries -------------------------------------------------------------------------------------------------------


@EACH
def test_three_hundred_messages_arrive_through_twenty_forgeries_each(suite: Suite) -> None:
    a, b = conversing(suite)
    rng = random.Random(7)
    sides = (a, b)
    for number in range(300):
        sender = rng.randrange(2)
        receiver = sides[1 - sender]
        plaintext = b"genuine %d" % number
        message = sides[sender].seal(plaintext)
        before = snapshot(receiver.ratchet)
        for _ in range(20):
            altered = bytearray(message)
            altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
            with pytest.raises(RemoteError):
                receiver.look(bytes(altered))
        assert snapshot(receiver.ratchet) == before
        assert receiver.open(message) == plaintext


@EACH
def test_forged_headers_eat_no_skipped_key(suite: Suite) -> None:
    a, b = conversing(suite)
    late = [a.seal(b"late %d" % number) for number in range(20)]
    b.open(a.seal(b"overtook"))
    for message in late:
        for spoiled in (message[:-1] + bytes([message[-1] ^ 1]), message[:-1], message + b"\x00"):
            b.refuses(spoiled, DecryptionFailed)
    assert [b.open(message) for message in late] == [b"late %d" % number for number in range(20)]


@EACH
def test_far_ahead_forgeries_store_nothing(suite: Suite) -> None:
    small = Limits(skipped_keys_per_step=40, skipped_keys_per_session=80)
    a, b = conversing(suite, limits=small)
    late = [a.seal(b"late %d" % number) for number in range(20)]
    ahead = [a.seal(b"ahead") for _ in range(20)][-1]
    before = snapshot(b.ratchet)
    for number in range(500):
        with pytest.raises(DecryptionFailed):
            b.look(ahead[:-1] + bytes([ahead[-1] ^ (1 + number % 255)]))
    assert snapshot(b.ratchet) == before
    assert [b.open(message) for message in late] == [b"late %d" % number for number in range(20)]


class Counted:
    """A suite that counts what it is asked for."""

    def __init__(self, suite: Suite) -> None:
        self.calls: dict[str, int] = {}
        names = ("key_pair", "dh", "kdf_root", "kdf_chain", "open_header", "open_body")
        self.suite = evolve(suite, **{name: self.counting(name, getattr(suite, name)) for name in names})

    def counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        self.calls[name] = 0

        def counted(*arguments: Any) -> Any:
            self.calls[name] += 1
            return call(*arguments)

        return counted


def counted_pair(suite: Suite, turns: int, limits: Limits = LIMITS) -> tuple[Side, Side, Counted]:
    a, b = conversing(suite, turns=turns, limits=limits)
    counted = Counted(suite)
    b.ratchet.suite = counted.suite
    return a, b, counted


@given(tail=st.binary(max_size=300))
@scaled(0.2)
def test_a_random_header_costs_seven_openings_at_most_and_derives_nothing(tail: bytes) -> None:
    _, b, counted = counted_pair(SUITE, 2 * KEPT_CHAINS + 5)
    b.refuses(hashlib.sha512(tail).digest() * 3 + tail, DecryptionFailed)
    assert counted.calls == {
        "open_header": 2 + KEPT_CHAINS, "open_body": 0, "dh": 0, "kdf_root": 0, "kdf_chain": 0, "key_pair": 0
    }  # fmt: skip


def test_a_random_header_costs_an_opening_more_for_each_chain_that_late_messages_are_awaited_of() -> None:
    a, b, counted = counted_pair(SUITE, 1)
    for turn in range(KEPT_CHAINS + LATE_CHAINS + 10):
        a.seal(b"lost")
        b.open(a.seal(b"ping"))
        a.open(b.seal(b"pong"))
        counted.calls.update(dict.fromkeys(counted.calls, 0))
        b.refuses(os.urandom(300), DecryptionFailed)
        assert counted.calls == {
            "open_header": 2 + min(turn, KEPT_CHAINS + LATE_CHAINS),
            "open_body": 0, "dh": 0, "kdf_root": 0, "kdf_chain": 0, "key_pair": 0,
        }  # fmt: skip


@EACH
@pytest.mark.parametrize("new_chain", [False, True], ids=["current chain", "new chain"])
@pytest.mark.parametrize("gap", [0, 1, 30])
def test_a_copied_header_over_another_body_costs_one_dh_and_the_step_limit_at_most(
    suite: Suite, new_chain: bool, gap: int
) -> None:
    limits = Limits(skipped_keys_per_step=30)
    a, b, counted = counted_pair(suite, 3, limits)
    if new_chain:
        a.open(b.seal(b"turn"))
        counted.calls.update(dict.fromkeys(counted.calls, 0))
    for _ in range(gap):
        a.seal(b"lost")
    message = a.seal(b"genuine")
    b.refuses(message[:-1] + bytes([message[-1] ^ 1]), DecryptionFailed)
    assert counted.calls["dh"] == counted.calls["kdf_root"] == int(new_chain)
    assert counted.calls["kdf_chain"] == gap + 1
    assert counted.calls["open_body"] == 1
    assert counted.calls["key_pair"] == 0
    assert b.open(message) == b"genuine"


@EACH
def test_another_context_is_another_message(suite: Suite) -> None:
    a, b = conversing(suite)
    message = a.seal(b"here", b"session one")
    b.refuses(message, DecryptionFailed, b"session two")
    assert b.open(message, b"session one") == b"here"


@EACH
def test_what_is_too_short_is_malformed(suite: Suite) -> None:
    a, b = conversing(suite)
    message = a.seal(b"")
    for length in range(len(message)):
        with pytest.raises(RemoteError) as caught:
            b.look(message[:length])
        assert type(caught.value) in (Malformed, DecryptionFailed)
    assert b.open(message) == b""


# --- limits ----------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_the_step_limit_within_a_chain(suite: Suite, step: int) -> None:
    a, b = conversing(suite, limits=Limits(skipped_keys_per_step=step))
    lost = [a.seal(b"lost %d" % number) for number in range(step)]
    at_limit, over = a.seal(b"at the limit"), a.seal(b"over it")
    b.refuses(over, GapTooLarge)
    assert b.open(at_limit) == b"at the limit"
    assert b.open(over) == b"over it"
    assert [b.open(message) for message in lost] == [b"lost %d" % number for number in range(step)]


@EACH
@given(rest=st.integers(0, 6), ahead=st.integers(0, 6))
@scaled(0.3)
def test_the_step_limit_counts_the_old_chain_and_the_new_together(suite: Suite, rest: int, ahead: int) -> None:
    a, b = conversing(suite, limits=Limits(skipped_keys_per_step=6))
    lost = [a.seal(b"of the old chain") for _ in range(rest)]
    a.open(b.seal(b"turn"))
    lost += [a.seal(b"of the new chain") for _ in range(ahead)]
    message = a.seal(b"here")
    if rest + ahead > 6:
        b.refuses(message, GapTooLarge)
        return
    assert len(b.take(message).added) == rest + ahead
    for late in random.Random(rest).sample(lost, len(lost)):
        b.open(late)
    assert not b.ratchet.skipped


@EACH
def test_numbers_far_beyond_the_limit_are_refused_before_a_key_is_derived(suite: Suite) -> None:
    a, b, counted = counted_pair(suite, 3)
    for n in (1002 + 1, 2**31, COUNTER_MAX - 1):
        b.refuses(forged(a, n=n), GapTooLarge)
    b.refuses(forged(a, n=COUNTER_MAX), ContradictoryHeader)
    a.open(b.seal(b"turn"))
    received = b.ratchet.receiving
    assert received is not None
    for pn in (received.n + 1001, 2**31, COUNTER_MAX):
        b.refuses(forged(a, n=0, pn=pn), GapTooLarge)
    b.refuses(forged(a, n=1001), GapTooLarge)
    b.refuses(forged(a, n=COUNTER_MAX), ContradictoryHeader)
    counted.calls.update(dict.fromkeys(counted.calls, 0))
    b.refuses(forged(a, n=1, pn=received.n + 1000), GapTooLarge)
    assert {counted.calls[name] for name in ("dh", "kdf_root", "kdf_chain", "open_body")} == {0}
    assert b.open(forged(a, n=0, pn=received.n + 1000)) == b"!"
    assert len(b.ratchet.skipped) == 1000


@EACH
def test_the_total_limit_evicts_the_oldest_and_says_which(suite: Suite) -> None:
    limits = Limits(skipped_keys_per_step=4, skipped_keys_per_session=6)
    a, b = conversing(suite, limits=limits)
    lost = [[a.seal(b"lost") for _ in range(4)]]
    assert not b.take(a.seal(b"first gap")).evicted
    lost.append([a.seal(b"lost") for _ in range(4)])
    delta = b.take(a.seal(b"second gap"))
    assert len(b.ratchet.skipped) == 6
    assert [number for _, number in delta.evicted] == [1, 2]  # number 0 was the turn that `conversing` opened
    b.refuses(lost[0][0], DuplicateMessage)
    b.refuses(lost[0][1], DuplicateMessage)
    for message in lost[0][2:] + lost[1]:
        assert b.open(message) == b"lost"


@EACH
def test_the_default_limits_are_those_of_the_protocol(suite: Suite) -> None:
    a, b = conversing(suite)
    for _ in range(2):
        for _ in range(1000):
            a.seal(b"lost")
        assert not b.take(a.seal(b"gap")).evicted
    assert len(b.ratchet.skipped) == 2000
    a.seal(b"lost")
    assert len(b.take(a.seal(b"one more")).evicted) == 1
    assert len(b.ratchet.skipped) == 2000
    for _ in range(1001):
        a.seal(b"lost")
    b.refuses(a.seal(b"too far"), GapTooLarge)


@EACH
def test_the_age_limit(suite: Suite) -> None:
    limits = Limits(skipped_key_lifetime_seconds=60)
    a, b = conversing(suite, limits=limits)
    early, late = a.seal(b"early"), a.seal(b"late")
    b.open(a.seal(b"gap"))
    b.now_ms += 60_000
    assert b.ratchet.expired_keys(b.now_ms, limits) is None
    assert b.open(early) == b"early"
    b.now_ms += 1
    b.refuses(late, DuplicateMessage)
    before = snapshot(b.ratchet)
    delta = b.ratchet.expired_keys(b.now_ms, limits)
    assert delta is not None
    assert len(delta.evicted) == 1
    assert snapshot(b.ratchet) == before
    b.ratchet.apply(delta)
    assert not b.ratchet.skipped
    assert b.ratchet.expired_keys(b.now_ms, limits) is None
    b.refuses(late, DuplicateMessage)


@EACH
def test_an_aged_key_is_evicted_by_the_next_message_that_adds_none(suite: Suite) -> None:
    a, b = conversing(suite, limits=Limits(skipped_key_lifetime_seconds=60))
    a.seal(b"lost")
    b.open(a.seal(b"gap"))
    b.now_ms += 60_001
    assert len(b.take(a.seal(b"next")).evicted) == 1
    assert not b.ratchet.skipped


def test_one_step_cannot_evict_its_own_keys() -> None:
    with pytest.raises(ArgumentInvalid):
        Limits(skipped_keys_per_step=11, skipped_keys_per_session=10)


# --- authentic headers that lie --------------------------------------------------------------------------------------


def test_an_authentic_header_that_contradicts_the_current_chain() -> None:
    a, b = conversing(SUITE, turns=3)
    for _ in range(3):
        b.open(a.seal(b"m"))
    chain = b.ratchet.receiving
    assert chain is not None
    other = SUITE.key_pair(SeededEntropy("other"))[1]
    for n in (0, chain.n - 1, chain.n, chain.n + 5):
        b.refuses(forged(a, n=n, key=other), ContradictoryHeader)
        for pn in (chain.previous_length - 1, chain.previous_length + 1, COUNTER_MAX):
            b.refuses(forged(a, n=n, pn=pn % 2**32), ContradictoryHeader)
    b.refuses(forged(a, n=0), DuplicateMessage)
    assert b.open(a.seal(b"the session lives")) == b"the session lives"


@EACH
def test_a_turn_whose_pn_is_below_what_was_received(suite: Suite) -> None:
    a, b = conversing(suite)
    for _ in range(4):
        b.open(a.seal(b"m"))
    a.open(b.seal(b"turn"))
    for pn in range(5):
        b.refuses(forged(a, n=0, pn=pn), ContradictoryHeader)
    b.refuses(forged(a, n=0, pn=6, plaintext=b"one lost")[:-1], DecryptionFailed)
    assert b.open(forged(a, n=0, pn=5)) == b"!"


@EACH
def test_a_first_chain_has_nothing_before_it(suite: Suite) -> None:
    a, b = two_sides(suite)
    for pn in (1, 5, 1001, COUNTER_MAX):
        a.refuses(forged(b, n=0, pn=pn), ContradictoryHeader)
    a.open(b.seal(b"accept"))
    for pn in (1, COUNTER_MAX):
        b.refuses(forged(a, n=0, pn=pn), ContradictoryHeader)
    assert b.open(a.seal(b"genuine")) == b"genuine"


@EACH
def test_a_past_chain_does_not_grow(suite: Suite) -> None:
    a, b = conversing(suite)
    held = a.seal(b"held back")
    b.open(a.seal(b"m"))
    old = a.copy("a thief, or a fork")
    a.open(b.seal(b"turn"))
    b.open(a.seal(b"a new chain"))
    length = b.ratchet.past[-1].length
    for n in (length, length + 1, 2**31, COUNTER_MAX):
        b.refuses(forged(old, n=n), ContradictoryHeader)
    assert b.open(held) == b"held back"


# --- points that are none --------------------------------------------------------------------------------------------

# The u-coordinates of small order on the curve and its twist, and the encodings that masking and reducing would make
# of them (RFC 7748, section 5; Cremers and Jackson, "Prime, Order Please!", CSF 2019): the 14 public keys behind the 31
# all-zero cases of Wycheproof, and 17 more encodings that only masking or reducing would take.
PRIME = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
SMALL_ORDER = [
    value + top for value in (0, 1, *ORDER_8, PRIME - 1, PRIME, PRIME + 1) for top in (0, 2**255)
]  # fmt: skip
NOT_CANONICAL = [PRIME + extra for extra in range(2, 19)]


@pytest.mark.parametrize("suite", [SUITE, AGT_SUITE], ids=["v1", "agt"])
@pytest.mark.parametrize("u", SMALL_ORDER + NOT_CANONICAL)
def test_a_bad_point_in_an_authentic_header_changes_nothing(u: int, suite: Suite) -> None:
    point = u.to_bytes(32, "little")
    a, b = conversing(suite)
    a.open(b.seal(b"turn"))
    b.refuses(forged(a, n=0, key=point), BadPoint)
    assert b.open(a.seal(b"genuine")) == b"genuine"
    fresh_a, fresh_b = two_sides(suite)
    fresh_a.refuses(forged(fresh_b, n=0, key=point), BadPoint)
    assert fresh_a.open(fresh_b.seal(b"genuine")) == b"genuine"


def test_the_small_points_are_small() -> None:
    assert len(SMALL_ORDER + NOT_CANONICAL) == 31
    for u in SMALL_ORDER:
        with pytest.raises(Exception, match="Unexpected library error"):
            crypto_scalarmult(b"\x01" * 32, u.to_bytes(32, "little"))


def test_the_toy_suite_refuses_its_own_bad_points() -> None:
    a, b = conversing(TOY)
    a.open(b.seal(b"turn"))
    for value in (0, 1, TOY_PRIME - 1, TOY_PRIME):
        b.refuses(forged(a, n=0, key=value.to_bytes(32, "little")), BadPoint)


@EACH
def test_a_small_point_of_the_initiator_leaves_no_ratchet(suite: Suite) -> None:
    shared = secrets_of(suite, "x")
    with pytest.raises(BadPoint):
        Ratchet.responder(
            suite,
            shared.root,
            X25519PublicKey(bytes(32)),
            header_key_ab=shared.header_key_ab,
            header_key_ba=shared.header_key_ba,
            entropy=SeededEntropy(1),
        )


# --- counters at their end -------------------------------------------------------------------------------------------


def moved(side: Side, n: int) -> None:
    """Put a sending chain's counter forward; the keys need no such many steps to be of the right shape."""
    chain = side.ratchet.sending
    assert chain is not None
    side.ratchet.sending = SendingChain(chain.key, chain.header_key, n, chain.previous_length, chain.start)


def expecting(side: Side, n: int) -> None:
    chain = side.ratchet.receiving
    assert chain is not None
    side.ratchet.receiving = ReceivingChain(
        chain.key, chain.header_key, chain.peer_key, chain.epoch, n, chain.previous_length, chain.start, chain.serial
    )


@EACH
def test_a_chain_ends_before_its_counter_wraps(suite: Suite) -> None:
    a, b = conversing(suite)
    moved(a, COUNTER_MAX - 2)
    expecting(b, COUNTER_MAX - 2)
    for plaintext in (b"the last but one", b"the last"):
        assert b.open(a.seal(plaintext)) == plaintext
    before = snapshot(a.ratchet)
    for _ in range(3):
        with pytest.raises(ChainExhausted):
            a.seal(b"one too many")
    assert snapshot(a.ratchet) == before
    b.refuses(forged(a, n=COUNTER_MAX), ContradictoryHeader)
    # A turn of the peer begins a new chain, and the old one's length still fits its field.
    assert a.open(b.seal(b"turn")) == b"turn"
    message = a.seal(b"a new chain")
    assert header_of(b, message) == (a.ratchet.public, 0, COUNTER_MAX, 0)
    opened = b.look(message)
    assert opened.plaintext == b"a new chain"
    assert opened.number == COUNTER_MAX


@EACH
def test_the_last_length_of_a_chain_can_have_a_gap_before_it(suite: Suite) -> None:
    a, b = conversing(suite)
    moved(a, COUNTER_MAX - 10)
    expecting(b, COUNTER_MAX - 10)
    late = [a.seal(b"late") for _ in range(10)]
    a.open(b.seal(b"turn"))
    b.open(a.seal(b"a new chain"))
    assert [b.open(message) for message in late] == [b"late"] * 10


# --- healing, forward secrecy, snapshots -----------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("stolen_from_a", [True, False], ids=["A's state", "B's state"])
@given(turns=st.integers(1, 7), extra=st.integers(0, 3), reads=st.booleans())
@scaled(0.3)
def test_a_stolen_state_is_worth_nothing_after_a_round_trip(
    suite: Suite, stolen_from_a: bool, turns: int, extra: int, reads: bool
) -> None:
    a, b = conversing(suite, turns=turns)
    victim, peer = (a, b) if stolen_from_a else (b, a)
    thief = victim.copy("thief")
    forgery = thief.copy("and forger").seal(b"forged at once")
    # A round trip that begins at the victim brings its new key; its next message brings the peer's.
    for speaker, listener in ((victim, peer), (peer, victim), (victim, peer)):
        for _ in range(1 + extra):
            message = speaker.seal(b"said")
            if reads and speaker is peer:
                with contextlib.suppress(RemoteError):
                    thief.open(message)  # a passive reader, with the state as long as that serves
            listener.open(message)
    for number in range(3):
        secret = b"after the round trip %d" % number
        for speaker in (peer, victim):
            message = speaker.seal(secret)
            with pytest.raises(RemoteError):
                thief.look(message)
            (victim if speaker is peer else peer).open(message)
    before = snapshot(peer.ratchet)
    for _ in range(3):
        with pytest.raises(RemoteError):
            peer.look(thief.seal(b"forged later"))
    with pytest.raises(RemoteError):
        peer.look(forgery)
    assert snapshot(peer.ratchet) == before


def secrets_in(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        if len(value) == 32:
            yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from secrets_in(key)
            yield from secrets_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from secrets_in(item)
    elif hasattr(type(value), "__slots__") and not isinstance(value, Suite | int | type(None)):
        for name in type(value).__slots__:
            yield from secrets_in(getattr(value, name))
        if isinstance(value, Ratchet):  # of which a part lies packed
            yield from secrets_in([value.root, value.secret, value.next_sending, value.next_receiving, value.past])


@given(turns=st.integers(0, 6), length=st.integers(1, 4))
@scaled(0.07)
def test_no_key_of_either_state_opens_what_was_delivered(turns: int, length: int) -> None:
    a, b = conversing(SUITE, turns=turns)
    delivered = []
    for speaker, listener in ((a, b), (b, a)) * 2:
        messages = [speaker.seal(b"said and gone") for _ in range(length)]
        for message in messages:
            listener.open(message)
        delivered += messages
    for side in (a, b):
        for message in delivered:
            with pytest.raises(RemoteError):
                side.copy("thief").look(message)
    keys = {key for side in (a, b) for key in secrets_in(side.ratchet)}
    assert len(keys) >= 10
    derived = set()
    for key in keys:
        for _ in range(2 * length + 2):
            chain_key, message_key = SUITE.kdf_chain(ChainKey(key))
            derived |= {key, message_key}
            key = chain_key
        for other in keys:
            derived |= {*SUITE.kdf_chain(ChainKey(blake(key, b"am1-ratchet-ck", other, 32)))}
    for message in delivered:
        frame = SUITE.parse(message, 0)
        for key in derived:
            with pytest.raises(DecryptionFailed):
                SUITE.open_body(MessageKey(key), frame, CONTEXT)


def test_a_key_kept_for_a_late_message_opens_that_one_alone() -> None:
    a, b = conversing(SUITE)
    messages = [a.seal(b"m%d" % number) for number in range(5)]
    b.open(messages[4])
    kept = [key for key, _ in b.ratchet.skipped.values()]
    assert [SUITE.open_body(key, SUITE.parse(m, 0), CONTEXT) for key, m in zip(kept, messages, strict=False)] == [
        b"m0", b"m1", b"m2", b"m3"
    ]  # fmt: skip
    for key, message in zip(kept, messages[1:], strict=False):
        with pytest.raises(DecryptionFailed):
            SUITE.open_body(key, SUITE.parse(message, 0), CONTEXT)


@EACH
@given(first=st.binary(min_size=16, max_size=64), second=st.binary(min_size=16, max_size=64))
@scaled(0.3)
def test_a_restored_snapshot_repeats_a_key_and_no_keystream(suite: Suite, first: bytes, second: bytes) -> None:
    a, b = conversing(suite)
    size = min(len(first), len(second))
    restored = a.copy("the same state, restored")
    one, key_one, _ = a.ratchet.seal(first[:size], CONTEXT, nonce_of(suite, a.entropy))
    two, key_two, _ = restored.ratchet.seal(second[:size], CONTEXT, nonce_of(suite, restored.entropy))
    assert key_one == key_two
    plain = bytes(x ^ y for x, y in zip(first, second, strict=False))
    cipher = bytes(x ^ y for x, y in zip(one[-1][-size:], two[-1][-size:], strict=True))
    assert cipher != plain
    assert b.open(b"".join(two)) == second[:size]
    b.refuses(b"".join(one), DuplicateMessage)


# --- what shows ------------------------------------------------------------------------------------------------------


@EACH
def test_nothing_of_a_ratchet_prints(suite: Suite) -> None:
    a, b = conversing(suite)
    a.seal(b"lost")
    opened = b.look(a.seal(b"plaintext"))
    delta = opened.delta(b.entropy)
    b.ratchet.apply(delta)
    a.open(b.seal(b"turn"))
    b.open(a.seal(b"turn"))
    turned = a.look(b.seal(b"again")).delta(a.entropy)
    values = [a.ratchet, b.ratchet, opened, delta, turned, turned.turn, b.ratchet.sending, b.ratchet.receiving]
    for value in [*values, b.ratchet.past[0]]:
        assert repr(value) == str(value) == f"{type(value).__name__}(<redacted>)"
        assert not hasattr(value, "__dict__")
