"""Our worker: `python -m benchmarks.ours` serves our workloads and the floor's, which are named `bare:...`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import (
    attaching,
    auditing,
    establishing,
    floor,
    hub,
    long_logs,
    many,
    messaging,
    opening,
    refusing,
    sessions,
    sharing,
    storing,
    trusting,
)
from benchmarks.machine import facts
from benchmarks.peers.serve import Server, Workload

WORKLOADS: dict[str, Workload] = {
    **establishing.WORKLOADS,
    **messaging.WORKLOADS,
    **refusing.WORKLOADS,
    **sessions.WORKLOADS,
    **auditing.WORKLOADS,
    **trusting.WORKLOADS,
    **storing.WORKLOADS,
    **attaching.WORKLOADS,
    **many.WORKLOADS,
}
BARE: dict[str, Workload] = {
    f"bare:{name}": workload for name, workload in {**floor.workloads(), **storing.BARE, **attaching.BARE}.items()
}
FIGURES: dict[str, Callable[..., Any]] = {
    **messaging.FIGURES,
    **sessions.FIGURES,
    **auditing.FIGURES,
    **long_logs.FIGURES,
    **hub.FIGURES,
    **storing.FIGURES,
    **opening.FIGURES,
    **sharing.FIGURES,
    **attaching.FIGURES,
}


if __name__ == "__main__":
    Server(facts(), {**WORKLOADS, **BARE}, FIGURES).serve()
