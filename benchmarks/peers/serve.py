"""The worker's half of a run: JSON lines in, JSON lines out. Standard library alone, because peers import it too.

A *workload* is a function that returns an endless iterator of calls. Each call is timed; what the iterator does between
two calls (a fresh envelope, a new pair) is not. `per` says how many messages, records or pairs one call is worth.

A *figure* is a function that returns what a clock does not: bytes, counts, or the times of one long run.

    {"do": "about"}                                      -> {"facts": {...}, "workloads": [...], "figures": [...]}
    {"do": "run", "workload": "frame_256", "times": 100} -> {"microseconds": [...]}
    {"do": "figure", "figure": "mem_session_bytes", "arguments": {"count": 1000}} -> {"value": ...}
    {"do": "drop"}                                       -> {}: forget the state of every workload
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Call = Callable[[], object]


class Workload(NamedTuple):
    """How to make a workload's calls, and how many units each of them is worth."""

    calls: Callable[[], Iterator[Call]]
    per: int = 1


def timed(calls: Iterator[Call], times: int, per: int) -> list[float]:
    """Run the next `times` calls, and return the microseconds of each, for one unit."""
    clock, found = time.perf_counter_ns, []
    for _ in range(times):
        call = next(calls)
        start = clock()
        call()
        found.append((clock() - start) / 1000 / per)
    return found


def memory_bytes() -> int:
    """Return how much memory this process has in use, as its operating system counts it."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


class Server:
    """One worker: its workloads stay alive from one request to the next, so that a session goes on across rounds."""

    def __init__(
        self, facts: Mapping[str, str], workloads: Mapping[str, Workload], figures: Mapping[str, Callable[..., Any]]
    ) -> None:
        self._facts, self._workloads, self._figures = facts, workloads, figures
        self._running: dict[str, Iterator[Call]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        if request["do"] == "about":
            return {"facts": self._facts, "workloads": list(self._workloads), "figures": list(self._figures)}
        if request["do"] == "run":
            name = request["workload"]
            workload = self._workloads[name]
            if name not in self._running:
                self._running[name] = workload.calls()
            return {"microseconds": timed(self._running[name], request["times"], workload.per)}
        if request["do"] == "figure":
            return {"value": self._figures[request["figure"]](**request.get("arguments", {}))}
        self._running.clear()
        gc.collect()
        return {}

    def serve(self) -> None:
        """Answer until the input ends."""
        answers, sys.stdout = sys.stdout, sys.stderr  # because a peer that prints would break the protocol
        for line in sys.stdin:
            try:
                found = self.answer(json.loads(line))
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(found), file=answers, flush=True)
