"""Floods: what is kept from strangers, buckets under threads, and a relay's limits (sections 4 and 5.1)."""

from __future__ import annotations

import hashlib
import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    Header,
    Identity,
    Intent,
    Kind,
    KnockReceived,
    KnockRefused,
    Limits,
    OuterEnvelope,
    Reason,
    SessionEstablished,
)
from agentmesh.envelope import build
from agentmesh.errors import (
    ArgumentInvalid,
    BadSignature,
    Busy,
    EnvelopeReplayed,
    KnockNotAdmitted,
    KnockReplayed,
    KnockUnopened,
    RemoteError,
)
from agentmesh.primitives.buckets import Buckets, Rate
from agentmesh.relay import RelayLimiter
from agentmesh.relay.record import relay_record
from agentmesh.testing import SeededEntropy
from agentmesh.testing.pair import MESH
from agentmesh.trust import AdmissionPolicy, Tier, TrustLedger, issue_trust

NOW = 1_767_225_600_000
DAY = 86_400_000
OPEN = [Tier(min_score=500)]


def outcome(agent: Agent, envelope: bytes) -> Any:
    """An error's class, a REJECT's reason, or an event's class."""
    try:
        [event] = agent.receive(envelope)
    except RemoteError as error:
        return type(error)
    return event.reason if isinstance(event, KnockRefused) else type(event)


def stranger(name: object) -> Identity:
    return Identity.from_seed(hashlib.sha256(b"flood %a" % (name,)).digest())


FORGER = stranger("forger")


class Door:
    """Bob behind an AdmissionPolicy, Alice on its allow list, and anybody who knocks."""

    def __init__(self, forge: ModuleType, policy: AdmissionPolicy, **limits: int) -> None:
        self.forge = forge
        self.scene = forge.new_scene(Limits(**limits))
        self.policy = policy
        self.bob: Agent = self.scene.bob
        self.bob._core.policy = policy
        self.alice = self.scene.identity(self.scene.alice)
        self.mallory = self.scene.identity(self.scene.mallory)
        policy.allow(self.alice.key)
        self.last_resort = self.scene.last_resort()

    def knock(self, sender: Identity, *, age_ms: int = 1000, bundle: bytes | None = None, **changes: Any) -> Any:
        """A KNOCK of this identity on the last-resort bundle, with any part replaced and signed again."""
        crafted = self.forge.craft_knock(
            sender, bundle or self.last_resort, now_ms=self.scene.clock.now_ms, time_ms=self.scene.clock.now_ms - age_ms
        )
        return crafted.having(**changes).signed_by(sender) if changes else crafted

    def forged(self, claimed: Identity, number: int) -> bytes:
        """A KNOCK in this identity's name that somebody else made."""
        envelope: bytes = self.knock(claimed, age_ms=1000 + number).signed_by(FORGER).envelope
        return envelope

    def __call__(self, envelope: bytes) -> Any:
        return outcome(self.bob, envelope)


# --- ten thousand KNOCKs of strangers ---------------------------------------------------------------------------------


class Template:
    """Signed KNOCKs by the thousand: all that costs a Diffie-Hellman is taken from one of them, so that none opens."""

    def __init__(self, door: Door, bundle: bytes) -> None:
        self.crafted = door.knock(stranger("template"), bundle=bundle)
        self.header = OuterEnvelope.parse(self.crafted.envelope).header

    def by(self, sender: Identity, number: int) -> bytes:
        header = attrs.evolve(self.header, sender=sender.did).encode()
        expires_ms = self.crafted.part("expires_ms") - number  # so that each is new, even of one sender
        crafted = attrs.evolve(self.crafted, header=header).having(claimed=sender.key.raw, expires_ms=expires_ms)
        envelope: bytes = crafted.signed_by(sender).envelope
        return envelope


def held_by(agent: Agent) -> dict[str, int]:
    core = agent._core
    return {
        "knocks": len(core.state.knocks),
        "unopened": len(core.unopened),
        "peers": len(core.state.peers),
        "rates": len(core.budgets.knocks),
        "known": len(core.budgets.known_checks),
        "sessions": len(core.state.sessions),
        "undecided": len(core.state.undecided),
    }


def test_ten_thousand_knocks_of_strangers_leave_memory_and_stock_flat_and_honest_ones_get_in(
    forge: ModuleType,
) -> None:
    ledger, auditor, carol, dan = TrustLedger(MESH), stranger("auditor"), stranger("carol"), stranger("dan")
    ledger.believe(auditor.key)
    policy = AdmissionPolicy(ledger=ledger, tiers=OPEN, ask_from=0, one_time_per_hour=5)
    door = Door(forge, policy, remembered_knocks=56, unopened_knocks=50, tracked_identities=400, undecided_knocks=40)
    clock = door.scene.clock
    for day in range(3):  # a score, and no place on a list
        time_ms = clock.now_ms - (2 - day) * 2 * DAY
        ledger.apply(issue_trust(auditor, carol.key, 200, mesh=MESH, sequence=day, time_ms=time_ms), now_ms=time_ms)
    # Below the threshold, and no stranger: what waits for the application is kept for such as well.
    ledger.apply(issue_trust(auditor, dan.key, 5, mesh=MESH, sequence=1, time_ms=clock.now_ms), now_ms=clock.now_ms)
    shelf = door.scene.one_time(20)
    template, openable = Template(door, door.last_resort), 0
    counts: Counter[Any] = Counter()
    highest: Counter[str] = Counter()
    sizes: list[int] = []
    crowd = [stranger(number) for number in range(2_000)]
    for number in range(10_000):
        if number % 10 == 0:
            clock.advance(ms=5)
        sender = crowd[number % 2_000]
        if number % 50 == 1:  # genuine in everything, on a one-time bundle as long as there are any
            openable += 1
            envelope = door.knock(sender, bundle=shelf[openable % 20]).envelope
        elif number % 25 == 4:  # and on the last-resort bundle
            envelope = door.knock(sender, age_ms=1000 + number).envelope
        elif number % 50 == 2:
            envelope = door.forged(sender, number)
        else:
            envelope = template.by(sender, number)
        counts[door(envelope)] += 1
        if number % 500 == 250:
            highest |= Counter(held_by(door.bob))
        if number == 5_000:  # in their middle
            assert door(door.knock(door.alice, bundle=shelf[19]).envelope) is SessionEstablished
            assert door(door.knock(carol).envelope) is SessionEstablished
            assert door(door.knock(dan, bundle=shelf[18]).envelope) is KnockReceived
        if number in (6_000, 9_999):
            sizes.append(len(door.bob.export_state()))
    assert sizes[0] == sizes[1]
    # Three quarters of every memory are theirs, and no more. What does not open has one of its own, all of it theirs.
    assert highest["knocks"] == 45
    assert highest["unopened"] == 50
    assert highest["peers"] <= 303
    assert highest["rates"] <= 303
    assert highest["known"] == 3
    assert highest["undecided"] <= 31
    assert highest["sessions"] <= 33
    # Six of twenty one-time bundles went: four of five to all the strangers together, Dan's, and Alice's.
    assert door.bob._core.state.unused_one_time(clock.now_ms) == 14
    assert counts[Busy] > 8_500
    assert counts[KnockUnopened] <= 6 * 300  # in five seconds, by as many as have a bucket
    assert sum(counts.values()) == 10_000
    assert set(counts) <= {Busy, BadSignature, KnockUnopened, KnockReceived, Reason.BUSY, Reason.BUNDLE, Reason.STALE}
    # And who was let in still talks.
    assert len(door.bob.send(door.alice.did, b"well?").envelope) > 0


def test_behind_a_floor_ten_thousand_strangers_leave_nothing_at_all(forge: ModuleType) -> None:
    door = Door(forge, AdmissionPolicy(tiers=OPEN, knock_floor=1))
    template = Template(door, door.last_resort)
    before = (door.bob.export_state(), held_by(door.bob))
    envelope = template.by(stranger("one"), 0)
    counts = Counter(door(envelope) for _ in range(9_000))
    counts.update(door(template.by(stranger(number), number)) for number in range(1_000))
    assert counts == {KnockNotAdmitted: 10_000}
    assert (door.bob.export_state(), held_by(door.bob)) == before
    assert door(door.knock(door.alice).envelope) is SessionEstablished


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_strangers_leave_a_quarter_of_the_signature_checks(forge: ModuleType) -> None:
    door = Door(forge, AdmissionPolicy(tiers=OPEN), signature_checks_per_second=40)
    flood = [door.forged(door.mallory, number) for number in range(35)]
    assert Counter(map(door, flood)) == {BadSignature: 30, Busy: 5}
    assert door(door.knock(door.alice).envelope) is SessionEstablished
    # What comes back goes to the known first: strangers wait until their part is there again.
    door.scene.clock.advance(ms=25)
    assert door(flood[0]) is Busy
    door.scene.clock.advance(ms=25)
    assert door(flood[0]) is BadSignature


def test_whoever_forges_a_known_name_uses_up_that_names_share_alone(forge: ModuleType) -> None:
    door = Door(forge, AdmissionPolicy(tiers=OPEN), signature_checks_per_second=120, knocks_per_identity=20)
    ben = stranger("ben")
    door.policy.allow(ben.key)
    strangers = [door.forged(door.mallory, number) for number in range(90)]
    assert Counter(map(door, strangers)) == {BadSignature: 90}
    in_alices_name = [door.forged(door.alice, number) for number in range(40)]
    assert Counter(map(door, in_alices_name)) == {BadSignature: 20, Busy: 20}
    assert door(door.knock(ben).envelope) is SessionEstablished
    # Alice is a stranger among strangers until her share comes back, at her own rate.
    genuine = door.knock(door.alice).envelope
    assert door(genuine) is Busy
    door.scene.clock.advance(seconds=1)
    assert door(genuine) is SessionEstablished


def test_whoever_replays_a_known_knock_uses_up_that_names_share_alone(forge: ModuleType) -> None:
    door = Door(forge, AdmissionPolicy(tiers=OPEN), signature_checks_per_second=120, answers_per_knock=1)
    ben = stranger("ben")
    door.policy.allow(ben.key)
    genuine = door.knock(door.alice).envelope
    assert door(genuine) is SessionEstablished
    replayed = Counter(door(genuine) for _ in range(500))
    assert replayed[Busy] == 500 - 89  # 90 of 120 are anybody's
    assert door(door.knock(ben).envelope) is SessionEstablished


def test_a_key_under_a_name_that_is_not_its_own_gets_no_share(forge: ModuleType) -> None:
    door = Door(forge, AdmissionPolicy(tiers=OPEN))
    crafted = door.knock(door.mallory, claimed=door.alice.key.raw)
    assert door(crafted.envelope).__name__ == "SenderMismatch"
    assert len(door.bob._core.budgets.known_checks) == 0


@pytest.mark.parametrize("answer", [False, None, 1, "yes", ValueError])
def test_only_true_makes_known_and_whatever_goes_wrong_a_stranger(forge: ModuleType, answer: Any) -> None:
    def is_known(_key: bytes) -> Any:
        if answer is ValueError:
            raise ValueError
        return answer

    door = Door(forge, AdmissionPolicy(tiers=OPEN), signature_checks_per_second=40)
    door.policy.is_known = is_known  # type: ignore[method-assign, assignment]
    assert Counter(door(door.forged(door.mallory, number)) for number in range(31)) == {BadSignature: 30, Busy: 1}
    assert door(door.knock(door.alice).envelope) is Busy


def test_a_policy_that_tells_nobody_apart_keeps_nothing_back(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits(signature_checks_per_second=40))
    last_resort = scene.last_resort()
    flood = [
        scene.craft(last_resort, time_ms=scene.clock.now_ms - number).signed_by(FORGER).envelope for number in range(41)
    ]
    assert Counter(outcome(scene.bob, envelope) for envelope in flood) == {BadSignature: 40, Busy: 1}


@pytest.mark.parametrize("limit", ["remembered_knocks", "tracked_identities"])
def test_strangers_leave_a_quarter_of_each_memory(forge: ModuleType, limit: str) -> None:
    door = Door(forge, AdmissionPolicy(tiers=OPEN), **{limit: 20})
    crowd = [door.knock(stranger(number)).envelope for number in range(18)]
    assert Counter(map(door, crowd)) == {Reason.POLICY: 15, Busy: 3}
    friends = [stranger(f"friend {number}") for number in range(6)]
    for friend in friends:
        door.policy.allow(friend.key)
    before_last = Counter(door(door.knock(friend).envelope) for friend in friends[:5])
    assert before_last == {SessionEstablished: 5}
    before = door.bob.export_state()
    assert door(door.knock(friends[5]).envelope) is Busy
    assert door.bob.export_state() == before


def test_strangers_leave_a_quarter_of_the_rates(forge: ModuleType) -> None:
    door = Door(forge, AdmissionPolicy(tiers=OPEN), tracked_identities=20)
    budgets, now_ms = door.bob._core.budgets, door.scene.clock.now_ms
    for number in range(20):
        budgets.knocks.take(number, now_ms, leave_keys=5)
    assert len(budgets.knocks) == 15
    assert door(door.knock(stranger("one more")).envelope) is Busy
    assert door(door.knock(door.alice).envelope) is SessionEstablished


def test_strangers_leave_a_quarter_of_what_waits_for_the_application(forge: ModuleType) -> None:
    policy = AdmissionPolicy(ask_from=0)
    door = Door(forge, policy, undecided_knocks=8)
    crowd = [door.knock(stranger(number)).envelope for number in range(8)]
    assert Counter(map(door, crowd)) == {KnockReceived: 6, Reason.BUSY: 2}
    assert door(door.knock(door.alice).envelope) is KnockReceived


def test_strangers_leave_a_quarter_of_the_sessions(forge: ModuleType) -> None:
    door = Door(forge, AdmissionPolicy(ask_from=0), sessions_max=8)
    crowd = [door.knock(stranger(number)).envelope for number in range(8)]
    assert Counter(map(door, crowd)) == {KnockReceived: 6, Reason.BUSY: 2}
    assert door(door.knock(door.alice).envelope) is KnockReceived


def test_strangers_leave_a_quarter_of_the_repeated_answers(forge: ModuleType) -> None:
    door = Door(forge, AdmissionPolicy(tiers=OPEN), remembered_knocks=8)
    answers, now_ms = door.bob._core.budgets.answers, door.scene.clock.now_ms
    crowd = [door.knock(stranger(number)).envelope for number in range(6)]
    assert Counter(map(door, crowd)) == {Reason.POLICY: 6}
    genuine = door.knock(door.alice).envelope
    assert door(genuine) is SessionEstablished
    for number in range(6):
        answers.take(number, now_ms)
    assert door(crowd[0]).__name__ == "AnswerOverdue"
    assert door(genuine).__name__ == "AnswerRepeated"


def test_a_flood_neither_resets_a_throttled_identity_nor_ends_a_session(forge: ModuleType) -> None:
    door = Door(forge, AdmissionPolicy(tiers=OPEN), tracked_identities=40, knocks_per_identity=2)
    established = door.knock(door.alice, age_ms=5000).envelope
    assert door(established) is SessionEstablished
    noisy = [door.knock(stranger("noisy"), age_ms=4000 - number).envelope for number in range(6)]
    assert Counter(map(door, noisy[:4])) == {Reason.POLICY: 2, Busy: 2}
    crowd = [door.knock(stranger(number)).envelope for number in range(60)]
    assert {Busy, Reason.POLICY} == set(map(door, crowd))  # as many as there is room for, and more
    assert [door(envelope) for envelope in noisy[4:]] == [Busy] * 2
    assert len(door.bob.send(door.alice.did, b"still here").envelope) > 0


# --- buckets ----------------------------------------------------------------------------------------------------------


class Contended:
    """A key whose hash is computed in Python, so that another thread may come in wherever it is looked up."""

    def __init__(self, name: str = "key") -> None:
        self.name = name

    def __hash__(self) -> int:
        return sum(map(ord, self.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contended) and other.name == self.name


@pytest.fixture
def _switching() -> Iterator[None]:
    """Threads switch as often as they can, so that a lock that is missing shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-7)
    yield
    sys.setswitchinterval(before)


def race(threads: int, work: Callable[[], None]) -> None:
    start = threading.Barrier(threads)

    def run() -> None:
        start.wait()
        work()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


class Witness(Contended):
    """A key that notes whether a lock is held whenever it is looked up."""

    def __init__(self, lock: Any) -> None:
        super().__init__()
        self.lock, self.seen = lock, []

    def __hash__(self) -> int:
        self.seen.append(self.lock.locked())
        return super().__hash__()

    __eq__ = Contended.__eq__


def test_nobody_looks_into_a_bucket_without_its_lock() -> None:
    buckets = Buckets(Rate(5, 1, 1000), max_keys=5)
    key = Witness(buckets._lock)
    buckets.take(key, NOW)
    buckets.has(key, NOW)
    buckets.give_back(key)
    assert len(key.seen) >= 4
    assert all(key.seen)


def test_a_relay_checks_and_charges_under_one_lock() -> None:
    relay = Relay()
    source = Witness(relay.limiter._lock)
    assert passes(relay, envelope(HONEST, 0), source=source)
    first, *rest = source.seen  # the first look only asks whether it can be a key
    assert not first
    assert rest
    assert all(rest)


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("leave", [0, 25])
def test_sixty_four_threads_get_exactly_what_is_in_the_bucket(leave: int) -> None:
    buckets, got = Buckets(Rate(100, 1, 1000), max_keys=1), []

    def work() -> None:
        for _ in range(10):
            if buckets.take(Contended(), NOW, leave=leave):
                got.append(1)  # appending is atomic

    race(64, work)
    assert len(got) == 100 - leave


@pytest.mark.usefixtures("_switching")
def test_sixty_four_threads_make_no_more_keys_than_there_is_room_for() -> None:
    buckets, numbers = Buckets(Rate(1, 1, 1000), max_keys=100), iter(range(10_000))
    race(64, lambda: [buckets.take(Contended(f"{next(numbers)}"), NOW, leave_keys=40) for _ in range(10)] and None)
    assert len(buckets) == 60


@given(burst=st.integers(1, 20), leave=st.integers(0, 25), max_keys=st.integers(1, 10), leave_keys=st.integers(0, 12))
def test_what_is_left_is_left(burst: int, leave: int, max_keys: int, leave_keys: int) -> None:
    buckets = Buckets(Rate(burst, 1, 1000), max_keys=max_keys)
    assert sum(buckets.take(0, NOW, leave=leave) for _ in range(30)) == max(0, burst - leave)
    assert sum(buckets.take(0, NOW) for _ in range(30)) == min(burst, leave)
    assert buckets.has(0, NOW) is buckets.has(0, NOW, leave=leave) is False
    others = Buckets(Rate(burst, 1, 1000), max_keys=max_keys)
    assert sum(others.take(key, NOW, leave_keys=leave_keys) for key in range(20)) == max(0, max_keys - leave_keys)
    assert sum(others.take(key, NOW) for key in range(100, 120)) == min(max_keys, leave_keys)


@pytest.mark.parametrize("value", [-1, -100, True, 1.0, math.nan, None, "5"])
def test_no_number_of_a_bucket_gives_what_is_not_there(value: Any) -> None:
    for rate, max_keys in ((Rate(1, 1, 1000), value), (value, 5)):
        with pytest.raises(ArgumentInvalid):
            Buckets(rate, max_keys=max_keys)
    buckets = Buckets(Rate(1, 1, 1000), max_keys=1)
    assert buckets.take("key", NOW)
    for call in (buckets.take, buckets.has):
        for leave in ("leave", "leave_keys"):
            with pytest.raises(ArgumentInvalid) as caught:
                call("key", NOW, **{leave: value})
            assert caught.value.argument == leave
        if type(value) is not int:
            with pytest.raises(ArgumentInvalid):
                call("key", value)
    assert not buckets.take("key", NOW)


def test_memory_follows_those_that_owe_something() -> None:
    buckets = Buckets(Rate(1, 1, 1000), max_keys=65_536)
    for number in range(1000):
        assert buckets.take(number, NOW)
    assert len(buckets) == 1000
    for number in range(1000, 3000):  # one every ten milliseconds: a hundred of them owe something at a time
        assert buckets.take(number, NOW + number * 10)
    assert len(buckets) <= 102


def test_keys_from_a_clock_that_was_ahead_make_room_again() -> None:
    buckets = Buckets(Rate(1, 1, 1000), max_keys=40)
    year = 365 * DAY
    assert all(buckets.take(number, NOW + 10 * year) for number in range(40))
    refused = [buckets.take(f"new {number}", NOW + number * 100) for number in range(100)]
    # What they owe is owed from here on, as it is for keys that come back: a second later there is room.
    assert not any(refused[:10])
    assert sum(refused) >= 40
    assert len(buckets) <= 40


@pytest.mark.parametrize("value", [0, -1, -100, True, 1.0, math.nan, None, "5", 2**53])
@pytest.mark.parametrize("name", ["burst", "tokens", "period_ms"])
def test_a_rate_is_three_positive_integers(name: str, value: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Rate(**{"burst": 1, "tokens": 1, "period_ms": 1, name: value})
    assert caught.value.argument == name


# --- a relay ----------------------------------------------------------------------------------------------------------

ROUTE = stranger("recipient").did


def envelope(sender: str, number: int) -> OuterEnvelope:
    header = Header(kind=Kind.MESSAGE, mesh=MESH, sender=sender, recipient=ROUTE, time_ms=NOW + number)
    return OuterEnvelope.parse(build(header.encode(), b"body %d" % number))


HONEST, NOISY = stranger("honest").did, stranger("noisy").did


class Relay:
    """A limiter, and the clock that it reads."""

    def __init__(self, **options: Any) -> None:
        self.now_ms: Any = NOW
        self.limiter = RelayLimiter(clock=lambda: self.now_ms, **options)

    def admit(self, outer: OuterEnvelope, *, now_ms: Any, source: Any = None) -> OuterEnvelope:
        self.now_ms = now_ms
        return self.limiter.admit(outer, source=source)

    def __len__(self) -> int:
        return len(self.limiter)


def passes(relay: Relay, outer: OuterEnvelope, now_ms: int = NOW, source: Any = None) -> bool:
    try:
        assert relay.admit(outer, now_ms=now_ms, source=source) is outer
    except Busy:
        return False
    return True


def test_the_limits_of_one_identity_and_of_all() -> None:
    limiter = Relay()
    assert sum(passes(limiter, envelope(NOISY, number)) for number in range(80)) == 50
    passed = [passes(limiter, envelope(stranger(number // 50).did, number)) for number in range(600)]
    assert sum(passed) == 450
    assert not passes(limiter, envelope(HONEST, 0))
    # Whom the common bucket refuses its own does not charge.
    assert passes(limiter, envelope(NOISY, 1000), NOW + 1000)
    assert sum(passes(limiter, envelope(HONEST, number), NOW + 1000) for number in range(80)) == 50


def test_a_receipt_passes_once_in_its_window_and_a_replay_charges_nobody() -> None:
    limiter = Relay(replay_window_seconds=10)
    outer = envelope(HONEST, 0)
    assert passes(limiter, outer)
    for late_ms in (0, 1, 10_000):
        for _ in range(100):
            with pytest.raises(EnvelopeReplayed):
                limiter.admit(outer, now_ms=NOW + late_ms)
    assert sum(passes(limiter, envelope(HONEST, number), NOW + 10_000) for number in range(1, 60)) == 50
    assert passes(limiter, outer, NOW + 11_001)
    # Another form of the same bytes is another envelope; the same bytes anew are the same.
    with pytest.raises(EnvelopeReplayed):
        limiter.admit(envelope(HONEST, 0), now_ms=NOW + 11_001)


def test_the_memory_of_receipts_keeps_its_whole_window_and_fails_closed() -> None:
    limiter = Relay(replay_window_seconds=10, max_receipts=20, is_known=lambda source: source == "known")
    first = [envelope(HONEST, number) for number in range(20)]
    assert sum(passes(limiter, outer) for outer in first) == 15  # of 20, five are kept for the known
    crowd = [envelope(stranger(number).did, number) for number in range(100)]
    assert not any(passes(limiter, outer, NOW + 10_000) for outer in crowd)
    # Where there is room, each is known for what it is; where there is none, nothing is even hashed.
    for outer in first[:15]:
        with pytest.raises(EnvelopeReplayed):
            limiter.admit(outer, now_ms=NOW + 10_000, source="known")
        assert not passes(limiter, outer, NOW + 10_000)
    assert all(passes(limiter, outer, NOW + 10_000, "known") for outer in first[15:])
    assert not passes(limiter, envelope(HONEST, 99), NOW + 10_000, "known")
    assert len(limiter) == 20
    assert sum(passes(limiter, outer, NOW + 10_001) for outer in crowd) == 10
    assert len(limiter) == 15


def test_by_default_the_memory_of_receipts_is_never_the_first_to_be_full() -> None:
    limiter = Relay(per_identity=40, together=40, replay_window_seconds=3, max_identities=10)
    passed = 0
    for tenth in range(200):
        now_ms = NOW + tenth * 100
        for number in range(20):
            passed += passes(limiter, envelope(HONEST, 20 * tenth + number), now_ms)
        assert len(limiter) <= 160
    assert passed == 40 + 19_900 * 40 // 1000


def test_throwaway_sources_reset_nobody_and_starve_nobody_known() -> None:
    limiter = Relay(
        per_identity=5, together=40, max_identities=40, is_known=lambda source: source == HONEST, max_receipts=1000
    )
    assert sum(passes(limiter, envelope(NOISY, number)) for number in range(10)) == 5
    crowd = [passes(limiter, envelope(stranger(number).did, number)) for number in range(200)]
    assert sum(crowd) == 25  # of 40, ten are kept, and five were the noisy one's
    assert not passes(limiter, envelope(NOISY, 99))
    assert sum(passes(limiter, envelope(HONEST, number)) for number in range(10)) == 5
    # Many sources, each for the first time, second after second: the number that is remembered is bounded.
    for second in range(1, 20):
        for number in range(60):
            passes(limiter, envelope(stranger((second, number)).did, number), NOW + 1000 * second)
        assert len(limiter.limiter._sources) <= 40
        assert passes(limiter, envelope(HONEST, 100 + second), NOW + 1000 * second)


def test_strangers_leave_a_quarter_of_both_memories() -> None:
    limiter = Relay(together=1000, max_identities=8, max_receipts=12, is_known=lambda source: source == HONEST)
    assert sum(passes(limiter, envelope(stranger(number).did, number)) for number in range(8)) == 6
    assert sum(passes(limiter, envelope(stranger(0).did, number)) for number in range(100, 110)) == 3
    assert sum(passes(limiter, envelope(HONEST, number)) for number in range(10)) == 3
    assert len(limiter) == 12


def test_what_is_charged_is_what_the_relay_authenticated() -> None:
    limiter = Relay(per_identity=3)
    # Somebody on one connection writes an honest name into its envelopes, and spends its own.
    forged = [passes(limiter, envelope(HONEST, number), source="connection 7") for number in range(10)]
    assert sum(forged) == 3
    assert sum(passes(limiter, envelope(HONEST, number), source="connection 8") for number in range(10, 20)) == 3


@given(
    st.lists(st.tuples(st.integers(-100_000, 100_000) | st.sampled_from([-100, 100]), st.integers(1, 30)), max_size=10)
)
def test_whatever_the_clock_does_only_the_time_that_it_covers_counts(steps: list[tuple[int, int]]) -> None:
    limiter, now_ms, times = Relay(per_identity=10, together=10, replay_window_seconds=5), NOW, [NOW]
    passed, number = 0, 0
    for step_ms, count in steps:
        now_ms += step_ms
        times.append(now_ms)
        for _ in range(count):
            number += 1
            passed += passes(limiter, envelope(HONEST, number), now_ms)
    assert passed <= 10 + (max(times) - min(times)) * 10 / 1000
    # Six seconds after the latest time, all receipts are forgotten and the bucket is full.
    now_ms = max(times) + 6000
    assert sum(passes(limiter, envelope(HONEST, number + more), now_ms) for more in range(1, 20)) == 10
    assert len(limiter) <= 10


def test_two_clocks_a_little_apart_let_no_more_pass_than_one() -> None:
    limiter = Relay(per_identity=50, together=500)
    passed = [
        passes(limiter, envelope(HONEST, number), NOW + number // 80 + 100 * (number % 2)) for number in range(8000)
    ]
    assert sum(passed) <= 50 + 200 * 50 // 1000  # 8,000 offers within 200 ms, at 50 a second
    # And nobody waits for it: a second after the latest, the bucket is full again.
    assert sum(passes(limiter, envelope(HONEST, 8000 + number), NOW + 1200) for number in range(60)) == 50


def test_a_clock_that_goes_to_and_fro_brings_no_receipt_back() -> None:
    limiter, outer = Relay(replay_window_seconds=300), envelope(HONEST, 0)
    assert passes(limiter, outer)
    for _ in range(4000):
        for late_ms in (100, 0):
            with pytest.raises(EnvelopeReplayed):
                limiter.admit(outer, now_ms=NOW + late_ms)


def test_what_is_not_let_pass_is_not_hashed() -> None:
    limiter = Relay(per_identity=1)
    assert passes(limiter, envelope(HONEST, 0))
    refused = [envelope(HONEST, number) for number in range(1, 50)]
    assert not any(passes(limiter, outer) for outer in refused)
    full = Relay(together=2)
    assert [passes(full, envelope(stranger(number).did, 0)) for number in range(2)] == [True, True]
    refused += [outer := envelope(HONEST, 99)]
    assert not passes(full, outer)
    crowded = Relay(max_identities=1)
    assert passes(crowded, envelope(NOISY, 0))
    refused += [outer := envelope(HONEST, 100)]
    assert not passes(crowded, outer)
    assert all(outer._receipt is None for outer in refused)


def test_a_clock_that_was_ten_years_ahead_leaves_nothing_behind() -> None:
    limiter = Relay(replay_window_seconds=5, max_receipts=3)
    year = 365 * DAY
    assert all(passes(limiter, envelope(HONEST, number), NOW + 10 * year) for number in range(3))
    assert not passes(limiter, envelope(HONEST, 3), NOW)
    assert passes(limiter, envelope(HONEST, 3), NOW + 5001)


@pytest.mark.usefixtures("_switching")
def test_sixty_four_threads_pass_exactly_what_the_buckets_hold() -> None:
    limiter, got = Relay(per_identity=1000, together=100), []
    numbers = iter(range(10_000))

    def work() -> None:
        for _ in range(10):
            if passes(limiter, envelope(HONEST, next(numbers)), source=Contended()):
                got.append(1)

    race(64, work)
    assert len(got) == len(limiter) == 100


def test_who_is_overtaken_while_it_is_hashed_is_looked_at_again() -> None:
    limiter = Relay(per_identity=5, together=5)

    class Overtaken(OuterEnvelope):  # type: ignore[misc]
        @property
        def receipt(self) -> Any:
            for number in range(5):
                assert passes(limiter, envelope(HONEST, number))
            return super().receipt

    slow = Overtaken(envelope(HONEST, 99).envelope, Limits())
    assert not passes(limiter, slow)
    assert len(limiter) == 5


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("spread_ms", [0, 100])
def test_threads_pass_no_more_than_the_time_that_their_clock_covers(spread_ms: int) -> None:
    # A clock that hands out times in another order than it took them, as threads that are held up between do.
    ticks, times, under_lock, got = iter(range(10**9)), [], [], []

    def clock() -> int:
        number = next(ticks)
        now_ms = NOW + number // 20 - spread_ms * (number % 3 == 0)
        times.append(now_ms)
        under_lock.append(limiter._lock.locked())
        return now_ms

    limiter = RelayLimiter(per_identity=50, together=100, clock=clock)
    numbers = iter(range(10_000))

    def work() -> None:
        for _ in range(40):
            try:
                limiter.admit(envelope(HONEST, next(numbers)), source=Contended())
            except Busy:
                continue
            got.append(1)

    race(32, work)
    assert all(under_lock)
    assert 50 <= len(got) <= 50 + (max(times) - min(times)) * 50 / 1000
    assert len(got) == len(limiter)


@pytest.mark.usefixtures("_switching")
def test_threads_that_bring_their_own_time_get_no_more_than_it_covers() -> None:
    buckets, ticks, times, got = Buckets(Rate(50, 50, 1000), max_keys=1), iter(range(10**9)), [], []

    def work() -> None:
        for _ in range(100):
            now_ms = NOW + next(ticks) // 10
            times.append(now_ms)
            if buckets.take(Contended(), now_ms):  # in the order of the threads, and not of their times
                got.append(1)

    race(32, work)
    assert 50 <= len(got) <= 50 + (max(times) - min(times)) * 50 / 1000


@pytest.mark.usefixtures("_switching")
def test_one_envelope_passes_once_whoever_brings_it_first() -> None:
    limiter, outer, got = Relay(), envelope(HONEST, 0), []

    def work() -> None:
        try:
            limiter.admit(outer, now_ms=NOW, source=Contended())
        except EnvelopeReplayed:
            return
        got.append(1)

    race(64, work)
    assert got == [1]


@pytest.mark.parametrize("answer", [False, None, 1, "yes", ValueError])
def test_only_true_makes_a_known_source(answer: Any) -> None:
    def is_known(_source: object) -> Any:
        if answer is ValueError:
            raise ValueError
        return answer

    limiter = Relay(per_identity=8, together=8, is_known=is_known)
    assert sum(passes(limiter, envelope(HONEST, number)) for number in range(10)) == 6


@pytest.mark.parametrize("value", [0, -1, True, 1.0, math.nan, None, "50", 2**53])
@pytest.mark.parametrize(
    "name", ["per_identity", "together", "reserved_one_in", "max_identities", "replay_window_seconds", "max_receipts"]
)
def test_a_limit_is_a_positive_integer(name: str, value: Any) -> None:
    if name == "max_receipts" and value is None:
        return
    with pytest.raises(ArgumentInvalid) as caught:
        Relay(**{name: value})
    assert caught.value.argument == name


def test_other_arguments_of_a_limiter() -> None:
    for name in ("is_known", "clock"):
        with pytest.raises(ArgumentInvalid) as caught:
            RelayLimiter(**{name: 5})
        assert caught.value.argument == name
    with pytest.raises(ArgumentInvalid):
        RelayLimiter(clock=None)  # type: ignore[arg-type]
    limiter = Relay()
    for outer, now_ms in ((b"bytes", NOW), (None, NOW), (envelope(HONEST, 0), None), (envelope(HONEST, 0), 1.0)):
        with pytest.raises(ArgumentInvalid):
            limiter.admit(outer, now_ms=now_ms)  # type: ignore[arg-type]
    for source in ([], {}, ([],)):
        with pytest.raises(ArgumentInvalid):
            limiter.admit(envelope(HONEST, 0), now_ms=NOW, source=source)
    assert len(limiter) == 0


def test_a_clock_that_fails_is_the_caller_s() -> None:
    def fails() -> int:
        raise OSError("no clock")

    limiter = RelayLimiter(clock=fails)
    with pytest.raises(ArgumentInvalid) as caught:
        limiter.admit(envelope(HONEST, 0))
    assert (caught.value.argument, caught.value.__context__) == ("clock", None)
    assert not limiter._lock.locked()


def test_a_relay_limits_and_records_a_genuine_knock(forge: ModuleType) -> None:
    scene, limiter = forge.new_scene(), Relay()
    knock = scene.alice.knock(scene.bob.did, scene.last_resort(), Intent("hello")).envelope
    outer = limiter.admit(OuterEnvelope.parse(knock), now_ms=scene.clock.now_ms)
    assert relay_record(outer, at_ms=scene.clock.now_ms).sender == scene.alice.did
    with pytest.raises(EnvelopeReplayed):
        limiter.admit(OuterEnvelope.parse(bytes(knock)), now_ms=scene.clock.now_ms)
    assert outcome(scene.bob, bytes(knock)) is KnockReceived
    assert outcome(scene.bob, bytes(knock)) is KnockReplayed


def test_strategies_of_the_flood_are_what_they_say() -> None:
    # The seeds of this file give distinct identities.
    assert len({stranger(number).did for number in range(50)}) == 50
    assert stranger("a").did != Identity.generate(SeededEntropy("a")).did
