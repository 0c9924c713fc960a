"""A log by the page: many entries that stand one behind the other, verified at once (docs/protocol.md, section 8).

What is asked of each entry is asked of a page field by field: that all numbers are numbers, that the sequences are
those that follow, that each previous hash is the entry hash before. A page of which anything does not hold is verified
entry by entry, by `check_entry`, which names the first fault. So a page says nothing that its entries do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar, final

from agentmesh.audit.merkle import EntryHash, leaf_hash, leaf_hashes
from agentmesh.audit.owner import owner_in
from agentmesh.audit.record import ENTRY_MAX_BYTES, FIELDS, Record, are_rows, decode_entry, record_of
from agentmesh.errors import LogBroken, Malformed, TooLarge, UnknownVersion
from agentmesh.primitives import _crypto, _wire

PAGE: Final = 1024  # entries: a power of two, so that the pages of a log are subtrees of it; at most 1 MiB of bytes
Item = TypeVar("Item")
Row = Sequence[Any]  # an entry's seventeen fields


@final
class Page:
    """Entries that were verified, one behind the other.

    Attributes:
        rows: Their fields, as section 8 has them.
        hashes: Their entry hashes.
    """

    __slots__ = ("hashes", "rows")

    def __init__(self, rows: Sequence[Row], hashes: Sequence[EntryHash]) -> None:
        self.rows: Sequence[Row] = rows
        self.hashes: Sequence[EntryHash] = hashes

    def records(self) -> Iterator[Record]:
        """Yield their records."""
        return map(record_of, self.rows)

    def owners(self) -> Iterator[str]:
        """Yield, in order and each once, whose log it is as these entries have it."""
        found = dict.fromkeys((row[4], row[6], row[7], bool(row[9])) for row in self.rows)
        named = (owner_in(event, sender, recipient, has_receipt=has) for event, sender, recipient, has in found)
        return (owner for owner in dict.fromkeys(named) if owner)


def check_entry(entry: bytes, sequence: int, previous: EntryHash) -> tuple[EntryHash, Record]:
    """Return (entry hash, record) of an entry that stands where it should.

    Raises:
        LogBroken: it is not an entry (`entry`), has another number (`sequence`), or does not follow what stands before
            it (`previous`).
    """
    fault = "entry"
    try:
        found, claimed_previous, record = decode_entry(entry)
        if found != sequence:
            fault = "sequence"
        elif not _crypto.constant_time_equal(claimed_previous, previous):
            fault = "previous"
        else:
            return leaf_hash(entry), record
    except (Malformed, TooLarge, UnknownVersion):
        pass
    raise LogBroken(sequence, fault)


def check_page(entries: Sequence[bytes], sequence: int, previous: EntryHash) -> Iterator[Page]:
    """Yield these entries as pages that were verified: one, if all of them are good.

    Raises:
        LogBroken: as `check_entry`, behind the entries before it.
    """
    page = _at_once(entries, sequence, previous)
    if page is not None:
        yield page
        return
    for entry in entries:
        previous, _ = check_entry(entry, sequence, previous)
        yield Page(_wire.decode_rows([entry], FIELDS), [previous])
        sequence += 1


def _at_once(entries: Sequence[bytes], sequence: int, previous: EntryHash) -> Page | None:
    """Return the page of these entries, or nothing where they are not all good."""
    if not entries or set(map(type, entries)) != {bytes} or max(map(len, entries)) > ENTRY_MAX_BYTES:
        return None
    try:
        rows = _wire.decode_rows(entries, FIELDS)
    except Malformed:
        return None
    columns = list(zip(*rows, strict=True))
    hashes = leaf_hashes(entries)
    is_good = (
        are_rows(columns)
        and columns[1] == tuple(range(sequence, sequence + len(entries)))
        and columns[2] == (previous, *hashes[:-1])
    )
    return Page(rows, hashes) if is_good else None


def check_pages(entries: Iterable[bytes], sequence: int, previous: EntryHash) -> Iterator[Page]:
    """Yield what follows an entry as pages that were verified, from the entry `sequence` on.

    Raises:
        LogBroken: as `check_entry`. Whatever ends the entries too early goes up behind those that were there.
    """
    for some in gathered(entries):
        for page in check_page(some, sequence, previous):
            sequence += len(page.rows)
            previous = page.hashes[-1]
            yield page


def gathered(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield so many at a time as a page has; what raises among them goes up behind those that were there before it."""
    iterator = iter(items)
    while True:
        some: list[Item] = []
        failure: Exception | None = None
        try:
            some.extend(islice(iterator, PAGE))
        except Exception as error:
            failure = error
        if some:
            yield some
        if failure is not None:
            raise failure
        if not some:
            return
