"""The crash matrix on PostgreSQL, smaller: processes are killed, connections cut in a commit, the server killed too."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh.store.store import Store

DEPTH = int(os.environ.get("AGENTMESH_DEPTH") or "1")
KEY = bytes(range(32))
STEPS = 40


@pytest.fixture
def proxy(postgres: Any, cluster: Any) -> Iterator[Any]:
    made = postgres.Proxy(cluster)
    yield made
    made.close()


class Faults:
    """What goes wrong with the next commit that passes the proxy."""

    def __init__(self, proxy: Any, cluster: Any) -> None:
        self._proxy = proxy
        self._cluster = cluster
        self._lock = threading.Lock()
        self._is_down = False
        self.happened: Counter[str] = Counter()

    def cut_before(self) -> None:
        self._proxy.asked = self._hook("connection cut before a commit", lambda pipe, _: pipe.cut())

    def cut_behind(self) -> None:
        def asked(pipe: Any, data: bytes) -> None:
            self._proxy.answered = self._hook("connection cut behind a commit", lambda pipe, _: pipe.cut())
            pipe.server.sendall(data)

        self._proxy.asked = asked

    def kill_in(self) -> None:
        """The server is killed while it commits: before or behind, as chance will."""

        def asked(pipe: Any, data: bytes) -> None:
            pipe.server.sendall(data)
            with self._lock:
                self._is_down = True
                self._cluster.crash()
            pipe.cut()

        self._proxy.asked = self._hook("server killed in a commit", asked)

    def mend(self) -> None:
        self._proxy.asked = self._proxy.answered = None
        with self._lock:  # whoever stops the server must have seen it stopped
            if self._is_down:
                self._cluster.start()
                self._is_down = False

    def _hook(self, name: str, act: Any) -> Any:
        def hook(pipe: Any, data: bytes) -> None:
            self.happened[name] += 1
            act(pipe, data)

        return hook


@pytest.mark.parametrize("seed", range(DEPTH))
def test_processes_connections_and_servers_die(
    seed: int, harness: Any, nursery: Any, tmp_path: Path, cluster: Any, conninfo: str, proxy: Any
) -> None:
    from agentmesh.store.postgres import PostgresBackend

    faults = Faults(proxy, cluster)
    run = harness.Matrix(nursery, tmp_path, seed, place=("postgres", proxy.conninfo(conninfo)))
    try:
        run.start()
        for _ in range(STEPS):
            node, command, arguments = run.something(run.random.choice(run.nodes))
            chance = run.random.randrange(10)
            kills: dict[str, Any] = {}
            if chance < 3:
                kills = {"kill": run.random.randrange(8), "only": run.random.choice(("rows", "commit", None))}
            elif chance < 4:
                kills = {"after": run.random.randrange(4)}
            elif chance < 9:
                run.random.choice((faults.cut_before, faults.cut_behind, faults.kill_in))()
            died = node.do(command, *arguments, **kills) is run.died
            faults.mend()
            if died:
                node.start()
            run.send_again()
        run.reconcile()
    finally:
        faults.mend()
        run.end()
    assert sum(faults.happened.values()) >= 3
    with Store(PostgresBackend(conninfo), KEY) as store:
        for node in run.nodes:
            store.check(node.name)
    print(run.counts, dict(faults.happened))  # noqa: T201 - what `-rP` shows
