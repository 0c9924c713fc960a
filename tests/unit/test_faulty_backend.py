"""A backend that fails where it is told to, and is like the one behind it otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from agentmesh.errors import ArgumentInvalid, StoreFailed
from agentmesh.store.memory import MemoryBackend
from agentmesh.store.store import Store
from agentmesh.testing import FaultyBackend, Moment
from agentmesh.testing.store_kit import BACKEND_CHECKS, Check

PUT = {("peer", b"key"): b"sealed"}


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
def test_without_faults_it_passes_the_kit(check: Check) -> None:
    shared = MemoryBackend()
    check(lambda: FaultyBackend(MemoryBackend(shared)))


@pytest.mark.parametrize("error", [StoreFailed(), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", Moment)
def test_each_moment_fails_once_when_it_is_told_to(moment: Moment, error: BaseException) -> None:
    backend = FaultyBackend(MemoryBackend())
    calls: dict[Moment, Any] = {}

    def reach() -> None:
        if moment is Moment.OPEN:
            rows = backend.open_rows("agent", create=True)
            assert rows is not None
            rows.close()
        else:
            calls[moment]()

    if moment is not Moment.OPEN:
        rows = backend.open_rows("agent", create=True)
        assert rows is not None
        calls[Moment.READ] = lambda: list(rows.read())
        calls[Moment.ASK] = lambda: rows.commit_number
        calls[Moment.WRITE] = calls[Moment.WRITTEN] = lambda: rows.write(rows.commit_number + 1, PUT, ())
    backend.fail(moment, error, after=1)
    reach()
    with pytest.raises(type(error)) as caught:
        reach()
    assert caught.value is error
    reach()
    if moment in (Moment.WRITE, Moment.WRITTEN):
        assert rows.commit_number == (3 if moment is Moment.WRITTEN else 2)


def test_errors_of_one_moment_come_one_after_the_other_and_are_forgotten_where_that_is_asked() -> None:
    backend = FaultyBackend(MemoryBackend())
    rows = backend.open_rows("agent", create=True)
    assert rows is not None
    for _ in range(3):
        backend.fail(Moment.WRITE, StoreFailed())
    for _ in range(2):
        with pytest.raises(StoreFailed):
            rows.write(1, PUT, ())
    assert backend.mend() == 1
    rows.write(1, PUT, ())
    assert backend.mend() == 0


def test_a_function_is_called_at_every_moment() -> None:
    moments: list[Moment] = []
    with Store(FaultyBackend(MemoryBackend(), moments.append), bytes(32)) as store:
        agent = store.open_agent("example/faulty")
        moments.clear()
        agent.publish_bundles(one_time=1)
    assert moments == [Moment.WRITE, Moment.WRITTEN]


@pytest.mark.parametrize("arguments", [("write", StoreFailed()), (Moment.WRITE, StoreFailed), (Moment.WRITE, "x")])
def test_what_is_no_moment_and_no_error_is_refused(arguments: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        FaultyBackend(MemoryBackend()).fail(*arguments)


def test_rows_are_those_of_agents_that_are_open() -> None:
    with pytest.raises(ArgumentInvalid):
        FaultyBackend(MemoryBackend()).rows("agent")
