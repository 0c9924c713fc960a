"""One message to a hundred peers by one call, beside a hundred calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agentmesh import Agent, Intent, KnockReceived
from benchmarks.peers.serve import Call, Workload

PEERS: Final = 100
_DATA: Final = bytes(256)


def _talking() -> tuple[Agent, list[str]]:
    """Return an agent, and whom it has sessions with."""
    alice = Agent.create("bench/many")
    peers = []
    for _ in range(PEERS):
        peer = Agent.create("bench/many")
        bundle = peer.publish_bundles(one_time=1, last_resort=False).one_time[0]
        [asked] = peer.receive(alice.knock(peer.did, bundle, Intent("bench")).envelope)
        assert isinstance(asked, KnockReceived)
        alice.receive(peer.accept(asked).envelope)
        peers.append(peer.did)
    return alice, peers


def _many() -> Iterator[Call]:
    alice, peers = _talking()

    def call() -> None:
        assert len(alice.send_many(peers, _DATA).results) == PEERS

    while True:
        yield call


def _each() -> Iterator[Call]:
    alice, peers = _talking()

    def call() -> None:
        for did in peers:
            alice.send(did, _DATA)

    while True:
        yield call


WORKLOADS: Final = {f"many_{PEERS}": Workload(_many), f"each_{PEERS}": Workload(_each)}
