"""State as bytes (section 7): what comes back is what was written, and nothing else comes back."""

from __future__ import annotations

import copy
import functools
import hashlib
import pickle
import random
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh import Agent, Conditions, Intent, KnockReceived, MessageReceived, Phase
from agentmesh.engine.export import restore_agent
from agentmesh.errors import AgentMeshError, StateMalformed, StateVersionUnknown, StoreError
from agentmesh.limits import KEPT_CHAINS
from agentmesh.session.at_rest import export_session, restore_session
from agentmesh.session.epochs import Answering, Half, Offering, Standing
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended
from agentmesh.session.pending import Pending, Undecided
from agentmesh.testing import ManualClock, SeededEntropy, agent_pair, establish, established_pair
from agentmesh.testing.entropy import KemKeys, SharedEntropy
from agentmesh.trust import TrustLedger

Path = tuple[int, ...]
MESH = "example/test"
brisk = settings(max_examples=max(1, settings().max_examples // 2))


def unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, strict_map_key=False)


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


# --- a state with something of everything ----------------------------------------------------------------------------


@frozen
class Rich:
    """Bob's export, and what his peers can still send him."""

    exported: bytes
    incoming: tuple[bytes, ...]
    clock: ManualClock


def new_agent(name: str, clock: ManualClock) -> Agent:
    return Agent.create(MESH, clock=clock, entropy=SeededEntropy(f"rich {name}"))


def knock(sender: Agent, receiver: Agent, **more: Any) -> KnockReceived:
    bundle = receiver.publish_bundles(1, last_resort=False).one_time[0]
    [event] = receiver.receive(sender.knock(receiver.did, bundle, Intent("action", detail=b"detail"), **more))
    assert isinstance(event, KnockReceived)
    return event


@functools.cache
def rich() -> Rich:
    """Return an agent with a session in every phase, late messages, memories, and bundles used and unused."""
    clock = ManualClock()
    bob = new_agent("bob", clock)
    peers = [new_agent(f"peer {number}", clock) for number in range(4)]
    first, second, third, fourth = peers
    bob.publish_bundles(1)
    incoming = []
    # Established, with turns, late messages in two chains, and conditions.
    event = knock(first, bob, early_payload=b"early")
    granted = Conditions(max_messages=1000, ttl_seconds=86_400, allowed_actions=["action", "other"])
    first.receive(bob.accept(event, granted).envelope)
    for turn in range(8):
        late = first.send(bob.did, b"late %d" % turn).envelope
        bob.receive(first.send(bob.did, b"in time"))
        first.receive(bob.send(first.did, b"answer"))
        incoming.append(late)
    incoming.append(first.send(bob.did, b"next").envelope)
    # Another with the same peer, that the peer has closed and whose data is missing.
    clock.advance(ms=1)
    establish(first, bob)
    incoming.append(first.send(bob.did, b"announced").envelope)
    bob.receive(first.close(bob.did, "closed"))
    # Undecided, pending, just accepted, rejected, and over.
    knock(second, bob, early_payload=b"early")
    knock(bob, second)
    clock.advance(ms=1)
    pending = knock(bob, third)
    incoming.append(third.accept(pending).envelope)
    establish(third, bob)
    bob.close(third.did)
    bob.reject(knock(fourth, bob))
    clock.advance(ms=1)
    knock(fourth, bob)
    accepted = knock(bob, fourth)
    bob.receive(fourth.accept(accepted).envelope)
    # One that a returned peer has let go.
    establish(third, bob)
    returned = Agent.create(MESH, identity=third._core.state.identity, clock=clock, entropy=SeededEntropy("returned"))
    clock.advance(ms=1)
    establish(returned, bob)
    incoming.append(returned.send(bob.did, b"from the returned").envelope)
    bob.publish_bundles(1)
    held = bob._core.state.sessions.values()
    assert {type(one) for one in held} == {Pending, Undecided, Session, Ended}
    assert any(isinstance(one, Session) and one.superseded_at_ms for one in held)
    assert any(isinstance(one, Session) and one.peer_close for one in held)
    assert any(isinstance(one, Session) and len(one.ratchet.past) > KEPT_CHAINS for one in held)
    return Rich(bob.export_state(), tuple(incoming), clock)


def restored(exported: bytes, now_ms: int | None = None) -> Agent:
    clock = ManualClock(rich().clock.now_ms if now_ms is None else now_ms)
    return Agent.restore(exported, clock=clock, entropy=SeededEntropy("restored"))


def exercise(agent: Agent) -> None:
    """Use a restored agent in every way; whatever was in it, only errors of ours may come of it."""

    def attempt(call: Any) -> None:
        try:
            call()
        except AgentMeshError:
            return

    for envelope in rich().incoming:
        attempt(lambda envelope=envelope: agent.receive(envelope))
    for peer in list(agent._core.state.peers.values()):
        did = peer.key.did
        for view in agent.sessions(did):
            attempt(lambda did=did, view=view: agent.send(did, b"x", session_id=view.session_id).envelope)
        attempt(lambda did=did: agent.pending_envelopes(did))
    for event in agent.pending_knocks():
        attempt(lambda event=event: agent.accept(event))
    attempt(agent.poll)
    _ = agent.next_deadline_ms
    agent.export_state()


VERSION, MESH_NAME, PEERS, GENERATION, HAS_POLICY = 0, 1, 5, 6, 7


def opened(data: bytes) -> list[Any]:
    """Return an export's fields: version, mesh, seed, bundles, memories, peers, generation, policy."""
    kind, version, mesh, generation, fields = unpack(unpack(data)[0])
    seed, has_policy, *lists = unpack(fields)
    assert kind == "agent"
    return [version, mesh, seed, *lists, generation, has_policy]


def framed(body: bytes) -> bytes:
    """Return a frame with the checksum that belongs to its body: whoever can alter an export can compute it."""
    return pack([body, hashlib.sha256(body).digest()])


def closed(fields: list[Any]) -> bytes:
    version, mesh, seed, *lists, generation, has_policy = fields
    return framed(pack(["agent", version, mesh, generation, pack([seed, has_policy, *lists])]))


def nested(data: bytes) -> list[Any]:
    """Return an export's fields with its session records decoded too."""
    fields = opened(data)
    for peer in fields[PEERS]:
        peer[3] = [unpack(session) for session in peer[3]]
    return fields


def joined(fields: list[Any]) -> bytes:
    fields = copy.deepcopy(fields)
    for peer in fields[PEERS] if isinstance(fields[PEERS], list) else ():
        if isinstance(peer, list) and len(peer) == 4 and isinstance(peer[3], list):
            peer[3] = [pack(session) if isinstance(session, list) else session for session in peer[3]]
    return closed(fields)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every node but the root, containers too."""
    if path:
        yield path, value
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))


def replaced(fields: list[Any], path: Path, value: Any) -> list[Any]:
    fields = copy.deepcopy(fields)
    target = fields
    for index in path[:-1]:
        target = target[index]
    target[path[-1]] = value
    return fields


def wrong_types(value: Any) -> list[Any]:
    always = [True, False, 1.5, float("nan"), {}, {"a": 1}, msgpack.ExtType(5, b"x"), -1, 2**64 - 1]
    if isinstance(value, int):
        return [*always, "1", b"\x01", [value]]
    if isinstance(value, bytes):
        return [*always, value.hex(), [value], 0]
    if isinstance(value, str):
        return [*always, value.encode(), [value], 0, "\ufffd" * 200]
    if isinstance(value, list):
        return [*always, "list", 7]
    return always


def test_every_field_of_another_type_is_refused() -> None:
    fields = nested(rich().exported)
    rng = random.Random(3)
    checked = 0
    for path, value in leaves(fields):
        for wrong in rng.sample(wrong_types(value), 4):
            data = joined(replaced(fields, path, wrong))
            with pytest.raises(StoreError) as caught:
                restored(data)
            assert type(caught.value) is StateMalformed or path == (0,), (path, wrong)
            checked += 1
    assert checked > 1000


# Of a list of these places the elements' number is free: bundles, memories, peers, sessions, past chains, kept keys.
def test_every_fixed_length_is_held() -> None:
    fields = nested(rich().exported)
    fixed = 0
    for path, value in leaves(fields):
        if isinstance(value, bytes) and len(value) in (16, 32, 64):
            for wrong in (value[:-1], value + b"\x00", b""):
                with pytest.raises(StateMalformed):
                    restored(joined(replaced(fields, path, wrong)))
            fixed += 1
        elif isinstance(value, list) and len(path) not in (1, 3):
            for wrong_list in ([*value, 0], [*value, None]):
                with pytest.raises(StateMalformed):
                    restored(joined(replaced(fields, path, wrong_list)))
    assert fixed > 100


def test_whatever_is_restored_is_what_was_given_and_never_breaks() -> None:
    """Each number moved within its range, each byte string altered: refused, or restored as it stands."""
    fields = nested(rich().exported)
    rng = random.Random(1)
    kept = 0
    for path, value in leaves(fields):
        if path == (HAS_POLICY,):
            continue  # it asks for a policy: see test_restoring.py
        if isinstance(value, bool) or value is None:
            candidates: list[Any] = [0, 2**53 - 1]
        elif isinstance(value, int):
            candidates = [0, 1, value + 1, max(0, value - 1), 2**32 - 1, 2**53 - 1, None]
        elif isinstance(value, bytes):
            candidates = [bytes(len(value)), rng.randbytes(len(value)), b"\xff" * len(value), None]
        elif isinstance(value, str):
            candidates = [value + "x", value[:-1], "closed", None]
        else:
            candidates = [value[:-1], [*value, *value[-1:]], value[::-1], []]
        for candidate in rng.sample(candidates, 1):
            data = joined(replaced(fields, path, candidate))
            try:
                # No bundle is past its time by this clock, whatever its validity became.
                assert restored(data, now_ms=0).export_state() == data, path
                agent = restored(data)
            except (StateMalformed, StateVersionUnknown):
                continue
            kept += 1
            if kept % 4 == 0:
                exercise(agent)
    assert kept > 50


def test_every_truncation_is_refused() -> None:
    exported = rich().exported
    for length in range(0, len(exported), 3):
        with pytest.raises(StateMalformed):
            restored(exported[:length])
    for tail in (b"\x00", b"\xc0", exported[:1], bytes(100)):
        with pytest.raises(StateMalformed):
            restored(exported + tail)


def test_every_flipped_bit_is_refused() -> None:
    exported = rich().exported
    for bit in range(8 * len(exported)):
        flipped = bytearray(exported)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StateMalformed):
            restore_agent(bytes(flipped), 0)


def test_bits_that_were_flipped_on_purpose_are_refused_or_kept_as_they_are() -> None:
    """The checksum is computed anew, as whoever alters an export can: what is in it still breaks nothing."""
    exported = rich().exported
    body = unpack(exported)[0]
    has_policy = 8 * (body.index(opened(exported)[2]) + 32) + 7
    rng = random.Random(2)
    kept = 0
    for bit in rng.sample(range(8 * len(body)), 800):
        if bit == has_policy:
            continue
        flipped = bytearray(body)
        flipped[bit // 8] ^= 128 >> bit % 8
        data = framed(bytes(flipped))
        try:
            agent = restored(data)
        except (StateMalformed, StateVersionUnknown):
            continue
        assert agent.export_state() == data != exported
        kept += 1
        if kept % 16 == 0:
            exercise(agent)
    assert kept > 50


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=20,
).map(pack))  # fmt: skip
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((StateMalformed, StateVersionUnknown)):
        Agent.restore(data)
    with pytest.raises(StateMalformed):
        restore_session(data, mesh=MESH, own_did="did:agentmesh:x")


@pytest.mark.parametrize("data", [pickle.dumps([1, 2]), b"\x80\x04.", b"{}", b"", b"\xc1", b"\x96" * 5000])
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(StateMalformed):
        Agent.restore(data)
    with pytest.raises(StateMalformed):
        restore_session(data, mesh=MESH, own_did="did:agentmesh:x")


@pytest.mark.parametrize("data", [None, 5, "text", bytearray(b"\x96"), memoryview(b"\x96"), [1, 3], [1, []], {}])
def test_what_is_not_bytes_is_refused(data: Any) -> None:
    with pytest.raises(AgentMeshError):
        Agent.restore(data)
    with pytest.raises(AgentMeshError):
        restore_session(data, mesh=MESH, own_did="did:agentmesh:x")


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_newer_version_is_told_from_damage() -> None:
    fields = opened(rich().exported)
    for version in (0, 3, 127, 128, 2**32):
        with pytest.raises(StateVersionUnknown):
            restored(closed(replaced(fields, (VERSION,), version)))


@pytest.mark.parametrize("shape", [[3], [3, "x"], [3, "mesh", 0, [], [], [], [], b""], [3] + [0] * 15, [3] + [0] * 40])
def test_a_newer_version_may_have_other_fields(shape: list[Any]) -> None:
    with pytest.raises(StateVersionUnknown):
        Agent.restore(framed(pack(["agent", 3, MESH, 0, pack(shape)])))


def test_the_state_of_a_ledger_is_none_of_an_agent() -> None:
    version, mesh, *_, generation, _ = opened(rich().exported)
    body = unpack(rich().exported)[0]
    for kind in ("ledger", "graph", "revocations", "successions", "agents", ""):
        with pytest.raises(StateMalformed):
            restored(framed(pack([kind, version, mesh, generation, unpack(body)[4]])))
    with pytest.raises(StateMalformed):
        restored(TrustLedger(MESH).export_state())
    with pytest.raises(StateMalformed):
        TrustLedger.restore(rich().exported)


# --- fields that contradict one another ------------------------------------------------------------------------------


def altered_session(exported: bytes, session_tag: int, path: Path, value: Any) -> bytes:
    """Replace a field of the first session record of a kind."""
    fields = nested(exported)
    for peer_number, peer in enumerate(fields[PEERS]):
        for number, session in enumerate(peer[3]):
            if session[0] == session_tag and (session_tag != 3 or len(session[2][7]) > KEPT_CHAINS):
                return joined(replaced(fields, (PEERS, peer_number, 3, number, *path), value))
    raise AssertionError("no such session")


RATCHET = 2
SENDING, RECEIVING, PAST, SKIPPED, EPOCH, OFFERING, ANSWERING = 3, 4, 7, 8, 9, 10, 11
ANSWERED = [bytes(32), b"\x00\x00\x00\x01" + bytes(1120), bytes(32)]


@pytest.mark.parametrize(
    ("tag", "path", "value"),
    [
        (1, (1, 3), 0),  # a pending session that its owner did not begin
        (1, (2, SENDING), [bytes(32), bytes(32), 0, 0, 0]),  # and that can send
        (1, (2, RECEIVING), [bytes(32), bytes(32), bytes(32), 0, 1, 0, 0, 0]),
        (1, (2, EPOCH), 1),  # and has exchanged something
        (1, (2, OFFERING), [1, 0, None, None]),
        (1, (2, OFFERING), None),
        (1, (2, ANSWERING), ANSWERED),
        (2, (1, 3), 1),  # an undecided one that its owner began
        (2, (1, 8), 0),  # and whose early payload is there and is not
        (3, (1, 4), 0),  # no bundle class
        (3, (RATCHET, SENDING), None),  # established, and cannot send
        (3, (RATCHET, RECEIVING), None),  # past chains, and no current one
        (3, (RATCHET, RECEIVING, 4), 0),  # a chain that nothing has come on
        (3, (RATCHET, RECEIVING, 3), 1),  # a chain of an epoch that has not begun
        (3, (RATCHET, EPOCH), 1),  # an epoch that no chain has
        (3, (RATCHET, OFFERING), [0, 0, None, None]),  # a responder that offers
        (3, (RATCHET, ANSWERING), [ANSWERED[0], bytes(1124), ANSWERED[2]]),  # an answer of another epoch
        (3, (RATCHET, RECEIVING, 7), 99),  # a serial that does not follow the past ones
        (3, (RATCHET, PAST), []),  # chains before the current one, and none kept
        (3, (RATCHET, PAST, 0, 3), 77),
        (3, (RATCHET, PAST, 4, 1), 0),  # a past chain shorter than its kept keys
        (3, (RATCHET, SKIPPED, 0, 0), 99),  # a kept key of a chain that is not kept
        (3, (RATCHET, SKIPPED, 0, 1), 50),  # and of a number that the chain does not have
        (4, (3,), "pending"),  # over, and not over
        (4, (3,), "undecided"),
        (4, (3,), "established"),
        (4, (3,), "unheard"),
        (4, (6,), 0),
    ],
)
def test_fields_that_contradict_one_another(tag: int, path: Path, value: Any) -> None:
    with pytest.raises(StateMalformed):
        restored(altered_session(rich().exported, tag, path, value))


def test_kept_keys_stand_in_order_and_once() -> None:
    fields = nested(rich().exported)
    for peer_number, peer in enumerate(fields[PEERS]):
        for number, session in enumerate(peer[3]):
            if session[0] == 3 and len(session[2][SKIPPED]) > 1:
                skipped = session[2][SKIPPED]
                path = (PEERS, peer_number, 3, number, 2, SKIPPED)
                for wrong in (skipped[::-1], [skipped[0], *skipped], [*skipped, skipped[-1]]):
                    with pytest.raises(StateMalformed):
                        restored(joined(replaced(fields, path, wrong)))
                return
    raise AssertionError("no kept keys")


def test_a_session_record_under_another_peer_is_refused() -> None:
    fields = nested(rich().exported)
    peers = fields[PEERS]
    assert all(peer[3] for peer in peers)
    for mine in range(len(peers)):
        for other in range(len(peers)):
            if mine != other:
                swapped = copy.deepcopy(fields)
                swapped[PEERS][mine][3], swapped[PEERS][other][3] = peers[other][3], peers[mine][3]
                with pytest.raises(StateMalformed):
                    restored(joined(swapped))
                moved = copy.deepcopy(fields)
                moved[PEERS][mine][3].append(moved[PEERS][other][3].pop())
                with pytest.raises(StateMalformed):
                    restored(joined(moved))


@pytest.mark.parametrize("place", [3, 4, 5], ids=["bundle", "memory", "peer"])
def test_nothing_stands_twice(place: int) -> None:
    fields = opened(rich().exported)
    with pytest.raises(StateMalformed):
        restored(closed(replaced(fields, (place,), [*fields[place], fields[place][0]])))


def test_one_session_id_stands_once() -> None:
    fields = opened(rich().exported)
    peer = fields[PEERS][0]
    with pytest.raises(StateMalformed):
        restored(closed(replaced(fields, (PEERS, 0, 3), [*peer[3], peer[3][0]])))


def test_an_agent_is_not_its_own_peer() -> None:
    agent = established_pair().bob
    fields = opened(agent.export_state())
    with pytest.raises(StateMalformed):
        Agent.restore(closed(replaced(fields, (PEERS, 0), [agent.key.raw, None, None, []])))


@pytest.mark.parametrize("mesh", ["Example", "example test", "", "x" * 65, "example\n"])
def test_a_mesh_name_that_is_none(mesh: str) -> None:
    with pytest.raises(StateMalformed):
        restored(closed(replaced(opened(rich().exported), (MESH_NAME,), mesh)))


def test_peers_keys_are_validated() -> None:
    fields = opened(rich().exported)
    for key in (bytes(32), b"\x01" + bytes(31), b"\xff" * 32, (2**255 - 19).to_bytes(32, "little")):
        with pytest.raises(StateMalformed):
            restored(closed(replaced(fields, (PEERS, 0, 0), key)))


# --- there and back --------------------------------------------------------------------------------------------------


def test_what_was_exported_comes_back() -> None:
    first = restored(rich().exported)
    assert first.export_state() == rich().exported
    assert restored(first.export_state()).export_state() == rich().exported
    exercise(first)


def test_every_session_comes_back_alone() -> None:
    agent = restored(rich().exported)
    for held in agent._core.state.sessions.values():
        data = export_session(held)
        again = restore_session(data, mesh=MESH, own_did=agent.did)
        assert type(again) is type(held)
        assert export_session(again) == data
        for length in range(len(data)):
            with pytest.raises(StateMalformed):
                restore_session(data[:length], mesh=MESH, own_did=agent.did)


@pytest.mark.parametrize("seed", range(8))
def test_a_restored_agent_behaves_like_the_one_it_was(seed: int) -> None:
    """Two copies of both sides, the same randomness, the same network: one copy is restarted at every step."""
    rng = random.Random(seed)
    pair = established_pair(seed)
    exports = [pair.alice.export_state(), pair.bob.export_state()]
    clock = ManualClock(pair.clock.now_ms)

    def revive(exported: bytes, entropy: SeededEntropy) -> Agent:
        return Agent.restore(exported, clock=clock, entropy=entropy)

    kem_keys: KemKeys = {}  # so that both copies encapsulate alike
    entropies: list[list[SeededEntropy]] = [[SeededEntropy(side) for side in (0, 1)] for _ in range(2)]
    steady, restarted = ([revive(exports[side], entropies[copy_][side]) for side in (0, 1)] for copy_ in (0, 1))
    for side in (0, 1):  # what making an agent draws
        entropies[1][side] = SharedEntropy(f"later {side}", kem_keys)
        steady[side]._core.entropy = entropies[1][side]
    wires: tuple[list[bytes], list[bytes]] = ([], [])
    drawn = [SharedEntropy(f"later {side}", kem_keys) for side in (0, 1)]
    for _ in range(60):
        side = rng.randrange(2)
        restarted[side] = Agent.restore(restarted[side].export_state(), clock=clock)
        restarted[side]._core.entropy = drawn[side]  # type: ignore[assignment]
        action = rng.random()
        outcomes = []
        arrived = wires[side].pop(rng.randrange(len(wires[side]))) if wires[side] and action < 0.5 else None
        if action > 0.95:
            clock.advance(seconds=200)
        for agents in (steady, restarted):
            agent, peer = agents[side], agents[1 - side]
            try:
                if arrived is not None:
                    outcomes.append(repr(agent.receive(arrived)))
                elif 0.9 < action <= 0.91:
                    outcomes.append(agent.close(peer.did).envelope.hex())
                else:
                    outcomes.append(agent.send(peer.did, b"%f" % action).envelope.hex())
            except AgentMeshError as error:
                outcomes.append(error.code)
        assert outcomes[0] == outcomes[1]
        assert steady[side].export_state() == restarted[side].export_state()
        if arrived is None and "." not in outcomes[0]:
            wires[1 - side].append(bytes.fromhex(outcomes[0]))


def test_a_restart_in_every_phase_loses_nothing() -> None:
    pair = agent_pair()
    clock = pair.clock

    def again(agent: Agent) -> Agent:
        return Agent.restore(agent.export_state(), clock=clock)

    alice, bob = again(pair.alice), again(pair.bob)
    bundle = bob.publish_bundles(1).one_time[0]
    bob = again(bob)
    envelope = alice.knock(bob.did, bundle, Intent("action"), early_payload=b"early").envelope
    alice = again(alice)
    bob.receive(envelope)
    bob = again(bob)
    [event] = bob.pending_knocks()
    accepted = bob.accept(event, Conditions(max_messages=9))
    assert accepted.early_payload == b"early"
    bob = again(bob)
    assert again(bob).receive(envelope)[0].reply.envelope == accepted.envelope  # a lost ACCEPT is not final
    assert [waiting.envelope for waiting in alice.pending_envelopes(bob.did)] == [envelope]
    alice.receive(accepted.envelope)
    alice = again(alice)
    late = alice.send(bob.did, b"late").envelope
    for number in range(3):
        alice, bob = again(alice), again(bob)
        [message] = bob.receive(alice.send(bob.did, b"%d" % number))
        assert isinstance(message, MessageReceived)
        assert message.plaintext == b"%d" % number
        alice, bob = again(alice), again(bob)
        alice.receive(bob.send(alice.did, b"answer"))
    closing = alice.close(bob.did).envelope
    alice, bob = again(alice), again(bob)
    [closed] = bob.receive(closing)
    bob = again(bob)
    [message, _] = bob.receive(late)
    assert isinstance(message, MessageReceived)
    assert message.plaintext == b"late"
    bob, alice = again(bob), again(alice)
    alice.receive(closed.reply)
    assert again(alice).session(bob.did).status.phase is Phase.CLOSED
    assert again(bob).session(alice.did).status.phase is Phase.CLOSED


def test_knocks_wait_in_their_order_after_a_restart() -> None:
    clock = ManualClock()
    bob = new_agent("bob", clock)
    first, second = (new_agent(name, clock) for name in ("one", "two"))
    order = []
    for sender in (first, second, first, second, first):
        clock.advance(ms=1)
        order.append(knock(sender, bob).session_id)
    assert [event.session_id for event in bob.pending_knocks()] == order
    again = Agent.restore(bob.export_state(), clock=clock)
    assert [event.session_id for event in again.pending_knocks()] == order


def test_one_idle_session_is_under_a_kibibyte() -> None:
    pair = established_pair()
    for _ in range(3):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
        pair.alice.receive(pair.bob.send(pair.alice.did, b"x"))
    for agent in (pair.alice, pair.bob):
        [held] = agent._core.state.sessions.values()
        assert isinstance(held, Session)
        assert len(export_session(held)) < 1024
        most = 2**32 - 1
        if held.facts.initiator:
            halves: list[Half] = [
                Offering(most, Standing.NOTHING_OUT, most, 2**53 - 1),
                Offering(most - 1, Standing.OFFERED, most, 2**53 - 1, bytes(64)),
                Offering(most - 1, Standing.READY, most, 2**53 - 1, bytes(32)),
            ]
        else:
            answer = most.to_bytes(4, "big") + bytes(1120)
            halves = [Answering(most), Answering(most - 1, Standing.ANSWERED, bytes(32), answer, bytes(32))]
        for half in halves:
            held.ratchet.epochs = half
            assert len(export_session(held)) < (2048 if half.standing is Standing.ANSWERED else 1024)


def test_the_docstrings_warn_that_nothing_is_sealed() -> None:
    for call in (Agent.export_state, export_session):
        assert "secret" in (call.__doc__ or "")
        assert "unsealed" in (call.__doc__ or "")


@given(st.integers(0, 2**32))
@brisk
def test_exports_do_not_depend_on_what_was_refused(seed: int) -> None:
    rng = random.Random(seed)
    agent = restored(rich().exported)
    for envelope in rich().incoming:
        forged = bytearray(envelope)
        forged[rng.randrange(len(forged))] ^= rng.randrange(1, 256)
        with pytest.raises(AgentMeshError):
            agent.receive(bytes(forged))
    assert agent.export_state() == rich().exported
