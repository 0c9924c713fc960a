"""A store's files with any byte altered, or cut anywhere: an error of ours, or what was written; never anything else.

Whoever opens a damaged file gets a typed error and finds the file as it was, or gets the same rows, and keeps them with
what is written next. Where a log of commits stands beside the file, damage to it may lead back to an earlier commit: to
one that there was, whole, and never to a mixture. By default a sample is tried; AGENTMESH_DEPTH > 1 tries every byte.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agentmesh.errors import StoreBroken, StoreError, StoreFailed
from agentmesh.store import SQLiteBackend
from agentmesh.store.rows import Name
from agentmesh.store.sealing import Sealer
from agentmesh.testing import SeededEntropy

KEY = bytes(range(32))
NAME = "agent"
DEEP = int(os.environ.get("AGENTMESH_DEPTH") or "1") > 1
ENTROPY = SeededEntropy(b"damage")

Content = dict[Name, bytes]


class State(NamedTuple):
    """What stands in a store after a commit."""

    commit_number: int
    rows: Content
    log: dict[int, bytes]


def log_name(number: int) -> Name:
    return "log", number.to_bytes(8, "big")


class Writer:
    """A store that is open, and the state after each of its commits."""

    def __init__(self, path: Path) -> None:
        self.backend = SQLiteBackend(path, synchronous="NORMAL")  # power is not what fails here
        rows = self.backend.open_rows(NAME, create=True)
        assert rows is not None
        self.rows = rows
        self.history: list[State] = []
        if rows.commit_number:
            self.sealer, content, _ = Sealer.open(NAME, KEY, rows.read(), rows.commit_number, entropy=ENTROPY)
            log = dict(self.sealer.open_log(rows.read(log=True)))
            self.history.append(State(rows.commit_number, content, log))
        else:
            self.sealer = Sealer.new(NAME, KEY, entropy=ENTROPY)
            self.history.append(State(0, {}, {}))

    def write(self, changes: dict[Name, bytes | None]) -> None:
        before = self.history[-1]
        number = before.commit_number + 1
        put, removed = self.sealer.seal_rows(changes, number, number)
        self.rows.write(number, put, removed)
        self.sealer.written()
        rows, log = dict(before.rows), dict(before.log)
        for (kind, key), data in changes.items():
            if kind == "log":
                assert data is not None
                log[int.from_bytes(key, "big")] = data
            elif data is None:
                rows.pop((kind, key))
            else:
                rows[kind, key] = data
        self.history.append(State(number, rows, log))

    def close(self) -> None:
        self.backend.close()


def filled(path: Path) -> Writer:
    """Return a small store that has all that a store has: removed rows and pages, long rows, several agents, a log."""
    writer = Writer(path)
    writer.write({("agent", b""): b"a" * 60, ("peer", b"p" * 32): b"p" * 40, log_name(0): b"entry 0"})
    writer.write({("session", bytes([n]) * 16): bytes([n]) * 500 for n in range(3)})
    other = writer.backend.open_rows("other", create=True)
    assert other is not None
    other.close()
    writer.write({("session", b"\x01" * 16): None, ("kept", b"k"): b"k" * 32, log_name(1): b"entry 1" * 90})
    writer.write({("session", b"\x02" * 16): b"\x04" * 510, ("outbox", b"o"): b"o" * 300})
    return writer


def opened(path: Path) -> State:
    """Open a store and its agent, which must be there; read all, and close it."""
    with SQLiteBackend(path) as backend:
        rows = backend.open_rows(NAME, create=False)
        assert rows is not None, "the agent that was there is not"
        number = rows.commit_number
        assert number, "an agent without rows"
        sealer, content, generation = Sealer.open(NAME, KEY, rows.read(), number, entropy=ENTROPY)
        assert generation == number
        return State(number, content, dict(sealer.open_log(rows.read(log=True))))


def files_beside(path: Path) -> dict[str, bytes]:
    """Return the files of a store whose bytes count: not the lock, nor the index of the log, which is made anew."""
    return {one.name: one.read_bytes() for one in path.parent.iterdir() if not one.name.endswith((".lock", "-shm"))}


def check(path: Path, expected: list[State]) -> str:
    """Open what was damaged: what came of it, once it is one of the things that may."""
    before = files_beside(path)
    try:
        found = opened(path)
    except StoreError as error:
        after = files_beside(path)
        left = {name: data for name, data in after.items() if data or name in before}
        assert left == before, "an open that failed altered the files"
        return error.code
    assert found in expected, "neither an error nor what was written"
    writer = Writer(path)
    try:
        writer.write({("knock", b"after"): b"damage", ("session", b"\x02" * 16): b"\x05" * 700})
        writer.write({("kept", b"%d" % n): b"k" * 200 for n in range(12)})
    except StoreFailed:  # the head of the file says that this version of SQLite may only read it
        assert len(writer.history) == 1
    writer.close()
    assert opened(path) == writer.history[-1], "what was written over the damage did not last"
    return "intact"


def place(target: Path, images: dict[str, bytes]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name, data in images.items():
        (target / name).write_bytes(data)
        (target / name).chmod(0o600)


def flips(size: int, sample: int) -> Iterator[tuple[int, int]]:
    """Yield (byte, bit): one bit of each byte, a different one each time; by default of a sample of the bytes."""
    step = 1 if DEEP else max(1, size // sample)
    start = 0 if DEEP else int.from_bytes(os.urandom(2), "big") % step
    for at in range(start, size, step):
        yield at, (at * 5 + at // 512) % 8


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def cuts(size: int, sample: int) -> Iterator[int]:
    step = 1 if DEEP else max(1, size // sample)
    yield from {0, 1, size - 1, *range(0, size, 512), *range(0, size, step)}


# --- a file that was closed ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, State]:
    path = tmp_path_factory.mktemp("closed") / "a.mesh"
    writer = filled(path)
    writer.close()
    assert set(files_beside(path)) == {"a.mesh"}
    return path.read_bytes(), writer.history[-1]


def test_the_undamaged_file_has_its_rows(closed: tuple[bytes, State], tmp_path: Path) -> None:
    data, state = closed
    place(tmp_path / "d", {"a.mesh": data})
    assert opened(tmp_path / "d" / "a.mesh") == state
    assert (tmp_path / "d" / "a.mesh").read_bytes() == data, "to open it and look was to alter it"


def test_any_byte_flipped_is_found_or_is_nothing(closed: tuple[bytes, State], tmp_path: Path) -> None:
    data, state = closed
    ends = set()
    for at, bit in flips(len(data), 400):
        place(tmp_path / "d", {"a.mesh": flipped(data, at, bit)})
        ends.add(check(tmp_path / "d" / "a.mesh", [state]))
    assert "store.broken" in ends


def test_every_bit_of_the_head_of_the_file(closed: tuple[bytes, State], tmp_path: Path) -> None:
    data, state = closed
    for at in range(0, 108, 1 if DEEP else 3):
        for bit in range(8):
            place(tmp_path / "d", {"a.mesh": flipped(data, at, bit)})
            check(tmp_path / "d" / "a.mesh", [state])


def test_cut_anywhere_is_found(closed: tuple[bytes, State], tmp_path: Path) -> None:
    data, _ = closed
    for size in cuts(len(data), 60):
        place(tmp_path / "d", {"a.mesh": data[:size]})
        assert check(tmp_path / "d" / "a.mesh", []) == "store.broken"


@pytest.mark.parametrize("tail", [b"\x00", b"\x00" * 512, b"x" * 513, b"x" * 5120])
def test_what_stands_behind_the_file_is_nothing(tail: bytes, closed: tuple[bytes, State], tmp_path: Path) -> None:
    data, state = closed
    place(tmp_path / "d", {"a.mesh": data + tail})
    check(tmp_path / "d" / "a.mesh", [state])


def test_pages_swapped_are_found(closed: tuple[bytes, State], tmp_path: Path) -> None:
    data, state = closed
    pages = [data[at : at + 512] for at in range(0, len(data), 512)]
    for one in range(len(pages)):
        for other in range(one):
            swapped = list(pages)
            swapped[one], swapped[other] = pages[other], pages[one]
            if DEEP or (one * 31 + other) % 7 == 0:
                place(tmp_path / "d", {"a.mesh": b"".join(swapped)})
                check(tmp_path / "d" / "a.mesh", [state])


@pytest.mark.parametrize("data", [b"", b"\x00" * 4096, b"SQLite format 3\x00", b"agentmesh-log-1\n", b"x" * 100])
def test_another_file_is_no_new_store(data: bytes, tmp_path: Path) -> None:
    place(tmp_path / "d", {"a.mesh": data})
    with pytest.raises(StoreBroken):
        SQLiteBackend(tmp_path / "d" / "a.mesh")
    assert files_beside(tmp_path / "d" / "a.mesh") == {"a.mesh": data}


def test_a_log_of_commits_without_its_file_is_no_new_store(tmp_path: Path) -> None:
    image = hot(tmp_path / "made.mesh", lambda writer: None)[0]
    place(tmp_path / "d", {"a.mesh-wal": image["a.mesh-wal"]})
    with pytest.raises(StoreBroken):
        SQLiteBackend(tmp_path / "d" / "a.mesh")
    assert files_beside(tmp_path / "d" / "a.mesh") == {"a.mesh-wal": image["a.mesh-wal"]}


# --- a file, and the log beside it that a crash left -----------------------------------------------------------------


def hot(path: Path, checkpoint: Callable[[Writer], None]) -> tuple[dict[str, bytes], list[State]]:
    """Return (the files that a killed process leaves, the states that there were)."""
    writer = filled(path)
    writer.close()
    writer = Writer(path)
    for number in range(3):
        writer.write({("session", b"\x00" * 16): bytes([number]) * 500, ("outbox", b"%d" % number): b"o" * 400})
    writer.write({("outbox", b"1"): None, log_name(2): b"entry 2"})
    checkpoint(writer)
    image = {"a.mesh": path.read_bytes(), "a.mesh-wal": Path(f"{path}-wal").read_bytes()}
    states = list(writer.history)
    writer.close()
    return image, states


def no_checkpoint(writer: Writer) -> None:
    """All commits stand in the log alone."""


def checkpointed(writer: Writer) -> None:
    """All commits stand in the file too, newer than the log would be if it lost its end."""
    assert writer.backend.run(lambda connection: connection.execute("PRAGMA wal_checkpoint").fetchone()[0]) == 0


def begun_again(writer: Writer) -> None:
    """The log was begun again, with old commits behind the new ones."""
    checkpointed(writer)
    writer.write({("outbox", b"2"): None, ("kept", b"l"): b"l" * 32})


CHECKPOINTS = [no_checkpoint, checkpointed, begun_again]


@pytest.fixture(scope="module", params=CHECKPOINTS, ids=lambda call: call.__name__)
def crashed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], list[State]]:
    return hot(tmp_path_factory.mktemp("hot") / "a.mesh", request.param)


def test_what_a_crash_leaves_has_all_commits(crashed: tuple[dict[str, bytes], list[State]], tmp_path: Path) -> None:
    image, states = crashed
    place(tmp_path / "d", image)
    assert opened(tmp_path / "d" / "a.mesh") == states[-1]
    assert files_beside(tmp_path / "d" / "a.mesh") == image, "to open it and look was to alter it"


@pytest.mark.parametrize("name", ["a.mesh", "a.mesh-wal"])
def test_any_byte_flipped_after_a_crash_is_found_or_leads_to_a_commit_that_there_was(
    name: str, crashed: tuple[dict[str, bytes], list[State]], tmp_path: Path
) -> None:
    image, states = crashed
    for at, bit in flips(len(image[name]), 150):
        place(tmp_path / "d", {**image, name: flipped(image[name], at, bit)})
        check(tmp_path / "d" / "a.mesh", states)


def test_a_log_that_is_cut_leads_to_a_commit_that_there_was(
    crashed: tuple[dict[str, bytes], list[State]], tmp_path: Path
) -> None:
    image, states = crashed
    for size in cuts(len(image["a.mesh-wal"]), 60):
        place(tmp_path / "d", {**image, "a.mesh-wal": image["a.mesh-wal"][:size]})
        check(tmp_path / "d" / "a.mesh", states)


def test_a_file_that_is_cut_after_a_crash(crashed: tuple[dict[str, bytes], list[State]], tmp_path: Path) -> None:
    image, states = crashed
    for size in cuts(len(image["a.mesh"]), 60):
        place(tmp_path / "d", {**image, "a.mesh": image["a.mesh"][:size]})
        check(tmp_path / "d" / "a.mesh", states)
