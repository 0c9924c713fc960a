"""Epochs (section 6.3): what is mixed and when, whatever is lost, late, repeated or refused, and that it heals.

Two ratchets talk with items. Random schedules check what must hold after every step; a record of every derivation gives
what follows from a stolen state for a thief who has the result of every X25519 agreement. Faults that are put in must
be seen by the same checks.
"""

from __future__ import annotations

import gc
import random
import re
import tracemalloc
from collections import Counter, deque
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.errors import (
    AgentMeshError,
    BadPoint,
    ContradictoryHeader,
    DecryptionFailed,
    DuplicateMessage,
    Malformed,
    MessageRefused,
    RemoteError,
)
from agentmesh.limits import COUNTER_MAX, KEPT_CHAINS, LATE_CHAINS, Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import ChainKey, HeaderKey, KemCiphertext, KemPublicKey, MessageKey, RootKey
from agentmesh.session import epochs
from agentmesh.session.epochs import (
    ANSWER_BYTES,
    MOVES,
    OFFER_BYTES,
    Answer,
    Answering,
    Item,
    Move,
    Offer,
    Offering,
    Standing,
    item_bytes,
    parse_item,
)
from agentmesh.session.needs import Suite
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


# --- faults that these schedules must see ----------------------------------------------------------------------------


def nothing_mixed() -> dict[tuple[type, str], Any]:
    begun, followed = Offering.begun, Answering.followed
    return {
        (Offering, "begun"): lambda self, *args: (begun(self, *args)[0], b""),
        (Answering, "followed"): lambda self, epoch: (it := followed(self, epoch)) and (it[0], b""),
    }


def mixed_before_it_is_held() -> dict[tuple[type, str], Any]:
    """B mixes in its next chain, whose first message has the answer."""

    def begun(self: Answering, _now_ms: int, _is_first: bool) -> tuple[Answering, bytes]:
        if self.standing is not Standing.ANSWERED:
            return self, b""
        return Answering(self.epoch + 1, self.standing, self.ref, self.answer, self.secret), self.secret

    return {(Answering, "begun"): begun}


def answered_anew() -> dict[tuple[type, str], Any]:
    take = Answering.take

    def taken(self: Answering, item: Item, entropy: Any) -> Answering:
        return take(Answering(self.epoch, self.standing, b"", self.answer, self.secret), item, entropy)

    return {(Answering, "take"): taken}


def answer_forgotten_once_it_is_sent() -> dict[tuple[type, str], Any]:
    return {(Answering, "item_out"): lambda self, *_: (self.answer, Answering(self.epoch))}


def one_key_pair_for_all() -> dict[tuple[type, str], Any]:
    item_out = Offering.item_out

    class Constant:
        def token(self, size: int) -> bytes:
            return bytes(size)

    return {(Offering, "item_out"): lambda self, now_ms, _entropy, limits: item_out(self, now_ms, Constant(), limits)}


def number_ignored() -> dict[tuple[type, str], Any]:
    take = Answering.take

    def taken(self: Answering, item: Item, entropy: Any) -> Answering:
        return take(self, item._replace(epoch=self.epoch + 1), entropy)

    return {(Answering, "take"): taken}


def taken_before_the_message_is_accepted() -> dict[tuple[type, str], Any]:
    delta = Opened.delta

    def deltas(self: Opened, entropy: Any, item: Item | None = None) -> Any:
        if item is not None:
            half: Any = self._epochs
            after = half.take(item, entropy)
            for name in ("epoch", "standing", "secret"):
                setattr(half, name, getattr(after, name))
        return delta(self, entropy, item)

    return {(Opened, "delta"): deltas}


def every_key_offered_twice() -> dict[tuple[type, str], Any]:
    item_out = Offering.item_out
    seeds: dict[int, bytes] = {}

    class Again:
        def __init__(self, half: Offering, entropy: Any) -> None:
            self.half, self.entropy = half, entropy

        def token(self, size: int) -> bytes:
            return seeds.setdefault(self.half.epoch // 2, self.entropy.token(size))

    return {
        (Offering, "item_out"): lambda self, now_ms, entropy, limits: item_out(
            self, now_ms, Again(self, entropy), limits
        )
    }


def answer_kept_when_it_has_served() -> dict[tuple[type, str], Any]:
    followed = Answering.followed

    def kept(self: Answering, epoch: int) -> Any:
        it = followed(self, epoch)
        if it is None or it[0] is self:
            return it
        return Answering(epoch, Standing.ANSWERED, self.ref, self.answer, self.secret), it[1]

    return {(Answering, "followed"): kept}


@pytest.mark.parametrize(
    "fault",
    [
        nothing_mixed,
        mixed_before_it_is_held,
        answered_anew,
        answer_forgotten_once_it_is_sent,
        one_key_pair_for_all,
        number_ignored,
        taken_before_the_message_is_accepted,
        every_key_offered_twice,
        answer_kept_when_it_has_served,
    ],
)
def test_a_fault_is_seen(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for (owner, name), becomes in fault().items():
        monkeypatch.setattr(owner, name, becomes)
    with pytest.raises((AssertionError, AgentMeshError)):
        many_schedules(150)


def many_schedules(count: int) -> None:
    for seed in range(count):
        healed_and_open(Talk(seed, epoch_turns=1), 0.2, (seed % 2,))


def test_that_nothing_is_repeated_is_no_fault_but_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    # An item that goes once is lost with its message: the epoch waits, and nothing else.
    item_out = Offering.item_out

    def once(self: Offering, *args: Any) -> tuple[bytes, Offering]:
        item, half = item_out(self, *args)
        return (b"", half) if self.standing is Standing.OFFERED else (item, half)

    monkeypatch.setattr(Offering, "item_out", once)
    many_schedules(20)


# --- when ------------------------------------------------------------------------------------------------------------


def items_of(a: Side, b: Side, round_trips: int) -> list[tuple[bool, bool, int]]:
    """Return of each round trip whether A offered and B answered, and A's epoch behind it."""
    told = []
    for _ in range(round_trips):
        offer = a.seal()
        offers = b.item_of(offer) is not None
        b.open(offer)
        answer = b.seal()
        answers = a.item_of(answer) is not None
        a.open(answer)
        told.append((offers, answers, a.half.epoch))
    return told


@N
def test_an_exchange_comes_exactly_when_it_is_due(turns: int) -> None:
    a, b = two_sides(epoch_turns=turns)
    told = items_of(a, b, 3 * (turns + 1) + 1)
    # A's first chain carries nothing; the one so many later offers, and the answer that comes back is mixed at once.
    for trip, (offers, answers, epoch) in enumerate(told):
        is_due = trip > 0 and trip % (turns + 1) == turns
        assert (offers, answers) == (is_due, is_due)
        assert epoch == (trip + 1) // (turns + 1)
    assert b.half.epoch in (a.half.epoch, a.half.epoch - 1)


def test_a_session_without_replies_costs_nothing_at_any_clock() -> None:
    a, b = two_sides(epoch_turns=1, epoch_seconds=1)
    sizes = set()
    for number in range(3000):
        a.now_ms = b.now_ms = NOW_MS + number * 3_600_000
        for side, other in ((a, b), (b, a)):
            message = side.seal()
            if number % 100 == 0:
                sizes.add(len(message))
            if side is a:
                other.open(message)
        assert (a.half.standing, b.half.standing) == (Standing.NOTHING_OUT, Standing.NOTHING_KEPT)
    assert len(sizes) == 1
    assert a.half.turns == a.half.epoch == 0


def test_time_makes_an_offer_due_with_one_chain_between_and_a_clock_set_back_does_not() -> None:
    a, b = two_sides(epoch_turns=1000, epoch_seconds=600)
    a.now_ms += 10_000_000
    first = a.seal()
    assert b.item_of(first) is None  # no chain between
    b.open(first)
    a.open(b.seal())
    a.now_ms = NOW_MS - 10_000_000
    b.open(a.seal())
    a.open(b.seal())
    assert a.half.standing is Standing.NOTHING_OUT
    a.now_ms = NOW_MS + 599_999
    b.open(a.seal())
    a.open(b.seal())
    assert a.half.standing is Standing.NOTHING_OUT
    a.now_ms = NOW_MS + 600_000
    b.open(a.seal())
    assert (a.half.standing, b.half.standing) == (Standing.OFFERED, Standing.ANSWERED)
    a.open(b.seal())
    assert (a.half.epoch, a.half.since_ms, a.half.turns) == (1, NOW_MS + 600_000, 0)


@N
def test_a_theft_at_the_worst_time_heals_with_the_chain_number_n_and_2(turns: int) -> None:
    a, b = two_sides(epoch_turns=turns)
    items_of(a, b, turns)
    offer = a.seal()  # drawn, and stolen right after
    keys, [seed] = secrets_of(a.ratchet)
    assert seed
    assert keys
    b.open(offer)
    a.open(b.seal())
    assert a.half.epoch == 1  # spoilt
    chains = 1
    while a.half.epoch == 1:
        round_trip(a, b)
        chains += 1
    assert chains == turns + 2


def test_no_offer_is_made_when_epochs_have_run_out() -> None:
    a, b = two_sides(epoch_turns=1)
    for side, half in ((a, Offering(COUNTER_MAX, turns=5)), (b, Answering(COUNTER_MAX))):
        side.ratchet.epochs = half
        chain = side.ratchet.receiving
        if chain is not None:
            chain.epoch = COUNTER_MAX
    assert items_of(a, b, 5) == [(False, False, COUNTER_MAX)] * 5
    assert Offering(0, turns=COUNTER_MAX).begun(NOW_MS, False)[0].turns == COUNTER_MAX


# --- lost and late ---------------------------------------------------------------------------------------------------


@given(ahead=st.integers(0, 5), after=st.integers(0, 5), lost=st.integers(0, 4))
@scaled(0.2)
def test_any_message_alone_opens_the_chain_that_mixes(ahead: int, after: int, lost: int) -> None:
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    for _ in range(lost):  # the first message of each chain is lost with its item
        a.seal(b"lost")
        b.open(a.seal())
        b.seal(b"lost")
        a.open(b.seal())
    b.open(a.seal())
    a.open(b.seal())
    assert a.half.epoch == 1
    chain = [a.seal(b"%d" % number) for number in range(ahead + 1 + after)]
    assert b.half.epoch == 0
    assert b.open(chain[ahead]) == b"%d" % ahead
    assert (b.half.epoch, b.half.standing) == (1, Standing.NOTHING_KEPT)
    for number in reversed(range(len(chain))):
        if number != ahead:
            assert b.open(chain[number]) == b"%d" % number
    a.open(b.seal())


@given(late=st.integers(0, 12))
@scaled(0.2)
def test_late_items_serve_while_they_can_and_change_nothing_after(late: int) -> None:
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    offer = a.seal(b"held back")
    for _ in range(late):
        round_trip(a, b)
    standing, epoch = b.half.standing, b.half.epoch
    serves = standing is Standing.NOTHING_KEPT and epoch == 0
    assert serves is (late <= 1)  # then the next chain of A has brought it
    assert b.open(offer) == b"held back"
    assert b.half.standing is (Standing.ANSWERED if serves else standing)
    assert b.half.epoch == epoch
    for _ in range(4):
        round_trip(a, b)
    assert b.half.epoch > epoch


def test_an_answer_that_comes_late_is_taken_behind_a_skipped_key_and_mixed_in_the_next_chain() -> None:
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    b.open(a.seal())
    answer, other = b.seal(b"with the answer"), b.seal(b"overtakes it")
    a.open(other)
    assert (a.half.standing, a.half.epoch) == (Standing.OFFERED, 0)
    a.open(answer)
    assert (a.half.standing, a.half.epoch) == (Standing.READY, 0)
    b.open(a.seal())
    a.open(b.seal())
    assert (a.half.standing, a.half.epoch) == (Standing.NOTHING_OUT, 1)
    b.open(a.seal())
    assert b.half.epoch == 1


def test_a_superseded_offer_of_a_restored_side_is_answered_and_heals() -> None:
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    snapshot = a.ratchet.copy()
    b.open(a.seal())  # B answers the first key
    answer = b.seal()
    a.ratchet = snapshot  # A is restored from before the draw
    a.seal(b"a duplicate for B")
    a.open(answer)  # not its key: left aside
    assert (a.half.standing, a.half.epoch) == (Standing.OFFERED, 0)
    ref = b.half.ref
    b.open(a.seal())
    assert b.half.ref != ref
    a.open(b.seal())
    assert a.half.epoch == 1
    b.open(a.seal())
    assert b.half.epoch == 1


def test_a_restored_responder_that_lost_its_answer_is_told_so_and_nothing_changes() -> None:
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    offer = a.seal()
    snapshot = b.ratchet.copy()
    b.open(offer)
    a.open(b.seal())
    b.ratchet = snapshot
    b.open(offer)
    before = b.state
    with pytest.raises(AgentMeshError):
        b.open(a.seal())
    assert b.state == before


# --- lies ------------------------------------------------------------------------------------------------------------


def lying(side: Side, epoch: int, n: int = 0) -> bytes:
    """Return an authentic message whose header names another epoch."""
    chain = side.ratchet.sending
    assert chain is not None
    key = chain.key
    for _ in range(n - chain.n):
        key, _ = SUITE.kdf_chain(key)
    header = (side.ratchet.public, epoch, chain.previous_length, n)
    message_key = SUITE.kdf_chain(key)[1]
    return b"".join(SUITE.seal(chain.header_key, message_key, header, CONTEXT, framed(b"", b"!"), bytes(24)))


def refuses(side: Side, message: bytes, error: type[AgentMeshError]) -> None:
    before = side.state
    with pytest.raises(error) as caught:
        side.open(message)
    assert type(caught.value) is error
    assert side.state == before


@pytest.fixture
def agreements(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of the costly primitives."""
    counted: Counter[str] = Counter()

    def counting(name: str, primitive: Any) -> Any:
        def call(*args: Any) -> Any:
            counted[name] += 1
            return primitive(*args)

        return call

    for name in ("x25519", "x25519_public", "kdf", "kem_key", "kem_encapsulate", "kem_decapsulate", "kem_check"):
        monkeypatch.setattr(_crypto, name, counting(name, getattr(_crypto, name)))
    return counted


@pytest.mark.parametrize("is_answered", [False, True], ids=["nothing kept", "answered"])
def test_an_epoch_that_cannot_be_is_a_contradiction_before_anything_is_computed(
    is_answered: bool, agreements: Counter[str]
) -> None:
    a, b = two_sides(epoch_turns=1)
    for _ in range(5):
        round_trip(a, b)
    assert a.half.epoch == b.half.epoch == 2
    if is_answered:
        b.open(a.seal())
        a.open(b.seal_with(b""))  # the answer does not come
    assert (b.half.standing is Standing.ANSWERED) is is_answered
    epoch = b.half.epoch
    forged = {number: lying(a, number) for number in (epoch - 1, epoch + 1, epoch + 2, COUNTER_MAX) if number >= 0}
    agreements.clear()
    for number, message in forged.items():
        if number == epoch + 1 and is_answered:
            continue  # the body is not A's then: it mixed nothing
        refuses(b, message, ContradictoryHeader)
    assert not agreements
    if is_answered:
        refuses(b, forged[epoch + 1], DecryptionFailed)
        assert agreements["x25519"] == 1


def test_only_the_initiator_mixes(agreements: Counter[str]) -> None:
    a, b = two_sides(epoch_turns=1)
    for _ in range(4):
        round_trip(a, b)
    b.open(a.seal())
    forged = [lying(b, number) for number in (a.half.epoch - 1, a.half.epoch + 1)]
    agreements.clear()
    for message in forged:
        refuses(a, message, ContradictoryHeader)
    assert not agreements


def test_an_epoch_does_not_change_within_a_chain(agreements: Counter[str]) -> None:
    a, b = two_sides(epoch_turns=1)
    for _ in range(3):
        round_trip(a, b)
    b.open(a.seal())
    epoch = a.half.epoch
    forged = [lying(a, number, n) for number in (0, epoch + 1, COUNTER_MAX) if number != epoch for n in (1, 3)]
    agreements.clear()
    for message in forged:
        refuses(b, message, ContradictoryHeader)
    assert not agreements
    assert b.open(a.seal()) == b"said"


@pytest.mark.parametrize("part", ["ciphertext", "tag"])
def test_a_false_answer_costs_its_data_nothing_and_the_next_true_one_serves(part: str) -> None:
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    b.open(a.seal())
    genuine = b.half.answer
    answer = answer_of(parse_item(genuine, False))
    false = answer._replace(**{part: bytes(len(getattr(answer, part)))})
    tracemalloc.start()
    for number in range(200):
        data = b"%d" % number
        assert a.open(b.seal_with(answer_bytes(false), data)) == data
        assert a.half.standing is Standing.OFFERED
        if number == 20:
            early, _ = tracemalloc.get_traced_memory()
    late, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert late - early < 20_000
    a.open(b.seal_with(genuine))
    assert a.half.standing is Standing.READY
    round_trip(a, b)
    assert a.half.epoch == 1
    b.open(a.seal())
    assert b.half.epoch == 1


def answer_bytes(answer: Answer) -> bytes:
    return answer.epoch.to_bytes(4, "big") + answer.ciphertext + answer.tag


def test_without_the_tag_a_false_answer_would_end_the_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_crypto, "constant_time_equal", lambda *_: True)
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    b.open(a.seal())
    answer = answer_of(parse_item(b.half.answer, False))
    a.open(b.seal_with(answer_bytes(answer._replace(ciphertext=KemCiphertext(bytes(1088))))))
    with pytest.raises(AgentMeshError):
        b.open(a.seal())


def test_an_item_of_another_epoch_or_not_asked_for_is_left_aside() -> None:
    a, b = two_sides(epoch_turns=1000)
    round_trip(a, b)
    key = KemPublicKey(_crypto.kem_public(_crypto.kem_key(bytes(64))))
    for epoch in (0, 2, COUNTER_MAX):
        assert b.half.take(Offer(epoch, key), b.entropy) is b.half
        assert a.half.take(Answer(epoch, KemCiphertext(bytes(1088)), bytes(32)), a.entropy) is a.half
    assert a.half.take(Answer(1, KemCiphertext(bytes(1088)), bytes(32)), a.entropy) is a.half  # nothing is out
    assert a.half.take(Offer(1, key), a.entropy) is a.half
    assert b.half.take(Answer(1, KemCiphertext(bytes(1088)), bytes(32)), b.entropy) is b.half


@pytest.mark.parametrize("from_initiator", [True, False], ids=["offer", "answer"])
def test_what_is_no_item_is_refused(from_initiator: bool) -> None:
    key = _crypto.kem_public(_crypto.kem_key(bytes(64)))
    genuine = bytes(4) + key if from_initiator else bytes(1124)
    assert len(genuine) == item_bytes(from_initiator) == (OFFER_BYTES if from_initiator else ANSWER_BYTES)
    assert parse_item(genuine, from_initiator).epoch == 0
    for wrong in (b"", genuine[:-1], genuine + b"\0", genuine[:4]):
        with pytest.raises(MessageRefused):
            parse_item(wrong, from_initiator)
    with pytest.raises(MessageRefused):
        parse_item(genuine, not from_initiator)


@given(epoch=st.integers(0, COUNTER_MAX), at=st.integers(0, 767))
@scaled(0.2)
def test_a_key_that_fails_the_modulus_check_is_a_bad_point_whatever_its_epoch(epoch: int, at: int) -> None:
    key = bytearray(_crypto.kem_public(_crypto.kem_key(bytes(64))))
    # Two coefficients of 12 bits stand in three bytes (FIPS 203, section 4.2.1); 3329 is the modulus.
    place, bits = 3 * (at // 2), int.from_bytes(key[3 * (at // 2) : 3 * (at // 2) + 3], "little")
    shift = 12 * (at % 2)
    bits = bits & ~(0xFFF << shift) | 3329 << shift
    key[place : place + 3] = bits.to_bytes(3, "little")
    with pytest.raises(BadPoint):
        parse_item(epoch.to_bytes(4, "big") + bytes(key), True)


def test_what_one_message_can_cause(agreements: Counter[str]) -> None:
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    offer = a.seal()
    agreements.clear()
    b.open(offer)
    # One check is the test's own randomness, which looks at what it is given.
    assert (agreements["kem_check"], agreements["kem_encapsulate"], agreements["kem_key"]) == (2, 1, 0)
    answer = b.seal()
    agreements.clear()
    a.open(answer)
    assert (agreements["kem_key"], agreements["kem_decapsulate"], agreements["x25519"]) == (0, 1, 2)  # it was kept live
    agreements.clear()
    b.open(a.seal())
    assert not {name for name in agreements if name.startswith("kem")}  # mixing costs nothing
    refuses(b, offer, DuplicateMessage)


@pytest.mark.parametrize("live_max", [0, 1, 3])
def test_a_key_that_is_not_live_any_more_is_made_from_its_seed(
    live_max: int, monkeypatch: pytest.MonkeyPatch, agreements: Counter[str]
) -> None:
    monkeypatch.setattr(epochs, "_LIVE_MAX", live_max)
    monkeypatch.setattr(epochs, "_LIVE", deque())
    pairs = [two_sides(seed, epoch_turns=1) for seed in range(3)]
    for a, b in pairs:
        round_trip(a, b)
        b.open(a.seal())
    assert agreements["kem_key"] == 3
    assert len(epochs._LIVE) == live_max
    for a, b in pairs:
        a.open(b.seal())
        assert a.half.epoch == 1
    assert agreements["kem_key"] == 3 + {0: 3, 1: 3, 3: 0}[live_max]
    assert sum(at() is not None for at in epochs._LIVE) == 0  # no half outlives its ratchet


# --- what is kept, and what is gone ----------------------------------------------------------------------------------


def test_what_spoils_one_epoch_spoils_not_the_next() -> None:
    for steps in range(2, 9):
        talk = Talk(steps, epoch_turns=1)
        for _ in range(steps):
            talk.round_trip(0.0)
        talk.send(0)
        talk.steal(0)
        talk.arrive(1, 0)
        talk.steal(1)
        stolen = talk.sides[0].half.epoch
        for _ in range(8):
            talk.round_trip(0.0)
        healed = talk.healed_from()
        assert healed is not None
        assert healed <= stolen + 2
        closure = talk.closure()
        assert not closure & {sent.key for sent in talk.sent if sent.epoch >= healed}
        assert closure & {sent.key for sent in talk.sent if sent.epoch == healed - 1}


def test_no_secret_is_left_once_it_has_served() -> None:
    talk = Talk(1, epoch_turns=1)
    a, b = talk.sides
    round_trip(a, b)
    offer = a.seal()
    seed = a.half.secret
    b.open(offer)
    mixed = b.half.secret
    assert {seed, mixed} <= everything_in(a) | everything_in(b)
    a.open(b.seal())
    assert seed not in everything_in(a)
    assert mixed not in everything_in(a)  # it was mixed in the step that took it
    b.open(a.seal())
    assert mixed not in everything_in(b)


def everything_in(side: Side) -> set[bytes]:
    """Return every byte string that a ratchet holds, in whatever it holds."""
    found: set[bytes] = set()
    seen: set[int] = set()
    left: list[Any] = [side.ratchet]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, bytes):
            found.add(value)
        elif not isinstance(value, type | Suite):
            left += gc.get_referents(value)
    return found


# --- the table -------------------------------------------------------------------------------------------------------


def standing_in(standing: Standing) -> Side:
    """Return a side in this standing, that has got there by talking."""
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    if standing is Standing.NOTHING_OUT:
        return a
    if standing is Standing.NOTHING_KEPT:
        return b
    offer = a.seal()
    if standing is Standing.OFFERED:
        return a
    b.open(offer)
    if standing is Standing.ANSWERED:
        return b
    answer, other = b.seal(), b.seal()
    a.open(other)
    a.open(answer)
    return a


def moved(half: Any, move: Move) -> Any:
    """Return the half after what would make this move, if it can be made."""
    other = KemPublicKey(_crypto.kem_public(_crypto.kem_key(bytes(64))))
    entropy, limits = SeededEntropy("moved"), Limits(epoch_turns=1)
    if move is Move.OFFERS:
        return half.item_out(NOW_MS, entropy, limits)[1] if type(half) is Offering else half
    if move is Move.IS_ANSWERED:
        seed = half.secret if len(half.secret) == 64 else bytes(64)
        key = KemPublicKey(_crypto.kem_public(_crypto.kem_key(seed)))
        answered = Answering(half.epoch).take(Offer(half.epoch + 1, key), entropy)
        return half.take(answer_of(parse_item(answered.answer, False)), entropy)
    if move is Move.MIXES:
        return half.begun(NOW_MS, False)[0]
    if move is Move.ANSWERS:
        return half.take(Offer(half.epoch + 1, other), entropy)
    after = half.followed(half.epoch + 1)
    return half if after is None else after[0]


@pytest.mark.parametrize("move", Move)
@pytest.mark.parametrize("standing", Standing)
def test_the_table_says_all_that_can_happen(standing: Standing, move: Move) -> None:
    half = standing_in(standing).half
    assert half.standing is standing
    if move is Move.OFFERS and standing is Standing.NOTHING_OUT:
        half = Offering(half.epoch, turns=1)
    after = moved(half, move)
    target = MOVES.get((standing, move))
    assert after.standing is (standing if target is None else target)
    if target is None:
        assert after.secret == half.secret
    else:
        assert after.secret != half.secret
    assert (after.epoch == half.epoch + 1) is (target is not None and move in (Move.MIXES, Move.FOLLOWS))


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standing", Standing)
def test_every_standing_is_restored_and_goes_on(standing: Standing) -> None:
    for restarts in (False, True):
        talk = Talk(7, epoch_turns=1)
        a, b = talk.sides
        seen = set()
        for _ in range(12):
            for side, other in ((a, b), (b, a)):
                first, second = side.seal(), side.seal()
                other.open(second)
                if restarts:
                    other.restarted()
                other.open(first)
                if restarts:
                    side.restarted()
                seen |= {a.half.standing, b.half.standing}
        assert standing in seen
        assert a.half.epoch >= 4


def test_what_contradicts_itself_is_not_restored() -> None:
    a, b = two_sides(epoch_turns=1)
    for _ in range(3):
        round_trip(a, b)
    b.open(a.seal())
    (e_a, offering, none_a), (e_b, none_b, answering) = a.state[-3:], b.state[-3:]
    assert (none_a, none_b) == (None, None)
    assert answering is not None
    receiving = a.state[4]
    wrong: list[tuple[Side, dict[int, Any]]] = [
        (a, {-2: None}),  # an initiator without its half
        (a, {-1: answering}),
        (a, {-2: None, -1: answering}),
        (b, {-2: offering}),
        (b, {-1: None, -2: offering}),
        (a, {-2: [*offering[:2], bytes(64), bytes(32)]}),  # seed and ready together
        (b, {-1: [answering[0], (e_b + 2).to_bytes(4, "big") + answering[1][4:], answering[2]]}),
        (b, {-1: [answering[0], e_b.to_bytes(4, "big") + answering[1][4:], answering[2]]}),
        (a, {-3: e_a + 1, 4: [*receiving[:3], e_a - 1, *receiving[4:]]}),  # two epochs behind
        (a, {4: [*receiving[:3], e_a + 1, *receiving[4:]]}),
        (b, {-3: e_b + 1}),
        (a, {-3: COUNTER_MAX, -2: [1, 0, bytes(64), None], 4: [*receiving[:3], COUNTER_MAX, *receiving[4:]]}),
    ]
    for side, changes in wrong:
        fields = list(side.state)
        for at, value in changes.items():
            fields[at] = value
        with pytest.raises(Malformed):
            restore_ratchet(fields, side.is_a)
    for side in (a, b):
        assert ratchet_fields(restore_ratchet(side.state, side.is_a)) == side.state
        with pytest.raises(Malformed):
            restore_ratchet(side.state, not side.is_a)


@pytest.mark.parametrize("change", [{-3: 1}, {-2: [1, 0, None, None]}, {-2: [0, 1, None, None]},
                                    {-2: [0, 0, bytes(64), None]}, {-2: [0, 0, None, bytes(32)]}])  # fmt: skip
def test_a_ratchet_that_has_heard_nothing_has_exchanged_nothing(change: dict[int, Any]) -> None:
    pending = Ratchet.initiator(
        SUITE,
        RootKey(bytes(32)),
        *SUITE.key_pair(SeededEntropy(0)),
        header_key_ab=HeaderKey(bytes(32)),
        header_key_ba=HeaderKey(bytes(32)),
    )
    fields = ratchet_fields(pending)
    restore_ratchet(list(fields), True)
    for at, value in change.items():
        fields[at] = value
    with pytest.raises(Malformed):
        restore_ratchet(fields, True)


def test_chains_that_late_messages_are_awaited_of_are_restored_and_no_others() -> None:
    a, b = two_sides(epoch_turns=2)
    held = []
    for turn in range(30):
        if turn % 3 == 0:
            held.append(a.seal(b"%d" % turn))
        b.open(a.seal())
        a.open(b.seal())
        b.restarted()
    serials = [chain.serial for chain in b.ratchet.past]
    assert serials == [*range(0, 24, 3), *range(24, 29)]
    fields = b.state
    past = fields[7]
    for wrong in (past[1:-1], past[:-1], [past[1], past[0], *past[2:]], [past[0], *past], past[:3] + past[-4:]):
        with pytest.raises(Malformed):
            restore_ratchet([*fields[:7], wrong, *fields[8:]], False)
    assert [b.open(message) for message in held] == [b"%d" % turn for turn in range(0, 30, 3)]


def test_a_close_that_answers_within_a_turn_that_mixes_names_the_epoch_after_it() -> None:
    a, b = two_sides(epoch_turns=1)
    round_trip(a, b)
    b.open(a.seal())
    opened, item, _ = a.look(b.seal(b"with the answer, and the last"))
    delta = opened.delta(a.entropy, item)
    assert delta.turn is not None
    parts, _, chain = a.ratchet.seal(framed(b"", b"close"), CONTEXT, bytes(24), delta.turn)
    a.ratchet.apply(delta)
    a.ratchet.apply_sealed(chain)
    assert a.half.epoch == 1
    assert b.open(b"".join(parts)) == b"close"
    assert b.half.epoch == 1


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_page_claims_what_these_tests_show_and_not_more() -> None:
    text = " ".join((Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text("utf-8").split())
    section = re.search(r"### What heals (.*?) ### ", text)
    assert section is not None
    for sentence in (
        # test_behind_the_healing_nothing_follows_from_what_was_stolen_and_before_it_everything
        "the first of these secrets whose key pair the initiator drew after the last theft of its state, and which the "
        "responder made after the last theft of its own",
        # test_a_theft_at_the_worst_time_heals_with_the_chain_number_n_and_2
        "at most `epoch_turns` + 2 round trips of which no first message of a chain is lost: "
        f"{Limits().epoch_turns + 2} at the default of {Limits().epoch_turns}, three where turns are more than ten "
        "minutes apart",
        # test_a_session_without_replies_costs_nothing_at_any_clock
        "a side that only sends, to a peer that never answers, stays as it is",
    ):
        assert sentence in section[1]
