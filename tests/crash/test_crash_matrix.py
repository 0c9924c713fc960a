"""The crash matrix: processes killed at every point of every call, over a relay that loses, doubles and reorders.

Each case is one conversation of two processes, killed again and again at points that are enumerated: every statement,
write, cut and fsync of SQLite's, the hand-over of every envelope and event, and all that lies between a commit and its
effect. After each kill the store is opened again, and held against all that was known before; at the end nothing is
lost, doubled or re-keyed, and the audit logs of both sides tell one story. By default a choice of the points;
AGENTMESH_DEPTH of 2 or more takes every one, and so many times as many kills from outside. `-rP` prints the counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agentmesh.store.sqlite import SQLiteBackend
from agentmesh.store.store import Store

DEPTH = int(os.environ.get("AGENTMESH_DEPTH") or "1")
POINTS = 4  # of each call, by default
SEEDS = range(2 * DEPTH)
KEY = bytes(range(32))

Call = tuple[Any, str, list[Any]]


@pytest.fixture
def matrix(harness: Any, nursery: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Give what begins a conversation, once a test."""
    made: list[Any] = []

    def make(seed: int, **more: Any) -> Any:
        made.append(harness.Matrix(nursery, tmp_path, seed, **more))
        made[-1].start()
        return made[-1]

    yield make
    for run in made:
        run.end()


# --- calls to be killed in, each behind what must have happened first ------------------------------------------------


def sending(run: Any) -> Call:
    run.meet(run.alice)
    return run.alice, "send", [run.payload()]


def handing_over(run: Any) -> Call:
    run.meet(run.alice)
    run.alice.do("send", run.payload())
    run.wait(6000)
    return run.alice, "drain", []


def _something_for(run: Any, node: Any) -> list[bytes]:
    peer = run.peer(node)
    run.meet(peer)
    peer.do("send", run.payload(), run.payload())
    peer.do("drain")
    return list(run.take(node, honest=True))


def receiving(run: Any) -> Call:
    return run.bob, "receive", [_something_for(run, run.bob)]


def finishing(run: Any) -> Call:
    run.bob.do("receive", _something_for(run, run.bob), False)
    return run.bob, "finish", []


def batching(run: Any) -> Call:
    run.meet(run.alice)
    envelopes = _something_for(run, run.alice)
    return run.alice, "batch", [[run.payload() for _ in range(3)], envelopes]


def polling(run: Any) -> Call:
    run.alice.do("receive", _something_for(run, run.alice))
    run.wait(1000)  # so that an acknowledgement is due
    return run.alice, "poll", []


def hearing(run: Any) -> Call:
    """The acknowledgement comes."""
    polling(run)
    run.alice.do("poll")
    run.alice.do("drain")
    return run.bob, "receive", [run.take(run.bob, honest=True)]


def publishing(run: Any) -> Call:
    return run.alice, "publish", []


def knocking(run: Any) -> Call:
    run.part()
    return run.alice, "knock", [run.bob.do("publish")[0]]


def accepting(run: Any) -> Call:
    node, _, arguments = knocking(run)
    node.do("knock", *arguments)
    node.do("drain")
    return run.bob, "receive", [run.take(run.bob, honest=True)]


def establishing(run: Any) -> Call:
    node, _, arguments = accepting(run)
    node.do("receive", *arguments)
    node.do("drain")
    return run.alice, "receive", [run.take(run.alice, honest=True)]


def closing(run: Any) -> Call:
    run.meet(run.alice)
    run.alice.do("send", run.payload())
    return run.alice, "close", []


def answering_a_close(run: Any) -> Call:
    node, _, _ = closing(run)
    node.do("close")
    node.do("drain")
    return run.bob, "receive", [run.take(run.bob, honest=True)]


CALLS = (
    sending, handing_over, receiving, finishing, batching, polling, hearing,
    publishing, knocking, accepting, establishing, closing, answering_a_close,
)  # fmt: skip


def check_files(run: Any) -> None:
    for node in run.nodes:
        with Store(SQLiteBackend(node.place[1]), KEY) as store:
            store.check(node.name)


def finish(run: Any) -> None:
    run.reconcile()
    check_files(run)
    print(run.counts)  # noqa: T201 - what `-rP` shows


# --- enumerated ------------------------------------------------------------------------------------------------------


def test_the_points_reach_down_to_the_files(matrix: Callable[..., Any]) -> None:
    run = matrix(1)
    passed: set[str] = set()
    for prepare in (sending, handing_over, receiving):
        node, command, arguments = prepare(run)
        node.do(command, *arguments)
        passed |= set(node.passed)
    statements = {"sql BEGIN", "sql UPDATE", "sql INSERT", "sql DELETE", "sql COMMIT"}
    moments = {"rows write", "rows written", "commit >", "hand-over <", "sent >", "hand-up <", "done <", "done >"}
    assert statements | moments <= passed
    if not any(name.startswith("wal") for name in passed):
        pytest.skip("SQLite is linked so that its file layer is not to be found by name")
    assert {"wal write", "wal torn", "wal fsync"} <= passed


def chosen(run: Any, passed: list[str]) -> list[tuple[int, str | None]]:
    """Choose points: those that make something durable, and others, each kind once at most."""
    names = run.random.sample(sorted(set(passed)), len(set(passed)))
    names.sort(key=lambda name: name not in ("wal fsync", "sql COMMIT", "rows written"))  # the sort is stable
    return [(run.random.randrange(passed.count(name)), name) for name in names[:POINTS]]


def kill_at_points(run: Any, prepare: Callable[[Any], Call]) -> int:
    """Kill at every point of a call, or at some; each time restart, and let a hostile relay do its work."""
    node, command, arguments = prepare(run)
    node.do(command, *arguments)
    every = ((number, None) for number in count())
    killed = 0
    for number, only in every if DEPTH > 1 else chosen(run, node.passed):
        node, command, arguments = prepare(run)
        if node.do(command, *arguments, kill=number, only=only) is run.died:
            killed += 1
            node.start()
        elif only is None:
            break  # it came to its end before that point
        run.pump()
        run.send_again()
        if number % 8 == 7:
            run.catch_up()  # so that what waits does not grow as fast as the points that are tried
    return killed


@pytest.mark.parametrize("prepare", CALLS, ids=lambda call: call.__name__)
def test_killed_at_every_point_of_a_call(prepare: Callable[[Any], Call], matrix: Callable[..., Any]) -> None:
    run = matrix(CALLS.index(prepare))
    killed = kill_at_points(run, prepare)
    assert killed >= 3
    finish(run)


def test_killed_at_every_point_of_opening(matrix: Callable[..., Any]) -> None:
    run = matrix(1)
    run.alice.do("send", run.payload(), run.payload())
    for number in count(0, 1 if DEPTH > 1 else 7):
        run.alice.stop()
        if run.alice.start(kill=number):
            break
        run.alice.start()
    assert run.counts.kills
    finish(run)


# --- by chance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_from_outside_at_random(seed: int, matrix: Callable[..., Any]) -> None:
    run = matrix(seed)
    for _ in range(60):
        node, command, arguments = run.something(run.random.choice(run.nodes))
        kills: dict[str, int] = {}
        if run.random.random() < 0.35:
            kills = (
                {"after": run.random.randrange(6)} if run.random.random() < 0.6 else {"kill": run.random.randrange(150)}
            )
        if node.do(command, *arguments, **kills) is run.died:
            node.start()
            run.send_again()
    finish(run)


@pytest.mark.parametrize("seed", SEEDS)
def test_writes_that_fail_between_kills(seed: int, matrix: Callable[..., Any]) -> None:
    """A write fails, or is durable and says that it failed; then the process is killed as well."""
    run = matrix(seed)
    for _ in range(30):
        node, command, arguments = run.something(run.random.choice(run.nodes))
        node.do("fail", run.random.choice(("write", "written")), "StoreFailed")
        node.do(command, *arguments)
        while node.unsent:  # the same call, made again
            node.do("send", node.unsent.pop(0))
        node.do("mend")
        node.do("poll")
        if run.random.random() < 0.3:
            if node.do("drain", kill=run.random.randrange(6)) is not run.died:
                node.kill()
            node.start()
        run.send_again()
    finish(run)


# --- the matrix sees faults ------------------------------------------------------------------------------------------


def kill_before_writes(run: Any) -> None:
    for prepare in (sending, receiving, batching):
        node, command, arguments = prepare(run)
        assert node.do(command, *arguments, kill=0, only="commit <") is run.died
        node.start()
        run.send_again()
        run.pump(honest=True)


def kill_behind_hand_up(run: Any) -> None:
    node, command, arguments = receiving(run)
    assert node.do(command, *arguments, kill=1, only="hand-up >") is run.died
    node.start()


def restart_often(run: Any) -> None:
    for prepare in (sending, finishing):
        node, command, arguments = prepare(run)
        node.do(command, *arguments)
        for again in run.nodes:
            again.start()
        run.pump(honest=True)


def _fail_writes(run: Any, moment: str) -> None:
    for prepare in (sending, receiving):
        node, command, arguments = prepare(run)
        node.do("fail", moment, "StoreFailed")
        node.do(command, *arguments)
        run.send_again()
        node.do("drain")
        node.kill()
        node.start()
        run.send_again()
        run.pump(honest=True)


def fail_before_writes(run: Any) -> None:
    _fail_writes(run, "write")


def fail_behind_writes(run: Any) -> None:
    _fail_writes(run, "written")


def test_schedules_that_are_to_show_faults_show_none(matrix: Callable[..., Any]) -> None:
    run = matrix(1)
    for schedule in (kill_before_writes, kill_behind_hand_up, restart_often, fail_before_writes, fail_behind_writes):
        schedule(run)
    finish(run)


@pytest.mark.parametrize(
    ("fault", "schedule", "seen"),
    [
        ("an envelope is not written with its step", restart_often, "^lost: a payload is neither"),
        ("an event is not written with its step", kill_behind_hand_up, "^lost: MessageReceived"),
        ("done is not written", restart_often, "^doubled"),
        ("handed up before the write", kill_before_writes, "^lost: MessageReceived"),
        ("leaves before the write", kill_before_writes, "^re-keyed"),
        ("a write that failed is ignored", fail_before_writes, "^re-keyed|^lost"),
        ("a durable write is taken for none", fail_behind_writes, "refused: store.fenced"),
    ],
)
def test_the_matrix_sees(
    fault: str, schedule: Callable[[Any], None], seen: str, matrix: Callable[..., Any], harness: Any
) -> None:
    with pytest.raises(harness.Broken, match=seen):  # noqa: PT012 - anywhere in it
        run = matrix(1, fault=fault)
        schedule(run)
        run.verify()
