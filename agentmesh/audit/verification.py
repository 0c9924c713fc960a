"""Verifying: a log read from anywhere, by anybody, in memory that does not grow (docs/protocol.md, section 8).

The first entry that is not what it should be is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, cast

from attrs import field, frozen

from agentmesh.audit.checkpoint import Checkpoint
from agentmesh.audit.handover import FIRST_PREVIOUS, Handover
from agentmesh.audit.merkle import EMPTY_ROOT, RootHash, RunningRoot, leaf_hash, verify_inclusion
from agentmesh.audit.page import PAGE, Page, check_page, gathered
from agentmesh.audit.record import Record, decode_entry
from agentmesh.errors import ArgumentInvalid, LogBroken
from agentmesh.primitives import _crypto

_PROGRESS_EVERY: Final = 10_000
Entries = Iterable[bytes | Handover]


def covered_size(checkpoint: Checkpoint) -> int:
    """Return the size that a checkpoint covers.

    Raises:
        ArgumentInvalid: not a `Checkpoint`.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise ArgumentInvalid("checkpoint")
    return checkpoint.size


def check_root(checkpoint: Checkpoint, root: RootHash) -> None:
    """Refuse a log with another root than the checkpoint's.

    Raises:
        LogBroken: with fault `root`.
    """
    if not _crypto.constant_time_equal(root, checkpoint.root):
        raise LogBroken(checkpoint.size, "root")


@frozen(kw_only=True)
class VerifiedLog:
    """What a verification found good.

    Attributes:
        size: How many entries, those of earlier files that handed over included.
        root: The Merkle root over them.
        checkpoint: The checkpoint that they were held against, or `None`: without one, a tail that was cut, or a whole
            log written anew, goes unnoticed. Entries behind its size are only chained to it.
        first: The number of the first entry that was there: not 0 where earlier files were not read.
        owners: Whose log it is, as records and handovers have it: one DID. None in a relay's log; two where more than
            one wrote into it, which no `AuditLog` does.
    """

    size: int
    root: RootHash = field(repr=lambda root: root.hex())
    checkpoint: Checkpoint | None
    first: int = field(default=0, eq=False)
    owners: frozenset[str] = field(default=frozenset(), eq=False)


class _Run:
    """A log as far as it has been verified."""

    __slots__ = ("first", "head", "is_begun", "owners", "running")

    def __init__(self) -> None:
        self.running = RunningRoot()
        self.head = FIRST_PREVIOUS
        self.first = 0
        self.is_begun = False
        self.owners: set[str] = set()

    def begin_file(self, handover: Handover) -> None:
        """Hold what a file begins with against the files before it; believe it where there were none."""
        running = self.running
        if not (self.is_begun or len(running)):
            self.running, self.head = RunningRoot(handover.size, handover.nodes), handover.head
            self.first = handover.size
        elif (handover.size, handover.head, handover.nodes) != (len(running), self.head, running.nodes):
            raise LogBroken(len(running), "handover")
        self.is_begun = True
        signer = "" if handover.checkpoint is None else handover.checkpoint.issuer.did
        self.name(handover.owner or signer)

    def take(self, page: Page) -> None:
        """Go on behind entries that were verified."""
        self.running.extend(page.hashes)
        self.head = page.hashes[-1]
        for owner in page.owners():
            self.name(owner)

    def name(self, owner: str) -> None:
        """Note an owner. Two are as bad as many, and a hostile log may name a million."""
        if owner and len(self.owners) < 2:
            self.owners.add(owner)


def verify_entries(
    entries: Entries,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int], None] | None = None,
) -> VerifiedLog:
    """Verify a log, entry by entry, in memory that does not grow with it.

    Args:
        entries: The log, from anywhere. A `Handover` among them is what a file begins with; `read_log_parts` puts it
            there.
        checkpoint: A verified checkpoint of its owner (`verify_checkpoint`), from somebody else than its keeper.
        progress: Called with the number of entries verified, every 10,000.

    Raises:
        ArgumentInvalid: not entries, not a `Checkpoint`, or nothing that can be called; or the checkpoint is of before
            the first file that is there.
        LogBroken: names the first entry that is wrong; for `cut` the size of the log, for `root` the checkpoint's.
    """
    run = _Run()
    for _ in _verified(entries, checkpoint, progress, run):
        pass
    running = run.running
    return VerifiedLog(
        size=len(running),
        root=running.root(),
        checkpoint=checkpoint,
        first=run.first,
        owners=frozenset(run.owners),
    )


def verified_records(
    entries: Entries,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Yield the records of a log, each once it was verified up to itself; arguments and errors of `verify_entries`.

    Take all of them before you believe one: what contradicts the checkpoint is found behind what it alters.
    """
    pages = _verified(entries, checkpoint, progress, _Run())
    return (record for page in pages for record in page.records())


def verified_pages(entries: Entries, *, progress: Callable[[int], None] | None = None) -> Iterator[Page]:
    """Yield a log by the page, for who has no use for a record of each entry; otherwise as `verified_records`."""
    return _verified(entries, None, progress, _Run())


def _verified(
    entries: Entries, checkpoint: Checkpoint | None, progress: Callable[[int], None] | None, run: _Run
) -> Iterator[Page]:
    if not isinstance(entries, Iterable):
        raise ArgumentInvalid("entries")
    if progress is not None and not callable(progress):
        raise ArgumentInvalid("progress")
    covered = 0 if checkpoint is None else covered_size(checkpoint)
    for part in _parts(entries):
        if isinstance(part, Handover):
            run.begin_file(part)
            if checkpoint is not None and covered < run.first:
                raise ArgumentInvalid("checkpoint")
            if checkpoint is not None and len(run.running) == covered:
                check_root(checkpoint, run.running.root())
            continue
        while part:
            size = len(run.running)
            stops = [size // PAGE * PAGE + PAGE, size // _PROGRESS_EVERY * _PROGRESS_EVERY + _PROGRESS_EVERY]
            stop = min(*stops, covered if covered > size else stops[0])
            some, part = part[: stop - size], part[stop - size :]
            for page in check_page(some, size, run.head):
                run.take(page)
                size = len(run.running)
                if checkpoint is not None and size == covered:
                    check_root(checkpoint, run.running.root())
                if progress is not None and size % _PROGRESS_EVERY == 0:
                    progress(size)
                yield page
    if len(run.running) < covered:
        raise LogBroken(len(run.running), "cut")
    if checkpoint is not None and covered == 0:
        check_root(checkpoint, EMPTY_ROOT)


def _parts(entries: Entries) -> Iterator[list[bytes] | Handover]:
    """Yield the entries by the page; one by one in a page in which a file ends; and the handovers between them."""
    for some in gathered(entries):
        if Handover in set(map(type, some)):
            yield from (part if isinstance(part, Handover) else [part] for part in some)
        else:
            yield cast(list[bytes], some)


def verify_entry(entry: bytes, proof: Sequence[bytes], checkpoint: Checkpoint) -> Record:
    """Return the record of an entry, once it is proved to stand in the log under a checkpoint, at its own number.

    That the checkpoint's issuer wrote *this record of this envelope* is what the caller goes on to read in the record:
    its event, sender and recipient, and its receipt.

    Args:
        entry: The entry's bytes.
        proof: `AuditLog.inclusion_proof(sequence, checkpoint.size)`, from the log's keeper.
        checkpoint: A verified checkpoint of the log's owner.

    Raises:
        ArgumentInvalid: not a `Checkpoint`.
        TooLarge, Malformed, UnknownVersion: not an entry.
        ProofInvalid: it is not an entry of that log.
    """
    size = covered_size(checkpoint)
    sequence, _, record = decode_entry(entry)
    verify_inclusion(leaf_hash(entry), sequence, size, proof, checkpoint.root)
    return record
