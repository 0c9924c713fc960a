"""The log in a file: torn tails, refused writes, kills, locks. What was acknowledged stays; half a write never does."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmesh import Identity
from agentmesh.audit import AuditEvent, AuditLog, Record, verified_records, verify_entries
from agentmesh.audit.record import ENTRY_MAX_BYTES
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    ForkedChild,
    LogBroken,
    StoreError,
    StoreFailed,
    StoreLocked,
)
from agentmesh.store import LogFile, files, frames, log_file, read_log_file

MAGIC = b"agentmesh-log-1\n"


@pytest.fixture(autouse=True)
def _private_files() -> Iterator[None]:
    """Make the files that a test writes itself private, as the library makes its own: it warns of others."""
    before = os.umask(0o077)
    yield
    os.umask(before)


OWNER = Identity.from_seed(bytes(31) + b"\x01")


def record(number: int) -> Record:
    return Record(AuditEvent.MESSAGE_SEALED, at_ms=1 + number, mesh="example/test", sender=OWNER.did, number=number)


def write_log(path: Path, count: int) -> bytes:
    with LogFile(path, fsync_every=None) as sink:
        log = AuditLog(sink)
        for number in range(count):
            log.append([record(number)])
    return path.read_bytes()


def numbers_in(path: Path) -> list[int]:
    return [one.number for one in verified_records(read_log_file(path))]


def numbers_and_fault(path: Path) -> tuple[list[int], tuple[int, str] | None]:
    numbers: list[int] = []
    try:
        for one in verified_records(read_log_file(path)):
            numbers.append(one.number)
    except LogBroken as error:
        return numbers, (error.sequence, error.fault)
    return numbers, None


def frames_of(data: bytes) -> list[int]:
    """Return where each whole frame of a file ends, the magic counted as the first."""
    ends, at = [len(MAGIC)], len(MAGIC)
    while len(data) - at >= 4 and at + 4 + int.from_bytes(data[at : at + 4], "big") <= len(data):
        at += 4 + int.from_bytes(data[at : at + 4], "big")
        ends.append(at)
    return ends


# --- the format -------------------------------------------------------------------------------------------------------


def test_a_log_is_kept_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogFile(path) as sink:
        assert (list(sink.entries()), sink.torn_bytes) == ([], 0)
        log = AuditLog(sink)
        log.append([record(0)])
        log.append([record(1), record(2)])
        entries = list(sink.entries())
    assert path.read_bytes() == MAGIC + b"".join(len(entry).to_bytes(4, "big") + entry for entry in entries)
    assert list(read_log_file(path)) == entries
    with LogFile(path) as sink:
        again = AuditLog(sink)
        assert (len(again), again.root(), sink.torn_bytes) == (3, log.root(), 0)
        again.append([record(3)])
    assert numbers_in(path) == [0, 1, 2, 3]


def test_entries_end_where_the_log_stood_when_they_were_asked_for(tmp_path: Path) -> None:
    with LogFile(tmp_path / "log") as sink:
        log = AuditLog(sink)
        log.append([record(0)])
        entries = sink.entries()
        log.append([record(1)])
        assert len(list(entries)) == 1
        assert len(list(sink.entries())) == 2


def test_a_long_log_is_read_across_the_pieces_it_is_read_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_log(tmp_path / "log", 40)
    entries = list(read_log_file(tmp_path / "log"))
    for piece in (1, 3, 7, 64, 241, len(whole)):
        monkeypatch.setattr(files, "READ_BYTES", piece)
        assert list(read_log_file(tmp_path / "log")) == entries


@pytest.mark.parametrize("entries", [[b""], [bytes(ENTRY_MAX_BYTES + 1)], [b"x", b""], ["x"], [bytearray(b"x")]])
def test_what_is_no_entry_is_not_written(entries: list[Any], tmp_path: Path) -> None:
    with LogFile(tmp_path / "log") as sink, pytest.raises(ArgumentInvalid):
        sink.append(entries)
    assert (tmp_path / "log").read_bytes() == MAGIC


# --- torn tails -------------------------------------------------------------------------------------------------------


def test_a_log_torn_at_any_byte_opens_and_says_so(tmp_path: Path) -> None:
    whole = write_log(tmp_path / "whole", 3)
    path = tmp_path / "log"
    for cut in range(len(whole) + 1):
        torn = whole[:cut]
        path.write_bytes(torn)
        ends = frames_of(torn)
        kept = 0 if cut < len(MAGIC) else len(ends) - 1
        if cut >= len(MAGIC):
            numbers, fault = numbers_and_fault(path)
            assert numbers == [*range(kept)]
            assert fault == (None if cut == ends[-1] else (kept, "torn"))
        with LogFile(path, fsync_every=None) as sink:
            log = AuditLog(sink)
            assert len(log) == kept
            assert sink.torn_bytes == (cut if cut < len(MAGIC) else cut - ends[-1])
            # To open it has destroyed nothing, but for the name of the format, which a new file needs.
            assert path.read_bytes() == (MAGIC if cut < len(MAGIC) else torn)
            log.append([record(100)])
        assert numbers_in(path) == [*range(kept), 100]


@pytest.mark.parametrize("zeros", [1, 3, 4, 5, 4096, 70_000])
@pytest.mark.parametrize("count", [0, 2])
def test_zeros_that_a_power_cut_left_are_a_torn_tail(zeros: int, count: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = write_log(path, count)
    path.write_bytes(whole + bytes(zeros))
    with LogFile(path) as sink:
        assert (len(list(sink.entries())), sink.torn_bytes) == (count, zeros)
        AuditLog(sink).append([record(100)])
    assert numbers_in(path) == [*range(count), 100]


def test_zeros_with_something_behind_them_are_no_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = write_log(path, 2) + bytes(5_000) + b"\x01"
    path.write_bytes(whole)
    with pytest.raises(LogBroken) as caught:
        LogFile(path)
    assert (caught.value.sequence, caught.value.fault) == (2, "entry")
    assert path.read_bytes() == whole


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_log_is_refused_and_never_changed(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.unlink(missing_ok=True)
    whole = write_log(path, 4)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    numbers, fault = numbers_and_fault(path)
    if fault is None:  # a field of the last entry: only a checkpoint knows
        assert len(numbers) == 4
        assert at >= frames_of(whole)[3]
    if fault is None or fault[1] == "torn":
        with LogFile(path) as sink:
            assert len(AuditLog(sink)) == len(numbers)
            assert (sink.torn_bytes > 0) == (fault is not None)
    else:
        with pytest.raises(LogBroken) as caught, LogFile(path) as sink:
            AuditLog(sink)
        # A file finds frames that are none before the log finds the entry whose length was altered.
        assert fault[0] <= caught.value.sequence
        assert fault[1] == caught.value.fault
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("begun", [0, 1, 9, 15])
@pytest.mark.parametrize("zeros", [0, 1, len(MAGIC), 4096, 70_000])
def test_a_file_that_a_power_cut_left_while_it_was_new_is_new(begun: int, zeros: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    content = MAGIC[:begun] + bytes(zeros)
    path.write_bytes(content)
    with pytest.raises(LogBroken) as caught:
        list(read_log_file(path))
    assert (caught.value.sequence, caught.value.fault) == (0, "entry")
    for _ in range(2):  # opened and left alone, what it opens again is a log
        with LogFile(path) as sink:
            assert list(sink.entries()) == []
        assert path.read_bytes() == MAGIC + content[len(MAGIC) :]
    path.write_bytes(content)
    with LogFile(path) as sink:
        assert sink.torn_bytes == len(content)
        AuditLog(sink).append([record(100)])
    assert numbers_in(path) == [100]


NO_LOGS = [
    b"x",
    b"agentmesh-log-2\n",
    MAGIC[:-1] + b"x",
    MAGIC + b"\xff" * 8,
    bytes(16) + b"x",
    bytes(5_000) + b"\x01",
    b"\x00" + MAGIC,
    MAGIC[:5] + b"\x00" + MAGIC[6:],
    MAGIC[:5] + bytes(70_000) + b"\x01",
]


@pytest.mark.parametrize("content", NO_LOGS)
def test_what_is_no_log_is_refused_and_not_changed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(LogBroken) as caught:
        LogFile(path)
    assert (caught.value.sequence, caught.value.fault) == (0, "entry")
    with pytest.raises(LogBroken):
        list(read_log_file(path))
    assert path.read_bytes() == content


def test_an_emptied_file_is_no_log_to_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_log(path, 2)
    path.write_bytes(b"")
    with pytest.raises(LogBroken):
        list(read_log_file(path))


# --- the operating system refuses -------------------------------------------------------------------------------------

CALLS = ("open", "write", "pread", "fsync", "ftruncate", "fstat")


def replace_os(patch: pytest.MonkeyPatch, fake: object) -> None:
    """Put a false `os` in the place of the one that the room's modules see."""
    for module in (files, frames, log_file):
        patch.setattr(module, "os", fake)


class FaultyOs:
    """The `os` module with one call, or all from one on, failing: refused, or a write cut short and then refused."""

    def __init__(self, fail_at: int, code: int, *, forever: bool = False, short: int | None = None) -> None:
        self.calls: list[str] = []
        self._fail_at = fail_at
        self._code = code
        self._forever = forever
        self._short = short
        self._then_refuse = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            number = len(self.calls) - 1
            if self._then_refuse:
                self._then_refuse = False
                raise OSError(self._code, os.strerror(self._code))
            if number == self._fail_at or (self._forever and number > self._fail_at):
                if name == "write" and self._short is not None and not self._forever:
                    descriptor, data = arguments
                    self._then_refuse = self._short > 0
                    return real(descriptor, data[: self._short]) if self._short else 0
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments)

        return call


def run(path: Path, fsync_every: int | None = 1) -> tuple[list[int], list[AgentMeshError]]:
    """Open a log and append to it; return what was acknowledged, and what was raised."""
    acknowledged: list[int] = []
    raised: list[AgentMeshError] = []
    try:
        sink = LogFile(path, fsync_every=fsync_every)
    except StoreError as error:
        return [], [error]
    try:
        log = AuditLog(sink)
        for number in range(4):
            try:
                log.append([record(10 + 2 * number), record(11 + 2 * number)])
                acknowledged += [10 + 2 * number, 11 + 2 * number]
            except StoreError as error:
                raised.append(error)
                assert len(log) == 2 + len(acknowledged)
    except StoreError as error:
        raised.append(error)
    try:
        sink.close()
    except StoreError as error:
        raised.append(error)
    return acknowledged, raised


def calls_of_an_honest_run(tmp_path: Path, fsync_every: int | None) -> list[str]:
    honest = FaultyOs(-1, 0)
    path = tmp_path / "honest"
    write_log(path, 2)
    with pytest.MonkeyPatch.context() as patch:
        replace_os(patch, honest)
        assert run(path, fsync_every) == ([10, 11, 12, 13, 14, 15, 16, 17], [])
    return honest.calls


FAULTS: list[dict[str, Any]] = [
    {"code": errno.EIO},
    {"code": errno.ENOSPC},
    *({"code": errno.ENOSPC, "short": short} for short in (0, 1, 4, 100, 150)),
]


@pytest.mark.parametrize("fsync_every", [1, 3, None])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_any_call_may_fail_once(fault: dict[str, Any], fsync_every: int | None, tmp_path: Path) -> None:
    calls = calls_of_an_honest_run(tmp_path, fsync_every)
    assert {"open", "write", "pread", "fstat"} <= set(calls)
    for number, name in enumerate(calls):
        if "short" in fault and name != "write":
            continue
        path = tmp_path / f"log{number}"
        write_log(path, 2)
        with pytest.MonkeyPatch.context() as patch:
            replace_os(patch, FaultyOs(number, **fault))
            acknowledged, raised = run(path, fsync_every)
        assert len(raised) == 1, (number, name)
        assert type(raised[0]) is StoreFailed
        # What was acknowledged is there, what was not is not, and the one that failed has left no trace.
        assert numbers_in(path) == [0, 1, *acknowledged], (number, name)
        if name in ("write", "fsync") and number < len(calls) - 1:
            assert len(acknowledged) == 6
        with LogFile(path) as sink:
            assert sink.torn_bytes == 0
            AuditLog(sink).append([record(99)])
        assert numbers_in(path) == [0, 1, *acknowledged, 99]


@pytest.mark.parametrize("fsync_every", [1, 3, None])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_from_any_call_on_all_may_fail(code: int, fsync_every: int | None, tmp_path: Path) -> None:
    calls = calls_of_an_honest_run(tmp_path, fsync_every)
    for number in range(len(calls)):
        path = tmp_path / f"log{number}"
        write_log(path, 2)
        with pytest.MonkeyPatch.context() as patch:
            replace_os(patch, FaultyOs(number, code, forever=True))
            acknowledged, raised = run(path, fsync_every)
        assert raised
        assert {type(error) for error in raised} == {StoreFailed}
        # Nothing acknowledged is lost. What could not be taken back may stand behind it, whole or torn.
        with LogFile(path) as sink:
            found = [one.number for one in verified_records(sink.entries())]
            attempt = 10 + len(acknowledged)
            assert found in ([0, 1, *acknowledged], [0, 1, *acknowledged, attempt, attempt + 1])
            AuditLog(sink).append([record(99)])
        assert numbers_in(path) == [*found, 99]


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("short", [None, 0, 5])
def test_a_file_that_cannot_be_made_can_be_made_again(short: int | None, forever: bool, tmp_path: Path) -> None:
    honest = FaultyOs(-1, 0)
    with pytest.MonkeyPatch.context() as patch:
        replace_os(patch, honest)
        LogFile(tmp_path / "honest").close()
    assert honest.calls == [
        "open", *["fstat"] * 3, "pread", "write", "fsync", "open", "fsync"
    ]  # fmt: skip
    for number in range(len(honest.calls)):
        path = tmp_path / f"log{number}"
        with pytest.MonkeyPatch.context() as patch:
            replace_os(patch, FaultyOs(number, errno.ENOSPC, forever=forever, short=short))
            with pytest.raises(StoreFailed):
                LogFile(path)
        with LogFile(path) as sink:
            AuditLog(sink).append([record(0)])
        assert numbers_in(path) == [0]


def test_a_sink_that_cannot_take_back_takes_no_more_until_it_is_reopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    sink = LogFile(path)
    log = AuditLog(sink)
    log.append([record(0)])
    replace_os(monkeypatch, FaultyOs(0, errno.EIO, forever=True))
    with pytest.raises(StoreFailed):
        log.append([record(1)])
    monkeypatch.undo()
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreFailed):
            log.append([record(2)])
    assert path.read_bytes() == before
    sink.close()
    with LogFile(path) as sink:
        AuditLog(sink).append([record(3)])
    assert numbers_in(path) == [0, 3]


@pytest.mark.parametrize("name", ["write", "fsync"])
@pytest.mark.parametrize("again", [False, True])
def test_an_interrupt_leaves_no_half(name: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a write, and, for `again`, a second one while it is taken back."""
    path = tmp_path / "log"
    sink = LogFile(path)
    log = AuditLog(sink)
    log.append([record(0)])
    left = {name: 1, "ftruncate": int(again)}

    class Interrupting:
        def __getattr__(self, attribute: str) -> Any:
            real = getattr(os, attribute)

            def call(*arguments: Any) -> Any:
                if left.get(attribute, 0):
                    left[attribute] -= 1
                    if attribute == "write":
                        real(arguments[0], arguments[1][:150])
                    raise KeyboardInterrupt
                return real(*arguments)

            return call if attribute in left else real

    replace_os(monkeypatch, Interrupting())
    with pytest.raises(KeyboardInterrupt):
        log.append([record(1), record(2)])
    log.append([record(3)])
    sink.close()
    assert numbers_in(path) == [0, 3]


def test_a_lock_that_cannot_be_had_for_another_reason_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(StoreFailed) as caught:
            LogFile(tmp_path / "log")
    assert isinstance(caught.value.__cause__, OSError)
    LogFile(tmp_path / "log").close()


def test_a_file_that_somebody_cut_under_the_sink_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    sink = LogFile(path, fsync_every=2)
    log = AuditLog(sink)
    log.append([record(0)])
    left = [1]

    class Cutting:
        def __getattr__(self, attribute: str) -> Any:
            real = getattr(os, attribute)

            def fsync(descriptor: int) -> None:
                if left and left.pop():
                    raise OSError(errno.EIO, "")
                real(descriptor)

            def ftruncate(descriptor: int, _size: int) -> None:
                real(descriptor, len(MAGIC))

            return {"fsync": fsync, "ftruncate": ftruncate}.get(attribute, real)

    replace_os(monkeypatch, Cutting())
    for _ in range(2):
        with pytest.raises(StoreFailed):
            log.append([record(1)])
    sink.close()
    assert path.read_bytes() == MAGIC


def test_after_a_failed_sync_what_was_not_synced_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    sink = LogFile(path, fsync_every=3)
    log = AuditLog(sink)
    for number in range(5):
        log.append([record(number)])  # the third is synced, the fourth and fifth are not
    synced, size = frames_of(path.read_bytes())[3], len(path.read_bytes())
    written: list[tuple[int, int]] = []
    failing = [errno.EIO]

    class Watching:
        def __getattr__(self, attribute: str) -> Any:
            real = getattr(os, attribute)

            def write(descriptor: int, data: bytes) -> int:
                written.append((os.lseek(descriptor, 0, os.SEEK_CUR), len(data)))
                return int(real(descriptor, data))

            def fsync(descriptor: int) -> None:
                if failing:
                    raise OSError(failing.pop(), "")
                real(descriptor)

            return {"write": write, "fsync": fsync}.get(attribute, real)

    replace_os(monkeypatch, Watching())
    with pytest.raises(StoreFailed):
        log.append([record(5)])
    assert written[1:] == [(synced, size - synced)]
    log.append([record(6)])
    sink.close()
    assert numbers_in(path) == [0, 1, 2, 3, 4, 6]


def test_reading_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    write_log(path, 3)
    sink = LogFile(path)
    for number in range(4):
        replace_os(monkeypatch, FaultyOs(number, errno.EIO))
        with pytest.raises(StoreFailed) as caught:
            list(read_log_file(path))
        assert isinstance(caught.value.__cause__, OSError)
    replace_os(monkeypatch, FaultyOs(0, errno.EIO))
    with pytest.raises(StoreFailed):
        list(sink.entries())
    monkeypatch.undo()
    sink.close()
    sink.close()
    with pytest.raises(StoreFailed):
        list(sink.entries())
    with pytest.raises(StoreFailed):
        sink.append([b"x"])


# --- how often it is forced to disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("fsync_every", "expected"), [(1, 7), (2, 3), (3, 2), (7, 1), (8, 0), (None, 0)])
def test_the_sync_policy(
    fsync_every: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = LogFile(tmp_path / "log", fsync_every=fsync_every)
    counting = FaultyOs(-1, 0)
    replace_os(monkeypatch, counting)
    for _ in range(7):
        sink.append([b"an entry", b"and another"])
    assert counting.calls.count("fsync") == expected
    assert counting.calls.count("write") == 7
    sink.close()
    assert counting.calls.count("fsync") == expected + (fsync_every is None or 7 % fsync_every > 0)


@pytest.mark.parametrize("fsync_every", [0, -1, True, 1.0, "1"])
def test_a_sync_policy_that_is_none(fsync_every: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentInvalid):
        LogFile(tmp_path / "log", fsync_every=fsync_every)
    assert not (tmp_path / "log").exists()


# --- the file itself --------------------------------------------------------------------------------------------------


def test_nobody_else_reads_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        LogFile(tmp_path / "log").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def _symlink(path: Path) -> None:
    write_log(path.with_name("elsewhere"), 1)
    path.symlink_to(path.with_name("elsewhere"))


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("make", [_symlink, _dangling, os.mkfifo, Path.mkdir], ids=lambda make: make.__name__)
def test_only_a_file_of_its_own_is_opened_for_writing(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "log"
    make(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StoreFailed):
        LogFile(path)
    assert sorted(tmp_path.iterdir()) == before
    if make is not _symlink:  # a reader may follow a link: it changes nothing
        with pytest.raises(StoreFailed):
            list(read_log_file(path))
    else:
        assert numbers_in(path) == [0]


@pytest.mark.parametrize("path", ["no/such/folder/log", "nul\x00", "", "/dev/null"])
def test_a_path_that_cannot_be_opened(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreFailed):
        LogFile(path)
    with pytest.raises(StoreFailed):
        list(read_log_file(path))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogFile(path) as sink:
        AuditLog(sink).append([record(0)])
        with pytest.raises(StoreLocked):
            LogFile(path)
        script = (
            "import sys\n"
            "from agentmesh.errors import StoreLocked\n"
            "from agentmesh.store import LogFile\n"
            "try:\n    LogFile(sys.argv[1])\n"
            "except StoreLocked:\n    sys.exit(7)\n"
        )
        assert subprocess.run([sys.executable, "-c", script, str(path)], env=_environment()).returncode == 7
        assert numbers_in(path) == [0]  # a reader is never in the way
    LogFile(path).close()


def test_a_fork_of_the_writer_does_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    sink = LogFile(path)
    sink.append([b"an entry"])
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        for call in (lambda: sink.append([b"a second"]), sink.entries, lambda: sink.milestones, lambda: sink.handover):
            with pytest.raises(ForkedChild):
                call()
    assert path.read_bytes() == before
    sink.append([b"a third"])
    sink.close()
    assert list(read_log_file(path)) == [b"an entry", b"a third"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


# --- killed -----------------------------------------------------------------------------------------------------------

WRITERS = """
import os, signal, sys, threading
from agentmesh.audit import AuditEvent, AuditLog, Record
from agentmesh.store import LogFile, files

path, first, kill_at, keep = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

class Killing:
    writes = 0
    def __getattr__(self, name):
        return self.write if name == "write" else getattr(os, name)
    def write(self, descriptor, data):
        self.writes += 1
        if self.writes == kill_at:
            os.write(descriptor, data[:keep])
            os.kill(os.getpid(), signal.SIGKILL)
        return os.write(descriptor, data)

files.os = Killing()
log = AuditLog(LogFile(path, fsync_every=None))

def write(writer):
    for number in range(1_000):
        name = first + writer * 1_000 + number
        log.append([Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh="example/test", sender="did:x:y", number=name)])
        os.write(1, b"%d\\n" % name)  # acknowledged

threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_eight_writers_and_kills_at_any_write_leave_one_unbroken_chain(tmp_path: Path) -> None:
    path = tmp_path / "log"
    draw = random.Random(4)
    acknowledged: set[int] = set()
    torn = 0
    # Each process goes on with what the one before left; the last is not killed.
    for turn in range(6):
        kill_at = 0 if turn == 5 else draw.randrange(2, 4_000)
        keep = draw.choice([0, 1, 3, 4, 5, 100, 1_000])
        arguments = [str(path), str(turn * 10_000), str(kill_at), str(keep)]
        ran = subprocess.run([sys.executable, "-c", WRITERS, *arguments], env=_environment(), capture_output=True)
        assert ran.returncode == (-signal.SIGKILL if kill_at else 0), ran.stderr
        told = [int(line) for line in ran.stdout.splitlines()]
        assert len(told) == (8_000 if not kill_at else kill_at - 1) or kill_at - 9 <= len(told) < kill_at
        acknowledged |= set(told)
        with LogFile(path) as sink:
            torn += sink.torn_bytes > 0
            entries = list(sink.entries())
        verify_entries(entries)
        numbers = [one.number for one in verified_records(entries)]
        assert len(numbers) == len(set(numbers))
        assert acknowledged <= set(numbers)
        assert len(numbers) - len(acknowledged) <= 8 * (turn + 1)  # kept, and killed before it could be told
    assert torn > 0
