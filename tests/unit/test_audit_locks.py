"""Who holds a log: forks, dropped files, two openers, and systems without the locks of this one."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Identity
from agentmesh.audit import AuditEvent, AuditJournal, AuditLog, MemorySink, OnFailure, Record, verified_records
from agentmesh.audit.merkle import EntryHash
from agentmesh.audit.prepared import Prepared
from agentmesh.errors import ForkedChild, StoreLocked
from agentmesh.store import LogFile, read_log_file

OWNER = Identity.from_seed(bytes(31) + b"\x01")
MESH = "example/test"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def record(number: int) -> Record:
    return Record(AuditEvent.MESSAGE_SEALED, at_ms=1 + number, mesh=MESH, sender=OWNER.did, number=number)


def in_child(call: Callable[[], bool]) -> bool:
    """Run `call` in a fork; say whether it returned true within ten seconds."""
    child = os.fork()
    if not child:
        signal.alarm(10)
        try:
            os._exit(0 if call() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


def refuses(call: Callable[[], object]) -> bool:
    try:
        call()
    except ForkedChild:
        return True
    return False


CALLS: dict[str, Callable[[AuditLog], object]] = {
    "len": len,
    "append": lambda log: log.append(record(9)),
    "append nothing": lambda log: log.append([]),
    "prepare": lambda log: log.prepare(record(9)),
    "keep": lambda log: log.keep(Prepared((), (), (), 0, EntryHash(bytes(32)), "")),
    "entries": lambda log: log.entries(),
    "root": lambda log: log.root(),
    "owner": lambda log: log.owner,
    "handover": lambda log: log.handover,
    "verify": lambda log: log.verify(),
    "checkpoint": lambda log: log.checkpoint(OWNER, mesh=MESH, time_ms=1),
    "inclusion_proof": lambda log: log.inclusion_proof(0),
    "consistency_proof": lambda log: log.consistency_proof(0),
    "rotate": lambda log: log.rotate("elsewhere"),
    "journal": lambda log: AuditJournal(log, on_failure=OnFailure.CARRY_ON).commit((), (record(9),)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("locked", [False, True])
def test_a_child_of_a_fork_is_refused_before_any_lock(
    call: Callable[[AuditLog], object], locked: bool, tmp_path: Path
) -> None:
    """`locked`: as if another thread had been inside when the process forked; then the child would hang for ever."""
    with LogFile(tmp_path / "log") as sink:
        log = AuditLog(sink)
        log.append(record(0))
        if locked:
            log._lock.acquire()
        assert in_child(lambda: refuses(lambda: call(log)))
        if locked:
            log._lock.release()
        log.append(record(1))
    assert len(list(read_log_file(tmp_path / "log"))) == 2


@pytest.mark.parametrize("name", ["append", "entries", "entries_from", "mark", "rotate"])
def test_a_file_refuses_a_child_too(name: str, tmp_path: Path) -> None:
    arguments = {"append": ([b"x"],), "entries": (), "entries_from": (0,), "mark": ("", ()), "rotate": ("to", b"x")}
    with LogFile(tmp_path / "log") as sink:
        assert in_child(lambda: refuses(lambda: getattr(sink, name)(*arguments[name])))


def test_a_log_in_memory_refuses_a_child_too() -> None:
    log = AuditLog(MemorySink())
    assert in_child(lambda: refuses(lambda: log.append(record(0))))
    assert log.append(record(0)) == 1


@pytest.mark.parametrize("hooks", [True, False])
def test_a_child_keeps_no_lock_that_its_parent_let_go(
    hooks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hooks: a fork that Python does not hear of, as a library in C can make."""
    from agentmesh.store import log_file

    path = tmp_path / "log"
    sink = LogFile(path)
    if not hooks:
        monkeypatch.setattr(log_file, "_open_here", weakref.WeakSet())
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        sink.close()  # in the child it neither fails nor unlocks
        os._exit(0)
    os.read(ready[0], 1)
    sink.close()
    with LogFile(path) as again:
        os.write(go[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(StoreLocked):
            LogFile(path)
        AuditLog(again).append(record(0))
    for end in (*ready, *go):
        os.close(end)


def test_a_child_that_ends_does_not_unlock_its_parents_log(tmp_path: Path) -> None:
    with LogFile(tmp_path / "log") as sink:
        assert in_child(lambda: sink.close() is None)
        with pytest.raises(StoreLocked):
            LogFile(tmp_path / "log")
        AuditLog(sink).append(record(0))


def test_a_parent_that_is_killed_leaves_no_lock_in_its_child(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = (
        "import os, signal, sys\n"
        "from agentmesh.store import LogFile\n"
        "sink = LogFile(sys.argv[1])\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.write(1, b'%d' % os.getpid())\n"
        "    os.close(1)\n"
        "    signal.alarm(20)\n"
        "    signal.pause()\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.read(1) + parent.stdout.read1(20))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        LogFile(path).close()
    finally:
        os.kill(child, signal.SIGKILL)


# --- dropped ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_dropped_is_told_of_and_let_go(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = LogFile(path, fsync_every=100)
    AuditLog(sink).append(record(0))
    descriptor = sink._descriptor
    held = [sink]
    del sink
    with pytest.warns(ResourceWarning, match="not closed"):
        held.clear()
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with LogFile(path) as again:
        assert len(AuditLog(again)) == 1


def test_a_file_that_was_never_open_is_dropped_in_silence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(Exception, match="store"):
            LogFile(path)
    gc.collect()


# --- who has it -------------------------------------------------------------------------------------------------------


def test_it_is_told_who_has_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogFile(path), pytest.raises(StoreLocked, match="in this process") as caught:
        LogFile(path)
    assert caught.value.by_this_process
    script = (
        "import sys\nfrom agentmesh.store import LogFile\n"
        "with LogFile(sys.argv[1]):\n    print('open', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(StoreLocked, match="by another process") as caught:
        LogFile(path)
    assert not caught.value.by_this_process
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    other.communicate()
    LogFile(path).close()


def test_a_child_is_told_that_its_parent_has_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"

    def told() -> bool:
        try:
            LogFile(path)
        except StoreLocked as error:
            return not error.by_this_process
        return False

    with LogFile(path):
        assert in_child(told)


def test_reading_goes_on_while_the_file_is_closed(tmp_path: Path) -> None:
    sink = LogFile(tmp_path / "log")
    AuditLog(sink).append([record(0), record(1)])
    entries = sink.entries()
    sink.close()
    assert len(list(entries)) == 2


def test_the_lock_is_for_threads_of_one_process_too(tmp_path: Path) -> None:
    opened: list[LogFile] = []

    def open_it() -> None:
        with contextlib.suppress(StoreLocked):
            opened.append(LogFile(tmp_path / "log"))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    opened[0].close()


# --- other systems ----------------------------------------------------------------------------------------------------

# A system like Windows: without `fcntl` and what POSIX alone has; its locks are of regions, refused with EACCES.
WINDOWS = """
import os, random, sys, types
sys.modules["fcntl"] = None
locked = {}
def locking(descriptor, mode, count):
    found = os.fstat(descriptor)
    key = (found.st_dev, found.st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
    if mode == 2:
        if locked.setdefault(key, descriptor) != descriptor:
            raise PermissionError(13, "Permission denied")
    elif locked.pop(key, None) is None:
        raise PermissionError(13, "Permission denied")
if sys.argv[2] == "msvcrt":
    sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, LK_UNLCK=0, locking=locking)
for name in ("pread", "pwrite", "O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "geteuid", "register_at_fork"):
    delattr(os, name)
"""
WORKS = """
from agentmesh.audit import AuditEvent, AuditLog, Record, verify_entries
from agentmesh.errors import StoreLocked, StoreFailed
from agentmesh.store import LogFile, read_log_file
path = sys.argv[1]
for number in range(3):
    with LogFile(path) as file:
        log = AuditLog(file)
        log.append(Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh="example/test", sender="did:x:y", number=number))
        assert len(list(file.entries())) == number + 1
        try:
            LogFile(path)
        except StoreLocked as error:
            assert error.by_this_process
        else:
            raise AssertionError
        log.inclusion_proof(0)
assert verify_entries(read_log_file(path)).size == 3
os.symlink(path, path + ".link")
try:
    LogFile(path + ".link")
except StoreFailed:
    pass
else:
    raise AssertionError
"""
NONE_AT_ALL = """
from agentmesh.errors import StoreFailed
from agentmesh.store import LogFile, read_log_file
try:
    LogFile(sys.argv[1])
except StoreFailed as error:
    assert "no file locks" in str(error.__cause__), error.__cause__
else:
    raise AssertionError
from agentmesh.cli.main import main
assert main(["audit", "verify", sys.argv[3]]) == 0
"""


def run(script: str, *arguments: Any) -> None:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_system_with_other_locks_keeps_logs(tmp_path: Path) -> None:
    run(WINDOWS + WORKS, tmp_path / "log", "msvcrt")
    assert [one.number for one in verified_records(read_log_file(tmp_path / "log"))] == [0, 1, 2]


def test_a_system_without_any_is_refused_where_it_needs_them_and_reads(tmp_path: Path) -> None:
    with LogFile(tmp_path / "whole") as sink:
        AuditLog(sink).append(record(0))
    run(WINDOWS + NONE_AT_ALL, tmp_path / "log", "none", tmp_path / "whole")
