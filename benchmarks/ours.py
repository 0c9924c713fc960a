"""Our worker: `python -m benchmarks.ours` serves our workloads and the floor's, which are named `bare:...`."""

from __future__ import annotations

import importlib.metadata
import platform
import ssl
from collections.abc import Callable
from typing import Any

import agentmesh
from benchmarks import auditing, establishing, floor, messaging, refusing, sessions, trusting
from benchmarks.peers.serve import Server, Workload

WORKLOADS: dict[str, Workload] = {
    **establishing.WORKLOADS,
    **messaging.WORKLOADS,
    **refusing.WORKLOADS,
    **sessions.WORKLOADS,
    **auditing.WORKLOADS,
    **trusting.WORKLOADS,
}
BARE: dict[str, Workload] = {f"bare:{name}": workload for name, workload in floor.workloads().items()}
FIGURES: dict[str, Callable[..., Any]] = {**messaging.FIGURES, **sessions.FIGURES, **auditing.FIGURES}


def facts() -> dict[str, str]:
    """Return the versions that the numbers belong to."""
    return {
        "agentmesh-e2ee": agentmesh.__version__,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: importlib.metadata.version(name) for name in ("pynacl", "cryptography", "msgpack")},
        "hashlib": ssl.OPENSSL_VERSION,
    }


if __name__ == "__main__":
    Server(facts(), {**WORKLOADS, **BARE}, FIGURES).serve()
