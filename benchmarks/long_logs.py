"""A long audit log in a file: opening it, verifying it, showing it, beside the two hashes that a record needs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agentmesh.audit import AuditEvent, AuditLog, Record, verify_entries
from agentmesh.primitives.keys import Receipt
from agentmesh.store import LogFile, read_log_parts
from benchmarks.auditing import RECORD
from benchmarks.opening import apart
from benchmarks.sizes import ENTRY_BYTES
from benchmarks.workers import ROOT

_BATCH: Final = 1000
_NODE: Final = bytes(65)
_ENTRY: Final = bytes(ENTRY_BYTES)
_BARE: Final = 100_000


def _records() -> list[Record]:
    """Return a batch of a conversation: sealed and opened in turn, a millisecond after one another."""
    own, other = RECORD.sender, RECORD.recipient
    return [
        Record(
            AuditEvent.MESSAGE_OPENED if number % 2 else AuditEvent.MESSAGE_SEALED,
            at_ms=RECORD.at_ms + number,
            mesh=RECORD.mesh,
            sender=other if number % 2 else own,
            recipient=own if number % 2 else other,
            envelope_time_ms=RECORD.envelope_time_ms + number,
            receipt=Receipt(os.urandom(32)),
            session_id=RECORD.session_id,
            number=number // 2,
            size_bytes=RECORD.size_bytes,
        )
        for number in range(_BATCH)
    ]


def write(path: Path, count: int) -> None:
    """Make a log of so many records, and close it."""
    batch = _records()
    with LogFile(path, fsync_every=None) as sink:
        log = AuditLog(sink)
        while len(log) < count:
            log.append(batch[: count - len(log)])


def _open(path: Path) -> float:
    start = time.perf_counter()
    with LogFile(path, fsync_every=None) as sink:
        log = AuditLog(sink)
        seconds = time.perf_counter() - start
        if not len(log):
            raise RuntimeError("the log must have been read")
    return seconds


def _verify(path: Path) -> float:
    start = time.perf_counter()
    verify_entries(read_log_parts(path))
    return time.perf_counter() - start


def _show(path: Path) -> float:
    start = time.perf_counter()
    command = (sys.executable, "-m", "agentmesh", "audit", "show", str(path))
    subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _bare(count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        hashlib.sha256(_ENTRY).digest()
        hashlib.sha256(_NODE).digest()
    return time.perf_counter() - start


def long_log(count: int) -> dict[str, float]:
    """Return what a log of so many records takes to open, to verify and to show, each in a process of its own.

    Seconds of each; and, of verifying and showing, how often that is what two hashes of each record take, measured
    before and after.
    """
    bare_count = min(count, _BARE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.log"
        apart(write, path, count)
        opening = apart(_open, path)
        bare = _bare(bare_count)
        verifying = apart(_verify, path)
        bare += _bare(bare_count)
        showing = _show(path)
        bare += _bare(bare_count)
    bare *= count / bare_count / 3
    return {
        "opening": opening,
        "verifying": verifying,
        "showing": showing,
        "bare": bare,
        "verifying_of_bare": verifying / bare,
        "showing_of_bare": showing / bare,
    }


FIGURES: dict[str, Callable[..., Any]] = {"long_log": long_log}
