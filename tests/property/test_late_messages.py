"""Late messages, and who forges their headers: everything arrives, nothing is stored, little is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, Limits, MessageReceived, RemoteError
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import DecryptionFailed, DuplicateMessage, GapTooLarge
from agentmesh.limits import KEPT_CHAINS, LATE_CHAINS
from agentmesh.primitives import _crypto
from agentmesh.session.facts import SESSION_ID_BYTES
from agentmesh.testing import Pair, established_pair, with_body
from agentmesh.testing import strategies as am

HEADER_ENDS = SESSION_ID_BYTES + 24 + 60
FAR_AHEAD = 10_000
STEP_LIMIT = Limits().skipped_keys_per_step
PRIMITIVES = (
    "kdf", "x25519", "x25519_public", "secretbox", "secretbox_try_open", "secretbox_open", "ed25519_verify",
    "ed25519_to_x25519", "kem_decapsulate",
)  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of every primitive."""
    counted: Counter[str] = Counter()

    def counting(name: str, primitive: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            counted[name] += 1
            return primitive(*args)

        return call

    for name in PRIMITIVES:
        monkeypatch.setattr(_crypto, name, counting(name, getattr(_crypto, name)))
    return counted


def data_of(recipient: Agent, envelope: bytes) -> bytes:
    [event] = recipient.receive(envelope)
    assert isinstance(event, MessageReceived)
    return event.plaintext


def assert_refused(recipient: Agent, envelope: bytes, expected: type[RemoteError]) -> None:
    before = recipient.export_state()
    with pytest.raises(RemoteError) as caught:
        recipient.receive(envelope)
    assert type(caught.value) is expected
    assert recipient.export_state() == before


def with_copied_header(envelope: bytes, random: Random) -> bytes:
    """Return the genuine sealed header over a body of the attacker's own."""
    body = OuterEnvelope.parse(envelope).body
    return with_body(envelope, body[:HEADER_ENDS] + random.randbytes(len(body) - HEADER_ENDS))


def with_random_header(envelope: bytes, random: Random) -> bytes:
    body = OuterEnvelope.parse(envelope).body
    return with_body(envelope, body[:SESSION_ID_BYTES] + random.randbytes(84) + body[HEADER_ENDS:])


def turn(pair: Pair) -> None:
    """Let both sides take a turn."""
    data_of(pair.alice, pair.bob.send(pair.alice.did, b"turn").envelope)
    data_of(pair.bob, pair.alice.send(pair.bob.did, b"turn").envelope)


# --- late messages ---------------------------------------------------------------------------------------------------


def test_late_messages_arrive_though_each_of_their_headers_was_forged_at_every_stage() -> None:
    pair, random = established_pair(), Random("late")
    alice, bob = pair.alice, pair.bob
    turn(pair)
    late: list[tuple[bytes, bytes]] = []
    for chain in range(KEPT_CHAINS):
        held = [b"%d.%d" % (chain, number) for number in range(8)]
        late += [(data, alice.send(bob.did, data).envelope) for data in held]
        for _, envelope in late:  # the keys of the earlier chains are kept, those of this one not derived yet
            assert_refused(bob, with_copied_header(envelope, random), DecryptionFailed)
        turn(pair)
    random.shuffle(late)
    for position, (data, envelope) in enumerate(late):
        for _, other in late[position:]:
            assert_refused(bob, with_copied_header(other, random), DecryptionFailed)
        assert data_of(bob, envelope) == data
    assert bob.session(alice.did).status.missing == ()


def test_ten_thousand_far_ahead_forgeries_store_nothing_and_lose_nothing() -> None:
    pair, random = established_pair(), Random("far ahead")
    alice, bob = pair.alice, pair.bob
    held = [alice.send(bob.did, b"%d" % number).envelope for number in range(STEP_LIMIT + 2)]
    before = bob.export_state()
    # The deeper the gap, the more keys a refusal derives: many shallow ones, and some as deep as they may be.
    depths = [random.randrange(1, 40) for _ in range(FAR_AHEAD - 20)] + [STEP_LIMIT] * 20
    for number, depth in enumerate(depths):
        with pytest.raises(DecryptionFailed):
            bob.receive(with_copied_header(held[depth], random))
        if number % 100 == 0:
            assert bob.export_state() == before
    assert bob.export_state() == before
    assert_refused(bob, held[STEP_LIMIT + 1], GapTooLarge)
    order = list(range(STEP_LIMIT + 1))
    random.shuffle(order)
    assert [data_of(bob, held[number]) for number in order] == [b"%d" % number for number in order]
    assert bob.session(alice.did).status.missing == ()


@given(
    chains=st.lists(st.integers(1, 5), min_size=1, max_size=KEPT_CHAINS),
    order=am.orders(5 * KEPT_CHAINS),
    seed=st.integers(0, 7),
)
def test_messages_of_all_kept_chains_arrive_in_any_order(chains: list[int], order: list[int], seed: int) -> None:
    pair = established_pair(seed)
    late: list[tuple[bytes, bytes]] = []
    for chain, count in enumerate(chains):
        for number in range(count):
            data = b"%d.%d" % (chain, number)
            late.append((data, pair.alice.send(pair.bob.did, data).envelope))
        turn(pair)
    assert sum(map(len, pair.bob.session(pair.alice.did).status.missing)) == len(late)
    for place in order:
        if place < len(late):
            data, envelope = late[place]
            assert data_of(pair.bob, envelope) == data
    assert pair.bob.session(pair.alice.did).status.missing == ()


# --- what a refusal costs --------------------------------------------------------------------------------------------


@pytest.fixture
def busy_pair() -> Pair:
    """Two agents with as many kept chains as there are in any case, one before them, and a late message in each."""
    pair = established_pair()
    for _ in range(KEPT_CHAINS + 2):
        pair.alice.send(pair.bob.did, b"late")
        turn(pair)
    return pair


def test_a_random_header_derives_nothing(busy_pair: Pair, calls: Counter[str]) -> None:
    random = Random("random headers")
    alice, bob = busy_pair.alice, busy_pair.bob
    genuine = alice.send(bob.did, b"genuine").envelope
    for _ in range(100):
        forged = with_random_header(genuine, random)
        calls.clear()
        assert_refused(bob, forged, DecryptionFailed)
        assert calls == {"secretbox_try_open": KEPT_CHAINS + 3}
    assert data_of(bob, genuine) == b"genuine"


def test_a_random_header_costs_an_opening_for_each_lossy_chain_and_71_at_most(calls: Counter[str]) -> None:
    pair, random = established_pair(), Random("lossy")
    for _ in range(KEPT_CHAINS + LATE_CHAINS + 3):
        pair.alice.send(pair.bob.did, b"lost")
        turn(pair)
    genuine = pair.alice.send(pair.bob.did, b"genuine").envelope
    forged = with_random_header(genuine, random)
    calls.clear()
    assert_refused(pair.bob, forged, DecryptionFailed)
    assert calls == {"secretbox_try_open": 71}
    assert data_of(pair.bob, genuine) == b"genuine"


def test_a_copied_header_costs_its_gap_and_stores_nothing(busy_pair: Pair, calls: Counter[str]) -> None:
    random = Random("copied headers")
    alice, bob = busy_pair.alice, busy_pair.bob
    held = [alice.send(bob.did, b"%d" % number).envelope for number in range(50)]
    for gap, envelope in enumerate(held):
        forged = with_copied_header(envelope, random)
        calls.clear()
        assert_refused(bob, forged, DecryptionFailed)
        # The keys of the gap, the message's own, and one for its commitment; no other primitive.
        assert calls == {"secretbox_try_open": 1, "kdf": gap + 2}
    assert [data_of(bob, envelope) for envelope in reversed(held)] == [b"%d" % number for number in range(49, -1, -1)]


def test_a_copied_header_of_a_turn_costs_one_agreement(busy_pair: Pair, calls: Counter[str]) -> None:
    random = Random("turns")
    alice, bob = busy_pair.alice, busy_pair.bob
    data_of(alice, bob.send(alice.did, b"turn").envelope)
    held = [alice.send(bob.did, b"%d" % number).envelope for number in range(5)]
    for gap, envelope in enumerate(held):
        forged = with_copied_header(envelope, random)
        calls.clear()
        assert_refused(bob, forged, DecryptionFailed)
        # Three more derivations for the root, and neither a new key pair nor the second agreement of a turn. Bob has
        # sealed in his chain, and so tries first whether the peer has taken a turn.
        assert calls == {"secretbox_try_open": 1, "x25519": 1, "kdf": gap + 5}
    assert [data_of(bob, envelope) for envelope in held] == [b"%d" % number for number in range(5)]


@pytest.mark.parametrize("opened", [0, 1], ids=["at a turn", "within a chain"])
def test_a_gap_over_the_limit_derives_nothing(calls: Counter[str], opened: int) -> None:
    pair = established_pair(limits=Limits(skipped_keys_per_step=10))
    held = [pair.alice.send(pair.bob.did, b"%d" % number).envelope for number in range(opened + 12)]
    for envelope in held[:opened]:
        data_of(pair.bob, envelope)
    calls.clear()
    assert_refused(pair.bob, held[-1], GapTooLarge)
    assert set(calls) == {"secretbox_try_open"}
    assert data_of(pair.bob, held[-2]) == b"%d" % (opened + 10)
    assert data_of(pair.bob, held[-1]) == b"%d" % (opened + 11)


def test_exactly_as_many_late_messages_open_as_a_session_keeps_keys() -> None:
    limits = Limits(skipped_keys_per_step=10, skipped_keys_per_session=20)
    pair = established_pair(limits=limits)
    held = [pair.alice.send(pair.bob.did, b"%d" % number).envelope for number in range(22)]
    for ahead in (10, 21):
        [event] = pair.bob.receive(held[ahead])
        assert event.lost == 0
    assert pair.bob.session(pair.alice.did).status.kept_keys == 20
    [event] = pair.bob.receive(pair.alice.send(pair.bob.did, b"next"))
    assert event.lost == 0
    pair.alice.send(pair.bob.did, b"never arrives")
    [event] = pair.bob.receive(pair.alice.send(pair.bob.did, b"one too many"))
    assert event.lost == 1
    assert_refused(pair.bob, held[0], DuplicateMessage)
    for number in (*range(1, 10), *range(11, 21)):
        assert data_of(pair.bob, held[number]) == b"%d" % number
    assert pair.bob.session(pair.alice.did).status.kept_keys == 1
