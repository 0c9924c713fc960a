"""The audit log: a hash chain and a Merkle tree over entries, in a sink (docs/protocol.md, section 8).

Theory of operation. An append encodes the record with its sequence number and the hash of the entry before, hands the
bytes to the sink, and only when the sink has taken them grows the tree: a failing sink leaves the log as it was. The
log keeps no entries, only hashes; the sink keeps the bytes. `verify_entries` reads a log from anywhere, by anybody, and
names the first entry that is not what it should be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, final

from attrs import frozen

from agentmesh import _crypto
from agentmesh.audit.checkpoint import Checkpoint, sign_checkpoint
from agentmesh.audit.merkle import EntryHash, MerkleTree, RootHash, leaf_hash
from agentmesh.audit.record import Record, decode_entry
from agentmesh.errors import LogBroken, Malformed, TooLarge, UnknownVersion
from agentmesh.identity import Identity

FIRST_PREVIOUS: Final = EntryHash(bytes(32))


class Sink(Protocol):
    """Where a log's entries are kept."""

    def append(self, entries: Sequence[bytes], /) -> None:
        """Keep these entries, all or none, as durably as the sink promises.

        Raises:
            StoreError: they were not kept; the log stays as it was.
        """
        ...

    def entries(self) -> Iterable[bytes]:
        """Return the entries kept so far, in order."""
        ...


@final
class MemorySink:
    """Entries in memory: for tests, and for what another system keeps."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[bytes] = ()) -> None:
        self._entries = list(entries)

    def append(self, entries: Sequence[bytes], /) -> None:
        """Keep these entries."""
        self._entries.extend(entries)

    def entries(self) -> Sequence[bytes]:
        """Return the entries kept so far, in order."""
        return tuple(self._entries)


@final
class AuditLog:
    """An append-only log over a sink. Safe to use from several threads."""

    __slots__ = ("_head", "_lock", "_sink", "_tree")

    def __init__(self, sink: Sink) -> None:
        """Open a log over what the sink holds, verifying all of it.

        Raises:
            LogBroken: an entry of the sink is not what it should be.
        """
        self._sink = sink
        self._lock = threading.Lock()
        self._tree = MerkleTree()
        self._head = FIRST_PREVIOUS
        for entry in sink.entries():
            self._head = check_entry(entry, len(self._tree), self._head)
            self._tree.append(self._head)

    def __len__(self) -> int:
        return len(self._tree)

    def append(self, records: Sequence[Record]) -> int:
        """Append records, all or none, and return the size of the log.

        Raises:
            StoreError: the sink did not take them; the log is as it was.
        """
        with self._lock:
            entries: list[bytes] = []
            hashes: list[EntryHash] = []
            head = self._head
            sequence = len(self._tree)
            for record in records:
                entry = record.encode(sequence, head)
                head = leaf_hash(entry)
                entries.append(entry)
                hashes.append(head)
                sequence += 1
            self._sink.append(entries)
            for entry_hash in hashes:
                self._tree.append(entry_hash)
            self._head = head
            return sequence

    def entries(self) -> Iterable[bytes]:
        """Return the entries, in order."""
        return self._sink.entries()

    def root(self, size: int | None = None) -> RootHash:
        """Return the Merkle root over the first `size` entries, all of them if `None`."""
        with self._lock:
            return self._tree.root(size)

    def checkpoint(self, identity: Identity, *, mesh: str, time_ms: int) -> Checkpoint:
        """Return a signed checkpoint over the whole log. Give it to somebody else: a log's owner can cut its tail."""
        with self._lock:
            size, root = len(self._tree), self._tree.root()
        return sign_checkpoint(identity, mesh=mesh, size=size, root=root, time_ms=time_ms)

    def inclusion_proof(self, sequence: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that an entry is in the log of the first `size` entries; see `merkle.verify_inclusion`.

        Raises:
            LogBroken: there is no such entry, or no such size.
        """
        with self._lock:
            size = len(self._tree) if size is None else size
            if not 0 <= sequence < size <= len(self._tree):
                raise LogBroken(sequence, "range")
            return self._tree.inclusion_proof(sequence, size)

    def consistency_proof(self, old_size: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the log only grew from `old_size` to `size`; see `merkle.verify_consistency`.

        Raises:
            LogBroken: there are no such sizes.
        """
        with self._lock:
            size = len(self._tree) if size is None else size
            if not 0 <= old_size <= size <= len(self._tree):
                raise LogBroken(old_size, "range")
            return self._tree.consistency_proof(old_size, size)


def check_entry(entry: bytes, sequence: int, previous: EntryHash) -> EntryHash:
    """Return the hash of an entry that stands where it should.

    Raises:
        LogBroken: it is not an entry (`entry`), has another number (`sequence`), or does not follow what stands before
            it (`previous`).
    """
    fault = ""
    try:
        found, claimed_previous, _ = decode_entry(entry)
        if found != sequence:
            fault = "sequence"
        elif not _crypto.constant_time_equal(claimed_previous, previous):
            fault = "previous"
    except (Malformed, TooLarge, UnknownVersion):
        fault = "entry"
    if fault:
        raise LogBroken(sequence, fault)
    return leaf_hash(entry)


@frozen(kw_only=True)
class VerifiedLog:
    """What a verification found good.

    Attributes:
        size: How many entries.
        root: The Merkle root over them.
        checkpoint: The checkpoint that they were held against, or `None`: without one, a tail that was cut, or a whole
            log written anew, goes unnoticed.
    """

    size: int
    root: RootHash
    checkpoint: Checkpoint | None


def verify_entries(
    entries: Iterable[bytes],
    *,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int], None] | None = None,
) -> VerifiedLog:
    """Verify a log, entry by entry, in memory that grows by the tree alone.

    Args:
        entries: The log, from anywhere.
        checkpoint: A verified checkpoint of its owner (`verify_checkpoint`), from somebody else than its keeper.
        progress: Called with the number of entries verified, every 10,000.

    Raises:
        LogBroken: names the first entry that is wrong; for `cut` and `root` the size that the checkpoint covers.
    """
    tree = MerkleTree()
    head = FIRST_PREVIOUS
    for entry in entries:
        sequence = len(tree)
        head = check_entry(entry, sequence, head)
        tree.append(head)
        if progress is not None and (sequence + 1) % 10_000 == 0:
            progress(sequence + 1)
    if checkpoint is not None:
        if len(tree) < checkpoint.size:
            raise LogBroken(len(tree), "cut")
        if not _crypto.constant_time_equal(tree.root(checkpoint.size), checkpoint.root):
            raise LogBroken(checkpoint.size, "root")
    return VerifiedLog(size=len(tree), root=tree.root(), checkpoint=checkpoint)
