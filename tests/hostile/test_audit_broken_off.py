"""A log on which calls are broken off, anywhere: what it signs, proves and keeps is what its sink has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentmesh import Identity
from agentmesh.audit import AuditEvent, AuditLog, MemorySink, Record, log, merkle, verify_consistency, verify_entries
from agentmesh.audit.merkle import RootHash
from agentmesh.store import LogFile, log_file, read_log_file

OWNER = Identity.from_seed(bytes(31) + b"\x01")
MESH = "example/test"
CHUNK = 16
RECORDS = [Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did, number=at) for at in range(100)]
ROOMS = ("audit/log.py", "audit/merkle.py", "store/log_file.py", "store/log_index.py")


class BrokenOff(KeyboardInterrupt):
    pass


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (merkle, log, log_file):
        monkeypatch.setattr(module, "CHUNK", CHUNK)
    monkeypatch.setattr(merkle, "_CHUNK_LEVEL", CHUNK.bit_length() - 1)
    before = os.umask(0o077)
    yield
    os.umask(before)


def _of(entries: list[bytes]) -> AuditLog:
    return AuditLog(MemorySink(entries))


CALLS: dict[str, Callable[[AuditLog], Any]] = {
    "checkpoint": lambda opened: opened.checkpoint(OWNER, mesh=MESH, time_ms=1).root,
    "root": lambda opened: opened.root(),
    "verify": lambda opened: opened.verify().root,
    "inclusion": lambda opened: opened.inclusion_proof(3),
    "consistency": lambda opened: opened.consistency_proof(11),
}


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_told_behind_a_call_that_was_broken_off_is_of_the_log_as_it_is(
    name: str, kind: str, tmp_path: Path, interrupts: ModuleType
) -> None:
    """A root over half a call would be signed, and the log would contradict its owner's own checkpoint for ever."""
    made: list[LogFile] = []

    def make() -> AuditLog:
        for sink in made:
            sink.close()
        path = tmp_path / f"log{len(made)}"
        made[len(made) :] = [LogFile(path, fsync_every=None)] if kind == "file" else []
        opened = AuditLog(made[-1] if kind == "file" else MemorySink())
        opened.append(RECORDS[:13])
        return opened

    def call(opened: AuditLog) -> None:
        opened.append(RECORDS[13:20])

    tried = 0
    # All places for what is signed, and some for the others, which differ in nothing but what they tell.
    step = 1 if name == "checkpoint" else 7
    for opened in interrupts.each(make, call, rooms=ROOMS[:2], places=lambda place: place % step == 0):
        told = CALLS[name](opened)
        entries = [*opened.entries()]
        assert len(entries) in (13, 20)
        # A root alone is not signed: as long as nothing follows it may be that of before.
        sizes = {len(entries), 13} if name == "root" else {len(entries)}
        assert told in [CALLS[name](_of(entries[:size])) for size in sizes]
        tried += 1
    assert tried > 20
    for sink in made:
        sink.close()


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_chunk_of_a_call_that_was_broken_off_keeps_its_place(
    failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not marked leaves its place to the next: proofs are of other entries, and the log opens no more."""
    path = tmp_path / "log"
    left = [BrokenOff] * failures
    mark = LogFile.mark

    def broken(self: LogFile, *args: Any) -> None:
        if left:
            raise left.pop()
        mark(self, *args)

    monkeypatch.setattr(LogFile, "mark", broken)
    with LogFile(path, fsync_every=None) as sink:
        opened = AuditLog(sink)
        opened.append(RECORDS[:13])
        with pytest.raises(BrokenOff):
            opened.append(RECORDS[13:20])
        while left:
            with pytest.raises(BrokenOff):
                opened.append(())
        for record in RECORDS[20:]:
            opened.append(record)
        _check(opened)
    with LogFile(path) as sink:
        _check(AuditLog(sink))


def _check(opened: AuditLog) -> None:
    whole = AuditLog(MemorySink())
    whole.append(RECORDS)
    assert (len(opened), opened.root()) == (100, whole.root())
    for at in range(100):
        assert opened.inclusion_proof(at) == whole.inclusion_proof(at)
    assert opened.checkpoint(OWNER, mesh=MESH, time_ms=1).root == whole.root()


def test_what_was_signed_before_and_behind_it_is_one_log(tmp_path: Path, interrupts: ModuleType) -> None:
    path = tmp_path / "log"

    def make() -> AuditLog:
        sinks.append(LogFile(path, fsync_every=None))
        return AuditLog(sinks[-1])

    def call(opened: AuditLog) -> None:
        opened.append(RECORDS[:3])

    sinks: list[LogFile] = []
    last: tuple[int, RootHash] | None = None
    # One log, broken off at another place each time.
    for place in range(0, 400, 7):
        opened = make()
        interrupts.at(place, lambda opened=opened: call(opened), rooms=ROOMS)
        signed = opened.checkpoint(OWNER, mesh=MESH, time_ms=1)
        if last is not None:
            verify_consistency(*last, signed.size, signed.root, opened.consistency_proof(last[0]))
        last = signed.size, signed.root
        sinks[-1].close()
        assert verify_entries(read_log_file(path), checkpoint=signed).size == signed.size
