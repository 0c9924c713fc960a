"""An agent of many sessions: what a message costs it, what it keeps for each, how long a garbage collection takes.

The sessions are copies of one that was established, with ids and peers of their own: a hundred thousand KNOCKs would
take minutes and leave the same state. What comes in was sealed by copies of its peer, one for each session that is
visited, before the clock runs and in another process. Each visit is one message in and one out, at a session that is
picked at random, so that where there are many its state is in no cache.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

from agentmesh import Agent, Identity
from agentmesh.engine.export import export_agent
from agentmesh.engine.rows import Rows, rows_of, state_of
from agentmesh.engine.state import RowKind
from benchmarks.pairs import LIMITS, conversation

_DATA: Final = bytes(256)
_VISITS: Final = 2000
_BLOCK: Final = 50
_MANY: Final = 1000  # of fewer sessions the memory is that of everything else
_TOGETHER_SECONDS: Final = 2.0

Visit = tuple[str, bytes]  # a peer's DID, and what it has sent


def _copied(rows: Rows, replaced: dict[bytes, bytes]) -> Rows:
    """Return rows in which each of these byte strings stands for another."""

    def copy(data: bytes) -> bytes:
        for old, new in replaced.items():
            data = data.replace(old, new)
        return data

    return {(kind, copy(key)): copy(data) for (kind, key), data in rows.items()}


def _make(path: Path, count: int) -> None:
    """Write an agent of so many sessions, and what its visitors have sent."""
    hub, peer, _ = conversation()
    rows, peer_rows = rows_of(hub._core.state), rows_of(peer._core.state)
    [session_id] = [key for kind, key in rows if kind is RowKind.SESSION]
    own = {name: data for name, data in rows.items() if name[0] in (RowKind.AGENT, RowKind.GENERATION)}
    kept = {name: data for name, data in rows.items() if name[0] in (RowKind.PEER, RowKind.SESSION)}
    all_rows, copies = dict(own), []
    for _ in range(count):
        identity, own_id = Identity.generate(), os.urandom(len(session_id))
        all_rows |= _copied(kept, {peer.key.raw: identity.key.raw, session_id: own_id})
        copies.append((identity, own_id))
    picked = random.sample(range(count), min(count, _VISITS))
    sent: dict[str, list[bytes]] = {}
    for at in picked:
        identity, own_id = copies[at]
        seed = peer._core.state.identity.seed.reveal()
        state = state_of(_copied(peer_rows, {seed: identity.seed.reveal(), session_id: own_id}))
        visitor = Agent.restore(export_agent(state, 0), limits=LIMITS)
        sent[visitor.did] = [visitor.send(hub.did, _DATA).envelope for _ in range(_VISITS // len(picked))]
    turns = [did for did, envelopes in sent.items() for _ in envelopes]
    random.shuffle(turns)
    visits = [(did, sent[did].pop(0)) for did in turns]
    path.write_bytes(pickle.dumps((export_agent(state_of(all_rows), 0), visits)))


def _visited(path: Path) -> dict[str, float]:
    """Restore the agent, and return what is said of it."""
    exported, visits = _read(path)
    hub = Agent.restore(exported, limits=LIMITS)
    found = {"gc_ms": _collected_ms()}
    half = len(visits) // 2
    found["message_us"] = _message_us(hub, visits[:half])
    gc.freeze()
    _message_us(hub, visits[half:])
    found["gc_frozen_ms"] = _collected_ms()
    return found


def _message_us(hub: Agent, visits: list[Visit]) -> float:
    """Return the microseconds of a message in and one out: the median of blocks, as collections fall where they do."""
    spent: list[float] = []
    for at in range(0, len(visits), _BLOCK):
        block = visits[at : at + _BLOCK]
        start = time.perf_counter()
        for did, envelope in block:
            hub.receive(envelope)
            hub.send(did, _DATA)
        spent.append((time.perf_counter() - start) / len(block))
    return statistics.median(spent) * 1e6


def _kept(path: Path, count: int) -> float:
    """Return the bytes that a session of the agent takes: traced, because restoring needs more than what stays."""
    exported, _ = _read(path)
    tracemalloc.start()
    hub = Agent.restore(exported, limits=LIMITS)
    gc.collect()
    traced, _ = tracemalloc.get_traced_memory()
    if not hub.did:
        raise RuntimeError("the agent must outlive its measurement")
    return traced / count


def _read(path: Path) -> tuple[bytes, list[Visit]]:
    found: tuple[bytes, list[Visit]] = pickle.loads(path.read_bytes())
    return found


def _collected_ms() -> float:
    """Return the milliseconds of a full collection that finds nothing."""
    gc.collect()
    start = time.perf_counter()
    gc.collect()
    return (time.perf_counter() - start) * 1e3


def hub_curve(counts: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return, for each number of sessions, what an agent that has so many takes.

    Microseconds of a message in and one out; bytes of memory for a session, where there are thousands; milliseconds of
    a full garbage collection, as it is and after `gc.freeze`. Each number in processes of its own.
    """
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hub"
        for count in counts:
            _apart(_make, path, count)
            found[str(count)] = _apart(_visited, path)
            if count >= _MANY:
                found[str(count)]["memory_bytes"] = _apart(_kept, path, count)
    return found


# --- two processes ---------------------------------------------------------------------------------------------------


def _converse(seconds: float, begin: Any, done: Any) -> None:
    pair, count, spent = conversation(), 0, 0.0
    begin.wait()
    while spent < seconds:
        start = time.perf_counter()
        for _ in range(10):
            pair.turn()
        spent += time.perf_counter() - start
        count += 20
    done.put(count / spent)


def _together(processes: int, seconds: float) -> float:
    """Return how many messages a second so many processes send and receive together."""
    context = multiprocessing.get_context("spawn")
    begin, done = context.Barrier(processes), context.SimpleQueue()
    started = [context.Process(target=_converse, args=(seconds, begin, done)) for _ in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise RuntimeError("a process failed")
    return sum(done.get() for _ in started)


def two_processes(seconds: float = _TOGETHER_SECONDS) -> float:
    """Return the messages a second of two processes with a conversation each, beside those of one."""
    return _together(2, seconds) / _together(1, seconds)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


FIGURES: dict[str, Callable[..., Any]] = {"hub_curve": hub_curve, "two_processes": two_processes}
