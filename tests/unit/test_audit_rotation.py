"""One log over many files: what a file hands over, and that files are read, verified and continued as one."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Identity
from agentmesh.audit import (
    AuditEvent,
    AuditLog,
    Handover,
    MemorySink,
    Record,
    merkle,
    verified_records,
    verify_entries,
    verify_entry,
    verify_growth,
)
from agentmesh.audit.handover import HANDOVER_MAX_BYTES
from agentmesh.audit.merkle import EntryHash, MerkleTree, RunningRoot, leaf_hash
from agentmesh.errors import AgentMeshError, ArgumentInvalid, LogBroken, OwnerMismatch, StoreError, StoreFailed
from agentmesh.limits import UINT_MAX
from agentmesh.store import LogFile, files, log_file, read_log_file, read_log_parts
from agentmesh.store.frames import CONTINUED, framed

MESH = "example/test"
OWNER = Identity.from_seed(bytes(31) + b"\x01")
OTHER = Identity.from_seed(bytes(31) + b"\x02")


@pytest.fixture(autouse=True)
def _private_files() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def record(number: int, **fields: Any) -> Record:
    values: dict[str, Any] = {"at_ms": 1 + number, "mesh": MESH, "sender": OWNER.did, "number": number}
    return Record(AuditEvent.MESSAGE_SEALED, **values | fields)


def write(path: Path, *counts: int, signed: bool = False) -> AuditLog:
    """Write a log of so many entries in each of its files: path.1, path.2, ..., path."""
    whole = AuditLog(MemorySink())
    with LogFile(path, fsync_every=None) as sink:
        log = AuditLog(sink)
        for part, count in enumerate(counts, 1):
            some = [record(len(log) + number) for number in range(count)]
            log.append(some)
            whole.append(some)
            if part < len(counts):
                by: dict[str, Any] = {"identity": OWNER, "mesh": MESH, "time_ms": 5} if signed else {}
                log.rotate(f"{path}.{part}", **by)
                assert (len(log), log.root()) == (len(whole), whole.root())
        assert (len(log), log.root(), log.owner) == (len(whole), whole.root(), OWNER.did)
    return whole


def parts_of(path: Path, count: int) -> list[Path]:
    return [*(Path(f"{path}.{part}") for part in range(1, count)), path]


# --- the tree ---------------------------------------------------------------------------------------------------------

HASHES = [leaf_hash(b"%d" % number) for number in range(64)]


@given(st.integers(0, 40), st.integers(0, 24), st.booleans(), st.data())
def test_a_tree_that_goes_on_is_the_whole_tree(base: int, more: int, drops: bool, data: st.DataObject) -> None:
    whole, running = MerkleTree(), RunningRoot()
    for one in HASHES[: base + more]:
        whole.append(one)
    for one in HASHES[:base]:
        running.append(one)
    read: list[tuple[int, int]] = []

    def leaves(start: int, end: int) -> list[EntryHash]:
        read.append((start, end))
        return HASHES[start:end]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merkle, "_CHUNK_LEVEL", 2)
        patch.setattr(merkle, "CHUNK", 4)
        tree = MerkleTree(base, running.nodes, leaves=leaves if drops else None)
        chunks = data.draw(st.integers(0, max(0, (base + more) // 4 - base // 4))) if drops else 0
        for chunk in range(base // 4, base // 4 + chunks):
            tree.append_chunk(whole._complete(2, chunk))
        for one in HASHES[len(tree) : base + more]:
            tree.append(one)
        assert (len(tree), tree.root(), tree.nodes) == (len(whole), whole.root(), whole.nodes)
        sizes = st.integers(base, base + more)
        size, old = data.draw(sizes), data.draw(sizes)
        assert tree.root(size) == whole.root(size)
        if old <= size:
            assert tree.consistency_proof(old, size) == whole.consistency_proof(old, size)
        for index in range(base, size):
            assert tree.inclusion_proof(index, size) == whole.inclusion_proof(index, size)
            assert tree.leaf(index) == HASHES[index]
        for index in range(base):
            with pytest.raises(ArgumentInvalid):
                tree.inclusion_proof(index, size)
        for earlier in range(1, base):
            with pytest.raises(ArgumentInvalid):
                tree.root(earlier)
            with pytest.raises(ArgumentInvalid):
                tree.consistency_proof(earlier, size) if earlier != size else tree.root(earlier)
    assert all(end - start <= 4 for start, end in read)


def test_a_chunk_that_is_not_what_it_was_gives_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merkle, "_CHUNK_LEVEL", 2)
    monkeypatch.setattr(merkle, "CHUNK", 4)
    tree = MerkleTree(leaves=lambda start, end: HASHES[start + 1 : end + 1])
    for one in HASHES[:9]:
        tree.append(one)
    tree.inclusion_proof(8)
    with pytest.raises(LogBroken) as caught:
        tree.inclusion_proof(5)
    assert (caught.value.sequence, caught.value.fault) == (4, "index")


# --- the handover -----------------------------------------------------------------------------------------------------


def handover_of(count: int, **fields: Any) -> Handover:
    running = RunningRoot()
    for one in HASHES[:count]:
        running.append(one)
    return Handover(size=count, head=HASHES[count - 1], nodes=running.nodes, **fields)


def test_a_handover_is_what_it_was() -> None:
    log = AuditLog(MemorySink())
    log.append([record(number) for number in range(11)])
    for handover in (Handover(), handover_of(1), handover_of(13, owner=OWNER.did)):
        assert Handover.decode(handover.encode()) == handover
    checkpoint = log.checkpoint(OWNER, mesh=MESH, time_ms=7)
    signed = Handover(owner=OWNER.did, size=11, head=HASHES[0], nodes=log._tree.nodes, checkpoint=checkpoint)
    assert Handover.decode(signed.encode()) == signed
    assert signed.root == log.root()
    largest = Handover(owner="did:x:" + "y" * 120, size=UINT_MAX, head=HASHES[0], nodes=(bytes(32),) * 53)
    assert Handover.decode(largest.encode()) == largest
    assert len(largest.encode()) + 305 <= HANDOVER_MAX_BYTES


@pytest.mark.parametrize(
    "change",
    [
        {"size": 12}, {"size": 3}, {"nodes": ()}, {"nodes": (bytes(32),) * 4}, {"nodes": (bytes(31),) * 3},
        {"owner": "did:x"}, {"owner": "\x1b[2J"}, {"head": bytes(31)}, {"owner": OTHER.did},
        {"nodes": (bytes(32), bytes(32), bytes(32))},
    ],
    ids=str,
)  # fmt: skip
def test_a_handover_that_contradicts_itself_is_none(change: dict[str, Any]) -> None:
    log = AuditLog(MemorySink())
    log.append([record(number) for number in range(11)])
    checkpoint = log.checkpoint(OWNER, mesh=MESH, time_ms=7)
    sound = Handover(owner=OWNER.did, size=11, head=HASHES[0], nodes=log._tree.nodes, checkpoint=checkpoint)
    with pytest.raises(AgentMeshError):
        Handover.decode(evolve(sound, **change).encode())


@given(st.data())
def test_a_signed_handover_with_a_flipped_bit_is_refused_or_says_the_same(data: st.DataObject) -> None:
    log = AuditLog(MemorySink())
    log.append([record(number) for number in range(3)])
    checkpoint = log.checkpoint(OWNER, mesh=MESH, time_ms=7)
    sound = Handover(owner=OWNER.did, size=3, head=HASHES[2], nodes=log._tree.nodes, checkpoint=checkpoint)
    encoded = bytearray(sound.encode())
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        altered = Handover.decode(bytes(encoded))
    except AgentMeshError:
        return
    # The head is not under the signature: the first entry behind it is chained to it.
    assert evolve(altered, head=sound.head) == sound


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("counts", [(3, 4), (1, 1, 1), (5, 0, 2), (0, 3), (4, 4, 0), (7, 9, 16, 1)])
def test_files_of_one_log_are_one_log(counts: tuple[int, ...], signed: bool, tmp_path: Path) -> None:
    whole = write(tmp_path / "log", *counts, signed=signed)
    paths = parts_of(tmp_path / "log", len(counts))
    assert list(read_log_file(*paths)) == list(whole.entries())
    verified = verify_entries(read_log_parts(*paths))
    assert (verified.size, verified.root, verified.first) == (len(whole), whole.root(), 0)
    assert verified.owners == {OWNER.did}
    checkpoint = whole.checkpoint(OWNER, mesh=MESH, time_ms=1)
    verify_entries(read_log_parts(*paths), checkpoint=checkpoint)
    verify_entries(read_log_file(*paths), checkpoint=checkpoint)
    # The last alone, as its owner opens it and as somebody verifies it.
    first = sum(counts[:-1])
    alone = verify_entries(read_log_parts(paths[-1]), checkpoint=checkpoint)
    assert (alone.size, alone.root, alone.first) == (len(whole), whole.root(), first)
    with LogFile(paths[-1]) as sink:
        again = AuditLog(sink, checkpoint=checkpoint)
        assert (len(again), again.root(), again.handover.size) == (len(whole), whole.root(), first)
        assert (again.handover.checkpoint is not None) == signed
        again.append(record(99))
        whole.append(record(99))
        grown = again.checkpoint(OWNER, mesh=MESH, time_ms=2)
        if checkpoint.size:
            verify_growth(checkpoint, grown, again.consistency_proof(checkpoint.size, grown.size))
        entry = list(again.entries())[-1]
        assert verify_entry(entry, again.inclusion_proof(len(again) - 1), grown) == record(99)
        assert again.verify().root == whole.root()
    assert list(read_log_file(*map(str, paths))) == list(whole.entries())


def test_a_file_that_is_missing_put_in_or_moved_is_found(tmp_path: Path) -> None:
    write(tmp_path / "log", 3, 4, 2)
    write(tmp_path / "other", 3, 4, 2)
    (tmp_path / "sub").mkdir()
    with LogFile(tmp_path / "sub" / "log") as sink:
        log = AuditLog(sink)
        log.append([record(number, count=2) for number in range(3)])
        log.rotate(tmp_path / "sub" / "log.1")
        log.append(record(3))
    one, two, three = parts_of(tmp_path / "log", 3)
    foreign = tmp_path / "sub" / "log"
    for files_, fault in (
        ([one, three], (3, "handover")),
        ([two, one], (7, "handover")),
        ([one, one], (3, "handover")),
        ([one, foreign], (3, "handover")),
        ([one, two, two], (7, "handover")),
    ):
        for verify in (lambda: verify_entries(read_log_parts(*files_)), lambda: list(read_log_file(*files_))):  # noqa: B023
            with pytest.raises(LogBroken) as caught:
                verify()
            assert (caught.value.sequence, caught.value.fault) == fault
    with pytest.raises(LogBroken) as caught:  # its entries alone do not say after what they come
        verify_entries(read_log_file(two))
    assert (caught.value.sequence, caught.value.fault) == (0, "sequence")


def test_a_handover_with_another_tree_is_found_where_the_files_are_read_together(tmp_path: Path) -> None:
    whole = write(tmp_path / "log", 3, 4)
    one, two = parts_of(tmp_path / "log", 2)
    handover, *entries = read_log_parts(two)
    assert isinstance(handover, Handover)
    false = evolve(handover, nodes=(bytes(32), bytes(32)))
    data = b"".join(framed(entry) for entry in entries if isinstance(entry, bytes))
    two.write_bytes(CONTINUED + framed(false.encode()) + data)
    with pytest.raises(LogBroken) as caught:
        verify_entries(read_log_parts(one, two))
    assert (caught.value.sequence, caught.value.fault) == (3, "handover")
    with pytest.raises(LogBroken) as caught:
        verify_entries(read_log_parts(two), checkpoint=whole.checkpoint(OWNER, mesh=MESH, time_ms=1))
    assert caught.value.fault == "root"


@pytest.mark.parametrize(
    "rest", [b"", b"\x00", b"\x00\x00\x00\x00", b"\x00\x00\x00\x01", framed(b"x"), framed(bytes(2_305))]
)
def test_what_is_no_handover_is_refused_and_not_changed(rest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(CONTINUED + rest)
    with pytest.raises(LogBroken) as caught:
        LogFile(path)
    assert (caught.value.sequence, caught.value.fault) == (0, "handover")
    with pytest.raises(LogBroken):
        list(read_log_parts(path))
    assert path.read_bytes() == CONTINUED + rest


def test_a_checkpoint_of_an_earlier_file_says_nothing_of_a_later_one_alone(tmp_path: Path) -> None:
    whole = write(tmp_path / "log", 3, 4)
    early = whole.consistency_proof(2, 7)
    assert early
    with LogFile(tmp_path / "log") as sink:
        log = AuditLog(MemorySink())
        log.append([record(0), record(1)])
        checkpoint = log.checkpoint(OWNER, mesh=MESH, time_ms=1)
        with pytest.raises(ArgumentInvalid):
            AuditLog(sink, checkpoint=checkpoint)
        with pytest.raises(ArgumentInvalid):
            verify_entries(read_log_parts(tmp_path / "log"), checkpoint=checkpoint)
        log = AuditLog(sink)
        for call in (lambda: log.root(2), lambda: log.inclusion_proof(2), lambda: log.consistency_proof(2)):
            with pytest.raises(ArgumentInvalid):
                call()
    verify_entries(read_log_parts(*parts_of(tmp_path / "log", 2)), checkpoint=checkpoint)


def test_a_file_that_is_open_is_read_like_one_with_a_name(tmp_path: Path) -> None:
    write(tmp_path / "log", 3, 4)
    one, two = parts_of(tmp_path / "log", 2)
    assert list(read_log_parts(io.BytesIO(one.read_bytes()), two)) == list(read_log_parts(one, two))
    assert len(list(verified_records(read_log_parts(io.BytesIO(two.read_bytes()))))) == 4
    with pytest.raises(LogBroken) as caught:
        list(read_log_parts(io.BytesIO(two.read_bytes()[:-1])))
    assert (caught.value.sequence, caught.value.fault) == (6, "torn")


# --- what can go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "by", [{"identity": OWNER}, {"identity": OWNER, "mesh": MESH}, {"mesh": MESH, "time_ms": 1}, {"time_ms": 1},
           {"identity": "x", "mesh": MESH, "time_ms": 1}, {"identity": OWNER, "mesh": "", "time_ms": 1},
           {"identity": OWNER, "mesh": MESH, "time_ms": -1}], ids=str,
)  # fmt: skip
def test_a_signature_takes_all_three(by: dict[str, Any], tmp_path: Path) -> None:
    with LogFile(tmp_path / "log") as sink:
        log = AuditLog(sink)
        log.append(record(0))
        with pytest.raises(ArgumentInvalid):
            log.rotate(tmp_path / "log.1", **by)
        with pytest.raises(OwnerMismatch):
            log.rotate(tmp_path / "log.1", identity=OTHER, mesh=MESH, time_ms=1)
        assert log.append(record(1)) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["log"]


def test_a_sink_that_cannot_rotate_is_the_callers_mistake() -> None:
    with pytest.raises(ArgumentInvalid):
        AuditLog(MemorySink()).rotate("x")


@pytest.mark.parametrize("to", [None, 3, b"bytes", "nul\x00", "", "no/such/folder"])
def test_a_name_that_cannot_be_given_changes_nothing(to: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with LogFile("log") as sink:
        log = AuditLog(sink)
        log.append(record(0))
        with pytest.raises((ArgumentInvalid, StoreFailed)):
            log.rotate(to)
        assert log.append(record(1)) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["log"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "log.1").write_bytes(b"another's")
    with LogFile(tmp_path / "log") as sink:
        log = AuditLog(sink)
        log.append(record(0))
        with pytest.raises(StoreFailed):
            log.rotate(tmp_path / "log.1")
        log.append(record(1))
    assert (tmp_path / "log.1").read_bytes() == b"another's"
    assert len(list(read_log_file(tmp_path / "log"))) == 2


class Stopping:
    """The `os` module; before its `at`th call that changes a folder or a file, the process is gone, or is refused."""

    CALLS = ("open", "write", "fsync", "unlink", "link", "replace", "ftruncate")

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error, self.calls = at, error, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*arguments: Any, **words: Any) -> Any:
            self.calls += 1
            if self.calls > self.at:
                raise self.error
            return real(*arguments, **words)

        return call


class Gone(BaseException):
    """The process ends here: what it would still clean up is refused too."""


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), Gone()], ids=["refused", "gone"])
def test_wherever_a_rotation_stops_the_log_is_whole(error: BaseException, tmp_path: Path) -> None:
    at, done = 0, False
    while not done:
        folder = tmp_path / str(at)
        folder.mkdir()
        path = folder / "log"
        sink = LogFile(path)
        log = AuditLog(sink)
        log.append([record(0), record(1)])
        with pytest.MonkeyPatch.context() as patch:
            stopping = Stopping(at, error)
            for module in (files, log_file):
                patch.setattr(module, "os", stopping)
            with contextlib.suppress(StoreError, Gone):
                log.rotate(folder / "log.1")
                done = True
            with contextlib.suppress(StoreError, Gone):
                sink.close()
        with LogFile(path) as again:
            log = AuditLog(again)
            assert len(log) == 2
            if not log.handover.size:  # it has not happened: then it can be made again
                log.rotate(folder / "log.1")
            log.append(record(2))
        assert verify_entries(read_log_parts(folder / "log.1", path)).size == 3
        at += 1
    assert at > 6


def test_a_rotation_drops_the_index(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogFile(path, fsync_every=None) as sink:
        log = AuditLog(sink)
        log.append([record(number) for number in range(5_000)])
        assert path.with_name("log.index").exists()
        log.rotate(tmp_path / "log.1")
        assert not path.with_name("log.index").exists()
        log.append([record(number) for number in range(9_000)])
        root = log.root()
        log.inclusion_proof(5_000)  # of a chunk that began in the file before
    with LogFile(path) as sink:
        log = AuditLog(sink)
        assert (len(sink.milestones), log.root(), len(log)) == (2, root, 14_000)
        for index in (5_000, 8_191, 8_192, 12_287, 12_288, 13_999):
            entry = next(iter(sink.entries_from(index)))
            verify_entry(entry, log.inclusion_proof(index), log.checkpoint(OWNER, mesh=MESH, time_ms=1))
        log.verify()
