"""Opening an agent of many idle sessions from a store, beside restoring their exports one by one.

The sessions are copies of one that was established, with ids and peers of their own: a hundred thousand KNOCKs would
take minutes and leave the same rows.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

from agentmesh import Agent, Identity
from agentmesh.engine.export import export_agent
from agentmesh.engine.rows import Rows, rows_of, state_of
from agentmesh.engine.state import RowKind
from agentmesh.session.at_rest import export_session, restore_session
from agentmesh.store import SQLiteStore
from benchmarks.pairs import LIMITS
from benchmarks.peers.serve import memory_bytes
from benchmarks.sizes import MESH
from benchmarks.storing import conversing, let_go

_KEY: Final = bytes(32)  # of a file that is gone in a minute


def _agent_of(count: int) -> tuple[bytes, str, list[bytes]]:
    """Return an agent with so many idle sessions as bytes, its DID, and each of the sessions as bytes."""
    hub = Agent.create(MESH, limits=LIMITS, reliable=True)
    peer, did = conversing(hub).bob.key, hub.did
    let_go(hub)
    template = rows_of(hub._core.state)
    [session_id] = [key for kind, key in template if kind is RowKind.SESSION]
    rows: Rows = {name: data for name, data in template.items() if name[0] in (RowKind.AGENT, RowKind.GENERATION)}
    for _ in range(count):
        own = Identity.generate().key.raw
        own_id = os.urandom(len(session_id))
        for kind, key in ((RowKind.PEER, own), (RowKind.SESSION, own_id)):
            data = template[kind, peer.raw if kind is RowKind.PEER else session_id]
            rows[kind, key] = data.replace(peer.raw, own).replace(session_id, own_id)
    state = state_of(rows)
    return export_agent(state, 0), did, [export_session(held) for held in state.sessions.values()]


def _write(path: Path, count: int) -> None:
    """Make a store of an agent with so many sessions, and a file of their exports."""
    exported, did, sessions = _agent_of(count)
    with SQLiteStore(path, key=_KEY) as store:
        store.open_agent(MESH, exported=exported)
    path.with_suffix(".sessions").write_bytes(b"".join(len(one).to_bytes(4, "big") + one for one in sessions))
    path.with_suffix(".did").write_text(did, "ascii")


def _sessions(path: Path) -> list[bytes]:
    data, at, found = path.with_suffix(".sessions").read_bytes(), 0, []
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at + 4 : end])
        at = end
    return found


def _open(path: Path) -> tuple[float, float]:
    """Return the seconds of opening the agent, and the bytes of memory that it takes."""
    with SQLiteStore(path, key=_KEY) as store:
        before = memory_bytes()
        start = time.perf_counter()
        agent = store.open_agent(MESH)
        seconds = time.perf_counter() - start
        used = memory_bytes() - before
        if not agent.did:
            raise RuntimeError("the agent must outlive its measurement")
    return seconds, used


def _restore(path: Path) -> float:
    """Return the seconds of restoring each of its sessions."""
    exports, did = _sessions(path), path.with_suffix(".did").read_text("ascii")
    gc.collect()
    start = time.perf_counter()
    kept = [restore_session(one, mesh=MESH, own_did=did) for one in exports]
    seconds = time.perf_counter() - start
    if len(kept) != len(exports):
        raise RuntimeError("the sessions must outlive their measurement")
    return seconds


def store_opening(count: int, times: int = 5) -> dict[str, float]:
    """Return what opening an agent of so many idle sessions takes.

    Microseconds of a session: opened with the agent, and restored from its export by itself; the ratio of the two; the
    bytes of memory that a session of the open agent takes; and the seconds of it all. Each is taken in a process of its
    own, because the library remembers identities that it has seen.
    """
    opened: list[tuple[float, float]] = []
    restored: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.mesh"
        apart(_write, path, count)
        for _ in range(times):
            opened.append(apart(_open, path))
            restored.append(apart(_restore, path))
    seconds = statistics.median(seconds for seconds, _ in opened)
    return {
        "seconds": seconds,
        "session": seconds / count * 1e6,
        "restored": statistics.median(restored) / count * 1e6,
        "of_restored": statistics.median(a / b for (a, _), b in zip(opened, restored, strict=True)),
        "memory": statistics.median(used for _, used in opened) / count,
    }


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


FIGURES: dict[str, Callable[..., Any]] = {"store_opening": store_opening}
