"""The number outside a store: it never goes back, survives what breaks a write off, and is refused where it is none."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmesh.errors import ArgumentInvalid, StoreBroken, StoreFailed
from agentmesh.limits import UINT_MAX
from agentmesh.store import files
from agentmesh.store.counter import FileCounter


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, UINT_MAX), max_size=6))
def test_it_is_the_greatest_that_was_ever_kept(tmp_path: Path, numbers: list[int]) -> None:
    path = tmp_path / "counter"
    path.unlink(missing_ok=True)
    assert FileCounter(path).read() == 0
    for at, number in enumerate(numbers):
        FileCounter(path).advance(number)
        assert FileCounter(path).read() == max(numbers[: at + 1])


def test_its_file_is_nobody_else_s(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        FileCounter(tmp_path / "counter").advance(1)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "counter").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text", [b"", b"1", b"-1\n", b"0x1\n", b"1 \n", b"1\n2\n", b"\xff\n", b"9" * 40, b"1" * 20 + b"\n"]
)
def test_what_is_no_number_is_refused_and_stays(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "counter"
    path.write_bytes(text)
    for call in (FileCounter(path).read, lambda: FileCounter(path).advance(7)):
        with pytest.raises(StoreBroken) as caught:
            call()
        assert caught.value.what == "counter"
    assert path.read_bytes() == text


def test_a_link_or_a_folder_is_no_counter(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"5\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    for name in ("link", "dangling", "folder"):
        with pytest.raises(StoreFailed):
            FileCounter(tmp_path / name).read()


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_a_write_that_fails_leaves_the_old_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    counter = FileCounter(tmp_path / "counter")
    counter.advance(1)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StoreFailed):
            counter.advance(2)
    assert counter.read() == 1
    counter.advance(2)  # what was left beside it is no obstacle
    assert counter.read() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counter"]


@pytest.mark.parametrize("bad", [-1, UINT_MAX + 1, 1.0, True, None, "1"])
def test_what_is_no_count_is_refused(tmp_path: Path, bad: object) -> None:
    with pytest.raises(ArgumentInvalid):
        FileCounter(tmp_path / "counter").advance(bad)  # type: ignore[arg-type]


def test_a_number_whose_folder_was_not_forced_is_forced_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = FileCounter(tmp_path / "counter")
    forced: list[str] = []

    def fail(_: str) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(files, "force_folder", fail)
    with pytest.raises(StoreFailed):
        counter.advance(1)
    monkeypatch.setattr(files, "force_folder", forced.append)
    counter.advance(1)
    counter.advance(1)
    assert len(forced) == 1
