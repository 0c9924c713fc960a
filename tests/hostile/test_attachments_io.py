"""Files of attachments against whoever moves, replaces or names them badly, and against a kill at every write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentmesh.attachments import Attachment
from agentmesh.cli.main import main
from agentmesh.cli.text import Exit
from agentmesh.errors import ArgumentInvalid, FetchFailed, StoreFailed, StoreMoved
from agentmesh.store import open_file, save_file, seal_file
from agentmesh.store.growing_file import KEY_SUFFIX, SUFFIX

EXPONENT = 16
CHUNK = 1 << EXPONENT
DATA = Random(15).randbytes(2 * CHUNK + 77)
needs_posix = pytest.mark.skipif(os.name != "posix", reason="the rights and the links of POSIX are needed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file, in which the test stands."""
    (tmp_path / "source").write_bytes(DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seal(source: Any, blob: Any, **more: Any) -> Attachment:
    return seal_file(source, blob, chunk_exponent=EXPONENT, **more)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- the source is one of the files that the call makes --------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o644])
@pytest.mark.parametrize("suffix", [SUFFIX, KEY_SUFFIX])
@pytest.mark.parametrize("resume", [False, True])
def test_a_source_is_not_what_the_blob_grows_in(mode: int, suffix: str, resume: bool, folder: Path) -> None:
    mine = folder / f"blob{suffix}"
    mine.write_bytes(DATA)
    mine.chmod(mode)
    with pytest.raises(ArgumentInvalid) as refused:
        seal(mine, "blob", resume=resume)
    assert refused.value.argument == "path"
    assert mine.read_bytes() == DATA
    assert names(folder) == sorted([mine.name, "source"])


@needs_posix
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_nor_under_another_name(link: Callable[[Any, Any], None], folder: Path) -> None:
    mine = folder / f"blob{SUFFIX}"
    mine.write_bytes(DATA)
    link(mine, folder / "mine")
    with pytest.raises(ArgumentInvalid):
        seal("mine", "blob")
    assert mine.read_bytes() == DATA


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_blob_is_not_what_the_copy_grows_in(mode: int, folder: Path) -> None:
    attachment = seal("source", f"copy{SUFFIX}")
    blob = (folder / f"copy{SUFFIX}").read_bytes()
    (folder / f"copy{SUFFIX}").chmod(mode)
    for resume in (True, False):
        with pytest.raises(ArgumentInvalid) as refused:
            save_file(attachment, f"copy{SUFFIX}", "copy", resume=resume)
        assert refused.value.argument == "source"
        assert (folder / f"copy{SUFFIX}").read_bytes() == blob
    assert names(folder) == [f"copy{SUFFIX}", "source"]


def test_a_path_that_is_empty_is_refused_before_anything_is_made(folder: Path) -> None:
    attachment = seal("source", "blob")
    for call in (
        lambda: seal("source", ""),
        lambda: save_file(attachment, "blob", ""),
        lambda: seal("", "other"),
    ):
        with pytest.raises(StoreFailed):
            call()
    assert names(folder) == ["blob", "source"]


# --- somebody puts another file where it grows -----------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_was_put_in_its_place_does_not_get_the_name(
    links: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def none(*_: Any) -> None:
            raise PermissionError(1, "no hard links here")

        monkeypatch.setattr(os, "link", none)
    attachment = seal_file("source", "blob", chunk_exponent=EXPONENT)

    def replacing(name: str) -> Callable[[int, int], None]:
        def progress(done: int, size: int) -> None:
            if done == size:
                os.unlink(name)
                Path(name).write_bytes(b"somebody else's")

        return progress

    with pytest.raises(StoreMoved):
        save_file(attachment, "blob", "copy", progress=replacing(f"copy{SUFFIX}"))
    with pytest.raises(StoreMoved):
        seal("source", "other", progress=replacing(f"other{SUFFIX}"))
    assert not {"copy", "other"} & set(names(folder))
    for name in (f"copy{SUFFIX}", f"other{SUFFIX}"):
        assert (folder / name).read_bytes() == b"somebody else's"


@needs_posix
def test_one_that_was_put_there_at_the_last_moment_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(beside: str, path: str) -> None:
        os.unlink(beside)
        Path(beside).write_bytes(b"somebody else's")
        link(beside, path)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(StoreMoved):
        seal("source", "blob")


def test_a_file_that_was_removed_while_it_grew_is_told(folder: Path) -> None:
    def removing(done: int, size: int) -> None:
        if done == size:
            os.unlink(f"blob{SUFFIX}")

    with pytest.raises(StoreMoved):
        seal("source", "blob", progress=removing)
    assert "blob" not in names(folder)


# --- killed at every write -------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The process is no more: nothing that it would do afterwards is done."""


class Dying:
    """The calls that change files, of which one is the last: of a write, the half of it."""

    NAMES = ("pwrite", "link", "unlink", "rename", "ftruncate", "fsync")

    def __init__(self, patched: pytest.MonkeyPatch, last: int) -> None:
        self._left = last
        self.is_dead = False
        for name in self.NAMES:
            patched.setattr(os, name, self._dying(name, getattr(os, name)))

    def _dying(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self._left -= not self.is_dead
            if self._left >= 0 and not self.is_dead:
                return call(*arguments, **named)
            if not self.is_dead and name == "pwrite":
                descriptor, data, at = arguments
                call(descriptor, data[: len(data) // 2], at)
            self.is_dead = True
            raise KilledError

        return called


def killed_at_each(call: Callable[[], object], clean: Callable[[], None]) -> Iterator[int]:
    """Yield with the call killed at its first change of a file, at its second, and so on, until it lives to its end."""
    for last in range(1000):
        clean()
        with pytest.MonkeyPatch.context() as patched:
            dying = Dying(patched, last)
            with suppress(KilledError):
                call()
        if not dying.is_dead:
            assert last > 5
            return
        yield last


@needs_posix
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("begun", [False, True])
def test_a_sealing_that_is_killed_anywhere_goes_on_to_a_blob_that_opens(
    threads: int, begun: bool, folder: Path
) -> None:
    def clean() -> None:
        for name in names(folder):
            if name.startswith("blob"):
                os.unlink(name)
        if begun:  # what a call before left: another key, and chunks of it
            (folder / f"blob{SUFFIX}").write_bytes(bytes(CHUNK + 72) * 4)
            (folder / f"blob{SUFFIX}").chmod(0o600)

    for _ in killed_at_each(lambda: seal("source", "blob", threads=threads, resume=True), clean):
        if (folder / "blob").exists():  # it has its name, and is whole: whoever wants it anew removes it
            os.rename("blob", "whole")
        attachment = seal("source", "blob", threads=threads, resume=True)
        with open_file(attachment, "blob") as file:
            assert file.read() == DATA
        if (folder / "whole").exists():
            assert (folder / "whole").stat().st_size == attachment.blob_bytes
            os.unlink("whole")
        assert names(folder) == ["blob", "source"]


@needs_posix
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("resume", [True, False])
def test_a_saving_that_is_killed_anywhere_goes_on_to_a_file_that_is_whole(
    threads: int, resume: bool, folder: Path
) -> None:
    attachment = seal("source", "blob")

    def clean() -> None:
        for name in names(folder):
            if name.startswith("copy"):
                os.unlink(name)

    def save() -> None:
        save_file(attachment, "blob", "copy", threads=threads, resume=resume)

    for _ in killed_at_each(save, clean):
        if (folder / "copy").exists():
            assert (folder / "copy").read_bytes() == DATA
            os.rename("copy", "whole")
        save()
        assert (folder / "copy").read_bytes() == DATA
        (folder / "whole").unlink(missing_ok=True)
        assert names(folder) == ["blob", "copy", "source"]


# --- what a source gives ---------------------------------------------------------------------------------------------


def released() -> memoryview:
    view = memoryview(b"data")
    view.release()
    return view


class Broken:
    """Raises wherever it is looked at."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError(name)

    def __iter__(self) -> Any:
        raise ConnectionError


class NotReady:
    """A pipe that does not block, with nothing in it: neither bytes nor an end."""

    def read(self, _size: int) -> Any:
        return None


@pytest.mark.parametrize("source", [lambda _offset, _size: released(), iter([released()]), NotReady(), iter([None])])
def test_what_is_no_bytes_is_told_as_what_it_is(source: Any, folder: Path) -> None:
    attachment = seal("source", "blob")
    with pytest.raises(ArgumentInvalid) as refused:
        open_file(attachment, source)
    assert refused.value.argument == "source"


def test_pieces_may_be_any_view_of_bytes(folder: Path) -> None:
    attachment = seal("source", "blob")
    blob = (folder / "blob").read_bytes()
    every_second = memoryview(bytes(byte for byte in blob for _ in range(2)))[::2]
    with open_file(attachment, iter([every_second])) as file:
        assert file.read() == DATA


def test_a_source_that_cannot_be_looked_at_has_failed(folder: Path) -> None:
    attachment = seal("source", "blob")
    with pytest.raises(FetchFailed) as failed:
        open_file(attachment, Broken())
    assert isinstance(failed.value.__cause__, ConnectionError)


# --- a blob without its reference is lost ----------------------------------------------------------------------------


def run(*arguments: str) -> int:
    try:
        return main(["attach", *arguments])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1


@pytest.mark.parametrize("to", ["no/folder", ".", "blob", f"blob{SUFFIX}", f"blob{KEY_SUFFIX}", "source"])
def test_nothing_is_sealed_whose_reference_cannot_be_written(
    to: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ((), ("--resume",)):
        assert run("seal", "source", "blob", to, *more) != 0
        assert names(folder) == ["source"]
        assert (folder / "source").read_bytes() == DATA
        assert capsys.readouterr().err.count("\n") == 1


def test_a_run_that_goes_on_takes_the_empty_reference_of_the_one_that_was_killed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "reference").touch(0o600)
    assert run("seal", "source", "blob", "reference") == Exit.USAGE
    assert (folder / "reference").exists()
    assert run("seal", "source", "blob", "reference", "--resume") == 0
    assert run("open", "reference", "blob", "copy") == 0
    assert (folder / "copy").read_bytes() == DATA


@needs_posix
def test_no_reference_goes_where_others_may_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "reference").touch()
    (folder / "reference").chmod(0o644)
    assert run("seal", "source", "blob", "reference", "--resume") == Exit.USAGE
    assert names(folder) == ["reference", "source"]


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("progress", 1), ("progress", "print"), ("resume", "no"), ("resume", None), ("resume", 0), ("threads", True)],
)
def test_an_argument_that_is_none_is_refused_before_anything_is_made(name: str, value: Any, folder: Path) -> None:
    attachment = seal("source", "blob")
    for call in (seal, partial(save_file, attachment)):
        with pytest.raises(ArgumentInvalid) as refused:
            call("blob", "other", **{name: value})
        assert refused.value.argument == name
    assert names(folder) == ["blob", "source"]


@pytest.mark.parametrize("place", ["\ud800", "no\0name", "not/there"])
def test_a_folder_that_is_none_is_told(place: str, folder: Path) -> None:
    attachment = seal("source", "blob")
    with pytest.raises(StoreFailed):
        open_file(attachment, iter([b""]), folder=place)
