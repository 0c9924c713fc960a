"""A page of entries passes where each of them passes, and nowhere else; what is wrong is named as it is one by one."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.audit import AuditEvent, AuditLog, MemorySink, Outcome, Record, verified_records, verify_entries
from agentmesh.audit.handover import FIRST_PREVIOUS
from agentmesh.audit.merkle import EntryHash, MerkleTree, RunningRoot, leaf_hash
from agentmesh.audit.page import PAGE, Page, check_entry, check_page, check_pages
from agentmesh.errors import LogBroken
from agentmesh.primitives.keys import Receipt, SessionId

ALICE, BOB = "did:example:alice", "did:example:bob"
GOOD = (
    1, 0, bytes(32), 5, "message.sealed", "mesh", ALICE, BOB, 7, bytes(32), bytes(16), 1, 9, 1, "info", "why", 1,
)  # fmt: skip
STRANGE: tuple[Any, ...] = (
    -1, 0, 1, 2, 3, 2**53 - 1, 2**53, 2**64 - 1, True, False, None, 1.0, "", "a", "A", "a b", "é", "x" * 33, "x" * 65,
    "did:example:" + "x" * 120, "did:example:" + "x" * 116, "did:", "info", "allow", "message.opened", b"", b"a",
    bytes(15), bytes(16), bytes(31), bytes(32), bytes(33), [], [1], {}, ["did:example:a"],
)  # fmt: skip


def _one_by_one(entries: list[Any], sequence: int = 0, previous: bytes = FIRST_PREVIOUS) -> tuple[list[Any], Any]:
    """What entry by entry says: (hash, record) of the good ones, and what is wrong then."""
    found: list[Any] = []
    head = EntryHash(previous)
    for number, entry in enumerate(entries, sequence):
        try:
            head, record = check_entry(entry, number, head)
        except LogBroken as error:
            return found, (error.sequence, error.fault)
        found.append((head, record))
    return found, None


def _by_the_page(pages: Iterator[Page]) -> tuple[list[Any], Any]:
    found: list[Any] = []
    try:
        for page in pages:
            found += zip(page.hashes, page.records(), strict=True)
    except LogBroken as error:
        return found, (error.sequence, error.fault)
    return found, None


def _entries(count: int, first: int = 0, previous: bytes = FIRST_PREVIOUS) -> list[bytes]:
    entries = []
    for number in range(first, first + count):
        event = (AuditEvent.MESSAGE_SEALED, AuditEvent.MESSAGE_OPENED)[number % 2]
        record = Record(event, at_ms=number, mesh="mesh", sender=(ALICE, BOB)[number % 2], recipient=BOB, number=number)
        entries.append(record.encode(number, previous))
        previous = leaf_hash(entries[-1])
    return entries


@pytest.mark.parametrize("at", range(len(GOOD)))
@pytest.mark.parametrize("value", STRANGE, ids=repr)
def test_a_page_takes_what_an_entry_may_be_and_nothing_else(at: int, value: Any) -> None:
    fields = [*GOOD[:at], value, *GOOD[at + 1 :]]
    entry = msgpack.packb(fields)
    for before in (0, 2):  # a page of its own; and among good ones
        entries = _entries(before)
        previous = leaf_hash(entries[-1]) if before else FIRST_PREVIOUS
        if before and at not in (1, 2):
            entry = msgpack.packb([fields[0], before, previous, *fields[3:]])
        entries = [*entries, entry, *_entries(2, before + 1, leaf_hash(entry))]
        found = _by_the_page(check_page(entries, 0, FIRST_PREVIOUS))
        assert found == _one_by_one(entries)
        # A good page is one page: were it taken apart, the two ways could not differ.
        if found[1] is None:
            assert len(list(check_page(entries, 0, FIRST_PREVIOUS))) == 1


@pytest.mark.parametrize(
    "change",
    {
        "a byte is altered": lambda entries: [*entries[:3], entries[3][:-1] + b"\x02", *entries[4:]],
        "a longer form": lambda entries: [*entries[:3], entries[3][:-1] + b"\xcc\x01", *entries[4:]],
        "a byte too many": lambda entries: [*entries[:3], entries[3] + b"\xc0", *entries[4:]],
        "a byte too few": lambda entries: [*entries[:3], entries[3][:-1], *entries[4:]],
        "the bytes stand elsewhere": lambda entries: [*entries[:3], entries[3][:-1], entries[3][-1:] + entries[4]],
        "two in one": lambda entries: [*entries[:3], entries[3] + entries[4], *entries[5:]],
        "a field less": lambda entries: [*entries[:3], b"\xdc\x00\x10" + entries[3][3:-1], *entries[4:]],
        "one in another": lambda entries: [*entries[:3], b"\x91" + entries[3], *entries[4:]],
        "nothing": lambda entries: [*entries[:3], b"", *entries[4:]],
        "too long": lambda entries: [*entries[:3], bytes(1025), *entries[4:]],
        "deep": lambda entries: [*entries[:3], b"\x91" * 1000, *entries[4:]],
        "no bytes": lambda entries: [*entries[:3], bytearray(entries[3]), *entries[4:]],
        "a text": lambda entries: [*entries[:3], "entry", *entries[4:]],
        "two change places": lambda entries: [*entries[:3], entries[4], entries[3], *entries[5:]],
        "one is missing": lambda entries: [*entries[:3], *entries[4:]],
        "one is twice": lambda entries: [*entries[:3], entries[3], *entries[3:]],
        "the last is cut": lambda entries: entries[:-1],
        "from elsewhere": lambda entries: entries[2:],
    }.items(),
    ids=lambda change: change[0],
)  # fmt: skip
def test_what_is_wrong_in_a_page_is_what_is_wrong_one_by_one(change: tuple[str, Any]) -> None:
    entries = change[1](_entries(9))
    found = _by_the_page(check_page(entries, 0, FIRST_PREVIOUS))
    assert found == _one_by_one(entries)
    if change[0] != "the last is cut":
        assert found[1] is not None
    whole = _entries(2 * PAGE)
    for place in (0, PAGE - 9, PAGE - 5, PAGE):  # whatever is at a page's edge
        altered = [*whole[:place], *change[1](whole[place : place + 9]), *whole[place + 9 :]]
        assert _by_the_page(check_pages(altered, 0, FIRST_PREVIOUS)) == _one_by_one(altered)


@pytest.mark.parametrize(
    ("head", "tail"),
    [(b"\xdc\x00\x11\xcc\x01", b""), (b"\xdd\x00\x00\x00\x11\x01", b""), (b"\xdc\x00\x11\x01", b"\x01"), (b"", b"")],
    ids=["a longer number", "a longer array", "a byte too many", "empty"],
)
def test_a_form_that_is_not_canonical_is_refused_where_the_chain_holds(head: bytes, tail: bytes) -> None:
    before = _entries(3)
    good = _entries(1, 3, leaf_hash(before[-1]))[0]
    strange = head + good[len(b"\xdc\x00\x11\x01") :] + tail if head else b""
    entries = [*before, strange, *_entries(3, 4, leaf_hash(strange))]
    assert _by_the_page(check_page(entries, 0, FIRST_PREVIOUS)) == _one_by_one(entries)
    assert _one_by_one(entries)[1] == (3, "entry")


def test_an_entrys_end_is_not_the_next_ones_beginning_where_the_chain_holds() -> None:
    before = _entries(3)
    whole = _entries(1, 3, leaf_hash(before[-1]))[0]
    first, rest = whole[:-1], whole[-1:]
    entries = [*before, first, rest + _entries(1, 4, leaf_hash(first))[0]]
    entries += _entries(2, 5, leaf_hash(entries[-1]))
    assert _by_the_page(check_page(entries, 0, FIRST_PREVIOUS)) == _one_by_one(entries)
    assert _one_by_one(entries)[1] == (3, "entry")


@given(st.data())
def test_any_altered_bytes_are_found_as_one_by_one(data: st.DataObject) -> None:
    entries = _entries(12)
    place = data.draw(st.integers(0, 11))
    at = data.draw(st.integers(0, len(entries[place]) - 1))
    to = data.draw(st.binary(max_size=3))
    entries[place] = entries[place][:at] + to + entries[place][at + data.draw(st.integers(0, 3)) :]
    assert _by_the_page(check_pages(entries, 0, FIRST_PREVIOUS)) == _one_by_one(entries)


@pytest.mark.parametrize(
    "entry",
    {
        "maps": b"\x80" * 1_024, "maps in arrays": b"\x91\x80" * 512, "arrays": b"\x91\xc0" * 512,
        "deep arrays": (b"\x91" * 500 + b"\xc0") * 2, "rows of maps": (b"\xdc\x00\x11" + b"\x80" * 17) * 51,
    }.items(),
    ids=lambda entry: entry[0],
)  # fmt: skip
def test_a_page_of_what_is_small_to_write_and_large_to_build_is_not_built(entry: tuple[str, bytes]) -> None:
    entries = [entry[1]] * PAGE
    tracemalloc.start()
    try:
        with pytest.raises(LogBroken, match="entry at 0"):
            next(check_page(entries, 0, FIRST_PREVIOUS))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # the page is 1 MiB; built, it were 30 to 80
    finally:
        tracemalloc.stop()


def test_what_stands_before_a_failing_source_is_given_out_before_it() -> None:
    class Lost(Exception):
        pass

    entries = _entries(PAGE + 10)
    for count in (0, 1, PAGE - 1, PAGE, PAGE + 10):

        def source(count: int = count) -> Iterator[bytes]:
            yield from entries[:count]
            raise Lost

        records: list[Record] = []
        with pytest.raises(Lost):
            records.extend(verified_records(source()))
        assert len(records) == count


def test_owners_are_those_that_the_records_name_in_order() -> None:
    log = AuditLog(MemorySink())
    for event, receipt in (
        (AuditEvent.TRUST_UPDATED, Receipt(b"")),
        (AuditEvent.MESSAGE_REFUSED, Receipt(bytes(32))),
        (AuditEvent.MESSAGE_OPENED, Receipt(bytes(32))),
    ):
        log.append(Record(event, at_ms=1, mesh="mesh", sender=ALICE, recipient=BOB, receipt=receipt))
    (page,) = check_pages(log.entries(), 0, FIRST_PREVIOUS)
    assert [*page.owners()] == [BOB]
    assert verify_entries(log.entries()).owners == {BOB}
    refused = Record(AuditEvent.MESSAGE_REFUSED, at_ms=1, mesh="mesh", sender=ALICE, recipient=BOB)
    sealed = Record(AuditEvent.MESSAGE_SEALED, at_ms=1, mesh="mesh", sender=BOB, recipient=ALICE)
    first = refused.encode(0, FIRST_PREVIOUS)
    entries = [first, sealed.encode(1, leaf_hash(first))]
    (page,) = check_pages(entries, 0, FIRST_PREVIOUS)
    assert [*page.owners()] == [ALICE, BOB]
    assert verify_entries(entries).owners == {ALICE, BOB}


@given(st.lists(st.integers(1, 40), max_size=12))
def test_a_root_that_grows_by_the_page_is_the_trees(steps: list[int]) -> None:
    running, tree = RunningRoot(), MerkleTree()
    for number, step in enumerate(steps):
        hashes = [leaf_hash(bytes([number, at])) for at in range(step)]
        running.extend(hashes)
        for one in hashes:
            tree.append(one)
        assert (running.root(), len(running), running.nodes) == (tree.root(), len(tree), tree.nodes)


def test_a_record_of_every_kind_passes_by_the_page() -> None:
    head, entries = FIRST_PREVIOUS, []
    for number, event in enumerate(AuditEvent):
        for outcome in Outcome:
            record = Record(
                event, at_ms=0, mesh="mesh", sender=ALICE, session_id=SessionId(bytes(16)), outcome=outcome,
                reason="a.b-c_1", count=2**53 - 1,
            )  # fmt: skip
            entries.append(record.encode(3 * number + [*Outcome].index(outcome), head))
            head = leaf_hash(entries[-1])
    (page,) = check_pages(iter(entries), 0, FIRST_PREVIOUS)
    assert ([*page.records()], None) == ([record for _, record in _one_by_one(entries)[0]], None)
    assert [*islice(page.hashes, 1)] == [leaf_hash(entries[0])]
