"""The helper that breaks calls off finds what it is there for."""

from __future__ import annotations

import contextlib
import sys
import threading
from types import ModuleType
from typing import Any

from agentmesh.primitives.buckets import Buckets, Rate
from agentmesh.trust import TrustLedger


def test_every_byte_code_is_broken_off_once_and_the_call_runs_through_at_the_end(interrupts: ModuleType) -> None:
    before, ends = sys.gettrace(), []
    for buckets in interrupts.each(
        lambda: Buckets(Rate(1, 1, 1), max_keys=1),
        lambda buckets: buckets.take(None, 0),
        rooms=("primitives/buckets.py",),
    ):
        assert interrupts.is_free(buckets._lock)
        ends.append(len(buckets))
    assert ends == sorted(ends)
    assert set(ends) == {0, 1}  # before the entry was written, and after it
    assert sys.gettrace() is before


def test_a_lock_that_a_thread_of_its_own_holds_is_not_free(interrupts: ModuleType) -> None:
    lock = threading.RLock()
    assert interrupts.is_free(lock)
    with lock:
        assert not interrupts.is_free(lock)


def test_what_swallows_the_interruption_is_seen_too(interrupts: ModuleType) -> None:
    def swallowing(ledger: TrustLedger) -> None:
        with contextlib.suppress(BaseException):
            ledger.export_state()

    def running(ledger: TrustLedger) -> Any:
        return ledger.export_state()

    counts = [
        sum(1 for _ in interrupts.each(lambda: TrustLedger("m"), call, rooms=("trust/ledger.py",)))
        for call in (swallowing, running)
    ]
    assert counts[0] == counts[1]
