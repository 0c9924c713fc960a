"""Agents' rows in PostgreSQL: faults of server, network and process, and who may write."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    ExtraMissing,
    ForkedChild,
    StateVersionUnknown,
    StoreBroken,
    StoreClosed,
    StoreFailed,
    StoreFenced,
    StoreLocked,
)
from agentmesh.store import postgres as subject
from agentmesh.store import postgres_link
from agentmesh.store.postgres import PostgresBackend, PostgresRows
from agentmesh.testing.store_kit import BACKEND_CHECKS

ONE = ("peer", b"one")


@pytest.fixture
def backends(conninfo: str) -> Iterator[Callable[..., PostgresBackend]]:
    made: list[PostgresBackend] = []

    def make(given: str = conninfo, **named: Any) -> PostgresBackend:
        made.append(PostgresBackend(given, **named))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def proxy(postgres: ModuleType, cluster: Any) -> Iterator[Any]:
    made = postgres.Proxy(cluster)
    yield made
    made.close()


def opened(backend: PostgresBackend, name: str = "worker-17") -> PostgresRows:
    rows = backend.open_rows(name, create=True)
    assert rows is not None
    return rows


def contents(rows: PostgresRows) -> dict[tuple[str, bytes], bytes]:
    return {(kind, key): sealed for log in (False, True) for kind, key, sealed in rows.read(log=log)}


def end_sessions(cluster: Any, conninfo: str) -> None:
    """End the server's processes for our connections to a database, and wait until they are gone."""
    cluster.ask(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'agentmesh'",
        conninfo=conninfo,
    )


def waits(cluster: Any, conninfo: str, writing: Future[None]) -> None:
    """Return once a process of the server waits for a lock in a database, as a write that is under way is to."""
    while not cluster.ask(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        conninfo=conninfo,
    ):
        assert not writing.done(), "it has not waited"


def wait_until_told(rows: PostgresRows) -> None:
    """Return once it can be seen from here that the other side has ended the connection, where there is one still."""
    connection = rows._backend.link._connection
    assert connection is None or select.select([connection], [], [], 60)[0]


@contextmanager
def row_held(conninfo: str, name: str = "worker-17") -> Iterator[Any]:
    """Hold an agent's row, as a transaction that does not end would."""
    import psycopg

    with psycopg.connect(conninfo) as connection:
        connection.execute("SELECT FROM agentmesh.agents WHERE name = %s FOR UPDATE", (name,))
        yield connection


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_store(check: Any, conninfo: str) -> None:
    check(lambda: PostgresBackend(conninfo))


KINDS = st.sampled_from(["agent", "head", "knock", "outbox", "session"])
NUMBERS = st.integers(0, 300).map(lambda number: ("log", number.to_bytes(8, "big")))
NAMES = st.tuples(KINDS, st.binary(max_size=4)) | NUMBERS
STEPS = st.lists(st.tuples(st.dictionaries(NAMES, st.binary(max_size=40), max_size=9), st.sets(NAMES, max_size=4)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(steps=STEPS, page=st.integers(1, 5))
def test_rows_are_what_was_written_last_in_order(
    steps: list[Any], page: int, backends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "PAGE", page)
    rows = opened(backends(schema="agentmesh"))
    number, known = rows.commit_number, contents(rows)
    for put, removed in steps:
        number += 1
        rows.write(number, put, removed)
        known = {name: sealed for name, sealed in known.items() if name not in removed} | put
        assert rows.commit_number == number
        for log in (False, True):
            found = [((kind, key), sealed) for kind, key, sealed in rows.read(log=log)]
            assert found == sorted((name, sealed) for name, sealed in known.items() if (name[0] == "log") is log)
    rows._backend.close()


def test_a_large_row_and_many_rows_come_back(backends: Any) -> None:
    rows = opened(backends())
    put = {("session", number.to_bytes(4, "big")): bytes([number % 256]) * 700 for number in range(3000)}
    put["inbox", b"large"] = os.urandom(3 << 20)
    rows.write(1, put, ())
    assert contents(rows) == put


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_write_of_another_number_writes_nothing(number: int, backends: Any) -> None:
    rows = opened(backends())
    rows.write(1, {ONE: b"a"}, ())
    with pytest.raises(StoreFenced):
        rows.write(number, {ONE: b"b"}, [])
    assert (rows.commit_number, contents(rows)) == (1, {ONE: b"a"})


def test_a_write_is_on_disk_whatever_the_role_wait_until_told(backends: Any, cluster: Any, conninfo: str) -> None:
    for told, is_so in (("off", "on"), ("remote_apply", "remote_apply")):
        cluster.ask(f"ALTER ROLE mesh SET synchronous_commit = {told}")
        try:
            assert backends().link.ask("SHOW synchronous_commit") == [(is_so,)]
        finally:
            cluster.ask("ALTER ROLE mesh RESET synchronous_commit")


# --- who may write ---------------------------------------------------------------------------------------------------


def test_a_second_opener_is_refused_and_told_who_is_first(backends: Any, conninfo: str) -> None:
    first, second = backends(), backends(f"{conninfo} application_name=rome")
    rows = opened(second)
    for backend in (first, second):
        with pytest.raises(StoreLocked) as caught:
            backend.open_rows("worker-17", create=True)
        assert caught.value.holder == f"process {os.getpid()} on {socket.gethostname()}, rome"
    rows.close()
    rows.close()
    opened(first).close()
    assert second.open_rows("worker-18", create=False) is None
    opened(first, "worker-18")  # the look of `second` left no lock


def test_what_a_holder_says_is_bounded_and_shown(backends: Any, cluster: Any, conninfo: str) -> None:
    opened(backends())
    cluster.ask("UPDATE agentmesh.agents SET holder = E'\\x1b[31m\\n\u202e' || repeat('x', 9999)", conninfo=conninfo)
    with pytest.raises(StoreLocked) as caught:
        backends().open_rows("worker-17", create=False)
    assert caught.value.holder == "?[31m??".ljust(120, "x")
    assert not caught.value.by_this_process


def test_a_writer_whose_lock_went_cannot_write_once_another_has_opened(
    backends: Any, cluster: Any, conninfo: str
) -> None:
    old, new = backends(), backends()
    lost = opened(old)
    lost.write(1, {ONE: b"a"}, ())
    old.link.ask("SELECT pg_advisory_unlock_all()::text")  # the fence is alone
    rows = opened(new)
    for call in (lambda: lost.write(2, {ONE: b"b"}, ()), lambda: lost.commit_number, lambda: list(lost.read())):
        with pytest.raises(StoreFenced):
            call()
    assert (rows.commit_number, contents(rows)) == (1, {ONE: b"a"})
    end_sessions(cluster, conninfo)
    rows.write(2, {ONE: b"c"}, ())  # on a connection of its own again, with a lock of its own
    with pytest.raises(StoreFenced):
        lost.write(2, {ONE: b"b"}, ())
    with pytest.raises(StoreFenced):
        lost.write(3, {ONE: b"b"}, ())
    lost.close()
    assert contents(rows) == {ONE: b"c"}
    with pytest.raises(StoreLocked):
        opened(old)


CHILD = """
import sys
from agentmesh.errors import AgentMeshError
from agentmesh.store.postgres import PostgresBackend
backend = PostgresBackend(sys.argv[1])
print("connected", flush=True)
for line in sys.stdin:
    try:
        if line.strip() == "open":
            rows = backend.open_rows("worker-17", create=True)
            said = "opened"
        else:
            rows.write(int(line), {("peer", b"one"): b"child"}, ())
            said = "written"
    except AgentMeshError as error:
        said = f"{error.code} {getattr(error, 'holder', '')}"
    print(said, flush=True)
backend.close()
"""


@contextmanager
def children(conninfo: str, number: int = 1) -> Iterator[list[Any]]:
    command = [sys.executable, "-c", CHILD, conninfo]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
    ]
    try:
        assert [hear(child) for child in started] == ["connected"] * number
        yield started
    finally:
        for child in started:
            child.send_signal(signal.SIGCONT)
            child.communicate(timeout=60)


def tell(child: Any, line: str) -> None:
    child.stdin.write(line + "\n")
    child.stdin.flush()


def hear(child: Any) -> str:
    return str(child.stdout.readline()).strip()


def test_a_paused_process_cannot_write_when_it_goes_on(backends: Any, cluster: Any, conninfo: str) -> None:
    with children(conninfo) as [child]:
        tell(child, "open")
        assert hear(child) == "opened"
        tell(child, "1")
        assert hear(child) == "written"
        child.send_signal(signal.SIGSTOP)
        tell(child, "2")
        with pytest.raises(StoreLocked) as caught:
            opened(backends())
        assert f"process {child.pid} on" in caught.value.holder
        end_sessions(cluster, conninfo)  # as the server does with a machine that is gone
        rows = opened(backends())
        child.send_signal(signal.SIGCONT)
        assert hear(child) == "store.fenced"
        rows.write(2, {ONE: b"here"}, ())
        tell(child, "3")
        assert hear(child) == "store.fenced"
        assert contents(rows) == {ONE: b"here"}


def test_of_two_processes_that_open_at_once_one_wins(conninfo: str) -> None:
    with children(conninfo, 2) as started:
        for child in started:
            tell(child, "open")
        said = {hear(child): child for child in started}
        assert len(said) == 2
        [lost] = said.keys() - {"opened"}
        assert lost.startswith("store.locked")
        tell(said["opened"], "1")
        assert hear(said["opened"]) == "written"


def test_a_child_of_a_fork_is_refused_and_leaves_the_connection_alone(backends: Any) -> None:
    backend = backends()
    rows = opened(backend)
    with backend.turn:  # as if another thread were inside: a child that took it would hang for ever
        child = os.fork()
        if not child:
            signal.alarm(20)
            refused = 0
            calls: list[Callable[[], object]] = [
                backend.names, lambda: backend.open_rows("x", create=True), lambda: rows.commit_number,
                lambda: rows.write(1, {}, ()), rows.read,
            ]  # fmt: skip
            for call in calls:
                try:
                    call()
                except ForkedChild:
                    refused += 1
            rows.close()
            backend.close()
            os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    rows.write(1, {ONE: b"a"}, ())
    assert rows._fence == 1  # on the same connection


def test_nobody_waits_for_another_agents_lock(backends: Any, conninfo: str) -> None:
    first, second = backends(call_timeout_seconds=1), backends(call_timeout_seconds=1)
    held, free, third = opened(first), opened(first, "worker-18"), opened(second, "worker-19")
    with row_held(conninfo):
        with pytest.raises(StoreFailed) as caught:
            held.write(1, {}, ())
        assert getattr(caught.value.__cause__, "sqlstate", "") == "55P03"  # the lock's own time was up, before all time
        for rows in (free, third, opened(second, "worker-20")):
            rows.write(1, {ONE: b"a"}, ())
    assert held.commit_number == 0
    held.write(1, {}, ())


def test_an_agent_that_could_not_be_opened_is_not_locked(backends: Any, conninfo: str) -> None:
    opened(backends()).close()
    with row_held(conninfo), pytest.raises(StoreFailed):
        opened(backends(call_timeout_seconds=1))
    opened(backends())


def test_threads_share_a_backend(backends: Any) -> None:
    backend = backends()

    def work(name: str) -> int:
        rows = opened(backend, name)
        for number in range(1, 21):
            rows.write(number, {ONE: name.encode()}, ())
        assert contents(rows) == {ONE: name.encode()}
        return rows.commit_number

    names = [f"worker-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, names)) == [20] * 8
    assert backend.names() == tuple(names)


# --- the server, the network -----------------------------------------------------------------------------------------


def test_a_connection_that_ended_between_calls_comes_back_unnoticed(backends: Any, cluster: Any, conninfo: str) -> None:
    backend = backends()
    rows, other = opened(backend), opened(backend, "worker-18")
    for number in range(1, 4):
        rows.write(number, {ONE: bytes([number])}, ())
        end_sessions(cluster, conninfo)
    cluster.crash()
    with pytest.raises(StoreFailed) as caught:
        rows.write(4, {}, ())
    assert caught.value.__cause__ is not None
    cluster.start()
    rows.write(4, {}, ())
    assert (rows.commit_number, other.commit_number) == (4, 0)
    with pytest.raises(StoreLocked):  # both are locked again
        backends().open_rows("worker-18", create=True)


@pytest.mark.parametrize("how", ["ended", "crashed"])
def test_a_write_that_the_server_dies_in_is_found_not_to_be_written(
    how: str, backends: Any, cluster: Any, conninfo: str
) -> None:
    rows = opened(backends())
    rows.write(1, {ONE: b"a"}, ())
    with ThreadPoolExecutor(1) as pool:
        try:
            with row_held(conninfo):
                writing = pool.submit(rows.write, 2, {ONE: b"b"}, ())
                waits(cluster, conninfo, writing)
                if how == "ended":
                    end_sessions(cluster, conninfo)
                else:
                    cluster.crash()
                with pytest.raises(StoreFailed):
                    writing.result()
        except Exception as error:
            assert type(error).__module__.startswith("psycopg")  # noqa: PT017 - of the operator's own connection
    if how == "crashed":
        cluster.start()
    assert (rows.commit_number, contents(rows)) == (1, {ONE: b"a"})
    rows.write(2, {ONE: b"b"}, ())
    assert contents(rows) == {ONE: b"b"}


def test_writes_while_the_server_is_killed_and_started_are_there_or_told(backends: Any, cluster: Any) -> None:
    rows = opened(backends())
    number, told = 0, 0
    halted = threading.Event()

    def kill() -> None:
        for _ in range(4):
            cluster.crash()
            cluster.start()
        halted.set()

    killer = threading.Thread(target=kill)
    killer.start()
    known: dict[tuple[str, bytes], bytes] = {}
    while not halted.is_set() or number < 50:
        put = {("session", bytes([number % 7])): number.to_bytes(4, "big"), ("log", number.to_bytes(8, "big")): b"x"}
        try:
            rows.write(number + 1, put, ())
        except StoreFailed:
            told += 1
            while True:
                try:
                    found = rows.commit_number
                    break
                except StoreFailed:
                    pass
            assert found in (number, number + 1)
            if found == number:
                continue
        number += 1
        known |= put
    killer.join()
    assert told
    assert rows.commit_number == number
    assert contents(rows) == known


def test_an_answer_that_is_cut_anywhere_is_told_and_found_to_be_written(
    backends: Any, proxy: Any, conninfo: str
) -> None:
    rows = opened(backends(proxy.conninfo(conninfo)))
    number = failed = length = 0
    kept = None
    while kept is None or kept < length:
        kept = 0 if kept is None else kept + 1

        def ask(pipe: Any, data: bytes) -> None:
            proxy.answered = answer
            pipe.server.sendall(data)

        def answer(pipe: Any, data: bytes, kept: int = kept) -> None:
            nonlocal length
            length = len(data)
            pipe.client.sendall(data[:kept])
            pipe.cut()

        proxy.asked = ask
        number += 1
        try:
            rows.write(number, {ONE: number.to_bytes(4, "big")}, ())
        except StoreFailed:
            failed += 1
        assert proxy.answered is None
        wait_until_told(rows)  # a whole answer comes before the cut
        assert rows.commit_number == number
        assert contents(rows) == {ONE: number.to_bytes(4, "big")}
    assert length <= failed <= length + 1 > 30


def test_what_never_reached_the_server_is_told_and_found_not_to_be_written(
    backends: Any, proxy: Any, conninfo: str
) -> None:
    rows = opened(backends(proxy.conninfo(conninfo)))
    proxy.asked = lambda pipe, data: pipe.cut()
    with pytest.raises(StoreFailed):
        rows.write(1, {ONE: b"a"}, ())
    assert rows.commit_number == 0
    rows.write(1, {ONE: b"b"}, ())
    assert contents(rows) == {ONE: b"b"}


@pytest.mark.parametrize("ends_old", [True, False])
def test_what_reaches_the_server_after_the_answer_was_given_is_not_written(
    ends_old: bool, backends: Any, proxy: Any, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old connection hangs somewhere between here and the server, with the write in it, and is alive there."""
    if not ends_old:  # the server lets no role end its own
        monkeypatch.setattr(postgres_link, "_END", "SELECT %s::int, %s::int, %s::timestamptz")
        monkeypatch.setattr(subject, "_WAIT_FOR_LOCK", "SELECT %s")

    def hold(pipe: Any, data: bytes) -> None:
        pipe.cut(pipe.client)
        arrived.wait(60)
        pipe.server.sendall(data)
        answered.wait(0 if ends_old else 60)

    arrived, answered = threading.Event(), threading.Event()
    rows = opened(backends(proxy.conninfo(conninfo)))
    proxy.asked = hold
    with pytest.raises(StoreFailed):
        rows.write(1, {ONE: b"late"}, ())
    assert rows.commit_number == 0
    if not ends_old:
        proxy.answered = lambda _pipe, _data: answered.set()
    arrived.set()
    assert ends_old or answered.wait(60)
    assert (rows.commit_number, contents(rows)) == (0, {})
    rows.write(1, {ONE: b"again"}, ())
    assert (rows.commit_number, contents(rows)) == (1, {ONE: b"again"})


def test_a_write_that_is_still_under_way_is_waited_for(
    backends: Any, proxy: Any, cluster: Any, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off while it waits inside the server: no answer is given before it has been written, or cannot be."""
    monkeypatch.setattr(postgres_link, "_END", "SELECT %s::int, %s::int, %s::timestamptz")
    rows = opened(backends(proxy.conninfo(conninfo), call_timeout_seconds=4))
    pipes: list[Any] = []

    def ask(pipe: Any, data: bytes) -> None:
        pipes.append(pipe)
        pipe.server.sendall(data)

    proxy.asked = ask
    with ThreadPoolExecutor(1) as pool, row_held(conninfo) as holder:
        writing = pool.submit(rows.write, 1, {ONE: b"a"}, ())
        waits(cluster, conninfo, writing)
        pipes[0].cut(pipes[0].client)
        with pytest.raises(StoreFailed):
            writing.result()
        with pytest.raises(StoreFailed):  # two seconds are no answer
            rows.commit_number  # noqa: B018
        holder.rollback()
    number = rows.commit_number
    assert number == len(contents(rows))
    rows.write(number + 1, {("peer", b"two"): b"b"}, ())
    assert rows.commit_number == number + 1 == len(contents(rows))


def test_a_server_that_says_nothing_is_left_in_bounded_time(backends: Any) -> None:
    backend = backends(call_timeout_seconds=1)
    rows = opened(backend)
    process = backend.link._former[0]
    os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(StoreFailed):
            rows.write(1, {ONE: b"a"}, ())
        assert backend.link._connection is None  # what it had locked is free
    finally:
        os.kill(process, signal.SIGCONT)
    number = rows.commit_number
    assert number == len(contents(rows))
    rows.write(number + 1, {ONE: b"b"}, ())


# --- broken off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["write", "commit_number", "open", "come back", "close"])
def test_a_call_that_is_broken_off_leaves_all_usable(
    what: str, backends: Any, interrupts: ModuleType, conninfo: str
) -> None:
    def make() -> tuple[PostgresBackend, PostgresRows, int]:
        backend = backends()
        rows = opened(backend)
        number = rows.commit_number
        if what == "come back":
            backend.link.drop()
        return backend, rows, number

    def call(made: tuple[PostgresBackend, PostgresRows, int]) -> object:
        backend, rows, number = made
        if what in ("write", "come back"):
            return rows.write(number + 1, {ONE: b"a"}, ())
        if what == "open":
            return opened(backend, "worker-18")
        return rows.close() if what == "close" else rows.commit_number

    second = backends()
    for backend, rows, known in interrupts.each(make, call, rooms=("store/postgres",), lines=True):
        assert not backend.turn.locked()
        if what == "close":
            rows.close()
            rows = opened(backend)
        number = rows.commit_number
        assert number in (known, known + 1)
        rows.write(number + 1, {ONE: b"b"}, ())
        other = opened(backend, "worker-18")
        rows.close()
        other.close()
        for name in ("worker-17", "worker-18"):
            opened(second, name).close()  # no lock was left behind
        backend.close()


def test_ctrl_c_while_the_server_works_leaves_all_usable(backends: Any, proxy: Any, conninfo: str) -> None:
    rows = opened(backends(proxy.conninfo(conninfo)))

    def ask(pipe: Any, data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        pipe.server.sendall(data)

    proxy.asked = ask
    with pytest.raises(KeyboardInterrupt):
        rows.write(1, {ONE: b"a"}, ())
    assert rows._backend.link._connection is None
    number = rows.commit_number
    assert number == len(contents(rows))
    rows.write(number + 1, {ONE: b"b"}, ())


# --- what is there ---------------------------------------------------------------------------------------------------


def test_many_make_the_tables_at_once(backends: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        for schema in ("one", "two", "three"):
            made = list(pool.map(lambda _, schema=schema: backends(schema=schema), range(8)))
            opened(made[0])
            assert made[7].names() == ("worker-17",)
    assert backends().names() == ()


def test_a_role_that_may_only_use_the_tables_is_enough(backends: Any, cluster: Any, conninfo: str) -> None:
    backends()
    cluster.ask("CREATE ROLE clerk LOGIN PASSWORD 'clerk'")
    for grant in (
        "USAGE ON SCHEMA agentmesh",
        "SELECT ON agentmesh.format",
        "SELECT, INSERT, UPDATE ON agentmesh.agents",
        "SELECT, INSERT, UPDATE, DELETE ON agentmesh.rows",
    ):
        cluster.ask(f"GRANT {grant} TO clerk", conninfo=conninfo)
    rows = opened(backends(f"{conninfo} user=clerk password=clerk"))
    rows.write(1, {ONE: b"a"}, ())
    rows.write(2, {}, [ONE])
    assert contents(rows) == {}
    cluster.ask("CREATE SCHEMA own AUTHORIZATION clerk", conninfo=conninfo)
    assert backends(f"{conninfo} user=clerk password=clerk", schema="own").names() == ()


def test_a_store_of_a_newer_release_is_refused_and_left(backends: Any, cluster: Any, conninfo: str) -> None:
    rows = opened(backends())
    cluster.ask("UPDATE agentmesh.format SET version = version + 1", conninfo=conninfo)
    with pytest.raises(StateVersionUnknown):
        backends()
    cluster.ask("DROP TABLE agentmesh.rows", conninfo=conninfo)
    with pytest.raises(StateVersionUnknown):
        backends()
    with pytest.raises(StoreBroken) as caught:
        rows.write(1, {ONE: b"a"}, ())
    assert caught.value.what == "rows"
    assert cluster.ask("SELECT to_regclass('agentmesh.rows')", conninfo=conninfo) == [(None,)]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("DELETE FROM agentmesh.format", "file"),
        ("INSERT INTO agentmesh.format VALUES (1)", "file"),
        ("UPDATE agentmesh.format SET version = 0", "file"),
        ("DROP TABLE agentmesh.format; CREATE TABLE agentmesh.format ()", "rows"),
        ("DROP TABLE agentmesh.agents CASCADE", "rows"),
        ("ALTER TABLE agentmesh.rows ALTER key TYPE text USING 'x'", "rows"),
        ("ALTER TABLE agentmesh.rows DROP COLUMN sealed", "rows"),
        ("ALTER TABLE agentmesh.rows ALTER sealed TYPE text USING 'x'", "rows"),
    ],
)
def test_what_is_no_store_wait_until_told(damage: str, what: str, backends: Any, cluster: Any, conninfo: str) -> None:
    rows = opened(backends())
    rows.write(1, {ONE: b"a"}, ())
    rows._backend.close()
    cluster.ask(damage, conninfo=conninfo)
    with pytest.raises(StoreBroken) as caught:
        contents(opened(backends()))
    assert caught.value.what == what


def test_what_is_closed_says_so(backends: Any) -> None:
    backend = backends()
    rows, other = opened(backend), opened(backend, "worker-18")
    reading = rows.read()
    rows.close()
    for call in (lambda: rows.write(1, {}, ()), lambda: rows.commit_number, rows.read, lambda: next(reading)):
        with pytest.raises(StoreClosed):
            call()
    backend.close()
    backend.close()
    other.close()
    calls: list[Callable[[], object]] = [
        backend.names, lambda: backend.open_rows("x", create=True), lambda: other.commit_number,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreClosed):
            call()


# --- arguments, and what is shown ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "argument"),
    [
        ({"schema": ""}, "schema"),
        ({"schema": 'a"; DROP TABLE x'}, "schema"),
        ({"schema": "a" * 64}, "schema"),
        ({"connect_timeout_seconds": 1}, "connect_timeout_seconds"),
        ({"connect_timeout_seconds": 2.0}, "connect_timeout_seconds"),
        ({"call_timeout_seconds": 0}, "call_timeout_seconds"),
    ],
)
def test_an_argument_out_of_range_is_refused(named: dict[str, Any], argument: str, conninfo: str) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        PostgresBackend(conninfo, **named)
    assert caught.value.argument == argument


@pytest.mark.parametrize("name", ["", "a\x00b", "\ud800", "x" * 129, b"worker"])
def test_a_name_that_is_none_is_refused(name: Any, backends: Any) -> None:
    backend = backends()
    with pytest.raises(ArgumentInvalid):
        backend.open_rows(name, create=True)
    assert backend.names() == ()
    name = "\u00e9'\"\\%s" + "x" * 120
    opened(backend, name)
    assert backend.names() == (name,)


def everything(error: BaseException | None) -> Iterator[str]:
    """All that a report of an error may show: texts, and what the frames and the error itself hold."""
    while error is not None:
        yield from traceback.format_exception(error)
        yield repr(vars(error))
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename != __file__:
                yield repr(frame.f_locals)
                yield from (repr(vars(value)) for value in frame.f_locals.values() if hasattr(value, "__dict__"))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("fault", ["malformed", "name", "password", "database", "host", "down"])
def test_the_password_is_shown_nowhere(fault: str, postgres: ModuleType, cluster: Any) -> None:
    word = "battery-staple"
    given = {
        "malformed": f"host=x password={word} {word}",
        "name": f"host=x passwrd={word}",
        "password": cluster.conninfo(password=word),
        "database": cluster.conninfo(dbname="none"),
        "host": f"postgresql://mesh:{word}@127.0.0.1:1/x?connect_timeout=3",
        "down": cluster.conninfo(host="/nowhere"),
    }[fault]
    with pytest.raises(AgentMeshError) as caught:
        PostgresBackend(given)
    assert type(caught.value) is (ArgumentInvalid if fault in ("malformed", "name") else StoreFailed)
    shown = "".join(everything(caught.value))
    assert word not in shown
    assert postgres.PASSWORD not in shown


def test_a_backend_and_its_errors_show_no_password(backends: Any, postgres: ModuleType, cluster: Any) -> None:
    backend = backends()
    rows = opened(backend)
    shown = [repr(value) + repr(vars(value)) for value in (backend, backend.link, rows)]
    cluster.crash()
    try:
        for call in (lambda: rows.write(1, {}, ()), backend.names):
            with pytest.raises(StoreFailed) as caught:
                call()
            assert caught.value.__cause__ is not None
            shown += everything(caught.value)
    finally:
        cluster.start()
    assert postgres.PASSWORD not in "".join(shown)
    rows.write(1, {}, ())


def test_without_psycopg_all_else_works_and_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    word = "battery-staple"
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'agentmesh-e2ee\[postgres\]'") as caught:
        PostgresBackend(f"host=x password={word}")
    assert word not in "".join(everything(caught.value))
    program = "import sys; sys.modules['psycopg'] = None; import agentmesh, agentmesh.store.postgres"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
