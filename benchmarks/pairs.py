"""Agents and sessions to measure on, made with the public interface alone."""

from __future__ import annotations

from typing import Final, NamedTuple

from agentmesh import Agent, Intent, KnockReceived, Limits
from agentmesh.audit import AuditJournal, AuditLog, MemorySink, Sink
from benchmarks.sizes import MESH

INTENT: Final = Intent("summarise")
# A measurement is a flood of genuine KNOCKs of one identity: nothing but its rate is let off.
LIMITS: Final = Limits(knocks_per_identity=1_000_000, signature_checks_per_second=1_000_000)


class Pair(NamedTuple):
    """Alice, who knocks, and Bob; and what their journals write to, where there is one."""

    alice: Agent
    bob: Agent
    logs: tuple[AuditLog, ...] = ()

    def turn(self, size: int = 256) -> None:
        """Send one message each way."""
        data = bytes(size)
        self.bob.receive(self.alice.send(self.bob.did, data).envelope)
        self.alice.receive(self.bob.send(self.alice.did, data).envelope)


def agents(*sinks: Sink) -> Pair:
    """Return two agents that have never met, with audit logs over these sinks, if any are given."""
    if not sinks:
        return Pair(Agent.create(MESH, limits=LIMITS), Agent.create(MESH, limits=LIMITS))
    logs = tuple(AuditLog(sink) for sink in sinks)
    alice, bob = (Agent.create(MESH, limits=LIMITS, journal=AuditJournal(log)) for log in logs)
    return Pair(alice, bob, logs)


def establish(alice: Agent, bob: Agent, bundle: bytes) -> None:
    """Set up a session: KNOCK, decision, ACCEPT; both sides are established at the end."""
    [event] = bob.receive(alice.knock(bob.did, bundle, INTENT))
    if not isinstance(event, KnockReceived):
        raise RuntimeError(f"the KNOCK was not taken: {event}")
    alice.receive(bob.accept(event))


def one_bundle(agent: Agent) -> bytes:
    """Return a fresh one-time bundle."""
    return agent.publish_bundles(1, last_resort=False).one_time[0]


def conversation(*sinks: Sink, turns: int = 2) -> Pair:
    """Return two agents that have conversed: chains in both directions, and past ones from six turns on."""
    pair = agents(*sinks)
    establish(pair.alice, pair.bob, one_bundle(pair.bob))
    for _ in range(turns):
        pair.turn()
    return pair


def audited() -> Pair:
    """Return two agents that have conversed, with audit logs in memory."""
    return conversation(MemorySink(), MemorySink())
