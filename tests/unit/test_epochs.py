"""Epochs (section 6.3): what is mixed and when, whatever is lost, late, repeated or refused, and that it heals.

Two ratchets talk with items. Random schedules check what must hold after every step; a record of every derivation gives
what follows from a stolen state for a thief who has the result of every X25519 agreement. Faults that are put in must
be seen by the same checks.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.errors import DuplicateMessage, RemoteError
from agentmesh.limits import KEPT_CHAINS, LATE_CHAINS, Limits
from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, RootKey
from agentmesh.session.epochs import Answer, Item, Offer, Offering, Standing, item_bytes, parse_item
from agentmesh.session.ratchet import Opened, Ratchet
from agentmesh.session.ratchet_export import ratchet_fields, restore_ratchet
from agentmesh.session.suite import SUITE
from agentmesh.testing import SeededEntropy


def scaled(share: float) -> settings:
    return settings(max_examples=max(1, int(settings().max_examples * share)))


NOW_MS = 1_767_225_600_000
CONTEXT = b"session id, th and header"


class Derivation(NamedTuple):
    """What came of which secrets; agreements are not among them, since the thief of these tests has all of those."""

    needs: tuple[bytes, ...]
    gives: tuple[bytes, ...]


class Record:
    """Every derivation of a run."""

    def __init__(self) -> None:
        self.derivations: dict[Derivation, None] = {}  # in their order
        self.suite = evolve(SUITE, kdf_root=self._kdf_root, kdf_chain=self._kdf_chain)

    def _kdf_root(self, root: RootKey, shared: bytes) -> tuple[RootKey, ChainKey, HeaderKey]:
        result = SUITE.kdf_root(root, shared)
        mixed = shared[32:]
        self.derivations[Derivation((root, mixed) if mixed else (root,), result)] = None
        return result

    def _kdf_chain(self, chain_key: ChainKey) -> tuple[ChainKey, MessageKey]:
        result = SUITE.kdf_chain(chain_key)
        self.derivations[Derivation((chain_key,), result)] = None
        return result

    def closure(self, known: set[bytes]) -> set[bytes]:
        """Return all that follows from what is known, by whatever was derived."""
        known, grew = set(known), True
        while grew:
            before = len(known)
            for needs, gives in self.derivations:
                if known.issuperset(needs):
                    known.update(gives)
            grew = len(known) > before
        return known


def framed(item: bytes, data: bytes) -> bytes:
    return bytes([bool(item)]) + item + data


class Side:
    """One ratchet and what its owner brings; its plaintexts are a byte that says whether an item follows, and data."""

    def __init__(self, ratchet: Ratchet, seed: str, limits: Limits) -> None:
        self.ratchet = ratchet
        self.entropy = SeededEntropy(seed)
        self.limits = limits
        self.now_ms = NOW_MS
        self.is_a = type(ratchet.epochs) is Offering

    def sealed(self, data: bytes) -> tuple[bytes, bytes, Any, Any]:
        """Return (a message, its key, the chain and the half after it), without going on."""
        item, half = self.ratchet.item_out(self.now_ms, self.entropy, self.limits)
        parts, key, chain = self.ratchet.seal(framed(item, data), CONTEXT, self.entropy.token(24))
        return b"".join(parts), key, chain, half

    def seal(self, data: bytes = b"said") -> bytes:
        message, _, chain, half = self.sealed(data)
        self.ratchet.apply_sealed(chain, half)
        return message

    def seal_with(self, item: bytes, data: bytes = b"said") -> bytes:
        """Return a message with an item of the caller's."""
        parts, _, chain = self.ratchet.seal(framed(item, data), CONTEXT, self.entropy.token(24))
        self.ratchet.apply_sealed(chain)
        return b"".join(parts)

    def look(self, message: bytes) -> tuple[Opened, Item | None, bytes]:
        """Return (what was opened, its item, the data)."""
        opened = self.ratchet.open(message, CONTEXT, self.now_ms, self.limits)
        return opened, *self.cut(opened.plaintext)

    def cut(self, plaintext: bytes) -> tuple[Item | None, bytes]:
        if not plaintext[0]:
            return None, plaintext[1:]
        end = 1 + item_bytes(not self.is_a)
        return parse_item(plaintext[1:end], not self.is_a), plaintext[end:]

    def open(self, message: bytes) -> bytes:
        opened, item, data = self.look(message)
        delta = opened.delta(self.entropy, item)
        for _ in range(2):  # a change may be applied again
            self.ratchet.apply(delta)
        return data

    def restarted(self) -> None:
        """Go on from the export."""
        suite = self.ratchet.suite
        self.ratchet = restore_ratchet(ratchet_fields(self.ratchet), self.is_a)
        self.ratchet.suite = suite

    @property
    def state(self) -> list[Any]:
        return ratchet_fields(self.ratchet)

    @property
    def half(self) -> Any:
        return self.ratchet.epochs

    def item_of(self, message: bytes) -> Item | None:
        """Return the item of a message that this side could open."""
        return self.look(message)[1]


def two_sides(seed: object = 0, *, record: Record | None = None, **limits: int) -> tuple[Side, Side]:
    """Return (A, B) after B's first message."""
    entropy, suite = SeededEntropy(f"shared {seed}"), SUITE if record is None else record.suite
    secret, public = suite.key_pair(entropy)
    root, ab, ba = RootKey(entropy.token(32)), HeaderKey(entropy.token(32)), HeaderKey(entropy.token(32))
    names = {"header_key_ab": ab, "header_key_ba": ba}
    a = Side(Ratchet.initiator(suite, root, secret, public, **names), f"a {seed}", Limits(**limits))
    b_ratchet = Ratchet.responder(suite, root, public, entropy=SeededEntropy(f"b0 {seed}"), **names)
    b = Side(b_ratchet, f"b {seed}", Limits(**limits))
    a.open(b.seal(b"accept"))
    return a, b


def round_trip(a: Side, b: Side) -> None:
    """Let A say something, and B answer."""
    b.open(a.seal())
    a.open(b.seal())


# --- random schedules ------------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    message: bytes
    data: bytes
    key: bytes
    epoch: int
    at: int  # the step at which it was sealed
    begun_at: int  # the step at which its chain began


class Talk:
    """A conversation under a random schedule, which checks after every step what must hold."""

    def __init__(self, seed: int, **limits: int) -> None:
        self.rng = random.Random(seed)
        self.record = Record()
        self.sides = two_sides(seed, record=self.record, **limits)
        self.wires: tuple[list[Sent], list[Sent]] = ([], [])  # by receiver: never arrived so far
        self.arrived: tuple[list[Sent], list[Sent]] = ([], [])
        self.sent: list[Sent] = []
        self.answers: list[Answer] = []
        self.at = 0
        self.begun = [0, 0]
        self.drawn: dict[int, int] = {}
        self.answered: dict[int, int] = {}
        self.mixed: dict[int, int] = {}
        self.secrets: dict[int, bytes] = {}
        self.thefts: list[tuple[int, int, set[bytes], list[bytes]]] = []  # when, of whom, keys, seeds

    def run(self, steps: int, losses: float) -> None:
        ping = self.rng.random() < 0.5  # half of the schedules are mostly questions and answers
        for _ in range(steps):
            self.at += 1
            who = self.rng.randrange(2)
            if ping and self.rng.random() < 0.7:
                self.round_trip(losses)
            else:
                self.any_step(who, losses)
            self.check()

    def round_trip(self, losses: float) -> None:
        for who in (0, 1):
            self.at += 1
            self.send(who)
            if self.rng.random() >= losses:
                self.arrive(1 - who, len(self.wires[1 - who]) - 1)

    def any_step(self, who: int, losses: float) -> None:
        kind = self.rng.random()
        if kind < 0.35:
            self.send(who)
        elif kind < 0.7 and self.wires[who]:
            self.arrive(who, self.rng.randrange(len(self.wires[who])))
        elif kind < 0.7 + losses / 4 and self.wires[who]:
            self.wires[who].pop(self.rng.randrange(len(self.wires[who])))
        elif kind < 0.8 and self.arrived[who]:
            self.again(who, self.rng.choice(self.arrived[who][-20:]))
        elif kind < 0.88 and self.wires[who]:
            self.refused(who, self.rng.choice(self.wires[who]))
        elif kind < 0.92:
            self.unsent(who)
        elif kind < 0.96:
            self.sides[who].restarted()
        else:
            for side in self.sides:
                side.now_ms += self.rng.choice([1, 10_000, 600_000, -300_000])

    # --- steps -------------------------------------------------------------------------------------------------------

    def send(self, who: int) -> None:
        side, data = self.sides[who], self.rng.randbytes(8)
        before = side.half.standing
        message, key, chain, half = side.sealed(data)
        side.ratchet.apply_sealed(chain, half)
        if before is not Standing.OFFERED and side.half.standing is Standing.OFFERED:
            self.drawn[side.half.epoch + 1] = self.at
        sent = Sent(message, data, key, side.half.epoch, self.at, self.begun[who])
        self.sent.append(sent)
        self.wires[1 - who].append(sent)
        if len(self.wires[1 - who]) > 60:
            self.arrive(1 - who, 0)

    def arrive(self, who: int, index: int) -> None:
        side, sent = self.sides[who], self.wires[who].pop(index)
        before, turns = (side.half.epoch, side.half.standing, getattr(side.half, "ref", b"")), side.ratchet.public
        assert side.open(sent.message) == sent.data
        self.arrived[who].append(sent)
        half = side.half
        if side.ratchet.public != turns:
            self.begun[who] = self.at
        if half.standing is Standing.ANSWERED and (half.epoch, half.standing, half.ref) != before:
            self.answered[half.epoch + 1] = self.at
            self.answers.append(answer_of(parse_item(half.answer, False)))
        if side.is_a and half.epoch != before[0]:
            self.mixed[half.epoch] = self.at

    def again(self, who: int, sent: Sent) -> None:
        side = self.sides[who]
        before = side.state
        try:
            side.open(sent.message)
        except DuplicateMessage:
            pass
        except RemoteError:  # its chain went: nothing of it was missing any more
            assert side.ratchet.receiving is not None
            assert side.ratchet.receiving.serial > KEPT_CHAINS
        else:
            raise AssertionError("a message opened twice")
        assert side.state == before

    def refused(self, who: int, sent: Sent) -> None:
        """A forged copy, and the genuine message whose content its owner refuses after all."""
        side = self.sides[who]
        before = side.state
        altered = bytearray(sent.message)
        altered[self.rng.randrange(len(altered))] ^= 1 << self.rng.randrange(8)
        try:
            side.look(bytes(altered))
        except RemoteError:
            pass
        else:
            raise AssertionError("an altered message opened")
        opened, item, _ = side.look(sent.message)
        opened.delta(side.entropy, item)
        assert side.state == before

    def unsent(self, who: int) -> None:
        """A message whose step was not committed."""
        side = self.sides[who]
        before = side.state
        side.sealed(b"never leaves")
        assert side.state == before

    # --- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        a, b = (side.half for side in self.sides)
        assert 0 <= a.epoch - b.epoch <= 1
        if a.epoch > b.epoch:  # A mixed what B has not seen mixed yet: B keeps it
            assert b.standing is Standing.ANSWERED
        if b.standing is Standing.ANSWERED:  # one secret for each epoch, whatever was offered again
            assert self.secrets.setdefault(b.epoch + 1, b.secret) == b.secret
        if a.standing is Standing.READY:
            assert self.secrets[a.epoch + 1] == a.secret
        for side in self.sides:
            assert len(side.ratchet.past) <= KEPT_CHAINS + LATE_CHAINS
            fresh = restore_ratchet(side.state, side.is_a)
            assert ratchet_fields(fresh) == side.state

    # --- theft -------------------------------------------------------------------------------------------------------

    def steal(self, who: int) -> None:
        """Copy a whole state."""
        keys, seeds = secrets_of(self.sides[who].ratchet)
        self.thefts.append((self.at, who, keys, seeds))

    def closure(self) -> set[bytes]:
        """Return what the thieves derive together, with the result of every agreement and all answers in clear."""
        known = {key for _, _, keys, _ in self.thefts for key in keys}
        for seed in {seed for *_, seeds in self.thefts for seed in seeds}:
            known |= {secret for answer in self.answers if (secret := opened_with(seed, answer)) is not None}
        return self.record.closure(known)

    def healed_from(self) -> int | None:
        """Return the first epoch that none of the thieves has a part of."""
        last = [max((at for at, of, *_ in self.thefts if of == who), default=-1) for who in (0, 1)]
        for epoch in sorted(self.mixed):
            if self.drawn[epoch] > last[0] and self.answered[epoch] > last[1]:
                return epoch
        return None


def secrets_of(ratchet: Ratchet) -> tuple[set[bytes], list[bytes]]:
    """Return (all keys of 32 bytes in a state, the seeds of 64)."""
    keys: set[bytes] = set()
    seeds: list[bytes] = []
    left: list[Any] = [ratchet_fields(ratchet)]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, bytes) and len(value) == 32:
            keys.add(value)
        elif isinstance(value, bytes) and len(value) == 64:
            seeds.append(value)
    return keys, seeds


def opened_with(seed: bytes, answer: Answer) -> bytes | None:
    """Return the secret of an answer for whoever has the seed of the key that it was made for."""
    taken = Offering(answer.epoch - 1, Standing.OFFERED, secret=seed).take(answer, SeededEntropy(0))
    return taken.secret if taken.standing is Standing.READY else None


def offer_of(item: Item | None) -> Offer:
    assert isinstance(item, Offer)
    return item


def answer_of(item: Item | None) -> Answer:
    assert isinstance(item, Answer)
    return item


N = pytest.mark.parametrize("turns", [1, 2, 16])
seeds = st.integers(0, 2**32)


@N
@given(seed=seeds, losses=st.sampled_from([0.0, 0.1, 0.3]))
@scaled(0.2)
def test_every_message_opens_once_and_both_sides_mix_the_same_under_any_schedule(
    turns: int, seed: int, losses: float
) -> None:
    talk = Talk(seed, epoch_turns=turns)
    talk.run(80, losses)
    for who in talk.rng.sample([0, 1], 2):  # whatever has not come by now comes late
        while talk.wires[who]:
            talk.arrive(who, talk.rng.randrange(len(talk.wires[who])))
            talk.check()


@N
@given(seed=seeds, losses=st.sampled_from([0.0, 0.2]), of=st.sampled_from([(0,), (1,), (0, 1), (1, 0)]))
@scaled(0.2)
def test_behind_the_healing_nothing_follows_from_what_was_stolen_and_before_it_everything(
    turns: int, seed: int, losses: float, of: tuple[int, ...]
) -> None:
    talk = Talk(seed, epoch_turns=turns)
    healed_and_open(talk, losses, of)


def healed_and_open(talk: Talk, losses: float, of: tuple[int, ...]) -> tuple[int, int]:
    """Check what thieves have; return how many messages are behind the healing, and how many before it."""
    for who in of:
        talk.run(talk.rng.randrange(20), losses)
        talk.steal(who)
    talk.run(60, losses)
    stolen_at = talk.thefts[-1][0]
    closure, healed = talk.closure(), talk.healed_from()
    behind = [sent for sent in talk.sent if healed is not None and sent.epoch >= healed]
    before = [sent for sent in talk.sent if sent.begun_at > stolen_at and (healed is None or sent.epoch < healed)]
    assert not closure & {sent.key for sent in behind}
    assert closure >= {sent.key for sent in before}
    return len(behind), len(before)


def test_the_schedules_heal_and_do_not_heal_often_enough() -> None:
    counted = [healed_and_open(Talk(seed, epoch_turns=2), 0.1, (seed % 2,)) for seed in range(20)]
    assert sum(bool(behind) for behind, _ in counted) > 10
    assert sum(behind for behind, _ in counted) > 500
    assert sum(before for _, before in counted) > 100
