"""An agent in a store of SQLite, beside the same agent without one and what no way of keeping it could avoid.

That is called *bare* here: the agent's own work, and one transaction of the rows that the step changes, as the store
has them, each sealed by PyNaCl's `SecretBox`, in a file with the store's own settings: pages of 512 bytes, a log that
is written ahead, forced to disk at each commit. No hidden keys, no commitments, no head that binds the rows together,
no lock, no look at whether the file is still there.

A batch is a hundred messages and one commit. Between two calls, and in no one's time, both let go of what was kept.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

from nacl.secret import SecretBox

from agentmesh import Agent
from agentmesh.engine.state import Changes
from agentmesh.primitives.aead import OVERHEAD_BYTES
from agentmesh.store import SQLiteStore
from benchmarks.pairs import LIMITS, Pair, establish, one_bundle
from benchmarks.peers.serve import Call, Workload, timed
from benchmarks.sizes import MESH

BATCH: Final = 100
_DATA: Final = bytes(256)
_TURNS: Final = 2
_PAGE_BYTES: Final = 512
_TABLE: Final = "CREATE TABLE rows (id INTEGER PRIMARY KEY, kind TEXT, key BLOB, sealed BLOB)"
_PUT: Final = "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)"

# --- agents ----------------------------------------------------------------------------------------------------------


def conversing(agent: Agent) -> Pair:
    """Return an agent and a peer that have conversed."""
    peer = Agent.create(MESH, limits=LIMITS, acknowledge=True)
    establish(agent, peer, one_bundle(peer))
    pair = Pair(agent, peer)
    for _ in range(_TURNS):
        pair.turn()
    let_go(agent)
    return pair


def let_go(agent: Agent) -> None:
    """Empty outbox and inbox."""
    outbox, inbox = agent.outbox(), agent.inbox()
    with agent.batch():
        for waiting in outbox:
            agent.sent(waiting.receipt, final=True)
        for event in inbox:
            agent.done(event)


def _plain() -> Agent:
    return Agent.create(MESH, limits=LIMITS, acknowledge=True)


def _stored(stack: ExitStack, synchronous: str = "FULL") -> tuple[Agent, Path]:
    """Return an agent in a store of its own, and the store's file."""
    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "agent.mesh"
    store = stack.enter_context(SQLiteStore(path, key=os.urandom(32), synchronous=synchronous))
    return store.open_agent(MESH, limits=LIMITS), path


# --- one call --------------------------------------------------------------------------------------------------------


def _send(pair: Pair, count: int) -> Call:
    """Return a call that sends so many messages."""
    agent, did = pair.alice, pair.bob.did

    def send() -> None:
        for _ in range(count):
            agent.send(did, _DATA)

    return send


def _receive(pair: Pair, count: int) -> Call:
    """Return a call that receives so many messages, which are made now."""
    agent, peer = pair.alice, pair.bob
    envelopes = [peer.send(agent.did, _DATA).envelope for _ in range(count)]

    def receive() -> None:
        for envelope in envelopes:
            agent.receive(envelope)

    return receive


Direction = Callable[[Pair, int], Call]


def in_store(direction: Direction, count: int, synchronous: str = "FULL") -> Iterator[Call]:
    """Yield so many messages as one commit of a store."""
    with ExitStack() as stack:
        agent, _ = _stored(stack, synchronous)
        pair = conversing(agent)
        while True:
            call = direction(pair, count)

            def commit(call: Call = call) -> None:
                with agent.batch() if count > 1 else nullcontext():
                    call()

            yield commit
            let_go(agent)


# --- bare ------------------------------------------------------------------------------------------------------------

Row = tuple[str, bytes, bytes]  # kind, key, data


class _Recorder:
    """A journal that remembers which rows the last step changes."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def commit(self, changes: Changes, _records: object, /) -> None:
        self.rows = [(str(kind), key, data) for (kind, key), data in changes.rows().items() if data is not None]


def _rows(direction: Direction, count: int) -> list[Row]:
    """Return the rows that so many messages change, as a store is told of them."""
    recorder = _Recorder()
    agent = Agent.create(MESH, limits=LIMITS, acknowledge=True, reliable=True, journal=recorder)
    call = direction(conversing(agent), count)
    with agent.batch():
        call()
    return recorder.rows


class BareFile:
    """A file of SQLite that is written with nothing between: rows in one table, found by their number."""

    def __init__(self, path: Path, rows: list[Row]) -> None:
        self._box = SecretBox(os.urandom(32))
        self._rows = rows
        self._connection = connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={(1 << 20) // _PAGE_BYTES}")
        connection.execute(_TABLE)

    def write(self) -> None:
        """Seal the rows, and commit them."""
        seal, execute = self._box.encrypt, self._connection.execute
        sealed = [(number, kind, key, seal(data)) for number, (kind, key, data) in enumerate(self._rows)]
        execute("BEGIN IMMEDIATE")
        self._connection.executemany(_PUT, sealed)
        execute("COMMIT")

    def let_go(self) -> None:
        """Remove all but what stays: the session's row, and the generation."""
        self._connection.execute("DELETE FROM rows WHERE kind IN ('outbox', 'inbox')")

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def bare(direction: Direction, count: int) -> Iterator[Call]:
    """Yield so many messages without a store, and a bare commit of the same rows."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = stack.enter_context(closing(BareFile(Path(folder) / "bare.db", _rows(direction, count))))
        pair = conversing(_plain())
        while True:
            call = direction(pair, count)

            def commit(call: Call = call) -> None:
                call()
                file.write()

            yield commit
            file.let_go()


WORKLOADS: dict[str, Workload] = {}
BARE: dict[str, Workload] = {}
for _way, _direction in (("out", _send), ("in", _receive)):
    for _count in (1, BATCH):
        WORKLOADS[f"store_{_way}_{_count}"] = Workload(partial(in_store, _direction, _count), _count)
        BARE[f"store_{_way}_{_count}"] = Workload(partial(bare, _direction, _count), _count)

# --- figures ---------------------------------------------------------------------------------------------------------


def store_written(count: int) -> dict[str, float]:
    """Return the bytes that a message of 256 bytes, sent alone, adds to the log that SQLite writes ahead.

    And how often that is what cannot be less: the session's row as it was sealed, and the envelope.
    """
    with ExitStack() as stack:
        agent, path = _stored(stack)
        pair = conversing(agent)
        agent.send(pair.bob.did, _DATA)
        [session] = [data for kind, _, data in _rows(_send, 1) if kind == "session"]
        log = path.with_name(f"{path.name}-wal")
        before = log.stat().st_size
        envelopes = sum(len(agent.send(pair.bob.did, _DATA).envelope) for _ in range(count))
        written = (log.stat().st_size - before) / count
        return {"message": written, "of_needed": written / (len(session) + OVERHEAD_BYTES + envelopes / count)}


def store_batches(counts: list[int], times: int) -> dict[str, Any]:
    """Return the microseconds of a message sent, by how many are one commit: forced to disk, and not forced.

    `alone` is the same without a store.
    """
    found: dict[str, Any] = {"alone": statistics.median(timed(_without(), 20 * times, BATCH))}
    for count in counts:
        calls = {mode: in_store(_send, count, mode) for mode in ("FULL", "NORMAL")}
        spent: dict[str, list[float]] = {mode: [] for mode in calls}
        for _ in range(times + 1):  # in turn, so that what disturbs one disturbs both
            for mode, mode_calls in calls.items():
                spent[mode] += timed(mode_calls, 1, count)
        found[str(count)] = {mode.lower(): statistics.median(values[1:]) for mode, values in spent.items()}
    return found


def _without() -> Iterator[Call]:
    pair = conversing(_plain())
    while True:
        yield _send(pair, BATCH)


FIGURES: dict[str, Callable[..., Any]] = {"store_written": store_written, "store_batches": store_batches}
