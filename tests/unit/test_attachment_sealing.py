"""Files sealed and saved: whole or not there, broken off at any chunk and gone on with, by what stands on disk."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import agentmesh
from agentmesh.attachments import Attachment, AttachmentOpener
from agentmesh.errors import (
    ArgumentInvalid,
    ChunkBroken,
    FetchFailed,
    FileChanged,
    IndexBroken,
    RandomnessFailed,
    StoreFailed,
    StoreLocked,
)
from agentmesh.store import open_file, save_file, seal_file
from agentmesh.store.in_order import in_order
from agentmesh.testing import SeededEntropy

EXPONENT = 16
CHUNK = 1 << EXPONENT
NONCE = 24
OVERHEAD = 72
needs_posix = pytest.mark.skipif(os.name != "posix", reason="the rights and the links of POSIX are needed")
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class StoppedError(Exception):
    """What an application raises to stop."""


def stop_at(number: int) -> Callable[[int, int], None]:
    """A progress that stops at its call of that number, from 1."""
    calls = 0

    def progress(done: int, size: int) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise StoppedError

    return progress


def seal(source: Path, blob: Path, **more: Any) -> Attachment:
    return seal_file(source, blob, **{"chunk_exponent": EXPONENT, **more})


def opened(attachment: Attachment, blob: Path) -> bytes:
    with open_file(attachment, blob) as file:
        return file.read()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of four chunks and a bit, in a folder of its own."""
    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / "q3.parquet"
    path.write_bytes(Random(1).randbytes(4 * CHUNK + 77))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where blobs and saved files are to stand."""
    path = tmp_path / "made"
    path.mkdir()
    return path


# --- threads ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(0, 20))
def test_work_comes_in_order_and_no_more_is_begun_than_threads_and_one(threads: int, count: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(count):
            taken += 1
            yield item

    came = 0
    for result in in_order(threads, lambda item: item * item, items()):
        assert result == came * came
        assert taken <= came + 1 + threads
        came += 1
    assert came == count


@pytest.mark.parametrize("threads", [1, 3])
def test_work_that_fails_ends_it_and_nobody_works_on(threads: int) -> None:
    working = threading.active_count()
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise StoppedError
        return item

    results = in_order(threads, work, range(1000))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(StoppedError):
        next(results)
    assert threading.active_count() == working
    assert max(begun) <= 2 + threads


# --- sealing ---------------------------------------------------------------------------------------------------------


@in_one_folder
@given(size=st.one_of(st.integers(0, 200), st.integers(0, 9 * CHUNK)), threads=st.integers(1, 4), to=st.integers(1, 4))
def test_what_is_sealed_is_what_is_saved(size: int, threads: int, to: int, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("made")
    data = Random(size).randbytes(size)
    (folder / "source").write_bytes(data)
    done: list[tuple[int, int]] = []
    attachment = seal(folder / "source", folder / "blob", threads=threads, progress=lambda *both: done.append(both))
    assert attachment.size == size
    assert (folder / "blob").stat().st_size == attachment.blob_bytes
    assert len(done) == attachment.chunks
    assert done == sorted(done)
    assert done[-1] == (size, size)
    assert opened(attachment, folder / "blob") == data
    save_file(attachment, folder / "blob", folder / "copy", threads=to)
    assert (folder / "copy").read_bytes() == data
    assert names(folder) == ["blob", "copy", "source"]


def test_threads_or_not_the_bytes_are_those_of_the_sealer(source: Path, folder: Path) -> None:
    for threads in (1, 3):
        entropy = SeededEntropy(5)
        attachment = seal(source, folder / f"blob{threads}", threads=threads, entropy=entropy)
        opener = AttachmentOpener(attachment)
        blob = (folder / f"blob{threads}").read_bytes()
        opener.take_tail(blob[slice(opener.tail_range[0], None)])
        for number in range(attachment.chunks):
            at, size = opener.range_of(number)
            assert opener.open(number, blob[at : at + size]) == source.read_bytes()[number * CHUNK :][:CHUNK]


def test_a_reference_says_what_it_was_told(source: Path, folder: Path) -> None:
    attachment = seal_file(source, folder / "one")
    assert (attachment.name, attachment.media_type, attachment.where) == ("q3.parquet", "", "")
    assert attachment.chunk_exponent == 18
    attachment = seal(source, folder / "two", name="", media_type="text/plain", where="https://store.example/1")
    assert (attachment.name, attachment.media_type) == ("", "text/plain")
    assert attachment.where == "https://store.example/1"


@needs_posix
def test_a_name_that_is_no_text_is_left_out(folder: Path) -> None:
    path = os.fsencode(folder) + b"/\xff\xfe"
    with open(path, "wb") as file:
        file.write(b"data")
    assert seal_file(os.fsdecode(path), folder / "blob").name == ""


@needs_posix
def test_what_is_made_is_this_users_alone(source: Path, folder: Path) -> None:
    old = os.umask(0)
    try:
        with pytest.raises(StoppedError):
            seal(source, folder / "blob", progress=stop_at(1))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert modes == {"blob.agentmesh-part": 0o600, "blob.agentmesh-key": 0o600}
        attachment = seal(source, folder / "blob")
        with pytest.raises(StoppedError):
            save_file(attachment, folder / "blob", folder / "copy", progress=stop_at(1))
        save_file(attachment, folder / "blob", folder / "copy")
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_nothing_is_replaced(source: Path, folder: Path) -> None:
    (folder / "there").write_bytes(b"precious")
    attachment = seal(source, folder / "blob")
    with pytest.raises(StoreFailed) as caught:
        seal(source, folder / "there")
    assert isinstance(caught.value.__cause__, FileExistsError)
    with pytest.raises(StoreFailed) as caught:
        save_file(attachment, folder / "blob", folder / "there")
    assert isinstance(caught.value.__cause__, FileExistsError)
    with pytest.raises(StoreFailed):  # it comes meanwhile
        save_file(attachment, folder / "blob", folder / "new", progress=lambda *_: (folder / "new").write_bytes(b"1"))
    assert (folder / "new").read_bytes() == b"1"
    assert (folder / "there").read_bytes() == b"precious"


@needs_posix
def test_a_link_that_stands_there_is_not_followed(source: Path, folder: Path) -> None:
    attachment = seal(source, folder / "blob")
    (folder / "victim").write_bytes(b"precious")
    (folder / "victim").chmod(0o600)
    for name in ("copy", "copy.agentmesh-part"):
        (folder / name).symlink_to(folder / "victim")
        with pytest.raises(StoreFailed):
            save_file(attachment, folder / "blob", folder / "copy")
        (folder / name).unlink()
    os.link(folder / "victim", folder / "copy.agentmesh-part")
    save_file(attachment, folder / "blob", folder / "copy")
    assert (folder / "victim").read_bytes() == b"precious"
    assert (folder / "copy").read_bytes() == source.read_bytes()


def test_where_there_are_no_hard_links_it_is_renamed(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", refuse)
    attachment = seal(source, folder / "blob")
    save_file(attachment, folder / "blob", folder / "copy")
    assert names(folder) == ["blob", "copy"]
    assert (folder / "copy").read_bytes() == source.read_bytes()
    with pytest.raises(StoreFailed):
        save_file(attachment, folder / "blob", folder / "new", progress=lambda *_: (folder / "new").write_bytes(b"1"))
    assert (folder / "new").read_bytes() == b"1"


def test_one_call_at_a_time_makes_a_file(source: Path, folder: Path) -> None:
    def seals_too(_done: int, _size: int) -> None:
        seal(source, folder / "blob")

    with pytest.raises(StoreLocked):
        seal(source, folder / "blob", progress=seals_too)
    attachment = seal(source, folder / "blob")

    def saves_too(_done: int, _size: int) -> None:
        save_file(attachment, folder / "blob", folder / "copy")

    with pytest.raises(StoreLocked):
        save_file(attachment, folder / "blob", folder / "copy", progress=saves_too)


@pytest.mark.parametrize("threads", [0, 65, True, 1.0, None])
def test_threads_are_a_small_number(threads: Any, source: Path, folder: Path) -> None:
    with pytest.raises(ArgumentInvalid, match="threads"):
        seal(source, folder / "blob", threads=threads)
    attachment = seal(source, folder / "blob")
    with pytest.raises(ArgumentInvalid, match="threads"):
        save_file(attachment, folder / "blob", folder / "copy", threads=threads)
    assert names(folder) == ["blob"]


@pytest.mark.parametrize(
    ("more", "argument"),
    [({"name": "x" * 256}, "name"), ({"media_type": 7}, "media_type"), ({"where": b""}, "where"),
     ({"chunk_exponent": 15}, "chunk_exponent"), ({"chunk_exponent": 25}, "chunk_exponent")],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_made(
    more: dict[str, Any], argument: str, source: Path, folder: Path
) -> None:
    with pytest.raises(ArgumentInvalid, match=argument):
        seal(source, folder / "blob", **more)
    assert names(folder) == []


def test_what_is_no_file_is_not_sealed(folder: Path) -> None:
    for path in (folder, folder / "missing"):
        with pytest.raises(StoreFailed):
            seal(path, folder / "blob")
    with pytest.raises(ArgumentInvalid, match="path"):
        seal(7, folder / "blob")  # type: ignore[arg-type]
    assert names(folder) == []


def test_entropy_that_is_stuck_seals_nothing(source: Path, folder: Path) -> None:
    class Stuck(SeededEntropy):
        def token(self, size: int, /) -> bytes:
            return bytes(size)

    with pytest.raises(RandomnessFailed):
        seal(source, folder / "blob", entropy=Stuck(1))
    assert names(folder) == []


# --- a file that changes meanwhile -----------------------------------------------------------------------------------


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(1, 1))


CHANGES: dict[str, Callable[[Path], object]] = {
    "overwritten": overwrite,
    "cut": lambda path: os.truncate(path, CHUNK + 1),
    "cut at the end": lambda path: os.truncate(path, 4 * CHUNK + 76),
    "longer": lambda path: os.truncate(path, 9 * CHUNK),
    "emptied": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("at", [1, 5])
def test_a_file_that_changes_while_it_is_sealed_is_told(
    change: Callable[[Path], object], at: int, source: Path, folder: Path
) -> None:
    def progress(done: int, _size: int) -> None:
        if done == min(at * CHUNK, 4 * CHUNK + 77):
            change(source)

    with pytest.raises(FileChanged):
        seal(source, folder / "blob", progress=progress)
    assert "blob" not in names(folder)
    attachment = seal(source, folder / "blob", resume=True)
    assert opened(attachment, folder / "blob") == source.read_bytes()
    assert names(folder) == ["blob"]


# --- broken off, and gone on with ------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("at", range(1, 6))
def test_a_sealing_goes_on_under_its_key_with_the_chunks_that_are_there(
    at: int, threads: int, source: Path, folder: Path
) -> None:
    with pytest.raises(StoppedError):
        seal(source, folder / "blob", progress=stop_at(at), threads=threads)
    assert names(folder) == ["blob.agentmesh-key", "blob.agentmesh-part"]
    kept = (folder / "blob.agentmesh-part").read_bytes()[: at * (CHUNK + OVERHEAD)]
    for again in range(at, 6):  # and is broken off again
        with pytest.raises(StoppedError):
            seal(source, folder / "blob", progress=stop_at(again), threads=threads, resume=True)
    attachment = seal(source, folder / "blob", resume=True, name="later", threads=threads)
    assert (folder / "blob").read_bytes()[: len(kept)] == kept
    assert opened(attachment, folder / "blob") == source.read_bytes()
    assert attachment.name == "later"
    assert names(folder) == ["blob"]


def test_without_being_told_to_go_on_it_begins_anew(source: Path, folder: Path) -> None:
    with pytest.raises(StoppedError):
        seal(source, folder / "blob", progress=stop_at(3))
    before = (folder / "blob.agentmesh-part").read_bytes()
    attachment = seal(source, folder / "blob")
    assert (folder / "blob").read_bytes()[: CHUNK + OVERHEAD] != before[: CHUNK + OVERHEAD]
    assert opened(attachment, folder / "blob") == source.read_bytes()


@in_one_folder
@given(
    damage=st.lists(st.integers(0, 5 * (CHUNK + OVERHEAD) - 1), max_size=3), cut=st.one_of(st.none(), st.integers(0))
)
def test_what_a_crash_left_of_a_blob_is_looked_at(
    damage: list[int], cut: int | None, source: Path, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("made")
    with pytest.raises(StoppedError):
        seal(source, folder / "blob", progress=stop_at(4))
    part = folder / "blob.agentmesh-part"
    for at in damage:
        if at < part.stat().st_size:
            flip(part, at)
    if cut is not None:
        os.truncate(part, cut % part.stat().st_size)
    attachment = seal(source, folder / "blob", resume=True)
    assert opened(attachment, folder / "blob") == source.read_bytes()


def test_a_source_that_changed_in_between_is_sealed_as_it_is_now(source: Path, folder: Path) -> None:
    with pytest.raises(StoppedError):
        seal(source, folder / "blob", progress=stop_at(4))
    before = (folder / "blob.agentmesh-part").read_bytes()
    found = source.stat()
    with source.open("r+b") as file:
        file.seek(2 * CHUNK)
        file.write(b"other")
    os.utime(source, ns=(found.st_atime_ns, found.st_mtime_ns))  # as if nothing were
    attachment = seal(source, folder / "blob", resume=True)
    assert opened(attachment, folder / "blob") == source.read_bytes()
    chunk = CHUNK + OVERHEAD
    after = (folder / "blob").read_bytes()
    same = [before[at * chunk :][:chunk] == after[at * chunk :][:chunk] for at in range(4)]
    assert same == [True, True, False, True]
    # And never under the nonce that served the other data.
    assert before[2 * chunk :][:NONCE] != after[2 * chunk :][:NONCE]


@pytest.mark.parametrize("what", ["size", "exponent", "torn", "empty", "missing", "garbage", "readable", "link"])
def test_a_key_that_is_not_this_calls_is_not_used(what: str, source: Path, folder: Path) -> None:
    if what in ("readable", "link") and os.name != "posix":
        pytest.skip("the rights and the links of POSIX are needed")
    with pytest.raises(StoppedError):
        seal(source, folder / "blob", progress=stop_at(3))
    before = (folder / "blob.agentmesh-part").read_bytes()
    key = folder / "blob.agentmesh-key"
    more = {}
    if what == "size":
        source.write_bytes(source.read_bytes()[:-1])
    elif what == "exponent":
        more = {"chunk_exponent": 17}
    elif what == "torn":
        key.write_bytes(key.read_bytes()[:-1])
    elif what == "empty":
        key.write_bytes(b"")
    elif what == "missing":
        key.unlink()
    elif what == "garbage":
        key.write_bytes(bytes(10_000))
    elif what == "readable":
        key.chmod(0o644)
    else:
        key.rename(folder / "elsewhere")
        key.symlink_to(folder / "elsewhere")
    attachment = seal(source, folder / "blob", resume=True, **more)
    assert opened(attachment, folder / "blob") == source.read_bytes()
    assert (folder / "blob").read_bytes()[:NONCE] != before[:NONCE]
    assert [name for name in names(folder) if name.endswith("key")] == []


def test_what_is_left_of_a_longer_blob_is_let_go_of(source: Path, folder: Path) -> None:
    with pytest.raises(StoppedError):
        seal(source, folder / "blob", progress=stop_at(5))
    source.write_bytes(b"short")
    attachment = seal(source, folder / "blob", resume=True)
    assert (folder / "blob").stat().st_size == attachment.blob_bytes
    assert opened(attachment, folder / "blob") == b"short"


KILLED = """
import os, sys
from agentmesh.attachments import parse_reference
from agentmesh.store import save_file, seal_file

def progress(done, size):
    if done >= int(sys.argv[1]):
        os._exit(9)

if sys.argv[2] == "seal":
    seal_file("source", "blob", chunk_exponent=16, progress=progress, threads=2)
else:
    save_file(parse_reference(open("reference", "rb").read()), "blob", "copy", progress=progress, threads=2)
"""


def test_a_process_that_is_killed_loses_nothing(source: Path, folder: Path) -> None:
    source.rename(folder / "source")
    package = str(Path(agentmesh.__file__).resolve().parent.parent)

    def killed(what: str) -> None:
        command = [sys.executable, "-c", KILLED, str(2 * CHUNK), what]
        environment = {**os.environ, "PYTHONPATH": package}
        assert subprocess.run(command, cwd=folder, env=environment, check=False, timeout=60).returncode == 9

    killed("seal")
    kept = (folder / "blob.agentmesh-part").read_bytes()[: 2 * (CHUNK + OVERHEAD)]
    attachment = seal(folder / "source", folder / "blob", resume=True)
    assert (folder / "blob").read_bytes()[: len(kept)] == kept
    (folder / "reference").write_bytes(attachment.encode())
    killed("save")
    store = Counted(folder / "blob", attachment)
    save_file(attachment, store.fetch, folder / "copy")
    assert store.chunks() <= {2, 3, 4}
    assert (folder / "copy").read_bytes() == (folder / "source").read_bytes()


# --- saving ----------------------------------------------------------------------------------------------------------


class Counted:
    """A store that counts what it is asked for, and answers wrongly where it is told so."""

    def __init__(self, path: Path, attachment: Attachment) -> None:
        self._blob = path.read_bytes()
        self._layout = attachment.layout
        self.asked: Counter[int] = Counter()
        self.bad: dict[int, Any] = {}

    def fetch(self, offset: int, length: int) -> bytes:
        number = offset // (CHUNK + OVERHEAD)
        self.asked[number] += 1
        bad = self.bad.get(number)
        if isinstance(bad, Exception):
            raise bad
        return self._blob[offset : offset + length] if bad is None else bad

    def chunks(self) -> set[int]:
        return set(self.asked)


@pytest.fixture
def made(source: Path, folder: Path) -> Attachment:
    """The reference of a blob in the folder."""
    return seal(source, folder / "blob")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("at", range(1, 6))
def test_a_saving_goes_on_and_fetches_only_the_rest(
    at: int, threads: int, made: Attachment, source: Path, folder: Path
) -> None:
    with pytest.raises(StoppedError):
        save_file(made, folder / "blob", folder / "copy", progress=stop_at(at), threads=threads)
    assert "copy" not in names(folder)
    store = Counted(folder / "blob", made)
    done: list[int] = []
    save_file(made, store.fetch, folder / "copy", threads=threads, progress=lambda now, _size: done.append(now))
    assert store.chunks() <= {*range(at, 5), made.layout.last}
    assert done == [min((number + 1) * CHUNK, made.size) for number in range(5)]
    assert (folder / "copy").read_bytes() == source.read_bytes()
    assert names(folder) == ["blob", "copy"]


def test_without_being_told_to_go_on_it_fetches_all(made: Attachment, folder: Path) -> None:
    with pytest.raises(StoppedError):
        save_file(made, folder / "blob", folder / "copy", progress=stop_at(4))
    store = Counted(folder / "blob", made)
    save_file(made, store.fetch, folder / "copy", resume=False)
    assert store.chunks() == set(range(5))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("bad", "error"), [(TimeoutError(), FetchFailed), (b"", ChunkBroken), (bytes(CHUNK + OVERHEAD), ChunkBroken)]
)
def test_a_store_that_fails_is_named_by_chunk_and_what_came_is_kept(
    bad: Any, error: type[FetchFailed | ChunkBroken], threads: int, made: Attachment, source: Path, folder: Path
) -> None:
    store = Counted(folder / "blob", made)
    store.bad[3] = bad
    with pytest.raises(error) as caught:
        save_file(made, store.fetch, folder / "copy", threads=threads)
    assert caught.value.number == 3
    assert names(folder) == ["blob", "copy.agentmesh-part"]
    store.bad.clear()
    store.asked.clear()
    save_file(made, store.fetch, folder / "copy", threads=threads)
    assert not {0, 1, 2} & store.chunks()
    assert (folder / "copy").read_bytes() == source.read_bytes()


@in_one_folder
@given(
    damage=st.lists(st.integers(0, 4 * CHUNK + 77 + 5 * NONCE - 1), max_size=3),
    cut=st.one_of(st.none(), st.integers(0)),
)
def test_what_a_crash_left_of_a_copy_is_verified_and_not_trusted(
    damage: list[int], cut: int | None, source: Path, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("made")
    made = seal(source, folder / "blob")
    with pytest.raises(StoppedError):
        save_file(made, folder / "blob", folder / "copy", progress=stop_at(5))
    part = folder / "copy.agentmesh-part"
    whole = part.read_bytes()
    assert len(whole) == made.size + 5 * NONCE
    for at in damage:
        flip(part, at)
    if cut is not None:
        os.truncate(part, cut % len(whole))
    now = part.read_bytes()
    broken = {
        number
        for number in range(5)
        for begins, size in ((number * CHUNK, made.layout.data_size(number)), (made.size + NONCE * number, NONCE))
        if now[begins : begins + size] != whole[begins : begins + size]
    }
    store = Counted(folder / "blob", made)
    save_file(made, store.fetch, folder / "copy")
    # And a chunk that is whole is not fetched again.
    assert store.chunks() == broken | {made.layout.last}
    assert (folder / "copy").read_bytes() == source.read_bytes()


def test_a_copy_of_another_attachment_that_stands_there_is_of_no_use(
    made: Attachment, source: Path, folder: Path
) -> None:
    longer = folder.parent / "longer"
    longer.write_bytes(source.read_bytes() * 2)
    other = seal(longer, folder / "other")
    with pytest.raises(StoppedError):
        save_file(other, folder / "other", folder / "copy", progress=stop_at(9))
    save_file(made, folder / "blob", folder / "copy")
    assert (folder / "copy").read_bytes() == source.read_bytes()


@needs_posix
def test_what_others_may_have_written_is_left_behind(made: Attachment, source: Path, folder: Path) -> None:
    with pytest.raises(StoppedError):
        save_file(made, folder / "blob", folder / "copy", progress=stop_at(4))
    part = folder / "copy.agentmesh-part"
    part.chmod(0o666)
    held = part.open("r+b")  # as somebody else may
    save_file(made, folder / "blob", folder / "copy")
    held.write(b"altered")
    held.close()
    assert (folder / "copy").read_bytes() == source.read_bytes()
    assert stat.S_IMODE((folder / "copy").stat().st_mode) == 0o600


def test_an_index_that_is_not_the_attachments_saves_nothing(made: Attachment, folder: Path) -> None:
    flip(folder / "blob", made.blob_bytes - 1)
    with pytest.raises(IndexBroken):
        save_file(made, folder / "blob", folder / "copy")
    assert "copy" not in names(folder)


def test_a_store_without_ranges_is_saved_from_too(made: Attachment, source: Path, folder: Path) -> None:
    blob = (folder / "blob").read_bytes()
    save_file(made, (blob[at : at + 999] for at in range(0, len(blob), 999)), folder / "copy")
    with (folder / "blob").open("rb") as body:
        save_file(made, body, folder / "again")
    assert (folder / "copy").read_bytes() == (folder / "again").read_bytes() == source.read_bytes()


def test_the_padding_behind_the_data_is_not_fetched(folder: Path) -> None:
    (folder / "source").write_bytes(bytes(130 * CHUNK - 3))  # padded by more than a chunk
    made = seal(folder / "source", folder / "blob")
    data_chunks = len(made.layout.chunks_for(0, made.size))
    assert data_chunks < made.layout.last
    store = Counted(folder / "blob", made)
    save_file(made, store.fetch, folder / "copy")
    assert store.chunks() == {*range(data_chunks), made.layout.last}
    assert (folder / "copy").read_bytes() == (folder / "source").read_bytes()


def test_a_name_that_a_peer_chose_is_no_path(source: Path, folder: Path) -> None:
    made = seal(source, folder / "blob", name=str(folder / "victim"), where=str(folder / "victim"))
    save_file(made, folder / "blob", folder / "copy")
    with open_file(made, folder / "blob") as file:
        file.read()
    assert names(folder) == ["blob", "copy"]
