"""The trail of an agent in a store: its rows, what failing means, and what it refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentmesh import Identity
from agentmesh.audit import (
    AuditEvent,
    AuditJournal,
    AuditLog,
    MemorySink,
    OnFailure,
    Record,
    verified_records,
    verify_entries,
    verify_entry,
)
from agentmesh.audit.merkle import CHUNK
from agentmesh.audit.prepared import Prepared
from agentmesh.errors import (
    ArgumentInvalid,
    ForkedChild,
    LogBroken,
    OwnerMismatch,
    StoreBroken,
    StoreFailed,
)
from agentmesh.primitives import _wire
from agentmesh.primitives.forked import Birthplace
from agentmesh.store import LogFile, export_log, read_log_file
from agentmesh.store.log_rows import StoreLog
from agentmesh.store.rows import Name
from agentmesh.store.trail import Trail

MESH = "example/test"
OWNER = Identity.from_seed(bytes(31) + b"\x01")
OTHER = Identity.from_seed(bytes(31) + b"\x02")
RECORDS = ("records", b"")
TAIL = ("tail", b"")


def record(number: int, **fields: Any) -> Record:
    values: dict[str, Any] = {"at_ms": 1, "mesh": MESH, "sender": OWNER.did, "number": number}
    return Record(AuditEvent.MESSAGE_SEALED, **values | fields)


def records(*numbers: int) -> tuple[Record, ...]:
    return tuple(map(record, numbers))


def numbers(entries: Iterable[bytes]) -> list[int]:
    return [one.number for one in verified_records(entries)]


class Database:
    """The plain rows of one agent."""

    def __init__(self, rows: dict[Name, bytes] | None = None) -> None:
        self.rows: dict[Name, bytes] = {} if rows is None else rows
        self.read = 0

    def log(self, first: int) -> Iterator[tuple[bytes, bytes]]:
        for kind, key in sorted(self.rows):
            if kind == "log" and key >= first.to_bytes(8, "big"):
                self.read += 1
                yield key, self.rows[kind, key]

    def opened(self) -> tuple[AuditLog, Trail]:
        log = AuditLog(StoreLog(self.log, self.rows))
        trail = Trail(AuditJournal(log), self.rows)
        trail.kept()
        return log, trail

    def commit(self, trail: Trail, taken: tuple[Record, ...]) -> None:
        self.rows |= trail.rows_for(taken)
        trail.kept()


class FailingSink:
    """Raises what it is told to, instead of keeping."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.failure: BaseException | None = None

    def append(self, entries: Sequence[bytes], /) -> None:
        if self.failure is not None:
            raise self.failure
        self.kept.extend(entries)

    def entries(self) -> Iterable[bytes]:
        return tuple(self.kept)


# --- beside the store -------------------------------------------------------------------------------------------------


def test_a_step_writes_what_the_log_is_to_get_and_the_log_gets_it_behind() -> None:
    log = AuditLog(MemorySink())
    log.append(record(0))
    trail = Trail(AuditJournal(log), {})
    trail.kept()
    rows = trail.rows_for(records(1, 2))
    assert (list(rows), len(log)) == ([RECORDS], 1)
    assert Prepared.decode(rows[RECORDS]).records == records(1, 2)
    trail.kept()
    trail.kept()
    assert numbers(log.entries()) == [0, 1, 2]
    assert trail.rows_for(()) == {}
    trail.kept()
    assert trail.rows_for(records(3))
    trail.dropped()
    trail.kept()
    assert len(log) == 3


@pytest.mark.parametrize("there", [0, 1, 2, 3])
@pytest.mark.parametrize("stranger", [False, True])
def test_at_opening_the_log_gets_what_is_missing(there: int, stranger: bool) -> None:
    log = AuditLog(MemorySink())
    log.append(record(0))
    rows = Trail(AuditJournal(log), {}).rows_for(records(1, 2, 3))
    entries = Prepared.decode(rows[RECORDS]).entries
    again = AuditLog(MemorySink([*log.entries(), *entries[:there]]))
    if stranger:
        again.append(record(9))
    Trail(AuditJournal(again), rows).kept()
    Trail(AuditJournal(again), rows).kept()
    found = numbers(again.entries())
    assert sorted(found) == [0, 1, 2, 3] + [9] * stranger
    assert [number for number in found if number != 9] == [0, 1, 2, 3]
    if not stranger:
        assert list(again.entries())[1:] == entries


def test_what_became_of_a_step_is_known_before_the_next() -> None:
    trail = Trail(AuditJournal(AuditLog(MemorySink())), {})
    trail.rows_for(records(0))
    with pytest.raises(StoreFailed):
        trail.rows_for(records(1))
    trail.kept()
    trail.rows_for(records(1))


def test_a_log_that_lost_entries_or_has_others_is_refused() -> None:
    log = AuditLog(MemorySink())
    log.append(records(0, 1))
    rows = Trail(AuditJournal(log), {}).rows_for(records(2))
    entries = list(log.entries())
    other = AuditLog(MemorySink())
    other.append(records(0, 7))
    for sink, fault in (
        (MemorySink(entries[:1]), ("cut", 1)),
        (MemorySink(), ("cut", 0)),
        (MemorySink(other.entries()), ("index", 1)),
    ):
        found = AuditLog(sink)
        before = found.root()
        trail = Trail(AuditJournal(found), rows)
        for _ in range(2):
            with pytest.raises(LogBroken) as caught:
                trail.kept()
            assert (caught.value.fault, caught.value.sequence) == fault
        assert found.root() == before
        journal = AuditJournal(found, on_failure=OnFailure.CARRY_ON)
        Trail(journal, rows).kept()
        assert (journal.unrecorded, found.root()) == (1, before)


def test_the_owner_stays_whose_log_it_is() -> None:
    log = AuditLog(MemorySink())
    log.append(record(0))
    verdict = Record(AuditEvent.KNOCK_ACCEPTED, at_ms=1, mesh=MESH, sender=OTHER.did, recipient=OWNER.did)
    rows = Trail(AuditJournal(log), {}).rows_for((verdict,))
    Trail(AuditJournal(log), rows).kept()
    assert (len(log), log.owner) == (2, OWNER.did)
    with pytest.raises(OwnerMismatch):
        Trail(AuditJournal(log), {}).rows_for((record(2, sender=OTHER.did),))


def test_what_is_rotated_in_between_is_in_the_earlier_file(tmp_path: Path) -> None:
    for place, there in enumerate((0, 1, 2)):
        path = tmp_path / str(place)
        with LogFile(path) as file:
            log = AuditLog(file)
            log.append(record(0))
            rows = Trail(AuditJournal(log), {}).rows_for(records(1, 2))
            log.append(records(1, 2)[:there])
            log.rotate(tmp_path / f"{place}.ended")
            Trail(AuditJournal(log), rows).kept()
        assert numbers(read_log_file(tmp_path / f"{place}.ended", path)) == [0, 1, 2]


@pytest.mark.parametrize("failure", [StoreFailed(), OSError()])
def test_a_log_that_does_not_take_a_step_is_asked_again(failure: Exception) -> None:
    sink = FailingSink()
    trail = Trail(AuditJournal(AuditLog(sink)), {})
    trail.rows_for(records(0, 1))
    sink.failure = failure
    for _ in range(2):
        with pytest.raises(type(failure)):
            trail.kept()
    sink.failure = None
    trail.kept()
    trail.kept()
    assert numbers(sink.kept) == [0, 1]


def test_carrying_on_counts_what_is_missing() -> None:
    sink = FailingSink()
    journal = AuditJournal(AuditLog(sink), on_failure=OnFailure.CARRY_ON)
    trail = Trail(journal, {})
    sink.failure = StoreFailed()
    assert list(trail.rows_for(records(0, 1))) == [RECORDS]
    trail.kept()
    assert (journal.unrecorded, sink.kept) == (2, [])
    assert trail.rows_for((record(2, sender=OTHER.did, reason="No Word"),)) == {}
    trail.kept()
    assert journal.unrecorded == 3
    sink.failure = None
    trail.rows_for(records(4))
    trail.kept()
    assert (journal.unrecorded, numbers(sink.kept)) == (3, [4])


@pytest.mark.parametrize("method", ["rows_for", "kept"])
def test_nothing_is_carried_on_in_a_copy_of_the_agent(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = AuditJournal(AuditLog(MemorySink()), on_failure=OnFailure.CARRY_ON)
    trail = Trail(journal, {})
    arguments: dict[str, tuple[Any, ...]] = {"rows_for": (records(0),), "kept": ()}
    if method == "kept":
        trail.rows_for(records(0))

    def elsewhere(_: Birthplace) -> None:
        raise ForkedChild

    monkeypatch.setattr(Birthplace, "check", elsewhere)
    with pytest.raises(ForkedChild):
        getattr(trail, method)(*arguments[method])
    assert journal.unrecorded == 0


def test_a_row_that_is_none_is_refused() -> None:
    journal = AuditJournal(AuditLog(MemorySink()))
    row = Trail(journal, {}).rows_for(records(0, 1))[RECORDS]
    version, entries = 1, list(Prepared.decode(row).entries)
    for bad in (
        b"", row[:-1], row + b"x", _wire.encode([version, []]), _wire.encode([2, entries]),
        _wire.encode([version, entries[::-1]]), _wire.encode([version, [b"x"]]),
        _wire.encode([version, entries[:1] * 2]),
    ):  # fmt: skip
        with pytest.raises(StoreBroken) as caught:
            Trail(journal, {RECORDS: bad})
        assert caught.value.what == "records"
    for place in range(len(row)):
        with contextlib.suppress(StoreBroken):
            Trail(journal, {RECORDS: row[:place] + bytes([row[place] ^ 1]) + row[place + 1 :]})
    assert len(journal.log) == 0


def test_other_journals() -> None:
    class Journal:
        """One of the caller's own."""

        def __init__(self) -> None:
            self.told: list[tuple[Any, Any]] = []
            self.failure: Exception | None = None

        def commit(self, changes: Any, taken: tuple[Record, ...], /) -> None:
            if self.failure is not None:
                raise self.failure
            self.told.append((changes, taken))

    plain = Trail(None, {RECORDS: b"of a log that is not at hand"})
    assert plain.rows_for(()) == {}
    plain.kept()
    journal = Journal()
    trail = Trail(journal, {RECORDS: b"of a log that is not at hand"})
    trail.kept()
    assert trail.rows_for(records(1)) == {}
    trail.kept()
    assert trail.rows_for(()) == {}
    assert journal.told == [((), records(1)), ((), ())]
    journal.failure = ValueError()
    with pytest.raises(ValueError):
        trail.rows_for(records(2))


# --- in the store -----------------------------------------------------------------------------------------------------


def test_entries_are_rows_of_the_step() -> None:
    database = Database()
    log, trail = database.opened()
    rows = trail.rows_for(records(0, 1))
    assert set(rows) == {("log", bytes(8)), ("log", bytes(7) + b"\x01"), TAIL}
    assert (len(log), list(log.entries())) == (0, [])
    trail.dropped()
    database.commit(trail, records(2))
    database.commit(trail, ())
    database.commit(trail, records(3, 4))
    for found in (log, database.opened()[0]):
        assert (numbers(found.entries()), found.root(), found.owner) == ([2, 3, 4], log.root(), OWNER.did)


def test_records_reach_it_through_the_agent_alone() -> None:
    database = Database()
    log, trail = database.opened()
    database.commit(trail, records(0))
    for call in (lambda: log.append(record(1)), lambda: log.rotate("ended")):
        with pytest.raises(ArgumentInvalid):
            call()
    trail.rows_for(records(1))
    trail.dropped()
    with pytest.raises(ArgumentInvalid):
        log.append(record(1))
    assert (len(log), numbers(log.entries())) == (1, [0])
    database.commit(trail, records(5))
    assert numbers(log.entries()) == [0, 5]


@pytest.mark.parametrize("rows", ["milestones", "no milestones"])
def test_opening_reads_what_stands_behind_the_last_milestone(rows: str) -> None:
    database = Database()
    log, trail = database.opened()
    database.commit(trail, records(*range(2 * CHUNK - 1)))
    database.commit(trail, records(2 * CHUNK - 1))
    assert sorted(key[-1] for kind, key in database.rows if kind == "milestone") == [0]
    for _ in range(2):  # the second goes with what is written next
        assert ("milestone", bytes(7) + b"\x01") in trail.rows_for(records(2 * CHUNK))
        trail.dropped()
    database.commit(trail, records(2 * CHUNK))
    assert sorted(key[-1] for kind, key in database.rows if kind == "milestone") == [0, 1]
    assert "milestone" not in {kind for kind, _ in trail.rows_for(records(2 * CHUNK + 1))}
    trail.dropped()
    if rows == "no milestones":
        database.rows = {name: data for name, data in database.rows.items() if name[0] != "milestone"}
    database.read = 0
    again, trail = database.opened()
    assert (database.read <= 3) is (rows == "milestones")
    assert (again.root(), len(again)) == (log.root(), 2 * CHUNK + 1)
    checkpoint = again.checkpoint(OWNER, mesh=MESH, time_ms=1)
    entry = database.rows["log", (77).to_bytes(8, "big")]
    assert verify_entry(entry, again.inclusion_proof(77), checkpoint).number == 77
    database.commit(trail, records(2 * CHUNK + 1))
    assert sorted(key[-1] for kind, key in database.rows if kind == "milestone") == [0, 1]
    assert again.verify().size == 2 * CHUNK + 2


def test_rows_that_are_missing_or_others_are_refused() -> None:
    database = Database()
    _, trail = database.opened()
    for number in range(5):
        database.commit(trail, records(number))
    whole = database.rows
    others = Database()
    _, trail = others.opened()
    for number in (0, 1, 2, 3, 9):
        others.commit(trail, records(number))

    def key(number: int) -> Name:
        return "log", number.to_bytes(8, "big")

    for number in range(5):
        without = Database({name: data for name, data in whole.items() if name != key(number)})
        with pytest.raises(LogBroken) as caught:
            without.opened()
        assert (caught.value.fault, caught.value.sequence) == ("cut", number)
    for altered, fault in (
        (whole | {key(4): others.rows[key(4)]}, ("index", 4)),
        (whole | {key(1): whole[key(2)]}, ("sequence", 1)),
        (whole | {TAIL: others.rows[TAIL]}, ("index", 4)),
    ):
        with pytest.raises(LogBroken) as caught:
            Database(altered).opened()
        assert (caught.value.fault, caught.value.sequence) == fault
    size, head = 5, bytes(32)
    for altered, what in (
        (whole | {TAIL: b""}, "tail"),
        (whole | {TAIL: whole[TAIL] + b"x"}, "tail"),
        (whole | {TAIL: _wire.encode([2, size, head, ""])}, "tail"),
        (whole | {TAIL: _wire.encode([1, 0, head, ""])}, "tail"),
        (whole | {("milestone", bytes(8)): bytes(64)}, "milestone"),  # there is no such chunk
        (whole | {("milestone", bytes(7) + b"\x01"): bytes(64)}, "milestone"),
        (whole | {("milestone", bytes(8)): bytes(63)}, "milestone"),
    ):
        with pytest.raises(StoreBroken) as broken:
            Database(altered).opened()
        assert broken.value.what == what
    without = Database({name: data for name, data in whole.items() if name != TAIL})
    with pytest.raises(StoreBroken) as broken:
        without.opened()
    assert broken.value.what == "tail"


def test_what_stands_in_the_store_is_recorded_whatever_can_be_read() -> None:
    database = Database()
    log = AuditLog(StoreLog(database.log, {}))
    journal = AuditJournal(log, on_failure=OnFailure.CARRY_ON)
    trail = Trail(journal, {})
    database.rows |= trail.rows_for(records(0))
    log._is_in_step = False  # as an interrupt leaves it
    log._sink._tail = StoreLog(database.log, database.rows)._tail  # type: ignore[attr-defined]
    rows, database.rows = database.rows, {}
    with pytest.raises(LogBroken):
        trail.kept()
    database.rows = rows
    trail.kept()
    assert (journal.unrecorded, numbers(log.entries())) == (0, [0])


# --- broken off -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False])
def test_a_call_that_is_broken_off_is_made_again(inside: bool, interrupts: ModuleType) -> None:
    def make() -> tuple[Database, AuditLog, Trail]:
        database = Database()
        log = database.opened()[0] if inside else AuditLog(MemorySink())
        trail = Trail(AuditJournal(log), {})
        database.commit(trail, records(0))
        database.rows |= trail.rows_for(records(1, 2))
        return database, log, trail

    for database, log, trail in interrupts.each(make, lambda made: made[2].kept()):
        trail.kept()
        assert numbers(log.entries()) == [0, 1, 2]
        database.commit(trail, records(3))
        assert log.verify().size == 4


@pytest.mark.parametrize("inside", [True, False])
def test_rows_that_were_not_written_change_nothing(inside: bool, interrupts: ModuleType) -> None:
    def make() -> tuple[Database, AuditLog, Trail]:
        database = Database()
        log = database.opened()[0] if inside else AuditLog(MemorySink())
        trail = Trail(AuditJournal(log), {})
        database.commit(trail, records(0))
        return database, log, trail

    for database, log, trail in interrupts.each(make, lambda made: made[2].rows_for(records(1, 2))):
        trail.dropped()
        trail.kept()
        assert numbers(log.entries()) == [0]
        database.commit(trail, records(3))
        assert numbers(log.entries()) == [0, 3]


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_copy_is_not_made_over_another_log(tmp_path: Path) -> None:
    database = Database()
    log, trail = database.opened()
    database.commit(trail, records(0, 1))
    with LogFile(tmp_path / "other") as file:
        AuditLog(file).append(records(0, 7))
    with LogFile(tmp_path / "longer") as file:
        AuditLog(file).append(records(0, 1, 2))
    for name in ("other", "longer"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(LogBroken) as caught:
            export_log(log, tmp_path / name)
        assert caught.value.fault == "root"
        assert (tmp_path / name).read_bytes() == before
    checkpoint = log.checkpoint(OWNER, mesh=MESH, time_ms=1)
    assert export_log(log, tmp_path / "copy") == 2
    assert verify_entries(read_log_file(tmp_path / "copy"), checkpoint=checkpoint).size == 2
    with pytest.raises(ArgumentInvalid):
        export_log(object(), tmp_path / "copy")  # type: ignore[arg-type]
