"""Agents in processes of their own over one PostgreSQL: `AGENTMESH_POSTGRES` says where it is, as libpq does."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any, Final

from agentmesh.store import PostgresStore
from benchmarks.pairs import LIMITS
from benchmarks.sizes import MESH
from benchmarks.storing import conversing, let_go

SERVER: Final = "AGENTMESH_POSTGRES"
_KEY: Final = bytes(32)  # of agents that are gone in a minute
_LET_GO_AFTER: Final = 1000
_WAITING: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name <> 'benchmark'"
)


def _send(conninfo: str, name: str, seconds: float, begin: Any, sent: Any) -> None:
    """Send single messages for so long, and say how many there were in a second."""
    with PostgresStore(conninfo, key=_KEY) as store:
        agent = store.open_agent(MESH, name=name, limits=LIMITS)
        did, count, spent = conversing(agent).bob.did, 0, 0.0
        begin.wait()
        while spent < seconds:
            start = time.perf_counter()
            for _ in range(10):
                agent.send(did, bytes(256))
            spent += time.perf_counter() - start
            count += 10
            if count % _LET_GO_AFTER == 0:
                let_go(agent)
        sent.put(count / spent)


def _together(conninfo: str, agents: int, seconds: float, lock_waits: Callable[[], int]) -> tuple[float, int]:
    """Return how many messages a second so many agents send together, and how often one was seen to wait for a lock."""
    context = multiprocessing.get_context("spawn")
    begin, sent = context.Barrier(agents + 1), context.SimpleQueue()
    names = [f"benchmark-{os.getpid()}-{agents}-{number}" for number in range(agents)]
    senders = [context.Process(target=_send, args=(conninfo, name, seconds, begin, sent)) for name in names]
    for sender in senders:
        sender.start()
    begin.wait()
    waits = 0
    while any(sender.is_alive() for sender in senders):
        waits += lock_waits()
        time.sleep(0.01)
    if any(sender.exitcode for sender in senders):
        raise RuntimeError("an agent failed")
    return sum(sent.get() for _ in senders), waits


def store_shared(agents: int, seconds: float) -> dict[str, float]:
    """Return the messages a second of one agent, and of several in processes of their own; nothing without a server.

    `waits` is how often, asked a hundred times a second, an agent was waiting for a lock of the database's.
    """
    conninfo = os.environ.get(SERVER)
    if conninfo is None:
        return {}
    import psycopg

    with psycopg.connect(conninfo, autocommit=True, application_name="benchmark") as connection:

        def lock_waits() -> int:
            row = connection.execute(_WAITING).fetchone()
            return 0 if row is None else row[0]

        one, _ = _together(conninfo, 1, seconds, lock_waits)
        all_of_them, waits = _together(conninfo, agents, seconds, lock_waits)
    return {"one": one, "all": all_of_them, "of_one": all_of_them / one, "waits": waits}


FIGURES: dict[str, Callable[..., Any]] = {"store_shared": store_shared}
