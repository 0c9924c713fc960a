"""Whatever a caller passes to a public call of the audit trail or its store: our own errors, and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Identity
from agentmesh import audit as package
from agentmesh.audit import (
    AuditEvent,
    AuditJournal,
    AuditLog,
    Handover,
    MemorySink,
    OnFailure,
    Record,
    agt_canonical_text,
    claimed_by,
    compare,
    decode_entry,
    leaf_hash,
    owner_of,
    sign_checkpoint,
    to_agt_entries,
    to_cloud_events,
    to_json_lines,
    to_kars_events,
    verified_records,
    verify_checkpoint,
    verify_consistency,
    verify_disclosure,
    verify_entries,
    verify_entry,
    verify_growth,
    verify_inclusion,
)
from agentmesh.audit.merkle import RootHash
from agentmesh.errors import AgentMeshError, ArgumentInvalid
from agentmesh.store import LogFile, export_log, read_log_file, read_log_parts

MESH = "example/test"
OWNER = Identity.from_seed(bytes(31) + b"\x01")
PEER = Identity.from_seed(bytes(31) + b"\x02")
RECORD = Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=OWNER.did)
LOG = AuditLog(MemorySink())
LOG.append([RECORD, RECORD, RECORD])
CHECKPOINT = LOG.checkpoint(OWNER, mesh=MESH, time_ms=1)
ENTRIES = list(LOG.entries())
JUNK: list[Any] = [
    None, 3, -1, 2**70, 1.5, "x", "\ud800", b"x", bytearray(b"x"), [], [None], [b"x"], ["x"], {}, object(), True,
    RECORD, CHECKPOINT, lambda: None, OWNER, AuditLog, (3,), {"x": b"y"},
]  # fmt: skip

Call = tuple[Callable[..., Any], list[Any], dict[str, Any]]
SIGNED = {"mesh": MESH, "time_ms": 1}
CALLS: dict[str, Call] = {
    "AuditLog": (AuditLog, [MemorySink()], {"checkpoint": None}),
    "AuditLog.append": (lambda records: AuditLog(MemorySink()).append(records), [RECORD], {}),
    "AuditLog.prepare": (LOG.prepare, [RECORD], {}),
    "AuditLog.keep": (AuditLog(MemorySink()).keep, [AuditLog(MemorySink()).prepare(RECORD)], {}),
    "AuditLog.entries": (LOG.entries, [1], {}),
    "AuditLog.root": (LOG.root, [2], {}),
    "AuditLog.checkpoint": (LOG.checkpoint, [OWNER], SIGNED),
    "AuditLog.inclusion_proof": (LOG.inclusion_proof, [1, 2], {}),
    "AuditLog.consistency_proof": (LOG.consistency_proof, [1, 2], {}),
    "MemorySink": (MemorySink, [[]], {}),
    "AuditJournal": (AuditJournal, [LOG], {"on_failure": OnFailure.STOP}),
    "sign_checkpoint": (sign_checkpoint, [OWNER], {**SIGNED, "size": 1, "root": RootHash(bytes(32))}),
    "claimed_by": (claimed_by, [CHECKPOINT.statement], {}),
    "verify_checkpoint": (verify_checkpoint, [CHECKPOINT.statement, OWNER.key], {"mesh": MESH}),
    "verify_growth": (verify_growth, [CHECKPOINT, CHECKPOINT, ()], {}),
    "verify_entries": (verify_entries, [ENTRIES], {"checkpoint": CHECKPOINT, "progress": print}),
    "verified_records": (verified_records, [ENTRIES], {"checkpoint": CHECKPOINT, "progress": print}),
    "verify_entry": (verify_entry, [ENTRIES[0], LOG.inclusion_proof(0), CHECKPOINT], {}),
    "verify_inclusion": (
        verify_inclusion, [leaf_hash(ENTRIES[0]), 0, 3, LOG.inclusion_proof(0), CHECKPOINT.root], {}
    ),
    "verify_consistency": (verify_consistency, [1, LOG.root(1), 3, LOG.root(), LOG.consistency_proof(1)], {}),
    "verify_disclosure": (verify_disclosure, [b"x", None, RECORD], {"limits": None}),
    "decode_entry": (decode_entry, [ENTRIES[0]], {}),
    "leaf_hash": (leaf_hash, [ENTRIES[0]], {}),
    "owner_of": (owner_of, [[RECORD]], {}),
    "compare": (compare, [OWNER.did, [RECORD], PEER.did, [RECORD], [RECORD]], {}),
    "to_json_lines": (to_json_lines, [ENTRIES], {}),
    "to_cloud_events": (to_cloud_events, [ENTRIES], {"owner": OWNER.did}),
    "to_agt_entries": (to_agt_entries, [ENTRIES], {"owner": OWNER.did}),
    "to_kars_events": (to_kars_events, [ENTRIES], {"owner": OWNER.did}),
    "agt_canonical_text": (agt_canonical_text, [{}], {}),
    "Handover.decode": (Handover.decode, [Handover().encode()], {}),
    "Record.encode": (RECORD.encode, [0, bytes(32)], {}),
    "LogFile": (lambda *arguments, **words: LogFile(*arguments, **words).close(), ["log"], {"fsync_every": 1}),
    "export_log": (export_log, [LOG, "log"], {}),
    "read_log_file": (read_log_file, ["log"], {}),
    "read_log_parts": (read_log_parts, ["log"], {}),
}  # fmt: skip
FILE_CALLS: dict[str, list[Any]] = {
    "append": [[b"x"]], "entries_from": [0], "mark": ["", []], "rotate": ["to", b"x"]
}  # fmt: skip
LOG_CALLS: dict[str, Any] = {"identity": OWNER, **SIGNED}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ours(call: Callable[..., Any], arguments: list[Any], words: dict[str, Any]) -> None:
    try:
        found = call(*arguments, **words)
        if isinstance(found, Iterator):
            list(found)
    except AgentMeshError:
        pass


def replaced(arguments: list[Any], words: dict[str, Any]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    for junk in JUNK:
        for place in range(len(arguments)):
            yield [*arguments[:place], junk, *arguments[place + 1 :]], words
        for name in words:
            yield arguments, {**words, name: junk}


@pytest.mark.parametrize("name", CALLS)
def test_no_other_error_escapes(name: str) -> None:
    call, arguments, words = CALLS[name]
    for given, named in replaced(arguments, words):
        ours(call, given, named)


@pytest.mark.parametrize("name", FILE_CALLS)
def test_no_other_error_escapes_a_file(name: str) -> None:
    with LogFile("log") as sink:
        for given, _ in replaced(FILE_CALLS[name], {}):
            ours(getattr(sink, name), given, {})


def test_no_other_error_escapes_a_rotation() -> None:
    with LogFile("log") as sink:
        log = AuditLog(sink)
        log.append(RECORD)
        for given, named in replaced(["to"], LOG_CALLS):
            ours(log.rotate, given, named)
        log.append(RECORD)


def test_every_public_call_is_asked() -> None:
    asked = {name.partition(".")[0] for name in CALLS}
    values = {"AuditEvent", "Checkpoint", "Comparison", "Disclosed", "EntryHash", "Finding", "Found", "LongSink",
              "Milestone", "OnFailure", "Outcome", "RootHash", "Sink", "VerifiedLog"}  # fmt: skip
    assert set(package.__all__) - values <= asked


# --- one or several ---------------------------------------------------------------------------------------------------


def test_a_log_takes_a_record_or_any_number_of_them() -> None:
    for given in (RECORD, [RECORD], (RECORD,), iter([RECORD]), (one for one in [RECORD]), {1: RECORD}.values()):
        log = AuditLog(MemorySink())
        assert log.append(given) == 1
        assert decode_entry(next(iter(log.entries())))[2] == RECORD


def test_a_generator_may_look_at_the_log_and_fails_before_anything_is_written() -> None:
    log = AuditLog(MemorySink())

    def looking() -> Iterator[Record]:
        for _ in range(2):
            assert len(log) == 0
            log.root()
            yield RECORD

    assert log.append(looking()) == 2

    def failing() -> Iterator[Record]:
        yield RECORD
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        log.append(failing())
    assert log.append([]) == len(list(log.entries())) == 2


@pytest.mark.parametrize("given", [None, 3, "x", b"x", [None], [RECORD, ENTRIES[0]], [[RECORD]], Record])
def test_what_is_no_record_is_refused_whole(given: Any) -> None:
    log = AuditLog(MemorySink())
    with pytest.raises(ArgumentInvalid, match="records"):
        log.append(given)
    assert len(list(log.entries())) == 0
