"""A store in a file of SQLite: the kit, its files, its one writer, and what goes wrong under it."""

from __future__ import annotations

import base64
import contextlib
import errno
import gc
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agentmesh
from agentmesh.errors import (
    ArgumentInvalid,
    ForkedChild,
    ReentrantCall,
    StateVersionUnknown,
    StoreBroken,
    StoreError,
    StoreFailed,
    StoreFenced,
    StoreLocked,
    StoreMoved,
)
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import STORE_KEY
from agentmesh.store import SQLiteBackend, files
from agentmesh.store.data_key import unwrap
from agentmesh.store.rows import HEAD_NAME, Name
from agentmesh.store.sealing import Sealer
from agentmesh.store.sqlite_rows import SQLiteRows
from agentmesh.testing import SeededEntropy
from agentmesh.testing.store_kit import BACKEND_CHECKS, Check, contents

ROW = ("session", b"k")
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.mesh"


@pytest.fixture
def opened(path: Path) -> Iterator[tuple[SQLiteBackend, SQLiteRows]]:
    with SQLiteBackend(path) as backend:
        yield backend, agent(backend)


def agent(backend: SQLiteBackend, name: str = "agent") -> SQLiteRows:
    rows = backend.open_rows(name, create=True)
    assert rows is not None
    return rows


def reopened(path: Path) -> tuple[int, dict[Name, bytes]]:
    with SQLiteBackend(path) as backend:
        rows = agent(backend)
        return rows.commit_number, contents(rows)[0]


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
def test_it_passes_the_kit(check: Check, path: Path) -> None:
    check(lambda: SQLiteBackend(path))


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
def test_it_passes_the_kit_where_power_is_not_thought_of(check: Check, path: Path) -> None:
    check(lambda: SQLiteBackend(path, synchronous="NORMAL"))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_open_umask")
def test_no_file_of_it_is_ever_for_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, int]] = set()
    connect = sqlite3.connect

    def looking(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        seen.update((one.name, one.stat().st_mode & 0o777) for one in path.parent.iterdir())
        return connect(*args, **kwargs)

    monkeypatch.setattr(sqlite3, "connect", looking)
    with SQLiteBackend(path) as backend:
        agent(backend).write(1, {ROW: b"1"}, ())
        backend.backup(path.with_name("b.mesh"))
        seen.update((one.name, one.stat().st_mode & 0o777) for one in path.parent.iterdir())
    assert {name for name, _ in seen} >= {"a.mesh", "a.mesh-wal", "a.mesh-shm", "a.mesh.lock", "b.mesh"}
    assert {mode for _, mode in seen} == {0o600}


def test_nothing_but_the_store_and_its_lock_is_left(path: Path) -> None:
    with SQLiteBackend(path) as backend:
        agent(backend).write(1, {ROW: b"1"}, ())
    for _ in range(2):
        assert sorted(one.name for one in path.parent.iterdir()) == ["a.mesh", "a.mesh.lock"]
        assert path.with_name("a.mesh.lock").read_bytes() == b""
        reopened(path)


@pytest.mark.parametrize("name", ["a.mesh", "a.mesh.lock"])
def test_a_symbolic_link_is_refused(name: str, path: Path) -> None:
    target = path.with_name("target")
    with SQLiteBackend(target):
        pass
    path.with_name(name).symlink_to(target if name == "a.mesh" else path.with_name("target.lock"))
    with pytest.raises(StoreFailed) as caught:
        SQLiteBackend(path)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ELOOP


def test_what_is_no_file_is_refused(path: Path) -> None:
    path.mkdir()
    for read_only in (False, True):
        with pytest.raises(StoreFailed):
            SQLiteBackend(path, read_only=read_only)
    for missing in (path / "no" / "folder" / "a.mesh", "a\x00b"):
        with pytest.raises(StoreFailed):
            SQLiteBackend(missing)


def test_a_file_that_others_may_read_is_warned_of(path: Path) -> None:
    with SQLiteBackend(path):
        pass
    path.chmod(0o640)
    with pytest.warns(UserWarning, match="the store stands with mode 0640") as caught, SQLiteBackend(path):
        pass
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["with space", "a?mode=memory&x=%41#y", "ünï", "a'b\"c", "%2e", "file:a"])
def test_any_name_is_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with SQLiteBackend(name) as backend:
        monkeypatch.chdir("/")
        agent(backend).write(1, {ROW: b"1"}, ())
    assert (tmp_path / name).stat().st_size
    assert reopened(tmp_path / name) == (1, {ROW: b"1"})


@pytest.mark.parametrize(
    ("path", "options"),
    [(7, {}), (b"bytes", {}), ("", {}), ("a", {"synchronous": "OFF"}), ("a", {"synchronous": None}),
     ("a", {"busy_ms": -1}), ("a", {"busy_ms": 1.5}), ("a", {"busy_ms": 10**9})],
)  # fmt: skip
def test_arguments_are_checked(path: Any, options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentInvalid):
        SQLiteBackend(path, **options)
    assert not list(tmp_path.iterdir())


def test_what_a_process_left_that_was_killed_as_it_made_a_store_is_no_obstacle(path: Path) -> None:
    for end in ("", "-wal", "-journal", "-shm"):
        path.with_name(f"a.mesh.agentmesh-new{end}").write_bytes(b"torn")
    with SQLiteBackend(path) as backend:
        agent(backend)
    assert sorted(one.name for one in path.parent.iterdir()) == ["a.mesh", "a.mesh.lock"]


def test_a_store_that_could_not_be_made_is_not_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StoreFailed):
        SQLiteBackend(path)
    assert [one.name for one in path.parent.iterdir()] == ["a.mesh.lock"]


def test_a_database_of_somebody_else_is_left_alone(path: Path) -> None:
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE agents (id INTEGER PRIMARY KEY)")
    foreign.commit()
    foreign.close()
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="others may"), pytest.raises(StoreBroken) as caught:
        SQLiteBackend(path)
    assert caught.value.what == "file"
    assert path.read_bytes() == before


def test_a_later_format_is_not_read(path: Path) -> None:
    with SQLiteBackend(path):
        pass
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version=2")
    later.close()
    with pytest.raises(StateVersionUnknown):
        SQLiteBackend(path)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER t AFTER UPDATE ON agents BEGIN DELETE FROM agent_1; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE INDEX i ON agents (name)",
        "CREATE TABLE agent_2 (id INTEGER PRIMARY KEY)",
        "DROP TABLE log_1",
        "DELETE FROM agents",
        "DELETE FROM store",
        "UPDATE agents SET name = 'other'",
        "UPDATE agents SET name = x'00'",
        "UPDATE agents SET commit_number = -1",
        "UPDATE agents SET commit_number = 'one'",
        "UPDATE agents SET fence = NULL",
        "INSERT INTO agents VALUES (2, 'agent', 0, 0, NULL)",
    ],
)
def test_a_file_with_other_tables_or_agents_is_broken(sql: str, path: Path) -> None:
    with SQLiteBackend(path) as backend:
        agent(backend).write(1, {ROW: b"1"}, ())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(sql)
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreBroken):
        SQLiteBackend(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", ["kind = x'07'", "kind = NULL", "key = 'text'", "sealed = NULL", "sealed = 'text'"])
def test_what_is_no_row_is_broken(change: str, path: Path) -> None:
    with SQLiteBackend(path) as backend:
        agent(backend).write(1, {ROW: b"1", ("peer", b"p"): b"2"}, ())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(f"UPDATE agent_1 SET {change}")
    other.close()
    with SQLiteBackend(path) as backend, pytest.raises(StoreBroken):
        list(agent(backend).read())


# --- one writer ------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from agentmesh.store import SQLiteBackend
backend = SQLiteBackend(sys.argv[1])
rows = backend.open_rows("agent", create=True)
number = rows.commit_number
rows.write(number + 1, {("session", b"child"): b"of the child"}, ())
print("open", flush=True)
for line in sys.stdin:
    number += 1
    rows.write(number + 1, {("session", b"child"): b"%d" % number, ("outbox", b"%d" % number): bytes(500)}, ())
    print("written", flush=True)
"""


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Give another process that has the store open and has written to it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(agentmesh.__file__).parents[1])}
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def write_there(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    assert process.stdout.readline() == "written\n"


def test_a_second_process_is_refused_and_told_who_has_it(path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(StoreLocked) as caught:
        SQLiteBackend(path)
    assert not caught.value.by_this_process
    assert caught.value.holder == f"process {holder.pid} on {platform.node()}"
    write_there(holder)


def test_a_killed_process_is_no_obstacle_and_what_it_wrote_is_there(path: Path, holder: subprocess.Popen[str]) -> None:
    write_there(holder)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.with_name("a.mesh.lock").read_bytes(), "it left its name"
    assert path.with_name("a.mesh-wal").stat().st_size
    number, rows = reopened(path)
    assert number == 2
    assert rows[("session", b"child")] == b"1"


def test_a_second_store_in_this_process_is_refused(path: Path, opened: tuple[SQLiteBackend, SQLiteRows]) -> None:
    with pytest.raises(StoreLocked) as caught:
        SQLiteBackend(path)
    assert caught.value.by_this_process
    opened[1].write(1, {ROW: b"1"}, ())


@pytest.mark.parametrize("left", [b"", b"x" * 5000, b"1 \x1b[31mred\n", b"99999999999 host\n", b"\xff"])
def test_what_stands_in_the_lock_is_not_believed(left: bytes, path: Path) -> None:
    with SQLiteBackend(path):
        path.with_name("a.mesh.lock").write_bytes(left)
        with pytest.raises(StoreLocked) as caught:
            SQLiteBackend(path)
        assert caught.value.holder == ""
    reopened(path)


@NEEDS_FORK
def test_a_child_of_a_fork_is_refused_and_takes_no_lock_along(
    path: Path, opened: tuple[SQLiteBackend, SQLiteRows]
) -> None:
    backend, rows = opened
    rows.write(1, {ROW: b"1"}, ())
    calls: list[Callable[[], object]] = [
        backend.names,
        lambda: backend.open_rows("other", create=True),
        lambda: rows.commit_number,
        rows.read,
        lambda: rows.write(2, {}, ()),
        lambda: backend.backup(path.with_name("b")),
        lambda: rows.close(),
    ]
    come, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        refused = 0
        for call in calls:
            try:
                call()
            except ForkedChild:
                refused += 1
        backend.close()
        os.write(come[1], b"%d" % refused)
        os.read(go[0], 1)  # as long as the parent needs to close, and open again
        os._exit(0)
    try:
        assert os.read(come[0], 9) == b"%d" % len(calls)
        with pytest.raises(StoreLocked):
            SQLiteBackend(path)
        rows.write(2, {ROW: b"2"}, ())
        backend.close()
        assert reopened(path) == (2, {ROW: b"2"}), "the child kept the lock"
    finally:
        os.write(go[1], b"x")
        os.waitpid(child, 0)
        for descriptor in (*come, *go):
            os.close(descriptor)


FORKING = """
import os, sys
from agentmesh.store import SQLiteBackend
backend = SQLiteBackend(sys.argv[1])
if not os.fork():
    print(os.getpid(), flush=True)
sys.stdin.read()
os._exit(0)
"""


@NEEDS_FORK
def test_a_child_that_outlives_its_killed_parent_keeps_no_lock(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(agentmesh.__file__).parents[1])}
    command = [sys.executable, "-c", FORKING, str(path)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        os.kill(child, 0)
        assert reopened(path) == (0, {})
        os.kill(child, signal.SIGKILL)


def test_a_lock_that_is_removed_before_it_is_taken_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, removed = files.lock, []

    def removing(descriptor: int) -> None:
        if len(removed) < 3:
            path.with_name("a.mesh.lock").unlink()
            removed.append(descriptor)
        lock(descriptor)

    monkeypatch.setattr(files, "lock", removing)
    with SQLiteBackend(path):
        with pytest.raises(StoreLocked):
            SQLiteBackend(path)
        removed[:] = []
    monkeypatch.setattr(files, "lock", lambda descriptor: removed.clear() or removing(descriptor))
    with pytest.raises(StoreMoved):
        SQLiteBackend(path)


def test_a_writer_whose_lock_was_taken_away_cannot_write(path: Path) -> None:
    with SQLiteBackend(path) as first:
        rows = agent(first)
        rows.write(1, {ROW: b"1"}, ())
        path.with_name("a.mesh.lock").unlink()
        with SQLiteBackend(path) as second:
            others = agent(second)
            assert rows.commit_number == others.commit_number == 1
            others.write(2, {ROW: b"of the other"}, ())
            for _ in range(2):
                with pytest.raises(StoreFenced):
                    rows.write(2, {ROW: b"2"}, ())
                with pytest.raises(StoreFenced):
                    _ = rows.commit_number
                with pytest.raises(StoreFenced):
                    rows.write(3, {ROW: b"2"}, ())
            others.write(3, {ROW: b"of the other again"}, ())
    assert reopened(path) == (3, {ROW: b"of the other again"})


def test_threads_may_share_it(opened: tuple[SQLiteBackend, SQLiteRows]) -> None:
    backend, _ = opened
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            rows = agent(backend, name)
            for number in range(1, 40):
                rows.write(number, {ROW: f"{name} {number}".encode(), ("peer", b"%d" % number): b"p"}, ())
                assert rows.commit_number == number
                assert contents(rows)[0][ROW] == f"{name} {number}".encode()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"thread {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(backend.names()) == 5


def test_a_call_from_within_a_call_is_refused(opened: tuple[SQLiteBackend, SQLiteRows]) -> None:
    backend, rows = opened
    rows.write(1, {ROW: b"1"}, ())

    def as_a_signal_handler_does(_: sqlite3.Connection) -> None:
        for call in (lambda: rows.write(2, {}, ()), lambda: rows.commit_number, backend.names):
            with pytest.raises(ReentrantCall):
                call()

    backend.run(as_a_signal_handler_does)
    rows.write(2, {ROW: b"2"}, ())


def test_a_store_that_is_dropped_says_so_and_lets_go(path: Path) -> None:
    kept = [SQLiteBackend(path)]
    agent(kept[0]).write(1, {ROW: b"1"}, ())
    gc.collect()
    with pytest.warns(ResourceWarning, match="a store was dropped and not closed"):
        kept.clear()
    gc.collect()
    assert reopened(path) == (1, {ROW: b"1"})


# --- those who only look ---------------------------------------------------------------------------------------------


def test_others_look_while_it_is_written_and_see_one_moment(path: Path, holder: subprocess.Popen[str]) -> None:
    write_there(holder)
    with SQLiteBackend(path, read_only=True) as looking:
        rows = looking.open_rows("agent", create=False)
        assert rows is not None
        before = rows.commit_number, contents(rows)
        for _ in range(3):
            write_there(holder)
        assert (rows.commit_number, contents(rows)) == before
        assert looking.names() == ("agent",)
    with SQLiteBackend(path, read_only=True) as looking:
        rows = looking.open_rows("agent", create=False)
        assert rows is not None
        assert rows.commit_number == before[0] + 3


def test_who_only_looks_alters_nothing(path: Path) -> None:
    with SQLiteBackend(path) as backend:
        agent(backend).write(1, {ROW: b"1"}, ())
    before = path.read_bytes()
    path.with_name("a.mesh.lock").unlink()
    with SQLiteBackend(path, read_only=True) as looking:
        rows = looking.open_rows("agent", create=True)
        assert rows is not None
        assert contents(rows)[0] == {ROW: b"1"}
        for call in (lambda: rows.write(2, {ROW: b"2"}, ()), lambda: looking.open_rows("other", create=True)):
            with pytest.raises(StoreFailed) as caught:
                call()
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.EROFS
        assert looking.open_rows("other", create=False) is None
    assert path.read_bytes() == before
    assert not path.with_name("a.mesh.lock").exists()


def test_who_only_looks_makes_no_store(path: Path) -> None:
    with pytest.raises(StoreFailed):
        SQLiteBackend(path, read_only=True)
    assert not list(path.parent.iterdir())


def test_a_backup_is_of_one_moment_while_another_process_writes(path: Path, holder: subprocess.Popen[str]) -> None:
    for number in range(4):
        to = path.with_name(f"backup {number}")
        with SQLiteBackend(path, read_only=True) as looking:
            write_there(holder)
            looking.backup(to)
        assert to.stat().st_mode & 0o777 == 0o600
        assert reopened(to)[0] == number + 1


def test_a_backup_of_a_store_that_is_open_here(path: Path, opened: tuple[SQLiteBackend, SQLiteRows]) -> None:
    backend, rows = opened
    backend.backup(path.with_name("empty"))
    rows.write(1, {ROW: b"1"}, ())
    backend.backup(path.with_name("b.mesh"))
    rows.write(2, {ROW: b"2"}, ())
    assert reopened(path.with_name("b.mesh")) == (1, {ROW: b"1"})
    assert reopened(path.with_name("empty")) == (0, {})


def test_a_backup_replaces_nothing(path: Path, opened: tuple[SQLiteBackend, SQLiteRows]) -> None:
    to = path.with_name("b.mesh")
    to.write_bytes(b"what was there")
    with pytest.raises(StoreFailed):
        opened[0].backup(to)
    assert to.read_bytes() == b"what was there"
    link = path.with_name("link")
    link.symlink_to(path.with_name("nowhere"))
    with pytest.raises(StoreFailed):
        opened[0].backup(link)
    assert sorted(one.name for one in path.parent.iterdir() if "new" in one.name or "nowhere" in one.name) == []


# --- a file that is moved under its writer ---------------------------------------------------------------------------


def _renamed(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def _replaced(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _log_removed(path: Path) -> None:
    path.with_name("a.mesh-wal").unlink()


def _log_emptied(path: Path) -> None:
    os.truncate(path.with_name("a.mesh-wal"), 0)


def _log_replaced(path: Path) -> None:
    shutil.copy(path.with_name("a.mesh-wal"), path.with_name("copy"))
    path.with_name("copy").rename(path.with_name("a.mesh-wal"))


@pytest.mark.parametrize(
    "move", [_renamed, Path.unlink, _replaced, _emptied, _log_removed, _log_emptied, _log_replaced]
)
def test_what_is_written_to_a_file_that_nobody_finds_is_not_acknowledged(
    move: Callable[[Path], None], path: Path
) -> None:
    with SQLiteBackend(path) as backend:
        rows = agent(backend)
        rows.write(1, {ROW: b"1"}, ())
        move(path)
        for _ in range(2):
            with pytest.raises(StoreMoved):
                rows.write(2, {ROW: b"2"}, ())
        with pytest.raises(StoreMoved):
            _ = rows.commit_number
        with pytest.raises(StoreMoved):
            rows.read()
        with pytest.raises(StoreMoved):
            backend.names()


@pytest.mark.parametrize("move", [_renamed, _replaced, _log_removed], ids=lambda move: move.__name__)
def test_nor_is_it_where_it_is_moved_in_the_midst_of_the_commit(move: Callable[[Path], None], path: Path) -> None:
    with SQLiteBackend(path) as backend:
        rows = agent(backend)
        rows.write(1, {ROW: b"1"}, ())
        backend._connection = Failing(backend, "COMMIT", before=lambda: move(path))
        with pytest.raises(StoreError):
            rows.write(2, {ROW: b"2"}, ())
        with pytest.raises(StoreMoved):
            rows.write(2, {ROW: b"2"}, ())


# --- what goes wrong -------------------------------------------------------------------------------------------------


class Failing:
    """A connection at which something happens before, or after, the first statement that begins so."""

    def __init__(
        self,
        backend: SQLiteBackend,
        statement: str,
        *,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
    ) -> None:
        assert backend._connection is not None
        self.real = backend._connection
        self.statement, self.before, self.after = statement, before, after
        self.left = 1

    def execute(self, sql: str, *args: Any) -> Any:
        return self._at(sql, lambda: self.real.execute(sql, *args))

    def executemany(self, sql: str, *args: Any) -> Any:
        return self._at(sql, lambda: self.real.executemany(sql, *args))

    def _at(self, sql: str, call: Callable[[], Any]) -> Any:
        if not sql.startswith(self.statement) or not self.left:
            return call()
        self.left -= 1
        self.before()
        result = call()
        self.after()
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def failing(code: int) -> Callable[[], None]:
    def fail() -> None:
        error = sqlite3.OperationalError("as SQLite says")
        error.sqlite_errorcode = code
        raise error

    return fail


CODES = {
    sqlite3.SQLITE_FULL: StoreFailed,
    sqlite3.SQLITE_IOERR_WRITE: StoreFailed,
    sqlite3.SQLITE_IOERR_FSYNC: StoreFailed,
    sqlite3.SQLITE_READONLY: StoreFailed,
    sqlite3.SQLITE_CANTOPEN: StoreFailed,
    sqlite3.SQLITE_NOMEM: StoreFailed,
    sqlite3.SQLITE_BUSY: StoreLocked,
    sqlite3.SQLITE_BUSY_SNAPSHOT: StoreLocked,
    sqlite3.SQLITE_CORRUPT: StoreBroken,
    sqlite3.SQLITE_NOTADB: StoreBroken,
    sqlite3.SQLITE_READONLY_DBMOVED: StoreMoved,
}
STATEMENTS = ["BEGIN", "UPDATE agents", "DELETE", "UPDATE agent_", "INSERT INTO agent_", "INSERT OR", "COMMIT"]


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("code", CODES, ids=lambda code: CODES[code].__name__ + str(code))
def test_an_error_anywhere_in_a_write_changes_nothing(code: int, statement: str, path: Path) -> None:
    gone = ("peer", b"gone")
    with SQLiteBackend(path) as backend:
        rows = agent(backend)
        rows.write(1, {ROW: b"1", gone: b"1", HEAD_NAME: b"h"}, ())
        before = contents(rows)
        write = {ROW: b"2", ("outbox", b"o"): b"2", ("log", bytes(8)): b"2", HEAD_NAME: b"i"}
        backend._connection = Failing(backend, statement, before=failing(code))
        with pytest.raises(CODES[code]) as caught:
            rows.write(2, write, [gone])
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert rows.commit_number == 1
        assert contents(rows) == before
        rows.write(2, write, [gone])
        assert contents(rows)[0] == {ROW: b"2", ("outbox", b"o"): b"2", HEAD_NAME: b"i"}
    assert reopened(path) == (2, {ROW: b"2", ("outbox", b"o"): b"2", HEAD_NAME: b"i"})


def test_after_an_error_in_the_commit_itself_its_number_tells(path: Path) -> None:
    with SQLiteBackend(path) as backend:
        rows = agent(backend)
        rows.write(1, {ROW: b"1", ("peer", b"gone"): b"1"}, ())
        backend._connection = Failing(backend, "COMMIT", after=failing(sqlite3.SQLITE_IOERR))
        with pytest.raises(StoreFailed):
            rows.write(2, {("outbox", b"o"): b"2"}, [("peer", b"gone")])
        assert rows.commit_number == 2
        rows.write(3, {("outbox", b"o"): b"3", ("peer", b"new"): b"3"}, ())
        expected = {ROW: b"1", ("outbox", b"o"): b"3", ("peer", b"new"): b"3"}
        assert contents(rows)[0] == expected
    assert reopened(path) == (3, expected)


def test_another_program_that_locks_the_file_is_waited_for_and_then_told_of(path: Path) -> None:
    with SQLiteBackend(path, busy_ms=0) as backend:
        rows = agent(backend)
        rows.write(1, {ROW: b"1"}, ())
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked):
            rows.write(2, {ROW: b"2"}, ())
        assert rows.commit_number == 1
        other.execute("ROLLBACK")
        other.close()
        rows.write(2, {ROW: b"2"}, ())


def test_a_full_database_changes_nothing_and_takes_writes_again(path: Path) -> None:
    with SQLiteBackend(path) as backend:
        rows = agent(backend)
        rows.write(1, {ROW: b"1"}, ())
        pages = backend.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
        backend.run(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchone())
        with pytest.raises(StoreFailed):
            rows.write(2, {ROW: b"2", ("bundle", b"big"): bytes(100_000)}, ())
        assert (rows.commit_number, contents(rows)[0]) == (1, {ROW: b"1"})
        rows.write(2, {ROW: b"small"}, ())
        backend.run(lambda connection: connection.execute("PRAGMA max_page_count=1000000").fetchone())
        rows.write(3, {("bundle", b"big"): bytes(100_000)}, ())
    assert reopened(path)[0] == 3


FULL_DISK = """
import resource, signal, sys
from agentmesh.errors import StoreFailed
from agentmesh.store import SQLiteBackend
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
backend = SQLiteBackend(sys.argv[1])
rows = backend.open_rows("agent", create=True)
rows.write(1, {("session", b"k"): b"1"}, ())
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
number, failed = 1, 0
for size in range(20_000, 60_000, 997):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        rows.write(number + 1, {("session", b"k"): bytes(12_000), ("outbox", b"%d" % size): bytes(3000)}, ())
        number += 1
    except StoreFailed as error:
        assert error.__cause__ is not None
        failed += 1
    assert rows.commit_number == number, (rows.commit_number, number)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    rows.write(number + 1, {("session", b"k"): b"%d" % size}, ())
    number += 1
assert failed > 3, failed
backend.close()
with SQLiteBackend(sys.argv[1]) as backend:
    rows = backend.open_rows("agent", create=False)
    assert rows.commit_number == number
    assert dict(((kind, key), data) for kind, key, data in rows.read())["session", b"k"] == b"%d" % size
print("whole")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system has no limit on the size of files")
def test_a_disk_that_takes_no_more_changes_nothing_and_takes_writes_again(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(agentmesh.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("whole\n", "")


def test_a_write_that_is_broken_off_anywhere_is_whole_or_nothing(path: Path, interrupts: Any) -> None:
    gone = ("peer", b"gone")
    before = {ROW: b"1", gone: b"1", HEAD_NAME: b"h"}
    after = {ROW: b"2", ("outbox", b"o"): b"2", HEAD_NAME: b"i"}
    ends = set()
    backend = SQLiteBackend(path, synchronous="NORMAL")

    def make() -> SQLiteRows:
        rows = agent(backend, os.urandom(8).hex())
        rows.write(1, before, ())
        return rows

    def write(rows: SQLiteRows) -> None:
        rows.write(2, after, [gone])

    for rows in interrupts.each(make, write, rooms=("store",)):
        assert interrupts.is_free(backend._lock)
        number = rows.commit_number
        ends.add(number)
        assert contents(rows)[0] == (before if number == 1 else after)
        rows.write(number + 1, {("outbox", b"o"): b"3", ("kept", b"k"): b"3"}, ())
        assert contents(rows)[0] == (before if number == 1 else after) | {("outbox", b"o"): b"3", ("kept", b"k"): b"3"}
        rows.close()
    assert ends == {1, 2}
    backend.close()


def test_taking_back_a_write_may_be_broken_off_anywhere(path: Path, interrupts: Any) -> None:
    backend = SQLiteBackend(path, synchronous="NORMAL")
    agent(backend, "other").close()
    connection = backend._connection

    def make() -> SQLiteRows:
        backend._connection = connection
        rows = agent(backend, os.urandom(8).hex())
        rows.write(1, {ROW: b"1"}, ())
        backend._connection = Failing(backend, "INSERT", before=failing(sqlite3.SQLITE_FULL))
        return rows

    def write(rows: SQLiteRows) -> None:
        with contextlib.suppress(StoreFailed):
            rows.write(2, {ROW: b"2", ("outbox", b"o"): b"2"}, ())

    for rows in interrupts.each(make, write, rooms=("store",)):
        assert rows.commit_number == 1
        assert contents(rows)[0] == {ROW: b"1"}
        rows.write(2, {ROW: b"3"}, ())
        rows.close()
    backend._connection = connection
    backend.close()


def test_the_first_write_and_making_an_agent_may_be_broken_off_anywhere(tmp_path: Path, interrupts: Any) -> None:
    made: list[SQLiteBackend] = []

    def make() -> SQLiteBackend:
        made.append(SQLiteBackend(tmp_path / f"{len(made)}.mesh", synchronous="NORMAL"))
        return made[-1]

    def call(backend: SQLiteBackend) -> None:
        agent(backend).write(1, {ROW: b"1"}, ())

    step = 1 if int(os.environ.get("AGENTMESH_DEPTH") or "1") > 1 else 23  # of the byte codes, by default
    first = int.from_bytes(os.urandom(1), "big") % step
    sampled = range(first, 10**6, step).__contains__
    for backend in interrupts.each(make, call, rooms=("store",), once=True, places=sampled):
        rows = agent(backend)
        number = rows.commit_number
        assert contents(rows)[0] == ({ROW: b"1"} if number else {})
        rows.write(number + 1, {ROW: b"2"}, ())
        backend.close()
        assert reopened(backend._path) == (number + 1, {ROW: b"2"})  # type: ignore[arg-type]
    made[-1].close()


# --- what stands in the files ----------------------------------------------------------------------------------------


def test_no_secret_stands_in_any_file(path: Path) -> None:
    key, seed, peer = (os.urandom(32) for _ in range(3))
    secrets = {"key": key, "seed": seed, "peer": peer, "passphrase": b"correct horse battery staple"}
    entropy = SeededEntropy(b"files")
    seen: dict[str, bytes] = {}

    def look() -> None:
        seen.update({f"{len(seen)} {one.name}": one.read_bytes() for one in path.parent.iterdir()})

    with SQLiteBackend(path) as backend:
        for name, store_key in (("raw", key), ("argon", secrets["passphrase"].decode())):
            rows = agent(backend, name)
            sealer = Sealer.new(name, store_key, entropy=entropy)
            for number in range(1, 4):
                changes: dict[Name, bytes | None] = {
                    ("session", peer): seed * 9,
                    ("peer", peer): peer if number < 3 else None,
                }
                put, removed = sealer.seal_rows(changes, number, number)
                rows.write(number, put, removed)
                sealer.written()
                look()
            [wrapped] = [sealed for kind, _, sealed in rows.read() if kind == "key"]
            data_key = unwrap(name, store_key, wrapped)
            secrets[f"{name} data key"] = data_key
            secrets |= {
                f"{name} {use}": _crypto.kdf(data_key, STORE_KEY, use, 32) for use in (b"rows", b"names", b"set")
            }
    look()
    everything = b"\x00".join(seen.values())
    for name, secret in secrets.items():
        for shown in (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), repr(secret).encode()):
            assert shown not in everything, name
        assert secret[:12] not in everything, name


def test_what_was_removed_does_not_stay_in_the_file(path: Path) -> None:
    rows_of = {("kept", b"%d" % n): os.urandom(300 + 200 * n) for n in range(8)}
    changed = os.urandom(700)
    with SQLiteBackend(path) as backend:
        rows = agent(backend)
        rows.write(1, {**rows_of, ROW: changed}, ())
        rows.write(2, {ROW: b"short"}, list(rows_of))
    left = path.read_bytes()
    for data in (*rows_of.values(), changed):
        for at in range(0, len(data) - 16, 16):
            assert data[at : at + 16] not in left


def test_a_commit_writes_less_than_three_times_what_it_seals(path: Path) -> None:
    with SQLiteBackend(path) as backend:
        rows = agent(backend)
        rows.write(1, {("session", n.to_bytes(16, "big")): os.urandom(700) for n in range(100)}, ())
        backend.run(lambda connection: connection.execute("PRAGMA wal_autocheckpoint=0"))
        log = path.with_name("a.mesh-wal")
        before, commits = log.stat().st_size, 100
        for n in range(commits):
            session = ("session", (n * 7 % 100).to_bytes(16, "big"))
            put = {session: os.urandom(700), ("outbox", os.urandom(16)): os.urandom(600), HEAD_NAME: os.urandom(150)}
            rows.write(n + 2, put, ())
        assert (log.stat().st_size - before) / commits < 3 * (700 + 600)


@pytest.mark.parametrize("where", ["the connection", "the lock"])
def test_a_close_that_is_broken_off_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    backend = SQLiteBackend(tmp_path / "agents")

    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "the lock":
            patch.setattr(files, "unlock", break_off)
        else:
            patch.setattr(type(backend._lock_file), "close", break_off)
        with pytest.raises(KeyboardInterrupt):
            backend.close()
    backend.close()
    SQLiteBackend(tmp_path / "agents").close()
