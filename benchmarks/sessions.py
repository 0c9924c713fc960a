"""What a session costs while nothing happens: memory, exported bytes, export and restore."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from agentmesh import Agent, Limits
from agentmesh.engine.export import restore_agent
from agentmesh.session.at_rest import export_session, restore_session
from benchmarks.pairs import conversation, establish, one_bundle
from benchmarks.peers.serve import Call, Workload, memory_bytes
from benchmarks.sizes import MESH


def exported_session() -> tuple[bytes, str]:
    """Return one idle session as bytes, and whose it is."""
    alice = conversation().alice
    [held] = restore_agent(alice.export_state(), 0).sessions.values()
    return export_session(held), alice.did


def serialise() -> Iterator[Call]:
    """Yield exports of a session, unsealed."""
    exported, did = exported_session()
    held = restore_session(exported, mesh=MESH, own_did=did)
    while True:
        yield lambda: export_session(held)


def restore() -> Iterator[Call]:
    """Yield restorations of a session."""
    exported, did = exported_session()
    while True:
        yield lambda: restore_session(exported, mesh=MESH, own_did=did)


def serialise_agent() -> Iterator[Call]:
    """Yield exports of an agent with one session."""
    alice = conversation().alice
    while True:
        yield alice.export_state


def restore_an_agent() -> Iterator[Call]:
    """Yield restorations of an agent with one session."""
    exported = conversation().alice.export_state()
    while True:
        yield lambda: Agent.restore(exported)


WORKLOADS = {
    "serialise": Workload(serialise),
    "restore": Workload(restore),
    "serialise_agent": Workload(serialise_agent),
    "restore_agent": Workload(restore_an_agent),
}


def _meet(hub: Agent, *, initiates: bool) -> None:
    """Give the hub one more idle session, with a peer of its own that then leaves."""
    peer = Agent.create(MESH)
    first, second = (hub, peer) if initiates else (peer, hub)
    establish(first, second, one_bundle(second))
    for _ in range(2):
        second.receive(first.send(second.did, b"hello"))
        first.receive(second.send(first.did, b"hello"))


def _hub() -> Agent:
    # More KNOCKs a second than an agent takes from strangers by itself.
    return Agent.create(MESH, limits=Limits(signature_checks_per_second=1_000_000))


def mem_session_bytes(count: int, *, initiated: bool = True) -> float:
    """Return all that an agent keeps for one more idle session: the session, the peer, and the memory of the KNOCK."""
    hub = _hub()
    for _ in range(count // 5):
        _meet(hub, initiates=initiated)
    before = memory_bytes()
    for _ in range(count):
        _meet(hub, initiates=initiated)
    used = memory_bytes() - before
    if sum(1 for _ in hub.export_state()) == 0:
        raise RuntimeError("the agent must outlive its measurement")
    return used / count


def mem_session_alone_bytes(count: int) -> float:
    """Return the memory of one more session object, restored from its export: without the peer's record."""
    exported, did = exported_session()
    kept = [restore_session(bytes(bytearray(exported)), mesh=MESH, own_did=did) for _ in range(count // 5)]
    before = memory_bytes()
    kept.extend(restore_session(bytes(bytearray(exported)), mesh=MESH, own_did=did) for _ in range(count))
    return (memory_bytes() - before) / count


def exported_bytes() -> int:
    """Return the length of an idle session's export."""
    return len(exported_session()[0])


def exported_agent_bytes(count: int = 20, *, initiated: bool = True) -> float:
    """Return by how much one more idle session makes an agent's export longer."""
    hub = _hub()
    before = len(hub.export_state())
    for _ in range(count):
        _meet(hub, initiates=initiated)
    return (len(hub.export_state()) - before) / count


FIGURES: dict[str, Callable[..., Any]] = {
    "mem_session_bytes": mem_session_bytes,
    "mem_session_alone_bytes": mem_session_alone_bytes,
    "exported_bytes": exported_bytes,
    "exported_agent_bytes": exported_agent_bytes,
}
