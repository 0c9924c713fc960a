"""The audit log: a hash chain and a Merkle tree over entries, in a sink (docs/protocol.md, section 8).

Theory of operation. An append encodes the record with its sequence number and the hash of the entry before, hands the
bytes to the sink, and only when the sink has taken them grows the tree: a failing sink leaves the log as it was. Where
a call to the sink was broken off and nobody knows whether it kept them, the next append reads the sink again first. The
log keeps no entries, only hashes; the sink keeps the bytes. `verify_entries` reads a log from anywhere, by anybody, and
names the first entry that is not what it should be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, final

from attrs import field, frozen

from agentmesh.audit.checkpoint import Checkpoint, sign_checkpoint
from agentmesh.audit.merkle import EMPTY_ROOT, EntryHash, MerkleTree, RootHash, RunningRoot, leaf_hash, verify_inclusion
from agentmesh.audit.record import Record, decode_entry
from agentmesh.errors import ArgumentInvalid, LogBroken, Malformed, StoreError, TooLarge, UnknownVersion
from agentmesh.identity import Identity
from agentmesh.primitives import _crypto, _wire

FIRST_PREVIOUS: Final = EntryHash(bytes(32))
_PROGRESS_EVERY: Final = 10_000


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

    __slots__ = ("_encode", "_head", "_is_in_step", "_lock", "_sink", "_tree")

    def __init__(self, sink: Sink, *, checkpoint: Checkpoint | None = None) -> None:
        """Open a log over what the sink holds, verifying all of it.

        Args:
            sink: Where the entries are; nobody else may append to it.
            checkpoint: The last one that was signed over this log, if it is at hand: a log that was cut or written anew
                since then is refused.

        Raises:
            LogBroken: an entry of the sink is not what it should be, or the log is not the checkpoint's.
            StoreError: the sink cannot be read.
        """
        self._sink = sink
        self._lock = threading.Lock()
        self._encode = _wire.public_encoder()
        self._load()
        if checkpoint is not None:
            size = _covered_size(checkpoint)
            if len(self._tree) < size:
                raise LogBroken(len(self._tree), "cut")
            _check_root(checkpoint, self._tree.root(size))

    def _load(self) -> None:
        tree, head = MerkleTree(), FIRST_PREVIOUS
        for entry in self._sink.entries():
            head, _ = check_entry(entry, len(tree), head)
            tree.append(head)
        self._tree, self._head = tree, head
        self._is_in_step = True

    def __len__(self) -> int:
        return len(self._tree)

    def append(self, records: Sequence[Record]) -> int:
        """Append records, all or none, and return the size of the log.

        Raises:
            ArgumentInvalid: a record with a field that no reader would take.
            StoreError: the sink did not take them; the log is as it was.
        """
        with self._lock:
            if not self._is_in_step:
                self._load()
            entries: list[bytes] = []
            hashes: list[EntryHash] = []
            head = self._head
            sequence = len(self._tree)
            for record in records:
                entry = record.encode(sequence, head, self._encode)
                head = leaf_hash(entry)
                entries.append(entry)
                hashes.append(head)
                sequence += 1
            if not entries:
                return sequence
            # Until both have them, an interrupt may leave them in one of the two alone.
            self._is_in_step = False
            try:
                self._sink.append(entries)
            except StoreError:
                self._is_in_step = True
                raise
            for entry_hash in hashes:
                self._tree.append(entry_hash)
            self._head = head
            self._is_in_step = True
            return sequence

    def entries(self) -> Iterable[bytes]:
        """Return the entries, in order."""
        return self._sink.entries()

    def root(self, size: int | None = None) -> RootHash:
        """Return the Merkle root over the first `size` entries, all of them if `None`.

        Raises:
            ArgumentInvalid: there is no such size.
        """
        with self._lock:
            return self._tree.root(size)

    def checkpoint(self, identity: Identity, *, mesh: str, time_ms: int) -> Checkpoint:
        """Return a signed checkpoint over the whole log. Give it to somebody else: a log's owner can cut its tail.

        Raises:
            ArgumentInvalid: not a mesh name, or not milliseconds since the epoch.
        """
        with self._lock:
            size, root = len(self._tree), self._tree.root()
        return sign_checkpoint(identity, mesh=mesh, size=size, root=root, time_ms=time_ms)

    def inclusion_proof(self, sequence: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that an entry is in the log of the first `size` entries; see `verify_entry`.

        Raises:
            ArgumentInvalid: there is no such entry, or no such size.
        """
        with self._lock:
            return self._tree.inclusion_proof(sequence, size)

    def consistency_proof(self, old_size: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the log only grew from `old_size` to `size`; see `verify_growth`.

        Raises:
            ArgumentInvalid: there are no such sizes.
        """
        with self._lock:
            return self._tree.consistency_proof(old_size, size)


# --- verifying -------------------------------------------------------------------------------------------------------


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


def _covered_size(checkpoint: Checkpoint) -> int:
    if not isinstance(checkpoint, Checkpoint):
        raise ArgumentInvalid("checkpoint")
    return checkpoint.size


def _check_root(checkpoint: Checkpoint, root: RootHash) -> None:
    if not _crypto.constant_time_equal(root, checkpoint.root):
        raise LogBroken(checkpoint.size, "root")


@frozen(kw_only=True)
class VerifiedLog:
    """What a verification found good.

    Attributes:
        size: How many entries.
        root: The Merkle root over them.
        checkpoint: The checkpoint that they were held against, or `None`: without one, a tail that was cut, or a whole
            log written anew, goes unnoticed. Entries behind its size are only chained to it.
    """

    size: int
    root: RootHash = field(repr=lambda root: root.hex())
    checkpoint: Checkpoint | None


def verify_entries(
    entries: Iterable[bytes],
    *,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int], None] | None = None,
) -> VerifiedLog:
    """Verify a log, entry by entry, in memory that does not grow with it.

    Args:
        entries: The log, from anywhere.
        checkpoint: A verified checkpoint of its owner (`verify_checkpoint`), from somebody else than its keeper.
        progress: Called with the number of entries verified, every 10,000.

    Raises:
        ArgumentInvalid: not a `Checkpoint`.
        LogBroken: names the first entry that is wrong; for `cut` the size of the log, for `root` the checkpoint's.
    """
    running = RunningRoot()
    for _ in _verified(entries, checkpoint, progress, running):
        pass
    return VerifiedLog(size=len(running), root=running.root(), checkpoint=checkpoint)


def verified_records(
    entries: Iterable[bytes],
    *,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Yield the records of a log, each once it was verified up to itself; arguments and errors of `verify_entries`.

    Take all of them before you believe one: what contradicts the checkpoint is found behind what it alters.
    """
    return _verified(entries, checkpoint, progress, RunningRoot())


def _verified(
    entries: Iterable[bytes],
    checkpoint: Checkpoint | None,
    progress: Callable[[int], None] | None,
    running: RunningRoot,
) -> Iterator[Record]:
    head, size = FIRST_PREVIOUS, 0
    covered = 0 if checkpoint is None else _covered_size(checkpoint)
    for entry in entries:
        head, record = check_entry(entry, size, head)
        running.append(head)
        size += 1
        if size == covered and checkpoint is not None:
            _check_root(checkpoint, running.root())
        if progress is not None and size % _PROGRESS_EVERY == 0:
            progress(size)
        yield record
    if size < covered:
        raise LogBroken(size, "cut")
    if checkpoint is not None and covered == 0:
        _check_root(checkpoint, EMPTY_ROOT)


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
    size = _covered_size(checkpoint)
    sequence, _, record = decode_entry(entry)
    verify_inclusion(leaf_hash(entry), sequence, size, proof, checkpoint.root)
    return record
