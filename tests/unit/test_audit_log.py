"""The log: what it appends, what it proves, and what it finds in a log that is not what its owner wrote."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Identity
from agentmesh.audit import (
    AuditEvent,
    AuditLog,
    Checkpoint,
    MemorySink,
    Outcome,
    Record,
    VerifiedLog,
    claimed_by,
    decode_entry,
    leaf_hash,
    sign_checkpoint,
    verified_records,
    verify_checkpoint,
    verify_entries,
    verify_entry,
    verify_growth,
)
from agentmesh.audit.checkpoint import CHECKPOINT_MAX_BYTES
from agentmesh.audit.merkle import EMPTY_ROOT, RootHash
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadSignature,
    LogBroken,
    Malformed,
    ProofInvalid,
    RemoteError,
    StoreFailed,
    UnknownVersion,
)
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import sign_statement
from agentmesh.primitives import _wire
from agentmesh.primitives._labels import SIGN_BUNDLE, SIGN_CHECKPOINT, SIGNATURE_LABELS

MESH = "example/test"
OWNER = Identity.from_seed(bytes(31) + b"\x01")
OTHER = Identity.from_seed(bytes(31) + b"\x02")


def record(number: int = 0, **fields: Any) -> Record:
    return Record(
        AuditEvent.MESSAGE_SEALED,
        **{"at_ms": 1_000 + number, "mesh": MESH, "sender": OWNER.did, "number": number} | fields,
    )


def log_of(count: int, sink: MemorySink | None = None) -> AuditLog:
    log = AuditLog(sink or MemorySink())
    log.append([record(number) for number in range(count)])
    return log


def fault_of(entries: Iterable[bytes], checkpoint: Checkpoint | None = None) -> tuple[int, str] | None:
    try:
        verify_entries(entries, checkpoint=checkpoint)
    except LogBroken as error:
        return error.sequence, error.fault
    return None


def rehashed(entries: Iterable[bytes]) -> list[bytes]:
    """Return a log with these records and a chain of its own: what anybody can make who writes the file."""
    log = AuditLog(MemorySink())
    log.append([decode_entry(entry)[2] for entry in entries])
    return list(log.entries())


# --- appending --------------------------------------------------------------------------------------------------------


def test_a_log_counts_chains_and_reopens() -> None:
    sink = MemorySink()
    log = AuditLog(sink)
    assert (len(log), log.root(), list(log.entries())) == (0, EMPTY_ROOT, [])
    assert log.append([]) == 0
    assert log.append([record(0)]) == 1
    assert log.append([record(1), record(2)]) == len(log) == 3
    entries = list(log.entries())
    assert [decode_entry(entry)[0] for entry in entries] == [0, 1, 2]
    assert [decode_entry(entry)[1] for entry in entries] == [bytes(32), leaf_hash(entries[0]), leaf_hash(entries[1])]
    assert [one.number for one in verified_records(entries)] == [0, 1, 2]
    again = AuditLog(sink)
    assert (len(again), again.root()) == (3, log.root())
    again.append([record(3)])
    assert verify_entries(sink.entries()) == VerifiedLog(size=4, root=again.root(), checkpoint=None)


def test_a_record_that_no_reader_would_take_leaves_the_log_as_it_was() -> None:
    log = log_of(2)
    root = log.root()
    with pytest.raises(ArgumentInvalid):
        log.append([record(2), record(3, reason="Not A Word")])
    assert (len(log), log.root(), len(list(log.entries()))) == (2, root, 2)


class FaultySink:
    """Raises `error` once, before or after it has kept the entries."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.error: BaseException | None = None
        self.keeps = False

    def append(self, entries: Sequence[bytes], /) -> None:
        if self.error is None or self.keeps:
            self.kept.extend(entries)
        error, self.error = self.error, None
        if error is not None:
            raise error

    def entries(self) -> Iterable[bytes]:
        return tuple(self.kept)


@pytest.mark.parametrize(
    ("error", "keeps"),
    [
        (StoreFailed(), False),
        *((error, keeps) for error in (OSError(), KeyboardInterrupt(), MemoryError()) for keeps in (False, True)),
    ],
    ids=lambda value: repr(value).split(" at 0x")[0],
)
def test_whatever_a_sink_does_the_chain_goes_on(error: BaseException, keeps: bool) -> None:
    sink = FaultySink()
    log = AuditLog(sink)
    log.append([record(0)])
    root = log.root()
    sink.error, sink.keeps = error, keeps
    with pytest.raises(type(error)):
        log.append([record(1), record(2)])
    assert (len(log), log.root()) == (1, root)
    log.append([record(3)])
    numbers = [one.number for one in verified_records(sink.entries())]
    assert numbers == ([0, 1, 2, 3] if keeps else [0, 3])
    assert verify_entries(sink.entries()).root == log.root()


def test_a_sink_that_says_it_kept_nothing_is_believed_and_not_read_again() -> None:
    sink = FaultySink()
    log = AuditLog(sink)
    log.append([record(0)])
    sink.error = StoreFailed()
    with pytest.raises(StoreFailed):
        log.append([record(1)])
    sink.kept.append(b"rubbish that nobody reads")
    assert log.append([record(2)]) == 2


def test_eight_threads_write_one_unbroken_chain() -> None:
    sink = MemorySink()
    log = AuditLog(sink)
    sizes: list[list[int]] = [[] for _ in range(8)]

    def write(writer: int) -> None:
        for number in range(1_000):
            sizes[writer].append(log.append([record(writer * 1_000 + number)]))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [one.number for one in verified_records(sink.entries())]
    assert len(log) == 8_000
    assert sorted(numbers) == list(range(8_000))
    for writer, told in enumerate(sizes):  # each writer's own records stand in its order, where it was told
        assert [numbers[size - 1] for size in told] == [writer * 1_000 + number for number in range(1_000)]


def test_progress_is_told_every_ten_thousand() -> None:
    told: list[int] = []
    entries = list(log_of(25_000).entries())
    verify_entries(entries, progress=told.append)
    assert told == [10_000, 20_000]
    told.clear()
    assert sum(1 for _ in verified_records(entries, progress=told.append)) == 25_000
    assert told == [10_000, 20_000]


# --- what verification finds ------------------------------------------------------------------------------------------

COUNT = 9
LOG = log_of(COUNT)
ENTRIES = list(LOG.entries())
CHECKPOINT = LOG.checkpoint(OWNER, mesh=MESH, time_ms=5)


def test_an_honest_log_is_good() -> None:
    assert fault_of(ENTRIES) is None
    verified = verify_entries(ENTRIES, checkpoint=CHECKPOINT)
    assert (verified.size, verified.root, verified.checkpoint) == (COUNT, LOG.root(), CHECKPOINT)
    # A log that has grown since the checkpoint is good too.
    grown = log_of(COUNT, MemorySink())
    grown.append([record(COUNT)])
    assert fault_of(grown.entries(), CHECKPOINT) is None
    assert fault_of([]) is None


def test_cuts_are_found() -> None:
    for size in range(COUNT):
        # The tail, all of it for 0: the chain alone cannot know, the checkpoint does.
        assert fault_of(ENTRIES[:size]) is None
        assert fault_of(ENTRIES[:size], CHECKPOINT) == (size, "cut")
    for start in range(COUNT):
        for end in range(start + 1, COUNT):  # the head, or the middle
            assert fault_of(ENTRIES[:start] + ENTRIES[end:]) == (start, "sequence")


def test_reordering_and_repeating_are_found() -> None:
    for first in range(COUNT):
        for second in range(first + 1, COUNT):
            swapped = list(ENTRIES)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            assert fault_of(swapped) == (first, "sequence")
            assert fault_of([*ENTRIES[:second], ENTRIES[first], *ENTRIES[second:]]) == (second, "sequence")


def test_two_entries_with_one_number_are_found() -> None:
    for place in range(1, COUNT):
        previous = leaf_hash(ENTRIES[place - 1])
        twin = record(100).encode(place, previous)
        assert fault_of([*ENTRIES[:place], twin, *ENTRIES[place:]]) == (place + 1, "sequence")
        assert fault_of([*ENTRIES[: place + 1], twin, *ENTRIES[place + 1 :]]) == (place + 1, "sequence")
        # In the place of the other, it is what the next does not follow.
        expected = (place + 1, "previous") if place < COUNT - 1 else None
        assert fault_of([*ENTRIES[:place], twin, *ENTRIES[place + 1 :]]) == expected
        assert fault_of([*ENTRIES[:place], twin, *ENTRIES[place + 1 :]], CHECKPOINT) is not None


def test_splices_of_two_logs_are_found() -> None:
    sink = MemorySink()
    other = AuditLog(sink)
    other.append([record(number, sender=OTHER.did) for number in range(COUNT)])
    others = list(sink.entries())
    for place in range(1, COUNT):
        assert fault_of(ENTRIES[:place] + others[place:]) == (place, "previous")
        assert fault_of(others[:place] + ENTRIES[place:]) == (place, "previous")
    assert fault_of(others, CHECKPOINT) == (COUNT, "root")
    assert fault_of(others + ENTRIES, CHECKPOINT) == (COUNT, "root")


def test_a_rewritten_log_is_found_by_a_checkpoint_alone() -> None:
    for place in range(COUNT):
        for changed in (
            rehashed([*ENTRIES[:place], record(77).encode(0, bytes(32)), *ENTRIES[place + 1 :]]),
            rehashed(ENTRIES[:place] + ENTRIES[place + 1 :] + [ENTRIES[0]]),
        ):
            assert fault_of(changed) is None
            assert fault_of(changed, CHECKPOINT) == (COUNT, "root")
        shorter = rehashed(ENTRIES[:place] + ENTRIES[place + 1 :])
        assert fault_of(shorter, CHECKPOINT) == (COUNT - 1, "cut")
    # Of a log that was written anew and has grown, the first entry behind the checkpoint is not even looked at.
    assert fault_of([*rehashed([*ENTRIES[1:], ENTRIES[0]]), b"rubbish"], CHECKPOINT) == (COUNT, "root")


def test_every_altered_field_of_every_record_is_found() -> None:
    changes: dict[str, Any] = {
        "event": AuditEvent.MESSAGE_OPENED,
        "at_ms": 999_999,
        "mesh": "another",
        "sender": OTHER.did,
        "recipient": OTHER.did,
        "envelope_time_ms": 7,
        "receipt": bytes(32),
        "session_id": bytes(16),
        "number": 1_234,
        "size_bytes": 55,
        "bundle_class": BundleClass.LAST_RESORT,
        "outcome": Outcome.DENY,
        "reason": "other",
        "count": 99,
    }
    assert set(changes) == set(Record.__slots__)
    for place, entry in enumerate(ENTRIES):
        sequence, previous, _ = decode_entry(entry)
        for name, value in changes.items():
            altered = decode_entry(entry)[2]
            assert getattr(altered, name) != value
            setattr(altered, name, value)
            changed = [*ENTRIES[:place], altered.encode(sequence, previous), *ENTRIES[place + 1 :]]
            expected = (place + 1, "previous") if place < COUNT - 1 else None
            assert fault_of(changed) == expected, name
            assert fault_of(changed, CHECKPOINT) == (expected or (COUNT, "root")), name
        for altered_entry, fault in (
            (decode_entry(entry)[2].encode(sequence + 1, previous), "sequence"),
            (decode_entry(entry)[2].encode(sequence, bytes(31) + b"\x01"), "previous"),
        ):
            assert fault_of([*ENTRIES[:place], altered_entry, *ENTRIES[place + 1 :]]) == (place, fault)


@given(st.integers(0, COUNT - 1), st.data())
def test_every_flipped_bit_is_found(place: int, data: st.DataObject) -> None:
    flipped = bytearray(ENTRIES[place])
    bit = data.draw(st.integers(0, len(flipped) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    found = fault_of([*ENTRIES[:place], bytes(flipped), *ENTRIES[place + 1 :]], CHECKPOINT)
    assert found in (
        (place, "entry"),
        (place, "sequence"),
        (place, "previous"),
        (place + 1, "previous"),
        (COUNT, "root"),
    )
    assert found != (COUNT, "root") or place == COUNT - 1


def test_rubbish_is_found_and_nothing_else_is_raised() -> None:
    for rubbish in (
        b"",
        b"\xc0",
        bytes(40),
        "text",
        None,
        7,
        bytearray(ENTRIES[0]),
        ENTRIES[0] + b"\x00",
        b"x" * 5_000,
    ):
        assert fault_of([*ENTRIES[:3], rubbish]) == (3, "entry")  # type: ignore[list-item]
    for wrong in (CHECKPOINT.statement, LOG.root(), 1):
        with pytest.raises(ArgumentInvalid):
            verify_entries(ENTRIES, checkpoint=wrong)  # type: ignore[arg-type]


def test_records_are_yielded_only_up_to_what_is_wrong() -> None:
    records: list[Record] = []
    with pytest.raises(LogBroken):
        records.extend(verified_records(ENTRIES[:4] + ENTRIES[5:]))
    assert [one.number for one in records] == [0, 1, 2, 3]
    with pytest.raises(LogBroken) as caught:
        list(verified_records(ENTRIES[:4], checkpoint=CHECKPOINT))
    assert (caught.value.sequence, caught.value.fault) == (4, "cut")


def test_a_broken_log_is_not_opened() -> None:
    for entries in (ENTRIES[1:], [*ENTRIES, b"rubbish"], list(reversed(ENTRIES))):
        with pytest.raises(LogBroken):
            AuditLog(MemorySink(entries))


def test_a_log_that_was_cut_or_rewritten_is_not_opened_against_its_checkpoint() -> None:
    assert len(AuditLog(MemorySink(ENTRIES), checkpoint=CHECKPOINT)) == COUNT
    for entries, fault in (
        (ENTRIES[:-1], (COUNT - 1, "cut")),
        ([], (0, "cut")),
        (rehashed([*ENTRIES[1:], ENTRIES[0]]), (COUNT, "root")),
    ):
        with pytest.raises(LogBroken) as caught:
            AuditLog(MemorySink(entries), checkpoint=CHECKPOINT)
        assert (caught.value.sequence, caught.value.fault) == fault
    with pytest.raises(ArgumentInvalid):
        AuditLog(MemorySink(ENTRIES), checkpoint=CHECKPOINT.statement)  # type: ignore[arg-type]


def test_verifying_is_pure() -> None:
    entries, statement = tuple(ENTRIES), CHECKPOINT.statement
    for _ in range(2):
        assert verify_entries(entries, checkpoint=CHECKPOINT).root == CHECKPOINT.root
        assert verify_checkpoint(statement, OWNER.key, mesh=MESH) == CHECKPOINT
    assert entries == tuple(ENTRIES)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_its_issuers_and_its_meshs() -> None:
    assert verify_checkpoint(CHECKPOINT.statement, OWNER.key, mesh=MESH) == CHECKPOINT
    assert claimed_by(CHECKPOINT.statement) == (OWNER.key, MESH)
    assert (CHECKPOINT.size, CHECKPOINT.root, CHECKPOINT.time_ms) == (COUNT, LOG.root(), 5)
    with pytest.raises(BadSignature):
        verify_checkpoint(CHECKPOINT.statement, OTHER.key, mesh=MESH)
    with pytest.raises(ProofInvalid):
        verify_checkpoint(CHECKPOINT.statement, OWNER.key, mesh="another")
    with pytest.raises(ArgumentInvalid):
        verify_checkpoint(CHECKPOINT.statement, OWNER.did, mesh=MESH)  # type: ignore[arg-type]


def body_with(place: int, value: Any) -> bytes:
    fields: list[Any] = [1, MESH, OWNER.key.raw, OWNER.key.raw, COUNT, 5, LOG.root()]
    fields[place] = value
    return _wire.encode(fields)


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (0, 2, UnknownVersion), (1, "UPPER", Malformed), (1, "another", ProofInvalid), (2, OTHER.key.raw, BadSignature),
        (3, OTHER.key.raw, BadSignature), (4, -1, Malformed), (4, 1.0, Malformed), (5, True, Malformed),
        (6, bytes(31), Malformed), (6, "x" * 32, Malformed),
    ],
)  # fmt: skip
def test_a_signed_checkpoint_that_is_none_is_refused(place: int, value: Any, error: type[AgentMeshError]) -> None:
    statement = sign_statement(OWNER, SIGN_CHECKPOINT, body_with(place, value))
    with pytest.raises(error):
        verify_checkpoint(statement, OWNER.key, mesh=MESH)


def test_another_signers_checkpoint_over_the_owners_log_is_refused() -> None:
    # Somebody who copied the log, and signs its root as the owner's; the owner's key stands in it.
    statement = sign_statement(OTHER, SIGN_CHECKPOINT, body_with(6, LOG.root()))
    with pytest.raises(BadSignature):
        verify_checkpoint(statement, OWNER.key, mesh=MESH)
    with pytest.raises(BadSignature):
        verify_checkpoint(statement, OTHER.key, mesh=MESH)


def test_a_signature_under_any_other_label_is_refused() -> None:
    body = body_with(6, LOG.root())
    verify_checkpoint(sign_statement(OWNER, SIGN_CHECKPOINT, body), OWNER.key, mesh=MESH)
    for label in SIGNATURE_LABELS:
        if label != SIGN_CHECKPOINT:
            with pytest.raises(BadSignature):
                verify_checkpoint(sign_statement(OWNER, label, body), OWNER.key, mesh=MESH)
    # And a checkpoint's signature serves nothing else.
    with pytest.raises(BadSignature):
        OWNER.key.verify(SIGN_BUNDLE, body, CHECKPOINT.statement[-64:])


@given(st.data())
def test_every_flipped_bit_of_a_checkpoint_is_refused(data: st.DataObject) -> None:
    flipped = bytearray(CHECKPOINT.statement)
    bit = data.draw(st.integers(0, len(flipped) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteError):
        verify_checkpoint(bytes(flipped), OWNER.key, mesh=MESH)


def test_rubbish_is_no_checkpoint() -> None:
    statement = CHECKPOINT.statement
    rubbish: list[Any] = [
        b"",
        statement[:-1],
        statement + b"\x00",
        bytes(CHECKPOINT_MAX_BYTES + 1),
        None,
        "x",
        ENTRIES[0],
    ]
    for wrong in rubbish:
        with pytest.raises(RemoteError):
            verify_checkpoint(wrong, OWNER.key, mesh=MESH)
        with pytest.raises(RemoteError):
            claimed_by(wrong)
    longest = sign_checkpoint(OWNER, mesh="m" * 64, size=2**53 - 1, root=LOG.root(), time_ms=2**53 - 1)
    assert len(longest.statement) <= CHECKPOINT_MAX_BYTES
    verify_checkpoint(longest.statement, OWNER.key, mesh="m" * 64)


@pytest.mark.parametrize(
    "fields",
    [
        {"mesh": "UPPER"},
        {"size": -1},
        {"size": 2**53},
        {"size": True},
        {"time_ms": 1.5},
        {"root": bytes(31)},
        {"root": "r"},
    ],
    ids=str,
)
def test_no_checkpoint_is_signed_that_nobody_would_take(fields: dict[str, Any]) -> None:
    with pytest.raises(ArgumentInvalid):
        sign_checkpoint(OWNER, **{"mesh": MESH, "size": 1, "root": LOG.root(), "time_ms": 1} | fields)


def test_growth_between_two_checkpoints_is_proved_and_forks_are_caught() -> None:
    log = log_of(COUNT)
    old = log.checkpoint(OWNER, mesh=MESH, time_ms=1)
    log.append([record(number) for number in range(COUNT, COUNT + 5)])
    new = log.checkpoint(OWNER, mesh=MESH, time_ms=2)
    proof = log.consistency_proof(old.size, new.size)
    assert verify_growth(old, new, proof) == new
    assert verify_growth(old, old, ()) == old

    fork = AuditLog(MemorySink(rehashed([*ENTRIES[1:], ENTRIES[0], *ENTRIES[:5]])))
    forked = fork.checkpoint(OWNER, mesh=MESH, time_ms=2)
    twin = sign_checkpoint(OWNER, mesh=MESH, size=old.size, root=fork.root(old.size), time_ms=1)
    for first, second, steps in (
        (old, forked, fork.consistency_proof(old.size)),
        (old, forked, proof),
        (old, twin, ()),
        (new, old, proof),
        (new, old, ()),
        (old, new, ()),
    ):
        with pytest.raises(ProofInvalid):
            verify_growth(first, second, steps)
    for stranger in (
        sign_checkpoint(OTHER, mesh=MESH, size=new.size, root=new.root, time_ms=2),
        sign_checkpoint(OWNER, mesh="another", size=new.size, root=new.root, time_ms=2),
        new.statement,
    ):
        with pytest.raises(ArgumentInvalid):
            verify_growth(old, stranger, proof)  # type: ignore[arg-type]


# --- one entry, proved ------------------------------------------------------------------------------------------------


@given(st.integers(1, COUNT), st.data())
def test_an_entry_is_proved_at_its_own_number(size: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, size - 1))
    checkpoint = sign_checkpoint(OWNER, mesh=MESH, size=size, root=LOG.root(size), time_ms=1)
    proof = LOG.inclusion_proof(place, size)
    assert verify_entry(ENTRIES[place], proof, checkpoint) == record(place)
    for other in range(COUNT):
        if other != place:
            with pytest.raises(ProofInvalid):
                verify_entry(ENTRIES[other], proof, checkpoint)
    # The same record under another number, or behind another entry, is not what was logged.
    _, previous, logged = decode_entry(ENTRIES[place])
    for altered in (
        logged.encode(place + 1, previous),
        logged.encode(place, bytes(31) + b"\x01"),
        record(place, count=2).encode(place, previous),
    ):
        with pytest.raises(ProofInvalid):
            verify_entry(altered, proof, checkpoint)


def test_nothing_but_an_entry_is_proved() -> None:
    for size in range(2, COUNT + 1):
        checkpoint = sign_checkpoint(OWNER, mesh=MESH, size=size, root=LOG.root(size), time_ms=1)
        children = leaf_hash(ENTRIES[0]) + leaf_hash(ENTRIES[1])
        for fake in (bytes(32), children, b"\x01" + children, LOG.root(2), b"", None, bytes(64), ENTRIES[0][1:]):
            for proof in (LOG.inclusion_proof(0, size), LOG.inclusion_proof(0, size)[1:], ()):
                with pytest.raises(RemoteError):
                    verify_entry(fake, proof, checkpoint)  # type: ignore[arg-type]
    with pytest.raises(ProofInvalid):
        verify_entry(ENTRIES[0], (), sign_checkpoint(OWNER, mesh=MESH, size=0, root=EMPTY_ROOT, time_ms=1))
    with pytest.raises(ArgumentInvalid):
        verify_entry(ENTRIES[0], (), LOG.root())  # type: ignore[arg-type]


def test_a_place_outside_the_log_is_the_callers_mistake() -> None:
    calls: list[Callable[[], object]] = [
        lambda: LOG.root(COUNT + 1), lambda: LOG.root(-1), lambda: LOG.inclusion_proof(COUNT),
        lambda: LOG.inclusion_proof(-1), lambda: LOG.inclusion_proof(0, COUNT + 1), lambda: LOG.inclusion_proof(3, 3),
        lambda: LOG.consistency_proof(-1), lambda: LOG.consistency_proof(COUNT + 1),
        lambda: LOG.consistency_proof(3, 2),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ArgumentInvalid):
            call()


def test_a_checkpoint_of_the_empty_log() -> None:
    empty = AuditLog(MemorySink()).checkpoint(OWNER, mesh=MESH, time_ms=1)
    assert (empty.size, empty.root) == (0, EMPTY_ROOT)
    assert fault_of([], empty) is None
    assert fault_of(ENTRIES, empty) is None
    false = sign_checkpoint(OWNER, mesh=MESH, size=0, root=RootHash(bytes(32)), time_ms=1)
    assert fault_of([], false) == (0, "root")
