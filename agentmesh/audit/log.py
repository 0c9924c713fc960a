"""The audit log: a hash chain and a Merkle tree over entries, in a sink (docs/protocol.md, section 8).

Theory of operation. An append encodes the record with its sequence number and the hash of the entry before, hands the
bytes to the sink, and only when the sink has taken them grows the tree: a failing sink leaves the log as it was. Where
a call to the sink was broken off and nobody knows whether it kept them, the next append reads the sink again first. The
log keeps no entries, only hashes; the sink keeps the bytes.

A sink may keep, beside the entries, the hash of each complete chunk of 4,096 and of its last entry. Opening then
verifies what stands behind the last of these, and that this entry is there. What stands before is verified when it is
read: by a proof that goes through it, by `verify`, and by all who read the log from outside. Before the owner signs a
root, or hands it over to the next file, what only the sink has vouched for is read; so nobody who can write such
hashes, and not the log, gets them signed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, final

from agentmesh.audit.checkpoint import Checkpoint, sign_checkpoint
from agentmesh.audit.handover import Handover
from agentmesh.audit.merkle import CHUNK, EntryHash, MerkleTree, RootHash, leaf_hash
from agentmesh.audit.owner import can_stand, owner_named
from agentmesh.audit.page import check_entry, check_pages
from agentmesh.audit.prepared import Prepared
from agentmesh.audit.record import AuditEvent, Record, number_in
from agentmesh.audit.sink import LongSink, Milestone, SealedSink, Sink
from agentmesh.audit.verification import VerifiedLog, check_root, covered_size, verify_entries
from agentmesh.errors import ArgumentInvalid, LogBroken, OwnerMismatch, RemoteError, StoreError, StoreFailed
from agentmesh.identity import Identity
from agentmesh.limits import UINT_MAX
from agentmesh.primitives import _crypto, _wire, forked
from agentmesh.primitives.forked import Birthplace

_FIRST: Final = Handover()
_SEALED: Final = AuditEvent.MESSAGE_SEALED
_OPENED: Final = AuditEvent.MESSAGE_OPENED


@final
class AuditLog:
    """An append-only log over a sink, of one identity. Safe to use from several threads, in the process that made it.

    Every call raises `ForkedChild` in a child of a fork.
    """

    __slots__ = (
        "_birthplace", "_encode", "_generation", "_handover", "_head", "_is_in_step", "_lock", "_long", "_owner",
        "_sink", "_size", "_tree", "_unread",
    )  # fmt: skip

    def __init__(self, sink: Sink, *, checkpoint: Checkpoint | None = None) -> None:
        """Open a log over what the sink holds, verifying what stands behind its last milestone; all, if it has none.

        Args:
            sink: Where the entries are; nobody else may append to it.
            checkpoint: The last one that was signed over this log, if it is at hand: a log that was cut or written anew
                since then is refused.

        Raises:
            ArgumentInvalid: not a sink; not a `Checkpoint`, or one of before this file, which only all files together
                can be held against.
            LogBroken: an entry of the sink is not what it should be, or the log is not the checkpoint's.
            OwnerMismatch: the checkpoint is another identity's than the log.
            StoreError: the sink cannot be read.
        """
        if isinstance(sink, type) or not (
            callable(getattr(sink, "append", None)) and callable(getattr(sink, "entries", None))
        ):
            raise ArgumentInvalid("sink")
        self._birthplace = Birthplace()
        self._generation = forked.generation
        self._sink = sink
        self._long = sink if isinstance(sink, LongSink) else None
        self._lock = threading.Lock()
        self._encode = _wire.public_encoder()
        size = None if checkpoint is None else covered_size(checkpoint)
        # Those of a store are sealed with its other rows, under the owner's key.
        is_sealed = isinstance(sink, SealedSink) and sink.is_sealed is True
        vouched = 0 if self._long is None or is_sealed else len(self._long.milestones)
        self._load()
        if checkpoint is not None and size is not None:
            if len(self._tree) < size:
                raise LogBroken(len(self._tree), "cut")
            if size < self._handover.size:
                raise ArgumentInvalid("checkpoint")
            check_root(checkpoint, self._tree.root(size))
            if self._owner not in ("", checkpoint.issuer.did):
                raise OwnerMismatch
        first = self._handover.size // CHUNK
        # No other hashes of the chunks below its size give the root that was signed.
        signed = 0 if size is None else size // CHUNK
        self._unread = range(max(first, signed), first + vouched)

    def _load(self) -> None:
        long = self._long
        self._handover = handover = _FIRST if long is None else _handed_over(long.handover)
        tree = MerkleTree(
            handover.size, handover.nodes, leaves=None if long is None else partial(_leaves, long, handover)
        )
        head, owner = handover.head, handover.owner
        if long is None:
            entries = iter(self._sink.entries())
        else:
            for milestone in long.milestones:
                tree.append_chunk(milestone.node)
                head = milestone.head
            entries = _entries_behind(long, tree, head)
        milestones: list[Milestone] = []
        for page in check_pages(entries, len(tree), head):
            owner = owner or next(page.owners(), "")
            for head in page.hashes:
                node = tree.append(head)
                if node is not None:
                    milestones.append(Milestone(node, head))
        if long is not None and not owner:  # last, because whoever can write an index can forge it
            owner = long.owner
        self._tree, self._size, self._head, self._owner = tree, len(tree), head, owner
        if long is not None and milestones:
            long.mark(owner, milestones)
        # Last: broken off before the mark, the next chunk would take this one's place.
        self._is_in_step: bool | None = True

    def _catch_up(self) -> None:
        if not self._is_in_step:
            self._load()

    def __len__(self) -> int:
        self._birthplace.check()
        return self._size

    @property
    def owner(self) -> str:
        """The DID of the identity whose log this is, or empty text as long as no record names one."""
        self._birthplace.check()
        return self._owner

    @property
    def handover(self) -> Handover:
        """What the earlier files handed over; of size 0 where there are none."""
        self._birthplace.check()
        return self._handover

    def append(self, records: Record | Iterable[Record]) -> int:
        """Append a record or several, all or none, and return the size of the log.

        Raises:
            ArgumentInvalid: not records, or a record with a field that no reader would take.
            OwnerMismatch: a record of another identity than the log's.
            StoreError: the sink did not take them; the log is as it was.
        """
        if self._generation != forked.generation:  # the sink asks the operating system, before it writes
            self._birthplace.check()
        # Before the lock, because an iterator runs code of its caller.
        taken = records if type(records) is tuple else _taken(records)
        with self._lock:
            if not self._is_in_step:
                self._catch_up()
            entries, hashes, owner = self._next(taken)
            if entries:
                self._keep(entries, hashes, owner)
            return self._size

    def prepare(self, records: Record | Iterable[Record]) -> Prepared:
        """Return these records as the log's next entries, and leave the log as it is. Section 8.3.

        Raises:
            ArgumentInvalid, OwnerMismatch: as `append`.
            StoreError: the sink was to be read again, and could not be.
        """
        self._birthplace.check()
        taken = _taken(records)
        with self._lock:
            self._catch_up()
            entries, hashes, owner = self._next(taken)
            return Prepared(taken, entries, hashes, self._size, self._head, owner)

    def keep(self, prepared: Prepared) -> int:
        """Append what was prepared, unless it stands in the log already, and return the size of the log.

        So it may be called again after it failed or was broken off, and after a restart. What somebody else appended in
        between stays before it. Where the log has been rotated since, the earlier files have it.

        Raises:
            ArgumentInvalid: not `Prepared`.
            LogBroken: the log has lost entries that stood before it (`cut`), or has others (`index`).
            OwnerMismatch: somebody else appended, and it is another identity's log now.
            StoreError: the sink did not take it, or cannot be read.
        """
        self._birthplace.check()
        if not isinstance(prepared, Prepared):
            raise ArgumentInvalid("prepared")
        with self._lock:
            self._catch_up()
            if not prepared.entries:
                pass
            elif (prepared.first, prepared.previous) == (self._size, self._head):
                self._keep(prepared.entries, prepared.hashes, self._owner or prepared.owner)
            elif missing := self._missing(prepared):
                self._keep(*self._next(missing))
            return self._size

    def _next(self, records: tuple[Record, ...]) -> tuple[list[bytes], list[EntryHash], str]:
        """Return the entries that these records make, their hashes, and whose log it is then."""
        entries: list[bytes] = []
        hashes: list[EntryHash] = []
        head, owner = self._head, self._owner
        sequence = self._size
        for record in records:
            if type(record) is not Record:
                raise ArgumentInvalid("records")
            entry = record.encode(sequence, head, self._encode)
            event = record.event
            # Of the two that are nearly all, at once.
            named = record.sender if event is _SEALED else record.recipient if event is _OPENED else ""
            if not owner:
                owner = owner_named(record)
            elif named != owner and not can_stand(owner, record):
                raise OwnerMismatch
            head = leaf_hash(entry)
            entries.append(entry)
            hashes.append(head)
            sequence += 1
        return entries, hashes, owner

    def _keep(self, entries: Sequence[bytes], hashes: Sequence[EntryHash], owner: str) -> None:
        """Hand entries to the sink, and grow the tree once it has taken them."""
        # Until both have them, an interrupt may leave them in one of the two alone.
        self._is_in_step = False
        try:
            self._sink.append(entries)
        except StoreError:
            self._is_in_step = True
            raise
        self._is_in_step = None  # from here on the tree may be half grown
        self._size += len(entries)
        self._head, self._owner = hashes[-1], owner
        tree, milestones = self._tree, None
        for head in hashes:
            node = tree.append(head)
            if node is not None:
                milestones = [*(milestones or ()), Milestone(node, head)]
        if milestones is not None and self._long is not None:
            self._long.mark(owner, milestones)
        self._is_in_step = True

    def _missing(self, prepared: Prepared) -> tuple[Record, ...]:
        """Return which of these records the log, which has moved on, does not have from their place on."""
        first, handover, missing = prepared.first, self._handover, prepared.records
        if self._size < first:
            raise LogBroken(self._size, "cut")
        start, before = max(first, handover.size), handover.head
        entries = iter(self._entries_from(start - (first > handover.size)))
        if first > handover.size:
            before = leaf_hash(next(entries, b""))
        elif first < handover.size:
            ended = handover.size - first
            if ended >= len(missing) or before != prepared.hashes[ended - 1]:
                return ()
            missing = missing[ended:]
        if start == first and before != prepared.previous:
            raise LogBroken(max(first - 1, 0), "index")
        # Not by number: somebody else may append to the same log. One by one: a crash may have kept the first few.
        for sequence, entry in enumerate(entries, start):
            before, record = check_entry(entry, sequence, before)
            if missing and record == missing[0]:
                missing = missing[1:]
        return missing

    def _entries_from(self, sequence: int) -> Iterable[bytes]:
        if self._long is not None:
            return self._long.entries_from(sequence)
        return islice(self._sink.entries(), sequence - self._handover.size, None)

    @property
    def sink(self) -> Sink:
        """Where its entries are."""
        return self._sink

    def entries(self, first: int | None = None) -> Iterable[bytes]:
        """Return the entries, in order; those of this file alone, where earlier ones handed over.

        Args:
            first: The number of the first that is wanted; all, if `None`.

        Raises:
            ArgumentInvalid: no number, or that of an entry of an earlier file.
        """
        self._birthplace.check()
        if first is None:
            return self._sink.entries()
        if type(first) is not int or not self._handover.size <= first <= UINT_MAX:
            raise ArgumentInvalid("first")
        return self._entries_from(first)

    def root(self, size: int | None = None) -> RootHash:
        """Return the Merkle root over the first `size` entries, all of them if `None`.

        Raises:
            ArgumentInvalid: there is no such size, or it is one of an earlier file.
            StoreError: the entries that it goes through cannot be read, or are not what they were.
        """
        self._birthplace.check()
        with self._lock:
            if self._is_in_step is None:
                self._catch_up()
            return self._tree.root(size)

    def verify(self) -> VerifiedLog:
        """Read the log again from the sink, the whole of this file, and verify it up to where it stands now.

        It holds up nobody but for a moment: call it from a thread of its own as often as you like.

        Raises:
            LogBroken: an entry is not what it should be, or is not the one that was written.
            StoreError: the sink cannot be read.
        """
        self._birthplace.check()
        with self._lock:
            self._catch_up()
            handover, size, root = self._handover, len(self._tree), self._tree.root()
            entries = iter(self._sink.entries())
        verified = verify_entries(_after(handover, islice(entries, size - handover.size)))
        if verified.size < size:
            raise LogBroken(verified.size, "cut")
        if not _crypto.constant_time_equal(verified.root, root):
            raise LogBroken(size, "root")
        with self._lock:
            if self._handover == handover:
                self._unread = range(0)
        return verified

    def checkpoint(self, identity: Identity, *, mesh: str, time_ms: int) -> Checkpoint:
        """Return a signed checkpoint over the whole log. Give it to somebody else: a log's owner can cut its tail.

        The first one after a long log was opened reads it (`vouch`), but for what the checkpoint covers that was given
        along: 4 s a million entries, in which others may append.

        Raises:
            ArgumentInvalid: not an identity, not a mesh name, or not milliseconds since the epoch.
            OwnerMismatch: the log is another identity's.
            LogBroken: what stands in the log is not what the index beside it says; nothing is signed.
            StoreError: the sink cannot be read.
        """
        self.vouch()
        with self._lock:
            self._catch_up()
            return self._signed(identity, mesh, time_ms)

    def vouch(self) -> None:
        """Read what, since the log was opened, only an index beside it has vouched for; the second time, nothing.

        It holds up nobody but for a moment: so call it in a thread of its own where a checkpoint must not wait.

        Raises:
            LogBroken: what stands in the log is not what the index says.
            StoreError: the sink cannot be read.
        """
        self._birthplace.check()
        while self._unread:
            with self._lock:
                self._catch_up()
                if self._unread:
                    self._tree.check_chunk(self._unread[0])
                    self._unread = self._unread[1:]

    def _signed(self, identity: Identity, mesh: str, time_ms: int) -> Checkpoint:
        tree = self._tree
        checkpoint = sign_checkpoint(identity, mesh=mesh, size=len(tree), root=tree.root(), time_ms=time_ms)
        if self._owner not in ("", checkpoint.issuer.did):
            raise OwnerMismatch
        return checkpoint

    def rotate(
        self, to: Any, *, identity: Identity | None = None, mesh: str | None = None, time_ms: int | None = None
    ) -> Handover:
        """End the file that is written, and begin the next in its place. The log goes on. Section 8.2.

        Args:
            to: The name that the ended file gets, a path in the same file system; there must be nothing yet.
            identity: The owner, who signs what is handed over; with `mesh` and `time_ms`, as for `checkpoint`.
            mesh: The owner's mesh.
            time_ms: Now, in milliseconds since the epoch.

        Raises:
            ArgumentInvalid: the sink cannot do it, `to` is no path, or one of the three is missing or wrong.
            OwnerMismatch: the log is another identity's.
            LogBroken: as `checkpoint`.
            StoreError: the files are as they were.
        """
        self._birthplace.check()
        if self._long is None:
            raise ArgumentInvalid("sink")
        self.vouch()
        with self._lock:
            self._catch_up()
            checkpoint = None
            if identity is not None or mesh is not None or time_ms is not None:
                # What is missing among them is refused like what is wrong.
                checkpoint = self._signed(identity, mesh, time_ms)  # type: ignore[arg-type]
            handover = Handover(
                owner=self._owner,
                size=len(self._tree),
                head=self._head,
                nodes=self._tree.nodes,
                checkpoint=checkpoint,
            )
            self._is_in_step = False
            try:
                self._long.rotate(to, handover.encode())
            except (StoreError, ArgumentInvalid):
                self._is_in_step = True
                raise
            self._load()
            return handover

    def inclusion_proof(self, sequence: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that an entry is in the log of the first `size` entries; see `verify_entry`.

        Raises:
            ArgumentInvalid: there is no such entry, or no such size, or it is one of an earlier file.
            StoreError: the entries that it goes through cannot be read, or are not what they were.
        """
        self._birthplace.check()
        with self._lock:
            self._catch_up()
            return self._tree.inclusion_proof(sequence, size)

    def consistency_proof(self, old_size: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the log only grew from `old_size` to `size`; see `verify_growth`.

        Raises:
            ArgumentInvalid: there are no such sizes, or one is of an earlier file.
            StoreError: the entries that it goes through cannot be read, or are not what they were.
        """
        self._birthplace.check()
        with self._lock:
            self._catch_up()
            return self._tree.consistency_proof(old_size, size)


def _leaves(long: LongSink, handover: Handover, start: int, end: int) -> Iterator[EntryHash]:
    """Yield the entry hashes of a chunk, or of its rest in this file, read again from the sink."""
    before = end // CHUNK - 1 - handover.size // CHUNK
    milestones = long.milestones
    if before >= len(milestones):
        raise StoreFailed  # an append was interrupted on its way there; the next reads the sink again
    head = handover.head if before == 0 else milestones[before - 1].head
    owners = {handover.owner or long.owner}
    sequence = start
    for page in check_pages(islice(long.entries_from(start), end - start), start, head):
        if not owners.issuperset(page.owners()):
            raise LogBroken(sequence, "index")
        sequence += len(page.hashes)
        head = page.hashes[-1]
        yield from page.hashes
    if sequence < end:
        raise LogBroken(sequence, "cut")
    if head != milestones[before].head:
        raise LogBroken(end, "previous")


def _taken(records: Record | Iterable[Record]) -> tuple[Record, ...]:
    if isinstance(records, Record):
        return (records,)
    if not isinstance(records, Iterable):
        raise ArgumentInvalid("records")
    return tuple(records)


def _handed_over(data: bytes) -> Handover:
    try:
        return Handover.decode(data) if data else _FIRST
    except RemoteError:
        pass
    raise LogBroken(0, "handover")


def _after(handover: Handover, entries: Iterable[bytes]) -> Iterator[bytes | Handover]:
    if handover.size:
        yield handover
    yield from entries


def _entries_behind(long: LongSink, tree: MerkleTree, head: EntryHash) -> Iterator[bytes]:
    """Return the entries behind the last milestone, once the entry that it was taken at is found to be there."""
    if not long.milestones:
        return iter(long.entries())
    last = len(tree) - 1
    entries = iter(long.entries_from(last))
    entry = next(entries, None)
    # Its number too: any other entry has a hash as well, and the log would go on behind it with a number that it has.
    if entry is None or leaf_hash(entry) != head or number_in(entry) != last:
        raise LogBroken(last, "index")
    return entries
