"""The shipped test tools: they repeat themselves, what they promise to happen does happen, and they notice a fault."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import Phase as HypothesisPhase
from hypothesis import find, given, settings
from hypothesis import strategies as st

import agentmesh.agent
from agentmesh import Agent, Conditions, Identity, Intent, Kind, KnockReceived, KnockRequest, Limits, Phase, Shelf
from agentmesh.engine.state import AgentState
from agentmesh.envelope import Header, OuterEnvelope, receipt_of
from agentmesh.errors import (
    ArgumentInvalid,
    BadDid,
    BadPoint,
    DecryptionFailed,
    DuplicateMessage,
    GapTooLarge,
    Malformed,
    NoSession,
    NotYet,
    PeerNotAllowed,
    RemoteError,
    TooManySessions,
    UnknownSession,
)
from agentmesh.events import AnswerRepeated, SessionRejected
from agentmesh.handshake.knock import KnockContent, decode_content, encode_content
from agentmesh.handshake.prekeys import BundleClass, verify_bundle
from agentmesh.identity import IdentityKey, parse_did
from agentmesh.limits import KEPT_CHAINS, LATE_CHAINS
from agentmesh.policy import ASK, AskApplication, Decision, Grant
from agentmesh.primitives.keys import Receipt, SessionId
from agentmesh.session.chains import Delta
from agentmesh.session.indices import Indices
from agentmesh.session.ratchet import Ratchet
from agentmesh.testing import (
    HONEST,
    BundleShelf,
    Faults,
    ManualClock,
    MeshSimulator,
    Mutation,
    SeededEntropy,
    Tampering,
    agent_pair,
    establish,
    forge,
    with_body,
    with_header,
)
from agentmesh.testing import strategies as am
from agentmesh.testing.clock import EPOCH_MS
from agentmesh.testing.deliveries import Ledger
from agentmesh.testing.pair import MESH
from agentmesh.testing.schedule import Action, Move, perform
from agentmesh.testing.strategies import Delivery, IssuedBundle

BOTH_WAYS = (("alice", "bob"), ("bob", "alice"))


def python(source: str, hash_seed: str = "0") -> str:
    """Run a program in a Python of its own, and return what it prints."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- clock and randomness --------------------------------------------------------------------------------------------


def test_a_manual_clock_moves_when_told_and_not_otherwise() -> None:
    clock = ManualClock()
    assert clock() == clock() == EPOCH_MS
    assert clock.advance(seconds=2, ms=5) == clock() == EPOCH_MS + 2005
    assert clock.advance(ms=-5) == EPOCH_MS + 2000
    clock.now_ms = 0
    assert clock() == 0


def test_seeded_entropy_depends_on_its_seed_alone() -> None:
    draws = [[SeededEntropy(seed).token(size) for size in (1, 32, 64)] for seed in (1, 1, 2, "1", b"1")]
    assert draws[0] == draws[1]
    assert len({draw[1] for draw in draws}) == 3  # a text and its bytes are one seed


def test_recorded_encapsulations_come_again_in_their_order() -> None:
    kem_key = find(am.bundles(), lambda _: True).bundle.kem_key
    first = SeededEntropy(0)
    drawn = [first.encapsulate(kem_key) for _ in range(2)]
    assert first.recorded == drawn
    again = SeededEntropy(0, drawn)
    assert [again.encapsulate(kem_key) for _ in range(2)] == drawn
    assert again.encapsulate(kem_key) not in drawn
    with pytest.raises(BadPoint):
        again.encapsulate(bytes([255]) * 1184)


# --- the shelf -------------------------------------------------------------------------------------------------------


def test_a_shelf_serves_each_one_time_bundle_once_and_then_the_last_resort() -> None:
    shelf, pair = BundleShelf(), agent_pair()
    with pytest.raises(LookupError):
        shelf.take(pair.bob.did)
    made = pair.bob.publish_bundles(3)
    shelf.put(pair.bob.did, made)
    assert shelf.stock(pair.bob.did) == 3
    assert shelf.stock(pair.alice.did) == 0
    assert [shelf.take(pair.bob.did) for _ in range(5)] == [*made.one_time, made.last_resort, made.last_resort]
    more = pair.bob.publish_bundles(1)
    shelf.put(pair.bob.did, more)
    assert [shelf.take(pair.bob.did) for _ in range(2)] == [more.one_time[0], more.last_resort]
    shelf.put(pair.bob.did, Shelf(one_time=(), last_resort=None))
    assert shelf.take(pair.bob.did) == more.last_resort
    with pytest.raises(LookupError):
        shelf.take(pair.alice.did)
    shelf.withdraw(pair.bob.did)
    shelf.withdraw(pair.alice.did)
    with pytest.raises(LookupError):
        shelf.take(pair.bob.did)


def test_a_shelf_takes_dids_alone() -> None:
    with pytest.raises(BadDid):
        BundleShelf().put("bob", Shelf(one_time=(b"bundle",), last_resort=None))


# --- altered bytes ---------------------------------------------------------------------------------------------------


@given(st.binary(max_size=64), am.mutations())
def test_a_mutation_always_gives_other_bytes(data: bytes, mutation: Mutation) -> None:
    altered = mutation.apply(data)
    assert altered != data
    if mutation.how is Tampering.EXTEND or not data:
        assert altered.startswith(data)
    elif mutation.how is Tampering.TRUNCATE:
        assert data.startswith(altered)
    else:
        differing = [place for place in range(len(data)) if data[place] != altered[place]]
        assert len(altered) == len(data)
        assert len(differing) <= 2
        if mutation.how is Tampering.SWAP and len(differing) == 2:
            assert sorted(altered) == sorted(data)
        else:
            [place] = differing
            assert (data[place] ^ altered[place]).bit_count() == 1


@pytest.mark.parametrize(
    ("how", "at", "amount", "altered"),
    [
        (Tampering.FLIP, 0, 0, b"\x01\x02\x02"),
        (Tampering.FLIP, -1, 0, b"\x00\x02\x82"),
        (Tampering.TRUNCATE, 2, 0, b"\x00\x02"),
        (Tampering.EXTEND, 255, 2, b"\x00\x02\x02\xff\xff\xff"),
        (Tampering.SWAP, 0, 1, b"\x02\x00\x02"),
        (Tampering.SWAP, 1, 2, b"\x02\x02\x02"),
    ],
)
def test_a_mutation_does_what_it_says(how: Tampering, at: int, amount: int, altered: bytes) -> None:
    assert Mutation(how=how, at=at, amount=amount).apply(b"\x00\x02\x02") == altered


def test_mutations_are_drawn_from_the_random_alone_and_of_every_kind() -> None:
    first, second = Random(1), Random(1)
    drawn = [Mutation.draw(first) for _ in range(100)]
    assert drawn == [Mutation.draw(second) for _ in range(100)]
    assert {mutation.how for mutation in drawn} == set(Tampering)


@given(am.envelopes(), am.headers())
def test_a_header_is_replaced_field_by_field(envelope: bytes, header: Header) -> None:
    assert with_header(envelope) == envelope
    outer = OuterEnvelope.parse(
        with_header(
            envelope,
            kind=header.kind,
            mesh=header.mesh,
            sender=header.sender,
            recipient=header.recipient,
            time_ms=header.time_ms,
        )
    )
    assert outer.header == header
    assert outer.body == OuterEnvelope.parse(envelope).body
    assert with_body(envelope, outer.body) == envelope


@given(am.deliveries(), am.envelopes(), st.integers(0, 2**32))
def test_a_forgery_is_refused_and_the_genuine_envelope_taken(delivery: Delivery, other: bytes, seed: int) -> None:
    others = [other, delivery.envelope]
    forged = forge(Random(seed), delivery.envelope, others)
    assert forged == forge(Random(seed), delivery.envelope, others)
    assert forged not in others
    recipient = delivery.recipient()
    with pytest.raises(RemoteError):
        recipient.receive(forged)
    assert recipient.export_state() == delivery.exported
    assert recipient.receive(delivery.envelope)


# --- strategies ------------------------------------------------------------------------------------------------------


def test_everything_but_the_strategies_comes_without_hypothesis() -> None:
    printed = python(
        "import sys\n"
        "sys.modules['hypothesis'] = None\n"
        "from agentmesh.testing import *\n"
        "from agentmesh.testing.schedule import perform\n"
        "mesh = MeshSimulator(0)\n"
        "mesh.knock('alice', 'bob')\n"
        "mesh.settle()\n"
        "mesh.send('alice', 'bob', b'hello')\n"
        "mesh.settle()\n"
        "print(mesh.delivered('alice', 'bob'))\n"
        "try:\n"
        "    import agentmesh.testing.strategies\n"
        "except ImportError:\n"
        "    print('no strategies')\n"
    )
    assert printed == "(b'hello',)\nno strategies\n"


@given(am.identities(), am.dids())
def test_identities_and_dids_are_canonical(identity: Identity, did: str) -> None:
    assert parse_did(did) == did
    assert parse_did(identity.did) == identity.did
    assert IdentityKey(identity.key.raw) == identity.key


@given(am.headers())
def test_headers_are_those_that_a_receiver_takes(header: Header) -> None:
    assert Header.decode(header.encode()) == header


@given(am.headers(kind=st.just(Kind.REJECT), mesh=st.just("a")))
def test_parts_of_headers_can_be_chosen(header: Header) -> None:
    assert (header.kind, header.mesh) == (Kind.REJECT, "a")


@given(am.intents(), am.plaintexts(), st.booleans())
def test_intents_and_plaintexts_fit_a_knock(intent: Intent, data: bytes, fresh: bool) -> None:
    content = KnockContent(intent=intent, early_payload=data, fresh=fresh)
    assert decode_content(encode_content(content, Limits()), Limits()) == content


@given(am.conditions())
def test_conditions_are_those_that_an_accept_carries(conditions: Conditions) -> None:
    assert Conditions.decode(conditions.encode()) == conditions


@given(am.bundles(), am.bundles(BundleClass.LAST_RESORT))
def test_bundles_come_with_owner_and_secrets(issued: IssuedBundle, last_resort: IssuedBundle) -> None:
    assert verify_bundle(issued.data, did=issued.owner.did, mesh=MESH, now_ms=EPOCH_MS) == issued.bundle
    assert issued.published.ref == issued.bundle.ref
    assert issued.published.secrets is not None
    assert last_resort.bundle.bundle_class is BundleClass.LAST_RESORT


@given(am.limits(), st.data())
def test_two_agents_can_talk_under_any_limits(limits: Limits, data: st.DataObject) -> None:
    pair = agent_pair(limits=limits)
    intent = data.draw(am.intents(limits))
    plaintext = data.draw(am.plaintexts(min(4096, limits.plaintext_max_bytes)))
    establish(pair.alice, pair.bob, intent=intent, early_payload=plaintext)
    [event] = pair.bob.receive(pair.alice.send(pair.bob.did, plaintext))
    assert event.plaintext == plaintext


@given(am.decisions(), am.knocks_received())
def test_decisions_are_what_a_policy_may_say(decision: Decision, request: KnockReceived) -> None:
    class Says(AskApplication):
        def decide(self, knock: KnockRequest, /) -> Decision:
            assert isinstance(request, type(knock))
            return decision

    pair = agent_pair(bob_policy=Says())
    [event] = pair.bob.receive(pair.alice.knock(pair.bob.did, pair.bob.publish_bundles(1).one_time[0], Intent("test")))
    assert (event.reply is None) == (decision == ASK)


@given(st.sampled_from(Kind), st.data())
def test_a_delivery_is_taken_by_its_recipient(kind: Kind, data: st.DataObject) -> None:
    delivery = data.draw(am.deliveries(kind))
    assert OuterEnvelope.parse(delivery.envelope).header.kind is delivery.kind is kind
    first, second = delivery.recipient(), delivery.recipient()
    assert first is not second
    for recipient in (first, second):
        assert recipient.receive(delivery.envelope)
    assert first.export_state() == second.export_state()


@given(st.data(), st.integers(0, 40), st.integers(0, 40))
def test_texts_keep_their_number_of_bytes(data: st.DataObject, minimum: int, more: int) -> None:
    text = data.draw(am.texts(min(minimum, 1), minimum + more + 4))
    assert min(minimum, 1) <= len(text.encode()) <= minimum + more + 4


@pytest.mark.parametrize(
    ("strategy", "edge"),
    [
        (am.texts(0, 128), lambda text: text == "a" * 128),
        (am.texts(0, 128), lambda text: len(text) == 32 and len(text.encode()) == 128),
        (am.texts(), lambda text: text == ""),
        (am.mesh_names(), lambda name: len(name) == 64),
        (am.mesh_names(), lambda name: len(name) == 1),
        (am.plaintexts(100), lambda data: len(data) == 100),
        (am.plaintexts(), lambda data: len(data) == 62),  # with its two bytes of framing one short of the padding
        (am.intents(), lambda intent: len(intent.capabilities) == 64),
        (am.intents(), lambda intent: len(intent.action.encode()) == 128 and len(intent.action) < 128),
        (am.conditions(), lambda conditions: conditions.max_messages == 0),
        (am.conditions(), lambda conditions: len(conditions.allowed_actions or ()) == 256),
        (am.conditions(), lambda conditions: conditions.allowed_actions == ()),
        (am.limits(), lambda limits: limits.skipped_keys_per_step == limits.skipped_keys_per_session == 1),
        (am.times_ms(), lambda time_ms: time_ms == 2**53 - 1),
        (am.dids(), lambda did: did.startswith("did:agentmesh:11")),
        (am.mutated(b"ab"), lambda data: data == b""),
        (am.orders(2, copies=2), lambda order: order == [1, 1, 0, 0]),
        (am.faults(), lambda faults: faults.crash_percent > 30 and faults.lost_state_percent == 0),
        (am.reasons(), lambda reason: reason == "stale"),
    ],
)
def test_the_edges_are_drawn(strategy: st.SearchStrategy[object], edge: object) -> None:
    assert callable(edge)
    drawn = settings(max_examples=5000, derandomize=True, database=None, phases=[HypothesisPhase.generate])
    find(strategy, edge, settings=drawn)


# --- the simulator: it repeats itself --------------------------------------------------------------------------------

RUN = """
import hashlib
from agentmesh.testing import MeshSimulator

def trace(seed):
    mesh = MeshSimulator(seed, ("alice", "bob", "carol"), one_time=1, skew_max_ms=1000, defer_percent=30)
    seen = hashlib.sha256()
    for number in range(60):
        sender, recipient = [("alice", "bob"), ("bob", "alice"), ("carol", "alice"), ("alice", "carol")][number % 4]
        if number % 15 < 2:
            mesh.knock(sender, recipient)
        mesh.send(sender, recipient, b"%d" % number)
        mesh.run(3)
        if number == 40:
            mesh.lose_state("bob")
        for envelope in mesh.envelopes:
            seen.update(envelope)
    mesh.settle()
    for name in mesh.names:
        seen.update(mesh.agent(name).export_state())
    return seen.hexdigest()
"""


def test_a_run_repeats_itself_to_the_byte_in_any_process() -> None:
    printed = {python(f"{RUN}\nprint(trace(7))", hash_seed) for hash_seed in ("0", "1")}
    assert len(printed) == 1
    assert printed != {python(f"{RUN}\nprint(trace(8))")}


# --- the simulator: what is to happen happens ------------------------------------------------------------------------


def talk(mesh: MeshSimulator, messages: int = 60) -> None:
    for number in range(messages):
        if number % 10 == 0:
            mesh.knock(*BOTH_WAYS[number // 10 % 2])
        mesh.send(*BOTH_WAYS[number % 2], b"%d" % number)
        mesh.run(3)


def settled(mesh: MeshSimulator) -> None:
    """Settle, and see that all has arrived that was not dropped."""
    mesh.settle()
    for pair in BOTH_WAYS:
        assert sorted((*mesh.delivered(*pair), *mesh.dropped(*pair))) == sorted(mesh.sent(*pair))
        assert mesh.refused(*pair) == mesh.undelivered(*pair) == ()


def acquainted(seed: int = 0, **arguments: object) -> MeshSimulator:
    """Return an honest mesh of Alice and Bob, with a session that Alice began."""
    mesh = MeshSimulator(seed, faults=HONEST, **arguments)  # type: ignore[arg-type]
    mesh.knock("alice", "bob")
    mesh.settle()
    return mesh


def test_every_fault_happens_and_everything_arrives() -> None:
    mesh = MeshSimulator(6)  # few messages overtake an ACCEPT, since a confirmed session is preferred
    talk(mesh)
    settled(mesh)
    assert all(
        mesh.faults[fault] for fault in ("drop", "delay", "reorder", "duplicate", "tamper", "replay", "crash")
    ), mesh.faults
    assert not mesh.faults["lost_state"]
    assert {DuplicateMessage, NotYet, Malformed} <= set(mesh.errors)
    assert sum(len(mesh.delivered(*pair)) for pair in BOTH_WAYS) > 30


def test_an_honest_mesh_has_no_faults_and_keeps_order() -> None:
    mesh = acquainted()
    talk(mesh)
    settled(mesh)
    assert mesh.faults == Counter()
    assert set(mesh.errors) <= {TooManySessions}
    assert len(mesh.sent("alice", "bob")) == len(mesh.sent("bob", "alice")) == 30
    for pair in BOTH_WAYS:
        assert mesh.delivered(*pair) == mesh.sent(*pair)


def test_agents_that_lose_their_state_knock_anew_and_go_on() -> None:
    mesh = acquainted()
    for name, other in BOTH_WAYS:
        for _ in range(3):
            lost = mesh.agent(name)
            mesh.send(other, name, b"lost")
            mesh.lose_state(name)
            assert mesh.agent(name) is not lost
            assert mesh.agent(name).did == lost.did
            mesh.settle()
            for pair in BOTH_WAYS:
                assert mesh.send(*pair, b"again")
            mesh.settle()
    for pair in BOTH_WAYS:
        assert mesh.delivered(*pair).count(b"again") == 6
        assert mesh.refused(*pair) == ((b"lost", UnknownSession),) * 3
    assert mesh.faults["lost_state"] == 6


def test_a_lost_accept_is_repeated_and_what_overtook_it_is_kept() -> None:
    mesh = MeshSimulator(0, faults=HONEST)
    mesh.knock("alice", "bob")
    mesh.deliver()
    mesh.drop()
    assert mesh.send("bob", "alice", b"early bird")
    assert not mesh.send("alice", "bob", b"too early")
    mesh.deliver()
    assert mesh.errors == {NoSession: 1, NotYet: 1}
    assert mesh.put_aside == 1
    assert mesh.undelivered("bob", "alice") == (b"early bird",)
    mesh.settle()
    assert mesh.events[AnswerRepeated] == 1
    assert mesh.delivered("bob", "alice") == (b"early bird",)
    assert mesh.put_aside == mesh.in_flight == 0


def test_what_is_behind_a_gap_is_kept_until_the_gap_is_filled() -> None:
    mesh = acquainted(limits=Limits(skipped_keys_per_step=2))
    for number in range(4):
        mesh.send("alice", "bob", b"%d" % number)
    mesh.deliver(3)
    assert mesh.errors[GapTooLarge] == 1
    assert mesh.put_aside == 1
    settled(mesh)
    assert mesh.delivered("alice", "bob") == (b"0", b"1", b"2", b"3")


def take_turns(mesh: MeshSimulator, turns: int) -> None:
    for _ in range(turns):
        for pair in (("bob", "alice"), ("alice", "bob")):
            mesh.send(*pair, b"turn")
            mesh.deliver(mesh.in_flight - 1)


def test_nothing_is_overtaken_by_more_answers_than_the_chains_that_are_kept() -> None:
    mesh = acquainted()
    mesh.send("alice", "bob", b"late")
    mesh.delay()
    take_turns(mesh, LATE_CHAINS)
    assert mesh.undelivered("alice", "bob") == (b"late",)
    take_turns(mesh, 1)
    assert mesh.undelivered("alice", "bob") == ()
    settled(mesh)


def test_without_that_bound_a_message_is_lost_and_the_recipient_says_so() -> None:
    mesh = acquainted(late_answers_max=None)
    for turn in range(LATE_CHAINS + KEPT_CHAINS + 2):
        mesh.send("alice", "bob", b"late %d" % turn)
        mesh.delay(mesh.in_flight - 1)
        take_turns(mesh, 1)
    mesh.settle()
    # The two stand in one chain: there is no turn before the responder has heard anything.
    assert mesh.refused("alice", "bob") == ((b"late 0", DecryptionFailed), (b"late 1", DecryptionFailed))
    assert mesh.lost("alice", "bob") == 2
    assert b"late 1" not in mesh.delivered("alice", "bob")
    assert b"late 2" in mesh.delivered("alice", "bob")


def test_losses_are_counted_whoever_tells_of_them() -> None:
    mesh = acquainted(limits=Limits(skipped_keys_per_step=3, skipped_keys_per_session=3))
    for _ in range(7):
        mesh.send("alice", "bob", b"seven")
    mesh.close("alice", "bob")
    for number in range(8):
        if number not in (3, 7):
            mesh.drop(0 if number < 3 else 1)
    mesh.deliver()
    assert mesh.lost("alice", "bob") == 0
    mesh.deliver()
    assert mesh.lost("alice", "bob") == 3
    mesh = acquainted(limits=Limits(skipped_key_lifetime_seconds=60))
    for _ in range(2):
        mesh.send("alice", "bob", b"two")
    mesh.drop()
    mesh.deliver()
    mesh.clock.advance(seconds=61)
    mesh.poll("bob")
    assert mesh.lost("alice", "bob") == 1


def test_early_payloads_are_sent_and_delivered_once() -> None:
    mesh = MeshSimulator(0, faults=HONEST, policy=None)
    assert mesh.knock("alice", "bob", Intent("other"), early_payload=b"early")
    mesh.duplicate()
    mesh.settle()
    assert mesh.sent("alice", "bob") == mesh.delivered("alice", "bob") == (b"early",)
    assert mesh.undelivered("alice", "bob") == ()


class Grants(AskApplication):
    def decide(self, _knock: KnockRequest, /) -> Decision:
        return Grant(Conditions(max_messages=2))


def test_a_policy_decides_where_it_does_not_ask() -> None:
    mesh = MeshSimulator(0, faults=HONEST, policy=Grants())
    mesh.knock("alice", "bob", early_payload=b"early")
    mesh.settle()
    assert mesh.events[KnockReceived] == 0
    assert mesh.delivered("alice", "bob") == (b"early",)
    assert [mesh.send("alice", "bob", b"more") for _ in range(2)] == [True, False]
    settled(mesh)


def test_the_simulator_rejects_and_defers_as_often_as_it_is_told() -> None:
    mesh = MeshSimulator(0, faults=HONEST, reject_percent=100)
    mesh.knock("alice", "bob", early_payload=b"early")
    mesh.settle()
    assert mesh.events[SessionRejected] == 1
    assert mesh.delivered("alice", "bob") == ()
    mesh = MeshSimulator(0, faults=HONEST, defer_percent=100)
    mesh.knock("alice", "bob")
    mesh.deliver()
    assert mesh.in_flight == 0
    assert not mesh.decide("alice")
    assert mesh.decide("bob")
    mesh.deliver()
    assert mesh.send("alice", "bob", b"")
    mesh.knock("alice", "bob")
    mesh.run(50)
    assert mesh.agent("bob").pending_knocks() == ()
    assert len(mesh.agent("bob").sessions(mesh.did("alice"))) == 2


def test_conditions_are_those_of_the_simulator() -> None:
    mesh = acquainted(conditions=Conditions(max_messages=1))
    assert mesh.agent("alice").session(mesh.did("bob")).status.messages_left_out == 1


def test_closed_sessions_end_on_both_sides() -> None:
    mesh = acquainted()
    assert mesh.close("alice", "bob", "done")
    assert not mesh.close("alice", "bob")
    assert not mesh.send("alice", "bob", b"late")
    mesh.settle()
    assert mesh.endings == {Phase.CLOSED: 2}


def test_envelopes_may_be_as_large_as_the_limits_say() -> None:
    large = Limits(plaintext_max_bytes=3 << 20, envelope_max_bytes=4 << 20)
    mesh = acquainted(limits=large)
    mesh.send("alice", "bob", bytes(3 << 20))
    mesh.tamper()
    settled(mesh)


def test_a_clock_is_off_by_no_more_than_the_skew() -> None:
    times = set()
    for seed in range(10):
        mesh = MeshSimulator(seed, faults=HONEST, skew_max_ms=1000)
        mesh.knock("alice", "bob")
        times.add(OuterEnvelope.parse(mesh.envelopes[0]).header.time_ms - mesh.clock())
    assert len(times) > 5
    assert all(-1000 <= time_ms <= 1000 for time_ms in times)


def test_time_passes_and_due_bundles_are_published_again() -> None:
    mesh = acquainted()
    before = mesh.shelf.take(mesh.did("bob")), mesh.clock()
    for _ in range(4):
        mesh.clock.advance(seconds=7 * 86_400)
        mesh.poll("bob")
    for _ in range(mesh.shelf.stock(mesh.did("bob"))):
        mesh.shelf.take(mesh.did("bob"))
    assert mesh.shelf.take(mesh.did("bob")) != before[0]
    assert mesh.knock("alice", "bob")
    mesh.run(10)
    assert mesh.clock() > before[1]


def test_the_example_in_its_docstring_runs() -> None:
    [example] = doctest.DocTestFinder(recurse=False).find(MeshSimulator, "MeshSimulator")
    assert len(example.examples) > 4
    assert doctest.DocTestRunner().run(example).failed == 0


# --- the simulator: bounded memory -----------------------------------------------------------------------------------


def test_what_is_under_way_is_bounded() -> None:
    mesh = acquainted(in_flight_max=10, history_max=20)
    for number in range(50):
        mesh.send("alice", "bob", b"%d" % number)
        assert mesh.in_flight <= 10
    assert mesh.undelivered("alice", "bob") == tuple(b"%d" % number for number in range(40, 50))
    while mesh.in_flight:
        mesh.delay()
    mesh.settle()
    assert mesh.delivered("alice", "bob") == tuple(b"%d" % number for number in range(30, 50))
    for _ in range(12):
        mesh.send("alice", "bob", b"crowded")
        mesh.delay()
    assert mesh.put_aside == 10
    assert mesh.dropped("alice", "bob") == (b"crowded",) * 2
    for _ in range(100):
        mesh.send("bob", "alice", b"")
        mesh.deliver()
    assert mesh.replayable == 64


def test_an_envelope_can_be_duplicated_in_a_network_that_is_full() -> None:
    mesh = acquainted(in_flight_max=2)
    for data in (b"one", b"two"):
        mesh.send("alice", "bob", data)
    mesh.duplicate()
    assert mesh.delivered("alice", "bob") == (b"one",)
    assert mesh.in_flight == 2
    settled(mesh)


def test_a_message_with_a_copy_under_way_is_not_dropped() -> None:
    mesh = acquainted()
    mesh.send("alice", "bob", b"twice")
    carried = mesh.envelopes
    mesh.duplicate()
    assert mesh.envelopes == carried
    mesh.drop()
    assert mesh.dropped("alice", "bob") == ()
    assert mesh.delivered("alice", "bob") == (b"twice",)
    mesh.send("alice", "bob", b"gone")
    mesh.drop()
    assert mesh.dropped("alice", "bob") == (b"gone",)
    settled(mesh)


# --- the simulator: it notices ---------------------------------------------------------------------------------------


def test_it_notices_a_refusal_that_changes_the_state() -> None:
    class Forgetful(AskApplication):
        def __init__(self) -> None:
            self.state: AgentState | None = None

        def still_allowed(self, _peer: IdentityKey, /) -> bool:
            if self.state is not None:
                self.state.bundles.clear()
            return self.state is None

    policy = Forgetful()
    mesh = acquainted(policy=policy)
    mesh.send("alice", "bob", b"hello")
    policy.state = mesh.agent("bob")._core.state
    with pytest.raises(AssertionError, match=f"a refusal changed the exported state: {PeerNotAllowed.code}"):
        mesh.deliver()


def test_it_notices_a_message_that_is_delivered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Ratchet.apply

    def apply_and_keep(ratchet: Ratchet, delta: Delta) -> None:
        kept = {} if delta.taken is None else {delta.taken: ratchet.skipped[delta.taken]}
        apply(ratchet, delta)
        ratchet.skipped = {**ratchet.skipped, **kept}

    monkeypatch.setattr(Ratchet, "apply", apply_and_keep)
    monkeypatch.setattr(Indices, "is_new", lambda *_: True)  # the second guard: an index opens once
    mesh = acquainted()
    for data in (b"late", b"early"):
        mesh.send("alice", "bob", data)
    mesh.deliver(1)
    mesh.deliver()
    with pytest.raises(AssertionError, match="not once"):
        mesh.replay()


def test_it_notices_a_restore_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = agentmesh.agent.restore_agent

    def restore_less(exported: bytes, now_ms: int, *, at_least_generation: int) -> AgentState:
        state = restore(exported, now_ms, at_least_generation=at_least_generation)
        state.bundles.popitem()
        return state

    monkeypatch.setattr(agentmesh.agent, "restore_agent", restore_less)
    with pytest.raises(AssertionError, match="another state"):
        acquainted().crash("bob")


def test_it_notices_a_forgery_that_is_taken() -> None:
    mesh = acquainted()
    mesh.send("alice", "bob", b"hello")
    with pytest.raises(AssertionError, match="a forgery was taken"):
        mesh.tamper(0, mesh.envelopes[0])


def test_it_lets_an_error_of_another_kind_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_agent: Agent, _envelope: bytes) -> None:
        raise KeyError

    mesh = acquainted()
    mesh.send("alice", "bob", b"hello")
    monkeypatch.setattr(Agent, "receive", fail)
    with pytest.raises(KeyError):
        mesh.deliver()


def test_a_ledger_takes_what_was_sent_and_nothing_else() -> None:
    receipt, other = Receipt(receipt_of(b"one")), Receipt(receipt_of(b"two"))
    session, another = SessionId(b"s"), SessionId(b"t")
    for wrong in (
        (other, session, b"data", 1),
        (receipt, another, b"data", 1),
        (receipt, session, b"atad", 1),
        (receipt, session, b"data", 2),
    ):
        ledger = Ledger(10)
        ledger.send(receipt, session, b"data", 1)
        with pytest.raises(AssertionError):
            ledger.deliver(*wrong)
    ledger = Ledger(10)
    ledger.send(receipt, session, b"data", 2)
    with pytest.raises(AssertionError, match="closed"):
        ledger.close(session)
    ledger.close(another)
    ledger.deliver(receipt, session, b"data", 2)
    ledger.close(session)
    with pytest.raises(AssertionError):
        ledger.deliver(receipt, session, b"data", 2)
    ledger.send_early(session, b"early")
    with pytest.raises(AssertionError):
        Ledger(10).deliver_early(session, b"early")
    ledger.deliver_early(session, b"early")
    with pytest.raises(AssertionError):
        ledger.deliver_early(session, b"early")
    ledger.send_early(another, b"early")
    ledger.reject(another)
    with pytest.raises(AssertionError):
        ledger.deliver_early(another, b"early")
    assert tuple(ledger.delivered) == (b"data", b"early")
    ledger.send(receipt, session, b"gone", 3)
    ledger.drop(receipt)
    ledger.drop(receipt)
    ledger.send(other, session, b"bad", 4)
    ledger.refuse(other, Malformed())
    ledger.refuse(other, Malformed())
    assert (tuple(ledger.dropped), tuple(ledger.refused)) == ((b"gone",), ((b"bad", Malformed),))
    assert ledger.undelivered == ()


def test_a_ledger_holds_acknowledgements_to_what_was_delivered() -> None:
    session, receipts = SessionId(b"s"), [Receipt(receipt_of(b"%d" % number)) for number in range(5)]
    ledger = Ledger(10)
    for number in (1, 2, 3):
        ledger.send(receipts[number], session, b"data", number)
    ledger.deliver(receipts[1], session, b"data", 1)
    ledger.deliver(receipts[3], session, b"data", 3)
    for false in ((range(2, 3),), (range(1, 4),), (range(3, 5),)):
        with pytest.raises(AssertionError, match="not delivered"):
            ledger.acknowledge(session, false)
    assert ledger.unheard(session) == (range(1, 2), range(3, 4))
    ledger.acknowledge(session, (range(3, 4),))
    assert ledger.unheard(session) == (range(1, 2),)
    with pytest.raises(AssertionError, match="twice"):
        ledger.acknowledge(session, (range(1, 2), range(3, 4)))
    ledger.send(receipts[4], session, b"data", 3)
    with pytest.raises(AssertionError, match="one number"):
        ledger.deliver(receipts[4], session, b"data", 3)


@pytest.mark.parametrize("agents", [(), ("alice",), ("alice", "alice"), "ab"])
def test_a_mesh_has_at_least_two_agents_with_names_of_their_own(agents: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentInvalid):
        MeshSimulator(0, agents)


@pytest.mark.parametrize("percent", [-1, 101, 1.0, True, None])
def test_faults_are_percentages(percent: object) -> None:
    with pytest.raises(ArgumentInvalid):
        Faults(drop_percent=percent)  # type: ignore[arg-type]


def test_a_wrong_argument_is_the_callers_fault_and_not_a_fault_of_the_mesh() -> None:
    mesh = acquainted()
    with pytest.raises(ArgumentInvalid):
        mesh.send("alice", "bob", "text")  # type: ignore[arg-type]
    assert mesh.errors == Counter()


# --- schedules as data -----------------------------------------------------------------------------------------------


@given(am.schedules(tuple(Move)), st.integers(0, 3))
def test_any_schedule_can_be_performed(actions: list[Action], seed: int) -> None:
    mesh = MeshSimulator(seed, defer_percent=50)
    perform(mesh, actions)
    mesh.settle()
    for pair in BOTH_WAYS:
        fates = (*mesh.delivered(*pair), *mesh.dropped(*pair), *(data for data, _ in mesh.refused(*pair)))
        assert sorted((*fates, *mesh.undelivered(*pair))) == sorted(mesh.sent(*pair))


def test_every_move_does_what_it_says() -> None:
    mesh = MeshSimulator(0, faults=HONEST, defer_percent=100)
    moves = [Move.DELIVER, Move.REPLAY, Move.DROP]  # nothing is there yet, so nothing happens
    perform(mesh, [Action(move=move, at=3) for move in moves])
    assert mesh.faults == Counter()
    perform(mesh, [Action(move=Move.KNOCK), Action(move=Move.DELIVER), Action(move=Move.DECIDE, who=1)])
    perform(mesh, [Action(move=Move.DELIVER), Action(move=Move.SEND, whom=4), Action(move=Move.SEND)])
    assert mesh.sent("alice", "bob") == (b"alice>bob#0", b"alice>bob#1")
    perform(mesh, [Action(move=Move.TAMPER), Action(move=Move.DUPLICATE, at=3), Action(move=Move.DELAY)])
    perform(mesh, [Action(move=Move.REPLAY), Action(move=Move.DROP), Action(move=Move.CRASH)])
    assert mesh.faults == dict.fromkeys(("tamper", "duplicate", "delay", "replay", "drop", "crash"), 1)
    perform(mesh, [Action(move=Move.KNOCK, who=1), Action(move=Move.DELIVER), Action(move=Move.DECIDE, at=1)])
    perform(mesh, [Action(move=Move.SETTLE), Action(move=Move.CLOSE), Action(move=Move.SETTLE)])
    assert mesh.events[SessionRejected] == 1
    assert mesh.endings == {Phase.CLOSED: 2}
    settled(mesh)
    perform(mesh, [Action(move=Move.LOSE_STATE)])
    assert mesh.faults["lost_state"] == 1
