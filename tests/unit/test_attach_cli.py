"""`python -m agentmesh attach`: what it writes, prints and refuses, its exit status; a reference is shown to nobody."""

from __future__ import annotations

import io
import os
import re
import stat
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentmesh.attachments import Attachment, parse_reference
from agentmesh.cli import attach, streams
from agentmesh.cli.main import main
from agentmesh.cli.text import Exit

CHUNK = 1 << 16
NAME = "q3\x1b[2J.parquet"
Run = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def call(*arguments: object) -> tuple[int, bytes, str]:
        capfdbinary.readouterr()
        try:
            status = main(["attach", *map(str, arguments)])
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        out, err = capfdbinary.readouterr()
        assert re.fullmatch(rb"[ -~\n]*", err), "something that is not printable ASCII"
        return status, out, err.decode()

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a file of two chunks and a bit."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).write_bytes(Random(1).randbytes(2 * CHUNK + 5))
    return tmp_path


@pytest.fixture
def sealed(folder: Path, run: Run) -> Attachment:
    """What `blob` and `reference` in the folder are of."""
    status, _, err = run("seal", NAME, "blob", "reference", "--chunk-exponent", 16)
    assert (status, err) == (0, "")
    return reference(folder)


def reference(folder: Path) -> Attachment:
    found = parse_reference((folder / "reference").read_bytes())
    assert isinstance(found, Attachment)
    return found


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# --- seal ------------------------------------------------------------------------------------------------------------


def test_a_file_is_sealed_and_opened(folder: Path, run: Run) -> None:
    status, out, err = run("seal", NAME, "blob", "reference", "--threads", 2, "--media-type", "application/x-parquet")
    assert (status, err) == (0, "")
    made = reference(folder)
    assert (made.name, made.media_type, made.where) == (NAME, "application/x-parquet", "")
    assert made.receipt.hex().encode() in out
    if os.name == "posix":
        assert stat.S_IMODE((folder / "reference").stat().st_mode) == 0o600
    status, out, err = run("open", "reference", "blob", "copy", "--threads", 2)
    assert (status, out, err) == (0, b"copy: 131,077 bytes, all verified\n", "")
    assert (folder / "copy").read_bytes() == (folder / NAME).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == sorted(("blob", "copy", NAME, "reference"))


def test_the_reference_goes_to_standard_output_only_where_asked_for(folder: Path, run: Run) -> None:
    status, out, err = run("seal", NAME, "blob", "-", "--name", "", "--where", "x")
    assert (status, err) == (0, "")
    found = parse_reference(out)
    assert isinstance(found, Attachment)
    assert (found.name, found.where) == ("", "x")
    assert sorted(path.name for path in folder.iterdir()) == sorted(("blob", NAME))


def test_no_terminal_is_shown_a_reference(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    status, out, err = run("seal", NAME, "blob", "-")
    assert (status, out) == (Exit.USAGE, b"")
    assert "binary, and secret" in err
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_nothing_is_replaced(folder: Path, sealed: Attachment, run: Run) -> None:
    (folder / "there").write_bytes(b"precious")
    for arguments in (
        ("seal", NAME, "there", "new"),
        ("seal", NAME, "new", "there"),
        ("open", "reference", "blob", "there"),
    ):
        status, out, err = run(*arguments)
        assert (status, out) == (Exit.USAGE, b"")
        assert "there is there already; nothing is replaced" in err
    assert (folder / "there").read_bytes() == b"precious"
    assert not (folder / "new").exists()


def test_a_sealing_that_was_broken_off_goes_on(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_done: int, _size: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(attach, "_progress", lambda _doing: nullcontext(interrupt))
        assert run("seal", NAME, "blob", "reference", "--chunk-exponent", 16) == (130, b"", "agentmesh: interrupted\n")
    kept = (folder / "blob.agentmesh-part").read_bytes()
    assert run("seal", NAME, "blob", "reference", "--chunk-exponent", 16, "--resume")[0] == 0
    assert (folder / "blob").read_bytes()[: CHUNK + 72] == kept[: CHUNK + 72]
    with monkeypatch.context() as patched:
        patched.setattr(attach, "_progress", lambda _doing: nullcontext(interrupt))
        assert run("open", "reference", "blob", "copy")[0] == 130
    assert run("open", "reference", "blob", "copy")[0] == 0
    assert (folder / "copy").read_bytes() == (folder / NAME).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("seal", "missing", "new", "other"), Exit.UNREADABLE, "cannot read or write missing, new: No such file"),
        (("seal", ".", "new", "other"), Exit.UNREADABLE, "cannot read or write ., new: "),
        (("seal", NAME, "no/folder", "other"), Exit.UNREADABLE, "cannot read or write "),
        (("seal", NAME, "new", "no/folder"), Exit.UNREADABLE, "cannot read or write no/folder"),
        (("seal", NAME, "new", "other", "--name", "x" * 256), Exit.USAGE, "call.argument"),
        (("seal", NAME, "new", "other", "--chunk-exponent", "15"), Exit.USAGE, "invalid choice"),
        (("seal", NAME, "new", "other", "--threads", "0"), Exit.USAGE, "invalid choice"),
        (("seal", NAME, "new"), Exit.USAGE, "REFERENCE"),
        (("open", "missing", "blob", "new"), Exit.UNREADABLE, "cannot read missing: No such file"),
        (("open", "reference", "missing", "new"), Exit.UNREADABLE, "cannot read or write missing, new"),
        (("open", "blob", "reference", "new"), Exit.MALFORMED, "blob: no reference"),
        (("open", "reference", NAME, "new"), Exit.TAMPERED, "attachment.index"),
        (("open", "-", "-", "new"), Exit.USAGE, "only one of the two"),
        (("info", "missing"), Exit.UNREADABLE, "cannot read missing: No such file"),
        (("info", "re\0ference"), Exit.UNREADABLE, "not a file name"),
        (("info", "kind"), Exit.MALFORMED, "a reference of kind 2, which this release does not know"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    arguments: tuple[str, ...], status: Exit, said: str, folder: Path, sealed: Attachment, run: Run
) -> None:
    (folder / "kind").write_bytes(b"\x92\x02\xc0")
    found, out, err = run(*arguments)
    assert (found, out) == (status, b"")
    assert said in err
    assert err.startswith(("agentmesh: ", "usage: "))


def test_a_blob_that_was_altered_is_named_by_its_chunk(folder: Path, sealed: Attachment, run: Run) -> None:
    blob = bytearray((folder / "blob").read_bytes())
    blob[CHUNK + 500] ^= 1
    (folder / "blob").write_bytes(blob)
    status, out, err = run("open", "reference", "blob", "copy")
    assert (status, out) == (Exit.TAMPERED, b"")
    assert "chunk 1 [attachment.chunk]" in err
    assert not (folder / "copy").exists()


def test_a_file_that_changes_while_it_is_sealed_is_told(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grow(_done: int, _size: int) -> None:
        os.truncate(NAME, 9 * CHUNK)

    monkeypatch.setattr(attach, "_progress", lambda _doing: nullcontext(grow))
    status, out, err = run("seal", NAME, "blob", "reference")
    assert (status, out) == (Exit.FAILED, b"")
    assert "attachment.changed" in err


# --- open ------------------------------------------------------------------------------------------------------------


def test_either_comes_from_standard_input(
    folder: Path, sealed: Attachment, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    standard_input(monkeypatch, (folder / "reference").read_bytes())
    assert run("open", "-", "blob", "one")[0] == 0
    standard_input(monkeypatch, (folder / "blob").read_bytes())
    assert run("open", "reference", "-", "two", "--anew")[0] == 0
    standard_input(monkeypatch, (folder / "blob").read_bytes()[:-1])
    status, _, err = run("open", "reference", "-", "three")
    assert status == Exit.TAMPERED
    assert "standard input, three: " in err
    data = (folder / NAME).read_bytes()
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes() == data


# --- info ------------------------------------------------------------------------------------------------------------


def test_info_shows_sizes_and_nothing_that_is_secret(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("seal", NAME, "blob", "reference", "--chunk-exponent", 16, "--where", "https://a.example/?sig=1")
    made = reference(folder)
    status, out, err = run("info", "reference")
    assert (status, err) == (0, "")
    assert out.decode() == (
        "size      131,077 bytes\n"
        f"blob      {made.blob_bytes:,} bytes: 3 chunks of 65,536 bytes\n"
        f"blob id   {made.blob_id.hex()}\n"
        f"receipt   {made.receipt.hex()}\n"
    )
    standard_input(monkeypatch, made.encode())
    assert run("info", "-") == (0, out, "")
    status, more, _ = run("info", "reference", "--texts")
    assert more.startswith(out)
    assert b"q3\\x1b[2J.parquet" in more
    assert b"where     https://a.example/?sig=1\n" in more
    assert made.key.reveal().hex().encode() not in more


# --- the bar ---------------------------------------------------------------------------------------------------------


def bars(monkeypatch: pytest.MonkeyPatch, *, watched: bool, size: int) -> list[str]:
    shown: list[str] = []
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    monkeypatch.setattr(attach, "overwrite", shown.append)
    with attach._progress("sealing") as show:
        for done in range(0, size + 1, size // 8):
            show(done, size)
            show(done + 1, size)  # no percent more
    return shown


def test_a_bar_is_shown_where_somebody_watches_and_it_takes_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    *shown, last = bars(monkeypatch, watched=True, size=16 << 20)
    assert last == ""  # it is wiped
    assert len(shown) == 9
    assert shown[4] == f"sealing  50 %  [{'#' * 15:<30}]  8,388,608 of 16,777,216 bytes"
    assert shown[8] == f"sealing 100 %  [{'#' * 30}]  16,777,216 of 16,777,216 bytes"
    assert all(len(line) < streams.MAX_WIDTH for line in shown)
    assert bars(monkeypatch, watched=False, size=16 << 20) == []
    assert bars(monkeypatch, watched=True, size=1 << 20) == []


def test_a_bar_is_wiped_where_it_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(attach, "overwrite", shown.append)

    def broken_off() -> None:
        with attach._progress("opening") as show:
            show(1, 16 << 20)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert shown[-1] == ""
