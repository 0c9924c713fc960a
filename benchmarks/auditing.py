"""The audit log: appending, verifying, proofs, pauses, memory, and how many hashes one append makes."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from agentmesh import Identity
from agentmesh.audit import AuditEvent, AuditLog, MemorySink, Record, verify_entries
from agentmesh.primitives.keys import Receipt, SessionId
from agentmesh.store import LogFile
from benchmarks.peers.serve import Call, Workload, memory_bytes, timed
from benchmarks.sizes import MESH

_ALICE, _BOB = Identity.generate().did, Identity.generate().did
RECORD = Record(
    AuditEvent.MESSAGE_SEALED,
    at_ms=1_767_225_600_000,
    mesh=MESH,
    sender=_ALICE,
    recipient=_BOB,
    envelope_time_ms=1_767_225_600_000,
    receipt=Receipt(os.urandom(32)),
    session_id=SessionId(os.urandom(16)),
    number=1,
    size_bytes=533,
)


def append(count: int) -> Iterator[Call]:
    """Yield the growth of a fresh log in memory to this size, one record an append."""
    records = (RECORD,)
    while True:
        log = AuditLog(MemorySink())

        def grow(log: AuditLog = log) -> None:
            for _ in range(count):
                log.append(records)

        yield grow


def append_at(count: int) -> Iterator[Call]:
    """Yield appends of a thousand records, one at a time, to a log that holds so many."""
    log, records = grown(count), (RECORD,)

    def thousand() -> None:
        for _ in range(1000):
            log.append(records)

    while True:
        yield thousand


def grown(count: int) -> AuditLog:
    """Return a log of this size in memory."""
    log = AuditLog(MemorySink())
    for _ in range(count // 1000):
        log.append([RECORD] * 1000)
    log.append([RECORD] * (count % 1000))
    return log


def verify(count: int) -> Iterator[Call]:
    """Yield verifications of a log of this size."""
    entries = list(grown(count).entries())
    while True:
        yield lambda: verify_entries(entries)


def prove(count: int) -> Iterator[Call]:
    """Yield inclusion proofs of random entries of a log of this size."""
    return _proofs(grown(count), count)


def _proofs(log: AuditLog, count: int) -> Iterator[Call]:
    pick = random.Random(1)  # which entry is no secret
    while True:
        index = pick.randrange(count)
        yield partial(log.inclusion_proof, index)


WORKLOADS = {
    "audit_append_1k": Workload(partial(append, 1000), 1000),
    "audit_append_10k": Workload(partial(append, 10_000), 10_000),
    "audit_append_100k": Workload(partial(append, 100_000), 100_000),
    "audit_append_at_10k": Workload(partial(append_at, 10_000), 1000),
    "audit_append_at_100k": Workload(partial(append_at, 100_000), 1000),
    "audit_verify_1k": Workload(partial(verify, 1000), 1000),
    "audit_verify_10k": Workload(partial(verify, 10_000), 10_000),
    "audit_verify_100k": Workload(partial(verify, 100_000), 100_000),
    "audit_proof_1k": Workload(partial(prove, 1000)),
    "audit_proof_100k": Workload(partial(prove, 100_000)),
}


# --- figures ---------------------------------------------------------------------------------------------------------


def audit_growth(sizes: list[int]) -> dict[str, Any]:
    """Return, for each size, the microseconds of an append on the way there, amortised; its longest; those of a proof.

    One log in memory grows through all sizes. `short` is the cost of a log of a thousand, made anew at each of them,
    because a machine's speed changes over such a run; `slope` is the ratio of the largest to it.
    """
    log, records, clock = AuditLog(MemorySink()), (RECORD,), time.perf_counter_ns
    pauses: list[int] = []
    found: dict[str, Any] = {}
    short: list[float] = []
    for size in sizes:
        short.extend(_short_growth() for _ in range(5))
        for _ in range(size - len(log)):
            start = clock()
            log.append(records)
            pauses.append(clock() - start)
        ranked = sorted(pauses)
        proofs = timed(_proofs(log, size), 200, 1)
        found[str(size)] = {
            "append": sum(ranked) / size / 1000,
            "longest": ranked[-1] / 1000,
            "p999": ranked[-1 - size // 1000] / 1000,
            "p50": ranked[size // 2] / 1000,
            "proof": statistics.median(proofs),
        }
    found["short"] = statistics.median(short)
    found["slope"] = found[str(sizes[-1])]["append"] / found["short"]
    found["proof_growth"] = found[str(sizes[-1])]["proof"] / found[str(sizes[0])]["proof"]
    found["proof_ms"] = found[str(sizes[-1])]["proof"] / 1000
    return found


def _short_growth() -> float:
    log, records, total = AuditLog(MemorySink()), (RECORD,), 0
    clock = time.perf_counter_ns
    for _ in range(1000):
        start = clock()
        log.append(records)
        total += clock() - start
    return total / 1000 / 1000


def audit_memory(count: int) -> float:
    """Return the memory of one more record with a file sink."""
    with tempfile.TemporaryDirectory() as folder, LogFile(Path(folder) / "audit.log", fsync_every=None) as sink:
        log = AuditLog(sink)
        for _ in range(count // 5):
            log.append((RECORD,))
        before = memory_bytes()
        for _ in range(count):
            log.append((RECORD,))
        return (memory_bytes() - before) / count


FIGURES: dict[str, Callable[..., Any]] = {"audit_growth": audit_growth, "audit_memory": audit_memory}
