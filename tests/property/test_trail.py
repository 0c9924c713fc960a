"""State and records, whatever is killed where: a log in the store, and a log in a file beside it.

The log always verifies, holds the records of every durable step exactly once and in order, and none of a step that is
not durable.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Identity
from agentmesh.audit import AuditEvent, AuditJournal, AuditLog, LongSink, Record, verified_records, verify_entries
from agentmesh.errors import StoreFailed
from agentmesh.store import LogFile, export_log, files, log_rows, read_log_parts
from agentmesh.store.log_rows import StoreLog
from agentmesh.store.rows import Name
from agentmesh.store.trail import Trail

MESH = "example/test"
OWNER = Identity.from_seed(bytes(31) + b"\x01")
STRANGER = -1  # the number in records that somebody else appends
STATE = ("session", b"id")
Fault = Literal[
    "none", "killed before the write", "killed behind the write", "killed in the append", "killed behind the append",
    "refused", "written and not said", "not written and not said", "log refuses",
]  # fmt: skip
FAULTS: tuple[Fault, ...] = Fault.__args__  # type: ignore[attr-defined]


class Killed(BaseException):
    """The process is no more."""


class Database:
    """Rows that outlive a process, in the clear."""

    def __init__(self) -> None:
        self.rows: dict[Name, bytes] = {}
        self.number = 0

    def write(self, put: Mapping[Name, bytes], removed: Collection[Name] = ()) -> None:
        self.rows = {name: data for name, data in (self.rows | put).items() if name not in removed}
        self.number += 1

    def log(self, first: int) -> Iterator[tuple[bytes, bytes]]:
        names = sorted(name for name in self.rows if name[0] == "log" and name[1] >= first.to_bytes(8, "big"))
        return ((key, self.rows[kind, key]) for kind, key in names)

    def plain(self) -> dict[Name, bytes]:
        return {name: data for name, data in self.rows.items() if name[0] != "log"}


def record(number: int) -> Record:
    return Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did, number=max(number, 0))


def strange() -> Record:
    return Record(AuditEvent.TRUST_UPDATED, at_ms=1, mesh=MESH, sender=OWNER.did, number=0)


class World:
    """An agent in a store, as far as its trail goes: a step writes its number, and some records that have it."""

    def __init__(self, folder: Path, *, inside: bool) -> None:
        self.database = Database()
        self.inside = inside
        self.path = folder / "log"
        self.ended: list[Path] = []
        self.stack = ExitStack()
        self.fault: Fault = "none"
        self.torn: bytes | None = None
        self.torn_at = 0.0
        self.first = ""
        self.made: dict[int, int] = {}  # how many records a step makes
        self.durable: list[int] = []  # steps
        self.file: LogFile | None = None
        self.start()

    def start(self) -> None:
        """Open the store and the log as a process does that finds them there."""
        plain = self.database.plain()
        if not self.inside:
            self.file = self.stack.enter_context(LogFile(self.path))
        sink: LongSink = self.file if self.file is not None else StoreLog(self.database.log, plain)
        self.journal = AuditJournal(AuditLog(sink))
        self.trail = Trail(self.journal, plain)
        self.heal()

    def heal(self) -> None:
        """Do what comes before anything else; somebody else who has the log may be quicker."""
        if self.first == "meddle":
            self.meddle()
        elif self.first == "rotate":
            self.rotate()
        self.trail.kept()

    def kill(self) -> None:
        """End the process as the operating system does: of the file stands what was written."""
        self.fault, left = "none", self.torn
        if self.file is not None and left is None:
            left = self.path.read_bytes()
        self.stack.close()
        if left is not None:
            self.path.write_bytes(left)
        self.torn = None

    def step(self, number: int, records: int, fault: Fault) -> None:
        self.fault, self.made[number] = fault, records
        try:
            self._commit(number, tuple(record(number) for _ in range(records)))
        except StoreFailed:
            pass
        except Killed:
            self.kill()
            self.start()
        self.fault = "none"
        self.heal()
        if self.database.rows.get(STATE) == b"%d" % number:
            self.durable.append(number)

    def _commit(self, number: int, records: tuple[Record, ...]) -> None:
        put = {STATE: b"%d" % number, **self.trail.rows_for(records)}
        if self.fault == "killed before the write":
            raise Killed
        before = self.database.number
        try:
            self._write(put)
        except StoreFailed:
            if self.database.number == before:
                self.trail.dropped()
                raise
        if self.fault == "killed behind the write":
            raise Killed
        self.trail.kept()
        if self.fault == "killed behind the append":
            raise Killed

    def _write(self, put: Mapping[Name, bytes]) -> None:
        if self.fault not in ("refused", "not written and not said"):
            self.database.write(put)
        if self.fault in ("refused", "not written and not said", "written and not said"):
            raise StoreFailed

    def append(self, descriptor: int, data: bytes) -> None:
        """Stand for `files.append`."""
        if self.fault == "log refuses":
            raise OSError
        if self.fault == "killed in the append":
            REALLY_APPEND(descriptor, data[: int(len(data) * self.torn_at)])
            self.torn = self.path.read_bytes()
            raise Killed
        REALLY_APPEND(descriptor, data)

    def rotate(self) -> None:
        if not self.inside:
            self.ended.append(self.path.with_name(f"log.{len(self.ended)}"))
            self.journal.log.rotate(self.ended[-1])

    def meddle(self) -> None:
        """Append a record behind the agent's back."""
        if not self.inside:
            self.journal.log.append(strange())

    def entries(self) -> Sequence[Any]:
        if self.inside:
            return list(self.journal.log.entries())
        return list(read_log_parts(*self.ended, self.path))

    def check(self) -> None:
        entries = self.entries()
        assert verify_entries(entries).root == self.journal.log.root()
        recorded = [one.number for one in verified_records(entries) if one.event is AuditEvent.MESSAGE_SEALED]
        assert recorded == [number for number in self.durable for _ in range(self.made[number])]


REALLY_APPEND = files.append
Step = tuple[int, Fault, str, str, float]  # records; what happens then, before it heals, behind it; how much is written
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 1, 2, 3]),
        st.sampled_from(FAULTS),
        st.sampled_from(["", "", "rotate", "meddle"]),
        st.sampled_from(["", "", "rotate", "meddle"]),
        st.floats(0, 1),
    ),
    max_size=12,
)


def run(steps: Sequence[Step], *, inside: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        world = World(Path(folder), inside=inside)
        patch.setattr(files, "append", world.append)
        for number, (records, fault, world.first, besides, world.torn_at) in enumerate(steps):
            world.step(number, records, fault)
            world.check()
            if besides == "rotate":
                world.rotate()
            elif besides == "meddle":
                world.meddle()
            world.check()
        world.kill()
        world.start()
        world.check()
        world.stack.close()


@given(steps=STEPS)
def test_a_log_in_a_file_heals(steps: list[Step]) -> None:
    run(steps, inside=False)


@given(steps=STEPS)
def test_a_log_in_the_store_is_the_steps(steps: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_rows, "_PAGE", 2)
        run(steps, inside=True)


@given(steps=STEPS, more=st.integers(0, 3))
def test_a_copy_is_the_log_and_goes_on_as_it_does(steps: list[Step], more: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), inside=True)
        copy = Path(folder) / "copy"
        for number, (records, fault, *_) in enumerate(steps):
            world.step(number, records, fault)
            if number % (more + 1) == 0:
                assert export_log(world.journal.log, copy) == len(world.journal.log)
        assert export_log(world.journal.log, copy) == len(world.journal.log)
        assert list(read_log_parts(copy)) == world.entries()
        world.stack.close()
