"""The index beside a long log: it opens at once, what it leaves is verified when it is read, damage is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Identity
from agentmesh.audit import (
    AuditEvent,
    AuditLog,
    MemorySink,
    Record,
    decode_entry,
    page,
    sign_checkpoint,
    verify_entries,
    verify_entry,
)
from agentmesh.audit.merkle import leaf_hash
from agentmesh.errors import ArgumentInvalid, LogBroken, OwnerMismatch, StoreFailed
from agentmesh.store import LogFile, files, log_index, read_log_file

MESH = "example/test"
OWNER = Identity.from_seed(bytes(31) + b"\x01")
OTHER = Identity.from_seed(bytes(31) + b"\x02")
COUNT = 3 * 4_096 + 100


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, AuditLog]:
    """A log of three chunks and a bit: its file, its index, and the same in memory."""
    path = tmp_path_factory.mktemp("log") / "log"
    records = [
        Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did, number=number)
        for number in range(COUNT)
    ]
    whole = AuditLog(MemorySink())
    whole.append(records)
    with LogFile(path, fsync_every=None) as sink:
        opened = AuditLog(sink)
        opened.append(records[:5_000])
        for record in records[5_000:]:
            opened.append(record)
    return path.read_bytes(), path.with_name("log.index").read_bytes(), whole


@pytest.fixture
def path(written: tuple[bytes, bytes, AuditLog], tmp_path: Path) -> Iterator[Path]:
    before = os.umask(0o077)
    file = tmp_path / "log"
    file.write_bytes(written[0])
    file.with_name("log.index").write_bytes(written[1])
    yield file
    os.umask(before)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the entries that were verified."""
    numbers: list[int] = []
    real = page.check_page

    def check(entries: list[bytes], sequence: int, previous: Any) -> Any:
        numbers.extend(range(sequence, sequence + len(entries)))
        return real(entries, sequence, previous)

    monkeypatch.setattr(page, "check_page", check)
    return numbers


def test_what_stands_behind_the_last_chunk_is_verified_and_no_more(
    path: Path, written: tuple[bytes, bytes, AuditLog], checked: list[int]
) -> None:
    whole = written[2]
    with LogFile(path) as sink:
        opened = AuditLog(sink)
        assert checked == [*range(3 * 4_096, COUNT)]
        assert (len(opened), opened.root(), opened.owner) == (COUNT, whole.root(), OWNER.did)
        for size in (1, 4_095, 4_096, 4_097, 8_192, 10_000, COUNT):
            checked.clear()
            assert opened.root(size) == whole.root(size)
            assert opened.consistency_proof(size) == whole.consistency_proof(size)
            assert opened.inclusion_proof(size - 1) == whole.inclusion_proof(size - 1)
            assert len(checked) <= 2 * 4_096
        checkpoint = whole.checkpoint(OWNER, mesh=MESH, time_ms=1)
        entry = next(iter(sink.entries_from(5_000)))
        verify_entry(entry, opened.inclusion_proof(5_000), checkpoint)
        assert opened.verify().root == whole.root()
        opened.append(Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did))
    assert verify_entries(read_log_file(path)).size == COUNT + 1
    for size in (1, 5_000, COUNT):
        with LogFile(path) as sink:
            AuditLog(sink, checkpoint=_checkpoint(whole, size))


def _checkpoint(whole: AuditLog, size: int) -> Any:
    return sign_checkpoint(OWNER, mesh=MESH, size=size, root=whole.root(size), time_ms=1)


def test_entries_are_found_from_any_number_on(path: Path, written: tuple[bytes, bytes, AuditLog]) -> None:
    entries = list(written[2].entries())
    with LogFile(path) as sink:
        for number in (0, 1, 4_094, 4_095, 4_096, 8_191, 9_000, COUNT - 1, COUNT, COUNT + 5):
            assert list(islice(sink.entries_from(number), 3)) == entries[number : number + 3]
        assert list(sink.entries()) == entries
        for number in (-1, True, 1.0):
            with pytest.raises(ArgumentInvalid):
                sink.entries_from(number)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, b"", b"rubbish", b"agentmesh-idx-1\n" + bytes(32)])
def test_a_log_without_an_index_is_verified_whole_and_gets_one(
    content: bytes | None, path: Path, written: tuple[bytes, bytes, AuditLog], checked: list[int]
) -> None:
    index = path.with_name("log.index")
    index.unlink()
    if content is not None:
        index.write_bytes(content)
    with LogFile(path) as sink:
        assert AuditLog(sink).root() == written[2].root()
    assert checked == [*range(COUNT)]
    assert index.read_bytes() == written[1]


def test_an_index_with_any_byte_altered_is_none(
    path: Path, written: tuple[bytes, bytes, AuditLog], checked: list[int]
) -> None:
    index = path.with_name("log.index")
    for at in (0, 17, 20, 70, 80, 150, 200, len(written[1]) - 33, len(written[1]) - 1):
        altered = bytearray(written[1])
        altered[at] ^= 1
        index.write_bytes(altered)
        checked.clear()
        with LogFile(path) as sink:
            AuditLog(sink)
        assert checked == [*range(COUNT)]


def test_a_log_that_was_cut_behind_its_index_is_refused(path: Path, written: tuple[bytes, bytes, AuditLog]) -> None:
    data = written[0]
    ends = [16]
    for entry in written[2].entries():
        ends.append(ends[-1] + 4 + len(entry))
    for cut in (0, 16, ends[1], ends[5_000], ends[3 * 4_096] - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(LogBroken) as caught:
            LogFile(path)
        kept = sum(end <= cut for end in ends) - 1
        assert (caught.value.sequence, caught.value.fault) == (max(0, kept), "cut")
        assert path.read_bytes() == data[:cut]
    path.unlink()
    with pytest.raises(LogBroken, match="cut at 0"):
        LogFile(path)
    path.with_name("log.index").unlink()  # as the how-to says
    LogFile(path).close()


def test_a_log_with_another_entry_where_the_index_ends_is_refused(
    path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    other = AuditLog(MemorySink())
    other.append(
        Record(AuditEvent.MESSAGE_SEALED, at_ms=2, mesh=MESH, sender=OWNER.did, number=number)
        for number in range(COUNT)
    )
    frames = b"".join(len(entry).to_bytes(4, "big") + entry for entry in other.entries())
    path.write_bytes(b"agentmesh-log-1\n" + frames)
    with pytest.raises(LogBroken) as caught, LogFile(path) as sink:
        AuditLog(sink)
    assert (caught.value.sequence, caught.value.fault) == (3 * 4_096 - 1, "index")
    path.write_bytes(b"agentmesh-log-1\n" + b"x" + frames)
    with pytest.raises(LogBroken):
        LogFile(path)


def test_what_was_altered_before_the_index_is_found_by_whoever_reads_it(
    path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    data = bytearray(written[0])
    at = len(data) // 2
    data[at] ^= 1
    path.write_bytes(data)
    altered = None
    try:
        verify_entries(read_log_file(path))
    except LogBroken as error:
        altered = error.sequence
    assert altered is not None
    chunk = altered // 4_096
    with LogFile(path) as sink:
        opened = AuditLog(sink)
        for number in range(0, COUNT, 1_000):
            if number // 4_096 == chunk:
                with pytest.raises(LogBroken):
                    opened.inclusion_proof(number)
            else:
                opened.inclusion_proof(number)
        with pytest.raises(LogBroken):
            opened.verify()
        with pytest.raises(LogBroken):
            opened.root(chunk * 4_096 + 100)
    with LogFile(path) as sink, pytest.raises(LogBroken):
        AuditLog(sink, checkpoint=_checkpoint(written[2], chunk * 4_096 + 100))


def test_an_altered_last_entry_of_a_chunk_is_named_as_a_whole_reading_names_it(
    path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    entries = list(written[2].entries())
    sequence, previous, record = decode_entry(entries[8_191])
    record.count = 2
    entries[8_191] = record.encode(sequence, previous)
    path.write_bytes(b"agentmesh-log-1\n" + b"".join(len(entry).to_bytes(4, "big") + entry for entry in entries))
    with pytest.raises(LogBroken) as whole:
        verify_entries(read_log_file(path))
    with LogFile(path) as sink, pytest.raises(LogBroken) as caught:
        AuditLog(sink).inclusion_proof(5_000)
    assert (
        (caught.value.sequence, caught.value.fault) == (whole.value.sequence, whole.value.fault) == (8_192, "previous")
    )


def test_an_index_that_cannot_be_written_is_written_later(
    path: Path, written: tuple[bytes, bytes, AuditLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = path.with_name("log.index")
    index.unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch, LogFile(path) as sink:
        patch.setattr(log_index.os, "replace", full)
        opened = AuditLog(sink)
        opened.append(Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did))
        assert not index.exists()
        assert opened.inclusion_proof(7)
    with LogFile(path) as sink:
        AuditLog(sink)
    assert index.read_bytes() == written[1]


def test_the_index_says_nothing_that_a_power_cut_could_undo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace
    with LogFile(tmp_path / "log", fsync_every=None) as sink:
        opened = AuditLog(sink)
        monkeypatch.setattr(os, "fsync", lambda descriptor: (happened.append("fsync"), fsync(descriptor))[1])
        monkeypatch.setattr(os, "replace", lambda *names: (happened.append("index"), replace(*names))[1])
        opened.append(
            Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did, number=number)
            for number in range(4_097)
        )
        assert happened == ["fsync", "index"]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_sync_that_fails_before_the_index_is_written_loses_nothing_acknowledged(
    failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a sync may drop what it was to write and forget it: the next one would succeed without it."""
    path = tmp_path / "log"
    record = Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did)
    written: list[tuple[int, int]] = []
    failing = [errno.EIO] * failures
    fsync, overwrite = os.fsync, files.overwrite

    def sync(descriptor: int) -> None:
        if failing:
            raise OSError(failing.pop(), "")
        fsync(descriptor)

    def over(name: str, descriptor: int, data: bytes, at: int) -> None:
        written.append((at, len(data)))
        overwrite(name, descriptor, data, at)

    with LogFile(path, fsync_every=3) as sink:
        opened = AuditLog(sink)
        opened.append([record] * 4_000)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", sync)
            patch.setattr(files, "overwrite", over)
            opened.append([record] * 100)
        size = path.stat().st_size
        assert sum(length for _, length in written) == size - 16
        assert not path.with_name("log.index").exists()
        if failures == 1:
            opened.append([record] * 4_096)
        else:  # written again, and not known to be on the disk: nothing more is acknowledged
            with pytest.raises(StoreFailed):
                opened.append(record)
    with LogFile(path) as sink:
        assert len(AuditLog(sink)) == (8_196 if failures == 1 else 4_100)


def test_a_long_log_in_a_file_keeps_no_hash_an_entry(path: Path) -> None:
    with LogFile(path) as sink:
        opened = AuditLog(sink)
        held = sum(map(len, opened._tree._levels))
        assert held < 64 * (COUNT % 4_096 + 10)
        opened.inclusion_proof(1)
        assert opened._tree._chunk is not None


# --- an index that somebody else wrote -------------------------------------------------------------------------------
#
# Its check is against damage. Whoever can write beside the log makes one that is whole.


def _forged(index: bytes, **changes: bytes | int | str) -> bytes:
    """A whole index with something else in it."""
    import hashlib

    import msgpack

    body = dict(zip(("version", "owner", "first", "rows"), msgpack.unpackb(index[16:-32]), strict=True))
    data = index[:16] + msgpack.packb([*(body | changes).values()])
    return data + hashlib.sha256(data).digest()


def _rows(index: bytes) -> list[bytearray]:
    import msgpack

    rows = msgpack.unpackb(index[16:-32])[3]
    return [bytearray(rows[at : at + 80]) for at in range(0, len(rows), 80)]


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_forged_hash_is_never_signed_nor_handed_over_nor_verified(
    chunk: int, path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    rows = _rows(written[1])
    rows[chunk][48] ^= 1
    forged = _forged(written[1], rows=b"".join(rows))
    before = path.read_bytes()
    calls: tuple[Any, ...] = (
        lambda opened: opened.checkpoint(OWNER, mesh=MESH, time_ms=1),
        lambda opened: opened.rotate(path.with_name("log.1")),
        lambda opened: opened.rotate(path.with_name("log.1"), identity=OWNER, mesh=MESH, time_ms=1),
        lambda opened: opened.verify(),
        lambda opened: opened.inclusion_proof(chunk * 4_096 + 7),
        lambda opened: opened.consistency_proof(chunk * 4_096 + 7),
        lambda opened: opened.root(chunk * 4_096 + 7),
    )
    for call in calls:
        path.with_name("log.index").write_bytes(forged)
        with LogFile(path) as sink:
            opened = AuditLog(sink)
            for _ in range(2):
                with pytest.raises(LogBroken):
                    call(opened)
        assert path.read_bytes() == before
        assert not path.with_name("log.1").exists()
    # A proof that does not read the chunk is made of the forged hash, and proves nothing under an honest checkpoint.
    from agentmesh.errors import ProofInvalid

    checkpoint = written[2].checkpoint(OWNER, mesh=MESH, time_ms=1)
    with LogFile(path) as sink:
        other = (chunk + 1) % 3 * 4_096
        entry, proof = next(iter(sink.entries_from(other))), AuditLog(sink).inclusion_proof(other)
        with pytest.raises(ProofInvalid):
            verify_entry(entry, proof, checkpoint)
    # And whoever has a checkpoint at opening finds it there.
    with LogFile(path) as sink, pytest.raises(LogBroken, match="root"):
        AuditLog(sink, checkpoint=checkpoint)


def test_a_log_that_a_forged_index_let_grow_is_not_signed_and_is_whole_without_it(
    path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    rows = _rows(written[1])
    rows[1][50] ^= 1
    index = path.with_name("log.index")
    index.write_bytes(_forged(written[1], rows=b"".join(rows)))
    more = [Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did) for _ in range(4_096)]
    with LogFile(path, fsync_every=None) as sink:
        opened = AuditLog(sink)
        opened.append(more)  # which writes the index with the forged hash again
        with pytest.raises(LogBroken, match="index"):
            opened.checkpoint(OWNER, mesh=MESH, time_ms=1)
    with LogFile(path) as sink, pytest.raises(LogBroken, match="index"):
        AuditLog(sink).checkpoint(OWNER, mesh=MESH, time_ms=1)
    index.unlink()
    with LogFile(path) as sink:
        assert AuditLog(sink).checkpoint(OWNER, mesh=MESH, time_ms=1).size == COUNT + 4_096


def test_what_a_checkpoint_covers_or_was_verified_is_not_read_again_to_be_signed(
    path: Path, written: tuple[bytes, bytes, AuditLog], checked: list[int]
) -> None:
    for size, unread, reads in (
        (None, [0, 1, 2], [0, 1, 2]),
        (4_095, [0, 1, 2], [1, 2]),  # the chunk that its root goes through was read for it
        (4_096, [1, 2], [1, 2]),
        (9_000, [2], []),
        (COUNT, [], []),
    ):
        with LogFile(path) as sink:
            opened = AuditLog(sink, checkpoint=None if size is None else _checkpoint(written[2], size))
            assert [*opened._unread] == unread
            checked.clear()
            signed = opened.checkpoint(OWNER, mesh=MESH, time_ms=1)
            assert signed.root == written[2].root()
            assert sorted({number // 4_096 for number in checked}) == reads
            checked.clear()
            opened.checkpoint(OWNER, mesh=MESH, time_ms=1)
            assert checked == []
    with LogFile(path) as sink:
        opened = AuditLog(sink)
        opened.verify()
        checked.clear()
        opened.checkpoint(OWNER, mesh=MESH, time_ms=1)
        opened.append(Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did) for _ in range(4_096))
        opened.checkpoint(OWNER, mesh=MESH, time_ms=1)
        assert checked == []
        opened.rotate(path.with_name("log.1"))
        assert len(opened) == COUNT + 4_096


@pytest.mark.parametrize(("is_sealed", "unread"), [(True, []), (False, [0, 1, 2]), ("no", [0, 1, 2])])
def test_a_sink_is_sealed_where_it_says_so_and_not_where_it_can_say(
    is_sealed: object, unread: list[int], path: Path
) -> None:
    with LogFile(path) as sink:

        class Around:
            handover, owner, milestones = sink.handover, sink.owner, sink.milestones
            append, entries, entries_from, mark, rotate = (
                sink.append, sink.entries, sink.entries_from, sink.mark, sink.rotate,
            )  # fmt: skip

        around = Around()
        around.is_sealed = is_sealed  # type: ignore[attr-defined]
        assert [*AuditLog(around)._unread] == unread


def test_an_agent_is_not_held_while_what_it_signs_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentmesh import Agent
    from agentmesh.audit import AuditJournal

    with LogFile(path) as sink:
        opened = AuditLog(sink)
        agent = Agent.create(MESH, identity=OWNER, journal=AuditJournal(opened))
        held: list[bool] = []
        real = page.check_page

        def check(*arguments: Any) -> Any:
            held.append(agent._seam.lock._is_owned())  # type: ignore[attr-defined]
            return real(*arguments)

        monkeypatch.setattr(page, "check_page", check)
        assert agent.checkpoint(opened).size == COUNT
        assert held == [False] * 12


def test_a_log_that_was_rotated_within_a_chunk_is_read_from_where_its_file_begins(path: Path) -> None:
    more = [Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did) for _ in range(9_000)]
    with LogFile(path, fsync_every=None) as sink:
        opened = AuditLog(sink)
        opened.rotate(path.with_name("log.1"))
        opened.append(more)
        root = opened.root()
    with LogFile(path) as sink:
        opened = AuditLog(sink)
        assert [*opened._unread] == [3, 4]
        assert opened.checkpoint(OWNER, mesh=MESH, time_ms=1).root == root
        assert [*opened._unread] == []


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"first": 1}, {"first": 4_096}, {"rows": b"x"}, {"rows": bytes(79)}, {"owner": 1}],
    ids=str,
)
def test_a_whole_index_of_another_form_is_none(
    change: dict[str, Any], path: Path, written: tuple[bytes, bytes, AuditLog], checked: list[int]
) -> None:
    index = path.with_name("log.index")
    index.write_bytes(_forged(written[1], **change))
    with LogFile(path) as sink:
        assert AuditLog(sink).root() == written[2].root()
    assert checked == [*range(COUNT)]
    assert index.read_bytes() == written[1]


def test_an_older_index_is_caught_up_with(
    path: Path, written: tuple[bytes, bytes, AuditLog], checked: list[int]
) -> None:
    index = path.with_name("log.index")
    for rows in range(3):
        index.write_bytes(_forged(written[1], rows=b"".join(_rows(written[1])[:rows])))
        checked.clear()
        with LogFile(path) as sink:
            assert AuditLog(sink).root() == written[2].root()
        assert checked == [*range(rows * 4_096, COUNT)]
        assert index.read_bytes() == written[1]


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 8])
@pytest.mark.parametrize("value", [0, 16, 2**40, 2**63, 2**64 - 1])
def test_places_that_no_log_has_are_no_index(
    value: int, at: int, row: int, path: Path, written: tuple[bytes, bytes, AuditLog], checked: list[int]
) -> None:
    rows = _rows(written[1])
    rows[row][at : at + 8] = value.to_bytes(8, "big")
    path.with_name("log.index").write_bytes(_forged(written[1], rows=b"".join(rows)))
    with LogFile(path) as sink:
        assert AuditLog(sink).root() == written[2].root()
    assert checked == [*range(COUNT)]


def test_places_beyond_the_file_are_a_log_that_was_cut(path: Path, written: tuple[bytes, bytes, AuditLog]) -> None:
    for far in (2**40, 2**64 - 200):
        rows = _rows(written[1])
        rows[2][:16] = far.to_bytes(8, "big") + (far + 100).to_bytes(8, "big")
        path.with_name("log.index").write_bytes(_forged(written[1], rows=b"".join(rows)))
        with pytest.raises(LogBroken, match="cut"):
            LogFile(path)


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("shift", [-1, 1, 50])
def test_a_forged_place_is_refused_and_changes_nothing(
    row: int, shift: int, path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    rows = _rows(written[1])
    rows[row][:8] = (int.from_bytes(rows[row][:8], "big") + shift).to_bytes(8, "big")
    path.with_name("log.index").write_bytes(_forged(written[1], rows=b"".join(rows)))
    if row == 2:
        with pytest.raises(LogBroken, match="index"):
            LogFile(path)
    else:
        with LogFile(path) as sink:
            opened = AuditLog(sink)
            with pytest.raises(LogBroken):
                opened.inclusion_proof((row + 1) * 4_096 + 10)
            with pytest.raises(LogBroken):
                opened.checkpoint(OWNER, mesh=MESH, time_ms=1)
            assert opened.verify().root == written[2].root()
    assert path.read_bytes() == written[0]


@pytest.mark.parametrize("number", [0, 4_094, 8_191, COUNT - 1])
def test_a_place_of_an_entry_with_another_number_is_refused(
    number: int, path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    # Else the log went on with a number that it has already, behind its last entry.
    entries = list(written[2].entries())
    end = 16 + sum(4 + len(entry) for entry in entries[: number + 1])
    last = end - 4 - len(entries[number])
    row = last.to_bytes(8, "big") + end.to_bytes(8, "big") + leaf_hash(entries[number]) + bytes(32)
    path.with_name("log.index").write_bytes(_forged(written[1], rows=row))
    with LogFile(path) as sink, pytest.raises(LogBroken):
        AuditLog(sink)
    assert path.read_bytes() == written[0]


@pytest.mark.parametrize("garbage", [b"x", b"\xc1" * 100, b"\x91" * 1_000])
def test_an_entry_that_is_none_where_the_index_ends_is_refused(
    garbage: bytes, path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    start = len(written[0])
    path.write_bytes(written[0] + len(garbage).to_bytes(4, "big") + garbage)
    end = start + 4 + len(garbage)
    row = start.to_bytes(8, "big") + end.to_bytes(8, "big") + leaf_hash(garbage) + bytes(32)
    path.with_name("log.index").write_bytes(_forged(written[1], rows=row))
    with LogFile(path) as sink, pytest.raises(LogBroken, match="index at 4095"):
        AuditLog(sink)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["log.index", "log.index.new"])
def test_a_pipe_or_a_link_in_the_place_of_an_index_stops_nothing(
    name: str, path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    index = path.with_name("log.index")
    mine = path.with_name("mine")
    for put in (
        lambda at: os.mkfifo(at),
        lambda at: at.symlink_to(mine),
        lambda at: at.hardlink_to(mine),
        lambda at: at.mkdir(),
    ):
        mine.write_bytes(b"mine")
        index.unlink(missing_ok=True)
        place = path.with_name(name)
        put(place)
        with LogFile(path) as sink:
            assert AuditLog(sink).root() == written[2].root()
        assert mine.read_bytes() == b"mine"
        if not place.is_dir():
            assert index.read_bytes() == written[1]
            place.unlink(missing_ok=True)
        else:
            place.rmdir()


# --- whose log it is --------------------------------------------------------------------------------------------------


def test_the_owner_of_a_long_log_is_known_without_reading_it(path: Path) -> None:
    other = OTHER
    with LogFile(path) as sink:
        opened = AuditLog(sink)
        before = path.read_bytes()
        for event, fields in (
            (AuditEvent.MESSAGE_SEALED, {"sender": other.did}),
            (AuditEvent.MESSAGE_OPENED, {"sender": OWNER.did, "recipient": other.did}),
            (AuditEvent.KNOCK_ACCEPTED, {"sender": other.did, "recipient": "did:x:y"}),
            (AuditEvent.MESSAGE_REFUSED, {"sender": other.did, "recipient": OWNER.did}),
        ):
            with pytest.raises(OwnerMismatch):
                opened.append(Record(event, at_ms=1, mesh=MESH, **fields))  # type: ignore[arg-type]
        with pytest.raises(OwnerMismatch):
            opened.checkpoint(other, mesh=MESH, time_ms=1)
        assert (path.read_bytes(), len(opened)) == (before, COUNT)
        for event, fields in (
            (AuditEvent.KNOCK_ACCEPTED, {"sender": other.did, "recipient": OWNER.did}),
            (AuditEvent.ENVELOPE_SEEN, {"sender": other.did, "recipient": "did:x:y"}),
            (AuditEvent.TRUST_UPDATED, {"sender": other.did, "recipient": "did:x:y"}),
        ):
            opened.append(Record(event, at_ms=1, mesh=MESH, **fields))  # type: ignore[arg-type]


def test_the_owner_is_known_where_nothing_behind_the_index_names_one(tmp_path: Path) -> None:
    with LogFile(tmp_path / "log", fsync_every=None) as sink:
        AuditLog(sink).append(
            Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did) for _ in range(4_096)
        )
    with LogFile(tmp_path / "log") as sink:
        assert AuditLog(sink).owner == OWNER.did


@pytest.mark.parametrize("owner", ["not a name", "\x1b[2J", "did:"], ids=ascii)
def test_an_index_whose_owner_no_record_can_name_is_none(
    owner: str, path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    """The log of a relay names none that would contradict it."""
    index = path.with_name("log.index")
    index.write_bytes(_forged(written[1], owner=owner))
    assert log_index.LogIndex.read(str(index), 0) == log_index.LogIndex(str(index), 0)
    index.write_bytes(_forged(written[1], owner=OTHER.did))
    assert log_index.LogIndex.read(str(index), 0).owner == OTHER.did


@pytest.mark.parametrize("owner", ["", OTHER.did, "did:example:x", "not a name", "\x1b[2J"], ids=ascii)
@pytest.mark.parametrize("count", [3 * 4_096, COUNT], ids=["whole chunks", "and some"])
def test_a_forged_owner_is_not_signed_nor_handed_over(
    owner: str, count: int, path: Path, written: tuple[bytes, bytes, AuditLog]
) -> None:
    """The next file would begin with what nobody can read, or be another's for ever."""
    entries = list(written[2].entries())[:count]
    before = b"agentmesh-log-1\n" + b"".join(len(entry).to_bytes(4, "big") + entry for entry in entries)
    path.write_bytes(before)
    index = path.with_name("log.index")
    ended = path.with_name("log.1")
    for call in (
        lambda opened: opened.checkpoint(OTHER, mesh=MESH, time_ms=1),
        lambda opened: opened.rotate(ended, identity=OTHER, mesh=MESH, time_ms=1),
        lambda opened: opened.rotate(ended),
    ):
        index.write_bytes(_forged(written[1], owner=owner))
        with LogFile(path) as sink:
            opened = AuditLog(sink)
            try:
                call(opened)
            except (LogBroken, OwnerMismatch):
                assert path.read_bytes() == before
                assert not ended.exists()
            else:  # an index that is none
                assert (owner.isascii() and owner.startswith("did:"), opened.owner) == (False, OWNER.did)
    if count == COUNT and not ended.exists():
        # What stands behind the chunks says whose it is, whatever the index says.
        index.write_bytes(_forged(written[1], owner=owner))
        with LogFile(path) as sink:
            AuditLog(sink).append(Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did))


def test_a_checkpoint_of_another_identity_opens_no_log(path: Path, written: tuple[bytes, bytes, AuditLog]) -> None:
    other = sign_checkpoint(OTHER, mesh=MESH, size=COUNT, root=written[2].root(), time_ms=1)
    with LogFile(path) as sink, pytest.raises(OwnerMismatch):
        AuditLog(sink, checkpoint=other)


def test_a_second_identity_cannot_write_into_a_log(tmp_path: Path) -> None:
    from agentmesh import Agent
    from agentmesh.audit import AuditJournal

    with LogFile(tmp_path / "log") as sink:
        opened = AuditLog(sink)
        Agent.create(MESH, journal=AuditJournal(opened)).publish_bundles(1)
        second = Agent.create(MESH, journal=AuditJournal(opened))
        state = second.export_state()
        with pytest.raises(OwnerMismatch):
            second.publish_bundles(1)
        assert second.export_state() == state
    before = (tmp_path / "log").read_bytes()
    with LogFile(tmp_path / "log") as sink, pytest.raises(OwnerMismatch):
        Agent.create(MESH, journal=AuditJournal(AuditLog(sink))).publish_bundles(1)
    assert (tmp_path / "log").read_bytes() == before
