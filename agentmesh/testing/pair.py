"""Two agents in one mesh, on one manual clock, with a session or without: where most tests begin."""

from __future__ import annotations

from attrs import frozen

from agentmesh.agent import Agent
from agentmesh.events import KnockReceived
from agentmesh.handshake.knock import Intent
from agentmesh.handshake.verdict import UNLIMITED, Conditions
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.policy import Policy
from agentmesh.testing.clock import ManualClock
from agentmesh.testing.entropy import SeededEntropy

MESH = "example/test"


@frozen
class Pair:
    """Alice, who knocks, and Bob.

    Attributes:
        alice: The initiator.
        bob: The responder.
        clock: The clock of both.
    """

    alice: Agent
    bob: Agent
    clock: ManualClock


def agent_pair(
    seed: int = 0,
    *,
    mesh: str = MESH,
    limits: Limits | None = None,
    alice_policy: Policy | None = None,
    bob_policy: Policy | None = None,
    acknowledge: bool = False,
    reliable: bool = False,
    in_order: bool = False,
) -> Pair:
    """Return two agents that have never met, with identities that depend on `seed` alone."""
    clock = ManualClock()
    agents = [
        Agent.create(
            mesh,
            identity=Identity.generate(SeededEntropy(f"{seed}/{name}")),
            clock=clock,
            entropy=SeededEntropy(f"{seed}/{name}/session"),
            policy=policy,
            limits=limits,
            acknowledge=acknowledge,
            reliable=reliable,
            in_order=in_order,
        )
        for name, policy in (("alice", alice_policy), ("bob", bob_policy))
    ]
    return Pair(agents[0], agents[1], clock)


def establish(
    initiator: Agent,
    responder: Agent,
    *,
    conditions: Conditions = UNLIMITED,
    intent: Intent | None = None,
    early_payload: bytes | None = None,
) -> None:
    """Have one agent knock at the other on a fresh one-time bundle, and the other accept."""
    bundle = responder.publish_bundles(1, last_resort=False).one_time[0]
    knock = initiator.knock(
        responder.did, bundle, Intent("test") if intent is None else intent, early_payload=early_payload
    )
    [event] = responder.receive(knock)
    if isinstance(event, KnockReceived):
        initiator.receive(responder.accept(event, conditions))
    elif event.reply is not None:
        initiator.receive(event.reply)


def established_pair(
    seed: int = 0,
    *,
    conditions: Conditions = UNLIMITED,
    limits: Limits | None = None,
    early_payload: bytes | None = None,
    acknowledge: bool = False,
    reliable: bool = False,
    in_order: bool = False,
) -> Pair:
    """Return two agents with one session that Alice began."""
    pair = agent_pair(seed, limits=limits, acknowledge=acknowledge, reliable=reliable, in_order=in_order)
    establish(pair.alice, pair.bob, conditions=conditions, early_payload=early_payload)
    return pair
