"""Delivery does not depend on the order of arrival, nor on who sends when."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, MessageReceived
from agentmesh.engine.status import SessionStatus
from agentmesh.testing import HONEST, Faults, MeshSimulator, established_pair
from agentmesh.testing import strategies as am
from agentmesh.testing.schedule import Action, Move, perform

SIDES = st.lists(st.booleans(), min_size=1, max_size=12)


def converse(from_alice: list[bool], order: list[int]) -> tuple[Counter[tuple[str, bytes]], list[SessionStatus]]:
    """Have both sides send, in turns as `from_alice` says, deliver in this order, and return what came of it."""
    pair = established_pair()
    sent: list[tuple[Agent, bytes]] = []
    for number, is_alice in enumerate(from_alice):
        sender, recipient = (pair.alice, pair.bob) if is_alice else (pair.bob, pair.alice)
        sent.append((recipient, sender.send(recipient.did, b"%d" % number).envelope))
    delivered: Counter[tuple[str, bytes]] = Counter()
    for place in order:
        recipient, envelope = sent[place]
        [event] = recipient.receive(envelope)
        assert isinstance(event, MessageReceived)
        delivered[recipient.did, event.plaintext] += 1
    views = [pair.alice.session(pair.bob.did), pair.bob.session(pair.alice.did)]
    return delivered, [view.status for view in views]


@given(st.data())
def test_any_order_of_arrival_delivers_the_same_and_ends_in_the_same_status(data: st.DataObject) -> None:
    from_alice = data.draw(SIDES)
    order = data.draw(am.orders(len(from_alice)))
    in_order = list(range(len(from_alice)))
    assert converse(from_alice, order) == converse(from_alice, in_order)


@given(
    actions=am.schedules((Move.SEND, Move.SEND, Move.DELIVER, Move.DELIVER, Move.DELAY, Move.KNOCK)),
    seed=st.integers(0, 3),
)
def test_any_interleaving_of_sends_and_deliveries_delivers_everything_once(actions: list[Action], seed: int) -> None:
    mesh = MeshSimulator(seed, faults=HONEST)
    mesh.knock("alice", "bob")
    mesh.settle()
    perform(mesh, actions)
    mesh.settle()
    for pair in (("alice", "bob"), ("bob", "alice")):
        assert sorted(mesh.delivered(*pair)) == sorted(mesh.sent(*pair))


@given(am.faults(), st.integers(0, 2**32))
def test_a_mesh_with_any_faults_accounts_for_every_message(faults: Faults, seed: int) -> None:
    mesh = MeshSimulator(seed, ("alice", "bob", "carol"), faults=faults, one_time=1)
    for number, (sender, recipient) in enumerate((("alice", "bob"), ("bob", "carol"), ("carol", "alice"))):
        mesh.knock(sender, recipient)
        mesh.settle()
        for again in range(2):
            mesh.send(sender, recipient, b"%d.%d" % (number, again))
            mesh.send(recipient, sender, b"%d.%d back" % (number, again))
            mesh.run(5)
    mesh.settle()
    for sender in mesh.names:
        for recipient in mesh.names:
            if sender != recipient:
                pair = (sender, recipient)
                assert sorted((*mesh.delivered(*pair), *mesh.dropped(*pair))) == sorted(mesh.sent(*pair))
