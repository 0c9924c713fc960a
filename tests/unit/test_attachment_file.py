"""An attachment as a file: it reads as a file of the system does, over any store, and nothing unverified comes out."""

from __future__ import annotations

import copy
import io
import os
import pickle
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.attachments import Attachment, AttachmentSealer
from agentmesh.errors import (
    ArgumentInvalid,
    ChunkBroken,
    FetchFailed,
    IndexBroken,
    StoreFailed,
    TooLarge,
)
from agentmesh.limits import Limits
from agentmesh.store import AttachmentFile, open_file
from agentmesh.testing import SeededEntropy

EXPONENT = 16
CHUNK = 1 << EXPONENT
SIZES = (0, 1, 64, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7, 9 * CHUNK)


class Made(NamedTuple):
    attachment: Attachment
    blob: bytes
    data: bytes

    def fetch(self, offset: int, length: int) -> bytes:
        return self.blob[offset : offset + length]


@cache
def made(size: int, seed: int = 1) -> Made:
    data = Random(size * 7 + seed).randbytes(size)
    sealer = AttachmentSealer(
        name="../../etc/passwd", media_type="text/canary", where="http://10.0.0.1/",
        size=size, chunk_exponent=EXPONENT, entropy=SeededEntropy(seed),
    )  # fmt: skip
    blob = b"".join([*sealer.update(data), *sealer.finish()])
    return Made(sealer.attachment, blob, data)


# --- as a file of the system -----------------------------------------------------------------------------------------

PLACES = st.one_of(
    st.integers(-10, 10),
    st.integers(-4 * CHUNK, 10 * CHUNK),
    st.builds(lambda chunk, by: chunk * CHUNK + by, st.integers(0, 9), st.integers(-2, 2)),
    st.sampled_from((-(2**40), 2**40)),
)
LENGTHS = st.one_of(st.integers(0, 100), st.integers(0, 3 * CHUNK), st.sampled_from((CHUNK, CHUNK + 1, 2**40)))
CALLS = st.one_of(
    st.tuples(st.just("seek"), PLACES, st.sampled_from((0, 1, 2))),
    st.tuples(st.just("read"), st.one_of(LENGTHS.filter(lambda length: length < 2**32), st.just(-1), st.none())),
    st.tuples(st.just("readinto"), LENGTHS.filter(lambda length: length < 2**32)),
    st.tuples(st.sampled_from(("tell", "readall", "readable", "writable"))),
)


def outcome(file: io.RawIOBase, call: tuple[Any, ...]) -> Any:
    """What a call gives, with its place afterwards; of an error its kind."""
    name, *arguments = call
    try:
        if name == "readinto":
            buffer = bytearray(b"\xaa" * arguments[0])
            result: Any = (file.readinto(buffer), bytes(buffer))
        else:
            result = getattr(file, name)(*arguments)
    except (OSError, ValueError, OverflowError) as error:
        result = OSError if isinstance(error, OSError) else type(error)
    return result, file.tell()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The data of each size in a file of its own."""
    folder = tmp_path_factory.mktemp("plain")
    for size in SIZES:
        (folder / str(size)).write_bytes(made(size).data)
    return {size: folder / str(size) for size in SIZES}


@given(size=st.sampled_from(SIZES), calls=st.lists(CALLS, max_size=12))
def test_it_reads_as_a_file_does(size: int, calls: list[tuple[Any, ...]], plain: dict[int, Path]) -> None:
    one = made(size)
    with io.FileIO(plain[size]) as model, open_file(one.attachment, one.fetch) as file:
        for call in calls:
            assert outcome(file, call) == outcome(model, call), call


@pytest.mark.parametrize("size", SIZES)
def test_it_is_read_whole_from_its_end_and_by_lines(size: int) -> None:
    one = made(size)
    with open_file(one.attachment, one.fetch) as file:
        assert file.size == size
        assert file.attachment is one.attachment
        assert file.read() == one.data
        assert file.read(1) == b""
        back = b""
        for end in range(size, 0, -CHUNK // 2):
            begins = max(0, end - CHUNK // 2)
            file.seek(begins - size, os.SEEK_END)
            back = file.read(end - begins) + back
        assert back == one.data
        file.seek(0)
        assert b"".join(io.BufferedReader(file)) == one.data


def test_what_reads_files_reads_it() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("first", b"1" * 100_000)
        writer.writestr("last", b"the end")
    sealer = AttachmentSealer(chunk_exponent=EXPONENT)
    blob = b"".join([*sealer.update(archive.getvalue()), *sealer.finish()])
    with open_file(sealer.attachment, lambda at, size: blob[at : at + size]) as file, zipfile.ZipFile(file) as reader:
        assert reader.read("last") == b"the end"
        assert reader.testzip() is None


def test_what_it_is_not_for_is_refused_as_files_refuse_it() -> None:
    one = made(CHUNK + 1)
    file = open_file(one.attachment, one.fetch)
    assert isinstance(file, AttachmentFile)
    assert not hasattr(file, "name")
    for refused in (file.fileno, file.truncate):
        with pytest.raises(io.UnsupportedOperation):
            refused()
    with pytest.raises(ValueError, match="whence"):
        file.seek(0, 3)
    with pytest.raises(TypeError):
        file.seek(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        file.readinto(b"read-only")
    assert file.tell() == 0
    file.close()
    file.close()
    assert file.closed
    for call in (file.tell, file.read, file.readall, file.readable, file.seekable, lambda: file.seek(0),
                 lambda: file.readinto(bytearray(1)), file.__enter__):  # fmt: skip
        with pytest.raises(ValueError, match="closed file"):
            call()


def test_an_endless_number_sets_no_memory_aside() -> None:
    one = made(64)
    with open_file(one.attachment, one.fetch) as file:
        assert file.read(2**62) == one.data


def test_threads_that_share_it_get_whole_answers() -> None:
    one = made(9 * CHUNK)
    pieces: list[bytes] = []
    with open_file(one.attachment, one.fetch) as file:

        def read() -> None:
            while piece := file.read(10_007):
                pieces.append(piece)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(map(len, pieces)) == len(one.data)
    assert {one.data.find(piece) % 10_007 for piece in pieces} == {0}


def test_a_thread_waits_until_another_has_read() -> None:
    one = made(CHUNK + 1)
    waited: list[bool] = []

    def fetch(offset: int, length: int) -> bytes:
        if offset == 0:
            other = threading.Thread(target=lambda: waited.append(not file._lock.acquire(blocking=False)))
            other.start()
            other.join()
        return one.fetch(offset, length)

    with open_file(one.attachment, fetch) as file:
        file.readinto(bytearray(10))
        assert waited == [True]


# --- what it asks a store for ----------------------------------------------------------------------------------------


@given(size=st.sampled_from(SIZES), calls=st.lists(st.tuples(st.integers(0, 9 * CHUNK), LENGTHS), max_size=6))
def test_it_asks_for_the_tail_first_and_for_no_byte_behind_the_blob(size: int, calls: list[tuple[int, int]]) -> None:
    one = made(size)
    asked: list[tuple[int, int]] = []

    def fetch(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return one.fetch(offset, length)

    layout = one.attachment.layout
    with open_file(one.attachment, fetch) as file:
        assert asked == [layout.tail_range]
        for place, length in calls:
            file.seek(place)
            file.read(length)
    assert set(asked[1:]) <= {layout.range_of(number) for number in layout.chunks_for(0, size)}


def test_small_reads_in_order_fetch_each_chunk_once() -> None:
    one = made(3 * CHUNK + 7)
    asked: list[int] = []

    def fetch(offset: int, length: int) -> bytes:
        asked.append(offset)
        return one.fetch(offset, length)

    with open_file(one.attachment, fetch) as file:
        while file.read(1000):
            pass
    assert len(asked) == 1 + 4


def test_a_small_file_is_fetched_once() -> None:
    one, asked = made(64), []

    def fetch(offset: int, length: int) -> bytes:
        asked.append(offset)
        return one.fetch(offset, length)

    with open_file(one.attachment, fetch) as file:
        assert file.read() == one.data
    assert len(asked) == 1


def test_what_is_larger_than_allowed_is_not_fetched() -> None:
    def fetch(offset: int, length: int) -> bytes:
        raise AssertionError

    with pytest.raises(TooLarge):
        open_file(made(CHUNK + 1).attachment, fetch, limits=Limits(attachment_max_bytes=CHUNK))


# --- what a store may answer -----------------------------------------------------------------------------------------

ANSWERS: dict[str, Callable[[Made, int, int], Any]] = {
    "nothing": lambda one, at, size: b"",
    "short": lambda one, at, size: one.fetch(at, size - 1),
    "long": lambda one, at, size: one.fetch(at, size) + b"\0",
    "endless": lambda one, at, size: bytes(50 * CHUNK),
    "shifted": lambda one, at, size: one.fetch(at + 1, size) if at else (b"\0" + one.fetch(0, size - 1)),
    "another": lambda one, at, size: one.fetch(CHUNK + 72 if at == 0 else 0, size),
    "elsewhere": lambda one, at, size: made(len(one.data), seed=2).fetch(at, size),
    "random": lambda one, at, size: Random(at).randbytes(size),
    "zeros": lambda one, at, size: bytes(size),
    "flipped": lambda one, at, size: flip(one.fetch(at, size), size // 2),
}


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class Store:
    """A store that answers well, but for one chunk as long as it is told so."""

    def __init__(self, one: Made, answer: Callable[[Made, int, int], Any]) -> None:
        self.one, self.answer = one, answer
        self.bad_at = -1

    def fetch(self, offset: int, length: int) -> Any:
        return self.answer(self.one, offset, length) if offset == self.bad_at else self.one.fetch(offset, length)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_answer_that_is_not_the_chunk_is_named_and_nothing_is_lost(answer: Any, number: int) -> None:
    one = made(3 * CHUNK + 7)
    store = Store(one, answer)
    with open_file(one.attachment, store.fetch) as file:
        store.bad_at = one.attachment.layout.range_of(number)[0]
        file.seek(5)
        buffer = bytearray(len(one.data) - 5)
        with pytest.raises(ChunkBroken) as caught:
            file.readinto(buffer)
        assert caught.value.number == number
        good = max(0, number * CHUNK - 5)
        assert buffer == one.data[5 : 5 + good] + bytes(len(buffer) - good)
        assert file.tell() == 5
        store.bad_at = -1
        assert file.read() == one.data[5:]


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_is_not_the_tail_opens_nothing(answer: Any) -> None:
    one = made(3 * CHUNK + 7)
    store = Store(one, answer)
    store.bad_at = one.attachment.layout.tail_range[0]
    with pytest.raises(ChunkBroken if answer is ANSWERS["flipped"] else IndexBroken):
        open_file(one.attachment, store.fetch)


@pytest.mark.parametrize(
    "error", [OSError("refused"), TimeoutError(), ConnectionResetError(), KeyError("x"), ChunkBroken(7), StoreFailed()]
)
@pytest.mark.parametrize("number", [1, 3])
def test_what_a_source_raises_is_the_cause_of_an_error_that_names_the_chunk(error: Exception, number: int) -> None:
    one = made(3 * CHUNK + 7)

    def refuse(_one: Made, offset: int, length: int) -> bytes:
        raise error

    store = Store(one, refuse)
    if number == one.attachment.layout.last:
        store.bad_at = one.attachment.layout.tail_range[0]
        with pytest.raises(FetchFailed) as caught:
            open_file(one.attachment, store.fetch)
    else:
        with open_file(one.attachment, store.fetch) as file:
            store.bad_at = one.attachment.layout.range_of(number)[0]
            with pytest.raises(FetchFailed) as caught:
                file.read()
            store.bad_at = -1
            assert file.read() == one.data
    assert caught.value.number == number
    assert caught.value.__cause__ is error


def test_an_interruption_passes_through_and_nothing_is_lost() -> None:
    one = made(3 * CHUNK + 7)

    def interrupt(_one: Made, offset: int, length: int) -> bytes:
        raise KeyboardInterrupt

    store = Store(one, interrupt)
    with open_file(one.attachment, store.fetch) as file:
        store.bad_at = 0
        with pytest.raises(KeyboardInterrupt):
            file.read()
        store.bad_at = -1
        assert file.read() == one.data


@pytest.mark.parametrize("answer", [None, "text", 7, [1, 2]])
def test_a_source_that_gives_no_bytes_is_the_callers_mistake(answer: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="source"):
        open_file(made(64).attachment, lambda offset, length: answer)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_source_may_give_what_is_like_bytes(kind: Any) -> None:
    one = made(CHUNK + 1)
    with open_file(one.attachment, lambda at, size: kind(one.fetch(at, size))) as file:
        assert file.read() == one.data


@pytest.mark.parametrize("source", [None, 7, b"blob", bytearray(b"blob")])
def test_what_is_no_source_is_refused(source: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="source"):
        open_file(made(64).attachment, source)
    with pytest.raises(ArgumentInvalid, match="attachment"):
        open_file(source, lambda offset, length: b"")


def test_it_is_neither_copied_nor_pickled() -> None:
    one = made(10)
    with open_file(one.attachment, one.fetch) as file:
        for copier in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                copier(file)
        assert file.read() == one.data


def test_no_error_and_no_print_shows_what_is_secret() -> None:
    one = made(3 * CHUNK + 7)
    store = Store(one, ANSWERS["random"])
    with open_file(one.attachment, store.fetch) as file:
        shown = [repr(file), str(file)]
        store.bad_at = one.attachment.layout.range_of(1)[0]
        with pytest.raises(ChunkBroken) as caught:
            file.read()
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        ours = [frame for frame in frames if frame.f_globals["__name__"].startswith("agentmesh.")]
        shown += [str(caught.value), *(repr(frame.f_locals) for frame in ours)]
    secrets = (one.attachment.name, one.attachment.where, one.attachment.key.reveal().hex(), repr(one.data[:8])[2:-1])
    assert [secret for secret in secrets for text in shown if secret in text] == []


# --- files, and stores without ranges --------------------------------------------------------------------------------


def test_a_path_is_a_source_of_the_right_length_alone(tmp_path: Path) -> None:
    one = made(3 * CHUNK + 7)
    path = tmp_path / "blob"
    for blob in (one.blob[:-1], one.blob + b"\0", b""):
        path.write_bytes(blob)
        with pytest.raises(IndexBroken):
            open_file(one.attachment, path)
    path.write_bytes(one.blob)
    for source in (path, str(path)):
        with open_file(one.attachment, source) as file:
            assert file.read() == one.data
    with pytest.raises(StoreFailed):
        open_file(one.attachment, tmp_path)
    with pytest.raises(StoreFailed):
        open_file(one.attachment, tmp_path / "missing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(StoreFailed):
            open_file(one.attachment, tmp_path / "pipe")


def test_a_file_that_is_cut_while_it_is_read_names_the_chunk(tmp_path: Path) -> None:
    one = made(3 * CHUNK + 7)
    path = tmp_path / "blob"
    path.write_bytes(one.blob)
    with open_file(one.attachment, path) as file:
        os.truncate(path, CHUNK + 100)
        with pytest.raises(ChunkBroken) as caught:
            file.read()
        assert caught.value.number == 1
        path.write_bytes(one.blob)
        assert file.read() == one.data


def pieces_of(blob: bytes, size: int) -> Iterator[bytes]:
    return (blob[at : at + size] for at in range(0, len(blob), size))


class Body:
    """The body of a response: it can be read, and its lines have any length."""

    def __init__(self, blob: bytes) -> None:
        self._file = io.BytesIO(blob)
        self.asked = 0

    def read(self, size: int) -> bytes:
        self.asked = max(self.asked, size)
        return self._file.read(min(size, 10_000))

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError


@pytest.mark.parametrize("size", SIZES)
def test_what_comes_in_order_is_put_on_disk_first(size: int, tmp_path: Path) -> None:
    one = made(size)
    for source in (pieces_of(one.blob, 7777), [one.blob], [b"", bytearray(one.blob), b""], Body(one.blob)):
        with open_file(one.attachment, source, folder=tmp_path) as file:
            file.seek(-1, os.SEEK_END) if size else None
            assert file.read() == one.data[-1:]
            file.seek(0)
            assert file.read() == one.data
            assert list(tmp_path.iterdir()) == []  # it has no name


def test_of_what_comes_in_order_no_byte_too_many_is_taken() -> None:
    one = made(CHUNK + 1)
    given = 0

    def far_too_many() -> Iterator[bytes]:
        nonlocal given
        for _ in range(10_000):
            given += 1000
            yield bytes(1000)

    with pytest.raises(IndexBroken):
        open_file(one.attachment, far_too_many())
    assert given <= one.attachment.blob_bytes + 1000
    for blob in (one.blob + b"\0", one.blob[:-1], b""):
        with pytest.raises(IndexBroken):
            open_file(one.attachment, pieces_of(blob, 5000))


def test_what_breaks_while_it_comes_in_order_names_how_far_it_was() -> None:
    one = made(3 * CHUNK + 7)

    def breaking(at: int, error: Any) -> Iterator[Any]:
        yield one.blob[:at]
        if isinstance(error, Exception):
            raise error
        yield error

    with pytest.raises(FetchFailed) as caught:
        open_file(one.attachment, breaking(2 * CHUNK + 500, ConnectionResetError()))
    assert caught.value.number == 2
    with pytest.raises(ArgumentInvalid, match="source"):
        open_file(one.attachment, breaking(7, "text"))


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = made(CHUNK + 1)
    with pytest.raises(StoreFailed):
        open_file(one.attachment, [one.blob], folder=tmp_path / "missing")

    def full(*_arguments: object) -> int:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreFailed) as caught:
        open_file(one.attachment, [one.blob], folder=tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
