"""Exported state: restoring it at any point changes nothing, and an idle session takes less than a kilobyte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, Conditions, Intent, Phase, Reason
from agentmesh.errors import AgentMeshError, StateMalformed
from agentmesh.session.at_rest import export_session, restore_session
from agentmesh.testing import ManualClock, MeshSimulator, Mutation, SeededEntropy, agent_pair, established_pair
from agentmesh.testing import strategies as am
from agentmesh.testing.schedule import Action, perform
from agentmesh.testing.strategies import Delivery

IDLE_SESSION_MAX_BYTES = 1023


def restored(agent: Agent, clock: ManualClock, seed: str = "restored") -> Agent:
    """Return the agent that the export of `agent` gives, once it has been seen to be the same."""
    exported = agent.export_state()
    again = Agent.restore(exported, clock=clock, entropy=SeededEntropy(seed))
    assert again.export_state() == exported
    # What an export leaves out would not be missed by comparing exports.
    assert again.pending_knocks() == agent.pending_knocks()
    for peer in agent._core.state.dids:
        assert again.sessions(peer) == agent.sessions(peer)
        assert again.pending_envelopes(peer) == agent.pending_envelopes(peer)
    mesh, did = again.mesh, again.did
    for held in agent._core.state.sessions.values():
        data = export_session(held)
        assert export_session(restore_session(data, mesh=mesh, own_did=did)) == data
    return again


def test_a_conversation_goes_on_though_both_sides_restart_around_every_call() -> None:
    pair = agent_pair()
    agents, clock = {"alice": pair.alice, "bob": pair.bob}, pair.clock
    dids = {name: agent.did for name, agent in agents.items()}
    phases: set[Phase] = set()

    def call(name: str, method: str, *arguments: Any, **named: Any) -> Any:
        for one, other in (("alice", "bob"), ("bob", "alice")):
            agents[one] = restored(agents[one], clock)
            phases.update(view.status.phase for view in agents[one].sessions(dids[other]))
        return getattr(agents[name], method)(*arguments, **named)

    def arrive(recipient: str, data: bytes, envelope: bytes) -> None:
        [event] = call(recipient, "receive", envelope)
        assert event.plaintext == data

    shelf = call("bob", "publish_bundles", 2)
    [asked] = call("bob", "receive", call("alice", "knock", dids["bob"], shelf.one_time[0], Intent("test")))
    call("alice", "receive", call("bob", "reject", asked, Reason.BUSY))
    knock = call("alice", "knock", dids["bob"], shelf.one_time[1], Intent("test"), early_payload=b"early")
    [asked] = call("bob", "receive", knock)
    accepted = call("bob", "accept", asked, Conditions(max_messages=100, ttl_seconds=86_400))
    assert accepted.early_payload == b"early"
    call("alice", "receive", accepted.envelope)
    late: list[tuple[bytes, bytes]] = []
    for turn in range(10):
        clock.advance(ms=5)
        late.append((b"late", call("alice", "send", dids["bob"], b"late")))
        for sender, recipient in (("alice", "bob"), ("bob", "alice")):
            arrive(recipient, b"turn", call(sender, "send", dids[recipient], b"turn"))
        while turn % 4 == 3 and late:
            arrive("bob", *late.pop())
    arrive("bob", *late.pop())
    [closed] = call("bob", "receive", call("alice", "close", dids["bob"], "done"))
    assert closed.missing == 1
    [(data, envelope)] = late
    [message, over] = call("bob", "receive", envelope)
    assert (message.plaintext, over.phase) == (data, Phase.CLOSED)
    [_, over] = call("alice", "receive", closed.reply.envelope)
    assert over.phase is Phase.CLOSED
    call("alice", "poll")
    assert phases == {Phase.PENDING, Phase.UNDECIDED, Phase.REJECTED, Phase.ESTABLISHED, Phase.CLOSED}


@given(am.deliveries(), am.mutations())
def test_two_agents_of_one_export_behave_alike(delivery: Delivery, mutation: Mutation) -> None:
    first, second = delivery.recipient(), delivery.recipient()
    for envelope in (mutation.apply(delivery.envelope), delivery.envelope, delivery.envelope):
        outcomes = [outcome_of(agent, envelope) for agent in (first, second)]
        assert outcomes[0] == outcomes[1]
        assert first.export_state() == second.export_state()
        second = restored_alike(second, delivery)
        first = restored_alike(first, delivery)


def restored_alike(agent: Agent, delivery: Delivery) -> Agent:
    return restored(agent, ManualClock(delivery.now_ms), "both")


def outcome_of(agent: Agent, envelope: bytes) -> list[tuple[object, ...]]:
    try:
        events = agent.receive(envelope)
    except AgentMeshError as error:
        return [(type(error),)]
    return [(type(event), event.reply, getattr(event, "plaintext", None)) for event in events]


@given(actions=am.schedules(max_size=15), seed=st.integers(0, 3))
def test_a_mesh_that_restarts_after_every_action_loses_nothing(actions: list[Action], seed: int) -> None:
    mesh = MeshSimulator(seed)
    mesh.knock("alice", "bob")
    mesh.settle()
    for action in actions:
        perform(mesh, [action])
        for name in mesh.names:
            mesh.crash(name)
    mesh.settle()
    for pair in (("alice", "bob"), ("bob", "alice")):
        assert sorted(mesh.delivered(*pair)) == sorted(mesh.sent(*pair))


# --- damaged exports -------------------------------------------------------------------------------------------------


@given(am.deliveries(), am.mutations())
def test_a_damaged_export_is_refused(delivery: Delivery, mutation: Mutation) -> None:
    with pytest.raises(StateMalformed):
        Agent.restore(mutation.apply(delivery.exported), clock=ManualClock(delivery.now_ms))


@pytest.mark.parametrize("cut", [lambda data: data[:-1], lambda data: data + b"\x00", lambda data: b""])
def test_a_cut_or_extended_export_is_refused(cut: Callable[[bytes], bytes]) -> None:
    with pytest.raises(StateMalformed):
        Agent.restore(cut(established_pair().alice.export_state()))


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditions", [Conditions(), Conditions(max_messages=2**53 - 1, ttl_seconds=2**52)])
def test_an_idle_session_is_exported_in_less_than_a_kilobyte(conditions: Conditions) -> None:
    pair = established_pair(conditions=conditions)
    sizes = []
    for _ in range(31):
        for agent in (pair.alice, pair.bob):
            [held] = agent._core.state.sessions.values()
            sizes.append(len(export_session(held)))
        for sender, recipient in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
            recipient.receive(sender.send(recipient.did, b"turn"))
    assert max(sizes) <= IDLE_SESSION_MAX_BYTES
    # All that grows with turns is the kept chains, and their number is bounded.
    assert sizes[-1] == sizes[-11]
