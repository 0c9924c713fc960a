"""What is kept to be offered again: bounded whatever is offered, and fair to whom the envelopes claim."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentmesh import Agent, Identity, Intent, KnockReceived, Limits, MessageReceived, TryAgain
from agentmesh.envelope import Header, Kind, build
from agentmesh.errors import ArgumentInvalid, Busy, NotYet
from agentmesh.retries import Retries
from agentmesh.testing import ManualClock, SeededEntropy

NOW = 1_767_225_600_000
MESH = "example/test"
SENDERS = [Identity.generate(SeededEntropy(f"retries {number}")).did for number in range(4)]


def envelope_of(sender: int, number: int, size: int) -> bytes:
    """An envelope that claims this sender, with a body of so many bytes."""
    header = Header(kind=Kind.KNOCK, mesh=MESH, sender=SENDERS[sender], recipient=SENDERS[0], time_ms=NOW + number)
    return build(header.encode(), b"\x00" * size)


SMALL = len(envelope_of(0, 0, 0))


class Keeping(RuleBasedStateMachine):
    """Anything offered at any time, in any order; after each call all bounds hold, and nobody with a share lost it."""

    @initialize(most=st.integers(1, 6), size=st.integers(1, 6 * SMALL))
    def begin(self, most: int, size: int) -> None:
        self.most, self.size, self.now_ms = most, size, NOW
        self.retries = Retries(
            max_envelopes=most, max_bytes=size, max_age_seconds=30, first_pause_seconds=1, longest_pause_seconds=4
        )
        self.out: tuple[bytes, ...] = ()

    def held(self) -> dict[str, list[bytes]]:
        return {sender: list(own) for sender, own in self.retries._by_sender.items()}

    @rule(sender=st.integers(0, 3), number=st.integers(0, 5), size=st.sampled_from([0, 0, 10, 200]))
    def hold(self, sender: int, number: int, size: int) -> None:
        envelope = envelope_of(sender, number, size)
        before = self.held()
        self.retries.hold(envelope, self.now_ms)
        if envelope in before.get(SENDERS[sender], []) or len(envelope) > self.size:
            assert self.held() == before
            return
        wanted = {**before, SENDERS[sender]: [*before.get(SENDERS[sender], []), envelope]}
        after = self.held()
        for name, own in wanted.items():
            left = after.get(name, [])
            assert left == own[len(own) - len(left) :]  # its oldest went
            share = len(own) * len(wanted) <= self.most and sum(map(len, own)) * len(wanted) <= self.size
            assert left == own or not share

    @rule(data=st.binary(max_size=40))
    def hold_anything(self, data: bytes) -> None:
        self.retries.hold(data, self.now_ms)

    @rule(ms=st.sampled_from([-5000, -1, 0, 1, 999, 1000, 4000, 40_000]))
    def tick(self, ms: int) -> None:
        self.now_ms += ms

    @rule()
    def take(self) -> None:
        held = set(self.retries._kept)
        offered = {envelope for envelope, kept in self.retries._kept.items() if kept.is_offered}
        self.out = self.retries.due(self.now_ms)
        assert len(set(self.out)) == len(self.out)
        assert set(self.out) <= held - offered

    @rule()
    def hold_again(self) -> None:
        for envelope in self.out:
            self.retries.hold(envelope, self.now_ms)

    @invariant()
    def bounds(self) -> None:
        if not hasattr(self, "retries"):
            return
        kept = self.retries._kept
        assert len(self.retries) == len(kept) <= self.most
        assert self.retries.size_bytes == sum(map(len, kept)) <= self.size
        assert sorted(kept) == sorted(each for own in self.held().values() for each in own)
        assert {name: sum(map(len, own)) for name, own in self.held().items()} == dict(self.retries._bytes)


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(max_examples=max(1, settings().max_examples // 2), stateful_step_count=40)


# --- pauses and ages --------------------------------------------------------------------------------------------------


def test_pauses_grow_to_the_longest_and_an_envelope_grows_too_old() -> None:
    retries = Retries(max_age_seconds=20, first_pause_seconds=1, longest_pause_seconds=4)
    retries.hold(b"again", NOW)
    came = []
    for second in range(40):
        for envelope in retries.due(NOW + 1000 * second):
            came.append(second)
            retries.hold(envelope, NOW + 1000 * second)
    assert came == [1, 3, 7, 11, 15, 19]
    assert (len(retries), retries.size_bytes, retries.dropped) == (0, 0, 1)


def test_what_was_taken_is_forgotten_and_what_fails_again_is_kept() -> None:
    retries = Retries()
    retries.hold(b"one", NOW)
    retries.hold(b"other", NOW)
    assert retries.due(NOW + 999) == ()
    assert retries.due(NOW + 1000) == (b"one", b"other")
    assert len(retries) == 2  # they count until it is known what became of them
    retries.hold(b"other", NOW + 1000)
    assert retries.due(NOW + 1001) == ()
    assert len(retries) == 1
    assert retries.due(NOW + 3000) == (b"other",)
    retries.due(NOW + 3001)
    assert (len(retries), retries.size_bytes, retries.dropped) == (0, 0, 0)


def test_what_comes_twice_is_kept_once() -> None:
    retries = Retries()
    for _ in range(5):
        retries.hold(bytearray(b"one"), NOW)
    assert retries.due(NOW + 1000) == (b"one",)


def test_a_clock_that_goes_back_and_forward_brings_nothing_early() -> None:
    retries = Retries(first_pause_seconds=10)
    retries.hold(b"one", NOW)
    for _ in range(50):
        assert retries.due(NOW) == ()
        assert retries.due(NOW + 5000) == ()
    assert retries.due(NOW + 10_000) == (b"one",)


def test_a_flood_in_one_name_takes_nothing_from_another() -> None:
    retries = Retries(max_bytes=1 << 20)
    honest = envelope_of(1, 0, 100)
    retries.hold(honest, NOW)
    for number in range(60):  # sixty forgeries of nearly two megabytes
        retries.hold(envelope_of(0, number, 1_900_000), NOW)
    for number in range(5000):
        retries.hold(envelope_of(0, number, 1000), NOW)
    assert len(retries) <= 1000
    assert retries.size_bytes <= 1 << 20
    assert honest in retries.due(NOW + 1000)
    assert retries.dropped == 60 + 5000 + 1 - len(retries)


def test_whoever_has_the_most_envelopes_makes_room_however_small_they_are() -> None:
    retries = Retries(max_envelopes=4)
    honest = [envelope_of(1, 0, 0), envelope_of(2, 0, 5000)]
    flood = [envelope_of(0, number, 0) for number in range(10)]
    for envelope in [*honest, *flood]:
        retries.hold(envelope, NOW)
    assert retries.due(NOW + 1000) == (*honest, *flood[-2:])


# --- with an agent ----------------------------------------------------------------------------------------------------


def test_a_knock_that_was_busy_and_a_message_that_overtook_are_taken_when_they_can_be() -> None:
    clock = ManualClock()
    alice, bob = (
        Agent.create(MESH, identity=Identity.generate(SeededEntropy(name)), clock=clock, limits=Limits())
        for name in ("retrying", "retried")
    )
    bob._core.limits = Limits(remembered_knocks=1)
    first, second = bob.publish_bundles(2, last_resort=False).one_time
    knock = alice.knock(bob.did, first, Intent("first"))
    [event] = bob.receive(knock)
    later = Retries()
    accepted = bob.accept(event).envelope
    alice_later = Retries()
    message = bob.send(alice.did, b"ahead").envelope
    with pytest.raises(NotYet):
        alice.receive(message)
    alice_later.hold(message, clock())
    busy = alice.knock(bob.did, second, Intent("second"))
    with pytest.raises(Busy):
        bob.receive(busy)
    later.hold(busy.envelope, clock())
    clock.advance(seconds=1)
    [again] = later.due(clock())
    with pytest.raises(TryAgain):
        bob.receive(again)
    later.hold(again, clock())
    bob._core.limits = Limits()
    clock.advance(seconds=2)
    assert isinstance(bob.receive(*later.due(clock()))[0], KnockReceived)
    alice.receive(accepted)
    assert isinstance(alice.receive(*alice_later.due(clock()))[0], MessageReceived)
    assert later.due(clock()) == alice_later.due(clock()) == ()
    assert len(later) == len(alice_later) == 0


# --- arguments --------------------------------------------------------------------------------------------------------

NAMES = ["max_envelopes", "max_bytes", "max_age_seconds", "first_pause_seconds", "longest_pause_seconds"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, True, 1.0, None, "1", 2**53])
def test_bounds_are_numbers_from_one_up(name: str, value: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Retries(**{name: value})
    assert caught.value.argument == name


@pytest.mark.parametrize("now_ms", [-1, True, 1.0, None, "1", 2**53])
def test_times_are_milliseconds(now_ms: Any) -> None:
    retries = Retries()
    for call in (lambda: retries.hold(b"x", now_ms), lambda: retries.due(now_ms)):
        with pytest.raises(ArgumentInvalid) as caught:
            call()
        assert caught.value.argument == "now_ms"
    assert len(retries) == 0


@given(envelope=st.none() | st.text() | st.integers() | st.lists(st.integers()))
def test_envelopes_are_bytes(envelope: Any) -> None:
    retries = Retries()
    with pytest.raises(ArgumentInvalid):
        retries.hold(envelope, NOW)
    assert len(retries) == 0


def test_the_longest_pause_is_the_longest_from_the_first_on() -> None:
    retries = Retries(first_pause_seconds=100, longest_pause_seconds=2)
    retries.hold(b"x", NOW)
    assert retries.due(NOW + 1999) == ()
    assert retries.due(NOW + 2000) == (b"x",)


def test_it_prints_how_much_and_not_what() -> None:
    retries = Retries()
    retries.hold(b"the envelope", NOW)
    assert repr(retries) == "Retries(<1 envelopes, 12 bytes>)"
