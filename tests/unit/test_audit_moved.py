"""A log whose file is deleted, renamed or cut under its writer, stands where others write, or only grows."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Identity
from agentmesh.audit import AuditEvent, AuditLog, Record, verified_records
from agentmesh.errors import StoreError, StoreFailed, StoreMoved
from agentmesh.store import LogFile, files, read_log_file

OWNER = Identity.from_seed(bytes(31) + b"\x01")


def record(number: int) -> Record:
    return Record(AuditEvent.MESSAGE_SEALED, at_ms=1 + number, mesh="example/test", sender=OWNER.did, number=number)


def numbers_in(path: Path) -> list[int]:
    return [one.number for one in verified_records(read_log_file(path))]


def _append_all(log: AuditLog, count: int) -> None:
    for number in range(1, count):
        log.append(record(number))


# --- under the writer -------------------------------------------------------------------------------------------------


def _delete(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_name("log.1"))


def _rename_and_create(path: Path) -> None:
    _rename(path)
    path.touch(mode=0o600)


def _copy_and_truncate(path: Path) -> None:
    shutil.copy(path, path.with_name("log.1"))
    os.truncate(path, 0)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _write_behind(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def _replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


HAPPENINGS = [_delete, _rename, _rename_and_create, _copy_and_truncate, _cut, _write_behind, _replace]


@pytest.mark.parametrize("happens", HAPPENINGS, ids=lambda one: one.__name__)
def test_what_goes_where_nobody_will_find_it_is_not_acknowledged(
    happens: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with LogFile(path) as sink:
        log = AuditLog(sink)
        log.append([record(0), record(1)])
        happens(path)
        after = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
        with pytest.raises(StoreMoved):
            log.append(record(2))
        with pytest.raises(StoreError):
            log.append(record(3))
        assert len(log) == 2
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == after


@pytest.mark.parametrize("happens", [_rename, _rename_and_create, _replace], ids=lambda one: one.__name__)
def test_without_a_sync_the_name_is_looked_at_now_and_then(happens: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogFile(path, fsync_every=None) as sink:
        log = AuditLog(sink)
        log.append(record(0))
        happens(path)
        with pytest.raises(StoreMoved):
            _append_all(log, 70)


@pytest.mark.parametrize("happens", [_delete, _copy_and_truncate, _cut], ids=lambda one: one.__name__)
def test_without_a_sync_a_missing_file_is_noticed_at_once(happens: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogFile(path, fsync_every=None) as sink:
        log = AuditLog(sink)
        log.append(record(0))
        happens(path)
        with pytest.raises(StoreMoved):
            log.append(record(1))


def test_a_file_that_is_cut_during_the_write_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    with LogFile(path, fsync_every=None) as sink:
        log = AuditLog(sink)
        log.append(record(0))
        write = files.append

        def cut_then_write(descriptor: int, data: bytes) -> None:
            os.truncate(path, 0)
            write(descriptor, data)

        monkeypatch.setattr(files, "append", cut_then_write)
        with pytest.raises(StoreMoved):
            log.append(record(1))


def test_a_process_that_changes_its_folder_still_knows_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with LogFile("log") as sink:
        log = AuditLog(sink)
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")
        log.append(record(0))
    assert numbers_in(tmp_path / "log") == [0]


# --- where others write -----------------------------------------------------------------------------------------------

ON_STREAM_TWO = """
import os, sys
from agentmesh.audit import AuditEvent, AuditLog, Record
from agentmesh.store import LogFile
os.close(int(sys.argv[2]))
file = LogFile(sys.argv[1])
log = AuditLog(file)
try:
    os.write(int(sys.argv[2]), b"a stray line")
except OSError:
    pass
log.append(Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh="example/test", sender="did:x:y", number=7))
file.close()
"""


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_log_never_stands_on_a_standard_stream(stream: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    ran = subprocess.run([sys.executable, "-c", ON_STREAM_TWO, str(path), str(stream)], stdin=subprocess.DEVNULL)
    assert ran.returncode == 0
    assert numbers_in(path) == [7]


def _full(_descriptor: int, _data: bytes) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class AppendOnly:
    """The `os` of a file with `chattr +a`: opened with O_APPEND alone, never cut."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if (flags & (os.O_RDWR | os.O_WRONLY) and not flags & os.O_APPEND) or flags & os.O_TRUNC:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return os.open(path, flags, mode)

    def ftruncate(self, _descriptor: int, _size: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_log_that_may_only_be_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentmesh.store import log_file

    path = tmp_path / "log"
    LogFile(path).close()
    monkeypatch.setattr(files, "os", AppendOnly())
    monkeypatch.setattr(log_file, "os", AppendOnly())
    for number in range(3):
        with LogFile(path) as sink:
            AuditLog(sink).append(record(number))
    assert numbers_in(path) == [0, 1, 2]
    with LogFile(path) as sink, monkeypatch.context() as patch:
        log = AuditLog(sink)
        patch.setattr(files, "append", _full)
        with pytest.raises(StoreFailed):
            log.append(record(3))
        patch.undo()
        log.append(record(3))  # nothing was written, so nothing had to be cut off
    assert numbers_in(path) == [0, 1, 2, 3]
    with path.open("ab") as file:
        file.write(b"\x00\x00\x00")
    before = path.read_bytes()
    with LogFile(path) as sink:
        log = AuditLog(sink)
        with pytest.raises(StoreFailed):  # the torn end cannot be cut off, and nothing is written behind it
            log.append(record(4))
    assert path.read_bytes() == before


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_whose_folders_cannot_be_forced_takes_a_log(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with LogFile(tmp_path / "log") as sink:
        AuditLog(sink).append(record(0))
    assert numbers_in(tmp_path / "log") == [0]


def test_a_folder_that_fails_fails_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files.os, "fsync", fsync)
    for _ in range(2):
        with pytest.raises(StoreFailed):
            LogFile(tmp_path / "log")


# --- whose file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_log_that_others_may_read_or_write_is_told_of(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    LogFile(path).close()
    path.chmod(mode)
    with pytest.warns(UserWarning, match=f"mode {mode:04o}") as told:
        LogFile(path).close()
    assert told[0].filename == __file__
    path.chmod(0o400 | 0o200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogFile(path).close()


def test_a_log_of_another_user_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    LogFile(path).close()
    owner = path.stat().st_uid
    monkeypatch.setattr(files.os, "geteuid", lambda: owner + 1)
    with pytest.warns(UserWarning, match=f"belongs to user {owner}"):
        LogFile(path).close()
