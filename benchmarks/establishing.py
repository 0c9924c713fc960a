"""Session establishment, warm and cold, and bundles in a batch.

One pair is: bundle verified, signed KNOCK with sealed intent, KNOCK received and accepted, signed ACCEPT received; both
sides established. *Warm*: the identities have met before, and the responder's KEM keys are live. *Cold*: they have not,
and the responder was restored from its exported state. Making the bundle is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from agentmesh import Agent
from benchmarks.pairs import LIMITS, agents, establish, one_bundle
from benchmarks.peers.serve import Call, Workload

_BATCH = 100
_PAIRS = 10  # made ahead, so that many establishments follow one another
_OPEN_SESSIONS = 4  # after the first; a peer may have five

Prepared = tuple[Agent, Agent, bytes]


def _warm_pairs() -> Iterator[Prepared]:
    for _ in range(_PAIRS):
        alice, bob, _ = agents()
        bundles = [one_bundle(bob) for _ in range(_OPEN_SESSIONS + 1)]
        establish(alice, bob, bundles.pop())
        yield from ((alice, bob, bundle) for bundle in bundles)


def _cold_pairs() -> Iterator[Prepared]:
    for _ in range(_PAIRS):
        alice, bob, _ = agents()
        bundle = one_bundle(bob)
        yield alice, Agent.restore(bob.export_state(), limits=LIMITS), bundle


def _established(prepare: Callable[[], Iterator[Prepared]]) -> Iterator[Call]:
    while True:
        for alice, bob, bundle in list(prepare()):
            yield partial(establish, alice, bob, bundle)


def warm() -> Iterator[Call]:
    """Yield establishments between agents that have met."""
    return _established(_warm_pairs)


def cold() -> Iterator[Call]:
    """Yield establishments between agents that have not met, the responder fresh from its export."""
    return _established(_cold_pairs)


def batch() -> Iterator[Call]:
    """Yield publications of a hundred one-time bundles."""
    while True:
        bob = agents().bob
        yield partial(bob.publish_bundles, _BATCH, last_resort=False)


WORKLOADS = {
    "handshake_pair": Workload(warm),
    "handshake_pair_cold": Workload(cold),
    "bundle_batch": Workload(batch, _BATCH),
}
