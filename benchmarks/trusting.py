"""Trust: what a decision and an update cost in a mesh of a thousand and of ten thousand peers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache, partial
from itertools import cycle

from attrs import evolve

from agentmesh import Identity, IdentityKey, KnockReceived
from agentmesh.trust import AdmissionPolicy, Tier, TrustGraph, TrustLedger, issue_edge, issue_trust
from benchmarks.pairs import INTENT, agents, one_bundle
from benchmarks.peers.serve import Call, Workload
from benchmarks.sizes import MESH

_VOUCHERS = 20


class Mesh:
    """A ledger and a graph that know so many peers: every one has an update, and a path of two hops."""

    def __init__(self, peers: int) -> None:
        self.now_ms = time.time_ns() // 1_000_000
        self.auditor, me = Identity.generate(), Identity.generate()
        vouchers = [Identity.generate() for _ in range(_VOUCHERS)]
        self.keys: list[IdentityKey] = [Identity.generate().key for _ in range(peers)]
        self.ledger, self.graph = TrustLedger(MESH), TrustGraph(MESH, me.key)
        self.ledger.believe(self.auditor.key)
        self._sequence = 0
        for voucher in vouchers:
            self._vouch(me, voucher.key)
        for index, key in enumerate(self.keys):
            self.ledger.apply(self.statement(key, 150), now_ms=self.now_ms)
            self._vouch(vouchers[index % _VOUCHERS], key)
        self.policy = AdmissionPolicy(ledger=self.ledger, graph=self.graph, threshold=100, tiers=[Tier(min_score=100)])

    def statement(self, key: IdentityKey, signal: int) -> bytes:
        """Return the auditor's next signed update."""
        self._sequence += 1
        return issue_trust(self.auditor, key, signal, mesh=MESH, sequence=self._sequence, time_ms=self.now_ms)

    def _vouch(self, issuer: Identity, subject: IdentityKey) -> None:
        edge = issue_edge(issuer, subject, 800, mesh=MESH, sequence=1, time_ms=self.now_ms)
        self.graph.apply(edge, now_ms=self.now_ms)


@cache
def mesh_of(peers: int) -> Mesh:
    """Return the mesh of this size; it takes seconds to make."""
    return Mesh(peers)


@cache
def _a_request() -> KnockReceived:
    alice, bob, _ = agents()
    [event] = bob.receive(alice.knock(bob.did, one_bundle(bob), INTENT))
    if not isinstance(event, KnockReceived):
        raise RuntimeError("the KNOCK was not taken")
    return event


def decide(peers: int) -> Iterator[Call]:
    """Yield decisions on a KNOCK."""
    mesh, request = mesh_of(peers), _a_request()
    for key in cycle(mesh.keys):
        knock = evolve(request, peer=key)
        yield partial(mesh.policy.decide, knock)


def still_allowed(peers: int) -> Iterator[Call]:
    """Yield the question that every message asks."""
    mesh = mesh_of(peers)
    for key in cycle(mesh.keys):
        yield partial(mesh.policy.still_allowed, key)


def update(peers: int) -> Iterator[Call]:
    """Yield signed updates taken by the ledger, one Ed25519 verification each."""
    mesh = mesh_of(peers)
    signals = cycle((1, -1))
    for key in cycle(mesh.keys):
        statement = mesh.statement(key, next(signals))
        yield partial(mesh.ledger.apply, statement, now_ms=mesh.now_ms)


WORKLOADS = {
    f"trust_{name}_{peers}": Workload(partial(make, peers))
    for peers in (1000, 10_000)
    for name, make in (("decision", decide), ("allowed", still_allowed), ("update", update))
}
