"""An agent of many sessions: what each keeps in memory, and that it goes without a garbage collection."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType

import pytest

from agentmesh import Agent, Intent, KnockReceived
from agentmesh.engine.state import Peer
from agentmesh.session.established import Session
from agentmesh.session.ratchet import Ratchet
from agentmesh.testing import ManualClock

MESH = "example/hub"


def meet(hub: Agent, clock: ManualClock, *, initiates: bool) -> str:
    """Give the hub one more idle session, with a peer that then leaves."""
    clock.advance(seconds=1)
    peer = Agent.create(MESH, clock=clock)
    first, second = (hub, peer) if initiates else (peer, hub)
    bundle = second.publish_bundles(1, last_resort=False).one_time[0]
    [asked] = second.receive(first.knock(second.did, bundle, Intent("x")))
    assert isinstance(asked, KnockReceived)
    first.receive(second.accept(asked))
    for _ in range(2):
        second.receive(first.send(second.did, b"hello"))
        first.receive(second.send(first.did, b"hello"))
    return peer.did


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def reachable(value: object) -> dict[int, object]:
    """Return every object that a value holds on to, by its identity; classes and modules are nobody's."""
    found: dict[int, object] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if id(one) not in found and not isinstance(one, type | ModuleType | FunctionType):
            found[id(one)] = one
            waiting += gc.get_referents(one)
    return found


@pytest.mark.parametrize("initiates", [True, False])
def test_an_idle_session_is_small_with_all_that_is_kept_for_it(initiates: bool) -> None:
    clock = ManualClock()
    hub = Agent.create(MESH, clock=clock)
    for _ in range(2):
        meet(hub, clock, initiates=initiates)
    gc.collect()  # which tells tuples of atoms from those that hold what can be in a cycle
    state = hub._core.state
    first, second = state.peers.values()
    memos = [memo for memo in state.knocks if memo.initiator == second.key.raw]
    [session] = second.sessions
    assert isinstance(session, Session)
    shared = reachable((first, state.identity, session.facts._heads))
    kept = reachable((second, *memos, state.knocks._of.get(second.key.raw)))
    own = [one for at, one in kept.items() if at not in shared]
    assert sum(map(sys.getsizeof, own)) < (2650 if initiates else 3050)
    assert sum(map(gc.is_tracked, own)) <= 18


def test_what_all_sessions_share_is_there_once() -> None:
    clock = ManualClock()
    hub = Agent.create(MESH, clock=clock)
    for _ in range(3):
        meet(hub, clock, initiates=True)
    sessions = [held for held in hub._core.state.sessions.values() if isinstance(held, Session)]
    assert len({id(held.facts._heads) for held in sessions}) == len({len(held.facts.peer.did) for held in sessions})
    assert len({id(held.ratchet.skipped) for held in sessions}) == 1


def of_this_library() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, Session | Ratchet | Peer)]


@pytest.mark.usefixtures("no_collection")
def test_a_session_that_is_over_goes_without_a_collection() -> None:
    """What `gc.freeze` costs an application rests on this: nothing of ours is in a cycle."""
    clock = ManualClock()
    hub = Agent.create(MESH, clock=clock)
    before = len(of_this_library())
    dids = [meet(hub, clock, initiates=True) for _ in range(3)]
    of_three = len(of_this_library()) - before
    for did in dids[1:]:
        [status] = hub.sessions(did)
        hub.drop(did, status.session_id)
    assert of_three == 9
    assert len(of_this_library()) - before == 5  # two peers that are remembered, and what is left
    del hub
    assert len(of_this_library()) == before
